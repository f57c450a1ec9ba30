"""The look test: does an answer depend on the picture? The variant reads its own answer again under other pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy
import PIL.Image

from playground.comparing.images import from_rgb
from playground.measuring.steps import Item, Steps
from playground.measuring.summaries import mean
from playground.values.files import Variant
from playground.values.request import Image

QUESTIONS = 8

# Nats a token; a convention. On the embedded pair an answer moves by 4 to 7, and with a projector whose output is zero
# by 1e-8: any limit in between separates these two. docs/metrics.md (Thresholds) says what the test cannot show.
BLIND_KL = 0.02


def key(steps: Steps, variant: Variant, item: Item, items: Sequence[Item]) -> str:
    other = _other(item.image, items)
    return steps.key("look", variant, item, other and other.sha256)


def shift(steps: Steps, variant: Variant, item: Item, items: Sequence[Item], record: Path) -> float:
    """How far the answer moves, in nats a token, under a blank, a shuffled and another question's picture: the most."""
    cached = steps.lab.results.get(key(steps, variant, item, items), float)
    if cached is not None:
        return cached
    ids = steps.answer(variant, item).token_ids
    shifts = [0.0]
    if ids:
        steps.record(variant, steps.prompt(variant, item), ids, record)
        for image in (_blank(item.image), _shuffled(item.image), _other(item.image, items)):
            if image is not None:
                drifts = steps.read(variant, steps.prompt(variant, item._replace(image=image)), ids, record)
                shifts.append(mean([drift.kl for drift in drifts]))
    steps.lab.results.put(key(steps, variant, item, items), max(shifts))
    return max(shifts)


def verdict(shift: float) -> str:
    return "blind" if shift < BLIND_KL else "looks"


def _other(image: Image, items: Sequence[Item]) -> Image | None:
    return next((item.image for item in items if item.image.sha256 != image.sha256), None)


def _blank(image: Image) -> Image:
    """Filled with the picture's mean colour."""
    pixels = numpy.frombuffer(image.rgb, numpy.uint8).reshape(image.height, image.width, 3)
    mean_colour = tuple(int(c) for c in pixels.reshape(-1, 3).mean(axis=0))
    return from_rgb(PIL.Image.new("RGB", (image.width, image.height), mean_colour))


def _shuffled(image: Image, n: int = 8) -> Image:
    """Its n x n tiles in another order, always the same one."""
    whole = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    w, h = max(1, image.width // n), max(1, image.height // n)
    places = [(x * w, y * h) for y in range(n) for x in range(n)]
    order = numpy.random.default_rng(1).permutation(len(places))
    tiles = [whole.crop((*places[i], places[i][0] + w, places[i][1] + h)) for i in order]
    for place, tile in zip(places, tiles, strict=True):
        whole.paste(tile, place)
    return from_rgb(whole)
