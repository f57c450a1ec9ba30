"""What is held where, now: the report that the page, /memory and /metrics show."""

from __future__ import annotations

import time
from collections.abc import Mapping

from playground.pool.budgets import Budgets
from playground.pool.contract import Sensors, Worker
from playground.pool.devices import Devices
from playground.pool.engine_choices import EngineChoices
from playground.pool.handles import Handle, Handles
from playground.pool.memory_watch import MemoryWatch
from playground.pool.queue import Queue
from playground.pool.spare_workers import SpareWorkers
from playground.values.memory import MemoryReport, SpareMemory, WorkerMemory, WorkerRole


def memory_report(
    sensors: Sensors,
    devices: Devices,
    handles: Handles,
    budgets: Budgets,
    watch: MemoryWatch,
    queue: Queue,
    choices: EngineChoices,
    spares: SpareWorkers,
) -> MemoryReport:
    """Reads the sensors, and notes in `budgets` what other programs hold. Takes milliseconds."""
    rest = watch.at_rest
    gpus, listed, machines = sensors.gpus(), sensors.gpu_processes(), sensors.machines()
    budgets.observe_hosts(machines)
    with handles.changed:
        live = [(h, h.worker) for h in handles.all() if h.worker is not None and h.worker.alive]
        if rest == watch.moves:  # none of our workers came or went while the sensors were read
            budgets.observe(gpus, listed)
        by_place = budgets.by_place()
    host = sensors.host()
    return MemoryReport(
        time=time.time(),
        workers=tuple(_worker_memory(handle, worker, sensors, listed, choices) for handle, worker in live),
        gpus=gpus or devices.of_ggml(),
        host_total_bytes=host.total_bytes,
        host_available_bytes=host.available_bytes,
        budgets=by_place,
        queue=queue.queued(),
        alarms=watch.alarms,
        container_bytes=host.limit_bytes,
        container_processors=host.processors,
        machines=machines,
        spares=tuple(SpareMemory(pid, sensors.process(pid).resident_bytes) for pid in spares.pids),
    )


def _worker_memory(
    handle: Handle,
    worker: Worker,
    sensors: Sensors,
    listed: Mapping[int, Mapping[str, int]],
    choices: EngineChoices,
) -> WorkerMemory:
    is_language = handle.spec.role is WorkerRole.LANGUAGE
    resident = sensors.process(worker.pid).resident_bytes
    on_gpu = sum(listed[worker.pid].values()) if worker.pid in listed else None
    gpu = on_gpu if on_gpu is not None else handle.difference
    now = gpu if handle.is_on_gpu else resident
    if now is not None:
        handle.peak = max(handle.peak or 0, now)
    return WorkerMemory(
        id=handle.id,
        pid=worker.pid,
        role=handle.spec.role,
        state=worker.state,
        file=handle.spec.file,
        place=" + ".join(handle.places),
        bytes=now,
        host_rss_bytes=resident,
        gpu_bytes=gpu,
        measured_by=None if gpu is None else "difference" if on_gpu is None else "process",
        peak_bytes=handle.peak,
        forecast=handle.forecast,
        leases=int(handle.leased),
        pinned=handle.pinned,
        idle_s=0.0 if handle.leased else time.monotonic() - handle.last_used,
        sequences=handle.spec.sequences,
        defaults=choices.of(handle.spec, handle.spec.runtime) if is_language else None,
    )
