"""The ship card as HTML, JSON and PNG: one plot, one table, what is recommended, and what it was measured with."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import markupsafe
import msgspec
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

from playground.errors import BadInput
from playground.measuring import packs, parity
from playground.measuring.ship_card import CardRow, ShipCard
from playground.models.presets import family_name
from playground.rendering import measurement_view, number_format, plots, templating
from playground.values.counts import counted


def check_kind(kind: str) -> None:
    """Raises BadInput for an unknown kind of file."""
    if kind not in _WRITERS:
        raise BadInput(f"A card can be written as {', '.join(_WRITERS)}, not as '{kind[:20]}'.")


def write(kind: str, card: ShipCard) -> bytes:
    """Raises BadInput as `check_kind` does."""
    check_kind(kind)
    return _WRITERS[kind](card)


def model_of(card: ShipCard) -> str:
    """The model family that the card is about."""
    ids = [card.reference, *(row.variant for row in card.rows)]
    named = next((id for id in ids if not id.startswith(packs.ID)), card.reference)
    return family_name(named.partition(":")[0])


def verdict(card: ShipCard, *, printed: bool = False, unticked: Sequence[str] = ()) -> markupsafe.Markup:
    """What is recommended and why; `printed`: without the buttons that write files.

    `unticked`: what the person has to tick in the cell to get a recommendation.
    """
    return templating.markup(
        "card-verdict.html",
        card=card,
        model=model_of(card),
        kinds=list(_WRITERS),
        printed=printed,
        unticked=" and ".join(unticked),
        parity=parity.words(card.parity),
    )


def section(card: ShipCard, *, printed: bool = False) -> markupsafe.Markup:
    """The plots, the table and the files; `printed`: unfolded."""
    return templating.markup(
        "card.html",
        card=card,
        plot=_plot(card),
        speeds=_speeds(card),
        rows=_rows(card),
        columns=_COLUMNS,
        printed=printed,
    )


def _html(card: ShipCard) -> bytes:
    blocks = (verdict(card, printed=True), section(card, printed=True))
    return str(
        templating.markup("card-page.html", model=model_of(card), card=card, blocks=blocks, css=templating.css())
    ).encode()


def _json(card: ShipCard) -> bytes:
    return msgspec.json.format(msgspec.json.encode(card), indent=1)


@dataclass(frozen=True, slots=True)
class _CardLine:
    label: str
    kind: str
    cells: tuple[str, ...]
    failing: str


_COLUMNS = ("size", "changed", "KL", "accuracy", "tok/s", "memory", "sees")


def _rows(card: ShipCard) -> list[_CardLine]:
    return [
        _CardLine(
            label=row.label + (" ★" if row.variant == card.reference else ""),
            kind=_kind(card, row),
            cells=(
                number_format.file_size(row.bytes),
                _changed(row),
                measurement_view.nats(row.kl.value if row.kl else None),
                number_format.UNKNOWN if row.accuracy is None else f"{row.accuracy.value:.1%}",
                number_format.speed(row.tokens_per_second),
                number_format.memory(row.memory),
                row.looks or number_format.UNKNOWN,
            ),
            failing="; ".join(row.failing),
        )
        for row in sorted(card.rows, key=lambda row: -row.bytes)
    ]


def _changed(row: CardRow) -> str:
    count = row.gate.changed if row.gate else None
    return number_format.UNKNOWN if count is None else f"{count.hits} of {count.n}"


def _kind(card: ShipCard, row: CardRow) -> str:
    return "recommended" if row.variant == card.recommended else "pareto" if row.pareto else "other"


def _plot(card: ShipCard) -> plots.DriftPlot | None:
    """None if there is nothing to compare."""
    points = []
    for row in card.rows:
        kl = row.kl.value if row.kl else None
        if kl is None and row.variant != card.reference:  # it could not be measured, and has no place here
            continue
        values = (
            number_format.file_size(row.bytes),
            f"KL {measurement_view.nats(kl)}",
            number_format.speed(row.tokens_per_second),
        )
        title = f"{row.label}: {', '.join(values)}"
        points.append(plots.DriftPoint(row.label, _kind(card, row), row.bytes, kl, title))
    return plots.drift_by_size(points, card.floor)


_NEAR, _FAR = -4, 0  # powers of ten of the mean KL, at the ends of the colour scale; a convention


def _speeds(card: ShipCard) -> plots.Plot | None:
    """Speed against size against mean KL."""
    points = []
    for row in card.rows:
        drift = plots.Drift(None)
        if row.kl is None and row.variant != card.reference:
            continue
        if row.kl is not None:
            share = (math.log10(max(row.kl.value, 10.0**_NEAR)) - _NEAR) / (_FAR - _NEAR)
            kl = measurement_view.nats(row.kl.value)
            drift = plots.Drift(round(100 * min(1.0, share)), f"KL {kl}", f"mean KL {kl} nats a token")
        kind = "reference" if row.variant == card.reference else "drifted"
        points.append(plots.Point(row.label, kind, row.bytes, row.tokens_per_second, drift))
    return plots.scatter(points, ends=(f"≤ {10.0**_NEAR:g}", f"≥ {10.0**_FAR:g}"), measured=True)


# --- PNG -------------------------------------------------------------------------------------------------------------

_INK, _DIM, _LINE, _PAPER = "#1d1f23", "#5d626a", "#e3e3de", "#ffffff"
_COLOURS = {"recommended": "#24703f", "pareto": "#2f5bd0", "other": "#b9bcc2"}
_SCALE = 2  # pixels of the PNG for one of the plot
_PAGE = 760


@dataclass(frozen=True, slots=True)
class _Sheet:
    """The picture that is drawn on, in the plot's own units."""

    draw: PIL.ImageDraw.ImageDraw

    def text(self, x: float, y: float, words: str, *, size: int = 13, ink: str = _INK, anchor: str = "ls") -> None:
        font = PIL.ImageFont.load_default(size * _SCALE)
        # The font that comes with Pillow has no stars and arrows.
        plain = words.replace("★", "(ref)").replace("→", ">").replace("–", "-")
        latin = plain.encode("latin-1", "replace").decode("latin-1")[:200]
        self.draw.text((x * _SCALE, y * _SCALE), latin, fill=ink, font=font, anchor=anchor)

    def line(self, points: Sequence[tuple[float, float]], ink: str) -> None:
        self.draw.line([(x * _SCALE, y * _SCALE) for x, y in points], fill=ink, width=_SCALE)

    def dot(self, x: float, y: float, radius: float, ink: str) -> None:
        corners = [(x - radius) * _SCALE, (y - radius) * _SCALE, (x + radius) * _SCALE, (y + radius) * _SCALE]
        self.draw.ellipse(corners, fill=ink)


