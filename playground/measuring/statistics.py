"""What a handful of items can say: intervals and tests. Pure; docs/metrics.md defines each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

_RESAMPLES = 2000
_SEED = 1  # the same data give the same interval
_SMALL_DIFFERENCE = 0.02  # of accuracy; a smaller one is stated as a bound. A convention


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its 95 % interval; low and high None where one item is all there is."""

    value: float
    low: float | None = None
    high: float | None = None


def ratio(pairs: Sequence[tuple[float, float]]) -> Interval:
    """Sum of the first over sum of the second (KL over tokens), with a bootstrap over the pairs."""
    numbers = numpy.asarray(pairs, dtype=float).reshape(-1, 2)
    total = numbers.sum(axis=0)
    value = float(total[0] / total[1]) if total[1] else math.nan
    if len(numbers) < 2:
        return Interval(value)
    rng = numpy.random.default_rng(_SEED)
    drawn = numbers[rng.integers(0, len(numbers), (_RESAMPLES, len(numbers)))].sum(axis=1)
    low, high = numpy.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return Interval(value, float(low), float(high))


def share(hits: int, n: int) -> Interval:
    """A proportion with Wilson's interval."""
    if n == 0:
        return Interval(math.nan)
    share, z = hits / n, statistics.NormalDist().inv_cdf(0.975)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True)
class Paired:
    """Two variants on the same items: how often only the first, only the second was right."""

    only_first: int
    only_second: int
    n: int
    difference: Interval  # share of the second minus share of the first
    p: float  # McNemar's exact test
    words: str


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Whether the second answers better, worse, or neither, of what the first answered on the same items."""
    a = sum(x and not y for x, y in zip(first, second, strict=True))
    b = sum(y and not x for x, y in zip(first, second, strict=True))
    n = len(first)
    p = min(1.0, 2 * sum(math.comb(a + b, k) for k in range(min(a, b) + 1)) / 2 ** (a + b))  # two-sided, exact
    difference = ratio([(float(y) - float(x), 1.0) for x, y in zip(first, second, strict=True)])
    return Paired(a, b, n, difference, p, _words(a, b, n, difference, p))


def _words(a: int, b: int, n: int, difference: Interval, p: float) -> str:
    if p < 0.05:  # the usual level; a convention
        return "better" if b > a else "worse"
    if not a + b:
        # The rule of three: nothing in n trials bounds the rate by 3 / n.
        return f"no difference larger than {min(1.0, 3 / max(n, 1)):.1%}"
    widest = max(abs(difference.low or 0.0), abs(difference.high or 0.0))
    if widest <= _SMALL_DIFFERENCE:
        return f"no difference larger than {widest:.1%}"
    more = _items_needed(a, b, n)
    return f"cannot tell yet: about {more:,} more items" if more else "cannot tell yet"


def _items_needed(a: int, b: int, n: int) -> int | None:
    """How many more items would decide (power 80 %) if they went on as these; None if they are even."""
    effect, discordant = abs(a - b) / n, (a + b) / n
    if effect == 0:
        return None
    wanted = (1.96 * math.sqrt(discordant) + 0.84 * math.sqrt(max(discordant - effect**2, 0.0))) ** 2 / effect**2
    return max(1, math.ceil(wanted) - n)
