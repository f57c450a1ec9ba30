"""What the notebook's script asks of the server: one function for each thing that a person does there.

Every call carries a key: a notebook's id, which may change it, or its share key, which may read it
(notebooks/library.py).
"""

from __future__ import annotations

import base64
import functools
import itertools
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

from msgspec.structs import replace

from playground.comparing.branching import BranchPoint
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, NoNotebook, NoRoom
from playground.measuring import result_documents
from playground.measuring.question_sets import DEFAULT_QUESTIONS
from playground.measuring.results import MeasurementPlan
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
from playground.web import panel_values
from playground.web.job_limits import JobLimits
from playground.web.live_runs import BranchJob, LiveRuns, RunJob
from playground.web.notebook_view import NotebookView
from playground.web.panel_values import PanelValues
from playground.web.picture_actions import PictureActions
from playground.web.question_actions import QuestionActions
from playground.web.replies import (
    BinaryFileReply,
    CellHtml,
    CellsReply,
    HtmlReply,
    OutputsReply,
    PageReply,
    QueueReply,
    Reply,
    SettingsReply,
    TextFileReply,
)  # fmt: skip
from playground.web.server_function import server_function
from playground.web.uploads import uploaded_file
from playground.wiring import Parts

# How long a page may wait for the variants that the very first start makes; 4 s on two cores.
_FIRST_START_S = 60.0

_OVERTAKEN = "This cell was changed in another tab meanwhile. What you wrote here has replaced it."

_MOST_TICKED = 6  # variants in a cell that a person did not tick
_FIRST_PLAN = MeasurementPlan(look=True)  # what the ship card asks for, so that it can recommend one
_MOST_REPEATS = 10  # of one press of "Run"
_MOST_REPORTED = 1000  # runs of a report: 100 MB of HTML
_MOST_IMPORTS = 2  # of all people at once: reading one keeps a core busy


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
        self.pictures = PictureActions(parts, view)
        self.questions = QuestionActions(parts, view, self._imports)

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        methods: tuple[Callable[..., Reply], ...] = (
            self.open, self.create, self.copy, self.remove, self.rename, self.share,
            self.import_file, self.export, self.card, self.results,
            self.outputs, self.look, self.likely, self.restore, self.write, self.settings, self.compare,
            self.add, self.duplicate, self.move, self.delete, self.undo, self.follow,
            self.stop, self.branch, self.mark, self.vote,
            *self.pictures.methods(), *self.questions.methods(),
        )  # fmt: skip
        return [server_function(method) for method in methods]

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
        copied = self._library.create(
            browser, self._free_title(browser, title), whole, self._library.files(notebook).may_show
        )
        return self._view.page(copied.id, browser, home=True)

    def _free_title(self, browser: str, title: str) -> str:
        """With a number where the browser has a notebook of this title: a list of equal ones says nothing."""
        taken = {entry.title for entry in self._library.browser(browser)[1]}
        numbered = (f"{title} ({n})" for n in itertools.count(2))
        return next(name for name in itertools.chain([title], numbered) if name not in taken)

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
            text = uploaded_file(path).read_text("utf-8-sig", errors="replace") if path is not None else text or ""
            title, cells, problems = file.opened(text)
            own = functools.cache(lambda: self._library.named_by(browser))
            title = self._free_title(browser, title)
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
            fresh = replace(fresh, questions=CellQuestions(n=DEFAULT_QUESTIONS, plan=_FIRST_PLAN))
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

    # --- answers -----------------------------------------------------------------------------------------------

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


def _settings(preset: Preset) -> RunSettings:
    """Of a new cell; as few as possible, so that its chips tell what was chosen."""
    usual = preset.max_tokens == Sampling().max_tokens
    return RunSettings(probabilities=True, max_tokens=None if usual else preset.max_tokens)
