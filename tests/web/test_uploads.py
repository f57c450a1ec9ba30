"""The folder of uploads stays below its limit, and nobody's uploads stop another person's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from playground.errors import Busy
from playground.web.uploads import Uploads

MB = 1_000_000


def written(folder: Path, name: str, bytes: int, at: float) -> Path:
    path = folder / name / "picture.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * bytes)
    os.utime(path, (at, at))
    return path


def test_upload_when_one_person_has_half_of_the_room_then_refused_and_others_go_on(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 20 * MB)
    first = uploads.begin("anna", 9 * MB, now=0)
    with pytest.raises(Busy, match="one person can upload 10 MB in two minutes"):
        uploads.begin("anna", 2 * MB, now=1)
    uploads.end(uploads.begin("ben", 9 * MB, now=1), now=2)
    with pytest.raises(Busy, match="the uploads of others"):
        uploads.begin("carl", 3 * MB, now=3)
    uploads.end(first, now=100)
    with pytest.raises(Busy):
        uploads.begin("anna", 2 * MB, now=219)
    uploads.begin("anna", 2 * MB, now=221)


def test_upload_when_the_folder_is_full_then_the_oldest_that_nobody_needs_are_deleted(tmp_path: Path) -> None:
    old = [written(tmp_path, f"old{n}", 3 * MB, at=n) for n in range(5)]
    new = written(tmp_path, "new", 3 * MB, at=990)
    uploads = Uploads(tmp_path, 20 * MB)
    uploads.begin("anna", 3 * MB, now=1000)
    assert [path.exists() for path in old] == [False, False, False, False, True]
    assert new.exists()
    assert not old[0].parent.exists()


def test_uploads_when_they_are_empty_then_their_number_is_bounded_too(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 10 * MB)
    for _ in range(5 * MB // 65_536):
        uploads.end(uploads.begin("anna", 0, now=0), now=0)
    with pytest.raises(Busy):
        uploads.begin("anna", 0, now=0)


def test_sweep_when_a_day_has_gone_then_what_was_cut_off_is_deleted(tmp_path: Path) -> None:
    cut = written(tmp_path, "tmpabc", 10, at=0)
    young = written(tmp_path, "kept", 10, at=os.stat(tmp_path).st_mtime)
    Uploads(tmp_path, 20 * MB).sweep(86_400)
    assert not cut.exists()
    assert young.exists()
