"""Which variants of a measurement are measured where, when there are several places. Pure, but for a lock."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


@dataclass(slots=True)
class _Pace:
    """Of what a place has measured, or of all places: seconds that it was expected to take, and that it took."""

    expected_s: float = 0.0
    took_s: float = 0.0

    @property
    def factor(self) -> float | None:
        return self.took_s / self.expected_s if self.expected_s else None


@dataclass(slots=True)
class _Work:
    """What a place has to do: since when, and how long it was expected to take."""

    since: float
    expected_s: float = field(default=0.0)


def at_least(groups: Sequence[Sequence[T]], n: int) -> list[list[T]]:
    """The groups, the largest halved until there are n of them: another place may load the same model as well."""
    halved = [list(group) for group in groups]
    while 0 < len(halved) < n and len(largest := max(halved, key=len)) > 1:
        k, middle = halved.index(largest), (len(largest) + 1) // 2
        halved[k : k + 1] = [largest[:middle], largest[middle:]]
    return halved


class Shares(Generic[T, P]):
    """Hands groups of variants out to places. Those with one language model are a group, so that it is loaded once.

    Owns the groups that nobody has yet, and the places at work. Safe to use from several threads.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[T]],
        fits: Callable[[P, T], bool],
        loaded_at: Callable[[T], Collection[P]],
        is_there: Callable[[P], bool],
        seconds: Callable[[P, Sequence[T]], float] = lambda place, group: 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fits`, `loaded_at`: of a group's first variant. `is_there`: whether a place's machine is in the cluster.

        `seconds`: how long a group is expected to take at a place, with loading. What groups did take corrects it.
        """
        self._left = [list(group) for group in groups]
        self._n_groups = len(self._left)
        self._fits = fits
        self._loaded_at = loaded_at
        self._is_there = is_there
        self._seconds = seconds
        self._clock = clock
        self._at_work: list[P] = []
        self._work: dict[P, _Work] = {}  # of those that are busy
        self._idle_since: dict[P, float] = {}  # of the others
        self._paces: defaultdict[P, _Pace] = defaultdict(_Pace)
        self._lock = Lock()

    @property
    def none_left(self) -> bool:
        with self._lock:
            return not self._left

    @property
    def fair_share(self) -> int:
        """Groups for each place at work."""
        with self._lock:
            return self._n_groups // max(1, len(self._at_work))

    def join(self, *places: P) -> None:
        """They are at work from now on."""
        with self._lock:
            self._at_work += places
            self._idle_since |= dict.fromkeys(places, self._clock())

    def waited(self, place: P, seconds: float) -> None:
        """It has a group, and waited so long for something else: its pace does not count that."""
        with self._lock:
            if place in self._work:
                self._work[place].since += seconds

    def leave(self, place: P) -> None:
        with self._lock:
            self._end(place)
            self._at_work.remove(place)

    def take(self, place: P, *, ahead: bool = False, from_the_end: bool = False) -> list[T]:
        """The place's next group; empty: there is none for it, or the others are expected to end before it would.

        `ahead`: while it is still busy. Then it gets none of the last groups, which another place may begin sooner.
        `from_the_end`: the last of those that are as near, not the first.
        """
        with self._lock:
            if not ahead:
                self._end(place)
            if ahead and len(self._left) < len(self._at_work):
                return []
            chosen, others = self._nearest(place, from_the_end=from_the_end), self._others(place)
            if not chosen or (not ahead and not self._helps(place, chosen, others)):
                return []
            self._left.remove(chosen)
            work = self._work.setdefault(place, _Work(self._clock()))
            work.expected_s += self._seconds(place, chosen)
            return chosen

    def likely(self, place: P, *, from_the_end: bool = False) -> list[T]:
        """The group that the place would get now; it is not taken."""
        with self._lock:
            return self._nearest(place, from_the_end=from_the_end)

    def _others(self, place: P) -> list[P]:
        return [other for other in self._at_work if other != place and self._is_there(other)]

    def _nearest(self, place: P, *, from_the_end: bool) -> list[T]:
        others = self._others(place)
        able = [group for group in self._left if self._fits(place, group[0])]
        if not self._is_there(place) and others:
            able = []  # its own groups would take turns with those of another place
        elif not able and not any(self._fits(other, group[0]) for other in others for group in self._left):
            able = self._left  # the error says why
        in_order = able[::-1] if from_the_end else able
        return min(in_order, key=lambda group: self._distance(place, group), default=[])  # the first that is as near

    def _helps(self, place: P, group: list[T], others: Sequence[P]) -> bool:
        """Whether all is done sooner than if the others did what is left: not for a group that they would end before
        this place has loaded its model."""
        ends = {other: self._busy_s(other) for other in others}
        for left in self._left:
            able = [other for other in others if self._fits(other, left[0])]
            if not able:
                return True
            ending = {other: ends[other] + self._factor(other) * self._seconds(other, left) for other in able}
            first = min(able, key=ending.__getitem__)
            ends[first] = ending[first]
        return self._factor(place) * self._seconds(place, group) <= max(ends.values(), default=0.0)

    def _busy_s(self, place: P) -> float:
        """How much longer it is expected to be busy. Without a group it waits for its turn: as long again as so far."""
        work = self._work.get(place)
        if work is None:
            return self._clock() - self._idle_since[place]
        return max(0.0, self._factor(place) * work.expected_s - (self._clock() - work.since))

    def _factor(self, place: P) -> float:
        """How many times as long as expected it takes; of a place that has ended nothing, as all others do."""
        own = self._paces[place].factor if place in self._paces else None
        if own is not None:
            return own
        paces = self._paces.values()
        return _Pace(sum(p.expected_s for p in paces), sum(p.took_s for p in paces)).factor or 1.0

    def _end(self, place: P) -> None:
        work = self._work.pop(place, None)
        if work is not None:
            pace = self._paces[place]
            pace.expected_s += work.expected_s
            pace.took_s += self._clock() - work.since
            self._idle_since[place] = self._clock()

    def _distance(self, place: P, group: list[T]) -> int:
        loaded = self._loaded_at(group[0])
        return 0 if place in loaded else 2 if loaded else 1
