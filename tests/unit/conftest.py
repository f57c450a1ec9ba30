"""A test here is pure: it starts no process and opens no connection. See tests/README.md."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from playground.comparing import images
from playground.comparing.image_decoder import DECODER
from playground.values.request import Image

FORBIDDEN = {"subprocess.Popen", "os.fork", "os.posix_spawn", "socket.bind", "socket.connect"}
seen: list[str] = []
sys.addaudithook(lambda event, _: seen.append(event) if event in FORBIDDEN else None)


MEMORY = Path("/dev/shm")  # as large as half of the memory, and in a container often 64 MB
ROOM = 2**30


@pytest.fixture(scope="session")
def quickest_folder() -> str | None:
    """In memory, if there is room: these tests would wait for the disk a fifth of their time."""
    return str(MEMORY) if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM else None


@pytest.fixture
def tmp_path(quickest_folder: str | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=quickest_folder, prefix="test-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def pure(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Images are decoded here: the app does it in a process of its own (tests/pool/test_image_decoder.py)."""

    def read(source: Any, name: str = "", *, max_pixels: int = images.MAX_PIXELS, who: str = "") -> Image:
        return images.read_image(source, name, max_pixels=max_pixels)

    def read_pages(
        path: str | Path, numbers: Sequence[int] | None = None, *, max_pixels: int = images.MAX_PIXELS, who: str = ""
    ) -> images.Document:
        return images.document(lambda page: images.read_page(path, "", page, max_pixels=max_pixels), numbers)

    monkeypatch.setattr(DECODER, "read", read)
    monkeypatch.setattr(DECODER, "read_pages", read_pages)
    seen.clear()
    yield
    assert seen == [], "a test that starts a process or opens a connection belongs to another tier: tests/README.md"
