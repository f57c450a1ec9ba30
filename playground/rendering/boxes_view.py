"""The boxes of a comparison's answers, drawn on the picture: one colour for each variant."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import markupsafe

from playground.measuring import boxes
from playground.measuring.boxes import Box
from playground.models.presets import BoxNumbers, box_numbers
from playground.notebooks.cells import Picture
from playground.rendering.templating import markup
from playground.values.answer import ComparisonUpdate, Pane
from playground.values.files import Variant

_COLOURS = 8  # of styles/boxes.css
_LONGEST = 20_000  # characters of an answer that are read
# Qwen2.5-VL and dots.ocr write pixels of the image that their encoder sees: by their presets, else by the type that the
# projector's header names. Runs of older versions keep no type: files are named after the model.
_PIXEL_TYPES = {"qwen2.5vl_merger", "qwen2.5o", "dots_ocr"}
_PIXEL_NAMES = re.compile(r"qwen.?2[._-]?5.?(?:vl|omni)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _DrawnBox:
    """Pixels of the picture."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class _AnswerBoxes:
    label: str  # the variant's
    is_reference: bool
    colour: int
    stroke: float  # boxes of earlier variants are drawn wider, so that they are seen below the same box of a later one
    scale: str  # how the numbers are read, in words
    boxes: tuple[_DrawnBox, ...]
    overlap: float | None  # of the first box with the reference's first; None: one of them has none


def html(
    update: ComparisonUpdate, variants: Sequence[Variant], reference: str, picture: Picture, url: str | None
) -> markupsafe.Markup:
    """Empty while no answer has ended that has a box. `url`: of the picture; None: it is lost."""
    answers = _answers(update, variants, reference, picture)
    if url is None or not any(answer.boxes for answer in answers):
        return markupsafe.Markup()
    return markup("boxes.html", answers=answers, picture=picture, url=url)


def _answers(
    update: ComparisonUpdate, variants: Sequence[Variant], reference: str, picture: Picture
) -> list[_AnswerBoxes]:
    by_id = {variant.id: variant for variant in variants}
    ended = [pane for pane in update.panes if pane.state.ended and pane.variant in by_id]
    read = {pane.variant: _shares(pane, by_id[pane.variant], picture) for pane in ended}
    wanted = next(iter(read.get(reference, ("", ()))[1]), None)
    answers = []
    for index, pane in enumerate(ended):
        scale, shares = read[pane.variant]
        first = next(iter(shares), None)
        is_reference = pane.variant == reference
        answers.append(
            _AnswerBoxes(
                label=by_id[pane.variant].label,
                is_reference=is_reference,
                colour=index % _COLOURS,
                stroke=2 + 1.5 * (len(ended) - 1 - index),
                scale=scale,
                boxes=tuple(_drawn(label, corners, picture) for label, corners in shares),
                overlap=boxes.overlap(first[1], wanted[1]) if first and wanted and not is_reference else None,
            )
        )
    return answers


def _shares(pane: Pane, variant: Variant, picture: Picture) -> tuple[str, tuple[tuple[str, tuple[float, ...]], ...]]:
    """How the numbers are read, and each box's label and corners in shares of the picture."""
    answered = boxes.read_boxes(pane.text[:_LONGEST])
    if not answered:
        return "", ()
    words, scale = _scale(answered, pane, variant, picture)
    return words, tuple((box.label, boxes.scaled(box, scale)) for box in answered)


def _scale(answered: Sequence[Box], pane: Pane, variant: Variant, picture: Picture) -> tuple[str, tuple[float, float]]:
    """In words and numbers. By the answer's own form, else by the family, else by the numbers' size."""
    largest = max(max(box.corners) for box in answered)
    own = next((box.scale for box in answered if box.scale is not None), None)
    if own is not None:
        return "thousandths" if own == 1000 else f"parts of {own:g}", (own, own)
    if largest <= 1:
        return "shares of the image", (1.0, 1.0)
    if largest > 1000 or _in_pixels(variant):
        seen, tiles = pane.metrics.image_pixels, pane.metrics.image_tiles
        if seen and len(seen) == 1 and not tiles:
            return "pixels of the resized image", (float(seen[0][0]), float(seen[0][1]))
        return "pixels of the image", (float(picture.width), float(picture.height))
    return "thousandths", (1000.0, 1000.0)  # what most families are trained on


def _in_pixels(variant: Variant) -> bool:
    if numbers := box_numbers(variant.family):
        return numbers is BoxNumbers.PIXELS
    if kind := variant.projector.projector_type:
        return kind in _PIXEL_TYPES
    return _PIXEL_NAMES.search(f"{variant.family} {variant.model.path}") is not None


def _drawn(label: str, corners: Sequence[float], picture: Picture) -> _DrawnBox:
    left, top, right, bottom = (
        round(min(1.0, share) * side, 1)
        for share, side in zip(corners, (picture.width, picture.height) * 2, strict=True)
    )
    return _DrawnBox(left, top, round(right - left, 1), round(bottom - top, 1), label)
