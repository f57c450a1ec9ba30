"""Workers that are forked from a process that has imported llama.cpp: half a second less of a processor for each.

They run the program that the app starts (playground.engine.worker). tests/pool and tests/web start it as the app does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import IO, Any

import pytest

from playground.pool import process

_WORKER = "playground.engine.worker"


class ForkedWorker:
    """What WorkerProcess uses of a Popen. The server is the process's parent and reports how it ended."""

    def __init__(self, server: socket.socket, pipe: int, environment: Mapping[str, str]) -> None:
        stderr, their_stderr = os.pipe()
        self._ended, their_ended = os.pipe()
        job = json.dumps([os.getcwd(), dict(environment)])
        socket.send_fds(server, [job.encode()], [pipe, their_stderr, their_ended])
        os.close(their_stderr)
        os.close(their_ended)
        self.stderr: IO[bytes] = os.fdopen(stderr, "rb")
        self.pid = _number(self._ended)
        self._reading = Lock()
        self._code: int | None = None

    def poll(self) -> int | None:
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        with self._reading:
            if self._code is None:
                if not select.select([self._ended], [], [], timeout)[0]:
                    raise subprocess.TimeoutExpired(_WORKER, timeout or 0)
                self._code = _number(self._ended)
                os.close(self._ended)
            return self._code


class ForkServer:
    """Starts the process that forks when the first worker is wanted."""

    def __init__(self) -> None:
        self._starting = Lock()
        self._requests: socket.socket | None = None
        self._forks = False

    def close(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._process.wait()

    @contextmanager
    def forking(self) -> Iterator[None]:
        """All workers of this process are forked meanwhile."""

        class Subprocess:
            PIPE, DEVNULL, TimeoutExpired = subprocess.PIPE, subprocess.DEVNULL, subprocess.TimeoutExpired
            Popen = self._popen

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(process, "subprocess", Subprocess)
            yield

    def _popen(self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str], **rest: Any) -> Any:
        with self._starting:
            if self._requests is None:
                self._start()
        if self._forks and command[2] == _WORKER:
            assert self._requests is not None
            return ForkedWorker(self._requests, pass_fds[0], env)
        return subprocess.Popen(command, pass_fds=pass_fds, env=env, **rest)

    def _start(self) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "testkit.forked_workers", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=process.child_environment(),
            )
        self._forks = self._requests.recv(1) == b"y"  # not where llama.cpp was built for a GPU, which no fork could use


def _number(pipe: int) -> int:
    return int.from_bytes(os.read(pipe, 4), "little", signed=True)


def _serve(requests: socket.socket) -> None:
    """Fork until the tests' process is gone."""
    # All that a worker imports, before it answers and while it does.
    import jinja2  # noqa: F401
    import numpy  # noqa: F401  behind llama_cpp

    children: dict[int, int] = {}  # pid: where to report its end
    wakes, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake)
    requests.send(b"y")
    while True:
        ready, _, _ = select.select([requests.fileno(), wakes], [], [])
        if wakes in ready:
            os.read(wakes, 4096)
            for pid, ended in list(children.items()):
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    _report(ended, os.waitstatus_to_exitcode(status))
                    os.close(children.pop(pid))
        if requests.fileno() in ready:
            job, fds, _, _ = socket.recv_fds(requests, 2**20, 3)
            if not job:
                return
            pipe, stderr, ended = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                folder, environment = json.loads(job)
                _become(folder, environment, pipe, stderr, close=[requests.fileno(), wakes, wake, ended])
            os.setpgid(pid, pid)  # as the child does: whichever comes first
            children[pid] = ended
            _report(ended, pid)
            os.close(pipe)
            os.close(stderr)


def _report(where: int, number: int) -> None:
    try:
        os.write(where, number.to_bytes(4, "little", signed=True))
    except BrokenPipeError:  # nobody waits any more
        pass


def _become(folder: str, environment: Mapping[str, str], pipe: int, stderr: int, close: Sequence[int]) -> None:
    """The worker, in the forked process. Does not return."""
    from playground.engine import worker

    os.setpgid(0, 0)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDWR)
    for target, source in ((0, nothing), (1, nothing), (2, stderr)):
        os.dup2(source, target)
    for fd in (nothing, stderr, *close):
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = [str(pipe)]
    try:
        worker.main()
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # a worker ends by itself, in a thread


if __name__ == "__main__":
    from playground.engine import loading, worker  # noqa: F401  llama_cpp before numpy (loading.py)

    connection = socket.socket(fileno=int(sys.argv[1]))
    if loading.GPU_OFFLOAD:
        connection.send(b"n")
    else:
        _serve(connection)
