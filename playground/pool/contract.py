"""What the pool needs from outside: sensors that read memory, and a factory that starts workers.

The pool knows only these protocols; Pool.open takes one object of each kind. LocalSensors and LocalWorkers implement
them for this machine. testkit/fake_machine.py implements them for a simulated machine with GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from playground.engine import protocol
from playground.pool.turn_order import Places
from playground.values.memory import GpuMemory, MachineMemory, WorkerState

# Of a Worker's last words: requests that follow each other need no ping between them, which takes a millisecond, and 2
# to another machine.
FRESH_S = 0.1


@dataclass(frozen=True, slots=True)
class HostMemory:
    """In a container with a limit: what the limit leaves."""

    total_bytes: int
    available_bytes: int
    limit_bytes: int | None = None  # of the container; None: no limit
    processors: float | None = None  # the container's quota of processor time; None: no quota


@dataclass(frozen=True, slots=True)
class ProcessMemory:
    """Host memory of one process. None: unknown."""

    resident_bytes: int | None
    own_bytes: int | None  # resident, without the pages of mapped files


@dataclass(frozen=True, slots=True)
class Joined:
    """Another machine, whose places the pool may use from now on."""

    name: str
    processor: str  # what the speed of its host depends on, in words
    gpus: tuple[GpuMemory, ...]  # with the machine's name
    host_bytes: int  # the budget of its host


class Sensors(Protocol):
    """Reads memory as it is now. Stateless for the pool; safe from several threads.

    No call waits for a worker; each returns within milliseconds. Unknown is None or a missing key, never 0.
    """

    def gpus(self) -> tuple[GpuMemory, ...]:
        """The GPUs that models may use. () without a driver, and while the driver does not answer.

        The first answer fixes the places of this machine.
        """

    def gpu_processes(self) -> dict[int, dict[str, int]]:
        """Bytes by process id, then by place. A missing process: the driver hides it, or it holds nothing."""

    def host(self) -> HostMemory: ...

    def machines(self) -> tuple[MachineMemory, ...]:
        """The other machines of the cluster; their GPUs and processes are among those of `gpus` and `process`."""

    def process(self, pid: int) -> ProcessMemory: ...


class Dialogue(Protocol):
    """What the parent and a worker say while a request of many parts is served. Called in the thread of `request`."""

    def to_send(self) -> Sequence[protocol.Message]:
        """What the worker gets now. Asked after every reply, and 20 times a second."""

    def received(self, reply: protocol.SequenceReply) -> None: ...


class Worker(Protocol):
    """Holds one model at most and answers one request at a time.

        starting -> ready <-> busy -> stopping -> stopped        any -> failed

    Only the thread that leases a worker calls `ping` and `request`. Any thread may read the properties, and call
    `wait_ready` and `stop`. A stopped or failed worker is never used again.
    """

    name: str  # for the log

    @property
    def pid(self) -> int:
        """The process id under which the sensors list it."""

    @property
    def state(self) -> WorkerState: ...

    @property
    def alive(self) -> bool:
        """Whether it is ready or busy, and its process runs. Does not block."""

    @property
    def is_fresh(self) -> bool:
        """Whether it lives and said something a moment ago: it needs no ping. Does not block."""

    def wait_ready(self) -> protocol.Ready:
        """starting -> ready. Blocks until the first message, 120 s at most; not at a later call. Raises WorkerDied."""

    def ping(self) -> protocol.Pong | None:
        """Blocks until a ready worker answers, 2 s at most. None: it did not, and its process has ended."""

    def request(
        self,
        request: protocol.Request[protocol.R],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        dialogue: Dialogue | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> protocol.R:
        """ready -> busy -> ready. Blocks until the final reply; the callbacks run in this thread.

        When `stop` returns True the worker is asked to end early; 2 s later it is killed, and Interrupted is raised.
        `on_step` is called also while the model of a load is copied to the worker's machine, with bytes.
        A worker that gives no sign of life is killed after the time that the operator set.
        Raises the error that the worker reports, and WorkerDied.
        """

    def wake(self) -> None:
        """The running request asks its dialogue at once what is to be sent. From any thread."""

    def stop(self) -> None:
        """any -> stopping -> stopped. Blocks until the process has ended, 6 s at most; a second call does nothing.

        A `request` that another thread waits for raises WorkerDied.
        """


class WorkerFactory(Protocol):
    """Starts workers. The pool calls it without a lock, from several threads."""

    def __call__(self, name: str, places: Places) -> Worker:
        """Start a worker that can use these places alone. Returns in state `starting`, without waiting for it.

        `name` is for the log. `places` is ("host",), or one or more GPUs of one machine, such as ("GPU 0", "GPU 1").
        """
