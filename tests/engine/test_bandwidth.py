"""The memory's speed, measured with ggml."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psutil
import pytest

from playground.engine.protocol import MeasureBandwidth, Ping, Pong
from playground.errors import EngineError
from playground.pool.process import WorkerProcess

BYTES = 128 * 2**20


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("bandwidth")
    if process.wait_ready().gpu_offload:
        pytest.skip("this llama.cpp measures a GPU")
    yield process
    process.stop()


def test_bandwidth_when_measured_on_the_host_then_the_best_copy_of_those_that_were_made(worker: WorkerProcess) -> None:
    """At least one copy, read and written, was made meanwhile; a copy that skips the memory would be far faster."""
    started = time.perf_counter()
    bandwidth = worker.request(MeasureBandwidth(BYTES))
    assert bandwidth.device
    assert 2 * BYTES / (time.perf_counter() - started) <= bandwidth.bytes_per_s < 10e12


def test_bandwidth_when_measured_then_the_memory_is_free_again(worker: WorkerProcess) -> None:
    process = psutil.Process(worker.pid)
    worker.request(MeasureBandwidth(BYTES // 8))
    before = process.memory_info().rss
    worker.request(MeasureBandwidth(BYTES // 8))
    assert process.memory_info().rss - before < BYTES / 100


def test_bandwidth_when_there_is_no_room_then_said_and_the_worker_lives(worker: WorkerProcess) -> None:
    with pytest.raises(EngineError, match="no room for two buffers of 1125899907 MB"):
        worker.request(MeasureBandwidth(2**50))
    assert isinstance(worker.request(Ping()), Pong)


def test_devices_when_built_for_the_cpu_then_none(worker: WorkerProcess) -> None:
    assert worker.request(Ping()) == Pong(devices=())
