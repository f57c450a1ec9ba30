"""A random sample of a suite's questions, drawn from its rows and kept on disk.

The order of the rows follows from the seed alone, so a larger sample begins with the smaller one. What was drawn stays:
an interrupted sample goes on where it was, and a complete one needs no network.
"""

from __future__ import annotations

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import msgspec
import PIL.Image

from playground.comparing.image_decoder import DECODER
from playground.errors import BadInput, BadModel, Failure, Interrupted, cannot_write
from playground.measuring.question_sets import (
    MAX_ITEMS,
    MAX_PROBLEMS,
    SAMPLE_NAME,
    Question,
    QuestionSet,
    SampleRecord,
    check_question,
)
from playground.measuring.results import Progress
from playground.measuring.suites import Suite, category_of, row_image, row_question
from playground.support import atomic
from playground.values.counts import counted

_KINDS = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp", b"GIF8": "gif", b"BM": "bmp", b"II*": "tiff"}


class SuiteTable(Protocol):
    """The rows of one split of a dataset repository at one commit (models/hub/datasets.py)."""

    @property
    def commit(self) -> str: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def n_rows(self) -> int: ...
    @property
    def columns(self) -> tuple[str, ...]: ...
    def group_of(self, row: int) -> int:
        """The row group that has the row."""
        ...

    def column(self, name: str) -> list[Any]:
        """One small column of all rows."""
        ...

    def read(self, group: int, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Rows of one row group. Raises BadModel if the row group is damaged."""
        ...

    def bytes_of(self, groups: Sequence[int], columns: Sequence[str]) -> int:
        """What reading these row groups fetches."""
        ...


class _DrawnRow(msgspec.Struct, frozen=True, omit_defaults=True):
    """A row that was looked at."""

    row: int
    question: Question | None = None
    problem: str = ""  # why it was left out


def row_order(n_rows: int, seed: int, strata: Sequence[str] | None = None) -> list[int]:
    """All rows in a random order that follows from the seed. Every beginning of it has its share of each stratum."""
    keys = {row: hashlib.sha256(f"{seed} {row}".encode()).digest() for row in range(n_rows)}
    if strata is None:
        return sorted(keys, key=lambda row: keys[row])
    members: dict[str, list[int]] = {}
    for row, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(row)
    places: dict[int, float] = {}
    for stratum, rows in members.items():
        start = int.from_bytes(hashlib.sha256(f"{seed} {stratum}".encode()).digest()[:8]) / 2**64
        for rank, row in enumerate(sorted(rows, key=lambda row: keys[row])):
            places[row] = (rank + start) / len(rows)
    return sorted(places, key=lambda row: (places[row], keys[row]))


class SampleJob:
    """Draws n questions. `run` yields Progress, and at the end the QuestionSet."""

    def __init__(
        self,
        suite: Suite,
        table: SuiteTable,
        n: int,
        seed: int,
        folder: Path,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`folder`: of all samples. Raises BadInput if the table lacks a column of the suite."""
        if not 0 < n <= MAX_ITEMS:
            raise BadInput(f"The number of questions has to be between 1 and {MAX_ITEMS}.")
        lacking = [name for name in suite.columns.names if name not in table.columns]
        if lacking:
            raise BadInput(f"{suite.repo} has no column {', '.join(lacking)}. Its columns: {', '.join(table.columns)}.")
        self._suite, self._table, self._n, self._seed, self._stop = suite, table, n, seed, stop
        self.folder = sample_folder(folder, suite, table.commit, seed)
        self._drawn = {entry.row: entry for entry in _read(self.folder)}

    @cached_property
    def order(self) -> list[int]:
        """All rows, in the order in which they are asked. Reads the column of the categories."""
        category = self._suite.columns.category
        strata = [category_of(value) for value in self._table.column(category)] if category else None
        return row_order(self._table.n_rows, self._seed, strata)

    def cost(self, order: Sequence[int]) -> tuple[int, int]:
        """How many row groups are still to be read for the sample, and their bytes."""
        groups = sorted({self._table.group_of(row) for row in self._missing(order)})
        return len(groups), self._table.bytes_of(groups, self._suite.columns.names)

    def run(self) -> Iterator[Progress | QuestionSet]:
        """Raises Interrupted, NoRoom, and what reading the table raises."""
        started, fetched = time.monotonic(), 0
        order = self.order
        while missing := self._missing(order):
            groups: dict[int, list[int]] = {}
            for row in missing:
                groups.setdefault(self._table.group_of(row), []).append(row)
            spare = self._spare(order, groups)
            for done, (group, rows) in enumerate(sorted(groups.items())):
                if self._stop():
                    raise Interrupted("Stopped.")
                elapsed = time.monotonic() - started
                left = elapsed / fetched * (len(groups) - done) if fetched else None
                yield Progress(f"{self._suite.name}: reading questions", done, len(groups), left)
                self._take(group, [*rows, *spare.get(group, ())])
                fetched += 1
        self._finish()
        questions = read_sample(self.folder, self._n)
        if questions is None:
            raise BadInput(f"No question of {self._suite.name} can be used. {self._first_problem()}")
        yield questions

    def _missing(self, order: Sequence[int]) -> list[int]:
        """The next rows that were not looked at, as many as questions are missing."""
        usable = 0
        missing: list[int] = []
        for row in order:
            entry = self._drawn.get(row)
            if entry is None:
                missing.append(row)
            elif entry.question is not None:
                usable += 1
            if usable + len(missing) >= self._n:
                break
        return missing

    def _spare(self, order: Sequence[int], groups: dict[int, list[int]]) -> dict[int, list[int]]:
        """The rows that come next in the order and lie in row groups that are read anyway: some rows will be left out,
        and a row group would have to be fetched again for its replacement."""
        wanted = {row for rows in groups.values() for row in rows}
        n_spare = len(wanted) // 10 + 4
        spare: dict[int, list[int]] = {}
        for row in order:
            if n_spare == 0:
                break
            group = self._table.group_of(row)
            if row not in wanted and row not in self._drawn:
                if group not in groups:
                    break  # a later row may not go before it
                spare.setdefault(group, []).append(row)
                n_spare -= 1
        return spare

    def _take(self, group: int, rows: Sequence[int]) -> None:
        try:
            values = self._table.read(group, rows, self._suite.columns.names)
        except BadModel as error:
            self._keep([_DrawnRow(row, problem=error.message.rstrip(".")) for row in rows])
            return
        self._keep([self._entry(row, values[row]) for row in rows])

    def _entry(self, row: int, values: dict[str, Any]) -> _DrawnRow:
        try:
            data = row_image(self._suite, values)
            kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), "img")
            name = f"images/{row:07}.{kind}"
            DECODER.read(io.BytesIO(data), name=name)
            with PIL.Image.open(io.BytesIO(data)) as image:
                size = image.size
            draw = int.from_bytes(hashlib.sha256(f"{self._seed} {row} question".encode()).digest()[:4])
            question = row_question(self._suite, values, name, size, draw)
            check_question(question)
        except (Failure, ValueError, TypeError, OSError) as error:
            return _DrawnRow(row, problem=str(error).rstrip("."))
        self._write(self.folder / name, data)
        return _DrawnRow(row, question)

    def _keep(self, entries: Sequence[_DrawnRow]) -> None:
        lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
        path = self.folder / "rows.log"
        self._write(path, (path.read_bytes() if path.exists() else b"") + lines)
        self._drawn |= {entry.row: entry for entry in entries}

    def _finish(self) -> None:
        """Note the order, so that the sample can be read without the table."""
        order = [row for row in self.order if row in self._drawn]
        header = _SampleFile(
            suite=self._suite,
            commit=self._table.commit,
            seed=self._seed,
            licence=self._table.licence or self._suite.licence,
            n_rows=self._table.n_rows,
            order=tuple(order),
        )
        self._write(self.folder / "sample.json", msgspec.json.encode(header))

    def _write(self, path: Path, data: bytes) -> None:
        try:
            atomic.write(path, data)
        except OSError as error:
            raise cannot_write(path, error) from None

    def _first_problem(self) -> str:
        return next((f"Row {e.row}: {e.problem}." for e in self._drawn.values() if e.problem), "")


