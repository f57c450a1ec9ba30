"""One worker's life, seen from the parent.

    starting -> ready <-> busy -> stopping -> stopped        any -> failed (its last stderr lines kept)

A worker is a child process with its own process group, a pipe for messages, and stderr that is read to the end. A
worker that breaks the protocol, gives no sign of life, or does not hear Cancel is killed, and the pool starts another.
"""

from __future__ import annotations

import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock, Thread
from typing import IO

import psutil

import playground
from playground import errors
from playground.engine import protocol
from playground.errors import EngineError, Interrupted, PlaygroundError, WorkerDied
from playground.pool.contract import FRESH_S, Dialogue
from playground.pool.pipe import Pipe
from playground.values.memory import WorkerState

logger = logging.getLogger(__name__)

_START_DEADLINE_S = 120.0  # importing llama.cpp takes 0.5 s; initialising CUDA on a busy machine can take long
_POLL_S = 0.05  # how often a waiting request looks at its stop flag
_CANCEL_GRACE_S = 2.0  # an image that is being encoded and a file that is being loaded do not hear Cancel
_STOP_GRACE_S = 2.0
_PING_S = 2.0  # an idle worker answers within a millisecond
_HEARTBEAT_S = 1.0
SILENCE_S = 30.0
_LAST_LINES_S = 2.0  # for what a process that has ended wrote last; a child of it may hold stderr open
_LINE_BYTES = 8192  # of stderr; a longer line is cut

# A worker runs strangers' code and needs none of these.
_SECRETS = re.compile(r"^PLAYGROUND_|TOKEN|SECRET|PASSW|CREDENTIAL|KEY", re.IGNORECASE)


def child_environment() -> dict[str, str]:
    """Of a child that imports this package: the app's own without its secrets."""
    package_parent = str(Path(playground.__file__).parent.parent)
    inherited = {name: value for name, value in os.environ.items() if not _SECRETS.search(name)}
    path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")]))
    return inherited | {"PYTHONPATH": path}


