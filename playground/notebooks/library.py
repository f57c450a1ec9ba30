"""The notebooks of everybody who uses this app, on disk at once, each behind a key that cannot be guessed.

Who knows a notebook's id may change it, who knows its share key may read it, and a browser's token lists its own.
There is no other account, and nothing lists what belongs to others.

What nobody opens or changes any more is swept away, if the operator says so; the day of its last use is kept for each.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from threading import RLock
from typing import TypeVar

import msgspec
import PIL.Image

from playground.comparing.images import MAX_PIXELS, from_rgb
from playground.errors import BadImage, BadInput, NoNotebook, NotAllowed
from playground.measuring.question_sets import QuestionSet, read_questions
from playground.notebooks.cells import (
    MAX_TITLE,
    Cell,
    CompareCell,
    NoteCell,
    Picture,
    Run,
    RunState,
    check_cell,
    pictures_of,
    settled,
)
from playground.notebooks.file_format import MAX_CELLS, WholeCell
from playground.support.byte_cache import BytesCache
from playground.values.request import Image

logger = logging.getLogger(__name__)

MAX_NOTEBOOKS = 200  # of one browser
_MAX_UNDO = 20
_THUMBNAIL_PIXELS = 512  # the longer side, for a pane of 170 CSS pixels on a dense screen
_FRESH_S = 86400  # a file that no notebook names yet may be on its way into one
_SMALL_FILE = 48 * 1024  # bytes; below it the picture is its own thumbnail


_FULL = (
    "There is no room for more pictures: the notebooks here take what the operator allows them (notebooks_bytes). "
    "Delete one that is not needed any more."
)

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


class RunInfo(msgspec.Struct, frozen=True):
    """A run as the list of a cell's runs shows it."""

    number: int
    started: str
    state: RunState


