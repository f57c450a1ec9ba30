"""The settings panel: the inputs at the side of the notebook, for the cell that is marked."""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
from gradio.components import Component

from playground.notebooks.cells import CompareCell
from playground.values.overrides import CacheType
from playground.values.request import ImagePlace, Order, Remedy
from playground.web import panel_values
from playground.web.panel_values import AUTOMATIC, DEFAULTS, FLASH_ATTENTION, MAKERS_NAMES, PanelView, Ticks
from playground.wiring import Parts

_HEAD = """<div class="vp-side-head"><span class="vp-dim" id="vp-side-title">Settings of the selected cell</span>\
<button type="button" id="vp-side-close" aria-label="Close the settings">×</button></div>"""

# Gives the panel's values to the notebook's script (static/notebook/settings.js), which sends them to the server and
# knows when they have arrived.
_TELL = """(cell, ...values) => {{
  const fields = {names};
  const detail = {{cell, values: Object.fromEntries(fields.map((name, at) => [name, values[at]]))}};
  document.dispatchEvent(new CustomEvent("vp-settings", {{detail}}));
}}"""


class SettingsPanel:
    """Owns its components. Made inside the gr.Blocks, and the column, that shows it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        preset = parts.catalog.presets[0]
        # Which cell the panel shows, as "key/cell". Not a gr.State: it has to change together with the inputs, so that
        # what is typed into them never goes to another cell.
        self.cell = gr.Textbox(visible="hidden", label="cell")
        gr.HTML(_HEAD, apply_default_css=False)
        self._family = gr.Radio(
            label="Model family", choices=panel_values.families(parts), value=preset.family, elem_id="vp-family"
        )
        self.under_family = gr.Column()
        self._models = gr.CheckboxGroup(label="Language model", elem_id="vp-models")
        self._projectors = gr.CheckboxGroup(label="Image encoder (projector, mmproj)", elem_id="vp-projectors")
        elsewhere = [(v.endpoint, v.id) for v in parts.endpoints.variants]
        self._endpoints = gr.CheckboxGroup(
            label="Elsewhere",
            info="Servers that the operator named. Your images and questions go to those that you tick.",
            choices=elsewhere,
            visible=bool(elsewhere),
            elem_id="vp-endpoints",
        )
        self.reference = gr.Dropdown(
            label="Reference",
            choices=panel_values.references_of(()),
            value=AUTOMATIC,
            filterable=False,
            elem_id="vp-reference",
        )
        self._order = gr.Radio(
            label="Run",
            choices=[
                ("One at a time (speeds comparable)", Order.IN_TURN.value),
                ("All at once (speeds not comparable)", Order.RACE.value),
            ],
            value=Order.IN_TURN.value,
            elem_id="vp-order",
        )
        with gr.Accordion("Sampling and engine", open=False, elem_id="vp-sampling"):
            self._makers = gr.Button("Use the makers' sampling", size="sm", elem_id="vp-makers")
            self._settings = _settings_inputs()
        self.about = gr.Markdown(preset.about, elem_id="vp-about")
        self._inputs: dict[str, Component] = {
            "family": self._family,
            "models": self._models,
            "projectors": self._projectors,
            "reference": self.reference,
            "order": self._order,
            **({"endpoints": self._endpoints} if elsewhere else {}),
            **self._settings,
        }

    @property
    def outputs(self) -> list[Component]:
        """Everything that `shown` fills."""
        return [self.cell, self.about, *self._inputs.values()]

    def wire(self) -> None:
        """Every change goes to the notebook's script, in the browser."""
        tell = _TELL.format(names=json.dumps([*self._inputs]))
        gr.on(
            [component.input for component in self._inputs.values()],  # type: ignore[attr-defined]
            None,
            [self.cell, *self._inputs.values()],
            None,
            js=tell,
            api_visibility="private",
            show_progress="hidden",
        )
        sampling = [self._settings[name] for name in MAKERS_NAMES]
        self._makers.click(
            self._makers_sampling, self._family, sampling, api_visibility="private", show_progress="hidden"
        ).then(None, [self.cell, *self._inputs.values()], None, js=tell, api_visibility="private")

    def _makers_sampling(self, family: str) -> list[Any]:
        given = panel_values.makers_sampling(self._parts, family)
        if not given:
            gr.Info("The makers' sampling is not known for this model.")
        return [given.get(name, gr.skip()) for name in MAKERS_NAMES]

    def shown(self, key: str, cell: CompareCell) -> dict[Component, Any]:
        """An update of all outputs: the panel of a cell of the notebook with this key."""
        view = panel_values.view(self._parts, cell)
        return {
            self.cell: f"{key}/{cell.id}",
            self.about: view.about,
            self._family: gr.Radio(choices=view.families, value=view.family),
            self._models: _group(view.models),
            self._projectors: _group(view.projectors),
            self.reference: self.references(view),
            self._order: view.order,
            **({self._endpoints: _group(view.endpoints)} if "endpoints" in self._inputs else {}),
            **{self._settings[name]: value for name, value in view.settings.items()},
        }

    @staticmethod
    def references(view: PanelView) -> gr.Dropdown:
        return gr.Dropdown(choices=view.references, value=view.reference)

    def unchanged(self) -> dict[Component, Any]:
        return {self.cell: gr.skip()}


