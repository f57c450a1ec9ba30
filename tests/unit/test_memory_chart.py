"""The memory chart, the handles and the strip, from reports made by hand."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.rendering import memory_strip, plots, templating
from playground.rendering.memory_chart import Chart, chart, colours, handle_row, lasted, machine_rows, thinned, waiting
from playground.values.memory import HOST, Forecast, MachineMemory, MemoryParts, MemoryReport, QueuedRun, WorkerRole
from testkit.html_tags import Tags
from testkit.memory_reports import GIB, NOW, gpu, report, worker


def charted(*reports: MemoryReport, place: str = "GPU 0") -> Chart:
    taken = colours({}, [w.id for report in reports for w in report.workers])
    return chart(reports, 60, place, taken)


def heights(path: str) -> list[int]:
    """Of an area's upper line, from the bottom of the box."""
    return [plots.BOX - int(y) for y in re.findall(r"\d+ (\d+)", path.split("L")[1])]


# --- colours ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "ids", "expected"),
    [
        ({}, ["a", "b", "a"], {"a": 0, "b": 1}),
        ({"a": 0, "b": 1}, ["b"], {"b": 1}),
        ({"b": 1}, ["c", "b"], {"b": 1, "c": 0}),
        ({}, list("abcdefghij"), {c: n % 8 for n, c in enumerate("abcdefghij")}),
    ],
    ids=["new ones", "one goes", "one comes", "more than there are colours"],
)
def test_colours_when_handles_come_and_go_then_who_stays_keeps_its_own(
    before: dict[str, int], ids: list[str], expected: dict[str, int]
) -> None:
    assert colours(before, ids) == expected


# --- machines of a cluster -------------------------------------------------------------------------------------------


def test_machines_when_in_a_cluster_then_each_with_its_gpus_memory_and_runs_and_a_refused_one_with_its_reason() -> None:
    box2 = MachineMemory("box2", 128 * GIB, 64 * GIB, processor="EPYC", engine="0.3.16")
    box3 = MachineMemory("box3", 32 * GIB, 16 * GIB, processor="Xeon", engine="0.3.16")
    box3 = replace(box3, copies_bytes=2 * GIB, most_copies_bytes=93 * GIB)
    box4 = MachineMemory("box4", problem="It has <llama 1>, and the page has 2: install the same versions.")
    ahead = QueuedRun("ann", (), 1.0, "box2 · GPU 0"), QueuedRun("", (), 1.0, "GPU 0"), QueuedRun("", (), 1.0, None)
    now = report(gpus=(gpu(), gpu(machine="box2")), machines=(box2, box3, box4), queue=ahead)
    h100 = "NVIDIA H100 80GB HBM3"
    assert [(row.name, row.gpus, row.runs) for row in machine_rows(now)] == [
        ("", h100, 1), ("box2", h100, 1), ("box3", "Xeon", 0), ("box4", "", 0),
    ]  # fmt: skip
    html = " ".join(str(templating.markup("places.html", places=[], report=now, machines=machine_rows(now))).split())
    assert "64.0 GiB of 128.0 GiB free" in html
    assert html.count("copies of models on its disk: 2.0 GiB of 93.0 GiB") == 1
    assert "not used: It has &lt;llama 1&gt;, and the page has 2" in html
    Tags(html)
    assert machine_rows(report()) == []
    hosts = report(machines=(box3,), budgets={HOST: GIB, "box3 · host": GIB})
    assert [charted(hosts, place=place).name for place in hosts.places] == ["this machine's memory", "box3's memory"]
    assert [row.engine for row in machine_rows(hosts)] == ["0.3.16", "0.3.16"]
    assert "Machines" not in templating.markup("places.html", places=[], report=report(), machines=[])


# --- memory over time ------------------------------------------------------------------------------------------------


def test_history_when_thinned_then_few_reports_with_a_short_peak_and_the_newest() -> None:
    history = [report(worker("a", GIB), time=NOW + second) for second in range(601)]
    history[301] = report(worker("a", 9 * GIB), time=NOW + 301)
    seen = thinned(history, 600)
    assert len(seen) <= 153
    assert max(w.bytes or 0 for report in seen for w in report.workers) == 9 * GIB
    assert seen[-1] is history[-1]
    assert [report.time for report in seen] == sorted(report.time for report in seen)


def test_history_when_a_second_goes_by_then_the_same_reports_stand_for_what_was_before() -> None:
    history = [report(worker("a", GIB + second), time=NOW + second) for second in range(602)]
    first, second = thinned(history[:-1], 600), thinned(history[1:], 600)
    assert {report.time for report in first[1:-1]} - {report.time for report in second} == set()


