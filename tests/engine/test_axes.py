"""Axes with real workers: types of the key-value cache, and numbers of image tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playground.comparing import axes, comparison_request, run_settings
from playground.comparing.run_settings import RunSettings
from playground.engine import llama_log
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import embedded
from playground.measuring.results import Measurement, MeasurementPlan
from playground.values.answer import ComparisonUpdate, PaneState
from playground.values.files import Variant
from playground.values.request import Image
from playground.wiring import Parts
from testkit import pairs
from testkit.running import run


def asked(parts: Parts, image: Image, variant: Variant, **fields: Any) -> ComparisonUpdate:
    settings: RunSettings = run_settings.read_settings({"max_tokens": 4, "n_ctx": 2048, **fields})
    variants = axes.spread([variant], settings)
    update = run(parts, comparison_request.comparison_of([image], "What is this?", variants, settings))
    assert {pane.state for pane in update.panes} == {PaneState.DONE}, [pane.error for pane in update.panes]
    return update


def test_image_tokens_when_they_are_an_axis_then_each_pane_says_what_its_encoder_saw(
    parts: Parts, scene: Image, tmp_path: Path
) -> None:
    files = pairs.write_pair("qwen2vl", tmp_path)
    variant = parts.catalog.open_pair(files.model, files.projector)
    for _ in range(2):  # the second time from the cache
        many, few = asked(parts, scene, variant, image_tokens=[64, 16]).panes
        assert many.metrics.image_tokens is not None
        assert few.metrics.image_tokens is not None
        assert 16 >= few.metrics.image_tokens > 8
        assert 81 >= many.metrics.image_tokens >= 64  # mtmd enlarges both sides to whole tokens
        assert many.metrics.image_pixels is not None
        (width, height), side = many.metrics.image_pixels[0], 28
        assert width * height == many.metrics.image_tokens * side**2
        assert many.metrics.image_tiles is None
        assert any("at minimum 1024 image tokens" in remark for remark in many.remarks)
        assert not any("change nothing" in remark for remark in many.remarks)


def test_image_tokens_when_the_encoder_has_its_own_then_that_is_said(parts: Parts, scene: Image) -> None:
    pane = asked(parts, scene, parts.catalog.choose(["F16"])[0], image_max_tokens=16).panes[0]
    assert any("change nothing" in remark for remark in pane.remarks)


def test_cache_types_when_they_are_an_axis_then_only_the_types_differ(parts: Parts, scene: Image) -> None:
    variant = parts.catalog.choose(["F16"])[0]
    exact, quantized = asked(parts, scene, variant, kv_types=["q4_0", "f16"]).panes
    assert (exact.variant, quantized.variant) == (f"{variant.id} · KV F16", f"{variant.id} · KV Q4_0")
    plain = asked(parts, scene, variant, flash_attention=True).panes[0]
    assert exact.token_ids == plain.token_ids
    pane = asked(parts, scene, variant, cache_type_v="q8_0").panes[0]
    assert any("flash attention" in remark for remark in pane.remarks)


def test_cache_types_when_measured_then_fewer_bits_drift_more(parts: Parts) -> None:
    settings = run_settings.read_settings({"kv_types": ["f16", "q8_0", "q4_0"]})
    variants = axes.spread(parts.catalog.choose(["F16"]), settings)
    questions = embedded(parts.evaluation, level="easy").first(2)
    request = MeasureRequest(questions, variants, variants[0].id, MeasurementPlan(max_tokens=6), settings.runtime())
    *_, measurement = MeasureJob(parts.lab, request).run()
    assert isinstance(measurement, Measurement)
    assert measurement.problems == ()
    exact, q8, q4 = (result.mean_kl.value if result.mean_kl else None for result in measurement.results)
    assert exact is None
    assert q8 is not None
    assert q4 is not None
    assert 0 < q8 < q4 < 1


LOG = [
    "load_hparams: Qwen-VL models require at minimum 1024 image tokens to function correctly on grounding tasks\n",
    "load_hparams: if you encounter problems with accuracy, try adding --image-min-",
    "tokens 1024\nload_hparams: more info: https://example.org\n",
    "load_hparams: patch_size:         14\nload_hparams: n_merge:            2\n",
    "load_hparams: image_min_pixels:   6272\nload_hparams: image_max_pixels:   200704 (custom value)\n",
]


def test_log_when_a_projector_was_loaded_then_its_warnings_and_its_limits_are_read() -> None:
    assert llama_log.image_warnings(LOG) == (
        "llama.cpp: Qwen-VL models require at minimum 1024 image tokens to function correctly on grounding tasks",
        "llama.cpp: if you encounter problems with accuracy, try adding --image-min-tokens 1024",
    )
    assert llama_log.token_side(LOG) == 28
    assert not llama_log.ignores_budget(LOG, (None, 256))
    assert not llama_log.ignores_budget(LOG, (None, None))
    assert llama_log.ignores_budget(LOG, (None, 300))
    assert llama_log.ignores_budget(["load_hparams: image_size: 448\n"], (64, 64))
