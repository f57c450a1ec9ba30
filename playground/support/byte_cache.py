"""A diskcache that holds bytes only and cannot be made to unpickle (CVE-2025-69872).

If the disk is full or broken, nothing is kept and `problem` says so. The contents of a cache can be made again; data
that cannot has an owner that keeps it until the disk accepts it (notebooks/library.py).

A read that fails is never "nothing there": it raises Unreadable. A damaged database is set aside (salvage.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import diskcache
import filelock
from diskcache.core import MODE_BINARY, MODE_RAW

from playground.errors import Unreadable
from playground.support import salvage

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


class _Cache(diskcache.Cache):  # type: ignore[misc]
    """diskcache waits 60 s for a lock while it opens a database, whatever its timeout is; here the timeout holds."""

    def __init__(self, folder: Path, timeout_s: float, **settings: object) -> None:
        self._patience_s = timeout_s
        super().__init__(str(folder), timeout_s, **settings)

    @property
    def _sql_retry(self) -> Callable[..., sqlite3.Cursor]:
        execute: Callable[..., sqlite3.Cursor] = self._sql

        def patient(statement: str, *values: object) -> sqlite3.Cursor:
            until = time.monotonic() + self._patience_s
            while True:
                try:
                    return execute(statement, *values)
                except sqlite3.OperationalError as error:
                    if str(error) != "database is locked" or time.monotonic() > until:
                        raise
                time.sleep(0.01)

        return patient


# What a full or broken disk raises.
_DISK_ERRORS = (OSError, sqlite3.Error, diskcache.Timeout)

_AGAIN_S = 1.0  # between two attempts to open a database that the disk refused
_TIMEOUT_S = 10.0  # for a lock that another process holds on the database

_T = TypeVar("_T")


class BytesCache:
    """Owns a cache folder. Safe to use from several threads. Without a limit no entry is ever evicted."""

    def __init__(self, folder: Path, size_limit_bytes: int | None, timeout_s: float = _TIMEOUT_S) -> None:
        self.problem: str | None = None  # what the disk refused last
        self.unreadable: str | None = None  # why the last read failed
        self._folder = folder
        self._limit = size_limit_bytes
        self._timeout_s = timeout_s
        self._cache: diskcache.Cache | None = None
        self._opening = Lock()
        self._tried_at = -_AGAIN_S
        self._holder: filelock.BaseFileLock | None = None
        self._opened()

    def close(self) -> None:
        if self._cache is not None:
            self._cache.close()
        if self._holder is not None:
            self._holder.release()

    @property
    def shared(self) -> bool:
        """Whether another process, or another cache of this one, has opened the folder before."""
        return not self._held()

    @property
    def damaged(self) -> str | None:
        """The name of a database that was damaged and set aside, as long as it lies in the folder."""
        try:
            path = salvage.damaged(self._folder)
        except OSError:
            return None
        return path.name if path else None

    def get(self, key: str) -> bytes | None:
        """None if it is not there. Raises Unreadable if the disk does not say so."""
        if any("\ud800" <= character <= "\udfff" for character in key):  # halves of characters: no key has one
            return None
        return self._read(lambda cache: self._value(cache, key), None)

    def find(self, key: str) -> bytes | None:
        """As `get`, for what can be made again: what cannot be read is not there."""
        try:
            return self.get(key)
        except Unreadable:
            return None

    def set(self, key: str, value: bytes) -> bool:
        """Returns whether the value was stored."""
        return self._write(lambda cache: cache.set(key, value))

    def delete(self, key: str) -> bool:
        """Returns whether the entry is gone."""
        return self._is_absent() or self._write(lambda cache: cache.delete(key))

    def keys(self, prefix: str) -> list[str]:
        """The keys that begin with a prefix. Raises Unreadable."""
        select = "SELECT key FROM Cache WHERE raw = 1 AND key >= ? AND key < ?"  # by the index on (key, raw)
        behind = f"{prefix}{chr(sys.maxunicode)}"
        return self._read(lambda cache: [key for (key,) in cache._sql(select, (prefix, behind)).fetchall()], [])

    # --- the disk ----------------------------------------------------------------------------------------------

    def _read(self, read: Callable[[diskcache.Cache], _T], nothing: _T) -> _T:
        cache = self._opened()
        if cache is None and self._is_absent():
            return nothing
        try:
            if cache is None:
                raise OSError(self.problem)
            value = read(cache)
        except _DISK_ERRORS as error:
            if str(error) != self.unreadable:
                logger.warning("cache %s: cannot be read: %s", self._folder.name, error)
            self.unreadable = str(error)
            again = (
                "It is damaged. The operator can restart the app, which keeps what can still be read."
                if salvage.is_damage(error)
                else "Try again in a moment."
            )
            raise Unreadable(f"The disk cannot be read now. Nothing was changed. {again}") from error
        self.unreadable = None
        return value

    def _write(self, write: Callable[[diskcache.Cache], object]) -> bool:
        cache = self._opened()
        if cache is None:
            return False
        try:
            write(cache)
            self.problem = None
        except (*_DISK_ERRORS, ValueError) as error:  # ValueError: what _BytesDisk refuses
            self._note(error)
            return False
        return True

    def _value(self, cache: diskcache.Cache, key: str) -> bytes | None:
        """Not diskcache's own `get`, which takes each error of a value's file for a missing key."""
        select = "SELECT rowid, mode, filename, value FROM Cache WHERE key = ? AND raw = 1"
        missing = None
        while True:
            row = cache._sql(select, (key,)).fetchone()
            if row is None:
                return None
            id, mode, filename, value = row
            try:
                value = cache.disk.fetch(mode, filename, value, False)
            except FileNotFoundError:
                if missing == filename:  # not replaced by another thread just now: it is lost
                    return None
                missing = filename
                continue
            except ValueError:  # planted
                return None
            if self._limit is not None:
                with contextlib.suppress(*_DISK_ERRORS):  # it only decides what gives way first
                    cache._sql("UPDATE Cache SET access_time = ? WHERE rowid = ?", (time.time(), id))
            return value if isinstance(value, bytes) else None

    def _opened(self) -> diskcache.Cache | None:
        """None where the disk refuses it; another attempt is made a moment later."""
        if self._cache is not None:
            return self._cache
        with self._opening:
            if self._cache is None and time.monotonic() - self._tried_at >= _AGAIN_S:
                try:
                    self._cache = self._open()
                    self.problem = None
                except _DISK_ERRORS as error:
                    self._note(error)
                self._tried_at = time.monotonic()
            return self._cache

    def _open(self) -> diskcache.Cache:
        _make_private(self._folder)
        alone = self._held()
        try:
            salvage.check(self._folder, self._timeout_s)
        except sqlite3.DatabaseError as error:
            if not salvage.is_damage(error) or not alone:  # another process may be writing to it
                raise
            rows = salvage.set_aside(self._folder, lambda folder: open_cache(folder, None).close())
            logger.error("cache %s: damaged (%s), set aside as %s; rows read: %d",
                         self._folder.name, error, self.damaged, rows)  # fmt: skip
        return open_cache(self._folder, self._limit, self._timeout_s)

    def _held(self) -> bool:
        """Whether this cache is the folder's first; asked again, since another one may have ended."""
        if self._holder is None:
            self._holder = filelock.FileLock(self._folder / "in-use.lock", thread_local=False)
        if not self._holder.is_locked:
            try:
                self._holder.acquire(timeout=0)
            except filelock.Timeout:
                return False
            except (OSError, NotImplementedError):  # no locks on this disk, or none now
                return True
        return True

    def _is_absent(self) -> bool:
        """Whether there is no database, for certain."""
        try:
            return self._cache is None and os.stat(self._folder / salvage.DATABASE).st_size == 0
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _note(self, error: Exception) -> None:
        self.problem = f"the disk refused it: {error}"
        logger.warning("cache %s: %s", self._folder.name, self.problem)


def open_cache(folder: Path, size_limit_bytes: int | None, timeout_s: float = _TIMEOUT_S) -> diskcache.Cache:
    """Open or make a cache that only this user can read. With a limit, the least recently used entries are evicted."""
    _make_private(folder)
    return _Cache(
        folder,
        timeout_s,
        disk=_BytesDisk,
        size_limit=size_limit_bytes or sys.maxsize,
        eviction_policy="least-recently-used" if size_limit_bytes else "none",
        cull_limit=10,
        statistics=0,
    )


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
