"""Runtime settings as an axis of a comparison: variants of the same files, one for each value. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from playground.comparing.run_settings import RunSettings
from playground.values.files import Variant
from playground.values.overrides import CacheType, Overrides


def spread(variants: Sequence[Variant], settings: RunSettings) -> tuple[Variant, ...]:
    """Each pair with each type of the key-value cache and each number of image tokens that the settings list.

    The most precise value comes first: a run's reference is the first variant of its pair. Without a list, the variants
    themselves. What answers elsewhere comes last, once.
    """
    kinds = sorted(set(settings.kv_types or ()), key=_precision)
    budgets = sorted(set(settings.image_tokens or ()), reverse=True)
    if not kinds and not budgets:
        return tuple(variants)
    # Quantized values need it. Without it for the others, its rounding would count as theirs.
    attention = True if settings.flash_attention is None and any(kind.quantized for kind in kinds) else None
    overrides = [Overrides(kind, tokens, attention) for kind in kinds or (None,) for tokens in budgets or (None,)]
    return tuple(
        replace(variant, id=variant.id + given.label, label=variant.label + given.label, overrides=given)
        for variant in variants
        if not variant.endpoint
        for given in overrides
    ) + tuple(variant for variant in variants if variant.endpoint)


def _precision(kind: CacheType) -> tuple[float, int]:
    return -kind.bits, list(CacheType).index(kind)
