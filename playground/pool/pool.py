"""The one shared mutable thing: loaded workers under a memory budget for each GPU, and the turns to generate.

Whoever wants a worker leases it; while it is leased nobody else uses it and it is not unloaded. Runs take turns, one on
each GPU, because two at once falsify each other's tokens per second. Decisions are made by pure functions (memory.py,
turns.py, forecast.py); this is what carries them out.
"""

from __future__ import annotations

import copy
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Condition

import psutil

from playground.engine import protocol
from playground.errors import BadInput, EngineError, Interrupted, OutOfMemory
from playground.pool import placement as decisions
from playground.pool.forecast import Forecasts, remedied
from playground.pool.process import WorkerProcess
from playground.pool.queue import HeldPlaces, Queue, Ticket
from playground.pool.sensors import Gpus
from playground.pool.turn_order import Places
from playground.pool.worker_spec import BANDWIDTH, QUANTIZE, WorkerSpec
from playground.values.files import Half
from playground.values.memory import HOST, Forecast, GpuMemory, MemoryReport, WorkerMemory, WorkerRole
from playground.values.request import Remedy, Runtime

logger = logging.getLogger(__name__)

_WAIT_S = 0.05  # how often somebody who waits for a worker looks at their stop flag

# Left free on a GPU for what no forecast sees: fragments, another program's window.
_MARGIN_SHARE = 0.03
_MARGIN_BYTES = 512 * 2**20

# NVML shows memory as free up to 1.5 s after a process ended (H100); what is not back then is lost.
_BACK_S = 5.0
_BACK_POLL_S = 0.05

# llama.cpp allocates and frees the embeddings' host buffer for every batch, and glibc gives it back to the kernel each
# time: page faults for 6 MB. Kept, an image's prompt is read in 2-18 % less time (H100, 3 B and 7 B, two runs).
_KEEPS_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}

_REMEDIES = {Remedy.CONTEXT: "a smaller context", Remedy.PROJECTOR: "its projector on the CPU"}

_BANDWIDTH_BYTES = 256 * 2**20  # each of two buffers: far more than any cache

Stop = Callable[[], bool]


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the operator allows. Bytes; None: what is free at the start, less a margin."""

    gpu_bytes: int | None = None  # of each GPU
    host_bytes: int | None = None
    waiting: int = 32
    waiting_per_person: int = 4
    idle_s: float = 0.0  # unload what nobody has used so long; 0: never


class Handle:
    """A worker, loaded or about to be. Its fields are the pool's; a lease gives the right to `request`."""

    _ids = itertools.count(1)

    def __init__(self, spec: WorkerSpec, places: Places, forecast: Forecast) -> None:
        self.id = f"w{next(self._ids)}"
        self.spec = spec
        self.places = places
        self.forecast = forecast
        self.bytes: Mapping[str, int] = forecast.bytes  # what is set aside for it, by place
        self.process: WorkerProcess | None = None
        self.peak: int | None = None
        self.learned = 0  # the peak that the forecasts know
        self.difference: int | None = None  # of the device's memory, where the driver hides processes
        self.leased = True
        self.leaving = False  # to be unloaded as soon as what it gives way to is known to be sound
        self.pinned = False
        self.last_used = time.monotonic()

    @property
    def usable(self) -> bool:
        return self.process is not None and self.process.alive

    @property
    def is_on_gpu(self) -> bool:
        return self.places != (HOST,)


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
        stop: Stop = _never,
    ) -> protocol.R:
        """See WorkerProcess.request."""
        assert self.handle.process is not None
        return self.handle.process.request(request, on_chunk=on_chunk, on_step=on_step, stop=stop)

    @property
    def pid(self) -> int:
        assert self.handle.process is not None
        return self.handle.process.pid

    @property
    def places(self) -> Places:
        return self.handle.places


