"""The ship card: what a set of variants costs and gives, and which one the evidence allows to ship. Pure."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence

import msgspec

from playground.errors import BadInput
from playground.measuring import gate, statistics
from playground.measuring.gate import Gate, Verdict
from playground.measuring.parity import Parity
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, MeasurementPlan, Sight, Speed, VariantResult
from playground.measuring.statistics import Count, Heavy, Interval
from playground.values import durations
from playground.values.files import Variant
from playground.values.request import PromptForm

FIT_KL = 0.01  # nats a token; a convention of this project, no measured threshold (docs/metrics.md)
_MAX_LIMIT = 2**53  # beyond it a number measures nothing, and a notebook's file refuses it


class ShipLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a variant has to keep. None: no limit."""

    max_bytes: int | None = None  # of both files
    max_memory: int | None = None  # bytes that both workers hold
    min_tokens_per_second: float | None = None
    max_kl: float | None = None  # nats a token, by either weighting
    max_changed: float | None = None  # share of changed answers; None: 0.05 (gate.MARGIN)


def check(limits: ShipLimits) -> None:
    """Raises BadInput for an invalid limit."""
    for name, value in msgspec.structs.asdict(limits).items():
        least = 0 if name == "max_kl" else 1e-6
        if value is not None and not least <= value <= _MAX_LIMIT:  # NaN fails, too
            raise BadInput(f"A limit has to be a number above 0 and below {_MAX_LIMIT:.0e}, or be left out.")
    if limits.max_changed is not None and not limits.max_changed < 1:
        raise BadInput("The accepted share of changed answers has to be below 1 (100 %).")


class CardRow(msgspec.Struct, frozen=True):
    variant: str
    label: str
    bytes: int
    memory: int | None
    tokens_per_second: float | None
    first_token_s: float | None
    kl: Interval | None  # nats a token; None for the reference
    accuracy: Interval | None
    against: str | None  # the reference, in words
    looks: str | None
    pareto: bool  # no other is as good in everything and shown to be better in something
    failing: tuple[str, ...]  # limits that it does not keep, and what was not shown, in words
    gate: Gate | None = None  # None for the reference
    drift: Heavy | None = None
    above: Count | None = None  # questions whose mean KL is above the limit on KL (0.01 where there is none)
    floor: float | None = None  # nats a token that the variant differs from itself, computed another way
    speed: Speed | None = None
    within_arithmetic: bool = False  # its drift is that of computing the same thing another way


class CardFile(msgspec.Struct, frozen=True):
    name: str
    quantization: str
    bytes: int
    sha256: str


class ShipCard(msgspec.Struct, frozen=True):
    rows: tuple[CardRow, ...]
    reference: str
    limits: ShipLimits
    recommended: str | None  # a variant's id
    reasons: tuple[str, ...]
    questions: int
    set_name: str
    floor: float | None
    files: tuple[CardFile, ...]
    engine: str
    machine: str
    settings: str
    measured: str  # ISO 8601
    command: str  # repeats it
    parity: Parity | None = None  # of the reference with the original model; None: nobody has looked


def card(
    measured: Measurement,
    variants: Sequence[Variant],
    reference: str,
    limits: ShipLimits,
    *,
    engine: str,
    machine: str,
    set_name: str,
    settings: str,
    command: str,
    when: str = "",
) -> ShipCard:
    """`when`: ISO 8601; empty: now."""
    ranked = rows(measured, variants, reference, limits)
    seconds = measured.elapsed_s / len(measured.questions) if measured.elapsed_s and measured.questions else None
    recommended, reasons = recommend(ranked, reference, len(measured.questions), seconds)
    return ShipCard(
        rows=ranked,
        reference=reference,
        limits=limits,
        recommended=recommended,
        reasons=reasons,
        questions=len(measured.questions),
        set_name=set_name,
        floor=measured.floor,
        files=files(variants),
        engine=engine,
        machine=measured.where(machine),
        settings=settings,
        measured=when or datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
        parity=measured.parity,
    )


def set_title(own: str, level: str) -> str:
    """How a card names its questions: by the name of the person's own set, or by the level of the embedded one."""
    return own or f"embedded questions, {level or 'easy and hard'}"


