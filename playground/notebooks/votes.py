"""Blind votes: which answers a person accepts who does not see whose they are, set against what was measured."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from playground.errors import BadInput
from playground.measuring.results import Measurement
from playground.measuring.statistics import Interval, proportion
from playground.notebooks.cells import MAX_VOTES, BlindVote, Cell, CompareCell, Run
from playground.values.answer import PaneState


@dataclass(frozen=True, slots=True)
class BlindAnswer:
    """An answer without a name, and the variants that gave it."""

    text: str
    variants: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VoteRow:
    """How often a variant's answer was accepted."""

    name: str  # the variant's label, or its id where another row has the same label or nobody knows it
    accepted: int
    shown: int
    share: Interval  # 95 %, Clopper and Pearson
    kl: float | None  # from the reference, nats a token; None: not measured in this notebook


def is_hidden(run: Run, index: int, votes: Iterable[BlindVote]) -> bool:
    """Whether the names of a comparison's answers are not to be shown yet."""
    return run.cell.blind and not any((vote.run, vote.block) == (run.number, index) for vote in votes)


def answers(run: Run, index: int) -> tuple[BlindAnswer, ...]:
    """The answers of a comparison, each text once, in an order that says nothing and stays the same."""
    variants: dict[str, list[str]] = {}
    for pane in run.results[index].update.panes:
        if pane.state is PaneState.DONE:
            variants.setdefault(pane.text, []).append(pane.variant)
    order = sorted(variants)
    random.Random(f"{run.started} {run.cell.id} {index}").shuffle(order)  # noqa: S311  no secret
    return tuple(BlindAnswer(text, tuple(variants[text])) for text in order)


def voted(cell: CompareCell, run: Run, index: int, accepted: Sequence[int] | None) -> tuple[BlindVote, ...]:
    """The cell's votes with one more. `accepted`: places in `answers`; None: the names are shown without a vote.

    Raises BadInput where there is nothing to vote about.
    """
    if not 0 <= index < len(run.results) or not is_hidden(run, index, cell.votes):
        raise BadInput("These answers have their names already. Run the cell again to vote.")
    if not run.results[index].update.done:
        raise BadInput("The answers are not complete yet.")
    if len(cell.votes) >= MAX_VOTES:
        raise BadInput(f"A cell keeps at most {MAX_VOTES} votes.")
    shown = answers(run, index)
    if accepted is not None and not set(accepted) <= set(range(len(shown))):
        raise BadInput("There is no such answer. Reload the page.")
    counted = shown if accepted is not None else ()
    chosen = [shown[at] for at in sorted(set(accepted or ()))]
    vote = BlindVote(run.number, index, _names(counted), _names(chosen))
    return (*cell.votes, vote)


def rows(cells: Iterable[Cell], runs: Iterable[Run], labels: Mapping[str, str] | None = None) -> list[VoteRow]:
    """Over the votes of a notebook. `runs`: have the labels, and the drifts that were measured; the later one wins.
    `labels`: by id, of variants that no run names."""
    counts: dict[str, tuple[int, int]] = {}
    for cell in cells:
        for vote in cell.votes if isinstance(cell, CompareCell) else ():
            for variant in vote.shown:
                accepted, shown = counts.get(variant, (0, 0))
                counts[variant] = accepted + (variant in vote.accepted), shown + 1
    if not counts:
        return []
    known = dict(labels or {})
    drift: dict[str, float] = {}
    for run in runs:
        known |= {variant.id: variant.label for variant in run.variants}
        drift |= _drift(run.measurement)
    uses = Counter(known.get(variant) for variant in counts)
    names = {id: known[id] if id in known and uses[known[id]] == 1 else id for id in counts}
    listed = [
        VoteRow(names[variant], accepted, shown, proportion(accepted / shown, shown), drift.get(variant))
        for variant, (accepted, shown) in counts.items()
    ]
    return sorted(listed, key=lambda row: -row.share.value)


def _drift(measurement: Measurement | None) -> Mapping[str, float]:
    results = measurement.results if measurement is not None else ()
    return {result.variant: result.mean_kl.value for result in results if result.mean_kl is not None}


def _names(shown: Iterable[BlindAnswer]) -> tuple[str, ...]:
    return tuple(variant for answer in shown for variant in answer.variants)
