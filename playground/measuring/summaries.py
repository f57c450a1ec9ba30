"""From the drift of each token to a question's, and from all questions to a variant's result. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from playground.measuring import statistics
from playground.measuring.results import QuestionDrift, Speed, TokenCost, VariantResult
from playground.measuring.statistics import Interval
from playground.values.answer import TokenDrift

_KEPT_CANDIDATES = 12  # tokens of an answer whose likeliest candidates are kept: those with the largest divergence


def question_drift(drifts: Sequence[TokenDrift]) -> QuestionDrift:
    largest = set(sorted(range(len(drifts)), key=lambda i: -drifts[i].kl)[:_KEPT_CANDIDATES])

    def cost(i: int) -> TokenCost:
        drift = drifts[i]
        if i not in largest:
            return TokenCost(drift.text, drift.kl, drift.same_top)
        reference, variant = (
            tuple((c.text, round(c.probability, 5)) for c in side) for side in (drift.reference, drift.variant)
        )
        return TokenCost(drift.text, drift.kl, drift.same_top, reference, variant)

    first = next((i for i, drift in enumerate(drifts) if not drift.same_top), None)
    return QuestionDrift(kl=tuple(cost(i) for i in range(len(drifts))), first_divergence=first)


def variant_result(
    variant: str,
    answers: Sequence[QuestionDrift],
    reference: Sequence[QuestionDrift] | None,
    looks: str | None,
    look_kl: float | None,
    speed: Speed | None,
) -> VariantResult:
    """`reference`: what the reference has of the same questions; None: this is the reference."""
    read = [answer for answer in answers if answer.kl]
    kls = [token.kl for answer in read for token in answer.kl]
    scored = [
        (own.score, theirs.score)
        for own, theirs in zip(answers, answers if reference is None else reference, strict=True)
        if own.score is not None and theirs.score is not None
    ]
    return VariantResult(
        variant=variant,
        mean_kl=statistics.ratio(kl_sums(read)) if read else None,
        median_kl=float(numpy.median(kls)) if kls else None,
        p99_kl=float(numpy.quantile(kls, 0.99)) if kls else None,
        same_top=statistics.ratio([(sum(t.same_top for t in a.kl), len(a.kl)) for a in read]) if read else None,
        same_answer=statistics.share(sum(a.first_divergence is None for a in read), len(read)) if read else None,
        accuracy=_accuracy([own for own, _ in scored]),
        against=statistics.paired([theirs >= 0.5 for _, theirs in scored], [own >= 0.5 for own, _ in scored])
        if scored and reference is not None
        else None,
        looks=looks,
        look_kl=look_kl,
        speed=speed,
        items=tuple(answers),
    )


def kl_sums(drifts: Sequence[QuestionDrift]) -> list[tuple[float, float]]:
    """Of each question: the sum of its tokens' KL, and their number.

    A plain sum: from the cache, an old measurement comes out equal to the last bit.
    """
    return [(sum(token.kl for token in drift.kl), len(drift.kl)) for drift in drifts]


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


def _accuracy(scores: Sequence[float]) -> Interval | None:
    if not scores:
        return None
    if set(scores) <= {0.0, 1.0}:
        return statistics.share(int(sum(scores)), len(scores))
    return statistics.ratio([(score, 1.0) for score in scores])
