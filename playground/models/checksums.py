"""The sha256 of model files, kept by path, size and time of change: a file of 5 GB takes seconds to read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from playground.support.byte_cache import BytesCache

_KEPT_BYTES = 16 * 2**20


class Checksums:
    """Owns a cache folder. Safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self._cache = BytesCache(folder, _KEPT_BYTES)

    def close(self) -> None:
        self._cache.close()

    def of(self, path: Path) -> str:
        """Of the whole file."""
        key = _key(path)
        kept = self._cache.find(key)
        if kept is None:
            with open(path, "rb") as file:
                kept = hashlib.file_digest(file, "sha256").hexdigest().encode()
            self._cache.set(key, kept)
        return kept.decode()

    def note(self, path: Path, sha256: str) -> None:
        """Keep a checksum that was taken already, while the file was downloaded."""
        self._cache.set(_key(path), sha256.encode())


def _key(path: Path) -> str:
    stat = path.stat()
    return f"{path}:{stat.st_size}:{stat.st_mtime_ns}"
