"""A cell's run as the page gets it: the real embedded pair, no browser, no Gradio."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import msgspec
import pytest
from msgspec import UNSET

from playground.comparing.branching import BranchPoint
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.measuring.results import MeasurementPlan
from playground.models.presets import data_folder
from playground.notebooks.cells import STOPPED_BY_HAND, CellQuestions, CompareCell, NoteCell, Run, RunState
from playground.notebooks.file_format import WholeCell
from playground.values.answer import PaneState
from playground.web.job_limits import JobLimits
from playground.web.live_runs import BranchJob, RunJob
from playground.web.notebook_view import NotebookView
from playground.web.prometheus import RunMetrics
from playground.web.replies import RunUpdate, document
from playground.web.run_stream import RunStream
from playground.wiring import Parts

SCENE = data_folder() / "tiny-vlm/evaluation/hard-62.png"
VARIANTS = ("tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16")


@dataclass
class Lab:
    parts: Parts
    runs: RunStream

    def updates(self, key: str, cell: str) -> Iterator[RunUpdate]:
        return self.runs.stream(RunJob(key, cell, "anna", to_its_end=False))

    def notebook(self, *cells: CompareCell | NoteCell) -> tuple[str, list[str]]:
        """Its key, and the ids of its cells."""
        browser, _ = self.parts.library.browser(None)
        notebook = self.parts.library.create(browser, "Test", [WholeCell(cell) for cell in cells])
        return notebook.id, list(notebook.cells)

    def asks(self, *prompts: str, variants: tuple[str, ...] = VARIANTS, max_tokens: int = 24) -> CompareCell:
        picture = self.parts.library.pictures.keep(read_image(SCENE), "scene.png")
        settings = RunSettings(n_ctx=1024, max_tokens=max_tokens)
        return CompareCell(
            "c", prompts=prompts, pictures=(picture,), family="tiny-vlm", variants=variants, settings=settings
        )

    def newest(self, key: str, cell: str) -> Run | None:
        return self.parts.library.newest_run(self.parts.library.own(key), cell)


@pytest.fixture
def lab(parts: Parts) -> Lab:
    deriving = Thread(target=lambda: None)
    deriving.start()
    deriving.join()
    metrics = RunMetrics(parts.pool.memory)
    return Lab(parts, RunStream(parts, NotebookView(parts), deriving, metrics, JobLimits("jobs", 2, 1)))


def test_run_when_it_ends_then_the_page_has_every_answer_and_the_library_keeps_it(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?"))
    updates = list(lab.updates(key, cell))
    assert updates[0].runs == 1
    assert {update.block for update in updates[1:-1]} == {"1.0"}  # one comparison, patched as it goes on
    assert [update.ended for update in updates] == [False] * (len(updates) - 1) + [True]
    run = lab.newest(key, cell)
    assert run is not None
    assert run.state is RunState.DONE
    answers = [pane.text for pane in run.results[0].update.panes]
    assert len(answers) == 2
    assert all(answer.split()[0] in str(updates[-1].outputs) for answer in answers)
    assert document(updates[-1]) == {
        "cell": cell, "outputs": str(updates[-1].outputs), "runs": 1, "problem": None, "ended": True,
    }  # fmt: skip


def test_branch_when_it_ends_then_the_page_shows_its_run_and_the_library_keeps_it(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?", max_tokens=8))
    list(lab.updates(key, cell))
    before = lab.newest(key, cell)
    assert before is not None
    pane = before.results[0].update.panes[1]
    branch = BranchJob(1, 0, BranchPoint(pane.variant, 1, pane.token_ids[1]))
    updates = list(lab.runs.stream(RunJob(key, cell, "anna", to_its_end=False, branch=branch)))
    assert {update.block for update in updates[1:-1]} == {"1.0"}
    assert updates[-1].ended
    after = lab.newest(key, cell)
    assert after is not None
    assert after.number == 1
    assert [b.pane.text for b in after.results[0].update.branches] == [pane.text]
    assert [result.update.panes for result in after.results] == [result.update.panes for result in before.results]


def test_run_when_a_question_was_added_then_it_goes_on_with_that_one(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?"))
    list(lab.updates(key, cell))
    before = lab.newest(key, cell)
    assert before is not None
    compare = lab.parts.library.cell(lab.parts.library.own(key), cell)
    lab.parts.library.write(key, msgspec.structs.replace(compare, prompts=("What do you see?", "What colour is it?")))
    *_, last = lab.updates(key, cell)
    after = lab.newest(key, cell)
    assert after is not None
    assert last.runs == 1
    assert after.results[0] == before.results[0]
    assert len(after.results) == 2


def test_run_when_it_is_abandoned_on_the_way_then_it_is_kept_as_stopped(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?", max_tokens=128))
    updates = lab.updates(key, cell)
    while next(updates).block is UNSET:
        pass
    updates.close()  # type: ignore[attr-defined]
    run = lab.newest(key, cell)
    assert run is not None
    assert run.state is RunState.STOPPED
    assert all(pane.state.ended for pane in run.results[0].update.panes)


def test_run_when_it_is_stopped_on_the_way_then_the_last_update_says_so(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?", max_tokens=128))
    job = RunJob(key, cell, "anna", to_its_end=False)
    updates = lab.runs.stream(job)
    while next(updates).block is UNSET:
        pass
    job.stop.run(STOPPED_BY_HAND)
    *_, last = updates
    assert last.ended
    run = lab.newest(key, cell)
    assert run is not None
    assert run.state is RunState.STOPPED
    assert run.ending == "stopped by hand"
    assert "stopped by hand</span>" in str(last.outputs)
    assert PaneState.STOPPED in {pane.state for pane in run.results[0].update.panes}


def test_run_when_the_cell_cannot_be_run_then_an_update_says_why_and_nothing_is_kept(lab: Lab) -> None:
    key, (note, empty, unknown) = lab.notebook(
        NoteCell("n", "text"),
        msgspec.structs.replace(lab.asks(""), pictures=()),
        lab.asks("What?", variants=("tiny-vlm:Q9+mmproj-F16",)),
    )
    for cell, reason in ((note, "note"), (empty, "prompt"), (unknown, "Not on this machine: tiny-vlm:Q9+mmproj-F16")):
        *_, last = lab.updates(key, cell)
        assert last.ended
        assert reason in str(last.error)
        assert last.outputs is UNSET
    assert lab.newest(key, empty) is None


def test_run_when_the_key_may_only_read_then_it_is_refused_and_nothing_is_kept(lab: Lab) -> None:
    key, (cell,) = lab.notebook(lab.asks("What do you see?"))
    lab.parts.library.share(key, True)
    shared = lab.parts.library.own(key).share
    assert shared is not None
    (update,) = lab.updates(shared, cell)
    assert update.ended
    assert update.error
    assert lab.newest(key, cell) is None


def test_measurement_when_it_ends_then_the_run_holds_it(lab: Lab) -> None:
    plan = MeasurementPlan(drift=True, accuracy=False, look=False, speed=False, max_tokens=8)
    compare = lab.asks("")
    cell = CompareCell(
        "c",
        family=compare.family,
        variants=VARIANTS,
        settings=compare.settings,
        questions=CellQuestions(n=2, plan=plan),
    )
    key, (id,) = lab.notebook(cell)
    *updates, last = lab.updates(key, id)
    assert any(update.outputs is not UNSET for update in updates)  # how far it has come
    assert last.ended
    run = lab.newest(key, id)
    assert run is not None
    assert run.state is RunState.DONE
    assert run.measurement is not None
    reference, other = run.measurement.results
    assert reference.mean_kl is None
    assert other.mean_kl is not None
    assert other.mean_kl.value > 0


def test_run_stream_when_imported_then_gradio_is_not() -> None:
    code = "import sys, playground.web.run_stream, playground.web.panel_values; print('gradio' in sys.modules)"
    root = Path(__file__).parents[2]
    process = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert process.stdout.strip() == "False", process.stderr


def test_measurement_when_one_of_the_person_runs_already_then_busy_and_nothing_is_kept(lab: Lab) -> None:
    plan = MeasurementPlan(max_tokens=4)
    asks = msgspec.structs.replace(lab.asks("x"), questions=CellQuestions(n=4, plan=plan))
    key, (cell, other) = lab.notebook(asks, asks)
    first = lab.updates(key, cell)
    while next(first).outputs is UNSET:
        pass
    (refused,) = lab.updates(key, other)
    assert str(refused.error).startswith("Busy: 1 of your jobs run or wait already.")
    assert refused.ended
    assert lab.newest(key, other) is None
    first.close()  # type: ignore[attr-defined]
    again = lab.updates(key, other)
    assert next(again).error is UNSET
    assert next(again).error is UNSET
    again.close()  # type: ignore[attr-defined]
