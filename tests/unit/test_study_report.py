"""A study's finished measurements: kept as files, taken together, and written as one report."""

from __future__ import annotations

import hashlib
import re
import threading
from pathlib import Path
from threading import Barrier, Event

import pytest

from playground.errors import BadInput, Interrupted
from playground.measuring import look_test, result_documents
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan, QuestionDrift, Sight, Speed, TokenCost
from playground.measuring.summaries import variant_result
from playground.study.study_file import parse
from playground.study.study_job import StudyFamilyResult, StudyResult, measurements_at_once, spread
from playground.study.study_plan import PlannedFamily, PlannedSuite, StudyPlan
from playground.study.study_report import documents, html, markdown, pooled, write
from playground.study.study_steps import QUESTIONS, SPEED, FinishedStep, StepStore, StudyStep
from playground.values.files import ModelFile, Variant
from testkit.html_tags import Tags

TEXT = """\
name = "Do <b>bits</b> matter?"
about = "A *study*."
models = ["source", "Q4_0"]
projectors = ["source", "Q4_0"]
suites = ["embedded:easy", "embedded:hard"]

[[families]]
preset = "tiny-vlm"
"""
STUDY = parse(TEXT)
COMMAND = ("python", "-m", "playground", "study", "my study.toml")
FAMILY = "Tiny VLM 7M"


def file(half: str, quantization: str, size: int) -> ModelFile:
    sha256 = hashlib.sha256(f"{half}{quantization}".encode()).hexdigest()
    return ModelFile(f"/models/{half}-{quantization}.gguf", size, sha256, quantization, 10**6, "llama", "v")


PAIRS = tuple(
    Variant(f"fam:{m}+{p}", FAMILY, f"{m}+{p}", file("model", m, 16 if m == "F16" else 5), file("mmproj", p, 8))
    for m in ("F16", "Q4_0")
    for p in ("F16", "Q4_0")
)
BASE = PAIRS[0].id


def measured(suite: str, n: int, wrong: int) -> Measurement:
    """The last pair has so many answers wrong that the reference has right; their KL is 0.5, all other 0.001."""
    questions = tuple(Question(f"{suite}-{k}.png", "What?", ("a",)) for k in range(n))
    items = {}
    for pair in PAIRS:
        errs = wrong if pair is PAIRS[-1] else 0
        items[pair.id] = [
            QuestionDrift(
                () if pair.id == BASE else (TokenCost("a", 0.5 if k < errs else 0.001),),
                0 if k < errs else None,
                "b" if k < errs else "a",
                float(k >= errs),
            )
            for k in range(n)
        ]
    results = tuple(
        variant_result(pair.id, items[pair.id], None if pair.id == BASE else items[BASE], questions) for pair in PAIRS
    )
    return Measurement(questions, ("a",) * n, results, floor=1e-6, floors={"other batches": 1e-6}, elapsed_s=10.0)


def step(what: str, suite: str, measurement: Measurement) -> FinishedStep:
    key = hashlib.sha256(f"{what}{suite}".encode()).hexdigest()
    when = "2026-01-02T03:04:05+01:00"
    return FinishedStep(
        key, what, FAMILY, suite, PAIRS, BASE, MeasurementPlan(), measurement, "llama 1 on CPU", "2 cores", when
    )


@pytest.fixture
def result(tmp_path: Path) -> StudyResult:
    each = {"embedded:easy": measured("easy", 40, 2), "embedded:hard": measured("hard", 60, 20)}
    timed = each["embedded:easy"].results
    speeds = tuple(variant_result(r.variant, [QuestionDrift(text="a")], None, [Question("a.png", "?")]) for r in timed)
    speeds = tuple(type(r)(r.variant, speed=Speed(6, 100.0 + n, 0.1, 0.1, 0.2, 2**20, 5)) for n, r in enumerate(speeds))
    steps = [step(QUESTIONS, suite, measurement) for suite, measurement in each.items()]
    steps.append(step(SPEED, "embedded:easy", Measurement((), (), speeds)))
    sets = {suite: QuestionSet(suite, m.questions, tmp_path) for suite, m in each.items()}
    family = StudyFamilyResult(FAMILY, PAIRS, (), ("python -m playground quantize a.gguf Q4_0 --out b.gguf",))
    return StudyResult(STUDY, (family,), sets, tuple(steps), 0, ())


