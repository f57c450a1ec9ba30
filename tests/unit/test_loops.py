"""Loops at the end of an answer."""

from __future__ import annotations

import pytest

from playground.comparing.loops import Loop, loop_of


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([1, 2, 3, *[7] * 40], Loop(1, 40)),
        ([9, *[1, 2, 3, 4, 5] * 8], Loop(5, 8)),
        ([*range(100), *list(range(200, 240)) * 4], Loop(40, 4)),
        ([9, *[1, 2, 3, 4, 5] * 8, 1, 2], Loop(5, 8)),  # cut off within a round
        ([7] * 31, None),  # a short one may be meant
        ([*range(100), *list(range(200, 240)) * 3], None),
        ([*[7] * 40, 8], None),  # it got out of it
        (list(range(500)), None),
        ([], None),
    ],
)
def test_answer_when_it_ends_in_a_repetition_then_the_shortest_is_found(
    token_ids: list[int], expected: Loop | None
) -> None:
    assert loop_of(token_ids) == expected


def test_loop_when_it_is_put_in_words_then_its_tokens_and_times_are_said() -> None:
    assert str(Loop(5, 8)) == "The answer ends in a loop: its last 5 tokens 8 times."
    assert str(Loop(1, 40)) == "The answer ends in a loop: its last token 40 times."
