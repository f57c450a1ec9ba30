"""The monitor: what it keeps, what it survives, what it costs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.engine import protocol
from playground.pool import monitor as monitor_module
from playground.pool.budgets import PoolLimits
from playground.pool.contract import HostMemory
from playground.pool.monitor import Monitor
from playground.pool.pool import Pool
from playground.pool.sensors import LocalSensors
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, MemoryReport, WorkerRole
from testkit.waiting import until


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    opened = Pool.open(PoolLimits(idle_s=0.3), forecasts=tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def monitor(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> Iterator[Monitor]:
    monkeypatch.setattr(monitor_module, "_EVERY_S", 0.02)
    started = Monitor(pool)
    yield started
    started.close()


def bare(name: str) -> WorkerSpec:
    """A worker that loads no model."""
    return WorkerSpec(WorkerRole.QUANTIZE, (name,), file=name)


def test_history_when_time_passes_then_it_grows_and_ends_with_the_newest(monitor: Monitor) -> None:
    assert monitor.history == ()
    assert monitor.newest.budgets[HOST] > 0  # somebody may ask before the first look
    monitor.start()
    until(lambda: len(monitor.history) > 3)
    monitor.close()
    history: tuple[MemoryReport, ...] = monitor.history
    times = [report.time for report in history]
    assert times == sorted(set(times))
    assert monitor.newest is history[-1]
    assert not monitor._thread.is_alive()


class HiccupingSensors(LocalSensors):
    """Fails at the monitor's second and third look."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = -1  # Pool.open looks first

    def host(self) -> HostMemory:
        self.looks += 1
        if self.looks in (2, 3):
            raise RuntimeError("the driver hiccups")
        return super().host()


def test_history_when_a_sensor_fails_then_it_goes_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor_module, "_EVERY_S", 0.02)
    sensors = HiccupingSensors()
    pool = Pool.open(sensors=sensors, forecasts=tmp_path)
    monitor = Monitor(pool)
    try:
        monitor.start()
        until(lambda: sensors.looks > 5)
        assert len(monitor.history) >= 2
    finally:
        monitor.close()
        pool.close()


def test_worker_when_unused_for_long_then_unloaded_unless_pinned_or_leased(monitor: Monitor, pool: Pool) -> None:
    for name in ("idle", "pinned"):
        with pool.lease(bare(name)) as lease:
            pool.pin(lease.handle.id, name == "pinned")
    with pool.lease(bare("leased")) as lease:
        monitor.start()
        until(lambda: {w.file for w in monitor.newest.workers} == {"pinned", "leased"})
        time.sleep(0.4)
        assert lease.request(protocol.Ping()) == protocol.Pong()
    until(lambda: [w.file for w in pool.memory().workers] == ["pinned"])


def test_cost_when_six_workers_are_looked_at_then_little(tmp_path: Path) -> None:
    pool = Pool.open(forecasts=tmp_path)
    try:
        for n in range(6):
            with pool.lease(bare(str(n))):
                pass
        pool.memory()
        began = time.process_time()
        for _ in range(60):
            pool.unload_idle()
            assert len(pool.memory().workers) == 6
        spent = time.process_time() - began
    finally:
        pool.close()
    print(f"{spent / 60 * 1000:.2f} ms of CPU time a look")
    assert spent < 60 * 0.02  # a minute's looks; the aim is half of it, with room for a slow machine
