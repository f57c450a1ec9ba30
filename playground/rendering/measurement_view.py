"""A measurement to HTML: table, intervals on a common scale, grid, and the answers token by token."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import markupsafe
import PIL.Image

from playground.errors import PlaygroundError
from playground.measuring import gate, look_test, statistics
from playground.measuring.gate import Gate
from playground.measuring.question_sets import Question
from playground.measuring.results import (
    Effect,
    Measurement,
    Progress,
    Speed,
    TokenCost,
    VariantResult,
    grid,
    which_half,
)
from playground.measuring.scoring_rules import scored_text
from playground.measuring.statistics import Interval
from playground.measuring.summaries import kl_sums
from playground.rendering import number_format, templating
from playground.values import durations
from playground.values.counts import counted
from playground.values.files import Variant

_MAX_PROBLEMS = 5
_MAX_EXAMPLES = 6
_MAX_FLIPS = 40
_DECADES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)

Picture = Callable[[str], str | None]  # an item's image by name, as a data URL


def nats(value: float | None) -> str:
    if value is None:
        return number_format.UNKNOWN
    if value == 0:
        return "0"
    return f"{value:.1e}" if value < 0.0005 else f"{value:.4f}" if value < 0.1 else f"{value:.2f}"


def nats_alike(values: Sequence[float | None]) -> list[str]:
    """Values that stand below each other: all in the form that the smallest one needs."""
    smallest = min((value for value in values if value), default=1.0)
    form = ".1e" if smallest < 0.0005 else ".4f" if smallest < 0.1 else ".2f"
    return [number_format.UNKNOWN if v is None else format(v, form) if v else "0" for v in values]


def level(kl: float) -> int:
    """0 to 5: how strongly a divergence is marked. The steps are a convention: each is 4 to 5 times the one before."""
    return sum(kl >= step for step in (0.01, 0.05, 0.2, 1.0, 4.0))


def _token_title(token: TokenCost) -> str:
    title = f"KL {nats(token.kl)}"
    for name, side in (("reference", token.reference), ("variant", token.variant)):
        if side:
            title += f"\n{name}: " + ", ".join(f"{text!r} {number_format.probability(p)}" for text, p in side)
    return title


def _effect_title(effect: Effect) -> str:
    parts = (("language model alone", effect.language), ("projector alone", effect.vision), ("together", effect.kl))
    return f"{number_format.file_size(effect.bytes)}; " + ", ".join(f"{name} {nats(v)}" for name, v in parts if v)


templating.environment.filters |= {
    "nats": nats, "level": level, "token_title": _token_title, "effect_title": _effect_title,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _ResultRow:
    label: str
    is_reference: bool
    cells: list[tuple[float | None, str, str]]  # to sort by, to show, to explain


_COLUMNS = (
    ("variant", ""),
    ("size", "of both files"),
    ("changed", "answers that differ from the reference's"),
    ("at most", "share of such questions whose answer would change, upper end of 95 %"),
    ("verdict", "printed only when a test passes at 5 % over all variants"),
    ("KL", "mean Kullback-Leibler divergence from the reference, nats a token: long answers count most"),
    ("KL a question", "the same, every question counting alike"),
    ("noise floor", "mean KL of the variant against itself, computed another way: no smaller drift can be told"),
    ("p99", "of the tokens' KL"),
    ("same top", "share of tokens where both hold the same one likeliest"),
    ("accuracy", "mean score against the accepted answers"),
    ("against ★", "on the same questions"),
    ("sees", "whether answers are likelier with their own picture than with others"),
    ("tok/s", "tokens after the first one over the time they took, median of the rounds"),
    ("first token", "from nothing known: picture and prompt; median of the rounds"),
    ("memory", "of both workers: on the GPU if its driver reports it, else resident in host memory"),
)

_NOISE = " = noise"  # behind a mean KL: computing the same thing another way changes as much
_IN_NATS = range(4, 8)  # of a row's cells: KL to p99


def html(
    measured: Measurement,
    variants: Sequence[Variant],
    reference: str,
    picture: Picture,
    *,
    margin: float | None = None,
    printed: bool = False,
) -> markupsafe.Markup:
    """`margin`: the share of changed answers that a person accepts; None: gate.MARGIN."""
    by_id = {v.id: v for v in variants}
    judged = gate.gates(measured.results, measured.questions, reference, margin)
    rows = [
        _ResultRow(
            by_id[r.variant].label,
            r.variant == reference,
            _cells(r, by_id[r.variant], judged.get(r.variant), is_bound=bool(by_id[reference].endpoint)),
        )
        for r in measured.results
    ]
    for n in _IN_NATS:
        shown = nats_alike([row.cells[n][0] for row in rows])
        for row, number in zip(rows, shown, strict=True):
            value, words, title = row.cells[n]
            row.cells[n] = value, number + words.removeprefix(nats(value)), title
    kept = [n for n in range(len(_COLUMNS) - 1) if n == 0 or any(row.cells[n][0] is not None for row in rows)]
    rows = [_ResultRow(row.label, row.is_reference, [row.cells[n] for n in kept]) for row in rows]
    return templating.markup(
        "measured.html",
        questions=len(measured.questions),
        left_out=measured.left_out,
        floor=measured.floor,
        floors=list(measured.floors.items()),
        form=measured.form.words if measured.form else "",
        asked_alone=measured.asked_alone.words if measured.asked_alone else "",
        problems=measured.problems[:_MAX_PROBLEMS],
        more_problems=len(measured.problems[_MAX_PROBLEMS:]),
        columns=[_COLUMNS[0], *(_COLUMNS[n + 1] for n in kept)],
        rows=rows,
        plot=_plot(measured, by_id),
        histogram=_histogram(measured, by_id),
        grid=_grid(measured, variants, reference),
        examples=_examples(measured, by_id, picture),
        flips=_flips(measured, by_id, reference, picture),
        sentence=gate.sentence(measured, variants, reference, margin),
        rare=f"{statistics.unseen(len(measured.questions)):.1%}",
        printed=printed,
    )


def progress(update: Progress) -> markupsafe.Markup:
    left = f" · {durations.about(update.seconds_left)} left" if update.seconds_left is not None else ""
    share = update.done / max(1, update.total)
    return markupsafe.Markup(
        '<div class="vp-progress" role="status"><progress value="{}" aria-label="progress"></progress>'
        "<p>{} · step {} of {}{}</p></div>"
    ).format(f"{share:.4f}", update.what, update.done + 1, update.total, left)


def _cells(
    r: VariantResult, variant: Variant, judged: Gate | None, *, is_bound: bool
) -> list[tuple[float | None, str, str]]:
    """`judged`: None of the reference. `is_bound`: its drift is a lower bound: the reference answers elsewhere."""
    at_least = " at least" if is_bound else ""
    heavy = statistics.heavy(kl_sums(r.items))
    changed = judged.changed if judged else None
    kl = heavy.per_token if heavy else None
    share = f"{heavy.largest_share:.0%} of it comes from one question" if heavy else ""
    if r.within_arithmetic:
        share += "; no more than computing the same thing another way changes"
    unknown = (None, number_format.UNKNOWN, "")
    return [
        (variant.known_bytes, number_format.file_size(variant.known_bytes), ""),
        (changed.share, f"{changed.hits} of {changed.n}", "") if changed else unknown,
        (changed.at_most, f"{changed.at_most:.1%}", "") if changed else unknown,
        (judged.evidence, judged.verdict, judged.words) if judged else unknown,
        (kl, nats(kl) + (_NOISE if r.within_arithmetic else at_least if heavy else ""), share),
        (heavy.per_question if heavy else None, nats(heavy.per_question if heavy else None), ""),
        (r.floor, nats(r.floor), ""),
        (r.p99_kl, nats(r.p99_kl), ""),
        _share(r.same_top, 2),
        _accuracy(r),
        (
            r.against.difference.value if r.against else None,
            r.against.words if r.against else number_format.UNKNOWN,
            f"{r.against.only_first} lost, {r.against.only_second} won; for a single look p {r.against.p:.3f}"
            if r.against
            else "",
        ),
        (
            r.own_picture[0] if r.own_picture else None,
            r.looks or number_format.UNKNOWN,
            look_test.words(r.looks, r.own_picture),
        ),
        *_speed_cells(r.speed),
    ]


def _speed_cells(speed: Speed | None) -> list[tuple[float | None, str, str]]:
    if speed is None:
        return [(None, number_format.UNKNOWN, "")] * 3
    parts = f"encode {number_format.seconds(speed.encode_s)}, prompt {number_format.seconds(speed.prompt_s)}"
    spread = counted(speed.questions, "question")
    if speed.slowest is not None and speed.fastest is not None:
        spread = (
            f"{number_format.speed(speed.slowest)} to {number_format.speed(speed.fastest)} in {speed.rounds} rounds"
        )
    if speed.ratio is not None:
        low, high = speed.ratio.low or 0.0, speed.ratio.high or 0.0
        spread += (
            f"; {speed.ratio.value:.2f} x the reference ({low:.2f} to {high:.2f})"
            if speed.differs
            else f"; {low:.2f} to {high:.2f} x the reference: no difference that this shows"
        )
    return [
        (speed.tokens_per_second, number_format.speed(speed.tokens_per_second), spread),
        (speed.first_token_s, number_format.seconds(speed.first_token_s), parts),
        (speed.bytes, number_format.memory(speed.bytes), ""),
    ]


def numbers(r: VariantResult, judged: Gate | None) -> list[str]:
    """Changed answers, their upper end, verdict, mean KL a token and a question, same top, accuracy."""
    changed, heavy = judged.changed if judged else None, statistics.heavy(kl_sums(r.items))
    return [
        f"{changed.hits} of {changed.n}" if changed else number_format.UNKNOWN,
        f"{changed.at_most:.1%}" if changed else number_format.UNKNOWN,
        judged.verdict if judged else number_format.UNKNOWN,
        nats(heavy.per_token if heavy else None) + (_NOISE if r.within_arithmetic else ""),
        nats(heavy.per_question if heavy else None),
        *(_share(interval, 1)[1] for interval in (r.same_top, r.accuracy)),
    ]


def _share(interval: Interval | None, digits: int) -> tuple[float | None, str, str]:
    if interval is None or math.isnan(interval.value):
        return None, number_format.UNKNOWN, ""
    return interval.value, f"{interval.value:.{digits}%}", _range(interval, lambda v: f"{v:.{digits}%}")


def _accuracy(r: VariantResult) -> tuple[float | None, str, str]:
    value, shown, interval = _share(r.accuracy, 1)
    ends = ((r.truncated, "cut off"), (r.in_reasoning, "never left their reasoning"))
    return value, shown, "; ".join([interval, *(f"{n} answers {words}" for n, words in ends if n)])


def _range(interval: Interval | None, shown: Callable[[float], str]) -> str:
    if interval is None or interval.low is None or interval.high is None:
        return number_format.UNKNOWN
    return f"{shown(interval.low)} – {shown(interval.high)}"


# --- the plot --------------------------------------------------------------------------------------------------------


def _plot(measured: Measurement, by_id: dict[str, Variant]) -> dict[str, Any] | None:
    """Means on one logarithmic scale, which begins at the noise floor, and how far each differs from itself."""
    means = [(r, r.mean_kl) for r in measured.results if r.mean_kl is not None]
    if not means:
        return None
    ends = [v for r, i in means for v in (i.value, r.floor, measured.floor) if v]
    low = max(1e-9, min(ends, default=1e-6))
    first, last = math.floor(math.log10(low)), max(0, math.ceil(math.log10(max(ends, default=1.0))))
    first = max(first, last - 9)
    left = max(60, 20 + round(6.2 * max(len(by_id[r.variant].label) for r, _ in means)))  # room for the names
    right, top, step = left + 550, 8, 22
    bottom = top + step * len(means) + 6

    def x(value: float | None) -> float | None:
        if value is None:
            return None
        at = math.log10(max(value, 10.0**first))
        return round(left + (right - left) * (at - first) / max(1, last - first), 1)

    bars = [
        {
            "label": by_id[r.variant].label,
            "y": top + step * n + 14,
            "at": x(i.value),
            "own": x(r.floor),
            "title": f"{by_id[r.variant].label}: {nats(i.value)}, against itself {nats(r.floor)}",
        }
        for n, (r, i) in enumerate(means)
    ]
    ticks = [{"at": x(10.0**n), "text": f"{10.0**n:g}"} for n in range(first, last + 1)]
    return {
        "width": right + 20,
        "height": bottom + 22,
        "left": left,
        "top": top,
        "bottom": bottom,
        "bars": bars,
        "ticks": ticks,
        "floor": x(measured.floor) if measured.floor else None,
    }


def _histogram(measured: Measurement, by_id: dict[str, Variant]) -> dict[str, Any] | None:
    """Share of each variant's tokens by their KL, a decade a column."""
    rows = []
    for r in measured.results:
        kls = [token.kl for drift in r.items for token in drift.kl]
        if kls:
            counts = [0] * (len(_DECADES) + 1)
            for kl in kls:
                counts[sum(kl >= decade for decade in _DECADES)] += 1
            rows.append((by_id[r.variant].label, [(n, round(100 * n / len(kls), 1)) for n in counts]))
    names = [f"< {_DECADES[0]:g}", *(f"{decade:g}" for decade in _DECADES)]
    return {"columns": names, "rows": rows} if rows else None