def _png(card: ShipCard) -> bytes:
    drawn, lines = _plot(card), _rows(card)
    sentences = (*card.reasons, parity.words(card.parity))
    wrapped = [part for sentence in sentences for part in _wrapped(sentence, 108)]
    height = 76 + 19 * len(wrapped) + (drawn.height + 30 if drawn else 0) + 24 * (len(lines) + 1) + 74
    page = PIL.Image.new("RGB", (_PAGE * _SCALE, height * _SCALE), _PAPER)
    sheet = _Sheet(PIL.ImageDraw.Draw(page))
    sheet.text(20, 34, f"Which quantization to ship: {_recommended(card)}", size=18)
    about = f"{model_of(card)}, {counted(card.questions, 'question')} ({card.set_name}), measured {card.measured[:10]}"
    sheet.text(20, 54, about, size=12, ink=_DIM)
    top = 80
    for words in wrapped:
        sheet.text(20, top, words)
        top += 19
    if drawn:
        _draw_plot(sheet, drawn, top)
        top += drawn.height + 30
    _draw_rows(sheet, lines, top)
    foot = top + 24 * (len(lines) + 1) + 14
    sheet.text(20, foot + 12, f"{card.engine}; {card.machine}; {card.settings}"[:120], size=11, ink=_DIM)
    sheet.text(20, foot + 30, card.command[:120], size=11, ink=_DIM)
    png = io.BytesIO()
    page.save(png, "PNG", optimize=True)
    return png.getvalue()


def _draw_plot(sheet: _Sheet, drawn: plots.DriftPlot, top: float) -> None:
    for at, words in drawn.x_ticks:
        sheet.line([(20 + at, top + drawn.top), (20 + at, top + drawn.bottom)], _LINE)
        sheet.text(20 + at, top + drawn.bottom + 16, words, size=11, ink=_DIM, anchor="ms")
    for at, words in drawn.y_ticks:
        sheet.line([(20 + drawn.left, top + at), (20 + drawn.right, top + at)], _LINE)
        sheet.text(14 + drawn.left, top + at + 4, words, size=11, ink=_DIM, anchor="rs")
    if len(drawn.front) > 1:
        sheet.line([(20 + x, top + y) for x, y in drawn.front], _COLOURS["pareto"])
    for mark in drawn.marks:
        x, y, label = 20 + mark.x, top + mark.y, mark.at
        sheet.dot(x, y, 6 if mark.kind == "recommended" else 4.5, _COLOURS[mark.kind])
        if label.is_away:
            sheet.line([(x, y), (20 + label.x, top + label.y - 4)], _LINE)
        sheet.text(20 + label.x, top + label.y, mark.label, size=12, anchor="rs" if label.flipped else "ls")
    axes = "size of both files; upwards: mean KL, nats a token"
    sheet.text(20 + drawn.left, top + drawn.bottom + 34, axes, size=11, ink=_DIM)


def _draw_rows(sheet: _Sheet, rows: Sequence[_CardLine], top: float) -> None:
    columns = [20, 250, 330, 420, 500, 580, 660]
    for x, name in zip(columns, ("variant", *_COLUMNS[:6]), strict=True):
        sheet.text(x, top + 14, name, size=12, ink=_DIM)
    for n, row in enumerate(rows, 1):
        y = top + 14 + 24 * n
        sheet.line([(20, y - 17), (_PAGE - 20, y - 17)], _LINE)
        for x, words in zip(columns, (row.label[:34], *row.cells[:6]), strict=True):
            sheet.text(x, y, words, ink=_COLOURS["recommended"] if row.kind == "recommended" else _INK)


def _recommended(card: ShipCard) -> str:
    return next((row.label for row in card.rows if row.variant == card.recommended), "not enough evidence")


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


TYPES = {"html": "text/html", "json": "application/json", "png": "image/png"}
_WRITERS: dict[str, Callable[[ShipCard], bytes]] = {"html": _html, "json": _json, "png": _png}
