"""Processes that are forked from one that has imported what they need: it is imported once."""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from threading import Lock
from typing import IO


class Forked:
    """What is used of a Popen. The server is the process's parent and reports how it ended."""

    stderr: IO[bytes] | None = None

    def __init__(
        self, server: socket.socket, environment: Mapping[str, str], stdout: int, stderr: int, passed: Sequence[int]
    ) -> None:
        self._ended, their_ended = os.pipe()
        job = json.dumps([os.getcwd(), dict(environment)])
        socket.send_fds(server, [job.encode()], [their_ended, stdout, stderr, *passed])
        os.close(their_ended)
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
                    raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
                self._code = _number(self._ended)
                os.close(self._ended)
            return self._code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


class ForkServer:
    """Owns the process that forks. It runs `module`, which calls `serve`."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._starting = Lock()
        self._requests: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._forks = False

    def close(self) -> None:
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            self._process.wait()

    def start(self, environment: Mapping[str, str]) -> None:
        """Unless it runs. Returns when it can fork."""
        with self._starting:
            if self._requests is not None:
                return
            self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", self._module, str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    env=environment,
                )
            self._forks = self._requests.recv(1) == b"y"

    def fork(
        self, environment: Mapping[str, str], stdout: int, stderr: int, passed: Sequence[int] = ()
    ) -> Forked | None:
        """None if no process can be forked there. Of `start`, which came before, it has what it imported."""
        assert self._requests is not None
        return Forked(self._requests, environment, stdout, stderr, passed) if self._forks else None


def serve(requests: socket.socket, run: Callable[[Sequence[int]], None]) -> None:
    """Fork until the tests' process is gone. `run` is called in each forked process with the descriptors passed."""
    gc.collect()
    gc.freeze()
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
            job, fds, _, _ = socket.recv_fds(requests, 2**20, 8)
            if not job:
                return
            ended, *theirs = fds
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for fd in (requests.fileno(), wakes, wake, ended, *children.values()):
                    os.close(fd)
                requests.detach()
                stdout, stderr, *passed = theirs
                folder, environment = json.loads(job)
                _become(folder, environment, stdout, stderr)
                run(passed)
                return
            os.setpgid(pid, pid)  # as the child does: whichever comes first
            children[pid] = ended
            _report(ended, pid)
            for fd in theirs:
                os.close(fd)


def _become(folder: str, environment: Mapping[str, str], stdout: int, stderr: int) -> None:
    os.setpgid(0, 0)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((nothing, stdout, stderr)):
        os.dup2(source, target)
    for fd in {nothing, stdout, stderr}:
        os.close(fd)
    os.environ.clear()
    os.environ.update(environment)


def _report(where: int, number: int) -> None:
    try:
        os.write(where, number.to_bytes(4, "little", signed=True))
    except BrokenPipeError:  # nobody waits any more
        pass


def _number(pipe: int) -> int:
    return int.from_bytes(os.read(pipe, 4), "little", signed=True)
