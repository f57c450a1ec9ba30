"""A measurement over places that is stopped."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from types import SimpleNamespace
from typing import Any, cast

import pytest

from playground.errors import Interrupted
from playground.measuring.at_places import AtPlaces
from playground.measuring.results import Progress
from playground.measuring.shares import Shares
from playground.measuring.steps import Steps
from playground.pool.turn_order import Places
from playground.values.files import Variant


def test_measurement_when_stopped_as_the_reference_has_just_answered_then_its_places_say_so() -> None:
    """The reference takes no further step, which would say so."""
    pool = SimpleNamespace(turn_options=lambda specs: [("host",)], on_gpu=False)
    steps = cast(Steps, SimpleNamespace(lab=SimpleNamespace(pool=pool)))
    groups: list[list[Any]] = [["F16"]]
    shares = Shares[Variant, Places](
        groups, fits=lambda *_: True, loaded_at=lambda _: (), is_there=lambda _: True, seconds=lambda *_: 1.0
    )

    def measure(steps: Steps, variant: Variant, done: Callable[[Progress], None]) -> None:
        raise AssertionError("nothing is measured")

    at_places = AtPlaces(steps, ("host",), shares, None, measure, lambda: True, Event())
    with pytest.raises(Interrupted):
        list(at_places.start(cast(Any, None)))
