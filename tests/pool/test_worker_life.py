"""Workers that stop answering: what that costs, and what it does not. Workers of their own, without a pool."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest

from playground.engine import protocol
from playground.errors import Interrupted, WorkerDied
from playground.pool.pipe import Pipe
from playground.pool.process import WorkerProcess, _SilenceWatch
from playground.values.request import Runtime, Sampling
from testkit import pairs

RUNTIME = Runtime(n_ctx=2048, n_threads=1)
ENDLESS = protocol.Generate(
    protocol.EncodedPrompt((protocol.TextChunk((3, 4, 5)),), 768, "", 0.0, None), Sampling(max_tokens=2000), RUNTIME
)
LARGE = protocol.EncodedPrompt(
    (protocol.ImageChunk(0, "k", 3000, 3000, False, b"", bytes(3000 * 768 * 4)),), 768, "", 0.0, None
)


@pytest.fixture
def worker(endless: pairs.PairFiles) -> Iterator[WorkerProcess]:
    process = WorkerProcess("life", silence_s=2.0)
    process.wait_ready()
    process.request(protocol.LoadLanguage(str(endless.model), RUNTIME))
    yield process
    process.kill()


def freeze(worker: WorkerProcess) -> None:
    os.kill(worker.pid, signal.SIGSTOP)


def is_gone(worker: WorkerProcess) -> bool:
    return not worker.alive and not psutil.pid_exists(worker.pid)


def test_idle_worker_when_its_process_is_stopped_then_the_ping_ends_it(worker: WorkerProcess) -> None:
    assert isinstance(worker.ping(), protocol.Pong)
    freeze(worker)
    started = time.monotonic()
    assert worker.ping() is None
    assert time.monotonic() - started < 60  # 2 s are allowed
    assert is_gone(worker)


def test_busy_worker_when_its_process_is_stopped_then_its_request_ends_after_the_silence(
    worker: WorkerProcess,
) -> None:
    started: list[float] = []

    def on_chunk(_: protocol.Chunk) -> None:
        if not started:
            freeze(worker)
            started.append(time.monotonic())

    with pytest.raises(WorkerDied, match="no sign of life for 2 s"):
        worker.request(ENDLESS, on_chunk=on_chunk)
    assert 1.9 < time.monotonic() - started[0] < 60
    assert is_gone(worker)


def test_worker_when_its_clock_for_a_token_runs_out_then_the_grammar_is_named(worker: WorkerProcess) -> None:
    """engine/sampling.py sets that clock. Nothing else ends a call of llama.cpp that takes minutes."""
    with pytest.raises(WorkerDied, match="one token took more than 10 s"):
        worker.request(ENDLESS, on_chunk=lambda _: os.kill(worker.pid, signal.SIGALRM))
    assert is_gone(worker)


@pytest.mark.parametrize("request_", [ENDLESS, protocol.Generate(LARGE, Sampling(), RUNTIME)], ids=["small", "9 MB"])
def test_stopped_worker_when_the_person_stops_the_run_then_it_ends_within_2_s(
    worker: WorkerProcess, request_: protocol.Generate
) -> None:
    worker._silence_s = 600.0
    freeze(worker)
    started = time.monotonic()
    with pytest.raises(Interrupted, match="did not stop when asked"):
        worker.request(request_, stop=lambda: True)
    assert 2 <= time.monotonic() - started < 60
    assert is_gone(worker)


def test_worker_when_it_answers_heartbeats_alone_then_it_is_left_alone(worker: WorkerProcess) -> None:
    """It uses no processor time to speak of, as one that waits for a GPU or a disk."""
    began = worker._pipe.heard_at
    watch = _SilenceWatch(worker._pipe, worker.pid, 60.0)
    answers = set[float]()
    while len(answers) < 2:
        assert not watch.is_over()
        answers |= {worker._pipe.heard_at} - {began}
        time.sleep(0.01)
    assert not watch.is_over()
    assert watch._alive_at >= max(answers)


def test_silence_when_the_process_uses_the_processor_then_not_over_until_it_is_stopped() -> None:
    ours, theirs = socket.socketpair()
    pipe = Pipe(Connection(ours.detach()))
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        watch = _SilenceWatch(pipe, busy.pid, 3.0)
        began = watch._alive_at
        while watch._alive_at < began + 3:
            assert not watch.is_over()
            time.sleep(0.05)
        os.kill(busy.pid, signal.SIGSTOP)
        while not watch.is_over():
            time.sleep(0.05)
    finally:
        busy.kill()
        busy.wait()
        theirs.close()


def test_environment_when_the_app_has_secrets_then_a_worker_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ("HF_TOKEN", "PLAYGROUND_PASSWORD", "PLAYGROUND_USERS", "OAUTH_CLIENT_SECRET", "AWS_SECRET_ACCESS_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "hush")
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    process = WorkerProcess("secrets")
    try:
        process.wait_ready()
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        assert b"hush" not in environment
        assert b"OMP_PROC_BIND=false" in environment.split(b"\0")
    finally:
        process.stop()


def test_log_when_a_line_has_no_end_then_it_is_cut(worker: WorkerProcess) -> None:
    worker._read_log(io.BytesIO(b"x" * 2_000_000 + b"\nthe end\n"))
    assert worker.log[-1] == "the end"
    assert max(map(len, worker.log)) <= 8192
    assert sum(map(len, worker.log)) < 1_000_000