class _SampleFile(msgspec.Struct, frozen=True):
    suite: Suite
    commit: str
    seed: int
    licence: str
    n_rows: int
    order: tuple[int, ...]  # of the rows that were looked at


def write_zip(questions: QuestionSet, path: Path) -> None:
    """A sample as a zip of questions, which names where it comes from. Raises NoRoom, BadInput.

    The same sample makes the same bytes.
    """
    try:
        with atomic.replacing(path) as part, zipfile.ZipFile(part, "w") as archive:
            lines = b"".join(msgspec.json.encode(item) + b"\n" for item in questions.items)
            archive.writestr(zipfile.ZipInfo("items.jsonl"), lines)
            if questions.sample is not None:
                archive.writestr(zipfile.ZipInfo(SAMPLE_NAME), msgspec.json.encode(questions.sample))
            for name in sorted({item.image for item in questions.items}):
                archive.writestr(zipfile.ZipInfo(name), questions.data(name))
    except OSError as error:
        raise cannot_write(path, error) from None


def sample_folder(folder: Path, suite: Suite, commit: str, seed: int) -> Path:
    """Where the sample of a suite, as it is written now, of a commit and a seed is kept, of any number of questions."""
    meant = msgspec.structs.replace(suite, about="", evidence="", licence="", size=None)
    content = hashlib.sha256(msgspec.json.encode(meant)).hexdigest()[:8]
    name = suite.repo.replace("/", "--")
    return folder / f"{name}-{commit[:12]}-{content}-{seed}"


