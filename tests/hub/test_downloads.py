"""Fetching into the standard cache: cut off and gone on with, refused, cancelled, together, after a kill -9."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock, close_session

from playground.errors import BadInput, BadModel, Interrupted, NoRoom, NotAllowed, Offline, Unavailable
from playground.models.hub.client import Hub
from playground.models.hub.downloads import Download, Downloads, DownloadState, Wanted
from playground.models.hub.listing import RemoteFile
from testkit.hub_server import TOKEN, HubFile, HubRepo, HubServer, hub_server
from testkit.waiting import until

ROOT = Path(__file__).parents[2]
KILOBYTE, MEGABYTE = 2**10, 2**20
ID, OTHER, GATED, HOSTILE = "acme/a-GGUF", "acme/b-GGUF", "acme/gated-GGUF", "mallory/hostile-GGUF"
_noise = random.Random(7)
DATA = {
    name: _noise.randbytes(size)
    for name, size in {
        "a-Q8_0.gguf": 6 * MEGABYTE,
        "a-Q4_K_M.gguf": 3 * MEGABYTE + 123,
        "mmproj-F16.gguf": 2 * MEGABYTE,
        "small.gguf": 70 * KILOBYTE,
        **{f"Q6_K/a-Q6_K-{n:05}-of-00003.gguf": MEGABYTE + n for n in (1, 2, 3)},
    }.items()
}
MODEL = "a-Q8_0.gguf"


@pytest.fixture(scope="module")
def served() -> Iterator[HubServer]:
    small = DATA["small.gguf"]
    repos = [
        HubRepo(ID, {**DATA, "README.md": b"# A"}),
        HubRepo(OTHER, {"mmproj-F16.gguf": DATA["mmproj-F16.gguf"]}),
        HubRepo(GATED, {"a.gguf": small}, gated=True),
        HubRepo(
            HOSTILE,
            {
                "liar.gguf": HubFile(small, listed_sha256=hashlib.sha256(b"else").hexdigest()),
                "shorter.gguf": HubFile(small, listed_bytes=len(small) - 1000),
                "longer.gguf": HubFile(small, listed_bytes=len(small) + 1000),
                "../../escaped.gguf": small,
                "/tmp/escaped-from-the-cache.gguf": small,
            },
        ),
    ]
    with hub_server(repos) as server:
        yield server
        close_session()


@pytest.fixture
def hub(served: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    served.well_behaved()
    served.forget()
    served.patch(monkeypatch, tmp_path)
    return Hub(own_token=False)


@pytest.fixture
def open_downloads(hub: Hub, tmp_path: Path) -> Iterator[Callable[[], Downloads]]:
    """Downloads with one list, as of one start of the app after the other."""
    opened: list[Downloads] = []

    def make() -> Downloads:
        opened.append(Downloads(hub, tmp_path / "downloads.json"))
        return opened[-1]

    yield make
    for downloads in opened:
        downloads.close()


def wanted(served: HubServer, name: str, id: str = ID) -> Wanted:
    """As the listing tells it."""
    file = served.repos[id].files[name]
    size = file.size if file.listed_bytes is None else file.listed_bytes
    return Wanted(id, served.repos[id].commit, RemoteFile(name, size, file.listed_sha256 or file.sha256))


def fetch(
    hub: Hub,
    file: Wanted,
    *,
    on_bytes: Callable[[int], None] = lambda n: None,
    stop: Callable[[], bool] = lambda: False,
    token: str | None = None,
) -> Path:
    return hub.fetch(file.repo, file.commit, file.file, token, on_bytes=on_bytes, stop=stop)


def stop_after(n: int) -> tuple[Callable[[int], None], Callable[[], bool]]:
    """on_bytes and stop of somebody who has seen enough after so many bytes."""
    seen = [0]
    return lambda n_bytes: seen.__setitem__(0, n_bytes), lambda: seen[0] >= n


def fetch_a_part(hub: Hub, file: Wanted) -> None:
    on_bytes, stop = stop_after(2 * MEGABYTE)
    fetch(hub, file, on_bytes=on_bytes, stop=stop)


def starts(served: HubServer, name: str = "") -> list[int]:
    """From where on the bytes of a file were asked for, one request after the other."""
    ranges = [request.range or "bytes=0-" for request in served.seen("GET", name, cdn=True)]
    return [int(byte_range.removeprefix("bytes=").partition("-")[0]) for byte_range in ranges]


def partial(hub: Hub, file: Wanted) -> int:
    return hub.partial_bytes(file.repo, file.file)


def cache_files(hub: Hub) -> set[str]:
    return {path.name for path in hub.cache.rglob("*") if path.is_file() and ".locks" not in path.parts}


def states(downloads: Downloads) -> dict[str, DownloadState]:
    return {download.wanted.file.name: download.state for download in downloads.all()}


def one_of(downloads: Downloads, name: str = MODEL) -> Download:
    return next(download for download in downloads.all() if download.wanted.file.name == name)


def idle(downloads: Downloads) -> bool:
    return not {DownloadState.WAITING, DownloadState.RUNNING} & set(states(downloads).values())


# --- the standard cache ------------------------------------------------------------------------------------


def test_file_when_fetched_then_it_lies_where_every_other_tool_looks(hub: Hub, served: HubServer) -> None:
    model_file, seen = wanted(served, MODEL), list[int]()
    path = fetch(hub, model_file, on_bytes=seen.append)
    assert path.read_bytes() == DATA[MODEL]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, model_file.file.bytes)
    plain = huggingface_hub.hf_hub_download(ID, MODEL, revision=model_file.commit, local_files_only=True)
    assert str(path) == plain
    assert path.is_symlink()
    assert path.resolve() == hub.cache / "models--acme--a-GGUF" / "blobs" / str(model_file.file.sha256)
    scanned = huggingface_hub.scan_cache_dir()
    assert (scanned.warnings, scanned.incomplete_files) == ([], frozenset())
    ((revision,),) = (repo.revisions for repo in scanned.repos)
    assert [(file.file_name, file.size_on_disk) for file in revision.files] == [(MODEL, model_file.file.bytes)]
    assert [(c.repo, c.commit, c.name, c.bytes) for c in hub.cached()] == [
        (ID, model_file.commit, MODEL, model_file.file.bytes)
    ]
    served.forget()
    assert fetch(hub, model_file) == path
    assert served.seen() == []


def test_file_when_another_tool_has_fetched_it_then_it_is_not_fetched_again(hub: Hub, served: HubServer) -> None:
    file = wanted(served, MODEL)
    plain = huggingface_hub.hf_hub_download(ID, MODEL)  # of "main", as most people do
    served.forget()
    seen: list[int] = []
    assert str(fetch(hub, file, on_bytes=seen.append)) == plain
    assert (served.seen(), seen) == ([], [file.file.bytes])


def test_file_when_its_bytes_are_there_under_another_name_then_only_the_name_is_made(
    hub: Hub, served: HubServer
) -> None:
    file = wanted(served, MODEL)
    path = fetch(hub, file)
    path.unlink()
    served.forget()
    assert fetch(hub, file).read_bytes() == DATA[MODEL]
    assert starts(served) == []


def test_file_when_the_hub_offers_xet_then_it_comes_by_http_which_can_be_stopped(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "xet", True)
    assert fetch(hub, wanted(served, MODEL)).read_bytes() == DATA[MODEL]
    assert starts(served) == [0]
    assert served.seen(where="xet-read-token") == []


def test_file_when_git_keeps_it_then_fetched_too(hub: Hub, served: HubServer) -> None:
    file = Wanted(ID, served.repos[ID].commit, RemoteFile("README.md", 3))
    assert fetch(hub, file).read_bytes() == b"# A"
    assert hub.cached() == ()


def test_shards_when_fetched_then_they_lie_beside_each_other(hub: Hub, served: HubServer) -> None:
    listing = hub.repo(ID)
    (sharded,) = (model for model in listing.models if model.quantization == "Q6_K")
    paths = [fetch(hub, Wanted(ID, listing.commit, file)) for file in sharded.files]
    assert [path.read_bytes() for path in paths] == [DATA[file.name] for file in sharded.files]
    assert {path.parent for path in paths} == {hub.snapshot(ID, listing.commit, sharded.name).parent}
    assert paths[0] == hub.snapshot(ID, listing.commit, sharded.name)


def test_quantization_when_deleted_then_its_bytes_are_freed_and_the_other_stays(hub: Hub, served: HubServer) -> None:
    keep, drop = wanted(served, MODEL), wanted(served, "a-Q4_K_M.gguf")
    kept_path, dropped = fetch(hub, keep), fetch(hub, drop)
    other = fetch(hub, wanted(served, "mmproj-F16.gguf", OTHER))
    blob = dropped.resolve()
    assert hub.delete(ID, "0" * 40, {MODEL}) == 0
    assert hub.delete(ID, drop.commit, {"a-Q4_K_M.gguf", "no-such.gguf"}) == drop.file.bytes
    assert not blob.exists()
    assert not dropped.exists()
    assert kept_path.read_bytes() == DATA[MODEL]
    assert {file.path for file in hub.cached()} == {str(kept_path), str(other)}
    assert fetch(hub, drop).read_bytes() == DATA["a-Q4_K_M.gguf"]


def test_delete_when_the_file_was_used_meanwhile_then_its_bytes_are_freed_all_the_same(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = wanted(served, "small.gguf")
    blob = fetch(hub, file).resolve()
    scan, moment = huggingface_hub.scan_cache_dir, iter(range(1, 10))

    def scan_while_it_is_used(folder: Path) -> object:
        os.utime(blob, (next(moment), 1))
        return scan(folder)

    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", scan_while_it_is_used)
    assert hub.delete(ID, file.commit, {"small.gguf"}) == file.file.bytes
    assert not blob.exists()


def test_cache_when_there_is_none_then_it_is_empty(hub: Hub) -> None:
    assert hub.cached() == ()
    assert hub.delete(ID, "0" * 40, {MODEL}) == 0
    assert hub.path(ID, "0" * 40, MODEL) is None


# --- cut off, and gone on with -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"cut_after": 2_200_000}, {"reset_after": 2_200_000}], ids=str)
def test_connection_when_it_breaks_then_gone_on_with_what_is_missing(
    hub: Hub, served: HubServer, how: dict[str, Any]
) -> None:
    file, seen = wanted(served, MODEL), list[int]()
    served.behave(MODEL, times=2, **how)
    assert fetch(hub, file, on_bytes=seen.append).read_bytes() == DATA[MODEL]
    assert seen == sorted(seen)
    begins = starts(served)
    assert len(begins) == 3
    assert begins == sorted(begins)
    assert begins[0] == 0 < begins[1] < begins[2]
    last = served.seen("GET", MODEL, cdn=True)[-1]
    assert (last.status, last.sent) == (206, file.file.bytes - begins[2])


def test_connection_when_it_breaks_again_and_again_then_what_came_is_kept(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.models.hub.transfer._TRIES", 1)
    file = wanted(served, MODEL)
    served.behave(MODEL, cut_after=0)
    served.behave(MODEL, cut_after=2 * MEGABYTE, times=1)
    with pytest.raises(Offline, match="Check the network, and try again"):
        fetch(hub, file)
    assert partial(hub, file) == 2 * MEGABYTE
    served.well_behaved()
    served.forget()
    fetch(hub, file)
    assert starts(served) == [2 * MEGABYTE]


def test_download_when_stopped_then_what_came_is_kept_and_gone_on_with(hub: Hub, served: HubServer) -> None:
    file = wanted(served, MODEL)
    on_bytes, stop = stop_after(2 * MEGABYTE)
    with pytest.raises(Interrupted):
        fetch(hub, file, on_bytes=on_bytes, stop=stop)
    n_bytes = partial(hub, file)
    assert 2 * MEGABYTE <= n_bytes < 3 * MEGABYTE
    assert hub.path(ID, file.commit, MODEL) is None
    assert hub.cached() == ()
    with pytest.raises(Interrupted):
        fetch(hub, file, stop=lambda: True)
    assert partial(hub, file) == n_bytes
    served.forget()
    seen: list[int] = []
    assert fetch(hub, file, on_bytes=seen.append).read_bytes() == DATA[MODEL]
    assert seen[0] == n_bytes
    assert starts(served) == [n_bytes]
    assert sum(request.sent for request in served.seen("GET")) == file.file.bytes - n_bytes


def test_server_when_it_falls_silent_then_a_stop_is_seen_at_the_timeout(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
    served.behave(MODEL, stall_after=MEGABYTE)
    file = wanted(served, MODEL)
    with pytest.raises(Interrupted):
        fetch(hub, file, stop=lambda: partial(hub, file) == MEGABYTE)
    assert partial(hub, file) == MEGABYTE


def test_server_when_it_ignores_ranges_then_begun_again_cleanly(hub: Hub, served: HubServer) -> None:
    file, seen = wanted(served, MODEL), list[int]()
    with pytest.raises(Interrupted):
        fetch_a_part(hub, file)
    served.behave(MODEL, ignore_range=True)
    assert fetch(hub, file, on_bytes=seen.append).read_bytes() == DATA[MODEL]
    assert cache_files(hub) == {MODEL, str(file.file.sha256), "CACHEDIR.TAG"}
    assert seen[-1] == file.file.bytes


def test_server_when_it_never_ends_then_no_more_is_written_than_the_hub_promised(hub: Hub, served: HubServer) -> None:
    file, most = wanted(served, MODEL), [0]
    served.behave(MODEL, endless=True)
    with pytest.raises(BadModel, match="arrived with the wrong content"):
        fetch(hub, file, on_bytes=lambda n: most.__setitem__(0, n))
    assert most == [file.file.bytes]
    assert sum(request.sent for request in served.seen("GET")) < file.file.bytes + 8 * MEGABYTE


# --- other bytes than promised -----------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [False, True])
def test_bytes_when_others_came_then_deleted_and_said(hub: Hub, served: HubServer, cut: bool) -> None:
    file = wanted(served, MODEL)
    if cut:
        with pytest.raises(Interrupted):
            fetch_a_part(hub, file)
    served.behave(MODEL, wrong=True)
    with pytest.raises(BadModel) as refused:
        fetch(hub, file)
    assert str(refused.value).startswith(f"{MODEL} arrived with the wrong content (sha256 ")
    assert str(file.file.sha256)[:12] in str(refused.value)
    assert "It was deleted. Download it again." in str(refused.value)
    assert cache_files(hub) == set()
    assert hub.path(ID, file.commit, MODEL) is None
    served.well_behaved()
    assert fetch(hub, file).read_bytes() == DATA[MODEL]


def test_part_when_the_disk_has_garbled_it_then_deleted_and_said(hub: Hub, served: HubServer) -> None:
    file = wanted(served, MODEL)
    part = hub.cache / "models--acme--a-GGUF" / "blobs" / f"{file.file.sha256}.resumable.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(MEGABYTE))
    with pytest.raises(BadModel, match="It was deleted"):
        fetch(hub, file)
    part.write_bytes(DATA[MODEL] + b"and more")
    assert fetch(hub, file).read_bytes() == DATA[MODEL]


@pytest.mark.parametrize("name", ["liar.gguf", "shorter.gguf", "longer.gguf"])
def test_listing_when_it_lies_then_nothing_stays(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("playground.models.hub.transfer._TRIES", 0)
    file = wanted(served, name, HOSTILE)
    with pytest.raises((BadModel, Offline)):
        fetch(hub, file)
    assert hub.path(HOSTILE, file.commit, name) is None
    assert {path.name for path in hub.cache.rglob("snapshots/*/*")} == set()


@pytest.mark.parametrize("name", ["../../escaped.gguf", "/tmp/escaped-from-the-cache.gguf"])
def test_name_when_it_leads_out_of_the_cache_then_nothing_is_written(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads], tmp_path: Path, name: str
) -> None:
    assert name not in {file.name for file in hub.repo(HOSTILE).files}
    hostile = wanted(served, name, HOSTILE)
    with pytest.raises(BadInput, match="is not a valid file name in a repository"):
        fetch(hub, hostile)
    downloads = open_downloads()
    downloads.start([hostile])
    until(lambda: idle(downloads))
    assert one_of(downloads, name).state is DownloadState.FAILED
    downloads.close()
    assert (
        one_of(open_downloads(), name).state is DownloadState.CUT_OFF
    )  # a bad list does not keep the app from starting
    assert [path for path in tmp_path.rglob("*escaped*")] == []
    assert not Path("/tmp/escaped-from-the-cache.gguf").exists()
    assert hub.path(HOSTILE, hostile.commit, name) is None
    assert hub.path("../..", hostile.commit, "a.gguf") is None


# --- the disk ----------------------------------------------------------------------------------------------


def test_room_when_there_is_not_enough_then_said_before_anything_comes(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, open_downloads: Callable[[], Downloads]
) -> None:
    file, usage = wanted(served, MODEL), shutil.disk_usage(hub.cache.parent)
    with pytest.raises(Interrupted):
        fetch_a_part(hub, file)
    n_bytes = partial(hub, file)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=file.file.bytes - n_bytes - 1))
    served.forget()
    with pytest.raises(NoRoom, match=r"0\.00 GB are to be downloaded, but only 0\.00 GB are free in .*choose less"):
        fetch(hub, file)
    with pytest.raises(NoRoom, match="are to be downloaded"):
        open_downloads().start([file])
    assert served.seen("GET") == []
    assert partial(hub, file) == n_bytes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=file.file.bytes - n_bytes))
    fetch(hub, file)
    assert starts(served) == [n_bytes]


def test_room_when_it_is_promised_to_other_downloads_then_it_counts_as_taken(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, open_downloads: Callable[[], Downloads]
) -> None:
    first, second = wanted(served, MODEL), wanted(served, "a-Q4_K_M.gguf")
    usage = shutil.disk_usage(hub.cache.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=first.file.bytes + MEGABYTE))
    served.behave(MODEL, slow=MEGABYTE)
    downloads = open_downloads()
    downloads.start([first])
    with pytest.raises(NoRoom, match="are to be downloaded"):
        downloads.start([second])
    assert list(states(downloads)) == [MODEL]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can grow above this: what a full disk does, as EFBIG in place of ENOSPC, the last write cut too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_disk_when_it_fills_up_then_said_and_gone_on_with(hub: Hub, served: HubServer) -> None:
    file = wanted(served, MODEL)
    with (
        files_of_at_most(2 * MEGABYTE + 100),
        pytest.raises(NoRoom, match=r"The disk is full\. .* free some space"),
    ):
        fetch(hub, file)
    assert partial(hub, file) == 2 * MEGABYTE + 100
    served.forget()
    assert fetch(hub, file).read_bytes() == DATA[MODEL]
    assert starts(served) == [2 * MEGABYTE + 100]


def test_disk_when_it_takes_only_a_part_of_a_write_then_no_byte_is_lost(hub: Hub, served: HubServer) -> None:
    """A write may be cut without an error; the next one fails, unless somebody has made room meanwhile."""
    file = wanted(served, MODEL)

    def make_room(n: int) -> None:
        if n > MEGABYTE:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    limit = functools.partial(files_of_at_most, MEGABYTE + 100)
    try:
        with limit():
            fetch(hub, file, on_bytes=make_room)
    except NoRoom:
        fetch(hub, file)
    assert Path(str(hub.path(ID, file.commit, MODEL))).read_bytes() == DATA[MODEL]


def test_cache_when_it_cannot_be_written_then_said(hub: Hub, served: HubServer) -> None:
    hub.cache.parent.mkdir(parents=True, exist_ok=True)
    hub.cache.write_bytes(b"a file in the cache's place")
    with pytest.raises(Unavailable, match=r"The Hub's cache cannot be used: .*Not a directory"):
        fetch(hub, wanted(served, MODEL))


# --- several processes -------------------------------------------------------------------------------------

CHILD = """
import json, sys, time
from pathlib import Path
from playground.models.hub.downloads import Downloads, Wanted
from playground.models.hub.client import Hub
import msgspec
folder, wanted = Path(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=list[Wanted])
downloads = Downloads(Hub(own_token=False), folder / "downloads.json")
downloads.start(wanted)
print("started", flush=True)
while any(one.state in ("waiting", "downloading") for one in downloads.all()):
    time.sleep(0.01)
