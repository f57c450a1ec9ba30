"""Which tensors need their bits, and recipes, with the real engine."""

from __future__ import annotations

import math
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf import GGUFReader

from playground.comparing.compare import StopFlag
from playground.errors import BadInput, Interrupted
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import MeasurementPlan, Progress
from playground.measuring.statistics import Interval
from playground.models.presets import data_folder
from playground.notebooks import run_cell
from playground.notebooks.cells import CellQuestions, CompareCell
from playground.pool.pool import Pool
from playground.quantizing import quantizer, recipe_search, recipes, scan_results
from playground.quantizing.recipes import FileRecipe, Recipe
from playground.quantizing.scan_files import ScanFiles
from playground.quantizing.scan_results import BuiltRecipe, Scan, Sensitivity, UniformComparison
from playground.quantizing.sensitivity_scan import ScanJob, ScanRequest
from playground.quantizing.uniform_baseline import UniformBaseline
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.files import Half, Variant
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.fake_machine import GIB, FakeMachine

FOLDER = data_folder() / "tiny-vlm/evaluation"
RUNTIME = Runtime(n_ctx=512)
ASKED = question_sets.embedded(FOLDER, level="hard").first(4)
KINDS = ("q4_K", "q2_K")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """What was measured of the embedded pair serves all tests here."""
    with open_parts(Settings(cache_dir=tmp_path_factory.mktemp("sensitivity")), any_folder=True) as opened:
        yield opened


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Parts]:
    """Of which nothing is known yet."""
    with open_parts(Settings(cache_dir=tmp_path / "cache"), any_folder=True) as opened:
        yield opened


@pytest.fixture(autouse=True)
def one_on_either_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the uniform pairs that a recipe is held against: they take most of a scan's time where little is scanned."""
    monkeypatch.setattr("playground.quantizing.uniform_baseline._NEAREST", 1)


def source_of(parts: Parts) -> Variant:
    return next(v for v in parts.catalog.variants if v.reference)


@pytest.fixture(scope="module")
def embedded(parts: Parts) -> Variant:
    """The embedded pair, of which it is known what each group costs."""
    *_, last = scanning(parts, source_of(parts)).run()
    assert isinstance(last, Sensitivity)
    assert last.problems == ()
    return source_of(parts)


def scanning(
    parts: Parts,
    source: Variant,
    question_set: QuestionSet = ASKED,
    stop: Callable[[], bool] = lambda: False,
    **scan: Any,
) -> ScanJob:
    order = Scan(**{"kinds": KINDS, "max_tokens": 16, **scan})
    return ScanJob(parts.lab, parts.workshop, ScanRequest(source, question_set, order, RUNTIME), stop)


def measuring(parts: Parts, question_set: QuestionSet, *variants: Variant) -> MeasureJob:
    """As a scan measures: the first variant is the reference."""
    plan = MeasurementPlan(max_tokens=16)
    return MeasureJob(parts.lab, MeasureRequest(question_set, variants, variants[0].id, plan, RUNTIME))


def scanned(parts: Parts, source: Variant, **scan: Any) -> tuple[list[Progress], Sensitivity]:
    *steps, last = scanning(parts, source, **scan).run()
    assert isinstance(last, Sensitivity)
    assert left_over(parts) == []
    events = [step for step in steps if isinstance(step, Progress)]
    assert all(step.done < step.total for step in events)
    return events, last


def left_over(parts: Parts) -> list[Path]:
    paths = [*(parts.settings.cache_dir / "measured").glob("scratch-*"), *parts.settings.cache_dir.rglob("*.part")]
    assert all(worker.leases == 0 for worker in parts.pool.memory().workers)
    return paths


def ladder(scan: Sensitivity) -> dict[str, dict[str, recipes.Rung]]:
    return {group.group.name: {rung.kind: rung for rung in group.rungs} for group in scan.sensed}


# --- the embedded pair ------------------------------------------------------------------------------------------------