def test_suites_when_taken_together_then_every_question_counts_alike(result: StudyResult) -> None:
    each = {s.suite: s.measurement for s in result.finished if s.what == QUESTIONS}
    whole = pooled(each, BASE)
    assert len(whole.questions) == len(whole.answers) == 100
    last = whole.results[-1]
    assert last.accuracy is not None
    assert last.accuracy.value == pytest.approx(0.78)
    assert last.against is not None
    assert (last.against.only_first, last.against.only_second, last.against.n) == (22, 0, 100)
    assert last.against.words == "worse"
    assert last.mean_kl is not None
    assert last.mean_kl.value == pytest.approx((22 * 0.5 + 78 * 0.001) / 100)
    assert whole.results[0].against is None
    assert whole.elapsed_s == 20.0
    assert set(whole.floors) == {"embedded:easy, other batches", "embedded:hard, other batches"}


@pytest.mark.parametrize(
    ("verdicts", "counts", "verdict"),
    [
        ((None, None), (None, None), None),
        ((Sight.UNKNOWN, Sight.UNKNOWN), ((4, 0), (4, 0)), Sight.UNKNOWN),
        ((Sight.UNKNOWN, Sight.SEES), ((4, 0), (20, 0)), Sight.SEES),
        ((Sight.REACTS, Sight.REACTS), ((14, 10), (12, 12)), Sight.REACTS),
        ((Sight.BLIND, Sight.BLIND), ((0, 0), (0, 0)), Sight.BLIND),
    ],
)
def test_sight_when_taken_together_then_all_questions_decide(
    result: StudyResult,
    verdicts: tuple[Sight | None, ...],
    counts: tuple[tuple[int, int] | None, ...],
    verdict: Sight | None,
) -> None:

    assert look_test.pooled(verdicts, counts) == verdict


def test_report_when_written_as_html_then_it_stands_alone_and_has_grids_with_intervals(result: StudyResult) -> None:
    page = html(result, TEXT, COMMAND)
    tags = Tags(page)
    assert {"table", "svg", "style"} <= tags.seen
    assert not tags.seen & {"script", "iframe", "link"}
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "Do &lt;b&gt;bits&lt;/b&gt; matter?" in page
    assert "<b>bits" not in page
    assert "-22.0; -" in page
    for pair in PAIRS:
        assert pair.model.sha256 in page
        assert pair.projector.sha256 in page
    assert "python -m playground study &#39;my study.toml&#39;" in page
    assert "103 tok/s" in page
    assert "python -m playground quantize a.gguf Q4_0 --out b.gguf" in page
    assert "What is missing" not in page


def test_report_when_written_as_markdown_then_it_has_the_same_tables(result: StudyResult) -> None:
    text = markdown(result, TEXT, COMMAND)
    assert text.startswith(("# Do &lt;b>bits", "# Do &lt;b&gt;bits"))
    lines = text.splitlines()
    (row,) = (line for line in lines if line.startswith("| Q4_0+Q4_0 | 0.0 MB"))
    assert [cell.split(" ")[0] for cell in row.split("|")[3:6]] == [""] * 3
    assert re.search(r"78\.0% \(-22\.0; -\d+\.\d to -\d+\.\d, worse\)", row)
    alone = [line for line in lines if line.startswith(f"| {FAMILY}: ")]
    assert [line.split("|")[1].strip() for line in alone] == [
        f"{FAMILY}: projector Q4_0",
        f"{FAMILY}: language model Q4_0",
    ]
    assert any(line.startswith("| language model | mmproj F16 | mmproj Q4_0 |") for line in lines)
    assert all(f"`{pair.model.sha256}`" in text for pair in PAIRS)


