"""The size of a context that nobody chose."""

from __future__ import annotations

import pytest

from playground.values.request import SMALLEST_CONTEXT, Runtime


@pytest.mark.parametrize(("tokens", "size"), [(0, 2048), (2048, 2048), (2049, 4096), (9000, 16384)])
def test_context_when_not_chosen_then_the_next_power_of_two_that_holds_the_question(tokens: int, size: int) -> None:
    assert Runtime().sized(tokens).n_ctx == size


def test_context_when_chosen_then_it_stays() -> None:
    chosen = Runtime(n_ctx=512)
    assert chosen.sized(9000) is chosen
    assert chosen.context == 512
    assert Runtime().context == SMALLEST_CONTEXT
