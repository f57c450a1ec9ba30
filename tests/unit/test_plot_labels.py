"""Labels of a plot's marks: none lies on another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.rendering import plot_labels
from playground.rendering.plot_labels import Area, PlotLabel

AREA = Area(52, 0, 640, 228)
_WIDTH, _HALF = 7, 6.5


def box(label: PlotLabel, text: str) -> Area:
    left = label.x - _WIDTH * len(text) if label.flipped else label.x
    return Area(left + 0.1, label.y - 4 - _HALF + 0.1, left + _WIDTH * len(text) - 0.1, label.y - 4 + _HALF - 0.1)


@given(st.lists(st.tuples(st.floats(60, 600), st.floats(18, 222)), min_size=1, max_size=12))
def test_labels_when_twelve_variants_lie_anywhere_then_none_overlaps_another_or_leaves_the_plot(
    marks: list[tuple[float, float]],
) -> None:
    texts = [f"Q{n}_K_M 99%" for n in range(len(marks))]
    boxes = [box(label, text) for label, text in zip(plot_labels.labels(marks, texts, AREA), texts, strict=True)]
    for n, one in enumerate(boxes):
        assert AREA.holds(one)
        assert not any(one.meets(other) for other in boxes[n + 1 :])


def test_labels_when_there_is_room_then_on_the_right_and_else_on_the_left_or_with_a_line() -> None:
    alone, edge = plot_labels.labels([(100, 100), (630, 50)], ["Q8_0", "Q4_K_M"], AREA)
    assert alone == PlotLabel(110, 104, flipped=False, is_away=False)
    assert edge == PlotLabel(620, 54, flipped=True, is_away=False)
    crowd = plot_labels.labels([(300, 100)] * 5, ["Q8_0"] * 5, AREA)
    assert sum(label.is_away for label in crowd) == 3
    assert len({(label.y, label.flipped) for label in crowd}) == 5


@pytest.mark.parametrize("rise", [0, 10])
def test_labels_when_there_are_more_than_fit_then_each_mark_still_has_one(rise: float) -> None:
    assert len(plot_labels.labels([(300, 100)] * 100, ["Q4_K_M + mmproj-Q4_0"] * 100, AREA, rise=rise)) == 100
