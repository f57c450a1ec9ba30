"""Work in threads whose results are taken as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from threading import Event, Semaphore

import pytest

from playground.errors import BadInput
from playground.support.ahead import Ahead, Results


def taken(items: Iterable[int]) -> tuple[list[int], Ahead[int]]:
    news = Semaphore(0)
    ahead = Ahead(items, 2, news.release)
    came = []
    while not ahead.ended:
        assert news.acquire(timeout=20)
        if (item := ahead.next_ready()) is not None:
            came.append(item)
    return came, ahead


def test_items_when_taken_then_all_in_their_order() -> None:
    assert taken(range(20))[0] == list(range(20))


def test_items_when_an_error_ends_them_then_it_is_kept_behind_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise BadInput("no more")

    came, ahead = taken(items())
    assert came == [1]
    assert str(ahead.error) == "no more"


def test_items_when_closed_then_no_more_are_made_than_wait() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        while True:
            produced.append(len(produced))
            yield produced[-1]

    begun = Event()
    ahead = Ahead(items(), 2, begun.set)
    assert begun.wait(20)
    ahead.close()
    n = len(produced)
    assert n <= 8
    assert len(produced) == n


def test_results_when_the_work_fails_then_raised_behind_what_it_handed_over() -> None:
    def work(hand_over: Callable[[int], None]) -> None:
        hand_over(1)
        hand_over(2)
        raise BadInput("broken")

    taking = iter(Results(work, Event()))
    assert [next(taking), next(taking)] == [1, 2]
    with pytest.raises(BadInput, match="broken"):
        next(taking)


def test_results_when_all_were_taken_then_closing_tells_nobody_to_stop() -> None:
    stop = Event()
    taking = Results[int](lambda hand_over: hand_over(1), stop)
    assert list(taking) == [1]
    taking.close()
    assert not stop.is_set()


def test_results_when_nobody_takes_them_then_the_work_is_told_and_has_ended() -> None:
    stop, ended = Event(), Event()

    def work(hand_over: Callable[[int], None]) -> None:
        hand_over(1)
        assert stop.wait(20)
        ended.set()

    taking = Results(work, stop)
    assert next(iter(taking)) == 1
    taking.close()
    assert ended.is_set()
