"""The gate: a verdict is printed only when its test passes."""

from __future__ import annotations

import msgspec
import pytest

from playground.measuring.gate import Verdict, gates, sentence
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, QuestionDrift, TokenCost, VariantResult
from testkit.notebooks import F16, Q2


def answered(changed: int, n: int, *, wrong: int = 0, failed: int = 0) -> VariantResult:
    items = tuple(
        QuestionDrift(
            kl=(TokenCost("a", 0.001 * k + 0.0001), TokenCost("", 0.0)),
            first_divergence=0 if k < changed else None,
            score=0.0 if k < wrong else 1.0,
            error="it crashed" if k < failed else None,
        )
        for k in range(n)
    )
    return VariantResult(f"{changed} of {n}", items=items)


def verdict(*results: VariantResult, margin: float | None = None) -> list[Verdict]:
    n = len(results[0].items)
    questions = [Question(f"{k}.png", "What?", ("a",)) for k in range(n)]
    reference = VariantResult("reference", items=tuple(QuestionDrift(text="a", score=1.0) for _ in range(n)))
    judged = gates((reference, *results), questions, "reference", margin)
    assert list(judged) == [result.variant for result in results]
    return [gate.verdict for gate in judged.values()]


@pytest.mark.parametrize(
    ("changed", "n", "expected"),
    [
        (0, 4, Verdict.UNKNOWN),
        (0, 87, Verdict.UNKNOWN),
        (0, 88, Verdict.FIT),
        (2, 150, Verdict.UNKNOWN),
        (2, 174, Verdict.FIT),
        (8, 40, Verdict.CHANGES),
        (4, 40, Verdict.UNKNOWN),
        (40, 40, Verdict.BROKEN),
        (12, 12, Verdict.BROKEN),
    ],
)
def test_verdict_when_answers_change_then_only_what_the_test_shows(changed: int, n: int, expected: Verdict) -> None:
    assert verdict(answered(changed, n)) == [expected]


def test_verdict_when_there_are_eight_variants_then_more_questions_are_needed() -> None:
    assert verdict(*[answered(0, 100)] * 1) == [Verdict.FIT]
    # All but one of them change many: their failures do not lower what the last has to show.
    results = [answered(0, 100), *(answered(60 + k, 100) for k in range(6))]
    assert verdict(*results)[0] is Verdict.UNKNOWN
    results = [answered(0, 140), *(answered(60 + k, 140) for k in range(6))]
    assert verdict(*results)[0] is Verdict.FIT


def test_verdict_when_the_margin_is_named_then_it_holds() -> None:
    assert verdict(answered(10, 150), margin=0.2) == [Verdict.FIT]
    assert verdict(answered(0, 150), margin=0.01) == [Verdict.UNKNOWN]


def test_verdict_when_a_question_failed_or_nothing_was_read_then_not_measured() -> None:
    assert verdict(answered(0, 150, failed=1)) == [Verdict.UNMEASURED]
    assert verdict(VariantResult("v", items=(QuestionDrift(text="a"),) * 5)) == [Verdict.UNMEASURED]


def test_gate_when_there_are_too_few_questions_then_it_says_how_many_would_do() -> None:
    questions = [Question(f"{k}.png", "What?", ("a",)) for k in range(24)]
    reference = VariantResult("r", items=tuple(QuestionDrift(text="a", score=1.0) for _ in range(24)))
    (gate,) = gates((reference, answered(0, 24, wrong=2)), questions, "r").values()
    assert gate.enough == 88
    assert gate.words == (
        "Not enough questions: 0 of 24 answers changed, at most 11.7% would (95 %); 5% are accepted. "
        "About 88 questions would be enough if they went on like these."
    )
    assert gate.reason == (
        "0 of 24 answers changed, at most 11.7% would (95 %); 5% are accepted. "
        "About 88 questions would be enough if they went on like these."
    )
    assert gate.lost is not None
    assert (gate.lost.hits, gate.lost.n) == (2, 24)


def test_gate_when_questions_share_pictures_that_decide_then_they_count_less() -> None:
    """100 questions about 10 pictures, each of which moves all its answers alike: worth ten questions."""
    questions = [Question(f"{k // 10}.png", f"{k}?", ("a",)) for k in range(100)]
    items = tuple(QuestionDrift(kl=(TokenCost("a", 0.001 * (k // 10 + 1)),)) for k in range(100))
    reference = VariantResult("r", items=(QuestionDrift(text="a"),) * 100)
    (gate,) = gates((reference, VariantResult("v", items=items)), questions, "r").values()
    assert gate.verdict is Verdict.UNKNOWN
    assert gate.changed is not None
    assert gate.changed.effective == pytest.approx(10)


@pytest.mark.parametrize(
    ("changed", "n", "said"),
    [
        (0, 24, "Not enough questions to tell: Q2_K (about 88 would be enough)."),
        (2, 150, "Not enough questions to tell: Q2_K (about 196 would be enough)."),
        (4, 40, "Not enough questions to tell: Q2_K."),  # it changes more than is accepted: more would not make it fit
        (0, 88, "Keeps the answers: Q2_K."),
        (40, 40, "Changes more than half of the answers: Q2_K."),
    ],
)
def test_sentence_when_there_are_too_few_questions_then_it_says_how_many_would_do(
    changed: int, n: int, said: str
) -> None:
    questions = tuple(Question(f"{k}.png", "What?", ("a",)) for k in range(n))
    reference = VariantResult(F16.id, items=tuple(QuestionDrift(text="a", score=1.0) for _ in range(n)))
    rival = msgspec.structs.replace(answered(changed, n), variant=Q2.id)
    assert sentence(Measurement(questions, ("a",) * n, (reference, rival)), (F16, Q2), F16.id) == said
