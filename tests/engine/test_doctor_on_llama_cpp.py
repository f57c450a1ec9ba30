"""The doctor's findings against what llama.cpp does with the same files."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFValueType, GGUFWriter

from playground.errors import BadPair
from playground.models.doctor import needs, worst
from playground.models.gguf.header import read_header
from playground.settings import Settings
from playground.values.answer import Pane, PaneState
from playground.values.request import Image
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.doctor_files import (
    BROKEN,
    DOUBTFUL,
    LOOK,
    MIB,
    codes,
    diagnosed,
    the,
)
from testkit.running import comparison, run


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with open_parts(Settings(cache_dir=tmp_path_factory.mktemp("engine")), any_folder=True) as opened:
        yield opened


def pane_of(engine: Parts, scene: Image, model: Path, projector: Path, chat_template: str | None = None) -> Pane:
    variant = engine.catalog.open_pair(model, projector)
    request = replace(comparison(scene, "What?", (variant,), max_tokens=3), chat_template=chat_template)
    return run(engine, request).panes[0]


def rewritten(
    source: Path, target: Path, metadata: Mapping[str, object] | None = None, without: tuple[str, ...] = ()
) -> Path:
    """A copy with other metadata (None: without the key), and without some tensors."""
    reader, changes = GGUFReader(source), dict(metadata or {})
    writer = GGUFWriter(
        target, str(changes.pop("general.architecture", reader.fields["general.architecture"].contents()))
    )
    for key, field in reader.fields.items():
        if key in changes or key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        writer.add_key_value(key, field.contents(), kind, field.types[-1] if kind is GGUFValueType.ARRAY else None)
    for key, value in changes.items():
        if value is not None:
            writer.add_key_value(
                key, value, GGUFValueType.UINT32 if type(value) is int else GGUFValueType.get_type(value)
            )
    for tensor in reader.tensors:
        if tensor.name not in without:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_pair_when_swapped_then_each_file_is_named_for_what_it_is(
    tiny: dict[str, pairs.PairFiles], engine: Parts
) -> None:
    files = tiny["mlp"]
    finding = the(diagnosed(files.projector, files.model), "swapped", BROKEN)
    assert finding.text == (
        "The two files are swapped: mmproj-tiny-mlp-F16.gguf is the projector, tiny-mlp-F16.gguf the language model."
    )
    assert finding.remedy == "Swap them."
    with pytest.raises(BadPair, match="swapped"):
        engine.catalog.open_pair(files.projector, files.model)


def test_projector_when_it_says_of_no_encoder_then_the_engine_refuses_it_too(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    files = tiny["mlp"]
    blind = rewritten(files.projector, tmp_path / "mmproj-blind-F16.gguf", {"clip.has_vision_encoder": None})
    the(diagnosed(files.model, blind), "audio", BROKEN)
    pane = pane_of(engine, scene, files.model, blind)
    assert pane.state is PaneState.FAILED
    assert "could not load mmproj-blind-F16.gguf as a projector" in (pane.error or "")


def test_architecture_when_unknown_then_doubtful_since_a_newer_llama_cpp_may_know_it(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    model = rewritten(tiny["mlp"].model, tmp_path / "new-F16.gguf", {"general.architecture": "llama9"})
    findings = diagnosed(model, tiny["mlp"].projector)
    assert codes(findings) == ["architecture", "family"]
    assert worst(findings) is DOUBTFUL
    assert findings[0].text == "The architecture 'llama9' is not on this app's list of language models."
    assert findings[0].remedy == "If it does not load, a newer llama-cpp-python may support it."
    assert findings[1].text.startswith(
        "The sizes cannot be compared, and this combination is untested: a projector of type 'mlp' is made for llama"
    )
    pane = pane_of(engine, scene, model, tiny["mlp"].projector)
    assert "does not know the architecture 'llama9'" in (pane.error or "")


def test_projector_type_when_unknown_or_missing_then_said_and_the_engine_refuses_both(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    files = tiny["mlp"]
    new = rewritten(files.projector, tmp_path / "mmproj-new-F16.gguf", {"clip.projector_type": "newest"})
    old = rewritten(files.projector, tmp_path / "mmproj-old-F16.gguf", {"clip.projector_type": None})
    findings = diagnosed(files.model, new)
    assert codes(findings) == ["projector-type", "width-unknown"]
    assert worst(findings) is DOUBTFUL
    assert findings[0].text == "The projector's type 'newest' is not on this app's list."
    assert "a newer llama-cpp-python may support it" in findings[0].remedy
    assert "whether the sizes of the two files match" in findings[1].text
    missing = the(diagnosed(files.model, old), "projector-type", BROKEN)
    assert "does not state its type" in missing.text
    assert "newer mmproj file" in missing.remedy
    for path in (new, old):
        assert "as a projector" in (pane_of(engine, scene, files.model, path).error or "")


def test_projector_type_when_named_twice_then_the_key_that_llama_cpp_reads_first_counts(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    files = tiny["mlp"]
    two = rewritten(files.projector, tmp_path / "mmproj-two-F16.gguf", {"clip.vision.projector_type": "gemma3"})
    assert diagnosed(files.model, two) == ()
    assert pane_of(engine, scene, files.model, two).state is PaneState.DONE


def test_projector_when_its_last_layer_is_missing_then_broken_as_it_crashes_the_engine(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    """LLaVA 1.0's, say: clip_n_mmproj_embd reads the shape of a tensor that is not there."""
    files, without = tiny["mlp"], ("mm.2.weight", "mm.2.bias")
    one_layer = rewritten(files.projector, tmp_path / "mmproj-one-layer-F16.gguf", without=without)
    finding = the(diagnosed(files.model, one_layer), "projector-tensor", BROKEN)
    assert "lacks the tensor mm.2.weight" in finding.text
    assert "damaged, or older" in finding.remedy
    assert "SIGSEGV" in (pane_of(engine, scene, files.model, one_layer).error or "")


