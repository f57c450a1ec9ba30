"""The ship card: what a set of variants costs and gives, which of them nothing beats, and which one to ship. Pure."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec

from playground.errors import BadInput
from playground.measuring.results import Measurement, VariantResult
from playground.measuring.statistics import Interval
from playground.values.files import Variant

# Mean KL, nats a token: the limit where nobody gives one. A convention (docs/metrics.md, Thresholds).
FIT_KL = 0.01
_MAX_LIMIT = 2**53  # beyond it a number is no measure of anything, and a notebook's file refuses it


class ShipLimits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a variant has to keep. None: no limit."""

    max_bytes: int | None = None  # of both files
    max_memory: int | None = None  # bytes that both workers hold
    min_tokens_per_second: float | None = None
    max_kl: float | None = None  # nats a token; None: 0.01


def check(limits: ShipLimits) -> None:
    """Raises BadInput for an invalid limit."""
    for name, value in msgspec.structs.asdict(limits).items():
        least = 0 if name == "max_kl" else 1e-6
        if value is not None and not least <= value <= _MAX_LIMIT:  # NaN is not either
            raise BadInput(f"A limit has to be a number above 0 and below {_MAX_LIMIT:.0e}, or be left out.")


class CardRow(msgspec.Struct, frozen=True):
    variant: str
    label: str
    bytes: int
    memory: int | None
    tokens_per_second: float | None
    first_token_s: float | None
    kl: Interval | None  # None for the reference
    accuracy: Interval | None
    against: str | None  # the reference, in words
    looks: str | None
    pareto: bool  # no other is as good in everything and better in something
    failing: tuple[str, ...]  # limits that it does not keep, in words


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
    card_rows = rows(measured, variants, reference, limits)
    recommended, reasons = recommend(card_rows, reference)
    return ShipCard(
        rows=card_rows,
        reference=reference,
        limits=limits,
        recommended=recommended,
        reasons=reasons,
        questions=len(measured.questions),
        set_name=set_name,
        floor=measured.floor,
        files=files(variants),
        engine=engine,
        machine=machine,
        settings=settings,
        measured=when or datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        command=command,
    )


def set_title(own: str, level: str) -> str:
    """How a card names its questions: by the name of the person's own set, or by the level of the embedded one."""
    return own or f"embedded questions, {level or 'easy and hard'}"


def settings_line(max_tokens: int, n_ctx: int) -> str:
    return f"greedy, {max_tokens} tokens at most, context {n_ctx}"


def rows(measured: Measurement, variants: Sequence[Variant], reference: str, limits: ShipLimits) -> tuple[CardRow, ...]:
    by_id = {v.id: v for v in variants}
    drafts = [_row(by_id[r.variant], r, r.variant == reference, limits) for r in measured.results]
    # Nothing is known of a variant that could not be measured, so it must not beat any other.
    known = [row for row in drafts if row.kl is not None or row.variant == reference]
    return tuple(
        msgspec.structs.replace(row, pareto=row in known and not any(_beats(other, row) for other in known))
        for row in drafts
    )


def recommend(rows: Sequence[CardRow], reference: str) -> tuple[str | None, tuple[str, ...]]:
    """The smallest variant that keeps every limit, and why; None and what stood in the way."""
    fitting = sorted((row for row in rows if not row.failing), key=lambda row: row.bytes)
    if not fitting:
        near = min(rows, key=lambda row: (len(row.failing), row.bytes))
        return None, (f"None keeps every limit. Nearest: {near.label}, but {'; '.join(near.failing)}.",)
    best = fitting[0]
    whole = next(row for row in rows if row.variant == reference)
    reasons = [
        f"{best.label} is the smallest of the {len(fitting)} that keep every limit: {best.bytes / 1e6:.1f} MB, "
        f"{best.bytes / whole.bytes:.0%} of the reference's size."
    ]
    if best.kl is not None:
        reasons.append(f"Its answers drift by {best.kl.value:.2g} nats a token{_range(best.kl)}.")
    if best.against is not None:
        reasons.append(f"Accuracy against the reference: {best.against}.")
    if best.tokens_per_second is not None and whole.tokens_per_second:
        ratio = best.tokens_per_second / whole.tokens_per_second
        reasons.append(f"It writes {best.tokens_per_second:,.0f} tokens a second, {ratio:.2f} x the reference.")
    smaller = [row for row in rows if row.bytes < best.bytes]
    reasons += [
        f"Not {row.label}: {'; '.join(row.failing)}." for row in sorted(smaller, key=lambda row: -row.bytes)[:3]
    ]
    return best.variant, tuple(reasons)


def files(variants: Sequence[Variant]) -> tuple[CardFile, ...]:
    by_sha256 = {f.sha256: f for v in variants for f in (v.model, v.projector)}
    return tuple(CardFile(f.path.rsplit("/", 1)[-1], f.quantization, f.bytes, f.sha256) for f in by_sha256.values())


def _row(variant: Variant, r: VariantResult, is_reference: bool, limits: ShipLimits) -> CardRow:
    speed = r.speed.tokens_per_second if r.speed else None
    memory = r.speed.bytes if r.speed else None
    failing = []
    max_kl = FIT_KL if limits.max_kl is None else limits.max_kl
    if not is_reference:
        failed = sum(item.error is not None for item in r.items)
        if failed:
            failing.append(f"it failed on {failed} of {len(r.items)} questions")
        elif r.mean_kl is None:
            failing.append("its drift was not measured")
        if r.mean_kl is not None and r.mean_kl.value > max_kl:
            failing.append(f"KL {r.mean_kl.value:.2g} is above {max_kl:g}")
        if r.against is not None and r.against.words == "worse":
            failing.append("its answers are worse than the reference's")
    if r.looks == "blind":
        failing.append("it does not look at the picture")
    if limits.max_bytes is not None and variant.bytes > limits.max_bytes:
        failing.append(f"{variant.bytes / 1e6:.1f} MB are more than {limits.max_bytes / 1e6:.1f}")
    if limits.max_memory is not None and (memory is None or memory > limits.max_memory):
        had = "its memory was not measured" if memory is None else f"it holds {memory / 2**20:.0f} MiB"
        failing.append(f"{had}, {limits.max_memory / 2**20:.0f} are allowed")
    least = limits.min_tokens_per_second
    if least is not None and (speed is None or speed < least):
        failing.append("its speed was not measured" if speed is None else f"{speed:.0f} tok/s are fewer than {least:g}")
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
        failing=tuple(failing),
    )


def _beats(a: CardRow, b: CardRow) -> bool:
    """As good in everything that both have, better in something. What is unknown of either says nothing."""
    pairs: list[tuple[float | None, float | None]] = [
        (-a.bytes, -b.bytes),
        (-(a.kl.value if a.kl else 0.0), -(b.kl.value if b.kl else 0.0)),  # the reference's is 0
        (a.tokens_per_second, b.tokens_per_second),
        (a.accuracy.value if a.accuracy else None, b.accuracy.value if b.accuracy else None),
    ]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    return all(x >= y for x, y in known) and any(x > y for x, y in known)


def _range(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" ({interval.low:.2g} to {interval.high:.2g})"
