"""Runs that belong to the server: who sees them, in which order they go, and why they stop."""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event

import markupsafe
import pytest
from msgspec import UNSET

from playground.comparing.branching import BranchPoint
from playground.errors import Busy
from playground.notebooks.cells import APP_ENDED, STOPPED_BY_HAND
from playground.web.live_runs import BranchJob, LiveRuns, RunJob, Watcher
from playground.web.replies import RunQueue, RunUpdate

_WAIT_S = 10.0


class Cells:
    """In place of RunStream: each cell shows what it is given, until it is stopped or ended."""

    def __init__(self) -> None:
        self.given: dict[str, SimpleQueue[RunUpdate]] = {}
        self.began: SimpleQueue[RunJob] = SimpleQueue()
        self.ended: SimpleQueue[str] = SimpleQueue()  # cell and reason

    def stream(self, job: RunJob) -> Iterator[RunUpdate]:
        self.given[job.cell] = SimpleQueue()
        self.began.put(job)
        while not job.stop.wanted():
            update = self.given[job.cell].get(timeout=_WAIT_S)
            yield update
            if update.ended:
                break
        else:
            yield RunUpdate(cell=job.cell, ended=True)
        self.ended.put(f"{job.cell} {job.stop.reason}".strip())

    def begun(self) -> RunJob:
        return self.began.get(timeout=_WAIT_S)

    def over(self) -> str:
        return self.ended.get(timeout=_WAIT_S)


class Page:
    """Keeps what a page has been sent."""

    def __init__(self) -> None:
        self._news = Event()
        self.updates: list[RunUpdate] = []
        self.queue: RunQueue | None = None
        self.id = 0

    def on_news(self) -> None:
        self._news.set()

    def until(self, watcher: Watcher, *, idle: bool = False, n: int = 0) -> None:
        """Until nothing runs, or the page has got `n` updates."""
        while True:
            self._news.clear()
            news, queue = watcher.take()
            self.updates += [update for _, update in news]
            self.queue = queue or self.queue
            self.id = max([self.id, *(id for id, _ in news), *([queue.id] if queue else [])])
            at_rest = self.queue is not None and self.queue.running is None and not self.queue.waiting
            if len(self.updates) >= n and (at_rest or not idle):
                return
            assert self._news.wait(_WAIT_S)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def cells() -> Cells:
    return Cells()


def job(cell: str, *, to_its_end: bool = False) -> RunJob:
    return RunJob("book", cell, "anna", to_its_end=to_its_end)


def whole(cell: str, text: str, *, ended: bool = False) -> RunUpdate:
    return RunUpdate(cell=cell, outputs=markupsafe.Markup(text), ended=ended)


def block(cell: str, text: str) -> RunUpdate:
    return RunUpdate(cell=cell, block="1.0", html=text)


