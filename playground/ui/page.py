"""The page: one cell that compares, its API, and the memory strip. Gradio's events in, HTML out."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import gradio as gr

from playground.errors import BadInput, PlaygroundError
from playground.lab import compare as lab
from playground.lab import documents
from playground.lab.images import read_image
from playground.models.presets import data_folder
from playground.parts import Parts
from playground.ui import api, format, render
from playground.values import Order, Runtime, Variant

ASSETS = Path(__file__).parent / "assets"
CSS = ASSETS / "page.css"
HEAD = ASSETS / "head.html"

_STOP_JS = """element.addEventListener('click', event => {
    const button = event.target.closest('[data-stop]');
    if (button) trigger('click', {variant: button.dataset.stop});
    const sort = event.target.closest('[data-sort]');
    if (!sort) return;
    const head = sort.closest('th'), body = head.closest('table').tBodies[0], column = Number(sort.dataset.sort);
    const sign = head.ariaSort === 'ascending' ? -1 : 1;
    for (const other of head.parentElement.children) other.ariaSort = 'none';
    head.ariaSort = sign > 0 ? 'ascending' : 'descending';
    const value = row => row.children[column].dataset.value;
    const key = text => ({True: 1, False: 0})[text] ?? Number(text);
    body.append(...[...body.rows].sort((a, b) =>  // what is unknown stays at the end
        (value(a) === '') - (value(b) === '') || sign * (key(value(a)) - key(value(b)))));
});"""
_EXAMPLE_JS = """element.addEventListener('click', event => {
    const button = event.target.closest('[data-example]');
    if (button) trigger('click', {index: Number(button.dataset.example)});
});"""
_AUTOMATIC = ""  # the reference dropdown's first choice
_MAX_LISTED_FILES = 1000


def theme() -> gr.themes.Base:
    """Gradio's plain theme in the page's colours; page.css takes them from these variables."""
    return gr.themes.Base(
        primary_hue=gr.themes.colors.blue,
        font=["ui-sans-serif", "system-ui", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#15171b",
        block_background_fill="#ffffff",
        block_background_fill_dark="#1d2026",
        block_border_width="0px",
        block_shadow="none",
        block_label_background_fill="transparent",
        border_color_primary="#e3e3de",
        border_color_primary_dark="#2d3138",
        body_text_color="#1d1f23",
        body_text_color_dark="#e8e9eb",
        body_text_color_subdued="#5d626a",
        body_text_color_subdued_dark="#9aa0aa",
        input_background_fill="#ffffff",
        input_background_fill_dark="#1d2026",
        button_primary_background_fill="#2f5bd0",
        button_primary_background_fill_dark="#86a6ff",
        button_primary_background_fill_hover="#2650bd",
        button_primary_background_fill_hover_dark="#9db8ff",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#15171b",
    )


class _Runs:
    """The run of each open page, so that its Stop buttons find it. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._stops: dict[str, lab.Stop] = {}

    def start(self, page: str) -> lab.Stop:
        with self._lock:
            if page in self._stops:
                self._stops[page].run()
            stop = self._stops[page] = lab.Stop()
            return stop

    def end(self, page: str, stop: lab.Stop) -> None:
        with self._lock:
            if self._stops.get(page) is stop:
                del self._stops[page]

    def stop(self, page: str, variant: str | None = None) -> None:
        with self._lock:
            stop = self._stops.get(page)
        if stop is not None:
            stop.pane(variant) if variant else stop.run()


