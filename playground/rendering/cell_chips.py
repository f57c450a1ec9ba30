"""What is set in a cell, in words: each chip opens its editor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.comparing.run_settings import RunSettings
from playground.models.presets import family_name
from playground.notebooks.cells import CompareCell
from playground.values.files import Variant
from playground.values.request import ImagePlace, Order
from playground.values.texts import shortened

CHARACTERS = 40  # of a text in a chip
_VARIABLE = "A variable of the chat template"
_OTHERS = {"enable_thinking": "llama.cpp's server passes true, transformers passes nothing"}


@dataclass(frozen=True, slots=True)
class Chip:
    name: str
    value: str
    title: str
    do: str = "settings"
    field: str = "models"
    missing: bool = False


def _budgets(settings: RunSettings) -> list[tuple[str, Sequence[object], str]]:
    """Of the key-value cache and of the image tokens: a chip's label, values and title."""
    keys, values = settings.cache_type_k, settings.cache_type_v
    least, most = settings.image_min_tokens, settings.image_max_tokens
    limits = [f"{word} {n:,}" for word, n in (("at least", least), ("at most", most)) if n is not None]
    return [
        ("KV cache:", [f"{k} {kind.upper()}" for k, kind in (("keys", keys), ("values", values)) if kind], "Its types"),
        ("KV cache:", [kind.upper() for kind in settings.kv_types or ()], "Each variant with each of these types"),
        ("image tokens:", limits, "To how many tokens the encoder resizes an image"),
        ("image tokens:", settings.image_tokens or (), "Each variant with each of these numbers"),
    ]


def chips_of(cell: CompareCell, variants: Mapping[str, Variant]) -> list[Chip]:
    """What is set, in words; a click opens its editor."""
    chips = []
    known = [variants[id].label for id in cell.variants if id in variants]
    lost = [id.split(":", 1)[-1] for id in cell.variants if id not in variants]
    shown = ", ".join(known[:4]) + (f" + {len(known) - 4}" if len(known) > 4 else "")
    chips.append(Chip("", shown or "no variant ticked", ", ".join(known) or "Tick quantizations at the side"))
    if cell.family:
        chips.append(Chip("of", family_name(cell.family), "The model family", field="family"))
    if lost:
        title = "Not on this machine: " + ", ".join(lost)
        chips.append(Chip("not here:", f"{', '.join(lost[:2])}{' …' if len(lost) > 2 else ''}", title, missing=True))
    s = cell.settings
    if s.reference:
        label = variants[s.reference].label if s.reference in variants else s.reference
        chips.append(Chip("reference", label, "What the others are compared with", field="reference"))
    if s.order is Order.RACE:
        chips.append(Chip("", "race", "All variants at once: the speeds are shared", field="order"))
    if len(cell.pictures) > 1:
        scope = "one question each" if cell.gallery else "one question"
        images = f"{len(cell.pictures)} images, {scope}"
        chips.append(Chip("", images, "Click to change", do="gallery", field="off" if cell.gallery else "on"))
    if cell.blind:
        chips.append(Chip("", "names hidden until you vote", "Click to show them from now on", do="blind", field="off"))
    sampling = f"temperature {s.temperature:g}" if s.temperature else "greedy"
    chips.append(Chip("", sampling, "How the next token is chosen", field="sampling"))
    if s.max_tokens:
        chips.append(Chip("max", str(s.max_tokens), "Tokens of an answer at most", field="sampling"))
    if s.reasoning_tokens is not None:
        chips.append(Chip("reasoning", str(s.reasoning_tokens), "Tokens of the reasoning at most", field="sampling"))
    if s.n_ctx:
        chips.append(Chip("context", f"{s.n_ctx:,}", "Tokens that fit in the context", field="sampling"))
    for label, values, title in _budgets(s):
        if values:
            chips.append(Chip(label, ", ".join(map(str, values)), title, field="sampling"))
    if s.cold:
        chips.append(Chip("", "cold prompts", "Images are encoded and prompts read whole", field="sampling"))
    if s.json_schema is not None or s.grammar is not None:
        form = "a grammar" if s.grammar is not None else "a JSON schema"
        chips.append(Chip("answers keep to", form, "llama.cpp's sampler allows nothing else", field="sampling"))
    if s.system is not None:
        chips.append(Chip("system:", shortened(s.system, CHARACTERS) or "empty", s.system, field="sampling"))
    if s.image_place is ImagePlace.BEHIND:
        chips.append(Chip("", "image behind the prompt", "Where the image stands", field="sampling"))
    for name, value in (s.template_variables or {}).items():
        chips.append(
            Chip(f"{name}:", shortened(json.dumps(value), CHARACTERS), _OTHERS.get(name, _VARIABLE), field="sampling")
        )
    chips.append(
        Chip(
            "chat template:",
            "custom" if s.chat_template else "the model's own",
            "How the chat is written out",
            field="sampling",
        )
    )
    return chips
