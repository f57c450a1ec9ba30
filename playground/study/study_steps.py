"""The measurements of a study, and where the finished ones are: a file each, by a checksum of all that it follows from.

A measurement that was interrupted goes on where it was by the result cache, as any other does.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from playground.comparing import axes
from playground.comparing.run_settings import RunSettings
from playground.errors import cannot_write
from playground.measuring import question_sets, speed_test, suite_source
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan, Progress
from playground.measuring.steps import settings_key
from playground.measuring.suite_samples import newest_sample
from playground.measuring.suite_source import SuiteChoice
from playground.study.study_file import EMBEDDED, Study, is_own, suite_name
from playground.support import atomic
from playground.values.files import Variant
from playground.values.request import PromptForm, Runtime
from playground.wiring import Parts

logger = logging.getLogger(__name__)

QUESTIONS, SPEED = "questions", "speed"
_MAX_TOKENS = 64


class FinishedStep(msgspec.Struct, frozen=True, omit_defaults=True):
    """A measurement of a study as it is kept."""

    key: str
    what: str  # QUESTIONS or SPEED
    family: str
    suite: str
    variants: tuple[Variant, ...]
    reference: str
    plan: MeasurementPlan
    measurement: Measurement
    engine: str
    machine: str
    measured: str  # ISO 8601


@dataclass(frozen=True, slots=True)
class StudyStep:
    """A measurement of a study."""

    key: str
    what: str
    family: str
    suite: str
    request: MeasureRequest

    @property
    def title(self) -> str:
        return f"{self.family}, {self.suite}{', speed' if self.what == SPEED else ''}"


@dataclass(frozen=True, slots=True)
class StepStore:
    """The finished measurements below a folder."""

    folder: Path

    def has(self, key: str) -> bool:
        return self.read(key) is not None

    def read(self, key: str) -> FinishedStep | None:
        """None where it was not measured, or the file is damaged."""
        try:
            step = msgspec.json.decode(self._path(key).read_bytes(), type=FinishedStep)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read and is measured again: %s", self._path(key).name, error)
            return None
        return step if step.key == key else None

    def write(self, step: FinishedStep) -> None:
        """Raises NoRoom, BadInput."""
        path = self._path(step.key)
        try:
            atomic.write(path, msgspec.json.encode(step))
        except OSError as error:
            raise cannot_write(path, error) from None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key[:32]}.json"


def draw(
    parts: Parts, study: Study, suite: str, folder: Path, stop: Callable[[], bool]
) -> Iterator[Progress | QuestionSet]:
    """The questions of a suite. Raises BadInput, and what suite_source.draw raises."""
    kind, _, level = suite.partition(":")
    if kind == EMBEDDED:
        yield question_sets.embedded(parts.evaluation, level=level).first(study.n_questions)
    elif is_own(suite):
        yield question_sets.read_questions(folder / suite).first(study.n_questions)
    else:
        choice = SuiteChoice(suite_name(suite, folder), study.n_questions, study.seed)
        yield from suite_source.draw(parts.hub, choice, parts.samples, stop)


def drawn_before(parts: Parts, study: Study, suite: str, folder: Path) -> QuestionSet | None:
    """The questions of a suite if they need no network. Raises BadInput."""
    if suite.partition(":")[0] == EMBEDDED or is_own(suite):
        (questions,) = (q for q in draw(parts, study, suite, folder, lambda: False) if isinstance(q, QuestionSet))
        return questions
    name = suite_name(suite, folder)
    known = suite_source.known_suite(name)
    return newest_sample(parts.samples, known or name.partition(":")[0], study.seed, study.n_questions)


def plan_of(study: Study, suite: str, folder: Path) -> MeasurementPlan:
    """What is measured with the questions of a suite."""
    own = None if suite.partition(":")[0] == EMBEDDED or is_own(suite) else suite_name(suite, folder)
    known = suite_source.known_suite(own) if own else None
    limit = study.max_tokens or (known.max_tokens if known else _MAX_TOKENS)
    return MeasurementPlan(
        drift="drift" in study.measure,
        accuracy="accuracy" in study.measure,
        look="look" in study.measure,
        max_tokens=limit,
        reasoning_tokens=study.reasoning_tokens,
    )


def steps_of_family(
    parts: Parts,
    study: Study,
    family: str,
    pairs: Sequence[Variant],
    sets: dict[str, QuestionSet],
    folder: Path,
) -> list[StudyStep]:
    """One measurement of all variants for each suite, and one of their speed.

    The speed is measured apart: times are never cached, and an interrupted measurement would time all variants again.
    """
    axis = RunSettings(kv_types=study.kv_types or None, image_tokens=study.image_tokens or None)
    variants = axes.spread(pairs, axis)
    form = PromptForm(study.system, study.template_variables or {})
    steps = []
    for suite, questions in sets.items():
        plan = plan_of(study, suite, folder)
        steps.append(_step(parts, QUESTIONS, family, suite, variants, questions, plan, study.n_ctx, form))
    timed_already = len(study.image_tokens) > 1  # each measurement over them times all variants
    if "speed" in study.measure and sets and not timed_already:
        suite, questions = next(iter(sets.items()))
        plan = msgspec.structs.replace(
            plan_of(study, suite, folder), drift=False, accuracy=False, look=False, speed=True
        )
        few = questions.first(speed_test.ROUNDS)
        steps.append(_step(parts, SPEED, family, suite, variants, few, plan, study.n_ctx, form))
    return steps


def _step(
    parts: Parts,
    what: str,
    family: str,
    suite: str,
    variants: Sequence[Variant],
    questions: QuestionSet,
    plan: MeasurementPlan,
    n_ctx: int | None,
    form: PromptForm,
) -> StudyStep:
    runtime = Runtime(n_ctx=n_ctx)
    # The fields that decide, by name: later versions add others, and what is finished stays so.
    files = [(v.id, v.model.sha256, v.projector.sha256, v.chat_template) for v in variants]
    pictures = [(questions.picture(item), item) for item in questions.items]
    digest = hashlib.sha256(msgspec.json.encode(pictures)).hexdigest()
    where = parts.machine if what == SPEED else ""
    key = parts.result_cache.key("study", what, files, digest, plan, settings_key(runtime), form.given, where)
    request = MeasureRequest(questions, tuple(variants), variants[0].id, plan, runtime, form)
    return StudyStep(key, what, family, suite, request)
