"""What the page shows of a notebook: cells, runs, and the files and questions that they name. No Gradio here."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping

import markupsafe
import msgspec

from playground.comparing import axes
from playground.errors import BadInput, PlaygroundError
from playground.measuring.packs import Pack
from playground.measuring.question_sets import Question, QuestionSet, embedded
from playground.models.presets import Example, Preset, data_folder
from playground.notebooks import votes
from playground.notebooks.cells import Cell, CellQuestions, CompareCell, NoteCell, Run, RunState
from playground.notebooks.library import Library, Notebook
from playground.notebooks.votes import VoteRow
from playground.rendering import cell_view, measurement_view, templating
from playground.values.files import Variant
from playground.web.public_link import PublicLink
from playground.web.replies import CellHtml, CellsReply, PageReply
from playground.wiring import Parts

logger = logging.getLogger(__name__)

# Cells whose answers come with the page; the others follow at once, or when they are scrolled to.
_FILLED_AT_ONCE = 3

_MOST_REPEATS = 10  # that are read for the spread of the speeds


class NotebookView:
    """Reads the library and the catalog; changes neither."""

    def __init__(self, parts: Parts, link: PublicLink | None = None) -> None:
        self._parts = parts
        self._link = link or PublicLink()
        self._library: Library = parts.library
        self._pictures_of = functools.lru_cache(maxsize=8)(self._pictures)

    # --- replies -----------------------------------------------------------------------------------------------

    def changed(self, key: str, cell: Cell) -> CellsReply:
        """A cell that was changed, for the page to show; its answers there stay."""
        notebook = self._library.own(key)
        newest = self._library.newest_run(notebook, cell.id) if isinstance(cell, CompareCell) else None
        stale = newest is not None and isinstance(cell, CompareCell) and cell_view.changed_since(newest, cell)
        html = self._cell(notebook, cell, can_edit=True, outputs=None)
        return CellsReply(cells=(CellHtml(id=cell.id, html=html, stale=stale),), problem=self._library.problem)

    def added(self, key: str, cell: Cell) -> CellsReply:
        """A cell that is new on the page, with its answers."""
        notebook = self._library.own(key)
        outputs = self.outputs(notebook, cell.id, can_edit=True)
        html = self._cell(notebook, cell, can_edit=True, outputs=outputs)
        return msgspec.structs.replace(self.order(key), cells=(CellHtml(id=cell.id, html=html),))

    def order(self, key: str) -> CellsReply:
        return CellsReply(order=tuple(self._library.own(key).cells), problem=self._library.problem)

    def page(self, key: str, browser: str, *, home: bool = False) -> PageReply:
        """`home`: it is one of this browser's own notebooks."""
        notebook, can_edit = self._library.read(key)
        self._library.opened(browser, notebook.id)
        browser, listed = self._library.browser(browser)
        shown, filled = [], 0
        for cell in self.cells(notebook):
            outputs = None
            if isinstance(cell, CompareCell):
                filled += 1
                if not self._library.runs(notebook, cell.id):
                    outputs = cell_view.nothing_yet(cell, can_edit=can_edit)
                else:
                    at_once = filled <= _FILLED_AT_ONCE
                    outputs = self.outputs(notebook, cell.id, can_edit) if at_once else cell_view.LATER
            shown.append(self._cell(notebook, cell, can_edit=can_edit, outputs=outputs))
        return PageReply(
            page=cell_view.page(
                notebook,
                shown,
                listed,
                can_edit=can_edit,
                about=self._about(notebook),
                public=self._link.address,
                no_public=self._link.problem,
            ),
            key=key,
            browser=browser,
            can_edit=can_edit,
            home=home,
            problem=self._library.problem,
        )

    def _about(self, notebook: Notebook) -> str:
        runs = [info for id in notebook.cells for info in self._library.runs(notebook, id)]
        return cell_view.about(self.cells(notebook), runs)

    def _cell(
        self, notebook: Notebook, cell: Cell, *, can_edit: bool, outputs: markupsafe.Markup | None
    ) -> markupsafe.Markup:
        number = notebook.cells.index(cell.id) + 1
        if isinstance(cell, NoteCell):
            return cell_view.note(cell, number, can_edit=can_edit)
        examples = () if cell.pictures or not can_edit else _examples(self.preset(cell.family))
        return cell_view.compare(
            cell,
            number,
            self._variants(),
            self._library.files(notebook).thumbnail,
            can_edit=can_edit,
            runs=len(self._library.runs(notebook, cell.id)),
            examples=examples,
            outputs=outputs,
        )

    def outputs(
        self, notebook: Notebook, id: str, can_edit: bool, *, number: int | None = None, beside: bool = False
    ) -> markupsafe.Markup:
        cell = self._library.cell(notebook, id)
        runs = self._library.runs(notebook, id)
        if isinstance(cell, NoteCell) or not runs:
            return cell_view.nothing_yet(cell, can_edit=can_edit)
        newest = max(info.number for info in runs)
        shown = self._library.run(notebook, id, number or newest)
        if shown is None:
            return cell_view.notice("This run cannot be read. Run the cell again.")
        other = self._library.run(notebook, id, newest) if beside and shown.number != newest else None
        try:
            return cell_view.run(
                shown,
                runs,
                cell,
                self._library.files(notebook).thumbnail,
                self.picture_of(notebook, shown.cell.questions),
                can_edit=can_edit,
                beside=other,
                repeats=self._repeats(notebook, id, shown),
                tally=self._tally(notebook),
            )
        except PlaygroundError:
            raise
        except Exception:  # one run, which may be imported, must not keep the notebook from opening
            logger.exception("run %s of cell %s", shown.number, id)
            return cell_view.notice("This run cannot be shown. The app's log has more. Run the cell again.")

    def run_html(self, key: str, run: Run) -> markupsafe.Markup:
        """A run that goes on or has just ended, as the newest one of its cell."""
        notebook = self._library.own(key)
        id = run.cell.id
        now = self.compare_cell(notebook, id) if id in notebook.cells else run.cell
        infos = self._library.runs(notebook, id)
        picture = self.picture_of(notebook, run.cell.questions)
        repeats = self._repeats(notebook, id, run)
        thumbnail = self._library.files(notebook).thumbnail
        tally = self._tally(notebook)
        return cell_view.run(run, infos, now, thumbnail, picture, can_edit=True, repeats=repeats, tally=tally)

    def _tally(self, notebook: Notebook) -> list[VoteRow]:
        """The notebook's blind votes, beside what the newest run of each measurement found."""
        cells = self.cells(notebook)
        if not any(isinstance(cell, CompareCell) and cell.votes for cell in cells):
            return []
        used = [cell for cell in cells if isinstance(cell, CompareCell) and (cell.votes or cell.questions is not None)]
        newest = (self._library.newest_run(notebook, cell.id) for cell in used)
        labels = {variant.id: variant.label for variant in self._parts.catalog.variants}
        return votes.rows(cells, (run for run in newest if run is not None), labels)

    def _repeats(self, notebook: Notebook, cell: str, shown: Run) -> list[Run]:
        """The latest runs of a cell that asked the same as one of them, which has ended."""
        if shown.state is not RunState.DONE or shown.cell.questions is not None:
            return []
        numbers = sorted(info.number for info in self._library.runs(notebook, cell) if info.number != shown.number)
        earlier = (self._library.run(notebook, cell, number) for number in numbers[1 - _MOST_REPEATS :])
        return cell_view.repeats_of(shown, (shown, *(run for run in earlier if run is not None)))

    def _pictures(self, source: str, is_here: bool) -> measurement_view.Picture:
        # A name in an imported notebook is anybody's text: QuestionSet keeps it inside its folder or zip.
        kept = self._library.questions.read(source) if is_here else None
        questions = kept or QuestionSet("embedded", (), self._parts.evaluation)
        return measurement_view.pictures(lambda name: questions.image(Question(name, "")))

    # --- what cells name ---------------------------------------------------------------------------------------

    def cells(self, notebook: Notebook) -> list[Cell]:
        return [self._library.cell(notebook, id) for id in notebook.cells]

    def compare_cell(self, notebook: Notebook, id: str) -> CompareCell:
        cell = self._library.cell(notebook, id)
        if isinstance(cell, NoteCell):
            raise BadInput("A note has no image and no answers.")
        return cell

    def marked(self, shown: str) -> tuple[str, CompareCell] | None:
        """The key and the cell that the settings panel shows, named as "key/cell"."""
        key, _, id = (shown or "").rpartition("/")
        try:
            return key, self.compare_cell(self._library.own(key), id)
        except PlaygroundError:
            return None

    def variants_of(self, cell: CompareCell) -> tuple[Variant, ...]:
        """With each value of its axes. Raises BadInput if one is not on this machine."""
        present = self._variants()
        missing = [id for id in cell.variants if id not in present]
        if missing:
            raise BadInput(
                f"Not on this machine: {', '.join(missing)}. Open or download them, or tick others at the side."
            )
        return axes.spread([present[id] for id in cell.variants], cell.settings)

    def _variants(self) -> Mapping[str, Variant]:
        return {v.id: v for v in (*self._parts.catalog.variants, *self._parts.endpoints.variants)}

    def preset(self, family: str) -> Preset:
        """Of a family, or the embedded one: it has examples."""
        presets = self._parts.catalog.presets
        return next((p for p in presets if p.family == family and p.examples), presets[0])

    def question_set(self, notebook: Notebook, questions: CellQuestions) -> QuestionSet:
        """Of a pack, the set with its images. Raises BadInput if it is not on this machine."""
        if not questions.source:
            return embedded(self._parts.evaluation, level="" if questions.pack else questions.level)
        files = self._library.files(notebook)
        if not files.has_questions(questions.source):
            raise BadInput(f"The questions of {questions.name} are not on this machine. Choose the zip again.")
        return files.questions(questions.source)

    def pack(self, notebook: Notebook, questions: CellQuestions) -> Pack:
        """Raises BadInput if it is not on this machine."""
        return self._library.files(notebook).pack(questions.pack, questions.pack_name)

    def picture_of(self, notebook: Notebook, questions: CellQuestions | None) -> measurement_view.Picture:
        """How to show the images of a set of questions."""
        source = questions.source if questions else ""
        return self._pictures_of(source, self._library.files(notebook).has_questions(source))


@functools.cache
def _examples(preset: Preset) -> list[tuple[Example, str]]:
    urls = [templating.data_url(("image/png", (data_folder() / e.image).read_bytes())) or "" for e in preset.examples]
    return list(zip(preset.examples, urls, strict=True))
