"""What a scan of a pair tries and what it returns. Pure; docs/metrics.md defines each number."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from playground.measuring.statistics import Interval
from playground.quantizing.recipes import LADDER, Group, GroupSensitivity, Recipe


class Scan(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to try."""

    kinds: tuple[str, ...] = LADDER
    depth: int = 1
    restore: bool = False  # also the other way round: all of a half at the last kind, one group as in the source
    calibrate: bool = False  # with importance matrices of the search's questions; IQ types need them
    max_tokens: int = 64
    max_bytes: int | None = None  # of both files of the recipe
    max_kl: float | None = None  # nats a token


class RestoredGroup(msgspec.Struct, frozen=True):
    """All of a half at one type but for one group, which stays as in the source."""

    group: Group
    kind: str
    added: int  # bytes, over the half without exception
    kl: float
    kl_of_all: float  # without exception


class UniformComparison(msgspec.Struct, frozen=True):
    """A pair on the questions that were kept aside."""

    name: str
    bytes: int
    kl: Interval
    against: Interval | None = None  # its KL less the recipe's, on the same questions


class BuiltRecipe(msgspec.Struct, frozen=True):
    """A recipe that was made and measured."""

    recipe: Recipe
    bytes: int
    predicted_kl: float  # the sum of what the groups cost one by one, on the questions of the search
    searched_kl: float  # on the same questions
    kl: Interval  # on those kept aside
    uniform: tuple[UniformComparison, ...]
    commands: tuple[str, ...]  # llama-quantize's
    model: str  # names of the files
    projector: str


class Sensitivity(msgspec.Struct, frozen=True):
    reference: str  # a variant's id
    bytes: int  # of the source's files
    scan: Scan
    n_searched: int
    n_kept_aside: int
    floor: float
    sensed: tuple[GroupSensitivity, ...]
    restored: tuple[RestoredGroup, ...] = ()
    built: BuiltRecipe | None = None
    problems: tuple[str, ...] = ()
    elapsed_s: float = 0.0


def price(sensitivity: GroupSensitivity) -> float | None:
    """Nats a token for each megabyte saved, at the smallest type that runs."""
    prices = [rung.price for rung in sensitivity.rungs if rung.price is not None]
    return prices[-1] if prices else None


def ranked(sensed: Sequence[GroupSensitivity]) -> list[GroupSensitivity]:
    """The dearest group first."""
    return sorted(sensed, key=lambda sensitivity: -(price(sensitivity) or 0.0))


def compared(built: BuiltRecipe) -> list[tuple[str, Interval, int]]:
    """The recipe and the uniform pairs by size: name, KL, bytes."""
    rows = [("recipe", built.kl, built.bytes), *((pair.name, pair.kl, pair.bytes) for pair in built.uniform)]
    return sorted(rows, key=lambda row: row[2])


def sentence(built: BuiltRecipe) -> str:
    """Whether the recipe was worth it, from the questions that were kept aside."""
    own = f"The recipe ({built.bytes / 1e6:.1f} MB) has a mean KL of {built.kl.value:.4g} on the questions kept aside"
    smaller = [pair for pair in built.uniform if pair.bytes <= built.bytes]
    if not built.uniform:
        return f"{own}."
    best = min(smaller or built.uniform[:1], key=lambda pair: pair.kl.value)
    which = "the best uniform pair that is no larger" if smaller else "no uniform pair is as small; the next"
    both = f"{own}; {which}, {best.name} ({best.bytes / 1e6:.1f} MB), has {best.kl.value:.4g}"
    low, high = (best.against.low, best.against.high) if best.against else (None, None)
    if low is None or high is None or low <= 0 <= high:
        return f"{both}: no difference that these questions can show."
    if low > 0 and best.kl.value > 0:
        return f"{both}: the recipe drifts {math.floor(100 * (1 - built.kl.value / best.kl.value))}% less."
    return f"{both}: the recipe does not win."
