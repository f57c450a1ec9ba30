"""Pictures out of what an image processor of transformers gives a model, and back. Pure.

A picture is float32 (3, height, width). The layouts:

- whole images: (images, 3, height, width), or with one more axis in front; `image_sizes` cuts their padding off;
- Qwen's patches: (patches, 3 x frames x patch x patch) in the order of merged blocks, `image_grid_thw` has the grid;
- PaddleOCR's patches: (patches, 3, patch, patch), row by row, `image_grid_thw` has the grid;
- SigLIP 2's patches: (images, patches, patch x patch x 3), row by row, `spatial_shapes` has the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

Arrays = Mapping[str, Any]
_CHANNELS = 3


def pictures_of(inputs: Arrays, patch: int | None, merge: int | None) -> list[Any] | None:
    """None: an unknown layout."""
    values = inputs.get("pixel_values")
    if values is None:
        return None
    if "image_grid_thw" in inputs and values.ndim == 2 and patch and merge:
        return _of_blocks(values, inputs["image_grid_thw"], patch, merge)
    if "image_grid_thw" in inputs:
        return _of_patches(values, inputs["image_grid_thw"]) if values.ndim == 4 else None
    if "spatial_shapes" in inputs and values.ndim == 3 and patch:
        grids = inputs["spatial_shapes"]
        return [_of_rows(rows, int(high), int(wide), patch) for rows, (high, wide) in zip(values, grids, strict=True)]
    if values.ndim in (4, 5) and values.shape[-3] == _CHANNELS:
        whole = values.reshape(-1, *values.shape[-3:])
        sizes = inputs.get("image_sizes")
        if sizes is None or len(sizes) != len(whole):
            return list(whole)
        return [image[:, : int(height), : int(width)] for image, (height, width) in zip(whole, sizes, strict=True)]
    return None


def with_pictures(
    inputs: Arrays, pictures: Sequence[Any], patch: int | None, merge: int | None
) -> dict[str, Any] | None:
    """The same inputs with other pictures, also of other sizes where the layout takes them; None: it does not."""
    known = pictures_of(inputs, patch, merge)
    if known is None or not known or not pictures:
        return None
    values = inputs["pixel_values"]
    if "image_grid_thw" in inputs and values.ndim == 2 and patch and merge:
        if any(side % (patch * merge) for picture in pictures for side in picture.shape[1:]):
            return None
        frames = values.shape[1] // (_CHANNELS * patch**2)
        blocks = numpy.concatenate([_as_blocks(picture, patch, merge, frames) for picture in pictures])
        grids = [(1, picture.shape[1] // patch, picture.shape[2] // patch) for picture in pictures]
        return {**inputs, "pixel_values": blocks, "image_grid_thw": numpy.array(grids)}
    if "image_grid_thw" in inputs:
        return _as_patches(inputs, pictures)
    if "spatial_shapes" in inputs and values.ndim == 3 and patch:
        return _as_rows(inputs, pictures, patch)
    sizes = inputs.get("image_sizes")
    if len(known) != len(pictures):
        tiles = values.ndim == 4 and sizes is None and all(picture.shape == values.shape[1:] for picture in pictures)
        return {**inputs, "pixel_values": numpy.stack(pictures)} if tiles else None
    if all(one.shape == other.shape for one, other in zip(known, pictures, strict=True)):
        changed = numpy.array(values)
        whole = changed.reshape(-1, *values.shape[-3:])
        for image, picture in zip(whole, pictures, strict=True):
            image[:, : picture.shape[1], : picture.shape[2]] = picture
        return {**inputs, "pixel_values": whole.reshape(values.shape)}
    if sizes is not None and len(pictures) == 1 and len(sizes) == 1:
        new = numpy.array([pictures[0].shape[1:]])
        return {**inputs, "pixel_values": pictures[0][None], "image_sizes": new}
    return None


def _of_blocks(values: Any, grids: Any, patch: int, merge: int) -> list[Any]:
    pictures, start = [], 0
    for frames, high, wide in (map(int, grid) for grid in grids):
        n = frames * high * wide
        blocks = values[start : start + n].reshape(
            frames, high // merge, wide // merge, merge, merge, _CHANNELS, -1, patch, patch
        )
        start += n
        first = blocks[0, ..., 0, :, :]  # of a still picture all frames are equal
        pictures.append(first.transpose(4, 0, 2, 5, 1, 3, 6).reshape(_CHANNELS, high * patch, wide * patch))
    return pictures


def _as_blocks(picture: Any, patch: int, merge: int, frames: int) -> Any:
    high, wide = (side // (patch * merge) for side in picture.shape[1:])
    blocks = picture.reshape(_CHANNELS, high, merge, patch, wide, merge, patch).transpose(1, 4, 2, 5, 0, 3, 6)
    still = numpy.repeat(blocks[..., None, :, :], frames, axis=-3)
    return still.reshape(high * wide * merge**2, -1)


def _of_patches(values: Any, grids: Any) -> list[Any] | None:
    pictures, start, side = [], 0, values.shape[-1]
    for frames, high, wide in (map(int, grid) for grid in grids):
        if frames != 1 or len(values) < start + high * wide:
            return None
        patches = values[start : start + high * wide].reshape(high, wide, _CHANNELS, side, side)
        pictures.append(patches.transpose(2, 0, 3, 1, 4).reshape(_CHANNELS, high * side, wide * side))
        start += high * wide
    return pictures


def _as_patches(inputs: Arrays, pictures: Sequence[Any]) -> dict[str, Any] | None:
    side = inputs["pixel_values"].shape[-1]
    if any(length % side for picture in pictures for length in picture.shape[1:]):
        return None
    grids = [(1, picture.shape[1] // side, picture.shape[2] // side) for picture in pictures]
    values = [
        picture.reshape(_CHANNELS, high, side, wide, side).transpose(1, 3, 0, 2, 4).reshape(-1, _CHANNELS, side, side)
        for picture, (_, high, wide) in zip(pictures, grids, strict=True)
    ]
    return {**inputs, "pixel_values": numpy.concatenate(values), "image_grid_thw": numpy.array(grids)}


def _of_rows(rows: Any, high: int, wide: int, patch: int) -> Any:
    patches = rows[: high * wide].reshape(high, wide, patch, patch, _CHANNELS)
    return patches.transpose(4, 0, 2, 1, 3).reshape(_CHANNELS, high * patch, wide * patch)


def _as_rows(inputs: Arrays, pictures: Sequence[Any], patch: int) -> dict[str, Any] | None:
    if any(side % patch for picture in pictures for side in picture.shape[1:]):
        return None
    grids = [(picture.shape[1] // patch, picture.shape[2] // patch) for picture in pictures]
    longest = max(inputs["pixel_values"].shape[1], *(high * wide for high, wide in grids))
    values = numpy.zeros((len(pictures), longest, patch * patch * _CHANNELS), numpy.float32)
    mask = numpy.zeros((len(pictures), longest), numpy.int64)
    for k, (picture, (high, wide)) in enumerate(zip(pictures, grids, strict=True)):
        patches = picture.reshape(_CHANNELS, high, patch, wide, patch).transpose(1, 3, 2, 4, 0)
        values[k, : high * wide] = patches.reshape(high * wide, -1)
        mask[k, : high * wide] = 1
    return {**inputs, "pixel_values": values, "spatial_shapes": numpy.array(grids), "pixel_attention_mask": mask}
