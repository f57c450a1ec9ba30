"""Right and wrong marks on answers, and the questions that they become."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from playground.errors import BadInput
from playground.measuring.question_sets import Rule, read_questions
from playground.notebooks import marks
from playground.notebooks.cells import AnswerMark, CompareCell, Picture, Run, RunResult, check_cell, pictures_of
from playground.values.answer import ComparisonUpdate, Pane, PaneState

PICTURE, OTHER = (Picture(digit * 64, 8, 8, f"{digit}.png") for digit in "01")
CELL = CompareCell("c", ("How many?", "And now?"), (PICTURE,))
PANES = (
    Pane("F16", PaneState.DONE, "Three."),
    Pane("Q2", PaneState.DONE, "Four."),
    Pane("Q1", PaneState.STOPPED, "Th"),
)
UPDATE = ComparisonUpdate(PANES, done=True)
RUN = Run(1, CELL, (), "F16", "e", "m", "s", results=(RunResult(0, UPDATE), RunResult(1, UPDATE)))


def with_mark(cell: CompareCell, variant: str, *, right: bool) -> CompareCell:
    return msgspec.structs.replace(cell, marks=marks.marked(cell, RUN, 0, variant, right=right))


def test_mark_when_set_changed_and_set_again_then_the_last_word_counts() -> None:
    once = with_mark(CELL, "F16", right=False)
    assert once.marks == (AnswerMark(PICTURE, "How many?", "Three.", right=False),)
    changed = with_mark(once, "F16", right=True)
    assert [mark.right for mark in changed.marks] == [True]
    assert with_mark(changed, "F16", right=True).marks == ()


@pytest.mark.parametrize(("block", "variant"), [(0, "Q1"), (1, "F16"), (0, "none"), (2, "F16"), (-1, "F16")])
def test_mark_when_there_is_no_whole_answer_to_a_first_question_then_refused(block: int, variant: str) -> None:
    with pytest.raises(BadInput, match="whole answer"):
        marks.marked(CELL, RUN, block, variant, right=True)


def test_verdicts_when_another_variant_answers_the_same_then_it_is_marked_too() -> None:
    cell = with_mark(CELL, "Q2", right=False)
    assert marks.verdicts(cell, RUN, RUN.results[0]) == {"Four.": False}
    assert marks.verdicts(cell, RUN, RUN.results[1]) is None
    elsewhere = msgspec.structs.replace(RUN, cell=msgspec.structs.replace(CELL, pictures=(OTHER,)))
    assert marks.verdicts(cell, elsewhere, elsewhere.results[0]) == {}


def test_questions_when_marked_then_measure_reads_them_with_all_right_answers(tmp_path: Path) -> None:
    cell = CELL
    for answer, right in (("Three.", True), ("Four.", False), ("3", True)):
        cell = msgspec.structs.replace(cell, marks=(*cell.marks, AnswerMark(PICTURE, "How many?", answer, right)))
    wrong = CompareCell("d", marks=(AnswerMark(OTHER, "What?", "A cat", right=False),))
    pairs, without = marks.questions([cell, wrong])
    assert without == 1
    assert marks.write_zip(tmp_path / "a.zip", pairs, lambda sha256: sha256.encode()) == 1
    read = read_questions(tmp_path / "a.zip")
    assert [(q.question, q.answers, q.rule) for q in read.items] == [("How many?", ("Three.", "3"), Rule.EXACT)]
    assert not read.problems
    marks.write_zip(tmp_path / "b.zip", pairs, lambda sha256: sha256.encode())
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_questions_when_none_is_right_or_the_picture_is_lost_then_refused(tmp_path: Path) -> None:
    pairs, _ = marks.questions([with_mark(CELL, "F16", right=True)])
    for chosen, png in (([], b"png"), (pairs, None)):
        with pytest.raises(BadInput, match="at least one answer"):
            marks.write_zip(tmp_path / "a.zip", chosen, lambda sha256, png=png: png)  # type: ignore[misc]


def test_cell_when_it_has_marks_then_their_picture_is_kept_and_they_are_checked() -> None:
    cell = CompareCell("c", marks=(AnswerMark(OTHER, "What?", "A cat", right=True),))
    assert pictures_of(cell, ()) == (OTHER,)
    check_cell(cell)
    bad = AnswerMark(msgspec.structs.replace(OTHER, sha256="../x"), "What?", "A cat", right=True)
    with pytest.raises(BadInput, match="sha256"):
        check_cell(msgspec.structs.replace(cell, marks=(bad,)))
