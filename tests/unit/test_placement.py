"""The table of evictions: what gives way to a new worker, and when nothing helps."""

from __future__ import annotations

import random

import pytest

from playground.pool.placement import Placement, Resident, choose, evictions, expired
from playground.values.memory import HOST


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


# --- several places -------------------------------------------------------------------------------------------

A, B = "GPU 0", "GPU 1"
BUDGETS = {HOST: 1000, A: 100, B: 100}


def there(name: str, last_used: float = 0.0, *, stays: bool = False, **sizes: int) -> Resident:
    """sizes: host, a, b."""
    return Resident(name, {{"host": HOST, "a": A, "b": B}[place]: n for place, n in sizes.items()}, stays, last_used)


ON_EITHER = [{A: 40, HOST: 5}, {B: 40, HOST: 5}]
SPLIT = [{A: 40, B: 40, HOST: 5}]


@pytest.mark.parametrize(
    ("options", "residents", "budgets", "expected"),
    [
        (ON_EITHER, [], BUDGETS, Placement(0, ())),
        (ON_EITHER, [there("x", a=30)], BUDGETS, Placement(1, ())),
        (ON_EITHER, [there("x", a=30), there("y", b=31)], BUDGETS, Placement(0, ())),
        (ON_EITHER, [], {HOST: 1000, A: 60, B: 70}, Placement(1, ())),
        (ON_EITHER, [there("x", a=30)], {HOST: 20, A: 100, B: 100}, Placement(1, ())),
        (ON_EITHER, [there("x", a=90), there("y", b=70)], BUDGETS, Placement(1, ("y",))),
        (ON_EITHER, [there("x", 1, a=90), there("y", 2, b=50), there("z", 3, b=50)], BUDGETS, Placement(1, ("y",))),
        (ON_EITHER, [there("x", a=90, stays=True), there("y", 9, b=95)], BUDGETS, Placement(1, ("y",))),
        (ON_EITHER, [there("x", a=90, stays=True), there("y", b=95, stays=True)], BUDGETS, None),
        (ON_EITHER, [], {HOST: 4, A: 100, B: 100}, None),
        (ON_EITHER, [there("x", 2, a=10, host=90), there("y", 1, b=10)], BUDGETS | {HOST: 94}, Placement(0, ("x",))),
        (ON_EITHER, [], {HOST: 1000, A: 100}, Placement(0, ())),
        (SPLIT, [], BUDGETS, Placement(0, ())),
        (SPLIT, [there("x", 1, a=90), there("y", 2, b=90)], BUDGETS, Placement(0, ("x", "y"))),
        (SPLIT, [there("x", 1, a=50), there("y", 2, b=90)], BUDGETS, Placement(0, ("y",))),
        (SPLIT, [there("x", a=90), there("y", b=90, stays=True)], BUDGETS, None),
        (SPLIT, [there("both", a=70, b=70)], BUDGETS, Placement(0, ("both",))),
        ([{A: 40}], [there("x", 1, b=100), there("y", 2, a=100)], BUDGETS, Placement(0, ("y",))),
        ([{}], [there("x", a=200)], BUDGETS, Placement(0, ())),
        ([], [], BUDGETS, None),
    ],
    ids=[
        *("both empty", "the freer one", "a little freer", "the larger budget", "the freer one, and little host"),
        *("the fewer bytes go", "two small ones there, one goes", "what stays is not asked", "all stay"),
        *("no host memory", "what is freed counts", "a GPU without a budget"),
        *("split", "split displaces on both", "split displaces on one", "split needs both", "split for split"),
        *("longest unused is elsewhere", "nothing is needed", "nowhere to go"),
    ],
)  # fmt: skip
def test_place_when_there_are_several_then(
    options: list[dict[str, int]], residents: list[Resident], budgets: dict[str, int], expected: Placement | None
) -> None:
    assert choose(options, residents, budgets) == expected


def test_place_when_drawn_at_random_then_it_fits_and_no_other_displaces_less() -> None:
    draw = random.Random(11)
    refused = evicting = 0
    for _ in range(3000):
        residents = [
            there(
                str(n), draw.random(), stays=draw.random() < 0.3,
                **{place: draw.randrange(60) for place in draw.choice([("a",), ("b",), ("a", "b"), ("host", "a")])},
            )
            for n in range(draw.randrange(6))
        ]  # fmt: skip
        budgets = {HOST: draw.randrange(120), A: draw.randrange(150), B: draw.randrange(150)}
        options = [
            {place: draw.randrange(80) for place in places} for places in ((A, HOST), (B, HOST), (A, B, HOST))
        ]  # fmt: skip

        def fits(need: dict[str, int], gone: tuple[str, ...]) -> bool:
            left = [r for r in residents if r.name not in gone]  # noqa: B023
            return all(n + sum(r.bytes.get(p, 0) for r in left) <= budgets[p] for p, n in need.items())  # noqa: B023

        def displaced(names: tuple[str, ...]) -> int:
            return sum(sum(r.bytes.values()) for r in residents if r.name in names)  # noqa: B023

        placement = choose(options, residents, budgets)
        idle = tuple(r.name for r in residents if not r.stays)
        if placement is None:
            refused += 1
            assert not any(fits(need, idle) for need in options)
            continue
        evicting += bool(placement.evicted)
        assert set(placement.evicted) <= set(idle)
        assert fits(options[placement.option], placement.evicted)
        assert not placement.evicted or not fits(options[placement.option], placement.evicted[:-1])
        for need in options:
            names = evictions(need, residents, budgets)
            assert names is None or displaced(names) >= displaced(placement.evicted)
    assert 300 < refused < 2700
    assert evicting > 300


def test_expired_when_unused_for_longer_than_allowed_then_named() -> None:
    residents = [there("old", 10.0), there("new", 96.0), there("kept", 0.0, stays=True), there("just", 95.0)]
    assert expired(residents, 100.0, 5.0) == ("old",)
    assert expired(residents, 100.0, 4.0) == ("old", "just")
    assert expired([], 100.0, 0.0) == ()
