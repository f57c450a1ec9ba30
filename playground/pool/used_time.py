"""How long each person has generated lately. It is weighed by turn_order.py."""

from __future__ import annotations

from collections.abc import Iterable

from playground.pool.turn_order import decayed

_LEAST_S = 0.001  # what is remembered


class UsedTime:
    """Not safe to use from several threads: its owner holds a lock. `now`: seconds of one clock."""

    def __init__(self) -> None:
        self._used: dict[str, tuple[float, float]] = {}  # by person: seconds, and when

    def add(self, who: str, seconds: float, now: float) -> None:
        """`who`: "" for no person in particular, who is not remembered."""
        if seconds and who:
            self._used[who] = self.of(who, now) + seconds, now
            self._used = {who: used for who, used in self._used.items() if self.of(who, now) > _LEAST_S}

    def of(self, who: str, now: float) -> float:
        seconds, at = self._used.get(who, (0.0, now))
        return decayed(seconds, now - at)

    def of_all(self, people: Iterable[str], now: float) -> dict[str, float]:
        return {who: self.of(who, now) for who in set(people) if who}
