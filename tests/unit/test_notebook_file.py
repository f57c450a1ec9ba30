"""The notebook's file, and what is told of two runs."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput
from playground.measuring.results import MeasurementPlan
from playground.measuring.ship_card import ShipLimits
from playground.measuring.statistics import Interval
from playground.notebooks.cells import (
    CellQuestions,
    CompareCell,
    NoteCell,
    Run,
    RunResult,
    RunState,
    check_cell,
    pictures_of,
    settled,
    without_paths,
)
from playground.notebooks.file_format import MAX_CELLS, WholeCell, from_json, to_json
from playground.notebooks.file_format import written as pieces_of_file
from playground.notebooks.run_cell import card_of, results_of
from playground.notebooks.run_diff import changes
from playground.quantizing.scan_results import Scan
from playground.rendering import card_view as card_page
from playground.rendering import cell_view as page
from playground.rendering import comparison_view
from playground.values.answer import Candidate, Elsewhere, Pane, PaneState, TokenScore
from playground.values.files import NO_FILE, Variant
from playground.values.request import Order
from testkit.notebooks import (
    ANSWERED,
    BLUE,
    F16,
    Q2,
    Q8,
    RED,
    compare_cell,
    measurement,
    pane,
    picture,
    png,
    result,
    run_of,
    sensitivity,
    whole,
)


def written(title: str = "T") -> str:
    return to_json(title, whole(), {RED.sha256: png(RED), BLUE.sha256: png(BLUE)}.get)


def edited(*path: str | int, to: Any) -> str:
    """The file with one value in it set by hand."""
    document = json.loads(written())
    place = document
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = to
    return json.dumps(document)


NONSENSE: list[Any] = [None, 0, -1, 10**400, 1.5, "", "../../x", [], {}, [1], True]


def places(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """The ways to every value of a JSON document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return [path, *(place for key, value in inner for place in places(value, (*path, key)))]


def show(cells: tuple[WholeCell, ...]) -> None:
    """Every view of what was imported."""
    for cell in cells:
        for run in cell.runs:
            assert page.overall(run) is not None
            assert changes(cell.runs[0], run)
            for printed in (False, True):
                blocks = page.measurement(run, lambda name: None, printed=printed)
                assert bool(blocks) == (run.measurement is not None or run.sensitivity is not None)
            card = card_of(run)
            if card is not None:
                assert card_page.write("json", card)
            for turn in run.results:
                comparison_view.panes(turn.update, run.variants, run.reference)
        to_json("again", [(cell.cell, cell.runs)], lambda _: None)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_file_when_written_and_read_then_all_is_there_again() -> None:
    title, cells, problems = from_json(written('Ein \u2028 "Titel" \U0001f600'))
    assert title == 'Ein \u2028 "Titel" \U0001f600'
    assert problems == ()
    assert [(cell.cell, cell.runs) for cell in cells] == whole()
    images = {sha256: data for cell in cells for sha256, data in cell.images.items()}
    assert {sha256: base64.b64decode(data) for sha256, data in images.items()} == {
        RED.sha256: png(RED),
        BLUE.sha256: png(BLUE),
    }
    again = to_json(title, [(cell.cell, cell.runs) for cell in cells], lambda sha256: base64.b64decode(images[sha256]))
    assert again == written(title)


def test_file_when_written_in_pieces_then_each_line_is_its_cell_as_a_whole() -> None:
    pngs = {RED.sha256: png(RED), BLUE.sha256: png(BLUE)}
    lines = written().split("\n")[1:-2]
    seen = set[str]()
    for line, (cell, runs) in zip(lines, whole(), strict=True):
        new = {p.sha256: base64.b64encode(pngs[p.sha256]).decode() for p in pictures_of(cell, runs)}
        images = {sha256: data for sha256, data in new.items() if sha256 not in seen}
        assert line.removesuffix(",") == msgspec.json.encode(WholeCell(cell, runs, images)).decode()
        seen |= images.keys()
    assert seen == pngs.keys()


