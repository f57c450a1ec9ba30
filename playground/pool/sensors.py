"""Memory of this machine: GPUs from NVIDIA's driver, the host and its processes from psutil.

The only module that imports pynvml (distribution: nvidia-ml-py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psutil
import pynvml

from playground.pool.contract import HostMemory, ProcessMemory
from playground.support import cgroup
from playground.values.memory import GpuMemory, MachineMemory


class LocalSensors:
    """The Sensors (contract.py) of this machine. Without an NVIDIA driver it reports no GPU."""

    def __init__(self, visible: str | None = None) -> None:
        """`visible`: CUDA_VISIBLE_DEVICES, if the operator set it; NVML sees the others as well."""
        self._handles: dict[int, Any] = {}
        self._uuids: dict[int, str] = {}
        try:
            pynvml.nvmlInit()
            for index in range(pynvml.nvmlDeviceGetCount()):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = str(pynvml.nvmlDeviceGetUUID(handle))
                if _is_visible(index, uuid, visible):
                    self._handles[index], self._uuids[index] = handle, uuid
        except pynvml.NVMLError:
            pass  # no driver, or one that does not answer: unknown, not zero

    def gpus(self) -> tuple[GpuMemory, ...]:
        gpus = []
        for index, handle in self._handles.items():
            memory = _or_none(pynvml.nvmlDeviceGetMemoryInfo, handle)
            if memory is None:
                continue
            rates = _or_none(pynvml.nvmlDeviceGetUtilizationRates, handle)
            temperature = _or_none(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
            milliwatts = _or_none(pynvml.nvmlDeviceGetPowerUsage, handle)
            gpus.append(
                GpuMemory(
                    index,
                    str(_or_none(pynvml.nvmlDeviceGetName, handle) or "unknown GPU"),
                    int(memory.total),
                    int(memory.used),
                    uuid=self._uuids[index],
                    utilization=None if rates is None else rates.gpu / 100,
                    temperature_c=None if temperature is None else float(temperature),
                    power_w=None if milliwatts is None else milliwatts / 1000,
                )
            )
        return tuple(gpus)

    def gpu_processes(self) -> dict[int, dict[str, int]]:
        """Empty where the driver does not report processes (containers hide their ids)."""
        by_pid: dict[int, dict[str, int]] = {}
        for index, handle in self._handles.items():
            for process in _or_none(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
                if process.usedGpuMemory is not None:
                    by_pid.setdefault(process.pid, {})[f"GPU {index}"] = int(process.usedGpuMemory)
        return by_pid

    def host(self) -> HostMemory:
        memory, limit = psutil.virtual_memory(), cgroup.memory_limit()
        if limit is None or limit.limit_bytes >= memory.total:
            return HostMemory(memory.total, memory.available, processors=cgroup.cpu_quota())
        available = min(memory.available, limit.free_bytes)
        return HostMemory(limit.limit_bytes, available, limit.limit_bytes, cgroup.cpu_quota())

    def machines(self) -> tuple[MachineMemory, ...]:
        return ()

    def process(self, pid: int) -> ProcessMemory:
        try:
            memory = psutil.Process(pid).memory_info()
        except psutil.Error:
            return ProcessMemory(None, None)
        return ProcessMemory(memory.rss, memory.rss - getattr(memory, "shared", 0))


def _is_visible(index: int, uuid: str, visible: str | None) -> bool:
    if visible is None:
        return True
    names = [name.strip() for name in visible.split(",")]
    return str(index) in names or any(name.startswith("GPU-") and uuid.startswith(name) for name in names)


def _or_none(call: Callable[..., Any], *args: Any) -> Any:
    try:
        return call(*args)
    except pynvml.NVMLError:
        return None
