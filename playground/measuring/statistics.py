"""What a sample of questions can say: intervals that cover, and tests that may be looked at again and again. Pure.

A verdict is given by an e-value: evidence against a hypothesis that exceeds 1 / alpha with a probability of at most
alpha if the hypothesis holds, however often somebody looks and however many questions are added in between. Intervals
are for a sample of fixed size. docs/metrics.md names the source of each method; `python -m bench statistics` simulates
their coverage and their errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy
from scipy import special

ALPHA = 0.05  # the error rate of every verdict, over all variants of a measurement together
_LAMBDAS = (numpy.arange(400) + 0.5) / 400  # bets; any grid within 0 and 1 is valid, a finer one gains nothing
_MIN_FOR_MEDIAN = 6  # with fewer values the range of all of them covers the median in less than 95 %


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval; low and high are None where no interval holds."""

    value: float
    low: float | None = None
    high: float | None = None


# --- proportions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Count:
    """How many of n questions did something, and how many independent questions these are worth.

    Questions about one picture depend on each other: `effective` is n over the design effect (Korn and Graubard 1998).
    """

    hits: int
    n: int
    effective: float

    @property
    def share(self) -> float:
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> Interval:
        """Clopper and Pearson's, two-sided 95 %."""
        if not self.n:
            return Interval(math.nan)
        return proportion(self.share, self.effective)

    @property
    def at_most(self) -> float:
        """Clopper and Pearson's one-sided upper end, 95 %. 1 where nothing was asked."""
        return _upper(self.share, self.effective, 0.05) if self.n else 1.0


def unseen(n: int) -> float:
    """How rare a kind of question may be that n questions have missed (95 %)."""
    return Count(0, n, n).at_most


def count(hits: Sequence[bool], effect: float = 1.0) -> Count:
    """`effect`: the design effect of questions that share a picture (`design_effect`)."""
    return Count(sum(map(bool, hits)), len(hits), len(hits) / effect)


def design_effect(values: Sequence[float], pictures: Sequence[Hashable]) -> float:
    """How many questions are worth an independent one, where some share a picture: 1 + (m - 1) x correlation.

    m is the mean number of questions about the picture of a question; the correlation within pictures is that of the
    values' ranks, by analysis of variance (Donner 1986). Where all values are alike nothing is known of it, and the
    pictures are what counts.
    """
    clusters: dict[Hashable, list[float]] = {}
    for rank, picture in zip(_ranks(values), pictures, strict=True):
        clusters.setdefault(picture, []).append(rank)
    n, k = len(values), len(clusters)
    if k == n:
        return 1.0
    if k < 2 or min(values) == max(values):
        return n / k
    squares = sum(len(group) ** 2 for group in clusters.values()) / n
    mean = math.fsum(rank for group in clusters.values() for rank in group) / n
    between = math.fsum(len(g) * (math.fsum(g) / len(g) - mean) ** 2 for g in clusters.values()) / (k - 1)
    within = math.fsum(math.fsum((r - math.fsum(g) / len(g)) ** 2 for r in g) for g in clusters.values()) / (n - k)
    usual = (n - squares) / (k - 1)
    correlation = (between - within) / (between + (usual - 1) * within)
    return 1 + (squares - 1) * max(0.0, correlation)


def cautious_design_effect(values: Sequence[float], pictures: Sequence[Hashable]) -> float:
    """The design effect of values of which few differ, such as lost answers: they cannot show what pictures decide.

    So it counts one more picture, all of whose questions went worse than any other. Where many values differ, it
    matters little. `python -m bench statistics` has the errors with and without it.
    """
    n, k = len(values), len(set(pictures))
    if k in (1, n):
        return design_effect(values, pictures)
    worst, size = [min(values) - 1], round(n / k)
    return design_effect([*values, *worst * size], [*pictures, *[object()] * size])


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of theirs."""
    ordered = sorted(values)
    places: dict[float, list[int]] = {}
    for place, value in enumerate(ordered, 1):
        places.setdefault(value, []).append(place)
    return [math.fsum(places[value]) / len(places[value]) for value in values]


def proportion(share: float, n: float) -> Interval:
    """A share of n independent questions, with Clopper and Pearson's interval."""
    hits = share * n
    low = float(special.betaincinv(hits, n - hits + 1, 0.025)) if hits > 0 else 0.0
    return Interval(share, low, _upper(share, n, 0.025))


def _upper(share: float, n: float, tail: float) -> float:
    hits = share * n
    return 1.0 if hits >= n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))


# --- means and medians ------------------------------------------------------------------------------------------------


