"""What a measurement says about questions that were asked in a batch, and alone as well."""

from __future__ import annotations

import msgspec
import pytest

from playground.measuring.measure_request import chosen_alone, n_alone
from playground.measuring.results import AskedAlone, Measurement
from playground.rendering import measurement_view
from testkit.notebooks import F16, Q2, measurement


@pytest.mark.parametrize(
    ("questions", "differ", "words"),
    [
        (8, 0, "8 of these questions one at a time as well: no answer differs from the one in a batch."),
        (8, 1, "8 of these questions one at a time as well: 1 answer differs from those in a batch."),
        (1, 1, "1 of these questions one at a time as well: 1 answer differs from those in a batch."),
    ],
)
def test_measurement_when_some_were_asked_alone_then_the_page_says_how_many_differ(
    questions: int, differ: int, words: str
) -> None:
    measured = msgspec.structs.replace(measurement(), asked_alone=AskedAlone(questions, differ))
    html = measurement_view.html(measured, (F16, Q2), F16.id, lambda name: None)
    assert f"The reference was asked {words}" in " ".join(str(html).split())


@pytest.mark.parametrize(
    ("questions", "variants", "alone"), [(2, 1, 2), (16, 2, 2), (24, 2, 3), (100, 5, 8), (5000, 2, 8)]
)
def test_questions_when_there_are_few_then_fewer_are_asked_alone(questions: int, variants: int, alone: int) -> None:
    assert n_alone(questions, variants) == alone


@pytest.mark.parametrize(
    ("questions_a_picture", "n", "chosen"),
    [
        ([8, 8, 8, 8], 4, [0, 1, 16, 17]),
        ([8, 8], 2, [0, 8]),
        ([8, 8, 8], 3, [0, 1, 8]),
        ([1] * 100, 8, [0, 12, 25, 37, 50, 62, 75, 87]),
        ([5], 4, [0, 1, 2, 3]),
        ([1, 1], 8, [0, 1]),
        ([2, 1, 1, 1], 4, [0, 2, 3, 4]),
    ],
)
def test_questions_when_pictures_have_several_then_two_of_each_follow_each_other(
    questions_a_picture: list[int], n: int, chosen: list[int]
) -> None:
    pictures = [f"{number}.png" for number, several in enumerate(questions_a_picture) for _ in range(several)]
    assert chosen_alone(pictures, n) == chosen


def test_measurement_when_an_older_version_made_it_then_nothing_is_said_of_batches() -> None:
    older = msgspec.json.decode(msgspec.json.encode(measurement()), type=Measurement)
    assert older.asked_alone is None
    assert "one at a time" not in str(measurement_view.html(older, (F16, Q2), F16.id, lambda name: None))
