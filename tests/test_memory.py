"""The table of evictions: what gives way to a new worker, and when nothing helps."""

from __future__ import annotations

import random

import pytest

from playground.pool.memory import Resident, evictions
from playground.values import HOST


def resident(name: str, size: int, last_used: float = 0.0, *, leased: bool = False) -> Resident:
    return Resident(name, {HOST: size}, leased, last_used)


OLD, MIDDLE, NEW = resident("old", 30, 1.0), resident("middle", 30, 2.0), resident("new", 30, 3.0)
LEASED = resident("leased", 30, 0.0, leased=True)


@pytest.mark.parametrize(
    ("need", "residents", "budget", "expected"),
    [
        (100, [], 100, ()),
        (101, [], 100, None),
        (0, [], 0, ()),
        (10, [OLD, MIDDLE, NEW], 100, ()),
        (11, [OLD, MIDDLE, NEW], 100, ("old",)),
        (11, [NEW, OLD, MIDDLE], 100, ("old",)),
        (40, [OLD, MIDDLE, NEW], 100, ("old",)),
        (41, [OLD, MIDDLE, NEW], 100, ("old", "middle")),
        (100, [MIDDLE, NEW, OLD], 100, ("old", "middle", "new")),
        (101, [OLD, MIDDLE, NEW], 100, None),
        (41, [LEASED, MIDDLE, NEW], 100, ("middle", "new")),
        (70, [LEASED, MIDDLE, NEW], 100, ("middle", "new")),
        (71, [LEASED, MIDDLE, NEW], 100, None),
        (1, [resident("busy", 100, leased=True)], 100, None),
        (0, [resident("grew", 120)], 100, ("grew",)),
        (0, [resident("grew", 120, leased=True)], 100, None),
        (10, [resident("a", 60, 5.0), resident("b", 60, 5.0)], 120, ("a",)),
    ],
    ids=[
        *("just fits", "larger than all", "nothing", "fits beside", "oldest goes", "order of the list is nothing"),
        *("one is just enough", "two go", "all go", "not even all", "leased stays", "all but the leased one"),
        *("the leased one is in the way", "all leased", "over budget already", "over budget and leased", "equally old"),
    ],
)
def test_evictions_when_a_worker_needs_room_then(
    need: int, residents: list[Resident], budget: int, expected: tuple[str, ...] | None
) -> None:
    assert evictions({HOST: need}, residents, {HOST: budget}) == expected


def test_evictions_when_drawn_at_random_then_they_are_enough_and_none_is_too_many() -> None:
    draw = random.Random(7)
    refused = 0
    for _ in range(3000):
        residents = [
            resident(str(n), draw.randrange(1, 50), draw.random(), leased=draw.random() < 0.3)
            for n in range(draw.randrange(6))
        ]
        need, budget, sizes = draw.randrange(80), draw.randrange(150), {r.name: r.bytes[HOST] for r in residents}
        names = evictions({HOST: need}, residents, {HOST: budget})
        held = sum(sizes.values())
        if names is None:
            refused += 1
            assert sum(sizes[r.name] for r in residents if r.stays) + need > budget
            continue
        assert held - sum(sizes[name] for name in names) + need <= budget
        assert not names or held - sum(sizes[name] for name in names[:-1]) + need > budget
        idle = sorted((r for r in residents if not r.stays), key=lambda r: r.last_used)
        assert names == tuple(r.name for r in idle[: len(names)])
    assert 300 < refused < 2700
