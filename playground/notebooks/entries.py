"""The entries of the notebooks' folder, never lost: what the disk refuses is kept in memory until it is accepted."""

from __future__ import annotations

from pathlib import Path
from threading import RLock

from playground.support.byte_cache import BytesCache


class Entries:
    """Owns the folder's database. Safe to use from several threads.

    Each write tries again what the disk refused before; `problem` says so meanwhile. `get` and `keys` raise Unreadable
    where the disk does not answer: what is there is then unknown, and must not be replaced.
    """

    def __init__(self, folder: Path) -> None:
        self._cache = BytesCache(folder, None)
        self._unsaved: dict[str, bytes | None] = {}  # None: to be deleted
        self._lock = RLock()

    def close(self) -> None:
        self.retry()
        self._cache.close()

    @property
    def problem(self) -> str | None:
        return (self._cache.problem or "the disk refused it") if self._unsaved else None

    @property
    def unreadable(self) -> bool:
        """Whether the last read failed."""
        return self._cache.unreadable is not None

    @property
    def damaged(self) -> str | None:
        """The name of a damaged database that was set aside and still lies in the folder."""
        return self._cache.damaged

    @property
    def shared(self) -> bool:
        """Whether another program uses the folder too."""
        return self._cache.shared

    def get(self, key: str) -> bytes | None:
        return self._unsaved[key] if key in self._unsaved else self._cache.get(key)

    def put(self, key: str, value: bytes) -> bool:
        """Returns whether the disk accepted it."""
        with self._lock:
            if not self._cache.set(key, value):
                self._unsaved[key] = value
                return False
            self._unsaved.pop(key, None)
            self.retry()
            return True

    def delete(self, key: str) -> None:
        self._unsaved.pop(key, None)
        if not self._cache.delete(key):
            self._unsaved[key] = None

    def keys(self, prefix: str) -> list[str]:
        names = {*self._cache.keys(prefix), *(key for key in list(self._unsaved) if key.startswith(prefix))}
        return [key for key in names if self._unsaved.get(key, b"") is not None]

    def retry(self) -> None:
        """Writes and deletes what the disk refused."""
        with self._lock:
            for key, value in list(self._unsaved.items()):
                if self._cache.delete(key) if value is None else self._cache.set(key, value):
                    del self._unsaved[key]