def test_metadata_when_it_lies_of_the_width_then_the_engine_too_goes_by_the_shapes(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    files = tiny["qwen3vl"]
    lies = {"clip.vision.projection_dim": 999, "clip.vision.is_deepstack_layers": [False] * 3}
    lying = rewritten(files.projector, tmp_path / "mmproj-lying-F16.gguf", lies)
    assert diagnosed(files.model, lying) == ()
    assert pane_of(engine, scene, files.model, lying).state is PaneState.DONE
    wide = pairs.write_llava(tmp_path, n_embd=512, name="wide").model
    lying = rewritten(tiny["mlp"].projector, tmp_path / "mmproj-says-512-F16.gguf", {"clip.vision.projection_dim": 512})
    assert "writes 256 values for an image token, the model reads 512." in diagnosed(wide, lying)[0].text
    assert "it writes 256 values per image token, the model reads 512" in (
        pane_of(engine, scene, wide, lying).error or ""
    )


def test_pair_when_of_equal_width_and_two_families_then_the_engine_runs_it_without_a_word(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image
) -> None:
    model, other = tiny["mlp"].model, tiny["gemma3"].projector
    the(diagnosed(model, other), "family", DOUBTFUL)
    assert pane_of(engine, scene, model, other).state is PaneState.DONE


def test_tokens_when_missing_then_broken_and_the_engine_refuses(engine: Parts, scene: Image, tmp_path: Path) -> None:
    bare = pairs.write_pair("idefics3", tmp_path, special_tokens=False)
    finding = the(diagnosed(bare.model, bare.projector), "tokens", BROKEN)
    assert finding.text.endswith("vocabulary lacks: <fake_token_around_image>, <global-img>.")
    assert "llama.cpp would abort. Use the model's own mmproj file." in finding.remedy
    pane = pane_of(engine, scene, bare.model, bare.projector)
    assert "special tokens around an image that this language model's vocabulary lacks" in (pane.error or "")


def test_tokens_around_an_image_when_missing_then_doubtful_and_the_engine_answers(
    engine: Parts, scene: Image, tmp_path: Path
) -> None:
    bare = pairs.write_pair("qwen2vl", tmp_path, special_tokens=False)
    finding = the(diagnosed(bare.model, bare.projector), "around", DOUBTFUL)
    assert finding.text.endswith("mark the beginning and end of an image: <|vision_start|>, <|vision_end|>.")
    assert finding.remedy == f"The model would read them as plain text. {LOOK}."
    assert pane_of(engine, scene, bare.model, bare.projector).state is PaneState.DONE


def test_template_when_missing_then_the_engine_refuses_and_answers_with_the_one_that_was_named(
    tiny: dict[str, pairs.PairFiles], engine: Parts, scene: Image, tmp_path: Path
) -> None:
    bare = rewritten(tiny["mlp"].model, tmp_path / "llava-v1.5-7b-F16.gguf", {"tokenizer.chat_template": None})
    finding = the(diagnosed(bare, tiny["mlp"].projector), "template-missing", BROKEN)
    assert "has no chat template" in (pane_of(engine, scene, bare, tiny["mlp"].projector).error or "")
    again = pane_of(engine, scene, bare, tiny["mlp"].projector, chat_template=finding.chat_template)
    assert again.state is PaneState.DONE


@pytest.mark.parametrize("of", ["embedded", "random"])
def test_cache_when_estimated_then_llama_cpp_allocates_just_that(
    engine: Parts, scene: Image, tmp_path: Path, caplog: pytest.LogCaptureFixture, of: str
) -> None:
    caplog.set_level(logging.DEBUG, logger="playground.pool.process")
    if of == "embedded":
        variant = engine.catalog.variants[0]
    else:
        files = pairs.write_llava(tmp_path, n_layer=3, n_embd=512, n_head=8, n_head_kv=2, name="three-layers")
        variant = engine.catalog.open_pair(files.model, files.projector)
    pane = run(engine, comparison(scene, "What?", (variant,), max_tokens=2, n_ctx=1024)).panes[0]
    assert pane.state is PaneState.DONE
    # Another thread reads the worker's log. The plan before the load prints 0.00.
    while not (allocated := re.findall(r"KV buffer size = +((?!0\.00)[\d.]+) MiB", caplog.text)):
        time.sleep(0.02)
    forecast = needs(read_header(variant.model.path), None, 1024, on_gpu=False)
    assert forecast.kv_cache == pytest.approx(float(allocated[-1]) * MIB, abs=0.005 * MIB)
