"""Where the marks and lines of a plot stand. The SVG is that of the templates in assets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.comparing.speeds import Spread
from playground.comparing.summary_rows import SummaryRow
from playground.rendering import number_format, plot_labels
from playground.rendering.plot_labels import Area, PlotLabel
from playground.values.answer import Metrics

_KINDS = {True: "same", False: "off", None: "unknown"}

BOX = 1000  # side of the square that lines and areas are drawn in; the page stretches it
WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 600, 18, 222
_RISE = 10  # a line leads through the marks, not through their labels


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Drift:
    percent: int | None  # of the scale of colours; None: not compared
    short: str = ""
    sentence: str = ""


@dataclass(frozen=True, slots=True)
class Point:
    """A variant in the plot of speed against size against drift."""

    label: str
    kind: str
    bytes: int  # of both files
    speed: float | None  # tokens per second
    drift: Drift
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    x: float
    y: float
    label: str
    title: str
    kind: str  # reference, same, off, drifted, unknown
    drift: int | None  # percent
    short: str
    at: PlotLabel  # where the label stands
    whisker: tuple[float, float] | None = None  # y of the lowest and the highest speed


@dataclass(frozen=True, slots=True)
class Plot:
    """Pixels of the SVG, y downwards."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    measured: bool  # drift is mean KL; else how much of an answer is the reference's
    shared: bool
    near: str  # what the ends of the scale of colours mean
    far: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = RIGHT
    top: int = TOP
    bottom: int = BOTTOM


def speed_by_size(rows: Sequence[SummaryRow]) -> Plot | None:
    """Drift is the share of the reference's tokens that an answer begins with. None with fewer than two speeds."""
    points = []
    for row in rows:
        if row.bytes is None:
            continue
        drift = Drift(None)
        if (share := row.same_prefix) is not None:
            short = "" if row.same else number_format.share(share)
            drift = Drift(round(100 * (1 - share)), short, f"first {share:.0%} as the reference")
        speed = row.spread.median if row.spread else row.metrics.decode_tok_per_s
        kind = "reference" if row.is_reference else _KINDS[row.same]
        points.append(Point(row.label, kind, row.bytes, speed, drift, row.spread))
    shared = any(
        row.metrics.speed_shared or row.metrics.beside_others
        for row in rows
        if row.metrics.decode_tok_per_s is not None
    )
    return scatter(points, shared=shared, ends=("100%", "0%"))


def scatter(
    points: Sequence[Point], *, ends: tuple[str, str], measured: bool = False, shared: bool = False
) -> Plot | None:
    """Size to the right, tokens per second upwards, both from 0; drift as a colour. None with fewer than two speeds."""
    known = [(point, speed) for point in points if (speed := point.speed) is not None]
    if len(known) < 2:
        return None
    x_end, x_step = scale(max(point.bytes for point, _ in known))
    y_end, y_step = scale(max(point.spread.high if point.spread else speed for point, speed in known))

    def height(speed: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * speed / y_end, 1)

    places = [(LEFT + (RIGHT - LEFT) * point.bytes / x_end, height(speed)) for point, speed in known]
    texts = [f"{point.label} {point.drift.short}".rstrip() for point, _ in known]
    beside = plot_labels.labels(places, texts, Area(LEFT, 0, WIDTH, BOTTOM + 6))
    marks = []
    for (point, speed), (x, y), at in zip(known, places, beside, strict=True):
        spread = point.spread
        values = (
            number_format.file_size(point.bytes),
            number_format.sampled_speed(speed),
            f"{number_format.range_of(spread.low, spread.high)} in {spread.n} runs" if spread else "",
            point.drift.sentence,
        )
        marks.append(
            Mark(
                x=round(x, 1),
                y=y,
                label=point.label,
                title=f"{point.label}: {', '.join(filter(None, values))}",
                kind=point.kind,
                drift=point.drift.percent,
                short=point.drift.short,
                at=at,
                whisker=(height(spread.low), height(spread.high)) if spread else None,
            )
        )
    return Plot(
        marks=tuple(marks),
        x_ticks=tuple(
            Tick(LEFT + (RIGHT - LEFT) * v / x_end, number_format.file_size(int(v))) for v in ticks(x_end, x_step)
        ),
        y_ticks=tuple(Tick(BOTTOM - (BOTTOM - TOP) * v / y_end, f"{v:,.0f}") for v in ticks(y_end, y_step)),
        measured=measured,
        shared=shared,
        near=ends[0],
        far=ends[1],
    )


