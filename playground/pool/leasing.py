"""Lends workers: finds a loaded one or a place for a new one, and gives it back at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from playground.errors import Interrupted, MachineLost, OutOfMemory
from playground.pool.budgets import Budgets, PoolLimits, growth, larger
from playground.pool.devices import Devices
from playground.pool.forecast import Forecasts, remedied
from playground.pool.handles import Handle, Handles, Lease, OnStep, Stop, never, unheard
from playground.pool.loading import Loader, Misjudged
from playground.pool.memory_watch import MemoryWatch
from playground.pool.shortage import shortage
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import is_host, machine_of
from playground.values.request import Remedy, Runtime

_WAIT_S = 0.05  # how often a caller that waits for a worker looks at its stop flag


class Leases:
    """Gives each worker to one borrower at a time. It has no state of its own: the handles record what is leased."""

    def __init__(
        self,
        limits: PoolLimits,
        handles: Handles,
        budgets: Budgets,
        forecasts: Forecasts,
        watch: MemoryWatch,
        loader: Loader,
    ) -> None:
        self._limits = limits
        self._handles = handles
        self._budgets = budgets
        self._forecasts = forecasts
        self._watch = watch
        self._loader = loader

    @contextmanager
    def lease(
        self, spec: WorkerSpec, options: Sequence[Places], stop: Stop, on_step: OnStep = unheard
    ) -> Iterator[Lease]:
        """Borrow the worker for `spec` at one of `options`. Blocks and raises as Pool.lease."""
        while True:
            handle, victims = self._acquire(spec, options, stop)
            try:
                load_s = self._loader.make_ready(handle, victims, stop, on_step)
                break
            except Misjudged:
                self._release(handle)
            except BaseException:
                self._release(handle)
                raise
        try:
            yield Lease(handle, load_s)
        finally:
            self._release(handle)

    def _acquire(self, spec: WorkerSpec, options: Sequence[Places], stop: Stop) -> tuple[Handle, list[Handle]]:
        """Wait until the worker can be had. Marks its handle as leased and those that it displaces as leaving."""
        while True:
            with self._handles.changed:
                if self._handles.closed:
                    raise Interrupted("The app is closing.")
                acquired = self._try_acquire(spec, options)
                if acquired is not None:
                    return acquired
                self._handles.changed.wait(_WAIT_S)
            if stop():
                raise Interrupted("Interrupted while it waited for a worker.")

    def _try_acquire(self, spec: WorkerSpec, options: Sequence[Places]) -> tuple[Handle, list[Handle]] | None:
        """None: the worker is leased, or what it needs is. With the lock held. Raises OutOfMemory."""
        self._handles.forget_dead()
        loaded = [h for h in self._handles.all() if h.spec == spec and h.places in options]
        idle = next((h for h in loaded if not h.leased and not h.leaving), None)
        if idle is None and loaded:
            return None
        ways = [idle.places] if idle is not None else options
        forecasts = [self._forecasts.of(spec, places) for places in ways]
        held = idle.bytes if idle is not None else {}
        needs = [growth(forecast, held) for forecast in forecasts]
        if idle is not None and idle.spec.context == spec.context:
            needs = [{}]
        placement = self._budgets.choose(needs, idle)
        if placement is None:
            if self._budgets.choose(needs, idle, leased_stay=False) is None:
                raise OutOfMemory(self._shortage(spec, ways))
            return None
        victims = self._handles.mark_leaving(placement.evicted)
        forecast = forecasts[placement.option]
        if idle is None:
            idle = Handle(spec, ways[placement.option], forecast)
            self._handles.add(idle)
        elif needs[placement.option]:  # a larger context
            idle.forecast = forecast
            idle.bytes = larger(forecast, held)
        idle.spec, idle.leased = spec, True
        return idle, victims

    def _release(self, handle: Handle) -> None:
        try:
            if handle.usable:
                self._watch.weigh(handle)
            elif handle.worker is not None:
                handle.worker.stop()
        finally:
            self._handles.release(handle)

    def _shortage(self, spec: WorkerSpec, ways: Sequence[Places]) -> str:
        pinned = [h for h in self._handles.all() if h.pinned and h.spec != spec]
        return shortage(spec, self._forecasts.of, ways, pinned, self._budgets.by_place(), self._limits)


@dataclass(frozen=True, slots=True)
class Slot:
    """The right to generate on some GPUs, or on the host, until the `with` block of Pool.turn ends."""

    places: Places
    _leases: Leases
    _devices: Devices
    _budgets: Budgets

    @contextmanager
    def lease(self, spec: WorkerSpec, *, stop: Stop = never, on_step: OnStep = unheard) -> Iterator[Lease]:
        """Borrow the worker for `spec` here. Blocks and raises as Pool.lease, and MachineLost.

        `on_step`: while its model is copied to another machine, with bytes.
        """
        with self._leases.lease(spec, self._options(spec), stop, on_step) as lease:
            yield lease

    def fits(self, specs: Iterable[WorkerSpec]) -> bool:
        """Whether all of `specs` can be loaded here at once, if everything idle gives way."""
        return self._budgets.fits({spec: self._options(spec) for spec in specs})

    def fitting(
        self, specs: Callable[[Runtime], Sequence[WorkerSpec]], runtime: Runtime, allowed: Sequence[Remedy]
    ) -> Runtime:
        """`runtime`, or the mildest allowed change of it with which all of `specs` fit at once; itself if none does."""
        if not allowed or is_host(self.places[0]):
            return runtime
        layers = max((spec.shape.n_layers for spec in specs(runtime) if spec.shape), default=0)
        ways = (runtime, *remedied(runtime, allowed, layers))
        return next((way for way in ways if self.fits(specs(way))), runtime)

    def _options(self, spec: WorkerSpec) -> list[Places]:
        if not self._devices.has(self.places):
            raise MachineLost.of(machine_of(self.places[0]), "it left the cluster")
        return self._devices.options_within(spec, self.places)
