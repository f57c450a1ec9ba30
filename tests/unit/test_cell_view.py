"""What a cell shows of its runs, without a browser."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec
import pytest

from playground.comparing.run_settings import RunSettings
from playground.measuring.results import Measurement, MeasurementPlan, VariantResult
from playground.measuring.ship_card import ShipLimits
from playground.notebooks.cells import CellQuestions, CompareCell, Run, RunState
from playground.notebooks.library import Notebook, RunInfo
from playground.rendering import cell_view, reports
from testkit import ship_cards
from testkit.notebooks import ANSWERED, BLUE, F16, Q2, RED, compare_cell, picture, run_of

CELL = compare_cell()
ELSE = compare_cell(prompts=("Where?",), pictures=(picture(BLUE, "b.png"),), settings=RunSettings(temperature=0.5))


def shown(run: Run, cell: CompareCell, *, runs: int = 1, beside: Run | None = None, can_edit: bool = True) -> str:
    infos = [RunInfo(number, "", RunState.DONE) for number in range(1, runs + 1)]
    html = cell_view.run(run, infos, cell, no_thumbnail, lambda name: None, can_edit=can_edit, beside=beside)
    return " ".join(str(html).split())


def no_thumbnail(sha256: str) -> None:
    return None


def test_run_when_it_asked_what_the_cell_asks_then_its_question_is_not_repeated() -> None:
    assert "was asked" not in shown(run_of(CELL, ANSWERED), CELL).replace("show what this run was asked", "")


@pytest.mark.parametrize("can_edit", [True, False])
def test_run_when_the_cell_asks_something_else_then_headed_by_its_own_question(can_edit: bool) -> None:
    html = shown(run_of(ELSE, ANSWERED), CELL, can_edit=can_edit)
    head = html[html.index("What run 1 was asked") : html.index("vp-block")]
    assert '<p dir="auto">Where?</p>' in head
    assert "b.png" in head
    assert "temperature 0.5" in head
    assert ("Put these back into the cell" in head) is can_edit


def test_runs_when_side_by_side_then_each_has_its_question_and_a_variant_has_one_row() -> None:
    old, newest = run_of(ELSE, ANSWERED), run_of(CELL, ANSWERED, number=2)
    html = shown(old, CELL, runs=2, beside=newest)
    assert html.count("was asked") == 2
    assert [html.count(f"grid-row:{row}") for row in (2, 3, 4)] == [2, 2, 0]


def test_details_when_nothing_was_set_then_the_question_and_the_defaults_are_there() -> None:
    details = dict(cell_view.details(run_of(CELL, ANSWERED)))
    assert details["question"] == "What?"
    assert details["image"] == f"a.png, {RED.width} × {RED.height} pixels"
    assert details["temperature"] == "0 (greedy)"
    assert {"seed", "max tokens", "n ctx"} <= details.keys()
    assert dict(cell_view.details(run_of(ELSE, ANSWERED)))["temperature"] == 0.5


def test_notebook_when_it_may_be_changed_then_it_says_what_it_is_for_and_has_three_doors() -> None:
    notebook = Notebook(id="n", title="Mine", cells=())
    for can_edit in (True, False):
        html = str(cell_view.page(notebook, [], [], can_edit=can_edit))
        assert ("Which quantization can I ship?" in html) is can_edit
        assert html.count('data-do="door-') == (3 if can_edit else 0)


def test_model_when_its_family_has_a_preset_then_cell_run_report_and_markdown_name_it() -> None:
    tiny = msgspec.structs.replace(CELL, family="tiny-vlm")
    html = str(
        cell_view.compare(tiny, 1, {}, no_thumbnail, can_edit=True, runs=0, examples=(), outputs=cell_view.notice(""))
    )
    assert "of <b>Tiny VLM 7M</b>" in html
    assert '<h2 class="vp-sr">Cell 1: What?</h2>' in html
    of_family = [dataclasses.replace(variant, family="tiny-vlm") for variant in (F16, Q2)]
    run = run_of(tiny, ANSWERED, variants=tuple(of_family))
    assert dict(cell_view.details(run))["model"] == "Tiny VLM 7M"
    assert "Model: Tiny VLM 7M" in reports.markdown("t", [(tiny, (run,))])
    assert dict(cell_view.details(run_of(CELL, ANSWERED)))["model"] == "fam"  # of no preset


def test_markdown_when_pictures_are_kept_then_each_is_shown_once_also_an_older_runs() -> None:
    runs = run_of(ELSE, ANSWERED), run_of(CELL, ANSWERED, number=2)
    text = reports.markdown("t", [(CELL, runs)], lambda sha256: ("image/png", sha256[:1].encode()))
    assert text.count("](data:image/png;base64,") == 2
    assert text.index("![a.png](") < text.index("### Run 2") < text.index("### Run 1") < text.index("![b.png](")
    assert "data:" not in reports.markdown("t", [(CELL, runs)])


def test_exports_when_a_cell_measures_then_its_questions_stand_in_place_of_a_prompt() -> None:
    asked = CellQuestions(source="a" * 64, name="own.zip\nimport os  # {1+1}", n=7)
    cell = msgspec.structs.replace(CELL, prompts=("",), pictures=(), questions=asked)
    line = "Measurement: own.zip import os # {1+1}, 7 asked"
    assert f"## {line}\n" in reports.markdown("t", [(cell, ())])
    no_files: Any = None  # the cell has no pictures
    assert line in reports.html("t", [(cell, ())], no_files, lambda questions: lambda name: None)
    book = json.loads(reports.jupyter("t", [(cell, ())], no_files, lambda questions: lambda name: None))
    assert "".join(book["cells"][1]["source"]) == f"# {line}: run it on the page."


LOOK, SPEED = "“Does it use the image?”", "“Speed”"


@pytest.mark.parametrize(
    ("measured", "asked", "tick"),
    [
        ({"looks": None}, CellQuestions(), f"tick {LOOK} and press"),
        ({"looks": None, "speed": None}, CellQuestions(limits=ShipLimits(min_tokens_per_second=9)),
         f"tick {LOOK} and {SPEED} and press"),
        ({"speed": None}, CellQuestions(plan=MeasurementPlan(look=True), limits=ShipLimits(max_memory=9 * 2**20)),
         f"tick {SPEED} and press"),
        # It would not help.
        ({"looks": None, "changed": 60}, CellQuestions(), None),
        ({}, CellQuestions(plan=MeasurementPlan(look=True)), None),
    ],
)  # fmt: skip
def test_card_when_only_what_was_not_measured_is_missing_then_the_page_says_what_to_tick(
    measured: dict[str, object], asked: CellQuestions, tick: str | None
) -> None:
    results: tuple[VariantResult, ...] = (
        ship_cards.result("F16"),
        ship_cards.result("Q8", 0.0001, **{"memory": None, **measured}),
    )
    variants = tuple(ship_cards.VARIANTS[name] for name in ("F16", "Q8"))
    run = run_of(
        compare_cell(questions=asked), variants=variants, reference=variants[0].id,
        measurement=Measurement(ship_cards.ASKED, ("a",) * ship_cards.N, results),
    )  # fmt: skip
    html, printed = (
        " ".join("".join(map(str, cell_view.measurement(run, lambda name: None, printed=printed))).split())
        for printed in (False, True)
    )
    assert ("To get a recommendation, " in html) == (tick is not None)
    assert tick is None or tick in html
    assert "To get a recommendation, " not in printed