print(json.dumps({one.wanted.file.name: [one.state, one.error] for one in downloads.all()}), flush=True)
downloads.close()
"""


def child(served: HubServer, folder: Path, *files: Wanted, code: str = CHILD) -> subprocess.Popen[str]:
    import msgspec

    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder), msgspec.json.encode(files).decode()],
        env=os.environ | served.environment(folder), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_process_when_killed_in_the_middle_then_the_next_one_fetches_only_what_is_missing(
    hub: Hub, served: HubServer, tmp_path: Path, open_downloads: Callable[[], Downloads]
) -> None:
    file, two = wanted(served, MODEL), wanted(served, "a-Q4_K_M.gguf")
    served.behave(".gguf", slow=4 * MEGABYTE)
    with child(served, tmp_path, file, two) as killed:
        until(lambda: min(partial(hub, file), partial(hub, two)) > MEGABYTE)
        os.kill(killed.pid, signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    served.well_behaved()
    served.forget()
    sizes = {each.file.name: partial(hub, each) for each in (file, two)}
    assert all(MEGABYTE < sizes[each.file.name] < each.file.bytes for each in (file, two))
    downloads = open_downloads()
    assert {d.wanted.file.name: (d.state, d.done) for d in downloads.all()} == {
        name: (DownloadState.CUT_OFF, n_bytes) for name, n_bytes in sizes.items()
    }
    assert served.seen() == []  # nothing is fetched before a person says so
    for download in downloads.all():
        downloads.resume(download.wanted.key)
    until(lambda: idle(downloads))
    assert set(states(downloads).values()) == {DownloadState.DONE}
    for each in (file, two):
        assert starts(served, each.file.name) == [sizes[each.file.name]]
        (request,) = served.seen("GET", each.file.name, cdn=True)
        assert request.sent == each.file.bytes - sizes[each.file.name]
        assert Path(str(hub.path(ID, each.commit, each.file.name))).read_bytes() == DATA[each.file.name]
    assert "incomplete" not in " ".join(cache_files(hub))
    downloads.close()
    assert open_downloads().all() == ()


def test_processes_when_two_fetch_the_same_then_one_does_and_the_other_is_told(
    hub: Hub, served: HubServer, tmp_path: Path
) -> None:
    file = wanted(served, MODEL)
    served.behave(MODEL, slow=5 * MEGABYTE)
    with child(served, tmp_path, file) as other:
        until(lambda: partial(hub, file) > MEGABYTE)
        with pytest.raises(Unavailable, match="Another process is downloading this file"):
            fetch(hub, file)
        assert other.stdout is not None
        assert json.loads(other.stdout.readlines()[-1]) == {MODEL: ["done", None]}
    assert fetch(hub, file).read_bytes() == DATA[MODEL]
    assert len(served.seen("GET", MODEL, cdn=True)) == 1


SHARED = CHILD.replace("downloads.start(wanted)", "print('opened', flush=True); input(); downloads.start(wanted)")


def test_list_when_two_processes_write_it_then_neither_loses_the_others_files(
    hub: Hub, served: HubServer, tmp_path: Path
) -> None:
    """Both have opened the list, like the app and the command line, before either starts a download."""
    theirs, ours = [wanted(served, "small.gguf"), wanted(served, MODEL)], [wanted(served, "a-Q4_K_M.gguf")]
    served.behave("Q", slow=100 * KILOBYTE)  # the two large files
    with child(served, tmp_path, *theirs, code=SHARED) as first, child(served, tmp_path, *ours, code=SHARED) as second:
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "opened\n"
        for process in (first, second):
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "started\n"
        until(lambda: hub.path(ID, theirs[0].commit, "small.gguf"))
        until(lambda: kept_list(tmp_path) == {MODEL, "a-Q4_K_M.gguf"})  # "small" came, and left the list
        for process in (first, second):
            process.kill()
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_list_when_two_processes_write_it_all_the_time_then_it_is_whole_and_complete(
    hub: Hub, served: HubServer, tmp_path: Path
) -> None:
    """Every start writes the list; a file that is on its way already is left alone."""
    served.behave(".gguf", delay=20)
    code = SHARED.replace("while any(", "for _ in range(150):\n    downloads.start(wanted)\nwhile False and any(")
    ours, theirs = wanted(served, "a-Q4_K_M.gguf"), wanted(served, MODEL)
    with child(served, tmp_path, ours, code=code) as first, child(served, tmp_path, theirs, code=code) as second:
        for process in (first, second):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        until(lambda: kept_list(tmp_path) == {MODEL, "a-Q4_K_M.gguf"})
        for process in (first, second):
            assert process.stdout is not None
            assert process.stdout.readline() == "opened\n"
            assert process.stdout.readline() == "started\n"
            assert process.stdout.readline()
            assert kept_list(tmp_path) == {MODEL, "a-Q4_K_M.gguf"}
            process.kill()


def kept_list(folder: Path) -> set[str]:
    file = folder / "downloads.json"
    return {record["file"]["name"] for record in json.loads(file.read_bytes())} if file.exists() else set()


def test_process_when_the_other_ends_while_it_waits_then_nothing_is_fetched_again(hub: Hub, served: HubServer) -> None:
    file = wanted(served, MODEL)
    blob = hub.cache / "models--acme--a-GGUF" / "blobs" / str(file.file.sha256)
    lock = hub.cache / ".locks" / "models--acme--a-GGUF" / f"{file.file.sha256}.lock"
    lock.parent.mkdir(parents=True)
    paths: list[Path] = []
    waits = threading.Thread(target=lambda: paths.append(fetch(hub, file)))
    with WeakFileLock(lock):
        waits.start()
        time.sleep(0.2)
        blob.parent.mkdir(parents=True)
        blob.write_bytes(DATA[MODEL])
    waits.join()
    assert paths[0].read_bytes() == DATA[MODEL]
    assert served.seen("GET", cdn=True) == []


def test_tool_when_it_wants_a_file_that_is_on_its_way_here_then_it_waits_and_takes_it(
    hub: Hub, served: HubServer
) -> None:
    file = wanted(served, MODEL)
    served.behave(MODEL, slow=8 * MEGABYTE)
    ours = threading.Thread(target=fetch, args=(hub, file))
    ours.start()
    until(lambda: partial(hub, file) > MEGABYTE)
    plain = huggingface_hub.hf_hub_download(ID, MODEL)
    ours.join()
    assert Path(plain).read_bytes() == DATA[MODEL]
    assert starts(served) == [0]


# --- several at a time -------------------------------------------------------------------------------------


def test_downloads_when_several_are_wanted_then_three_at_a_time_with_progress(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    names = [MODEL, "a-Q4_K_M.gguf", "mmproj-F16.gguf", "Q6_K/a-Q6_K-00001-of-00003.gguf"]
    served.behave(".gguf", slow=4 * MEGABYTE)
    downloads, history = open_downloads(), dict[str, list[Download]]()
    downloads.start([wanted(served, name) for name in names])
    most = 0
    while not idle(downloads):
        shown = downloads.all()
        most = max(most, sum(rate.state is DownloadState.RUNNING for rate in shown))
        for download in shown:
            history.setdefault(download.wanted.file.name, []).append(download)
        time.sleep(0.02)
    assert most == 3
    assert states(downloads) == dict.fromkeys(names, DownloadState.DONE)
    for name, seen in history.items():
        n_done = [rate.done for rate in seen]
        assert n_done == sorted(n_done)
        assert one_of(downloads, name).done == len(DATA[name])
        rates = [rate.rate for rate in seen if rate.rate is not None]
        assert all(rate < 6 * MEGABYTE for rate in rates)
        left = [rate.seconds_left for rate in seen if rate.seconds_left is not None]
        assert all(0 <= rate < 600 for rate in left)
        if name == MODEL:  # the others are there before they have a rate
            assert rates[-1] > MEGABYTE / 8
            assert left[-1] < 20
    assert all(rate.rate is None for rate in downloads.all())


def test_progress_when_a_server_begins_again_then_the_rate_is_not_below_zero(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    served.behave(MODEL, ignore_range=True, slow=4 * MEGABYTE)
    served.behave(MODEL, cut_after=4 * MEGABYTE, times=1)
    downloads = open_downloads()
    downloads.start([wanted(served, MODEL)])
    seen: list[Download] = []
    while not idle(downloads):
        seen.append(one_of(downloads))
        time.sleep(0.01)
    assert one_of(downloads).state is DownloadState.DONE
    assert any(after.done < before.done for before, after in itertools.pairwise(seen))  # it did begin again
    rates = [download.rate for download in seen if download.rate is not None]
    left = [download.seconds_left for download in seen if download.seconds_left is not None]
    assert min(rates) >= 0
    assert min(left) >= 0


def test_download_when_the_line_is_slow_then_it_has_a_rate_all_the_same(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    served.behave(MODEL, slow=150 * KILOBYTE)
    downloads = open_downloads()
    downloads.start([wanted(served, MODEL)])
    until(lambda: one_of(downloads).rate is not None)
    assert 30 < (one_of(downloads).seconds_left or 0) < 6000
    downloads.cancel(one_of(downloads).wanted.key)
    until(lambda: idle(downloads))
    assert one_of(downloads).state is DownloadState.CANCELLED


def test_download_when_cancelled_then_its_part_stays_and_resume_goes_on(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    file, downloads = wanted(served, MODEL), open_downloads()
    served.behave(MODEL, slow=4 * MEGABYTE)
    downloads.start([file])
    until(lambda: one_of(downloads).done > MEGABYTE)
    downloads.cancel(file.key)
    until(lambda: idle(downloads))
    cancelled, n_bytes = one_of(downloads), partial(hub, file)
    assert (cancelled.state, cancelled.done, cancelled.error, cancelled.rate) == (
        DownloadState.CANCELLED, n_bytes, None, None
    )  # fmt: skip
    served.well_behaved()
    served.forget()
    downloads.resume(file.key)
    assert one_of(downloads).done == n_bytes  # not 0 until it has been read
    until(lambda: idle(downloads))
    assert one_of(downloads).state is DownloadState.DONE
    assert starts(served) == [n_bytes]


def test_download_when_resumed_before_the_cancelled_one_has_ended_then_it_goes_on(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    file, downloads = wanted(served, MODEL), open_downloads()
    served.behave(MODEL, slow=8 * MEGABYTE)
    downloads.start([file])
    until(lambda: one_of(downloads).done > MEGABYTE)
    for _ in range(3):
        downloads.cancel(file.key)
        downloads.resume(file.key)
    downloads.start([file, file])
    until(lambda: idle(downloads))
    assert (one_of(downloads).state, one_of(downloads).error) == (DownloadState.DONE, None)
    assert len(downloads.all()) == 1


def test_download_when_it_waits_and_is_cancelled_then_it_never_starts(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    names = [MODEL, "a-Q4_K_M.gguf", "mmproj-F16.gguf", "small.gguf"]
    served.behave(".gguf", slow=2 * MEGABYTE)
    downloads = open_downloads()
    downloads.start([wanted(served, name) for name in names])
    until(lambda: one_of(downloads).done)
    last = wanted(served, "small.gguf")
    assert one_of(downloads, "small.gguf").state is DownloadState.WAITING
    downloads.cancel(last.key)
    assert one_of(downloads, "small.gguf").state is DownloadState.CANCELLED
    downloads.forget(wanted(served, MODEL).key)  # it runs: it stays
    downloads.forget(last.key)
    assert "small.gguf" not in states(downloads)
    for name in names[:3]:
        downloads.cancel(wanted(served, name).key)
    until(lambda: idle(downloads))
    assert served.seen("GET", "small.gguf") == []
    with pytest.raises(BadInput, match="not on the list any more"):
        downloads.resume(last.key)


def test_downloads_when_closed_then_the_next_start_knows_them_and_no_token_is_written(
    hub: Hub, served: HubServer, tmp_path: Path, open_downloads: Callable[[], Downloads]
) -> None:
    file, two, three, gated = (
        wanted(served, MODEL), wanted(served, "a-Q4_K_M.gguf"), wanted(served, "mmproj-F16.gguf"),
        wanted(served, "a.gguf", GATED),
    )  # fmt: skip
    downloads = open_downloads()
    served.behave(".gguf", slow=2 * MEGABYTE)
    downloads.start([file, two, three, gated], TOKEN)
    until(lambda: all(partial(hub, each) > 100 * KILOBYTE for each in (file, two, three)))
    downloads.close()
    sizes = {each.key: partial(hub, each) for each in (file, two, three)}
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
    served.well_behaved()
    served.forget()
    again = open_downloads()
    assert {d.wanted.key: d.done for d in again.all()} == {**sizes, gated.key: 0}
    assert set(states(again).values()) == {DownloadState.CUT_OFF}
    for key in sizes:
        again.resume(key)
    again.resume(gated.key)
    until(lambda: idle(again))
    failed = one_of(again, "a.gguf")
    assert failed.state is DownloadState.FAILED
    assert "accept its licence at" in str(failed.error)
    for each in (file, two, three):
        assert starts(served, each.file.name) == [sizes[each.key]]
    again.resume(gated.key, TOKEN)
    until(lambda: idle(again))
    assert set(states(again).values()) == {DownloadState.DONE}


def test_download_when_it_failed_then_its_error_is_shown_until_it_is_resumed(
    hub: Hub, served: HubServer, open_downloads: Callable[[], Downloads]
) -> None:
    file, downloads = wanted(served, "small.gguf"), open_downloads()
    served.behave("small.gguf", method="HEAD", status=503, times=1)
    downloads.start([file])
    until(lambda: idle(downloads))
    assert "The Hub answered 503" in str(one_of(downloads, "small.gguf").error)
    downloads.resume(file.key)
    until(lambda: idle(downloads))
    assert one_of(downloads, "small.gguf").error is None
    downloads.start([file])  # there already
    assert states(downloads) == {"small.gguf": DownloadState.DONE}
    downloads.forget(file.key)
    assert downloads.all() == ()


def test_done_when_a_file_has_come_then_told_with_its_checksum(hub: Hub, served: HubServer, tmp_path: Path) -> None:
    calls: list[tuple[Path, str | None]] = []
    downloads = Downloads(hub, tmp_path / "d.json", lambda path, sha256: calls.append((path, sha256)))
    file = wanted(served, "small.gguf")
    downloads.start([file])
    until(lambda: idle(downloads))
    downloads.close()
    assert calls == [(hub.snapshot(ID, file.commit, "small.gguf"), file.file.sha256)]


@pytest.mark.parametrize("content", [b"", b"{", b'[{"repo": 1}]', b"\xff"])
def test_list_when_it_is_garbled_then_the_app_starts_all_the_same(
    hub: Hub, tmp_path: Path, open_downloads: Callable[[], Downloads], content: bytes
) -> None:
    (tmp_path / "downloads.json").write_bytes(content)
    assert open_downloads().all() == ()


def test_gated_when_the_token_has_no_access_then_nothing_is_fetched(hub: Hub, served: HubServer) -> None:
    with pytest.raises(NotAllowed, match="is gated"):
        fetch(hub, wanted(served, "a.gguf", GATED), token="hf_other")
    assert served.seen(cdn=True) == []