def test_file_when_it_has_many_runs_then_each_is_read_when_its_piece_is_wanted_and_not_kept() -> None:
    cell = compare_cell(pictures=())
    run = run_of(cell, result(replace(pane(F16, ""), text="word " * 10_000), replace(pane(Q2, ""), text="x" * 50_000)))
    taken = 0

    def read() -> Iterator[Run]:
        nonlocal taken
        for number in range(20):
            taken += 1
            yield msgspec.structs.replace(run, number=number)

    size = done = 0
    tracemalloc.start()
    for piece in pieces_of_file("t", ((cell, read()) for _ in range(10)), lambda sha256: None):
        size += len(piece)
        done += '"number":' in piece
        assert taken - done <= 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (taken, done) == (200, 200)
    assert size > 15_000_000
    assert peak < 1_500_000


def test_run_when_a_server_elsewhere_answered_then_kept_with_what_it_said_of_itself() -> None:
    box = Variant("elsewhere:box", "elsewhere", "elsewhere: box", NO_FILE, NO_FILE, endpoint="box")
    elsewhere = Elsewhere("some/model", "fp", 0.5, 1.5, 7, 2)
    scores = (TokenScore("cat", 0.5, (Candidate(None, "cat", 0.5),)),)
    theirs = Pane(box.id, PaneState.DONE, "cat", scores=scores, elsewhere=elsewhere)
    cell = compare_cell(variants=(F16.id, box.id))
    run = run_of(cell, result(pane(F16, "cat"), theirs), variants=(without_paths(F16), without_paths(box)))
    _, (read,), problems = from_json(to_json("T", [(cell, (run,))], lambda sha256: None))
    assert (read.runs, problems) == ((run,), ())


def test_measurement_when_a_server_elsewhere_answered_then_it_has_a_row_and_no_place_on_card_and_results() -> None:
    box = Variant("elsewhere:box", "elsewhere", "elsewhere: box", NO_FILE, NO_FILE, endpoint="box")
    reference, other = measurement().results
    run = run_of(compare_cell(variants=(F16.id, Q2.id, box.id), questions=CellQuestions()), variants=(F16, Q2, box))

    def measured(reference_id: str) -> Run:
        theirs = msgspec.structs.replace(reference, variant=box.id, speed=None)
        changed = msgspec.structs.replace(measurement(), results=(reference, other, theirs), floors={}, floor=None)
        return msgspec.structs.replace(run, measurement=changed, reference=reference_id)

    beside, first = measured(F16.id), measured(box.id)
    card, shared = card_of(beside), results_of(beside)
    assert card is not None
    assert shared is not None
    assert [row.variant for row in card.rows] == [F16.id, Q2.id]
    assert "" not in {file.sha256 for file in card.files}
    assert [v.label for v in shared.variants] == ["F16", "Q2_K"]
    assert card_of(first) is None
    with pytest.raises(BadInput, match="The files of elsewhere: box are not known"):
        results_of(first)
    html = "".join(map(str, page.measurement(first, lambda name: None, printed=True)))
    assert "elsewhere: box" in html
    assert html.count(" at least") == 1  # Q2_K's drift


def test_file_when_written_then_one_cell_a_line_and_each_picture_once() -> None:
    text = written()
    lines = text.split("\n")[:-1]
    assert len(lines) == 2 + len(whole())
    assert all("cell" in json.loads(line.rstrip(",")) for line in lines[1:-1])
    assert text.count(base64.b64encode(png(RED)).decode()) == 1
    assert "/home/me" not in text


def test_file_when_a_picture_is_lost_then_the_rest_is_written() -> None:
    _, cells, problems = from_json(to_json("T", whole(), lambda _: None))
    assert problems == ()
    assert [cell.images for cell in cells] == [{}, {}, {}]
    assert [cell.cell for cell in cells] == [cell for cell, _ in whole()]


def test_file_when_empty_then_a_notebook_without_cells() -> None:
    assert from_json(to_json("T", [], lambda _: None)) == ("T", (), ())


def test_file_when_reformatted_then_read_the_same() -> None:
    assert from_json(json.dumps(json.loads(written()), indent=2, sort_keys=True)) == from_json(written())


def test_file_when_of_a_newer_version_then_refused_with_what_to_do() -> None:
    with pytest.raises(BadInput, match=r"newer version of the playground \(format 2; this one reads up to 1\)"):
        from_json(edited("version", to=2))


def test_field_when_only_a_newer_version_knows_it_then_passed_over() -> None:
    assert from_json(edited("cells", 1, "cell", "mood", to="blue")) == from_json(written())


