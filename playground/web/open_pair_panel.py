"""Opens a pair of GGUF files of this machine in a cell, after the doctor has looked at it; closes opened pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import msgspec
from gradio.components import Component

from playground.errors import BadInput, NotAllowed, PlaygroundError
from playground.models import check_pair
from playground.models.gguf import file_names
from playground.models.presets import family_name
from playground.notebooks.cells import CompareCell
from playground.rendering import cell_view
from playground.values.files import Half
from playground.web import demo, login
from playground.web.models_page import findings_html
from playground.web.notebook_view import NotebookView
from playground.web.replies import CellsReply, document
from playground.web.settings_panel import SettingsPanel
from playground.web.toasts import as_toast
from playground.wiring import Parts

_MAX_LISTED_FILES = 1000

_HUB = 'From the Hub: <a href="./models">search and download</a>.'


class OpenPairPanel:
    """Owns its components. Made inside the gr.Blocks, and the column, that shows it."""

    def __init__(self, parts: Parts, view: NotebookView) -> None:
        self._parts = parts
        self._view = view
        folders = parts.settings.model_dirs
        with gr.Accordion("+ Add a model", open=False, visible=not parts.settings.demo, elem_id="vp-add-model"):
            files = [] if parts.settings.demo else _files(folders)  # hidden, it would still be sent
            self._projectors = [file for file in files if _is_projector(file[1])]
            gr.Markdown(_HUB)
            if folders:
                gr.Markdown("Or files in the folders that the operator allowed:")
            else:
                gr.Markdown("Or files here: the operator sets `PLAYGROUND_MODEL_DIRS`, and restarts.")
            self._model = gr.Dropdown(
                label="Language model file",
                choices=[file for file in files if not _is_projector(file[1])],
                allow_custom_value=True,
                value=None,
            )
            self._projector = gr.Dropdown(
                label="Projector file (mmproj)",
                choices=self._projectors,
                allow_custom_value=True,
                value=None,
            )
            self._findings = gr.HTML(elem_id="vp-pair-findings")
            self._button = gr.Button("Open pair", size="sm")
            opened = self._choices()
            self._opened = gr.Dropdown(
                label="Opened pairs", choices=opened, value=None, filterable=False, visible=bool(opened)
            )
            self._close = gr.Button("Close pair", size="sm", visible=bool(opened))

    def wire(self, settings: SettingsPanel, changed: gr.HTML) -> None:
        """`changed`: takes a reply for the notebook's script."""

        projectors = [path for _, path in self._projectors]

        def on_model(model: str | None, projector: str | None) -> Any:
            """Choose the projector that lies beside the language model."""
            neighbour = None if projector or not model else _neighbour(model, projectors)
            return neighbour or gr.skip()  # None would take away what was typed meanwhile

        def on_files(model: str | None, projector: str | None) -> str:
            return self._check(model, projector) if model and projector else ""

        def on_open(shown: str, model: str | None, projector: str | None) -> dict[Component, Any]:
            try:
                key, cell, reply = self._open(shown, model, projector)
                return {
                    changed: document(reply),
                    **self._pairs(),
                    **settings.shown(key, cell),
                }
            except PlaygroundError as error:
                raise as_toast(error) from error

        def on_close(request: gr.Request, shown: str, opened: str | None) -> dict[Component, Any]:
            try:
                demo.refuse(self._parts.settings, "No pair can be closed")
                if not self._parts.settings.may_operate(login.name_of(request)):
                    raise NotAllowed("Only operators may close a pair: it is open for everybody.")
                self._parts.catalog.close_pair(opened or "")
            except PlaygroundError as error:
                raise as_toast(error) from error
            marked = self._view.marked(shown)
            panel = settings.shown(*marked) if marked else settings.unchanged()
            return {**self._pairs(), **panel}

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        both = [self._model, self._projector]
        self._model.change(on_model, both, self._projector, **private)
        for file in both:
            file.change(on_files, both, self._findings, trigger_mode="always_last", **private)
        self._button.click(
            on_open, [settings.cell, *both], [changed, self._opened, self._close, *settings.outputs], **private
        )
        self._close.click(
            on_close, [settings.cell, self._opened], [self._opened, self._close, *settings.outputs], **private
        )

    def _pairs(self) -> dict[Component, Any]:
        """An update of the list of opened pairs."""
        opened = self._choices()
        return {
            self._opened: gr.Dropdown(choices=opened, value=None, visible=bool(opened)),
            self._close: gr.Button(visible=bool(opened)),
        }

    def _choices(self) -> list[tuple[str, str]]:
        if self._parts.settings.demo:
            return []
        return [(f"{family_name(v.family)}: {v.label}", v.id) for v in self._parts.catalog.opened]

    def _check(self, model: str, projector: str) -> str:
        """The doctor's findings; nothing of a file that may not be read."""
        try:
            files = self._in_order(model, projector)
            if len(files) < 2:
                return ""
            diagnosis = check_pair.check_pair(lambda: check_pair.from_disk(*files), self._parts.hardware)
        except PlaygroundError as error:
            return "" if isinstance(error, NotAllowed) else str(cell_view.notice(error.message))  # on the click
        return str(findings_html(diagnosis.findings))

    def _in_order(self, model: str | None, projector: str | None) -> list[Path]:
        """The language model first. Raises NotAllowed, BadModel."""
        demo.refuse(self._parts.settings, "No file can be opened")
        files = [Path(file) for file in (model, projector) if file]
        if len(files) == 2 and [self._parts.catalog.half(file) for file in files] == [Half.PROJECTOR, Half.MODEL]:
            files.reverse()
        return files

    def _open(self, shown: str, model: str | None, projector: str | None) -> tuple[str, CompareCell, CellsReply]:
        """The notebook's key, the cell with the new variant ticked, and what the page shows of it.

        The selected cell, if the pair is of its family; or a new one below it, which asks the same.
        """
        marked = self._view.marked(shown)
        if marked is None:
            raise BadInput("Add a compare cell first: the pair is opened for it.")
        if not model:
            raise BadInput("Choose both files of the pair, or a llamafile that holds both.")
        key, cell = marked
        files = self._in_order(model, projector)
        if projector and files[0] != Path(model):
            gr.Info("The two files were mixed up; the app opened them the right way round.")
        variant = self._parts.catalog.open_pair(*files, remember=True)
        if variant.family == cell.family:
            ticked = tuple(dict.fromkeys((*self._listed(cell), variant.id)))
            written, _ = self._parts.library.write(key, msgspec.structs.replace(cell, variants=ticked))
            assert isinstance(written, CompareCell)
            return key, written, self._view.changed(key, written)
        fresh = msgspec.structs.replace(
            cell,
            family=variant.family,
            variants=(variant.id,),
            questions=None,
            collapsed=False,
            settings=msgspec.structs.replace(cell.settings, reference=None),
        )
        added = self._parts.library.add(key, fresh, cell.id)
        assert isinstance(added, CompareCell)
        return key, added, self._view.added(key, added)

    def _listed(self, cell: CompareCell) -> list[str]:
        return [v.id for v in self._parts.catalog.variants if v.id in cell.variants and v.family == cell.family]


def _files(folders: Sequence[Path]) -> list[tuple[str, str]]:
    """Names within the folders, with their paths."""
    files: list[tuple[str, str]] = []
    for folder in folders:
        paths = sorted(path for path in folder.rglob("*") if _is_listed(path))
        files += [(str(path.relative_to(folder)), str(path)) for path in paths]
    return files[:_MAX_LISTED_FILES]


def _is_listed(path: Path) -> bool:
    """Of a split model the first shard alone; no file that holds a vocabulary only."""
    shard = file_names.shard(path.name)
    return (
        (file_names.is_gguf(path.name) or path.suffix.lower() == ".llamafile")
        and (shard is None or shard[1] == 1)
        and not path.name.startswith("ggml-vocab-")
    )


def _is_projector(path: str) -> bool:
    return "mmproj" in Path(path).name.lower()


def _neighbour(model: str, projectors: Sequence[str]) -> str | None:
    """The listed projector in a language model's folder, the most precise by its name."""
    precise = ("f16", "bf16", "f32")
    beside = [path for path in projectors if Path(path).parent == Path(model).parent]
    return min(beside, key=lambda path: not any(kind in Path(path).name.lower() for kind in precise), default=None)
