"""Opens a pair of GGUF files of this machine, for the selected cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import msgspec
from gradio.components import Component

from playground.errors import BadInput, PlaygroundError
from playground.models.gguf import file_names
from playground.notebooks.cells import CompareCell
from playground.values.files import Half
from playground.web import demo
from playground.web.notebook_view import NotebookView
from playground.web.replies import document
from playground.web.settings_panel import SettingsPanel
from playground.web.toasts import as_toast
from playground.wiring import Parts

_MAX_LISTED_FILES = 1000


class OpenPairPanel:
    """Owns its components. Made inside the gr.Blocks, and the column, that shows it."""

    def __init__(self, parts: Parts, view: NotebookView) -> None:
        self._parts = parts
        self._view = view
        folders = parts.settings.model_dirs
        with gr.Accordion("Open files on this machine", open=False, visible=not parts.settings.demo):
            files = [] if parts.settings.demo else _files(folders)  # hidden, it would still be sent
            if folders:
                gr.Markdown("GGUF files in the folders that the operator allowed.")
            else:
                gr.Markdown("The operator has allowed no folder yet: set `PLAYGROUND_MODEL_DIRS` and restart.")
            self._model = gr.Dropdown(label="Language model file", choices=files, allow_custom_value=True, value=None)
            self._projector = gr.Dropdown(
                label="Projector file (mmproj)", choices=files, allow_custom_value=True, value=None
            )
            self._button = gr.Button("Open pair", size="sm")

    def wire(self, settings: SettingsPanel, changed: gr.HTML) -> None:
        """`changed`: takes a reply for the notebook's script."""

        def on_open(shown: str, model: str | None, projector: str | None) -> dict[Component, Any]:
            try:
                key, cell = self._open(shown, model, projector)
                return {changed: document(self._view.changed(key, cell)), **settings.shown(key, cell)}
            except PlaygroundError as error:
                raise as_toast(error) from error

        self._button.click(
            on_open,
            [settings.cell, self._model, self._projector],
            [changed, *settings.outputs],
            api_visibility="private",
            show_progress="hidden",
        )

    def _open(self, shown: str, model: str | None, projector: str | None) -> tuple[str, CompareCell]:
        """The notebook's key, and the cell with the new variant ticked."""
        marked = self._view.marked(shown)
        if marked is None:
            raise BadInput("Add a compare cell first: the pair is opened for it.")
        if not model:
            raise BadInput("Choose both files of the pair, or a llamafile that holds both.")
        demo.refuse(self._parts.settings, "No file can be opened")
        key, cell = marked
        catalog = self._parts.catalog
        files = [Path(file) for file in (model, projector) if file]
        if len(files) == 2 and [catalog.half(file) for file in files] == [Half.PROJECTOR, Half.MODEL]:
            gr.Info("The two files were mixed up; the app opened them the right way round.")
            files.reverse()
        variant = catalog.open_pair(*files, remember=True)
        same = [v.id for v in catalog.variants if v.id in cell.variants and v.family == variant.family]
        ticked = tuple(dict.fromkeys((*same, variant.id)))
        written, _ = self._parts.library.write(
            key, msgspec.structs.replace(cell, family=variant.family, variants=ticked)
        )
        return key, written


def _files(folders: Sequence[Path]) -> list[str]:
    files: list[str] = []
    for folder in folders:
        files += sorted(str(path) for path in folder.rglob("*") if _is_listed(path))
    return files[:_MAX_LISTED_FILES]


def _is_listed(path: Path) -> bool:
    """Of a split model the first shard alone."""
    shard = file_names.shard(path.name)
    return path.suffix.lower() in (".gguf", ".llamafile") and (shard is None or shard[1] == 1)
