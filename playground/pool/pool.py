"""The one shared mutable thing: loaded workers under a memory budget, and the turn to generate.

Whoever wants a worker leases it; while it is leased nobody else uses it and it is not unloaded. Runs take turns, first
come first served, because two at once falsify each other's tokens per second.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition

import psutil

from playground.engine import protocol
from playground.errors import BadInput, OutOfMemory, PlaygroundError, Stopped
from playground.pool import memory as decisions
from playground.pool.gpu import Gpus
from playground.pool.process import WorkerProcess
from playground.values import (
    HOST,
    MemoryReport,
    ModelFile,
    Queued,
    Runtime,
    WorkerMemory,
    WorkerRole,
)

logger = logging.getLogger(__name__)

_WAIT_S = 0.05  # how often somebody who waits looks at their stop flag

Stop = Callable[[], bool]


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker holds. Equal specs share a worker."""

    role: WorkerRole
    # What makes two workers interchangeable: a file's sha256, and for a vision worker the vocabulary that goes with it.
    key: tuple[str, ...]
    # How to load it. Not part of its identity: any language model of a family lends its vocabulary to a projector.
    load: protocol.LoadVision | protocol.LoadLanguage | None = field(compare=False)
    file: str = field(compare=False)
    bytes: int = field(compare=False)


def _observes(observe: bool) -> tuple[str, ...]:
    return ("observes",) if observe else ()


def language_spec(model: ModelFile, runtime: Runtime, *, observe: bool = False) -> WorkerSpec:
    """observe: a worker of its own that collects for an importance matrix (protocol.LoadLanguage)."""
    return WorkerSpec(
        role=WorkerRole.LANGUAGE,
        key=(model.sha256, str(runtime.n_gpu_layers), *_observes(observe)),
        load=protocol.LoadLanguage(model.path, runtime, observe),
        file=Path(model.path).name,
        bytes=model.bytes,
    )


def vision_spec(projector: ModelFile, model: ModelFile, runtime: Runtime, *, observe: bool = False) -> WorkerSpec:
    """observe: a worker of its own that collects for an importance matrix (protocol.LoadVision)."""
    use_gpu = runtime.n_gpu_layers != 0
    vocabulary = model.vocabulary_sha256 or model.sha256
    return WorkerSpec(
        role=WorkerRole.VISION,
        key=(projector.sha256, vocabulary, str(use_gpu), str(runtime.n_threads), *_observes(observe)),
        load=protocol.LoadVision(projector.path, model.path, use_gpu, runtime.n_threads, observe),
        file=Path(projector.path).name,
        bytes=projector.bytes,
    )


_QUANTIZE = WorkerSpec(WorkerRole.QUANTIZE, (), None, "llama_model_quantize", 0)


def forecast(spec: WorkerSpec) -> int:
    """Bytes that a worker will take, as far as that can be told before it is loaded."""
    return spec.bytes + decisions.PROCESS_BYTES


class Handle:
    """A loaded worker. Its fields are the pool's; a lease gives the right to `request`."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.process: WorkerProcess | None = None
        self.bytes = forecast(spec)
        self.leased = True
        self.last_used = time.monotonic()

    @property
    def usable(self) -> bool:
        return self.process is not None and self.process.alive


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to use a worker, until the `with` block of Pool.lease ends."""

    handle: Handle
    load_s: float | None  # None: it was loaded already

    def request(
        self,
        request: protocol.Request,
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        stop: Stop = _never,
    ) -> protocol.Reply:
        """See WorkerProcess.request."""
        assert self.handle.process is not None
        return self.handle.process.request(request, on_chunk=on_chunk, on_step=on_step, stop=stop)

    @property
    def pid(self) -> int:
        assert self.handle.process is not None
        return self.handle.process.pid


