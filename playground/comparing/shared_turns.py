"""Requests of the API to one language model share a turn: they join its batch as they come.

A request that finds nobody to share with goes alone, and is timed. What waits here leaves the queue to everybody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from playground.comparing.shared_batch import SharedBatch
from playground.errors import Busy, Interrupted
from playground.pool.handles import Stop
from playground.pool.leasing import Slot
from playground.pool.pool import Pool
from playground.pool.queue import Ticket
from playground.pool.worker_spec import WorkerSpec, language_spec
from playground.values.files import ModelFile
from playground.values.request import Runtime

SEQUENCES = 16  # requests that one model answers at once at most
_WAIT_S = 0.1  # how often a waiting request looks at its stop flag, and whether the queue lets it join


@dataclass(frozen=True, slots=True)
class Sharing:
    """Requests with equal ones may share a turn."""

    model: ModelFile
    runtime: Runtime


@dataclass(eq=False, slots=True)
class _Request:
    who: str
    sharing: Sharing | None  # None: it goes alone
    since: float


@dataclass(eq=False, slots=True)
class _Shared:
    """A turn that is shared."""

    sharing: Sharing
    slot: Slot
    batch: SharedBatch
    members: int = 1


class SharedTurns:
    """Owns what waits and the turns that are shared. Safe to use from several threads."""

    def __init__(self, sequences: int) -> None:
        self._sequences = sequences
        self._changed = Condition()
        self._waiting: list[_Request] = []
        self._leading: list[_Request] = []  # they wait in the queue, or run alone
        self._shared: list[_Shared] = []

    @contextmanager
    def turn(
        self,
        pool: Pool,
        specs: Sequence[WorkerSpec],
        sharing: Sharing | None,
        *,
        stop: Stop,
        on_place: Callable[[int], None],
    ) -> Iterator[tuple[Slot, SharedBatch | None]]:
        """A turn, and the batch that answers if others share it. Blocks and raises as Pool.turn.

        `specs`: what the request needs; the last one is its language model.
        """
        request = _Request(pool.who, sharing, time.monotonic())
        entry = self._enter(request, pool, specs, stop)
        if isinstance(entry, Ticket):
            try:
                with pool.turn(entry, stop=stop, on_place=on_place) as slot:
                    shared = self._open(request, slot, pool, specs)
                    try:
                        yield slot, shared.batch if shared is not None else None
                    finally:
                        self._leave(shared)
            finally:
                with self._changed:
                    if request in self._leading:
                        self._leading.remove(request)
                    self._changed.notify_all()
            return
        shared, ticket = entry
        try:
            yield shared.slot, shared.batch
        finally:
            self._leave(shared)
            pool.queue.end(ticket)

    def _enter(
        self, request: _Request, pool: Pool, specs: Sequence[WorkerSpec], stop: Stop
    ) -> Ticket | tuple[_Shared, Ticket]:
        """Wait until a request may go on: with a place in the queue, or in a turn that has begun."""
        places = max(1, len(pool.devices.gpu_places))
        with self._changed:
            self._waiting.append(request)
            try:
                while not stop():
                    shared = self._to_join(request, specs)
                    if shared is not None and (
                        ticket := pool.queue.join(request.who, specs, shared.slot.places, request.since)
                    ):
                        shared.members += 1
                        return shared, ticket
                    if not self._is_full(request) and self._may_line_up(request, places):
                        try:
                            lined_up = pool.line_up(specs)
                        except Busy:
                            pass  # the same person may have filled their share of the queue from the page
                        else:
                            self._leading.append(request)
                            return lined_up
                    self._changed.wait(_WAIT_S)
            finally:
                self._waiting.remove(request)
                self._changed.notify_all()
        raise Interrupted("Interrupted while it waited for its turn.")

    def _to_join(self, request: _Request, specs: Sequence[WorkerSpec]) -> _Shared | None:
        """A shared turn with room. First come, first served."""
        if request is not next(other for other in self._waiting if other.sharing == request.sharing):
            return None
        return next(
            (
                shared
                for shared in self._shared
                if shared.sharing == request.sharing
                and shared.members < self._most
                and shared.slot.fits([*specs[:-1], shared.batch.worker])
            ),
            None,
        )

    @property
    def _most(self) -> int:
        """Members of a turn: while some are answered, the images of the next ones are encoded."""
        return self._sequences + 2

    def _is_full(self, request: _Request) -> bool:
        """Whether turns that it could share have no room now: it waits for them."""
        return any(shared.sharing == request.sharing and shared.members >= self._most for shared in self._shared)

    def _may_line_up(self, request: _Request, places: int) -> bool:
        """One of a person's requests to a model runs on each place, and one more waits in the queue."""
        own = [other for other in self._leading if other.who == request.who]
        alike = [other for other in own if other.sharing == request.sharing]
        first = next(o for o in self._waiting if o.who == request.who and o.sharing == request.sharing)
        running = len(own) + len(self._shared)
        return request is first and running <= places and (len(alike) < places or request.sharing is None)

    def _open(self, request: _Request, slot: Slot, pool: Pool, specs: Sequence[WorkerSpec]) -> _Shared | None:
        """A batch, if others wait for the same model and memory holds it beside the projector."""
        sharing = request.sharing
        with self._changed:
            if sharing is None or self._sequences < 2 or not any(other.sharing == sharing for other in self._waiting):
                return None
            if not slot.fits([*specs[:-1], language_spec(sharing.model, sharing.runtime, sequences=self._sequences)]):
                return None
            # On a CPU, attention to all pictures costs more than a batch saves (bench/README.md).
            batch = SharedBatch(
                slot,
                sharing.model,
                sharing.runtime,
                self._sequences,
                one_picture=not pool.on_gpu,
                beside=specs[:-1],
            )
            shared = _Shared(sharing, slot, batch)
            self._shared.append(shared)
            self._leading.remove(request)
            self._changed.notify_all()
        return shared

    def _leave(self, shared: _Shared | None) -> None:
        """The last one ends the batch."""
        if shared is None:
            return
        with self._changed:
            shared.members -= 1
            is_last = not shared.members
            if is_last:
                self._shared.remove(shared)
            self._changed.notify_all()
        if is_last:
            shared.batch.close()