class Slot:
    """The right to generate on some GPUs, or on the host, until the `with` block of Pool.turn ends."""

    def __init__(self, pool: Pool, places: Places) -> None:
        self._pool = pool
        self.places = places

    @contextmanager
    def lease(self, spec: WorkerSpec, *, stop: Stop = _never) -> Iterator[Lease]:
        """Borrow the worker for `spec` here. Raises as Pool.lease."""
        with self._pool._lease(spec, self._options(spec), stop) as lease:
            yield lease

    def fits(self, specs: Iterable[WorkerSpec]) -> bool:
        """Whether all of `specs` can be loaded at once, if everything idle gives way."""
        return self._pool._fits({spec: self._options(spec) for spec in specs})

    def _options(self, spec: WorkerSpec) -> list[Places]:
        mine = [places for places in self._pool._options(spec) if set(places) <= set(self.places)]
        return mine or self._pool._options(spec)


@dataclass(slots=True)
class _Shared:
    """All that changes, guarded by `changed`."""

    changed: Condition = field(default_factory=Condition)
    handles: list[Handle] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)  # what other programs hold, by GPU
    moving: int = 0  # workers that are being loaded or unloaded now
    moves: int = 0  # how many ever were
    alarms: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    devices: tuple[protocol.Device, ...] = ()  # as ggml sees them, from a worker's last word
    gpu_offload: bool | None = None
    on_gpu: bool = False
    closed: bool = False


