"""The table of turns: who generates next, and where."""

from __future__ import annotations

import random

import pytest

from playground.pool import turn_order
from playground.pool.turn_order import MOST_S, Waiting, decayed, in_order, next_up

HOST = ("host",)
A, B = ("GPU 0",), ("GPU 1",)
BOTH = ("GPU 0", "GPU 1")


def waiting(name: str, waited_s: float = 0.0, load_s: float = 0.0, who: str = "") -> Waiting:
    return Waiting(name, who, waited_s, {HOST: load_s})


@pytest.mark.parametrize(
    ("runs", "used_s", "expected"),
    [
        ([waiting("first", 2), waiting("second", 1)], {}, "first second"),
        ([waiting("second", 1), waiting("first", 2)], {}, "first second"),
        ([waiting("a"), waiting("b")], {}, "a b"),
        ([waiting("swaps", 3, load_s=5), waiting("loaded", 1)], {}, "loaded swaps"),
        ([waiting("swaps", 7, load_s=5), waiting("loaded", 1)], {}, "swaps loaded"),
        ([waiting("busy", 3, who="anna"), waiting("idle", 1, who="bert")], {"anna": 10.0}, "idle busy"),
        ([waiting("busy", 30, who="anna"), waiting("idle", 1, who="bert")], {"anna": 10.0}, "busy idle"),
        ([waiting("greedy", 61, who="anna"), waiting("new", 0)], {"anna": 5000.0}, "greedy new"),
        ([waiting("huge", 31, load_s=5000), waiting("new", 0)], {}, "huge new"),
    ],
    ids=[
        *("oldest first", "order of the list is nothing", "equals as they stand", "no swap for a little wait"),
        *("a swap after long enough", "who had less goes first", "but not for ever"),
        *("what a person had is capped", "and so is loading"),
    ],
)
def test_order_when_runs_wait_then(runs: list[Waiting], used_s: dict[str, float], expected: str) -> None:
    assert " ".join(run.name for run in in_order(runs, used_s)) == expected


@pytest.mark.parametrize(
    ("runs", "free", "expected"),
    [
        ([], ["GPU 0"], None),
        ([Waiting("a", "", 0, {A: 0.0, B: 3.0})], ["GPU 0", "GPU 1"], ("a", A)),
        ([Waiting("a", "", 0, {A: 3.0, B: 0.0})], ["GPU 0", "GPU 1"], ("a", B)),
        ([Waiting("a", "", 0, {A: 3.0, B: 0.0})], ["GPU 0"], ("a", A)),
        ([Waiting("a", "", 0, {A: 0.0})], ["GPU 1"], None),
        ([Waiting("on 0", "", 9, {A: 0.0}), Waiting("any", "", 0, {A: 0.0, B: 0.0})], ["GPU 1"], ("any", B)),
        ([Waiting("split", "", 9, {BOTH: 0.0})], ["GPU 0"], None),
        ([Waiting("split", "", 9, {BOTH: 0.0})], ["GPU 0", "GPU 1"], ("split", BOTH)),
        ([Waiting("split", "", 9, {BOTH: 0.0}), Waiting("a", "", 0, {A: 0.0, B: 0.0})], ["GPU 0"], ("a", A)),
        ([Waiting("split", "", 31, {BOTH: 0.0}), Waiting("a", "", 0, {A: 0.0, B: 0.0})], ["GPU 0"], None),
        ([Waiting("split", "", 31, {BOTH: 0.0}), Waiting("cpu", "", 0, {HOST: 0.0})], ["GPU 0", "host"], ("cpu", HOST)),
    ],
    ids=[
        *("nobody", "where its models are", "on the second too", "elsewhere rather than wait", "not where it may"),
        *("another goes on the free one", "both have to be free", "both are free", "one goes before who needs both"),
        *("who has waited long keeps one free", "but not what it does not need"),
    ],
)  # fmt: skip
def test_next_when_places_are_free_then(
    runs: list[Waiting], free: list[str], expected: tuple[str, tuple[str, ...]] | None
) -> None:
    following = next_up(runs, free, {})
    assert (None if following is None else (following[0].name, following[1])) == expected


def test_wait_when_others_keep_coming_then_nobody_who_came_much_later_gets_ahead() -> None:
    """One run with everything against it; loaded runs of newcomers come as fast as they are served, one a second."""
    draw = random.Random(3)
    arrived = {"unlucky": (0.0, 500.0, "anna")}
    served: list[str] = []
    for second in range(400):
        arrived[f"n{second}"] = (float(second), 0.0, f"p{draw.randrange(50)}")
        runs = [Waiting(n, who, second - at, {HOST: load}) for n, (at, load, who) in arrived.items()]
        following = next_up(runs, ["host"], {"anna": 1000.0})
        assert following is not None
        served.append(following[0].name)
        del arrived[following[0].name]
        if "unlucky" in served:
            break
    assert len(served) <= MOST_S + 2
    assert len(served) > turn_order._MOST_LOAD_S  # it did have everything against it


def test_share_when_time_passes_then_it_is_forgotten() -> None:
    assert decayed(40.0, 0.0) == 40.0
    assert decayed(40.0, turn_order.HALF_LIFE_S) == pytest.approx(20.0)
    assert decayed(40.0, 20 * turn_order.HALF_LIFE_S) < 0.001
