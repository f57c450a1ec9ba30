"""What the settings panel shows of a cell, and what it makes of a cell. No Gradio here: settings_panel.py draws it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from playground.comparing import run_settings
from playground.comparing.comparison_request import reference_of
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput
from playground.models.presets import Preset
from playground.notebooks.cells import CompareCell
from playground.rendering import number_format
from playground.values.files import ModelFile, Variant
from playground.values.overrides import CacheType
from playground.values.request import ImagePlace, Order, Runtime, Sampling
from playground.wiring import Parts

AUTOMATIC = ""  # the reference dropdown's first choice
FLASH_ATTENTION = {"automatic": None, "on": True, "off": False}  # its dropdown's choices

# What the panel shows for a setting that a cell does not have.
DEFAULTS: dict[str, Any] = {
    **{f.name: f.default for f in (*fields(Sampling), *fields(Runtime))},
    "n_ctx": 0,
    "n_threads": 0,
    "cache_type_k": CacheType.F16.value,
    "cache_type_v": CacheType.F16.value,
    "image_min_tokens": 0,
    "image_max_tokens": 0,
    "kv_types": [],
    "image_tokens": "",
    "reasoning_tokens": -1,
    "remedies": [],
    "stop": "",
    "probabilities": True,
    "cold": False,
    "branches": False,
    "flash_attention": "automatic",
    "chat_template": "",
    "system": "",
    "image_place": ImagePlace.BEFORE.value,
    "template_variables": "",
    "grammar": "",
    "json_schema": "",
}

# Shown as text, kept as JSON objects.
_JSON = ("template_variables", "json_schema")

SETTINGS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
    "penalty_last_n", "dry_multiplier", "dry_base", "dry_allowed_length", "seed", "max_tokens", "reasoning_tokens",
    "n_ctx", "n_batch", "n_threads", "n_gpu_layers", "flash_attention", "projector_on_gpu", "split_gpus", "remedies",
    "cache_type_k", "cache_type_v", "kv_types", "image_min_tokens", "image_max_tokens", "image_tokens", "stop",
    "probabilities", "branches", "cold", "system", "image_place", "chat_template", "template_variables", "grammar",
    "json_schema",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PanelValues:
    """As the page sends them."""

    family: str
    models: Sequence[str]  # sha256 of the ticked files
    projectors: Sequence[str]
    reference: str
    order: str
    settings: Mapping[str, Any]  # by the names of SETTINGS
    endpoints: Sequence[str] = ()  # ids of variants


@dataclass(frozen=True, slots=True)
class Ticks:
    """A group of checkboxes."""

    choices: list[tuple[str, str]]  # label, and sha256 or id
    ticked: list[str]


@dataclass(frozen=True, slots=True)
class PanelView:
    """As the panel shows them."""

    about: str
    families: list[tuple[str, str]]
    family: str
    models: Ticks
    projectors: Ticks
    references: list[tuple[str, str]]
    reference: str
    order: str
    settings: Mapping[str, Any]
    endpoints: Ticks


def view(parts: Parts, cell: CompareCell) -> PanelView:
    offered = [v for v in parts.catalog.variants if v.family == cell.family]
    ticked = [v for v in offered if v.id in cell.variants]
    best = {v.model.sha256 for v in offered if v.reference} | {v.projector.sha256 for v in offered if v.reference}
    preset = _preset(parts, cell.family)
    elsewhere = parts.endpoints.variants
    servers = [v for v in elsewhere if v.id in cell.variants]
    references = references_of([*ticked, *servers])
    reference = cell.settings.reference or AUTOMATIC
    return PanelView(
        about=about(preset) if preset else "A pair that was opened from this machine.",
        families=families(parts),
        family=cell.family,
        models=_ticks([v.model for v in offered], {v.model.sha256 for v in ticked}, best),
        projectors=_ticks([v.projector for v in offered], {v.projector.sha256 for v in ticked}, best),
        references=references,
        reference=reference if reference in {id for _, id in references} else AUTOMATIC,
        order=(cell.settings.order or Order.IN_TURN).value,
        settings=_shown(cell.settings),
        endpoints=Ticks([(v.endpoint, v.id) for v in elsewhere], [v.id for v in servers]),
    )


def changed(parts: Parts, cell: CompareCell, panel: PanelValues) -> CompareCell:
    """The cell with the panel's values. A family that was just chosen brings its preset's ticks and sizes.

    Raises BadInput for a value that no run may have.
    """
    offered = [v for v in parts.catalog.variants if v.family == panel.family]
    given = _given(panel.settings)
    if panel.family != cell.family:
        variants = _usual(parts, offered)
        preset = _preset(parts, panel.family)
        if preset is not None and preset.suggested.max_tokens is not None:
            given["max_tokens"] = preset.suggested.max_tokens
    elif panel.models and not {v.model.sha256 for v in offered} & set(panel.models):
        # The family was just chosen, and the panel does not show its files yet: these are ticks of the one before.
        variants = [v for v in offered if v.id in cell.variants]
    else:
        variants = [v for v in offered if v.model.sha256 in panel.models and v.projector.sha256 in panel.projectors]
    variants += [v for v in parts.endpoints.variants if v.id in panel.endpoints]
    given["reference"] = panel.reference if panel.reference in {v.id for v in variants} else None
    given["order"] = panel.order if panel.order != Order.IN_TURN.value else None
    return msgspec.structs.replace(
        cell,
        family=panel.family,
        variants=tuple(v.id for v in variants),
        settings=parts.limited(run_settings.read_settings(given)),
    )


def references_of(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    labels = {v.id: v.label for v in variants}
    precise = f"{labels[reference_of(variants)]}, the most precise" if variants else "the most precise"
    return [(precise, AUTOMATIC), *((label, id) for id, label in labels.items())]


def families(parts: Parts) -> list[tuple[str, str]]:
    """Names and families: the presets' first, in one order after every start."""
    names = {p.family: p.name for p in parts.catalog.presets}
    present = {v.family for v in parts.catalog.variants}
    presets = [family for family in names if family in present]
    return [(names.get(family, family), family) for family in (*presets, *sorted(present - names.keys()))]