class Pool:
    """Owns all workers. Safe to use from several threads; `close` ends every worker."""

    def __init__(
        self,
        limits: PoolLimits = PoolLimits(),
        *,
        forecasts: Path | None = None,
        engine: str = "",
        host: str = HOST,
        visible_gpus: str | None = None,
    ) -> None:
        """`forecasts`: the folder where what is learned of memory is kept, for this `engine`'s version and a `host` of
        this kind."""
        self._limits = limits
        self._gpus = Gpus(visible_gpus)
        gpus = self._gpus.read()
        self._uuids = {gpu.place: gpu.uuid for gpu in gpus}
        self._total = {gpu.place: gpu.total_bytes for gpu in gpus}
        self._host_bytes = limits.host_bytes or int(0.8 * psutil.virtual_memory().available)
        names = {gpu.place: gpu.name for gpu in gpus} | {HOST: host}
        self._forecasts = Forecasts(forecasts, names, engine)
        self._shared = _Shared(on_gpu=bool(gpus), others={gpu.place: gpu.used_bytes for gpu in gpus})
        self._queue = Queue(self._held, limits.waiting, limits.waiting_per_person)
        self._who = ""

    def of(self, who: str) -> Pool:
        """The same pool, as one person uses it: their turns are counted as theirs."""
        mine = copy.copy(self)  # what changes is in _shared and _queue
        mine._who = who
        return mine

    @property
    def on_gpu(self) -> bool:
        """Whether models go on NVIDIA GPUs, as far as is known."""
        return self._shared.on_gpu

    @property
    def gpu_offload(self) -> bool | None:
        """Whether llama.cpp was built for a GPU; None until a worker has told."""
        return self._shared.gpu_offload

    def close(self) -> None:
        """End every worker. Blocks until they are gone."""
        self._queue.close()
        shared = self._shared
        with shared.changed:
            shared.closed = True
            handles, shared.handles = shared.handles, []
            shared.changed.notify_all()
        for handle in handles:
            if handle.process is not None:
                handle.process.stop()
        self._forecasts.close()

    # --- turns -------------------------------------------------------------------------------------------------

    @contextmanager
    def turn(
        self,
        asked: Ticket | Sequence[WorkerSpec] = (),
        *,
        stop: Stop = _never,
        on_place: Callable[[int], None] = lambda place: None,
        where: list[Places] | None = None,
    ) -> Iterator[Slot]:
        """Wait for the right to generate with some workers, or with a ticket that is in the queue. `on_place` is told
        how many runs are likely to come before, when that changes. Raises Interrupted.
        """
        if isinstance(asked, Ticket):
            ticket = asked
        else:
            ticket = self._queue.line_up(self._who, asked, where or self._turn_options(asked))
        with self._queue.turn(ticket, stop=stop, on_place=on_place) as places:
            yield Slot(self, places)

    @contextmanager
    def use(self, spec: WorkerSpec, *, stop: Stop = _never) -> Iterator[Lease]:
        """A turn with one worker."""
        with self.turn([spec], stop=stop) as slot, slot.lease(spec, stop=stop) as lease:
            yield lease

    def _turn_options(self, specs: Sequence[WorkerSpec]) -> list[Places]:
        """Where a run of several workers may take place: all its GPUs, one GPU, the host."""
        leading = max(specs, key=lambda spec: (spec.splits, spec.wants_gpu), default=None)
        return self._options(leading)

    def line_up(self, specs: Sequence[WorkerSpec]) -> Ticket:
        """Queue up for a turn with `specs`; whoever does has to take it (`turn`).

        Raises Busy when too many wait already.
        """
        return self._queue.line_up(self._who, specs, self._turn_options(specs), limited=True)

    def check_busy(self) -> None:
        """Raises Busy if `line_up` would. For a run of many turns: one that has begun is not refused."""
        self._queue.check_busy(self._who)

    def _held(self) -> HeldPlaces:
        with self._shared.changed:
            workers = [(handle.spec, handle.places, handle.bytes) for handle in self._shared.handles]
            return HeldPlaces(workers, self._budgets())

    # --- leases ------------------------------------------------------------------------------------------------

    @contextmanager
    def lease(self, spec: WorkerSpec, *, stop: Stop = _never) -> Iterator[Lease]:
        """Borrow the worker for `spec`, loading it first if need be, and unloading others that it has to displace.

        Raises OutOfMemory, Interrupted, WorkerDied, and what loading raises.
        """
        with self._lease(spec, self._options(spec), stop) as lease:
            yield lease

    @contextmanager
    def _lease(self, spec: WorkerSpec, options: list[Places], stop: Stop) -> Iterator[Lease]:
        while True:
            handle, victims = self._acquire(spec, options, stop)
            try:
                load_s = self._make_ready(handle, victims)
                break
            except _Misjudged:
                self._release(handle)
            except BaseException:
                self._release(handle)
                raise
        try:
            yield Lease(handle, load_s)
        finally:
            self._release(handle)

    def _options(self, spec: WorkerSpec | None) -> list[Places]:
        """Where a worker may go; None: one that goes where it is best."""
        if not self._uuids or not self.on_gpu or (spec is not None and not spec.wants_gpu):
            return [(HOST,)]
        if spec is not None and spec.splits:
            return [tuple(self._uuids)]
        return [(place,) for place in self._uuids]

    def _acquire(self, spec: WorkerSpec, options: list[Places], stop: Stop) -> tuple[Handle, list[Handle]]:
        """Mark the handle for `spec` leased, made anew if there is none, and those that it displaces as leaving."""
        shared = self._shared
        while True:
            with shared.changed:
                if shared.closed:
                    raise Interrupted("The app is closing.")
                # What died while nobody used it holds nothing.
                shared.handles = [h for h in shared.handles if h.leased or h.leaving or h.usable]
                found = [h for h in shared.handles if h.spec == spec and h.places in options]
                idle = next((h for h in found if not h.leased and not h.leaving), None)
                if idle is not None or not found:
                    ways = [idle.places] if idle is not None else options
                    forecasts = [self._forecasts.of(spec, places) for places in ways]
                    held = idle.bytes if idle is not None else {}
                    needs = [_more(forecast, held) for forecast in forecasts]
                    if idle is not None and idle.spec.context == spec.context:
                        needs = [{}]
                    placement = decisions.choose(needs, self._residents(idle), self._budgets())
                    if placement is not None:
                        victims = self._mark_leaving(placement.evicted)
                        forecast = forecasts[placement.option]
                        if idle is None:
                            idle = Handle(spec, ways[placement.option], forecast)
                            shared.handles.append(idle)
                        elif needs[placement.option]:  # a larger context
                            idle.forecast = forecast
                            idle.bytes = _most(forecast, held)
                        idle.spec, idle.leased = spec, True
                        return idle, victims
                    if decisions.choose(needs, self._residents(idle, leased_stay=False), self._budgets()) is None:
                        raise OutOfMemory(self._shortage(spec, forecasts, ways))
                shared.changed.wait(_WAIT_S)
            if stop():
                raise Interrupted("Interrupted while it waited for a worker.")

    def _make_ready(self, handle: Handle, victims: list[Handle]) -> float | None:
        """Load what is not loaded. Nothing gives way before llama.cpp has read the file's header without complaint.

        Returns the seconds from the start of the process to a loaded model, warm-up included; None if it was loaded.
        """
        started = time.monotonic()
        try:
            pong = handle.process.ping() if handle.process is not None else None
            if pong is not None:
                self._shared.devices = pong.devices
                self._dismiss(victims)
                return None
            grown: list[int | None] = []
            with self._watching(handle.places, grown):
                handle.process = WorkerProcess(
                    f"{handle.spec.role} {handle.spec.file}", self._environment(handle.places)
                )
                if self._shared.closed:  # `close` may have come too early to see it
                    raise Interrupted("The app is closing.")
                ready = handle.process.wait_ready()
                self._learn(ready)
                self._plan(handle, victims)
            for victim in victims:
                logger.info("unloading %s for %s", victim.spec.file, handle.spec.file)
            self._dismiss(victims)
            self._await_leaving(handle.places)
            with self._watching(handle.places, grown):
                if handle.spec.load is not None:
                    handle.process.request(handle.spec.load)
            is_hidden = handle.is_on_gpu and handle.process.pid not in self._gpus.processes()
            known = [n for n in grown if n is not None]
            handle.difference = sum(known) if is_hidden and len(known) == len(grown) else None
        except BaseException:
            if handle.process is not None:
                handle.process.stop()
            self._bring_back(victims, handle)
            raise
        return time.monotonic() - started

    def _bring_back(self, victims: Sequence[Handle], failed: Handle) -> None:
        """What is not unloaded yet stays, but for what somebody else has counted on meanwhile."""
        with self._shared.changed:
            failed.bytes = {}
            back = [h for h in self._shared.handles if h in victims]
            for victim in back:
                victim.leaving = False
            places = {place: 0 for victim in back for place in victim.bytes}
            over = decisions.evictions(places, self._residents(), self._budgets())
            gone = self._mark_leaving(over or ())
            self._shared.changed.notify_all()
        self._dismiss(gone)

    def _learn(self, ready: protocol.Ready) -> None:
        shared = self._shared
        shared.gpu_offload, shared.devices = ready.gpu_offload, ready.devices
        shared.on_gpu = shared.on_gpu and ready.gpu_offload  # a driver alone is no GPU that llama.cpp computes on

    def _environment(self, places: Places) -> dict[str, str]:
        """So that a worker sees its own GPU alone, and one on the host takes no memory of a GPU."""
        if not self._uuids:
            return {}
        seen = {"CUDA_VISIBLE_DEVICES": ",".join(self._uuids[place] for place in places if place != HOST)}
        return seen if places == (HOST,) else seen | _KEEPS_FREED_MEMORY

    def _plan(self, handle: Handle, victims: list[Handle]) -> None:
        """Have llama.cpp say what it will take, once for a file and a context. Adds to `victims` if that is more.

        Raises _Misjudged if there is no room for that at once, and what loading raises.
        """
        spec, shared = handle.spec, self._shared
        if not isinstance(spec.load, protocol.LoadLanguage) or self._forecasts.has_plan(spec, handle.places):
            return
        assert handle.process is not None
        planned = handle.process.request(protocol.PlanMemory(spec.load))
        self._forecasts.planned(spec, handle.places, planned)
        forecast = self._forecasts.of(spec, handle.places)
        with shared.changed:
            names = decisions.evictions(_more(forecast, handle.bytes), self._residents(), self._budgets())
            if names is None:
                raise _Misjudged
            victims += self._mark_leaving(names)
            handle.forecast, handle.bytes = forecast, forecast.bytes

    def _await_leaving(self, places: Places) -> None:
        """Until what was to give way here, to anybody, has gone or stays: its room may be counted on."""
        shared = self._shared
        with shared.changed:
            while any(h.leaving and set(h.places) & set(places) for h in shared.handles):
                shared.changed.wait(_WAIT_S)

    def _release(self, handle: Handle) -> None:
        try:
            if handle.usable:
                self._weigh(handle)
            elif handle.process is not None:
                handle.process.stop()
        finally:
            with self._shared.changed:
                handle.leased = False
                handle.last_used = time.monotonic()
                if not handle.usable and handle in self._shared.handles:
                    self._shared.handles.remove(handle)
                self._shared.changed.notify_all()

    # --- memory ------------------------------------------------------------------------------------------------

    def _weigh(self, handle: Handle) -> None:
        """Note what a worker takes, and learn from it."""
        assert handle.process is not None
        rss, own_rss = _host_bytes(handle.process.pid)
        if handle.is_on_gpu:
            on_gpu = self._gpus.processes().get(handle.process.pid, {})
            if not on_gpu and handle.difference is not None:
                on_gpu = dict.fromkeys(handle.places, handle.difference // len(handle.places))
            measured, on_host = sum(on_gpu.values()) if on_gpu else None, own_rss
        else:
            on_gpu, measured, on_host = {}, rss, rss
        handle.bytes = {**handle.bytes, **on_gpu, **({} if on_host is None else {HOST: on_host})}
        if measured is not None:
            handle.peak = max(handle.peak or 0, measured)
            if handle.peak > handle.learned:
                handle.learned = handle.peak
                self._forecasts.measured(handle.spec, handle.places, handle.peak)

    def _budgets(self) -> dict[str, int]:
        """What all workers on a place may take together."""
        budgets = {HOST: self._host_bytes}
        for place, total in self._total.items():
            room = total - self._shared.others.get(place, 0) - max(_MARGIN_BYTES, int(_MARGIN_SHARE * total))
            budgets[place] = max(0, min(room, self._limits.gpu_bytes or room))
        return budgets

    def _residents(self, kept: Handle | None = None, *, leased_stay: bool = True) -> list[decisions.Resident]:
        """`kept`: must not give way to itself, when it grows."""
        return [
            decisions.Resident(h.id, h.bytes, h is kept or h.pinned or (h.leased and leased_stay), h.last_used)
            for h in self._shared.handles
            if not h.leaving
        ]

    def _fits(self, wanted: Mapping[WorkerSpec, Sequence[Places]]) -> bool:
        with self._shared.changed:
            room, needed = self._budgets(), set[str]()
            staying = [h for h in self._shared.handles if not h.leaving and (h.leased or h.usable)]
            there = {h.spec: h for h in staying if h.places in wanted.get(h.spec, ())}
            for handle in staying:
                if (handle.leased or handle.pinned) and handle not in there.values():
                    _take(room, handle.bytes)
            for spec, options in wanted.items():
                mine = there.get(spec)
                places = mine.places if mine else max(options, key=lambda way: min(room[place] for place in way))
                forecast = self._forecasts.of(spec, places)
                if mine is None:
                    need = forecast.bytes
                else:
                    need = dict(mine.bytes) if mine.spec.context == spec.context else _most(forecast, mine.bytes)
                _take(room, need)
                needed |= need.keys()
        return all(room[place] >= 0 for place in needed)

    def _shortage(self, spec: WorkerSpec, forecasts: Sequence[Forecast], ways: Sequence[Places]) -> str:
        """What is needed where it is least short, and what would free it."""
        pinned = [h for h in self._shared.handles if h.pinned and h.spec != spec]
        budgets = self._budgets()
        free = {place: n - sum(h.bytes.get(place, 0) for h in pinned) for place, n in budgets.items()}
        lacks = [max((n - free[place], place) for place, n in forecast.bytes.items()) for forecast in forecasts]
        (_, place), forecast, places = min(zip(lacks, forecasts, ways, strict=True), key=lambda way: way[0])
        parts, budget = forecast.parts[place], budgets[place]
        made_of = {
            "weights": parts.weights,
            "key-value cache": parts.kv_cache,
            "buffers": parts.compute,
            "the process": parts.process,
        }
        detail = ", ".join(f"{name} {_gib(n)}" for name, n in made_of.items() if n)
        device = "this machine" if place == HOST else place
        text = (
            f"{spec.file} needs about {_gib(parts.total)} on {device} ({detail}), the budget for all models there is "
            f"{_gib(budget)}."
        )
        pinned = [h for h in pinned if h.bytes.get(place)]
        if pinned:
            text += f" Unpin {', '.join(h.spec.file for h in pinned)}: {_gib(sum(h.bytes[place] for h in pinned))}."
        possible = [Remedy.CONTEXT] if place == HOST else list(Remedy)
        for remedy in possible if spec.shape is not None else ():
            for runtime in remedied(spec.runtime, [remedy], spec.shape.n_layers if spec.shape else 0):
                less = self._forecasts.of(spec.with_runtime(runtime), places).bytes.get(place, 0)
                if less <= free[place] or (spec.role is WorkerRole.VISION and remedy is Remedy.PROJECTOR):
                    layers = f"at most {runtime.n_gpu_layers} of its layers on the GPU"
                    text += f" It would fit with {_REMEDIES.get(remedy, layers)}."
                    break
        limit = self._limits.host_bytes if place == HOST else self._limits.gpu_bytes
        variable = "PLAYGROUND_MEMORY_BUDGET_BYTES" if place == HOST else "PLAYGROUND_GPU_BUDGET_BYTES"
        text += " Choose a smaller quantization"
        if place != HOST:
            text += ', or allow a remedy ("If GPU memory is short", under "Sampling and engine")'
        return f"{text}. The operator has set {variable}." if limit is not None and limit <= budget else f"{text}."

    def _mark_leaving(self, names: Sequence[str]) -> list[Handle]:
        victims = [h for h in self._shared.handles if h.id in names]
        for victim in victims:
            victim.leaving = True
        return victims

    def _dismiss(self, handles: Sequence[Handle]) -> None:
        """Unload what is leaving; returns when its memory is back, or an alarm is raised that it is not."""
        if not handles:
            return
        with self._moving() as is_alone:
            before = self._used_bytes()
            gone = [h for h in handles if h.is_on_gpu and h.usable]
            try:
                for handle in handles:
                    if handle.process is not None:
                        handle.process.stop()
                self._await_memory(gone, before, is_alone)
            finally:
                with self._shared.changed:
                    for handle in handles:
                        handle.leaving = False
                    self._shared.handles = [h for h in self._shared.handles if h not in handles or h.usable]
                    self._shared.changed.notify_all()

    def _await_memory(self, gone: Sequence[Handle], before: Mapping[str, int], is_alone: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _BACK_S
        while gone:
            listed, used = self._gpus.processes(), self._used_bytes()
            left = [h for h in gone if h.process is not None and h.process.pid in listed]
            held: dict[str, int] = {}
            for handle in gone:
                for place in handle.places if handle.peak else ():
                    held[place] = held.get(place, 0) + (handle.peak or 0) // len(handle.places)
            told = before.keys() & used.keys()
            short = {place: used[place] - before[place] + int(0.8 * held[place]) for place in held.keys() & told}
            lost = {place: n for place, n in short.items() if n > 0} if is_alone() else {}
            if not left and not lost:
                return
            if time.monotonic() > deadline:
                files = ", ".join(handle.spec.file for handle in gone)
                what = ", ".join(f"{_gib(n)} on {place}" for place, n in lost.items()) or "its process is still listed"
                self._shared.alarms.append(
                    f"{time.strftime('%H:%M:%S')} GPU memory has not come back {_BACK_S:.0f} s after {files} was "
                    f"unloaded: {what}."
                )
                logger.warning("%s", self._shared.alarms[-1])
                return
            time.sleep(_BACK_POLL_S)

    @contextmanager
    def _moving(self) -> Iterator[Callable[[], bool]]:
        """While memory changes. Gives a function that tells whether nothing else was loaded or unloaded meanwhile."""
        shared = self._shared
        with shared.changed:
            shared.moving += 1
            shared.moves += 1
            first, alone = shared.moves, shared.moving == 1
        try:
            yield lambda: alone and shared.moves == first
        finally:
            with shared.changed:
                shared.moving -= 1

    @contextmanager
    def _watching(self, places: Places, grown: list[int | None]) -> Iterator[None]:
        """Adds to `grown` how many bytes more these GPUs hold at the end; None: others moved meanwhile."""
        with self._moving() as is_alone:
            before = self._used_bytes()
            yield
            after = self._used_bytes()
            is_known = is_alone() and before.keys() & after.keys() >= {*places} - {HOST}
            grown.append(sum(after[place] - before[place] for place in places if place != HOST) if is_known else None)

    def _used_bytes(self) -> dict[str, int]:
        return {gpu.place: gpu.used_bytes for gpu in self._gpus.read()}

    # --- what people and operators do --------------------------------------------------------------------------

    def unload(self, which: WorkerRole | WorkerSpec) -> None:
        """End the idle workers of a role, or one of them."""
        self._unload(lambda h: which in (h.spec, h.spec.role))

    def unload_id(self, id: str) -> None:
        """Raises BadInput if it is in use."""
        with self._shared.changed:
            if any(h.id == id and h.leased for h in self._shared.handles):
                raise BadInput("This model is being used. Stop the run, or wait for its end.")
            gone = self._mark_idle(lambda h: h.id == id)
        self._dismiss(gone)

    def unload_idle(self) -> None:
        """End what nobody has used for the time that the operator set."""
        if self._limits.idle_s:
            with self._shared.changed:
                names = decisions.expired(self._residents(), time.monotonic(), self._limits.idle_s)
            self._unload(lambda h: h.id in names and not h.pinned)

    def _unload(self, wanted: Callable[[Handle], bool]) -> None:
        with self._shared.changed:
            gone = self._mark_idle(wanted)
        self._dismiss(gone)

    def _mark_idle(self, wanted: Callable[[Handle], bool]) -> list[Handle]:
        idle = [h for h in self._shared.handles if wanted(h) and not h.leased and not h.leaving]
        return self._mark_leaving([h.id for h in idle])

    def pin(self, id: str, pinned: bool) -> None:
        """A pinned worker is never unloaded to make room, or for being idle."""
        with self._shared.changed:
            for handle in self._shared.handles:
                if handle.id == id:
                    handle.pinned = pinned
            self._shared.changed.notify_all()

    def quantize(self, source: Path, target: Path, quantization: str, half: Half) -> None:
        """Raises EngineError with llama.cpp's words, BadInput for an unknown quantization."""
        self.quantize_with(protocol.Quantize(str(source), str(target), quantization, half))

    def quantize_with(
        self,
        request: protocol.Quantize,
        *,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        stop: Stop = _never,
    ) -> protocol.Quantized:
        """Raises what `quantize` does; WorkerDied when llama.cpp aborted, or when `stop` had it killed: it cannot be
        asked to stop."""
        with self.lease(QUANTIZE, stop=stop) as lease:
            return lease.request(request, on_step=on_step, stop=stop)

    def bandwidth(self, place: str) -> float | None:
        """Bytes a second that a place's memory was measured to copy, read and write together; None: not measured."""
        return self._forecasts.bandwidth(place) if place in (HOST, *self._uuids) else None

    def measure_bandwidth(self) -> None:
        """Once for each device, in a turn of its own; it is kept. Where it cannot be measured it stays unknown."""
        for place in self._uuids if self.on_gpu else (HOST,):
            if self._forecasts.bandwidth(place) is not None:
                continue
            spec = replace(BANDWIDTH, key=(place,), bytes=2 * _BANDWIDTH_BYTES)
            try:
                with self.turn([spec], where=[(place,)]), self._lease(spec, [(place,)], _never) as lease:
                    found = lease.request(protocol.MeasureBandwidth(_BANDWIDTH_BYTES))
                self._forecasts.keep_bandwidth(place, found.bytes_per_s)
            except (EngineError, OutOfMemory) as error:
                logger.warning("the memory bandwidth of %s could not be measured: %s", place, error)
            finally:
                self.unload(spec)

    def worker_bytes(self, pid: int) -> tuple[int | None, int | None]:
        """Resident host memory and GPU memory of a worker; None for what cannot be known."""
        handle = next((h for h in self._shared.handles if h.process is not None and h.process.pid == pid), None)
        on_gpu = self._gpus.processes().get(pid)
        by_difference = handle.difference if handle is not None else None
        return _host_bytes(pid)[0], sum(on_gpu.values()) if on_gpu else by_difference

    def memory(self) -> MemoryReport:
        """What is held where, now. Takes milliseconds: a page reads Monitor.newest."""
        shared = self._shared
        with shared.changed:
            first = shared.moves if shared.moving == 0 else None
        gpus, listed = self._gpus.read(), self._gpus.processes()
        with shared.changed:
            handles = [h for h in shared.handles if h.process is not None and h.process.alive]
            if first == shared.moves:  # nothing of ours came or went while the sensors were read
                for gpu in gpus:
                    ours = sum(listed.get(h.process.pid, h.bytes).get(gpu.place, 0) for h in handles if h.process)
                    shared.others[gpu.place] = max(0, gpu.used_bytes - ours)
            budgets = self._budgets()
        workers = [self._worker_memory(handle, listed) for handle in handles]
        host = psutil.virtual_memory()
        return MemoryReport(
            time=time.time(),
            workers=tuple(workers),
            gpus=gpus or self._other_gpus(),
            host_total_bytes=host.total,
            host_available_bytes=host.available,
            budgets=budgets,
            queue=self._queue.queued(),
            alarms=tuple(shared.alarms),
        )

    def _worker_memory(self, handle: Handle, listed: Mapping[int, Mapping[str, int]]) -> WorkerMemory:
        assert handle.process is not None
        pid = handle.process.pid
        rss, _ = _host_bytes(pid)
        on_gpu = sum(listed[pid].values()) if pid in listed else None
        gpu = on_gpu if on_gpu is not None else handle.difference
        now = gpu if handle.is_on_gpu else rss
        if now is not None:
            handle.peak = max(handle.peak or 0, now)
        return WorkerMemory(
            id=handle.id,
            pid=pid,
            role=handle.spec.role,
            state=handle.process.state,
            file=handle.spec.file,
            place=" + ".join(handle.places),
            bytes=now,
            host_rss_bytes=rss,
            gpu_bytes=gpu,
            measured_by=None if gpu is None else "difference" if on_gpu is None else "process",
            peak_bytes=handle.peak,
            forecast=handle.forecast,
            leases=int(handle.leased),
            pinned=handle.pinned,
            idle_s=0.0 if handle.leased else time.monotonic() - handle.last_used,
        )

    def _other_gpus(self) -> tuple[GpuMemory, ...]:
        """GPUs that are not NVIDIA's, as a worker saw them last."""
        return tuple(
            GpuMemory(i, d.description, d.total_bytes, d.total_bytes - d.free_bytes, source="ggml")
            for i, d in enumerate(self._shared.devices)
            if d.total_bytes
        )

    # --- what does not fit -------------------------------------------------------------------------------------

    def fitting(
        self,
        specs: Callable[[Runtime], Sequence[WorkerSpec]],
        runtime: Runtime,
        allowed: Sequence[Remedy],
        slot: Slot,
    ) -> Runtime:
        """`runtime`, or the mildest allowed change of it with which all of `specs` fit into memory at once; itself
        again if none does."""
        if not allowed or not self._uuids or slot.places == (HOST,):
            return runtime
        layers = max((spec.shape.n_layers for spec in specs(runtime) if spec.shape), default=0)
        for way in (runtime, *remedied(runtime, allowed, layers)):
            if slot.fits(specs(way)):
                return way
        return runtime


class _Misjudged(Exception):
    """llama.cpp's own plan is larger than what was set aside, and there is no room for it: to be decided anew."""


def _more(forecast: Forecast, held: Mapping[str, int]) -> dict[str, int]:
    """What a forecast takes beyond what is held already."""
    return {place: n - held.get(place, 0) for place, n in forecast.bytes.items() if n > held.get(place, 0)}


def _most(forecast: Forecast, held: Mapping[str, int]) -> dict[str, int]:
    """By place, what is forecast or what is held already, whichever is more."""
    return {**held, **{place: max(n, held.get(place, 0)) for place, n in forecast.bytes.items()}}


def _take(room: dict[str, int], bytes: Mapping[str, int]) -> None:
    for place, n in bytes.items():
        room[place] = room.get(place, 0) - n


def _host_bytes(pid: int) -> tuple[int | None, int | None]:
    """Resident memory of a process, and what of it is its own: pages of a file that is mapped are not."""
    try:
        memory = psutil.Process(pid).memory_info()
    except psutil.Error:
        return None, None
    return memory.rss, memory.rss - getattr(memory, "shared", 0)


def _gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"