def test_file_when_cut_then_the_cells_before_the_cut_are_there_and_it_is_told() -> None:
    text = written()
    begin = text.index("[\n") + 2
    lines = text[begin : text.rindex("\n]")].split(",\n")
    ends = list(itertools.accumulate((len(line) + 2 for line in lines), initial=begin - 2))[1:]
    spots = {begin, *(end + more for end in ends for more in (-1, 0, 1)), *range(begin, ends[-1], ends[-1] // 30)}
    assert len(spots) > 30
    for spot in sorted(spots):
        title, cells, problems = from_json(text[:spot])
        before = sum(end <= spot for end in ends)
        assert title == "T"
        assert [(cell.cell, cell.runs) for cell in cells] == whole()[:before]
        assert len(problems) == 1
        assert f"Cells read before that: {before}." in problems[0]
        assert f"damaged from line {text.count(chr(10), 0, spot) + 1} on" in problems[0]


def test_file_when_cut_in_its_beginning_then_nothing_is_invented() -> None:
    text = written()
    for spot in range(text.index("[\n") - 10):
        with contextlib.suppress(BadInput):
            _, cells, problems = from_json(text[:spot])
            assert (cells, len(problems)) == ((), 1)


@pytest.mark.parametrize("junk", ["x", "}", "\0", '{"cells": [1]}'])
def test_file_when_something_stands_behind_it_then_all_cells_are_there_and_it_is_told(junk: str) -> None:
    _, cells, problems = from_json(written() + junk)
    assert [(cell.cell, cell.runs) for cell in cells] == whole()
    assert len(problems) == 1
    assert "Cells found all the same: 3." in problems[0]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "x", "null", "3", '"text"', "[]", "[{}]", "{}", "{", "[" * 100_000, '{"a":' * 100_000, "\0", "\ud800",
        '{"format": "vlm-quant-playground/notebook", "version": 1e999, "cells": [!',
        '{"format": "vlm-quant-playground/notebook", "version": "1", "cells": []}',
        '{"format": "vlm-quant-playground/notebook", "version": 1, "title": 5}',
        '{"format": "vlm-quant-playground/notebook", "version": 1, "cells": {}}',
        '{"nbformat": 4, "cells": []}', '{"format": "other", "version": 1, "title": ""}',
        '{"format": ' + "[" * 5000 + '1, "cells": [',
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_file_when_it_is_no_notebook_then_refused_in_words(text: str) -> None:
    with pytest.raises(BadInput, match="This is not a notebook of this playground") as refused:
        from_json(text)
    assert len(str(refused.value)) < 300


RUN = ("cells", 1, "runs", 0)
UPDATE = (*RUN, "results", 0, "update")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*RUN, "reference"), "fam:Q9", "its reference is not among its variants"),
        ((*RUN, "variants"), [], "its reference is not among its variants"),
        ((*RUN, "results", 1, "turn"), 2, "it answers question 3 of 2"),
        ((*RUN, "results", 1, "turn"), -1, "it answers question 0 of 2"),
        ((*UPDATE, "panes", 0, "variant"), "fam:Q9", "a pane without a variant"),
        ((*UPDATE, "panes", 0, "state"), "asleep", "Invalid enum value 'asleep'"),
        ((*UPDATE, "panes", 1, "first_divergence"), -3, "differs before its first token"),
        ((*UPDATE, "panes", 1, "first_divergence"), 10**18, "a number that is too large"),
        ((*UPDATE, "branches", 0, "at"), -1, "a branch that belongs to no answer"),
        ((*UPDATE, "branches", 0, "pane", "variant"), "fam:Q9", "a pane without a variant"),
        ((*UPDATE, "panes", 0, "text"), None, "Expected `str`, got `null`"),
        ((*UPDATE, "panes", 0, "metrics", "host_rss_bytes"), 10**400, "a number that is too large"),
        ((*UPDATE, "panes", 0, "metrics", "ttft_s"), 1e300, "a number that is too large"),
        ((*UPDATE, "panes"), {}, "Expected `array`"),
        ((*UPDATE,), None, "Expected `object`"),
        ((*RUN, "variants", 0, "model", "bytes"), 0, "a variant without a size"),
        ((*RUN, "variants", 0, "model"), [], "Expected `object`"),
        ((*RUN, "cell", "pictures", 0, "sha256"), "../../x", "invalid sha256"),
        ((*RUN, "cell", "prompts"), [], "A conversation has 1 to 20 questions"),
        ((*RUN, "cell", "type"), "note", "Invalid value 'note'"),
        ((*RUN, "state"), 3, "Expected `str`"),
        ((*RUN, "number"), 0, "its number is 0"),
        ((*RUN, "number"), 2, "not the first with the number 2"),
        ((*RUN, "number"), "1", "Expected `int`"),
        (RUN, "gone", "Expected `object`"),
        ((*UPDATE, "panes", 0, "token_ids"), [1] * 20_001, "a list in it has more than 20,000 entries"),
        ((*UPDATE, "panes", 1, "remarks"), ["loop"] * 20_001, "a list in it has more than 20,000 entries"),
        ((*UPDATE, "panes", 0, "scores", 0, "candidates"), [{"token_id": 1, "text": "a", "probability": 0.1}] * 101,
         "more than 100 likely tokens at one place"),
        ((*RUN, "results"), [{"turn": 0, "update": {"panes": []}}] * 21, "it has 21 comparisons; a cell asks 20"),
        ((*UPDATE, "panes"), [{"variant": F16.id}] * 2, "two panes of one variant"),
    ],
)  # fmt: skip
def test_run_when_edited_by_hand_to_nonsense_then_left_out_and_told(path: Any, value: Any, message: str) -> None:
    _, cells, problems = from_json(edited(*path, to=value))
    assert len(cells) == 3
    assert len(cells[1].runs) == 1
    assert cells[1].cell == whole()[1][0]
    assert len(problems) == 1
    assert problems[0].startswith("Cell 2: run ")
    assert message in problems[0]
    show(cells)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("type",), "video", "Invalid value 'video'"),
        (("type",), 5, "Expected `str`"),
        (("prompts",), "What?", "Expected `array`"),
        (("prompts",), [], "A conversation has 1 to 20 questions"),
        (("prompts",), ["?"] * 21, "A conversation has 1 to 20 questions"),
        (("prompts",), ["x" * 200_001], "The text is too long"),
        (("pictures", 0, "sha256"), "../../x", "invalid sha256"),
        (("pictures", 0, "sha256"), "*", "invalid sha256"),
        (("pictures", 0, "sha256"), RED.sha256.upper(), "invalid sha256"),
        (("pictures", 0, "sha256"), RED.sha256 + "\n", "invalid sha256"),
        (("pictures", 0, "width"), 10**30, "a number that is too large"),
        (("pictures", 0, "width"), "8", "Expected `int`"),
        (("pictures",), [{}] * 2, "missing required field `sha256`"),
        (("variants",), ["x"] * 1001, "more than 1,000 variants"),
        (("settings",), {"chat_template": "x" * 3_000_001}, "longer than 3,000,000 characters"),
        (("settings",), {"temprature": 1}, "unknown field `temprature`"),
        (("settings",), {"temperature": "hot"}, "Expected `float | null`"),
        (("version",), -(10**400), "a number that is too large"),
        (("id",), None, "Expected `str`"),
    ],
)  # fmt: skip
def test_cell_when_edited_by_hand_to_nonsense_then_left_out_and_told(path: Any, value: Any, message: str) -> None:
    _, cells, problems = from_json(edited("cells", 1, "cell", *path, to=value))
    assert [cell.cell for cell in cells] == [whole()[0][0], whole()[2][0]]
    assert len(problems) == 1
    assert problems[0].startswith("Cell 2 cannot be used and was left out: ")
    assert not problems[0].endswith("..")
    assert message in problems[0]


