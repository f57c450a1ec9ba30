"""What a speed depends on."""

from __future__ import annotations

import pytest

from playground.comparing.run_settings import RunSettings
from playground.comparing.speeds import Spread, is_kept, spread, spreads, whole_ttft
from playground.comparing.summary_rows import summary_rows
from playground.notebooks.cells import Run, RunState
from playground.rendering import cell_view, comparison_view, number_format, plots
from playground.values.answer import ComparisonUpdate, Metrics, Pane, PaneState
from testkit.notebooks import F16, Q2, Q8, compare_cell, result, run_of, variant

PAID = Metrics(ttft_s=0.5, preprocess_s=0.1, encode_s=0.3, encode_cached=False, prompt_tokens=100, reused_tokens=0)
FREE = Metrics(ttft_s=0.2, encode_cached=True, prompt_tokens=100, reused_tokens=3)
KEPT = Metrics(ttft_s=0.01, encode_cached=True, prompt_tokens=100, reused_tokens=90)
BY_ID = {variant.id: variant for variant in (F16, Q8, Q2)}


def panes(*metrics: Metrics) -> list[Pane]:
    return [
        Pane(variant.id, PaneState.DONE, "a b", metrics=m) for variant, m in zip((F16, Q8, Q2), metrics, strict=False)
    ]


def test_first_token_when_one_pane_paid_for_the_image_then_all_get_its_time_but_a_kept_prompt() -> None:
    whole = whole_ttft(panes(PAID, FREE, KEPT), BY_ID)
    assert whole[F16.id] == pytest.approx(0.5)
    assert whole[Q8.id] == pytest.approx(0.6)
    assert whole[Q2.id] is None
    assert [is_kept(m) for m in (PAID, FREE, KEPT)] == [False, False, True]


def test_first_token_when_nobody_encoded_the_image_then_unknown_and_without_an_image_as_it_is() -> None:
    without = Metrics(ttft_s=0.2, prompt_tokens=10)
    assert whole_ttft(panes(FREE, without), BY_ID) == {F16.id: None, Q8.id: 0.2}


def test_panes_when_a_prompt_was_kept_then_marked_and_not_ranked() -> None:
    update = ComparisonUpdate(tuple(panes(PAID, FREE, KEPT)), done=True)
    html = " ".join(str(comparison_view.panes(update, [F16, Q8, Q2], F16.id)).split())
    assert html.count(">prompt kept<") == 1
    assert ">600 ms with image<" in html
    assert '<td data-value="">10 ms, prompt kept</td>' in html


def test_spread_when_fewer_than_two_are_known_then_none() -> None:
    assert spread([None, 5.0]) is None
    assert spread([490.0, 1995.0, None, 900.0]) == Spread(900.0, 490.0, 1995.0, 3)
    both = [
        ComparisonUpdate(panes=tuple(panes(m, Metrics())))
        for m in (Metrics(decode_tok_per_s=5.0), Metrics(decode_tok_per_s=7.0))
    ]
    assert spreads(both) == {F16.id: Spread(6.0, 5.0, 7.0, 2)}


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "–"), (1081.0, "1,100 tok/s"), (27.4, "27 tok/s"), (9.96, "10 tok/s"), (0.123, "0.1 tok/s")],
)
def test_speed_when_of_one_sample_then_two_digits(value: float | None, expected: str) -> None:
    assert number_format.sampled_speed(value) == expected


def test_sizes_when_shown_then_of_the_pair_and_of_each_half() -> None:
    assert number_format.sizes(variant("x", 7_500_000)) == "7.5 MB (7.5 + 0.0 MB)"
    assert number_format.sizes(variant("x", 4_100_000_000)) == "4.10 GB (4.10 GB + 0.0 MB)"


def timed(number: int, speed: float, **fields: object) -> Run:
    answers = panes(Metrics(decode_tok_per_s=speed), Metrics(decode_tok_per_s=2 * speed))
    return run_of(compare_cell(), result(*answers), number=number, variants=(F16, Q8), **fields)


def test_repeats_when_the_same_was_asked_then_median_and_range_in_pane_table_and_plot() -> None:
    other = timed(3, 9000.0, state=RunState.STOPPED)
    hot = run_of(compare_cell(settings=RunSettings(temperature=1.0)), *timed(4, 7000.0).results, number=4)
    runs = [timed(1, 490.0), timed(2, 1995.0), other, hot, timed(5, 900.0)]
    repeats = cell_view.repeats_of(runs[-1], runs)
    assert [run.number for run in repeats] == [1, 2, 5]
    spreads = cell_view.spreads_of(repeats, 0)
    assert spreads[F16.id] == Spread(900.0, 490.0, 1995.0, 3)
    html = " ".join(str(cell_view.block(runs[-1], 0, lambda sha256: None, spreads=spreads)).split())
    assert html.count("490–2,000 in 3") == 3  # pane, table, plot
    assert "median; this run: 900 tok/s" in html
    assert "median of the repeats" in html
    assert "median of the repeats" not in cell_view.block(runs[-1], 0, lambda sha256: None)
    rows = summary_rows(runs[-1].results[0].update.panes, [F16, Q8], F16.id, spreads)
    plot = plots.speed_by_size(rows)
    assert plot is not None
    slow = plot.marks[0]
    assert slow.whisker is not None
    low, high = slow.whisker
    assert plot.top <= high < slow.y < low <= plot.bottom
