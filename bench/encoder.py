"""The forecast of a vision worker's memory against its peak, for a small and a large image. `python -m bench encoder`

The goal is a quotient between 0.9 and 1.1. Most of a worker of a small pair is its process. On a GPU the towers are as
large as real ones too.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import PIL.Image
from pynvml import nvmlDeviceGetHandleByIndex, nvmlDeviceGetMemoryInfo, nvmlInit

from playground.comparing import prompts
from playground.comparing.images import from_rgb
from playground.settings import Settings
from playground.values.memory import WorkerRole
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.pairs import PairFiles, VisionSize

KINDS = ("qwen2vl", "qwen3vl", "idefics3")  # dynamic resolution, or tiles
CONVERTED = ("qwen3vl", "pixtral", "lfm2vl", "gemma4", "qwen25vl")
SIZES = ((64, 64), (4000, 3000))
# The towers of Qwen2-VL, Qwen3-VL 4B, and nearly of SmolVLM 2.2B.
REAL = {
    "qwen2vl": VisionSize(embd=1280, layer=32, head=16, ff=5120, image=224, patch=14),
    "qwen3vl": VisionSize(embd=1024, layer=24, head=16, ff=4096, image=768, patch=16),
    "idefics3": VisionSize(embd=1152, layer=27, head=16, ff=4304, image=392, patch=14),
}


def measure(folder: Path, converted: Path | None = None, *, gpu: bool = False) -> dict[str, float]:
    """forecast / peak; peak in MB. `converted`: a folder of pairs that llama.cpp's converter wrote.

    gpu: of the GPU's memory, with pairs of both sizes.
    """
    return {
        f"{name}_{width}x{height}_{what}": value
        for name, files in _pairs(folder, converted, gpu).items()
        for width, height in SIZES
        for what, value in _one(files, folder / f"{name}-{width}", width, height, gpu=gpu).items()
    }


def _pairs(folder: Path, converted: Path | None, gpu: bool) -> Mapping[str, PairFiles]:
    written = {}
    if converted is not None:
        for kind in (kind for kind in CONVERTED if (converted / kind).is_dir()):
            model = converted / kind / f"{kind}-F16.gguf"
            written[kind] = PairFiles(kind, model, model.with_name(f"mmproj-{model.name}"))
    else:
        written = {kind: pairs.write_pair(kind, folder / kind) for kind in KINDS}
    if gpu:
        written |= {f"{kind}_real": pairs.write_pair(kind, folder / "real", size=REAL[kind]) for kind in KINDS}
    return written


def _one(files: PairFiles, folder: Path, width: int, height: int, *, gpu: bool) -> dict[str, float]:
    """In a cache of its own: a worker that was measured once would be forecast by its peak."""
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    image = from_rgb(PIL.Image.fromarray(noise))
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        before = _card() if gpu else 0
        variant = parts.catalog.open_pair(files.model, files.projector)
        runtime = Runtime(n_gpu_layers=-1 if gpu else 0)
        prompts.ask(parts.lab, variant, "What is this?", image, runtime, lambda: False)
        forecast, pid = _worker(parts)
        peak = _card() - before if gpu else _peak(pid)
    print(f"  {files.projector.name} {width}x{height}: {forecast / peak:.3f} of {peak / 1e6:.0f} MB", flush=True)
    return {"forecast_of_peak": forecast / peak, "peak_mb": peak / 1e6}


def _worker(parts: Parts) -> tuple[int, int]:
    """The vision worker's forecast in bytes, and its process."""
    (worker,) = (w for w in parts.pool.memory().workers if w.role is WorkerRole.VISION)
    assert worker.forecast_bytes
    return worker.forecast_bytes, worker.pid


def _peak(pid: int) -> int:
    """As Linux counts it. The pool looks once a second, and may miss the moment when an image is resized."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def _card() -> int:
    """Bytes that everybody holds on the first GPU, by NVML. What ggml has taken there it keeps, so the last is most."""
    nvmlInit()
    return int(nvmlDeviceGetMemoryInfo(nvmlDeviceGetHandleByIndex(0)).used)
