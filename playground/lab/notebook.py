"""The notebook's values, and its file: what a cell asks, what its runs answered. Pure.

The file is JSON with one cell a line, so that what stands before a cut can still be read (docs/notebook.md).
"""

from __future__ import annotations

import base64
import enum
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import Any

import msgspec

from playground.errors import BadInput
from playground.lab.documents import RunSettings
from playground.values import ComparisonUpdate, PaneState, Turn, Variant

FORMAT = "vlm-quant-playground/notebook"
VERSION = 1

_SHA256 = re.compile("[0-9a-f]{64}")

MAX_CELLS = 500
MAX_PICTURES = 16  # in one cell
MAX_TURNS = 20
MAX_TEXT = 200_000  # characters of a prompt or a note
MAX_TITLE = 200


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


class CompareCell(msgspec.Struct, frozen=True, tag="compare", omit_defaults=True):
    id: str
    prompts: tuple[str, ...] = ("",)  # the first one, and what is asked after it in the same conversation
    pictures: tuple[Picture, ...] = ()
    gallery: bool = False  # each picture is asked about alone
    family: str = ""
    variants: tuple[str, ...] = ()  # ids
    settings: RunSettings = RunSettings()
    collapsed: bool = False
    version: int = 0

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


class Result(msgspec.Struct, frozen=True, omit_defaults=True):
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
    results: tuple[Result, ...] = ()

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


def settled(run: Run, state: RunState) -> Run:
    """A run that went no further: what has been written stays, and no pane waits for more."""
    results = []
    for result in run.results:
        panes = tuple(
            p if p.state.ended else replace(p, state=PaneState.STOPPED, finish_reason="stopped", note=None)
            for p in result.update.panes
        )
        update = replace(result.update, panes=panes, done=True, queue_place=None)
        results.append(msgspec.structs.replace(result, update=update))
    return msgspec.structs.replace(run, state=state, results=tuple(results))


def without_paths(variant: Variant) -> Variant:
    """A variant for keeping and sharing: where the files lie on this machine is nobody's business."""
    return replace(
        variant,
        model=replace(variant.model, path=PurePath(variant.model.path).name),
        projector=replace(variant.projector, path=PurePath(variant.projector.path).name),
    )


def check_cell(cell: Cell) -> None:
    """Raises BadInput for what no cell may hold."""
    texts = [cell.text] if isinstance(cell, NoteCell) else list(cell.prompts)
    if any(len(text) > MAX_TEXT for text in texts):
        raise BadInput(f"The text is too long: at most {MAX_TEXT:,} characters.")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise BadInput("The text holds half a character, which is no text. Type it again.") from None
    if isinstance(cell, CompareCell):
        if not cell.prompts or len(cell.prompts) > MAX_TURNS:
            raise BadInput(f"A conversation has 1 to {MAX_TURNS} questions.")
        if len(cell.pictures) > MAX_PICTURES:
            raise BadInput(f"At most {MAX_PICTURES} images fit in one cell.")
        if not all(_SHA256.fullmatch(picture.sha256) for picture in cell.pictures):
            raise BadInput("An image of the cell has no proper sha256.")


