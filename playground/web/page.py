"""The page: the notebook, the settings of its chosen cell at the side, the memory strip, and the API."""

from __future__ import annotations

import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from threading import Thread
from typing import Any

import gradio as gr
import msgspec

from playground.comparing import run_settings
from playground.comparing.compare import StopFlag
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, Interrupted, NotAllowed, PlaygroundError
from playground.measuring.results import Progress
from playground.models.presets import Preset
from playground.notebooks.cells import CellQuestions, CompareCell, Run, RunState, settled
from playground.notebooks.run_cell import continues, measure_cell, new_run, run_cell
from playground.rendering import cell_view, measurement_view, memory_strip, number_format, templating
from playground.settings import Login
from playground.values.files import Half, ModelFile, Variant
from playground.values.request import Order, Remedy, Runtime, Sampling
from playground.web import api, login, quantize_panel
from playground.web.active_runs import ActiveRuns
from playground.web.inspect_page import InspectPage
from playground.web.models_page import ModelActions
from playground.web.notebook_actions import NotebookActions, as_toast
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts

STATIC = Path(__file__).parent / "static"
# Where two rules are equally specific, the later file wins.
CSS = [
    *templating.PAGE_STYLES,
    *(
        STATIC / f"{name}.css"
        for name in (
            "shell", "menu", "notebook", "cell", "cell-measure", "dialogs", "quantize", "models", "inspect",
        )
    ),
]  # fmt: skip
SCRIPT = STATIC / "notebook.js"
# The pages have links of their own. gr.Navbar(visible=False) is not heeded (6.31), and our CSS does not reach so far.
HEAD = "<style>.nav-holder { display:none !important }</style>"

_SIDE_HEAD = """<div class="vp-side-head"><span class="vp-dim">Settings of the marked cell</span>\
<button type="button" id="vp-side-close" aria-label="Close the settings">×</button></div>"""

_HEAD = """<div class="vp-head"><h1>VLM Quant Playground</h1><nav aria-label="Pages">\
<a href="./"{notebook}>Notebook</a><a href="./models"{models}>Models</a>\
<a href="./inspect"{inspect}>Inspect</a></nav></div>"""
_CURRENT = ' aria-current="page"'

_AUTOMATIC = ""  # the reference dropdown's first choice
_MAX_LISTED_FILES = 1000


def theme() -> gr.themes.Base:
    """Gradio's plain theme in the page's colours; the style sheets take them from these variables."""
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


