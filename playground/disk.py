"""A diskcache that holds bytes only and cannot be made to unpickle (CVE-2025-69872)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys are text, values are bytes; a row of any other kind, however it got there, is refused."""

    def put(self, key: Any) -> tuple[Any, bool]:
        if not isinstance(key, str):
            raise TypeError(f"a key has to be text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("refused a pickled key")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if not isinstance(value, bytes):
            raise TypeError(f"a value has to be bytes, not {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (MODE_RAW, MODE_BINARY):
            raise ValueError("refused a value that is not plain bytes")
        return super().fetch(mode, filename, value, read)


# What a full or broken disk raises; a cache is then skipped, never fatal.
DISK_ERRORS = (OSError, sqlite3.Error, diskcache.Timeout, ValueError)


def open_cache(folder: Path, size_limit_bytes: int) -> diskcache.Cache:
    """Open or make a cache that only this user can read. Least recently used entries give way."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return diskcache.Cache(
        str(folder),
        disk=_BytesDisk,
        size_limit=size_limit_bytes,
        eviction_policy="least-recently-used",
        cull_limit=10,
        statistics=0,
    )
