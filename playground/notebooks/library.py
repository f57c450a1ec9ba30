"""The notebooks of everybody who uses this app, on disk at once, each behind a key that cannot be guessed.

Who knows a notebook's id may change it, who knows its share key may read it, and a browser's token lists its own.
There is no other account, and nothing lists what belongs to others.

What nobody opens or changes any more is swept away, if the operator says so; the day of its last use is kept for each.
"""

from __future__ import annotations

import datetime
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from threading import RLock
from typing import TypeVar

import msgspec

from playground.comparing.images import read_image
from playground.errors import BadInput, NoNotebook, NotAllowed, Unreadable
from playground.notebooks.cells import (
    MAX_TITLE,
    Cell,
    CompareCell,
    NoteCell,
    Run,
    RunState,
    check_cell,
    pictures_of,
    settled,
)
from playground.notebooks.entries import Entries
from playground.notebooks.file_format import MAX_CELLS, WholeCell
from playground.notebooks.own_files import OwnFiles
from playground.notebooks.pictures import Decode, Pictures
from playground.notebooks.question_files import QuestionFiles
from playground.notebooks.retention import FULL, Retention, delete_files
from playground.support import pieces

logger = logging.getLogger(__name__)

MAX_NOTEBOOKS = 200  # of one browser
_MAX_UNDO = 20
_SHA256 = re.compile(rb'"([0-9a-f]{64})"')

_KINDS = ("cell", "runs", "run", "foreign", "unfinished")  # of the entries that a notebook has several of

AnyCell = TypeVar("AnyCell", bound=NoteCell | CompareCell)


class Notebook(msgspec.Struct, frozen=True, omit_defaults=True):
    id: str
    title: str
    cells: tuple[str, ...] = ()
    deleted: tuple[tuple[str, int], ...] = ()  # cell and where it stood, the latest last
    share: str | None = None  # the key for readers


class ListedNotebook(msgspec.Struct, frozen=True):
    id: str
    title: str


class Unfinished(msgspec.Struct, frozen=True):
    """A measurement that goes on: an app that is started anew takes it up."""

    notebook: str
    cell: str
    run: int
    times: int = 0  # that it was taken up


class RunInfo(msgspec.Struct, frozen=True):
    """A run as the list of a cell's runs shows it."""

    number: int
    started: str
    state: RunState


