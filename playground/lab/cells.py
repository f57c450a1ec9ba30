"""Runs a cell: its questions one after another, or one question about each picture of a gallery."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from playground.errors import BadInput
from playground.lab import compare, documents
from playground.lab.embeddings import EmbeddingCache
from playground.lab.items import ItemSet
from playground.lab.known import Known
from playground.lab.measure import Measuring
from playground.lab.measured import Progress
from playground.lab.notebook import CompareCell, Picture, Result, Run, RunState, without_paths
from playground.pool.pool import Pool
from playground.values import ComparisonUpdate, Image, Variant


def new_run(cell: CompareCell, variants: Sequence[Variant], engine: str, machine: str) -> Run:
    """A run that is about to begin. Raises BadInput if the cell cannot be run."""
    documents.read_settings(msgspec.to_builtins(cell.settings))  # it may come from a file that somebody edited
    return Run(
        number=0,
        cell=cell,
        variants=tuple(without_paths(v) for v in variants),
        reference=compare.reference_of(variants, cell.settings.reference),
        engine=engine,
        machine=machine,
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def continues(run: Run, fresh: Run) -> bool:
    """Whether `fresh`, a run that is about to begin, asks nothing but more questions after those that `run` answered,
    of the same files with the same engine."""

    def asked(one: Run) -> Run:
        cell = msgspec.structs.replace(one.cell, id="", prompts=(), collapsed=False, version=0)
        return msgspec.structs.replace(
            one, cell=cell, number=0, started="", state=RunState.DONE, elapsed_s=None, results=()
        )

    before, now = run.cell.prompts, fresh.cell.prompts
    return (
        run.state is RunState.DONE
        and asked(run) == asked(fresh)
        and len(run.results) == len(before) < len(now)
        and now[: len(before)] == before
        and not fresh.cell.gallery
    )


def measure_cell(
    run: Run,
    variants: Sequence[Variant],
    questions: ItemSet,
    pool: Pool,
    embeddings: EmbeddingCache,
    known: Known,
    stop: compare.Stop,
) -> Iterator[Progress | Run]:
    """Measure what the run's cell asks for. Yields Progress, and at the end the run. Raises as Measuring does."""
    asked = run.cell.questions
    assert asked is not None
    started = time.monotonic()
    measuring = Measuring(
        questions.first(asked.n),
        variants,
        run.reference,
        asked.plan,
        run.cell.settings.runtime(),
        pool,
        embeddings,
        known,
        stop.wanted,
    )
    for update in measuring.run():
        if isinstance(update, Progress):
            yield update
        else:
            elapsed_s = time.monotonic() - started
            yield msgspec.structs.replace(run, state=RunState.DONE, measurement=update, elapsed_s=elapsed_s)


def run_cell(
    run: Run,
    variants: Sequence[Variant],
    image: Callable[[Picture], Image],
    pool: Pool,
    embeddings: EmbeddingCache,
    stop: compare.Stop,
    *,
    max_panes: int,
) -> Iterator[Run]:
    """Ask what the run's cell asks and has no answer yet. Yields as compare.run does; the last one has an end.

    Raises BadInput or BadPrompt for what can be told without loading anything.
    """
    cell = run.cell
    started = time.monotonic() - (run.elapsed_s or 0.0)
    run = msgspec.structs.replace(run, state=RunState.RUNNING)
    for index, prompt in enumerate(cell.prompts):
        if not prompt.strip() and index:
            raise BadInput(f"Question {index + 1} is empty. Write it, or remove it.")
    pictures = {p.sha256: image(p) for p in cell.pictures}
    for turn, picture in cell.asks[len(run.results) :]:
        shown = [pictures[p.sha256] for p in ([picture] if picture else cell.pictures)]
        asked = compare.comparison_of(shown, cell.prompts[turn], variants, cell.settings, run.turns)
        before = run.results
        last: ComparisonUpdate | None = None
        for last in compare.run(asked, pool, embeddings, stop, max_panes=max_panes):
            yield msgspec.structs.replace(run, results=(*before, Result(turn, last, picture)))
        assert last is not None
        run = msgspec.structs.replace(
            run, results=(*before, Result(turn, last, picture)), elapsed_s=time.monotonic() - started
        )
        if stop.wanted():
            break
    yield msgspec.structs.replace(run, state=RunState.STOPPED if stop.wanted() else RunState.DONE)
