"""Workers that are started before a model needs them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from playground.pool.budgets import PoolLimits
from playground.pool.pool import Pool
from playground.pool.process import WorkerProcess
from playground.pool.spare_workers import SpareWorkers
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec, language_spec
from playground.values.files import ModelFile
from playground.values.memory import WorkerState
from playground.values.request import Runtime
from testkit import pairs


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[WorkerSpec]:
    """One model under two names, which the pool takes for two."""
    model = pairs.write_llava(tmp_path_factory.mktemp("spare")).model
    other = model.with_name("other.gguf")
    os.link(model, other)
    return [_spec(model), _spec(other)]


def _spec(path: Path) -> WorkerSpec:
    file = ModelFile(str(path), path.stat().st_size, path.name, "F16", 1, "llama", "vv")
    return language_spec(file, Runtime(n_ctx=64, n_gpu_layers=0))


@pytest.fixture
def pool() -> Iterator[Pool]:
    with closing(Pool.open(PoolLimits(spare_workers=1))) as opened:
        yield opened


def pid(pool: Pool, spec: WorkerSpec) -> int:
    with pool.lease(spec) as lease:
        return lease.pid


def test_load_when_a_worker_is_kept_then_it_takes_that_one_and_another_is_ready(
    pool: Pool, specs: list[WorkerSpec]
) -> None:
    assert pool.memory().spares == ()  # nothing was loaded yet
    first = pid(pool, specs[0])
    (kept,) = pool.memory().spares
    assert kept.pid != first
    assert kept.host_rss_bytes is not None
    assert kept.host_rss_bytes > 2**20
    assert pid(pool, specs[1]) == kept.pid
    (next_kept,) = pool.memory().spares
    assert next_kept.pid not in (first, kept.pid)
    assert [worker.pid for worker in pool.memory().workers] == [first, kept.pid]


def test_load_when_the_kept_worker_was_killed_then_a_new_one_is_started(pool: Pool, specs: list[WorkerSpec]) -> None:
    pool.spares.restock()
    pool.spares.settle()
    (killed,) = pool.spares.pids
    os.kill(killed, signal.SIGKILL)
    assert pid(pool, specs[0]) != killed


def test_close_when_a_worker_is_kept_then_it_has_ended_and_none_is_started_any_more() -> None:
    started: list[WorkerProcess] = []

    def start(name: str, places: Places) -> WorkerProcess:
        started.append(WorkerProcess(name))
        return started[-1]

    spares = SpareWorkers(start, 1)
    spares.restock()
    spares.close()
    (worker,) = started
    assert worker.state is WorkerState.STOPPED
    spares.restock()
    assert (spares.pids, started) == ((), [worker])