# The settings that the makers of a model may recommend.
MAKERS_NAMES = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip


def makers_sampling(parts: Parts, family: str) -> dict[str, float]:
    """What a family's preset says of its makers' sampling; empty: nothing is known."""
    preset = _preset(parts, family)
    return preset.suggested.sampling() if preset is not None else {}


def about(preset: Preset) -> str:
    """With the sampling that its makers recommend. It is shown, not set: greedy answers differ by the quantization
    alone."""
    given = preset.suggested.sampling()
    recommended = [f"{name.replace('_', '-')} {value:g}" for name, value in given.items()]
    return f"{preset.about} Its makers recommend {', '.join(recommended)}." if recommended else preset.about


def _preset(parts: Parts, family: str) -> Preset | None:
    return next((p for p in parts.catalog.presets if p.family == family), None)


def _usual(parts: Parts, offered: Sequence[Variant]) -> list[Variant]:
    """What is ticked when a family is chosen: its preset's quantizations, with the reference's projector."""
    preset = _preset(parts, offered[0].family) if offered else None
    best = {v.projector.sha256 for v in offered if v.reference}
    return [
        v for v in offered if v.projector.sha256 in best and (preset is None or v.model.quantization in preset.ticked)
    ]


def _ticks(files: Sequence[ModelFile], ticked: set[str], best: set[str]) -> Ticks:
    by_size = sorted(files, key=lambda file: -file.bytes)
    labels = {
        file.sha256: f"{file.label}{' ★' * (file.sha256 in best)} · {number_format.file_size(file.bytes)}"
        for file in by_size
    }
    return Ticks([(label, sha256) for sha256, label in labels.items()], [sha for sha in labels if sha in ticked])


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that differ from the default."""
    known = {name: _whole(value, DEFAULTS[name]) for name, value in settings.items() if name in SETTINGS}
    given = {name: value for name, value in known.items() if value is not None and value != DEFAULTS[name]}
    if isinstance(given.get("stop"), str):
        given["stop"] = tuple(line for line in given["stop"].splitlines() if line)
    if "image_tokens" in given:
        given["image_tokens"] = _numbers(given["image_tokens"])
    if "flash_attention" in given:
        given["flash_attention"] = FLASH_ATTENTION.get(given["flash_attention"], given["flash_attention"])
    given |= {name: _object(name, given[name]) for name in _JSON if name in given}
    given["probabilities"] = bool(known.get("probabilities"))
    return given


def _object(name: str, text: Any) -> Any:
    """Raises BadInput. What is not an object is refused with the other settings."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError) as error:
        raise BadInput(f"The {name} is invalid JSON: {error}.") from None


def _numbers(text: Any) -> Any:
    """Raises BadInput. What is no text is refused with the other settings."""
    try:
        return tuple(int(part) for part in text.replace(",", " ").split()) or None if isinstance(text, str) else text
    except ValueError:
        raise BadInput("The image tokens have to be whole numbers, such as 256, 1024.") from None


def _whole(value: Any, default: Any) -> Any:
    """A field for whole numbers takes 7.5 as well."""
    return round(value) if isinstance(value, float) and isinstance(default, int) and abs(value) < 2**63 else value


def _shown(settings: RunSettings) -> dict[str, Any]:
    shown = {name: getattr(settings, name) for name in SETTINGS}
    shown["stop"] = "\n".join(settings.stop) if settings.stop is not None else None
    for name in _JSON:
        if isinstance(shown[name], dict):
            shown[name] = json.dumps(shown[name], ensure_ascii=False)
    shown["image_tokens"] = ", ".join(map(str, settings.image_tokens)) if settings.image_tokens is not None else None
    shown["flash_attention"] = next(word for word, on in FLASH_ATTENTION.items() if on is settings.flash_attention)
    shown["kv_types"] = [kind.value for kind in settings.kv_types] if settings.kv_types is not None else None
    shown["remedies"] = [remedy.value for remedy in settings.remedies] if settings.remedies is not None else None
    return {name: DEFAULTS[name] if value is None else value for name, value in shown.items()}