def test_scan_when_of_the_embedded_pair_then_the_dearest_tensors_come_first(parts: Parts, embedded: Variant) -> None:
    steps, scan = scanned(parts, embedded)
    assert steps == []
    assert (scan.n_searched, scan.n_kept_aside, scan.problems, scan.built) == (2, 0, (), None)
    rungs = ladder(scan)
    assert len(rungs) == 15
    for rung in rungs.values():
        assert 0 < rung["q4_K"].saved < rung["q2_K"].saved
        assert rung["q4_K"].kl is not None
        assert rung["q2_K"].kl is not None
    whole = {group.group.name: group.group.bytes for group in scan.sensed}
    assert rungs["v.ffn_up"]["q2_K"].saved == pytest.approx(whole["v.ffn_up"] * (1 - 2.625 / 16), rel=0.01)
    ranked = [group.group for group in scan_results.ranked(scan.sensed)]
    # Two questions tell nothing apart: the rank is that of the sample, and all are tied with the first.
    assert [group.group for group in scan_results.dearest(scan.sensed)] == ranked
    prices = [scan_results.price(group) or 0.0 for group in scan_results.ranked(scan.sensed)]
    assert prices == sorted(prices, reverse=True)
    assert prices[0] > 1000 * prices[-1] > 0
    assert scan.floor < min(rung["q2_K"].kl or 0.0 for rung in rungs.values())


def test_rung_when_made_by_hand_then_it_drifts_as_far(parts: Parts, embedded: Variant, tmp_path: Path) -> None:
    """Of the same questions, all else as in the source."""
    source = embedded
    _, scan = scanned(parts, source)
    target = tmp_path / "mmproj.gguf"
    recipe = recipes.file_recipe([group.group for group in scan.sensed], {"v.ffn_up": "q2_K"}, "f16")
    assert recipe is not None
    quantizer.make(
        Path(source.projector.path), target, recipe.quantization, parts.pool, half=Half.PROJECTOR,
        tensor_types=recipe.tensor_types,
    )  # fmt: skip
    variant = parts.catalog.read_pair(Path(source.model.path), target)
    searched, _ = ASKED.parts(2)
    *_, measured = measuring(parts, searched, source, variant).run()
    rung = ladder(scan)["v.ffn_up"]["q2_K"]
    assert measured.results[1].mean_kl.value == pytest.approx(rung.kl, rel=1e-9)
    assert source.bytes - variant.bytes == pytest.approx(rung.saved, abs=2000)  # what the header says of it


def test_recipe_when_under_a_size_then_its_files_are_what_it_says_and_judged_by_other_questions(
    parts: Parts, embedded: Variant
) -> None:
    source, limit = embedded, 6_000_000
    steps, scan = scanned(parts, source, max_bytes=limit)
    assert not any(re.search(r": \S+ at q", step.what) for step in steps)  # what the groups cost is known
    built = scan.built
    assert built is not None
    assert (scan.n_searched, scan.n_kept_aside, scan.problems) == (2, 2, ())
    files = [parts.catalog.made / name for name in (built.model, built.projector)]
    assert built.bytes == sum(file.stat().st_size for file in files)
    for file, original, half in zip(files, (source.model, source.projector), Half, strict=True):
        types = built.recipe.types(half=half)
        groups = recipes.groups_of(parts.catalog.weights(Path(original.path)), 1, half=half)
        before = {t.name: t.tensor_type.name for t in GGUFReader(original.path).tensors}
        for tensor in GGUFReader(file).tensors:
            group = next((g.name for g in groups if re.search(g.pattern, tensor.name)), "")
            words = types[group].upper() if group in types else before[tensor.name]
            assert tensor.tensor_type.name == words, tensor.name
        assert GGUFReader(file).fields["quantize.source.sha256"].contents() == original.sha256
        assert GGUFReader(file).fields["quantize.name"].contents() == built.recipe.name
    assert 0.8 * limit < built.bytes <= limit  # the budget is used
    assert {shlex.split(line)[-2] for line in built.commands} == {built.model, built.projector}
    assert [comparison.bytes for comparison in built.uniform] == sorted(
        comparison.bytes for comparison in built.uniform
    )
    assert [comparison.bytes <= built.bytes for comparison in built.uniform] == [True, False]
    best = min(
        (comparison for comparison in built.uniform if comparison.bytes <= built.bytes),
        key=lambda comparison: comparison.kl.value,
    )
    sentence = scan_results.sentence(built)
    assert f"({built.bytes / 1e6:.1f} MB)" in sentence
    assert f"{best.name} ({best.bytes / 1e6:.1f} MB), drifts by {best.kl.value:.4g}" in sentence
    assert best.closer is not None
    assert sum(best.closer) == 2
    assert sentence.endswith("no difference that these questions can show.")  # two questions show nothing
    used = " ".join(question_sets.fingerprint(q, ASKED.image(q)) for q in ASKED.parts(2)[0].items)
    assert GGUFReader(files[0]).fields["quantize.questions"].contents() == used

    # On the questions kept aside, which the search did not see: as anybody would measure these files.
    searched, aside = ASKED.parts(2)
    assert {item.image for item in searched.items}.isdisjoint(item.image for item in aside.items)
    variant = parts.catalog.read_pair(files[0], files[1])
    for question_set, kl in ((aside, built.kl.value), (searched, built.searched_kl)):
        *_, measured = measuring(parts, question_set, source, variant).run()
        assert measured.results[1].mean_kl.value == pytest.approx(kl, rel=1e-9)