def test_chart_when_drawn_then_areas_stack_to_what_the_driver_tells() -> None:
    before = report(worker("a", 20 * GIB), time=NOW - 30, gpus=(gpu(used=24 * GIB),))
    now = report(worker("a", 20 * GIB), worker("b", 10 * GIB), gpus=(gpu(used=40 * GIB),))
    drawn = charted(before, now)
    others, b, a = drawn.layers  # the highest first
    assert (a.name, b.name, others.name) == ("a.gguf", "b.gguf", "other processes")
    assert (a.now, b.now, others.now) == (20 * GIB, 10 * GIB, 10 * GIB)
    assert (heights(a.path), heights(b.path)) == ([250, 250], [250, 375])
    assert heights(others.path) == [300, 500]
    assert (drawn.used, drawn.total, drawn.budget_at) == (40 * GIB, 80 * GIB, 80.0)


def test_chart_when_a_handle_is_gone_then_its_area_stays_and_it_is_called_unloaded() -> None:
    drawn = charted(report(worker("a", GIB * 20), time=NOW - 9, gpus=(gpu(),)), report(gpus=(gpu(),)))
    gone = next(layer for layer in drawn.layers if layer.name == "a.gguf")
    assert (gone.gone, gone.now, heights(gone.path)) == (True, 0, [250, 0])


def test_places_when_handles_were_unloaded_then_they_are_folded_below_the_loaded_ones() -> None:
    before = report(worker("a", GIB), worker("b", GIB), worker("c", GIB), time=NOW - 9, gpus=(gpu(),))
    drawn = charted(before, report(worker("c", GIB), gpus=(gpu(),)))
    html = " ".join(str(templating.markup("places.html", places=[drawn], report=report())).split())
    legend, folded = html[html.index("vp-legend") :].split("<details", 1)
    assert "<b>c.gguf</b> 1.0 GiB" in legend
    assert "a.gguf" not in legend
    assert "<summary>2 unloaded in the last 60 s</summary>" in folded
    assert folded.count("</b> unloaded") == 2
    Tags(html)


def test_chart_when_a_model_is_split_then_each_gpu_shows_its_forecast_share() -> None:
    parts = {"GPU 0": MemoryParts(10 * GIB), "GPU 1": MemoryParts(30 * GIB)}
    split = worker("s", 36 * GIB, "GPU 0 + GPU 1", parts=parts)
    now = report(split, gpus=(gpu(0), gpu(1)))
    assert [charted(now, place=place).layers[1].now for place in ("GPU 0", "GPU 1")] == [9 * GIB, 27 * GIB]
    blind = replace(split, forecast=None)
    assert [blind.held_at(place) for place in ("GPU 0", "GPU 1", HOST)] == [18 * GIB, 18 * GIB, 0]


def test_chart_when_a_handles_memory_is_unknown_then_it_is_said_and_never_zero() -> None:
    drawn = charted(report(worker("a", None), gpus=(gpu(used=GIB),)))
    assert drawn.layers[0].name == "other processes, and handles whose memory is hidden"
    assert drawn.layers[1].now is None
    assert "<b>a.gguf</b> unknown" in templating.markup("places.html", places=[drawn], report=report())


@pytest.mark.parametrize(("mib", "zoomed"), [(100, True), (4000, False), (0, False)])
def test_chart_when_there_is_no_gpu_then_the_machines_memory_and_small_models_alone(mib: int, zoomed: bool) -> None:
    drawn = charted(*([report(worker("a", mib * 2**20, HOST))] if mib else [report()]), place=HOST)
    others = drawn.layers[0]
    assert (others.name, others.now) == ("the rest of the machine", 9 * GIB - mib * 2**20)
    assert (drawn.zoomed, others.path == "") == (zoomed, zoomed)
    assert drawn.sensors == ()
    assert drawn.unit == ("MiB" if zoomed else "GiB")
    assert drawn.budget_at == (None if zoomed else 50.0)  # 12 of 24 GiB; above the box


def test_sensors_when_they_tell_nothing_then_unknown_and_a_gap_in_the_line() -> None:
    labels = [0.5, None, 0.25]
    reports = [report(time=NOW - 2 + n, gpus=(gpu(utilization=u, power_w=None),)) for n, u in enumerate(labels)]
    utilization, temperature, power = charted(*reports).sensors
    assert (utilization.value, temperature.value, power.value) == ("25%", "51 °C", "unknown")
    assert utilization.path.count("M") == 2
    assert power.path == ""


