"""A simulated machine with GPUs, for Pool.open. Its workers are real processes and compute on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from playground.engine import protocol
from playground.pool.contract import HostMemory, ProcessMemory
from playground.pool.local_workers import LocalWorkers
from playground.pool.process import WorkerProcess
from playground.pool.sensors import LocalSensors
from playground.pool.turn_order import Places
from playground.values.memory import HOST, GpuMemory, MachineMemory

MIB, GIB = 2**20, 2**30


class FakeMachine:
    """Sensors and a worker factory in one. A worker holds `each` bytes on each of its GPUs while it lives.

    Tests change the public fields while the pool runs.
    """

    def __init__(
        self,
        n_gpus: int = 2,
        *,
        total: int = 2 * GIB,
        resident_of: Callable[[str], int | None] = lambda file: None,
        before_start: Callable[[str], None] = lambda file: None,
    ) -> None:
        """`resident_of`: host memory of the worker of this file; None: as it really is.

        `before_start` is called with a worker's file before its process is started; it may block.
        """
        self.each = 650 * MIB
        self.others = {f"GPU {n}": 0 for n in range(n_gpus)}  # what other programs hold
        self.hides = False  # the driver lists no processes
        self.broken = False  # the driver does not answer
        self.leaks = False  # what a worker held stays taken after it ended
        self._total = total
        self._resident_of = resident_of
        self._before_start = before_start
        self._workers: list[FakeGpuWorker] = []
        self._machine = LocalSensors(visible="")
        self._local = LocalWorkers(self.gpus())

    # --- Sensors ---------------------------------------------------------------------------------------------------

    def gpus(self) -> tuple[GpuMemory, ...]:
        if self.broken:
            return ()
        held = self._held().values()
        used = {place: n + sum(bytes.get(place, 0) for bytes in held) for place, n in self.others.items()}
        return tuple(
            GpuMemory(index, "H", self._total, used[place], uuid=f"GPU-{'abcdefgh'[index] * 2}")
            for index, place in enumerate(self.others)
        )

    def gpu_processes(self) -> dict[int, dict[str, int]]:
        return {} if self.hides else self._held()

    def host(self) -> HostMemory:
        return self._machine.host()

    def machines(self) -> tuple[MachineMemory, ...]:
        return ()

    def process(self, pid: int) -> ProcessMemory:
        file = next((worker.file for worker in self._workers if worker.pid == pid), "")
        resident = self._resident_of(file)
        return self._machine.process(pid) if resident is None else ProcessMemory(resident, resident)

    def _held(self) -> dict[int, dict[str, int]]:
        live = [worker for worker in self._workers if worker.alive and worker.places != (HOST,)]
        return {worker.pid: dict.fromkeys(worker.places, self.each) for worker in live}

    # --- WorkerFactory ---------------------------------------------------------------------------------------------

    def start_worker(self, name: str, places: Places) -> FakeGpuWorker:
        self._before_start(name.rsplit(maxsplit=1)[-1])
        worker = FakeGpuWorker(self, name, places, self._local.environment(places))
        self._workers.append(worker)
        return worker


class FakeGpuWorker(WorkerProcess):
    """Says that its llama.cpp computes on the machine's GPUs, if there are any."""

    def __init__(self, machine: FakeMachine, name: str, places: Places, environment: Mapping[str, str]) -> None:
        super().__init__(name, environment)
        self.file = name.rsplit(maxsplit=1)[-1]
        self.places = places
        self._machine = machine
        self._is_leaked = False

    def wait_ready(self) -> protocol.Ready:
        ready = super().wait_ready()
        return msgspec.structs.replace(ready, gpu_offload=True) if self._machine.others else ready

    def stop(self) -> None:
        super().stop()
        if self._machine.leaks and not self._is_leaked and self.places != (HOST,):
            self._is_leaked = True
            for place in self.places:
                self._machine.others[place] += self._machine.each