class WorkerProcess:
    """A Worker (contract.py): owns a child process and its pipe."""

    def __init__(
        self,
        name: str,
        environment: Mapping[str, str] | None = None,
        *,
        silence_s: float = SILENCE_S,
        module: str = "playground.engine.worker",
    ) -> None:
        """environment: variables that differ from the app's own. silence_s: a busy worker that answers no heartbeat
        and uses no processor time for that long is killed. module: what the process runs."""
        self.name = name
        self._silence_s = silence_s
        self.state = WorkerState.STARTING
        self._stop_lock = Lock()
        self._start_lock = Lock()
        self._ready: protocol.Ready | None = None
        self._tail: deque[str] = deque(maxlen=60)
        ours, theirs = socket.socketpair()
        # ggml starts gdb when it aborts, unless it is told not to.
        whole = child_environment() | {"GGML_NO_BACKTRACE": "1"} | dict(environment or {})
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=whole,
                start_new_session=True,
            )
        self._pipe = Pipe(Connection(ours.detach()))
        assert self._process.stderr is not None
        self._log_reader = Thread(target=self._read_log, args=(self._process.stderr,), daemon=True)
        self._log_reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and self.state in (WorkerState.READY, WorkerState.BUSY)

    @property
    def is_fresh(self) -> bool:
        return self.alive and time.monotonic() - self._pipe.heard_at < FRESH_S

    def wait_ready(self) -> protocol.Ready:
        """Wait for the worker's first message, which is kept. From any thread. Raises WorkerDied."""
        with self._start_lock:
            if self._ready is None:
                self._ready = self._receive_ready()
            return self._ready

    def _receive_ready(self) -> protocol.Ready:
        watch = _SilenceWatch(self._pipe, self.pid, self._silence_s)
        deadline = time.monotonic() + _START_DEADLINE_S
        try:
            while (ready := self._pipe.receive(_POLL_S)) is None:
                if time.monotonic() > deadline or watch.is_over():
                    self.kill()
                    raise WorkerDied("The worker did not start in time.", self.log)
        except (EOFError, OSError):
            raise self._died() from None
        assert isinstance(ready, protocol.Ready)
        self.state = WorkerState.READY
        return ready

    def ping(self) -> protocol.Pong | None:
        """None if the process has ended, or does not answer within 2 s: then it is killed."""
        try:
            return self.request(protocol.Ping(), deadline_s=_PING_S)
        except WorkerDied:
            return None

    def request(
        self,
        request: protocol.Request[protocol.R],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        dialogue: Dialogue | None = None,
        stop: Callable[[], bool] = lambda: False,
        deadline_s: float = math.inf,
    ) -> protocol.R:
        """Send a request and wait for its final reply. When `stop` returns True, the worker is asked to end early, and
        killed 2 s later.

        Raises the error that the worker reports, WorkerDied, and Interrupted for a worker that was killed after `stop`.
        """
        self.state = WorkerState.BUSY
        watch = _SilenceWatch(self._pipe, self.pid, self._silence_s)
        deadline = time.monotonic() + deadline_s
        cancelled_at: float | None = None
        try:
            self._pipe.send(request)
            while True:
                if cancelled_at is None and stop():
                    self._pipe.send(protocol.Cancel())
                    cancelled_at = time.monotonic()
                elif cancelled_at is not None and time.monotonic() - cancelled_at > _CANCEL_GRACE_S:
                    raise Interrupted("Stopped. The model did not stop when asked, so it was unloaded.")
                if watch.is_over():
                    raise WorkerDied(
                        f"The worker gave no sign of life for {self._silence_s:.0f} s and was killed. Run again to "
                        "start it anew.",
                        self.log,
                    )
                if time.monotonic() > deadline:
                    raise WorkerDied(f"The worker did not answer within {deadline_s:.0f} s and was killed.", self.log)
                if dialogue is not None:
                    for message in dialogue.to_send():
                        self._pipe.send(message)
                reply = self._pipe.receive(_POLL_S)
                if reply is None:
                    continue
                if isinstance(reply, protocol.Chunk):
                    on_chunk(reply)
                elif isinstance(reply, protocol.SequenceReply):
                    if dialogue is not None:
                        dialogue.received(reply)
                elif isinstance(reply, protocol.Step):
                    on_step(reply)
                else:
                    break
        except (EOFError, OSError):
            raise self._died() from None
        except BaseException:
            self.kill()  # its replies to this request would be taken for those to the next one
            raise
        self.state = WorkerState.READY
        if isinstance(reply, protocol.Failed):
            raise self._as_error(reply)
        assert isinstance(reply, request.reply_type())
        return reply

    def wake(self) -> None:
        self._pipe.wake()

    def stop(self) -> None:
        """Close the pipe, then send SIGTERM and SIGKILL to the process group. Blocks until the process has ended."""
        with self._stop_lock:
            if self.state in (WorkerState.STOPPED, WorkerState.FAILED):
                return
            self.state = WorkerState.STOPPING
            self._pipe.close()  # EOF ends a healthy worker at once
            for kill in (None, signal.SIGTERM, signal.SIGKILL):
                if kill is not None:
                    self._signal(kill)
                try:
                    self._process.wait(_STOP_GRACE_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self.state = WorkerState.STOPPED

    def kill(self) -> None:
        """End a worker that may not react. Returns when its process has ended, within milliseconds."""
        if self._process.poll() is None:
            self._signal(signal.SIGKILL)
        self.stop()

    @property
    def log(self) -> tuple[str, ...]:
        return tuple(self._tail)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _died(self) -> WorkerDied:
        """The error for a worker whose pipe closed, with what is known about its end."""
        try:
            code = self._process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            code = self._process.wait()
        if self.state is not WorkerState.STOPPING:
            self.state = WorkerState.FAILED
        self._log_reader.join(_LAST_LINES_S)  # its last lines are on their way through the pipe
        return WorkerDied(_last_words(code, self.log), self.log)

    def _as_error(self, reply: protocol.Failed) -> PlaygroundError:
        error = as_error(reply)
        return EngineError(error.message, self.log[-20:]) if isinstance(error, EngineError) else error

    def _read_log(self, stderr: IO[bytes]) -> None:
        while raw := stderr.readline(_LINE_BYTES):
            line = raw.decode(errors="replace").rstrip("\n")
            self._tail.append(line)
            logger.debug("%s: %s", self.name, line)


def as_error(reply: protocol.Failed) -> PlaygroundError:
    """The error that a worker reports."""
    kind = getattr(errors, reply.kind, EngineError)
    error: PlaygroundError = kind(reply.message)
    return error


class _SilenceWatch:
    """Whether a busy worker has given no sign of life for too long.

    A sign of life is a message, or processor time that its process used: honest work may hold Python's lock, or take
    minutes within one call of llama.cpp. A process that was stopped gives neither.
    """

    def __init__(self, pipe: Pipe, pid: int, silence_s: float) -> None:
        self._pipe = pipe
        self._pid = pid
        self._silence_s = silence_s
        self._alive_at = self._asked_at = time.monotonic()
        self._used_s: float | None = None

    def is_over(self) -> bool:
        """Asks for a heartbeat when nothing was heard for a second."""
        now = time.monotonic()
        self._alive_at = max(self._alive_at, self._pipe.heard_at)
        if now - max(self._alive_at, self._asked_at) > _HEARTBEAT_S:
            self._asked_at = now
            self._pipe.send(protocol.Heartbeat())
            before, self._used_s = self._used_s, _processor_s(self._pid)
            if before is not None and self._used_s is not None and self._used_s > before:
                self._alive_at = now
        return now - self._alive_at > self._silence_s


def _processor_s(pid: int) -> float | None:
    """None: the process has ended."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    return float(times.user + times.system)


def _last_words(code: int, log: tuple[str, ...]) -> str:
    aborted = [line for line in log if re.search(r"GGML_ASSERT|GGML_ABORT|terminate called|CUDA error", line)]
    if any("out of memory" in line for line in log):
        return (
            "The GPU's memory ran out while it computed: another program may have taken it. Run again when it is free, "
            "or choose a smaller quantization or context."
        )
    if aborted:
        return f"llama.cpp aborted: {aborted[-1].strip()} The file or a setting is not one that it can run."
    if code == -signal.SIGKILL:
        return "The worker was killed (SIGKILL), by a person or because memory ran out. Run again to start it anew."
    if code == -signal.SIGALRM:  # engine/sampling.py
        return (
            "The grammar or JSON schema may go on in too many ways: one token took more than 10 s, and the worker "
            "ended. Write fewer optional parts in a row."
        )
    if code < 0:
        name = signal.Signals(-code).name
        return f"llama.cpp crashed ({name}). The file may be damaged, or not one that this llama.cpp can run."
    return f"The worker ended with code {code}. Run again to start it anew."