def _group(ticks: Ticks) -> gr.CheckboxGroup:
    return gr.CheckboxGroup(choices=ticks.choices, value=ticks.ticked)


def _settings_inputs() -> dict[str, Component]:
    """By the names of panel_values.SETTINGS, in an order for people."""
    inputs: dict[str, Component] = {}
    for add in (_add_sampling, _add_placement, _add_cache, _add_image_tokens, _add_answers, _add_form, _add_grammar):
        add(inputs)
    return inputs


def _number(name: str, label: str, **options: Any) -> gr.Number:
    return gr.Number(label=label, value=DEFAULTS[name], min_width=110, **options)


def _add_sampling(inputs: dict[str, Component]) -> None:
    with gr.Row():
        inputs["temperature"] = _number("temperature", "Temperature (0: greedy)", minimum=0, maximum=5, step=0.1)
        inputs["top_k"] = _number("top_k", "Top-k", minimum=0, precision=0)
        inputs["top_p"] = _number("top_p", "Top-p", minimum=0, maximum=1, step=0.05)
        inputs["min_p"] = _number("min_p", "Min-p", minimum=0, maximum=1, step=0.01)
        inputs["repeat_penalty"] = _number("repeat_penalty", "Repeat penalty (1: off)", step=0.05)
        inputs["presence_penalty"] = _number("presence_penalty", "Presence penalty (0: off)", step=0.1)
        inputs["frequency_penalty"] = _number("frequency_penalty", "Frequency penalty (0: off)", step=0.1)
        inputs["penalty_last_n"] = _number("penalty_last_n", "Penalties look back (tokens)", minimum=0, precision=0)
        inputs["dry_multiplier"] = _number("dry_multiplier", "DRY multiplier (0: off)", minimum=0, step=0.1)
        inputs["dry_base"] = _number("dry_base", "DRY base", minimum=1, maximum=4, step=0.05)
        inputs["dry_allowed_length"] = _number("dry_allowed_length", "DRY allowed length", minimum=1, precision=0)
        inputs["seed"] = _number("seed", "Seed", minimum=0, precision=0)
        inputs["max_tokens"] = _number("max_tokens", "Max tokens", minimum=1, precision=0)
        inputs["reasoning_tokens"] = _number(
            "reasoning_tokens", "Reasoning tokens (-1: no limit)", minimum=-1, precision=0
        )


def _add_placement(inputs: dict[str, Component]) -> None:
    with gr.Row():
        inputs["n_ctx"] = _number("n_ctx", "Context size (0: as needed)", minimum=0, precision=0)
        inputs["n_batch"] = _number("n_batch", "Batch size", minimum=8, precision=0)
        inputs["n_threads"] = _number("n_threads", "Threads (0: automatic)", minimum=0, precision=0)
        inputs["n_gpu_layers"] = _number("n_gpu_layers", "GPU layers (-1: all)", minimum=-1, precision=0)
        inputs["flash_attention"] = gr.Dropdown(
            label="Flash attention",
            choices=[*FLASH_ATTENTION],
            value=DEFAULTS["flash_attention"],
            filterable=False,
            min_width=110,
        )
        inputs["projector_on_gpu"] = gr.Checkbox(
            label="Projector on the GPU", info="Where the language model has layers there.", value=True, min_width=110
        )
        inputs["split_gpus"] = gr.Checkbox(
            label="Over all GPUs", info="Its layers, where one GPU is too small.", min_width=110
        )
        inputs["remedies"] = gr.CheckboxGroup(
            label="If GPU memory is short, allow",
            choices=[remedy.value for remedy in Remedy],
            value=[],
            min_width=260,
        )