def test_recipe_when_it_cannot_be_had_then_told_and_the_ranking_is_not_lost(parts: Parts, embedded: Variant) -> None:
    before = sorted(parts.catalog.made.glob("*"))
    for limit, message in (
        ({"max_bytes": 1_000_000}, r"No recipe was made: With these types the files come down to \d\.\d MB at best"),
        ({"max_bytes": 100_000_000}, "No recipe was made: The source's files are small enough as they are"),
        ({"max_kl": 0.0}, "No recipe was made: Nothing can be saved within a KL of 0"),
    ):
        _, scan = scanned(parts, embedded, **limit)
        assert scan.built is None
        assert len(scan.problems) == 1
        assert re.search(message, scan.problems[0])
        assert len(scan.sensed) == 15
    assert sorted(parts.catalog.made.glob("*")) == before


# --- a pair of which little can be quantized --------------------------------------------------------------------------


def test_scan_when_stopped_then_nothing_is_left_and_the_next_one_does_the_rest_and_a_third_nothing(
    own: Parts, few: pairs.PairFiles
) -> None:
    source = own.catalog.open_pair(few.model, few.projector)
    fields: dict[str, Any] = {"kinds": ("q2_K",), "depth": 2, "restore": True}
    seen: list[Progress] = []

    def stop() -> bool:
        return bool(seen) and "v.ffn_down 1/2 at q2_K" in seen[-1].what

    with pytest.raises(Interrupted):  # noqa: PT012  each update is kept
        for update in scanning(own, source, stop=stop, **fields).run():
            assert isinstance(update, Progress)
            seen.append(update)
    assert left_over(own) == []
    assert not own.catalog.made.exists()

    rest, scan = scanned(own, source, **fields)
    tried = {what for step in (*seen, *rest) if (what := step.what.removesuffix(": drift"))}
    again = {step.what for step in rest}
    groups = [f"{group.group.name} at q2_K" for group in scan.sensed]
    assert len(groups) > 20
    assert {"ffn_down 1/1 at q2_K"}.isdisjoint(groups)
    for group in groups:  # each once, but for the one that was cut off
        whats = [f"{half}: {group}" for half in ("language model", "projector") if f"{half}: {group}" in tried]
        assert len(whats) == 1
        done_before = whats[0] in {step.what for step in seen[:-1]}
        assert (whats[0] in again) != done_before, group
    assert scanned(own, source, **fields)[0] == []
    restored = {group.group.name: group for group in scan.restored}
    assert set(restored) == {"ffn_down 1/2", "ffn_down 2/2", "v.ffn_down 1/2", "v.ffn_down 2/2"}
    for restored_group in restored.values():
        assert restored_group.added > 0
        assert restored_group.kl < restored_group.kl_of_all
    assert restored["v.ffn_down 1/2"].kl_of_all == restored["v.ffn_down 2/2"].kl_of_all


