"""What the notebook's script asks of the server about the questions of a measurement (see notebook_actions.py)."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from msgspec import UNSET
from msgspec.structs import replace

from playground.errors import BadInput, Interrupted, NotAllowed
from playground.measuring import pace, suite_samples, suite_source
from playground.measuring.question_sets import QuestionSet, read_questions
from playground.measuring.results import Progress
from playground.measuring.suite_source import SuiteChoice
from playground.notebooks import marks
from playground.notebooks.cells import CellQuestions, CompareCell
from playground.notebooks.library import Library
from playground.rendering import templating
from playground.values.counts import counted
from playground.web import demo
from playground.web.job_limits import JobLimits
from playground.web.notebook_view import NotebookView
from playground.web.replies import BinaryFileReply, CellsReply, HtmlReply, Reply
from playground.web.uploads import uploaded_file
from playground.wiring import Parts

_MOST_SAMPLES = 2  # of all people at once


@dataclass(slots=True)
class _Drawing:
    """A sample that is being fetched."""

    progress: Progress | None = None
    stopped: Event = field(default_factory=Event)


class QuestionActions:
    """Questions of one's own, of the answers that were marked, of a suite; reference packs.

    Owns the samples that are being fetched.
    """

    def __init__(self, parts: Parts, view: NotebookView, imports: JobLimits) -> None:
        self._parts = parts
        self._view = view
        self._library: Library = parts.library
        self._imports = imports
        self._samples = JobLimits("samples of datasets", _MOST_SAMPLES, 1)
        self._drawing: dict[tuple[str, str], _Drawing] = {}  # by notebook and cell

    def methods(self) -> tuple[Callable[..., Reply], ...]:
        return (
            self.own_questions, self.own_pack, self.questions_file, self.marked_questions,
            self.suite_outlook, self.suite_questions, self.suite_progress, self.stop_suite,
        )  # fmt: skip

    def own_questions(self, key: str, cell: str, path: str | None = None, person: str = "") -> CellsReply:
        """Ask the questions of a zip that was just uploaded; without one, the embedded ones again."""
        self._library.own(key)
        source, name = "", ""
        problems: tuple[str, ...] = ()
        if path is not None:
            uploaded = uploaded_file(path)
            self._library.check_room()
            with self._imports.held(person):
                problems = read_questions(uploaded).problems
                source, name = self._library.questions.keep(uploaded), uploaded.name
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            before = _questions_of(now)
            questions = replace(before, source=source, name=name[:200])
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(source)
        return replace(self._view.changed(key, written), problems=problems[:10])

    def own_pack(self, key: str, cell: str, path: str | None = None, person: str = "") -> CellsReply:
        """Measure against a reference pack that was just uploaded; without one, against a variant again."""
        self._library.own(key)
        pack, name = None, ""
        if path is not None:
            demo.refuse(self._parts.settings, "Reference packs are not used here")
            uploaded = uploaded_file(path)
            self._library.check_room()
            with self._imports.held(person):
                pack, name = self._library.questions.keep_pack(uploaded), uploaded.name
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            before = _questions_of(now)
            questions = replace(before, pack="", pack_name="")
            if pack is not None:
                limits = pack.record.limits(questions.plan)
                questions = replace(questions, pack=pack.digest, pack_name=name[:200], plan=limits)
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(questions.pack)
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
            before = _questions_of(now)
            plan = replace(before.plan, accuracy=True)
            name = counted(n, "marked question")
            questions = replace(before, source=source, name=name, n=n, plan=plan)
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
        wanted = _questions_of(self._view.compare_cell(notebook, cell))
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
            before = _questions_of(now)
            plan = replace(before.plan, accuracy=any(item.answers for item in drawn.items))
            if known is not None:
                plan = replace(plan, max_tokens=known.max_tokens)
            questions = replace(before, source=source, name=name[:200], n=len(drawn.items), plan=plan)
            written, _ = self._library.write(key, replace(now, questions=questions))
            self._library.files(notebook).accept(source)
        notice = "" if known else f"The columns were guessed. The first question: {drawn.items[0].question[:300]}"
        return replace(self._view.changed(key, written), problems=drawn.problems[:10], notice=notice or UNSET)


def _questions_of(cell: CompareCell) -> CellQuestions:
    """Raises BadInput for a cell that measures nothing."""
    if cell.questions is None:
        raise BadInput("This cell has a question of its own.")
    return cell.questions


def _without_right(n: int) -> str:
    return (
        f"{n} marked question{'s have' if n > 1 else ' has'} no answer marked as right and are left out." if n else ""
    )