def settings_line(plan: MeasurementPlan, n_ctx: int | None, form: PromptForm | None = None) -> str:
    """`form`: as the measurement has it."""
    budget = "" if plan.reasoning_tokens is None else f" ({plan.reasoning_tokens} of reasoning)"
    line = f"greedy, {plan.max_tokens} tokens{budget} at most, context {n_ctx or 'as needed'}"
    return line if form is None else f"{line}, {form.words}"


def rows(measured: Measurement, variants: Sequence[Variant], reference: str, limits: ShipLimits) -> tuple[CardRow, ...]:
    by_id = {v.id: v for v in variants}
    gates = gate.gates(measured.results, measured.questions, reference, limits.max_changed)
    here = [r for r in measured.results if not by_id[r.variant].endpoint]
    drafts = [_row(by_id[r.variant], r, measured.questions, gates.get(r.variant), limits) for r in here]
    # Of one that could not be measured nothing is known, and it must not beat anything by that.
    known = [row for row in drafts if row.kl is not None or row.variant == reference]
    return tuple(
        msgspec.structs.replace(row, pareto=row in known and not any(_beats(other, row) for other in known))
        for row in drafts
    )


def recommend(
    ranked: Sequence[CardRow], reference: str, questions: int, seconds_a_question: float | None
) -> tuple[str | None, tuple[str, ...]]:
    """The smallest variant that passes the gate and keeps every limit, and why; None, and what stood in the way.

    Of equally small ones, the one that drifts less. The reference itself is never recommended: it changes no answer by
    definition, so nothing is shown.
    """
    rivals = [row for row in ranked if row.variant != reference]
    whole = next(row for row in ranked if row.variant == reference)
    passing = sorted((row for row in rivals if not row.failing), key=lambda row: (row.bytes, _kl(row)))
    if not passing:
        return None, _nothing(rivals, questions, seconds_a_question)
    best = passing[0]
    equals = [row.label for row in passing[1:] if row.bytes == best.bytes and not _differ(best, row)]
    which = "the only one that passes" if len(passing) == 1 else f"the smallest of the {len(passing)} that pass"
    reasons = [
        f"{best.label} is {which}: {best.bytes / 1e6:.1f} MB, "
        f"{best.bytes / whole.bytes:.0%} of the reference pair's size."
    ]
    if equals:
        reasons.append(f"It cannot be told apart from {', '.join(equals)}, of the same size.")
    reasons += evidence(best)
    reasons += _speed(best.speed)
    smaller = sorted((row for row in rivals if row.bytes < best.bytes), key=lambda row: -row.bytes)
    reasons += [f"Not {row.label}: {'; '.join(row.failing)}." for row in smaller[:3]]
    return best.variant, tuple(reasons)


def evidence(row: CardRow) -> list[str]:
    """What was seen of one variant, a sentence each: changed and lost answers first, then its drift."""
    seen = [row.gate.words] if row.gate else []
    lost = row.gate.lost if row.gate else None
    if lost is not None:
        seen.append(
            f"On {lost.hits} of {lost.n} scored questions the reference's answer is better: at most "
            f"{lost.at_most:.1%} would be (95 %)."
        )
    if row.within_arithmetic and row.floor is not None:
        seen.append(
            f"Computed another way it differs from itself by {row.floor:.2g} nats a token: its drift of "
            f"{_kl(row):.2g} is no more than this noise."
        )
    elif row.drift is not None:
        heavy = row.drift
        seen.append(
            f"Mean drift {heavy.per_token:.2g} nats a token (long answers count most), {heavy.per_question:.2g} "
            f"averaged over questions, {heavy.per_answer:.2g} an answer; {heavy.largest_share:.0%} of it comes from "
            "one question. Questions rarer than these may dominate it, so no upper bound is given."
        )
    if row.above is not None:
        seen.append(
            f"{row.above.hits} of {row.above.n} questions drift by more than the limit: at most "
            f"{row.above.at_most:.1%} would (95 %)."
        )
    if row.against is not None:
        seen.append(f"Accuracy against the reference: {row.against}.")
    elif row.gate is not None:
        seen.append("Accuracy was not measured; an answer that is not changed is not lost.")
    return seen


