"""How many long jobs run or wait at once: of one person, and of all. They are refused before they wait for anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from playground.errors import Busy


class JobLimits:
    """Owns the count of the jobs. Safe to use from several threads."""

    def __init__(self, kind: str, most: int, most_per_person: int) -> None:
        """`kind`: in the plural, for people."""
        self._kind = kind
        self._most = most
        self._most_per_person = most_per_person
        self._lock = Lock()
        self._jobs: Counter[str] = Counter()  # by person

    @contextmanager
    def held(self, person: str) -> Iterator[None]:
        """Counts as one job of this person until the end. Raises Busy."""
        with self._lock:
            mine, all = self._jobs[person], self._jobs.total()
            if mine >= self._most_per_person:
                raise Busy(f"Busy: {mine} of your {self._kind} run or wait already. Let one of them end first.")
            if all >= self._most:
                raise Busy(f"Busy: {all} {self._kind} run or wait already. Try again in a minute.")
            self._jobs[person] += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs[person] -= 1
                self._jobs += Counter()  # drops who has none