@pytest.mark.parametrize("line", [None, 3, "x", [], {}, {"cell": None}, {"cell": []}, {"cell": {}}, {"runs": []}])
def test_line_when_it_is_no_cell_then_left_out_and_told(line: Any) -> None:
    _, cells, problems = from_json(edited("cells", 1, to=line))
    assert len(cells) == 2
    assert problems[0].startswith("Cell 2 cannot be used and was left out: ")


@pytest.mark.parametrize(("name", "what"), [("runs", "its runs"), ("images", "its images")])
@pytest.mark.parametrize("value", [None, 3, "x", [3], {"a": 3}])
def test_part_when_of_another_kind_then_its_cell_stays(name: str, what: str, value: Any) -> None:
    _, cells, problems = from_json(edited("cells", 1, name, to=value))
    assert [cell.cell for cell in cells] == [cell for cell, _ in whole()]
    assert len(problems) == 1
    assert "cannot be used and w" in problems[0]


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 5000, "NaN", "Infinity"])
def test_number_when_it_is_none_then_only_what_holds_it_is_left_out(number: str) -> None:
    _, cells, problems = from_json(written().replace('"elapsed_s":2.0', f'"elapsed_s":{number}', 1))
    assert len(cells) >= 2
    assert sum(len(cell.runs) for cell in cells) < 3
    assert problems