def _nothing(rivals: Sequence[CardRow], questions: int, seconds_a_question: float | None) -> tuple[str, ...]:
    """Why none is recommended, and what would help."""
    if not rivals:
        return ("There is nothing to compare: only the reference was measured.",)
    open_ = [row for row in rivals if row.gate is not None and _only_unknown(row)]
    if not open_:
        near = min(rivals, key=lambda row: (len(row.failing), row.bytes))
        return (f"None passes. Nearest: {near.label}, but {'; '.join(near.failing)}.",)
    near = min(open_, key=lambda row: (_changes_more(row), row.bytes))
    assert near.gate is not None
    margin = near.gate.margin
    sentences = [f"Not enough questions to recommend one ({questions} asked)."]
    changed = near.gate.changed
    if changed is not None:
        sentences.append(
            f"{near.label} changed {changed.hits} of {changed.n} answers; up to {changed.at_most:.0%} changed would "
            f"look the same, and {margin:.0%} are accepted."
        )
    needed = statistics.questions_needed(margin, alpha=statistics.ALPHA / len(rivals))
    if needed is not None:
        took = f", which takes {durations.about(needed * seconds_a_question)} here" if seconds_a_question else ""
        sentences.append(f"About {needed} questions without a change would show {margin:.0%}{took}.")
    return tuple(sentences)


def _changes_more(row: CardRow) -> bool:
    """Whether it changed more of the answers than are accepted: more questions would hardly help it."""
    return row.gate is not None and row.gate.changed is not None and row.gate.changed.share > row.gate.margin


def _speed(speed: Speed | None) -> list[str]:
    """A ratio only where every round is on one side of 1."""
    if speed is None or speed.tokens_per_second is None:
        return []
    sentence = f"Speed: {speed.tokens_per_second:,.0f} tok/s"
    if speed.slowest is not None and speed.fastest is not None:
        sentence += f" ({speed.slowest:,.0f} to {speed.fastest:,.0f} over {speed.rounds} rounds)"
    if speed.ratio is not None and speed.differs:
        sentence += f", {speed.ratio.value:.2f} x the reference ({speed.ratio.low:.2f} to {speed.ratio.high:.2f})"
    elif speed.ratio is not None:
        sentence += ": no difference from the reference that this shows"
    return [f"{sentence}."]


def only_unmeasured(row: CardRow) -> bool:
    """Whether nothing but what was not measured keeps it from being recommended."""
    return bool(row.failing) and all("was not measured" in reason for reason in row.failing)


def _only_unknown(row: CardRow) -> bool:
    return all(reason.startswith((_UNSHOWN, _SIGHT[Sight.UNKNOWN])) for reason in row.failing)


_UNSHOWN = "not enough questions"


def files(variants: Sequence[Variant]) -> tuple[CardFile, ...]:
    distinct = {f.sha256: f for v in variants if not v.endpoint for f in (v.model, v.projector)}
    return tuple(CardFile(f.path.rsplit("/", 1)[-1], f.quantization, f.bytes, f.sha256) for f in distinct.values())


def _row(
    variant: Variant, r: VariantResult, questions: Sequence[Question], judged: Gate | None, limits: ShipLimits
) -> CardRow:
    """`judged`: None for the reference."""
    speed = r.speed.tokens_per_second if r.speed else None
    memory = r.speed.bytes if r.speed else None
    read = [(item, q) for item, q in zip(r.items, questions, strict=True) if item.kl]
    drift = statistics.heavy([(math.fsum(t.kl for t in item.kl), len(item.kl)) for item, _ in read])
    limit = FIT_KL if limits.max_kl is None else limits.max_kl
    means = [item.mean_kl or 0.0 for item, _ in read]
    above = (
        statistics.count([mean > limit for mean in means], statistics.design_effect(means, [q.image for _, q in read]))
        if read
        else None
    )
    return CardRow(
        variant=variant.id,
        label=variant.label,
        bytes=variant.bytes,
        memory=memory,
        tokens_per_second=speed,
        first_token_s=r.speed.first_token_s if r.speed else None,
        kl=r.mean_kl,
        accuracy=r.accuracy,
        against=r.against.words if r.against else None,
        looks=r.looks,
        pareto=False,
        failing=tuple(_failing(variant, r, judged, drift, memory, speed, limits)),
        gate=judged,
        drift=drift,
        above=above,
        floor=r.floor,
        speed=r.speed,
        within_arithmetic=r.within_arithmetic,
    )