def build(parts: Parts, deriving: Thread) -> gr.Blocks:
    """The page on `parts`. `deriving`: the thread that makes the presets' quantized variants."""
    preset = parts.store.presets[0]
    images = [data_folder() / example.image for example in preset.examples]
    gr.set_static_paths(sorted({image.parent for image in images}))
    runs = _Runs()

    with gr.Blocks(title="VLM Quant Playground", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        with gr.Row(elem_id="vp-top"):
            gr.HTML("<h1>VLM Quant Playground</h1>", apply_default_css=False)
            memory = gr.HTML(render.memory_strip(parts.pool.memory()), apply_default_css=False, elem_id="vp-strip")
        with gr.Row(elem_id="vp-body"):
            with gr.Column(elem_id="vp-side", scale=0, min_width=250):
                family = gr.Radio(label="Model family", choices=_families(parts), value=preset.family)
                models = gr.CheckboxGroup(label="Language model", elem_id="vp-models")
                projectors = gr.CheckboxGroup(label="Projector", elem_id="vp-projectors")
                reference = gr.Dropdown(
                    label="Reference", choices=[("most precise", _AUTOMATIC)], value=_AUTOMATIC, filterable=False
                )
                order = gr.Radio(
                    label="Run",
                    choices=[
                        ("One after another · honest speeds", Order.IN_TURN.value),
                        ("Race · shared", Order.RACE.value),
                    ],
                    value=Order.IN_TURN.value,
                )
                with gr.Accordion("Open files on this machine", open=False):
                    files = _files(parts.settings.model_dirs)
                    if parts.settings.model_dirs:
                        gr.Markdown("GGUF files in the folders that the operator allowed.")
                    else:
                        gr.Markdown("The operator has allowed no folder yet: set `PLAYGROUND_MODEL_DIRS` and restart.")
                    model_file = gr.Dropdown(
                        label="Language model file", choices=files, allow_custom_value=True, value=None
                    )
                    projector_file = gr.Dropdown(
                        label="Projector file (mmproj)", choices=files, allow_custom_value=True, value=None
                    )
                    open_button = gr.Button("Open pair", size="sm")
            with gr.Column(elem_id="vp-main"):
                about = gr.Markdown(preset.about, elem_id="vp-about")
                with gr.Group(elem_id="vp-cell"):
                    with gr.Row(elem_id="vp-ask"):
                        with gr.Column(scale=0, min_width=76, elem_id="vp-run-column"):
                            run_button = gr.Button("▶ Run", variant="primary", elem_id="vp-run", min_width=72)
                            stop_button = gr.Button("■ Stop", elem_id="vp-stop-all", interactive=False, min_width=72)
                        gallery = gr.Gallery(
                            label="Image",
                            value=[str(images[0])],
                            type="filepath",
                            format="png",
                            file_types=["image"],
                            sources=["upload", "clipboard"],
                            columns=1,
                            height=170,
                            object_fit="contain",
                            show_label=False,
                            buttons=[],
                            interactive=True,
                            elem_id="vp-image",
                            scale=0,
                            min_width=170,
                        )
                        with gr.Column(elem_id="vp-question"):
                            prompt = gr.Textbox(
                                label="Prompt",
                                show_label=False,
                                container=False,
                                value=preset.examples[0].prompt,
                                placeholder="What do you want to know about the image?  (Ctrl+Enter runs)",
                                lines=3,
                                max_lines=12,
                                elem_id="vp-prompt",
                            )
                            shown_examples = gr.HTML(
                                render.examples(preset.examples, [f"/gradio_api/file={image}" for image in images]),
                                apply_default_css=False,
                                js_on_load=_EXAMPLE_JS,
                            )
                            with gr.Accordion("Sampling and engine", open=False, elem_id="vp-settings"):
                                settings = _settings_inputs(preset.max_tokens)
                    panes = gr.HTML(
                        render.panes(None, (), ""), apply_default_css=False, js_on_load=_STOP_JS, elem_id="vp-panes"
                    )

        def chosen(family: str, models: Sequence[str], projectors: Sequence[str]) -> tuple[Variant, ...]:
            return tuple(
                v
                for v in parts.store.variants
                if v.family == family and v.model.sha256 in (models or ()) and v.projector.sha256 in (projectors or ())
            )

        def choices(family: str) -> tuple[Any, Any, str]:
            """What can be ticked in a family, with its preset's ticks."""
            mine = [v for v in parts.store.variants if v.family == family]
            its_preset = next((p for p in parts.store.presets if p.family == family), None)
            lms = {v.model.sha256: v for v in mine}
            mmprojs = {v.projector.sha256: v for v in mine}
            best = {v.model.sha256 for v in mine if v.reference} | {v.projector.sha256 for v in mine if v.reference}
            ticked = [sha for sha, v in lms.items() if its_preset is None or v.model.quantization in its_preset.ticked]
            return (
                gr.CheckboxGroup(
                    choices=[
                        (_choice(v.model.quantization, v.model.bytes, sha in best), sha) for sha, v in lms.items()
                    ],
                    value=ticked,
                ),
                gr.CheckboxGroup(
                    choices=[
                        (_choice(v.projector.quantization, v.projector.bytes, sha in best), sha)
                        for sha, v in mmprojs.items()
                    ],
                    value=[sha for sha in mmprojs if sha in best] or list(mmprojs)[:1],
                ),
                its_preset.about if its_preset else "A pair that was opened from this machine.",
            )

        def on_load(current: str) -> Iterator[Any]:
            """Fill the lists; on the very first start, when the variants have been made."""
            while deriving.is_alive():
                yield *choices(current)[:2], "Making the quantized variants of the embedded model ..."
                deriving.join(0.5)
            for problem in parts.store.problems:
                gr.Warning(html.escape(problem, quote=False))
            yield choices(current)

        def on_choice(family: str, models: list[str], projectors: list[str], current: str) -> Any:
            variants = chosen(family, models, projectors)
            ids = [v.id for v in variants]
            return gr.Dropdown(
                choices=[("most precise", _AUTOMATIC), *((v.label, v.id) for v in variants)],
                value=current if current in ids else _AUTOMATIC,
            )

        def on_run(
            request: gr.Request,
            files: list[tuple[str, str | None]] | None,
            prompt: str,
            family: str,
            models: list[str],
            projectors: list[str],
            reference: str,
            order: str,
            *values: Any,
        ) -> Iterator[Any]:
            page = str(request.session_hash)
            try:
                variants = chosen(family, models, projectors)
                given = documents.read_settings({**_given(values), "reference": reference or None, "order": order})
                shown = [read_image(path) for path, _ in files or ()]
                comparison = lab.comparison_of(shown, prompt or "", variants, given)
                lab.check(comparison, parts.settings.max_panes)
            except PlaygroundError as error:
                raise _as_toast(error) from error
            stop = runs.start(page)
            try:
                # The first yield shows nothing: Gradio wants one at once, and the panes follow within 50 ms, often with
                # their first token. Drawing them twice would cost that token 20 ms.
                yield gr.skip(), gr.skip(), gr.skip()
                buttons = (gr.Button(interactive=False), gr.Button(interactive=True))
                updates = lab.run(comparison, parts.pool, parts.embeddings, stop, max_panes=parts.settings.max_panes)
                next(updates)
                for update in updates:
                    yield render.panes(update, variants, comparison.reference), *buttons
                    buttons = (gr.skip(), gr.skip())
                yield gr.skip(), gr.Button(interactive=True), gr.Button(interactive=False)
            finally:
                runs.end(page, stop)

        def on_stop(request: gr.Request) -> None:
            runs.stop(str(request.session_hash))

        def on_stop_pane(request: gr.Request, event: gr.EventData) -> None:
            runs.stop(str(request.session_hash), str(event.variant))

        def on_upload(files: list[tuple[str, str | None]]) -> list[str]:
            """A person's own image takes the place of an example."""
            own = [path for path, _ in files if Path(path).name not in {image.name for image in images}]
            return own or [path for path, _ in files]

        def on_example(event: gr.EventData) -> tuple[list[str], str]:
            index = int(event.index)
            return [str(images[index])], preset.examples[index].prompt

        def on_open(model: str | None, projector: str | None) -> Any:
            if not model or not projector:
                raise _as_toast(BadInput("Choose both files of the pair."))
            try:
                variant = parts.store.open_pair(Path(model), Path(projector))
            except PlaygroundError as error:
                raise _as_toast(error) from error
            return gr.Radio(choices=_families(parts), value=variant.family), *choices(variant.family)

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        demo.load(on_load, [family], [models, projectors, about], **private, concurrency_limit=None)
        family.input(choices, [family], [models, projectors, about], **private)
        for group in (models, projectors):
            group.change(on_choice, [family, models, projectors, reference], [reference], **private)
        run_button.click(
            on_run,
            [gallery, prompt, family, models, projectors, reference, order, *settings],
            [panes, run_button, stop_button],
            concurrency_limit=None,
            **private,
        )
        stop_button.click(on_stop, queue=False, **private)
        panes.click(on_stop_pane, queue=False, **private)
        gallery.upload(on_upload, [gallery], [gallery], **private)
        shown_examples.click(on_example, None, [gallery, prompt], **private)
        open_button.click(on_open, [model_file, projector_file], [family, models, projectors, about], **private)
        demo.unload(on_stop)
        gr.Timer(2).tick(
            lambda: render.memory_strip(parts.pool.memory()), None, [memory], concurrency_limit=None, **private
        )
        api.build(parts, deriving)
    assert isinstance(demo, gr.Blocks)
    return demo


_SETTINGS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "max_tokens", "n_ctx", "n_batch", "n_threads",
    "n_gpu_layers", "stop", "probabilities", "chat_template",
)  # fmt: skip


