"""The app itself on this machine, driven from outside: memory against NVML, an eviction, a killed worker.

`python -m bench app --size 3b --gpu`. The pair has random weights and lies in a Hub cache under the names of two
presets, as on a machine whose Hub cache was filled before the start.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
from gradio_client import Client, handle_file

from bench import engine
from playground.models.presets import Preset, read_presets
from playground.pool.pool import Pool
from playground.quantizing.quantizer import quantize_file
from playground.values.files import Half
from testkit import pairs
from testkit.webapp import running

_FAMILIES = ("llava-1.5-7b", "obsidian-3b")  # Q8_0, Q4_K_M, Q2_K; F16, Q6_K
_REVISION = "0" * 40
_SETTINGS = {"max_tokens": 64, "n_ctx": 2048}


def measure(folder: Path, size: str, *, gpu: bool) -> dict[str, float]:
    presets = {preset.family: preset for preset in read_presets()}
    chosen = [presets[family] for family in _FAMILIES]
    hub = folder / "hub"
    _fill(hub, chosen, size, folder)
    image = folder / "noise.png"
    PIL.Image.frombytes("RGB", (336, 336), os.urandom(336 * 336 * 3)).save(image)
    environment = {"HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"}
    settings = {**_SETTINGS, "n_gpu_layers": -1 if gpu else 0}
    figures: dict[str, float] = {}
    with running(folder / "cache", folder / "app.log", more=environment) as app, _client(app.url) as client:
        used_before = _used(gpu)
        ids = _ids(client)
        for family, variants in ids.items():
            panes = _compare(client, image, variants, settings)
            figures |= {f"{pane['variant']}, tok/s": pane["metrics"]["decode_tok_per_s"] or math.nan for pane in panes}
            figures[f"{family} panes done of {len(variants)}"] = sum(pane["state"] == "done" for pane in panes)
        report = client.predict(api_name="/memory")
        for worker in report["workers"]:
            by = worker["measured_by"] or "resident"
            figures[f"{worker['role']} {worker['file']}, MiB ({by})"] = (worker["bytes"] or math.nan) / 2**20
            if worker["forecast"] and worker["peak_bytes"]:
                place = worker["forecast"]["parts"].get(worker["place"]) or {}
                figures[f"{worker['file']}, forecast over peak"] = sum(place.values()) / worker["peak_bytes"]
        held = sum(worker["bytes"] or 0 for worker in report["workers"])
        if _used(gpu) > used_before:
            figures["all workers over NVML's difference of the card"] = held / (_used(gpu) - used_before)
        figures |= _killed(client, image, ids[_FAMILIES[0]], settings)
        figures["app alive after the kill"] = float(httpx.get(f"{app.url}/health", timeout=10).status_code == 200)
    budget = {"PLAYGROUND_GPU_BUDGET_BYTES" if gpu else "PLAYGROUND_MEMORY_BUDGET_BYTES": str(int(0.6 * held))}
    with running(folder / "cache", folder / "tight.log", more=environment | budget) as app, _client(app.url) as client:
        n_done = 0
        for variants in [*_ids(client).values()] * 2:
            n_done += sum(pane["state"] == "done" for pane in _compare(client, image, variants, settings))
        figures["panes done of 10 with 0.6 of the memory"] = n_done
        figures["workers still loaded then"] = len(client.predict(api_name="/memory")["workers"])
    return figures


def _fill(hub: Path, presets: Sequence[Preset], size: str, folder: Path) -> None:
    """A Hub cache with one random pair under the names of these presets' files."""
    files = pairs.write_llava(folder, name=f"bench-{size}", **engine.SIZES[size])
    pool = Pool.open()
    try:
        for preset in presets:
            root = hub / f"models--{preset.repo.replace('/', '--')}"
            snapshot = root / "snapshots" / _REVISION
            snapshot.mkdir(parents=True, exist_ok=True)
            (root / "refs").mkdir(exist_ok=True)
            (root / "refs/main").write_text(_REVISION)
            _place(files.projector, root, snapshot / preset.projector)
            for quantization in preset.ticked:
                kind = {"Q6": "Q6_K"}.get(quantization, quantization)
                file = files.model if kind == "F16" else folder / f"bench-{size}-{kind}.gguf"
                if not file.exists():
                    quantize_file(files.model, file, kind, pool, Half.MODEL)
                _place(file, root, snapshot / preset.model.format(q=quantization))
    finally:
        pool.close()


def _place(file: Path, root: Path, name: Path) -> None:
    blob = root / "blobs" / file.name
    blob.parent.mkdir(exist_ok=True)
    if not blob.exists():
        os.link(file, blob)
    if not name.exists():
        name.symlink_to(blob)


@contextmanager
def _client(url: str) -> Iterator[Client]:
    """A client of the app, which is ready: it has opened the Hub cache's files, and the embedded pair answers."""
    while httpx.get(f"{url}/health/ready", timeout=10).status_code != 200:
        time.sleep(0.2)
    client = Client(url, verbose=False)
    try:
        yield client
    finally:
        client.close()


def _ids(client: Client) -> dict[str, list[str]]:
    """The ids of the variants by family."""
    variants = client.predict(api_name="/variants")
    return {family: [v["id"] for v in variants if v["id"].startswith(f"{family}:")] for family in _FAMILIES}


def _compare(
    client: Client, image: Path, variants: Sequence[str], settings: Mapping[str, Any]
) -> Sequence[dict[str, Any]]:
    document = client.predict(
        handle_file(str(image)), engine.PROMPT, list(variants), dict(settings), api_name="/compare"
    )
    panes: Sequence[dict[str, Any]] = document["panes"]
    for pane in panes:
        if pane["error"]:
            print(f"  {pane['variant']}: {pane['error'][:160]}")
    return panes


def _killed(client: Client, image: Path, variants: Sequence[str], settings: Mapping[str, Any]) -> dict[str, float]:
    """A language model's worker is killed while it answers; then the same is asked again."""
    killed = threading.Event()

    def kill() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not killed.is_set():
            for worker in client.predict(api_name="/memory")["workers"]:
                if worker["role"] == "language" and worker["state"] == "busy" and worker["leases"]:
                    os.kill(worker["pid"], signal.SIGKILL)
                    killed.set()
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    panes = _compare(client, image, variants, {**settings, "max_tokens": 400})
    thread.join()
    again = _compare(client, image, variants, settings)
    return {
        "killed a worker in mid-answer": float(killed.is_set()),
        "panes failed then": sum(pane["state"] == "failed" for pane in panes),
        "other panes done then": sum(pane["state"] == "done" for pane in panes),
        "panes done when asked again": sum(pane["state"] == "done" for pane in again),
    }


def _used(gpu: bool) -> int:
    """Bytes used on the first GPU by everybody, from NVML. 0 without a GPU."""
    if not gpu:
        return 0
    import pynvml  # noqa: PLC0415

    pynvml.nvmlInit()
    return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
