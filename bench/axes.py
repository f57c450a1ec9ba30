"""Drift by type of the key-value cache and by image tokens, on pairs that llama.cpp's converter wrote, and the embedded
pair. `python -m bench axes --pairs FOLDER`

The converted pairs have random weights: their drift orders the values, and says nothing about a trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playground.comparing import axes, run_settings
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import embedded
from playground.measuring.results import Measurement, MeasurementPlan
from playground.settings import Settings
from playground.values.files import Variant
from playground.wiring import Parts, open_parts

PAIRS = ("qwen25vl", "qwen3vl", "lfm2vl")
KV_TYPES = ("f16", "q8_0", "q5_1", "q4_0")
IMAGE_TOKENS = (1024, 256, 64)
_QUESTIONS, _TOKENS = 8, 16


def measure(folder: Path, converted: Path | None) -> dict[str, float]:
    """Mean KL to the first value, nats a token; and of image tokens the encode time."""
    figures: dict[str, float] = {}
    with open_parts(Settings(cache_dir=folder / "cache"), any_folder=True) as parts:
        parts.catalog.derive(parts.quantize)
        # The embedded pair's encoder takes images of one size.
        figures |= dict(_axis(parts, parts.catalog.choose(["F16"])[0], "embedded", kv_types=KV_TYPES))
        for name in PAIRS if converted is not None else ():
            model = converted / name / f"{name}-F16.gguf"
            variant = parts.catalog.open_pair(model, model.with_name(f"mmproj-{model.name}"))
            figures |= dict(_axis(parts, variant, name, kv_types=KV_TYPES))
            figures |= dict(_axis(parts, variant, name, image_tokens=IMAGE_TOKENS))
    return figures


def _axis(parts: Parts, variant: Variant, name: str, **axis: Any) -> Iterator[tuple[str, float]]:
    settings = run_settings.read_settings(axis)
    variants = axes.spread([variant], settings)
    questions = embedded(parts.evaluation, level="hard").first(_QUESTIONS)
    plan = MeasurementPlan(max_tokens=_TOKENS)
    request = MeasureRequest(questions, variants, variants[0].id, plan, settings.runtime())
    *_, measured = MeasureJob(parts.lab, request).run()
    assert isinstance(measured, Measurement)
    for spread, result in zip(variants, measured.results, strict=True):
        value = f"{name}{spread.overrides.label if spread.overrides else ''}"
        if result.mean_kl is not None:
            yield f"{value}, KL", result.mean_kl.value
        if result.floor is not None:
            yield f"{value}, floor", result.floor
        if result.speed is not None and result.speed.encode_s is not None:
            yield f"{value}, encode_s", result.speed.encode_s
