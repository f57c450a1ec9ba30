"""A waterfall of a comparison: when each pane waited, loaded, encoded, read its prompt and wrote, on one axis."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import markupsafe

from playground.rendering import number_format
from playground.rendering.plots import scale, ticks
from playground.rendering.templating import markup
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.files import Variant

_NAMES = {
    "load": "until loaded",  # more than a pane's load: docs/metrics.md
    "image": "encode the image",
    "prompt": "prompt, to the first token",
    "decode": "decode",
}
_MOST = 50  # states of a pane; a notebook of somebody else may have any number


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds since the comparison began."""

    kind: str  # of _NAMES; while a pane waits there is none
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class _DrawnSpan:
    kind: str
    left: float  # percent of the axis
    width: float
    title: str


def html(update: ComparisonUpdate, variants: Sequence[Variant], *, title: str = "") -> markupsafe.Markup:
    """Empty for a run of an older version: it kept no times."""
    labels = {variant.id: variant.label for variant in variants}
    rows = [(labels.get(pane.variant, pane.variant), spans(pane, update.elapsed_s)) for pane in update.panes]
    last = max((span.end for _, row in rows for span in row), default=0.0)
    if not last:
        return markupsafe.Markup()
    end, step = scale(last)
    return markup(
        "waterfall.html",
        title=title,
        names=_NAMES,
        rows=[(label, _waited(row), [_drawn(span, end) for span in row]) for label, row in rows],
        ticks=[(round(100 * at / end, 2), number_format.seconds(at) if at else "0") for at in ticks(end, step)],
    )


def spans(pane: Pane, elapsed_s: float) -> tuple[Span, ...]:
    """What a pane did, in its order. `elapsed_s`: where a pane that was cut off ends."""
    entered = [*pane.timeline[:_MOST]]
    if entered and not entered[-1][0].ended:
        entered.append((PaneState.STOPPED, max(elapsed_s, entered[-1][1])))
    bars = []
    for (state, begin), (then, end) in itertools.pairwise(entered):
        if state is PaneState.LOADING:
            bars.append(Span("load", begin, end))
        elif state is PaneState.WRITING:
            bars.append(Span("decode", begin, end))
        elif state is PaneState.READING and then in (PaneState.LOADING, PaneState.QUEUED):
            # In a race a pane then waits until the others are encoded.
            encoded = begin + (pane.metrics.preprocess_s or 0.0) + (pane.metrics.encode_s or 0.0)
            bars.append(Span("image", begin, min(end, encoded)))
        elif state is PaneState.READING:
            bars.append(Span("prompt", begin, end))
    return tuple(span for span in bars if span.end > span.begin)


def _waited(row: Sequence[Span]) -> str:
    """Until the pane's first work began."""
    return number_format.seconds(row[0].begin) if row else number_format.UNKNOWN


def _drawn(span: Span, end: float) -> _DrawnSpan:
    length = number_format.seconds(span.end - span.begin)
    return _DrawnSpan(
        kind=span.kind,
        left=round(100 * span.begin / end, 3),
        width=round(100 * (span.end - span.begin) / end, 3),
        title=f"{_NAMES[span.kind]}: {length}, from {number_format.seconds(span.begin)} on",
    )
