"""The settings of a run: their names in JSON, their limits, their defaults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from playground.errors import BadInput
from playground.values.request import Order, Remedy, Runtime, Sampling


class RunSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything about a run but the image, the prompt and the variants. What is left out keeps its default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    n_ctx: int | None = None
    n_threads: int | None = None
    n_batch: int | None = None
    n_gpu_layers: int | None = None
    flash_attention: bool | None = None
    order: Order | None = None
    reference: str | None = None
    chat_template: str | None = None
    probabilities: bool | None = None
    projector_on_gpu: bool | None = None
    split_gpus: bool | None = None
    remedies: tuple[Remedy, ...] | None = None

    def sampling(self) -> Sampling:
        return replace(Sampling(), **self._given(Sampling))

    def runtime(self) -> Runtime:
        return replace(Runtime(), **self._given(Runtime))

    def limited(self, max_tokens: int, n_ctx: int) -> RunSettings:
        """The same, with at most so many tokens in an answer and in the context."""
        now = {"max_tokens": self.sampling().max_tokens, "n_ctx": self.runtime().n_ctx}
        most = {"max_tokens": max_tokens, "n_ctx": n_ctx}
        return msgspec.structs.replace(self, **{name: most[name] for name in most if now[name] > most[name]})

    def _given(self, kind: type) -> dict[str, Any]:
        return {
            name: value
            for name in kind.__dataclass_fields__  # type: ignore[attr-defined]
            if (value := getattr(self, name)) is not None
        }


_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0, 5),
    "top_k": (0, 1000),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "repeat_penalty": (0.5, 2),
    "seed": (0, 2**32 - 1),
    "max_tokens": (1, 8192),
    "n_ctx": (64, 262_144),
    "n_threads": (1, 256),
    "n_batch": (8, 8192),
    "n_gpu_layers": (-1, 1000),
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
    for name in ("stop", "reference", "chat_template"):
        if not _is_utf8("".join(getattr(settings, name) or "")):
            raise BadInput(f"{name} contains an invalid character (an unpaired surrogate). Please retype it.")
    if len(settings.stop or ()) > 16 or sum(len(stop) for stop in settings.stop or ()) > 1000:
        raise BadInput("The stop texts are too long: at most 16 of them (stop), of 1000 characters together.")
    if len(settings.chat_template or "") > 100_000:
        raise BadInput("The chat_template is too long: at most 100,000 characters.")
    return settings


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
