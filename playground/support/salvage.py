"""A damaged database of diskcache is set aside under a name, and a new one takes over each row that can be read.

Rows, not pages: SQLite reads whatever its b-tree still leads to. Its own `.recover` is in the shell alone, not in
Python's module.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DATABASE = "cache.db"
_ASIDE = f"{DATABASE}.damaged-"
_HEADER = 100  # bytes before the first page's own b-tree; https://www.sqlite.org/fileformat.html
_COLUMNS = "key, raw, store_time, expire_time, access_time, access_count, tag, size, mode, filename, value"
_MAX_GAP = 2**31  # row ids behind the last row that can be read; in about 3000 steps


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file itself is wrong. A disk that cannot be read now is another thing."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def check(folder: Path, timeout_s: float) -> None:
    """Raises sqlite3.DatabaseError if the folder's database is damaged, OSError or sqlite3.Error if it cannot be read.

    Reads the whole file: 1.5 s for each GB in the system's cache.
    """
    path = folder / DATABASE
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(path, timeout=timeout_s)) as database:
        (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        error = sqlite3.DatabaseError(f"database disk image is malformed ({verdict})")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def damaged(folder: Path) -> Path | None:
    """The newest database that was set aside and still lies in the folder. Raises OSError."""
    names = [name for name in os.listdir(folder) if name.startswith(_ASIDE) and not name.endswith(("-wal", "-shm"))]
    return folder / max(names) if names else None


def set_aside(folder: Path, make_empty: Callable[[Path], None]) -> int:
    """Replaces the folder's damaged database. Returns how many rows the new one has. Raises OSError, sqlite3.Error;
    the folder is then as it was.

    `make_empty` makes a database without rows in a folder. Nobody else may have the database open.
    """
    path = folder / DATABASE
    with tempfile.TemporaryDirectory(dir=folder, prefix="salvage-") as scratch:
        fresh = Path(scratch) / "new"
        make_empty(fresh)
        rows = _copied(path, Path(scratch), fresh / DATABASE)
        aside = _free_name(folder)
        for suffix in ("-wal", "-shm"):  # first: a log of the old database must not be replayed on the new one
            with contextlib.suppress(FileNotFoundError):
                os.rename(f"{path}{suffix}", f"{aside}{suffix}")
        try:
            os.link(path, aside)  # so that there is a database at each moment
        except OSError:  # no hard links here
            os.rename(path, aside)
        os.replace(fresh / DATABASE, path)
    return rows


def _copied(path: Path, scratch: Path, target: Path) -> int:
    """Fills `target` from the damaged database; the most that one of three readings of its first page gives."""
    first = target.read_bytes()
    page = first[: int.from_bytes(first[16:18], "big")]
    readings = (b"", _header(page, path.stat().st_size), _header(page, path.stat().st_size) + page[_HEADER:])
    best, most = None, 0
    for number, beginning in enumerate(readings):
        copy = scratch / f"{number}.db"
        shutil.copyfile(path, copy)
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(f"{path}-wal", f"{copy}-wal")
        with open(copy, "r+b") as file:
            file.write(beginning)
        rows = sum(1 for _ in _rows(copy))
        if rows > most:
            best, most = copy, rows
        if rows and not number:
            break  # the first page is intact
    if best is not None:
        with contextlib.closing(sqlite3.connect(target)) as database, database:
            marks = ", ".join("?" * len(_COLUMNS.split(",")))
            insert = f"INSERT OR IGNORE INTO Cache ({_COLUMNS}) VALUES ({marks})"  # noqa: S608  constants
            database.executemany(insert, _rows(best))
    with contextlib.closing(sqlite3.connect(target)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return most


def _header(page: bytes, file_bytes: int) -> bytes:
    """The header of an empty database of the same kind, for a file of this size without free pages."""
    pages = (file_bytes // len(page)).to_bytes(4, "big")
    return page[:28] + pages + bytes(8) + page[40:_HEADER]


def _rows(path: Path) -> Iterator[tuple[Any, ...]]:
    """Each row with a text as its key that can be read. Behind one that cannot, the next row id is tried, and a page of
    the table holds some hundred; behind a longer gap, one a hundredth of the gap further on."""
    select = f"SELECT rowid, {_COLUMNS} FROM Cache NOT INDEXED WHERE rowid > ? ORDER BY rowid"  # noqa: S608  constants
    with contextlib.closing(sqlite3.connect(path)) as database:
        try:
            database.execute("SELECT 1 FROM Cache LIMIT 0")
        except sqlite3.Error:
            return
        last, gap = 0, 0
        while gap < _MAX_GAP:
            try:
                for id, *row in database.execute(select, (last,)):
                    last, gap = id, 0
                    if row[1] == 1 and isinstance(row[0], str):
                        yield tuple(row)
                return
            except sqlite3.Error:
                step = 1 + max(0, gap - 1000) // 100
                last, gap = last + step, gap + step


def _free_name(folder: Path) -> Path:
    name = f"{_ASIDE}{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    taken = {*os.listdir(folder)}
    return folder / next(n for n in (name, *(f"{name}-{i}" for i in range(2, len(taken) + 3))) if n not in taken)
