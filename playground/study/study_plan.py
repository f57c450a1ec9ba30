"""What a study would do, before it does it: bytes to fetch and to write, time, and what its questions can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from playground.errors import Failure, Offline, PlaygroundError
from playground.measuring import pace, statistics, suite_source
from playground.measuring.gate import MARGIN
from playground.measuring.measure_request import steps_of
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import MeasurementPlan
from playground.measuring.speed_test import ROUNDS
from playground.measuring.suite_source import SuiteChoice
from playground.measuring.time_left import Kind, expected_seconds
from playground.rendering import number_format
from playground.study import study_files
from playground.study.study_file import Study, StudyFamily, preset_of, suite_name
from playground.study.study_files import FamilyFiles, Origin
from playground.study.study_steps import StepStore, drawn_before, plan_of, steps_of_family
from playground.values import durations
from playground.wiring import Parts


class PlannedFile(msgspec.Struct, frozen=True):
    half: str
    quantization: str
    name: str
    origin: Origin
    bytes: int | None  # None: unknown; of one that is made, at most so many


class PlannedFamily(msgspec.Struct, frozen=True):
    title: str
    variants: int
    files: tuple[PlannedFile, ...] = ()
    seconds: float | None = None  # by what was measured here; None: nothing was yet
    done: int = 0  # measurements that are finished
    problem: str = ""  # why its files are not known


class PlannedSuite(msgspec.Struct, frozen=True):
    name: str
    questions: int | None
    bytes: int | None  # still to be fetched; None: unknown
    problem: str = ""

    @property
    def shows(self) -> float | None:
        """The difference of two accuracies that is shown in four of five cases; None: none is, or it is not known."""
        return statistics.detectable_difference(self.questions) if self.questions else None


class StudyPlan(msgspec.Struct, frozen=True):
    name: str
    families: tuple[PlannedFamily, ...]
    suites: tuple[PlannedSuite, ...]
    measurements: int
    folder: str

    @property
    def files(self) -> list[PlannedFile]:
        return [file for family in self.families for file in family.files]

    @property
    def done(self) -> int:
        return sum(family.done for family in self.families)

    @property
    def to_fetch(self) -> int:
        """Bytes of model files and questions, as far as they are known."""
        fetched = [file.bytes or 0 for file in self.files if file.origin is Origin.FETCHED]
        return sum(fetched) + sum(suite.bytes or 0 for suite in self.suites)

    @property
    def to_write(self) -> int:
        """Bytes of the files that are made here, at most."""
        return sum(file.bytes or 0 for file in self.files if file.origin is Origin.MADE)

    @property
    def seconds(self) -> float | None:
        """None where one family was not timed yet."""
        known = [family.seconds for family in self.families if family.seconds is not None]
        return sum(known) if known and len(known) == len(self.families) else None

    @property
    def problems(self) -> list[str]:
        families = [f"{family.title}: {family.problem}" for family in self.families if family.problem]
        return families + [f"{suite.name}: {suite.problem}" for suite in self.suites if suite.problem]

    @property
    def lines(self) -> list[str]:
        """For a person."""
        lines = [self.name]
        for family in self.families:
            lines.append(
                f"{family.title}: {family.variants} variants" + (f". {family.problem}" if family.problem else "")
            )
            for file in family.files:
                size = number_format.file_size(file.bytes) if file.bytes else "unknown size"
                most = "at most " if file.origin is Origin.MADE else ""
                lines.append(f"  {file.half} {file.quantization}: {file.name}, {most}{size}, {file.origin}")
        rivals = max((family.variants - 1 for family in self.families), default=1)
        for suite in self.suites:
            lines.append(f"{suite.name}: {_suite_words(suite, rivals)}")
        lines.append(f"measurements: {self.measurements}, of which {self.done} are finished in {self.folder}")
        unknown = [f.title for f in self.families if not f.files] + [s.name for s in self.suites if s.bytes is None]
        more = f", and what is unknown: {', '.join(unknown)}" if unknown else ""
        lines.append(f"to download: {number_format.file_size(self.to_fetch)}{more}")
        lines.append(f"to write: at most {number_format.file_size(self.to_write)} of model files")
        lines.append(self.time)
        return lines

    @property
    def time(self) -> str:
        """For a person."""
        if self.seconds is None:
            return (
                "time: known after the first questions of each family; --time gets the files, measures these, says it, "
                "and stops"
            )
        return time_words(self.seconds)


def time_words(seconds: float) -> str:
    return (
        f"time: {durations.about(seconds)}, by what these families took on this machine"
        if seconds
        else ("time: none, everything is measured")
    )


def _suite_words(suite: PlannedSuite, rivals: int) -> str:
    """`rivals`: of the reference, in the largest family; the verdicts are over all of them."""
    words = []
    if suite.questions:
        words.append(suite_source.what_it_shows(suite.questions))
        needed = statistics.questions_needed(MARGIN, alpha=statistics.ALPHA / max(rivals, 1))
        if needed is not None and suite.questions >= needed:
            words.append(f"Without a changed answer they show that less than {MARGIN:.0%} of the answers change.")
    if suite.bytes:
        words.append(f"To download: {number_format.file_size(suite.bytes)}.")
    return " ".join([*words, suite.problem]).strip()


def study_plan(parts: Parts, study: Study, folder: Path, out: Path) -> StudyPlan:
    """`folder`: of the study's file. Nothing but listings is fetched. Raises BadInput."""
    store = StepStore(out / "steps")
    sets: dict[str, QuestionSet] = {}
    suites = []
    for name in study.suites:
        planned, questions = _suite(parts, study, name, folder)
        suites.append(planned)
        if questions is not None:
            sets[name] = questions
    families = tuple(_family(parts, study, family, sets, store, folder, out) for family in study.families)
    each = len(study.suites) + ("speed" in study.measure and len(study.image_tokens) < 2)
    return StudyPlan(study.name, families, tuple(suites), each * len(study.families), str(out))


