"""Drift by the likeliest tokens is never more than that over the whole vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.comparing import top_drift
from playground.values.answer import Candidate, Elsewhere, Pane, PaneState, TokenScore

WEIGHTS = st.lists(st.floats(1e-6, 1.0), min_size=8, max_size=8)


def shares(weights: Sequence[float]) -> list[float]:
    return [weight / math.fsum(weights) for weight in weights]


def top(probabilities: Sequence[float], n: int, text: str = "a") -> TokenScore:
    likely = sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:n]
    return TokenScore(text, None, tuple(Candidate(None, chr(97 + i), probabilities[i]) for i in likely))


@given(WEIGHTS, WEIGHTS, st.integers(1, 8), st.integers(1, 8))
def test_bound_when_of_the_top_tokens_then_at_most_the_whole_divergence(
    before: list[float], after: list[float], n: int, m: int
) -> None:
    p, q = shares(before), shares(after)
    whole = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert -1e-12 <= top_drift.at_least(top(p, n), top(q, m)) <= whole + 1e-5


def test_bound_when_all_tokens_are_named_but_one_then_it_is_the_whole_divergence() -> None:
    p, q = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    whole = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert top_drift.at_least(top(p, 2), top(q, 2)) == pytest.approx(whole)


@pytest.mark.parametrize(
    "other",
    [
        TokenScore("x", 1.0, (Candidate(None, "x", 1.0),)),  # names other tokens
        TokenScore("a", 0.0, (Candidate(None, "a", 0.0),)),  # impossible, as rounded
        TokenScore("a", 1.0, (Candidate(None, "a", 1.0),)),  # leaves nothing for the others
        TokenScore("\ufffd", 0.4, (Candidate(None, "\ufffd", 0.4), Candidate(None, "\ufffd", 0.3))),
    ],
)
def test_bound_when_nothing_can_be_said_then_0(other: TokenScore) -> None:
    assert top_drift.at_least(TokenScore("a", 0.9, (Candidate(1, "a", 0.9), Candidate(2, "\ufffd", 0.05))), other) == 0


def test_drift_when_answers_part_then_over_the_tokens_up_to_there() -> None:
    here, other = [0.6, 0.3, 0.1], [0.2, 0.7, 0.1]
    scores = (top(here, 2, "a"), top(here, 2, "a"), top(here, 2, "c"))
    ours = Pane("F16", PaneState.DONE, "aac", scores=scores)
    theirs = Pane(
        "elsewhere:box",
        PaneState.DONE,
        "abd",
        scores=(top(here, 2, "a"), top(other, 2, "b"), top(other, 2, "d")),
        elsewhere=Elsewhere(),
    )
    drift = top_drift.between(ours, theirs)
    assert drift is not None
    assert drift.tokens == 2
    assert drift.kl == pytest.approx(top_drift.at_least(top(here, 2), top(other, 2)) / 2)
    assert top_drift.between(ours, ours) is None  # measured over the whole vocabulary
    assert top_drift.between(ours, Pane("x", PaneState.DONE, "abd", elsewhere=Elsewhere())) is None
