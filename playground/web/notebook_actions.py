"""What the notebook's script asks of the server: one function for each thing that a person does there.

Every call carries a key: a notebook's id, which may change it, or its share key, which may read it
(notebooks/library.py).
"""

from __future__ import annotations

import base64
import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
import markupsafe
import msgspec
from gradio.utils import get_upload_folder

from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, NoNotebook, NotAllowed, PlaygroundError
from playground.measuring.question_sets import Question, QuestionSet, embedded, read_questions
from playground.models.presets import Example, Preset, data_folder
from playground.notebooks import file_format as file
from playground.notebooks.cells import Cell, CellQuestions, CompareCell, NoteCell, Picture, Run
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library, Notebook
from playground.notebooks.run_cell import card_of
from playground.rendering import card_view, cell_view, measurement_view, reports, templating
from playground.values.files import Variant
from playground.values.request import Sampling
from playground.web import login
from playground.web.active_runs import ActiveRuns
from playground.wiring import Parts

logger = logging.getLogger(__name__)

# Cells whose answers come with the page; the others follow at once, or when they are scrolled to.
_FILLED_AT_ONCE = 3

# How long a page may wait for the variants that the very first start makes; 4 s on two cores.
_FIRST_START_S = 60.0

Reply = dict[str, Any]


class NotebookActions:
    """Server functions on `parts` (see `functions`); each takes the fields of one JSON object, and returns one."""

    def __init__(self, parts: Parts, runs: ActiveRuns, deriving: Thread) -> None:
        """`deriving`: the thread that makes the presets' quantized variants."""
        self._parts = parts
        self._library: Library = parts.library
        self._runs = runs
        self._deriving = deriving
        self._pictures_of = functools.lru_cache(maxsize=8)(self._pictures)

    def functions(self) -> list[Callable[[Any], Reply]]:
        return [
            server_function(method)
            for method in (
                self.open, self.outputs, self.write, self.add, self.duplicate, self.move, self.delete, self.undo,
                self.add_picture, self.example, self.picture, self.follow, self.look, self.stop, self.rename,
                self.own_questions, self.share, self.copy, self.create, self.remove, self.export, self.card,
                self.import_file,
            )
        ]  # fmt: skip

    # --- notebooks ---------------------------------------------------------------------------------------------

    def open(self, key: str | None = None, browser: str | None = None) -> Reply:
        """A notebook by its key, or the one that this browser had open last, or a first one with examples."""
        self._deriving.join(_FIRST_START_S)  # or the cells would call their variants missing
        browser, listed = self._library.browser(browser)
        if key is None:
            if listed:
                return self._page(listed[0].id, browser, home=True)
            first = self._library.create(browser, "My first comparison", self._first_cells())
            return self._page(first.id, browser, home=True)
        try:
            return self._page(key, browser, home=key in {entry.id for entry in listed})
        except NoNotebook:
            page = templating.markup("missing.html")
            return {"page": page, "key": None, "browser": browser, "can_edit": False}

    def create(self, browser: str) -> Reply:
        notebook = self._library.create(browser, "Untitled notebook", [WholeCell(self._blank())])
        return self._page(notebook.id, browser, home=True)

    def copy(self, key: str, browser: str) -> Reply:
        """A notebook of one's own with all that another one shows."""
        notebook, can_edit = self._library.read(key)
        whole = [WholeCell(cell, self._library.all_runs(notebook, cell.id)) for cell in self._cells(notebook)]
        title = f"{notebook.title} (copy)" if can_edit else notebook.title
        return self._page(self._library.create(browser, title, whole).id, browser, home=True)

    def remove(self, key: str, browser: str) -> Reply:
        for cell in self._library.own(key).cells:
            self._runs.stop(cell)
        self._library.remove(key)
        return self.open(browser=browser)

    def rename(self, key: str, title: str, browser: str) -> Reply:
        self._library.rename(key, title)
        return {"problem": self._library.problem}

    def share(self, key: str, shared: bool, browser: str) -> Reply:
        self._library.share(key, shared)
        return self._page(key, browser, home=True)

    def import_file(self, text: str, browser: str) -> Reply:
        self._library.check_room()
        title, whole, problems = file.from_json(text)
        notebook = self._library.create(browser, title, whole)
        return {**self._page(notebook.id, browser, home=True), "problems": list(problems)}

    def export(self, key: str, format: str, cell: str | None = None) -> Reply:
        """Name, MIME type and text of a file with a notebook, or with one cell of it."""
        notebook, _ = self._library.read(key)
        chosen = [self._library.cell(notebook, cell)] if cell else self._cells(notebook)
        whole = [(one, self._library.all_runs(notebook, one.id)) for one in chosen]
        return reports.write(format, notebook.title, whole, self._library, self.picture_of)

    def card(self, key: str, cell: str, format: str, run: int | None = None) -> Reply:
        """Name, MIME type and bytes in base64 of a run's ship card."""
        notebook, _ = self._library.read(key)
        infos = self._library.runs(notebook, cell)
        shown = self._library.run(notebook, cell, run or max((info.number for info in infos), default=0))
        made = card_of(shown) if shown is not None else None
        if made is None:
            raise BadInput("A card needs a measurement with drift. Run the cell first.")
        data = base64.b64encode(card_view.write(format, made)).decode()
        return {"name": f"ship-card.{format}", "mime": card_view.TYPES[format], "data": data}

    # --- cells -------------------------------------------------------------------------------------------------

    def outputs(self, key: str, cells: list[str]) -> Reply:
        """What the newest runs of some cells answered."""
        notebook, can_edit = self._library.read(key)
        wanted = [id for id in cells if id in notebook.cells]
        return {"outputs": [{"id": id, "html": self._outputs(notebook, id, can_edit)} for id in wanted]}

    def look(self, key: str, cell: str, run: int, beside: bool = False) -> Reply:
        """An older run of a cell, alone or with the newest one."""
        notebook, can_edit = self._library.read(key)
        return {"html": self._outputs(notebook, cell, can_edit, number=run, beside=beside)}

    def write(
        self,
        key: str,
        cell: str,
        version: int | None = None,
        text: str | None = None,
        prompts: list[str] | None = None,
        collapsed: bool | None = None,
        gallery: bool | None = None,
        unpicture: str | None = None,
        unturn: int | None = None,
        questions: CellQuestions | None = None,
    ) -> Reply:
        """Change what is given of a cell. The later write wins, and says so."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._library.cell(notebook, cell)
            changed: dict[str, Any] = {}
            if collapsed is not None:
                changed["collapsed"] = collapsed
            if isinstance(now, NoteCell):
                changed |= {"text": text} if text is not None else {}
            else:
                if prompts is not None:
                    changed["prompts"] = tuple(prompts)
                if questions is not None and now.questions is not None:
                    own = {"source": now.questions.source, "name": now.questions.name}
                    changed["questions"] = msgspec.structs.replace(questions, **own)
                if gallery is not None:
                    changed["gallery"] = gallery
                if unpicture is not None:
                    changed["pictures"] = tuple(p for p in now.pictures if p.sha256 != unpicture)
                if unturn is not None:
                    changed["prompts"] = tuple(p for n, p in enumerate(now.prompts) if n != unturn or not n)
            if all(getattr(now, name) == value for name, value in changed.items()):
                return {"problem": self._library.problem}
            written, overtaken = self._library.write(key, msgspec.structs.replace(now, **changed), version)
            reply = self._changed(notebook, written)
            if overtaken:
                reply["notice"] = "This cell was changed in another tab meanwhile. What you wrote here has replaced it."
        return reply

    def add(self, key: str, kind: str, after: str | None = None) -> Reply:
        near = None
        notebook = self._library.own(key)
        for id in notebook.cells:
            one = self._library.cell(notebook, id)
            near = one if isinstance(one, CompareCell) and (near is None or id == after) else near
        fresh: Cell = NoteCell("") if kind == "note" else self._blank(near)
        if kind == "measure" and isinstance(fresh, CompareCell):
            fresh = msgspec.structs.replace(fresh, questions=CellQuestions())
        return self._with_order(key, self._library.add(key, fresh, after))

    def duplicate(self, key: str, cell: str) -> Reply:
        """A cell like another one, without its runs."""
        return self._with_order(key, self._library.add(key, self._library.cell(self._library.own(key), cell), cell))

    def move(self, key: str, cell: str, to: int) -> Reply:
        self._library.move(key, cell, to)
        return self._order(key)

    def delete(self, key: str, cell: str) -> Reply:
        self._library.delete(key, cell)
        return self._order(key)

    def undo(self, key: str) -> Reply:
        id = self._library.undo(key)
        return self._with_order(key, self._library.cell(self._library.own(key), id))

    def follow(self, key: str, cell: str, prompt: str) -> Reply:
        """One more question in the cell's conversation."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._compare_cell(notebook, cell)
            written, _ = self._library.write(key, msgspec.structs.replace(now, prompts=(*now.prompts, prompt)))
        return self._changed(notebook, written)

    def stop(self, key: str, cell: str, variant: str | None = None) -> Reply:
        if cell in self._library.own(key).cells:
            self._runs.stop(cell, variant)
        return {}

    # --- pictures ----------------------------------------------------------------------------------------------

    def add_picture(self, key: str, cell: str, path: str) -> Reply:
        """Take an image that this browser has just uploaded."""
        return self._add_picture(key, cell, _uploaded(path))

    def example(self, key: str, cell: str, index: int) -> Reply:
        """A preset's example image, and its prompt where there is none yet."""
        now = self._compare_cell(self._library.own(key), cell)
        examples = self._preset(now.family).examples
        if not 0 <= index < len(examples):
            raise BadInput("There is no such example. Reload the page.")
        reply = self._add_picture(key, cell, data_folder() / examples[index].image)
        now = self._compare_cell(self._library.own(key), cell)
        if not any(prompt.strip() for prompt in now.prompts):
            written, _ = self._library.write(key, msgspec.structs.replace(now, prompts=(examples[index].prompt,)))
            return self._changed(self._library.own(key), written)
        return reply

    def picture(self, key: str, cell: str, sha256: str) -> Reply:
        """A picture of a cell in full."""
        notebook, _ = self._library.read(key)
        now = self._compare_cell(notebook, cell)
        png = self._library.pictures.png(sha256) if sha256 in {p.sha256 for p in now.pictures} else None
        if png is None:
            raise BadInput("This image is gone.")
        return {"url": templating.data_url(("image/png", png))}

    def _add_picture(self, key: str, cell: str, path: Path) -> Reply:
        notebook = self._library.own(key)
        self._library.check_room()
        picture = self._library.pictures.keep(self._parts.read_image(path), path.name)
        with self._library.writing():
            now = self._compare_cell(notebook, cell)
            if picture.sha256 in {p.sha256 for p in now.pictures}:
                return {"notice": f"{path.name} is in this cell already."}
            written, _ = self._library.write(key, msgspec.structs.replace(now, pictures=(*now.pictures, picture)))
        return self._changed(notebook, written)

    def own_questions(self, key: str, cell: str, path: str | None = None) -> Reply:
        """Ask the questions of a zip that was just uploaded; without one, the embedded ones again."""
        source, name = "", ""
        problems: tuple[str, ...] = ()
        if path is not None:
            uploaded = _uploaded(path)
            self._library.check_room()
            problems = read_questions(uploaded).problems
            source, name = self._library.questions.keep(uploaded), uploaded.name
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._compare_cell(notebook, cell)
            if now.questions is None:
                raise BadInput("This cell has a question of its own.")
            asked = msgspec.structs.replace(now.questions, source=source, name=name[:200])
            written, _ = self._library.write(key, msgspec.structs.replace(now, questions=asked))
        return {**self._changed(notebook, written), "problems": list(problems[:10])}

    def question_set(self, asked: CellQuestions) -> QuestionSet:
        """Raises BadInput if it is not on this machine."""
        if not asked.source:
            return embedded(self._parts.evaluation, level=asked.level)
        if not self._library.questions.has(asked.source):
            raise BadInput(f"The questions of {asked.name} are not on this machine. Choose the zip again.")
        return self._library.questions.read(asked.source)

    def picture_of(self, asked: CellQuestions | None) -> measurement_view.Picture:
        """How to show the images of a set of questions."""
        source = asked.source if asked else ""
        return self._pictures_of(source, self._library.questions.has(source))

    # --- replies -----------------------------------------------------------------------------------------------

    def cell_reply(self, key: str, cell: Cell) -> Reply:
        """A cell that was changed, for the page to show; its answers there stay."""
        return self._changed(self._library.own(key), cell)

    def _changed(self, notebook: Notebook, cell: Cell) -> Reply:
        html = self._cell(notebook, cell, can_edit=True, outputs=None)
        newest = self._library.newest_run(notebook, cell.id) if isinstance(cell, CompareCell) else None
        stale = newest is not None and isinstance(cell, CompareCell) and cell_view.changed_since(newest, cell)
        return {"cells": [{"id": cell.id, "html": html, "stale": stale}], "problem": self._library.problem}

    def _with_order(self, key: str, cell: Cell) -> Reply:
        notebook = self._library.own(key)
        outputs = self._outputs(notebook, cell.id, can_edit=True)
        html = self._cell(notebook, cell, can_edit=True, outputs=outputs)
        return {**self._order(key), "cells": [{"id": cell.id, "html": html}]}

    def _order(self, key: str) -> Reply:
        return {"order": list(self._library.own(key).cells), "problem": self._library.problem}

    def _page(self, key: str, browser: str, *, home: bool = False) -> Reply:
        notebook, can_edit = self._library.read(key)
        self._library.opened(browser, notebook.id)
        browser, listed = self._library.browser(browser)
        shown, filled = [], 0
        for cell in self._cells(notebook):
            outputs = None
            if isinstance(cell, CompareCell):
                filled += 1
                if not self._library.runs(notebook, cell.id):
                    outputs = cell_view.nothing_yet(can_edit=can_edit)
                else:
                    at_once = filled <= _FILLED_AT_ONCE
                    outputs = self._outputs(notebook, cell.id, can_edit) if at_once else cell_view.LATER
            shown.append(self._cell(notebook, cell, can_edit=can_edit, outputs=outputs))
        return {
            "page": cell_view.page(notebook, shown, listed, can_edit=can_edit),
            "key": key,
            "browser": browser,
            "can_edit": can_edit,
            "home": home,
            "problem": self._library.problem,
        }

    def _cell(
        self, notebook: Notebook, cell: Cell, *, can_edit: bool, outputs: markupsafe.Markup | None
    ) -> markupsafe.Markup:
        number = notebook.cells.index(cell.id) + 1
        if isinstance(cell, NoteCell):
            return cell_view.note(cell, number, can_edit=can_edit)
        examples = () if cell.pictures or not can_edit else _examples(self._preset(cell.family))
        return cell_view.compare(
            cell,
            number,
            self._variants(),
            self._library.pictures.thumbnail,
            can_edit=can_edit,
            runs=len(self._library.runs(notebook, cell.id)),
            examples=examples,
            outputs=outputs,
        )

    def _outputs(
        self, notebook: Notebook, id: str, can_edit: bool, *, number: int | None = None, beside: bool = False
    ) -> markupsafe.Markup:
        cell = self._library.cell(notebook, id)
        runs = self._library.runs(notebook, id)
        if isinstance(cell, NoteCell) or not runs:
            return cell_view.nothing_yet(can_edit=can_edit)
        newest = max(info.number for info in runs)
        shown = self._library.run(notebook, id, number or newest)
        if shown is None:
            return cell_view.notice("This run cannot be read. Run the cell again.")
        other = self._library.run(notebook, id, newest) if beside and shown.number != newest else None
        picture = self.picture_of(shown.cell.questions)
        return cell_view.run(
            shown, runs, cell, self._library.pictures.thumbnail, picture, can_edit=can_edit, beside=other
        )

    def run_html(self, key: str, run: Run) -> markupsafe.Markup:
        """A run that goes on or has just ended, as the newest one of its cell."""
        notebook = self._library.own(key)
        id = run.cell.id
        now = self._compare_cell(notebook, id) if id in notebook.cells else run.cell
        infos = self._library.runs(notebook, id)
        picture = self.picture_of(run.cell.questions)
        return cell_view.run(run, infos, now, self._library.pictures.thumbnail, picture, can_edit=True)

    def _pictures(self, source: str, there: bool) -> measurement_view.Picture:
        # A name in an imported notebook is anybody's text: ItemSet keeps it inside its folder or zip.
        found = self._library.questions.read(source) if there else None
        questions = found or QuestionSet("embedded", (), self._parts.evaluation)
        return measurement_view.pictures(lambda name: questions.image(Question(name, "")))

    # --- what the cells are made of ----------------------------------------------------------------------------

    def _cells(self, notebook: Notebook) -> list[Cell]:
        return [self._library.cell(notebook, id) for id in notebook.cells]

    def _compare_cell(self, notebook: Notebook, id: str) -> CompareCell:
        cell = self._library.cell(notebook, id)
        if isinstance(cell, NoteCell):
            raise BadInput("A note has no image and no answers.")
        return cell

    def variants_of(self, cell: CompareCell) -> tuple[Variant, ...]:
        """Raises BadInput if one is not on this machine."""
        there = self._variants()
        lost = [id for id in cell.variants if id not in there]
        if lost:
            raise BadInput(
                f"Not on this machine: {', '.join(lost)}. Open or download them, or tick others at the side."
            )
        return tuple(there[id] for id in cell.variants)

    def _variants(self) -> Mapping[str, Variant]:
        return {v.id: v for v in self._parts.catalog.variants}

    def _preset(self, family: str) -> Preset:
        presets = self._parts.catalog.presets
        return next((p for p in presets if p.family == family and p.examples), presets[0])

    def _blank(self, near: CompareCell | None = None) -> CompareCell:
        """An empty cell with the variants and settings of the one above it, or with the preset's."""
        if near is not None:
            return CompareCell("", family=near.family, variants=near.variants, settings=near.settings)
        preset = self._preset("")
        variants = tuple(f"{preset.family}:{label}+mmproj-F16" for label in preset.ticked)
        return CompareCell("", family=preset.family, variants=variants, settings=_settings(preset))

    def _first_cells(self) -> list[WholeCell]:
        """What a first visitor finds. The variants may still be in the making."""
        preset = self._preset("")
        found: list[WholeCell] = []
        for example in preset.cells:
            path = data_folder() / example.image
            picture: Picture = self._library.pictures.keep(read_image(path), path.name)
            variants = tuple(f"{preset.family}:{m}+mmproj-{p}" for m in example.models for p in example.projectors)
            found.append(WholeCell(NoteCell("", example.note.strip())))
            found.append(
                WholeCell(
                    CompareCell(
                        "",
                        prompts=(example.prompt,),
                        pictures=(picture,),
                        family=preset.family,
                        variants=variants,
                        settings=_settings(preset),
                    )
                )
            )
        return found


