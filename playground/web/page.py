"""The page: its layout, and which event calls what."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import gradio as gr
from gradio.components import Component

from playground.measuring.result_sources import ResultsShelf
from playground.rendering import memory_strip, templating
from playground.settings import Login
from playground.web import api, assets, panel_values
from playground.web.active_runs import ActiveRuns
from playground.web.inspect_page import InspectPage
from playground.web.job_limits import JobLimits
from playground.web.models_page import ModelActions
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.web.open_pair_panel import OpenPairPanel
from playground.web.prometheus import RunMetrics
from playground.web.quantize_panel import QuantizePanel
from playground.web.results_page import ResultsPage
from playground.web.settings_panel import SettingsPanel
from playground.wiring import Parts

# Where two rules are equally specific, the later file wins.
CSS = [
    *templating.PAGE_STYLES,
    *(
        assets.STATIC / f"{name}.css"
        for name in (
            "shell", "menu", "notebook", "cell", "cell-measure", "dialogs", "quantize", "models", "inspect", "results",
        )
    ),
]  # fmt: skip

_HEAD = """<a class="vp-skip" href="#{content}">Skip to the content</a>\
<div class="vp-head"><h1>VLM Quant Playground</h1><nav aria-label="Pages">\
<a href="./"{notebook}>Notebook</a><a href="./models"{models}>Models</a>\
<a href="./results"{results}>Results</a>\
<a href="./inspect"{inspect}>Inspect</a></nav></div>"""
_CURRENT = ' aria-current="page"'

_WAIT = "Opening the notebook. The first start makes the quantized variants, which takes some seconds."
_OPENING = f'<div id="vp-notebook" tabindex="-1"><p class="vp-empty">{_WAIT}</p></div>'

# Hands a cell that a panel has changed to the notebook's script.
_CHANGED = """watch('value', () => props.value && document.dispatchEvent(
  new CustomEvent('vp-changed', {detail: props.value})));"""

# The settings panel shows what an event of the notebook's script asked for (static/notebook/settings.js).
_ANSWERED = '() => document.dispatchEvent(new CustomEvent("vp-answered", {{detail: "{event}"}}))'


# The module that each page starts with, by its path.
SCRIPTS = {"": "notebook/main.js", "models": "models.js", "results": "results.js", "inspect": "inspect.js"}


def early_bodies() -> dict[str, str]:
    """What is painted before the page is there, by the page's path."""
    words = {"": f"<p>{_WAIT}</p>"}
    return {
        path: f"<header>{_heading(path or 'notebook', 'vp-early')}</header>"
        f'<main aria-busy="true">{words.get(path, "")}<div></div><div></div></main>'
        for path in SCRIPTS
    }


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


def build(
    parts: Parts,
    view: NotebookView,
    actions: NotebookActions,
    deriving: Thread,
    metrics: RunMetrics,
    active: ActiveRuns,
    long_jobs: JobLimits,
) -> gr.Blocks:
    """The page on `parts`. `deriving`: the thread that makes the presets' quantized variants.

    `metrics`: counts the runs of the API. `active`: is told by admission.py when a page was closed.
    """
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}

    with gr.Blocks(title="VLM Quant Playground", analytics_enabled=False, delete_cache=(3600, 86400)) as blocks:
        with gr.Row(elem_id="vp-top"):
            gr.HTML(_heading("notebook", "vp-notebook"), apply_default_css=False)
            gr.HTML(memory_strip.html(parts.pool.memory()), apply_default_css=False, elem_id="vp-strip")
            if parts.settings.login is Login.HUGGINGFACE:  # brings the routes of the login, too
                gr.LoginButton(size="sm", scale=0)
        with gr.Row(elem_id="vp-body"):
            with gr.Column(elem_id="vp-side", scale=0, min_width=250):
                settings = SettingsPanel(parts)
                with settings.under_family:
                    open_pair = OpenPairPanel(parts, view)
                quantize = QuantizePanel(parts, view, active, long_jobs)
            with gr.Column(elem_id="vp-main"):
                notebook = gr.HTML(
                    html_template=_OPENING,
                    js_on_load=assets.loader("notebook/main.js", events=("choose", "references")),
                    apply_default_css=False,
                    server_functions=actions.functions(),
                )
        changed = gr.HTML(html_template="", js_on_load=_CHANGED, visible="hidden")

        def on_load() -> Iterator[str]:
            """On the very first start, until the variants have been made."""
            while deriving.is_alive():
                yield "Making the quantized variants of the embedded model ..."
                deriving.join(0.5)
            for problem in parts.catalog.problems:
                gr.Warning(html.escape(problem, quote=False))
            yield panel_values.about(parts.catalog.presets[0])

        def on_choose(event: gr.EventData) -> dict[Component, Any]:
            deriving.join(20)
            marked = view.marked(f"{event.key}/{event.cell}")
            return settings.shown(*marked) if marked else settings.unchanged()

        def on_references(event: gr.EventData) -> Any:
            """The variants that can be compared with, after others were ticked."""
            marked = view.marked(f"{event.key}/{event.cell}")
            return settings.references(panel_values.view(parts, marked[1])) if marked else gr.skip()

        blocks.load(on_load, None, [settings.about], **private, concurrency_limit=None)
        for event, answer, outputs in (
            ("choose", on_choose, settings.outputs),
            ("references", on_references, [settings.reference]),
        ):
            listen = getattr(notebook, event)
            answered = listen(answer, None, outputs, queue=False, trigger_mode="multiple", **private)
            answered.then(None, js=_ANSWERED.format(event=event), api_visibility="private")
        settings.wire()
        open_pair.wire(settings, changed)
        quantize.wire(settings, changed)
        api.build(parts, deriving, metrics, long_jobs)
    with blocks.route("Models", "/models", show_in_navbar=False):
        model_actions = ModelActions(parts)
        _region_page("models", model_actions.page(), model_actions.functions(), "vp-hub")
    with blocks.route("Results", "/results", show_in_navbar=False):
        results = ResultsPage(ResultsShelf(parts.hub, parts.settings.results_dir, parts.settings.results_repos))
        _region_page("results", results.page(), results.functions(), "vp-results")
    with blocks.route("Inspect", "/inspect", show_in_navbar=False):
        inspected = InspectPage(parts.pool, parts.monitor, parts.settings.may_operate)
        _region_page("inspect", inspected.page(), inspected.functions(), "vp-inspect")
    assert isinstance(blocks, gr.Blocks)
    return blocks


def _heading(current: str, content: str) -> str:
    """`content`: the id of the element that a keyboard goes to past everything above it."""
    marks = {name: _CURRENT if name == current else "" for name in ("notebook", "models", "results", "inspect")}
    return _HEAD.format(content=content, **marks)


def _region_page(name: str, content: str, functions: list[Callable[[Any], dict[str, Any]]], element: str) -> None:
    """A page that its script fills region by region."""
    with gr.Row(elem_id="vp-top"):
        gr.HTML(_heading(name, element), apply_default_css=False)
    gr.HTML(
        html_template=f'<div id="{element}" tabindex="-1">{content}</div>',
        js_on_load=assets.loader(f"{name}.js"),
        apply_default_css=False,
        server_functions=functions,
    )
