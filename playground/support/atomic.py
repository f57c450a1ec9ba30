"""Files that are replaced as a whole, so that a reader never sees half of one, nor a writer another's half."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

_WAIT_S = 5.0  # what a lock is held for takes milliseconds


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path`, for the block to write to. The file replaces `path` if the block raises nothing.

    Its name is this call's own, also among processes. Raises OSError.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Raises OSError; `path` is then as it was. A device or a pipe is written to, not replaced."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with replacing(path) as part:
        part.write_bytes(data)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """For reading `path` and writing it anew: one thread of one process at a time. Raises OSError (TimeoutError)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=_WAIT_S):
        yield
