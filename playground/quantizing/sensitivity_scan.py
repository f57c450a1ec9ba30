"""Which tensors need their bits: one group after another at one type after another, everything else as in the source.

From what that costs comes a recipe under a budget. It is built and held against the uniform quantizations of about its
size, on the questions that the search has not seen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from playground.comparing.embedding_cache import EmbeddingCache
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure, Interrupted, NoRoom
from playground.measuring import ship_card, statistics
from playground.measuring.measure import MeasureJob
from playground.measuring.question_sets import QuestionSet
from playground.measuring.result_cache import ResultCache
from playground.measuring.results import MeasurementPlan, Progress, QuestionDrift
from playground.measuring.statistics import Interval
from playground.pool.pool import Pool
from playground.pool.worker_spec import language_spec, vision_spec
from playground.quantizing import importance_matrix, quantizer, recipe_search, recipes
from playground.quantizing.recipes import FileRecipe, Group, GroupSensitivity, Recipe, Rung
from playground.quantizing.scan_results import BuiltRecipe, RestoredGroup, Scan, Sensitivity, UniformComparison
from playground.values.files import Half, Variant
from playground.values.request import Runtime

# What people ship, from large to small: the mixtures of llama-quantize for the language model, one type throughout
# for the projector.
_UNIFORM_MODELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
_UNIFORM_PROJECTORS = ("", "Q8_0", "Q4_0", "Q2_K")  # empty: the source
_ROUNDS = 3  # of searching for a recipe whose measured KL is what was asked for
_NEAREST = 2  # uniform pairs that a recipe is compared with, on either side of its size
_NO_SMALLER = "no smaller"
_FILE_NAMES = {Half.MODEL: "model", Half.PROJECTOR: "mmproj"}


class Workshop(NamedTuple):
    """What a scan needs to make files."""

    weights: Callable[[Path], Mapping[str, int]]  # bytes of a file's tensors, by name
    # Of a language model's file and a projector's. Files that nobody keeps are known by an id: hashing them took a
    # quarter of a scan (1 B, H100).
    pair: Callable[[Path, Path, Mapping[Path, str]], Variant]
    folder: Path  # where a recipe's files go


class _Try(msgspec.Struct, frozen=True):
    """A file to be made: these groups of one half at this type, everything else as in the source."""

    half: Half
    groups: tuple[Group, ...]
    kind: str
    left: str = ""  # the one group that is not, for people

    @property
    def what(self) -> str:
        names = f"all but {self.left}" if self.left else self.groups[0].name if len(self.groups) == 1 else "all"
        return f"{self.half}: {names} at {self.kind}"


class ScanJob:
    """One scan of a pair. `run` yields Progress, and at the end a Sensitivity."""

    def __init__(
        self,
        items: QuestionSet,
        source: Variant,
        scan: Scan,
        runtime: Runtime,
        pool: Pool,
        embeddings: EmbeddingCache,
        known: ResultCache,
        workshop: Workshop,
        stop: Callable[[], bool],
    ) -> None:
        """Raises BadInput for what cannot be scanned."""
        for file in (source.model, source.projector):
            if file.quantization.upper() not in ("F16", "BF16", "F32"):
                raise BadInput(
                    f"{Path(file.path).name} is {file.quantization}: a scan begins with 16 or 32 bits, since what is "
                    "quantized twice tells of both."
                )
        if not scan.kinds:
            raise BadInput("Say which types are to be tried, such as q8_0,q4_K,q2_K.")
        if not 1 <= scan.depth <= recipes.MAX_DEPTH:
            raise BadInput(f"The depth has to be between 1 and {recipes.MAX_DEPTH}.")
        ship_card.check(ship_card.ShipLimits(max_bytes=scan.max_bytes, max_kl=scan.max_kl))
        if len(items.items) < 4:
            raise BadInput("A scan needs at least four questions: half of them are kept aside for the recipe.")
        self._searched, self._aside = items.halves()
        self._source = source
        self._scan = scan
        self._pool = pool
        self._known = known
        self._pair = workshop.pair
        self._folder = workshop.folder
        self._stop = stop
        self._runtime = runtime
        self._embeddings = embeddings
        self._groups = tuple(
            group
            for half in Half
            for group in recipes.groups_of(workshop.weights(Path(source.half(half).path)), scan.depth, half)
        )
        self._problems: list[str] = []
        self._fresh: list[Path] = []  # files of a recipe that were not there before
        self._matrices: dict[Half, Path] = {}
        self._measuring = self._measure(self._searched)

    def run(self) -> Iterator[Progress | Sensitivity]:
        """Raises Interrupted, and what makes all of it impossible; what goes wrong with one type is told with it."""
        started = time.monotonic()
        measuring, source = self._measuring, self._source
        n = len(self._searched.items)
        tried = [_Try(group.half, (group,), kind) for group in self._groups for kind in self._scan.kinds]
        if self._scan.restore:
            tried += self._without_one()
        measuring.expect(2 * self._scan.calibrate + 2 * n + 3 * min(12, n) + len(tried) * (n + 1))
        yield from measuring.ask()
        keys = {one: self._key(one) for one in tried}
        found: dict[_Try, Rung] = {}
        for one, key in keys.items():
            rung = self._known.get(key, Rung)
            if rung is not None:
                found[one] = rung
                measuring.expect(-n - 1)
        with self._known.scratch() as records:
            if self._scan.calibrate:
                yield from self._calibrate()
            floors = yield from measuring.record(records, None if self._budgeted or len(found) < len(tried) else ())
            for one in tried:
                if one not in found:
                    found[one] = yield from self._rung(one, records)
                    if found[one].error in (None, _NO_SMALLER):  # else it may go well another time
                        self._known.put(keys[one], found[one])
            self._tell_errors(found)
            sensed = tuple(
                GroupSensitivity(group, tuple(found[_Try(group.half, (group,), kind)] for kind in self._scan.kinds))
                for group in self._groups
            )
            built = None
            if self._budgeted:
                try:
                    built = yield from self._build(sensed, records)
                except (Failure, NoRoom) as error:  # what was found of the groups is worth something without a recipe
                    self._problems.append(f"No recipe was made: {error.message}")
                finally:
                    if built is None:
                        self._discard()
        yield Sensitivity(
            reference=source.id,
            bytes=source.bytes,
            scan=self._scan,
            n_searched=len(measuring.asked),
            n_kept_aside=len(self._aside.items) if built else 0,
            floor=max(floors.values(), default=0.0),
            sensed=sensed,
            restored=self._restored(found) if self._scan.restore else (),
            built=built,
            problems=(*measuring.problems, *self._problems),
            elapsed_s=time.monotonic() - started,
        )

    @property
    def _budgeted(self) -> bool:
        return self._scan.max_bytes is not None or self._scan.max_kl is not None

    def _calibrate(self) -> Iterator[Progress]:
        """Importance matrices of both halves, kept beside the recipe: whoever makes its files again needs them."""
        asked = [(item.question, image.sha256) for item, image in self._measuring.asked]
        for half in Half:
            source = self._file(half)
            key = self._known.key("imatrix", half is Half.PROJECTOR, self._pair_key(), asked, self._scan.max_tokens)
            target = self._folder / f"{quantizer.stem(source)}-{key[:8]}.imatrix.gguf"
            yield self._measuring.step(f"calibrating the {half}")
            if not target.exists():
                importance_matrix.collect(
                    self._source,
                    self._searched,
                    None,
                    self._pool,
                    self._embeddings,
                    target,
                    half,
                    runtime=self._runtime,
                    max_tokens=self._scan.max_tokens,
                    stop=self._stop,
                )
            self._matrices[half] = target

    # --- one group ---------------------------------------------------------------------------------------------------

    def _rung(self, tried: _Try, records: Path) -> Generator[Progress, None, Rung]:
        half, kind = tried.half, tried.kind
        recipe = recipes.file_recipe(tried.groups, {group.name: kind for group in tried.groups}, self._kind_of(half))
        assert recipe is not None
        file = records / f"{_FILE_NAMES[half]}-{kind}.gguf"
        source = self._file(half)
        yield self._measuring.step(tried.what)
        try:
            self._quantize(self._request(recipe, file, half))
            saved = source.stat().st_size - file.stat().st_size
            if saved <= 0:  # llama.cpp keeps these tensors, or the type is no smaller
                self._measuring.expect(-len(self._measuring.asked))
                return Rung(kind, saved, None, _NO_SMALLER)
            variant = self._pair(*self._with(file, half), {file: self._key(tried)})
            told = yield from self._measuring.read_once(variant, records, tried.what)
            self._forget(variant, half)
            return Rung(kind, saved, _mean_kl(told))
        except Failure as error:
            return Rung(kind, 0, None, error.message)
        finally:
            file.unlink(missing_ok=True)

    def _tell_errors(self, found: Mapping[_Try, Rung]) -> None:
        """What llama.cpp refused or crashed on, each reason once. Raises BadInput if there is nothing else to tell."""
        failed: dict[str, list[str]] = {}
        for one, rung in found.items():
            if rung.error not in (None, _NO_SMALLER):
                failed.setdefault(str(rung.error), []).append(one.what)
        if failed and not any(rung.kl is not None for rung in found.values()):
            raise BadInput(f"None of these types can be had: {next(iter(failed))}")
        for error, what in failed.items():
            more = f", and {len(what) - 1} more" if len(what) > 1 else ""
            self._problems.append(f"{what[0]}{more}: {error}")

    def _key(self, tried: _Try) -> str:
        asked = [(item.question, image.sha256) for item, image in self._measuring.asked]
        settings = (self._runtime, self._scan.max_tokens, self._scan.calibrate)
        patterns = [group.pattern for group in tried.groups]
        is_projector = tried.half is Half.PROJECTOR
        return self._known.key("rung", self._pair_key(), is_projector, patterns, tried.kind, asked, settings)

    def _pair_key(self) -> tuple[str, str, str | None]:
        return self._source.model.sha256, self._source.projector.sha256, self._source.chat_template

    def _of_half(self, half: Half) -> tuple[Group, ...]:
        return tuple(group for group in self._groups if group.half is half)

    def _without_one(self) -> list[_Try]:
        """Each half whole at the last kind, and with one group left out."""
        tries, kind = [], self._scan.kinds[-1]
        for half in Half:
            groups = self._of_half(half)
            tries.append(_Try(half, groups, kind))
            tries += [_Try(half, tuple(g for g in groups if g != left), kind, left.name) for left in groups]
        return tries

    def _restored(self, found: Mapping[_Try, Rung]) -> tuple[RestoredGroup, ...]:
        told, kind = [], self._scan.kinds[-1]
        for left in self._groups:
            groups = self._of_half(left.half)
            whole = found[_Try(left.half, groups, kind)]
            rung = found[_Try(left.half, tuple(g for g in groups if g != left), kind, left.name)]
            if rung.kl is not None and whole.kl is not None and whole.saved > rung.saved:
                told.append(RestoredGroup(left, kind, whole.saved - rung.saved, rung.kl, whole.kl))
        return tuple(told)

    # --- the recipe --------------------------------------------------------------------------------------------------

    def _build(self, sensed: Sequence[GroupSensitivity], records: Path) -> Generator[Progress, None, BuiltRecipe]:
        scan, source = self._scan, self._source
        aim = scan.max_kl
        for _ in range(_ROUNDS):
            self._discard()
            found = recipe_search.allocate(sensed, source.bytes, max_bytes=scan.max_bytes, max_kl=aim)
            if not found.types and scan.max_bytes is not None:
                raise BadInput("The source's files are small enough as they are.")
            if not found.types:
                raise BadInput(f"Nothing can be saved within a KL of {scan.max_kl:g}.")
            recipe = Recipe(
                name=f"{source.family} in {found.bytes / 1e6:.1f} MB",
                family=source.family,
                depth=scan.depth,
                model={group.name: kind for group, kind in found.types if group.half is Half.MODEL},
                projector={group.name: kind for group, kind in found.types if group.half is Half.PROJECTOR},
                calibrated=scan.calibrate,
                note=f"Found on {len(self._measuring.asked)} questions, {self._searched.name}.",
            )
            variant, commands = yield from self._make(recipe)
            self._measuring.expect(len(self._measuring.asked))
            told = yield from self._measuring.read(variant, records, label="recipe", strict=True)
            searched_kl = _mean_kl(told)
            if scan.max_kl is None or aim is None or searched_kl <= scan.max_kl:
                break
            aim *= 0.95 * scan.max_kl / searched_kl  # what the groups cost does not quite add up
        else:
            self._problems.append(f"No recipe was found with a KL of {scan.max_kl:g} on the questions of the search.")
        kl, uniform = yield from self._hold_against_uniform(variant)
        return BuiltRecipe(
            recipe=recipe,
            bytes=variant.bytes,
            predicted_kl=found.kl,
            searched_kl=searched_kl,
            kl=kl,
            uniform=uniform,
            commands=commands,
            model=Path(variant.model.path).name,
            projector=Path(variant.projector.path).name,
        )

    def _make(self, recipe: Recipe) -> Generator[Progress, None, tuple[Variant, tuple[str, ...]]]:
        files, commands = [], []
        for half in Half:
            source = self._file(half)
            types = recipes.file_recipe(self._of_half(half), recipe.types(half), self._kind_of(half))
            if types is None:
                files.append(source)
                continue
            imatrix = Path(self._imatrix(half)).name
            # 0 and 1: files that are there already have names with these keys.
            key = self._known.key(recipes.slug(recipe), int(half is Half.PROJECTOR), self._pair_key(), imatrix)
            target = self._folder / f"{quantizer.stem(source)}-recipe-{key[:8]}.gguf"
            self._measuring.expect(1)
            yield self._measuring.step(f"making {target.name}")
            if not target.exists():  # the name tells the source and the types
                quantizer.make(
                    source,
                    target,
                    types.quantization,
                    self._pool,
                    half,
                    tensor_types=types.tensor_types,
                    imatrix=self._matrices.get(half),
                    name=recipe.name,
                    stop=self._stop,
                )
                self._fresh.append(target)
            files.append(target)
            commands.append(recipes.command(types, source.name, target.name, half, imatrix=imatrix))
        return self._pair(files[0], files[1], {}), tuple(commands)

    def _discard(self) -> None:
        """Delete the files of a recipe that nobody gets."""
        while self._fresh:
            self._fresh.pop().unlink(missing_ok=True)

    def _hold_against_uniform(
        self, made: Variant
    ) -> Generator[Progress, None, tuple[Interval, tuple[UniformComparison, ...]]]:
        """On the questions kept aside: the recipe, and the uniform pairs of about its size."""
        measuring = self._measure(self._aside)
        nearest = self._nearest_uniform(made.bytes)
        n = len(self._aside.items)
        measuring.expect(2 * n + 3 * min(12, n) + (1 + len(nearest)) * n + len(nearest))
        yield from measuring.ask()
        with self._known.scratch() as records:
            yield from measuring.record(records, None)
            mine = yield from measuring.read(made, records, label="recipe, questions kept aside", strict=True)
            compared = []
            for pair in nearest:
                name = _uniform_name(*pair)
                yield measuring.step(f"making {name}")
                try:
                    size, told = yield from self._read_uniform(measuring, pair, records)
                except Failure as error:
                    self._problems.append(f"{name}: {error.message}")
                else:
                    compared.append(UniformComparison(name, size, _interval(told), _difference(told, mine)))
        return _interval(mine), tuple(sorted(compared, key=lambda one: one.bytes))

    def _read_uniform(
        self, measuring: MeasureJob, names: tuple[str, str], records: Path
    ) -> Generator[Progress, None, tuple[int, list[QuestionDrift]]]:
        """Bytes of a uniform pair, and what it makes of the questions."""
        files = []
        for half, quantization in zip(Half, names, strict=True):
            source = self._file(half)
            file = records / f"{_FILE_NAMES[half]}-{quantization}.gguf"
            if quantization:
                imatrix = self._imatrix(half)
                self._quantize(protocol.Quantize(str(source), str(file), quantization, half, imatrix=imatrix))
            files.append(file if quantization else source)
        sources = (self._source.model.sha256, self._source.projector.sha256)
        ids = {file: self._known.key("uniform", sources, file.name) for file in files if file.parent == records}
        variant = self._pair(files[0], files[1], ids)
        told = yield from measuring.read_once(variant, records, _uniform_name(*names))
        for half, quantization, file in zip(Half, names, files, strict=True):
            if quantization:
                self._forget(variant, half)
                file.unlink()
        return variant.bytes, told

    def _nearest_uniform(self, size: int) -> list[tuple[str, str]]:
        """The uniform pairs nearest to a size from below and from above, by what a dry run says."""
        sizes = []
        for half, names in ((Half.MODEL, _UNIFORM_MODELS), (Half.PROJECTOR, _UNIFORM_PROJECTORS)):
            sizes.append({name: self._dry(name, half) for name in names})
        pairs = {(m, p): a + b for m, a in sizes[0].items() for p, b in sizes[1].items() if a and b}
        below = sorted((pair for pair in pairs if pairs[pair] <= size), key=lambda pair: -pairs[pair])
        above = sorted((pair for pair in pairs if pairs[pair] > size), key=lambda pair: pairs[pair])
        return below[:_NEAREST] + above[:_NEAREST]

    def _dry(self, quantization: str, half: Half) -> int | None:
        source = self._file(half)
        if not quantization:
            return source.stat().st_size
        request = protocol.Quantize(str(source), "", quantization, half, dry_run=True)
        try:
            return self._quantize(request).bytes
        except Failure as error:
            self._problems.append(f"{quantization} of {source.name}: {error.message}")
            return None

    # --- files -------------------------------------------------------------------------------------------------------

    def _measure(self, items: QuestionSet) -> MeasureJob:
        source = self._source
        plan = MeasurementPlan(max_tokens=self._scan.max_tokens)
        return MeasureJob(
            items, (source,), source.id, plan, self._runtime, self._pool, self._embeddings, self._known, self._stop
        )

    def _file(self, half: Half) -> Path:
        return Path(self._source.half(half).path)

    def _with(self, file: Path, half: Half) -> tuple[Path, Path]:
        """The source's pair with one half replaced."""
        return (self._file(Half.MODEL), file) if half is Half.PROJECTOR else (file, self._file(Half.PROJECTOR))

    def _kind_of(self, half: Half) -> str:
        return self._source.half(half).quantization.lower()

    def _request(self, types: FileRecipe, target: Path, half: Half) -> protocol.Quantize:
        source = self._file(half)
        return protocol.Quantize(
            str(source),
            str(target),
            types.quantization,
            half,
            tensor_types=types.tensor_types,
            imatrix=self._imatrix(half),
        )

    def _quantize(self, request: protocol.Quantize) -> protocol.Quantized:
        """Raises Interrupted where it was killed for that."""
        try:
            made = self._pool.quantize_with(request, stop=self._stop)
        except EngineError:
            if not self._stop():
                raise
        if self._stop():
            raise Interrupted("Stopped.")
        return made

    def _imatrix(self, half: Half) -> str:
        return str(self._matrices.get(half, ""))

    def _forget(self, variant: Variant, half: Half) -> None:
        """End the worker of a file that is about to go."""
        if half is Half.PROJECTOR:
            self._pool.unload(vision_spec(variant.projector, variant.model, self._runtime))
        else:
            self._pool.unload(language_spec(variant.model, self._runtime))


def _uniform_name(model: str, projector: str) -> str:
    return f"{model} + mmproj-{projector}" if projector else model


def _sums(told: Sequence[QuestionDrift]) -> list[tuple[float, float]]:
    """Of each question: the sum of its tokens' KL, and their number."""
    return [(math.fsum(token.kl for token in one.kl), len(one.kl)) for one in told]


def _mean_kl(told: Sequence[QuestionDrift]) -> float:
    return _interval(told).value


def _interval(told: Sequence[QuestionDrift]) -> Interval:
    return statistics.ratio(_sums(told))


def _difference(theirs: Sequence[QuestionDrift], mine: Sequence[QuestionDrift]) -> Interval:
    return statistics.ratio([(a - b, n) for (a, n), (b, _) in zip(_sums(theirs), _sums(mine), strict=True)])
