"""A run as rows, and where its marks stand in the plot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.comparing.summary_rows import SummaryRow, summary_rows
from playground.rendering import plots
from playground.values.answer import Metrics, Pane, PaneState
from playground.values.files import ModelFile, Variant


def variant(name: str, size: int = 10) -> Variant:
    file = ModelFile(path="/m", bytes=size, sha256=name, quantization=name, n_params=10, architecture="llama")
    return Variant(id=name, family="f", label=name, model=file, projector=file)


def pane(name: str, tokens: tuple[int, ...], parts_at: int | None = None, **fields: object) -> Pane:
    return Pane(name, PaneState.DONE, token_ids=tokens, first_divergence=parts_at, **fields)  # type: ignore[arg-type]


def test_rows_when_made_then_shares_are_of_the_references_tokens() -> None:
    panes = [pane("F16", (1, 2, 3, 4)), pane("Q8_0", (1, 2, 3, 4)), pane("Q2_K", (1, 9), 1)]
    reference, same, other = summary_rows(panes, [variant(p.variant) for p in panes], "F16")
    assert (reference.is_reference, reference.same, reference.same_prefix) == (True, None, None)
    assert (same.same, same.same_prefix) == (True, 1.0)
    assert (other.same, other.same_prefix) == (False, 0.25)
    assert (other.bytes, other.bits_per_weight) == (20, 8.0)


@pytest.mark.parametrize(
    "panes",
    [
        [pane("F16", (1,)), pane("Q2_K", (1,), comparable=False)],
        [pane("F16", (1,)), Pane("Q2_K", PaneState.STOPPED, token_ids=(1,))],
        [Pane("F16", PaneState.FAILED), pane("Q2_K", (1,))],
        [pane("F16", ()), pane("Q2_K", (1,), 0)],
    ],
    ids=["another family", "stopped", "reference failed", "reference says nothing"],
)
def test_rows_when_there_is_nothing_to_compare_then_unknown(panes: list[Pane]) -> None:
    row = summary_rows(panes, [variant("F16"), variant("Q2_K")], "F16")[1]
    assert (row.same, row.same_prefix) == (None, None)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [(Metrics(), None), (Metrics(host_rss_bytes=5), 5), (Metrics(host_rss_bytes=5, gpu_bytes=0), 0)],
)
def test_memory_when_there_is_a_gpu_then_its(metrics: Metrics, expected: int | None) -> None:
    assert summary_rows([pane("F16", (1,), metrics=metrics)], [variant("F16")], "F16")[0].memory_bytes == expected


def row(size: int, speed: float | None, same: bool | None = True) -> SummaryRow:
    return SummaryRow("x", False, size, None, Metrics(decode_tok_per_s=speed), None, same)


def test_plot_when_fewer_than_two_speeds_are_known_then_none() -> None:
    assert plots.speed_by_size([]) is None
    assert plots.speed_by_size([row(1, 5.0), row(2, None)]) is None


@given(st.lists(st.tuples(st.integers(1, 10**12), st.floats(0.001, 1e6)), min_size=2, max_size=16))
def test_plot_when_drawn_then_marks_lie_in_it_as_sizes_and_speeds_do(points: list[tuple[int, float]]) -> None:
    drawn = plots.speed_by_size([row(size, speed) for size, speed in points])
    assert drawn is not None
    for mark, (size, speed) in zip(drawn.marks, points, strict=True):
        assert drawn.left <= mark.x <= drawn.right
        assert drawn.top <= mark.y <= drawn.bottom
        for other, (size2, speed2) in zip(drawn.marks, points, strict=True):
            assert (size >= size2) or mark.x <= other.x
            assert (speed <= speed2) or mark.y <= other.y
    for ticks in (drawn.x_ticks, drawn.y_ticks):
        assert 2 <= len(ticks) <= 6


def test_plot_when_answers_differ_then_by_shape_not_by_colour_alone() -> None:
    drawn = plots.speed_by_size([row(1, 1.0, same=False), row(2, 2.0), row(3, 3.0, same=None)])
    assert drawn is not None
    assert [mark.kind for mark in drawn.marks] == ["off", "same", "unknown"]


def test_plot_when_answers_part_then_the_later_the_nearer_on_the_scale_of_drift() -> None:
    early = SummaryRow("early", False, 2, None, Metrics(decode_tok_per_s=1.0), 0.1, False)
    drawn = plots.speed_by_size([row(1, 1.0), early, row(3, 3.0, same=None)])
    assert drawn is not None
    assert [mark.drift for mark in drawn.marks] == [None, 90, None]


def timed(label: str = "x", **metrics: object) -> SummaryRow:
    return SummaryRow(label, False, 1, None, Metrics(**metrics), None, None)  # type: ignore[arg-type]


def test_ledger_when_loading_takes_long_then_the_answer_has_its_own_scale() -> None:
    slow = timed(
        load_s=90.0, projector_load_s=10.0, prompt_s=0.1, ttft_s=0.6, preprocess_s=0.1, encode_s=0.3, decode_s=0.4
    )
    fast = timed(prompt_s=0.25, ttft_s=0.25, decode_s=0.25)
    first, second = plots.ledger([slow, fast])
    assert [phase.percent for phase in first.loading] == [90.0, 10.0]
    assert [round(phase.percent) for phase in first.answering] == [10, 30, 10, 10, 40]
    assert [phase.seconds for phase in second.answering] == [None, None, 0.25, 0.0, 0.25]
    assert (first.loaded, second.loaded) == (False, True)
    assert second.answer_s == 0.5
    assert plots.ledger([timed(), timed()]) == ()


def test_rates_when_progress_is_known_then_tokens_per_second_of_each_step_on_one_scale() -> None:
    even = timed(decode_s=2.0, progress=((1.0, 10), (2.0, 20)))
    slowing = timed(decode_s=2.0, progress=((1.0, 40), (2.0, 50)))
    line, other = plots.ledger([even, slowing])
    assert (line.rates_range, other.rates_range) == ("10 to 10.0 tok/s", "10 to 40.0 tok/s")
    assert line.rates == "M500 750L1000 750"
    assert other.rates == "M500 0L1000 750"


@pytest.mark.parametrize(
    ("read", "share", "message", "bound"),
    [
        (None, None, "–", False),
        (4_900_000_000, None, "reads 4.90 GB a token", False),
        (4_900_000_000, 0.82, "reads 4.90 GB a token at 82% of the memory's bandwidth", True),
        (4_900_000_000, 0.2, "20%, reads 4.90 GB a token", False),
        (None, 0.2, "20% of the memory's bandwidth", False),
    ],
)
def test_bandwidth_when_it_is_the_reason_then_in_words(
    read: int | None, share: float | None, message: str, bound: bool
) -> None:
    line = plots.ledger([timed(decode_s=1.0, read_bytes_per_token=read, bandwidth_share=share)])[0]
    assert (line.bandwidth, line.bound) == (message, bound)