def read_sample(folder: Path, n: int) -> QuestionSet | None:
    """The first n questions; None if fewer are there than n and than the set has."""
    try:
        header = msgspec.json.decode((folder / "sample.json").read_bytes(), type=_SampleFile)
    except (OSError, msgspec.DecodeError):
        return None
    drawn = {entry.row: entry for entry in _read(folder)}
    questions: list[Question] = []
    rows: list[int] = []
    problems: list[str] = []
    for row in header.order:
        entry = drawn.get(row)
        if entry is None:
            return None
        if entry.question is None:
            problems.append(f"Row {row} was left out: {entry.problem}.")
        else:
            questions.append(entry.question)
            rows.append(row)
        if len(questions) == n:
            break
    if not questions or (len(questions) < n and len(header.order) < header.n_rows):
        return None
    suite = header.suite
    left_out = len(problems)
    if left_out > MAX_PROBLEMS:
        problems = [*problems[:MAX_PROBLEMS], f"{left_out - MAX_PROBLEMS} more rows were left out."]
    if len(questions) < n:
        problems.append(f"The set has only {counted(len(questions), 'question')} that can be used.")
    if not any(question.answers for question in questions):
        problems.append(f"{suite.name} has no accepted answers in this split: accuracy cannot be measured.")
    record = SampleRecord(
        suite=suite.name,
        repo=suite.repo,
        commit=header.commit,
        configuration=suite.configuration,
        split=suite.split,
        licence=header.licence,
        seed=header.seed,
        rows=tuple(rows),
        left_out=left_out,
        of=header.n_rows,
    )
    return QuestionSet(suite.name, questions, folder, problems, record)


def newest_sample(folder: Path, suite: Suite | str, seed: int, n: int) -> QuestionSet | None:
    """A complete sample of any commit, for when the Hub cannot be reached; the one that was drawn last.

    `suite`: or the repository of one that was guessed.
    """
    if isinstance(suite, str):
        pattern = f"{suite.replace('/', '--')}-*-{seed}"
    else:
        pattern = sample_folder(Path(), suite, "*", seed).name
    folders = sorted(folder.glob(pattern), key=lambda path: -path.stat().st_mtime)
    return next((questions for path in folders if (questions := read_sample(path, n)) is not None), None)


def _read(folder: Path) -> Iterator[_DrawnRow]:
    """A line that was cut off is none."""
    try:
        lines = (folder / "rows.log").read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield msgspec.json.decode(line, type=_DrawnRow)
        except msgspec.DecodeError:
            continue
