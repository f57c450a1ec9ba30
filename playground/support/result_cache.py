"""A cache of results: an interrupted measurement continues where it was, and one more variant costs only itself.

A result follows from its key: files by their sha256, questions, pictures, settings, engine. Times are never cached.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from playground.support.byte_cache import BytesCache

_LIMIT_BYTES = 512 * 2**20
_T = TypeVar("_T")


class ResultCache:
    """Owns the cache, and the scratch folders of jobs while they run. Safe to use from several threads. A disk error
    makes it forget, and stops nothing."""

    def __init__(self, folder: Path, engine: str) -> None:
        """`engine`: what computes; another one must not use these results."""
        self._folder = folder
        self._engine = engine
        self._cache = BytesCache(folder / "known", _LIMIT_BYTES)
        for left in folder.glob("scratch-*-*"):  # of a process that was killed
            if not psutil.pid_exists(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)

    def close(self) -> None:
        self._cache.close()

    def key(self, *parts: Any) -> str:
        return hashlib.sha256(msgspec.json.encode((self._engine, *parts), order="deterministic")).hexdigest()

    def has(self, key: str) -> bool:
        return self._cache.find(key) is not None

    def get(self, key: str, kind: type[_T]) -> _T | None:
        data = self._cache.find(key)
        try:
            return None if data is None else msgspec.msgpack.decode(data, type=kind)
        except msgspec.DecodeError:
            return None  # of an earlier version

    def put(self, key: str, value: Any) -> None:
        self._cache.set(key, msgspec.msgpack.encode(value))

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A folder that is deleted afterwards."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"scratch-{os.getpid()}-", dir=self._folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
