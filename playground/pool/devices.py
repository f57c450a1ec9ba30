"""The places that workers can go to, and what llama.cpp can compute on."""

from __future__ import annotations

from collections.abc import Sequence

from playground.engine import protocol
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, GpuMemory


class Devices:
    """Owns what the pool has learned of the machine's devices. Reading and writing single values needs no lock."""

    def __init__(self, gpus: Sequence[GpuMemory]) -> None:
        self.gpu_places = tuple(gpu.place for gpu in gpus)
        self.on_gpu = bool(gpus)  # whether models go on NVIDIA GPUs, as far as is known
        self.gpu_offload: bool | None = None  # whether llama.cpp was built for a GPU; None until a worker has reported
        self._reported: tuple[protocol.Device, ...] = ()  # as ggml saw them in the last worker that reported

    def learn(self, ready: protocol.Ready) -> None:
        self.gpu_offload, self._reported = ready.gpu_offload, ready.devices
        self.on_gpu = self.on_gpu and ready.gpu_offload  # a driver alone does not let llama.cpp use a GPU

    def update(self, pong: protocol.Pong) -> None:
        self._reported = pong.devices

    def options(self, spec: WorkerSpec | None) -> list[Places]:
        """Where a worker may go. None: a worker that may go anywhere."""
        if not self.gpu_places or not self.on_gpu or (spec is not None and not spec.wants_gpu):
            return [(HOST,)]
        if spec is not None and spec.splits:
            return [self.gpu_places]
        return [(place,) for place in self.gpu_places]

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
