"""What a speed depends on: whether its prompt was kept, and how far it moves from run to run. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from playground.values.answer import ComparisonUpdate, Metrics, Pane
from playground.values.files import Variant

_KEPT = 0.05  # share of the prompt from which it counts as kept; a convention, for the tokens before the image


@dataclass(frozen=True, slots=True)
class Spread:
    """Of one variant's tokens per second over repeats of the same question."""

    median: float
    low: float
    high: float
    n: int


Spreads = Mapping[str, Spread]  # by variant
NO_SPREADS: Spreads = MappingProxyType({})


def spread(values: Iterable[float | None]) -> Spread | None:
    """None with fewer than two that are known."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known), len(known)) if len(known) > 1 else None


def spreads(repeats: Iterable[ComparisonUpdate]) -> Spreads:
    """Of comparisons that asked the same."""
    values: dict[str, list[float | None]] = {}
    for update in repeats:
        for pane in update.panes:
            values.setdefault(pane.variant, []).append(pane.metrics.decode_tok_per_s)
    known = {variant: spread(speeds) for variant, speeds in values.items()}
    return {variant: value for variant, value in known.items() if value is not None}


def is_kept(m: Metrics) -> bool:
    """Whether the prompt, or much of it, was kept from a run before: its first token compares with no other."""
    return bool(m.reused_tokens and m.prompt_tokens and m.reused_tokens > _KEPT * m.prompt_tokens)


def whole_ttft(panes: Sequence[Pane], variants: Mapping[str, Variant]) -> dict[str, float | None]:
    """By variant, the time to the first token with the image and the whole prompt, whoever encoded the image.

    None where the prompt was kept, or where no pane of the run has encoded the image with the same projector.
    """
    encoded = {}
    for pane in panes:
        if pane.metrics.encode_s is not None:
            encoded[_encoder(variants[pane.variant])] = _encoding(pane.metrics)
    return {pane.variant: _whole(pane.metrics, encoded.get(_encoder(variants[pane.variant]))) for pane in panes}


def _whole(m: Metrics, encoded: float | None) -> float | None:
    if m.ttft_s is None or m.prompt_tokens is None or is_kept(m):
        return None
    if m.encode_cached is None:  # no image
        return m.ttft_s
    return None if encoded is None else m.ttft_s - _encoding(m) + encoded


def _encoding(m: Metrics) -> float:
    return (m.preprocess_s or 0.0) + (m.encode_s or 0.0)


def _encoder(variant: Variant) -> tuple[str, object]:
    """Variants with the same one share the embeddings of an image."""
    return variant.projector.sha256, variant.overrides and variant.overrides.image_tokens
