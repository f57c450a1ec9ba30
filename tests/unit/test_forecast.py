"""Forecasts of memory: from shapes, from llama.cpp's plan, from what was measured; and what may be done about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from playground.engine import protocol
from playground.models.gguf.header import read_header
from playground.models.gguf.model_shape import shape
from playground.pool.forecast import Forecasts, gpu_share, remedied
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.files import ModelFile, Resizing, Shape
from playground.values.memory import HOST
from playground.values.request import Image, Remedy, Runtime
from testkit import pairs

GPU = "GPU 0"
DEVICES = {HOST: "host", GPU: "H100", "GPU 1": "H100"}
MIB = 2**20

LM = Shape(
    n_layers=10, layer_bytes=1000 * MIB, embedding_bytes=80 * MIB, other_bytes=100 * MIB, read_bytes=1100 * MIB,
    kv_bytes_per_token=MIB // 10, n_vocabulary=1000, n_embd=64, n_ff=128,
)  # fmt: skip
RUNTIME = Runtime(n_ctx=1000, n_batch=512)


def model(of: Shape | None = LM) -> ModelFile:
    return ModelFile("/m/a.gguf", 1180 * MIB, "sha", "Q8_0", 1, "llama", "vv", of)


def spec(runtime: Runtime = RUNTIME) -> WorkerSpec:
    return language_spec(model(), runtime)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(-1, 1.0), (11, 1.0), (10, 1000 / 1100), (1, 100 / 1100), (0, 0.0)],
    ids=["all", "more than there are", "all but one", "the output alone", "none"],
)
def test_share_when_layers_go_to_the_gpu_then_the_output_is_first(layers: int, expected: float) -> None:
    assert gpu_share(LM, layers) == pytest.approx(expected)


def test_forecast_when_on_a_gpu_then_weights_without_embeddings_and_cache_by_context() -> None:
    forecast = Forecasts(None, DEVICES).of(spec(), (GPU,))
    parts = forecast.parts[GPU]
    assert (parts.weights, parts.kv_cache) == (1100 * MIB, 1000 * (MIB // 10))
    assert parts.process > 500 * MIB  # a CUDA context
    assert forecast.source == "header"
    assert forecast.parts[HOST].weights == 0


def test_forecast_when_many_sequences_share_the_context_then_it_has_a_plan_of_its_own() -> None:
    many = language_spec(model(), RUNTIME, sequences=16)
    forecasts = Forecasts(None, DEVICES)
    forecasts.planned(many, (GPU,), protocol.MemoryPlan(123, 4))
    assert forecasts.of(many, (GPU,)).parts[GPU].kv_cache == 123
    assert forecasts.of(spec(), (GPU,)).parts[GPU].kv_cache == 1000 * (MIB // 10)


def test_forecast_when_on_the_host_then_the_embeddings_count_too() -> None:
    parts = Forecasts(None, DEVICES).of(spec(replace(RUNTIME, n_gpu_layers=0)), (HOST,)).parts
    assert set(parts) == {HOST}
    assert parts[HOST].weights == 1180 * MIB
    assert parts[HOST].process < 300 * MIB


def test_forecast_when_half_of_the_layers_then_the_rest_is_on_the_host() -> None:
    parts = Forecasts(None, DEVICES).of(spec(replace(RUNTIME, n_gpu_layers=6)), (GPU,)).parts
    assert parts[GPU].weights == pytest.approx(600 * MIB, abs=2)
    assert parts[HOST].weights == pytest.approx(500 * MIB, abs=2)
    assert parts[GPU].kv_cache + parts[HOST].kv_cache == pytest.approx(1000 * (MIB // 10), abs=2)


def test_forecast_when_over_two_gpus_then_each_has_half_and_a_process() -> None:
    forecasts = Forecasts(None, DEVICES)
    on_one, two = (forecasts.of(spec(), places).parts for places in ((GPU,), (GPU, "GPU 1")))
    assert two[GPU].weights == two["GPU 1"].weights == on_one[GPU].weights // 2
    assert two["GPU 1"].process == on_one[GPU].process


def test_forecast_when_llama_cpp_has_planned_then_its_figures() -> None:
    forecasts = Forecasts(None, DEVICES)
    assert not forecasts.has_plan(spec(), (GPU,))
    forecasts.planned(spec(), (GPU,), protocol.MemoryPlan(7 * MIB, 3 * MIB))
    forecast = forecasts.of(spec(), (GPU,))
    assert (forecast.source, forecast.parts[GPU].kv_cache, forecast.parts[GPU].compute) == ("dry run", 7 * MIB, 3 * MIB)
    other = forecasts.of(spec(replace(RUNTIME, n_ctx=2000)), (GPU,))
    assert other.source == "header"  # another context, another plan
    assert forecasts.of(spec(), (HOST,)).source == "header"  # another device


def test_forecast_when_measured_then_right_the_next_time_and_for_others_the_process_is_learned(tmp_path: Path) -> None:
    forecasts = Forecasts(tmp_path, DEVICES)
    before = forecasts.of(spec(), (GPU,))
    forecasts.measured(spec(), (GPU,), before.bytes[GPU] + 300 * MIB)
    again = forecasts.of(spec(), (GPU,))
    assert (again.source, again.bytes[GPU]) == ("measured before", before.bytes[GPU] + 300 * MIB)
    other = forecasts.of(spec(replace(RUNTIME, n_ctx=2000)), (GPU,))
    assert other.parts[GPU].process == before.parts[GPU].process + 300 * MIB
    forecasts.close()
    forecast = Forecasts(tmp_path, DEVICES).of(spec(), (GPU,))
    assert forecast.bytes == again.bytes
    assert Forecasts(tmp_path, DEVICES | {GPU: "T4"}).of(spec(), (GPU,)).source == "header"


def test_forecast_when_measured_twice_then_it_does_not_drift(tmp_path: Path) -> None:
    forecasts = Forecasts(tmp_path, DEVICES)
    for _ in range(4):
        forecasts.measured(spec(), (GPU,), 2000 * MIB)
    assert forecasts.of(spec(), (GPU,)).bytes[GPU] == 2000 * MIB


def test_forecast_when_nothing_is_known_of_a_file_then_its_size() -> None:
    forecast = Forecasts(None, DEVICES).of(language_spec(model(None), RUNTIME), (GPU,))
    assert forecast.parts[GPU].weights == 1180 * MIB


def test_remedies_when_none_is_allowed_then_none() -> None:
    assert remedied(RUNTIME, [], 10) == []


def test_remedies_when_all_are_allowed_then_the_mildest_first_and_each_on_top() -> None:
    start = Runtime(n_ctx=4096)
    ways = remedied(start, list(Remedy), 3)
    assert [(w.n_ctx, w.projector_on_gpu, w.n_gpu_layers) for w in ways] == [
        (2048, True, -1), (1024, True, -1), (1024, False, -1),
        (1024, False, 3), (1024, False, 2), (1024, False, 1), (1024, False, 0),
    ]  # fmt: skip


def test_remedies_when_few_layers_are_there_already_then_only_fewer() -> None:
    assert [w.n_gpu_layers for w in remedied(replace(RUNTIME, n_gpu_layers=2), [Remedy.LAYERS], 10)] == [1, 0]


def test_shape_when_of_real_files_then_its_bytes_are_all_of_the_tensors(tmp_path: Path) -> None:
    files = pairs.write_llava(tmp_path, n_layer=3, n_embd=512, n_head=8, n_head_kv=2, name="three")
    header = read_header(files.model)
    model_shape = shape([header])
    assert model_shape.layer_bytes + model_shape.embedding_bytes + model_shape.other_bytes == sum(
        t.n_bytes for t in header.tensors
    )
    assert (model_shape.n_layers, model_shape.kv_bytes_per_token) == (3, 3 * 2 * (512 // 8) * 2 * 2)
    assert model_shape.read_bytes == model_shape.layer_bytes + model_shape.other_bytes
    projector = shape([read_header(files.projector)])
    assert projector.layer_bytes + projector.other_bytes == sum(t.n_bytes for t in read_header(files.projector).tensors)
    assert projector.n_patches


def test_spec_when_the_projector_is_to_be_on_the_cpu_then_it_wants_no_gpu() -> None:
    runtime = replace(RUNTIME, projector_on_gpu=False)
    assert not vision_spec(model(), model(), runtime).wants_gpu
    assert language_spec(model(), runtime).wants_gpu
    assert not language_spec(model(), replace(RUNTIME, n_gpu_layers=0)).wants_gpu
    assert language_spec(model(), replace(RUNTIME, split_gpus=True)).splits


RESIZING = Resizing(patch=14, token=28, limits=(8 * 28**2, 4096 * 28**2), adjustable=True)
TOWER = Shape(
    n_layers=4, layer_bytes=10 * MIB, embedding_bytes=0, other_bytes=MIB, read_bytes=0, n_patches=1024, n_embd=160,
    n_ff=428, resizing=RESIZING,
)  # fmt: skip


def encoder(*sizes: tuple[int, int], shape: Shape = TOWER, runtime: Runtime = RUNTIME) -> WorkerSpec:
    projector = ModelFile("/m/p.gguf", 11 * MIB, "ps", "F16", 1, "clip", None, shape)
    return vision_spec(projector, model(), runtime, [Image(b"", *size, "") for size in sizes])


def compute(spec: WorkerSpec, plan: protocol.MemoryPlan | None = None, place: str = HOST) -> int:
    forecasts = Forecasts(None, DEVICES)
    if plan is not None:
        forecasts.planned(spec, (place,), plan)
    return forecasts.of(spec, (place,)).parts[place].compute


def buffers(size: tuple[int, int], plan: protocol.MemoryPlan) -> float:
    """Of an encoder with a mask of windows, while it encodes, without its pictures; MiB."""
    spec = encoder(size, shape=replace(TOWER, masked=True))
    pictures = 3 * size[0] * size[1] + 24 * 14**2 * (spec.patches or 0)
    return (compute(spec, plan) - pictures) / MIB


@pytest.mark.parametrize(
    ("size", "tokens", "patches"),
    [
        ((64, 64), (None, None), 32),  # enlarged to the least
        ((1120, 1120), (None, None), 6400),
        ((4000, 3000), (None, None), 16384),
        ((4000, 3000), (None, 256), 1024),
        ((64, 64), (1024, 1024), 4096),
    ],
)
def test_encoder_when_it_resizes_then_the_patches_of_this_picture(
    size: tuple[int, int], tokens: tuple[int | None, int | None], patches: int
) -> None:
    runtime = replace(RUNTIME, image_min_tokens=tokens[0], image_max_tokens=tokens[1])
    assert encoder(size, runtime=runtime).patches == patches
    pixels, resized = size[0] * size[1], 14**2 * patches
    graph = 4 * (3 * 160 + 428) * patches
    expected = max(9 * pixels + 15 * resized, 3 * pixels + 24 * resized + graph)
    assert compute(encoder(size, runtime=runtime)) == expected


def test_encoder_when_its_limits_stand_in_the_file_then_no_setting_moves_them() -> None:
    fixed = replace(TOWER, resizing=replace(RESIZING, adjustable=False))
    runtime = replace(RUNTIME, image_max_tokens=16)
    assert encoder((4000, 3000), shape=fixed, runtime=runtime).patches == 16384


def test_encoder_when_it_cuts_tiles_then_one_tile_whatever_the_picture() -> None:
    tiles = replace(TOWER, resizing=None)
    assert encoder((4000, 3000), shape=tiles).patches == encoder((64, 64), shape=tiles).patches == 1024


def test_encoder_when_llama_cpp_has_told_its_buffers_then_scaled_to_the_picture() -> None:
    """The figures that llama.cpp logs for the converter's random Qwen2.5-VL: its mask of windows dominates."""
    plan = protocol.MemoryPlan(None, round(434.22 * MIB), 92**2)
    assert buffers((4000, 3000), plan) == pytest.approx(1521.95, rel=0.05)
    assert buffers((1000, 1000), plan) == pytest.approx(168.65, rel=0.05)
    # A small picture takes less than the image that llama.cpp warms up with at the load: float32, twice.
    assert compute(encoder((64, 64), shape=replace(TOWER, masked=True)), plan) == 24 * 92**2 * 14**2
    # A GPU's memory is taken when it is reserved: for the image that llama.cpp warms up with.
    assert compute(encoder((64, 64), shape=replace(TOWER, masked=True)), plan, GPU) == plan.compute_bytes


def test_encoder_when_measured_with_one_picture_then_another_is_forecast_by_its_own(tmp_path: Path) -> None:
    forecasts = Forecasts(tmp_path, DEVICES)
    small, large = encoder((64, 64)), encoder((4000, 3000))
    forecasts.measured(small, (HOST,), 90 * MIB)
    assert forecasts.of(small, (HOST,)).bytes[HOST] == 90 * MIB
    assert forecasts.of(large, (HOST,)).source == "header"
    assert forecasts.of(large, (HOST,)).bytes[HOST] > 100 * MIB
    forecasts.close()