class Library:
    """Owns the folder. Safe to use from several threads.

    What the disk refuses is kept in memory and tried again with the next write; `problem` says so meanwhile.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None, decode: Decode = read_image) -> None:
        """`limit_bytes`: beyond it `check_room` refuses. `decode`: reads the pictures of an imported file."""
        self._entries = Entries(folder)
        self.pictures = Pictures(folder / "pictures", decode)
        self.questions = QuestionFiles(folder / "questions")
        self._retention = Retention(self._entries, folder, limit_bytes)
        self._live: set[tuple[str, int]] = set()  # runs of this process, by cell and number
        self._lock = RLock()

    def close(self) -> None:
        self.pictures.retry()
        self._entries.close()

    @property
    def problem(self) -> str | None:
        refused = self._entries.problem or self.pictures.problem
        if refused:
            return f"Not saved, only kept in memory: {refused}"
        if self._entries.unreadable:
            return "The disk cannot be read now. Nothing is lost by that: no notebook is changed or deleted meanwhile."
        damaged = self._entries.damaged
        if damaged:
            return (
                f"The notebooks' database was damaged. What could be read of it is here; the rest may be missing. The "
                f"operator finds the damaged file as {damaged} in the notebooks' folder. Until it is moved away, no "
                f"picture and no old notebook is deleted."
            )
        if self._entries.shared:
            return "Another program uses the same cache folder. Close it: two of them can lose each other's changes."
        return f"{FULL} Texts and answers are saved." if self._retention.full else None

    def check_disk(self) -> None:
        """Reads from the disk. Raises Unreadable."""
        self._entries.get("check")

    # --- whose notebooks ---------------------------------------------------------------------------------------

    def browser(self, token: str | None) -> tuple[str, tuple[ListedNotebook, ...]]:
        """A browser's notebooks, the latest opened first; an unknown token gets a new one with none."""
        raw = self._entries.get(f"browser/{token}") if token else None
        if token is None or raw is None:
            return secrets.token_urlsafe(16), ()
        listed = []
        for id in msgspec.json.decode(raw, type=list[str]):
            notebook = self._notebook(id)
            if notebook is not None:
                listed.append(ListedNotebook(notebook.id, notebook.title))
        return token, tuple(listed)

    def create(
        self,
        browser: str,
        title: str,
        cells: Iterable[WholeCell] = (),
        may_show: Callable[[str], bool] = lambda sha256: True,
    ) -> Notebook:
        """A new notebook in a browser's list, with new ids for its cells. Raises BadInput if there are too many.

        `may_show`: which pictures and question zips the notebook may show, beside those that `cells` hold.
        """
        if len(self.browser(browser)[1]) >= MAX_NOTEBOOKS:
            raise BadInput(f"There are {MAX_NOTEBOOKS} notebooks already. Delete one that is not needed any more.")
        notebook = Notebook(secrets.token_urlsafe(16), title[:MAX_TITLE] or "Untitled notebook")
        try:  # without the lock: nobody knows the notebook yet
            ids = self._put_cells(notebook, cells, may_show)
        except BaseException:
            self._put(f"removed/{notebook.id}", b"")
            with suppress(Unreadable):  # the next sweep goes on
                self._delete_rest(notebook.id)
            raise
        notebook = msgspec.structs.replace(notebook, cells=ids)
        with self._lock:
            self._put(f"notebook/{notebook.id}", msgspec.json.encode(notebook))
            self._retention.touch(notebook.id)
            listed = [entry.id for entry in self.browser(browser)[1]]
            self._put(f"browser/{browser}", msgspec.json.encode([notebook.id, *listed]))
        return notebook

    def _put_cells(
        self, notebook: Notebook, cells: Iterable[WholeCell], may_show: Callable[[str], bool]
    ) -> tuple[str, ...]:
        """The cells' new ids."""
        files, ids = self.files(notebook), list[str]()
        named, held = set[str](), set[str]()
        for whole in cells:
            if len(ids) == MAX_CELLS:
                continue
            cell = msgspec.structs.replace(whole.cell, id=_cell_id(), version=1)
            ids.append(cell.id)
            held |= {sha256 for sha256, png in whole.images.items() if self.pictures.keep_imported(sha256, png)}
            named |= _named(cell, whole.runs)
            self._put_cell(notebook.id, cell)
            self._mark(notebook.id, cell, whole.runs)
            self._put_runs(notebook.id, cell.id, whole.runs)
        for sha256 in named - held:
            if not may_show(sha256):
                files.refuse(sha256)
        return tuple(ids)

    def files(self, notebook: Notebook) -> OwnFiles:
        """The pictures and question sets of a notebook."""
        return OwnFiles(self._entries, self.pictures, self.questions, notebook.id)

    def named_by(self, browser: str) -> set[str]:
        """The sha256 of all pictures and question zips that the cells of a browser's notebooks may show."""
        named = set()
        for listed in self.browser(browser)[1]:
            notebook = self._notebook(listed.id)
            for cell in notebook.cells if notebook is not None else ():
                text = self._entries.get(f"cell/{listed.id}/{cell}") or b""
                named |= {sha256.decode() for sha256 in _SHA256.findall(text)}
            named -= {key.rpartition("/")[2] for key in self._entries.keys(f"foreign/{listed.id}/")}
        return named

    def opened(self, browser: str, id: str) -> None:
        """Moves a notebook to the front of its browser's list."""
        with self._lock:
            listed = [entry.id for entry in self.browser(browser)[1]]
            if id in listed and listed[0] != id:
                listed.remove(id)
                self._put(f"browser/{browser}", msgspec.json.encode([id, *listed]))

    def read(self, key: str) -> tuple[Notebook, bool]:
        """A notebook by its id or its share key, and whether it may be changed. Raises NoNotebook."""
        notebook = self._notebook(key)
        if notebook is not None:
            self._retention.touch(notebook.id)
            return notebook, True
        shared = self._entries.get(f"share/{key}")
        notebook = self._notebook(shared.decode()) if shared else None
        if notebook is None or notebook.share != key:
            raise NoNotebook("There is no notebook here.")
        self._retention.touch(notebook.id)
        return notebook, False

    def own(self, key: str) -> Notebook:
        """Raises NoNotebook, or NotAllowed for a key that only reads."""
        notebook, can_edit = self.read(key)
        if not can_edit:
            raise NotAllowed("This notebook is read-only here. Make your own copy to change it.")
        return notebook

    def rename(self, key: str, title: str) -> Notebook:
        with self._lock:
            return self._change(self.own(key), title=title.strip()[:MAX_TITLE] or "Untitled notebook")

    def share(self, key: str, shared: bool) -> Notebook:
        """Makes the link for readers, or ends it; a later link is another one."""
        with self._lock:
            notebook = self.own(key)
            if shared == (notebook.share is not None):
                return notebook
            if notebook.share is not None:
                self._entries.delete(f"share/{notebook.share}")
                return self._change(notebook, share=None)
            token = secrets.token_urlsafe(16)
            self._put(f"share/{token}", notebook.id.encode())
            return self._change(notebook, share=token)

    def remove(self, key: str) -> None:
        """Deletes a notebook with its cells, runs and the pictures that no other notebook has."""
        self._names_of(self.own(key).id)  # what cannot be read now is not deleted
        with self._lock:
            id = self._taken_out(key)
        with suppress(Unreadable):  # the next sweep goes on
            self._delete_rest(id)

    def _taken_out(self, key: str) -> str:
        """With the lock. Nothing of the notebook is read from here on; `_delete_rest` deletes what is left of it."""
        notebook = self.own(key)
        self.share(key, False)
        self._put(f"removed/{notebook.id}", b"")  # should the app end before all is deleted
        self._entries.delete(f"notebook/{notebook.id}")
        self._retention.forget(notebook.id)
        return notebook.id

    def _names_of(self, id: str) -> tuple[list[str], list[str]]:
        """The entries of a notebook, and those that mark its pictures."""
        marks = [key for key in self._entries.keys("picture/") if key.endswith(f"/{id}")]
        return [name for kind in _KINDS for name in self._entries.keys(f"{kind}/{id}/")], marks

    def _delete_rest(self, id: str) -> None:
        """Without the lock: a large notebook has thousands of entries."""
        names, marks = self._names_of(id)
        for name in names:
            self._entries.delete(name)
        for mark in marks:
            sha256 = mark.split("/")[1]
            with self._lock:
                self._entries.delete(mark)
                # Where a damaged database was set aside, another notebook's mark may be lost.
                if self._entries.damaged is None and not self._entries.keys(f"picture/{sha256}/"):
                    self.pictures.delete(sha256)
        self._entries.delete(f"removed/{id}")

    def sweep(self, days: int | None, today: datetime.date | None = None) -> int:
        """Deletes what nobody uses any more: notebooks that were not used for `days` (None: no notebook), empty lists
        of browsers, and the pictures and questions that no notebook names. Returns the number of notebooks.

        Holds the lock for one notebook at a time. Deletes nothing if the clock has jumped, or if a damaged database was
        set aside. Raises Unreadable.
        """
        ids = [key.removeprefix("notebook/") for key in self._entries.keys("notebook/")]
        if not ids or self._entries.damaged is not None:  # what names the pictures may be lost: see `problem`
            return 0
        if self._retention.jumped(ids, today):
            return 0
        browsers = [key.removeprefix("browser/") for key in self._entries.keys("browser/")]
        listed = {browser: {notebook.id for notebook in self.browser(browser)[1]} for browser in browsers}
        marks = self._entries.keys("picture/")
        unnamed = self._unnamed_questions()
        # All that is needed was read; a disk that fails from here on ends the sweep before its next step.
        for key in self._entries.keys("removed/"):
            self._delete_rest(key.removeprefix("removed/"))
        swept = set()
        for id in self._retention.unused(ids, days, today):
            with suppress(NoNotebook):  # one that cannot be read is kept
                self._names_of(id)
                with self._lock:
                    if not self._retention.unused([id], days, today):  # somebody has opened it meanwhile
                        continue
                    self._taken_out(id)
                self._delete_rest(id)
                swept.add(id)
        for browser in (browser for browser, notebooks in listed.items() if notebooks <= swept):
            with self._lock:
                if swept.issuperset(notebook.id for notebook in self.browser(browser)[1]):
                    self._entries.delete(f"browser/{browser}")
        named = {mark.split("/")[1] for mark in (self._entries.keys("picture/") if swept else marks)}
        delete_files(self.pictures.folder, lambda stem: stem in named, self.pictures.deleting)
        delete_files(self.questions.folder, lambda stem: stem not in unnamed)
        self._retention.measure()
        if swept:
            logger.info("deleted %d notebooks that nobody has used for %s days", len(swept), days)
        return len(swept)

    def _unnamed_questions(self) -> set[str]:
        """The sha256 of the zips of questions that no cell and no run names."""
        unnamed = {path.name.partition(".")[0] for path in self.questions.folder.glob("*")}
        for key in (*self._entries.keys("cell/"), *self._entries.keys("run/")) if unnamed else ():
            text = self._entries.get(key) or b""
            unnamed = {stem for stem in unnamed if stem.encode() not in text}
        return unnamed

    def check_room(self) -> None:
        """Call it before a notebook is made, or a picture or a file is taken. Raises NoRoom."""
        self._retention.check_room()

    def writing(self) -> AbstractContextManager[object]:
        """Hold it from reading a cell until it is written, so that no other change of it is lost."""
        return self._lock

    # --- cells -------------------------------------------------------------------------------------------------

    def cell(self, notebook: Notebook, id: str) -> Cell:
        """Raises BadInput for a cell that is not in the notebook. One that cannot be read is a note that says so."""
        raw = self._entries.get(f"cell/{notebook.id}/{id}") if id in notebook.cells else None
        if raw is None:
            raise BadInput("This cell is gone: it was deleted, perhaps in another tab. Reload the page.")
        try:
            cell: Cell = msgspec.json.decode(raw, type=Cell)
        except msgspec.MsgspecError as error:
            return NoteCell(
                id, f"This cell cannot be read: {error}. A newer version of the playground may have made it."
            )
        return cell

    def write(self, key: str, cell: AnyCell, base: int | None = None) -> tuple[AnyCell, bool]:
        """Keep a changed cell. Returns it, and whether another tab had written since version `base`."""
        check_cell(cell)
        with self._lock:
            notebook = self.own(key)
            now = self.cell(notebook, cell.id)
            written = msgspec.structs.replace(cell, version=now.version + 1)
            self._put_cell(notebook.id, written)
            self._mark(notebook.id, written)
            return written, base is not None and base != now.version

    def add(self, key: str, cell: Cell, after: str | None, runs: Sequence[Run] = ()) -> Cell:
        """A new cell behind another one, or at the end."""
        check_cell(cell)
        with self._lock:
            notebook = self.own(key)
            if len(notebook.cells) >= MAX_CELLS:
                raise BadInput(f"A notebook has at most {MAX_CELLS} cells. Begin another one.")
            cell = msgspec.structs.replace(cell, id=_cell_id(), version=1)
            at = notebook.cells.index(after) + 1 if after in notebook.cells else len(notebook.cells)
            self._put_cell(notebook.id, cell)
            self._mark(notebook.id, cell, runs)
            self._put_runs(notebook.id, cell.id, runs)
            self._change(notebook, cells=(*notebook.cells[:at], cell.id, *notebook.cells[at:]))
            return cell

    def move(self, key: str, id: str, to: int) -> None:
        with self._lock:
            notebook = self.own(key)
            self.cell(notebook, id)
            others = [other for other in notebook.cells if other != id]
            others.insert(max(0, to), id)
            self._change(notebook, cells=tuple(others))

    def delete(self, key: str, id: str) -> None:
        """Takes a cell out; `undo` puts it back."""
        with self._lock:
            notebook = self.own(key)
            self.cell(notebook, id)
            deleted = (*notebook.deleted, (id, notebook.cells.index(id)))
            for gone, _ in deleted[:-_MAX_UNDO]:
                for name in [f"cell/{notebook.id}/{gone}", *self._entries.keys(f"run/{notebook.id}/{gone}/")]:
                    self._entries.delete(name)
                self._entries.delete(f"runs/{notebook.id}/{gone}")
            cells = tuple(other for other in notebook.cells if other != id)
            self._change(notebook, cells=cells, deleted=deleted[-_MAX_UNDO:])

    def undo(self, key: str) -> str:
        """The cell that was deleted last is back. Raises BadInput if there is none."""
        with self._lock:
            notebook = self.own(key)
            if not notebook.deleted:
                raise BadInput("There is no deleted cell to bring back.")
            *deleted, (id, at) = notebook.deleted
            cells = (*notebook.cells[:at], id, *notebook.cells[at:])
            self._change(notebook, cells=cells, deleted=tuple(deleted))
            return id

    # --- runs --------------------------------------------------------------------------------------------------

    def runs(self, notebook: Notebook, cell: str) -> tuple[RunInfo, ...]:
        """The first one first."""
        raw = self._entries.get(f"runs/{notebook.id}/{cell}")
        infos = msgspec.json.decode(raw, type=tuple[RunInfo, ...]) if raw else ()
        return tuple(msgspec.structs.replace(info, state=self._state(cell, info.number, info.state)) for info in infos)

    def run(self, notebook: Notebook, cell: str, number: int) -> Run | None:
        """None if it is not there, or cannot be read."""
        raw = self._entries.get(f"run/{notebook.id}/{cell}/{number}")
        try:
            run = pieces.decode(raw, Run) if raw else None
        except msgspec.MsgspecError as error:
            logger.warning("run %s of cell %s: %s", number, cell, error)
            return None
        if run is not None and self._state(cell, number, run.state) is RunState.INTERRUPTED:
            return settled(run, RunState.INTERRUPTED)
        return run

    def all_runs(self, notebook: Notebook, cell: str) -> tuple[Run, ...]:
        return tuple(self.each_run(notebook, cell))

    def each_run(self, notebook: Notebook, cell: str) -> Iterator[Run]:
        """The first one first, and each read when it is taken."""
        for info in self.runs(notebook, cell):
            run = self.run(notebook, cell, info.number)
            if run is not None:
                yield run

    def newest_run(self, notebook: Notebook, cell: str) -> Run | None:
        infos = self.runs(notebook, cell)
        return self.run(notebook, cell, max(info.number for info in infos)) if infos else None

    def begin_run(self, key: str, run: Run) -> Run:
        """Keeps a run that begins, under the next number."""
        with self._lock:
            notebook = self.own(key)
            number = max((info.number for info in self.runs(notebook, run.cell.id)), default=0) + 1
            run = msgspec.structs.replace(run, number=number)
            self._live.add((run.cell.id, number))
            self._put_run(notebook.id, run.cell.id, run)
            return run

    def save_run(self, key: str, run: Run) -> None:
        """Keeps how far a run has come. What is deleted meanwhile stays deleted."""
        with self._lock:
            if run.state is not RunState.RUNNING:
                self._live.discard((run.cell.id, run.number))
            try:
                notebook = self.own(key)
                is_kept = self._entries.get(f"cell/{notebook.id}/{run.cell.id}") is not None
            except NoNotebook:
                return
            except Unreadable:  # a run is written under its own number, and so replaces nothing else
                self._put(f"run/{key}/{run.cell.id}/{run.number}", msgspec.json.encode(run))
                return
            if not is_kept:
                return
            if run.state is RunState.RUNNING:
                self._live.add((run.cell.id, run.number))
            self._put_run(notebook.id, run.cell.id, run)

    def put_unfinished(self, measurement: Unfinished) -> None:
        name = f"unfinished/{measurement.notebook}/{measurement.cell}"
        self._put(name, msgspec.json.encode(measurement))

    def drop_unfinished(self, notebook: str, cell: str) -> None:
        self._entries.delete(f"unfinished/{notebook}/{cell}")

    def unfinished(self) -> list[Unfinished]:
        """Measurements that an earlier process did not end. None where another program uses the folder: it may still
        run them. Raises Unreadable."""
        names = [] if self._entries.shared else self._entries.keys("unfinished/")
        raw = [self._entries.get(name) for name in names]
        return [msgspec.json.decode(text, type=Unfinished) for text in raw if text]

    # --- the disk ----------------------------------------------------------------------------------------------

    def _state(self, cell: str, number: int, state: RunState) -> RunState:
        lost = state is RunState.RUNNING and (cell, number) not in self._live
        return RunState.INTERRUPTED if lost else state

    def _notebook(self, id: str) -> Notebook | None:
        raw = self._entries.get(f"notebook/{id}")
        try:
            return msgspec.json.decode(raw, type=Notebook) if raw else None
        except msgspec.MsgspecError as error:
            logger.warning("notebook: %s", error)
            return None

    def _change(self, notebook: Notebook, **fields: object) -> Notebook:
        changed = msgspec.structs.replace(notebook, **fields)
        self._put(f"notebook/{changed.id}", msgspec.json.encode(changed))
        return changed

    def _put_cell(self, notebook: str, cell: Cell) -> None:
        self._put(f"cell/{notebook}/{cell.id}", msgspec.json.encode(cell))

    def _put_runs(self, notebook: str, cell: str, runs: Sequence[Run]) -> None:
        """All runs of a new cell: their list is written once, not with each of them."""
        for run in runs:
            self._put(f"run/{notebook}/{cell}/{run.number}", msgspec.json.encode(run))
        if runs:
            infos = [RunInfo(run.number, run.started, run.state) for run in runs]
            self._put(f"runs/{notebook}/{cell}", msgspec.json.encode(infos))

    def _put_run(self, notebook: str, cell: str, run: Run) -> None:
        raw = self._entries.get(f"runs/{notebook}/{cell}")
        known = {i.number: i for i in msgspec.json.decode(raw, type=tuple[RunInfo, ...])} if raw else {}
        info = RunInfo(run.number, run.started, run.state)
        self._put(f"run/{notebook}/{cell}/{run.number}", msgspec.json.encode(run))
        if known.get(run.number) != info:
            self._put(f"runs/{notebook}/{cell}", msgspec.json.encode(list((known | {run.number: info}).values())))

    def _mark(self, notebook: str, cell: Cell, runs: Sequence[Run] = ()) -> None:
        """Notes which pictures a notebook needs."""
        for picture in pictures_of(cell, runs) if isinstance(cell, CompareCell) else ():
            key = f"picture/{picture.sha256}/{notebook}"
            if self._entries.get(key) is None:
                self._put(key, b"")

    def _put(self, key: str, value: bytes) -> None:
        if self._entries.put(key, value):
            self.pictures.retry()


def _named(cell: Cell, runs: Sequence[Run]) -> set[str]:
    """The sha256 of the pictures, the question zips and the packs that a cell and its runs name."""
    question_sets = [cell.questions if isinstance(cell, CompareCell) else None, *(run.cell.questions for run in runs)]
    named = (sha256 for asked in question_sets if asked is not None for sha256 in (asked.source, asked.pack))
    return {sha256 for sha256 in named if sha256} | {picture.sha256 for picture in pictures_of(cell, runs)}


def _cell_id() -> str:
    return secrets.token_urlsafe(6)
