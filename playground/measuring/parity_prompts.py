"""The prompts that parity has the pair's language model read: texts and images of the original and of the pair. Pure.

A prompt is text, an image, text; a tiled image has text of its own between its tiles.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy

from playground.engine.protocol import EncodedPrompt, ImageChunk, TextChunk, n_tokens

SLOT = -1  # an image embedding goes here; original/child.py reads it
_FLOAT_BYTES = 4

Chunks = tuple[TextChunk | ImageChunk, ...]


def frame_of(prompt: EncodedPrompt) -> list[int]:
    """The prompt's tokens, with SLOT for each of an image."""
    frame: list[int] = []
    for chunk in prompt.chunks:
        frame += chunk.token_ids if isinstance(chunk, TextChunk) else [SLOT] * chunk.n_tokens
    return frame


def images_of(prompt: EncodedPrompt) -> list[ImageChunk]:
    return [chunk for chunk in prompt.chunks if isinstance(chunk, ImageChunk)]


def pictures_of(prompt: EncodedPrompt) -> list[Any]:
    """What the encoder saw, one array (3, height, width) each."""
    inputs = (given for chunk in images_of(prompt) for given in chunk.inputs)
    arrays = (numpy.frombuffer(given.values, numpy.float32).reshape(given.shape) for given in inputs)
    return [picture for batch in arrays for picture in batch]


def rows_of(prompt: EncodedPrompt) -> Any:
    """The image embeddings, (tokens, width)."""
    data = b"".join(chunk.embeddings for chunk in images_of(prompt))
    return numpy.frombuffer(data, numpy.float32).reshape(-1, prompt.n_embd)


def grid_of(prompt: EncodedPrompt) -> tuple[int, int] | None:
    """Image tokens across and down; None: the picture is not one grid, or llama.cpp puts more into it."""
    chunks = images_of(prompt)
    if len(chunks) != 1 or len(chunks[0].inputs) != 1:
        return None
    *_, high, wide = chunks[0].inputs[0].shape
    n = chunks[0].n_tokens
    across = round(math.sqrt(n * wide / high))
    return (across, n // across) if across and n % across == 0 else None


def with_rows(prompt: EncodedPrompt, rows: Any) -> EncodedPrompt | None:
    """The prompt with other image embeddings; None: they do not fit."""
    if rows.shape != (prompt.n_image_tokens, prompt.n_embd):
        return None
    start, chunks = 0, list[TextChunk | ImageChunk]()
    for chunk in prompt.chunks:
        if isinstance(chunk, ImageChunk):
            chunk = _filled(chunk, rows[start : start + chunk.n_tokens])
            start += chunk.n_tokens
        chunks.append(chunk)
    return msgspec.structs.replace(prompt, chunks=tuple(chunks))


def of_tokens(
    pair: EncodedPrompt, ids: Sequence[int], slots: Sequence[int], rows: Any, positions: Any | None
) -> EncodedPrompt | None:
    """A prompt of the original's tokens and image embeddings; None: the pair's language model cannot read it.

    `slots`: the places of image embeddings among `ids`. `positions`: (3, slots), of M-RoPE.
    """
    pattern = images_of(pair)[0]
    if rows.shape[1] != pair.n_embd or (pattern.positions and positions is None):
        return None
    row = {place: k for k, place in enumerate(slots)}
    chunks: list[TextChunk | ImageChunk] = []
    start = 0
    while start < len(ids):
        end = start
        while end < len(ids) and (end in row) == (start in row):
            end += 1
        if start not in row:
            chunks.append(TextChunk(tuple(ids[start:end])))
        else:
            run = slice(row[start], row[start] + end - start)
            chunk = msgspec.structs.replace(pattern, n_tokens=end - start, n_pos=end - start, inputs=())
            if pattern.positions and positions is not None:
                axes = positions[:, run]
                chunk = msgspec.structs.replace(
                    chunk,
                    n_pos=int(axes.max() - axes.min()) + 1,
                    positions=_packed(axes.tolist()) + bytes(_FLOAT_BYTES * (end - start)),
                )
            chunks.append(_filled(chunk, rows[run]))
        start = end
    return msgspec.structs.replace(pair, chunks=tuple(chunks))


def around(texts: EncodedPrompt, image: EncodedPrompt) -> EncodedPrompt:
    """What stands before and behind the image in one prompt, around the image of another."""
    before, _, behind = _parts(texts)
    own_before, block, _ = _parts(image)
    shift = sum(map(n_tokens, before)) - sum(map(n_tokens, own_before))
    moved = (_moved(chunk, shift) if isinstance(chunk, ImageChunk) else chunk for chunk in block)
    return msgspec.structs.replace(texts, chunks=(*before, *moved, *behind))


def first_difference(pair: EncodedPrompt, original: EncodedPrompt) -> str | None:
    """Of the texts around the image, a sentence; None: they are equal."""
    for ours, theirs, place in zip(_ends(pair), _ends(original), ("before", "behind"), strict=True):
        if ours != theirs:
            at = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            at = min(len(ours), len(theirs)) if at is None else at
            return (
                f"{place} the image the original's chat template gives other tokens than the pair's, first at place "
                f"{at}: {_shown(theirs[at : at + 4])} instead of {_shown(ours[at : at + 4])}."
            )
    return None


def _parts(prompt: EncodedPrompt) -> tuple[Chunks, Chunks, Chunks]:
    places = [k for k, chunk in enumerate(prompt.chunks) if isinstance(chunk, ImageChunk)]
    first, end = places[0], places[-1] + 1
    return prompt.chunks[:first], prompt.chunks[first:end], prompt.chunks[end:]


def _ends(prompt: EncodedPrompt) -> tuple[list[int], list[int]]:
    before, _, behind = _parts(prompt)
    return _ids(before), _ids(behind)


def _ids(chunks: Chunks) -> list[int]:
    return [token for chunk in chunks if isinstance(chunk, TextChunk) for token in chunk.token_ids]


def _filled(chunk: ImageChunk, rows: Any) -> ImageChunk:
    data = numpy.ascontiguousarray(rows, numpy.float32).tobytes()
    return msgspec.structs.replace(chunk, embeddings=data, key=hashlib.sha256(data).hexdigest())


def _moved(chunk: ImageChunk, shift: int) -> ImageChunk:
    """Its positions in a prompt with so many more tokens before it; the fourth axis is not used."""
    if not chunk.positions or not shift:
        return chunk
    axes = numpy.frombuffer(chunk.positions, numpy.int32).reshape(4, -1)
    return msgspec.structs.replace(chunk, positions=_packed((axes[:3] + shift).tolist()) + axes[3].tobytes())


def _packed(axes: Iterable[Sequence[int]]) -> bytes:
    return b"".join(array("i", axis).tobytes() for axis in axes)


def _shown(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids)) or "the end"