def median(values: Sequence[float]) -> Interval:
    """With the interval between two order statistics; it holds for every distribution."""
    n = len(values)
    if not n:
        return Interval(math.nan)
    ordered = sorted(values)
    middle = float(numpy.median(ordered))
    if n < _MIN_FOR_MEDIAN:
        return Interval(middle)
    # The largest k with P(fewer than k of n lie below the median) <= 2.5 %.
    k = next(k for k in range(n // 2 + 1, -1, -1) if special.bdtr(k - 1, n, 0.5) <= 0.025) if n > 1 else 0
    return Interval(middle, ordered[k - 1], ordered[n - k])


def bounded_mean(values: Sequence[float], effect: float = 1.0, *, low: float = 0.0) -> Interval:
    """Mean of values between `low` (0 or -1) and 1, with a 95 % interval that holds for every distribution on it.

    By betting against each possible mean (Waudby-Smith and Ramdas 2024); valid however often it is looked at.
    """
    if not values:
        return Interval(math.nan)
    mean = math.fsum(values) / len(values)

    def evidence(m: float, side: int) -> float:
        """Against "the true mean is m or less" (side 1) or "or more" (side -1)."""
        most = (m - low) if side > 0 else (1 - m)  # how far a value can lie on the losing side
        if most <= 0:
            return math.inf if side * (mean - m) > 0 else 0.0
        return e_value([side * (value - m) / most for value in values], effect)

    return Interval(mean, _crossing(evidence, 1, low, mean), _crossing(evidence, -1, 1.0, mean))


def _crossing(evidence: Callable[[float, int], float], side: int, end: float, mean: float) -> float:
    """The mean nearest to `end` that is not refuted at 2.5 %; by bisection between `end` and the sample's mean."""
    refuted, kept = end, mean
    if evidence(end, side) < 2 / ALPHA:
        return end
    for _ in range(40):
        middle = (refuted + kept) / 2
        if evidence(middle, side) >= 2 / ALPHA:
            refuted = middle
        else:
            kept = middle
    return kept


@dataclass(frozen=True, slots=True)
class Heavy:
    """A mean that a few questions carry. No interval of it covers, so none is given (docs/metrics.md)."""

    per_token: float  # long answers count most
    per_question: float  # every question counts the same
    per_answer: float  # nats of a whole answer
    median: Interval  # of the questions' means
    largest_share: float  # of the sum, from one question

    @property
    def worst(self) -> float:
        """The larger of the two weightings: a limit applies to it."""
        return max(self.per_token, self.per_question)


def heavy(sums: Sequence[tuple[float, int]]) -> Heavy | None:
    """Of each question's sum and number of tokens; None without a token."""
    known = [(total, n) for total, n in sums if n]
    if not known:
        return None
    total, tokens = math.fsum(t for t, _ in known), sum(n for _, n in known)
    means = [t / n for t, n in known]
    return Heavy(
        per_token=total / tokens,
        per_question=math.fsum(means) / len(means),
        per_answer=total / len(known),
        median=median(means),
        largest_share=max(t for t, _ in known) / total if total > 0 else 0.0,
    )


# --- tests ------------------------------------------------------------------------------------------------------------


def e_value(bets: Iterable[float], effect: float = 1.0) -> float:
    """Evidence against "the mean of these is 0 or less". Each lies between -1 and any positive number.

    The mean over lambda in (0, 1) of the product of 1 + lambda x: for wins and losses of 1 it is the uniform mixture of
    Robbins (1970). Under the hypothesis it exceeds 1 / alpha at any time with a probability of at most alpha (Ville).
    `effect`: a design effect; so many questions count as one.
    """
    numbers, times = numpy.unique(numpy.fromiter(bets, dtype=float), return_counts=True)
    logs = (times[:, None] * numpy.log1p(_LAMBDAS[None, :] * numbers[:, None])).sum(axis=0) / effect
    return _mean_product(logs)


def _mean_product(logs: numpy.ndarray) -> float:
    """Of products that are given by their logarithms."""
    top = float(logs.max(initial=0.0))
    return float(numpy.exp(min(top, 700.0)) * numpy.exp(logs - top).mean())


def evidence_below(hits: Sequence[bool], margin: float, effect: float = 1.0) -> float:
    """The e-value against "the share of hits is `margin` or more"."""
    return e_value([-1.0 if hit else margin / (1 - margin) for hit in hits], effect)


def questions_needed(margin: float, *, share: float = 0.0, alpha: float = ALPHA) -> int | None:
    """How many independent questions show that a share is below `margin`, if the share is and stays `share`.

    None where it never will: the share is not below the margin, or it takes more than 100,000.
    """
    if share >= margin:
        return None
    n, step = 0, 100_000
    while step:
        more = n + step
        hits = share * more
        logs = (more - hits) * numpy.log1p(_LAMBDAS * margin / (1 - margin)) + hits * numpy.log1p(-_LAMBDAS)
        top = float(logs.max())
        if top + math.log(float(numpy.exp(logs - top).mean())) < math.log(1 / alpha):
            n = more
            if n > 100_000:
                return None
        step //= 2
    return n + 1


def holm(evidence: Sequence[float]) -> tuple[bool, ...]:
    """Which of several hypotheses fall, so that a false one among the verdicts is as rare as ALPHA (Holm 1979)."""
    order = sorted(range(len(evidence)), key=lambda k: -evidence[k])
    fallen = [False] * len(evidence)
    for place, k in enumerate(order):
        if evidence[k] < (len(evidence) - place) / ALPHA:
            break
        fallen[k] = True
    return tuple(fallen)


def signs(differences: Sequence[float], pictures: Sequence[Hashable] = ()) -> tuple[int, int]:
    """How many pictures have more positive than negative differences, and how many more negative ones.

    Questions about one picture depend on each other, so a sign test counts the picture once. `pictures`: that of each
    question; empty: each has its own.
    """
    sums: dict[Hashable, int] = {}
    for difference, picture in zip(differences, pictures or range(len(differences)), strict=True):
        sums[picture] = sums.get(picture, 0) + (difference > 0) - (difference < 0)
    return sum(total > 0 for total in sums.values()), sum(total < 0 for total in sums.values())


def sign_test(wins: int, losses: int) -> float:
    """One-sided exact p of at least so many wins, if both were equally likely. Ties are left out before."""
    return float(special.bdtrc(wins - 1, wins + losses, 0.5)) if wins + losses else 1.0


def permutation_p(differences: Sequence[float], pictures: Sequence[Hashable]) -> float:
    """Two-sided p of the mean difference, by turning the signs of whole pictures round (10,000 random ones)."""
    clusters: dict[Hashable, list[float]] = {}
    for difference, picture in zip(differences, pictures, strict=True):
        clusters.setdefault(picture, []).append(difference)
    sums = numpy.array([math.fsum(group) for group in clusters.values()])
    if not numpy.any(sums):
        return 1.0
    signs = numpy.random.default_rng(1).choice((-1.0, 1.0), (10_000, len(sums)))
    as_large = numpy.abs(signs @ sums) >= abs(sums.sum()) - 1e-12
    return float((as_large.sum() + 1) / (len(signs) + 1))


def tango(only_first: float, only_second: float, n: float) -> Interval:
    """Difference of two paired proportions (second minus first), with Tango's score interval (1998), 95 %."""
    b, c = only_second, only_first
    value = (b - c) / n

    def score(delta: float) -> float:
        a = 2 * n
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        q = (math.sqrt(max(linear**2 - 4 * a * constant, 0.0)) - linear) / (2 * a)
        variance = n * (2 * q + delta * (1 - delta))
        gap = b - c - n * delta
        return math.copysign(math.inf, gap) if variance <= 0 and gap else gap / math.sqrt(variance) if gap else 0.0

    def solve(target: float, low: float, high: float) -> float:
        """The score falls as delta rises."""
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if score(middle) > target else (low, middle)
        return (low + high) / 2

    z = 1.959964
    return Interval(value, solve(z, -1.0, value), solve(-z, value, 1.0))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two variants on the same questions: how often only the first, only the second was right."""

    only_first: int
    only_second: int
    n: int
    difference: Interval  # the second's mean score minus the first's
    p: float  # McNemar's exact test, or for scores between 0 and 1 a permutation of the signs; for a single look
    words: str
    worse: float = 1.0  # e-values: the second is worse, or better, than the first
    better: float = 1.0


def paired(first: Sequence[float], second: Sequence[float], pictures: Sequence[Hashable] | None = None) -> Paired:
    """The second's scores (0 to 1) against the first's on the same questions, judged alone (`verdicts`: among others).

    `pictures`: which picture each question is about; None: each about its own.
    """
    pictures = range(len(first)) if pictures is None else pictures
    differences = [y - x for x, y in zip(first, second, strict=True)]
    n = len(differences)
    effect = cautious_design_effect(differences, pictures) if differences else 1.0
    lost, won = sum(d < 0 for d in differences), sum(d > 0 for d in differences)
    if n and set(first) | set(second) <= {0.0, 1.0}:
        # McNemar's p, two-sided; the interval counts what the questions are worth.
        p = min(1.0, 2 * float(special.bdtr(min(lost, won), lost + won, 0.5))) if lost + won else 1.0
        difference = tango(lost / effect, won / effect, n / effect)
    else:
        p = permutation_p(differences, pictures)
        difference = bounded_mean(differences, effect, low=-1.0)
    worse, better = e_value([-d for d in differences], effect), e_value(differences, effect)
    (judged,) = verdicts([Paired(lost, won, n, difference, p, "", worse, better)])
    return judged


def verdicts(pairs: Sequence[Paired]) -> tuple[Paired, ...]:
    """The same with the words that Holm's procedure over all of them allows."""
    decided = holm([max(pair.worse, pair.better) / 2 for pair in pairs])
    return tuple(_worded(pair, decided=fell) for pair, fell in zip(pairs, decided, strict=True))


def _worded(pair: Paired, *, decided: bool) -> Paired:
    lost, won, n = pair.only_first, pair.only_second, pair.n
    if decided:
        words = "worse" if pair.worse > pair.better else "better"
    elif not n or pair.difference.low is None or pair.difference.high is None:
        words = "not enough questions"
    else:
        counts = f"{lost} lost, {won} won in {n}"
        if not lost and not won:
            words = f"no difference seen: {counts}; a loss above {_points(pair.difference.low)} would have shown"
        else:
            ends = (pair.difference.low, pair.difference.high)
            low, high = (f"{_points(end)} {'worse' if end < 0 else 'better'}" for end in ends)
            words = f"cannot tell: {counts}; anything from {low} to {high}"
    return Paired(lost, won, n, pair.difference, pair.p, words, pair.worse, pair.better)


def _points(share: float) -> str:
    return f"{100 * abs(share):.1f} points"


# --- before a measurement ---------------------------------------------------------------------------------------------

DISCORDANT = (
    0.06  # share of questions that one of two variants alone has right: what 4 bits do to a model; a convention
)
_POWER = 0.8
_QUANTILES = 100


@functools.lru_cache(maxsize=1024)
def detectable_difference(n: int, discordant: float = DISCORDANT) -> float | None:
    """The smallest difference of two accuracies that n questions show in 80 % of cases, by the test of `paired`.

    `discordant`: the share of questions that one variant alone has right. None: no difference within it would show.
    How many of the n these are varies, too: the power is the mean over quantiles of that number.
    """
    quantiles = (numpy.arange(_QUANTILES) + 0.5) / _QUANTILES
    pairs = [math.ceil(k) for k in special.bdtrik(quantiles, n, discordant)]
    needed = [_losses_needed(k) for k in pairs]

    def power(share: float) -> float:
        """Of the pairs, `share` are lost."""
        found = [float(special.bdtrc(least - 1, k, share)) for k, least in zip(pairs, needed, strict=True) if least]
        return math.fsum(found) / _QUANTILES

    low, high = 0.5, 1.0
    if power(high) < _POWER:
        return None
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= _POWER else (middle, high)
    return discordant * (2 * high - 1)


@functools.lru_cache(maxsize=20_000)
def _losses_needed(pairs: int) -> int | None:
    """How many of so many answers that differ have to be lost, so that the test of `paired` says so; None: all do not
    suffice."""
    low, high = pairs // 2, pairs
    if _evidence_of(high, 0) < 2 / ALPHA:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _evidence_of(middle, pairs - middle) >= 2 / ALPHA else (middle, high)
    return high


def questions_for_difference(difference: float) -> int | None:
    """How many questions show such a difference in 80 % of cases; None: more than 100,000."""
    low, high = 0, 100_000
    discordant = max(DISCORDANT, difference)

    def shows(n: int) -> bool:
        shown = detectable_difference(n, discordant)
        return shown is not None and shown <= difference

    if not shows(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def _evidence_of(losses: int, wins: int) -> float:
    """The same as `e_value` of so many ones and minus ones."""
    return _mean_product(losses * numpy.log1p(_LAMBDAS) + wins * numpy.log1p(-_LAMBDAS))


def not_worse(differences: Sequence[float], margin: float, effect: float = 1.0) -> float:
    """The e-value against "the mean difference (-1 to 1) is `margin` below 0 or lower"."""
    return e_value([(difference + margin) / (1 - margin) for difference in differences], effect)


def times_as_many(evidence: Callable[[float], float], wanted: float) -> float | None:
    """How many times as many questions bring the wanted evidence if they go on like these; None: 1000 times do not.

    `evidence`: the e-value at a design effect, of which a fraction stands for so many times the questions.
    """
    low, high = 1.0, 1000.0
    if evidence(1 / high) < wanted:
        return None
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if evidence(1 / middle) >= wanted else (middle, high)
    return high
