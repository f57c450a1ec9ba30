"""How long a measurement says that it still takes, against how long it then took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from playground.measuring.time_left import Kind, TimeLeft

# Of three measurements of the embedded pair on two busy cores: 24 questions with a scan of which tensors matter, 48
# questions of which half were known, and 150 of six variants as a new cell asks them. Each stage: the kind of its
# steps, how many, and seconds.
RECORDED: list[list[tuple[str, int, float]]] = json.loads(
    (Path(__file__).parents[1] / "data/measurement-steps.json").read_text()
)
BATCHES = ("ask", "record", "floor", "drift", "answer")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("stages", RECORDED, ids=["scan", "accuracy", "new cell"])
@pytest.mark.parametrize("pace", [1, 60], ids=["as it was", "60 times slower"])
def test_time_left_when_stages_differ_then_right_within_a_factor_of_two_from_the_tenth_second_on(
    stages: list[tuple[str, int, float]], pace: int
) -> None:
    clock = Clock()
    work = TimeLeft(clock)
    for kind, steps, _ in stages:
        work.expect(Kind(kind), steps)
    end = pace * sum(seconds for *_, seconds in stages)
    looked = ended = 0

    def look() -> None:
        nonlocal looked
        left, true = work.seconds, end - clock.now
        if clock.now >= 10 and true > 5 and ended:
            assert left is not None
            assert true / 2 <= left <= 2 * true, (clock.now, left, true)
            looked += 1

    for kind, steps, seconds in stages:
        if kind in BATCHES:
            work.batch(Kind(kind), width=12)
            for ending in range(1, steps + 1):
                if ending % 12 == 1:  # a dozen ends together
                    for _ in range(10):  # somebody looks meanwhile, too
                        clock.now += pace * seconds * min(12, steps - ending + 1) / steps / 10
                        look()
                work.ended(Kind(kind))
                look()
        else:
            for _ in range(steps):
                work.step(Kind(kind))
                look()
                clock.now += pace * seconds / steps
        ended += 1
    assert looked > 200
    assert work.steps == work.total == sum(steps for _, steps, _ in stages)


def test_time_left_when_nothing_has_ended_then_unknown() -> None:
    clock = Clock()
    work = TimeLeft(clock)
    work.expect(Kind.ASK, 3)
    assert work.seconds is None
    work.step(Kind.ASK)
    clock.now = 5.0
    assert (work.seconds, work.steps, work.total) == (None, 1, 3)
    work.step(Kind.ASK)
    assert work.seconds == pytest.approx(10, rel=0.5)
