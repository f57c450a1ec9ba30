"""Quantizes one half of the selected cell's reference into a new file, which is checked on images as it is made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import gradio as gr
import msgspec
from gradio.components import Component

from playground.comparing.compare import StopFlag
from playground.errors import BadInput, Interrupted, NotAllowed, PlaygroundError
from playground.measuring.results import Progress
from playground.notebooks.cells import CellQuestions, CompareCell
from playground.quantizing.make_variant import CheckedVariant
from playground.rendering import cell_view, made_view, measurement_view, number_format
from playground.values.files import Variant
from playground.web import demo, login, made_files
from playground.web.active_runs import ActiveRuns
from playground.web.job_limits import JobLimits
from playground.web.made_files import FileChoice
from playground.web.notebook_view import NotebookView
from playground.web.replies import document
from playground.web.settings_panel import SettingsPanel
from playground.web.toasts import as_toast
from playground.wiring import Parts

_WAIT_S = 0.2  # how often somebody who waits looks at their stop flag


class QuantizePanel:
    """Owns its components. Made inside the gr.Blocks, and the column, that shows it."""

    def __init__(self, parts: Parts, view: NotebookView, active: ActiveRuns, long_jobs: JobLimits) -> None:
        self._parts = parts
        self._view = view
        self._active = active
        self._long_jobs = long_jobs
        self._turn = Lock()  # one file at a time is quantized on the page, since it takes all cores
        self._folded = gr.Accordion("Quantize here", open=False, elem_id="vp-make", visible=not parts.settings.demo)
        with self._folded:
            gr.Markdown("From the most precise files of the cell's model into a new variant, checked on images.")
            half = gr.Radio(label="Half", choices=list(made_files.HALVES), value="Projector (mmproj)")
            kind = gr.Dropdown(
                label="Quantization", choices=list(made_files.TYPES), value="Q4_0", allow_custom_value=True
            )
            exceptions = gr.Textbox(
                label="Tensors of another type (PATTERN=TYPE, one a line)", placeholder="ffn_up=q8_0", lines=2
            )
            calibrate = gr.Checkbox(
                label="Calibrate with images", info="An importance matrix of questions and answers; IQ types need it."
            )
            self._kind, self._calibrate = kind, calibrate
            self._inputs = [half, kind, exceptions, calibrate]
            with gr.Row():
                self._make = gr.Button("Quantize", size="sm")
                self._stop = gr.Button("Stop", size="sm", interactive=False)
            self._result = gr.HTML(elem_id="vp-made")
            names = self._names()
            self._files = gr.Dropdown(label="Files made here", choices=names, value=None, visible=bool(names))
            self._file = gr.HTML()
            self._delete = gr.Button("Delete the file", size="sm", visible=False)
            self._ticked = gr.Textbox(visible="hidden", label="ticked")  # the cell, and which write of it

    def wire(self, settings: SettingsPanel, changed: gr.HTML) -> None:
        """`changed`: takes a reply for the notebook's script."""

        def on_make(
            request: gr.Request, shown: str, half: str, kind: str, exceptions: str, calibrate: bool
        ) -> Iterator[dict[Component, Any]]:
            wanted = FileChoice(half, kind, exceptions, calibrate)
            for result, reply in self._make_file(request, shown, wanted):
                yield result if reply is None else {**result, changed: reply}

        def on_ticked(shown: str) -> dict[Component, Any]:
            """An event of its own: Gradio makes each output anew with every update, and there are dozens of them."""
            marked = self._view.marked(shown)
            return settings.shown(*marked) if marked else settings.unchanged()

        def on_delete(request: gr.Request, shown: str, name: str | None) -> dict[Component, Any]:
            return {**self._delete_file(request, name or ""), **on_ticked(shown)}

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        making = self._make.click(
            on_make,
            [settings.cell, *self._inputs],
            [self._result, changed, self._ticked, self._stop],
            concurrency_limit=None,
            **private,
        )
        listed = [self._files, self._file, self._delete]
        making.then(
            lambda: {self._stop: gr.update(interactive=False), **self._listed()},
            None,
            [self._stop, *listed],
            queue=False,
            **private,
        )
        self._folded.expand(self._listed, None, listed, queue=False, **private)
        self._files.input(self._show_file, self._files, [self._file, self._delete], queue=False, **private)
        self._delete.click(
            on_delete, [settings.cell, self._files], [self._result, *listed, *settings.outputs], **private
        )
        self._kind.change(_calibration_for, self._kind, self._calibrate, queue=False, **private)
        self._ticked.change(on_ticked, settings.cell, settings.outputs, queue=False, **private)
        self._stop.click(self._stop_making, None, None, queue=False, **private)

    def _make_file(
        self, request: gr.Request, shown: str, wanted: FileChoice
    ) -> Iterator[tuple[dict[Component, Any], dict[str, Any] | None]]:
        """Updates of the panel, and of the notebook where a cell has the new variant."""
        marked = self._view.marked(shown)
        if marked is None:
            raise as_toast(BadInput("Add a compare cell first: the new variant is ticked in it."))
        key, cell = marked
        page, person = str(request.session_hash), login.person(request)
        stop = self._active.start(page, _job_of(page))
        try:
            demo.refuse(self._parts.settings, "Nothing can be quantized")
            own_parts = self._parts.of(person)
            own_parts.pool.check_busy()
            source = self._source(cell)
            asked = cell.questions
            questions = self._view.question_set(self._parts.library.own(key), asked or CellQuestions())
            n = asked.n if asked and not asked.pack else None  # a pack has its own questions
            with self._long_jobs.held(person):
                waiting = cell_view.notice("Waiting for its turn ...")
                yield {self._result: waiting, self._stop: gr.update(interactive=True)}, None
                planned = made_files.check(own_parts, source, wanted, stop)
                with self._own_turn(stop):
                    form = cell.settings.prompt_form()
                    for update in made_files.make(own_parts, source, wanted, questions, form, stop, n, planned):
                        if isinstance(update, Progress):
                            yield {self._result: measurement_view.progress(update)}, None
                            continue
                        result: dict[Component, Any] = {self._result: made_view.html(update)}
                        written = self._tick(key, cell, source, update)
                        if written is None:
                            yield result, None
                        else:
                            result[self._ticked] = f"{key}/{cell.id}/{written.version}"
                            yield result, document(self._view.changed(key, written))
        except Interrupted:
            yield {self._result: cell_view.notice("Stopped. Nothing was kept.")}, None
        except PlaygroundError as error:
            yield {self._result: cell_view.notice(error.message)}, None
        finally:
            self._active.end(stop)
            stop.run()

    def _stop_making(self, request: gr.Request) -> None:
        self._active.stop(_job_of(str(request.session_hash)))

    def _delete_file(self, request: gr.Request, name: str) -> dict[Component, Any]:
        try:
            demo.refuse(self._parts.settings, "Nothing can be deleted")
            if not self._parts.settings.may_operate(login.name_of(request)):
                raise NotAllowed("Only operators may delete a file: it is a variant for everybody.")
            freed = made_files.delete(self._parts, name)
        except PlaygroundError as error:
            raise as_toast(error) from error
        notice = cell_view.notice(f"{name} is deleted: {number_format.file_size(freed)} freed.")
        return {self._result: notice, **self._listed()}

    def _show_file(self, name: str | None) -> dict[Component, Any]:
        link = made_view.link(name) if name else ""
        return {self._file: link, self._delete: gr.Button(visible=bool(name))}

    def _names(self) -> list[str]:
        return [] if self._parts.settings.demo else list(made_files.files(self._parts))

    def _listed(self) -> dict[Component, Any]:
        """An update of the list of files, none of which is chosen."""
        names = self._names()
        return {
            self._files: gr.Dropdown(choices=names, value=None, visible=bool(names)),
            self._file: "",
            self._delete: gr.Button(visible=False),
        }

    @contextmanager
    def _own_turn(self, stop: StopFlag) -> Iterator[None]:
        """Raises Interrupted while it waits."""
        while not self._turn.acquire(timeout=_WAIT_S):
            if stop.wanted():
                raise Interrupted("Interrupted while it waited for its turn.")
        try:
            yield
        finally:
            self._turn.release()

    def _source(self, cell: CompareCell) -> Variant:
        offered = [v for v in self._parts.catalog.variants if v.family == cell.family]
        if not offered:
            raise BadInput("The cell's model is not on this machine.")
        return next((v for v in offered if v.reference), offered[0])

    def _tick(self, key: str, cell: CompareCell, source: Variant, made: CheckedVariant) -> CompareCell | None:
        """The cell with the new variants ticked. None: it was deleted meanwhile; the file is there all the same."""
        added = self._parts.catalog.add_made(made.path)
        best = {source.model.sha256, source.projector.sha256}
        new = [v.id for v in added if {v.model.sha256, v.projector.sha256} & best]
        library = self._parts.library
        with library.writing():
            notebook = library.own(key)
            if cell.id not in notebook.cells:
                return None
            now = self._view.compare_cell(notebook, cell.id)
            ticked = tuple(dict.fromkeys((*now.variants, *new)))
            written, _ = library.write(key, msgspec.structs.replace(now, variants=ticked))
        return written


def _calibration_for(kind: str | None) -> Any:
    return gr.update(value=True) if made_files.wants_calibration(kind or "") else gr.skip()


def _job_of(page: str) -> str:
    """In place of a cell, for ActiveRuns: a page makes one file at a time."""
    return f"making {page}"
