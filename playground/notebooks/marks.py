"""What a person said about answers, right or wrong, and the set of questions that these marks make."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from playground.errors import BadInput
from playground.measuring.question_sets import Question, Rule
from playground.notebooks.cells import AnswerMark, Cell, CompareCell, Picture, Run, RunResult
from playground.values.answer import PaneState

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the same marks make the same zip


def picture_of(run: Run, result: RunResult) -> Picture | None:
    """The one picture that a first question was about; None where several were, or where it goes on from an answer."""
    if result.turn:
        return None
    return result.picture or (run.cell.pictures[0] if len(run.cell.pictures) == 1 else None)


def verdicts(cell: CompareCell, run: Run, result: RunResult) -> Mapping[str, bool] | None:
    """Each answer that is marked, by its text; None where answers cannot be marked."""
    picture = picture_of(run, result)
    if picture is None or not result.update.done:
        return None
    question = run.cell.prompts[result.turn]
    return {
        mark.answer: mark.right
        for mark in cell.marks
        if (mark.picture.sha256, mark.question) == (picture.sha256, question)
    }


def marked(cell: CompareCell, run: Run, block: int, variant: str, *, right: bool) -> tuple[AnswerMark, ...]:
    """The cell's marks with one more, which replaces another of the same answer. The same mark again takes it away.

    Raises BadInput for an answer that cannot be marked.
    """
    result = run.results[block] if 0 <= block < len(run.results) else None
    picture = picture_of(run, result) if result is not None else None
    pane = next((p for p in result.update.panes if p.variant == variant), None) if result is not None else None
    if result is None or picture is None or pane is None or pane.state is not PaneState.DONE or not pane.text.strip():
        raise BadInput("Only a whole answer to a first question about one image can be marked.")
    mark = AnswerMark(picture, run.cell.prompts[result.turn], pane.text, right)
    others = tuple(each for each in cell.marks if _of(each) != _of(mark))
    return others if mark in cell.marks else (*others, mark)


def questions(cells: Iterable[Cell]) -> tuple[list[tuple[Picture, Question]], int]:
    """A question for each picture and prompt with an answer marked right, and how many have only wrong ones.

    Accepted is what was marked right, as a whole: exact, after case, width, spaces and outer punctuation.
    """
    accepted: dict[tuple[str, str], list[str]] = {}
    pictures: dict[str, Picture] = {}
    for cell in cells:
        for mark in cell.marks if isinstance(cell, CompareCell) else ():
            pictures.setdefault(mark.picture.sha256, mark.picture)
            answers = accepted.setdefault((mark.picture.sha256, mark.question), [])
            if mark.right and mark.answer not in answers:
                answers.append(mark.answer)
    known = [
        (pictures[sha256], Question(f"{sha256[:16]}.png", question, tuple(answers), Rule.EXACT))
        for (sha256, question), answers in accepted.items()
        if answers
    ]
    return known, len(accepted) - len(known)


def write_zip(path: Path, questions: Iterable[tuple[Picture, Question]], png: Callable[[str], bytes | None]) -> int:
    """A zip as Measure takes it. Returns how many questions it holds. Raises BadInput if there is none.

    `png`: a picture's file by its sha256; None if it is lost.
    """
    lines, images = [], dict[str, bytes]()
    for picture, question in questions:
        data = images.get(question.image) or png(picture.sha256)
        if data is None:
            continue
        images[question.image] = data
        fields = {"image": question.image, "question": question.question, "answers": question.answers}
        lines.append(json.dumps(fields | {"rule": question.rule.value}, ensure_ascii=False) + "\n")
    if not lines:
        raise BadInput("Mark at least one answer as right: press ✓ in its pane.")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(zipfile.ZipInfo("items.jsonl", _EPOCH), "".join(lines).encode(errors="replace"))
        for name, data in images.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    return len(lines)


def _of(mark: AnswerMark) -> tuple[str, str, str]:
    return mark.picture.sha256, mark.question, mark.answer
