"""A measurement as one JSON document, to be kept, shared and read by others: numbers, hashes and settings.

It holds no question, no answer and no path. docs/use/results.schema.json is its JSON Schema, made of the types here.
What is read may come from a stranger: every text and every number has a bound.
"""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any

import msgspec
from msgspec import Meta

import playground
from playground.errors import BadInput, cannot_write
from playground.measuring import gate, statistics
from playground.measuring.gate import Gate
from playground.measuring.packs import Pack
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, MeasurementPlan, Speed, VariantResult
from playground.measuring.statistics import Interval
from playground.measuring.summaries import kl_sums
from playground.support import atomic
from playground.values.files import ModelFile, Variant
from playground.values.overrides import CacheType
from playground.values.request import Runtime

FORMAT = "vlm-quant-playground.results"
VERSION = 1
MAX_BYTES = 2_000_000  # of a document: a variant takes 2 kB
_MAX_NAME = 300
_MAX_TEXT = 20_000
_MAX_VARIABLES = 100_000  # characters, as of a run's settings
_MAX_FLOORS = 100

Name = Annotated[str, Meta(max_length=_MAX_NAME)]
Text = Annotated[str, Meta(max_length=_MAX_TEXT)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$", min_length=64, max_length=64)]
Whole = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[float, Meta(ge=0, le=1e18)]
Share = Annotated[float, Meta(ge=0, le=1)]
Real = Annotated[float, Meta(ge=-1e18, le=1e18)]


class SharedFile(msgspec.Struct, frozen=True):
    """One half of a pair."""

    name: Name  # of the file, without folders
    quantization: Name
    label: Name  # the quantization, and what tells it from another file of the same one
    architecture: Name
    bytes: Whole
    parameters: Whole | None
    sha256: Sha256
    repo: Name | None = None  # of the Hub that it was fetched from; None: unknown
    commit: Name | None = None


class Estimate(msgspec.Struct, frozen=True):
    """A value and its 95 % interval; None: no interval holds."""

    value: Real
    low: Real | None = None
    high: Real | None = None


class ChangedAnswers(msgspec.Struct, frozen=True):
    """Questions where the greedy answer is not the reference's."""

    answers: Whole
    of: Whole
    at_most: Share  # of all questions of this kind, one-sided 95 %


class DriftNumbers(msgspec.Struct, frozen=True):
    """KL divergence from the reference, nats a token. A mean has no interval (docs/metrics.md)."""

    kl: Positive  # mean over tokens
    kl_by_question: Positive | None  # mean over questions; None: an older version measured it
    median: Positive | None
    p99: Positive | None
    largest_share: Share | None  # of the sum, from one question
    same_top: Estimate | None  # share of tokens with the same likeliest one
    changed: ChangedAnswers | None
    verdict: Name | None  # of the gate over all variants of this measurement
    within_arithmetic: bool  # it is what computing another way changes


class AccuracyNumbers(msgspec.Struct, frozen=True):
    score: Estimate  # mean score of the answers
    lost: Whole | None  # questions that only the reference has right; None: this is the reference
    won: Whole | None
    difference: Estimate | None  # from the reference's mean score
    p: Share | None
    verdict: Name | None
    cut_off: Whole  # answers that the limit of tokens ended


class SpeedNumbers(msgspec.Struct, frozen=True):
    """Of the variant alone on the machine."""

    tokens_per_second: Positive | None
    slowest: Positive | None
    fastest: Positive | None
    encode_s: Positive | None
    prompt_s: Positive | None
    first_token_s: Positive | None
    memory_bytes: Whole | None
    rounds: Whole


class SharedVariant(msgspec.Struct, frozen=True):
    family: Name
    label: Name
    model: SharedFile
    projector: SharedFile
    kv_type: Name | None  # of this variant; None: as `settings` says
    image_tokens: Whole | None  # likewise
    floor: Positive | None  # mean KL from itself, computed another way, nats a token
    drift: DriftNumbers | None  # None: not measured, and of the reference
    accuracy: AccuracyNumbers | None
    sight: Name | None  # whether it reads the picture
    speed: SpeedNumbers | None
    failed: Whole  # questions that it could not answer
    still_reasoning: Whole = 0  # answers that never left their reasoning

    @property
    def bytes(self) -> int:
        return self.model.bytes + self.projector.bytes


class SharedReference(msgspec.Struct, frozen=True):
    """What the variants are compared with."""

    variant: Whole  # its place among `variants`
    pack_sha256: Sha256 | None = None  # of the reference pack that stood for it; None: its files were here
    pack_version: Whole | None = None
    original_kl: Positive | None = None  # from the original model, nats a token; None: nobody has looked
    original: Name | None = None  # that model: a folder's name, or an id of the Hub


class SharedQuestions(msgspec.Struct, frozen=True):
    name: Name
    count: Whole
    left_out: Whole  # that could not be asked
    sha256: Sha256  # of the questions and accepted answers; equal ones were asked the same
    suite: Name | None = None
    repo: Name | None = None
    commit: Name | None = None
    split: Name | None = None
    seed: Whole | None = None


class SharedSettings(msgspec.Struct, frozen=True):
    """What all variants were asked with. None: the default, or an older version did not keep it."""

    max_tokens: Whole | None = None
    reasoning_tokens: Whole | None = None
    n_ctx: Whole | None = None
    image_min_tokens: Whole | None = None
    image_max_tokens: Whole | None = None
    kv_type_k: Name | None = None
    kv_type_v: Name | None = None
    flash_attention: bool | None = None
    n_gpu_layers: Annotated[int, Meta(ge=-1, le=10**6)] | None = None
    system: Text | None = None
    template_variables: dict[str, Any] | None = None
    image_place: Name | None = None
    chat_template: Text | None = None


class ResultDocument(msgspec.Struct, frozen=True):
    """One measurement."""

    format: Name
    version: Whole
    model: Name  # the reference's family
    variants: Annotated[tuple[SharedVariant, ...], Meta(min_length=1, max_length=500)]
    reference: SharedReference
    questions: SharedQuestions
    settings: SharedSettings
    floors: dict[str, float]  # of the reference: mean KL from itself by the way that it was computed, nats a token
    engine: Name
    machine: Name
    measured: Name  # ISO 8601
    elapsed_s: Positive
    app_version: Name
    uploader: Name | None = None  # a name that the person gave
    problems: Whole = 0  # that the measurement reported

    @property
    def reference_variant(self) -> SharedVariant:
        return self.variants[self.reference.variant]


def document(
    measured: Measurement,
    variants: Sequence[Variant],
    reference: str,
    *,
    engine: str,
    machine: str,
    set_name: str,
    plan: MeasurementPlan | None = None,
    runtime: Runtime | None = None,
    pack: Pack | None = None,
    uploader: str = "",
    when: str = "",
) -> ResultDocument:
    """`set_name`: of questions that are no sample of a suite. `when`: ISO 8601; empty: now.

    None of `plan` and `runtime`: unknown. `pack`: stood for the reference. What answers elsewhere is left out; raises
    BadInput if that is the reference.
    """
    by_id = {v.id: v for v in variants}
    if by_id[reference].endpoint:
        raise BadInput(f"The files of {by_id[reference].label} are not known: there is no results document.")
    judged = gate.gates(measured.results, measured.questions, reference)
    shared = [r for r in measured.results if not by_id[r.variant].endpoint]
    places = [r.variant for r in shared]
    return ResultDocument(
        format=FORMAT,
        version=VERSION,
        model=_name(by_id[reference].family),
        variants=tuple(_variant(by_id[r.variant], r, judged.get(r.variant)) for r in shared),
        reference=SharedReference(
            places.index(reference),
            pack.digest if pack is not None else None,
            measured.pack.version if measured.pack is not None else None,
            _at_least_0(measured.parity.kl) if measured.parity is not None else None,
            _name(measured.parity.original) if measured.parity is not None else None,
        ),
        questions=_questions(measured, set_name, pack),
        settings=_settings(plan, runtime, measured),
        floors={_name(way): kl for way, kl in measured.floors.items()},
        engine=_name(engine),
        machine=_name(measured.where(machine)),
        measured=when or datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        elapsed_s=measured.elapsed_s,
        app_version=playground.__version__,
        uploader=_name(" ".join(uploader.split())) or None,
        problems=len(measured.problems),
    )


def encoded(made: ResultDocument) -> bytes:
    return msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n"


def write(path: Path, made: ResultDocument) -> None:
    """Raises BadInput."""
    try:
        atomic.write(path, encoded(made))
    except OSError as error:
        raise cannot_write(path, error) from None


def file_name(made: ResultDocument) -> str:
    """For a file among others of its kind: model, questions and day."""
    parts = (made.model, made.questions.suite or made.questions.name, made.measured[:10])
    return "-".join(re.sub(r"[^\w.]+", "-", part).strip("-.")[:60] or "results" for part in parts) + ".results.json"


class AnotherFormat(BadInput):
    """A JSON document, but not one of these."""


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


def read(path: Path) -> ResultDocument:
    """Raises BadInput for what is not a results document of this version."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror}.") from None
    return decoded(data, path.name)


def decoded(data: bytes, name: str) -> ResultDocument:
    """`name`: for the sentence. Raises BadInput as `read` does, AnotherFormat for other JSON."""
    if len(data) > MAX_BYTES:
        raise BadInput(f"{name} is larger than {MAX_BYTES // 1_000_000} MB.")
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.ValidationError:
        raise AnotherFormat(f"{name} is not a results document.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadInput(f"{name} is not a results document, or it is damaged or cut short.") from None
    if head.format != FORMAT:
        raise AnotherFormat(f"{name} is not a results document.")
    if head.version > VERSION:
        raise BadInput(
            f"{name} was written by a newer version of the app (format {head.version}; this one reads {VERSION}). "
            "Update the app."
        )
    try:
        made = msgspec.json.decode(data, type=ResultDocument)
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{name} is not a valid results document: {str(error)[:300]}.") from None
    if len(made.floors) > _MAX_FLOORS or any(len(way) > _MAX_NAME for way in made.floors):
        raise BadInput(f"{name} is not a valid results document: it has too many floors, or long names of them.")
    variables = made.settings.template_variables
    if variables and len(msgspec.json.encode(variables)) > _MAX_VARIABLES:
        raise BadInput(f"{name} is not a valid results document: its template variables are too long.")
    if made.reference.variant >= len(made.variants):
        raise BadInput(f"{name} is not a valid results document: its reference is not among its variants.")
    changed = (v.drift.changed for v in made.variants if v.drift is not None and v.drift.changed is not None)
    if any(count.answers > count.of for count in changed):
        raise BadInput(f"{name} is not a valid results document: more answers changed than were asked for.")
    return made


def schema() -> dict[str, Any]:
    """JSON Schema, 2020-12."""
    made = msgspec.json.schema(ResultDocument)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": FORMAT} | made


def questions_sha256(questions: Sequence[Question]) -> str:
    return hashlib.sha256(msgspec.json.encode(list(questions))).hexdigest()


# --- from a measurement -----------------------------------------------------------------------------------------------


def _variant(variant: Variant, r: VariantResult, judged: Gate | None) -> SharedVariant:
    overrides = variant.overrides
    return SharedVariant(
        family=_name(variant.family),
        label=_name(variant.label),
        model=_file(variant.model),
        projector=_file(variant.projector),
        kv_type=overrides.cache_type if overrides else None,
        image_tokens=overrides.image_tokens if overrides else None,
        floor=r.floor,
        drift=_drift(r, judged),
        accuracy=_accuracy(r),
        sight=r.looks,
        speed=_speed(r.speed),
        failed=sum(item.error is not None for item in r.items),
        still_reasoning=r.in_reasoning,
    )


def _file(file: ModelFile) -> SharedFile:
    return SharedFile(
        name=_name(PurePath(file.path).name),
        quantization=_name(file.quantization),
        label=_name(file.label),
        architecture=_name(file.architecture),
        bytes=file.bytes,
        parameters=file.n_params or None,
        sha256=file.sha256,
        repo=file.repo or None,
        commit=file.commit or None,
    )


def _drift(r: VariantResult, judged: Gate | None) -> DriftNumbers | None:
    """`judged`: None of the reference."""
    if r.mean_kl is None or judged is None:
        return None
    heavy, changed = statistics.heavy(kl_sums(r.items)), judged.changed
    return DriftNumbers(
        kl=_at_least_0(r.mean_kl.value),
        kl_by_question=_at_least_0(heavy.per_question) if heavy else None,
        median=None if r.median_kl is None else _at_least_0(r.median_kl),
        p99=None if r.p99_kl is None else _at_least_0(r.p99_kl),
        largest_share=min(1.0, max(0.0, heavy.largest_share)) if heavy else None,
        same_top=_estimate(r.same_top),
        changed=ChangedAnswers(changed.hits, changed.n, changed.at_most) if changed else None,
        verdict=judged.verdict.value,
        within_arithmetic=r.within_arithmetic,
    )


def _at_least_0(kl: float) -> float:
    """A divergence is not negative; what rounding makes of 0 may be."""
    return max(0.0, kl)


def _accuracy(r: VariantResult) -> AccuracyNumbers | None:
    score, against = _estimate(r.accuracy), r.against
    if score is None:
        return None
    return AccuracyNumbers(
        score=score,
        lost=against.only_first if against else None,
        won=against.only_second if against else None,
        difference=_estimate(against.difference) if against else None,
        p=against.p if against else None,
        verdict=against.words if against else None,
        cut_off=r.truncated,
    )


def _speed(speed: Speed | None) -> SpeedNumbers | None:
    if speed is None:
        return None
    return SpeedNumbers(
        tokens_per_second=speed.tokens_per_second,
        slowest=speed.slowest,
        fastest=speed.fastest,
        encode_s=speed.encode_s,
        prompt_s=speed.prompt_s,
        first_token_s=speed.first_token_s,
        memory_bytes=speed.bytes,
        rounds=speed.rounds,
    )


def _questions(measured: Measurement, set_name: str, pack: Pack | None) -> SharedQuestions:
    count = len(measured.questions)
    sample = measured.sample
    if pack is not None and count == len(pack.record.questions):
        sample = pack.record.sample
    sha256 = questions_sha256(measured.questions)
    if sample is None:
        return SharedQuestions(_name(set_name), count, measured.left_out, sha256)
    return SharedQuestions(
        name=_name(sample.words),
        count=count,
        left_out=measured.left_out,
        sha256=sha256,
        suite=_name(sample.suite),
        repo=_name(sample.repo),
        commit=_name(sample.commit),
        split=_name(sample.split),
        seed=sample.seed,
    )


def _settings(plan: MeasurementPlan | None, runtime: Runtime | None, measured: Measurement) -> SharedSettings:
    form = measured.form
    known: dict[str, Any] = {}
    if plan is not None:
        known |= {"max_tokens": plan.max_tokens, "reasoning_tokens": plan.reasoning_tokens}
    if runtime is not None:
        known |= {
            "n_ctx": runtime.n_ctx,
            "image_min_tokens": runtime.image_min_tokens,
            "image_max_tokens": runtime.image_max_tokens,
            "kv_type_k": (runtime.cache_type_k or CacheType.F16).value,
            "kv_type_v": (runtime.cache_type_v or CacheType.F16).value,
            "flash_attention": runtime.flash_attention,
            "n_gpu_layers": runtime.n_gpu_layers,
        }
    if measured.pack is not None and measured.pack.image_tokens is not None:
        known["image_min_tokens"], known["image_max_tokens"] = measured.pack.image_tokens
    given = form.given if form is not None else {}
    texts = {name: value[:_MAX_TEXT] for name, value in given.items() if name in ("system", "chat_template")}
    variables = dict(given["template_variables"]) if "template_variables" in given else None
    place = str(given["image_place"]) if "image_place" in given else None
    return SharedSettings(**known, **texts, template_variables=variables, image_place=place)


def _estimate(interval: Interval | None) -> Estimate | None:
    if interval is None or not math.isfinite(interval.value):
        return None
    return Estimate(interval.value, interval.low, interval.high)


def _name(text: str) -> str:
    return text[:_MAX_NAME]
