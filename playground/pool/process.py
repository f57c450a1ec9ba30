"""One worker's life, seen from the parent.

    starting -> ready <-> busy -> stopping -> stopped        any -> failed (its last stderr lines kept)

A worker is a child process with its own process group, a pipe for messages, and stderr that is read to the end. A
worker that breaks the protocol is killed, and the pool starts another.
"""

from __future__ import annotations

import logging
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

import playground
from playground import errors
from playground.engine import protocol
from playground.errors import EngineError, PlaygroundError, WorkerDied
from playground.values.memory import WorkerState

logger = logging.getLogger(__name__)

_START_DEADLINE_S = 120.0  # importing llama.cpp takes 0.5 s; initialising CUDA on a busy machine can take long
_POLL_S = 0.05  # how often a waiting request looks at its stop flag
_CANCEL_GRACE_S = 60.0  # an image that is being encoded cannot be interrupted, only killed
_STOP_GRACE_S = 2.0


class WorkerProcess:
    """A Worker (contract.py): owns a child process and its pipe."""

    def __init__(self, name: str, environment: Mapping[str, str] | None = None) -> None:
        """`environment`: variables that differ from the app's own."""
        self.name = name
        self.state = WorkerState.STARTING
        self._stop_lock = Lock()
        self._tail: deque[str] = deque(maxlen=60)
        ours, theirs = socket.socketpair()
        package_parent = str(Path(playground.__file__).parent.parent)
        whole = (
            os.environ
            | {
                "GGML_NO_BACKTRACE": "1",  # else ggml starts gdb when it aborts
                "PYTHONPATH": os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH")])),
            }
            | dict(environment or {})
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "playground.engine.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=whole,
                start_new_session=True,
                text=True,
                errors="replace",
            )
        self._connection: Connection = Connection(ours.detach())
        assert self._process.stderr is not None
        Thread(target=self._read_log, args=(self._process.stderr,), daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None and self.state in (WorkerState.READY, WorkerState.BUSY)

    def wait_ready(self) -> protocol.Ready:
        """Wait for the worker's first message. Raises WorkerDied."""
        try:
            if not self._connection.poll(_START_DEADLINE_S):
                self.stop()
                raise WorkerDied(f"The worker did not start within {_START_DEADLINE_S:.0f} s.", self.log)
            ready = protocol.receive_reply(self._connection)
        except (EOFError, OSError):
            raise self._died() from None
        assert isinstance(ready, protocol.Ready)
        self.state = WorkerState.READY
        return ready

    def ping(self) -> protocol.Pong | None:
        """None if the process has ended: one that was just killed can look alive for milliseconds."""
        try:
            return self.request(protocol.Ping())
        except WorkerDied:
            return None

    def request(
        self,
        request: protocol.Request[protocol.R],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> protocol.R:
        """Send a request and wait for its final reply. When `stop` returns True, the worker is asked to end early.

        Raises the error that the worker reports, and WorkerDied.
        """
        self.state = WorkerState.BUSY
        cancelled_at: float | None = None
        try:
            protocol.send(self._connection, request)
            while True:
                if cancelled_at is None and stop():
                    protocol.send(self._connection, protocol.Cancel())
                    cancelled_at = time.monotonic()
                elif cancelled_at is not None and time.monotonic() - cancelled_at > _CANCEL_GRACE_S:
                    raise WorkerDied("The worker did not stop when asked and was killed.", self.log)
                if not self._connection.poll(_POLL_S):
                    continue
                reply = protocol.receive_reply(self._connection)
                if isinstance(reply, protocol.Chunk):
                    on_chunk(reply)
                elif isinstance(reply, protocol.Step):
                    on_step(reply)
                else:
                    break
        except (EOFError, OSError):
            raise self._died() from None
        except BaseException:
            self.stop()  # its replies to this request would be taken for those to the next one
            raise
        self.state = WorkerState.READY
        if isinstance(reply, protocol.Failed):
            raise self._as_error(reply)
        assert isinstance(reply, request.reply_type())
        return reply

    def stop(self) -> None:
        """Close the pipe, then send SIGTERM and SIGKILL to the process group. Blocks until the process has ended."""
        with self._stop_lock:
            if self.state in (WorkerState.STOPPED, WorkerState.FAILED):
                return
            self.state = WorkerState.STOPPING
            # EOF ends a healthy worker at once. The pipe is shut down, not closed: another thread may wait on it.
            with socket.socket(fileno=os.dup(self._connection.fileno())) as pipe:
                pipe.shutdown(socket.SHUT_RDWR)
            for kill in (None, signal.SIGTERM, signal.SIGKILL):
                if kill is not None:
                    self._signal(kill)
                try:
                    self._process.wait(_STOP_GRACE_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self.state = WorkerState.STOPPED

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
        time.sleep(0.05)  # its last lines are on their way through the pipe
        return WorkerDied(_last_words(code, self.log), self.log)

    def _as_error(self, reply: protocol.Failed) -> PlaygroundError:
        kind = getattr(errors, reply.kind, EngineError)
        if issubclass(kind, EngineError):
            return EngineError(reply.message, self.log[-20:])
        error: PlaygroundError = kind(reply.message)
        return error

    def _read_log(self, stderr: IO[str]) -> None:
        for line in stderr:
            self._tail.append(line.rstrip("\n"))
            logger.debug("%s: %s", self.name, line.rstrip("\n"))


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
    if code < 0:
        name = signal.Signals(-code).name
        return f"llama.cpp crashed ({name}). The file may be damaged, or not one that this llama.cpp can run."
    return f"The worker ended with code {code}. Run again to start it anew."