def build(parts: Parts, deriving: Thread, measures: RunMetrics) -> gr.Blocks:
    """The page on `parts`. `deriving`: the thread that makes the presets' quantized variants.

    `measures`: counts the runs.
    """
    preset = parts.catalog.presets[0]
    library = parts.library
    demo_mode = parts.settings.demo
    runs = ActiveRuns()
    actions = NotebookActions(parts, runs, deriving)

    with gr.Blocks(title="VLM Quant Playground", analytics_enabled=False, delete_cache=(3600, 86400)) as demo:
        with gr.Row(elem_id="vp-top"):
            gr.HTML(_HEAD.format(notebook=_CURRENT, models="", inspect=""), apply_default_css=False)
            memory = gr.HTML(memory_strip.html(parts.pool.memory()), apply_default_css=False, elem_id="vp-strip")
            if parts.settings.login is Login.HUGGINGFACE:  # brings the routes of the login, too
                gr.LoginButton(size="sm", scale=0)
        with gr.Row(elem_id="vp-body"):
            with gr.Column(elem_id="vp-side", scale=0, min_width=250):
                gr.HTML(_SIDE_HEAD, apply_default_css=False)
                family = gr.Radio(label="Model family", choices=_families(parts), value=preset.family)
                models = gr.CheckboxGroup(label="Language model", elem_id="vp-models")
                projectors = gr.CheckboxGroup(label="Projector", elem_id="vp-projectors")
                reference = gr.Dropdown(
                    label="Reference",
                    choices=[("most precise", _AUTOMATIC)],
                    value=_AUTOMATIC,
                    filterable=False,
                    elem_id="vp-reference",
                )
                order = gr.Radio(
                    label="Run",
                    choices=[
                        ("One after another · honest speeds", Order.IN_TURN.value),
                        ("Race · shared", Order.RACE.value),
                    ],
                    value=Order.IN_TURN.value,
                    elem_id="vp-order",
                )
                with gr.Accordion("Sampling and engine", open=False, elem_id="vp-sampling"):
                    settings = _settings_inputs()
                about = gr.Markdown(preset.about, elem_id="vp-about")
                with gr.Accordion("Open files on this machine", open=False, visible=not demo_mode):
                    files = [] if demo_mode else _files(parts.settings.model_dirs)  # hidden, it would still be sent
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
                with gr.Accordion("Quantize here", open=False, elem_id="vp-make", visible=not demo_mode):
                    gr.Markdown(
                        "From the most precise files of the cell's model into a new variant, checked on images."
                    )
                    half = gr.Radio(label="Half", choices=list(quantize_panel.HALVES), value="Projector (mmproj)")
                    kind = gr.Dropdown(
                        label="Quantization", choices=list(quantize_panel.TYPES), value="Q4_0", allow_custom_value=True
                    )
                    exceptions = gr.Textbox(
                        label="Tensors of another type (PATTERN=TYPE, one a line)",
                        placeholder="ffn_up=q8_0",
                        lines=2,
                    )
                    calibrate = gr.Checkbox(
                        label="Calibrate with images",
                        info="An importance matrix of questions and answers; IQ types need it.",
                    )
                    with gr.Row():
                        make_button = gr.Button("Quantize", size="sm")
                        halt_button = gr.Button("Stop", size="sm")
                    made = gr.HTML(elem_id="vp-made")
            with gr.Column(elem_id="vp-main"):
                notebook = gr.HTML(
                    html_template='<div id="vp-notebook"><p class="vp-empty">Opening the notebook. The first start '
                    "makes the quantized variants, which takes some seconds.</p></div>",
                    js_on_load=SCRIPT.read_text(),
                    apply_default_css=False,
                    server_functions=actions.functions(),
                )
        # Which cell the side shows, as "key/cell". Not a gr.State: it has to change together with the inputs, so that
        # what is typed into them never goes to another cell.
        chosen = gr.Textbox(visible="hidden", label="cell")
        changed = gr.HTML(
            html_template="",
            js_on_load="watch('value', () => props.value && document.dispatchEvent("
            "new CustomEvent('vp-changed', {detail: props.value})));",
            visible="hidden",
        )
        inputs = [family, models, projectors, reference, order, *settings]

        def choices(family: str, variants: Sequence[str]) -> tuple[Any, Any, Any, str]:
            """What can be ticked in a family, and what to compare with, with a cell's ticks."""
            mine = [v for v in parts.catalog.variants if v.family == family]
            its_preset = next((p for p in parts.catalog.presets if p.family == family), None)
            best = {v.model.sha256 for v in mine if v.reference} | {v.projector.sha256 for v in mine if v.reference}

            def group(files: Sequence[ModelFile], ticked: set[str]) -> Any:
                by_size = sorted(files, key=lambda file: -file.bytes)
                there = {file.sha256: _choice(file.quantization, file.bytes, file.sha256 in best) for file in by_size}
                return gr.CheckboxGroup(
                    choices=[(label, sha) for sha, label in there.items()], value=[s for s in there if s in ticked]
                )

            ticked = [v for v in mine if v.id in variants]
            return (
                group([v.model for v in mine], {v.model.sha256 for v in ticked}),
                group([v.projector for v in mine], {v.projector.sha256 for v in ticked}),
                [("most precise", _AUTOMATIC), *((v.label, v.id) for v in ticked)],
                _about(its_preset) if its_preset else "A pair that was opened from this machine.",
            )

        def on_load() -> Iterator[str]:
            """On the very first start, until the variants have been made."""
            while deriving.is_alive():
                yield "Making the quantized variants of the embedded model ..."
                deriving.join(0.5)
            for problem in parts.catalog.problems:
                gr.Warning(html.escape(problem, quote=False))
            yield preset.about

        def read(chosen: str) -> tuple[str, CompareCell] | None:
            """The key and the cell that the side shows."""
            key, _, id = (chosen or "").rpartition("/")
            try:
                cell = library.cell(library.own(key), id)
            except PlaygroundError:
                return None
            return (key, cell) if isinstance(cell, CompareCell) else None

        def on_choose(event: gr.EventData) -> Any:
            """Fill the side with a cell's settings."""
            name = f"{event.key}/{event.cell}"
            found = read(name)
            if found is None:
                return [gr.skip()] * (2 + len(inputs))
            deriving.join(20)
            return [name, *shown(found[1])]

        def shown(cell: CompareCell) -> list[Any]:
            models, projectors, references, about = choices(cell.family, cell.variants)
            s = cell.settings
            known = [id for _, id in references]
            return [
                about,
                gr.Radio(choices=_families(parts), value=cell.family),
                models,
                projectors,
                gr.Dropdown(choices=references, value=s.reference if s.reference in known else _AUTOMATIC),
                (s.order or Order.IN_TURN).value,
                *_shown_settings(s),
            ]

        def on_setting(
            chosen: str,
            family: str,
            models: list[str],
            projectors: list[str],
            reference: str,
            order: str,
            *values: Any,
        ) -> Any:
            """Write a cell's settings. A family that was just chosen brings its preset's ticks."""
            with library.writing():
                found = read(chosen)
                if found is None:
                    return [gr.skip()] * (2 + len(inputs))
                key, cell = found
                mine = [v for v in parts.catalog.variants if v.family == family]
                switched = family != cell.family
                if switched:
                    variants = _usual(parts, mine)
                else:
                    variants = [v for v in mine if v.model.sha256 in models and v.projector.sha256 in projectors]
                if reference not in {v.id for v in variants}:
                    reference = _AUTOMATIC
                try:
                    given = _given(values) | {
                        "reference": reference or None,
                        "order": order if order != Order.IN_TURN.value else None,
                    }
                    its_preset = next((p for p in parts.catalog.presets if p.family == family), None)
                    if switched and its_preset is not None:
                        sizes = {"n_ctx": its_preset.suggested.n_ctx, "max_tokens": its_preset.suggested.max_tokens}
                        given |= {name: value for name, value in sizes.items() if value is not None}
                    written, _ = library.write(
                        key,
                        msgspec.structs.replace(
                            cell,
                            family=family,
                            variants=tuple(v.id for v in variants),
                            settings=parts.limited(run_settings.read_settings(given)),
                        ),
                    )
                except PlaygroundError as error:
                    raise as_toast(error) from error
            told = actions.cell_reply(key, written)
            if switched:
                return [told, *shown(written)]
            references = [("most precise", _AUTOMATIC), *((v.label, v.id) for v in variants)]
            skipped = [gr.skip()] * len(inputs)
            skipped[inputs.index(reference_input)] = gr.Dropdown(choices=references, value=reference)
            return [told, gr.skip(), *skipped]

        def on_run(request: gr.Request, event: gr.EventData) -> Iterator[dict[str, Any]]:
            """Run a cell. Every update holds all that the block of the page shows which it is about."""
            page, key, id = str(request.session_hash), str(event.key), str(event.cell)
            try:
                library.cell(library.own(key), id)
            except PlaygroundError as error:  # told before the cell's run is stopped: who may only read stops nobody
                yield {"cell": id, "ended": True, "error": error.message}
                return
            stop = runs.start(page, id)
            run: Run | None = None
            mine = parts.of(login.person(request))
            try:
                # Gradio wants a first yield at once, or its end is not heard (docs/architecture.md, "The page").
                yield {"cell": id}
                while deriving.is_alive() and not stop.wanted():
                    yield {
                        "cell": id,
                        "outputs": cell_view.notice("Making the quantized variants of the embedded model ..."),
                    }
                    deriving.join(0.5)
                cell = library.cell(library.own(key), id)
                if not isinstance(cell, CompareCell):
                    raise BadInput("A note cannot be run.")
                cell = parts.limited_cell(cell)
                variants = actions.variants_of(cell)
                last = library.newest_run(library.own(key), id)
                run = new_run(cell, variants, parts.engine, parts.machine)
                if cell.questions is not None:
                    mine.pool.check_busy()
                    run = library.begin_run(key, run)
                    for told in measuring(run, variants, cell.questions, mine, stop):
                        if isinstance(told, Run):  # what it has found so far
                            run = told
                            library.save_run(key, run)
                        else:
                            yield told
                    yield ended(id, key, run)
                    return
                if last is not None and continues(last, run):
                    run = msgspec.structs.replace(last, cell=cell)
                updates = run_cell(
                    run,
                    variants,
                    library.pictures.image,
                    mine.pool,
                    parts.embeddings,
                    stop,
                    max_panes=parts.settings.max_panes,
                    explain=parts.explain,
                )
                updates = measures.ran(updates)
                first = next(updates)  # raises what can be told without loading anything
                run = library.begin_run(key, first) if not run.number else first
                number = run.number
                yield {"cell": id, "outputs": actions.run_html(key, run), "runs": number}
                kept = _ended_panes(run)
                for update in updates:
                    before = len(run.results)
                    run = msgspec.structs.replace(update, number=number)
                    if _ended_panes(run) > kept:  # what a kill -9 must not take
                        kept = _ended_panes(run)
                        library.save_run(key, run)
                    if len(run.results) > before:
                        yield {"cell": id, "outputs": actions.run_html(key, run)}
                    elif run.state is RunState.RUNNING:
                        index = len(run.results) - 1
                        yield {
                            "cell": id,
                            "block": f"{number}.{index}",
                            "html": cell_view.block(run, index, library.pictures.thumbnail),
                        }
                library.save_run(key, run)
                yield ended(id, key, run)
            except Interrupted:
                assert run is not None
                run = settled(run, RunState.STOPPED)
                library.save_run(key, run)
                yield ended(id, key, run)
            except PlaygroundError as error:
                refused: dict[str, Any] = {"cell": id, "ended": True}
                if run is not None and run.number and run.state is RunState.RUNNING:
                    run = settled(run, RunState.STOPPED)
                    library.save_run(key, run)
                    refused = ended(id, key, run)
                yield {**refused, "error": error.message}
            finally:
                runs.end(stop)
                stop.run()
                if run is not None and run.number and run.state is RunState.RUNNING:
                    library.save_run(key, settled(run, RunState.STOPPED))

        def measuring(
            run: Run, variants: Sequence[Variant], asked: CellQuestions, mine: Parts, stop: StopFlag
        ) -> Iterator[dict[str, Any] | Run]:
            """Shows how far a measurement has come; gives the run with what it found, in the end and before a scan."""
            questions = actions.question_set(asked)
            limits = asked.limits
            if asked.sensitivity:
                refuse_in_demo("Which tensors matter is not looked for here")
            if asked.sensitivity and (limits.max_bytes is not None or limits.max_kl is not None):  # a recipe's files
                quantize_panel.check_room(parts, next(v.bytes for v in variants if v.id == run.reference))
            shown_at = 0.0
            known, workshop = parts.result_cache, parts.workshop
            updates = measure_cell(run, variants, questions, mine.pool, parts.embeddings, known, workshop, stop)
            for update in measures.measured(updates):
                if not isinstance(update, Progress):
                    _keep_recipe(parts, update)
                    yield update
                elif time.monotonic() - shown_at > 0.2:  # steps may be milliseconds
                    shown_at = time.monotonic()
                    yield {"cell": run.cell.id, "outputs": measurement_view.progress(update), "runs": run.number}

        def ended(id: str, key: str, run: Run) -> dict[str, Any]:
            return {
                "cell": id,
                "outputs": actions.run_html(key, run),
                "runs": run.number,
                "problem": library.problem,
                "ended": True,
            }

        def refuse_in_demo(what: str) -> None:
            if demo_mode:
                raise NotAllowed(f"{what}: this is a demonstration, where only what is there can be run.")

        def on_leave(request: gr.Request) -> None:
            runs.leave(str(request.session_hash))

        def on_open(chosen: str, model: str | None, projector: str | None) -> Any:
            found = read(chosen)
            if found is None:
                raise as_toast(BadInput("Add a compare cell first: the pair is opened for it."))
            if not model:
                raise as_toast(BadInput("Choose both files of the pair, or a llamafile that holds both."))
            try:
                refuse_in_demo("No file can be opened")
                files = [Path(file) for file in (model, projector) if file]
                if len(files) == 2 and [parts.catalog.half(file) for file in files] == [Half.PROJECTOR, Half.MODEL]:
                    gr.Info("The two files were mixed up; they were opened the right way round.")
                    files.reverse()
                variant = parts.catalog.open_pair(*files, remember=True)
                same = [
                    v.id for v in parts.catalog.variants if v.id in found[1].variants and v.family == variant.family
                ]
                ticked = tuple(dict.fromkeys((*same, variant.id)))
                cell = msgspec.structs.replace(found[1], family=variant.family, variants=ticked)
                written, _ = library.write(found[0], cell)
            except PlaygroundError as error:
                raise as_toast(error) from error
            return [actions.cell_reply(found[0], written), *shown(written)]

        def on_make(
            request: gr.Request, chosen: str, half: str, kind: str, exceptions: str, calibrate: bool
        ) -> Iterator[list[Any]]:
            """Quantize, and tick the new variant in the marked cell."""
            unchanged = [gr.skip()] * (2 + len(inputs))
            found = read(chosen)
            if found is None:
                raise as_toast(BadInput("Add a compare cell first: what is made is ticked in it."))
            key, cell = found
            there = [v for v in parts.catalog.variants if v.family == cell.family]
            mine = parts.of(login.person(request))
            page = str(request.session_hash)
            stop = runs.start(page, _making(page))
            try:
                refuse_in_demo("Nothing can be quantized")
                mine.pool.check_busy()
                if not there:
                    raise BadInput("The cell's model is not on this machine.")
                source = next((v for v in there if v.reference), there[0])
                questions = actions.question_set(cell.questions or CellQuestions())
                yield [cell_view.notice("Waiting for its turn ..."), *unchanged]
                for update in quantize_panel.make(mine, source, half, kind, exceptions, calibrate, questions, stop):
                    if isinstance(update, Progress):
                        yield [measurement_view.progress(update), *unchanged]
                        continue
                    added = parts.catalog.add_made(update.path)
                    best = {source.model.sha256, source.projector.sha256}
                    new = [v for v in added if {v.model.sha256, v.projector.sha256} & best]
                    with library.writing():
                        notebook = library.own(key)
                        if cell.id not in notebook.cells:  # it was deleted meanwhile; the file is there all the same
                            yield [quantize_panel.html(update), *unchanged]
                            continue
                        now = library.cell(notebook, cell.id)
                        assert isinstance(now, CompareCell)
                        ticked = tuple(dict.fromkeys((*now.variants, *(v.id for v in new))))
                        written, _ = library.write(key, msgspec.structs.replace(now, variants=ticked))
                    yield [quantize_panel.html(update), actions.cell_reply(key, written), *shown(written)]
            except Interrupted:
                yield [cell_view.notice("Stopped. Nothing was kept."), *unchanged]
            except PlaygroundError as error:
                yield [cell_view.notice(error.message), *unchanged]
            finally:
                runs.end(stop)
                stop.run()

        def on_halt(request: gr.Request) -> None:
            runs.stop(_making(str(request.session_hash)))

        reference_input = reference
        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        side = [about, *inputs]
        demo.load(on_load, None, [about], **private, concurrency_limit=None)
        notebook.choose(on_choose, None, [chosen, *side], queue=False, trigger_mode="always_last", **private)
        notebook.run(on_run, None, [notebook], concurrency_limit=None, trigger_mode="multiple", **private)
        gr.on(
            [component.input for component in inputs],
            on_setting,
            [chosen, *inputs],
            [changed, *side],
            queue=False,
            trigger_mode="always_last",
            **private,
        )
        open_button.click(on_open, [chosen, model_file, projector_file], [changed, *side], **private)
        make_button.click(
            on_make, [chosen, half, kind, exceptions, calibrate], [made, changed, *side], concurrency_limit=1, **private
        )
        halt_button.click(on_halt, None, None, queue=False, **private)
        demo.unload(on_leave)
        gr.Timer(2).tick(
            lambda: memory_strip.html(parts.monitor.newest),
            None,
            [memory],
            concurrency_limit=None,
            **private,
        )
        api.build(parts, deriving, measures)
    with demo.route("Models", "/models", show_in_navbar=False):
        model_actions = ModelActions(parts)
        with gr.Row(elem_id="vp-top"):
            gr.HTML(_HEAD.format(notebook="", models=_CURRENT, inspect=""), apply_default_css=False)
        gr.HTML(
            html_template=f'<div id="vp-hub">{model_actions.page()}</div>',
            js_on_load=(STATIC / "models.js").read_text(),
            apply_default_css=False,
            server_functions=model_actions.functions(),
        )
    with demo.route("Inspect", "/inspect", show_in_navbar=False):
        inspected = InspectPage(parts.pool, parts.monitor, parts.settings.may_operate)
        with gr.Row(elem_id="vp-top"):
            gr.HTML(_HEAD.format(notebook="", models="", inspect=_CURRENT), apply_default_css=False)
        gr.HTML(
            html_template=f'<div id="vp-inspect">{inspected.page()}</div>',
            js_on_load=(STATIC / "inspect.js").read_text(),
            apply_default_css=False,
            server_functions=inspected.functions(),
        )
    assert isinstance(demo, gr.Blocks)
    return demo


