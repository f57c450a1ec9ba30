"""The checks of a release: each limit has a verdict, and the exit code follows from them."""

from __future__ import annotations

import pytest

from playground.measuring.question_sets import Question
from playground.measuring.release_checks import Outcome, ReleaseCheck, ReleaseLimits, exit_code, release_checks
from playground.measuring.results import Measurement, QuestionDrift, TokenCost, VariantResult
from playground.measuring.statistics import paired, verdicts


def measured(
    n: int, *, lost: int = 0, won: int = 0, changed: int = 0, kl: float = 0.001, failed: int = 0, a_picture: int = 1
) -> Measurement:
    """One candidate. The reference has all right but for the last `won`. `a_picture`: questions about each picture."""
    theirs = [1.0] * (n - won) + [0.0] * won
    own = [0.0] * lost + [1.0] * (n - lost)
    items = tuple(
        QuestionDrift(error="it crashed")
        if k < failed
        else QuestionDrift(kl=(TokenCost("a", kl),), first_divergence=0 if k < changed else None, score=own[k])
        for k in range(n)
    )
    (against,) = verdicts([paired(theirs, own, [k // a_picture for k in range(n)])])
    return Measurement(
        questions=tuple(Question(f"{k // a_picture}.png", "What?", ("a",)) for k in range(n)),
        answers=("a",) * n,
        results=(
            VariantResult("reference", items=tuple(QuestionDrift(text="a", score=score) for score in theirs)),
            VariantResult("candidate", items=items, against=against),
        ),
    )


def only(measurement: Measurement, **limits: float) -> ReleaseCheck:
    (check,) = release_checks(measurement, "reference", ReleaseLimits(**limits))
    return check


def test_accuracy_when_ten_questions_share_each_picture_then_twenty_pictures_without_a_loss_are_too_few() -> None:
    assert only(measured(200, a_picture=10), max_loss=0.05).outcome is Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("n", "lost", "won", "outcome"),
    [
        (200, 0, 0, Outcome.PASSED),
        (40, 0, 0, Outcome.UNKNOWN),
        (200, 60, 2, Outcome.FAILED),
        (200, 8, 2, Outcome.UNKNOWN),
        # One point is lost, by a test; five are accepted.
        pytest.param(4000, 60, 20, Outcome.PASSED, marks=pytest.mark.thorough),
    ],
)
def test_accuracy_when_judged_then_only_what_a_test_shows(n: int, lost: int, won: int, outcome: Outcome) -> None:
    check = only(measured(n, lost=lost, won=won), max_loss=0.05)
    assert (check.check, check.outcome) == ("accuracy", outcome)
    assert check.value == pytest.approx((won - lost) / n)
    assert check.low is not None
    assert check.high is not None
    assert check.low <= (won - lost) / n <= check.high
    assert f"{lost} lost, {won} won in {n}" in check.words


def test_accuracy_when_questions_are_too_few_then_so_many_more_are_enough() -> None:
    check = only(measured(40), max_loss=0.05)
    assert check.more is not None
    assert only(measured(40 + check.more + 1), max_loss=0.05).outcome is Outcome.PASSED
    assert only(measured(40 + check.more - 2), max_loss=0.05).outcome is Outcome.UNKNOWN
    assert f"About {check.more} more questions" in check.words


def test_accuracy_when_as_much_is_lost_as_accepted_then_no_number_is_enough() -> None:
    check = only(measured(60, lost=4), max_loss=0.05)
    assert (check.outcome, check.more) == (Outcome.UNKNOWN, None)
    assert "No number of questions" in check.words


def test_changed_answers_when_judged_then_the_verdict_is_the_gates() -> None:
    assert only(measured(100), max_changed=0.05).outcome is Outcome.PASSED
    assert only(measured(40, changed=20), max_changed=0.05).outcome is Outcome.FAILED
    few = only(measured(40), max_changed=0.05)
    assert (few.outcome, few.more) == (Outcome.UNKNOWN, 48)  # 88 without a change are enough


def test_drift_when_above_the_limit_then_it_fails_with_the_figure() -> None:
    above = only(measured(50, kl=0.02), max_kl=0.01)
    assert (above.outcome, above.value) == (Outcome.FAILED, pytest.approx(0.02))
    assert "Mean KL 0.02 nats a token, above 0.01" in above.words
    assert only(measured(50, kl=0.002), max_kl=0.01).outcome is Outcome.PASSED


def test_checks_when_a_question_failed_then_nothing_is_passed() -> None:
    limits = ReleaseLimits(max_kl=0.01, max_changed=0.05, max_loss=0.05)
    checks = release_checks(measured(200, failed=1), "reference", limits)
    assert [check.outcome for check in checks] == [Outcome.UNMEASURED] * 3
    assert exit_code(checks) == 3


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([Outcome.PASSED, Outcome.PASSED], 0),
        ([Outcome.PASSED, Outcome.UNKNOWN], 2),
        ([Outcome.UNMEASURED, Outcome.UNKNOWN], 3),
        ([Outcome.UNMEASURED, Outcome.FAILED, Outcome.UNKNOWN], 1),
        ([], 3),
    ],
)
def test_exit_code_when_outcomes_differ_then_the_worst_news_wins(outcomes: list[Outcome], code: int) -> None:
    assert exit_code([ReleaseCheck("a", "drift", outcome, "", 0.01) for outcome in outcomes]) == code
