"""A cache's database that is damaged, locked, or on a disk that does not answer: never taken for an empty one."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.errors import Unreadable
from playground.support import byte_cache
from playground.support.byte_cache import BytesCache

LARGE = b"x" * 100_000  # in a file of its own
SMALL = {f"key/{i:03}": f"value {i}".encode() * 100 for i in range(300)}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that was refused is tried again at the next read, not a second later."""
    monkeypatch.setattr(byte_cache, "_AGAIN_S", 0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a cache with 300 small values and a large one."""
    cache = BytesCache(tmp_path / "cache", None)
    for key, value in SMALL.items():
        cache.set(key, value)
    cache.set("large", LARGE)
    cache.close()
    return tmp_path / "cache"


@pytest.fixture
def cache(folder: Path) -> Iterator[BytesCache]:
    opened = BytesCache(folder, None, timeout_s=0.2)
    yield opened
    opened.close()


def without_log(folder: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (folder / f"cache.db{suffix}").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("begin", "length", "n_kept"),
    [(0, 100, 300), (0, 4096, 300), (40_000, 4096, 250), (120_000, 60_000, 100)],
    ids=["header", "first page", "a page", "a tenth"],
)
def test_database_when_a_part_is_overwritten_then_it_is_set_aside_and_the_other_rows_are_kept(
    folder: Path, begin: int, length: int, n_kept: int
) -> None:
    without_log(folder)
    with open(folder / "cache.db", "r+b") as file:
        file.seek(begin)
        file.write(b"\xa5" * length)
    damaged = (folder / "cache.db").read_bytes()
    cache = BytesCache(folder, None)
    rows = {key: cache.get(key) for key in cache.keys("key/")}
    assert len(rows) >= n_kept
    assert rows.items() <= SMALL.items()
    assert cache.damaged is not None
    assert cache.damaged.startswith("cache.db.damaged-2")
    assert (folder / cache.damaged).read_bytes() == damaged
    assert cache.set("new", b"y")
    cache.close()
    again = BytesCache(folder, None)
    assert (again.get("new"), len(again.keys("key/")), again.damaged) == (b"y", len(rows), cache.damaged)
    again.close()


def test_database_when_cut_short_then_what_is_before_the_cut_is_kept(folder: Path) -> None:
    without_log(folder)
    os.truncate(folder / "cache.db", (folder / "cache.db").stat().st_size * 2 // 3)
    cache = BytesCache(folder, None)
    assert len(cache.keys("key/")) > 100
    cache.close()


def test_database_when_garbage_then_set_aside_and_begun_anew(tmp_path: Path) -> None:
    tmp_path.joinpath("cache.db").write_bytes(b"garbage " * 1000)
    cache = BytesCache(tmp_path, None)
    assert (cache.keys("key/"), cache.set("key/1", b"x"), cache.get("key/1")) == ([], True, b"x")
    cache.close()
    tmp_path.joinpath("cache.db").write_bytes(b"garbage " * 1000)
    BytesCache(tmp_path, None).close()
    assert len(list(tmp_path.glob("cache.db.damaged-*"))) == 2


def test_database_when_another_process_has_it_then_it_is_not_set_aside(folder: Path, cache: BytesCache) -> None:
    before = (folder / "cache.db").read_bytes()
    without_log(folder)
    (folder / "cache.db").write_bytes(b"garbage " * 1000)
    second = BytesCache(folder, None, timeout_s=0.2)
    assert (cache.shared, second.shared, second.damaged) == (False, True, None)
    with pytest.raises(Unreadable):
        second.get("key/000")
    assert not second.set("key/000", b"new")
    assert not second.delete("key/000")
    (folder / "cache.db").write_bytes(before)
    cache.close()
    assert (second.get("key/000"), second.shared) == (SMALL["key/000"], False)
    second.close()


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.EACCES])
def test_value_when_its_file_cannot_be_read_then_raised_and_once_it_can_there(
    cache: BytesCache, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr("diskcache.core.Disk.fetch", broken)
        with pytest.raises(Unreadable, match="The disk cannot be read now"):
            cache.get("large")
        assert cache.find("large") is None
        assert cache.unreadable is not None
    assert (cache.get("large"), cache.unreadable) == (LARGE, None)


class _BrokenConnection:
    def __init__(self, error: sqlite3.Error) -> None:
        self._error = error

    def execute(self, *_: object) -> None:
        raise self._error


@pytest.mark.parametrize("text", ["disk I/O error", "database is locked", "unable to open database file"])
def test_row_when_sqlite_cannot_read_it_then_raised(
    cache: BytesCache, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("diskcache.Cache._con", _BrokenConnection(sqlite3.OperationalError(text)))
        for read in (lambda: cache.get("key/000"), lambda: cache.get("unknown"), lambda: cache.keys("key/")):
            with pytest.raises(Unreadable):
                read()
        assert not cache.set("key/000", b"new")
    assert (cache.get("key/000"), len(cache.keys("key/"))) == (SMALL["key/000"], 300)


@pytest.mark.skipif(not hasattr(os, "dup"), reason="needs POSIX")
def test_process_when_it_has_no_files_left_then_nothing_is_taken_for_missing(folder: Path, cache: BytesCache) -> None:
    cache.get("large")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(Unreadable):
            cache.get("large")
        late = BytesCache(folder, None)
        with pytest.raises(Unreadable):
            late.get("key/000")
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert cache.get("large") == LARGE
    late.close()


@pytest.mark.thorough
def test_database_when_locked_then_read_and_not_written(folder: Path, cache: BytesCache) -> None:
    with sqlite3.connect(folder / "cache.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert cache.get("key/000") == SMALL["key/000"]
        assert not cache.set("key/000", b"new")
        cache.close()
        begun = time.monotonic()
        late = BytesCache(folder, None, timeout_s=0.2)
        assert time.monotonic() - begun < 30  # diskcache alone waits 60 s
        with pytest.raises(Unreadable):
            late.keys("key/")
        other.execute("ROLLBACK")
    assert late.get("key/000") == SMALL["key/000"]
    late.close()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_when_it_cannot_be_entered_then_raised(folder: Path) -> None:
    folder.parent.chmod(0o000)
    cache = BytesCache(folder, None)
    try:
        with pytest.raises(Unreadable):
            cache.get("key/000")
    finally:
        folder.parent.chmod(0o700)
    assert cache.get("key/000") == SMALL["key/000"]
    cache.close()
