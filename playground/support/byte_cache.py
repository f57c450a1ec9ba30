"""A diskcache that holds bytes only and cannot be made to unpickle (CVE-2025-69872).

If the disk is full or broken, nothing is kept and `problem` says so. The contents of a cache can be made again; data
that cannot has an owner that keeps it until the disk accepts it (notebooks/library.py).
"""

from __future__ import annotations

import logging
import sqlite3
import sys
from pathlib import Path
from typing import Any

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW

logger = logging.getLogger(__name__)


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]
    """Keys are text, values are bytes. Any other row is refused."""

    def put(self, key: Any) -> tuple[Any, bool]:
        if not isinstance(key, str):
            raise TypeError(f"a key must be text, not {type(key).__name__}")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw:
            raise ValueError("refused a pickled key")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if not isinstance(value, bytes):
            raise TypeError(f"a value must be bytes, not {type(value).__name__}")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode not in (MODE_RAW, MODE_BINARY):
            raise ValueError("refused a value that is not plain bytes")
        if (mode == MODE_BINARY) != (filename is not None):
            raise ValueError("refused a value that is in no file, or in one where it should not be")
        return super().fetch(mode, filename, value, read)


# What a full or broken disk raises, and ValueError for what _BytesDisk refuses.
_DISK_ERRORS = (OSError, sqlite3.Error, diskcache.Timeout, ValueError)


class BytesCache:
    """Owns a cache folder. Safe to use from several threads. Without a limit no entry is ever evicted."""

    def __init__(self, folder: Path, size_limit_bytes: int | None) -> None:
        self.problem: str | None = None
        self._cache: diskcache.Cache | None = None
        try:
            self._cache = open_cache(folder, size_limit_bytes)
        except _DISK_ERRORS as error:
            self._note(error)

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()

    def get(self, key: str) -> bytes | None:
        if self._cache is None:
            return None
        try:
            value = self._cache.get(key)
        except _DISK_ERRORS:
            return None
        return value if isinstance(value, bytes) else None

    def set(self, key: str, value: bytes) -> bool:
        """Returns whether the value was stored."""
        if self._cache is None:
            return False
        try:
            self._cache.set(key, value)
            self.problem = None
        except _DISK_ERRORS as error:
            self._note(error)
            return False
        return True

    def delete(self, key: str) -> bool:
        """Returns whether the entry is gone."""
        if self._cache is None:
            return True
        try:
            self._cache.delete(key)
        except _DISK_ERRORS as error:
            self._note(error)
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        if self._cache is None:
            return []
        try:
            return [key for key in self._cache.iterkeys() if key.startswith(prefix)]
        except _DISK_ERRORS as error:
            self._note(error)
            return []

    def _note(self, error: Exception) -> None:
        self.problem = f"the disk refused it: {error}"
        logger.warning("cache: %s", self.problem)


def open_cache(folder: Path, size_limit_bytes: int | None) -> diskcache.Cache:
    """Open or make a cache that only this user can read. With a limit, the least recently used entries are evicted."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    return diskcache.Cache(
        str(folder),
        disk=_BytesDisk,
        size_limit=size_limit_bytes or sys.maxsize,
        eviction_policy="least-recently-used" if size_limit_bytes else "none",
        cull_limit=10,
        statistics=0,
    )
