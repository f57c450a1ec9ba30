"""The loaded workers, shared by all runs under a memory budget for each GPU, and the turns to generate.

A caller leases a worker. While it is leased, no other caller uses it and it is not unloaded. Runs take turns, one on
each GPU, because two at once falsify each other's tokens per second. README.md shows which file does what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from playground.errors import BadInput
from playground.pool import placement
from playground.pool.budgets import Budgets, PoolLimits
from playground.pool.contract import Joined, Sensors, WorkerFactory
from playground.pool.devices import Devices
from playground.pool.engine_choices import EngineChoices
from playground.pool.forecast import Forecasts
from playground.pool.handles import Handle, Handles, Lease, Stop, never
from playground.pool.leasing import Leases, Slot
from playground.pool.loading import Loader
from playground.pool.local_workers import LocalWorkers
from playground.pool.memory_watch import MemoryWatch
from playground.pool.queue import HeldPlaces, Queue, Ticket
from playground.pool.report import memory_report
from playground.pool.sensors import LocalSensors
from playground.pool.spare_workers import SpareWorkers
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, MemoryReport, WorkerRole, place_on


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """The workers and their queue, as one person uses them. Safe from several threads.

    Frozen: each thing that changes has its owner among the fields, which the pools of all persons share.
    """

    limits: PoolLimits
    sensors: Sensors
    devices: Devices
    handles: Handles
    forecasts: Forecasts
    budgets: Budgets
    watch: MemoryWatch
    spares: SpareWorkers
    loader: Loader
    leases: Leases
    queue: Queue
    choices: EngineChoices
    who: str = ""  # whose turns the queue counts; "": no person in particular
    only: Places = ()  # where its turns and leases are, as long as these places are there; (): anywhere

    @classmethod
    def open(
        cls,
        limits: PoolLimits | None = None,
        *,
        sensors: Sensors | None = None,
        start_worker: WorkerFactory | None = None,
        forecasts: Path | None = None,
        engine: str = "",
        host: str = HOST,
    ) -> Pool:
        """A pool without workers. `sensors`, `start_worker`: of this machine if not given (contract.py).

        `forecasts`: the folder that keeps what is learned of memory, for this `engine`'s version and a `host` of this
        kind.
        """
        limits, sensors = limits or PoolLimits(), sensors or LocalSensors()
        gpus = sensors.gpus()
        devices, handles = Devices(gpus), Handles()
        learned = Forecasts(forecasts, {gpu.place: gpu.name for gpu in gpus} | {HOST: host}, engine)
        budgets = Budgets(limits, gpus, sensors.host(), handles, learned)
        watch = MemoryWatch(sensors, learned, handles.changed)
        start_worker = start_worker or LocalWorkers(gpus, limits.worker_silence_s)
        # None on a machine with GPUs, where models seldom go to the host: one that sees a GPU holds some of its memory.
        spares = SpareWorkers(start_worker, 0 if gpus else limits.spare_workers)
        loader = Loader(spares, handles, budgets, learned, devices, watch)
        leases = Leases(limits, handles, budgets, learned, watch, loader)

        def held() -> HeldPlaces:
            with handles.changed:
                return HeldPlaces([(h.spec, h.places, h.bytes) for h in handles.all()], budgets.by_place())

        queue = Queue(held, limits.waiting, limits.waiting_per_person)
        choices = EngineChoices(learned, devices, measures=limits.measures_defaults)
        return cls(limits, sensors, devices, handles, learned, budgets, watch, spares, loader, leases, queue, choices)

    def of(self, who: str) -> Pool:
        """The same workers and the same queue, for another person's turns."""
        return replace(self, who=who)

    def at(self, places: Places) -> Pool:
        """The same workers and the same queue, for turns at these places alone, until their machine is lost."""
        return replace(self, only=places)

    def close(self) -> None:
        """End every worker. Blocks until they have ended."""
        self.queue.close()
        for handle in self.handles.close():
            if handle.worker is not None:
                handle.worker.stop()
        self.spares.close()
        self.forecasts.close()

    @property
    def on_gpu(self) -> bool:
        """Whether models go on NVIDIA GPUs, as far as is known."""
        return self.devices.on_gpu

    @property
    def gpu_offload(self) -> bool | None:
        """Whether llama.cpp was built for a GPU; None until a worker has reported it."""
        return self.devices.gpu_offload

    # --- machines of a cluster -----------------------------------------------------------------------------------

    def join(self, machine: Joined) -> None:
        """Use another machine's places, from the next run on."""
        kinds = {gpu.place: gpu.name for gpu in machine.gpus} | {place_on(machine.name, HOST): machine.processor}
        self.forecasts.add_devices(kinds)
        self.budgets.join(machine)
        self.devices.join(machine)

    def leave(self, name: str) -> None:
        """Give a machine up. The requests that run there fail by themselves."""
        self.devices.leave(name)
        self.budgets.leave(name)
        self.handles.forget_dead()

    # --- turns and leases ----------------------------------------------------------------------------------------

    def line_up(self, specs: Sequence[WorkerSpec]) -> Ticket:
        """Queue up for a turn with `specs`; the ticket has to be used (`turn`). Raises Busy when too many wait."""
        return self.queue.line_up(self.who, specs, self.turn_options(specs), limited=True)

    def turn_options(self, specs: Sequence[WorkerSpec]) -> list[Places]:
        """Where a run with these workers may have its turn. Runs at different ones go on side by side."""
        return self._allowed(self.devices.turn_options(specs))

    def _allowed(self, options: list[Places]) -> list[Places]:
        return [places for places in options if set(places) <= set(self.only)] or options

    def check_busy(self) -> None:
        """Raises Busy if `line_up` would. For a run of many turns: once it has begun it is not refused."""
        self.queue.check_busy(self.who)

    @contextmanager
    def turn(
        self,
        wanted: Ticket | Sequence[WorkerSpec] = (),
        *,
        stop: Stop = never,
        on_place: Callable[[int], None] = lambda place: None,
        where: list[Places] | None = None,
    ) -> Iterator[Slot]:
        """Block until it is the turn of a ticket, or of a run with these workers. Raises Interrupted.

        `on_place` gets the number of runs that are likely to come before, whenever it changes.
        """
        if isinstance(wanted, Ticket):
            ticket = wanted
        else:
            ticket = self.queue.line_up(self.who, wanted, where or self.turn_options(wanted))
        with self.queue.turn(ticket, stop=stop, on_place=on_place) as places:
            yield Slot(places, self.leases, self.devices, self.budgets)

    @contextmanager
    def lease(self, spec: WorkerSpec, *, stop: Stop = never) -> Iterator[Lease]:
        """Borrow the worker for `spec`. Blocks while it, or the memory that it needs, is leased; then loads it.

        It unloads idle workers to make room. Raises OutOfMemory, Interrupted, WorkerDied, and what loading raises.
        """
        with self.leases.lease(spec, self._allowed(self.devices.options(spec)), stop) as lease:
            yield lease

    @contextmanager
    def use(self, spec: WorkerSpec, *, stop: Stop = never) -> Iterator[Lease]:
        """A turn with one worker."""
        with self.turn([spec], stop=stop) as slot, slot.lease(spec, stop=stop) as lease:
            yield lease

    def settle(self, slot: Slot, spec: WorkerSpec, *, stop: Stop = never) -> float | None:
        """At the first use of a kind of language model, measure what suits it; not while somebody waits for its place.

        Returns the seconds of its load; None if it was loaded, or nothing was to do. Raises as `lease`.
        """
        if not self.choices.is_missing(spec) or self.is_wanted(slot.places):
            return None
        with slot.lease(spec, stop=stop) as lease:
            self.choices.measure(lease, stop)
        return lease.load_s

    def has_room(self, spec: WorkerSpec) -> bool:
        """Whether it can be loaded now, and nothing has to be unloaded for it."""
        needs = [self.forecasts.of(spec, places).bytes for places in self._allowed(self.devices.options(spec))]
        placement = self.budgets.choose(needs, None)
        return placement is not None and not placement.evicted

    def described(self, places: Places) -> str:
        """The places with their device."""
        return f"{' + '.join(places)}: {self.forecasts.device(places[0])}"

    def fits_at(self, places: Places, spec: WorkerSpec) -> bool:
        """Whether it can be loaded there, if everything idle gives way."""
        return self.devices.has(places) and self.budgets.fits({spec: self.devices.options_within(spec, places)})

    def load_s(self, places: Places, specs: Sequence[WorkerSpec]) -> float:
        """About how long these workers take to be loaded there; none if they are."""
        return self.queue.load_s(specs, places)

    def loaded_at(self, spec: WorkerSpec) -> list[Places]:
        return [h.places for h in self.handles.all() if h.spec == spec and h.usable and not h.leaving]

    def is_wanted(self, places: Places) -> bool:
        """Whether a run waits that could have its turn at one of these places."""
        return self.queue.is_wanted(places)

    # --- what people and operators do ----------------------------------------------------------------------------

    def unload(self, which: WorkerRole | WorkerSpec) -> None:
        """End the idle workers of a role, or one of them."""
        self._unload(lambda h: which in (h.spec, h.spec.role))

    def unload_id(self, id: str) -> None:
        """Raises BadInput if it is in use."""
        with self.handles.changed:
            if any(h.id == id and h.leased for h in self.handles.all()):
                raise BadInput("This model is being used. Stop the run, or wait for its end.")
            gone = self.handles.mark_idle_leaving(lambda h: h.id == id)
        self.loader.unload(gone)

    def unload_idle(self) -> None:
        """End the workers that nobody has used for the time that the operator set."""
        if self.limits.idle_s:
            ids = placement.expired(self.handles.residents(), time.monotonic(), self.limits.idle_s)
            self._unload(lambda h: h.id in ids and not h.pinned)

    def _unload(self, wanted: Callable[[Handle], bool]) -> None:
        self.loader.unload(self.handles.mark_idle_leaving(wanted))

    def pin(self, id: str, pinned: bool) -> None:
        """A pinned worker is never unloaded to make room, or for being idle."""
        self.handles.pin(id, pinned)

    # --- what is known -------------------------------------------------------------------------------------------

    def memory(self) -> MemoryReport:
        """What is held where, now. Takes milliseconds: a page reads Monitor.newest."""
        return memory_report(
            self.sensors, self.devices, self.handles, self.budgets, self.watch, self.queue, self.choices, self.spares
        )

    def worker_bytes(self, pid: int) -> tuple[int | None, int | None]:
        """Resident host memory and GPU memory of a worker; None for what cannot be known."""
        handle = next((h for h in self.handles.all() if h.worker is not None and h.worker.pid == pid), None)
        on_gpu = self.sensors.gpu_processes().get(pid)
        by_difference = handle.difference if handle is not None else None
        return self.sensors.process(pid).resident_bytes, sum(on_gpu.values()) if on_gpu else by_difference

    def bandwidth(self, place: str) -> float | None:
        """Bytes a second that a place's memory was measured to copy, read and write together; None: not measured."""
        return self.forecasts.bandwidth(place) if self.forecasts.knows(place) else None
