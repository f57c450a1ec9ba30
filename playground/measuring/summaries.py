"""From the drift of each token to a question's, and from all questions to a variant's result. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy

from playground.measuring import statistics
from playground.measuring.question_sets import Question
from playground.measuring.results import QuestionDrift, TokenCost, VariantResult
from playground.measuring.statistics import Interval
from playground.values.answer import TokenDrift

_FOR_P99 = 100  # questions; with fewer the 99th percentile of the tokens is that of one or two answers
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
    questions: Sequence[Question],
) -> VariantResult:
    """What all questions together show. `reference`: what the reference has of the same; None: this is the reference.

    Questions about one picture are not independent; a mean KL has no interval (measuring/statistics.py).
    """
    read = [(answer, question.image) for answer, question in zip(answers, questions, strict=True) if answer.kl]
    kls = [token.kl for answer, _ in read for token in answer.kl]
    scored = [
        (own.score, theirs.score, question.image)
        for own, theirs, question in zip(answers, answers if reference is None else reference, questions, strict=True)
        if own.score is not None and theirs.score is not None
    ]
    pictures = [picture for _, picture in read]
    effect = statistics.design_effect([answer.mean_kl or 0.0 for answer, _ in read], pictures) if read else 1.0
    heavy = statistics.heavy(kl_sums([answer for answer, _ in read]))
    tops = [token.same_top for answer, _ in read for token in answer.kl]
    against = None
    if scored and reference is not None:
        own_scores, their_scores, images = zip(*scored, strict=True)
        against = statistics.paired(their_scores, own_scores, images)
    return VariantResult(
        variant=variant,
        mean_kl=Interval(heavy.per_token) if heavy else None,
        median_kl=float(numpy.median(kls)) if kls else None,
        p99_kl=float(numpy.quantile(kls, 0.99)) if len(read) >= _FOR_P99 else None,
        same_top=statistics.proportion(sum(tops) / len(tops), len(read) / effect) if read else None,
        same_answer=statistics.count([a.first_divergence is None for a, _ in read], effect).interval if read else None,
        accuracy=_accuracy([own for own, _, _ in scored], [image for _, _, image in scored]),
        truncated=sum(answer.truncated for answer in answers),
        in_reasoning=sum(answer.in_reasoning for answer in answers),
        against=against,
        items=tuple(answers),
    )


def kl_sums(drifts: Sequence[QuestionDrift]) -> list[tuple[float, int]]:
    """Of each question: the sum of its tokens' KL, and their number.

    A plain sum: from the cache, an old measurement comes out equal to the last bit.
    """
    return [(sum(token.kl for token in drift.kl), len(drift.kl)) for drift in drifts]


def mean_kl(drifts: Sequence[QuestionDrift]) -> float:
    """Nats a token."""
    heavy = statistics.heavy(kl_sums(drifts))
    return heavy.per_token if heavy else 0.0


def _accuracy(scores: Sequence[float], pictures: Sequence[str]) -> Interval | None:
    if not scores:
        return None
    effect = statistics.cautious_design_effect(scores, pictures)
    if set(scores) <= {0.0, 1.0}:
        return statistics.count([score == 1.0 for score in scores], effect).interval
    return statistics.bounded_mean(scores, effect)
