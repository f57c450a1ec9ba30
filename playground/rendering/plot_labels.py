"""Where the labels of a plot's marks stand: beside their marks, and none on another label or mark.

Each label, from the top down, takes the first free place: on the right of its mark, on the left, and then further and
further above and below. A line leads to one that stands away from its mark.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_BESIDE = 10  # pixels from the middle of a mark to its label
_MARK = 6  # half a mark
_LINE = 13  # from one label to that below it
_CHARACTER = 7  # wide at most, on average, at 11 pixels
_UP = 4  # from the middle of a line of text down to its baseline
_STEPS = 10  # as many lines away at most


@dataclass(frozen=True, slots=True)
class PlotLabel:
    x: float  # where the text begins, or ends where it is flipped
    y: float  # of its baseline
    flipped: bool  # on the left of the mark
    is_away: bool  # a line leads from the mark to it


@dataclass(frozen=True, slots=True)
class Area:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Area) -> bool:
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def holds(self, other: Area) -> bool:
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


def labels(
    marks: Sequence[tuple[float, float]], texts: Sequence[str], area: Area, *, rise: float = 0
) -> list[PlotLabel]:
    """One for each mark. `rise`: how far above the middle of its mark a label stands at best."""
    taken = [Area(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y in marks]
    label_of: dict[int, PlotLabel] = {}
    for n in sorted(range(len(marks)), key=lambda n: (marks[n][1], marks[n][0])):
        x, y = marks[n]
        width = _CHARACTER * len(texts[n])
        middle = y - rise
        places = [(box, shift, flipped) for box, shift, flipped in _places(x, middle, width) if area.holds(box)]
        free = (place for place in places if not any(place[0].meets(other) for other in taken))
        outside = x + _BESIDE + width > area.right
        box, shift, flipped = next(free, (_place(x, middle, width, 0, flipped=outside), 0, outside))
        taken += [box] if width else []
        at = x - _BESIDE if flipped else x + _BESIDE
        label_of[n] = PlotLabel(round(at, 1), round(middle + shift + _UP, 1), flipped, shift != 0 and width > 0)
    return [label_of[n] for n in range(len(marks))]


def _places(x: float, middle: float, width: float) -> Iterator[tuple[Area, float, bool]]:
    for step in range(_STEPS + 1):
        for shift in (step * _LINE, -step * _LINE) if step else (0,):
            for flipped in (False, True):
                yield _place(x, middle, width, shift, flipped=flipped), shift, flipped


def _place(x: float, middle: float, width: float, shift: float, *, flipped: bool) -> Area:
    left = x - _BESIDE - width if flipped else x + _BESIDE
    return Area(left, middle + shift - _LINE / 2, left + width, middle + shift + _LINE / 2)
