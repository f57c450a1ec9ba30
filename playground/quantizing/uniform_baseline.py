"""What a recipe has to beat: the uniform quantizations of about its size, on questions that its search has not seen."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

from playground.errors import Failure
from playground.measuring import statistics
from playground.measuring.measure import MeasureJob
from playground.measuring.results import Progress, QuestionDrift
from playground.measuring.statistics import Interval
from playground.measuring.summaries import mean_kl
from playground.measuring.time_left import Kind
from playground.quantizing.recipes import FileRecipe
from playground.quantizing.scan_files import ScanFiles
from playground.quantizing.scan_results import UniformComparison
from playground.values.files import Half, Variant

# What people ship, from large to small: the mixtures of llama-quantize for the language model, one type throughout
# for the projector.
_MODELS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K")
_PROJECTORS = ("", "Q8_0", "Q4_0", "Q2_K")  # empty: the source
_NEAREST = 2  # uniform pairs that a recipe is compared with, on either side of its size

_Names = tuple[str, str]  # quantizations of the language model and of the projector


class UniformBaseline:
    """Measures a recipe's pair and its rivals. `problems`: which rivals could not be made or measured, and why."""

    def __init__(self, files: ScanFiles, measuring: MeasureJob, n_questions: int) -> None:
        self._files = files
        self._measuring = measuring
        self._n = n_questions
        self.problems: list[str] = []

    def run(self, recipe: Variant) -> Generator[Progress, None, tuple[Interval, tuple[UniformComparison, ...]]]:
        measuring, nearest = self._measuring, self._nearest(recipe.bytes)
        measuring.expect_baseline(self._n)
        measuring.expect(self._n, Kind.DRIFT)
        measuring.expect(len(nearest) * (self._n + 1))
        measuring.stay()
        yield from measuring.ask()
        with self._files.lab.results.scratch() as records:
            yield from measuring.record(records, None)
            label = "recipe, questions kept aside"
            drifts = yield from measuring.read(recipe, records, label=label, strict=True)
            comparisons = []
            for names in nearest:
                yield measuring.step(f"making {_title(names)}")
                try:
                    size, rival = yield from self._read(names, records)
                except Failure as error:
                    self.problems.append(f"{_title(names)}: {error.message}")
                else:
                    nearer = [(b.mean_kl or 0.0) - (a.mean_kl or 0.0) for a, b in zip(drifts, rival, strict=True)]
                    by_picture = statistics.signs(nearer, [image.sha256 for _, image in measuring.items])
                    comparisons.append(
                        UniformComparison(
                            _title(names),
                            size,
                            Interval(mean_kl(rival)),
                            closer=statistics.signs(nearer),
                            closer_pictures=by_picture,
                        )
                    )
        return Interval(mean_kl(drifts)), tuple(sorted(comparisons, key=lambda comparison: comparison.bytes))

    def _read(self, names: _Names, records: Path) -> Generator[Progress, None, tuple[int, list[QuestionDrift]]]:
        """The bytes of a uniform pair, and its drift on every question."""
        files, source = self._files, self._files.source
        made = {
            half: records / files.scratch_name(half, quantization)
            for half, quantization in zip(Half, names, strict=True)
            if quantization
        }
        for half, quantization in zip(Half, names, strict=True):
            if quantization:
                files.quantize(half, made[half], FileRecipe(quantization, ()))
        sources = (source.model.sha256, source.projector.sha256)
        ids = {file: files.lab.results.key("uniform", sources, file.name) for file in made.values()}
        model, projector = (made.get(half, files.file(half)) for half in Half)
        variant = files.pair(model, projector, ids)
        drifts = yield from self._measuring.read_once(variant, records, _title(names))
        files.release(variant, list(made))
        for file in made.values():
            file.unlink()
        return variant.bytes, drifts

    def _nearest(self, size: int) -> list[_Names]:
        """The uniform pairs nearest to a size from below and from above, by their planned sizes."""
        models = {name: self._bytes(Half.MODEL, name) for name in _MODELS}
        projectors = {name: self._bytes(Half.PROJECTOR, name) for name in _PROJECTORS}
        pairs = {(m, p): a + b for m, a in models.items() for p, b in projectors.items() if a and b}
        below = sorted((names for names in pairs if pairs[names] <= size), key=lambda names: -pairs[names])
        above = sorted((names for names in pairs if pairs[names] > size), key=lambda names: pairs[names])
        return below[:_NEAREST] + above[:_NEAREST]

    def _bytes(self, half: Half, quantization: str) -> int | None:
        source = self._files.file(half)
        if not quantization:
            return source.stat().st_size
        try:
            return self._files.plan(half, FileRecipe(quantization, ()))
        except Failure as error:
            self.problems.append(f"{quantization} of {source.name}: {error.message}")
            return None


def _title(names: _Names) -> str:
    model, projector = names
    return f"{model} + mmproj-{projector}" if projector else model
