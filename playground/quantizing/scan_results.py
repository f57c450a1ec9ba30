"""What a scan of a pair tries and what it returns. Pure; docs/metrics.md defines each number."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

import msgspec

from playground.measuring import statistics
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


class UniformComparison(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pair on the questions that were kept aside."""

    name: str
    bytes: int
    kl: Interval
    against: Interval | None = None  # of an older version: its KL less the recipe's; the interval did not cover
    # Questions on which the recipe lay closer to the reference, and those on which this pair did.
    closer: tuple[int, int] | None = None
    closer_pictures: tuple[int, int] | None = None  # the same of pictures; None: an older version measured it


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
    pictures: tuple[int, ...] = ()  # the number of the picture of each question searched with; empty: older version


def price(group: GroupSensitivity) -> float | None:
    """Nats a token for each megabyte saved, at the smallest type that runs."""
    prices = [rung.price for rung in group.rungs if rung.price is not None]
    return prices[-1] if prices else None


def ranked(sensed: Sequence[GroupSensitivity]) -> list[GroupSensitivity]:
    """The dearest group first."""
    return sorted(sensed, key=lambda group: -(price(group) or 0.0))


def dearest(sensed: Sequence[GroupSensitivity], pictures: Sequence[int] = ()) -> list[GroupSensitivity]:
    """The dearest group, and those that the questions cannot tell from it. `pictures`: of each question.

    By a sign test of the price on each picture at 5 % over all rivals (Holm). Without numbers of single questions
    (measurements of older versions) none can be told apart.
    """
    priced = ranked([group for group in sensed if price(group)])
    if not priced:
        return []
    first, *rest = priced
    p_values = [statistics.sign_test(*_dearer(first, group, pictures)) for group in rest]
    told_apart = statistics.holm([1 / p if p else math.inf for p in p_values])
    return [first, *(group for group, apart in zip(rest, told_apart, strict=True) if not apart)]


def _dearer(a: GroupSensitivity, b: GroupSensitivity, pictures: Sequence[int]) -> tuple[int, int]:
    """On how many pictures a megabyte costs more in a, and on how many in b."""
    prices = []
    for group in (a, b):
        rung = next(rung for rung in reversed(group.rungs) if rung.price is not None)
        prices.append([kl / rung.saved for kl in rung.by_question])
    differences = [x - y for x, y in zip(*prices, strict=False)]
    return statistics.signs(differences, pictures if differences else ())


def compared(built: BuiltRecipe) -> list[tuple[str, Interval, int]]:
    """The recipe and the uniform pairs by size: name, KL, bytes."""
    rows = [("recipe", built.kl, built.bytes), *((pair.name, pair.kl, pair.bytes) for pair in built.uniform)]
    return sorted(rows, key=lambda row: row[2])


class RecipeOutcome(enum.StrEnum):
    """What the questions that were kept aside show of a recipe, against the best uniform pair that is no larger."""

    WINS = "so it wins"
    LOSES = "so it does not win"
    EVEN = "no difference that these questions can show"


def outcome(built: BuiltRecipe) -> RecipeOutcome | None:
    """None: no uniform pair was measured, or by an older version, which did not count questions."""
    if not built.uniform:
        return None
    rivals, best = _rivals(built)
    if best.closer is None:
        return None
    wins, losses = best.closer_pictures or best.closer
    # The best of several rivals is the one to beat, so each test has its share of the error.
    level = statistics.ALPHA / (2 * len(rivals))
    if statistics.sign_test(wins, losses) <= level:
        return RecipeOutcome.WINS
    return RecipeOutcome.LOSES if statistics.sign_test(losses, wins) <= level else RecipeOutcome.EVEN


def _rivals(built: BuiltRecipe) -> tuple[Sequence[UniformComparison], UniformComparison]:
    """The uniform pairs that are no larger, or else the next larger one; and the best of them."""
    rivals = [pair for pair in built.uniform if pair.bytes <= built.bytes] or built.uniform[:1]
    return rivals, min(rivals, key=lambda pair: pair.kl.value)


def sentence(built: BuiltRecipe) -> str:
    """Whether the recipe was worth it, from the questions that were kept aside."""
    own = (
        f"The recipe ({built.bytes / 1e6:.1f} MB) drifts by {built.kl.value:.4g} nats a token on the questions kept "
        "aside; rare questions can dominate a mean, so that is no bound"
    )
    if not built.uniform:
        return f"{own}."
    _, best = _rivals(built)
    is_smaller = best.bytes <= built.bytes
    which = "The best uniform pair that is no larger" if is_smaller else "No uniform pair is as small; the next"
    comparison = f"{own}. {which}, {best.name} ({best.bytes / 1e6:.1f} MB), drifts by {best.kl.value:.4g}"
    if best.closer is None:
        return f"{comparison}."
    wins, losses = best.closer
    counts = f"the recipe lies closer to the reference on {wins} of {wins + losses} questions"
    if best.closer_pictures not in (None, best.closer):
        wins, losses = best.closer_pictures
        counts += f", on {wins} of {wins + losses} pictures"
    return f"{comparison}: {counts}, {outcome(built)}."
