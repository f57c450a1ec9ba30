"""What the notebook's script asks of the server: one function for each thing that a person does there.

Every call carries a key: a notebook's id, which may change it, or its share key, which may read it
(notebooks/library.py).
"""

from __future__ import annotations

import base64
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

from gradio.utils import get_upload_folder
from msgspec import UNSET
from msgspec.structs import replace

from playground.comparing import pages as document_pages
from playground.comparing.branching import BranchPoint
from playground.comparing.images import MAX_PAGES, cropped, read_image
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, Interrupted, NoNotebook, NoRoom, NotAllowed
from playground.measuring import pace, result_documents, suite_samples, suite_source
from playground.measuring.question_sets import DEFAULT_QUESTIONS, QuestionSet, read_questions
from playground.measuring.results import Progress
from playground.measuring.suite_source import SuiteChoice
from playground.models.presets import Preset, data_folder
from playground.notebooks import file_format as file
from playground.notebooks import marks, votes
from playground.notebooks.cells import Cell, CellQuestions, CompareCell, NoteCell, Picture, Run
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library
from playground.notebooks.run_cell import card_of, results_of
from playground.rendering import card_view, cell_view, comparison_view, reports, templating
from playground.values.answer import PaneState
from playground.values.request import Sampling
from playground.web import demo, panel_values
from playground.web.job_limits import JobLimits
from playground.web.live_runs import BranchJob, LiveRuns, RunJob
from playground.web.notebook_view import NotebookView
from playground.web.panel_values import PanelValues
from playground.web.replies import (
    BinaryFileReply,
    CellHtml,
    CellsReply,
    DocumentPages,
    HtmlReply,
    OutputsReply,
    PageReply,
    PictureReply,
    QueueReply,
    Reply,
    SettingsReply,
    TextFileReply,
)  # fmt: skip
from playground.web.server_function import server_function
from playground.wiring import Parts

# How long a page may wait for the variants that the very first start makes; 4 s on two cores.
_FIRST_START_S = 60.0

_OVERTAKEN = "This cell was changed in another tab meanwhile. What you wrote here has replaced it."


_MOST_TICKED = 6  # variants in a cell that a person did not tick
_MOST_SAMPLES = 2  # of all people at once
_MOST_REPEATS = 10  # of one press of "Run"
_MOST_REPORTED = 1000  # runs of a report: 100 MB of HTML
_MOST_REPLACED = 1000  # cells whose replaced pictures can be put back
_MOST_IMPORTS = 2  # of all people at once: reading one keeps a core busy


@dataclass(slots=True)
class _Drawing:
    """A sample that is being fetched."""

    progress: Progress | None = None
    stopped: Event = field(default_factory=Event)


