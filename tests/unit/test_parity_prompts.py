"""The prompts that parity mixes of an original and a pair."""

from __future__ import annotations

import numpy
import pytest

from playground.engine.protocol import EncodedPrompt, EncoderInput, ImageChunk, TextChunk
from playground.measuring import parity_prompts
from playground.measuring.parity_prompts import SLOT

WIDTH = 3


def rows(n: int, start: float = 0.0) -> numpy.ndarray:
    return (numpy.arange(n * WIDTH, dtype=numpy.float32) + start).reshape(n, WIDTH)


def image(n: int, start: float = 0.0, positions: list[list[int]] | None = None) -> ImageChunk:
    packed = b"" if positions is None else numpy.array(positions, numpy.int32).tobytes()
    n_pos = n if positions is None else 1 + max(map(max, positions[:3])) - min(map(min, positions[:3]))
    inputs = (EncoderInput((1, 3, 2, 4), numpy.zeros(24, numpy.float32).tobytes()),)
    return ImageChunk(0, f"{start}", n, n_pos, False, packed, rows(n, start).tobytes(), None, inputs)


def prompt(*chunks: TextChunk | ImageChunk) -> EncodedPrompt:
    return EncodedPrompt(chunks, WIDTH, "", 0.0, None)


PAIR = prompt(TextChunk((1, 2)), image(2), TextChunk((9,)), image(2, 50), TextChunk((3,)))


def test_rows_when_replaced_then_each_tile_gets_its_own() -> None:
    changed = parity_prompts.with_rows(PAIR, rows(4, 100))
    assert changed is not None
    numpy.testing.assert_array_equal(parity_prompts.rows_of(changed), rows(4, 100))
    assert parity_prompts.frame_of(changed) == parity_prompts.frame_of(PAIR) == [1, 2, SLOT, SLOT, 9, SLOT, SLOT, 3]
    assert len({chunk.key for chunk in parity_prompts.images_of(changed)}) == 2
    assert parity_prompts.with_rows(PAIR, rows(5)) is None


def test_prompt_when_of_the_originals_tokens_then_runs_of_its_image_become_images() -> None:
    prompt = parity_prompts.of_tokens(PAIR, [1, 0, 0, 8, 0, 3, 4], [1, 2, 4], rows(3), None)
    assert prompt is not None
    assert parity_prompts.frame_of(prompt) == [1, SLOT, SLOT, 8, SLOT, 3, 4]
    numpy.testing.assert_array_equal(parity_prompts.rows_of(prompt), rows(3))
    assert [chunk.n_pos for chunk in parity_prompts.images_of(prompt)] == [2, 1]
    assert parity_prompts.of_tokens(PAIR, [1, 0], [1], numpy.zeros((1, WIDTH + 1)), None) is None


def test_prompt_when_it_has_m_rope_then_its_positions_are_the_originals() -> None:
    pair = prompt(TextChunk((1,)), image(1, positions=[[1], [1], [1], [0]]), TextChunk((3,)))
    axes = numpy.array([[2, 2, 2, 2, 2, 2], [2, 2, 2, 3, 3, 3], [2, 3, 4, 2, 3, 4]])
    encoded = parity_prompts.of_tokens(pair, [1, 1, 0, 0, 0, 0, 0, 0, 3], [2, 3, 4, 5, 6, 7], rows(6), axes)
    assert encoded is not None
    (chunk,) = parity_prompts.images_of(encoded)
    assert chunk.n_pos == 3  # the longer side, not the 6 tokens
    assert numpy.frombuffer(chunk.positions, numpy.int32).reshape(4, 6).tolist() == [*axes.tolist(), [0] * 6]
    assert parity_prompts.of_tokens(pair, [1, 0, 3], [1], rows(1), None) is None


def test_texts_when_put_around_another_image_then_its_positions_move_along() -> None:
    ours = prompt(TextChunk((1,)), image(2, positions=[[1, 1], [1, 1], [1, 2], [0, 0]]), TextChunk((3,)))
    theirs = prompt(TextChunk((1, 7, 8)), image(1, 9, positions=[[3], [3], [3], [0]]), TextChunk((4, 5)))
    mixed = parity_prompts.around(theirs, ours)
    assert parity_prompts.frame_of(mixed) == [1, 7, 8, SLOT, SLOT, 4, 5]
    (chunk,) = parity_prompts.images_of(mixed)
    assert numpy.frombuffer(chunk.positions, numpy.int32).reshape(4, 2).tolist() == [[3, 3], [3, 3], [3, 4], [0, 0]]
    assert parity_prompts.around(ours, ours) == ours


@pytest.mark.parametrize(
    ("texts", "difference"),
    [
        (((1, 2), (3,)), None),
        (((1, 5), (3,)), "before the image the original's chat template gives other tokens than the pair's, first at "
            "place 1: 5 instead of 2."),
        (((1, 2), ()), "behind the image the original's chat template gives other tokens than the pair's, first at "
            "place 0: the end instead of 3."),
    ],
)  # fmt: skip
def test_texts_when_they_differ_then_the_first_place_is_named(
    texts: tuple[tuple[int, ...], tuple[int, ...]], difference: str | None
) -> None:
    theirs = prompt(TextChunk(texts[0]), image(7), *([TextChunk(texts[1])] if texts[1] else []))
    assert parity_prompts.first_difference(PAIR, theirs) == difference


def test_grid_when_the_picture_is_whole_then_by_its_sides() -> None:
    assert parity_prompts.grid_of(prompt(TextChunk((1,)), image(8))) == (4, 2)
    assert parity_prompts.grid_of(prompt(TextChunk((1,)), image(7))) is None
    assert parity_prompts.grid_of(PAIR) is None