def _settings_inputs(max_tokens: int) -> list[Any]:
    """Inputs in the order of _SETTINGS."""
    with gr.Row():
        inputs: list[Any] = [
            gr.Number(label="Temperature (0: greedy)", value=0, minimum=0, maximum=5, step=0.1, min_width=110),
            gr.Number(label="Top-k", value=40, minimum=0, precision=0, min_width=110),
            gr.Number(label="Top-p", value=0.95, minimum=0, maximum=1, step=0.05, min_width=110),
            gr.Number(label="Min-p", value=0.05, minimum=0, maximum=1, step=0.01, min_width=110),
            gr.Number(label="Repeat penalty (1: off)", value=1, step=0.05, min_width=110),
            gr.Number(label="Seed", value=1, minimum=0, precision=0, min_width=110),
            gr.Number(label="Max tokens", value=max_tokens, minimum=1, precision=0, min_width=110),
        ]
    with gr.Row():
        inputs += [
            gr.Number(label="Context size", value=Runtime().n_ctx, minimum=64, precision=0, min_width=110),
            gr.Number(label="Batch size", value=Runtime().n_batch, minimum=8, precision=0, min_width=110),
            gr.Number(label="Threads (0: automatic)", value=0, minimum=0, precision=0, min_width=110),
            gr.Number(label="GPU layers (-1: all)", value=-1, minimum=-1, precision=0, min_width=110),
        ]
    with gr.Row():
        inputs += [
            gr.Textbox(label="Stop texts (one a line)", lines=2, min_width=200),
            gr.Checkbox(
                label="Token probabilities",
                info="Each answer is read once more when all are written: hover over a word, or see where two part.",
                value=True,
                min_width=200,
            ),
            gr.Textbox(
                label="Chat template (empty: the one in the GGUF file; Jinja, or a name)", lines=2, min_width=260
            ),
        ]
    return inputs


