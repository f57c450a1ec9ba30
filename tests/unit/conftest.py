"""A test here is pure: it starts no process and opens no connection. See tests/README.md."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

FORBIDDEN = {"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.bind", "socket.connect"}
seen: list[str] = []
sys.addaudithook(lambda event, _: seen.append(event) if event in FORBIDDEN else None)


@pytest.fixture(autouse=True)
def pure() -> Iterator[None]:
    seen.clear()
    yield
    assert seen == [], "a test that starts a process or opens a connection belongs to another tier: tests/README.md"
