"""What NVIDIA's driver tells about memory. The only place that imports pynvml (distribution: nvidia-ml-py)."""

from __future__ import annotations

import pynvml

from playground.values import GpuMemory


class Gpus:
    """Reads NVML; without an NVIDIA driver it knows of no GPU."""

    def __init__(self) -> None:
        self._handles: tuple[object, ...] = ()
        try:
            pynvml.nvmlInit()
            self._handles = tuple(pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError:
            pass  # no driver, or none that talks to us: unknown, not zero

    def read(self) -> tuple[GpuMemory, ...]:
        gpus = []
        for index, handle in enumerate(self._handles):
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                name = pynvml.nvmlDeviceGetName(handle)
            except pynvml.NVMLError:
                continue
            gpus.append(GpuMemory(index, str(name), int(memory.total), int(memory.used)))
        return tuple(gpus)

    def process_bytes(self, pid: int) -> int | None:
        """GPU memory of a process over all GPUs; None where the driver does not tell (containers hide pids)."""
        found: list[int] = []
        for handle in self._handles:
            try:
                processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except pynvml.NVMLError:
                continue
            found += [int(p.usedGpuMemory) for p in processes if p.pid == pid and p.usedGpuMemory is not None]
        return sum(found) if found else None
