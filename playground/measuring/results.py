"""What a measurement asks and what it found. Pure; docs/metrics.md defines each number."""

from __future__ import annotations

import enum
from collections.abc import Sequence

import msgspec

from playground.measuring import statistics
from playground.measuring.parity import Parity
from playground.measuring.question_sets import Question, SampleRecord
from playground.measuring.statistics import Interval, Paired
from playground.values.files import Variant
from playground.values.overrides import Overrides
from playground.values.request import ImageTokens, PromptForm, Sampling


class MeasurementPlan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to measure."""

    drift: bool = True
    accuracy: bool = False
    look: bool = False
    speed: bool = False
    max_tokens: int = 64  # of the reference's answers, and of those that are scored
    reasoning_tokens: int | None = None  # after so many the reasoning is closed and the answer begins; None: no limit

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.max_tokens, reasoning_tokens=self.reasoning_tokens)


class RecordedAnswer(msgspec.Struct, frozen=True):
    """A variant's own greedy answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None  # None: recorded by an older version
    in_reasoning: bool | None = None  # the end came before the reasoning's; None: recorded by an older version


class Speed(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one variant alone on the machine, over rounds in which all variants take turns; a first one is thrown away.

    Each pass encodes its picture anew and writes a fixed number of tokens (`rounds` 0: measured by an older version,
    one pass over some short answers).
    """

    questions: int
    tokens_per_second: float | None  # median over the rounds; None: too few tokens
    encode_s: float | None  # medians
    prompt_s: float | None
    first_token_s: float | None  # encode and prompt, without loading
    bytes: int | None  # of both workers: on the GPU if there is one that tells, else resident in host memory
    rounds: int = 0
    slowest: float | None = None  # tokens a second, of the rounds
    fastest: float | None = None
    ratio: Interval | None = None  # to the reference: median of the rounds' paired ratios, and their range

    @property
    def differs(self) -> bool:
        """Whether the rounds show that it is faster, or slower, than the reference: all of them on one side of 1."""
        ratio = self.ratio
        return (
            ratio is not None and ratio.low is not None and ratio.high is not None and not ratio.low <= 1 <= ratio.high
        )


class Sight(enum.StrEnum):
    """Whether a pair reads its picture. Measurements of older versions say "looks", which only means that it reacts."""

    SEES = "sees"  # the answer is likelier with its own picture than with others, by a sign test
    REACTS = "reacts"  # the picture moves the answer, but its own is not shown to fit better
    BLIND = "blind"  # the picture moves nothing
    UNKNOWN = "too few questions"


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
    truncated: bool = False  # its own answer was cut off by the limit of tokens or the context
    in_reasoning: bool = False  # its own answer never left its reasoning
    error: str | None = None

    @property
    def mean_kl(self) -> float | None:
        return sum(token.kl for token in self.kl) / len(self.kl) if self.kl else None


class VariantResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One variant over all items. Intervals are 95 %; a mean KL has none (measuring/statistics.py)."""

    variant: str
    mean_kl: Interval | None = None  # nats a token
    median_kl: float | None = None
    p99_kl: float | None = None
    same_top: Interval | None = None  # share of tokens
    same_answer: Interval | None = None  # share of items
    accuracy: Interval | None = None  # mean score
    truncated: int = 0  # of the scored answers
    in_reasoning: int = 0  # answers that never left their reasoning; of the reference, and of those that are scored
    against: Paired | None = None  # the reference
    looks: str | None = None  # a Sight; None: not asked
    look_kl: float | None = None  # of an older version: how far the answers moved without the picture
    own_picture: tuple[int, int] | None = None  # questions answered likelier with their own picture, and the others
    floor: float | None = None  # mean KL of the variant against itself, computed another way, nats a token
    within_arithmetic: bool = False  # its drift is within what computing another way changes
    speed: Speed | None = None
    items: tuple[QuestionDrift, ...] = ()


class AskedAlone(msgspec.Struct, frozen=True):
    """Some questions that the reference was asked together with others, and then one at a time."""

    questions: int
    differ: int  # whose answers have other tokens

    @property
    def words(self) -> str:
        """One sentence that stands alone."""
        opening = f"The reference was asked {self.questions} of these questions one at a time as well"
        if not self.differ:
            return f"{opening}: no answer differs from the one in a batch."
        return f"{opening}: {self.differ} answer{'s differ' if self.differ > 1 else ' differs'} from those in a batch."


class UsedPack(msgspec.Struct, frozen=True):
    """The reference pack that stood for the reference's files."""

    version: int
    image_tokens: ImageTokens | None  # of each image; None: such a pack does not say


class Measurement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came out. `floor`: what the reference differs from itself with other batches, attention, a fresh encode."""

    questions: tuple[Question, ...]
    answers: tuple[str, ...]  # the reference's
    results: tuple[VariantResult, ...]
    floor: float | None = None
    floors: dict[str, float] = {}
    problems: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    left_out: int = 0  # questions that could not be asked; `problems` says why
    sample: SampleRecord | None = None  # where the questions come from, if that is a dataset of the Hub
    form: PromptForm | None = None  # of every question; None: nothing was given, or an older version measured it
    asked_alone: AskedAlone | None = None  # None: all were, or an older version measured it
    parity: Parity | None = None  # of the reference, as it was known then; None: nobody had looked
    pack: UsedPack | None = None  # None: the reference was here, or an older version measured it
    # With their devices, such as "box2 · GPU 0: NVIDIA L4"; empty: on the page's only place.
    places: tuple[str, ...] = ()
    speeds_at: str = ""  # likewise; speeds are all measured at one place

    def where(self, machine: str) -> str:
        """For a record of it. `machine`: the page's own."""
        if not self.places:
            return machine
        notes = [", ".join(self.places)]
        if len({place.partition(": ")[2] for place in self.places}) > 1:
            notes.append("unlike devices, whose rounding differs beyond the noise floor")
        if self.speeds_at and len(self.places) > 1:
            notes.append(f"all speeds of {self.speeds_at}")
        return "; ".join(notes)


class Progress(msgspec.Struct, frozen=True):
    what: str
    done: int
    total: int
    seconds_left: float | None = None


class Effect(msgspec.Struct, frozen=True):
    """A cell of the grid: a language model and a projector. The halves alone are experiments, not shares of the pair:
    their errors may add up, cancel, or point the same way."""

    model: str  # labels of the files
    projector: str
    bytes: int
    kl: float  # mean, nats a token
    language: float | None  # of the language model with the reference's projector
    vision: float | None  # of the projector with the reference's language model
    by_question: tuple[float, ...] = ()  # mean KL of each
    pictures: tuple[str, ...] = ()  # of each question


def grid(measured: Measurement, variants: Sequence[Variant], reference: str) -> tuple[Effect, ...]:
    """Every variant by its two halves; empty unless there are several of either."""
    by_id = {v.id: v for v in variants}
    base = by_id[reference]
    if base.endpoint:
        return ()
    labels = {id: v.overrides or Overrides() for id, v in by_id.items()}
    halves = {
        id: (v.model.sha256 + labels[id].model_label, v.projector.sha256 + labels[id].projector_label)
        for id, v in by_id.items()
    }
    kl = {halves[reference]: 0.0}
    questions: dict[tuple[str, str], tuple[float, ...]] = {}
    for result in measured.results:
        if result.mean_kl is not None:
            kl[halves[result.variant]] = result.mean_kl.value
            questions[halves[result.variant]] = tuple(item.mean_kl or 0.0 for item in result.items)
    if len({m for m, _ in kl}) < 2 or len({p for _, p in kl}) < 2:
        return ()
    effects = []
    for v in variants:
        total = kl.get(halves[v.id])
        if total is None:
            continue
        model, projector = halves[v.id]
        language, vision = kl.get((model, halves[base.id][1])), kl.get((halves[base.id][0], projector))
        seen = questions.get(halves[v.id], ())
        rows = v.model.label + labels[v.id].model_label, v.projector.label + labels[v.id].projector_label
        pictures = tuple(question.image for question in measured.questions) if seen else ()
        effects.append(Effect(*rows, v.bytes, total, language, vision, seen, pictures))
    return tuple(effects)


def which_half(effects: Sequence[Effect]) -> str:
    """What a byte saved costs in either half, at the quantizations that both have. One sentence each.

    Empty if the reference, whose drift is not measured, is not the largest pair: nothing is saved then.
    """
    whole = max(e.bytes for e in effects)
    base = next((e for e in effects if e.bytes == whole), effects[0])
    if base.by_question:
        return ""
    sentences = []
    for name in dict.fromkeys(e.model for e in effects):
        language = next((e for e in effects if (e.model, e.projector) == (name, base.projector)), None)
        vision = next((e for e in effects if (e.model, e.projector) == (base.model, name)), None)
        if language is None or vision is None or whole in (language.bytes, vision.bytes):
            continue
        sentences.append(_dearer(name, language, whole - language.bytes, vision, whole - vision.bytes))
    return " ".join(sentences)


def _dearer(name: str, language: Effect, language_saved: int, vision: Effect, vision_saved: int) -> str:
    """By a sign test of the price on each question; questions about one picture count once."""
    prices = {"language model": 1e6 * language.kl / language_saved, "projector": 1e6 * vision.kl / vision_saved}
    dearer = [
        a / language_saved - b / vision_saved for a, b in zip(language.by_question, vision.by_question, strict=False)
    ]
    counts = dict(zip(("language model", "projector"), statistics.signs(dearer, language.pictures), strict=True))
    what = "questions" if len(set(language.pictures)) == len(language.pictures) else "pictures"
    dear, cheap = sorted(prices, key=lambda half: -prices[half])
    if statistics.sign_test(counts[dear], counts[cheap]) > statistics.ALPHA / 2:
        return f"At {name} these questions do not show which half costs more for each megabyte saved."
    return (
        f"At {name}, quantizing the {dear} costs more for each megabyte saved ({prices[dear]:.2g} nats a token) than "
        f"quantizing the {cheap} ({prices[cheap]:.2g}), on {counts[dear]} of {sum(counts.values())} {what}."
    )