def _grid(measured: Measurement, variants: Sequence[Variant], reference: str) -> dict[str, Any] | None:
    effects = grid(measured, variants, reference)
    if not effects:
        return None
    columns = list(dict.fromkeys(e.projector for e in effects))
    lines = []
    for model in dict.fromkeys(e.model for e in effects):
        cells = {e.projector: e for e in effects if e.model == model}
        lines.append((model, [cells.get(p) for p in columns]))
    return {"columns": columns, "lines": lines, "sentence": which_half(effects)}


# --- the answers -----------------------------------------------------------------------------------------------------


def _examples(measured: Measurement, by_id: dict[str, Variant], picture: Picture) -> list[dict[str, Any]]:
    """The questions whose answers moved most, in the variant that still answers most of them like the reference."""
    drifted = [r for r in measured.results if any(a.kl for a in r.items)]
    if not drifted:
        return []
    # A broken variant moves everything; the questions are chosen where most variants agree and some do not.
    half = [r for r in drifted if r.same_answer and r.same_answer.value >= 0.5] or drifted
    moved = [max((r.items[k].mean_kl or 0.0) for r in half) for k in range(len(measured.questions))]
    worst = sorted(range(len(moved)), key=lambda k: -moved[k])[:_MAX_EXAMPLES]
    return [
        {
            "question": measured.questions[k].question,
            "category": measured.questions[k].category,
            "url": picture(measured.questions[k].image),
            "variants": [(by_id[r.variant].label, r.items[k], _moved(r, k)) for r in drifted if r.items[k].kl],
        }
        for k in worst
        if moved[k] > 0
    ]


