"""The values of a notebook: what a cell asks, what its runs answered."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePath

import msgspec

from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput
from playground.measuring import ship_card
from playground.measuring.question_sets import MAX_ITEMS
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.ship_card import ShipLimits
from playground.quantizing.scan_results import Sensitivity
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.files import ModelFile, Variant
from playground.values.request import Turn

_SHA256 = re.compile("[0-9a-f]{64}")


MAX_PICTURES = 16  # in one cell


MAX_TURNS = 20


MAX_TEXT = 200_000  # characters of a prompt or a note


MAX_TITLE = 200


MAX_MARKS = 500  # of answers, in one cell


MAX_VOTES = 500  # in one cell


class Picture(msgspec.Struct, frozen=True):
    """An image of a cell; its pixels are kept once, under their sha256 (values.Image)."""

    sha256: str
    width: int
    height: int
    name: str
    note: str | None = None  # what was done to the upload


class NoteCell(msgspec.Struct, frozen=True, tag="note", omit_defaults=True):
    id: str
    text: str = ""  # Markdown
    collapsed: bool = False
    version: int = 0  # counts the writes


class CellQuestions(msgspec.Struct, frozen=True, omit_defaults=True):
    """A set of questions that a cell asks in place of its own, and what it measures with them."""

    source: str = ""  # sha256 of a zip that the library keeps; empty: the embedded set
    name: str = ""  # of the zip
    level: str = "hard"  # of the embedded set: easy, hard, or both (empty)
    n: int = 30
    pack: str = ""  # sha256 of a reference pack that the library keeps, in place of a reference; empty: none
    pack_name: str = ""  # of its file
    plan: MeasurementPlan = MeasurementPlan()
    sensitivity: bool = False  # which tensors need their bits
    limits: ShipLimits = ShipLimits()  # for what is recommended, and for a recipe

    @property
    def measures(self) -> bool:
        """Whether the ticked variants are measured."""
        return self.plan.drift or self.plan.accuracy or self.plan.look or self.plan.speed


class AnswerMark(msgspec.Struct, frozen=True):
    """What a person says about an answer to a question about one image, whichever variant gave it."""

    picture: Picture
    question: str
    answer: str
    right: bool


class BlindVote(msgspec.Struct, frozen=True):
    """Which answers of one comparison a person accepted before the names were shown: ids of variants."""

    run: int
    block: int  # of the run's comparisons
    shown: tuple[str, ...]  # empty: the names were shown without a vote
    accepted: tuple[str, ...]


class CompareCell(msgspec.Struct, frozen=True, tag="compare", omit_defaults=True):
    id: str
    prompts: tuple[str, ...] = ("",)  # the first one, and what is asked after it in the same conversation
    pictures: tuple[Picture, ...] = ()
    gallery: bool = False  # each picture is asked about alone
    family: str = ""
    variants: tuple[str, ...] = ()  # ids
    settings: RunSettings = RunSettings()
    questions: CellQuestions | None = None
    collapsed: bool = False
    version: int = 0
    repeats: int = 1  # how many times "Run" asks
    marks: tuple[AnswerMark, ...] = ()
    blind: bool = False  # the names of its runs' answers are hidden until a person has voted
    votes: tuple[BlindVote, ...] = ()

    @property
    def asks(self) -> tuple[tuple[int, Picture | None], ...]:
        """The comparisons of one run: which turn, and in a gallery of which picture."""
        if self.gallery and len(self.pictures) > 1:
            return tuple((0, picture) for picture in self.pictures)
        return tuple((turn, None) for turn in range(len(self.prompts)))


Cell = NoteCell | CompareCell


class RunState(enum.StrEnum):
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    INTERRUPTED = "interrupted"  # the app ended while it ran


# Why a run did not go on.
STOPPED_BY_HAND = "stopped by hand"
APP_ENDED = "interrupted: the app ended while it ran"


class RunResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One comparison of a run."""

    turn: int
    update: ComparisonUpdate
    picture: Picture | None = None  # of a gallery


