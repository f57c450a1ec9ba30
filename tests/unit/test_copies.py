"""The model files of another machine: copies that are resumed and checked, on a disk that may be full."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from playground.cluster.copies import Copies
from playground.cluster.messages import Located, WantedFile
from playground.errors import BadInput, BadModel, NoRoom
from playground.models.checksums import Checksums
from testkit.full_disk import full_disk, needs_linux

DATA = os.urandom(3000)
FILE = WantedFile("a.gguf", hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[int], Copies]:
    """As the agent of a page opens the machine's folder; a second one is another page's."""
    own, hub, checksums = [tmp_path / "own"], tmp_path / "hub", Checksums(tmp_path / "checksums")
    return lambda most_bytes: Copies(tmp_path / "copies", own, hub, checksums, most_bytes)


@pytest.fixture
def copies(opened: Callable[[int], Copies]) -> Copies:
    return opened(10**9)


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


# --- the bound --------------------------------------------------------------------------------------------------------


def copied(copies: Copies, name: str, used_at: float) -> Path:
    """1000 bytes that were last used at this time, and that no worker has loaded."""
    data = name.encode() * 1000
    file = WantedFile(f"{name}.gguf", hashlib.sha256(data).hexdigest(), len(data))
    copies.append(file, 0, data)
    path = Path(copies.finish(file))
    copies.hold(1, [str(path)])
    copies.keep_only((7, 8))
    os.utime(path.with_name("used"), (used_at, used_at))
    return path


def test_copies_when_they_would_take_more_than_allowed_then_those_unused_for_longest_go(
    opened: Callable[[int], Copies], tmp_path: Path
) -> None:
    copies = opened(3000)
    b, a, c = (copied(copies, name, at) for name, at in (("b", 200.0), ("a", 100.0), ("c", 300.0)))
    assert copies.bytes == 3000
    copied(copies, "d", 400.0)
    assert [path.exists() for path in (a, b, c)] == [False, True, True]
    assert copies.bytes == 3000
    assert not a.parent.exists()
    copies.append(FILE, 0, DATA)
    assert copies.bytes == len(DATA)
    assert [path.exists() for path in (b, c)] == [False, False]


def test_copy_when_a_worker_of_another_page_has_it_then_it_stays_until_that_one_ends(
    opened: Callable[[int], Copies],
) -> None:
    copies, others = opened(2000), opened(2000)
    a, b = copied(copies, "a", 100.0), copied(copies, "b", 200.0)
    others.hold(7, [str(a)])
    copied(copies, "c", 300.0)
    assert (a.exists(), b.exists()) == (True, False)
    copies.hold(8, [str(a)])
    others.keep_only(())
    copies.hold(8, [str(copied(copies, "d", 400.0))])
    assert a.exists()
    with pytest.raises(NoRoom, match=r"\(copies_bytes\), and those in use take .* Unload models there, or allow more"):
        copied(copies, "e", 500.0)
    copies.keep_only((7,))
    os.utime(a.with_name("used"), (100.0, 100.0))
    copied(copies, "f", 600.0)
    assert not a.exists()


def test_copy_when_it_has_just_come_then_it_is_kept_for_its_worker(opened: Callable[[int], Copies]) -> None:
    """Other shards of its model may have to come before it is loaded; so may the rest of a part."""
    copies = opened(len(DATA))
    copies.append(FILE, 0, DATA)
    path = copies.finish(FILE)
    with pytest.raises(NoRoom):
        copied(copies, "a", 100.0)
    assert Path(path).exists()
    copies.hold(1, [path])
    copies.keep_only(())
    copies.append(WantedFile("b.gguf", "b" * 64, 2000), 0, b"b" * 1000)
    assert not Path(path).exists()
    with pytest.raises(NoRoom):
        copies.append(FILE, 0, DATA)
    assert copies.locate(WantedFile("b.gguf", "b" * 64, 2000)).copied == 1000


def test_shard_when_it_goes_then_the_links_to_it_go_with_it(opened: Callable[[int], Copies], tmp_path: Path) -> None:
    copies, names = opened(2000), ("m-00001-of-00002", "m-00002-of-00002")
    shards = []
    for name in names:
        data = name.encode() * 50
        file = WantedFile(f"{name}.gguf", hashlib.sha256(data).hexdigest(), len(data))
        copies.append(file, 0, data)
        shards.append(copies.finish(file))
    first = Path(copies.together(shards))
    copies.hold(1, [str(first)])
    with pytest.raises(NoRoom):
        copies.append(WantedFile("b.gguf", "b" * 64, 1000), 0, b"b")
    copies.keep_only(())
    os.utime(Path(shards[0]).with_name("used"), (100.0, 100.0))
    copies.append(WantedFile("b.gguf", "b" * 64, 1000), 0, b"b")
    assert sorted(path.name for path in (tmp_path / "copies").glob("*/*") if path.name != "used") == [
        "copy.part",
        "m-00002-of-00002.gguf",
        "m-00002-of-00002.gguf",
    ]


@pytest.mark.parametrize(
    ("name", "sha256"),
    [("../a.gguf", "a" * 64), ("", "a" * 64), ("..", "a" * 64), ("copy.part", "a" * 64), ("/etc/a", "a" * 64),
     ("a.gguf", ".."), ("a.gguf", "*"), ("a.gguf", "../" * 21 + "x")],
)  # fmt: skip
def test_copy_when_it_would_lie_elsewhere_then_refused(copies: Copies, tmp_path: Path, name: str, sha256: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    wanted = WantedFile(name, sha256, len(DATA))
    for call in (copies.locate, copies.finish, lambda file: copies.append(file, 0, DATA)):
        with pytest.raises(BadInput, match="A copy cannot be called"):
            call(wanted)
    assert sorted(tmp_path.rglob("*")) == before