class NotebookActions:
    """Server functions on `parts` (see `functions`); each takes the fields of one JSON object, and returns one."""

    def __init__(self, parts: Parts, view: NotebookView, runs: LiveRuns, deriving: Thread) -> None:
        """`deriving`: the thread that makes the presets' quantized variants."""
        self._parts = parts
        self._view = view
        self._library: Library = parts.library
        self._runs = runs
        self._deriving = deriving
        self._imports = JobLimits("imports", _MOST_IMPORTS, 1)
        self._samples = JobLimits("samples of datasets", _MOST_SAMPLES, 1)
        # By notebook and cell: the pictures before the last upload that replaced some, and the uploaded ones.
        self._replaced: dict[tuple[str, str], tuple[tuple[Picture, ...], tuple[Picture, ...]]] = {}
        self._drawing: dict[tuple[str, str], _Drawing] = {}  # likewise

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        return [
            server_function(method)
            for method in (
                self.open, self.outputs, self.write, self.settings, self.compare, self.add, self.duplicate,
                self.move, self.delete, self.undo, self.add_picture, self.put_back, self.example, self.picture,
                self.follow, self.look, self.likely, self.restore, self.stop, self.rename, self.own_questions,
                self.own_pack,
                self.suite_outlook, self.suite_questions, self.suite_progress, self.stop_suite, self.share,
                self.copy, self.create, self.remove, self.export, self.card, self.results, self.import_file, self.mark,
                self.vote, self.branch, self.crop, self.marked_questions, self.questions_file,
            )
        ]  # fmt: skip

    # --- notebooks ---------------------------------------------------------------------------------------------

    def open(self, key: str | None = None, browser: str | None = None, cell: str | None = None) -> PageReply:
        """A notebook by its key, or the one that this browser had open last, or a first one with examples.

        `cell`: without a key, the browser's notebook that has this cell, if one has.
        """
        self._deriving.join(_FIRST_START_S)  # or the cells would call their variants missing
        seen = self._runs.newest_id  # before the notebook is read: a run that ends meanwhile is news
        browser, listed = self._library.browser(browser)
        if key is None:
            if listed:
                holders = (
                    entry.id for entry in listed if cell is not None and cell in self._library.own(entry.id).cells
                )
                return replace(self._view.page(next(holders, listed[0].id), browser, home=True), seen=seen)
            try:
                self._library.check_room()
            except NoRoom as error:
                missing = templating.markup("missing.html", title="No room", text=error.message, home=False)
                return PageReply(page=missing, key=None, browser=browser, can_edit=False)
            first = self._library.create(browser, "My first comparison", self._first_cells())
            return self._view.page(first.id, browser, home=True)
        try:
            page = self._view.page(key, browser, home=key in {entry.id for entry in listed})
            return replace(page, seen=seen)
        except NoNotebook:
            missing = templating.markup("missing.html", title="404", text="There is no notebook here.", home=True)
            return PageReply(page=missing, key=None, browser=browser, can_edit=False)

    def create(self, browser: str) -> PageReply:
        self._library.check_room()
        notebook = self._library.create(browser, "Untitled notebook", [WholeCell(self._blank())])
        return self._view.page(notebook.id, browser, home=True)

    def copy(self, key: str, browser: str) -> PageReply:
        """A notebook of one's own with all that another one shows."""
        self._library.check_room()
        notebook, can_edit = self._library.read(key)
        whole = (WholeCell(cell, self._library.all_runs(notebook, cell.id)) for cell in self._view.cells(notebook))
        title = f"{notebook.title} (copy)" if can_edit else notebook.title
        copied = self._library.create(browser, title, whole, self._library.files(notebook).may_show)
        return self._view.page(copied.id, browser, home=True)

    def remove(self, key: str, browser: str) -> PageReply:
        self._runs.stop(self._library.own(key).id)
        self._library.remove(key)
        return self.open(browser=browser)

    def rename(self, key: str, title: str, browser: str) -> CellsReply:
        self._library.rename(key, title)
        return CellsReply(problem=self._library.problem)

    def share(self, key: str, shared: bool, browser: str) -> PageReply:
        self._library.share(key, shared)
        return self._view.page(key, browser, home=True)

    def import_file(
        self, browser: str, text: str | None = None, path: str | None = None, person: str = ""
    ) -> PageReply:
        """A notebook of a file that was just uploaded, or of its text."""
        with self._imports.held(person):
            self._library.check_room()
            text = _uploaded(path).read_text("utf-8-sig", errors="replace") if path is not None else text or ""
            title, cells, problems = file.opened(text)
            own = functools.cache(lambda: self._library.named_by(browser))
            notebook = self._library.create(browser, title, cells, lambda sha256: sha256 in own())
        return replace(self._view.page(notebook.id, browser, home=True), problems=tuple(problems))

    def export(self, key: str, format: str, cell: str | None = None) -> TextFileReply:
        """Name, MIME type and text of a file with a notebook, or with one cell of it. All of it is held at once."""
        notebook, _ = self._library.read(key)
        chosen = [self._library.cell(notebook, cell)] if cell else self._view.cells(notebook)
        runs = sum(len(self._library.runs(notebook, c.id)) for c in chosen)
        if runs > _MOST_REPORTED:
            raise BadInput(
                f"A report holds at most {_MOST_REPORTED:,} runs, and these are {runs:,}. Export cells one by one, "
                "or everything as JSON."
            )
        if format != "json" and cell is None:  # a report is not for whoever is new to the page
            tutorial = {example.note.strip() for example in self._view.preset("").cells}
            chosen = [c for c in chosen if not (isinstance(c, NoteCell) and c.text in tutorial)]
        whole = [(c, self._library.all_runs(notebook, c.id)) for c in chosen]
        files = self._library.files(notebook)
        pictures = functools.partial(self._view.picture_of, notebook)
        written = reports.write(format, notebook.title, whole, files, pictures)
        return TextFileReply(name=written["name"], mime=written["mime"], text=written["text"])

    def pieces(self, key: str, cell: str | None = None) -> tuple[str, Iterator[str]]:
        """Name and text of a notebook's JSON, in pieces: however many runs it has, one is held at a time."""
        notebook, _ = self._library.read(key)
        chosen = [self._library.cell(notebook, cell)] if cell else self._view.cells(notebook)
        whole = ((c, self._library.each_run(notebook, c.id)) for c in chosen)
        return reports.file_name(notebook.title, "json"), file.written(
            notebook.title, whole, self._library.files(notebook).png
        )

    def card(self, key: str, cell: str, format: str, run: int | None = None) -> BinaryFileReply:
        """Name, MIME type and bytes in base64 of a run's ship card."""
        shown = self._shown_run(key, cell, run)
        made = card_of(shown) if shown is not None else None
        if made is None:
            raise BadInput("A card needs a measurement with drift. Run the cell first.")
        data = base64.b64encode(card_view.write(format, made)).decode()
        return BinaryFileReply(name=f"ship-card.{format}", mime=card_view.TYPES[format], data=data)

    def results(self, key: str, cell: str, uploader: str = "", run: int | None = None) -> TextFileReply:
        """The results document of a run. `uploader`: a name that the person gives."""
        shown = self._shown_run(key, cell, run)
        made = results_of(shown, uploader) if shown is not None else None
        if made is None:
            raise BadInput("There are no results yet. Run the cell first.")
        name = result_documents.file_name(made)
        return TextFileReply(name=name, mime="application/json", text=result_documents.encoded(made).decode())

    def _shown_run(self, key: str, cell: str, run: int | None) -> Run | None:
        """By its number; None: the newest one."""
        notebook, _ = self._library.read(key)
        newest = max((info.number for info in self._library.runs(notebook, cell)), default=0)
        return self._library.run(notebook, cell, run or newest)

    # --- cells -------------------------------------------------------------------------------------------------

    def outputs(self, key: str, cells: list[str]) -> OutputsReply:
        """What the newest runs of some cells answered."""
        notebook, can_edit = self._library.read(key)
        wanted = [id for id in cells if id in notebook.cells]
        return OutputsReply(
            outputs=tuple(CellHtml(id=id, html=self._view.outputs(notebook, id, can_edit)) for id in wanted)
        )

    def look(self, key: str, cell: str, run: int, beside: bool = False) -> HtmlReply:
        """An older run of a cell, alone or with the newest one."""
        notebook, can_edit = self._library.read(key)
        return HtmlReply(html=self._view.outputs(notebook, cell, can_edit, number=run, beside=beside))

    def likely(self, key: str, cell: str, run: int, index: int, variant: str, at: int) -> HtmlReply:
        """The likeliest tokens at a character of an answer. `index`: of the run's comparisons."""
        notebook, can_edit = self._library.read(key)
        shown = self._library.run(notebook, cell, run)
        results = shown.results[index : index + 1] if shown is not None and index >= 0 else ()
        pane = next((p for result in results for p in result.update.panes if p.variant == variant), None)
        if shown is None or pane is None:
            raise BadInput("This answer is gone.")
        can_branch = pane.state is PaneState.DONE and cell_view.can_go_on(shown, can_edit=can_edit)
        return HtmlReply(html=comparison_view.likely(pane, at, can_branch=can_branch))

    def restore(self, key: str, cell: str, run: int) -> CellsReply:
        """Put what a run was asked back into its cell."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            kept = self._library.run(notebook, cell, run)
            if kept is None:
                raise BadInput("This run cannot be read.")
            fields = ("prompts", "pictures", "gallery", "family", "variants", "settings", "questions")
            written, _ = self._library.write(key, replace(now, **{name: getattr(kept.cell, name) for name in fields}))
        return replace(self._view.added(key, written), notice=f"The cell asks what run {run} was asked.")

    def write(
        self,
        key: str,
        cell: str,
        version: int | None = None,
        text: str | None = None,
        prompts: list[str] | None = None,
        collapsed: bool | None = None,
        gallery: bool | None = None,
        blind: bool | None = None,
        repeats: int | None = None,
        unpicture: str | None = None,
        unturn: int | None = None,
        questions: CellQuestions | None = None,
    ) -> CellsReply:
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
                    own = {name: getattr(now.questions, name) for name in ("source", "name", "pack", "pack_name")}
                    changed["questions"] = replace(questions, **own)
                if blind is not None:
                    changed["blind"] = blind
                if repeats is not None:
                    changed["repeats"] = min(max(repeats, 1), _MOST_REPEATS)
                if gallery is not None:
                    changed["gallery"] = gallery
                if unpicture is not None:
                    changed["pictures"] = tuple(p for p in now.pictures if p.sha256 != unpicture)
                if unturn is not None:
                    changed["prompts"] = tuple(p for n, p in enumerate(now.prompts) if n != unturn or not n)
            if all(getattr(now, name) == value for name, value in changed.items()):
                return CellsReply(problem=self._library.problem)
            written, overtaken = self._library.write(key, replace(now, **changed), version)
        reply = self._view.changed(key, written)  # without the lock: showing Markdown takes time
        return replace(reply, notice=_OVERTAKEN) if overtaken else reply

    def settings(self, key: str, cell: str, panel: PanelValues) -> SettingsReply:
        """Write what the settings panel holds for a cell."""
        with self._library.writing():
            before = self._view.compare_cell(self._library.own(key), cell)
            written, _ = self._library.write(key, panel_values.changed(self._parts, before, panel))
        reply = self._view.changed(key, written)
        switched = written.family != before.family
        return SettingsReply(cells=reply.cells, problem=reply.problem, switched=switched)

    def compare(self, key: str, variants: list[str], browser: str) -> CellsReply:
        """A new cell at the end, with variants of one family that were just downloaded or opened."""
        self._library.own(key)
        present = {v.id: v for v in self._parts.catalog.variants}
        chosen = [present[id] for id in variants if id in present]
        if not chosen:
            raise BadInput("This model is not on this machine.")
        ticked = tuple(v.id for v in chosen if v.family == chosen[0].family)[:_MOST_TICKED]
        fresh = replace(self._blank(), family=chosen[0].family, variants=ticked)
        return self._view.added(key, self._library.add(key, fresh, None))

    def add(self, key: str, kind: str, after: str | None = None) -> CellsReply:
        near = None
        notebook = self._library.own(key)
        for id in notebook.cells:
            cell = self._library.cell(notebook, id)
            near = cell if isinstance(cell, CompareCell) and (near is None or id == after) else near
        fresh: Cell = NoteCell("") if kind == "note" else self._blank(near)
        if kind == "measure" and isinstance(fresh, CompareCell):
            fresh = replace(fresh, questions=CellQuestions(n=DEFAULT_QUESTIONS))
        return self._view.added(key, self._library.add(key, fresh, after))

    def duplicate(self, key: str, cell: str) -> CellsReply:
        """A cell like another one, without its runs."""
        fresh = self._library.cell(self._library.own(key), cell)
        if isinstance(fresh, CompareCell):
            fresh = replace(fresh, votes=())  # they name its runs
        return self._view.added(key, self._library.add(key, fresh, cell))

    def move(self, key: str, cell: str, to: int) -> CellsReply:
        self._library.move(key, cell, to)
        return self._view.order(key)

    def delete(self, key: str, cell: str) -> CellsReply:
        self._library.delete(key, cell)
        self._runs.stop(key, cell)
        return self._view.order(key)

    def undo(self, key: str) -> CellsReply:
        id = self._library.undo(key)
        return self._view.added(key, self._library.cell(self._library.own(key), id))

    def follow(self, key: str, cell: str, prompt: str) -> CellsReply:
        """One more question in the cell's conversation."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            written, _ = self._library.write(key, replace(now, prompts=(*now.prompts, prompt)))
        return self._view.changed(key, written)

    # --- runs --------------------------------------------------------------------------------------------------

    def run(self, key: str, cells: list[str], person: str = "") -> QueueReply:
        """Line up cells to be run one after another."""
        notebook = self._library.own(key)
        jobs = []
        for id in cells:
            cell = self._view.compare_cell(notebook, id)
            times = 1 if cell.questions is not None else min(max(cell.repeats, 1), _MOST_REPEATS)
            jobs += [RunJob(notebook.id, id, person, cell.questions is not None) for _ in range(times)]
        return QueueReply(queue=self._runs.start(notebook.id, jobs))

    def stop(self, key: str, cell: str | None = None, variant: str | None = None) -> QueueReply:
        """Stop a cell, or one variant of it; without a cell, all cells of the notebook."""
        return QueueReply(queue=self._runs.stop(self._library.own(key).id, cell, variant))

    def branch(
        self, key: str, cell: str, run: int, block: int, variant: str, at: int, token: int, person: str = ""
    ) -> QueueReply:
        """Line up that a variant's answer goes on with another token, in place of the one at `at`."""
        notebook = self._library.own(key)
        self._view.compare_cell(notebook, cell)
        job = BranchJob(run, block, BranchPoint(variant, at, token))
        return QueueReply(
            queue=self._runs.start(notebook.id, [RunJob(notebook.id, cell, person, to_its_end=False, branch=job)])
        )

    # --- pictures ----------------------------------------------------------------------------------------------

    def add_picture(
        self,
        key: str,
        cell: str,
        path: str,
        instead: str | None = None,
        pages: str = "",
        others: list[str] | None = None,
        person: str = "",
    ) -> CellsReply:
        """Take an image that this browser has just uploaded. `instead`: of which picture, by its sha256.

        `pages`: of a document, such as "2,5-7", in place of the pictures `others`; empty: the first ones.
        """
        uploaded = _uploaded(path)
        if pages:
            taken = frozenset(others or ())
            return self._add_picture(
                key, cell, uploaded, person, document_pages.read_numbers(pages), instead=lambda _: taken
            )
        return self._add_picture(key, cell, uploaded, person, instead=lambda now: self._given_up(now, instead))

    def put_back(self, key: str, cell: str, both: bool = False) -> CellsReply:
        """The pictures that an upload replaced, in its place or, with `both`, beside it."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            before, fresh = self._replaced.pop((notebook.id, cell), ((), ()))
            if not before:
                raise BadInput("There is nothing to undo here.")
            known = {picture.sha256 for picture in (*before, *(() if both else fresh))}
            pictures = (*before, *(picture for picture in now.pictures if picture.sha256 not in known))
            written, _ = self._library.write(key, replace(now, pictures=pictures))
        return self._view.changed(key, written)

    def _given_up(self, now: CompareCell, instead: str | None) -> frozenset[str]:
        """Which pictures give way to an upload: the one that it was dropped on, or the examples of a first visitor."""
        shown = frozenset(picture.sha256 for picture in now.pictures)
        return shown & {instead} if instead else shown if shown <= self._examples else frozenset()

    @functools.cached_property
    def _examples(self) -> frozenset[str]:
        """The sha256 of the presets' own pictures."""
        presets = self._parts.catalog.presets
        files = {example.image for preset in presets for example in preset.examples}
        files |= {cell.image for preset in presets for cell in preset.cells}
        return frozenset(read_image(data_folder() / file).sha256 for file in files)

    def example(self, key: str, cell: str, index: int) -> CellsReply:
        """A preset's example image, and its prompt where there is none yet."""
        now = self._view.compare_cell(self._library.own(key), cell)
        examples = self._view.preset(now.family).examples
        if not 0 <= index < len(examples):
            raise BadInput("There is no such example. Reload the page.")
        reply = self._add_picture(key, cell, data_folder() / examples[index].image)
        now = self._view.compare_cell(self._library.own(key), cell)
        if not any(prompt.strip() for prompt in now.prompts):
            written, _ = self._library.write(key, replace(now, prompts=(examples[index].prompt,)))
            return self._view.changed(key, written)
        return reply

    def picture(self, key: str, cell: str, sha256: str) -> PictureReply:
        """A picture of a cell in full."""
        notebook, _ = self._library.read(key)
        now = self._view.compare_cell(notebook, cell)
        png = self._library.files(notebook).png(sha256) if sha256 in {p.sha256 for p in now.pictures} else None
        if png is None:
            raise BadInput("This image is gone.")
        return PictureReply(url=templating.data_url(("image/png", png)))

    def crop(
        self, key: str, cell: str, sha256: str, x: int, y: int, width: int, height: int, alone: bool = False
    ) -> CellsReply:
        """A part of a picture: one more in its cell, or alone in a new cell that asks the same."""
        notebook = self._library.own(key)
        self._library.check_room()
        now = self._view.compare_cell(notebook, cell)
        whole = next((p for p in now.pictures if p.sha256 == sha256), None)
        if whole is None:
            raise BadInput("This image is gone.")
        part = cropped(self._library.files(notebook).image(whole), x, y, width, height)
        kept = self._library.pictures.keep(part, f"{whole.name}, {width} × {height} at {x}, {y}")
        self._library.files(notebook).accept(kept.sha256)
        if alone:
            fresh = replace(now, pictures=(kept,), gallery=False, marks=(), votes=())
            return self._view.added(key, self._library.add(key, fresh, cell))
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            pictures = {p.sha256: p for p in (*now.pictures, kept)}
            written, _ = self._library.write(key, replace(now, pictures=tuple(pictures.values())))
        return self._view.changed(key, written)

    def _add_picture(
        self,
        key: str,
        cell: str,
        path: Path,
        person: str = "",
        numbers: Sequence[int] | None = None,
        *,
        instead: Callable[[CompareCell], frozenset[str]] = lambda now: frozenset(),
    ) -> CellsReply:
        """`numbers`: the pages of a document that a person chose. `instead`: of which pictures."""
        notebook = self._library.own(key)
        self._library.check_room()
        document = self._parts.read_pages(path, numbers, person)
        read = [self._library.pictures.keep(image, path.name) for image in document.images]
        accepted = [picture for picture in read if self._library.files(notebook).accept(picture.sha256)]
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            present = {p.sha256 for p in now.pictures}
            new = tuple({p.sha256: p for p in read if p.sha256 not in present}.values())
            if not new and not accepted and numbers is None:
                return CellsReply(notice=f"{path.name} is in this cell already.")
            gone = instead(now) - {p.sha256 for p in read} if new or numbers else frozenset()
            at = next((n for n, picture in enumerate(now.pictures) if picture.sha256 in gone), len(now.pictures))
            kept = [[p for p in part if p.sha256 not in gone] for part in (now.pictures[:at], now.pictures[at:])]
            written, _ = self._library.write(key, replace(now, pictures=(*kept[0], *new, *kept[1])))
            if gone and numbers is None:
                self._replaced[notebook.id, cell] = now.pictures, new
                while len(self._replaced) > _MOST_REPLACED:
                    del self._replaced[next(iter(self._replaced))]
        reply = replace(self._view.changed(key, written), replaced=bool(gone) and numbers is None)
        if document.pages == 1:
            return reply
        shown = DocumentPages(
            name=path.name,
            pages=document.pages,
            most=MAX_PAGES,
            taken=document_pages.words(document.numbers),
            pictures=tuple(picture.sha256 for picture in read),
        )
        return replace(reply, document=shown)

    def own_questions(self, key: str, cell: str, path: str | None = None, person: str = "") -> CellsReply:
        """Ask the questions of a zip that was just uploaded; without one, the embedded ones again."""
        self._library.own(key)
        source, name = "", ""
        problems: tuple[str, ...] = ()
        if path is not None:
            uploaded = _uploaded(path)
            self._library.check_room()
            with self._imports.held(person):
                problems = read_questions(uploaded).problems
                source, name = self._library.questions.keep(uploaded), uploaded.name
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            if now.questions is None:
                raise BadInput("This cell has a question of its own.")
            questions = replace(now.questions, source=source, name=name[:200])
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(source)
        return replace(self._view.changed(key, written), problems=problems[:10])

    def own_pack(self, key: str, cell: str, path: str | None = None, person: str = "") -> CellsReply:
        """Measure against a reference pack that was just uploaded; without one, against a variant again."""
        self._library.own(key)
        pack, name = None, ""
        if path is not None:
            demo.refuse(self._parts.settings, "Reference packs are not used here")
            uploaded = _uploaded(path)
            self._library.check_room()
            with self._imports.held(person):
                pack, name = self._library.questions.keep_pack(uploaded), uploaded.name
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            if now.questions is None:
                raise BadInput("This cell has a question of its own.")
            questions = replace(now.questions, pack="", pack_name="")
            if pack is not None:
                limits = pack.record.limits(questions.plan)
                questions = replace(questions, pack=pack.digest, pack_name=name[:200], plan=limits)
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(questions.pack)
        return self._view.changed(key, written)

    def mark(self, key: str, cell: str, run: int, block: int, variant: str, right: bool) -> CellsReply:
        """Mark an answer as right or wrong; the same mark again takes it away."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            shown = self._library.run(notebook, cell, run)
            if shown is None:
                raise BadInput("This run cannot be read. Run the cell again.")
            kept = marks.marked(now, shown, block, variant, right=right)
            written, _ = self._library.write(key, replace(now, marks=kept))
        return self._view.changed(key, written)

    def vote(self, key: str, cell: str, run: int, block: int, accepted: list[int] | None = None) -> CellsReply:
        """Accept some answers of a comparison whose names are hidden, and show the names; null: without a vote."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            shown = self._library.run(notebook, cell, run)
            if shown is None:
                raise BadInput("This run cannot be read. Run the cell again.")
            written, _ = self._library.write(key, replace(now, votes=votes.voted(now, shown, block, accepted)))
        return self._view.changed(key, written)

    def questions_file(self, key: str) -> BinaryFileReply:
        """Name, MIME type and bytes in base64 of a zip with the questions of the marked answers."""
        notebook, _ = self._library.read(key)
        pairs, without = marks.questions(self._view.cells(notebook))
        with tempfile.TemporaryDirectory() as scratch:
            zipped = Path(scratch) / "questions.zip"
            marks.write_zip(zipped, pairs, self._library.files(notebook).png)
            data = base64.b64encode(zipped.read_bytes()).decode()
        notice = _without_right(without)
        return BinaryFileReply(name="questions.zip", mime="application/zip", data=data, notice=notice or UNSET)

    def marked_questions(self, key: str, cell: str) -> CellsReply:
        """Ask the questions of the answers that are marked in this notebook."""
        notebook = self._library.own(key)
        self._library.check_room()
        pairs, without = marks.questions(self._view.cells(notebook))
        with tempfile.TemporaryDirectory() as scratch:
            zipped = Path(scratch) / "questions.zip"
            n = marks.write_zip(zipped, pairs, self._library.files(notebook).png)
            source = self._library.questions.keep(zipped)
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            if now.questions is None:
                raise BadInput("This cell has a question of its own.")
            plan = replace(now.questions.plan, accuracy=True)
            name = f"{n} marked question{'s' if n > 1 else ''}"
            questions = replace(now.questions, source=source, name=name, n=n, plan=plan)
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(source)
        return replace(self._view.changed(key, written), notice=_without_right(without) or UNSET)

    def suite_outlook(self, key: str, cell: str, suite: str, seed: int = 0, hub_token: str = "") -> HtmlReply:
        """What a sample would be, before it is fetched."""
        choice = self._suite_choice(key, cell, suite, seed, hub_token)
        outlook = suite_source.outlook(self._parts.hub, choice, self._parts.samples)
        measured_cell = self._view.compare_cell(self._library.own(key), cell)
        known = {variant.id: variant for variant in self._parts.catalog.variants}
        variants = [known[id] for id in measured_cell.variants if id in known]
        time = pace.outlook(self._parts.result_cache, variants, outlook.questions, outlook.suite.max_tokens)
        return HtmlReply(html=templating.markup("suite-outlook.html", outlook=outlook, time=time))

    def suite_progress(self, key: str, cell: str) -> HtmlReply:
        """Of the sample that is being fetched for a cell; empty if none is."""
        drawing = self._drawing.get((self._library.own(key).id, cell))
        if drawing is None or drawing.progress is None:
            return HtmlReply(html="")
        return HtmlReply(html=templating.markup("suite-progress.html", progress=drawing.progress))

    def stop_suite(self, key: str, cell: str) -> Reply:
        """What was fetched is kept: the next time it goes on from there."""
        drawing = self._drawing.get((self._library.own(key).id, cell))
        if drawing is not None:
            drawing.stopped.set()
        return Reply()

    def _suite_choice(self, key: str, cell: str, suite: str, seed: int, hub_token: str) -> SuiteChoice:
        if not self._parts.settings.downloads:
            raise NotAllowed("The operator of this page does not allow downloads from the Hub.")
        notebook = self._library.own(key)
        wanted = self._view.compare_cell(notebook, cell).questions
        if wanted is None:
            raise BadInput("This cell has a question of its own.")
        name = suite.strip()[:200]
        if not name or name.endswith(".toml"):
            raise BadInput("Write the name of a suite, or of a dataset: owner/name.")
        return SuiteChoice(name, wanted.n, seed, hub_token.strip() or None)

    def suite_questions(
        self, key: str, cell: str, suite: str, person: str = "", seed: int = 0, hub_token: str = ""
    ) -> CellsReply:
        """Draw as many questions as the cell asks from a suite, or from any dataset of the Hub."""
        choice = self._suite_choice(key, cell, suite, seed, hub_token)
        notebook = self._library.own(key)
        self._library.check_room()
        drawing = _Drawing()
        with self._samples.held(person), tempfile.TemporaryDirectory() as scratch:
            self._drawing[notebook.id, cell] = drawing
            try:
                for news in suite_source.draw(self._parts.hub, choice, self._parts.samples, drawing.stopped.is_set):
                    if isinstance(news, QuestionSet):
                        drawn = news
                    else:
                        drawing.progress = news
            except Interrupted:
                return CellsReply(notice="Stopped. What was fetched is kept.")
            finally:
                self._drawing.pop((notebook.id, cell), None)
            zipped = Path(scratch) / "sample.zip"
            suite_samples.write_zip(drawn, zipped)
            source = self._library.questions.keep(zipped)
        known = suite_source.known_suite(choice.name)
        name = drawn.sample.words if drawn.sample else drawn.name
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            if now.questions is None:
                raise BadInput("This cell has a question of its own.")
            plan = replace(now.questions.plan, accuracy=any(item.answers for item in drawn.items))
            if known is not None:
                plan = replace(plan, max_tokens=known.max_tokens)
            questions = replace(now.questions, source=source, name=name[:200], n=len(drawn.items), plan=plan)
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(source)
        notice = "" if known else f"The columns were guessed. The first question: {drawn.items[0].question[:300]}"
        return replace(self._view.changed(key, written), problems=drawn.problems[:10], notice=notice or UNSET)

    # --- what the cells are made of ----------------------------------------------------------------------------

    def _blank(self, near: CompareCell | None = None) -> CompareCell:
        """An empty cell with the variants and settings of the one above it, or with the preset's."""
        if near is not None:
            return CompareCell("", family=near.family, variants=near.variants, settings=near.settings)
        preset = self._view.preset("")
        variants = tuple(f"{preset.family}:{label}+mmproj-F16" for label in preset.ticked)
        return CompareCell("", family=preset.family, variants=variants, settings=_settings(preset))

    def _first_cells(self) -> list[WholeCell]:
        """What a first visitor finds. The variants may still be in the making."""
        preset = self._view.preset("")
        cells: list[WholeCell] = []
        for example in preset.cells:
            path = data_folder() / example.image
            picture: Picture = self._library.pictures.keep(read_image(path), path.name)
            variants = tuple(f"{preset.family}:{m}+mmproj-{p}" for m in example.models for p in example.projectors)
            cells.append(WholeCell(NoteCell("", example.note.strip())))
            cells.append(
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
        return cells


def _without_right(n: int) -> str:
    return (
        f"{n} marked question{'s have' if n > 1 else ' has'} no answer marked as right and are left out." if n else ""
    )


def _settings(preset: Preset) -> RunSettings:
    """Of a new cell; as few as possible, so that its chips tell what was chosen."""
    usual = preset.max_tokens == Sampling().max_tokens
    return RunSettings(probabilities=True, max_tokens=None if usual else preset.max_tokens)


def _uploaded(path: str) -> Path:
    """Raises NotAllowed for what is not a file in Gradio's upload folder."""
    folder = Path(get_upload_folder()).resolve()
    file = Path(path.replace("\0", "")).resolve()
    if "\0" in path or not file.is_relative_to(folder) or not file.is_file():
        raise NotAllowed("Only a file that was uploaded here can be used.")
    return file
