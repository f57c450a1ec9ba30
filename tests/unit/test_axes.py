"""Runtime settings as an axis: one pair as several variants, and what each of them depends on."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from playground.comparing import axes, comparison_request, run_settings
from playground.comparing.embedding_cache import EmbeddingCache
from playground.errors import BadInput
from playground.measuring.steps import settings_key
from playground.pool.forecast import Forecasts
from playground.pool.worker_spec import language_spec, vision_spec
from playground.support.result_cache import ResultCache
from playground.values.files import ModelFile, Shape, Variant
from playground.values.memory import HOST
from playground.values.overrides import CacheType, Overrides
from playground.values.request import Image, Runtime

SHAPE = Shape(n_layers=2, layer_bytes=100, embedding_bytes=10, other_bytes=10, read_bytes=110, kv_bytes_per_token=64)
MODEL = ModelFile("/m/a.gguf", 120, "m" * 64, "Q4_K_M", 1, "llama", "vv", SHAPE)
PROJECTOR = ModelFile("/m/b.gguf", 120, "p" * 64, "F16", 1, "clip", None, SHAPE)
PAIR = Variant("f:Q4_K_M+mmproj-F16", "f", "Q4_K_M", MODEL, PROJECTOR, reference=True)


def spread(**settings: Any) -> tuple[Variant, ...]:
    return axes.spread([PAIR], run_settings.read_settings(settings))


def test_axis_when_nothing_is_listed_then_the_variants_themselves() -> None:
    assert spread(cache_type_k="q8_0", image_max_tokens=64) == (PAIR,)


def test_axis_when_types_and_tokens_are_listed_then_each_with_each_and_the_most_precise_first() -> None:
    labels = [variant.label for variant in spread(kv_types=["q4_0", "f16"], image_tokens=[256, 1024])]
    assert labels == [
        "Q4_K_M · KV F16 · 1024 image tokens",
        "Q4_K_M · KV F16 · 256 image tokens",
        "Q4_K_M · KV Q4_0 · 1024 image tokens",
        "Q4_K_M · KV Q4_0 · 256 image tokens",
    ]


def test_axis_when_spread_then_ids_are_unique_and_tell_their_pair() -> None:
    variants = spread(kv_types=["f16", "q8_0"])
    assert len({variant.id for variant in variants}) == 2
    assert {variant.pair_id for variant in variants} == {PAIR.id}


def test_axis_when_the_reference_is_a_pair_then_its_most_precise_value() -> None:
    variants = spread(kv_types=["q8_0", "f16"])
    assert comparison_request.reference_of(variants, PAIR.id) == variants[0].id
    assert comparison_request.reference_of(variants) == variants[0].id
    assert comparison_request.reference_of(variants, variants[1].label) == variants[1].id


def test_axis_when_one_type_is_quantized_then_all_use_flash_attention() -> None:
    """Else the drift of Q4_0 would also be that of another attention."""
    runtimes = [Runtime().of(variant) for variant in spread(kv_types=["f16", "q4_0"])]
    assert [runtime.flash_attention for runtime in runtimes] == [True, True]
    assert [Runtime().of(variant).flash_attention for variant in spread(kv_types=["f16", "bf16"])] == [None, None]


def test_runtime_when_a_variant_has_overrides_then_they_win() -> None:
    run = Runtime(n_ctx=512, cache_type_k=CacheType.Q8_0, image_max_tokens=9)
    of = run.of(spread(kv_types=["q4_0"], image_tokens=[64])[0])
    assert (of.n_ctx, of.cache_type_k, of.cache_type_v, of.image_tokens) == (512, "q4_0", "q4_0", (64, 64))
    assert run.of(PAIR) is run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kv_types": ["q9_0"]}, "settings cannot be used"),
        ({"image_tokens": [0]}, "image_tokens has to be between 1 and"),
        ({"image_min_tokens": 9, "image_max_tokens": 8}, r"image_min_tokens \(9\) is more than"),
        ({"cache_type_v": "q8_0", "flash_attention": False}, "need flash attention"),
        ({"kv_types": ["f16", "q4_0"], "flash_attention": False}, "need flash attention"),
        ({"image_tokens": list(range(1, 12))}, "11 values"),
    ],
)
def test_settings_when_they_cannot_be_then_that_is_said(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        run_settings.read_settings(settings)


def test_forecast_when_the_cache_is_quantized_then_its_bytes_are_those_of_the_types() -> None:
    forecasts = Forecasts(None, {HOST: "host"})

    def cache(keys: CacheType | None = None, values: CacheType | None = None) -> int:
        runtime = Runtime(n_ctx=1000, cache_type_k=keys, cache_type_v=values)
        return forecasts.of(language_spec(MODEL, runtime), (HOST,)).parts[HOST].kv_cache

    assert cache() == 64 * 1000
    assert cache(CacheType.Q8_0, CacheType.Q4_0) == 64 * 1000 * (8.5 + 4.5) / 32
    assert cache(CacheType.F32, CacheType.F32) == 2 * 64 * 1000


def test_worker_when_the_cache_type_differs_then_the_same_worker_with_another_context() -> None:
    usual, quantized = (language_spec(MODEL, Runtime(cache_type_k=kind)) for kind in (None, CacheType.Q8_0))
    assert usual == quantized
    assert usual.context != quantized.context
    assert (
        usual.context == language_spec(MODEL, Runtime(cache_type_k=CacheType.F16, cache_type_v=CacheType.F16)).context
    )


def test_worker_when_the_image_tokens_differ_then_another_one() -> None:
    usual, limited = (vision_spec(PROJECTOR, MODEL, Runtime(image_max_tokens=tokens)) for tokens in (None, 64))
    assert usual != limited
    assert limited.load is not None


def test_caches_when_nothing_new_is_set_then_the_keys_of_earlier_versions(tmp_path: Any) -> None:
    """Frozen: what earlier versions kept has to be found."""
    picture = Image(b"", 1, 1, "i" * 64)
    embeddings, results = EmbeddingCache(tmp_path / "e", 1, "engine"), ResultCache(tmp_path / "r", "engine")
    assert embeddings.key(PROJECTOR, picture).startswith("ddd5f318940f3bbe")
    assert embeddings.key(PROJECTOR, picture, (64, None)) != embeddings.key(PROJECTOR, picture, (None, 64))
    assert bytes(settings_key(Runtime(n_ctx=512))) == (
        b'{"n_ctx":512,"n_threads":null,"n_batch":512,"n_gpu_layers":-1,"flash_attention":null,'
        b'"projector_on_gpu":true,"split_gpus":false}'
    )
    assert results.key("a", (settings_key(Runtime(n_ctx=512)), 1)).startswith("09c0cb7339501454")
    assert b"q8_0" in bytes(settings_key(Runtime(cache_type_k=CacheType.Q8_0)))
    embeddings.close()
    results.close()


def test_variant_when_written_by_an_earlier_version_then_it_has_no_overrides() -> None:
    document = msgspec.to_builtins(PAIR)
    del document["overrides"]
    assert msgspec.convert(document, Variant) == PAIR
    spread_one = spread(kv_types=["q4_0"])[0]
    assert msgspec.json.decode(msgspec.json.encode(spread_one), type=Variant) == spread_one
    assert spread_one.overrides == Overrides(CacheType.Q4_0, None, True)