def _given(values: Sequence[Any]) -> dict[str, Any]:
    """The settings that were filled in."""
    given = dict(zip(_SETTINGS, values, strict=True))
    given["n_threads"] = given["n_threads"] or None
    given["stop"] = tuple(line for line in (given["stop"] or "").splitlines() if line)
    given["chat_template"] = (given["chat_template"] or "").strip() or None
    return {name: value for name, value in given.items() if value is not None}


def _as_toast(error: PlaygroundError) -> gr.Error:
    """Gradio shows an error's text as HTML; ours holds names of other people's files."""
    return gr.Error(html.escape(error.message, quote=False), duration=None, print_exception=False)


def _choice(quantization: str, size: int, is_best: bool) -> str:
    return f"{quantization}{' ★' if is_best else ''} · {format.file_size(size)}"


def _families(parts: Parts) -> list[tuple[str, str]]:
    names = {p.family: p.name for p in parts.store.presets}
    families = dict.fromkeys(v.family for v in parts.store.variants)
    return [(names.get(family, family), family) for family in families]


def _files(folders: Sequence[Path]) -> list[str]:
    found: list[str] = []
    for folder in folders:
        found += sorted(str(path) for path in folder.rglob("*.gguf"))
    return found[:_MAX_LISTED_FILES]