class Library:
    """Owns the folder. Safe to use from several threads.

    What the disk refuses is kept in memory and tried again with the next write; `problem` says so meanwhile.
    """

    def __init__(self, folder: Path, limit_bytes: int | None = None) -> None:
        """`limit_bytes`: beyond it `check_room` refuses."""
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._used: dict[str, str] = {}  # notebooks and the day on which they were used last
        self._cache = BytesCache(folder, None)
        self._pictures = folder / "pictures"
        self._questions = folder / "questions"
        self._unsaved: dict[str, bytes | None] = {}  # None: to be deleted
        self._live: set[tuple[str, int]] = set()  # runs of this process, by cell and number
        self._lock = RLock()
        self._full = self._is_full()

    def close(self) -> None:
        self._retry()
        self._cache.close()

    @property
    def problem(self) -> str | None:
        if self._unsaved:
            return f"Not saved, only kept in memory: {self._cache.problem or 'the disk refused a picture'}"
        return f"{_FULL} Texts and answers are saved." if self._full else None

    # --- whose notebooks ---------------------------------------------------------------------------------------

    def browser(self, token: str | None) -> tuple[str, tuple[ListedNotebook, ...]]:
        """A browser's notebooks, the latest opened first; an unknown token gets a new one with none."""
        raw = self._get(f"browser/{token}") if token else None
        if token is None or raw is None:
            return secrets.token_urlsafe(16), ()
        found = []
        for id in msgspec.json.decode(raw, type=list[str]):
            notebook = self._notebook(id)
            if notebook is not None:
                found.append(ListedNotebook(notebook.id, notebook.title))
        return token, tuple(found)

    def create(self, browser: str, title: str, cells: Sequence[WholeCell] = ()) -> Notebook:
        """A new notebook in a browser's list, with new ids for its cells. Raises BadInput if there are too many."""
        with self._lock:
            listed = [entry.id for entry in self.browser(browser)[1]]
            if len(listed) >= MAX_NOTEBOOKS:
                raise BadInput(f"There are {MAX_NOTEBOOKS} notebooks already. Delete one that is not needed any more.")
            notebook = Notebook(secrets.token_urlsafe(16), title[:MAX_TITLE] or "Untitled notebook")
            ids = []
            for whole in cells[:MAX_CELLS]:
                for sha256, png in whole.images.items():
                    self._import_picture(sha256, png)
                cell = msgspec.structs.replace(whole.cell, id=_cell_id(), version=1)
                ids.append(cell.id)
                self._put_cell(notebook.id, cell)
                for run in whole.runs:
                    self._put_run(notebook.id, cell.id, run)
                self._mark(notebook.id, cell, whole.runs)
            notebook = msgspec.structs.replace(notebook, cells=tuple(ids))
            self._put(f"notebook/{notebook.id}", msgspec.json.encode(notebook))
            self._touch(notebook.id)
            self._put(f"browser/{browser}", msgspec.json.encode([notebook.id, *listed]))
        return notebook

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
            self._touch(notebook.id)
            return notebook, True
        shared = self._get(f"share/{key}")
        notebook = self._notebook(shared.decode()) if shared else None
        if notebook is None or notebook.share != key:
            raise NoNotebook("There is no notebook here.")
        self._touch(notebook.id)
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
                self._delete(f"share/{notebook.share}")
                return self._change(notebook, share=None)
            token = secrets.token_urlsafe(16)
            self._put(f"share/{token}", notebook.id.encode())
            return self._change(notebook, share=token)

    def remove(self, key: str) -> None:
        """Deletes a notebook with its cells, runs and the pictures that no other notebook has."""
        with self._lock:
            notebook = self.own(key)
            self.share(key, False)
            for kind in ("cell", "runs", "run"):
                for name in self._keys(f"{kind}/{notebook.id}/"):
                    self._delete(name)
            self._delete(f"notebook/{notebook.id}")
            self._delete(f"used/{notebook.id}")
            self._used.pop(notebook.id, None)
            marks = self._keys("picture/")
            mine = {mark.split("/")[1] for mark in marks if mark.endswith(f"/{notebook.id}")}
            for mark in marks:
                if mark.endswith(f"/{notebook.id}"):
                    self._delete(mark)
                else:
                    mine.discard(mark.split("/")[1])
            for sha256 in mine:
                for suffix in ("png", "webp"):
                    self._unsaved.pop(f"file/{sha256}.{suffix}", None)
                for path in self._pictures.glob(f"{sha256}.*"):
                    path.unlink(missing_ok=True)

    # --- what is swept away ------------------------------------------------------------------------------------

    def sweep(self, days: int | None, today: datetime.date | None = None) -> int:
        """Deletes notebooks that nobody has used for `days` (None: no notebook), browsers' lists of nothing else, and
        pictures and questions that no notebook names. Returns how many notebooks there were to delete."""
        today = today or _today()
        swept = 0
        for key in self._keys("notebook/"):
            id = key.removeprefix("notebook/")
            used = self._get(f"used/{id}")
            if used is None:  # from before the day was kept
                self._touch(id)
            elif days is not None and (today - datetime.date.fromisoformat(used.decode())).days > days:
                with contextlib.suppress(NoNotebook):  # one that cannot be read is kept
                    self.remove(id)
                    swept += 1
        with self._lock:
            for key in self._keys("browser/"):
                if not self.browser(key.removeprefix("browser/"))[1]:
                    self._delete(key)
            named = {mark.split("/")[1] for mark in self._keys("picture/")}
            self._sweep_files(self._pictures, lambda stem: stem in named)
            unnamed = {path.name.partition(".")[0] for path in self._questions.glob("*")}
            for key in (*self._keys("cell/"), *self._keys("run/")) if unnamed else ():
                text = self._get(key) or b""
                unnamed = {stem for stem in unnamed if stem.encode() not in text}
            self._sweep_files(self._questions, lambda stem: stem not in unnamed)
            self._full = self._is_full()
        if swept:
            logger.info("swept %d notebooks that nobody has used for %s days", swept, days)
        return swept

    def _sweep_files(self, folder: Path, needed: Callable[[str], bool]) -> None:
        for path in folder.glob("*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - _FRESH_S and not needed(path.name.partition(".")[0]):
                    path.unlink()

    def _touch(self, id: str) -> None:
        """Notes that a notebook is used today."""
        day = _today().isoformat()
        if self._used.get(id) != day:
            self._used[id] = day
            self._put(f"used/{id}", day.encode())

    def _is_full(self) -> bool:
        if self._limit_bytes is None:
            return False
        paths = (os.path.join(folder, name) for folder, _, names in os.walk(self._folder) for name in names)
        return sum(map(_size, paths)) > self._limit_bytes

    def check_room(self) -> None:
        """Before a picture or a file with pictures is taken. Raises BadInput."""
        self._full = self._is_full()
        if self._full:
            raise BadInput(_FULL)

    def writing(self) -> AbstractContextManager[object]:
        """Hold it from reading a cell until it is written, so that no other change of it is lost."""
        return self._lock

    # --- cells -------------------------------------------------------------------------------------------------

    def cell(self, notebook: Notebook, id: str) -> Cell:
        """Raises BadInput for a cell that is not in the notebook. One that cannot be read is a note that says so."""
        raw = self._get(f"cell/{notebook.id}/{id}") if id in notebook.cells else None
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
            for run in runs:
                self._put_run(notebook.id, cell.id, run)
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
                for name in [f"cell/{notebook.id}/{gone}", *self._keys(f"run/{notebook.id}/{gone}/")]:
                    self._delete(name)
                self._delete(f"runs/{notebook.id}/{gone}")
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
        raw = self._get(f"runs/{notebook.id}/{cell}")
        found = msgspec.json.decode(raw, type=tuple[RunInfo, ...]) if raw else ()
        return tuple(msgspec.structs.replace(info, state=self._state(cell, info.number, info.state)) for info in found)

    def run(self, notebook: Notebook, cell: str, number: int) -> Run | None:
        """None if it is not there, or cannot be read."""
        raw = self._get(f"run/{notebook.id}/{cell}/{number}")
        try:
            run = msgspec.json.decode(raw, type=Run) if raw else None
        except msgspec.MsgspecError as error:
            logger.warning("run %s of cell %s: %s", number, cell, error)
            return None
        if run is not None and self._state(cell, number, run.state) is RunState.INTERRUPTED:
            return settled(run, RunState.INTERRUPTED)
        return run

    def all_runs(self, notebook: Notebook, cell: str) -> tuple[Run, ...]:
        found = (self.run(notebook, cell, info.number) for info in self.runs(notebook, cell))
        return tuple(run for run in found if run is not None)

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
            except NoNotebook:
                return
            if run.state is RunState.RUNNING:
                self._live.add((run.cell.id, run.number))
            self._put_run(notebook.id, run.cell.id, run)

    # --- questions ---------------------------------------------------------------------------------------------

    def keep_questions(self, path: Path) -> str:
        """Keeps a zip of questions under its sha256. Raises BadInput if it cannot be used, or not be kept."""
        read_questions(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        target = self._questions / f"{sha256}.zip"
        part = target.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            self._questions.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copyfile(path, part)
            part.replace(target)
        except OSError as error:
            raise BadInput(f"{path.name} could not be kept: {error}.") from None
        finally:
            part.unlink(missing_ok=True)
        return sha256

    def has_questions(self, sha256: str) -> bool:
        return bool(sha256) and (self._questions / f"{sha256}.zip").is_file()

    def questions(self, sha256: str) -> QuestionSet:
        """A set of one's own. Raises BadInput."""
        return read_questions(self._questions / f"{sha256}.zip")

    # --- pictures ----------------------------------------------------------------------------------------------

    def keep_picture(self, image: Image, name: str) -> Picture:
        """A PNG file under the sha256 of the pixels, once whatever notebooks show it."""
        picture = Picture(image.sha256, image.width, image.height, name[:MAX_TITLE], image.note)
        if self.png(image.sha256) is None:
            png = io.BytesIO()
            shown = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
            shown.save(png, "PNG", compress_level=1)  # 12 megapixels: 0.4 s in place of 3
            self._keep_file(f"{image.sha256}.png", png.getvalue())
        return picture

    def png(self, sha256: str) -> bytes | None:
        """A picture's file; None if it is lost."""
        return self._file(f"{sha256}.png")

    def image(self, picture: Picture) -> Image:
        """A picture's pixels. Raises BadImage if they are lost."""
        png = self.png(picture.sha256)
        try:
            if png is None:
                raise BadImage("the file is gone")
            return from_rgb(_decoded(png), picture.note)
        except BadImage as error:
            if png is not None:
                with contextlib.suppress(OSError):  # it gives way, so that adding the image again keeps it again
                    (self._pictures / f"{picture.sha256}.png").unlink()
            raise BadImage(f"{picture.name} cannot be read any more ({error}). Add the image again.") from None

    def thumbnail(self, sha256: str) -> tuple[str, bytes] | None:
        """MIME type and bytes to show; None if the picture is lost."""
        png = self.png(sha256)
        if png is None:
            return None
        if len(png) <= _SMALL_FILE:
            return "image/png", png
        small = self._file(f"{sha256}.webp")
        if small is None:
            try:
                shown = _decoded(png)
            except BadImage:
                return None
            shown.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
            webp = io.BytesIO()
            shown.save(webp, "WEBP", quality=82)
            small = webp.getvalue()
            self._keep_file(f"{sha256}.webp", small)
        return "image/webp", small

    def _import_picture(self, sha256: str, png: str) -> None:
        """A picture of a file: taken if it is what its name says, else its cell shows that it is lost."""
        if self.png(sha256) is not None:
            return
        try:
            image = from_rgb(_decoded(base64.b64decode(png, validate=True)))
        except (ValueError, BadImage):
            return
        if image.sha256 == sha256:
            self.keep_picture(image, "")

    def _keep_file(self, name: str, data: bytes) -> None:
        path = self._pictures / name
        part = path.with_suffix(f".{secrets.token_hex(4)}.part")
        try:
            self._pictures.mkdir(mode=0o700, parents=True, exist_ok=True)
            part.write_bytes(data)
            part.replace(path)
            self._unsaved.pop(f"file/{name}", None)
        except OSError as error:
            logger.warning("picture: %s", error)
            self._unsaved[f"file/{name}"] = data
            with contextlib.suppress(OSError):
                part.unlink()

    def _file(self, name: str) -> bytes | None:
        stem, _, suffix = name.partition(".")
        if len(stem) != 64 or not set(stem) <= set("0123456789abcdef") or suffix not in ("png", "webp"):
            return None  # a checksum out of a file somebody made
        unsaved = self._unsaved.get(f"file/{name}")
        if unsaved is not None:
            return unsaved
        try:
            return (self._pictures / name).read_bytes()
        except OSError:
            return None

    # --- the disk ----------------------------------------------------------------------------------------------

    def _state(self, cell: str, number: int, state: RunState) -> RunState:
        lost = state is RunState.RUNNING and (cell, number) not in self._live
        return RunState.INTERRUPTED if lost else state

    def _notebook(self, id: str) -> Notebook | None:
        raw = self._get(f"notebook/{id}")
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

    def _put_run(self, notebook: str, cell: str, run: Run) -> None:
        raw = self._get(f"runs/{notebook}/{cell}")
        known = {i.number: i for i in msgspec.json.decode(raw, type=tuple[RunInfo, ...])} if raw else {}
        info = RunInfo(run.number, run.started, run.state)
        self._put(f"run/{notebook}/{cell}/{run.number}", msgspec.json.encode(run))
        if known.get(run.number) != info:
            self._put(f"runs/{notebook}/{cell}", msgspec.json.encode(list((known | {run.number: info}).values())))

    def _mark(self, notebook: str, cell: Cell, runs: Sequence[Run] = ()) -> None:
        """Notes which pictures a notebook needs."""
        for picture in pictures_of(cell, runs) if isinstance(cell, CompareCell) else ():
            key = f"picture/{picture.sha256}/{notebook}"
            if self._get(key) is None:
                self._put(key, b"")

    def _get(self, key: str) -> bytes | None:
        return self._unsaved[key] if key in self._unsaved else self._cache.get(key)

    def _put(self, key: str, value: bytes) -> None:
        with self._lock:
            if not self._cache.set(key, value):
                self._unsaved[key] = value
                return
            self._unsaved.pop(key, None)
            self._retry()

    def _retry(self) -> None:
        """Try again what the disk refused."""
        with self._lock:
            for other, kept in list(self._unsaved.items()):
                if kept is not None and other.startswith("file/"):
                    self._keep_file(other.removeprefix("file/"), kept)
                elif self._cache.delete(other) if kept is None else self._cache.set(other, kept):
                    del self._unsaved[other]

    def _delete(self, key: str) -> None:
        self._unsaved.pop(key, None)
        if not self._cache.delete(key):
            self._unsaved[key] = None

    def _keys(self, prefix: str) -> list[str]:
        found = {*self._cache.keys(prefix), *(key for key in list(self._unsaved) if key.startswith(prefix))}
        return [key for key in found if self._unsaved.get(key, b"") is not None]


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # it is gone already
        return 0


def _decoded(png: bytes) -> PIL.Image.Image:
    """Raises BadImage for what is damaged, or larger than any image that is kept here."""
    try:
        with PIL.Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            if opened.width * opened.height > 2 * MAX_PIXELS:
                raise BadImage("it is too large")
            return opened.convert("RGB")
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadImage(str(error)) from None


def _cell_id() -> str:
    return secrets.token_urlsafe(6)
