"""Read boxes from a free answer, and compare them. Pure; docs/metrics.md says which of several counts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# A notebook may come from anybody: each pattern takes a time that is linear in the white space.
_N = r"(-?\d+(?:\.\d+)?|-?\.\d+)"
_COMMA = r"(?:\s*[,;]\s*|\s+)"
_FOUR = _COMMA.join([_N] * 4)
_LOCATIONS = re.compile(r"<loc(\d{1,4})>\s*" * 4)
_KEYED = re.compile(
    rf"[\"']?\b(bbox_2d|box_2d|bbox|box|bounding_box|coordinates)\b[\"']?\s*[:=]\s*[\[(]\s*{_FOUR}\s*[\])]"
)
_SIDES = ("x_?1|x_?min|left", "y_?1|y_?min|top", "x_?2|x_?max|right", "y_?2|y_?max|bottom")
_CORNERS = [re.compile(rf"[\"']?\b(?:{side})[\"']?\s*[:=]\s*{_N}", re.IGNORECASE) for side in _SIDES]
_BRACKETS = re.compile(rf"[\[(]\s*{_FOUR}\s*[\])]")
_PAIRS = re.compile(rf"[\[(]\s*{_N}{_COMMA}{_N}\s*[\])]\s*(?:,\s*)?(?:(?:and|to)\s*)?[\[(]\s*{_N}{_COMMA}{_N}\s*[\])]")
_BARE = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?)(?!\w)")
_LABEL = re.compile(r"[\"'](?:label|name|class|object|category)[\"']\s*:\s*[\"']([^\"']{1,80})[\"']")

_MOST = 50  # boxes of an answer


class Box(NamedTuple):
    """Left, top, right, bottom as the answer writes them, and what it says about their scale."""

    corners: tuple[float, float, float, float]
    scale: float | None = None  # what stands for the image's whole side; None: the answer does not say
    label: str = ""  # what the answer says is in it

    def turned(self) -> Box:
        """Written y before x."""
        top, left, bottom, right = self.corners
        return self._replace(corners=(left, top, right, bottom))


def read_box(text: str, *, y_first: bool | None = None) -> Box | None:
    """The first box of a text. `y_first`: None, by what the text looks like (box_2d and <loc> write y before x)."""
    if box := next(_written(text, y_first), None):
        return box
    bare = _BARE.findall(text)
    return _turned(Box(_four(bare)), bool(y_first)) if len(bare) == 4 else None


def read_boxes(text: str) -> tuple[Box, ...]:
    """The first _MOST boxes of a text, which are written in one form. Four numbers without brackets are no box."""
    boxes = []
    for box in _written(text, None):
        left, top, right, bottom = box.corners
        if min(box.corners) >= 0 and left < right and top < bottom:
            boxes.append(box)
        if len(boxes) == _MOST:
            break
    return tuple(boxes)


def scaled(box: Box, scale: tuple[float, float]) -> tuple[float, ...]:
    """In shares of an image whose width and height the scale's two numbers stand for."""
    return tuple(corner / scale[k % 2] for k, corner in enumerate(box.corners))


def overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union."""
    (l1, t1, r1, b1), (l2, t2, r2, b2) = first, second
    if r1 <= l1 or b1 <= t1 or r2 <= l2 or b2 <= t2:
        return 0.0
    shared = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - shared
    return shared / union if union > 0 else 0.0


def _written(text: str, y_first: bool | None) -> Iterator[Box]:
    """The boxes in the first of these forms that the text has."""
    if _LOCATIONS.search(text):
        for match in _LOCATIONS.finditer(text):
            yield _turned(Box(_four(match.groups()), 1024.0), y_first is not False)
    elif _KEYED.search(text):
        for match in _KEYED.finditer(text):
            corners, gemini = _four(match.groups()[1:]), match[1] == "box_2d"
            box = Box(corners, 1000.0 if gemini and max(corners) > 1 else None, _label(text, match))
            yield _turned(box, gemini if y_first is None else y_first)
    elif all(pattern.search(text) for pattern in _CORNERS):
        for matches in zip(*(pattern.finditer(text) for pattern in _CORNERS), strict=False):
            yield Box(_four([match[1] for match in matches]), label=_label(text, matches[0]))
    else:
        form = _BRACKETS if _BRACKETS.search(text) else _PAIRS
        for match in form.finditer(text):
            yield _turned(Box(_four(match.groups()), label=_label(text, match)), bool(y_first))


def _label(text: str, match: re.Match[str]) -> str:
    """Of the JSON object that the box stands in."""
    begin, end = text.rfind("{", 0, match.start() + 1), text.find("}", match.end())
    label = _LABEL.search(text, begin, end) if 0 <= begin < end else None
    return label[1] if label else ""


def _turned(box: Box, y_first: bool) -> Box:
    return box.turned() if y_first else box


def _four(numbers: Sequence[str]) -> tuple[float, float, float, float]:
    a, b, c, d = (float(number) for number in numbers)
    return a, b, c, d
