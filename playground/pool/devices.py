"""The places that workers can go to, and what llama.cpp can compute on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from playground.engine import protocol
from playground.pool.contract import Joined
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, GpuMemory, machine_of, place_on


class Devices:
    """Owns what the pool has learned of the machine's devices. Reading and writing single values needs no lock."""

    def __init__(self, gpus: Sequence[GpuMemory]) -> None:
        self._machines = {"": tuple(gpu.place for gpu in gpus)}  # the GPUs of each machine; "": the page's own
        self._idle_gpus = set[str]()  # machines whose llama.cpp was not built for a GPU
        self.gpu_offload: bool | None = None  # whether llama.cpp was built for a GPU; None until a worker has reported
        self._reported: tuple[protocol.Device, ...] = ()  # as ggml saw them in the last worker that reported

    @property
    def gpu_places(self) -> tuple[str, ...]:
        return tuple(place for machine in self._gpus_by_machine() for place in machine)

    @property
    def host_places(self) -> tuple[str, ...]:
        return tuple(place_on(machine, HOST) for machine in tuple(self._machines))

    @property
    def on_gpu(self) -> bool:
        """Whether models go on NVIDIA GPUs, as far as is known."""
        return bool(self.gpu_places)

    def join(self, machine: Joined) -> None:
        self._idle_gpus.discard(machine.name)
        self._machines = {**self._machines, machine.name: tuple(gpu.place for gpu in machine.gpus)}

    def leave(self, name: str) -> None:
        self._machines = {machine: gpus for machine, gpus in self._machines.items() if machine != name}

    def learn(self, ready: protocol.Ready, places: Places) -> None:
        """From the first message of a worker at these places."""
        machine = machine_of(places[0])
        if not ready.gpu_offload:  # a driver alone does not let llama.cpp use a GPU
            self._idle_gpus.add(machine)
        if not machine:
            self.gpu_offload, self._reported = ready.gpu_offload, ready.devices

    def update(self, pong: protocol.Pong, places: Places) -> None:
        if not machine_of(places[0]):
            self._reported = pong.devices

    def options(self, spec: WorkerSpec | None) -> list[Places]:
        """Where a worker may go. None: a worker that may go anywhere. Splitting is over the GPUs of one machine."""
        if spec is not None and spec.writes_files:
            gpus: tuple[Places, ...] = tuple(self._usable({"": self._machines[""]}))
            hosts: tuple[str, ...] = (HOST,)
        else:
            gpus, hosts = self._gpus_by_machine(), self.host_places
        if not gpus or (spec is not None and not spec.wants_gpu):
            return [(host,) for host in hosts]
        if spec is not None and spec.splits:
            return list(gpus)
        return [(place,) for machine in gpus for place in machine]

    def _gpus_by_machine(self) -> tuple[Places, ...]:
        """Of each machine that computes on GPUs."""
        return tuple(self._usable(self._machines))

    def _usable(self, machines: Mapping[str, Places]) -> Iterator[Places]:
        return (gpus for machine, gpus in machines.items() if gpus and machine not in self._idle_gpus)

    def has(self, places: Places) -> bool:
        """Whether the machine of these places is there."""
        return machine_of(places[0]) in self._machines

    def options_within(self, spec: WorkerSpec, turn: Places) -> list[Places]:
        """The options that lie in a turn's places; all options if none does."""
        options = self.options(spec)
        return [places for places in options if set(places) <= set(turn)] or options

    def turn_options(self, specs: Sequence[WorkerSpec]) -> list[Places]:
        """Where a run of several workers may take place: all its GPUs, one GPU, or the host."""
        leading = max(specs, key=lambda spec: (spec.splits, spec.wants_gpu), default=None)
        return self.options(leading)

    def of_ggml(self) -> tuple[GpuMemory, ...]:
        """GPUs that NVML does not list, such as AMD's, as ggml reported them last."""
        return tuple(
            GpuMemory(i, device.description, device.total_bytes, device.total_bytes - device.free_bytes, source="ggml")
            for i, device in enumerate(self._reported)
            if device.total_bytes
        )
