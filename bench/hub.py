"""The Hub: requests for a listing and a pair's check, the speed of a download, and headers that were damaged."""

from __future__ import annotations

import io
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playground.errors import BadModel
from playground.models.gguf.header import read_header, read_remote
from playground.models.hub.client import Hub
from playground.models.hub.listing import RemoteFile, RepoListing
from testkit import pairs
from testkit.gguf_bytes import GOOD, language_with_a_large_vocabulary, mutate, rich
from testkit.hub_server import HubFile, HubRepo, hub_server

_BYTES = 10**9
_ROUNDS = 3
_GIGABIT = 125e6  # bytes a second
_MUTATIONS = 10_000

# A process of its own, so that server and client do not share a lock; huggingface_hub reads HF_ENDPOINT at import.
_FETCH = """
import sys, time
import huggingface_hub
from playground.models.hub.client import Hub
hub = Hub(own_token=False)
repo = hub.repo("local/files")
begun = time.perf_counter()
done = []
if sys.argv[1] == "ours":
    hub.fetch(
        repo.id, repo.commit, repo.files[0], None,
        on_bytes=lambda n: done.append((time.perf_counter(), n)) if len(done) < 2 else None, stop=lambda: False,
    )
else:
    huggingface_hub.hf_hub_download(repo.id, repo.files[0].name, revision=repo.commit)
    done = [(begun, 0)]
print(time.perf_counter() - begun, done[0][0] - begun, done[0][1])
"""


def measure(folder: Path) -> dict[str, float]:
    figures = _requests(folder)
    figures |= _throughput(folder)
    figures |= _damaged_headers(folder)
    return figures


def _requests(folder: Path) -> dict[str, float]:
    """What the server counts, for a repository of 30 files and a pair with a vocabulary of 151,936 tokens."""
    pair = pairs.write_llava(folder, size=pairs.VisionSize(32, 27, 4, 64, 112, 14), name="27-layers")
    files: dict[str, bytes | Path | HubFile] = {f"a-{n}.gguf": GOOD for n in range(28)}
    files |= {"big-Q4_K_M.gguf": language_with_a_large_vocabulary(), "mmproj-F16.gguf": pair.projector}
    with hub_server([HubRepo("acme/a", files)]) as server, _patched(server.patch, folder / "counted"):
        hub = Hub(own_token=False)
        begun = time.perf_counter()
        repo = hub.repo("acme/a")
        listing_s, listing = time.perf_counter() - begun, len(server.requests)
        assert len(repo.files) == 30
        server.forget()
        begun = time.perf_counter()
        for name in ("big-Q4_K_M.gguf", "mmproj-F16.gguf"):
            hub.header("acme/a", repo.commit, _file(repo, name))
        return {
            "listing_30_files_calls": float(listing),
            "listing_30_files_s": listing_s,
            "pair_check_range_requests": float(len(server.seen("GET"))),
            "pair_check_all_requests": float(len(server.requests)),
            "pair_check_bytes": float(sum(request.sent for request in server.seen("GET"))),
            "pair_check_s": time.perf_counter() - begun,
        }


