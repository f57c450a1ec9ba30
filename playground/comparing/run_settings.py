"""The settings of a run: their names in JSON, their limits, their defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec

from playground.errors import BadInput
from playground.values.overrides import CacheType
from playground.values.request import USUAL_FORM, ImagePlace, Order, PromptForm, Remedy, Runtime, Sampling


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a run but the image, the prompt and the variants. What is left out keeps its default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    penalty_last_n: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    dry_multiplier: float | None = None
    dry_base: float | None = None
    dry_allowed_length: int | None = None
    seed: int | None = None
    max_tokens: int | None = None
    reasoning_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | str | None = None
    n_ctx: int | None = None
    n_threads: int | None = None
    n_batch: int | None = None
    n_gpu_layers: int | None = None
    flash_attention: bool | None = None
    cache_type_k: CacheType | None = None
    cache_type_v: CacheType | None = None
    image_min_tokens: int | None = None
    image_max_tokens: int | None = None
    kv_types: tuple[CacheType, ...] | None = None  # each of them makes a variant of each pair (comparing/axes.py)
    image_tokens: tuple[int, ...] | None = None  # likewise
    order: Order | None = None
    reference: str | None = None
    chat_template: str | None = None
    template_variables: dict[str, Any] | None = None
    system: str | None = None
    image_place: ImagePlace | None = None
    probabilities: bool | None = None
    cold: bool | None = None  # encode images and read prompts whole, whatever was kept from runs before
    branches: bool | None = None  # go on from the reference's token where a variant first differs; with probabilities
    projector_on_gpu: bool | None = None
    split_gpus: bool | None = None
    remedies: tuple[Remedy, ...] | None = None

    def sampling(self) -> Sampling:
        given = self._given(Sampling)
        if isinstance(self.json_schema, dict):
            given["json_schema"] = json.dumps(self.json_schema, ensure_ascii=False)
        return replace(Sampling(), **given)

    def runtime(self) -> Runtime:
        return replace(Runtime(), **self._given(Runtime))

    def prompt_form(self) -> PromptForm:
        return replace(USUAL_FORM, **self._given(PromptForm))

    def over(self, other: Mapping[str, Any]) -> RunSettings:
        """The same, with the settings of `other` where this has none."""
        missing = {name: value for name, value in other.items() if getattr(self, name) is None}
        return msgspec.structs.replace(self, **missing)

    def within(self, cores: int) -> RunSettings:
        """The same, with at most so many threads: more of them wait for each other (1704 tok/s became 4.8)."""
        wanted = self.n_threads
        return self if wanted is None or wanted <= cores else msgspec.structs.replace(self, n_threads=cores)

    def limited(self, max_tokens: int, n_ctx: int) -> RunSettings:
        """The same for a stranger: with at most so many tokens in an answer and in the context, and with the defaults
        of all that costs the machine. A setting that is not known to be free keeps its default too."""
        now = {"max_tokens": self.sampling().max_tokens, "n_ctx": self.n_ctx}
        most = {"max_tokens": max_tokens, "n_ctx": n_ctx}
        reduced = {name: most[name] for name, value in now.items() if value is None or value > most[name]}
        free = {name: getattr(self, name) for name in _FREE_SETTINGS}
        return RunSettings(**{**free, "max_tokens": self.max_tokens, "n_ctx": self.n_ctx, **reduced})

    def _given(self, kind: type) -> dict[str, Any]:
        return {
            name: value
            for name in kind.__dataclass_fields__  # type: ignore[attr-defined]
            if (value := getattr(self, name, None)) is not None
        }


_MAX_TEXT = 100_000  # characters

# What every template is given; a variable of these names would change the chat itself.
_OWN_VARIABLES = {"messages", "add_generation_prompt", "media_marker", "raise_exception", "strftime_now", "namespace"}

# Of a stranger in the demo mode: what costs the machine, or the others, more than tokens do. A race loads all variants
# at once; a grammar and a template of one's own are programs.
_MACHINE_SETTINGS = (
    "n_threads", "n_batch", "n_gpu_layers", "flash_attention", "chat_template", "projector_on_gpu", "split_gpus",
    "remedies", "grammar", "json_schema", "order", "image_min_tokens", "image_max_tokens", "image_tokens",
    "cache_type_k", "cache_type_v", "kv_types", "branches", "cold",
)  # fmt: skip

# What costs next to nothing: numbers of the sampler, texts that count against the context, and variables, with which
# the model's own template is rendered in 1 s at most.
_FREE_SETTINGS = (
    "temperature", "top_k", "top_p", "min_p", "repeat_penalty", "penalty_last_n", "presence_penalty",
    "frequency_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "seed", "stop", "reference",
    "template_variables", "system", "image_place", "probabilities", "reasoning_tokens",
)  # fmt: skip

MAX_IMAGE_TOKENS = 16_384  # the most that an encoder of this llama.cpp takes
_MAX_AXIS = 9  # values

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_k": (0, 1000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.5, 2),
    "penalty_last_n": (0, 8192),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "dry_multiplier": (0, 5),
    "dry_base": (1, 4),
    "dry_allowed_length": (1, 1000),
    "seed": (0, 2**32 - 1),
    "max_tokens": (1, 8192),
    "reasoning_tokens": (0, 8192),
    "n_ctx": (64, 262_144),
    "n_threads": (1, 256),
    "n_batch": (8, 8192),
    "n_gpu_layers": (-1, 1000),
    "image_min_tokens": (1, MAX_IMAGE_TOKENS),
    "image_max_tokens": (1, MAX_IMAGE_TOKENS),
}


def read_settings(document: dict[str, Any] | None) -> RunSettings:
    """Raises BadInput naming the setting and what it may be."""
    try:
        settings = msgspec.convert({} if document is None else document, RunSettings)
    except msgspec.ValidationError as error:
        raise BadInput(f"The settings cannot be used: {error}.") from None
    for name, (low, high) in _LIMITS.items():
        value = getattr(settings, name)
        if value is not None and not low <= value <= high:  # NaN fails too
            raise BadInput(f"{name} has to be between {low} and {high}, not {value}.")
    for name in ("stop", "reference", "chat_template", "system", "grammar"):
        if not _is_utf8("".join(getattr(settings, name) or "")):
            raise BadInput(f"{name} contains an invalid character (an unpaired surrogate). Please retype it.")
    for name in ("chat_template", "system", "grammar"):
        if len(getattr(settings, name) or "") > _MAX_TEXT:
            raise BadInput(f"The {name} is too long: at most {_MAX_TEXT:,} characters.")
    _check_variables(settings.template_variables or {})
    _check_answer_form(settings)
    _check_axes(settings)
    if len(settings.stop or ()) > 16 or sum(len(stop) for stop in settings.stop or ()) > 1000:
        raise BadInput("The stop texts are too long: at most 16 of them (stop), of 1000 characters together.")
    return settings


def _check_axes(settings: RunSettings) -> None:
    low, high = settings.image_min_tokens, settings.image_max_tokens
    if low is not None and high is not None and low > high:
        raise BadInput(f"image_min_tokens ({low}) is more than image_max_tokens ({high}).")
    for name in ("kv_types", "image_tokens"):
        values = getattr(settings, name) or ()
        if len(values) > _MAX_AXIS:
            raise BadInput(f"{name} has {len(values)} values; at most {_MAX_AXIS} can be compared.")
    for tokens in settings.image_tokens or ():
        if not 1 <= tokens <= MAX_IMAGE_TOKENS:
            raise BadInput(f"image_tokens has to be between 1 and {MAX_IMAGE_TOKENS}, not {tokens}.")
    values_of = (settings.cache_type_v, *(settings.kv_types or ()))
    if settings.flash_attention is False and any(kind is not None and kind.quantized for kind in values_of):
        raise BadInput(
            "Quantized values of the key-value cache need flash attention. Leave flash_attention out, or choose f16 "
            "values."
        )


def _check_variables(variables: dict[str, Any]) -> None:
    for name in variables:
        if not name.isidentifier() or name in _OWN_VARIABLES:
            raise BadInput(f"A template variable cannot be called '{name[:40]}'.")
    _json_text("template_variables", variables)


def _check_answer_form(settings: RunSettings) -> None:
    """What needs no llama.cpp; the worker reads the rest."""
    schema = settings.json_schema
    if schema is None:
        return
    if settings.grammar is not None:
        raise BadInput("Give a grammar or a json_schema, not both.")
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"The json_schema is invalid JSON: {error}.") from None
    if not isinstance(schema, dict):
        raise BadInput('The json_schema has to be a JSON object, such as {"type": "object"}.')
    _json_text("json_schema", schema)


def _json_text(name: str, value: dict[str, Any]) -> None:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (ValueError, TypeError, RecursionError):
        raise BadInput(f"The {name} cannot be written as JSON.") from None
    if len(text) > _MAX_TEXT:
        raise BadInput(f"The {name} is too long: at most {_MAX_TEXT:,} characters.")
    if not _is_utf8(text):
        raise BadInput(f"{name} contains an invalid character (an unpaired surrogate). Please retype it.")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