@dataclass(frozen=True, slots=True)
class DriftPoint:
    """A variant in the plot of drift against size."""

    label: str
    kind: str  # recommended, pareto, other
    bytes: int  # of both files
    kl: float | None  # mean, nats a token; None: the reference, which stands on the axis
    title: str


@dataclass(frozen=True, slots=True)
class DriftMark:
    x: float
    y: float
    label: str
    title: str
    kind: str  # recommended, pareto, other
    at: PlotLabel  # where the label stands


@dataclass(frozen=True, slots=True)
class DriftPlot:
    """Pixels, y downwards: size to the right, KL upwards on a logarithmic scale; the reference stands on the axis."""

    marks: tuple[DriftMark, ...]
    front: tuple[tuple[float, float], ...]  # a line through what nothing beats
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: int = 720
    height: int = 300
    left: int = 62
    right: int = 690
    top: int = 16
    bottom: int = 256


def drift_by_size(points: Sequence[DriftPoint], floor: float | None = None, *, joined: bool = True) -> DriftPlot | None:
    """`floor`: a KL that the axis shows as well. `joined`: a line leads through what nothing beats.

    None if there is nothing to compare.
    """
    drifted = [point.kl for point in points if point.kl is not None]
    if not drifted:
        return None
    place = DriftPlot((), (), (), ())
    low = min([kl for kl in (*drifted, floor) if kl and kl > 0], default=1e-6)
    first, last = max(-9, math.floor(math.log10(low))), max(0, math.ceil(math.log10(max(*drifted, 1e-9))))
    x_end, x_step = scale(max(1, *(point.bytes for point in points)))

    def x(value: float) -> float:
        return round(place.left + (place.right - place.left) * value / x_end, 1)

    def y(kl: float | None) -> float:
        if kl is None:
            return float(place.bottom)
        share = (math.log10(max(kl, 10.0**first)) - first) / max(1, last - first)
        return round(place.bottom - 14 - (place.bottom - 14 - place.top) * share, 1)

    ordered = sorted(points, key=lambda point: -point.bytes)
    places = [(x(point.bytes), y(point.kl)) for point in ordered]
    area = Area(place.left, 0, place.width, place.bottom + 6)
    beside = plot_labels.labels(places, [point.label for point in ordered], area, rise=_RISE)
    marks = tuple(
        DriftMark(*at, point.label, point.title, point.kind, label)
        for point, at, label in zip(ordered, places, beside, strict=True)
    )
    return DriftPlot(
        marks=marks,
        front=tuple(sorted((m.x, m.y) for m in marks if m.kind != "other")) if joined else (),
        x_ticks=tuple((x(v), number_format.file_size(int(v))) for v in ticks(x_end, x_step)),
        y_ticks=tuple((y(10.0**n), f"{10.0**n:g}") for n in range(first, last + 1)),
    )


def scale(largest: float) -> tuple[float, float]:
    """The end of an axis and the step of its ticks: round numbers, at most five steps."""
    magnitude = 10 ** math.floor(math.log10(largest))
    step = next(m * magnitude for m in (0.2, 0.25, 0.5, 1, 2, 2.5) if largest <= 5 * m * magnitude)
    return math.ceil(largest / step) * step, step


def ticks(end: float, step: float) -> list[float]:
    return [i * step for i in range(round(end / step) + 1)]


def area(xs: Sequence[int], ys: Sequence[int]) -> str:
    """An SVG path below a line, down to the bottom of the box. What lies within a level stretch is left out."""
    kept = [
        f"{x} {y}"
        for at, (x, y) in enumerate(zip(xs, ys, strict=True))
        if not 0 < at < len(ys) - 1 or not ys[at - 1] == y == ys[at + 1]
    ]
    return f"M{xs[0]} {BOX}L{' '.join(kept)}V{BOX}Z"


def spark(xs: Sequence[int], shares: Sequence[float | None]) -> str:
    """An SVG path through shares of the box's height, 0 to 1; broken where one is unknown."""
    path, pen = "", "M"
    for x, share in zip(xs, shares, strict=True):
        if share is None:
            pen = "M"
            continue
        path += f"{pen}{x} {round(BOX * (1 - min(1.0, max(0.0, share))))}"
        pen = "L"
    return path


