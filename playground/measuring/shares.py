"""Which variants of a measurement are measured where, when there are several places. Pure, but for a lock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")
P = TypeVar("P")


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
    ) -> None:
        """`fits`, `loaded_at`: of a group's first variant. `is_there`: whether a place's machine is in the cluster."""
        self._left = [list(group) for group in groups]
        self._fits = fits
        self._loaded_at = loaded_at
        self._is_there = is_there
        self._at_work: list[P] = []
        self._lock = Lock()

    @property
    def none_left(self) -> bool:
        with self._lock:
            return not self._left

    def join(self, place: P) -> None:
        """A place is at work from now on."""
        with self._lock:
            self._at_work.append(place)

    def leave(self, place: P) -> None:
        with self._lock:
            self._at_work.remove(place)

    def take(self, place: P, *, ahead: bool = False) -> list[T]:
        """The place's next group; empty: there is none for it.

        `ahead`: while it is still busy. Then it gets none of the last groups, which another place may begin sooner.
        """
        with self._lock:
            if ahead and len(self._left) < len(self._at_work):
                return []
            others = [other for other in self._at_work if other != place and self._is_there(other)]
            able = [group for group in self._left if self._fits(place, group[0])]
            if not self._is_there(place) and others:
                able = []  # its own groups would take turns with those of another place
            elif not able and not any(self._fits(other, group[0]) for other in others for group in self._left):
                able = self._left  # the error says why
            if not able:
                return []
            chosen = min(able, key=lambda group: self._distance(place, group))  # the first of those that are as near
            self._left.remove(chosen)
            return chosen

    def _distance(self, place: P, group: list[T]) -> int:
        loaded = self._loaded_at(group[0])
        return 0 if place in loaded else 2 if loaded else 1