def _failing(
    variant: Variant,
    r: VariantResult,
    judged: Gate | None,
    drift: Heavy | None,
    memory: int | None,
    speed: float | None,
    limits: ShipLimits,
) -> list[str]:
    """What a variant does not keep, and what was not shown. What was not measured is never passed."""
    failing = []
    if judged is not None:
        failed = sum(item.error is not None for item in r.items)
        if failed:
            failing.append(f"it failed on {failed} of {len(r.items)} questions")
        elif judged.verdict is Verdict.UNMEASURED:
            failing.append("its drift was not measured")
        elif judged.verdict is Verdict.UNKNOWN and judged.changed is not None:
            counts = f"{judged.changed.hits} of {judged.changed.n} answers changed"
            would = f", at most {judged.changed.at_most:.1%} would"
            enough = f"; about {judged.enough} questions would be enough if they went on like these"
            failing.append(f"{_UNSHOWN}: {counts}{would if judged.enough is None else enough}")
        elif judged.verdict is not Verdict.FIT:
            failing.append(judged.words.rstrip("."))
        if drift is not None and limits.max_kl is not None and drift.worst > limits.max_kl:
            failing.append(f"KL {drift.worst:.2g} is above {limits.max_kl:g}")
        if r.against is not None and r.against.words == "worse":
            failing.append("its answers are worse than the reference's")
    if r.looks is None:
        failing.append("whether it sees the picture was not measured")
    elif r.looks != Sight.SEES:
        failing.append(_SIGHT.get(r.looks, "it was not shown to see the picture"))
    if limits.max_bytes is not None and variant.bytes > limits.max_bytes:
        failing.append(f"{variant.bytes / 1e6:.1f} MB are more than {limits.max_bytes / 1e6:.1f}")
    if limits.max_memory is not None and (memory is None or memory > limits.max_memory):
        had = "its memory was not measured" if memory is None else f"it holds {memory / 2**20:.0f} MiB"
        failing.append(f"{had}, {limits.max_memory / 2**20:.0f} are allowed")
    least = limits.min_tokens_per_second
    if least is not None and (speed is None or speed < least):
        failing.append("its speed was not measured" if speed is None else f"{speed:.0f} tok/s are fewer than {least:g}")
    return failing


_SIGHT: Mapping[str, str] = {
    Sight.BLIND: "it ignores the picture",
    Sight.REACTS: "it reacts to pictures, but was not shown to read them",
    Sight.UNKNOWN: "too few questions show whether it sees the picture",
}


def _kl(row: CardRow) -> float:
    return row.kl.value if row.kl else 0.0  # the reference's is 0


def _differ(a: CardRow, b: CardRow) -> bool:
    """Whether their drift can be ranked: it differs by more than either differs from itself."""
    floor = max(a.floor or 0.0, b.floor or 0.0)
    return abs(_kl(a) - _kl(b)) > floor


def _beats(a: CardRow, b: CardRow) -> bool:
    """As good in size, drift and speed, and better in one of them. Only differences that were shown count."""
    shown = [
        (a.bytes < b.bytes) - (a.bytes > b.bytes),
        ((_kl(a) < _kl(b)) - (_kl(a) > _kl(b))) if _differ(a, b) else 0,
        _faster(a.speed, b.speed) - _faster(b.speed, a.speed),
    ]
    return min(shown) >= 0 and max(shown) > 0


def _faster(a: Speed | None, b: Speed | None) -> int:
    """1 if even the slowest round of a is faster than the fastest of b."""
    return int(
        a is not None and b is not None and None not in (a.slowest, b.fastest) and (a.slowest or 0) > (b.fastest or 0)
    )
