"""The lab: drift of six variants, a grid, reading an answer against writing it, quantizing against llama-quantize."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from playground.engine import protocol
from playground.lab import items
from playground.lab.measure import Measuring
from playground.lab.measured import Measurement, Plan
from playground.models.presets import data_folder
from playground.parts import Parts, open_parts
from playground.pool.pool import language_spec
from playground.settings import Settings
from playground.values import Runtime, Sampling, Variant
from tests import pairs

_RUNTIME = Runtime(n_ctx=512)
_GRID_ITEMS = 100


def measure(folder: Path, tools: Path) -> dict[str, float]:
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        parts.store.derive(parts.pool.quantize)
        ladder = parts.store.choose(("F16", "Q8_0", "Q6_K", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0"))
        found = _timed(parts, ladder, 50, folder, "drift_6_variants_50_items")
        models = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
        grid = parts.store.choose(models, ("F16", "Q8_0", "Q4_0", "Q2_K"))
        found |= _timed(parts, grid, _GRID_ITEMS, folder, "grid_7_x_4_100_items")
        found |= _reading(parts, ladder[0], folder)
        found |= _quantizing(parts, folder, tools)
    return found


def _timed(parts: Parts, variants: tuple[Variant, ...], n: int, folder: Path, name: str) -> dict[str, float]:
    asked = items.embedded(data_folder() / "tiny-vlm/evaluation", level="hard").first(n)
    measuring = Measuring(
        asked, variants, variants[0].id, Plan(), _RUNTIME, parts.pool, parts.embeddings, lambda: False, folder
    )
    *_, last = measuring.run()
    assert isinstance(last, Measurement)
    tokens = sum(len(one.kl) for one in last.results[1].items)
    return {f"{name}_s": last.elapsed_s, f"{name}_tokens_an_item": tokens / len(last.questions)}


def _reading(parts: Parts, variant: Variant, folder: Path) -> dict[str, float]:
    """Reading an answer in batches, distributions written, against writing it token by token."""
    item = items.Item("hard-62.png", "What do you see?")
    asked = items.ItemSet("one", [item], data_folder() / "tiny-vlm/evaluation")
    measuring = Measuring(
        asked, (variant,), variant.id, Plan(), _RUNTIME, parts.pool, parts.embeddings, lambda: False, folder
    )
    prompt = measuring._prompt(variant, item, asked.image(item))
    _, ids = measuring._answer(variant, prompt)
    reading, writing = [], []
    with parts.pool.lease(language_spec(variant.model, _RUNTIME)) as lease:
        for _ in range(9):
            begun = time.perf_counter()
            finished = lease.request(protocol.Generate(prompt, Sampling(max_tokens=len(ids)), _RUNTIME))
            assert isinstance(finished, protocol.Finished)
            writing.append(time.perf_counter() - begun - (finished.first_token_s or 0))
            begun = time.perf_counter()
            lease.request(protocol.Record(prompt, ids, _RUNTIME, str(folder / "record")))
            reading.append(time.perf_counter() - begun - (finished.prompt_s or 0))
    return {"reading_against_writing": sorted(writing)[4] / sorted(reading)[4]}


def _quantizing(parts: Parts, folder: Path, tools: Path) -> dict[str, float]:
    """A random pair of 168 M to Q4_K_M, by the worker and by llama-quantize with the same threads."""
    tool = tools / "llama-quantize"
    pair = pairs.write_llava(folder, n_embd=1024, n_head=16, n_head_kv=4, n_layer=8, n_ff=4096, name="large")
    mine, theirs = [], []
    for n in range(3):
        target = folder / f"q{n}.gguf"
        begun = time.perf_counter()
        parts.pool.quantize_with(protocol.Quantize(str(pair.model), str(target), "Q4_K_M", False, n_threads=2))
        mine.append(time.perf_counter() - begun)
        target.unlink()
        if tool.exists():
            begun = time.perf_counter()
            subprocess.run([str(tool), str(pair.model), str(target), "Q4_K_M", "2"], check=True, capture_output=True)
            theirs.append(time.perf_counter() - begun)
            target.unlink()
    found = {"quantize_s": sorted(mine)[1]}
    if theirs:
        found["quantize_speed_against_llama_quantize"] = sorted(theirs)[1] / sorted(mine)[1]
    return found