def test_report_when_a_part_is_missing_then_it_says_which_and_why(result: StudyResult) -> None:
    lost = StudyFamilyResult("Lost", PAIRS, (), ())
    partial = StudyResult(STUDY, (*result.families, lost), result.sets, result.finished, 0, ("Gone: no | network",))
    page, text = html(partial, TEXT, COMMAND), markdown(partial, TEXT, COMMAND)
    for words in ("What is missing", "Gone: no | network", "Lost: nothing was measured."):
        assert words in page
        assert words in text


def test_results_when_written_then_each_is_a_valid_document_with_the_speed(result: StudyResult, tmp_path: Path) -> None:
    written = write(result, tmp_path / "out", study_text=TEXT, command=COMMAND, uploader="me")
    assert [path.name for path in written[:2]] == ["report.html", "report.md"]
    read = [result_documents.read(path) for path in written[2:]]
    assert [document.questions.count for document in read] == [40, 60]
    assert {document.uploader for document in read} == {"me"}
    assert [v.speed and v.speed.tokens_per_second for v in read[0].variants] == [100.0, 101.0, 102.0, 103.0]
    assert read[0].settings.max_tokens == MeasurementPlan().max_tokens
    assert len(documents(result)) == 2


def test_measurement_when_kept_then_it_is_found_by_all_that_it_follows_from(
    result: StudyResult, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, step = StepStore(tmp_path / "steps"), result.finished[0]
    assert not store.has(step.key)
    store.write(step)
    assert store.read(step.key) == step
    assert not store.has(step.key[:-1] + "0")  # another key whose file has the same name
    (path,) = (tmp_path / "steps").iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert store.read(step.key) is None
    assert "is measured again" in caplog.text


@pytest.mark.parametrize(("places", "at_once"), [(1, 1), (2, 1), (4, 2), (9, 4)])
def test_measurements_when_there_are_more_places_than_language_models_then_several_run_at_once(
    tmp_path: Path, places: int, at_once: int
) -> None:
    request = MeasureRequest(QuestionSet("set", (), tmp_path), PAIRS, BASE)  # two language models
    assert measurements_at_once(places, [StudyStep("k", QUESTIONS, FAMILY, "set", request)]) == at_once
    assert measurements_at_once(places, []) == places


def test_work_when_there_are_two_places_then_two_pieces_are_done_at_once() -> None:
    both, pieces, lock = Barrier(2, timeout=30), [], threading.Lock()

    def do(piece: int) -> None:
        both.wait()  # for the other one
        with lock:
            pieces.append(piece)

    spread(range(4), 2, do, Event())
    assert sorted(pieces) == [0, 1, 2, 3]


def test_work_when_a_piece_fails_then_the_others_end_and_its_error_is_raised() -> None:
    stop, pieces = Event(), list[int]()

    def do(piece: int) -> None:
        if piece == 1:
            raise BadInput("no")
        pieces.append(piece)

    with pytest.raises(BadInput, match="no"):
        spread(range(5), 1, do, stop)
    assert pieces == [0]
    stopped = Event()
    stopped.set()
    with pytest.raises(Interrupted):
        spread([1], 1, do, stopped)


@pytest.mark.parametrize(("variants", "is_enough"), [(2, True), (8, False)])
def test_plan_when_many_variants_are_judged_then_more_questions_have_to_be_unchanged(
    variants: int, is_enough: bool
) -> None:
    plan = StudyPlan("s", (PlannedFamily("Tiny", variants),), (PlannedSuite("drawn", 100, 0),), variants, "out")
    assert any("Without a changed answer they show that less than 5%" in line for line in plan.lines) is is_enough
