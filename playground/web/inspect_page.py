"""The inspect page: what is held where, over the last minutes and now, who waits, and what an operator may do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any, Protocol

import markupsafe

from playground.errors import NotAllowed
from playground.rendering import templating
from playground.rendering.memory_chart import chart, colours, handle_row, machine_rows, thinned, waiting
from playground.values.memory import MemoryReport
from playground.web.replies import InspectReply
from playground.web.server_function import server_function

_WINDOWS = (60, 120, 300, 600)  # seconds that the time axis may show


class InspectedPool(Protocol):
    """What the page asks of the pool."""

    def memory(self) -> MemoryReport: ...

    def pin(self, id: str, pinned: bool) -> None: ...

    def unload_id(self, id: str) -> None:
        """Raises BadInput while it is leased."""

    def bandwidth(self, place: str) -> float | None:
        """Measured copy bandwidth, bytes a second."""


class Sampler(Protocol):
    @property
    def history(self) -> tuple[MemoryReport, ...]:
        """Oldest first, one a second."""


class InspectPage:
    """Server functions for the page's script. Drawing is done once for a sample, however many look at it."""

    def __init__(self, pool: InspectedPool, monitor: Sampler, may_operate: Callable[[str | None], bool]) -> None:
        """`may_operate`: whether a person of this name may pin and unload."""
        self._pool = pool
        self._monitor = monitor
        self._may_operate = may_operate
        self._lock = Lock()
        self._colours: dict[str, int] = {}
        self._drawn: tuple[float, dict[str, markupsafe.Markup]] = (math.nan, {})

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        return [server_function(method) for method in (self.look, self.pin, self.unload)]

    def page(self) -> markupsafe.Markup:
        return templating.markup("inspect.html")

    def look(self, visitor: str | None = None) -> InspectReply:
        """What the page shows to this visitor now."""
        return self._reply(visitor, self._monitor.history)

    def pin(self, id: str, pinned: bool, visitor: str | None = None) -> InspectReply:
        self._check(visitor)
        self._pool.pin(id, pinned)
        return self._reply(visitor, (*self._monitor.history, self._pool.memory()))

    def unload(self, id: str, visitor: str | None = None) -> InspectReply:
        self._check(visitor)
        self._pool.unload_id(id)
        return self._reply(visitor, (*self._monitor.history, self._pool.memory()))

    def _check(self, visitor: str | None) -> None:
        if not self._may_operate(visitor):
            raise NotAllowed("Only the operator may pin and unload here.")

    def _reply(self, visitor: str | None, history: Sequence[MemoryReport]) -> InspectReply:
        history = history or (self._pool.memory(),)
        now = history[-1]
        may = self._may_operate(visitor)
        with self._lock:
            if self._drawn[0] != now.time:
                self._colours = colours(self._colours, [w.id for report in history for w in report.workers])
                window = next((w for w in _WINDOWS if now.time - history[0].time <= w), _WINDOWS[-1])
                seen = thinned(history, window)
                places = [
                    chart(seen, window, place, self._colours, self._pool.bandwidth(place)) for place in now.places
                ]
                handles = [handle_row(worker, self._colours) for worker in now.workers]
                defaults = list(dict.fromkeys(worker.defaults for worker in now.workers if worker.defaults))
                shared = {
                    "alarms": templating.markup("alarms.html", alarms=now.alarms[::-1]),
                    "places": templating.markup("places.html", places=places, report=now, machines=machine_rows(now)),
                }
                for allowed in (True, False):
                    shared[f"handles {allowed}"] = templating.markup(
                        "handles.html", handles=handles, defaults=defaults, spares=now.spares, may=allowed
                    )
                self._drawn = (now.time, shared)
            shared = self._drawn[1]
        return {
            "time": now.time,
            "alarms": shared["alarms"],
            "places": shared["places"],
            "handles": shared[f"handles {may}"],
            "queue": templating.markup("queue.html", queue=waiting(now.queue, visitor)),
        }
