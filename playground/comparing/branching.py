"""Answers that go on with another token: whether a variant slips at one word, or is lost from there on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from playground.comparing import compare, divergence
from playground.comparing.compare import StopFlag
from playground.comparing.lab import Lab
from playground.errors import BadInput, PlaygroundError
from playground.values.answer import Branch, ComparisonUpdate, Pane, PaneState
from playground.values.request import Comparison

MAX_BRANCHES = 100  # of one comparison


@dataclass(frozen=True, slots=True)
class BranchPoint:
    """The place where a variant has to write another token than it did."""

    variant: str
    at: int  # among all tokens that the variant has written
    token_id: int


def run(comparison: Comparison, lab: Lab, stop: StopFlag, *, max_panes: int = 16) -> Iterator[ComparisonUpdate]:
    """As compare.run. With `branches`, each variant that differs from the reference then goes on from the reference's
    token at the first difference; the last update has these branches."""
    last: ComparisonUpdate | None = None
    for last in compare.run(comparison, lab, stop, max_panes=max_panes):
        if not (comparison.branches and last.done):
            yield last
    if last is None or not comparison.branches:
        return
    points = first_differences(last, comparison.reference)
    try:
        if points and not stop.wanted():
            yield from go_on(comparison, last, points, lab, stop, max_panes=max_panes)
            return
    except PlaygroundError as error:  # the answers are there
        last = replace(last, notes=(*last.notes, error.message))
    yield last


def first_differences(update: ComparisonUpdate, reference: str) -> tuple[BranchPoint, ...]:
    """The reference's token at the first difference of each variant; none where the reference has ended there."""
    wanted = next((pane for pane in update.panes if pane.variant == reference), None)
    if wanted is None:
        return ()
    return tuple(
        BranchPoint(pane.variant, pane.first_divergence, wanted.token_ids[pane.first_divergence])
        for pane in update.panes
        if pane.state is PaneState.DONE
        and pane.first_divergence is not None
        and pane.first_divergence < len(wanted.token_ids)
    )


def check(comparison: Comparison, update: ComparisonUpdate, point: BranchPoint) -> Pane:
    """The answer that is to go on. Raises BadInput if it cannot."""
    pane = next((pane for pane in update.panes if pane.variant == point.variant), None)
    if pane is None or not 0 <= point.at <= len(pane.token_ids) or point.token_id < 0:
        raise BadInput("This answer has no such token. Reload the page.")
    if pane.elsewhere is not None:
        raise BadInput("An answer from elsewhere cannot go on with another token.")
    if comparison.sampling.bound:
        raise BadInput("This answer keeps to a grammar or a JSON schema. It cannot go on with another token.")
    if point.at >= comparison.sampling.max_tokens:
        raise BadInput("The answer has reached its max tokens there.")
    if len(update.branches) >= MAX_BRANCHES:
        raise BadInput(f"A comparison has at most {MAX_BRANCHES} branches. Run the cell again.")
    return pane


def go_on(
    comparison: Comparison,
    update: ComparisonUpdate,
    points: Sequence[BranchPoint],
    lab: Lab,
    stop: StopFlag,
    *,
    max_panes: int = 16,
) -> Iterator[ComparisonUpdate]:
    """What a comparison has come to, with one more branch for each point; at most one for a variant.

    Yields and raises as compare.run, and BadInput for a point that an answer does not have.
    """
    begun = {p.variant: (*check(comparison, update, p).token_ids[: p.at], p.token_id) for p in points}
    variants = tuple(v for v in comparison.variants if v.id in begun)
    by_variant = {p.variant: p for p in points}
    kept = tuple(b for b in update.branches if BranchPoint(b.pane.variant, b.at, b.token_id) not in points)
    reference = next((p for p in update.panes if p.variant == comparison.reference), None)
    continued = replace(comparison, variants=variants, begun=begun, branches=False)
    for news in compare.run(continued, lab, stop, max_panes=max_panes):
        branches = (
            Branch(by_variant[p.variant].at, by_variant[p.variant].token_id, _compared(p, update, reference))
            for p in news.panes
        )
        yield replace(update, done=news.done, queue_place=news.queue_place, branches=(*kept, *branches))


def _compared(pane: Pane, update: ComparisonUpdate, reference: Pane | None) -> Pane:
    """A branch with its first difference from the reference, which is none of its own comparison."""
    comparable = next(p.comparable for p in update.panes if p.variant == pane.variant)
    first = None
    if comparable and reference is not None and reference.state is PaneState.DONE:
        ended = pane.state is PaneState.DONE
        first = divergence.first_divergence(reference.token_ids, pane.token_ids, ended=ended)
    return replace(pane, comparable=comparable, first_divergence=first)


def token_text(pane: Pane, branch: Branch) -> str:
    """Of the token from which an answer goes on; empty where no probabilities were read."""
    if len(branch.pane.scores) > branch.at:
        return branch.pane.scores[branch.at].text
    known = pane.scores[branch.at].candidates if len(pane.scores) > branch.at else ()
    return next((c.text for c in known if c.token_id == branch.token_id), "")


def verdict(branch: Branch, reference: Pane) -> str:
    """Whether one word was all that kept the answer from being the reference's."""
    pane = branch.pane
    if pane.state is not PaneState.DONE:
        return pane.state.value
    if not pane.comparable or reference.state is not PaneState.DONE:
        return ""
    if pane.first_divergence is None:
        return "= the reference from there on: one slip"
    if divergence.same_answer(reference, pane):
        return divergence.OTHER_REASONING
    again = " again" if pane.first_divergence > branch.at else ""
    return f"≠ differs{again}: {divergence.how_much(reference.text, pane.text)}"
