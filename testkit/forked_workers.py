"""Workers that are forked from a process that has imported llama.cpp: half a second less of a processor for each.

They run the program that the app starts (playground.engine.worker). tests/pool starts it as the app does.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from playground.pool import process
from testkit import forked

_WORKER = "playground.engine.worker"


class ForkServer(forked.ForkServer):
    """Starts the process that forks when the first worker is wanted."""

    def __init__(self) -> None:
        super().__init__(__name__)

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
        self.start(process.child_environment())
        if command[2] == _WORKER:
            stderr, their_stderr = os.pipe()
            nothing = os.open(os.devnull, os.O_WRONLY)
            worker = self.fork(env, nothing, their_stderr, pass_fds)
            os.close(nothing)
            os.close(their_stderr)
            if worker is not None:
                worker.stderr = os.fdopen(stderr, "rb")
                return worker
            os.close(stderr)
        return subprocess.Popen(command, pass_fds=pass_fds, env=env, **rest)


def _work(passed: Sequence[int]) -> None:
    """Does not return."""
    sys.argv[1:] = [str(fd) for fd in passed]
    try:
        worker.main()
    except BaseException:
        traceback.print_exc()
    os._exit(1)  # a worker ends by itself, in a thread


if __name__ == "__main__":
    from playground.engine import loading, worker  # llama_cpp before numpy (loading.py)

    connection = socket.socket(fileno=int(sys.argv[1]))
    if loading.GPU_OFFLOAD:  # no fork could use a GPU
        connection.send(b"n")
    else:
        # What else a worker imports, before it answers and while it does.
        import jinja2  # noqa: F401
        import numpy  # noqa: F401  behind llama_cpp

        forked.serve(connection, _work)
