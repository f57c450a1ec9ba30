"""The file of a notebook: JSON with one cell a line, so that what stands before a cut can still be read.

docs/use/notebook-format.md describes the format. Pure.
"""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

import msgspec

from playground.comparing.branching import MAX_BRANCHES
from playground.errors import BadInput
from playground.notebooks.cells import MAX_PICTURES, MAX_TITLE, MAX_TURNS, Cell, NoteCell, Run, check_cell, pictures_of
from playground.support import pieces

FORMAT = "vlm-quant-playground/notebook"
VERSION = 1


MAX_CELLS = 500
MAX_PROBLEMS = 20  # that are kept of a file
_MAX_RUNS = 1000  # of a cell in a file
_MAX_ANSWER = 1_000_000  # characters of a pane
_MANY = 1_000_000  # commas
_MOST_VALUES = 3_000_000  # of a cell or a run: 16 answers of 8192 tokens, with the likeliest of each
_MOST_ENTRIES = 20_000  # of any list: the longest answer has 8192 tokens, and as many of reasoning
_MOST_LIKELY = 100  # tokens at one place
_MOST_VARIANTS = 1000
_MOST_SETTINGS = 3_000_000  # characters
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


def to_json(title: str, cells: Iterable[tuple[Cell, Iterable[Run]]], png: Callable[[str], bytes | None]) -> str:
    """A notebook's file. `png`: a picture's file by its sha256; None if it is lost."""
    return "".join(written(title, cells, png))


def written(
    title: str, cells: Iterable[tuple[Cell, Iterable[Run]]], png: Callable[[str], bytes | None]
) -> Iterator[str]:
    """The pieces of that file: one run or one picture is held at a time. Each cell is a WholeCell on a line."""
    head = json.dumps({"format": FORMAT, "version": VERSION, "title": title})
    yield head[:-1] + ', "cells": [\n'
    have = set[str]()
    for number, (cell, runs) in enumerate(cells):
        yield (",\n" if number else "") + '{"cell":' + msgspec.json.encode(cell).decode()
        pictures = dict.fromkeys(picture.sha256 for picture in pictures_of(cell, ()))
        opened = False
        for run in runs:
            yield ("," if opened else ',"runs":[') + msgspec.json.encode(run).decode()
            opened = True
            pictures |= dict.fromkeys(picture.sha256 for picture in pictures_of(run.cell, ()))
        if opened:
            yield "]"
        opened = False
        for sha256 in pictures:
            data = None if sha256 in have else png(sha256)
            if data is not None:
                have.add(sha256)
                yield ("," if opened else ',"images":{') + f'"{sha256}":"{base64.b64encode(data).decode()}"'
                opened = True
        yield "}}" if opened else "}"
    yield "\n]}\n"


def from_json(text: str) -> tuple[str, tuple[WholeCell, ...], tuple[str, ...]]:
    """As `opened`, with all cells at once."""
    title, cells, problems = opened(text)
    return title, tuple(cells), tuple(problems)


