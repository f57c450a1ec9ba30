"""Another machine, seen from the page: its agent, and what its sensors showed last."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any
from uuid import uuid4

import ray
from ray.exceptions import RayError, RayTaskError

from playground.cluster.kept_files import KeptFiles
from playground.cluster.messages import Description, SensorReadings
from playground.errors import Interrupted, MachineLost, WorkerDied
from playground.pool.contract import Joined, ProcessMemory
from playground.support import atomic
from playground.values.memory import Arriving, GpuMemory, MachineMemory, place_on

PIDS = 10_000_000  # process ids of machine 2 begin at 20,000,000; Linux has none above 4,194,304
LOST_S = 2.5  # without an answer of its agent
_CALL_S = 10.0
_FRESH_S = 0.05
_PIECE_BYTES = 8 * 2**20
_WAIT_S = 0.2  # how often a caller that waits looks at its stop flag


class Machine:
    """Owns an agent's handle. Safe to use from several threads."""

    def __init__(
        self, name: str, number: int, actor: Any, sha256_of: Callable[[Path], str], on_lost: Callable[[str], None]
    ) -> None:
        """Blocks until the agent has started. Raises RayError. `on_lost` gets the name, once."""
        self.name = name
        self.sha256_of = sha256_of
        self.lost = ""  # why it is not used any more
        self._on_lost = on_lost
        self._losing = Lock()
        self._bringing_lock = Lock()
        self._bringing: dict[str, Lock] = {}  # by sha256
        self._arriving: dict[str, Arriving] = {}  # by name
        self._number = number
        self._actor = actor
        self.records = KeptFiles(self._copied, lambda theirs: self.send("delete", theirs))
        self.description: Description = ray.get(actor.describe.remote(), timeout=120)
        self._reading = Lock()
        self._readings: SensorReadings = ray.get(actor.read_sensors.remote(), timeout=_CALL_S)
        self._read_at = time.monotonic()

    def pid(self, own: int) -> int:
        """A process id that is unique in the cluster."""
        return self._number * PIDS + own

    # --- calls of the agent --------------------------------------------------------------------------------------

    def call(self, method: str, *args: Any, timeout_s: float = _CALL_S) -> Any:
        """Raises MachineLost, and WorkerDied when the agent does not answer in time."""
        if self.lost:
            raise self.gone()
        reference = getattr(self._actor, method).remote(*args)
        deadline = time.monotonic() + timeout_s
        try:
            while time.monotonic() < deadline and not self.lost:
                ready, _ = ray.wait([reference], timeout=0.2)
                if ready:
                    return ray.get(reference)
        except RayError as error:
            raise self.gone(error) from None
        if self.lost:
            raise self.gone()
        raise WorkerDied(f"The agent of {self.name} did not answer within {timeout_s:.0f} s. Run again.")

    def send(self, method: str, *args: Any) -> None:
        """Without waiting."""
        getattr(self._actor, method).remote(*args)

    def stream(self, replies: SimpleQueue[Any], method: str, *args: Any) -> None:
        """Puts into `replies` what the method yields, and the RayError that ends it.

        In a thread: an iterator of Ray cannot be waited for with a limit.
        """
        stream = getattr(self._actor, method).options(num_returns="streaming").remote(*args)
        Thread(target=_read, args=(stream, replies), daemon=True).start()

    def gone(self, error: RayError | None = None) -> WorkerDied:
        """What to raise. If the agent is gone, the machine is lost: the pool uses its places no more."""
        if isinstance(error, RayTaskError):
            return WorkerDied(f"The agent of {self.name} failed: {error.cause}. Run again.")
        self._lose(f"its agent does not answer: {type(error).__name__}")
        return MachineLost.of(self.name, self.lost)

    def _lose(self, why: str) -> None:
        with self._losing:
            if not self.lost:
                self._on_lost(self.name)
                self.lost = why  # whoever reads it finds the places given up
        # Before anybody hears of it. Not under the lock: a copy that is under way comes here when it fails.
        self.records.lost()

    # --- records -------------------------------------------------------------------------------------------------

    def scratch(self, suffix: str) -> str:
        """The path of a new file there that a request writes or reads."""
        return f"{self.description.scratch}/{uuid4().hex}{suffix}"

    def fetch(self, theirs: str, ours: str) -> None:
        with atomic.replacing(Path(ours)) as part, open(part, "wb") as file:  # the machine may be lost in between
            while piece := self.call("read", theirs, file.tell(), _PIECE_BYTES, timeout_s=60.0):
                file.write(piece)

    def _copied(self, ours: str) -> str:
        theirs = self.scratch(Path(ours).suffix)
        with open(ours, "rb") as file:
            while piece := file.read(_PIECE_BYTES):
                self.call("write", theirs, piece, timeout_s=60.0)
        return theirs

    # --- files that it gets --------------------------------------------------------------------------------------

    @contextmanager
    def bringing(self, sha256: str, stop: Callable[[], bool]) -> Iterator[None]:
        """For one thread at a time. Raises Interrupted by `stop`, and MachineLost."""
        with self._bringing_lock:
            lock = self._bringing.setdefault(sha256, Lock())
        while not lock.acquire(timeout=_WAIT_S):
            if stop():
                raise Interrupted("Stopped while a model was copied.")
            if self.lost:
                raise self.gone()
        try:
            yield
        finally:
            lock.release()

    def note_arriving(self, file: Arriving) -> None:
        self._arriving = {**self._arriving, file.file: file}

    def note_arrived(self, name: str) -> None:
        self._arriving = {other: file for other, file in self._arriving.items() if other != name}

    # --- sensors -------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Read the sensors now. After 2.5 s without an answer the machine is lost."""
        with self._reading:
            if self.lost or time.monotonic() - self._read_at < _FRESH_S:
                return
            self.records.tidy()
            try:
                self._readings = ray.get(self._actor.read_sensors.remote(), timeout=LOST_S)
                self._read_at = time.monotonic()
            except RayError as error:
                self._lose(f"its agent does not answer: {type(error).__name__}")

    @property
    def readings(self) -> SensorReadings:
        self.refresh()
        return self._readings

    @property
    def gpus(self) -> tuple[GpuMemory, ...]:
        return tuple(replace(gpu, machine=self.name) for gpu in self.readings.gpus)

    @property
    def gpu_processes(self) -> dict[int, dict[str, int]]:
        return {
            self.pid(pid): {place_on(self.name, place): n for place, n in by_place.items()}
            for pid, by_place in self.readings.gpu_processes.items()
        }

    def process(self, pid: int) -> ProcessMemory:
        return self.readings.workers.get(pid % PIDS, ProcessMemory(None, None))

    def owns(self, pid: int) -> bool:
        return pid // PIDS == self._number

    @property
    def memory(self) -> MachineMemory:
        readings, described = self.readings, self.description
        host = readings.host
        return MachineMemory(
            self.name,
            host.total_bytes,
            host.available_bytes,
            processor=described.processor,
            engine=described.versions.engine,
            arriving=tuple(self._arriving.values()),
            copies_bytes=readings.copies_bytes,
            most_copies_bytes=described.copies_bytes,
        )

    @property
    def joined(self) -> Joined:
        return Joined(self.name, self.description.processor, self.gpus, self.description.host_bytes)

    def end(self) -> None:
        """Its workers end with it."""
        try:
            ray.kill(self._actor)
        except RayError:
            pass  # it has ended


def _read(stream: Any, replies: SimpleQueue[Any]) -> None:
    try:
        for reference in stream:
            replies.put(ray.get(reference))
    except RayError as error:
        replies.put(error)
