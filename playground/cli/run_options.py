"""Options of a comparison that become the settings of its run. None of an option: not given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer

from playground.cli.options import (
    ChatTemplate,
    ContextSize,
    Place,
    SystemMessage,
    TemplateVariables,
    json_object,
    text_or_file,
)
from playground.values.overrides import CacheType
from playground.values.request import Remedy


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen, and what ends or binds an answer."""

    temperature: Annotated[float | None, typer.Option(help="0: greedy.")] = None
    top_k: Annotated[int | None, typer.Option()] = None
    top_p: Annotated[float | None, typer.Option()] = None
    min_p: Annotated[float | None, typer.Option()] = None
    repeat_penalty: Annotated[float | None, typer.Option()] = None
    penalty_last_n: Annotated[int | None, typer.Option(help="Tokens that the penalties look back to.")] = None
    presence_penalty: Annotated[float | None, typer.Option()] = None
    frequency_penalty: Annotated[float | None, typer.Option()] = None
    dry_multiplier: Annotated[float | None, typer.Option(help="0: off.")] = None
    dry_base: Annotated[float | None, typer.Option()] = None
    dry_allowed_length: Annotated[int | None, typer.Option()] = None
    seed: Annotated[int | None, typer.Option()] = None
    max_tokens: Annotated[int | None, typer.Option()] = None
    reasoning_tokens: Annotated[
        int | None, typer.Option(help="Close the reasoning after so many tokens; the answer begins. 0: none.")
    ] = None
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be repeated.")] = None
    grammar: Annotated[str | None, typer.Option(help="GBNF text, or @FILE: the answer keeps to it.")] = None
    json_schema: Annotated[str | None, typer.Option(help="JSON text, or @FILE: the answer is such JSON.")] = None

    @property
    def given(self) -> dict[str, Any]:
        """Raises BadInput for a file that cannot be read."""
        return asdict(self) | {
            "stop": tuple(self.stop) if self.stop else None,
            "grammar": text_or_file(self.grammar),
            "json_schema": text_or_file(self.json_schema),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeOptions:
    """What llama.cpp is given: a context, threads, layers on the GPU, types of the KV cache, sizes of images."""

    n_ctx: ContextSize = None
    n_threads: Annotated[int | None, typer.Option("--threads")] = None
    n_batch: Annotated[int | None, typer.Option("--batch-size")] = None
    n_gpu_layers: Annotated[int | None, typer.Option("--n-gpu-layers", help="-1: all.")] = None
    allow: Annotated[
        list[Remedy] | None, typer.Option(help="What the app may change if GPU memory is short; may be repeated.")
    ] = None
    cache_type_k: Annotated[CacheType | None, typer.Option(help="Of the KV cache's keys.")] = None
    cache_type_v: Annotated[
        CacheType | None, typer.Option(help="Of its values; a quantized type needs flash attention.")
    ] = None
    image_min_tokens: Annotated[int | None, typer.Option(help="Of an image, where the encoder resizes images.")] = None
    image_max_tokens: Annotated[int | None, typer.Option()] = None
    split_gpus: Annotated[bool, typer.Option("--split-gpus", help="Spread a model's layers over all GPUs.")] = False

    @property
    def given(self) -> dict[str, Any]:
        values = asdict(self)
        allow = values.pop("allow")
        return values | {"remedies": tuple(allow) if allow else None, "split_gpus": self.split_gpus or None}


@dataclass(frozen=True, slots=True, kw_only=True)
class FormOptions:
    """What stands around a question."""

    chat_template: ChatTemplate = None
    template_variables: TemplateVariables = None
    system: SystemMessage = None
    image_place: Place = None

    @property
    def given(self) -> dict[str, Any]:
        """Raises BadInput."""
        return asdict(self) | {"template_variables": json_object("--template-variables", self.template_variables)}
