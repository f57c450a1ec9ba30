"""Intervals and tests of the lab, against values that scipy 1.17 gives."""

from __future__ import annotations

import pytest

from playground.measuring import statistics


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(0, 10, 0.0, 0.277533), (5, 10, 0.236593, 0.763407), (49, 50, 0.895046, 0.996461), (200, 200, 0.981155, 1.0)],
)
def test_share_when_counted_then_wilsons_interval(hits: int, n: int, low: float, high: float) -> None:
    found = statistics.share(hits, n)
    assert found.value == hits / n
    assert (found.low, found.high) == (pytest.approx(low, abs=2e-6), pytest.approx(high, abs=2e-6))


@pytest.mark.parametrize(
    ("lost", "won", "both", "p", "words"),
    [
        (7, 0, 40, 0.015625, "worse"),
        (0, 7, 40, 0.015625, "better"),
        (3, 5, 40, 0.7265625, "cannot tell yet: about"),
        (10, 2, 40, 0.03857421875, "worse"),
        (0, 1, 9, 1.0, "cannot tell yet: about"),
        (40, 22, 100, 0.0300159, "worse"),
        (0, 0, 300, 1.0, "no difference larger than 1.0%"),
        (4, 4, 92, 1.0, "cannot tell yet"),
        (1, 1, 998, 1.0, "no difference larger than"),
    ],
)
def test_paired_when_counted_then_mcnemars_exact_p_and_words(
    lost: int, won: int, both: int, p: float, words: str
) -> None:
    first = [True] * lost + [False] * won + [True] * both
    second = [False] * lost + [True] * won + [True] * both
    found = statistics.paired(first, second)
    assert (found.only_first, found.only_second, found.n) == (lost, won, lost + won + both)
    assert found.p == pytest.approx(p, abs=2e-6)
    assert found.words.startswith(words)


def test_ratio_when_bootstrapped_then_repeats_and_covers_its_value() -> None:
    pairs = [(float(k % 5), 2.0) for k in range(40)]
    found = statistics.ratio(pairs)
    assert found == statistics.ratio(pairs)
    assert found.value == pytest.approx(1.0)
    assert found.low is not None
    assert found.high is not None
    assert 0.7 < found.low < 1.0 < found.high < 1.3
    assert statistics.ratio(pairs[:1]).low is None
