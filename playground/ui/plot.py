"""Where the marks of a plot stand. The SVG is assets/table.html's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from playground.lab.table import Row
from playground.ui import format

_KINDS = {True: "same", False: "off", None: "unknown"}

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 600, 18, 222


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Mark:
    x: float
    y: float
    label: str
    title: str
    kind: str  # reference, same, off, unknown
    flipped: bool  # the label stands on the left: it would leave the plot


@dataclass(frozen=True, slots=True)
class Plot:
    """Pixels of the SVG, y downwards."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shared: bool
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def speed_by_size(rows: Sequence[Row]) -> Plot | None:
    """Both files' size to the right, tokens per second upwards, both from 0. None with fewer than two speeds."""
    known = [(row, speed) for row in rows if (speed := row.metrics.decode_tok_per_s) is not None]
    if len(known) < 2:
        return None
    x_end, x_step = scale(max(row.bytes for row, _ in known))
    y_end, y_step = scale(max(speed for _, speed in known))
    marks = []
    for row, speed in known:
        x = LEFT + (RIGHT - LEFT) * row.bytes / x_end
        y = BOTTOM - (BOTTOM - TOP) * speed / y_end
        kind = "reference" if row.is_reference else _KINDS[row.same]
        drift = "" if row.same_prefix is None else f", first {row.same_prefix:.0%} as the reference"
        title = f"{row.label}: {format.file_size(row.bytes)}, {format.speed(speed)}{drift}"
        marks.append(Mark(round(x, 1), round(y, 1), row.label, title, kind, x > RIGHT - 90))
    return Plot(
        marks=tuple(marks),
        x_ticks=tuple(Tick(LEFT + (RIGHT - LEFT) * v / x_end, format.file_size(int(v))) for v in ticks(x_end, x_step)),
        y_ticks=tuple(Tick(BOTTOM - (BOTTOM - TOP) * v / y_end, f"{v:,.0f}") for v in ticks(y_end, y_step)),
        shared=any(row.metrics.speed_shared for row, _ in known),
    )


def scale(largest: float) -> tuple[float, float]:
    """The end of an axis and the step of its ticks: round numbers, at most five steps."""
    magnitude = 10 ** math.floor(math.log10(largest))
    step = next(m * magnitude for m in (0.2, 0.25, 0.5, 1, 2, 2.5) if largest <= 5 * m * magnitude)
    return math.ceil(largest / step) * step, step


def ticks(end: float, step: float) -> list[float]:
    return [i * step for i in range(round(end / step) + 1)]
