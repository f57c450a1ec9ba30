"""How long the rest of a measurement takes: its steps by kind, and what a step of each kind took so far."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum
from statistics import median
from threading import RLock


class Kind(StrEnum):
    """Of a step, which is about one question and one variant."""

    ASK = "ask"  # the reference answers
    RECORD = "record"
    FLOOR = "floor"
    DRIFT = "drift"
    ANSWER = "answer"  # a variant's own
    LOOK = "look"
    SPEED = "speed"
    ALONE = "alone"  # an answer read outside of a batch, as a scan does it


# Seconds of a step of the embedded pair on two busy cores, its models loaded. Only their ratios count, and only until
# steps of a kind were seen.
_TYPICAL = {
    Kind.ASK: 0.07,
    Kind.RECORD: 0.05,
    Kind.FLOOR: 0.06,
    Kind.DRIFT: 0.10,
    Kind.ANSWER: 0.06,
    Kind.LOOK: 0.41,
    Kind.SPEED: 0.37,
    Kind.ALONE: 0.25,
}
_LOAD_S = 3.5  # of the reference's models, in the time that it takes to answer
_FEWEST = 5  # of fewer steps, loading the models is most of the time
_TRUST = 2  # steps of a kind count as much as what is typical


def expected_seconds(steps: Mapping[Kind, int], paces: Mapping[Kind, float]) -> float | None:
    """How long so many steps take. Of a kind that was not timed, by what is typical beside those that were; None: none
    was.

    By the median: a large picture makes the first answers to it, which encode it, many times as slow as all else.
    """
    if not paces:
        return None
    beside = median(pace / _TYPICAL[k] for k, pace in paces.items())
    return sum(n * paces.get(k, beside * _TYPICAL[k]) for k, n in steps.items())


class TimeLeft:
    """Owns the steps of one measurement, over all its phases. Safe to use from several threads.

    Where several are at work, the time between two steps counts for the one that ends it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = RLock()
        self._clock = clock
        self._expected: Counter[Kind] = Counter()
        self._ended: Counter[Kind] = Counter()
        self._spent: dict[Kind, float] = dict.fromkeys(Kind, 0.0)
        self._kind: Kind | None = None  # of what is worked on
        self._width = 0  # how many are worked on together; 0: a step that stands alone
        self._since = clock()
        self.steps = 0  # that have begun or, in batches, have ended

    @property
    def total(self) -> int:
        with self._lock:
            return sum(self._expected.values())

    def expect(self, kind: Kind, steps: int) -> None:
        with self._lock:
            self._expected[kind] += steps

    def step(self, kind: Kind) -> None:
        """A step begins. The one before it has ended."""
        with self._lock:
            self._turn_to(kind, 0)
            self.steps += 1

    def batch(self, kind: Kind, width: int = 1) -> None:
        """A batch begins, of which about so many steps are worked on together."""
        with self._lock:
            self._turn_to(kind, max(1, width))

    def ended(self, kind: Kind) -> None:
        """A step of the batch has ended."""
        with self._lock:
            self._pass(kind)
            self._ended[kind] += 1
            self.steps += 1

    @property
    def paces(self) -> dict[Kind, float]:
        """Seconds of a step of each kind that enough of them have ended of."""
        return {k: self._spent[k] / self._ended[k] for k in Kind if self._ended[k] >= _FEWEST}

    def _turn_to(self, kind: Kind, width: int) -> None:
        self._pass(self._kind)
        if self._kind is not None and self._width == 0:
            self._ended[self._kind] += 1
        self._kind, self._width = kind, width

    def _pass(self, kind: Kind | None) -> None:
        now = self._clock()
        if kind is not None:
            self._spent[kind] += now - self._since
        self._since = now

    @property
    def seconds(self) -> float | None:
        """None before a step has ended."""
        with self._lock:
            return self._seconds()

    def expected_s(self, steps: Mapping[Kind, int]) -> float:
        """How long so many steps more are likely to take one after another."""
        with self._lock:
            rates = self._rates(self._worked())
            return sum(n * rates[k] for k, n in steps.items())

    def _worked(self) -> dict[Kind, float]:
        under_way = {k: self._width / 2 if k is self._kind else 0.0 for k in Kind}  # each is half done
        return {k: self._ended[k] + min(under_way[k], self._expected[k] - self._ended[k]) for k in Kind}

    def _rates(self, worked: Mapping[Kind, float]) -> dict[Kind, float]:
        """Seconds of a step."""
        typical = _TYPICAL | {Kind.ASK: _TYPICAL[Kind.ASK] + _LOAD_S / max(1, self._expected[Kind.ASK])}
        all_worked = sum(typical[k] * worked[k] for k in Kind)
        pace = sum(self._spent.values()) / all_worked if all_worked > 0 else 1.0
        return {k: (self._spent[k] + _TRUST * pace * typical[k]) / (max(0.0, worked[k]) + _TRUST) for k in Kind}

    def _seconds(self) -> float | None:
        if not self._ended.total() or self._kind is None:
            return None
        worked = self._worked()
        rates, left = self._rates(worked), 0.0
        for k in Kind:
            remaining = max(0.0, self._expected[k] - worked[k]) * rates[k]
            left += max(0.0, remaining - (self._clock() - self._since)) if k is self._kind else remaining
        return left