def test_cells_when_started_together_then_one_runs_after_another_and_none_twice(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    runs.start("book", [job("a"), job("b")])
    assert cells.begun().cell == "a"
    queue = runs.start("book", [job("a"), job("b"), job("c")])
    assert (queue.running, queue.waiting) == ("a", ("b", "c"))
    for cell in ("a", "b", "c"):
        cells.given[cell].put(whole(cell, "done", ended=True))
        assert cells.over() == cell
        if cell != "c":
            cells.begun()


def test_cell_when_started_to_run_three_times_then_three_runs_and_a_second_start_adds_none(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    runs.start("book", [job("a"), job("a"), job("a"), job("b")])
    for left in (("a", "a", "b"), ("a", "b"), ("b",)):
        assert cells.begun().cell == "a"
        queue = runs.start("book", [job("a"), job("a"), job("a")])
        assert (queue.running, queue.waiting) == ("a", left)
        cells.given["a"].put(whole("a", "done", ended=True))
        assert cells.over() == "a"
    assert cells.begun().cell == "b"
    runs.stop("book")
    assert cells.given["b"].put(whole("b", "", ended=True)) is None
    assert cells.over().startswith("b")


def test_page_when_it_comes_in_the_middle_then_it_gets_the_newest_state_and_what_follows(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    first, late = Page(), Page()
    with runs.watching("book", 0, first.on_news) as early:
        runs.start("book", [job("a")])
        cells.begun()
        for update in (whole("a", "begun"), block("a", "one"), block("a", "one two")):
            cells.given["a"].put(update)
        while block("a", "one two") not in first.updates:
            first.until(early, n=len(first.updates) + 1)
        with runs.watching("book", 0, late.on_news) as watcher:
            late.until(watcher, n=2)
            assert late.updates == [whole("a", "begun"), block("a", "one two")]
            assert late.queue is not None
            assert late.queue.running == "a"
            cells.given["a"].put(whole("a", "all", ended=True))
            for page, its in ((first, early), (late, watcher)):
                page.until(its, idle=True)
                assert page.updates[-1] == whole("a", "all", ended=True)


def test_page_when_it_was_away_at_the_end_then_it_is_told_what_it_missed_once(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    page = Page()
    with runs.watching("book", 0, page.on_news) as watcher:
        runs.start("book", [job("a"), job("b")])
        cells.begun()
        page.until(watcher)
    cells.given["a"].put(RunUpdate(cell="a", error="No prompt.", ended=True))
    cells.over()
    cells.begun()
    with runs.watching("book", page.id, page.on_news) as watcher:
        assert watcher.missed == (("a", "No prompt."),)
        page.until(watcher)
    with runs.watching("book", page.id, page.on_news) as watcher:
        assert watcher.missed == ()
        cells.given["b"].put(whole("b", "done", ended=True))
        page.until(watcher, idle=True)
    with runs.watching("book", 0, page.on_news) as watcher:
        assert watcher.missed == (("a", "No prompt."), ("b", UNSET))


def test_run_when_stopped_then_the_reason_is_known_and_waiting_cells_do_not_begin(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    runs.start("book", [job("a"), job("b"), job("c")])
    running = cells.begun()
    assert runs.stop("book", "b").waiting == ("c",)
    assert not running.stop.wanted()
    assert runs.stop("book").waiting == ()
    cells.given["a"].put(block("a", "x"))
    assert cells.over() == f"a {STOPPED_BY_HAND}"
    assert cells.began.empty()


def test_one_variant_when_stopped_then_the_run_goes_on(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    runs.start("book", [job("a")])
    running = cells.begun()
    runs.stop("book", "a", "Q4")
    assert (running.stop.wanted("Q4"), running.stop.wanted()) == (True, False)
    cells.given["a"].put(whole("a", "done", ended=True))
    assert cells.over() == "a"


def test_run_when_nobody_looks_for_the_time_then_a_comparison_stops_and_a_measurement_goes_on(cells: Cells) -> None:
    clock = Clock()
    runs = LiveRuns(cells.stream, unwatched_s=1800, clock=clock)
    page = Page()
    with runs.watching("book", 0, page.on_news) as watcher:
        runs.start("book", [job("measured", to_its_end=True), job("compared")])
        clock.now += 5000
        cells.begun()
        cells.given["measured"].put(block("measured", "seen"))
        page.until(watcher, n=1)
    clock.now += 1799
    cells.given["measured"].put(block("measured", "x"))
    clock.now += 1
    cells.given["measured"].put(whole("measured", "done", ended=True))
    assert cells.over() == "measured"
    cells.begun()
    cells.given["compared"].put(block("compared", "x"))
    assert cells.over() == "compared stopped: nobody looked for 30 minutes"


def test_run_when_it_fails_without_a_word_then_pages_are_told_and_the_next_one_runs(cells: Cells) -> None:
    def stream(job: RunJob) -> Iterator[RunUpdate]:
        if job.cell == "bad":
            raise RuntimeError("bug")
        yield whole(job.cell, "done", ended=True)

    runs, page = LiveRuns(stream, unwatched_s=0), Page()
    with runs.watching("book", 0, page.on_news) as watcher:
        runs.start("book", [job("bad"), job("good")])
        page.until(watcher, idle=True, n=2)
    assert [(update.cell, update.ended, update.error is UNSET) for update in page.updates] == [
        ("bad", True, False),
        ("good", True, True),
    ]


def test_runs_when_the_app_ends_then_they_stop_for_that_reason_and_none_begins(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)
    runs.start("book", [job("a"), job("b")])
    cells.begun()
    cells.given["a"].put(block("a", "x"))
    cells.given["a"].put(block("a", "x"))
    runs.close()
    assert cells.over() == f"a {APP_ENDED}"
    assert runs.start("book", [job("c")]).waiting == ()
    assert cells.began.empty()


def test_branches_when_very_many_wait_in_one_notebook_then_more_are_refused(cells: Cells) -> None:
    runs = LiveRuns(cells.stream, unwatched_s=0)

    def go_on(n: int) -> RunJob:
        return RunJob("n", "a", "me", to_its_end=False, branch=BranchJob(1, 0, BranchPoint("v", n, 5)))

    runs.start("n", [go_on(0)])
    cells.begun()
    assert len(runs.start("n", [go_on(n) for n in range(1, 101)]).waiting) == 100
    with pytest.raises(Busy, match="100 answers of this notebook wait to go on"):
        runs.start("n", [go_on(101)])
    assert len(runs.start("n", [go_on(100)]).waiting) == 100  # it waits already
    runs.stop("n")
    cells.given["a"].put(block("a", "one"))
    assert cells.over() == f"a {STOPPED_BY_HAND}"