def _ended_panes(run: Run) -> int:
    return sum(pane.state.ended for result in run.results for pane in result.update.panes)


def _usual(parts: Parts, variants: Sequence[Variant]) -> list[Variant]:
    """What is ticked when a family is chosen: its preset's quantizations, with the reference's projector."""
    preset = next((p for p in parts.catalog.presets if variants and p.family == variants[0].family), None)
    best = {v.projector.sha256 for v in variants if v.reference}
    return [
        v for v in variants if v.projector.sha256 in best and (preset is None or v.model.quantization in preset.ticked)
    ]


_SETTINGS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed", "max_tokens", "n_ctx", "n_batch", "n_threads",
    "n_gpu_layers", "split_gpus", "remedies", "stop", "probabilities", "chat_template",
)  # fmt: skip


def _settings_inputs() -> list[Any]:
    """Inputs in the order of _SETTINGS."""
    d = _DEFAULTS
    with gr.Row():
        inputs: list[Any] = [
            gr.Number(
                label="Temperature (0: greedy)", value=d["temperature"], minimum=0, maximum=5, step=0.1, min_width=110
            ),
            gr.Number(label="Top-k", value=d["top_k"], minimum=0, precision=0, min_width=110),
            gr.Number(label="Top-p", value=d["top_p"], minimum=0, maximum=1, step=0.05, min_width=110),
            gr.Number(label="Min-p", value=d["min_p"], minimum=0, maximum=1, step=0.01, min_width=110),
            gr.Number(label="Repeat penalty (1: off)", value=d["repeat_penalty"], step=0.05, min_width=110),
            gr.Number(label="Seed", value=d["seed"], minimum=0, precision=0, min_width=110),
            gr.Number(label="Max tokens", value=d["max_tokens"], minimum=1, precision=0, min_width=110),
        ]
    with gr.Row():
        inputs += [
            gr.Number(label="Context size", value=d["n_ctx"], minimum=64, precision=0, min_width=110),
            gr.Number(label="Batch size", value=d["n_batch"], minimum=8, precision=0, min_width=110),
            gr.Number(label="Threads (0: automatic)", value=0, minimum=0, precision=0, min_width=110),
            gr.Number(label="GPU layers (-1: all)", value=d["n_gpu_layers"], minimum=-1, precision=0, min_width=110),
            gr.Checkbox(label="Over all GPUs", info="Its layers, where one GPU is too small.", min_width=110),
            gr.CheckboxGroup(
                label="If GPU memory is short, allow",
                choices=[remedy.value for remedy in Remedy],
                value=[],
                min_width=260,
            ),
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


# What the inputs show for a setting that a cell does not have.
_DEFAULTS: dict[str, Any] = {
    **{f.name: f.default for f in (*fields(Sampling), *fields(Runtime))},
    "n_threads": 0,
    "remedies": [],
    "stop": "",
    "probabilities": True,
    "chat_template": "",
}


def _given(values: Sequence[Any]) -> dict[str, Any]:
    """The settings that differ from the default; those of a cell that is run as it comes are none."""
    given = dict(zip(_SETTINGS, values, strict=True))
    changed = {name: v for name, v in given.items() if v is not None and v != _DEFAULTS[name]}
    if "stop" in changed:
        changed["stop"] = tuple(line for line in changed["stop"].splitlines() if line)
    changed["probabilities"] = bool(given["probabilities"])
    return changed


def _shown_settings(settings: RunSettings) -> list[Any]:
    """What the inputs show, in the order of _SETTINGS."""
    shown = {name: getattr(settings, name) for name in _SETTINGS}
    shown["stop"] = "\n".join(settings.stop or ())
    shown["remedies"] = [remedy.value for remedy in settings.remedies or ()]
    return [_DEFAULTS[name] if shown[name] is None else shown[name] for name in _SETTINGS]


def _choice(quantization: str, size: int, is_best: bool) -> str:
    return f"{quantization}{' ★' if is_best else ''} · {number_format.file_size(size)}"


def _about(preset: Preset) -> str:
    """With what its makers recommend. It is told, not set: greedy answers differ by the quantization alone."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty")
    told = [f"{n.replace('_', '-')} {value:g}" for n in names if (value := getattr(preset.suggested, n)) is not None]
    return f"{preset.about} Its makers recommend {', '.join(told)}." if told else preset.about


def _families(parts: Parts) -> list[tuple[str, str]]:
    names = {p.family: p.name for p in parts.catalog.presets}
    families = dict.fromkeys(v.family for v in parts.catalog.variants)
    return [(names.get(family, family), family) for family in families]


def _files(folders: Sequence[Path]) -> list[str]:
    found: list[str] = []
    for folder in folders:
        found += sorted(str(path) for path in folder.rglob("*") if path.suffix in (".gguf", ".llamafile"))
    return found[:_MAX_LISTED_FILES]


def _making(page: str) -> str:
    """In place of a cell, for `Runs`: a page makes one file at a time."""
    return f"making {page}"


def _keep_recipe(parts: Parts, run: Run) -> None:
    """The files of a recipe that was built become variants."""
    if run.sensitivity is not None and run.sensitivity.built is not None:
        for name in (run.sensitivity.built.model, run.sensitivity.built.projector):
            path = parts.catalog.made / name
            if path.exists():  # a half that the recipe leaves alone is its source
                parts.catalog.add_made(path)
