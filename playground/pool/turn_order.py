"""Decides whose turn it is to generate. Pure: no clock, no lock (tests/unit/test_turn_order.py is its table).

Everything is weighed in seconds. A run's score is how long its person has generated lately, plus how long its models
would take to load, less how long it has waited. The smallest score goes first. So a run whose models are loaded goes
before one that would swap them, and a person who has generated little goes before one who has generated much. Both
are capped: a run that comes more than MOST_S later never gets ahead.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

HALF_LIFE_S = 120.0  # of what a person has generated
_MOST_USED_S = 60.0
_MOST_LOAD_S = 30.0
MOST_S = _MOST_USED_S + _MOST_LOAD_S

# A run that shares a turn which has begun takes little from those that wait, and a turn of its own later more.
_JOINING_S = 2.0

# A run that needs several GPUs at once keeps other runs off them when it has waited this long.
_RESERVES_AFTER_S = 30.0

Places = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A run in the queue, as the decision sees it."""

    name: str
    who: str  # "" for no person in particular
    waited_s: float
    load_s: Mapping[Places, float]  # where it may run, and how long its models take to load there


def score(run: Waiting, places: Places, used_s: Mapping[str, float]) -> float:
    """Seconds; the smallest goes first."""
    return min(used_s.get(run.who, 0.0), _MOST_USED_S) + min(run.load_s[places], _MOST_LOAD_S) - run.waited_s


def in_order(waiting: Sequence[Waiting], used_s: Mapping[str, float]) -> list[Waiting]:
    """In the order in which they are likely to come. Equal scores keep the order of `waiting`."""
    return sorted(waiting, key=lambda run: min(score(run, places, used_s) for places in run.load_s))


def next_up(
    waiting: Sequence[Waiting], free: Collection[str], used_s: Mapping[str, float]
) -> tuple[Waiting, Places] | None:
    """The run that begins now, and where; None if none can."""
    free = set(free)
    for run in in_order(waiting, used_s):
        able = [places for places in run.load_s if free.issuperset(places)]
        if able:
            return run, min(able, key=lambda places: score(run, places, used_s))
        for places in run.load_s:
            if len(places) > 1 and run.waited_s > _RESERVES_AFTER_S:
                free -= set(places)
    return None


def may_join(who: str, waited_s: float, rivals: Sequence[Waiting], used_s: Mapping[str, float]) -> bool:
    """Whether a run may share a turn that has begun, before those that wait for the places."""
    own = min(used_s.get(who, 0.0), _MOST_USED_S) - waited_s - _JOINING_S
    return all(own <= score(run, places, used_s) for run in rivals for places in run.load_s)


def decayed(used_s: float, elapsed_s: float) -> float:
    """How much of a person's generating time still counts."""
    return used_s * math.exp2(-elapsed_s / HALF_LIFE_S)