def _add_cache(inputs: dict[str, Component]) -> None:
    types = [(kind.upper(), kind.value) for kind in CacheType]
    with gr.Row():
        for half, label in (("k", "KV cache: keys"), ("v", "KV cache: values")):
            name = f"cache_type_{half}"
            inputs[name] = gr.Dropdown(
                label=label, choices=types, value=DEFAULTS[name], filterable=False, min_width=110
            )
        inputs["kv_types"] = gr.Dropdown(
            label="Compare KV-cache types",
            choices=types,
            value=[],
            multiselect=True,
            info="Each variant with each type. Quantized values need flash attention.",
            min_width=260,
        )


def _add_image_tokens(inputs: dict[str, Component]) -> None:
    with gr.Row():
        inputs["image_min_tokens"] = _number(
            "image_min_tokens", "Image tokens, least (0: the model's)", minimum=0, precision=0
        )
        inputs["image_max_tokens"] = _number(
            "image_max_tokens", "Image tokens, most (0: the model's)", minimum=0, precision=0
        )
        inputs["image_tokens"] = gr.Textbox(
            label="Compare image tokens",
            placeholder="256, 1024",
            info="Each variant with each number. The encoder resizes each image to about so many tokens.",
            lines=1,
            min_width=260,
        )


def _add_answers(inputs: dict[str, Component]) -> None:
    # One below the other: a row squeezes a checkbox with an explanation into a few pixels.
    inputs["stop"] = gr.Textbox(label="Stop texts (one a line)", lines=2, min_width=200)
    inputs["probabilities"] = gr.Checkbox(
        label="Token probabilities",
        info="The app reads each answer once more when all are written: hover over a word, or see where two part.",
        value=True,
        min_width=200,
    )
    inputs["branches"] = gr.Checkbox(
        label="Branches",
        info="Where a variant first differs, it answers again from the reference's word on. Needs token probabilities.",
        value=False,
        min_width=200,
    )
    inputs["cold"] = gr.Checkbox(
        label="Cold prompts",
        info="Each run encodes its images and reads its prompts whole, so that times to the first token compare.",
        value=False,
        min_width=200,
    )


def _add_form(inputs: dict[str, Component]) -> None:
    with gr.Row():
        inputs["system"] = gr.Textbox(label="System message (empty: none)", lines=2, min_width=260)
        inputs["image_place"] = gr.Radio(
            label="Images stand",
            choices=[("before the prompt", ImagePlace.BEFORE.value), ("behind it", ImagePlace.BEHIND.value)],
            value=ImagePlace.BEFORE.value,
            info="Or anywhere: write <image> in the prompt.",
            min_width=200,
        )
        inputs["chat_template"] = gr.Textbox(
            label="Chat template (empty: the one in the GGUF file; Jinja, or a name)", lines=2, min_width=260
        )
        inputs["template_variables"] = gr.Textbox(
            label="Template variables (a JSON object)",
            placeholder='{"enable_thinking": false}',
            info="llama.cpp's server passes enable_thinking true, transformers passes nothing.",
            lines=1,
            min_width=260,
        )


def _add_grammar(inputs: dict[str, Component]) -> None:
    with gr.Row():
        inputs["json_schema"] = gr.Textbox(
            label="JSON schema that answers keep to",
            placeholder='{"type": "object", "properties": {"count": {"type": "integer"}}}',
            lines=2,
            min_width=260,
        )
        inputs["grammar"] = gr.Textbox(
            label="Or a grammar (llama.cpp's GBNF)", placeholder='root ::= "yes" | "no"', lines=2, min_width=260
        )
