"""The forecast of a vision worker's memory against its peak, for a small and a large image. `python -m bench encoder`

The goal is a quotient between 0.9 and 1.1. The random pairs are small: most of a worker is its process.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image

from playground.comparing import compare, comparison_request
from playground.comparing.images import from_rgb
from playground.comparing.run_settings import RunSettings
from playground.settings import Settings
from playground.values.memory import WorkerRole
from playground.wiring import open_parts
from testkit import pairs

KINDS = ("qwen2vl", "qwen3vl", "idefics3")  # dynamic resolution, or tiles
CONVERTED = ("qwen3vl", "pixtral", "lfm2vl", "gemma4", "qwen25vl")
SIZES = ((64, 64), (4000, 3000))


def measure(folder: Path, converted: Path | None = None) -> dict[str, float]:
    """forecast / peak; peak in MB. `converted`: a folder of pairs that llama.cpp's converter wrote."""
    return {
        f"{kind}_{width}x{height}_{name}": value
        for kind in (KINDS if converted is None else CONVERTED)
        for width, height in SIZES
        for name, value in _one(folder / f"{kind}-{width}", kind, width, height, converted).items()
    }


def _one(folder: Path, kind: str, width: int, height: int, converted: Path | None) -> dict[str, float]:
    """In a cache of its own: a worker that was measured once would be forecast by its peak."""
    if converted is None:
        files = pairs.write_pair(kind, folder)
    else:
        model = converted / kind / f"{kind}-F16.gguf"
        files = pairs.PairFiles(kind, model, model.with_name(f"mmproj-{model.name}"))
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        variant = parts.catalog.open_pair(files.model, files.projector)
        request = comparison_request.comparison_of(
            [from_rgb(PIL.Image.fromarray(noise))], "What is this?", [variant], RunSettings(max_tokens=1, n_ctx=20_000)
        )
        *_, last = compare.run(request, parts.lab, compare.StopFlag())
        assert last.panes[0].error is None, last.panes[0].error
        worker = next(w for w in parts.pool.memory().workers if w.role is WorkerRole.VISION)
        peak = _peak(worker.pid)
    assert worker.forecast_bytes
    return {"forecast_of_peak": worker.forecast_bytes / peak, "peak_mb": peak / 1e6}


def _peak(pid: int) -> int:
    """As Linux counts it. The pool looks once a second, and may miss the moment when an image is resized."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
