"""Records of a measurement on another machine: each goes there once, and what was written there can stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import NamedTuple


class _Kept(NamedTuple):
    """A file there, which is as one here was then."""

    theirs: str
    state: tuple[int, int]  # of the file here: bytes, and when it was written
    stands_for_it: bool  # the file here is empty: what it stands for is there alone


class KeptFiles:
    """Owns the files there by the paths of those here, whose end is theirs. Safe to use from several threads."""

    def __init__(self, send: Callable[[str], str], delete: Callable[[str], None]) -> None:
        """`send`: copies a file there and returns its path there."""
        self._send = send
        self._delete = delete
        self._kept: dict[str, _Kept] = {}
        self._is_lost = False
        self._lock = RLock()  # a copy that fails may find that the machine is lost

    def there(self, ours: str) -> str:
        """Where the file is there. It is copied, unless it is there already. Raises FileNotFoundError."""
        with self._lock:
            kept = self._kept.get(ours)
            if kept is not None and kept.state == _state(ours):
                return kept.theirs
            self._forget(ours)
            theirs = self._send(ours)
            self._kept[ours] = _Kept(theirs, _state(ours), stands_for_it=False)
            return theirs

    def written(self, theirs: str, ours: str, *, stays: bool) -> None:
        """A file was written there, and fetched; `stays`: it was not, and an empty file here stands for it.

        Nothing stands for what was written on a machine that was lost since.
        """
        with self._lock:
            self._forget(ours)
            if self._is_lost:
                return
            if stays:
                Path(ours).write_bytes(b"")
            self._kept[ours] = _Kept(theirs, _state(ours), stands_for_it=stays)

    def tidy(self) -> None:
        """Delete there what is not here any more, unless a file is being copied. Does not block."""
        if self._lock.acquire(blocking=False):
            try:
                for ours in [ours for ours in self._kept if not os.path.exists(ours)]:
                    self._forget(ours)
            finally:
                self._lock.release()

    def lost(self) -> None:
        """The machine is gone: nothing here stands for its files any more. May be called again.

        Another thread's copy has ended when this returns.
        """
        with self._lock:
            self._is_lost = True
            for ours, kept in self._kept.items():
                if kept.stands_for_it and os.path.exists(ours) and kept.state == _state(ours):
                    os.unlink(ours)
            self._kept.clear()

    def _forget(self, ours: str) -> None:
        if (kept := self._kept.pop(ours, None)) is not None:
            self._delete(kept.theirs)


def _state(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns
