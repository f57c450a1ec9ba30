"""Reads the memory report once a second, keeps the last ten minutes, and has the pool unload idle workers."""

from __future__ import annotations

import logging
from collections import deque
from threading import Event, Thread

from playground.pool.pool import Pool
from playground.values.memory import MemoryReport

logger = logging.getLogger(__name__)

_EVERY_S = 1.0
_KEPT = 600


class Monitor:
    """Owns a thread, from `start` to `close`. Reading `history` never waits for a sensor."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reports: deque[MemoryReport] = deque(maxlen=_KEPT)
        self._closing = Event()
        self._problem = ""  # logged once, not every second
        self._thread = Thread(target=self._run, name="monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5)

    @property
    def history(self) -> tuple[MemoryReport, ...]:
        """Oldest first, one a second, ten minutes at most."""
        return tuple(self._reports)

    @property
    def newest(self) -> MemoryReport:
        return self._reports[-1] if self._reports else self._pool.memory()

    def _run(self) -> None:
        while not self._closing.wait(_EVERY_S):
            try:
                self._reports.append(self._pool.memory())
                self._pool.unload_idle()
                self._problem = ""
            except Exception as error:  # a driver that hiccups must not end the sensors
                if str(error) != self._problem:
                    logger.exception("the sensors could not be read")
                self._problem = str(error)
