"""Intervals that cover and tests that may be looked at again and again, against scipy and by simulation."""

from __future__ import annotations

import numpy
import pytest
import scipy

from bench import statistics as simulated
from playground.measuring import statistics


@pytest.mark.thorough
@pytest.mark.parametrize(("hits", "n"), [(0, 10), (5, 10), (49, 50), (200, 200), (1, 210)])
def test_proportion_when_counted_then_clopper_and_pearsons_interval(hits: int, n: int) -> None:
    interval = statistics.count([True] * hits + [False] * (n - hits)).interval
    exact = scipy.stats.binomtest(hits, n).proportion_ci(method="exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
    one_sided = scipy.stats.binomtest(hits, n, alternative="less").proportion_ci(method="exact").high
    assert statistics.count([True] * hits + [False] * (n - hits)).at_most == pytest.approx(one_sided, abs=1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize("n", [6, 7, 12, 24, 101])
def test_median_when_ordered_then_the_interval_holds_at_least_95_percent(n: int) -> None:
    interval = statistics.median([float(k) for k in range(n)][::-1])
    assert interval.low is not None
    assert interval.high is not None
    # So many of n values lie below the interval with probability 1/2 each; scipy's binomial law.
    covered = 1 - 2 * scipy.stats.binom.cdf(int(interval.low), n, 0.5)
    assert covered >= 0.95
    assert 1 - 2 * scipy.stats.binom.cdf(int(interval.low) + 1, n, 0.5) < 0.95  # no narrower one does


def test_median_when_there_are_five_values_then_without_an_interval() -> None:
    assert statistics.median([1.0, 2.0, 3.0, 4.0, 5.0]) == statistics.Interval(3.0)


@pytest.mark.parametrize(
    ("lost", "won", "n", "low", "high"),
    # Tango's own example (1998, table II) and two of this project's: 1 of 210 lost, 3 lost and 1 won of 50.
    [
        (0, 1, 210, -0.0133, 0.0265),
        (1, 0, 210, -0.0265, 0.0133),
        (3, 1, 50, -0.1461, 0.0544),
        (0, 0, 8, -0.3244, 0.3244),
    ],
)
def test_tango_when_counted_then_the_score_interval(lost: int, won: int, n: int, low: float, high: float) -> None:
    interval = statistics.tango(lost, won, n)
    assert interval.value == (won - lost) / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(
    ("lost", "won", "both", "p", "words"),
    [
        (8, 0, 40, 0.0078125, "worse"),
        (0, 8, 40, 0.0078125, "better"),
        (7, 0, 40, 0.015625, "cannot tell: 7 lost, 0 won in 47; anything from 27.7 points worse to 6.2 points worse"),
        (3, 5, 40, 0.7265625, "cannot tell: 3 lost, 5 won in 48; anything from 8.5 points worse to 17.3 points better"),
        (0, 0, 300, 1.0, "no difference seen: 0 lost, 0 won in 300; a loss above 1.3 points would have shown"),
        (0, 0, 0, 1.0, "not enough questions"),
    ],
)
def test_paired_when_counted_then_mcnemars_exact_p_and_the_words_of_an_e_value(
    lost: int, won: int, both: int, p: float, words: str
) -> None:
    first = [1.0] * lost + [0.0] * won + [1.0] * both
    second = [0.0] * lost + [1.0] * won + [1.0] * both
    pair = statistics.paired(first, second)
    assert (pair.only_first, pair.only_second, pair.n) == (lost, won, lost + won + both)
    assert pair.p == pytest.approx(p, abs=2e-6)
    assert pair.words == words


def test_verdicts_when_there_are_eight_variants_then_more_evidence_is_needed() -> None:
    alone = statistics.paired([1.0] * 50, [0.0] * 9 + [1.0] * 41)
    same = statistics.paired([1.0] * 50, [1.0] * 50)
    assert alone.words == "worse"
    assert statistics.verdicts([alone, *[same] * 7])[0].words.startswith("cannot tell: 9 lost")
    clear = statistics.paired([1.0] * 50, [0.0] * 20 + [1.0] * 30)
    assert statistics.verdicts([clear, *[same] * 7])[0].words == "worse"


def test_scores_between_0_and_1_when_a_little_lower_then_the_loss_is_found() -> None:
    """A threshold at 0.5 sees nothing of a loss of 0.1 at an IoU of 0.8."""
    rng = numpy.random.default_rng(3)
    first = rng.normal(0.8, 0.05, 100).clip(0, 1).tolist()
    second = [max(0.0, score - 0.1) for score in first]
    pair = statistics.paired(first, second)
    assert pair.words == "worse"
    assert pair.p < 0.001
    assert pair.difference.high is not None
    assert pair.difference.high < 0


def test_e_value_when_nothing_is_true_of_either_side_then_seldom_large_however_often_it_is_looked_at() -> None:
    assert simulated.false_verdicts(200, discordant=0.06, rivals=1, n=500) <= 0.05
    assert simulated.false_verdicts(60, discordant=0.2, rivals=8, n=300) <= 0.05


@pytest.mark.parametrize(("margin", "share", "alpha", "n"), [(0.05, 0.0, 0.05, 88), (0.05, 0.0, 0.05 / 7, 134)])
def test_questions_needed_when_asked_then_the_first_number_whose_evidence_is_enough(
    margin: float, share: float, alpha: float, n: int
) -> None:
    assert statistics.questions_needed(margin, share=share, alpha=alpha) == n
    assert (
        statistics.evidence_below([False] * n, margin)
        >= 1 / alpha
        > statistics.evidence_below([False] * (n - 1), margin)
    )


def test_questions_needed_when_the_share_is_above_the_margin_then_none() -> None:
    assert statistics.questions_needed(0.05, share=0.05) is None
    assert statistics.questions_needed(0.05, share=0.0499) is None  # more than 100,000


def test_design_effect_when_pictures_decide_then_they_are_what_counts() -> None:
    pictures = [k // 5 for k in range(100)]
    decided = [float(picture % 3) for picture in pictures]
    assert statistics.design_effect(decided, pictures) == pytest.approx(5.0)
    scattered = numpy.random.default_rng(1).normal(size=100).tolist()
    assert statistics.design_effect(scattered, pictures) < 1.5
    assert statistics.design_effect([0.0] * 100, pictures) == 5.0  # nothing is known of it
    assert statistics.design_effect(scattered, range(100)) == 1.0


def test_paired_when_ten_questions_share_each_picture_and_nothing_is_lost_then_the_pictures_are_what_counts() -> None:
    pair = statistics.paired([1.0] * 200, [1.0] * 200, [k // 10 for k in range(200)])
    assert pair.difference.low == pytest.approx(statistics.tango(0, 0, 20).low, abs=0.003)
    assert "0 lost, 0 won in 200; a loss above 16" in pair.words


def test_cautious_design_effect_when_few_are_lost_then_they_do_not_show_that_pictures_matter_little() -> None:
    pictures = [k // 10 for k in range(200)]
    differences = [-1.0 if k in (3, 77) else 0.0 for k in range(200)]  # two losses, about two pictures
    assert statistics.design_effect(differences, pictures) < 1.1
    assert statistics.cautious_design_effect(differences, pictures) > 5
    many = numpy.random.default_rng(1).choice([-1.0, 0.0, 1.0], 200).tolist()
    assert statistics.cautious_design_effect(many, pictures) < 2.5
    assert statistics.cautious_design_effect(differences, range(200)) == 1.0


def test_unseen_when_questions_are_few_then_it_is_a_share() -> None:
    assert statistics.unseen(2) == pytest.approx(1 - 0.05**0.5)
    assert statistics.unseen(100) == pytest.approx(0.03, abs=0.001)
    assert statistics.unseen(0) == 1.0


def test_signs_when_questions_share_pictures_then_each_picture_counts_once() -> None:
    differences = [1.0, 2.0, -1.0, 1.0, -1.0, 0.0, -3.0]
    assert statistics.signs(differences) == (3, 3)
    assert statistics.signs(differences, ["a", "a", "a", "b", "b", "c", "d"]) == (1, 1)
    assert statistics.signs([]) == (0, 0)


def test_heavy_when_one_question_carries_the_sum_then_it_says_so_and_gives_no_interval() -> None:
    heavy = statistics.heavy([(0.01, 10), (0.02, 10), (3.0, 2), (0.0, 0)])
    assert heavy is not None
    assert heavy.per_token == pytest.approx(3.03 / 22)
    assert heavy.per_question == pytest.approx((0.001 + 0.002 + 1.5) / 3)
    assert heavy.per_answer == pytest.approx(1.01)
    assert heavy.worst == heavy.per_question
    assert heavy.largest_share == pytest.approx(3.0 / 3.03)
    assert heavy.median.low is None


# --- simulations, in short; `python -m bench statistics` has the long form --------------------------------------------


@pytest.mark.thorough
def test_intervals_when_simulated_then_each_covers_at_least_92_percent() -> None:
    """Of 200 draws 92 % +- 2: a coverage of 95 % falls below 89 % once in a thousand."""
    coverages = simulated.coverages(200, (12, 50))
    assert len(coverages) >= 25
    assert {cell: shares for cell, shares in coverages.items() if min(shares) < 0.89} == {}


@pytest.mark.thorough
def test_card_when_drawn_at_random_from_the_embedded_questions_then_it_never_recommends_q2_k() -> None:
    for n in (4, 8, 24, 50, 100, 150, 200):
        passed, taken = simulated.decisions(n, 40)["Q2_K"]
        assert (n, passed, taken) == (n, 0.0, 0.0)
    passed, _ = simulated.decisions(150, 60)["Q8_0"]
    assert passed >= 0.9


@pytest.mark.parametrize("n", [200, 1200])
def test_difference_when_it_is_as_large_as_shown_then_the_test_finds_it_in_four_of_five(n: int) -> None:
    """Against a simulation of the test itself."""
    draw = numpy.random.default_rng(5)
    discordant = 0.06
    shown = statistics.detectable_difference(n, discordant)
    assert shown is not None
    n_found = 0
    for _ in range(500):
        lost, won = draw.multinomial(n, [(discordant + shown) / 2, (discordant - shown) / 2, 1 - discordant])[:2]
        n_found += statistics.e_value([1.0] * lost + [-1.0] * won) >= 2 / statistics.ALPHA
    assert 0.73 <= n_found / 500 <= 0.87


@pytest.mark.thorough
def test_difference_when_questions_are_few_then_none_is_shown() -> None:
    assert statistics.detectable_difference(150) is None  # 9 answers differ on average; 8 losses of 8 are needed
    assert statistics.questions_for_difference(0.001) is None
    assert (statistics.questions_for_difference(0.3) or 1000) < 100
    needed = statistics.questions_for_difference(0.02)
    assert needed is not None
    assert 2000 < needed < 3000
    assert (
        (statistics.detectable_difference(needed) or 1) <= 0.02 < (statistics.detectable_difference(needed - 60) or 1)
    )


def test_not_worse_when_nothing_is_lost_then_enough_questions_show_it() -> None:
    assert statistics.not_worse([0.0] * 200, 0.05) >= 20
    assert statistics.not_worse([0.0] * 40, 0.05) < 20
    assert statistics.not_worse([-1.0] * 20 + [0.0] * 180, 0.05) < 1


def test_more_questions_when_evidence_grows_then_the_factor_is_found() -> None:
    few = [0.0] * 40

    def evidence(effect: float) -> float:
        return statistics.not_worse(few, 0.05, effect)

    times = statistics.times_as_many(evidence, 20)
    assert times is not None
    n = round(40 * times)
    assert statistics.not_worse([0.0] * (n + 1), 0.05) >= 20 > statistics.not_worse([0.0] * (n - 2), 0.05)
    assert statistics.times_as_many(lambda effect: 0.5, 20) is None