def test_type_when_it_wants_a_matrix_and_has_none_then_told_and_never_chosen(
    parts: Parts, few: pairs.PairFiles
) -> None:
    source = parts.catalog.open_pair(few.model, few.projector)
    _, scan = scanned(parts, source, kinds=("iq2_xxs", "q4_K"))
    refused = ladder(scan)["ffn_down"]["iq2_xxs"]
    assert refused.kl is None
    assert "requires an imatrix" in (refused.error or "")
    labels = ["language model: ffn_down at iq2_xxs", "projector: v.ffn_down at iq2_xxs"]
    assert [problem.split(": llama.cpp")[0] for problem in scan.problems] == labels
    chosen = recipe_search.allocate(scan.sensed, source.bytes, max_bytes=source.bytes - 60_000).types
    assert [kind for _, kind in chosen] == ["q4_K", "q4_K"]
    steps, _ = scanned(parts, source, kinds=("iq2_xxs", "q4_K"))
    assert [step.what for step in steps if " at " in step.what] == labels  # it may go well another time


def test_type_when_llama_cpp_does_not_know_it_then_refused_before_a_question_is_asked(
    parts: Parts, few: pairs.PairFiles
) -> None:
    source = parts.catalog.open_pair(few.model, few.projector)
    for kinds, message in ((("q4_K", "q99"), "no quantization called 'Q99'"), (("q8_1",), "called 'Q8_1'")):
        with pytest.raises(BadInput, match=message):  # in place of the first step
            next(scanning(parts, source, kinds=kinds).run())


def test_recipe_when_by_its_drift_and_with_matrices_then_no_further_and_what_was_tried_before_it_is_gone(
    parts: Parts, few: pairs.PairFiles
) -> None:
    source = parts.catalog.open_pair(few.model, few.projector)
    fields: dict[str, Any] = {"kinds": ("q4_K", "iq2_xxs"), "calibrate": True}
    _, scan = scanned(parts, source, **fields)
    assert scan.problems == ()
    assert all((rung.get("iq2_xxs") or rung["q4_K"]).kl for name, rung in ladder(scan).items() if "ffn_down" in name)
    all_of_it = recipe_search.allocate(scan.sensed, source.bytes, max_kl=10.0)
    assert [kind for _, kind in all_of_it.types] == ["iq2_xxs", "iq2_xxs"]
    steps, scan = scanned(parts, source, max_kl=all_of_it.kl, **fields)
    assert scan.problems == ()
    built = scan.built
    assert built is not None
    assert built.recipe.calibrated
    assert built.searched_kl <= all_of_it.kl
    # What the groups cost does not quite add up: the first recipe drifted too far.
    assert len([step for step in steps if step.what.startswith("making ") and "-recipe-" in step.what]) == 4
    matrices = set()
    for line in built.commands:
        words = shlex.split(line)
        matrices.add(words[words.index("--imatrix") + 1])
    files = {built.model, built.projector} - {few.model.name, few.projector.name}
    assert {path.name for path in parts.catalog.made.glob("*few*")} == files | matrices
    _, scan = scanned(parts, source, max_kl=1e-12, **fields)
    assert scan.problems == ("No recipe was made: Nothing can be saved within a KL of 1e-12.",)


