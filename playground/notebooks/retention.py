"""How long notebooks are kept, and how much they may take: the day of each one's last use, and the operator's limit."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from playground.errors import NoRoom, Unreadable
from playground.notebooks.entries import Entries
from playground.support import atomic

logger = logging.getLogger(__name__)

_JUMP_DAYS = 7
_NOTHING_HELD = contextlib.nullcontext()
_FRESH_S = 86400  # a file that no notebook names yet may be on its way into one

FULL = (
    "There is no room for more pictures and notebooks: the notebooks have reached the operator's limit "
    "(notebooks_bytes). Delete a notebook that you no longer need."
)


class Retention:
    """Owns the days of last use. Deletes no notebook: that is the library's."""

    def __init__(self, entries: Entries, folder: Path, limit_bytes: int | None) -> None:
        self._entries = entries
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._used: dict[str, str] = {}  # the day that is on the disk, by notebook
        self.full = False
        self.measure()

    def touch(self, id: str) -> None:
        """Notes that a notebook is used today."""
        self._note(id, _today())

    def _note(self, id: str, today: datetime.date) -> None:
        day = today.isoformat()
        if self._used.get(id) != day:
            self._used[id] = day
            self._entries.put(f"used/{id}", day.encode())

    def forget(self, id: str) -> None:
        self._entries.delete(f"used/{id}")
        self._used.pop(id, None)

    def jumped(self, ids: list[str], today: datetime.date | None = None) -> bool:
        """Whether more than a week seems to lie between this sweep and the one before, in either direction.

        Each of the notebooks then counts as used today: a clock that jumps, or an app that was not running, must not
        make them old.
        """
        today = today or _today()
        path = self._folder / "swept"  # the day, a file of its own
        try:
            before = datetime.date.fromisoformat(path.read_text()) if path.exists() else today
            atomic.write(path, today.isoformat().encode())
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path} cannot be read and written: {error}.") from None
        days = (today - before).days
        if abs(days) <= _JUMP_DAYS:
            return False
        logger.warning(
            "%d days between two sweeps: the clock jumped, or the app was not running. Nothing is deleted this time, "
            "and every notebook counts as used today.",
            days,
        )
        for id in ids:
            self._note(id, today)
        return True

    def unused(self, ids: list[str], days: int | None, today: datetime.date | None = None) -> list[str]:
        """Those of the notebooks that nobody has used for `days`; None: none of them."""
        today = today or _today()
        old = []
        for id in ids:
            used = self._entries.get(f"used/{id}")
            if used is None:  # from before the day was kept
                self.touch(id)
            elif datetime.date.fromisoformat(used.decode()) > today:  # of a clock that was ahead
                self._note(id, today)
            elif days is not None and (today - datetime.date.fromisoformat(used.decode())).days > days:
                old.append(id)
        return old

    def measure(self) -> None:
        """Looks again whether the notebooks take more than the limit."""
        if self._limit_bytes is not None:
            paths = (os.path.join(folder, name) for folder, _, names in os.walk(self._folder) for name in names)
            self.full = sum(map(_size, paths)) > self._limit_bytes

    def check_room(self) -> None:
        """Call it before a notebook is made, or a picture or a file is taken. Raises NoRoom."""
        self.measure()
        if self.full:
            raise NoRoom(FULL)


def delete_files(
    folder: Path, needed: Callable[[str], bool], deleting: AbstractContextManager[object] = _NOTHING_HELD
) -> None:
    """Deletes the files that are older than a day and whose stem is not needed. `deleting`: held for each of them."""
    for path in folder.glob("*"):
        with deleting, contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - _FRESH_S and not needed(path.name.partition(".")[0]):
                path.unlink()


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it is gone already
        return 0
