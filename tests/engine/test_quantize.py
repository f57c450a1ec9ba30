"""Quantizing here: either half, types by tensor, and what is said of the result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
from gguf import GGUFReader, GGUFWriter

from playground.comparing.images import read_image
from playground.engine.protocol import Step, TensorType
from playground.errors import BadInput, BadModel, Interrupted, PlaygroundError
from playground.models.presets import data_folder
from playground.quantizing import quantizer
from playground.values.files import Half
from playground.wiring import Parts
from testkit.pairs import changed_projector, write_pair

FOLDER = data_folder() / "tiny-vlm"
MODEL, PROJECTOR = FOLDER / "tiny-vlm-7M-F16.gguf", FOLDER / "mmproj-tiny-vlm-7M-F16.gguf"
IMAGES = [read_image(FOLDER / f"evaluation/hard-{n}.png") for n in ("01", "62")]


@pytest.mark.parametrize(("source", "half"), [(MODEL, Half.MODEL), (PROJECTOR, Half.PROJECTOR)])
def test_half_when_quantized_then_as_planned_with_where_it_comes_from(
    parts: Parts, tmp_path: Path, source: Path, half: Half
) -> None:
    target = tmp_path / "new.gguf"
    steps: list[Step] = []
    tensor_types = (TensorType("ffn_down", "q8_0"),)
    planned = quantizer.plan(source, "Q4_0", parts.pool, half=half, tensor_types=tensor_types)
    assert not target.exists()
    file = quantizer.make(
        source, target, "Q4_0", parts.pool, half=half, tensor_types=tensor_types, on_step=steps.append
    )
    assert file.bytes == target.stat().st_size
    assert planned.bytes == pytest.approx(file.bytes, rel=0.05)
    assert steps[-1].done == steps[-1].total == len(GGUFReader(target).tensors)
    types = {t.name: t.tensor_type.name for t in GGUFReader(target).tensors}
    assert {kind for name, kind in types.items() if "ffn_down.weight" in name} == {"Q8_0"}
    assert {kind for name, kind in types.items() if "ffn_up.weight" in name} == {"Q4_0"}
    fields = GGUFReader(target).fields
    assert fields["quantize.recipe"].contents() == "Q4_0 ffn_down=q8_0"
    assert len(str(fields["quantize.source.sha256"].contents())) == 64
    assert list(tmp_path.glob("*.part")) == []


def test_projector_when_checked_then_fewer_bits_are_further_off_and_itself_is_not(parts: Parts, tmp_path: Path) -> None:
    source = parts.catalog.choose(["F16"])[0]
    checks = []
    for quantization in ("Q8_0", "Q4_0", "Q2_K"):
        target = tmp_path / f"mmproj-{quantization}.gguf"
        quantizer.make(PROJECTOR, target, quantization, parts.pool, half=Half.PROJECTOR)
        variant = parts.catalog.open_pair(MODEL, target)
        checks.append(quantizer.check_projector(parts.lab, source, variant, IMAGES))
    assert [c.relative_error for c in checks] == sorted(c.relative_error for c in checks)
    assert checks[0].cosine_min > 0.99 > checks[2].cosine_min
    assert all(len(c.patches) == 2 and len(c.patches[0]) == 144 for c in checks)
    itself = quantizer.check_projector(parts.lab, source, source, IMAGES)
    assert (itself.cosine_min, itself.relative_error) == (pytest.approx(1), 0)


@pytest.mark.parametrize("quantization", ["Q8_0", "Q4_0", "Q4_K_M"])
def test_gemma_3s_projector_when_quantized_then_the_transposed_matrix_stays_and_it_sees(
    parts: Parts, tmp_path: Path, quantization: str
) -> None:
    files, target = write_pair("gemma3", tmp_path), tmp_path / "mmproj-new.gguf"
    file = quantizer.make(files.projector, target, quantization, parts.pool, half=Half.PROJECTOR)
    types = {t.name: t.tensor_type.name for t in GGUFReader(target).tensors}
    assert types["mm.input_projection.weight"] == "F16"
    assert types["v.blk.0.attn_q.weight"] not in ("F16", "F32")
    assert "kept as in the source: mm.input_projection.weight" in file.notes
    source, new = (parts.catalog.open_pair(files.model, half) for half in (files.projector, target))
    assert quantizer.check_projector(parts.lab, source, new, IMAGES[:1]).cosine_min > 0.9


def test_projector_when_it_has_convolutions_and_exact_matrices_then_they_keep_their_types(
    parts: Parts, tmp_path: Path
) -> None:
    """Gemma 4's audio encoder: llama.cpp's quantizer aborts on a kernel of four dimensions."""
    writer = GGUFWriter(source := tmp_path / "mmproj-F16.gguf", "clip")
    writer.add_string("clip.projector_type", "gemma4v")
    half, exact = numpy.float16, numpy.float32
    for name, shape, kind in (
        ("a.conv1d.0.weight", (32, 128, 3, 64), half),
        ("a.input_projection.weight", (128, 1024), exact),
        ("a.blk.0.conv_pw1.weight", (256, 128), half),
        ("v.blk.0.attn_q.weight", (1024, 1024), half),
    ):
        writer.add_tensor(name, numpy.ones(shape, kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = quantizer.make(source, tmp_path / "new.gguf", "Q4_0", parts.pool, half=Half.PROJECTOR)
    assert file.path is not None
    assert {t.name: t.tensor_type.name for t in GGUFReader(file.path).tensors} == {
        "a.conv1d.0.weight": "F16",
        "a.input_projection.weight": "F32",
        "a.blk.0.conv_pw1.weight": "Q4_0",
        "v.blk.0.attn_q.weight": "Q4_0",
    }


def test_type_when_it_cannot_hold_some_rows_then_it_is_told_before_anything_is_written(
    parts: Parts, tmp_path: Path
) -> None:
    writer = GGUFWriter(source := tmp_path / "mmproj-F16.gguf", "clip")
    for name, shape in (
        ("v.blk.0.ffn_down.weight", (64, 288)),
        ("v.blk.0.attn_q.weight", (64, 288)),
        ("v.blk.0.attn_k.weight", (64, 256)),
        ("v.blk.0.ffn_up.weight", (64, 300)),
    ):
        writer.add_tensor(name, numpy.ones(shape, numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    target = tmp_path / "new.gguf"
    lines: list[str] = []

    def on_plan(notes: Sequence[str]) -> None:
        assert not target.exists()
        lines.extend(notes)

    file = quantizer.make(source, target, "Q4_K_M", parts.pool, half=Half.PROJECTOR, on_plan=on_plan)
    assert sorted(lines) == sorted(file.notes) == [
        "Q4_K cannot hold 1 tensor, whose rows (300) are no multiple of 256: F16 is taken instead for "
        "v.blk.0.ffn_up.weight",
        "Q4_K cannot hold 2 tensors, whose rows (288) are no multiple of 256: Q5_0 is taken instead for "
        "v.blk.0.attn_q.weight, v.blk.0.ffn_down.weight",
    ]  # fmt: skip
    types = {t.name.removeprefix("v.blk.0."): t.tensor_type.name for t in GGUFReader(target).tensors}
    assert types == {
        "ffn_down.weight": "Q5_0", "attn_q.weight": "Q5_0", "attn_k.weight": "Q4_K", "ffn_up.weight": "F16",
    }  # fmt: skip


def test_projector_when_its_rows_are_permuted_then_the_embeddings_show_it(parts: Parts, tmp_path: Path) -> None:
    source = parts.catalog.choose(["F16"])[0]
    permuted = changed_projector(PROJECTOR, tmp_path / "mmproj-permuted-F16.gguf", "permuted")
    variant = parts.catalog.open_pair(MODEL, permuted)
    assert quantizer.check_projector(parts.lab, source, variant, IMAGES).cosine_mean < 0.5


@pytest.mark.parametrize(
    ("quantization", "types", "message"),
    [
        ("Q9_9", (), "no quantization called 'Q9_9'"),
        ("Q4_0", (TensorType("x", "q99"),), "no type called 'q99'"),
        ("IQ2_XXS", (), "could not quantize"),
    ],
)
def test_type_when_llama_cpp_refuses_it_then_its_words_and_no_file(
    parts: Parts, tmp_path: Path, quantization: str, types: tuple[TensorType, ...], message: str
) -> None:
    with pytest.raises(PlaygroundError, match=message):
        quantizer.make(MODEL, tmp_path / "new.gguf", quantization, parts.pool, half=Half.MODEL, tensor_types=types)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_source_when_quantized_itself_then_only_on_demand(parts: Parts, tmp_path: Path) -> None:
    source = Path(parts.catalog.choose(["Q4_K_M"])[0].model.path)
    with pytest.raises(BadModel, match="quantized already"):
        quantizer.make(source, tmp_path / "new.gguf", "Q2_K", parts.pool, half=Half.MODEL)
    file = quantizer.make(source, tmp_path / "new.gguf", "Q2_K", parts.pool, half=Half.MODEL, requantize=True)
    assert file.bytes < source.stat().st_size


def test_target_when_it_is_there_or_the_source_then_refused(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "there.gguf").write_bytes(b"mine")
    with pytest.raises(BadInput, match="is there already"):
        quantizer.make(MODEL, tmp_path / "there.gguf", "Q8_0", parts.pool, half=Half.MODEL)
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"
    with pytest.raises(BadInput, match="would replace its source"):
        quantizer.make(MODEL, MODEL, "Q8_0", parts.pool, half=Half.MODEL)


def test_quantizing_when_stopped_then_it_leaves_nothing_and_the_pool_goes_on(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        quantizer.make(MODEL, tmp_path / "new.gguf", "Q2_K", parts.pool, half=Half.MODEL, stop=lambda: True)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []
    quantizer.make(MODEL, tmp_path / "new.gguf", "Q8_0", parts.pool, half=Half.MODEL)