class Pool:
    """Owns all workers. Safe to use from several threads; `close` ends every worker."""

    def __init__(self, *, budget_bytes: int | None = None, max_queue: int = 32) -> None:
        self._gpus = Gpus()
        gpus = self._gpus.read()
        free = sum(g.total_bytes - g.used_bytes for g in gpus) or psutil.virtual_memory().available
        self._budget_bytes = budget_bytes or int(0.8 * free)
        self.on_gpu = bool(gpus)
        self.gpu_offload: bool | None = None  # whether llama.cpp was built for a GPU; None until a worker has told
        self._max_queue = max_queue
        self._changed = Condition()
        self._handles: dict[WorkerSpec, Handle] = {}
        self._queue: deque[object] = deque()
        self._closed = False

    def close(self) -> None:
        """End every worker. Blocks until they are gone."""
        with self._changed:
            self._closed = True
            handles = list(self._handles.values())
            self._handles.clear()
            self._changed.notify_all()
        for handle in handles:
            if handle.process is not None:
                handle.process.stop()

    @contextmanager
    def turn(self, *, stop: Stop = _never, on_place: Callable[[int], None] = lambda place: None) -> Iterator[None]:
        """Wait for the right to generate. `on_place` is told how many runs are ahead, whenever that changes.

        Raises Stopped, or BadInput when too many wait already.
        """
        ticket = object()
        with self._changed:
            if len(self._queue) > self._max_queue:
                raise BadInput(f"Busy: {len(self._queue)} runs wait already. Try again in a minute.")
            self._queue.append(ticket)
        try:
            told: int | None = None
            while True:
                with self._changed:
                    place = self._queue.index(ticket)
                    if place and place == told:
                        self._changed.wait(_WAIT_S)
                if place != told:
                    on_place(place)
                    told = place
                if place == 0:
                    break
                if stop():
                    raise Stopped("Stopped while it waited for its turn.")
            yield
        finally:
            with self._changed:
                self._queue.remove(ticket)
                self._changed.notify_all()

    @contextmanager
    def lease(self, spec: WorkerSpec, *, stop: Stop = _never) -> Iterator[Lease]:
        """Borrow the worker for `spec`, loading it first if need be, and unloading others that it has to displace.

        Raises OutOfMemory, Stopped, WorkerDied, and what loading raises.
        """
        handle, victims = self._acquire(spec, stop)
        try:
            for victim in victims:
                logger.info("unloading %s for %s", victim.spec.file, spec.file)
                assert victim.process is not None
                victim.process.stop()
            load_s = None
            if handle.process is None or not handle.process.responds():
                load_s = self._load(handle)
            yield Lease(handle, load_s)
        finally:
            self._release(handle)

    def quantize(self, source: Path, target: Path, quantization: str, *, projector: bool) -> None:
        """Raises EngineError with llama.cpp's words, BadInput for an unknown quantization."""
        self.quantize_with(protocol.Quantize(str(source), str(target), quantization, projector))

    def quantize_with(
        self,
        request: protocol.Quantize,
        *,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        stop: Stop = _never,
    ) -> protocol.Quantized:
        """Raises what `quantize` does; WorkerDied when llama.cpp aborted, or when `stop` had it killed: it cannot be
        asked to stop."""
        with self.lease(_QUANTIZE) as lease:
            reply = lease.request(request, on_step=on_step, stop=stop)
        assert isinstance(reply, protocol.Quantized)
        return reply

    def fits(self, specs: Iterable[WorkerSpec]) -> bool:
        """Whether all of `specs` can be loaded at once, if everything idle gives way."""
        with self._changed:
            wanted = {spec: self._handles.get(spec) for spec in specs}
            leased = sum(h.bytes for h in self._handles.values() if h.leased and h.spec not in wanted)
        return leased + sum(h.bytes if h else forecast(s) for s, h in wanted.items()) <= self._budget_bytes

    def unload(self, which: WorkerRole | WorkerSpec) -> None:
        """End the idle workers of a role, or one of them."""
        with self._changed:
            idle = [h for h in self._handles.values() if which in (h.spec, h.spec.role) and not h.leased]
            for handle in idle:
                del self._handles[handle.spec]
        for handle in idle:
            if handle.process is not None:
                handle.process.stop()

    def worker_bytes(self, pid: int) -> tuple[int | None, int | None]:
        """Resident host memory and GPU memory of a worker; None for what cannot be known."""
        try:
            rss: int | None = psutil.Process(pid).memory_info().rss
        except psutil.Error:
            rss = None
        return rss, self._gpus.process_bytes(pid)

    def memory(self) -> MemoryReport:
        with self._changed:
            handles = [h for h in self._handles.values() if h.process is not None and h.process.alive]
            queue_length = len(self._queue)
        workers = []
        for handle in handles:
            assert handle.process is not None
            rss, gpu = self.worker_bytes(handle.process.pid)
            workers.append(
                WorkerMemory(
                    id=str(id(handle)),
                    pid=handle.process.pid,
                    role=handle.spec.role,
                    state=handle.process.state,
                    file=handle.spec.file,
                    bytes=gpu if gpu is not None else rss,
                    host_rss_bytes=rss,
                    gpu_bytes=gpu,
                    place=HOST,
                    measured_by=None,
                    peak_bytes=None,
                    forecast=None,
                    pinned=False,
                    leases=int(handle.leased),
                    idle_s=0.0 if handle.leased else time.monotonic() - handle.last_used,
                )
            )
        host = psutil.virtual_memory()
        return MemoryReport(
            workers=tuple(workers),
            gpus=self._gpus.read(),
            host_total_bytes=host.total,
            host_available_bytes=host.available,
            time=time.time(),
            budgets={HOST: self._budget_bytes},
            queue=tuple(Queued("", (), 0.0, None) for _ in range(queue_length)),
        )

    def _acquire(self, spec: WorkerSpec, stop: Stop) -> tuple[Handle, list[Handle]]:
        """Mark the handle for `spec` leased, made anew if there is none; and take out the ones it displaces."""
        while True:
            with self._changed:
                if self._closed:
                    raise Stopped("The app is closing.")
                handle = self._handles.get(spec)
                if handle is not None and not handle.leased:
                    if handle.usable:
                        handle.leased = True
                        return handle, []
                    del self._handles[spec]  # it died while nobody used it
                    handle = None
                if handle is None:
                    new = Handle(spec)
                    names = decisions.evictions(new.bytes, self._residents(), self._budget_bytes)
                    if names is not None:
                        victims = [h for h in self._handles.values() if str(id(h)) in names]
                        for victim in victims:
                            del self._handles[victim.spec]
                        self._handles[spec] = new
                        return new, victims
                    if not any(h.leased for h in self._handles.values()):
                        raise OutOfMemory(
                            f"{spec.file} needs about {new.bytes / 2**30:.1f} GiB, the budget for all models is "
                            f"{self._budget_bytes / 2**30:.1f} GiB. Choose a smaller quantization, or raise "
                            "PLAYGROUND_MEMORY_BUDGET_BYTES."
                        )
                self._changed.wait(_WAIT_S)
            if stop():
                raise Stopped("Stopped while it waited for a worker.")

    def _residents(self) -> list[decisions.Resident]:
        return [decisions.Resident(str(id(h)), h.bytes, h.leased, h.last_used) for h in self._handles.values()]

    def _load(self, handle: Handle) -> float:
        """Returns the seconds from the start of the process to a loaded model, warm-up included."""
        started = time.monotonic()
        handle.process = WorkerProcess(f"{handle.spec.role} {handle.spec.file}")
        self.gpu_offload = handle.process.wait_ready().gpu_offload
        if handle.spec.load is not None:
            try:
                handle.process.request(handle.spec.load)
            except PlaygroundError:
                handle.process.stop()
                raise
        return time.monotonic() - started

    def _release(self, handle: Handle) -> None:
        if handle.usable:
            assert handle.process is not None
            rss, gpu = self.worker_bytes(handle.process.pid)
            measured = gpu if self.on_gpu else rss
            if measured is not None:
                handle.bytes = measured
        elif handle.process is not None:
            handle.process.stop()
        with self._changed:
            handle.leased = False
            handle.last_used = time.monotonic()
            if not handle.usable and self._handles.get(handle.spec) is handle:
                del self._handles[handle.spec]
            self._changed.notify_all()
