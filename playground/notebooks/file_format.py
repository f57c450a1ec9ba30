"""The file of a notebook: JSON with one cell a line, so that what stands before a cut can still be read.

docs/use/notebook-format.md describes the format. Pure.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from playground.comparing.branching import MAX_BRANCHES
from playground.errors import BadInput
from playground.notebooks.cells import MAX_TITLE, Cell, Run, check_cell, pictures_of

FORMAT = "vlm-quant-playground/notebook"
VERSION = 1


MAX_CELLS = 500
MAX_PROBLEMS = 20  # that are kept of a file
_MAX_RUNS = 1000  # of a cell in a file
_MAX_ANSWER = 1_000_000  # characters of a pane
_MANY = 1_000_000  # commas
_MAX_NUMBER = 2**53  # beyond it a number is no measure of anything, and formatting it may fail


class WholeCell(msgspec.Struct, frozen=True, omit_defaults=True):
    """A cell with its runs, as they stand in a file."""

    cell: Cell
    runs: tuple[Run, ...] = ()
    images: dict[str, str] = {}  # PNG in base64 by sha256, where a picture first appears


class _NotebookHead(msgspec.Struct):
    format: str
    version: int
    title: str = ""
    cells: msgspec.Raw = msgspec.Raw(b"[]")


class _RawCell(msgspec.Struct):
    cell: msgspec.Raw
    runs: msgspec.Raw = msgspec.Raw(b"[]")
    images: msgspec.Raw = msgspec.Raw(b"{}")


_UNREADABLE = (msgspec.MsgspecError, BadInput, ValueError, RecursionError)
_T = TypeVar("_T")


def to_json(title: str, cells: Iterable[tuple[Cell, Sequence[Run]]], png: Callable[[str], bytes | None]) -> str:
    """A notebook's file. `png`: a picture's file by its sha256; None if it is lost."""
    lines, written = [], set[str]()
    for cell, runs in cells:
        images = {}
        for picture in pictures_of(cell, runs):
            data = None if picture.sha256 in written else png(picture.sha256)
            if data is not None:
                images[picture.sha256] = base64.b64encode(data).decode()
                written.add(picture.sha256)
        lines.append(msgspec.json.encode(WholeCell(cell, tuple(runs), images)).decode())
    head = json.dumps({"format": FORMAT, "version": VERSION, "title": title})
    return head[:-1] + ', "cells": [\n' + ",\n".join(lines) + "\n]}\n"


def from_json(text: str) -> tuple[str, tuple[WholeCell, ...], tuple[str, ...]]:
    """Title, cells and problems of a notebook's file; a part that cannot be used is left out and told.

    Raises BadInput if nothing can be used.
    """
    problems: list[str] = []
    whole = _as_utf8(text)
    if whole != text:
        text = whole
        problems.append("The file contains invalid characters (unpaired surrogates). Each is replaced by a ?.")
    try:
        head = msgspec.json.decode(text, type=_NotebookHead)
        raw_cells, count = _elements(head.cells, MAX_CELLS)
    except msgspec.ValidationError as error:
        raise BadInput(f"This is not a notebook of this playground: {error}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        head, raw_cells, problem = _salvaged(text, error)
        count = len(raw_cells)
        problems.append(problem)
    if head.format != FORMAT:
        raise BadInput(f"This is not a notebook of this playground: its format is '{head.format[:80]}'.")
    if head.version > VERSION:
        raise BadInput(
            f"This notebook was written by a newer version of the playground (format {head.version}; this one reads "
            f"up to {VERSION}). Update the playground, or export the notebook again as Markdown or HTML."
        )
    cells: list[WholeCell] = []
    for number, raw in enumerate(raw_cells[:MAX_CELLS], 1):
        try:
            cell, remarks = _whole_cell(raw)
        except _UNREADABLE as error:
            problems.append(f"Cell {number} cannot be used and was left out: {_said(error)}.")
        else:
            cells.append(cell)
            problems += [f"Cell {number}: {text}" for text in remarks]
    more = len(problems) - MAX_PROBLEMS
    if more > 0:
        problems[MAX_PROBLEMS:] = [f"There are {more} more problems."]
    if count > MAX_CELLS:
        problems.append(f"Only the first {MAX_CELLS} of {count} cells were taken.")
    return head.title[:MAX_TITLE], tuple(cells), tuple(problems)


def _elements(array: msgspec.Raw, limit: int) -> tuple[list[msgspec.Raw], int]:
    """The first elements of a JSON array, and how many it has. Raises msgspec.MsgspecError if it is not an array.

    An element of two bytes becomes an object of a hundred: an array of millions is never made a list.
    """
    raw = bytes(array)
    if raw.count(b",") < _MANY or not raw.startswith(b"["):
        decoded = msgspec.json.decode(raw, type=list[msgspec.Raw])
        return decoded[:limit], len(decoded)
    elements: list[msgspec.Raw] = []
    text, at = raw.decode(), raw.index(b"[") + 1
    decoder = json.JSONDecoder()
    while len(elements) <= limit:
        begin = _behind_commas(text, at)
        if text[begin : begin + 1] in ("]", ""):
            break
        try:
            _, at = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from None
        elements.append(msgspec.Raw(text[begin:at].encode()))
    return elements[:limit], len(elements)


def _behind_commas(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \r\n\t,":
        at += 1
    return at


def _whole_cell(raw: msgspec.Raw) -> tuple[WholeCell, list[str]]:
    """A run that cannot be read does not take its cell along."""
    parts = msgspec.json.decode(raw, type=_RawCell)
    cell: Cell = _read(parts.cell, Cell)  # type: ignore[arg-type]  # a union is no type to mypy
    check_cell(cell)
    problems: list[str] = []
    images: dict[str, str] = {}
    try:
        images = _read(parts.images, dict[str, str])
    except _UNREADABLE as error:
        problems.append(f"its images cannot be used and were left out: {_said(error)}.")
    raw_runs: list[msgspec.Raw] = []
    try:
        raw_runs, count = _elements(parts.runs, _MAX_RUNS)
        if count > _MAX_RUNS:
            problems.append(f"only its first {_MAX_RUNS} runs were taken.")
    except msgspec.MsgspecError as error:
        problems.append(f"its runs cannot be used and were left out: {_said(error)}.")
    runs: dict[int, Run] = {}
    for number, raw_run in enumerate(raw_runs, 1):
        try:
            run = checked_run(_read(raw_run, Run))
            if run.number in runs:
                raise BadInput(f"it is not the first with the number {run.number}")
            runs[run.number] = run
        except _UNREADABLE as error:
            problems.append(f"run {number} cannot be used and was left out: {_said(error)}.")
    return WholeCell(cell, tuple(runs.values()), images), problems


def _read(raw: msgspec.Raw, kind: type[_T]) -> _T:
    value = msgspec.json.decode(raw, type=kind)
    _check_numbers(msgspec.json.decode(raw))
    return value


def _check_numbers(document: Any) -> None:
    if isinstance(document, Mapping):
        document = list(document.values())
    if isinstance(document, list):
        for value in document:
            _check_numbers(value)
    elif isinstance(document, int | float) and abs(document) > _MAX_NUMBER:
        raise BadInput("it holds a number that is too large")


def _said(error: Exception) -> str:
    return str(error).rstrip(".")


def _as_utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def checked_run(run: Run) -> Run:
    """Raises BadInput if a run's parts do not belong together, so that showing it cannot fail."""
    check_cell(run.cell)
    known = {v.id for v in run.variants}
    if run.number < 1:
        raise BadInput(f"its number is {run.number}")
    if any(file.bytes < 1 for v in run.variants for file in (v.model, v.projector)):
        raise BadInput("it has a variant without a size")
    if run.reference not in known:
        raise BadInput("its reference is not among its variants")
    if run.measurement is not None:
        n_questions = len(run.measurement.questions)
        if not {run.reference} <= {r.variant for r in run.measurement.results} <= known:
            raise BadInput("it measured a variant that it does not list, or not its reference")
        if (
            any(len(r.items) != n_questions for r in run.measurement.results)
            or len(run.measurement.answers) != n_questions
        ):
            raise BadInput("its measurement has other numbers of questions and answers")
    if run.sensitivity is not None:
        kinds = len(run.sensitivity.scan.kinds)
        if not kinds or any(len(group.rungs) != kinds for group in run.sensitivity.sensed):
            raise BadInput("its scan has other numbers of types than it tried")
    for result in run.results:
        if not 0 <= result.turn < len(run.cell.prompts):
            raise BadInput(f"it answers question {result.turn + 1} of {len(run.cell.prompts)}")
        branches = result.update.branches
        panes = (*result.update.panes, *(branch.pane for branch in branches))
        answered = {p.variant for p in result.update.panes}
        if not {p.variant for p in panes} <= known:
            raise BadInput("it has a pane without a variant")
        if len(branches) > MAX_BRANCHES or any(b.at < 0 or b.pane.variant not in answered for b in branches):
            raise BadInput("it has a branch that belongs to no answer, or too many of them")
        if any(
            len(text) > _MAX_ANSWER for p in panes for text in (p.text, p.reasoning, p.raw or "", "".join(p.controls))
        ):
            raise BadInput(f"an answer is longer than {_MAX_ANSWER:,} characters")
        if any((p.first_divergence or 0) < 0 for p in panes):
            raise BadInput("it has a pane that differs before its first token")
    return run


def _salvaged(text: str, error: Exception) -> tuple[_NotebookHead, list[msgspec.Raw], str]:
    """The cells before the place where the JSON breaks, and what to tell about it."""
    decoder = json.JSONDecoder()
    begin = text.find('"cells": [')
    try:
        head = json.loads(text[:begin].rstrip().rstrip(",") + "}")
        salvaged = _NotebookHead(str(head["format"]), int(head["version"]), _as_utf8(str(head.get("title", ""))))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BadInput(f"This is not a notebook of this playground, or its beginning is damaged: {error}.") from None
    at = begin + len('"cells": [')
    cells: list[msgspec.Raw] = []
    while len(cells) <= MAX_CELLS:
        at = _behind_commas(text, at)
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        cells.append(msgspec.Raw(text[at:end].encode()))
        at = end
    if text[at : at + 1] == "]":
        return salvaged, cells, f"The file is damaged ({error}). Cells found all the same: {len(cells)}."
    line = text.count("\n", 0, at) + 1
    return (
        salvaged,
        cells,
        f"The file is damaged from line {line} on ({error}). Cells read before that: {len(cells)}.",
    )
