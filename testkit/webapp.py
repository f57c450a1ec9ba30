"""Starts the app as the README says, in a process of its own, for the tests that look at it from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class WebApp:
    url: str
    pid: int
    start_s: float  # from the start of the process to the first page
    log: Path


@contextmanager
def running(
    cache_dir: Path,
    log: Path,
    *,
    model_dirs: tuple[Path, ...] = (),
    program: str | Path = sys.executable,
    command: tuple[str, ...] = ("app.py",),
    folder: Path = ROOT,
    more: Mapping[str, str] | None = None,
) -> Iterator[WebApp]:
    """Runs `program` with the arguments `command` in `folder`. `more`: of the environment."""
    environment = (
        os.environ
        | dict(more or {})
        | {
            "PLAYGROUND_CACHE_DIR": str(cache_dir),
            "PLAYGROUND_MODEL_DIRS": ":".join(map(str, model_dirs)),
            "PYTHONUNBUFFERED": "1",
        }
    )
    environment.pop("GRADIO_SERVER_PORT", None)
    started = time.monotonic()
    with log.open("w") as out:
        app = subprocess.Popen([program, *command], cwd=folder, env=environment, stdout=out, stderr=out)
    try:
        deadline = started + 90
        while not (match := re.search(r"Running on local URL: +(http://\S+)", log.read_text())):
            assert app.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.02)
        assert httpx.get(match[1]).status_code in (200, 401)  # 401: it wants a login
        yield WebApp(match[1], app.pid, time.monotonic() - started, log)
    finally:
        app.terminate()
        try:
            app.wait(15)
        except subprocess.TimeoutExpired:
            app.kill()
            raise
