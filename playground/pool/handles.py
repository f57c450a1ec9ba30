"""The list of workers: what each holds, who leases it, what is about to leave. One lock guards it all."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from threading import Condition

from playground.engine import protocol
from playground.pool.contract import Dialogue, Worker
from playground.pool.placement import Resident
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import Forecast, is_host

Stop = Callable[[], bool]
OnStep = Callable[[protocol.Step], None]


def never() -> bool:
    return False


def unheard(step: protocol.Step) -> None:
    """For whoever does not want to know how far it has come."""


class Handle:
    """A worker, loaded or about to be. The pool owns its fields; a lease gives the right to `request`."""

    _ids = itertools.count(1)

    def __init__(self, spec: WorkerSpec, places: Places, forecast: Forecast) -> None:
        self.id = f"w{next(self._ids)}"
        self.spec = spec
        self.places = places
        self.forecast = forecast
        self.bytes: Mapping[str, int] = forecast.bytes  # set aside for it, by place
        self.worker: Worker | None = None
        self.peak: int | None = None
        self.learned = 0  # the peak that the forecasts know
        self.difference: int | None = None  # of the device's memory, where the driver hides processes
        self.leased = True
        self.leaving = False  # to be unloaded as soon as the file that displaces it is known to be sound
        self.pinned = False
        self.last_used = time.monotonic()

    @property
    def usable(self) -> bool:
        return self.worker is not None and self.worker.alive

    @property
    def is_on_gpu(self) -> bool:
        return not is_host(self.places[0])


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a worker, until the `with` block that gave it ends."""

    handle: Handle
    load_s: float | None  # None: it was loaded already

    def request(
        self,
        request: protocol.Request[protocol.R],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        dialogue: Dialogue | None = None,
        stop: Stop = never,
    ) -> protocol.R:
        """See contract.Worker.request."""
        assert self.handle.worker is not None
        return self.handle.worker.request(request, on_chunk=on_chunk, on_step=on_step, dialogue=dialogue, stop=stop)

    def wake(self) -> None:
        """See contract.Worker.wake."""
        assert self.handle.worker is not None
        self.handle.worker.wake()

    @property
    def pid(self) -> int:
        assert self.handle.worker is not None
        return self.handle.worker.pid

    @property
    def places(self) -> Places:
        return self.handle.places


class Handles:
    """Owns the list of handles and the pool's lock.

    Every method takes the lock. A decision that needs several calls holds `changed` around them: the same thread may
    take it again. No worker is started, asked or stopped while it is held.
    """

    def __init__(self) -> None:
        self.changed = Condition()
        self.closed = False
        self._handles: list[Handle] = []

    def all(self) -> tuple[Handle, ...]:
        with self.changed:
            return tuple(self._handles)

    def add(self, handle: Handle) -> None:
        with self.changed:
            self._handles.append(handle)

    def close(self) -> tuple[Handle, ...]:
        """Refuse new leases and give away all handles: the caller stops their workers."""
        with self.changed:
            self.closed = True
            handles, self._handles = self._handles, []
            self.changed.notify_all()
        return tuple(handles)

    def forget_dead(self) -> None:
        """Drop the handles of workers that died while nobody used them: they hold no memory."""
        with self.changed:
            self._handles = [h for h in self._handles if h.leased or h.leaving or h.usable]

    def release(self, handle: Handle) -> None:
        with self.changed:
            handle.leased = False
            handle.last_used = time.monotonic()
            if not handle.usable and handle in self._handles:
                self._handles.remove(handle)
            self.changed.notify_all()

    def mark_leaving(self, ids: Collection[str]) -> list[Handle]:
        with self.changed:
            victims = [h for h in self._handles if h.id in ids]
            for victim in victims:
                victim.leaving = True
            return victims

    def mark_idle_leaving(self, wanted: Callable[[Handle], bool]) -> list[Handle]:
        with self.changed:
            return self.mark_leaving([h.id for h in self._handles if wanted(h) and not h.leased and not h.leaving])

    def keep(self, victims: Sequence[Handle]) -> list[Handle]:
        """Take back `mark_leaving`; returns the handles that have not been unloaded yet."""
        with self.changed:
            kept = [h for h in self._handles if h in victims]
            for handle in kept:
                handle.leaving = False
            return kept

    def end_leaving(self, victims: Sequence[Handle]) -> None:
        """The workers have been stopped: drop their handles."""
        with self.changed:
            for handle in victims:
                handle.leaving = False
            self._handles = [h for h in self._handles if h not in victims or h.usable]
            self.changed.notify_all()

    def pin(self, id: str, pinned: bool) -> None:
        with self.changed:
            for handle in self._handles:
                if handle.id == id:
                    handle.pinned = pinned
            self.changed.notify_all()

    def residents(self, kept: Handle | None = None, *, leased_stay: bool = True) -> list[Resident]:
        """What is loaded, for a decision of placement.py. `kept` does not give way to itself when it grows."""
        with self.changed:
            return [
                Resident(h.id, h.bytes, h is kept or h.pinned or (h.leased and leased_stay), h.last_used)
                for h in self._handles
                if not h.leaving
            ]