def _moved(result: VariantResult, k: int) -> str:
    drift = result.items[k]
    answer = (
        "says the same" if drift.first_divergence is None else f"says another from token {drift.first_divergence + 1}"
    )
    return f"KL {nats(drift.mean_kl)}, {answer}"


def _scored_part(item: Question, text: str | None) -> str:
    """What was scored of an answer, if that is not all of it."""
    scored = scored_text(item.rule, text or "")
    return scored if scored != (text or "").strip() else ""


def _flips(measured: Measurement, by_id: dict[str, Variant], reference: str, picture: Picture) -> list[dict[str, Any]]:
    base = next((r for r in measured.results if r.variant == reference), None)
    if base is None:
        return []
    flips: list[dict[str, Any]] = []
    for r in measured.results:
        for k, (answer, wanted) in enumerate(zip(r.items, base.items, strict=True)):
            if answer.score is None or wanted.score is None or (answer.score >= 0.5) == (wanted.score >= 0.5):
                continue
            item = measured.questions[k]
            flips.append(
                {
                    "label": by_id[r.variant].label,
                    "question": item.question,
                    "accepted": " | ".join(item.answers),
                    "reference": wanted.text,
                    "answer": answer.text,
                    "scored": _scored_part(item, answer.text),
                    "truncated": answer.truncated,
                    "in_reasoning": answer.in_reasoning,
                    "won": answer.score >= 0.5,
                    "url": picture(item.image) if len(flips) < _MAX_FLIPS else None,
                }
            )
    return flips[:_MAX_FLIPS]


def pictures(image_of: Callable[[str], Any]) -> Picture:
    """Each item's image once, as a small PNG; None where it cannot be read."""

    @functools.cache
    def picture(name: str) -> str | None:
        try:
            image = image_of(name)
        except PlaygroundError:
            return None
        shown = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
        shown.thumbnail((192, 192))
        png = io.BytesIO()
        shown.save(png, "PNG")
        return templating.data_url(("image/png", png.getvalue()))

    return picture
