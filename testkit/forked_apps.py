"""Apps that are forked from a process that has imported Gradio: three seconds less of a processor for each.

They run the same main as `python app.py`, and their workers are forked too (forked_workers.py). Where the environment
holds anything for a library, which reads it when it is imported, the app is started as ever.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from playground.pool import process
from testkit import forked, webapp
from testkit.forked_workers import ForkServer


@contextmanager
def forking() -> Iterator[None]:
    """All apps that webapp starts are forked meanwhile, where that makes no difference."""
    own = _of_libraries(os.environ | {"PYTHONUNBUFFERED": "1"})

    def popen(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str], stdout: IO[str], stderr: Any) -> Any:
        if command == [sys.executable, "app.py"] and cwd == webapp.ROOT and own == _of_libraries(env):
            server.start(own)
            app = server.fork(env, stdout.fileno(), stdout.fileno())
            if app is not None:
                return app
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=stdout, stderr=stderr)

    class Subprocess:
        TimeoutExpired = subprocess.TimeoutExpired
        Popen = staticmethod(popen)

    with closing(forked.ForkServer(__name__)) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(webapp, "subprocess", Subprocess)
        yield


_READ_LATER = ("PLAYGROUND_", "PYTEST_", "GRADIO_", "HF_HUB_DISABLE_TELEMETRY")  # Gradio sets the last one itself


def _of_libraries(environment: Mapping[str, str]) -> dict[str, str]:
    """What is read when a library is imported."""
    return {name: value for name, value in environment.items() if not name.startswith(_READ_LATER)}


if __name__ == "__main__":
    os.chdir(webapp.ROOT)
    sys.path.insert(0, str(webapp.ROOT))
    import app

    workers = ForkServer()
    workers.start(process.child_environment())

    def _serve(_: Sequence[int]) -> None:
        os.chdir(webapp.ROOT)
        sys.argv[:] = ["app.py"]
        with workers.forking():
            app.main()

    forked.serve(socket.socket(fileno=int(sys.argv[1])), _serve)