levels = st.lists(st.integers(0, plots.BOX), min_size=2, max_size=60)


@pytest.mark.thorough
@given(levels)
def test_area_when_level_stretches_are_left_out_then_the_line_is_the_same(ys: list[int]) -> None:
    xs = list(range(0, 10 * len(ys), 10))
    drawn = {int(x): int(y) for x, y in re.findall(r"(\d+) (\d+)", plots.area(xs, ys).split("L")[1])}
    columns = sorted(drawn)
    for x, y in zip(xs, ys, strict=True):
        left, right = max(t for t in columns if t <= x), min(t for t in columns if t >= x)
        assert drawn[left] == drawn[right] == y or x in drawn


# --- handles and the queue -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forecast", "peak", "error", "off"),
    [(8, 10, "−20.0%", True), (105, 100, "+5.0%", False), (None, 10, "–", False), (8, None, "–", False)],
)
def test_handle_when_forecast_and_peak_are_known_then_the_error_is_of_the_peak(
    forecast: int | None, peak: int | None, error: str, off: bool
) -> None:
    in_reports = None if forecast is None else Forecast({"GPU 0": MemoryParts(forecast)}, "dry run")
    shown = handle_row(worker("a", 10, forecast=in_reports, peak_bytes=peak), {"a": 0})
    assert (shown.error, shown.off) == (error, off)


@pytest.mark.parametrize(
    ("leases", "idle_s", "use"), [(0, 75.0, "idle 1 min 15 s"), (1, 0.0, "leased"), (3, 0.0, "leased 3 times")]
)
def test_handle_when_leased_or_idle_then_says_so(leases: int, idle_s: float, use: str) -> None:
    assert handle_row(worker("a", 1, leases=leases, idle_s=idle_s), {"a": 0}).use == use


def test_handle_when_many_questions_are_asked_at_once_then_says_how_many() -> None:
    assert handle_row(worker("a", 1, leases=1, sequences=16), {"a": 0}).use == "leased, up to 16 questions at once"
    assert handle_row(worker("a", 1, sequences=16), {"a": 0}).use == "idle 12 s"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (601, "10 min"), (7500, "2 h 5 min")]
)
def test_duration_when_told_then_no_finer_than_needed(seconds: float, text: str) -> None:
    assert lasted(seconds) == text


def test_queue_when_shown_then_mine_is_marked_and_nobody_else_is_named() -> None:
    queue = (
        QueuedRun("ann", ("a.gguf",), 1.0, "GPU 0"),
        QueuedRun("", (), 2.0, None),
        QueuedRun("me", ("b.gguf",), 90.0, None),
    )
    shown = waiting(queue, "me")
    assert [(row.place, row.runs, row.yours) for row in shown] == [
        ("GPU 0", True, False), ("1", False, False), ("2", False, True)
    ]  # fmt: skip
    assert not any(row.yours for row in waiting(queue, ""))
    html = templating.markup("queue.html", queue=shown)
    assert "ann" not in html
    assert html.count(">you<") == 1


# --- the page --------------------------------------------------------------------------------------------------------


# --- the strip -------------------------------------------------------------------------------------------------------


def test_strip_when_there_are_several_gpus_then_a_meter_each_the_queue_and_a_link() -> None:
    memory = worker("a", 16 * GIB, role=WorkerRole.VISION)
    two = worker("b", 32 * GIB, "GPU 1")
    html = memory_strip.html(
        report(memory, two, gpus=(gpu(), gpu(1, utilization=None)), queue=(QueuedRun("", (), 0, None),))
    )
    Tags(html)
    shown = re.sub(r"<[^>]*>", "", html)
    assert re.findall(r"[\d.]+ GiB of [\d.]+ GiB", shown) == ["16.0 GiB of 64.0 GiB", "32.0 GiB of 64.0 GiB"]
    assert re.findall(r'class="vp-(image|decode)" style="width:([\d.]+)%', html) == [
        ("image", "25.00"), ("decode", "0.00"), ("image", "0.00"), ("decode", "50.00")
    ]  # fmt: skip
    assert (html.count("busy"), html.count("40% busy")) == (1, 1)
    assert "queue 1" in html
    assert 'href="./inspect"' in html


def test_strip_when_there_is_no_gpu_then_the_host() -> None:
    html = memory_strip.html(report(worker("a", 300 * 2**20, HOST)))
    assert ">CPU<" in html
    assert "300 MiB of 12.0 GiB" in html
    assert "busy" not in html
