"""When each pane did what, from the states that it entered."""

from __future__ import annotations

from playground.comparing.panes import Panes
from playground.rendering import waterfall_view
from playground.rendering.waterfall_view import Span
from playground.values.answer import ComparisonUpdate, Metrics, Pane, PaneState
from playground.values.files import ModelFile, Variant
from playground.values.request import Comparison

FILE = ModelFile(path="a.gguf", bytes=10, sha256="0", quantization="F16", n_params=10, architecture="llama")
F16 = Variant(id="F16", family="f", label="F16", model=FILE, projector=FILE)

LOADING, READING, WRITING = PaneState.LOADING, PaneState.READING, PaneState.WRITING
DONE, QUEUED, STOPPED = PaneState.DONE, PaneState.QUEUED, PaneState.STOPPED


def test_spans_when_a_pane_did_all_itself_then_its_waits_are_the_gaps() -> None:
    times = ((LOADING, 1.0), (READING, 2.0), (LOADING, 4.0), (READING, 5.0), (WRITING, 6.0), (DONE, 8.0))
    pane = Pane("F16", DONE, timeline=times, metrics=Metrics(preprocess_s=0.5, encode_s=1.0))
    assert waterfall_view.spans(pane, 9.0) == (
        Span("load", 1.0, 2.0),
        Span("image", 2.0, 3.5),
        Span("load", 4.0, 5.0),
        Span("prompt", 5.0, 6.0),
        Span("decode", 6.0, 8.0),
    )


def test_spans_when_all_were_loaded_first_then_the_pane_waits_behind_its_load() -> None:
    times = ((LOADING, 0.0), (QUEUED, 1.0), (LOADING, 3.0), (READING, 3.0), (WRITING, 4.0), (STOPPED, 5.0))
    kinds = [(span.kind, span.begin) for span in waterfall_view.spans(Pane("F16", STOPPED, timeline=times), 9.0)]
    assert kinds == [("load", 0.0), ("prompt", 3.0), ("decode", 4.0)]


def test_spans_when_the_app_ended_then_the_last_state_ends_with_the_run() -> None:
    pane = Pane("F16", STOPPED, timeline=((LOADING, 0.0), (READING, 1.0), (WRITING, 2.0)))
    assert waterfall_view.spans(pane, 3.0)[-1] == Span("decode", 2.0, 3.0)


def test_waterfall_when_drawn_then_on_an_axis_of_round_numbers() -> None:
    pane = Pane("F16", DONE, timeline=((LOADING, 1.0), (READING, 2.0), (WRITING, 3.0), (DONE, 4.0)))
    html = str(waterfall_view.html(ComparisonUpdate((pane,), done=True), (F16,), title="<i>"))
    assert "left:25.0%;width:25.0%" in html
    assert "&lt;i&gt;" in html
    assert "4.00 s" in html
    assert 'title="until loaded: 1.00 s, from 1.00 s on"' in html  # not the pane's load: it counts the waits too


def test_waterfall_when_the_run_is_of_an_older_version_then_none() -> None:
    assert not waterfall_view.html(ComparisonUpdate((Pane("F16", DONE),), done=True), (F16,))


def test_timeline_when_a_pane_changes_then_each_state_is_entered_once() -> None:
    panes = Panes(Comparison((), "", (F16,), "F16"))
    panes.set("F16", state=LOADING)
    panes.set("F16", state=LOADING, note="projector")
    panes.set("F16", text="a")
    panes.set("F16", state=DONE)
    timeline = panes["F16"].timeline
    assert [state for state, _ in timeline] == [LOADING, DONE]
    assert 0 <= timeline[0][1] <= timeline[1][1]
