"""Runs a study: gets its files, times its first questions, measures what is not finished yet, one step on each GPU."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

import msgspec

from playground.errors import Interrupted, PlaygroundError
from playground.measuring import pace
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Measurement, Progress
from playground.measuring.time_left import TimeLeft
from playground.study import study_files, study_plan
from playground.study.study_file import Study, StudyFamily
from playground.study.study_files import FamilyFiles
from playground.study.study_steps import SPEED, FinishedStep, StepStore, StudyStep, draw, steps_of_family
from playground.values.files import Variant
from playground.wiring import Parts

_WATCH_S = 0.2
_TRIED = 6  # questions that say how long a family takes


@dataclass(frozen=True, slots=True)
class StudyFamilyResult:
    """A family with its files here."""

    title: str
    pairs: tuple[Variant, ...]
    steps: tuple[StudyStep, ...]
    commands: tuple[str, ...]  # that made its files


@dataclass(frozen=True, slots=True)
class StudyResult:
    study: Study
    families: tuple[StudyFamilyResult, ...]
    sets: dict[str, QuestionSet]  # by suite
    finished: tuple[FinishedStep, ...]
    n_kept: int  # that an earlier run had finished
    problems: tuple[str, ...]  # what is missing, and why


_T = TypeVar("_T")
_Waiting = tuple[StudyFamily, FamilyFiles]


def measurements_at_once(places: int, steps: Sequence[StudyStep]) -> int:
    """A measurement spreads its language models over the places itself; what is left of these is for others."""
    models = [len({variant.model.sha256 for variant in step.request.variants}) for step in steps]
    return max(1, places // max(models, default=1))


def spread(work: Sequence[_T], at_once: int, do: Callable[[_T], None], stop: Event) -> None:
    """Do each piece of work, several at once. An error sets `stop`, and is raised when all have ended."""

    def guarded(piece: _T) -> None:
        if stop.is_set():
            raise Interrupted("Stopped.")
        try:
            do(piece)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(at_once, thread_name_prefix="study") as threads:
        running = [threads.submit(guarded, piece) for piece in work]
        try:
            wait(running)
        except KeyboardInterrupt:
            stop.set()
            raise
    errors = [error for future in running if (error := future.exception()) is not None]
    for error in sorted(errors, key=lambda error: isinstance(error, Interrupted)):
        raise error  # what stopped the others comes first


@dataclass(slots=True)
class StudyJob:
    """`folder`: of the study's file; `out`: where everything goes that it makes.

    `on_news` gets a line for each thing that has ended, `on_progress` what is under way; both from several threads, one
    at a time.
    """

    parts: Parts
    study: Study
    folder: Path
    out: Path
    on_news: Callable[[str], None] = lambda line: None
    on_progress: Callable[[str, Progress], None] = lambda what, update: None
    _stop: Event = field(default_factory=Event)
    _lock: Lock = field(default_factory=Lock)
    _problems: list[str] = field(default_factory=list)

    def stop(self) -> None:
        """The steps under way end soon; what they have measured is kept."""
        self._stop.set()

    def run(self, *, only_time: bool = False) -> StudyResult | None:
        """Raises Interrupted, and what makes all of it impossible; what fails for a part stands in `problems`.

        `only_time`: stop when it is known how long all takes, and return None.
        """
        store = StepStore(self.out / "steps")
        sets = self._sets()
        waiting = [(each, files) for each in self.study.families if (files := self._started(each)) is not None]
        order = [each.title for each, _ in waiting]
        families: list[StudyFamilyResult] = []
        kept: list[StudyStep] = []
        begun: list[StudyStep] = []
        while waiting:
            arrived, waiting = self._arrived(waiting, all_of_them=only_time or self._wants_all(waiting))
            new = [family for each, files in arrived if (family := self._family(each, files, sets)) is not None]
            for family in new:
                self._time(family, store)
            families = sorted([*families, *new], key=lambda family: order.index(family.title))
            steps = [step for family in new for step in family.steps]
            kept += [step for step in steps if store.has(step.key)]
            if waiting:
                ready = [step for step in steps if step not in kept and step.what != SPEED]
                begun += ready
                self._measure_each(ready, store)
        steps = [step for family in families for step in family.steps]
        if kept:
            self._tell(f"{len(kept)} of {len(steps)} measurements were finished before.")
        self._tell(self._outlook(families, store))
        if only_time:
            return None
        self._measure_each([step for step in steps if step not in kept and step not in begun], store)
        finished = tuple(step for step in (store.read(step.key) for step in steps) if step is not None)
        return StudyResult(self.study, tuple(families), sets, finished, len(kept), tuple(self._problems))

    # --- what the measurements need -----------------------------------------------------------------------------------

    def _sets(self) -> dict[str, QuestionSet]:
        sets = {}
        for suite in self.study.suites:
            with self._reporting(suite):
                for update in draw(self.parts, self.study, suite, self.folder, self._stop.is_set):
                    if isinstance(update, QuestionSet):
                        sets[suite] = update
                    else:
                        self._show(suite, update)
        return sets

    def _started(self, family: StudyFamily) -> FamilyFiles | None:
        """Its files, which are being downloaded. None where they cannot be had."""
        with self._reporting(family.title):
            files = study_files.family_files(self.parts, self.study, family, self.folder, self.out)
            for note in files.notes:
                self._tell(note)
            study_files.start(self.parts, files)
            return files
        return None

    def _wants_all(self, waiting: Sequence[_Waiting]) -> bool:
        """Whether nothing is to be measured before all files are here.

        Where several measurements run at once, the first family alone would leave GPUs idle. Over several numbers of
        image tokens every measurement takes times, and a download takes from these.
        """
        models = [len({m for m, _ in self.study.pair_places(family)}) for family, _ in waiting]
        return self._places >= 2 * max(models) or len(self.study.image_tokens) > 1

    @property
    def _places(self) -> int:
        return len(self.parts.pool.devices.options(None))

    def _arrived(self, waiting: Sequence[_Waiting], *, all_of_them: bool) -> tuple[list[_Waiting], list[_Waiting]]:
        """Waits until the downloads of a family have ended; those whose have, and the others. Raises Interrupted."""
        while True:
            coming = {
                family.title: progress
                for family, files in waiting
                if (progress := study_files.on_their_way(self.parts, files)) is not None
            }
            if not coming or (len(coming) < len(waiting) and not all_of_them):
                here = [each for each in waiting if each[0].title not in coming]
                return here, [each for each in waiting if each[0].title in coming]
            self._show(*next(iter(coming.items())))
            if self._stop.wait(_WATCH_S):
                raise Interrupted("Stopped.")

    def _family(
        self, family: StudyFamily, files: FamilyFiles, sets: dict[str, QuestionSet]
    ) -> StudyFamilyResult | None:
        """`files`: have come, but for those that are made here. None where one is missing."""
        with self._reporting(family.title):
            study_files.check_fetched(self.parts, files)
            for update in study_files.make(self.parts, files, self._stop.is_set):
                self._show(family.title, update)
            pairs = study_files.pairs(self.parts, self.study, family, files)
            steps = steps_of_family(self.parts, self.study, family.title, pairs, sets, self.folder)
            return StudyFamilyResult(family.title, pairs, tuple(steps), study_files.commands(files, self.out))
        return None

    def _time(self, family: StudyFamilyResult, store: StepStore) -> None:
        """Measure the first questions where it is not known how long the family takes. They are cached."""
        step = next((step for step in family.steps if not store.has(step.key)), None)
        if step is None or pace.kinds(self.parts.result_cache, family.pairs[0]):
            return
        request = step.request
        plan = msgspec.structs.replace(request.plan, look=False, speed=False)
        places = range(min(1 + _TRIED, len(request.questions.items)))
        what = f"{family.title}, the first {len(places)} questions"
        with self._reporting(what):
            for n, few in enumerate((places[:1], places[1:])):  # the first one loads the models
                questions = request.questions.only(few or places)
                tried = msgspec.structs.replace(request, questions=questions, plan=plan)
                self._measured(tried, what, keep_pace=n > 0)

    def _outlook(self, families: Iterable[StudyFamilyResult], store: StepStore) -> str:
        seconds = 0.0
        for family in families:
            left = [step.request for step in family.steps if not store.has(step.key)]
            plans = [(request.plan, len(request.questions.items)) for request in left]
            n_variants = len(left[0].variants) if left else 0
            paces = pace.kinds(self.parts.result_cache, family.pairs[0])
            taken = study_plan.seconds_of(plans, n_variants, paces)
            if taken is None:
                return f"How long it takes is not known: {family.title} could not be timed."
            seconds += taken
        return study_plan.time_words(seconds)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _measure_each(self, steps: Sequence[StudyStep], store: StepStore) -> None:
        at_once = measurements_at_once(self._places, steps)
        spread(steps, at_once, lambda step: self._measure(step, store), self._stop)

    def _measure(self, step: StudyStep, store: StepStore) -> None:
        with self._reporting(step.title):
            measurement = self._measured(step.request, step.title)
            finished = FinishedStep(
                key=step.key,
                what=step.what,
                family=step.family,
                suite=step.suite,
                variants=step.request.variants,
                reference=step.request.reference,
                plan=step.request.plan,
                measurement=measurement,
                engine=self.parts.engine,
                machine=self.parts.machine,
                measured=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            )
            store.write(finished)
            self._tell(f"{step.title}: {len(measurement.questions)} questions measured")

    def _measured(self, request: MeasureRequest, what: str, *, keep_pace: bool = True) -> Measurement:
        work = TimeLeft()
        result: Measurement | None = None
        with closing(MeasureJob(self.parts.lab, request, self._stop.is_set, work).run()) as updates:  # type: ignore[type-var]
            for update in updates:
                if isinstance(update, Measurement):
                    result = update
                else:
                    self._show(what, update)
        assert result is not None
        reference = next(v for v in request.variants if v.id == request.reference)
        if keep_pace:
            pace.keep_kinds(self.parts.result_cache, reference, work)
        return result

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """What fails here is reported, and the rest goes on. Raises Interrupted."""
        try:
            yield
        except Interrupted:
            raise
        except PlaygroundError as error:
            with self._lock:
                self._problems.append(f"{what}: {error.message}")
                self.on_news(self._problems[-1])

    def _tell(self, line: str) -> None:
        with self._lock:
            self.on_news(line)

    def _show(self, what: str, update: Progress) -> None:
        with self._lock:
            self.on_progress(what, update)
