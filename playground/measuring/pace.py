"""How long a variant takes for a question on this machine: what the newest measurement took, for the next one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from playground.measuring.time_left import Kind, TimeLeft
from playground.support.result_cache import ResultCache
from playground.values import durations
from playground.values.files import Variant

_FEWEST = 5  # of fewer questions, loading the models is most of the time


class _Pace(msgspec.Struct, frozen=True):
    seconds: float  # a question, with loading and encoding
    max_tokens: int


def keep(results: ResultCache, variant: Variant, seconds: float, n: int, max_tokens: int) -> None:
    """What n answers took together."""
    if n >= _FEWEST:
        results.put(_key(results, variant), _Pace(seconds / n, max_tokens))


class _Paces(msgspec.Struct, frozen=True):
    kinds: dict[Kind, float]  # seconds of a step


def keep_kinds(results: ResultCache, reference: Variant, work: TimeLeft) -> None:
    """What the steps of a measurement of these files took."""
    if work.paces:
        results.put(_kinds_key(results, reference), _Paces(kinds(results, reference) | work.paces))


def kinds(results: ResultCache, reference: Variant) -> dict[Kind, float]:
    """Seconds of a step of each kind, as in the newest measurement here; empty: there was none."""
    known = results.get(_kinds_key(results, reference), _Paces)
    return known.kinds if known else {}


def outlook(results: ResultCache, variants: Sequence[Variant], n: int, max_tokens: int) -> str:
    """One sentence: how long the answers of n questions are likely to take."""
    paces = [results.get(_key(results, variant), _Pace) for variant in variants]
    known = [pace for pace in paces if pace is not None]
    if not known or len(known) < len(variants):
        return "How long it takes is known after the first measurement of these variants on this machine."
    seconds = n * sum(pace.seconds for pace in known)
    text = (
        f"{n:,} answers of each of {len(known)} variants take {durations.about(seconds)}, as in the newest measurement "
        "here."
    )
    others = {pace.max_tokens for pace in known} - {max_tokens}
    if others:
        text += f" There answers had up to {max(others)} tokens, here up to {max_tokens}."
    return text


def _kinds_key(results: ResultCache, variant: Variant) -> str:
    return results.key("pace of steps", variant.model.sha256, variant.projector.sha256)


def _key(results: ResultCache, variant: Variant) -> str:
    return results.key("pace", variant.model.sha256, variant.projector.sha256)
