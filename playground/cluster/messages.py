"""What the page and an agent send each other, beside the worker's own protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from playground.engine import protocol
from playground.errors import EngineError, PlaygroundError
from playground.pool.contract import HostMemory, ProcessMemory
from playground.pool.process import as_error
from playground.values.memory import GpuMemory, WorkerState


@dataclass(frozen=True, slots=True)
class Versions:
    """Of what has to be the same on all machines. Ray itself compares its own version and Python's."""

    playground: str
    engine: str  # llama-cpp-python

    def __str__(self) -> str:
        return f"playground {self.playground} and llama-cpp-python {self.engine}"


@dataclass(frozen=True, slots=True)
class Description:
    versions: Versions
    processor: str
    host_bytes: int  # the budget of its host
    scratch: str  # the folder of the files that requests write and read
    copies_bytes: int  # that copies of models may take on its disk


@dataclass(frozen=True, slots=True)
class SensorReadings:
    """What the sensors of a machine show."""

    gpus: tuple[GpuMemory, ...]
    gpu_processes: Mapping[int, Mapping[str, int]]
    host: HostMemory
    workers: Mapping[int, ProcessMemory]  # those that live, by process id
    copies_bytes: int  # that copies of models take on its disk


@dataclass(frozen=True, slots=True)
class Fault:
    """The error that ended a request, and the state in which it left the worker."""

    kind: str  # a class of playground.errors
    message: str
    log: tuple[str, ...]
    state: WorkerState

    @property
    def error(self) -> PlaygroundError:
        error = as_error(protocol.Failed(self.kind, self.message))
        return type(error)(error.message, self.log) if isinstance(error, EngineError) else error


@dataclass(frozen=True, slots=True)
class WantedFile:
    """A model file of the page's machine, one shard of a model in several."""

    name: str
    sha256: str
    bytes: int
    origin: tuple[str, str] | None = None  # the Hub's repository and commit; None: it is not in the Hub's cache


@dataclass(frozen=True, slots=True)
class Located:
    """Where an agent has a file; or, with no path, how many bytes of a copy it has already."""

    path: str | None
    copied: int = 0