def test_scan_when_there_are_two_gpus_then_both_read_its_files_and_the_same_numbers(
    parts: Parts, few: pairs.PairFiles, tmp_path: Path
) -> None:
    source, scans, said = parts.catalog.open_pair(few.model, few.projector), list[Sensitivity](), set[str]()
    one_by_one = parts.settings.model_copy(update={"max_sequences": 1})  # a batch's numbers depend on its size
    for n_gpus in (1, 2):
        machine = FakeMachine(n_gpus=n_gpus, total=80 * GIB)
        cache = ResultCache(tmp_path / f"{n_gpus}", "engine")
        with closing(Pool.open(sensors=machine, start_worker=machine.start_worker)) as pool, closing(cache):
            on_gpus = replace(parts, settings=one_by_one, pool=pool, result_cache=cache)
            steps, scan = scanned(on_gpus, source)
            assert not any(worker.file.endswith("_K.gguf") for worker in pool.memory().workers)
        scans.append(msgspec.structs.replace(scan, elapsed_s=0.0))
        said |= {step.what.rpartition(", on ")[2] for step in steps}
    assert scans[0] == scans[1]
    assert sum(rung.kl is not None for group in scans[0].sensed for rung in group.rungs) == 4
    assert {"GPU 0", "GPU 1"} <= said


def test_types_when_none_can_be_had_then_said(parts: Parts, few: pairs.PairFiles) -> None:
    source = parts.catalog.open_pair(few.model, few.projector)
    with pytest.raises(BadInput, match=r"None of these types can be used: .*no quantization called 'Q99'"):
        scanned(parts, source, kinds=("q99", "q8_1"))


