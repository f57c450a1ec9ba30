"""Which tensors need their bits: one group after another at one type after another, everything else as in the source.

From what that costs comes a recipe under a budget. It is built and compared with the uniform quantizations of about its
size, on the questions that the search has not seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import msgspec

from playground.comparing.lab import Lab
from playground.errors import BadInput, EngineError, Failure, NoRoom
from playground.measuring import ship_card
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet, fingerprint, fingerprints
from playground.measuring.results import MeasurementPlan, Progress
from playground.measuring.steps import form_key, settings_key
from playground.measuring.summaries import mean_kl
from playground.measuring.time_left import Kind, TimeLeft
from playground.pool.turn_order import Places
from playground.pool.worker_spec import language_spec
from playground.quantizing import importance_matrix, quantizer, recipe_search, recipes
from playground.quantizing.recipes import Group, GroupSensitivity, Recipe, Rung
from playground.quantizing.scan_files import ScanFiles, Workshop
from playground.quantizing.scan_results import BuiltRecipe, RestoredGroup, Scan, Sensitivity
from playground.quantizing.uniform_baseline import UniformBaseline
from playground.values.files import Half, Variant
from playground.values.memory import machine_of
from playground.values.request import USUAL_FORM, PromptForm, Runtime

_ROUNDS = 3  # of searching for a recipe whose measured KL is within the limit
# The groups' costs are not quite additive: the next round aims this much below the limit. A convention.
_HEADROOM = 0.95
_NO_SMALLER = "no smaller"


class ScanRequest(msgspec.Struct, frozen=True):
    """Which pair to scan, how, and with which questions."""

    source: Variant
    questions: QuestionSet
    scan: Scan
    runtime: Runtime
    form: PromptForm = USUAL_FORM  # of the questions that it measures with


class _Trial(msgspec.Struct, frozen=True):
    """A file to be made: these groups of one half at this type, everything else as in the source."""

    half: Half
    groups: tuple[Group, ...]
    kind: str
    left: str = ""  # the one group that is not, for people

    @property
    def title(self) -> str:
        names = f"all but {self.left}" if self.left else self.groups[0].name if len(self.groups) == 1 else "all"
        return f"{self.half}: {names} at {self.kind}"


class ScanJob:
    """One scan of a pair. `run` yields Progress, and at the end a Sensitivity."""

    def __init__(
        self,
        lab: Lab,
        workshop: Workshop,
        request: ScanRequest,
        stop: Callable[[], bool] = lambda: False,
        work: TimeLeft | None = None,
    ) -> None:
        """`work`: of all jobs that share one progress. Raises BadInput for what cannot be scanned."""
        source, scan = request.source, request.scan
        _check(request)
        self._places = _places(lab, request)
        lab = replace(lab, pool=lab.pool.at(tuple(place for places in self._places for place in places)))
        # What calibrates, what is searched with, and what judges share no picture.
        parts = request.questions.parts(3 if scan.calibrate else 2)
        self._searched, self._aside, self._calibrating = parts[0], parts[1], parts[-1]
        self._request = request
        self._source = source
        self._scan = scan
        self._results = lab.results
        self._lab = lab
        self._stop = stop
        self._work = work or TimeLeft()
        self._files = ScanFiles(lab, workshop, source, request.runtime, stop)
        self._groups = tuple(
            group
            for half in Half
            for group in recipes.groups_of(workshop.weights(self._files.file(half)), scan.depth, half)
        )
        self._problems: list[str] = []
        self._fresh: list[Path] = []  # files of a recipe that were not there before
        self._measuring = self._measure(self._searched)
        self._trials = [_Trial(group.half, (group,), kind) for group in self._groups for kind in scan.kinds]
        if scan.restore:
            self._trials += self._without_one()
        n = len(self._searched.items)
        self._measuring.expect_baseline(n)
        self._measuring.expect(2 * scan.calibrate + len(self._trials) * (n + 1))

    def run(self) -> Iterator[Progress | Sensitivity]:
        """Raises Interrupted, and what makes all of it impossible; an error with one type stands in its rung."""
        started = time.monotonic()
        measuring, source = self._measuring, self._source
        n, trials = len(self._searched.items), self._trials
        measuring.stay()
        self._refuse_unknown_types()
        yield from measuring.ask()
        keys = {trial: self._key(trial) for trial in trials}
        rungs: dict[_Trial, Rung] = {}
        for trial, key in keys.items():
            rung = self._results.get(key, Rung)
            if rung is not None:
                rungs[trial] = rung
                measuring.expect(-n - 1)
        with self._results.scratch() as records:
            if self._scan.calibrate:
                yield from self._calibrate()
            yield from measuring.record(records, None if self._budgeted or len(rungs) < len(trials) else ())
            floor = yield from measuring.floor(source, records)
            yield from self._try_all([trial for trial in trials if trial not in rungs], records, rungs)
            self._report_errors(rungs)
            sensed = tuple(
                GroupSensitivity(group, tuple(rungs[_Trial(group.half, (group,), kind)] for kind in self._scan.kinds))
                for group in self._groups
            )
            built = None
            if self._budgeted:
                try:
                    built = yield from self._build(sensed, records)
                except (Failure, NoRoom) as error:  # the groups' costs are worth something without a recipe
                    self._problems.append(f"No recipe was made: {error.message}")
                finally:
                    if built is None:
                        self._discard()
        yield Sensitivity(
            reference=source.id,
            bytes=source.bytes,
            scan=self._scan,
            n_searched=len(measuring.items),
            n_kept_aside=len(self._aside.items) if built else 0,
            floor=floor,
            sensed=sensed,
            restored=self._restored(rungs) if self._scan.restore else (),
            built=built,
            problems=(*measuring.problems, *self._problems),
            elapsed_s=time.monotonic() - started,
            pictures=self._pictures,
        )

    @property
    def _pictures(self) -> tuple[int, ...]:
        """Of the questions that are searched with: each picture has a number."""
        names = [image.sha256 for _, image in self._measuring.items]
        numbers = {name: k for k, name in enumerate(dict.fromkeys(names))}
        return tuple(numbers[name] for name in names)

    @property
    def _made_with(self) -> tuple[str, ...]:
        """The questions that chose the recipe's types, and those that calibrated its files."""
        searched = (fingerprint(question, image) for question, image in self._measuring.items)
        return (*searched, *(fingerprints(self._calibrating) if self._scan.calibrate else ()))

    @property
    def _budgeted(self) -> bool:
        return self._scan.max_bytes is not None or self._scan.max_kl is not None

    def _measure(self, questions: QuestionSet) -> MeasureJob:
        plan = MeasurementPlan(max_tokens=self._scan.max_tokens)
        runtime, form = self._request.runtime, self._request.form
        request = MeasureRequest(questions, (self._source,), self._source.id, plan, runtime, form)
        return MeasureJob(self._lab, request, self._stop, self._work)

    def _calibrate(self) -> Iterator[Progress]:
        """Importance matrices of both halves, kept beside the recipe: whoever makes its files again needs them."""
        for half in Half:
            source = self._files.file(half)
            is_projector, max_tokens = half is Half.PROJECTOR, self._scan.max_tokens
            inputs = (self._pair_key(), self._questions_key(), max_tokens, *form_key(self._request.form))
            key = self._results.key("imatrix", is_projector, *inputs)
            target = self._files.folder / f"{quantizer.stem(source)}-{key[:8]}.imatrix.gguf"
            yield self._measuring.step(f"calibrating the {half}")
            if not target.exists():
                importance_matrix.collect(
                    self._lab,
                    self._source,
                    half,
                    self._calibrating,
                    target,
                    runtime=self._request.runtime,
                    form=self._request.form,
                    max_tokens=max_tokens,
                    stop=self._stop,
                )
            self._files.matrices[half] = target

    def _refuse_unknown_types(self) -> None:
        """llama.cpp's plan of one group at each type. Raises BadInput for a name that it does not know."""
        group, files = self._groups[0], self._files
        unknown: list[BadInput] = []
        for kind in self._scan.kinds:
            recipe = recipes.file_recipe([group], {group.name: kind}, files.kind(group.half))
            assert recipe is not None
            try:
                files.plan(group.half, recipe)
            except BadInput as error:
                unknown.append(error)
            except EngineError:
                continue  # of this file: each rung says whether it comes again
        if len(unknown) == len(self._scan.kinds):
            raise BadInput(f"None of these types can be used: {unknown[0].message}")
        if unknown:
            raise unknown[0]

    # --- one group ---------------------------------------------------------------------------------------------------

    def _try_all(self, trials: Sequence[_Trial], records: Path, rungs: dict[_Trial, Rung]) -> Iterator[Progress]:
        """Fills `rungs`, at all places at once: whoever is free takes the next trial."""
        left, taking = iter(trials), Lock()

        def lane(measuring: MeasureJob, folder: Path) -> Iterator[Progress]:
            folder.mkdir()
            while True:
                with taking:
                    trial = next(left, None)
                if trial is None:
                    return
                rung = rungs[trial] = yield from self._try(trial, measuring, records, folder)
                if rung.error in (None, _NO_SMALLER):  # any other error may not come again
                    self._results.put(self._key(trial), rung)

        if len(self._places) == 1:
            yield from lane(self._measuring, records / "trials")
        else:
            lanes = {at: lane(self._measuring.at(at), records / f"trials {n}") for n, at in enumerate(self._places)}
            yield from self._measuring.side_by_side(lanes)

    def _try(
        self, trial: _Trial, measuring: MeasureJob, records: Path, folder: Path
    ) -> Generator[Progress, None, Rung]:
        """`folder`: of the file, which nobody keeps."""
        half, kind, files = trial.half, trial.kind, self._files
        types = {group.name: kind for group in trial.groups}
        recipe = recipes.file_recipe(trial.groups, types, files.kind(half))
        assert recipe is not None
        file = folder / files.scratch_name(half, kind)
        yield measuring.step(trial.title)
        try:
            files.quantize(half, file, recipe)
            saved = files.file(half).stat().st_size - file.stat().st_size
            if saved <= 0:  # llama.cpp keeps these tensors, or the type is no smaller
                measuring.expect(-len(measuring.items))
                return Rung(kind, saved, None, _NO_SMALLER)
            variant = files.with_half(file, half, {file: self._key(trial)})
            drifts = yield from measuring.read_once(variant, records, trial.title)
            files.release(variant, [half])
            return Rung(kind, saved, mean_kl(drifts), by_question=tuple(d.mean_kl or 0.0 for d in drifts))
        except Failure as error:
            return Rung(kind, 0, None, error.message)
        finally:
            file.unlink(missing_ok=True)

    def _report_errors(self, rungs: Mapping[_Trial, Rung]) -> None:
        """What llama.cpp refused or crashed on, each reason once. Raises BadInput if every type failed."""
        failed: dict[str, list[str]] = {}
        for trial in self._trials:
            rung = rungs[trial]
            if rung.error not in (None, _NO_SMALLER):
                failed.setdefault(str(rung.error), []).append(trial.title)
        if failed and not any(rung.kl is not None for rung in rungs.values()):
            raise BadInput(f"None of these types can be used: {next(iter(failed))}")
        for error, titles in failed.items():
            more = f", and {len(titles) - 1} more" if len(titles) > 1 else ""
            self._problems.append(f"{titles[0]}{more}: {error}")

    def _key(self, trial: _Trial) -> str:
        runtime = self._lab.pool.choices.computed(self._source.model, self._request.runtime)
        limits = (settings_key(runtime), self._scan.max_tokens, self._scan.calibrate)
        settings = (*limits, *form_key(self._request.form))
        patterns = [group.pattern for group in trial.groups]
        which = (trial.half is Half.PROJECTOR, patterns, trial.kind)
        return self._results.key("rung", self._pair_key(), *which, self._questions_key(), settings)

    def _pair_key(self) -> tuple[str, str, str | None]:
        return self._source.model.sha256, self._source.projector.sha256, self._source.chat_template

    def _questions_key(self) -> list[tuple[str, str]]:
        return [(question.question, image.sha256) for question, image in self._measuring.items]

    def _of_half(self, half: Half) -> tuple[Group, ...]:
        return tuple(group for group in self._groups if group.half is half)

    def _without_one(self) -> list[_Trial]:
        """Each half whole at the last kind, and with one group left out."""
        trials, kind = [], self._scan.kinds[-1]
        for half in Half:
            groups = self._of_half(half)
            trials.append(_Trial(half, groups, kind))
            trials += [_Trial(half, tuple(g for g in groups if g != left), kind, left.name) for left in groups]
        return trials

    def _restored(self, rungs: Mapping[_Trial, Rung]) -> tuple[RestoredGroup, ...]:
        restored, kind = [], self._scan.kinds[-1]
        for left in self._groups:
            groups = self._of_half(left.half)
            whole = rungs[_Trial(left.half, groups, kind)]
            rung = rungs[_Trial(left.half, tuple(g for g in groups if g != left), kind, left.name)]
            if rung.kl is not None and whole.kl is not None and whole.saved > rung.saved:
                restored.append(RestoredGroup(left, kind, whole.saved - rung.saved, rung.kl, whole.kl))
        return tuple(restored)

    # --- the recipe --------------------------------------------------------------------------------------------------

    def _build(self, sensed: Sequence[GroupSensitivity], records: Path) -> Generator[Progress, None, BuiltRecipe]:
        scan, source = self._scan, self._source
        aim = scan.max_kl
        for _ in range(_ROUNDS):
            self._discard()
            allocation = recipe_search.allocate(sensed, source.bytes, max_bytes=scan.max_bytes, max_kl=aim)
            if not allocation.types and scan.max_bytes is not None:
                raise BadInput("The source's files are small enough as they are.")
            if not allocation.types:
                raise BadInput(f"Nothing can be saved within a KL of {scan.max_kl:g}.")
            recipe = Recipe(
                name=f"{source.family} in {allocation.bytes / 1e6:.1f} MB",
                family=source.family,
                depth=scan.depth,
                model={group.name: kind for group, kind in allocation.types if group.half is Half.MODEL},
                projector={group.name: kind for group, kind in allocation.types if group.half is Half.PROJECTOR},
                calibrated=scan.calibrate,
                note=f"Found on {len(self._measuring.items)} questions, {self._searched.name}.",
            )
            variant, commands = yield from self._make(recipe)
            self._measuring.expect(len(self._measuring.items), Kind.DRIFT)
            searched_kl = mean_kl((yield from self._measuring.read(variant, records, label="recipe", strict=True)))
            if scan.max_kl is None or aim is None or searched_kl <= scan.max_kl:
                break
            aim *= _HEADROOM * scan.max_kl / searched_kl
        else:
            self._problems.append(f"No recipe was found with a KL of {scan.max_kl:g} on the questions of the search.")
        baseline = UniformBaseline(self._files, self._measure(self._aside), len(self._aside.items))
        try:
            kl, uniform = yield from baseline.run(variant)
        finally:
            self._problems += baseline.problems
        return BuiltRecipe(
            recipe=recipe,
            bytes=variant.bytes,
            predicted_kl=allocation.kl,
            searched_kl=searched_kl,
            kl=kl,
            uniform=uniform,
            commands=commands,
            model=Path(variant.model.path).name,
            projector=Path(variant.projector.path).name,
        )

    def _make(self, recipe: Recipe) -> Generator[Progress, None, tuple[Variant, tuple[str, ...]]]:
        files, commands = self._files, []
        paths = {half: files.file(half) for half in Half}
        for half in Half:
            source = files.file(half)
            types = recipes.file_recipe(self._of_half(half), recipe.types(half), files.kind(half))
            if types is None:
                continue
            imatrix = Path(files.imatrix(half)).name
            # 0 and 1: files that are there already have names with these keys.
            key = self._results.key(recipes.slug(recipe), int(half is Half.PROJECTOR), self._pair_key(), imatrix)
            target = files.folder / f"{quantizer.stem(source)}-recipe-{key[:8]}.gguf"
            self._measuring.expect(1)
            yield self._measuring.step(f"making {target.name}")
            if not target.exists():  # the name follows from the source and the types
                quantizer.make(
                    source,
                    target,
                    types.quantization,
                    self._lab.pool,
                    half,
                    tensor_types=types.tensor_types,
                    imatrix=files.matrices.get(half),
                    name=recipe.name,
                    made_with=self._made_with,
                    stop=self._stop,
                )
                self._fresh.append(target)
            paths[half] = target
            commands.append(recipes.command(types, source.name, target.name, half, imatrix=imatrix))
        return files.pair(paths[Half.MODEL], paths[Half.PROJECTOR], {}), tuple(commands)

    def _discard(self) -> None:
        """Delete the files of a recipe that nobody gets."""
        while self._fresh:
            self._fresh.pop().unlink(missing_ok=True)


def _places(lab: Lab, request: ScanRequest) -> list[Places]:
    """Where the trials' files are read. They are made on the page's machine and used once, so they go to another one
    only if this one computes on no GPU and another one does."""
    options = lab.pool.turn_options([language_spec(request.source.model, request.runtime)])
    return [places for places in options if not machine_of(places[0])] or options


def _check(request: ScanRequest) -> None:
    source, scan = request.source, request.scan
    for file in (source.model, source.projector):
        if file.quantization.upper() not in ("F16", "BF16", "F32"):
            raise BadInput(
                f"{Path(file.path).name} is {file.quantization}: a scan begins with 16 or 32 bits, since the drift of "
                "a file that is quantized twice comes from both."
            )
    if not scan.kinds:
        raise BadInput("Say which types are to be tried, such as q8_0,q4_K,q2_K.")
    if not 1 <= scan.depth <= recipes.MAX_DEPTH:
        raise BadInput(f"The depth has to be between 1 and {recipes.MAX_DEPTH}.")
    ship_card.check(ship_card.ShipLimits(max_bytes=scan.max_bytes, max_kl=scan.max_kl))
    if len(request.questions.items) < 4:
        raise BadInput("A scan needs at least four questions: half of them are kept aside for the recipe.")
