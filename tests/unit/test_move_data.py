"""What people made moves out of the cache folder once."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from playground.settings import Settings
from playground.support.move_data import move_data

NAMES = ("notebooks", "made", "pairs.json")


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    (folder / "notebooks/pictures").mkdir(parents=True)
    (folder / "notebooks/pictures/a").write_text("picture")
    (folder / "pairs.json").write_text("[]")
    (folder / "embeddings").write_text("can be made again")
    return folder


@pytest.mark.parametrize("other_disk", [False, True])
def test_data_when_in_the_cache_then_moved_once_and_the_rest_stays(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_disk: bool
) -> None:
    rename = os.rename

    def refused(source: Path, target: Path) -> None:
        if Path(source).is_relative_to(old):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    if other_disk:
        monkeypatch.setattr(os, "rename", refused)
    new = tmp_path / "data"
    assert move_data(old, new, NAMES) == new
    assert (new / "notebooks/pictures/a").read_text() == "picture"
    assert (new / "pairs.json").read_text() == "[]"
    assert sorted(path.name for path in old.iterdir()) == ["embeddings"]
    (old / "pairs.json").write_text("an older version ran again")
    assert move_data(old, new, NAMES) == new
    assert (new / "pairs.json").read_text() == "[]"


def test_data_when_it_cannot_be_moved_then_it_stays_where_it_is(old: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "data"
    blocked.write_text("a file")
    assert move_data(old, blocked, NAMES) == old
    assert (old / "notebooks/pictures/a").exists()


def test_folder_when_only_the_cache_is_set_then_the_data_stays_there(tmp_path: Path) -> None:
    cache, data = tmp_path / "cache", tmp_path / "data"
    assert Settings(cache_dir=cache).data_folder == cache
    assert Settings(cache_dir=cache, data_dir=data).data_folder == data
    assert Settings().data_folder not in (Settings().cache_dir, cache)