def test_text_when_it_holds_half_a_character_then_the_rest_is_there_and_it_is_told() -> None:
    _, cells, problems = from_json(written().replace("three red squares", "\ud800", 1))
    assert cells[1].runs[0].results[0].update.panes[0].text == "?"
    assert "unpaired surrogates" in problems[0]
    _, cells, problems = from_json(written().replace("three red squares", "\\ud800", 1))
    assert [cell.cell for cell in cells] == [whole()[0][0], whole()[2][0]]
    assert "Cell 2 cannot be used" in problems[1]
    title, cells, _ = from_json(written("TITLE").replace("TITLE", "\\ud800"))
    assert (title, len(cells)) == ("?", 3)


def test_cell_when_nested_without_end_then_the_cells_before_it_are_there() -> None:
    text = written().replace('"prompts":[', '"prompts":' + "[" * 100_000, 1)
    _, cells, problems = from_json(text)
    assert [cell.cell for cell in cells] == [whole()[0][0]]
    assert "damaged from line 3 on" in problems[0]


@pytest.mark.thorough
def test_anything_when_changed_by_hand_then_what_is_imported_can_be_shown() -> None:
    """Every seventh of the file's values becomes each of these."""
    document = json.loads(written())
    shown = 0
    for number, path in enumerate(places(document["cells"])[1:]):
        _, cells, _ = from_json(edited("cells", *path, to=NONSENSE[number % len(NONSENSE)]))
        show(cells)
        shown += sum(len(cell.runs) for cell in cells)
    assert shown > 1000  # else little was left to be shown


NOTHING_TRIED = msgspec.structs.replace(sensitivity(), scan=Scan(()), sensed=(), restored=(), built=None)
LIMITS = ShipLimits(max_bytes=10**6, max_memory=2**20, min_tokens_per_second=3.5, max_kl=0.25)


def lab_run() -> Run:
    """All that a cell can measure."""
    questions = CellQuestions(
        n=2, plan=MeasurementPlan(accuracy=True, look=True, speed=True), sensitivity=True, limits=LIMITS
    )
    return run_of(compare_cell(questions=questions), measurement=measurement(), sensitivity=sensitivity())


def imported(document: Any) -> tuple[WholeCell, ...]:
    """What is read of it can be shown."""
    _, cells, _ = from_json(json.dumps(document))
    show(cells)
    return cells


@pytest.mark.thorough
def test_measurement_when_written_and_changed_by_hand_then_read_or_told_and_shown() -> None:
    run = lab_run()
    text = to_json("T", [(run.cell, (run,))], lambda sha256: None)
    _, cells, problems = from_json(text)
    assert (cells[0].cell, cells[0].runs, problems) == (run.cell, (run,), ())
    show(cells)

    whole_run = json.loads(text)["cells"][0]["runs"][0]
    for part in ("measurement", "sensitivity"):
        for number, path in enumerate(places(whole_run[part])[1:]):
            document = json.loads(text)
            place = document["cells"][0]["runs"][0][part]
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = NONSENSE[number % len(NONSENSE)]
            imported(document)
            del place[path[-1]]
            imported(document)


NUMBERS = [float("nan"), float("inf"), -1, 0, -0.5, 1e300, -(2**53), 2**53, 10**400]


