"""A scan to HTML: what each group of tensors costs at each type, what restoring it gives back, and the recipe."""

from __future__ import annotations

import math
from dataclasses import dataclass

import markupsafe

from playground.quantizing import recipes, scan_results
from playground.quantizing.scan_results import BuiltRecipe, RecipeOutcome, Sensitivity
from playground.rendering import number_format, templating
from playground.rendering.measurement_view import level, nats, nats_alike
from playground.values.files import Half

_MAX_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class _RungCell:
    shown: str
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class _GroupLine:
    name: str
    half: str
    size: str
    cells: list[_RungCell]
    price: str
    bar: float  # percent, on a logarithmic scale
    restored: str


def html(found: Sensitivity, *, printed: bool = False) -> markupsafe.Markup:
    built = found.built
    return templating.markup(
        "sensitivity.html",
        found=found,
        lines=_lines(found),
        built=built,
        sentence=scan_results.sentence(built) if built else "",
        compared=_compared(built) if built else (),
        wins=built is not None and scan_results.outcome(built) is RecipeOutcome.WINS,
        toml=recipes.to_toml(built.recipe) if built else "",
        first=_first(found),
        problems=found.problems[:_MAX_PROBLEMS],
        printed=printed,
    )


def _compared(built: BuiltRecipe) -> list[tuple[str, str, int]]:
    rows = scan_results.compared(built)
    shown = nats_alike([kl.value for _, kl, _ in rows])
    return [(name, kl, size) for (name, _, size), kl in zip(rows, shown, strict=True)]


def _lines(found: Sensitivity) -> list[_GroupLine]:
    ranked = scan_results.ranked(found.sensed)
    costs = iter(nats_alike([rung.kl for sensed in ranked for rung in sensed.rungs]))
    shown_prices = nats_alike([scan_results.price(sensed) for sensed in ranked])
    prices = [p for sensed in found.sensed if (p := scan_results.price(sensed)) and p > 0]
    low, high = (math.log10(f(prices)) for f in (min, max)) if prices else (0.0, 1.0)
    restored = {r.group.name: r for r in found.restored}
    lines = []
    for sensed, shown_price in zip(ranked, shown_prices, strict=True):
        price, back = scan_results.price(sensed), restored.get(sensed.group.name)
        lines.append(
            _GroupLine(
                name=sensed.group.name,
                half=sensed.group.half,
                size=number_format.file_size(sensed.group.bytes),
                cells=[
                    _RungCell(
                        shown,
                        0 if rung.kl is None else level(rung.kl),
                        rung.error or f"{number_format.file_size(rung.saved)} saved",
                    )
                    for rung, shown in zip(sensed.rungs, costs, strict=False)
                ],
                price=shown_price,
                bar=4 + 96 * (math.log10(price) - low) / max(1e-9, high - low) if price and price > 0 else 0.0,
                restored="" if back is None else f"{nats(back.kl_of_all)} → {nats(back.kl)}",
            )
        )
    return lines


def _first(sensitivity: Sensitivity) -> str:
    """The dearest group of each half, or those that the questions cannot tell apart."""
    sentences, kind = [], sensitivity.scan.kinds[-1]
    for half in Half:
        of_half = [group for group in sensitivity.sensed if group.group.half is half]
        dearest = scan_results.dearest(of_half, sensitivity.pictures)
        if len(dearest) == 1:
            price = nats(scan_results.price(dearest[0]))
            sentences.append(
                f"In the {half}, {dearest[0].group.name} costs most: {price} nats a token for each MB saved at {kind}."
            )
        elif dearest:
            names = ", ".join(group.group.name for group in dearest)
            sentences.append(f"In the {half}, these questions cannot tell which of {names} costs most.")
    return " ".join(sentences)
