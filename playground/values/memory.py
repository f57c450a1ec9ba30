"""The memory report: what workers hold on GPUs and host, what they will take, who waits."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from playground.values.engine_defaults import EngineDefaults


class WorkerRole(enum.StrEnum):
    VISION = "vision"
    LANGUAGE = "language"
    QUANTIZE = "quantize"
    BANDWIDTH = "bandwidth"


class WorkerState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


HOST = "host"  # the place of workers that use no GPU; a GPU's is "GPU 0", as NVML counts
_ON = " · "  # a place of another machine of the cluster: "box2 · GPU 0", "box2 · host"


def place_on(machine: str, place: str) -> str:
    """`machine`: "" for the page's own."""
    return f"{machine}{_ON}{place}" if machine else place


def machine_of(place: str) -> str:
    """The name of a place's machine; "" for the page's own."""
    return place.rpartition(_ON)[0]


def host_of(place: str) -> str:
    """The host of a place's machine."""
    return place_on(machine_of(place), HOST)


def is_host(place: str) -> bool:
    return place == host_of(place)


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """The parts of a worker's memory on one place, in bytes."""

    weights: int
    kv_cache: int = 0
    compute: int = 0
    process: int = 0  # the CUDA context and cuBLAS's workspaces; on the host Python and llama.cpp's libraries

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.process


@dataclass(frozen=True, slots=True)
class Forecast:
    """The memory that a worker will take, predicted before it is loaded."""

    parts: Mapping[str, MemoryParts]  # by place
    source: str  # "header", "dry run" of llama.cpp, "measured before"

    @property
    def bytes(self) -> dict[str, int]:
        return {place: parts.total for place, parts in self.parts.items()}


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """The memory that one worker holds now."""

    id: str  # for Pool.pin and Pool.unload
    pid: int
    role: WorkerRole
    state: WorkerState
    file: str  # name of the file it serves, without its folder
    place: str  # HOST, a GPU, or several of them joined by " + "
    bytes: int | None  # on its GPUs if it has any, else resident in host memory
    host_rss_bytes: int | None
    gpu_bytes: int | None
    # gpu_bytes: "process" as NVML reports it, or "difference" of the device's memory where a container hides processes.
    measured_by: str | None
    peak_bytes: int | None  # the largest value that `bytes` had
    forecast: Forecast | None
    leases: int
    pinned: bool
    idle_s: float
    sequences: int = 1  # questions that its context has room for at once
    defaults: EngineDefaults | None = None  # what was measured to suit its kind of model; None: not measured

    @property
    def forecast_bytes(self) -> int | None:
        """The prediction to compare with peak_bytes; None if there was none."""
        if self.forecast is None:
            return None
        on_gpus = [n for place, n in self.forecast.bytes.items() if not is_host(place)]
        return sum(on_gpus) if on_gpus else sum(self.forecast.bytes.values())

    @property
    def places(self) -> tuple[str, ...]:
        return tuple(self.place.split(" + "))

    def held_at(self, place: str) -> int | None:
        """Bytes on one place. The memory of a worker on several places is divided as it was forecast."""
        if place not in self.places:
            return 0
        if self.bytes is None or len(self.places) == 1:
            return self.bytes
        expected = self.forecast.bytes if self.forecast else {}
        total = sum(expected.get(other, 0) for other in self.places)
        return round(self.bytes * expected.get(place, 0) / total) if total else self.bytes // len(self.places)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU as NVML reports it, or ggml where no NVIDIA driver is installed. None: not reported."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    uuid: str = ""
    source: str = "NVML"  # or "ggml": from a worker's last message
    utilization: float | None = None  # share of the last sampling period in which a kernel ran: 0 to 1
    temperature_c: float | None = None
    power_w: float | None = None
    machine: str = ""  # "": the page's own

    @property
    def place(self) -> str:
        return place_on(self.machine, f"GPU {self.index}")


@dataclass(frozen=True, slots=True)
class Arriving:
    """A file that a machine is getting."""

    file: str
    done: int  # bytes
    total: int


@dataclass(frozen=True, slots=True)
class MachineMemory:
    """Another machine of the cluster. None: unknown, since the machine is not used."""

    name: str
    host_total_bytes: int | None = None
    host_available_bytes: int | None = None
    problem: str = ""  # why it is not used, in words
    processor: str = ""
    engine: str = ""  # llama-cpp-python's version
    arriving: tuple[Arriving, ...] = ()
    copies_bytes: int | None = None  # of models that the page has sent there
    most_copies_bytes: int | None = None  # that they may take


@dataclass(frozen=True, slots=True)
class QueuedRun:
    """A run that generates, or waits for its turn."""

    who: str  # "" if no person asked for it
    files: tuple[str, ...]
    waited_s: float
    place: str | None  # where it runs; None: it waits

    def is_on(self, machine: str) -> bool:
        """Whether it runs on a machine; "": the page's own."""
        return self.place is not None and machine_of(self.place) == machine


@dataclass(frozen=True, slots=True)
class SpareMemory:
    """A worker that is started and holds no model. It counts as nothing in the budget."""

    pid: int
    host_rss_bytes: int | None  # None: unknown


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """Memory, workers and queue at one moment."""

    time: float  # seconds since 1970
    workers: tuple[WorkerMemory, ...]
    gpus: tuple[GpuMemory, ...]
    host_total_bytes: int
    host_available_bytes: int
    budgets: Mapping[str, int]  # by place: the bytes that all workers there may take together
    queue: tuple[QueuedRun, ...]  # the running ones first, then in the order in which they are likely to come
    alarms: tuple[str, ...] = ()  # memory that was not freed, the newest last
    container_bytes: int | None = None  # the limit of the container's memory; None: no limit
    container_processors: float | None = None  # its quota of processor time
    machines: tuple[MachineMemory, ...] = ()  # the cluster's others
    spares: tuple[SpareMemory, ...] = ()

    @property
    def budget_bytes(self) -> int:
        """The budget of all GPUs, or of all hosts if there is no GPU."""
        gpus = [n for place, n in self.budgets.items() if not is_host(place)]
        return sum(gpus or self.budgets.values())

    @property
    def places(self) -> tuple[str, ...]:
        """All GPUs, or all hosts if there is no GPU."""
        return tuple(gpu.place for gpu in self.gpus) or tuple(self.budgets) or (HOST,)

    @property
    def queue_length(self) -> int:
        return len(self.queue)