@pytest.mark.thorough
def test_numbers_of_the_lab_when_changed_by_hand_then_read_or_told_and_shown() -> None:
    """Every number of the limits, and of what a scan and the speeds found, becomes each of these."""
    run = lab_run()
    text = to_json("T", [(run.cell, (run,))], lambda sha256: None)
    whole = json.loads(text)["cells"][0]
    parts: list[tuple[str | int, ...]] = [
        ("cell", "questions", "limits"),
        ("runs", 0, "cell", "questions", "limits"),
        ("runs", 0, "measurement", "results", 0, "speed"),
        ("runs", 0, "measurement", "results", 1, "speed"),
        ("runs", 0, "measurement", "results", 1, "mean_kl"),
        ("runs", 0, "measurement", "floor"),
        ("runs", 0, "sensitivity", "sensed"),
        ("runs", 0, "sensitivity", "restored"),
        ("runs", 0, "sensitivity", "built"),
    ]
    tried = 0
    for part in parts:
        inside = whole
        for step in part:
            inside = inside[step]
        for path in places(inside):
            *way, last = (*part, *path)
            for number in NUMBERS:
                document = json.loads(text)
                place = document["cells"][0]
                for step in way:
                    place = place[step]
                if isinstance(place[last], bool) or not isinstance(place[last], int | float):
                    break
                place[last] = number
                cells = imported(document)
                tried += 1
                if part[0] == "cell":  # a limit that is none, such as a later scan would begin with
                    assert len(cells) == (number == 2**53 or (number == 0 and last == "max_kl"))
                elif not abs(number) <= 2**53:
                    assert cells == () or cells[0].runs == ()
    assert tried > 250


def test_card_when_of_a_run_that_somebody_edited_then_written_in_every_kind() -> None:
    run = lab_run()
    labels = tuple(replace(v, label="W" * 50_000) for v in run.variants)
    worst = Interval(-1.0, -(2.0**53), 2.0**53)
    assert run.measurement is not None
    results = tuple(msgspec.structs.replace(r, mean_kl=worst, speed=None) for r in run.measurement.results)
    edited_run = msgspec.structs.replace(
        run, variants=labels, measurement=msgspec.structs.replace(run.measurement, results=results, floor=-1.0)
    )
    card = card_of(edited_run)
    assert card is not None
    for kind in ("html", "json", "png"):
        assert card_page.write(kind, card)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sensitivity", "scan", "kinds"), [], "other numbers of types than it tried"),
        (("sensitivity", "scan", "kinds"), ["q4_K"], "other numbers of types than it tried"),
        (("sensitivity",), msgspec.to_builtins(NOTHING_TRIED), "other numbers of types than it tried"),
        (("sensitivity", "sensed", 0, "rungs"), [], "other numbers of types than it tried"),
        (("measurement", "results", 0, "variant"), Q2.id, "a variant that it does not list, or not its reference"),
        (("measurement", "results", 0, "variant"), "fam:Q9", "a variant that it does not list, or not its reference"),
        (("measurement", "answers"), [], "other numbers of questions and answers"),
    ],
)
def test_lab_when_its_parts_do_not_belong_together_then_the_run_is_left_out_and_told(
    path: Any, value: Any, message: str
) -> None:
    run = lab_run()
    document = json.loads(to_json("T", [(run.cell, (run,))], lambda sha256: None))
    place = document["cells"][0]["runs"][0]
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    _, cells, problems = from_json(json.dumps(document))
    assert (cells[0].cell, cells[0].runs) == (run.cell, ())
    assert message in problems[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"n": 10**6},
        {"level": "x"},
        {"plan": MeasurementPlan(drift=False)},
        {"plan": MeasurementPlan(max_tokens=0)},
        {"limits": ShipLimits(max_bytes=0)},
        {"limits": ShipLimits(max_memory=-1)},
        {"limits": ShipLimits(max_kl=float("nan"))},
        {"limits": ShipLimits(min_tokens_per_second=1e300)},
        {"limits": ShipLimits(max_bytes=10**400)},
    ],
)
def test_questions_when_out_of_bounds_then_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        check_cell(compare_cell(questions=CellQuestions(**fields)))


def test_file_when_it_has_too_many_cells_then_the_first_ones_are_taken_and_it_is_told() -> None:
    cells = [(NoteCell("n", str(number)), ()) for number in range(MAX_CELLS + 3)]
    _, taken, problems = from_json(to_json("T", cells, lambda _: None))
    assert [cell.cell for cell in taken] == [cell for cell, _ in cells[:MAX_CELLS]]
    assert problems == ("Only the first 500 of 503 cells were taken.",)


# --- runs -------------------------------------------------------------------------------------------------------------


def test_run_when_it_goes_no_further_then_its_text_stays_and_nothing_waits() -> None:
    half = result(pane(F16, "done"), pane(Q2, "ha", PaneState.WRITING, note="loading"))
    run = settled(run_of(compare_cell(), half, state=RunState.RUNNING), RunState.INTERRUPTED)
    first, second = run.results[0].update.panes
    assert run.state is RunState.INTERRUPTED
    assert first == half.update.panes[0]
    assert (second.state, second.text, second.note) == (PaneState.STOPPED, "ha", None)