class Run(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came out when a cell was run, and everything that is needed to run it again."""

    number: int  # 1, 2, 3 ...
    cell: CompareCell  # as it was then
    variants: tuple[Variant, ...]  # with sizes and checksums; paths are file names
    reference: str
    engine: str
    machine: str
    started: str  # ISO 8601 with the offset from UTC
    state: RunState = RunState.RUNNING
    elapsed_s: float | None = None
    results: tuple[RunResult, ...] = ()
    measurement: Measurement | None = None  # of a set of questions
    sensitivity: Sensitivity | None = None
    reason: str = ""  # why it was stopped; empty for what an older version has stopped

    @property
    def ending(self) -> str:
        """How it ended, and why, as far as that is known."""
        return APP_ENDED if self.state is RunState.INTERRUPTED else self.reason or self.state.value

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The conversation so far."""
        return tuple(
            Turn(
                self.cell.prompts[r.turn],
                {p.variant: p.text for p in r.update.panes if p.state is PaneState.DONE},
            )
            for r in self.results
            if r.picture is None
        )


def settled(run: Run, state: RunState, reason: str = "") -> Run:
    """A run that went no further: what has been written stays, and no pane waits for more."""
    results = []
    for result in run.results:
        panes = tuple(_stopped(pane) for pane in result.update.panes)
        branches = tuple(replace(branch, pane=_stopped(branch.pane)) for branch in result.update.branches)
        update = replace(result.update, panes=panes, done=True, queue_place=None, branches=branches)
        results.append(msgspec.structs.replace(result, update=update))
    return msgspec.structs.replace(run, state=state, reason=reason, results=tuple(results))


def _stopped(pane: Pane) -> Pane:
    return pane if pane.state.ended else replace(pane, state=PaneState.STOPPED, finish_reason="stopped", note=None)


def without_paths(variant: Variant) -> Variant:
    """A variant for keeping and sharing: where the files lie on this machine is nobody's business."""

    def kept(file: ModelFile) -> ModelFile:
        return replace(file, path=PurePath(file.path).name, shape=None)

    return replace(variant, model=kept(variant.model), projector=kept(variant.projector))


def check_cell(cell: Cell) -> None:
    """Raises BadInput for what no cell may hold."""
    if isinstance(cell, NoteCell):
        texts = [cell.text]
    else:
        texts = [*cell.prompts, *(text for mark in cell.marks for text in (mark.question, mark.answer))]
    if any(len(text) > MAX_TEXT for text in texts):
        raise BadInput(f"The text is too long: at most {MAX_TEXT:,} characters.")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadInput("The text contains an invalid character (an unpaired surrogate). Please retype it.") from None
    if isinstance(cell, CompareCell):
        if not cell.prompts or len(cell.prompts) > MAX_TURNS:
            raise BadInput(f"A conversation has 1 to {MAX_TURNS} questions.")
        if len(cell.pictures) > MAX_PICTURES:
            raise BadInput(f"At most {MAX_PICTURES} images fit in one cell.")
        if len(cell.marks) > MAX_MARKS:
            raise BadInput(f"At most {MAX_MARKS} answers can be marked in one cell.")
        if len(cell.votes) > MAX_VOTES:
            raise BadInput(f"A cell keeps at most {MAX_VOTES} votes.")
        named = [*cell.pictures, *(mark.picture for mark in cell.marks)]
        if not all(_SHA256.fullmatch(picture.sha256) for picture in named):
            raise BadInput("An image of the cell has an invalid sha256.")
        if cell.questions is not None:
            _check_questions(cell.questions)


def _check_questions(questions: CellQuestions) -> None:
    if questions.level not in ("easy", "hard", ""):
        raise BadInput(f"Invalid level '{questions.level[:20]}': questions are easy or hard.")
    if questions.source and not _SHA256.fullmatch(questions.source):
        raise BadInput("The set of questions has an invalid sha256.")
    if questions.pack and not _SHA256.fullmatch(questions.pack):
        raise BadInput("The reference pack has an invalid sha256.")
    if not 1 <= questions.n <= MAX_ITEMS:
        raise BadInput(f"The number of questions must be between 1 and {MAX_ITEMS}.")
    if not 1 <= questions.plan.max_tokens <= 2048:
        raise BadInput("The answers' max tokens must be between 1 and 2048.")
    if questions.plan.reasoning_tokens is not None and not 0 <= questions.plan.reasoning_tokens <= 2048:
        raise BadInput("The answers' reasoning tokens must be between 0 and 2048.")
    ship_card.check(questions.limits)
    if not questions.measures and not questions.sensitivity:
        raise BadInput("Tick at least one thing to measure.")


def pictures_of(cell: Cell, runs: Iterable[Run]) -> tuple[Picture, ...]:
    """Each picture once."""
    cells = [cell, *(run.cell for run in runs)]
    pictures = {
        p.sha256: p
        for holder in cells
        if isinstance(holder, CompareCell)
        for p in (*holder.pictures, *(mark.picture for mark in holder.marks))
    }
    return tuple(pictures.values())