def _suite(parts: Parts, study: Study, name: str, folder: Path) -> tuple[PlannedSuite, QuestionSet | None]:
    questions = drawn_before(parts, study, name, folder)
    if questions is not None:
        return PlannedSuite(name, len(questions.items), 0), questions
    known = suite_source.known_suite(suite_name(name, folder))
    size = known.size if known else None
    try:
        choice = SuiteChoice(suite_name(name, folder), study.n_questions, study.seed)
        outlook = suite_source.outlook(parts.hub, choice, parts.samples)
    except PlaygroundError as error:
        n = min(study.n_questions, size) if size else None
        return PlannedSuite(name, n, None, error.message), None
    return PlannedSuite(name, outlook.questions, outlook.bytes), None


def _family(
    parts: Parts,
    study: Study,
    family: StudyFamily,
    sets: dict[str, QuestionSet],
    store: StepStore,
    folder: Path,
    out: Path,
) -> PlannedFamily:
    n_variants = study.n_variants(family)
    try:
        files = study_files.family_files(parts, study, family, folder, out)
        files = study_files.with_sizes(parts, files)
    except Offline as error:
        return PlannedFamily(family.title, n_variants, problem=f"{error.message} {_published(family)}".strip())
    except Failure as error:
        return PlannedFamily(family.title, n_variants, problem=error.message)
    planned = tuple(PlannedFile(f.half, f.quantization, f.path.name, f.origin, f.bytes) for f in files.files)
    seconds, done = None, 0
    if files.is_here:
        seconds, done = _outlook(parts, study, family, files, sets, store, folder)
    return PlannedFamily(family.title, n_variants, planned, seconds, done, " ".join(files.notes))


def _outlook(
    parts: Parts,
    study: Study,
    family: StudyFamily,
    files: FamilyFiles,
    sets: dict[str, QuestionSet],
    store: StepStore,
    folder: Path,
) -> tuple[float | None, int]:
    """How long the measurements take that are not finished, and how many are."""
    pairs = study_files.pairs(parts, study, family, files)
    steps = steps_of_family(parts, study, family.title, pairs, sets, folder)
    left = [step for step in steps if not store.has(step.key)]
    paces = pace.kinds(parts.result_cache, pairs[0])
    plans = [(step.request.plan, len(step.request.questions.items)) for step in left]
    plans += [(plan_of(study, name, folder), study.n_questions) for name in study.suites if name not in sets]
    if "speed" in study.measure and not sets:
        plans.append((MeasurementPlan(drift=False, speed=True), ROUNDS))
    return seconds_of(plans, study.n_variants(family), paces), len(steps) - len(left)


def seconds_of(
    plans: Sequence[tuple[MeasurementPlan, int]], n_variants: int, paces: Mapping[Kind, float]
) -> float | None:
    """Of measurements, each a plan and a number of questions; None: nothing was timed."""
    if not plans:
        return 0.0
    each = [expected_seconds(steps_of(plan, n, n_variants), paces) for plan, n in plans]
    known = [seconds for seconds in each if seconds is not None]
    return sum(known) if known else None


def _published(family: StudyFamily) -> str:
    """What a preset says of the sizes, where the Hub does not."""
    preset = preset_of(family) if family.preset else None
    if preset is None or not preset.sizes:
        return ""
    sizes = [f"{name} {size:g} GB" for name, size in preset.sizes.items()]
    projector = [f"projector {preset.projector_size:g} GB"] if preset.projector_size is not None else []
    return f"Its preset says: {', '.join([*sizes, *projector])}."
