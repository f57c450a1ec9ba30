"""Who runs what: so that Stop, and a page that is closed, find their run."""

from __future__ import annotations

from threading import Lock

from playground.comparing.compare import StopFlag


class ActiveRuns:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[StopFlag, tuple[str, str]] = {}  # page and cell

    def start(self, page: str, cell: str) -> StopFlag:
        """A cell that already runs, perhaps in another tab, is stopped first."""
        self.stop(cell)
        stop = StopFlag()
        with self._lock:
            self._running[stop] = page, cell
        return stop

    def end(self, stop: StopFlag) -> None:
        with self._lock:
            self._running.pop(stop, None)

    def stop(self, cell: str, variant: str | None = None) -> None:
        for stop, (_, running) in self._all():
            if running == cell:
                stop.pane(variant) if variant else stop.run()

    def leave(self, page: str) -> None:
        """The page is closed."""
        for stop, (left, _) in self._all():
            if left == page:
                stop.run()

    def _all(self) -> list[tuple[StopFlag, tuple[str, str]]]:
        with self._lock:
            return list(self._running.items())
