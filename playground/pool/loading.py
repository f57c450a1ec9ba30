"""Loads and unloads workers. A model gives way only after llama.cpp has accepted the header of what displaces it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from playground.engine import protocol
from playground.errors import Interrupted
from playground.pool.budgets import Budgets, growth
from playground.pool.contract import Worker
from playground.pool.devices import Devices
from playground.pool.forecast import Forecasts
from playground.pool.handles import Handle, Handles, OnStep, Stop
from playground.pool.memory_watch import MemoryWatch
from playground.pool.spare_workers import SpareWorkers
from playground.pool.turn_order import Places

logger = logging.getLogger(__name__)

_WAIT_S = 0.05


class Misjudged(Exception):
    """llama.cpp plans more memory than was set aside, and it does not fit now: the placement is decided again."""


class Loader:
    """Starts, loads and stops workers. Its methods block, and hold no lock while a worker is started, asked or stopped.

    It has no state of its own. Several threads may load and unload different handles at once.
    """

    def __init__(
        self,
        workers: SpareWorkers,
        handles: Handles,
        budgets: Budgets,
        forecasts: Forecasts,
        devices: Devices,
        watch: MemoryWatch,
    ) -> None:
        self._workers = workers
        self._handles = handles
        self._budgets = budgets
        self._forecasts = forecasts
        self._devices = devices
        self._watch = watch

    def make_ready(self, handle: Handle, victims: list[Handle], stop: Stop, on_step: OnStep) -> float | None:
        """Load the model of a leased handle unless it is loaded, and unload `victims`.

        Returns the seconds until the model was loaded, warm-up and the start of the process included; None if it was
        loaded. No spare worker is starting then: what is timed next has the processors to itself.
        Raises WorkerDied, Interrupted by `stop` or when the app closes, Misjudged, and what loading raises.
        """
        started = time.monotonic()
        try:
            if handle.worker is not None and self._answers(handle, handle.worker):
                self.unload(victims)
                return None
            self._load(handle, victims, stop, on_step)
            load_s = time.monotonic() - started
            self._workers.settle()
        except BaseException:
            if handle.worker is not None:
                handle.worker.stop()
            self._bring_back(victims, handle)
            raise
        return load_s

    def _answers(self, handle: Handle, worker: Worker) -> bool:
        if worker.is_fresh:
            return True
        pong = worker.ping()
        if pong is not None:
            self._devices.update(pong, handle.places)
        return pong is not None

    def unload(self, victims: Sequence[Handle]) -> None:
        """Stop workers that are marked as leaving. Returns when their memory is back, or after an alarm."""
        if not victims:
            return
        with self._watch.moving() as is_alone:
            before = self._watch.used_bytes()
            gone = [h for h in victims if h.is_on_gpu and h.usable]
            for handle in gone:  # a smaller context than before holds less
                self._watch.weigh(handle)
            try:
                for handle in victims:
                    if handle.worker is not None:
                        handle.worker.stop()
                self._watch.await_return(gone, before, is_alone)
            finally:
                self._handles.end_leaving(victims)

    def _load(self, handle: Handle, victims: list[Handle], stop: Stop, on_step: OnStep) -> None:
        grown: list[int | None] = []
        with self._watch.growth(handle.places, grown):
            handle.worker = worker = self._workers(f"{handle.spec.role} {handle.spec.file}", handle.places)
            if self._handles.closed:  # Pool.close may have run before this worker was there to be stopped
                raise Interrupted("The app is closing.")
            self._devices.learn(worker.wait_ready(), handle.places)
            self._workers.restock()  # beside the load, which reads a file in one thread
            self._plan(handle, worker, victims, stop, on_step)
        for victim in victims:
            logger.info("unloading %s for %s", victim.spec.file, handle.spec.file)
        self.unload(victims)
        self._await_leaving(handle.places)
        with self._watch.growth(handle.places, grown):
            load = handle.spec.load
            loaded = worker.request(load, stop=stop, on_step=on_step) if load is not None else None
            if loaded is not None and loaded.plan is not None:
                self._learn(handle, loaded.plan)
        known = [n for n in grown if n is not None]
        is_measured = self._watch.is_hidden(handle) and len(known) == len(grown)
        handle.difference = sum(known) if is_measured else None

    def _plan(self, handle: Handle, worker: Worker, victims: list[Handle], stop: Stop, on_step: OnStep) -> None:
        """Ask llama.cpp how much it will take, once for a file and a context. Adds to `victims` if that is more.

        Raises Misjudged if that does not fit now, and what loading raises.
        """
        spec = handle.spec
        if not isinstance(spec.load, protocol.LoadLanguage) or self._forecasts.has_plan(spec, handle.places):
            return
        plan = worker.request(protocol.PlanMemory(spec.load), stop=stop, on_step=on_step)
        self._forecasts.planned(spec, handle.places, plan)
        forecast = self._forecasts.of(spec, handle.places)
        with self._handles.changed:
            ids = self._budgets.evictions(growth(forecast, handle.bytes))
            if ids is None:
                raise Misjudged
            victims += self._handles.mark_leaving(ids)
            handle.forecast, handle.bytes = forecast, forecast.bytes

    def _learn(self, handle: Handle, plan: protocol.MemoryPlan) -> None:
        """llama.cpp tells an encoder's buffers only when it has loaded it. Makes room for what was not foreseen.

        Raises Misjudged if there is none now.
        """
        if self._forecasts.has_plan(handle.spec, handle.places):
            return
        self._forecasts.planned(handle.spec, handle.places, plan)
        forecast = self._forecasts.of(handle.spec, handle.places)
        with self._handles.changed:
            ids = self._budgets.evictions(growth(forecast, handle.bytes))
            if ids is None:
                raise Misjudged
            handle.forecast, handle.bytes = forecast, forecast.bytes
            victims = self._handles.mark_leaving(ids)
        self.unload(victims)

    def _await_leaving(self, places: Places) -> None:
        """Block until nothing is leaving these places, for whomever it gives way: its room may be counted on."""
        with self._handles.changed:
            while any(h.leaving and set(h.places) & set(places) for h in self._handles.all()):
                self._handles.changed.wait(_WAIT_S)

    def _bring_back(self, victims: Sequence[Handle], failed: Handle) -> None:
        """After a failed load: keep the victims that are still loaded, unless another load counts on their room."""
        with self._handles.changed:
            failed.bytes = {}
            kept = self._handles.keep(victims)
            places = {place: 0 for victim in kept for place in victim.bytes}
            over = self._budgets.evictions(places)
            gone = self._handles.mark_leaving(over or ())
            self._handles.changed.notify_all()
        self.unload(gone)