class WholeCell(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cell with its runs, as they stand in a file."""

    cell: Cell
    runs: tuple[Run, ...] = ()
    images: dict[str, str] = {}  # PNG in base64 by sha256, where a picture first appears


class _Head(msgspec.Struct):
    format: str
    version: int
    title: str
    cells: list[msgspec.Raw] = []


def to_json(title: str, cells: Iterable[tuple[Cell, Sequence[Run]]], png: Callable[[str], bytes | None]) -> str:
    """A notebook's file. `png`: a picture's file by its sha256; None if it is lost."""
    lines, told = [], set[str]()
    for cell, runs in cells:
        images = {}
        for picture in pictures_of(cell, runs):
            data = None if picture.sha256 in told else png(picture.sha256)
            if data is not None:
                images[picture.sha256] = base64.b64encode(data).decode()
                told.add(picture.sha256)
        lines.append(msgspec.json.encode(WholeCell(cell, tuple(runs), images)).decode())
    head = json.dumps({"format": FORMAT, "version": VERSION, "title": title})
    return head[:-1] + ', "cells": [\n' + ",\n".join(lines) + "\n]}\n"


def pictures_of(cell: Cell, runs: Iterable[Run]) -> tuple[Picture, ...]:
    """Each picture once."""
    cells = [cell, *(run.cell for run in runs)]
    found = {p.sha256: p for one in cells if isinstance(one, CompareCell) for p in one.pictures}
    return tuple(found.values())


def from_json(text: str) -> tuple[str, tuple[WholeCell, ...], tuple[str, ...]]:
    """Title, cells and problems of a notebook's file; a part that cannot be used is left out and told.

    Raises BadInput if nothing can be used.
    """
    problems: list[str] = []
    try:
        head = msgspec.json.decode(text, type=_Head)
    except msgspec.ValidationError as error:
        raise BadInput(f"This is no notebook of this playground: {error}.") from None
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        head, problem = _salvaged(text, error)
        problems.append(problem)
    if head.format != FORMAT:
        raise BadInput(f"This is no notebook of this playground: its format is '{head.format[:80]}'.")
    if head.version > VERSION:
        raise BadInput(
            f"This notebook was written by a newer version of the playground (format {head.version}; this one reads "
            f"up to {VERSION}). Update the playground, or export the notebook again as Markdown or HTML."
        )
    cells: list[WholeCell] = []
    for number, raw in enumerate(head.cells, 1):
        try:
            whole, told = _whole_cell(bytes(raw))
            check_cell(whole.cell)
        except (msgspec.MsgspecError, BadInput, ValueError) as error:
            problems.append(f"Cell {number} cannot be used and was left out: {error}.")
        else:
            cells.append(whole)
            problems += [f"Cell {number}: {text}" for text in told]
    if len(cells) > MAX_CELLS:
        problems.append(f"Only the first {MAX_CELLS} of {len(cells)} cells were taken.")
    return head.title[:MAX_TITLE], tuple(cells[:MAX_CELLS]), tuple(problems)


def _whole_cell(raw: bytes) -> tuple[WholeCell, list[str]]:
    """A run that cannot be read does not take its cell along."""
    document: Any = msgspec.json.decode(raw)
    if not isinstance(document, Mapping) or "cell" not in document:
        raise BadInput("it has no cell")
    cell: Cell = msgspec.convert(document["cell"], Cell)
    images = msgspec.convert(document.get("images", {}), dict[str, str])
    runs, problems = [], []
    for number, one in enumerate(msgspec.convert(document.get("runs", []), list[Any]), 1):
        try:
            runs.append(checked_run(msgspec.convert(one, Run)))
        except (msgspec.ValidationError, BadInput) as error:
            problems.append(f"run {number} cannot be used and was left out: {error}.")
    return WholeCell(cell, tuple(runs), images), problems


def checked_run(run: Run) -> Run:
    """Raises BadInput if a run's parts do not belong together, so that showing it cannot fail."""
    check_cell(run.cell)
    known = {v.id for v in run.variants}
    if run.reference not in known:
        raise BadInput("its reference is not among its variants")
    for result in run.results:
        if not 0 <= result.turn < len(run.cell.prompts):
            raise BadInput(f"it answers question {result.turn + 1} of {len(run.cell.prompts)}")
        if not {p.variant for p in result.update.panes} <= known:
            raise BadInput("it has a pane without a variant")
    return run


def _salvaged(text: str, error: Exception) -> tuple[_Head, str]:
    """The cells before the place where the JSON breaks, and what to tell about it."""
    decoder = json.JSONDecoder()
    begin = text.find('"cells": [')
    try:
        head = json.loads(text[:begin].rstrip().rstrip(",") + "}")
        found = _Head(str(head["format"]), int(head["version"]), str(head["title"]))
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"This is no notebook of this playground, or its beginning is damaged: {error}.") from None
    at = begin + len('"cells": [')
    while True:
        while at < len(text) and text[at] in " \r\n\t,":
            at += 1
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        found.cells.append(msgspec.Raw(text[at:end].encode()))
        at = end
    line = text.count("\n", 0, at) + 1
    return (
        found,
        f"The file is damaged from line {line} on ({error}); the {len(found.cells)} cells before it were read.",
    )