def test_uniform_pair_when_llama_cpp_crashes_on_it_then_told_and_the_others_are_measured(
    own: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = pairs.write_pair("qwen2vl", tmp_path)
    source = own.catalog.open_pair(files.model, files.projector)
    variant = replace(source, model=replace(source.model, bytes=2_600_000 - source.projector.bytes))
    _, aside = ASKED.parts(2)
    scan_files = ScanFiles(own.lab, own.workshop, source, RUNTIME, lambda: False)
    quantize, crashing = scan_files.quantize, pairs.write_aborting(tmp_path)
    replaced: list[Path] = []

    def one_crashes(half: Half, target: Path, recipe: FileRecipe) -> None:
        quantize(half, target, recipe)
        if half is Half.MODEL and not replaced:
            replaced.append(target)
            shutil.copy(crashing, target)

    monkeypatch.setattr(scan_files, "quantize", one_crashes)
    baseline = UniformBaseline(scan_files, measuring(own, aside, source), len(aside.items))
    steps = baseline.run(variant)
    while True:
        try:
            next(steps)
        except StopIteration as ended:
            kl, uniform = ended.value
            break
    assert kl.value < 1e-6  # it is the source
    assert len(uniform) == 1
    assert math.isfinite(uniform[0].kl.value)
    (problem,) = baseline.problems
    assert "aborted" in problem


def test_scanning_when_stopped_while_a_uniform_pair_is_made_then_stopped(parts: Parts, few: pairs.PairFiles) -> None:
    source = parts.catalog.open_pair(few.model, few.projector)
    before = sorted(parts.catalog.made.glob("*few*"))
    seen: list[str] = []
    with pytest.raises(Interrupted):  # noqa: PT012  each update is kept
        for update in scanning(
            parts, source, kinds=("q4_K",), max_bytes=source.bytes - 40_000,
            stop=lambda: bool(seen) and seen[-1].startswith("making Q"),
        ).run():  # fmt: skip
            assert isinstance(update, Progress)
            seen.append(update.what)
    assert left_over(parts) == []
    assert sorted(parts.catalog.made.glob("*few*")) == before  # nobody has seen the recipe


# --- what cannot be scanned -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ()}, "Say which types"),
        ({"depth": 0}, "depth has to be between 1 and 64"),
        ({"depth": -3}, "depth has to be between 1 and 64"),
        ({"depth": 65}, "depth has to be between 1 and 64"),
        ({"max_bytes": 0}, "A limit has to be a number above 0"),
        ({"max_bytes": -5}, "A limit has to be a number above 0"),
        ({"max_kl": -1.0}, "A limit has to be a number above 0"),
        ({"max_kl": float("nan")}, "A limit has to be a number above 0"),
        ({"max_kl": float("inf")}, "A limit has to be a number above 0"),
        ({"max_kl": 1e300}, "A limit has to be a number above 0"),
        ({"question_set": ASKED.first(3)}, "at least four questions"),
    ],
)
def test_scan_when_it_cannot_be_then_said_at_once(parts: Parts, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        scanning(parts, source_of(parts), **fields)


def test_cell_when_it_cannot_be_scanned_then_said_before_anything_is_measured(parts: Parts) -> None:
    """By a quantized reference, or too few questions."""
    source = source_of(parts)
    half = replace(source.projector, quantization="Q8_0")
    for variant, n, message in ((replace(source, projector=half), 4, "Q8_0: a scan begins with 16 or 32 bits"),
                             (source, 3, "at least four questions")):  # fmt: skip
        questions = CellQuestions(n=n, sensitivity=True)
        run = run_cell.new_run(CompareCell("c", questions=questions, variants=(variant.id,)), [variant], "e", "m")
        updates = run_cell.measure_cell(
            run,
            [variant],
            question_sets.embedded(FOLDER),
            parts.lab,
            parts.workshop,
            StopFlag(),
        )
        with pytest.raises(BadInput, match=message):
            next(updates)


# --- what is said -----------------------------------------------------------------------------------------------------


Uniform = tuple[str, int, float, tuple[int, int] | None]


def q4(kl: float, closer: tuple[int, int] | None) -> Uniform:
    return "Q4", 4_000_000, kl, closer


def built(kl: float, *uniform: Uniform) -> BuiltRecipe:
    """A recipe of 5 MB, and uniform pairs: name, bytes, KL, and on how many questions the recipe and it were closer."""
    compared = tuple(
        UniformComparison(name, size, Interval(other), closer=closer) for name, size, other, closer in uniform
    )
    return BuiltRecipe(Recipe("r", "f"), 5_000_000, 0.1, 0.1, Interval(kl), compared, (), "a", "b")


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (built(0.01), "so that is no bound."),
        (built(0.01, q4(0.02, (12, 0))),
         "drifts by 0.02: the recipe lies closer to the reference on 12 of 12 questions, so it wins."),
        (built(0.01, q4(0.02, (8, 4))), "on 8 of 12 questions, no difference that these questions can show."),
        # The mean may be smaller because of one question.
        (built(0.01, q4(0.02, (1, 11))), "on 1 of 12 questions, so it does not win."),
        (built(0.01, q4(0.02, (5, 0))), "no difference that these questions can show."),  # 1 in 32
        (built(0.01, q4(0.02, (6, 0))), "so it wins."),
        (built(0.01, q4(0.02, (0, 0))), "no difference that these questions can show."),
        (built(0.01, q4(0.02, None)), "Q4 (4.0 MB), drifts by 0.02."),  # of an older version
        # The best of those that are no larger, each with its share of the error; else the next larger one.
        (
            built(0.01, ("A", 3_000_000, 0.5, (7, 0)), q4(0.04, (6, 0)), ("C", 6_000_000, 0.001, (0, 9))),
            "Q4 (4.0 MB), drifts by 0.04: the recipe lies closer to the reference on 6 of 6 questions, no difference "
            "that these questions can show.",
        ),
        (
            built(0.01, ("C", 6_000_000, 0.04, (9, 0)), ("D", 7_000_000, 0.001, (0, 9))),
            "No uniform pair is as small; the next, C (6.0 MB), drifts by 0.04: the recipe lies closer to the "
            "reference on 9 of 9 questions, so it wins.",
        ),
    ],
)  # fmt: skip
def test_sentence_when_made_from_the_numbers_then_consistent_with_them(recipe: BuiltRecipe, message: str) -> None:
    assert scan_results.sentence(recipe).startswith("The recipe (5.0 MB) drifts by 0.01 nats a token on the questions")
    assert scan_results.sentence(recipe).endswith(message)
    assert msgspec.json.decode(msgspec.json.encode(recipe), type=BuiltRecipe) == recipe
