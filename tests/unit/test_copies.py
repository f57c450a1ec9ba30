"""The model files of another machine: copies that are resumed and checked, on a disk that may be full."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from playground.cluster.copies import Copies
from playground.cluster.messages import Located, WantedFile
from playground.errors import BadModel, NoRoom
from playground.models.checksums import Checksums
from testkit.full_disk import full_disk, needs_linux

DATA = os.urandom(3000)
FILE = WantedFile("a.gguf", hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "copies", [tmp_path / "own"], tmp_path / "hub", Checksums(tmp_path / "checksums"))


def test_copy_when_cut_off_then_it_goes_on_where_it_was(copies: Copies) -> None:
    assert copies.append(FILE, 0, DATA[:1000]) == 1000
    assert copies.locate(FILE) == Located(None, 1000)
    assert copies.append(FILE, 0, DATA[:1000]) == 1000  # a second run sends the same piece
    copies.append(FILE, 1000, DATA[1000:])
    path = copies.finish(FILE)
    assert copies.locate(FILE) == Located(path)
    assert Path(path).read_bytes() == DATA


def test_copy_when_other_bytes_came_then_refused_and_begun_anew(copies: Copies) -> None:
    copies.append(FILE, 0, DATA[:-1] + bytes([DATA[-1] ^ 1]))
    with pytest.raises(BadModel, match="changed while it was copied"):
        copies.finish(FILE)
    assert copies.locate(FILE) == Located(None, 0)


def test_copy_when_somebody_changes_it_then_it_is_not_used(copies: Copies) -> None:
    copies.append(FILE, 0, DATA)
    path = copies.finish(FILE)
    Path(path).write_bytes(bytes(len(DATA)))
    assert copies.locate(FILE).path is None


def test_copy_when_there_is_no_room_then_refused_before_a_byte_is_written(copies: Copies, tmp_path: Path) -> None:
    with pytest.raises(NoRoom, match="Make room there"):
        copies.append(WantedFile("a.gguf", FILE.sha256, 10**18), 0, DATA)
    assert not list(tmp_path.rglob("*.part"))


@needs_linux
def test_copy_when_the_disk_is_full_in_the_middle_then_refused_and_it_goes_on_when_there_is_room(
    copies: Copies,
) -> None:
    copies.append(FILE, 0, DATA[:1000])
    with full_disk(), pytest.raises(NoRoom, match="the disk is full"):
        copies.append(FILE, 1000, DATA[1000:])
    assert copies.locate(FILE) == Located(None, 1000)
    copies.append(FILE, 1000, DATA[1000:])
    assert Path(copies.finish(FILE)).read_bytes() == DATA


@pytest.mark.parametrize("name", ["own/own.gguf", "own/deep/own-f16.mmproj"])
def test_file_when_the_machine_has_its_own_then_found_by_its_sha256_under_any_name(
    copies: Copies, tmp_path: Path, name: str
) -> None:
    own = tmp_path / name
    own.parent.mkdir(parents=True)
    own.write_bytes(DATA)
    assert copies.locate(FILE) == Located(str(own))


def test_file_when_in_the_hubs_cache_then_found_and_a_damaged_one_is_not(copies: Copies, tmp_path: Path) -> None:
    blob = tmp_path / "hub/models--acme--a/blobs" / FILE.sha256
    blob.parent.mkdir(parents=True)
    blob.write_bytes(DATA)
    assert copies.locate(FILE) == Located(str(blob))
    assert copies.checked(blob, FILE) == str(blob)
    blob.write_bytes(DATA[::-1])
    assert copies.locate(FILE).path is None
    with pytest.raises(BadModel, match="another file"):
        copies.checked(blob, FILE)


def test_shards_when_they_lie_apart_then_linked_in_one_folder(copies: Copies, tmp_path: Path) -> None:
    names = ["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"]
    for folder in ("one", "two", "both"):
        (tmp_path / folder).mkdir()
    apart = [tmp_path / "one" / names[0], tmp_path / "two" / names[1]]
    beside = [tmp_path / "both" / name for name in names]
    for path in (*apart, *beside):
        path.write_text(path.name)
    assert copies.together([str(path) for path in beside]) == str(beside[0])
    for _ in range(2):  # the links are there the second time
        first = Path(copies.together([str(path) for path in apart]))
        assert [path.read_text() for path in sorted(first.parent.iterdir())] == names
        assert first.name == names[0]
