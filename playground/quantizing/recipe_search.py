"""Finds a recipe under a budget: the cheapest bytes first, from what each group costs at each type. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import msgspec

from playground.errors import BadInput
from playground.quantizing.recipes import Group, GroupSensitivity, Rung


class Allocation(msgspec.Struct, frozen=True):
    types: tuple[tuple[Group, str], ...]
    bytes: int
    kl: float  # the sum of what the groups cost one by one


def allocate(
    sensed: Sequence[GroupSensitivity], whole: int, *, max_bytes: int | None = None, max_kl: float | None = None
) -> Allocation:
    """The cheapest bytes first: of each group the types on the lower convex hull of (bytes saved, KL), and of all of
    these steps always the one that costs least for each byte. As if the costs of the groups were additive.

    Ends when the files fit `max_bytes`; without it, when the next step would cost more than `max_kl` in all.
    Raises BadInput when it cannot be had.
    """
    if max_bytes is None and max_kl is None:
        raise BadInput("Say how large the files may be, or how far they may drift.")
    steps = sorted(
        (
            ((kl - kl_before) / (saved - saved_before), saved - saved_before, kl - kl_before, n, kind)
            for n, sensitivity in enumerate(sensed)
            for (saved_before, kl_before, _), (saved, kl, kind) in itertools.pairwise(_hull(sensitivity.rungs))
        ),
        key=lambda step: step[0],
    )
    types: dict[Group, str] = {}
    size, cost, shut = whole, 0.0, set()
    for _, saved, kl, n, kind in steps:
        if max_bytes is not None and size <= max_bytes:
            break
        if n in shut:
            continue
        if max_kl is not None and cost + kl > max_kl:
            shut.add(n)
            continue
        types[sensed[n].group] = kind
        size, cost = size - saved, cost + kl
    if max_bytes is not None and size > max_bytes:
        limit = f" and a KL of {max_kl:g}" if max_kl is not None else ""
        raise BadInput(
            f"With these types{limit} the files come down to {size / 1e6:.1f} MB at best, not to {max_bytes / 1e6:.1f}."
        )
    return Allocation(tuple(types.items()), size, cost)


_Point = tuple[int, float, str]


def _hull(rungs: Iterable[Rung]) -> list[_Point]:
    """Of (bytes saved, KL) from nothing saved: the points that no mixture of others beats."""
    points = sorted((r.saved, r.kl, r.kind) for r in rungs if r.kl is not None and r.saved > 0)
    hull: list[_Point] = [(0, 0.0, "")]
    for point in points:
        while len(hull) > 1 and not _turns_up(hull[-2], hull[-1], point):
            hull.pop()
        if point[0] > hull[-1][0]:
            hull.append(point)
    return hull


def _turns_up(a: _Point, b: _Point, c: _Point) -> bool:
    return (b[1] - a[1]) * (c[0] - b[0]) < (c[1] - b[1]) * (b[0] - a[0])
