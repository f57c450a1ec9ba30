"""Reports made by hand, for what looks at memory: an H100 with five handles, two GPUs, a machine without any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from playground.errors import BadInput
from playground.values.memory import (
    HOST,
    Forecast,
    GpuMemory,
    MemoryParts,
    MemoryReport,
    QueuedRun,
    WorkerMemory,
    WorkerRole,
    WorkerState,
)

GIB = 2**30
NOW = 1_800_000_000.0


def worker(
    id: str,
    held: int | None,
    place: str = "GPU 0",
    *,
    role: WorkerRole = WorkerRole.LANGUAGE,
    parts: Mapping[str, MemoryParts] | None = None,
    **fields: object,
) -> WorkerMemory:
    on_host = place == HOST
    forecast = Forecast(parts, "header") if parts else None
    memory = WorkerMemory(
        id=id, pid=1000, role=role, state=WorkerState.READY, file=f"{id}.gguf", place=place, bytes=held,
        host_rss_bytes=held if on_host else GIB, gpu_bytes=None if on_host else held,
        measured_by=None if on_host or held is None else "process", peak_bytes=held, forecast=forecast, leases=0,
        pinned=False, idle_s=12.0,
    )  # fmt: skip
    return replace(memory, **fields)  # type: ignore[arg-type]


def gpu(index: int = 0, used: int = 0, **fields: object) -> GpuMemory:
    gpu = GpuMemory(index, "NVIDIA H100 80GB HBM3", 80 * GIB, used, utilization=0.4, temperature_c=51.0, power_w=312.0)
    return replace(gpu, **fields)  # type: ignore[arg-type]


def report(
    *workers: WorkerMemory, time: float = NOW, gpus: tuple[GpuMemory, ...] = (), **fields: object
) -> MemoryReport:
    budgets = {gpu.place: 64 * GIB for gpu in gpus} or {HOST: 12 * GIB}
    report = MemoryReport(time, workers, gpus, 24 * GIB, 15 * GIB, budgets, ())
    return replace(report, **fields)  # type: ignore[arg-type]


def h100(seconds: int = 600, others: int = 3 * GIB, end: float = NOW) -> tuple[MemoryReport, ...]:
    """Six handles come and go within ten minutes; five are there in the end."""
    sizes = {"mmproj-Qwen2.5-VL-7B-F16": 1.9, "Qwen2.5-VL-7B-F16": 15.7, "Qwen2.5-VL-7B-Q8_0": 8.9,
             "Qwen2.5-VL-7B-Q4_K_M": 5.6, "SmolVLM-500M-Q8_0": 1.1, "Qwen2.5-VL-7B-Q2_K": 4.1}  # fmt: skip
    lives = [(0, 600), (40, 380), (90, 600), (150, 600), (240, 600), (300, 600)]
    reports = []
    for second in range(600 - seconds, 600):
        held = []
        for (name, size), (begin, end_s) in zip(sizes.items(), lives, strict=True):
            if not begin <= second < end_s:
                continue
            role = WorkerRole.VISION if name.startswith("mmproj") else WorkerRole.LANGUAGE
            grown = int(size * GIB * min(1.0, 0.3 + (second - begin) / 12))
            parts = MemoryParts(int((size - 1.1) * GIB), GIB // 4, GIB // 5, GIB // 2)
            if role is WorkerRole.VISION:
                parts = MemoryParts(int(1.3 * GIB), 0, GIB // 10, GIB // 2)
            busy = name.endswith("Q4_K_M")
            held.append(
                worker(name, grown, role=role, parts={"GPU 0": parts}, leases=int(busy), idle_s=0.0 if busy else 41.0,
                       pinned=role is WorkerRole.VISION, peak_bytes=int(size * GIB),
                       state=WorkerState.BUSY if busy else WorkerState.READY)
            )  # fmt: skip
        used = sum(w.bytes or 0 for w in held) + others
        work = 0.5 + 0.45 * math.sin(second / 25)
        sensed = gpu(used=used, utilization=work, temperature_c=45 + 20 * work, power_w=120 + 480 * work)
        queue = (QueuedRun("ann", ("Qwen2.5-VL-7B-Q4_K_M.gguf",), 4.0, "GPU 0"),
                 QueuedRun("me", ("Qwen2.5-VL-7B-Q2_K.gguf", "Qwen2.5-VL-7B-Q8_0.gguf"), 3.0, None),
                 QueuedRun("", ("SmolVLM-500M-Q8_0.gguf",), 71.0, None))  # fmt: skip
        reports.append(report(*held, time=end - 599 + second, gpus=(sensed,), queue=queue))
    return tuple(reports)


class HandMade:
    """A pool and a monitor in one, for what only looks at them."""

    def __init__(self, history: tuple[MemoryReport, ...]) -> None:
        self.history = history
        self.pinned: list[tuple[str, bool]] = []

    def memory(self) -> MemoryReport:
        return self.history[-1]

    def bandwidth(self, place: str) -> float | None:
        return 2.61e12 if place == "GPU 0" else None

    def pin(self, id: str, pinned: bool) -> None:
        self.pinned.append((id, pinned))
        self._change(*(replace(w, pinned=pinned) if w.id == id else w for w in self.memory().workers))

    def unload_id(self, id: str) -> None:
        if next(w for w in self.memory().workers if w.id == id).leases:
            raise BadInput("It is in use. Stop the run, or wait for it.")
        self._change(*(w for w in self.memory().workers if w.id != id))

    def _change(self, *workers: WorkerMemory) -> None:
        now = self.memory()
        self.history = (*self.history, replace(now, workers=workers, time=now.time + 0.5))
