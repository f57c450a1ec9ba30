"""Runs that share a turn: when one may join, and whose time it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from playground.pool import queue
from playground.pool.queue import HeldPlaces, Queue

HOST = ("host",)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: now.s))
    return now


@pytest.fixture
def runs(clock: SimpleNamespace) -> Queue:
    return Queue(lambda: HeldPlaces([], {}), 32, 4)


@pytest.fixture
def turns() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def begin(turns: ExitStack, runs: Queue, who: str) -> None:
    ticket = runs.line_up(who, (), [HOST])
    turn = runs.turn(ticket, stop=lambda: False, on_place=lambda place: None)
    assert turns.enter_context(turn) == HOST


def used(runs: Queue, clock: SimpleNamespace, who: str) -> float:
    return runs._used.of(who, clock.s)


def test_join_when_nobody_waits_then_both_run_and_share_the_time(
    turns: ExitStack, runs: Queue, clock: SimpleNamespace
) -> None:
    begin(turns, runs, "anna")
    clock.s += 4
    joined = runs.join("bert", (), HOST, since=clock.s)
    assert joined is not None
    assert [(run.who, run.place) for run in runs.queued()] == [("anna", "host"), ("bert", "host")]
    clock.s += 6
    runs.end(joined)
    clock.s += 1
    turns.close()
    assert used(runs, clock, "anna") == pytest.approx(4 + 3 + 1)
    assert used(runs, clock, "bert") == pytest.approx(3, rel=0.01)  # a part is forgotten by now
    assert runs.queued() == ()


@pytest.mark.parametrize(("waited_s", "joins"), [(0.0, True), (1.9, True), (2.1, False)])
def test_join_when_another_waits_then_only_for_a_while(
    turns: ExitStack, runs: Queue, clock: SimpleNamespace, waited_s: float, joins: bool
) -> None:
    begin(turns, runs, "anna")
    runs.line_up("bert", (), [HOST])
    clock.s += waited_s
    assert (runs.join("anna", (), HOST, since=clock.s) is not None) is joins


def test_join_when_who_waits_had_less_then_not(turns: ExitStack, runs: Queue, clock: SimpleNamespace) -> None:
    begin(turns, runs, "anna")
    clock.s += 30
    turns.close()
    begin(turns, runs, "anna")
    runs.line_up("bert", (), [HOST])
    assert runs.join("anna", (), HOST, since=clock.s) is None


def test_place_in_the_queue_when_several_share_a_turn_then_they_count_as_one(
    turns: ExitStack, runs: Queue, clock: SimpleNamespace
) -> None:
    begin(turns, runs, "anna")
    for _ in range(3):
        assert runs.join("anna", (), HOST, since=clock.s)
    assert runs._ahead(runs.line_up("bert", (), [HOST])) == 1


def test_join_when_the_app_is_closing_then_not(turns: ExitStack, runs: Queue, clock: SimpleNamespace) -> None:
    begin(turns, runs, "anna")
    runs.close()
    assert runs.join("anna", (), HOST, since=clock.s) is None