def _throughput(folder: Path) -> dict[str, float]:
    """fetch() in a process of its own, its hash included, against curl and huggingface_hub without one; in turns."""
    served = folder / "served"
    served.mkdir()
    with (served / "big.gguf").open("wb") as file:
        block = random.Random(1).randbytes(10**7)
        for _ in range(_BYTES // len(block)):
            file.write(block)
    figures = {}
    for name, pace in (("loopback", None), ("gigabit", _GIGABIT)):
        with _server(served, pace) as url:
            ours, curls, theirs = [], [], []
            for n in range(_ROUNDS if pace is None else 1):
                cache = folder / f"cache-{name}-{n}"
                curls.append(_curl(url, folder))
                ours.append(_fetch(url, cache)[0])
                if pace is None and n == 0:
                    figures |= _resumed(url, cache)
                shutil.rmtree(cache)
                if pace is None:
                    theirs.append(_fetch(url, cache, "theirs")[0])
                    shutil.rmtree(cache)
            if theirs:
                figures["loopback_fetch_vs_huggingface_hub"] = statistics.median(theirs) / statistics.median(ours)
            figures |= {
                f"{name}_curl_mb_s": _BYTES / 1e6 / statistics.median(curls),
                f"{name}_fetch_mb_s": _BYTES / 1e6 / statistics.median(ours),
                f"{name}_fetch_vs_curl": statistics.median(curls) / statistics.median(ours),
            }
    return figures


def _resumed(url: str, cache: Path) -> dict[str, float]:
    """A download of 1 GB of which 0.9 GB are there: what is there is read and hashed, the rest is fetched."""
    (blob,) = (cache / "hub").rglob("blobs/*")
    for link in (cache / "hub").rglob("snapshots/*/*"):
        link.unlink()
    blob.rename(blob.with_name(blob.name + ".resumable.incomplete"))
    os.truncate(blob.with_name(blob.name + ".resumable.incomplete"), _BYTES * 9 // 10)
    seconds, rehash_s, n_bytes = _fetch(url, cache)
    return {"resumed_0.9_of_1_gb_s": seconds, "resumed_rehash_s": rehash_s, "resumed_rehashed_bytes": n_bytes}


def _damaged_headers(folder: Path) -> dict[str, float]:
    """10,000 mutations of a small file with every kind of value, of a real projector's and a real model's header."""
    pair = pairs.write_pair("qwen3vl", folder / "real")
    wholes = [rich(), pair.model.read_bytes()[: 2**16], pair.projector.read_bytes()[: 2**16]]
    draw, slowest, n_read = random.Random(23), 0.0, 0
    path = folder / "damaged.gguf"
    tracemalloc.start()
    for n in range(_MUTATIONS):
        data = mutate(draw.choice(wholes), draw)
        path.write_bytes(data)
        size = len(data) if n % 2 else 10**10  # half of them of a file that is said to go on
        for read in (
            lambda: read_header(path),
            lambda data=data, size=size: read_remote(io.BufferedReader(io.BytesIO(data)), size, "damaged.gguf"),
        ):
            begun = time.process_time()
            try:
                read()
                n_read += 1
            except BadModel:
                pass
            slowest = max(slowest, time.process_time() - begun)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "damaged_headers": float(_MUTATIONS),
        "damaged_read_all_the_same": float(n_read),
        "damaged_slowest_s": slowest,
        "damaged_peak_mb": peak / 2**20,
    }


# --- processes -------------------------------------------------------------------------------------------------------


@contextmanager
def _server(folder: Path, pace: float | None) -> Iterator[str]:
    command = [sys.executable, "-m", "testkit.hub_server", str(folder), *([str(pace)] if pace else [])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            _curl(url, folder.parent, head=True)  # it has the file's checksum now
            yield url
        finally:
            server.kill()


def _curl(url: str, folder: Path, *, head: bool = False) -> float:
    target = folder / "by-curl.gguf"
    begun = time.perf_counter()
    location = f"{url}/local/files/resolve/main/big.gguf"
    subprocess.run(["curl", "-sSfL", *(["-I"] if head else []), "-o", target, location], check=True)
    seconds = time.perf_counter() - begun
    assert head or target.stat().st_size == _BYTES
    target.unlink()
    return seconds


def _fetch(url: str, cache: Path, whose: str = "ours") -> tuple[float, float, float]:
    """Seconds in all, seconds until what was there was read, and how much that was."""
    environment = {"HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""}
    process = subprocess.run(
        [sys.executable, "-c", _FETCH, whose], env=os.environ | environment, check=True, capture_output=True, text=True
    )
    seconds, first_s, n_bytes = map(float, process.stdout.split())
    return seconds, first_s, n_bytes


@contextmanager
def _patched(patch: Callable[..., None], folder: Path) -> Iterator[None]:
    import pytest  # noqa: PLC0415

    with pytest.MonkeyPatch.context() as monkeypatch:
        patch(monkeypatch, folder)
        yield


def _file(repo: RepoListing, name: str) -> RemoteFile:
    return next(file for file in repo.files if file.name == name)
