"""Decides where a new worker goes and what gives way to it.

Pure: no clock, no process, no lock. tests/unit/test_placement.py is its table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Bytes = Mapping[str, int]  # by place: "host", "GPU 0"


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded worker, as the decision sees it."""

    name: str
    bytes: Bytes
    stays: bool  # leased, pinned, or leaving already
    last_used: float  # seconds on any clock; smaller is longer ago


@dataclass(frozen=True, slots=True)
class Placement:
    option: int  # which of the options
    evicted: tuple[str, ...]


def choose(options: Sequence[Bytes], residents: Sequence[Resident], budgets: Bytes) -> Placement | None:
    """Chooses one of several ways to place a worker; None if none of them can be made to fit.

    It takes the option that displaces the fewest bytes. Of equal ones it takes the option that leaves most room where
    it is tightest, and if that is the same place for all (the host), where it is next tightest.
    """
    possible = []
    for index, need in enumerate(options):
        names = evictions(need, residents, budgets)
        if names is not None:
            displaced = sum(sum(r.bytes.values()) for r in residents if r.name in names)
            left = [r for r in residents if r.name not in names]
            tightest_first = sorted(_room(place, left, budgets) - n for place, n in need.items())
            possible.append((displaced, [-room for room in tightest_first], index, names))
    if not possible:
        return None
    _, _, index, names = min(possible)
    return Placement(index, names)


def evictions(need: Bytes, residents: Sequence[Resident], budgets: Bytes) -> tuple[str, ...] | None:
    """Names to unload so that `need` fits, longest unused first; () if it fits, None if it cannot."""
    over = {place: n - _room(place, residents, budgets) for place, n in need.items()}
    names: list[str] = []
    for resident in sorted((r for r in residents if not r.stays), key=lambda r: r.last_used):
        helps = any(over[place] > 0 and resident.bytes.get(place, 0) > 0 for place in over)
        if helps:
            names.append(resident.name)
            over = {place: n - resident.bytes.get(place, 0) for place, n in over.items()}
    return None if any(n > 0 for n in over.values()) else tuple(names)


def expired(residents: Sequence[Resident], now: float, idle_s: float) -> tuple[str, ...]:
    """Names of the residents that nobody has used for `idle_s` seconds."""
    return tuple(r.name for r in residents if not r.stays and now - r.last_used > idle_s)


def _room(place: str, residents: Sequence[Resident], budgets: Bytes) -> int:
    return budgets.get(place, 0) - sum(r.bytes.get(place, 0) for r in residents)
