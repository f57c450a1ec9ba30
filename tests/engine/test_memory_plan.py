"""What a language model's context will take, told by a load without weights, against what the real load logs."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from playground.engine.protocol import Loaded, LoadLanguage, PlanMemory, Request
from playground.errors import BadModel, EngineError
from playground.pool.process import WorkerProcess
from playground.values.request import Runtime
from testkit import pairs

RUNTIME = Runtime(n_ctx=4096, n_batch=256, n_threads=1, n_gpu_layers=0)


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("plans")
    process.wait_ready()
    yield process
    process.stop()


def mib(pattern: str, text: str) -> float:
    return sum(map(float, re.findall(pattern + r" = +([\d.]+) MiB", text)))


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_plan_when_compared_with_the_load_then_what_it_logs(
    kind: str, worker: WorkerProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load = LoadLanguage(str(pairs.write_pair(kind, tmp_path).model), RUNTIME)
    planned = worker.request(PlanMemory(load))
    caplog.set_level(logging.DEBUG, "playground.pool.process")
    assert isinstance(worker.request(load), Loaded)
    cache = compute = 0.0
    while not (cache and compute):
        time.sleep(0.01)  # the log comes through another pipe; the plan's own lines may still be on their way
        logged = caplog.text.rpartition("constructing llama_context")[2]
        # In a load without weights this buffer is empty.
        cache, compute = mib("KV buffer size", logged), mib("CPU compute buffer size", logged)
    assert cache > 1
    assert compute > 0.5
    assert planned.kv_cache_bytes == pytest.approx(cache * 2**20, abs=0.02 * 2**20)
    assert planned.compute_bytes == pytest.approx(compute * 2**20)


def test_plan_when_done_then_the_memory_is_free_again(worker: WorkerProcess, tmp_path: Path) -> None:
    files = pairs.write_llava(tmp_path, n_embd=1024, n_layer=8, n_vocab=8_000, name="large")
    plan = PlanMemory(LoadLanguage(str(files.model), Runtime(n_ctx=8192, n_gpu_layers=0)))
    process = psutil.Process(worker.pid)
    worker.request(plan)
    before = process.memory_info().rss
    planned = worker.request(plan)
    assert planned.kv_cache_bytes is not None
    assert process.memory_info().rss - before < 2**22 < files.model.stat().st_size / 10


def test_plan_when_the_file_is_bad_then_said_as_by_a_load(worker: WorkerProcess, tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    short = pairs.truncate(files.model, tmp_path / "short.gguf", 0.7)
    for path, error in ((short, BadModel), (files.projector, BadModel), (tmp_path / "none.gguf", EngineError)):
        messages, load = list[str](), LoadLanguage(str(path), RUNTIME)
        requests: tuple[Request[Any], ...] = (PlanMemory(load), load)
        for request in requests:
            with pytest.raises(error) as raised:
                worker.request(request)
            messages.append(str(raised.value))
        assert messages[0] == messages[1]


LOGGED = """
from playground.engine import llama_log
lines = [
    "llama_kv_cache:      CUDA0 KV buffer size =     0.00 MiB\\n",
    "llama_kv_cache: size =  192.00 MiB (  4096 cells,  24 layers,  1/1 seqs), K (f16):   96.00 MiB\\n",
    "llama_memory_recurrent: size =    1.50 MiB (     1 cells,  24 layers,  1 seqs  0 rs_seq), R (f32): 1.00 MiB\\n",
    "sched_reserve:      CUDA0 compute buffer size =   100.25 MiB\\n",
    "sched_reserve:      CUDA1 compute buffer size =    10.00 MiB\\n",
    "sched_reserve:  CUDA_Host compute buffer size =     8.50 MiB\\n",
]
print(llama_log.context_bytes(lines, on_gpu=True), llama_log.context_bytes(lines, on_gpu=False))
print(llama_log.context_bytes([], on_gpu=True))
"""


def test_context_bytes_when_on_several_gpus_then_the_hosts_buffers_are_apart() -> None:
    # In a process of its own: llama_cpp has to be imported before numpy.
    child = subprocess.run([sys.executable, "-c", LOGGED], capture_output=True, text=True, check=True)
    cache, gpus, host = (round(mib * 2**20) for mib in (193.5, 110.25, 8.5))
    assert child.stdout.strip() == f"({cache}, {gpus}) ({cache}, {host})\n(None, None)"