# --- the phases of a run ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase:
    kind: str  # of the CSS class
    name: str
    seconds: float | None
    percent: float  # of the longest of all variants


@dataclass(frozen=True, slots=True)
class Line:
    """One variant's phases. Loading has a scale of its own: it may take a hundred times as long as all the rest."""

    label: str
    is_reference: bool
    loading: tuple[Phase, ...]
    loaded: bool  # it was there already
    answering: tuple[Phase, ...]
    answer_s: float | None
    rates: str  # path of the tokens per second over time, on one scale for all variants
    rates_range: str
    bandwidth: str
    bound: bool  # reading memory is what takes the time


_LOADING = {"load": "load", "projector": "projector load"}
_ANSWERING = {
    "preprocess": "preprocess",
    "image": "encode",
    "prompt": "prompt",
    "first": "first token",
    "decode": "decode",
}
_BOUND = 0.5  # share of the memory's bandwidth from which it explains the speed; a convention


def ledger(rows: Sequence[SummaryRow]) -> tuple[Line, ...]:
    """None of them if nothing was timed."""
    loading = [{"load": row.metrics.load_s, "projector": row.metrics.projector_load_s} for row in rows]
    answering = [_answering(row.metrics) for row in rows]
    longest = [max((_sum(times) or 0.0 for times in each), default=0.0) for each in (loading, answering)]
    rates = [_rates(row.metrics.progress or ()) for row in rows]
    fastest = max((rate for steps in rates for _, rate in steps), default=0.0)
    if not any(longest):
        return ()

    def phases(names: Mapping[str, str], times: Mapping[str, float | None], end: float) -> tuple[Phase, ...]:
        return tuple(
            Phase(kind, name, times[kind], round(100 * (times[kind] or 0.0) / end, 2) if end else 0.0)
            for kind, name in names.items()
        )

    return tuple(
        Line(
            label=row.label,
            is_reference=row.is_reference,
            loading=phases(_LOADING, load, longest[0]),
            loaded=row.metrics.load_s is None and row.metrics.prompt_s is not None,
            answering=phases(_ANSWERING, answer, longest[1]),
            answer_s=_sum(answer),
            rates=spark(
                [round(BOX * at / steps[-1][0]) for at, _ in steps], [rate / fastest for _, rate in steps]
            )
            if len(steps) > 1
            else "",
            rates_range=_range_of([rate for _, rate in steps]),
            bandwidth=bandwidth(row.metrics),
            bound=(row.metrics.bandwidth_share or 0.0) >= _BOUND,
        )
        for row, load, answer, steps in zip(rows, loading, answering, rates, strict=True)
    )  # fmt: skip


def bandwidth(m: Metrics) -> str:
    """In words where it is what makes an answer slow."""
    share, read = number_format.share(m.bandwidth_share), number_format.file_size(m.read_bytes_per_token)
    if m.bandwidth_share is None:
        return number_format.UNKNOWN if m.read_bytes_per_token is None else f"reads {read} a token"
    if m.read_bytes_per_token is None:
        return f"{share} of the memory's bandwidth"
    if m.bandwidth_share < _BOUND:
        return f"{share}, reads {read} a token"
    return f"reads {read} a token at {share} of the memory's bandwidth"


def _answering(m: Metrics) -> dict[str, float | None]:
    first = None
    if m.ttft_s is not None and m.prompt_s is not None:
        first = max(0.0, m.ttft_s - m.prompt_s - (m.preprocess_s or 0.0) - (m.encode_s or 0.0))
    return {
        "preprocess": m.preprocess_s,
        "image": m.encode_s,
        "prompt": m.prompt_s,
        "first": first,
        "decode": m.decode_s,
    }


def _sum(times: Mapping[str, float | None]) -> float | None:
    known = [seconds for seconds in times.values() if seconds is not None]
    return sum(known) if known else None


def _rates(progress: Sequence[tuple[float, int]]) -> list[tuple[float, float]]:
    """Seconds behind the first token, and tokens per second in the step that ends then."""
    steps = [(0.0, 0), *progress] if progress and progress[0][0] > 0 else list(progress)
    return [(t, (n - before) / (t - since)) for (since, before), (t, n) in itertools.pairwise(steps) if t > since]


def _range_of(rates: Sequence[float]) -> str:
    return f"{min(rates):,.0f} to {number_format.speed(max(rates))}" if rates else ""
