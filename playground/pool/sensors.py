"""What NVIDIA's driver tells. The only place that imports pynvml (distribution: nvidia-ml-py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pynvml

from playground.values.memory import GpuMemory


class Gpus:
    """Reads NVML; without an NVIDIA driver it knows of no GPU."""

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
            pass  # no driver, or none that talks to us: unknown, not zero

    def read(self) -> tuple[GpuMemory, ...]:
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

    def processes(self) -> dict[int, dict[str, int]]:
        """GPU memory by process and GPU. Empty where the driver does not tell (containers hide pids)."""
        found: dict[int, dict[str, int]] = {}
        for index, handle in self._handles.items():
            for process in _or_none(pynvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
                if process.usedGpuMemory is not None:
                    found.setdefault(process.pid, {})[f"GPU {index}"] = int(process.usedGpuMemory)
        return found


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
