"""Workers that are started and hold nothing: a load takes one, and waits neither for Python nor for its imports."""

from __future__ import annotations

import logging
from threading import Lock

from playground.errors import WorkerDied
from playground.pool.contract import Worker, WorkerFactory
from playground.pool.turn_order import Places
from playground.values.memory import HOST, WorkerState

logger = logging.getLogger(__name__)


class SpareWorkers:
    """A WorkerFactory (contract.py) in front of another one. Owns the spare workers until a load takes them.

    They are of this machine's host: one that sees a GPU would hold some of its memory.
    """

    def __init__(self, start_worker: WorkerFactory, count: int) -> None:
        self._start_worker = start_worker
        self._count = count
        self._lock = Lock()
        self._spares: list[Worker] = []
        self._closed = False

    def __call__(self, name: str, places: Places) -> Worker:
        """A spare worker, or a new one. A spare one that is still starting is waited for."""
        while places == (HOST,) and (spare := self._take()) is not None:
            if _is_ready(spare) and spare.ping() is not None:
                spare.name = name
                return spare
            spare.stop()
        return self._start_worker(name, places)

    def restock(self) -> None:
        """Start those that are missing. Does not wait for them."""
        with self._lock:
            while not self._closed and len(self._spares) < self._count:
                try:
                    self._spares.append(self._start_worker("spare worker", (HOST,)))
                except OSError as error:  # no process can be started now: a load says so, if one needs it
                    logger.warning("no spare worker could be started: %s", error)
                    return

    def settle(self) -> None:
        """Block until none is starting: what is timed next has the processors to itself."""
        with self._lock:
            spares = tuple(self._spares)
        for spare in spares:
            _is_ready(spare)

    @property
    def pids(self) -> tuple[int, ...]:
        """Their processes, as far as they live."""
        with self._lock:
            return tuple(spare.pid for spare in self._spares if spare.alive or spare.state is WorkerState.STARTING)

    def close(self) -> None:
        """End them, and start none any more. Blocks until they have ended."""
        with self._lock:
            self._closed = True
            spares, self._spares = self._spares, []
        for spare in spares:
            spare.stop()

    def _take(self) -> Worker | None:
        with self._lock:
            return self._spares.pop(0) if self._spares else None


def _is_ready(spare: Worker) -> bool:
    """Blocks while it starts."""
    try:
        spare.wait_ready()
    except WorkerDied as error:
        logger.warning("a spare worker has ended: %s", error.message)
        return False
    return spare.alive
