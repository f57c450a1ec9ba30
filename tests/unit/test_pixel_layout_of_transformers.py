"""The layouts that parity knows, against transformers' own image processors; skipped without the extra `parity`."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from playground.original import pixel_layout

transformers = pytest.importorskip("transformers", reason="without the extra parity there is no transformers")
pytest.importorskip("torchvision", reason="without the extra parity there is no torchvision")

PICTURE = numpy.random.default_rng(3).integers(0, 256, (64, 96, 3), numpy.uint8)
AS_IT_IS = {"do_resize": False, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}


@pytest.mark.parametrize(
    ("name", "options", "patch"),
    [
        ("Qwen2VLImageProcessor", {"patch_size": 16, "merge_size": 2}, 16),
        ("CLIPImageProcessor", {"do_center_crop": False}, 16),
        ("PixtralImageProcessor", {"patch_size": 16}, 16),
    ],
)
def test_layout_when_transformers_made_it_then_the_picture_is_read_and_written(
    name: str, options: dict[str, Any], patch: int
) -> None:
    processor = getattr(transformers, name)(**AS_IT_IS, **options)
    prepared = processor(images=[PICTURE], return_tensors="np")
    inputs = {key: numpy.asarray(value) for key, value in prepared.items()}
    (read,) = pixel_layout.pictures_of(inputs, patch, 2) or []
    numpy.testing.assert_allclose(read, PICTURE.transpose(2, 0, 1) / 255, atol=1e-6)
    written = pixel_layout.with_pictures(inputs, [read], patch, 2)
    assert written is not None
    for key in ("pixel_values", "image_grid_thw", "image_sizes"):
        if key in inputs:
            numpy.testing.assert_array_equal(written[key], inputs[key])
