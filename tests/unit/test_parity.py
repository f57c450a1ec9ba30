"""Parity's arithmetic: pixels, embeddings, layouts, memory, and which part is named."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import safetensors.numpy

from playground.errors import BadInput, BadModel
from playground.measuring import original, parity
from playground.measuring.parity import Parity, Part, PictureParity
from playground.original import pixel_layout

RNG = numpy.random.default_rng(5)


def picture(height: int = 56, width: int = 84) -> numpy.ndarray:
    return RNG.normal(size=(3, height, width)).astype(numpy.float32)


# --- pixels ---------------------------------------------------------------------------------------------------


def test_channels_when_normalized_with_another_mean_then_the_offset_is_that_of_the_channel() -> None:
    ours = picture()
    fits = parity.channel_fits(ours, ours * 1.1 + numpy.array([0.0, 0.5, 0.0])[:, None, None])
    assert [fit.gain for fit in fits] == pytest.approx([1.1] * 3, rel=1e-4)
    assert fits[1].offset - fits[0].offset == pytest.approx(0.5, abs=0.02)
    assert max(fit.residual for fit in fits) < 1e-5


def test_channels_when_shifted_by_a_pixel_then_it_is_no_matter_of_a_line() -> None:
    ours = picture()
    assert min(fit.residual for fit in parity.channel_fits(ours, numpy.roll(ours, 1, 2))) > 0.5


def test_channels_when_of_one_colour_then_the_offset_alone_is_compared() -> None:
    grey = numpy.full((3, 8, 8), 0.25, numpy.float32)
    assert [(fit.gain, fit.offset) for fit in parity.channel_fits(grey, grey + 0.5)] == [(1.0, 0.5)] * 3


def test_channels_when_the_sizes_differ_then_nothing_is_compared() -> None:
    assert parity.channel_fits(picture(), picture(56, 56)) == ()


# --- embeddings -----------------------------------------------------------------------------------------------


def test_tokens_when_one_differs_then_its_place_in_the_picture_is_named() -> None:
    ours = RNG.normal(size=(12, 16))
    theirs = ours.copy()
    theirs[7] = -theirs[7]  # row 1, column 3 of 4 across and 3 down
    errors = parity.token_errors(ours, theirs, (4, 3))
    assert errors.place == (3.5 / 4, 1.5 / 3)
    assert errors.largest == pytest.approx(2.0)
    assert errors.off == pytest.approx(1 / 12)
    assert errors.cosine == pytest.approx(10 / 12)


def test_tokens_when_equal_then_there_is_no_error() -> None:
    ours = RNG.normal(size=(12, 16)).astype(numpy.float32)
    errors = parity.token_errors(ours, ours, (5, 3))
    assert (errors.error, errors.off, errors.place) == (0.0, 0.0, None)
    assert errors.cosine == pytest.approx(1.0)


# --- which part -----------------------------------------------------------------------------------------------


def test_culprit_when_a_part_changes_most_then_it_is_named_unless_it_is_arithmetic() -> None:
    parts = {Part.PREPROCESSING: 0.004, Part.ENCODER: 0.2, Part.MODEL: 0.03}
    assert parity.culprit_of(parts, 1e-5) is Part.ENCODER
    assert parity.culprit_of(parts, 0.3) is None
    assert parity.culprit_of({Part.MODEL: 1e-5}, 1e-6) is None
    assert parity.culprit_of({}, 0.0) is None


def findings(*pictures: PictureParity, parts: dict[Part, float] | None = None, prompt: str = "") -> str:
    return " ".join(parity.findings(pictures, parts or {}, 0.0, prompt))


def test_findings_when_a_budget_of_image_tokens_differs_then_it_is_preprocessing() -> None:
    text = findings(
        PictureParity("a.png", (64, 256), ("224x224", "448x448")), PictureParity("b.png", (64, 64), ("", ""))
    )
    assert "Preprocessing: 1 of 2 pictures take another number of tokens" in text
    assert "64 in the pair and 256 in the original" in text
    assert "224x224 in the pair and 448x448" in text


def test_findings_when_a_mean_differs_then_the_normalization_is_named() -> None:
    ours = picture()
    fits = parity.channel_fits(ours, ours + 0.3)
    same = parity.channel_fits(ours, ours)
    assert "normalized otherwise" in findings(PictureParity("a.png", (4, 4), ("8x8", "8x8"), fits))
    assert findings(PictureParity("a.png", (4, 4), ("8x8", "8x8"), same)) == ""


def test_findings_when_resized_otherwise_then_nothing_is_said_of_the_normalization() -> None:
    ours = picture()
    fits = parity.channel_fits(ours, numpy.roll(ours, 3, 2) * 0.5)
    text = findings(PictureParity("a.png", (4, 4), ("8x8", "8x8"), fits))
    assert "resized or padded otherwise" in text
    assert "normalized" not in text


def test_findings_when_embeddings_differ_then_the_encoder_is_named_with_the_place() -> None:
    ours = RNG.normal(size=(12, 16))
    errors = parity.token_errors(ours, ours[::-1], (4, 3))
    text = findings(PictureParity("a.png", (12, 12), ("8x8", "8x8"), errors=errors))
    assert "Vision encoder: of the same pixels it makes other embeddings in 1 of 1 pictures" in text
    assert "of the width" in text


def test_findings_when_the_language_model_or_the_prompt_differs_then_each_has_a_sentence() -> None:
    text = findings(parts={Part.MODEL: 0.5}, prompt="other tokens.")
    assert text.startswith("Prompt: other tokens.")
    assert "Language model: with the original's own tokens and image embeddings it is 0.5 nats" in text


def test_answers_when_one_goes_on_then_their_ends_differ() -> None:
    assert parity.ends([((1, 2), (1, 2)), ((1, 2), (1, 3)), ((), ())]) == []
    assert "in 2 of 3 questions one answer goes on" in parity.ends([((1, 2), (1,)), ((), (5,)), ((1, 2), (1, 2))])[0]


def reading(kl: float, culprit: Part | None) -> Parity:
    return Parity(
        "owner/model", "float32", "a", "b", "F16", "engine", "2026-11-27T00:00:00+00:00", 8, 100, kl, 0.9, 7, 1e-4,
        {Part.MODEL: kl}, culprit,
    )  # fmt: skip


def test_words_when_nobody_has_looked_then_they_say_so() -> None:
    assert "it was not measured" in parity.words(None)
    assert "0.5 nats a token from the original (owner/model, float32), on 8 questions" in parity.words(
        reading(0.5, Part.MODEL)
    )
    assert "most of it comes from the language model" in parity.words(reading(0.5, Part.MODEL))
    assert "no part differs by more than 0.01" in parity.words(reading(1e-5, None))


# --- token ids ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("original_texts", "problem"),
    [
        (["a", "b", "c"], None),
        (["a", "b"], None),  # filled up by the converter
        (["a", None, "c"], None),
        (["a", "c", "b"], "2 token ids mean another text in the pair: 1 is 'b', in the original 'c'."),
        (["a", "b", "c", "d"], None),  # no answer can have it
    ],
)
def test_vocabulary_when_ids_mean_other_texts_then_the_first_is_named(
    original_texts: list[str | None], problem: str | None
) -> None:
    assert parity.vocabulary_problem(["a", "b", "c"], original_texts) == problem


# --- layouts of transformers' image processors ------------------------------------------------------------------


def blocks(*pictures: numpy.ndarray) -> dict[str, numpy.ndarray]:
    """As Qwen2VLImageProcessor flattens them: patches of 14, blocks of 2 x 2, two frames."""
    rows, grids = [], []
    for array in pictures:
        high, wide = array.shape[1] // 14, array.shape[2] // 14
        frames = numpy.stack([array, array]).reshape(1, 2, 3, high // 2, 2, 14, wide // 2, 2, 14)
        rows.append(frames.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(high * wide, -1))
        grids.append((1, high, wide))
    return {"pixel_values": numpy.concatenate(rows), "image_grid_thw": numpy.array(grids)}


def test_blocks_when_read_and_written_then_the_same_pictures() -> None:
    pictures = [picture(56, 84), picture(28, 56)]
    inputs = blocks(*pictures)
    read = pixel_layout.pictures_of(inputs, 14, 2)
    assert read is not None
    for ours, theirs in zip(pictures, read, strict=True):
        numpy.testing.assert_array_equal(ours, theirs)
    others = [picture(84, 28), picture(56, 56)]  # of other sizes
    written = pixel_layout.with_pictures(inputs, others, 14, 2)
    assert written is not None
    for name, values in blocks(*others).items():
        numpy.testing.assert_array_equal(written[name], values)
    assert pixel_layout.with_pictures(inputs, [picture(50, 56), picture()], 14, 2) is None


def test_rows_when_read_and_written_then_the_same_pictures() -> None:
    array = picture(32, 48)
    rows = array.reshape(3, 2, 16, 3, 16).transpose(1, 3, 2, 4, 0).reshape(1, 6, -1)
    inputs = {
        "pixel_values": numpy.pad(rows, ((0, 0), (0, 4), (0, 0))),
        "spatial_shapes": numpy.array([[2, 3]]),
        "pixel_attention_mask": numpy.ones((1, 10)),
    }
    read = pixel_layout.pictures_of(inputs, 16, None)
    assert read is not None
    numpy.testing.assert_array_equal(read[0], array)
    written = pixel_layout.with_pictures(inputs, [array], 16, None)
    assert written is not None
    numpy.testing.assert_array_equal(written["pixel_values"], inputs["pixel_values"])
    assert written["pixel_attention_mask"].sum() == 6


def test_patches_when_read_and_written_then_the_same_pictures() -> None:
    array = picture(28, 42)
    values = array.reshape(3, 2, 14, 3, 14).transpose(1, 3, 0, 2, 4).reshape(6, 3, 14, 14)
    inputs = {"pixel_values": values, "image_grid_thw": numpy.array([[1, 2, 3]])}
    read = pixel_layout.pictures_of(inputs, 14, 2)
    assert read is not None
    numpy.testing.assert_array_equal(read[0], array)
    written = pixel_layout.with_pictures(inputs, [array], 14, 2)
    assert written is not None
    numpy.testing.assert_array_equal(written["pixel_values"], values)
    assert pixel_layout.with_pictures(inputs, [picture(20, 28)], 14, 2) is None


def test_whole_images_when_padded_then_their_sizes_cut_them() -> None:
    array = picture(20, 30)
    inputs = {
        "pixel_values": numpy.pad(array[None], ((0, 0), (0, 0), (0, 4), (0, 2))),
        "image_sizes": numpy.array([[20, 30]]),
    }
    read = pixel_layout.pictures_of(inputs, 14, None)
    assert read is not None
    numpy.testing.assert_array_equal(read[0], array)
    other = picture(10, 40)
    written = pixel_layout.with_pictures(inputs, [other], 14, None)
    assert written is not None
    assert written["image_sizes"].tolist() == [[10, 40]]
    tiles = {"pixel_values": RNG.normal(size=(1, 5, 3, 8, 8))}
    assert len(pixel_layout.pictures_of(tiles, 14, None) or ()) == 5
    assert pixel_layout.with_pictures(tiles, [picture(8, 8)], 14, None) is None  # a mask may belong to the five
    fewer = pixel_layout.with_pictures({"pixel_values": tiles["pixel_values"][0]}, [picture(8, 8)] * 2, 14, None)
    assert fewer is not None
    assert fewer["pixel_values"].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("values", [None, numpy.zeros((4, 9)), numpy.zeros((2, 8, 8, 3))])
def test_layout_when_unknown_then_nothing_is_read(values: numpy.ndarray | None) -> None:
    assert pixel_layout.pictures_of({"pixel_values": values} if values is not None else {}, 14, 2) is None


# --- memory ---------------------------------------------------------------------------------------------------


def test_memory_when_the_original_does_not_fit_then_it_says_how_much_it_needs() -> None:
    counts = {"BF16": 7_000_000_000}
    assert original.choose_dtype(counts, None, 40 * 10**9) == "float32"
    assert original.choose_dtype(counts, None, 20 * 10**9) == "bfloat16"
    with pytest.raises(
        BadInput, match=r"7\.00 billion parameters and needs 33\.6 GB in float32, 16\.8 GB in bfloat16; 9"
    ):
        original.choose_dtype(counts, None, 9 * 10**9)
    with pytest.raises(BadInput, match=r"needs 33\.6 GB in float32; 20"):
        original.choose_dtype(counts, "float32", 20 * 10**9)


def test_weights_when_counted_then_by_type_and_over_all_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    half = numpy.zeros((4, 5), numpy.float16)
    safetensors.numpy.save_file({"a": half, "b": numpy.zeros(3, numpy.float32)}, tmp_path / "model-1.safetensors")
    safetensors.numpy.save_file({"c": half}, tmp_path / "model-2.safetensors")
    assert original.tensor_counts(tmp_path) == {"F16": 40, "F32": 3}


@pytest.mark.parametrize("content", [b"", b"12345678", b"\xff" * 8 + b"{}", b"\x02" + b"\0" * 7 + b"[]"])
def test_weights_when_a_file_is_damaged_then_it_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadModel, match=r"model\.safetensors is not a valid safetensors file"):
        original.tensor_counts(tmp_path)


def test_weights_when_there_are_none_then_the_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="is not a model of transformers"):
        original.tensor_counts(tmp_path)


def test_record_when_the_vocabularies_have_other_sizes_then_ids_keep_their_places(tmp_path: Path) -> None:
    path = tmp_path / "0.f32"
    rows = RNG.normal(size=(2, 4)).astype(numpy.float32)
    rows.tofile(path)
    original.record_rows(path, 2, 6)
    wider = numpy.fromfile(path, numpy.float32).reshape(2, 6)
    numpy.testing.assert_array_equal(wider[:, :4], rows)
    assert numpy.exp(wider[:, 4:]).sum() == 0
    original.record_rows(path, 2, 3)
    numpy.testing.assert_array_equal(numpy.fromfile(path, numpy.float32).reshape(2, 3), rows[:, :3])
    with pytest.raises(BadModel):
        original.record_rows(path, 4, 3)