def test_turns_when_a_pane_failed_then_it_has_no_answer_to_go_on_from() -> None:
    run = run_of(compare_cell(), result(pane(F16, "a"), pane(Q2, "b", PaneState.FAILED)))
    (turn,) = run.turns
    assert (turn.prompt, turn.answers) == ("What?", {F16.id: "a"})


# --- what changed -----------------------------------------------------------------------------------------------------

OLD = run_of(compare_cell(), ANSWERED)
SAME = "All answers are the same."


def new(*results: RunResult, cell: CompareCell | None = None, **fields: Any) -> Run:
    return run_of(cell or compare_cell(), *(results or (ANSWERED,)), number=2, **fields)


Q8_TOO = (without_paths(F16), without_paths(Q2), without_paths(Q8))


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (new(), f"nothing was changed. {SAME}"),
        (new(cell=compare_cell(collapsed=True, version=9)), f"nothing was changed. {SAME}"),
        (new(cell=compare_cell(prompts=("Where?",))), f"the prompt changed from “What?” to “Where?”. {SAME}"),
        (new(cell=compare_cell(pictures=(picture(BLUE, "b.png"),))), f"the images changed from a.png to b.png. {SAME}"),
        (new(cell=compare_cell(gallery=True)), f"each image alone. {SAME}"),
        (
            new(cell=compare_cell(settings=RunSettings(temperature=0.7, max_tokens=64, order=Order.RACE))),
            f"temperature default → 0.7, max tokens default → 64, order default → race. {SAME}",
        ),
        (new(cell=compare_cell(settings=RunSettings(temperature=0.0))), f"temperature default → 0.0. {SAME}"),
        (new(cell=compare_cell(settings=RunSettings(chat_template="x" * 999))), f"the chat template changed. {SAME}"),
        (new(engine="llama 2"), f"the engine changed. {SAME}"),
        (new(machine="4 cores", engine="llama 2"), f"the engine changed, the machine changed. {SAME}"),
        (new(variants=Q8_TOO), f"Q8_0 added. {SAME}"),
        (
            new(result(pane(F16, "three red squares")), variants=(without_paths(F16),)),
            "Q2_K removed. F16 answers the same.",
        ),
        (
            new(result(pane(F16, "three red squares"), pane(Q2, "three blue circles"))),
            "nothing was changed. F16 the same; Q2_K differs in 1 word.",
        ),
        (
            new(result(pane(F16, "two"), pane(Q2, "three red circles", PaneState.STOPPED))),
            "nothing was changed. F16 differs in 3 words.",
        ),
        (new(result(pane(F16, "", PaneState.FAILED))), "nothing was changed."),
    ],
)
def test_changes_when_something_differs_then_that_is_told(run: Run, message: str) -> None:
    assert changes(OLD, run) == f"From run 1 to run 2: {message}"


def test_changes_when_a_file_is_another_one_then_told() -> None:
    other = replace(Q2, model=replace(Q2.model, sha256="f" * 64))
    sentence = changes(OLD, new(variants=(without_paths(F16), without_paths(other))))
    assert sentence == f"From run 1 to run 2: the files of Q2_K changed. {SAME}"


def test_changes_when_a_later_turn_differs_then_its_words_are_counted() -> None:
    cell = compare_cell(prompts=("What?", "Why?"))
    old = run_of(cell, ANSWERED, result(pane(F16, "a b c"), pane(Q2, "a b c"), turn=1))
    after = new(ANSWERED, result(pane(F16, "a b c"), pane(Q2, "a b d"), turn=1), cell=cell)
    assert changes(old, after).endswith("nothing was changed. F16 the same; Q2_K differs in 1 word.")


def test_changes_when_a_gallery_lost_its_first_image_then_each_is_compared_with_itself() -> None:
    both = compare_cell(pictures=(picture(RED), picture(BLUE)), gallery=True)
    old = run_of(
        both, *(result(pane(F16, text), of=picture) for text, picture in zip("ab", both.pictures, strict=True))
    )
    cell = compare_cell(pictures=(picture(BLUE),), gallery=True)
    after = new(result(pane(F16, "b"), of=picture(BLUE)), cell=cell)
    assert changes(old, after).endswith("the images changed from a.png, a.png to a.png. F16 answers the same.")