def _settings(preset: Preset) -> RunSettings:
    """Of a new cell; as few as possible, so that its chips tell what was chosen."""
    usual = preset.max_tokens == Sampling().max_tokens
    return RunSettings(probabilities=True, max_tokens=None if usual else preset.max_tokens)


def _uploaded(path: str) -> Path:
    """Raises NotAllowed for what is not in Gradio's upload folder."""
    folder = Path(get_upload_folder()).resolve()
    if "\0" in path or not Path(path).resolve().is_relative_to(folder):
        raise NotAllowed("Only a file that was uploaded here can be used.")
    return Path(path).resolve()


@functools.cache
def _examples(preset: Preset) -> list[tuple[Example, str]]:
    urls = [templating.data_url(("image/png", (data_folder() / e.image).read_bytes())) or "" for e in preset.examples]
    return list(zip(preset.examples, urls, strict=True))


def server_function(method: Callable[..., Reply]) -> Callable[[Any], Reply]:
    """A function of one JSON object for gr.HTML: its fields are checked against the method's annotations.

    Fields that the method does not take (every call carries key and browser) are dropped. `visitor`, where the method
    takes it, is the name under which they have logged in, whatever the page says.
    """
    hints = inspect.get_annotations(method, eval_str=True)
    parameters = inspect.signature(method).parameters.values()
    fields = msgspec.defstruct(
        method.__name__,
        [
            (p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default)
            for p in sorted(parameters, key=lambda p: p.default is not p.empty)
            if p.name != "visitor"
        ],
    )

    knows_visitor = "visitor" in hints

    def called(document: Any, request: gr.Request | None = None) -> Reply:
        try:
            given = msgspec.convert(document, fields)
        except msgspec.ValidationError as error:
            return {"error": f"The page asked for something that it may not: {error}. Reload it."}
        try:
            visitor = {"visitor": login.name_of(request)} if knows_visitor else {}
            return method(**{name: getattr(given, name) for name in fields.__struct_fields__}, **visitor)
        except PlaygroundError as error:
            return {"error": error.message, "error_code": error.code}
        except Exception:
            logger.exception("%s", method.__name__)
            return {"error": "Unexpected: the app's log has more. Nothing was lost; try again."}

    called.__name__ = method.__name__
    return called


def as_toast(error: PlaygroundError) -> gr.Error:
    """Gradio shows an error's text as HTML; ours holds names of other people's files."""
    return gr.Error(str(markupsafe.escape(error.message)), duration=None, print_exception=False)
