"""What a measurement asks and what it returns. Pure; docs/metrics.md defines each number."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from playground.measuring.question_sets import Question
from playground.measuring.statistics import Interval, Paired
from playground.values.files import Variant


class MeasurementPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to measure."""

    drift: bool = True
    accuracy: bool = False
    look: bool = False
    speed: bool = False
    max_tokens: int = 64  # of the reference's answers, and of those that are scored


class RecordedAnswer(msgspec.Struct, frozen=True):
    """A variant's own greedy answer."""

    text: str
    token_ids: tuple[int, ...]


class Speed(msgspec.Struct, frozen=True):
    """Of one variant alone on the machine, over some questions; each with a picture that it had not read before."""

    questions: int
    tokens_per_second: float | None  # all tokens behind the first ones over the time they took; None: too few
    encode_s: float | None  # medians
    prompt_s: float | None
    first_token_s: float | None  # encode and prompt, without loading
    bytes: int | None  # of both workers: on the GPU if its driver reports it, else resident in host memory


class TokenCost(msgspec.Struct, frozen=True, omit_defaults=True):
    text: str
    kl: float
    same_top: bool = True
    reference: tuple[tuple[str, float], ...] = ()
    variant: tuple[tuple[str, float], ...] = ()


class QuestionDrift(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant on one item."""

    kl: tuple[TokenCost, ...] = ()
    first_divergence: int | None = None  # index of the first token where it would have said another
    text: str | None = None  # its own answer
    score: float | None = None
    error: str | None = None

    @property
    def mean_kl(self) -> float | None:
        return sum(token.kl for token in self.kl) / len(self.kl) if self.kl else None


class VariantResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant over all items. Intervals are 95 %, by bootstrap over items."""

    variant: str
    mean_kl: Interval | None = None  # nats a token
    median_kl: float | None = None
    p99_kl: float | None = None
    same_top: Interval | None = None  # share of tokens
    same_answer: Interval | None = None  # share of items
    accuracy: Interval | None = None  # mean score
    against: Paired | None = None  # the reference
    looks: str | None = None  # "looks", "blind"; None: not asked
    look_kl: float | None = None  # how far the answers move without the picture
    speed: Speed | None = None
    items: tuple[QuestionDrift, ...] = ()


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came out. `floor`: what the reference differs from itself with other batches, attention, a fresh encode."""

    questions: tuple[Question, ...]
    answers: tuple[str, ...]  # the reference's
    results: tuple[VariantResult, ...]
    floor: float | None = None
    floors: dict[str, float] = {}
    problems: tuple[str, ...] = ()
    elapsed_s: float = 0.0


class Progress(msgspec.Struct, frozen=True):
    what: str
    done: int
    total: int
    seconds_left: float | None = None


class Effect(msgspec.Struct, frozen=True):
    """A cell of the grid: a language model and a projector, and where its loss comes from (nats a token)."""

    model: str  # labels of the files
    projector: str
    bytes: int
    kl: float
    language: float | None  # the language model's part: with the reference's projector
    vision: float | None  # the projector's part: with the reference's language model
    interaction: float | None  # what is left


def grid(measured: Measurement, variants: Sequence[Variant], reference: str) -> tuple[Effect, ...]:
    """Every variant by its two halves; empty unless there are several of either."""
    by_id = {v.id: v for v in variants}
    base = by_id[reference]
    kl = {(base.model.sha256, base.projector.sha256): 0.0}
    for result in measured.results:
        if result.mean_kl is not None:
            v = by_id[result.variant]
            kl[v.model.sha256, v.projector.sha256] = result.mean_kl.value
    if len({m for m, _ in kl}) < 2 or len({p for _, p in kl}) < 2:
        return ()
    effects = []
    for v in variants:
        total = kl.get((v.model.sha256, v.projector.sha256))
        if total is None:
            continue
        language = kl.get((v.model.sha256, base.projector.sha256))
        vision = kl.get((base.model.sha256, v.projector.sha256))
        rest = total - language - vision if language is not None and vision is not None else None
        effects.append(Effect(v.model.label, v.projector.label, v.bytes, total, language, vision, rest))
    return tuple(effects)


def which_half(effects: Sequence[Effect]) -> str:
    """What a byte saved costs in either half, at the quantizations that both have, in a sentence."""
    whole = max(e.bytes for e in effects)
    base = next((e for e in effects if e.bytes == whole), effects[0])
    prices_by_name = []
    for name in dict.fromkeys(e.model for e in effects):
        language = next((e for e in effects if (e.model, e.projector) == (name, base.projector)), None)
        vision = next((e for e in effects if (e.model, e.projector) == (base.model, name)), None)
        if language is None or vision is None or whole in (language.bytes, vision.bytes):
            continue
        prices = {
            "language model": 1e6 * language.kl / (whole - language.bytes),
            "projector": 1e6 * vision.kl / (whole - vision.bytes),
        }
        dear, cheap = sorted(prices, key=lambda half: -prices[half])
        prices_by_name.append(
            f"at {name} the {dear} ({prices[dear]:.2g} nats a token for each MB saved, {cheap} {prices[cheap]:.2g})"
        )
    return f"Bits are dearer {'; '.join(prices_by_name)}." if prices_by_name else ""