def opened(text: str) -> tuple[str, Iterator[WholeCell], list[str]]:
    """Title, cells and problems of a notebook's file; a part that cannot be used is left out and told.

    The cells are read as they are taken, and the problems are complete behind the last one. All runs of a file of 60 MB
    at once are 250,000 objects: Python holds up every thread for 0.2 s while it looks through them for garbage.
    Raises BadInput if nothing can be used.
    """
    problems: list[str] = []
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raw = _as_utf8(text).encode()
        problems.append("The file contains invalid characters (unpaired surrogates). Each is replaced by a ?.")
    try:
        head = msgspec.json.decode(raw, type=_NotebookHead)
        raw_cells, count = _elements(head.cells, MAX_CELLS)
    except msgspec.ValidationError as error:
        raise BadInput(f"This is not a notebook of this playground: {error}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        head, raw_cells, problem = _salvaged(raw, error)
        count = len(raw_cells)
        problems.append(problem)
    if head.format != FORMAT:
        raise BadInput(f"This is not a notebook of this playground: its format is '{head.format[:80]}'.")
    if head.version > VERSION:
        raise BadInput(
            f"This notebook was written by a newer version of the playground (format {head.version}; this one reads "
            f"up to {VERSION}). Update the playground, or export the notebook again as Markdown or HTML."
        )
    return head.title[:MAX_TITLE], _cells(raw_cells, count, problems), problems


def _cells(raw_cells: list[msgspec.Raw], count: int, problems: list[str]) -> Iterator[WholeCell]:
    """`count`: of the cells in the file."""
    for number, raw in enumerate(raw_cells[:MAX_CELLS], 1):
        try:
            cell, remarks = _whole_cell(raw)
        except _UNREADABLE as error:
            problems.append(f"Cell {number} cannot be used and was left out: {_said(error)}.")
        else:
            yield cell
            problems += [f"Cell {number}: {text}" for text in remarks]
    more = len(problems) - MAX_PROBLEMS
    if more > 0:
        problems[MAX_PROBLEMS:] = [f"There are {more} more problems."]
    if count > MAX_CELLS:
        problems.append(f"Only the first {MAX_CELLS} of {count} cells were taken.")


def _elements(array: msgspec.Raw, limit: int) -> tuple[list[msgspec.Raw], int]:
    """The first elements of a JSON array, and how many it has. Raises msgspec.MsgspecError if it is not an array.

    An element of two bytes becomes an object of a hundred: an array of millions is never made a list.
    """
    raw = bytes(array)
    if raw.count(b",") < _MANY or not raw.startswith(b"["):
        decoded = msgspec.json.decode(raw, type=list[msgspec.Raw])
        return decoded[:limit], len(decoded)
    elements = [msgspec.Raw(element) for element in itertools.islice(pieces.elements(raw, 1), limit + 1)]
    return elements[:limit], len(elements)


def _whole_cell(raw: msgspec.Raw) -> tuple[WholeCell, list[str]]:
    """A run that cannot be read does not take its cell along."""
    parts = msgspec.json.decode(raw, type=_RawCell)
    cell: Cell = _read(parts.cell, Cell)  # type: ignore[arg-type]  # a union is no type to mypy
    check_cell(cell)
    _check_cell_sizes(cell)
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
    text = bytes(raw)
    if text.count(b",") >= _MOST_VALUES:
        raise BadInput(f"it holds more than {_MOST_VALUES:,} values")
    value = pieces.decode(text, kind)
    if pieces.has_number_above(text, _MAX_NUMBER):
        raise BadInput("it holds a number that is too large")
    return value


def _said(error: Exception) -> str:
    return str(error).rstrip(".")


def _as_utf8(text: str) -> str:
    return text.encode(errors="replace").decode()


def checked_run(run: Run) -> Run:
    """Raises BadInput if a run's parts do not belong together, so that showing it cannot fail."""
    check_cell(run.cell)
    _check_cell_sizes(run.cell)
    _check_sizes(run)
    known = {v.id for v in run.variants}
    if run.number < 1:
        raise BadInput(f"its number is {run.number}")
    if any(file.bytes < 1 for v in run.variants if not v.endpoint for file in (v.model, v.projector)):
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
        answering = [p.variant for p in result.update.panes]
        if not {p.variant for p in panes} <= known:
            raise BadInput("it has a pane without a variant")
        if len(set(answering)) < len(answering):
            raise BadInput("it has two panes of one variant")
        if len(branches) > MAX_BRANCHES or any(b.at < 0 or b.pane.variant not in answering for b in branches):
            raise BadInput("it has a branch that belongs to no answer, or too many of them")
        if any(
            len(text) > _MAX_ANSWER for p in panes for text in (p.text, p.reasoning, p.raw or "", "".join(p.controls))
        ):
            raise BadInput(f"an answer is longer than {_MAX_ANSWER:,} characters")
        if any((p.first_divergence or 0) < 0 for p in panes):
            raise BadInput("it has a pane that differs before its first token")
    return run


def _check_cell_sizes(cell: Cell) -> None:
    """What no prompt and no mark is. Raises BadInput."""
    if isinstance(cell, NoteCell):
        return
    if len(cell.variants) > _MOST_VARIANTS:
        raise BadInput(f"it has more than {_MOST_VARIANTS:,} variants")
    parts = (cell.id, cell.family, cell.variants, cell.pictures, cell.settings, cell.votes, cell.questions)
    if len(msgspec.json.encode(parts)) > _MOST_SETTINGS:
        raise BadInput(f"its settings, images' names and votes are longer than {_MOST_SETTINGS:,} characters")


def _check_sizes(run: Run) -> None:
    """What a run costs who opens it grows with these lists. Raises BadInput."""
    if len(run.results) > max(MAX_TURNS, MAX_PICTURES):
        raise BadInput(f"it has {len(run.results)} comparisons; a cell asks {max(MAX_TURNS, MAX_PICTURES)} at most")
    if len(run.variants) > _MOST_VARIANTS:
        raise BadInput(f"it has more than {_MOST_VARIANTS:,} variants")
    if any(len(entries) > _MOST_ENTRIES for entries in _lists(run)):
        raise BadInput(f"a list in it has more than {_MOST_ENTRIES:,} entries")
    if any(len(likely) > _MOST_LIKELY for likely in _likely(run)):
        raise BadInput(f"it has more than {_MOST_LIKELY} likely tokens at one place")


def _lists(run: Run) -> Iterator[Sized]:
    for update in (result.update for result in run.results):
        yield from (update.notes, update.branches)
        for p in (*update.panes, *(branch.pane for branch in update.branches)):
            yield from (p.token_ids, p.scores, p.log, p.remarks, p.controls, p.control_ids, p.timeline)
            yield from (p.metrics.progress or (), p.metrics.image_pixels or ())
    if (measured := run.measurement) is not None:
        yield from (measured.questions, measured.answers, measured.results, measured.floors, measured.problems)
        yield from (lists for question in measured.questions for lists in (question.answers, question.options))
        yield from (drift.kl for result in measured.results for drift in result.items)
        yield measured.sample.rows if measured.sample is not None else ()
    if (scanned := run.sensitivity) is not None:
        yield from (scanned.scan.kinds, scanned.sensed, scanned.restored, scanned.problems)
        yield from (scanned.built.uniform, scanned.built.commands) if scanned.built is not None else ()


def _likely(run: Run) -> Iterator[Sized]:
    for update in (result.update for result in run.results):
        panes = (*update.panes, *(branch.pane for branch in update.branches))
        yield from (score.candidates for p in panes for score in p.scores)
    for variant in run.measurement.results if run.measurement is not None else ():
        for token in (token for drift in variant.items for token in drift.kl):
            yield from (token.reference, token.variant)


def _salvaged(raw: bytes, error: Exception) -> tuple[_NotebookHead, list[msgspec.Raw], str]:
    """The cells before the place where the JSON breaks, and what to tell about it."""
    begin = raw.find(b'"cells": [')
    try:
        head = json.loads(raw[:begin].rstrip().rstrip(b",") + b"}")
        salvaged = _NotebookHead(str(head["format"]), int(head["version"]), _as_utf8(str(head.get("title", ""))))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise BadInput(f"This is not a notebook of this playground, or its beginning is damaged: {error}.") from None
    at = begin + len(b'"cells": [') if begin >= 0 else len(raw)
    cells: list[msgspec.Raw] = []
    for element in itertools.islice(pieces.elements(raw, at), MAX_CELLS + 1):
        cells.append(msgspec.Raw(element.strip()))
        at += len(element) + 1
    at -= bool(cells)  # no comma is needed behind the last one
    at += len(raw[at:]) - len(raw[at:].lstrip(b" \r\n\t,"))
    if raw[at : at + 1] == b"]":
        return salvaged, cells, f"The file is damaged ({error}). Cells found all the same: {len(cells)}."
    line = raw.count(b"\n", 0, at) + 1
    return (
        salvaged,
        cells,
        f"The file is damaged from line {line} on ({error}). Cells read before that: {len(cells)}.",
    )
