"""The runs that go on: they belong to the server, and a page is a view of them. No Gradio here.

The cells of one notebook run one after another, in a thread of their own. Pages come and go meanwhile.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock, Thread

from msgspec import UNSET, UnsetType

from playground.comparing.branching import MAX_BRANCHES, BranchPoint
from playground.comparing.compare import StopFlag
from playground.errors import Busy
from playground.notebooks.cells import APP_ENDED, STOPPED_BY_HAND
from playground.notebooks.library import Unfinished
from playground.web.replies import RunQueue, RunUpdate

logger = logging.getLogger(__name__)

_CLOSE_S = 4.0
_MOST_IDLE = 1000  # notebooks that are remembered though nothing runs there
_UNEXPECTED = "Unexpected: the app's log has more."


@dataclass(frozen=True, slots=True)
class BranchJob:
    """An answer of a kept run goes on with another token."""

    run: int
    index: int  # of the run's comparisons
    point: BranchPoint


@dataclass(eq=False, slots=True)
class RunJob:
    """One run of a cell, waiting or going on."""

    notebook: str
    cell: str
    person: str  # whose turn it is in the pool's queue
    to_its_end: bool  # though nobody looks
    resumes: Unfinished | None = None  # a measurement that an earlier process of the app began
    branch: BranchJob | None = None  # in place of the cell
    stop: StopFlag = field(default_factory=StopFlag)


class News:
    """The newest state of each part of the runs: what came before it is of no use to a page."""

    def __init__(self) -> None:
        self._parts: dict[tuple[str, str], tuple[int, RunUpdate]] = {}

    def put(self, id: int, update: RunUpdate) -> None:
        whole = update.outputs is not UNSET
        if whole:
            self._parts = {key: value for key, value in self._parts.items() if key[0] != update.cell}
        part = "" if whole or update.block is UNSET else update.block
        key = update.cell, "ended" if update.ended and not whole else part
        self._parts.pop(key, None)  # so that the parts are in the order of their ids
        self._parts[key] = id, update

    def parts(self) -> list[tuple[int, RunUpdate]]:
        return list(self._parts.values())


class Watcher:
    """What one page has not been sent yet. Filled by the runs' threads, emptied by the server's event loop."""

    def __init__(self, on_news: Callable[[], None]) -> None:
        self.missed: tuple[tuple[str, str | UnsetType], ...] = ()  # cells that ended while it was away; their errors
        self._on_news = on_news
        self._lock = Lock()
        self._news = News()
        self._queue: RunQueue | None = None

    def put(self, id: int, update: RunUpdate) -> None:
        with self._lock:
            self._news.put(id, update)
        self._on_news()

    def put_queue(self, queue: RunQueue) -> None:
        with self._lock:
            self._queue = queue
        self._on_news()

    def take(self) -> tuple[list[tuple[int, RunUpdate]], RunQueue | None]:
        with self._lock:
            taken = self._news.parts(), self._queue
            self._news, self._queue = News(), None
        return taken


@dataclass(eq=False, slots=True)
class _Notebook:
    left: float  # when the last page left
    waiting: list[RunJob] = field(default_factory=list)
    running: RunJob | None = None
    working: bool = False  # whether a thread runs its cells
    newest: News = field(default_factory=News)  # of the run that goes on
    watchers: set[Watcher] = field(default_factory=set)
    ended: dict[str, tuple[int, str | UnsetType]] = field(default_factory=dict)  # by cell: when, and its error


class LiveRuns:
    """Owns the runs of all notebooks. Safe to use from several threads."""

    def __init__(
        self,
        stream: Callable[[RunJob], Iterator[RunUpdate]],
        unwatched_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stream`: runs a cell; its last update has `ended`. `unwatched_s`: how long a comparison goes on while no
        page shows its notebook; 0: to its end."""
        self.server = secrets.token_urlsafe(6)  # tells a page that the app was started anew
        self._stream = stream
        self._unwatched_s = unwatched_s
        self._clock = clock
        self._lock = Lock()
        self._notebooks: dict[str, _Notebook] = {}
        self._threads: set[Thread] = set()
        self._id = 0  # of the newest news
        self.closing = False

    # --- what a person does ------------------------------------------------------------------------------------

    def start(self, id: str, jobs: Sequence[RunJob]) -> RunQueue:
        """Line up cells of a notebook. A cell that waits or runs already goes on. Raises Busy."""
        with self._lock:
            notebook = self._of(id)
            notebook.left = self._clock()
            active = {(job.cell, job.branch) for job in (*notebook.waiting, notebook.running) if job is not None}
            new = [job for job in jobs if (job.cell, job.branch) not in active and not self.closing]
            branches = sum(job.branch is not None for job in (*notebook.waiting, *new))
            if branches > MAX_BRANCHES:  # cells are as many as the notebook has
                raise Busy(f"Busy: {MAX_BRANCHES} answers of this notebook wait to go on. Let some of them end.")
            notebook.waiting += new
            if notebook.waiting and not notebook.working:
                notebook.working = True
                thread = Thread(target=self._work, args=(notebook,), daemon=True)
                self._threads.add(thread)
                thread.start()
            return self._announce(notebook)

    def stop(self, notebook: str, cell: str | None = None, variant: str | None = None) -> RunQueue:
        """Stop a cell, or one variant of it; without a cell, all of the notebook."""
        with self._lock:
            known = self._of(notebook)
            if variant is None:
                known.waiting = [job for job in known.waiting if cell not in (None, job.cell)]
            if known.running is not None and cell in (None, known.running.cell):
                stop = known.running.stop
                stop.pane(variant) if variant else stop.run(STOPPED_BY_HAND)
            return self._announce(known)

    def close(self) -> None:
        """End all runs, since the app ends. They are kept as interrupted."""
        with self._lock:
            self.closing = True
            threads = list(self._threads)
            for notebook in self._notebooks.values():
                notebook.waiting = []
                self._announce(notebook)  # wakes the streams, which end: the web server waits for them
                if notebook.running is not None:
                    notebook.running.stop.run(APP_ENDED)
        deadline = self._clock() + _CLOSE_S
        for thread in threads:
            thread.join(max(0.0, deadline - self._clock()))

    # --- what a page sees --------------------------------------------------------------------------------------

    @property
    def newest_id(self) -> int:
        """A page that shows a notebook as it is now watches it from here on."""
        return self._id

    @contextmanager
    def watching(self, notebook: str, since: int, on_news: Callable[[], None]) -> Iterator[Watcher]:
        """A page that looks at a notebook. `since`: the newest update that it has."""
        watcher = Watcher(on_news)
        with self._lock:
            known = self._of(notebook)
            watcher.missed = tuple((cell, error) for cell, (id, error) in known.ended.items() if id > since)
            watcher.put_queue(_queue(known, self._id))
            for id, update in known.newest.parts():
                watcher.put(id, update)
            known.watchers.add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                known.watchers.discard(watcher)
                known.left = self._clock()

    # --- the notebook's thread ---------------------------------------------------------------------------------

    def _work(self, notebook: _Notebook) -> None:
        while (job := self._next(notebook)) is not None:
            try:
                for update in self._stream(job):
                    self._publish(notebook, update)
                    if not job.to_its_end and self._is_unwatched(notebook):
                        job.stop.run(f"stopped: nobody looked for {_minutes(self._unwatched_s)}")
            except Exception:
                logger.exception("run of cell %s", job.cell)
                self._publish(notebook, RunUpdate(cell=job.cell, error=_UNEXPECTED, ended=True))

    def _next(self, notebook: _Notebook) -> RunJob | None:
        with self._lock:
            notebook.running = notebook.waiting.pop(0) if notebook.waiting else None
            notebook.working = notebook.running is not None
            notebook.newest = News()
            self._announce(notebook)
            if not notebook.working:
                self._threads = {thread for thread in self._threads if thread.is_alive()}
            return notebook.running

    def _publish(self, notebook: _Notebook, update: RunUpdate) -> None:
        with self._lock:
            self._id += 1
            notebook.newest.put(self._id, update)
            if update.ended:
                notebook.ended[update.cell] = self._id, update.error
            for watcher in notebook.watchers:
                watcher.put(self._id, update)

    def _is_unwatched(self, notebook: _Notebook) -> bool:
        with self._lock:
            alone = not notebook.watchers
            return alone and 0 < self._unwatched_s <= self._clock() - notebook.left

    # --- with the lock held ------------------------------------------------------------------------------------

    def _of(self, id: str) -> _Notebook:
        if id not in self._notebooks:
            idle = [key for key, known in self._notebooks.items() if not (known.working or known.watchers)]
            for key in idle[:-_MOST_IDLE]:
                del self._notebooks[key]
            self._notebooks[id] = _Notebook(left=self._clock())
        return self._notebooks[id]

    def _announce(self, notebook: _Notebook) -> RunQueue:
        self._id += 1
        queue = _queue(notebook, self._id)
        for watcher in notebook.watchers:
            watcher.put_queue(queue)
        return queue


def _queue(notebook: _Notebook, id: int) -> RunQueue:
    running = notebook.running.cell if notebook.running is not None else None
    return RunQueue(id=id, running=running, waiting=tuple(job.cell for job in notebook.waiting))


def _minutes(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:g} seconds" if seconds < 60 else "1 minute" if minutes == 1 else f"{minutes} minutes"
