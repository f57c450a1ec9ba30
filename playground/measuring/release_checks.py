"""Whether candidates may replace a reference: each limit of a person as a check with a verdict. Pure.

The verdicts are those of the gate and of `paired`; nothing is decided here in another way. Each holds for all
candidates of the measurement together.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from playground.measuring import gate, statistics
from playground.measuring.gate import Gate, Verdict
from playground.measuring.results import Measurement, VariantResult
from playground.measuring.statistics import ALPHA
from playground.measuring.summaries import kl_sums


class ReleaseLimits(msgspec.Struct, frozen=True):
    """What a candidate has to keep; None: no such check."""

    max_kl: float | None = None  # mean KL, nats a token, by the worse of two weightings
    max_changed: float | None = None  # share of changed answers
    max_loss: float | None = None  # of accuracy, as a share: 0.05 are 5 points


class Outcome(enum.StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNKNOWN = "not enough questions"
    UNMEASURED = "not measured"


class ReleaseCheck(msgspec.Struct, frozen=True):
    """One limit, held against one candidate."""

    candidate: str  # a variant's id
    check: str  # drift, changed answers, accuracy
    outcome: Outcome
    words: str  # one sentence: the figure, its interval, and the limit
    limit: float
    value: float | None = None
    low: float | None = None  # 95 %; None: there is no interval that covers
    high: float | None = None
    questions: int = 0
    more: int | None = None  # questions that would be enough beside these if they went on like these


def release_checks(measurement: Measurement, reference: str, limits: ReleaseLimits) -> tuple[ReleaseCheck, ...]:
    """By candidate, in the order of the measurement."""
    rivals = [result for result in measurement.results if result.variant != reference]
    base = next(result for result in measurement.results if result.variant == reference)
    gates = gate.gates(measurement.results, measurement.questions, reference, limits.max_changed)
    pictures = [question.image for question in measurement.questions]
    accuracies = _accuracies(rivals, base, pictures, limits.max_loss) if limits.max_loss is not None else {}
    checks: list[ReleaseCheck] = []
    for result in rivals:
        if limits.max_changed is not None:
            checks.append(_changed(result.variant, gates[result.variant], limits.max_changed))
        if limits.max_kl is not None:
            checks.append(_drift(result, limits.max_kl))
        if result.variant in accuracies:
            checks.append(accuracies[result.variant])
    return tuple(checks)


def exit_code(checks: Sequence[ReleaseCheck]) -> int:
    """0: all passed, 1: one failed, 2: one needs more questions, 3: one could not be measured."""
    outcomes = {check.outcome for check in checks}
    if Outcome.FAILED in outcomes:
        return 1
    if Outcome.UNMEASURED in outcomes or not checks:
        return 3
    return 2 if Outcome.UNKNOWN in outcomes else 0


_OUTCOMES = {
    Verdict.FIT: Outcome.PASSED,
    Verdict.CHANGES: Outcome.FAILED,
    Verdict.BROKEN: Outcome.FAILED,
    Verdict.UNKNOWN: Outcome.UNKNOWN,
    Verdict.UNMEASURED: Outcome.UNMEASURED,
}


def _changed(candidate: str, judged: Gate, limit: float) -> ReleaseCheck:
    counted = judged.changed
    if counted is None:
        return ReleaseCheck(candidate, "changed answers", Outcome.UNMEASURED, judged.words, limit)
    return ReleaseCheck(
        candidate,
        "changed answers",
        _OUTCOMES[judged.verdict],
        judged.words,
        limit,
        counted.share,
        counted.interval.low,
        counted.interval.high,
        counted.n,
        judged.enough - counted.n if judged.verdict is Verdict.UNKNOWN and judged.enough is not None else None,
    )


def _drift(result: VariantResult, limit: float) -> ReleaseCheck:
    failed = sum(item.error is not None for item in result.items)
    drift = statistics.heavy(kl_sums(result.items))
    if failed or drift is None:
        words = f"It failed on {failed} of {len(result.items)} questions." if failed else "Its drift was not measured."
        return ReleaseCheck(result.variant, "drift", Outcome.UNMEASURED, words, limit)
    above = drift.worst > limit
    words = (
        f"Mean KL {drift.worst:.2g} nats a token, {'above' if above else 'within'} {limit:g}; "
        f"{drift.largest_share:.0%} of it comes from one question, so no interval of the mean is given."
    )
    outcome = Outcome.FAILED if above else Outcome.PASSED
    return ReleaseCheck(result.variant, "drift", outcome, words, limit, drift.worst, questions=len(result.items))


def _accuracies(
    rivals: Sequence[VariantResult], base: VariantResult, pictures: Sequence[str], margin: float
) -> dict[str, ReleaseCheck]:
    """Not worse by the margin: shown by a test; worse: the words of `paired`; else unknown."""
    differences = {result.variant: _differences(result, base) for result in rivals}
    known = [id for id, values in differences.items() if values]
    effects = {id: statistics.cautious_design_effect(differences[id], pictures) for id in known}
    evidence = [statistics.not_worse(differences[id], margin, effects[id]) for id in known]
    shown = dict(zip(known, statistics.holm(evidence), strict=True))
    checks: dict[str, ReleaseCheck] = {}
    for result in rivals:
        id, against = result.variant, result.against
        if not differences[id] or against is None:
            words = "No accuracy: a question failed, or the set has no accepted answers."
            checks[id] = ReleaseCheck(id, "accuracy", Outcome.UNMEASURED, words, margin)
            continue
        values, effect = differences[id], effects[id]
        outcome = Outcome.PASSED if shown[id] else Outcome.FAILED if against.words == "worse" else Outcome.UNKNOWN
        more = None
        if outcome is Outcome.UNKNOWN:
            times = statistics.times_as_many(
                lambda part, values=values, effect=effect: statistics.not_worse(values, margin, effect * part),  # type: ignore[misc]
                len(known) / ALPHA,
            )
            more = None if times is None else max(1, round(len(values) * (times - 1)))
        difference = against.difference
        ends = (
            ""
            if difference.low is None or difference.high is None
            else f" ({_points(difference.low)} to {_points(difference.high)}, 95 %)"
        )
        words = (
            f"Accuracy {_points(difference.value)} points{ends} against the reference: {against.only_first} lost, "
            f"{against.only_second} won in {against.n}; a loss of {100 * margin:g} points is accepted."
        )
        if outcome is Outcome.UNKNOWN:
            help = (
                "No number of questions would be enough if they went on like these."
                if more is None
                else f"About {more} more questions would be enough if they went on like these."
            )
            words = f"Not enough questions: {words} {help}"
        checks[id] = ReleaseCheck(
            id, "accuracy", outcome, words, margin, difference.value, difference.low, difference.high, against.n, more
        )
    return checks


def _differences(result: VariantResult, base: VariantResult) -> list[float]:
    """The candidate's score minus the reference's, of each question; empty if one has no score."""
    pairs = [(own.score, theirs.score) for own, theirs in zip(result.items, base.items, strict=True)]
    known = [own - theirs for own, theirs in pairs if own is not None and theirs is not None]
    return known if len(known) == len(pairs) else []


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
