"""The inspect page's values: memory over minutes, the handles, who waits. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from playground.rendering import number_format, plots
from playground.values.memory import (
    HOST,
    GpuMemory,
    MachineMemory,
    MemoryParts,
    MemoryReport,
    QueuedRun,
    WorkerMemory,
    WorkerRole,
    machine_of,
    place_on,
)

_POINTS = 150  # of a line: more cannot be told apart, and each costs bytes every second


_COLOURS = 8  # --vp-h0 and so on


_OFF = 0.1  # a forecast that is further from the peak is marked


# Below this share of a place's memory the models would be a line at the bottom: the axis then shows them alone.
_TINY = 0.05


_ROLES = {
    WorkerRole.VISION: "projector",
    WorkerRole.LANGUAGE: "language model",
    WorkerRole.QUANTIZE: "quantizer",
    WorkerRole.BANDWIDTH: "bandwidth measurement",
}


def colours(before: Mapping[str, int], ids: Iterable[str]) -> dict[str, int]:
    """A colour for each handle; who had one keeps it, a new one gets the least used."""
    wanted = dict.fromkeys(ids)
    kept = {id: before[id] for id in wanted if id in before}
    for id in wanted:
        if id not in kept:
            taken = list(kept.values())
            kept[id] = min(range(_COLOURS), key=lambda colour: (taken.count(colour), colour))
    return kept


@dataclass(frozen=True, slots=True)
class Layer:
    """One handle, or the other processes, in a chart."""

    name: str
    colour: int | None  # None: other processes
    now: int | None  # bytes
    gone: bool  # unloaded within the time that is shown
    parts: str  # what its forecast is made of, in words
    path: str


@dataclass(frozen=True, slots=True)
class Sensor:
    name: str
    value: str
    path: str


@dataclass(frozen=True, slots=True)
class Chart:
    """One place's memory: areas in a box of plot.BOX x plot.BOX, y downwards. Shares in percent of the box."""

    place: str
    name: str
    total: int
    used: int
    budget: int | None
    budget_at: float | None  # None: no budget, or above the box
    zoomed: bool  # only the handles are shown, and the axis does not end at `total`
    layers: tuple[Layer, ...]  # the highest first: each is drawn over the one before
    unit: str  # of the ticks upwards
    y_ticks: tuple[plots.Tick, ...]
    x_ticks: tuple[plots.Tick, ...]
    window: str  # how long a time is shown
    sensors: tuple[Sensor, ...]
    source: str
    bandwidth: float | None  # bytes a second


def chart(
    seen: Sequence[MemoryReport],
    window: int,
    place: str,
    colours: Mapping[str, int],
    bandwidth: float | None = None,
) -> Chart:
    """`seen`: oldest first, at least one, all within `window` seconds of the last, which is now."""
    now = seen[-1]
    xs = [round(plots.BOX * (1 - (now.time - report.time) / window)) for report in seen]
    gpu = _gpu(now, place)
    total, used = _memory(now, place)

    held_by, last = _held(seen, place)
    order = sorted(last, key=lambda id: (colours[id], id))
    sums = [0] * len(seen)
    tops: dict[str, list[int]] = {}
    for id in order:
        sums = tops[id] = [a + b for a, b in zip(sums, held_by[id], strict=True)]

    largest = max(sums)
    zoomed = 0 < largest < _TINY * total
    # One axis for memory: its steps are round in the unit that they are written in.
    unit = 2**30 if (largest if zoomed else total) >= 1000 * 2**20 else 2**20
    axis, step = plots.scale((largest if zoomed else total) / unit)
    end = axis * unit if zoomed else float(total)

    def ys(levels: Sequence[int]) -> list[int]:
        return [round(plots.BOX * (1 - min(level, end) / end)) for level in levels]

    present = {worker.id: worker for worker in now.workers}
    layers = [
        Layer(
            name=last[id].file,
            colour=colours[id],
            now=present[id].held_at(place) if id in present else 0,
            gone=id not in present,
            parts=_parts(present[id], place) if id in present else "",
            path=plots.area(xs, ys(tops[id])),
        )
        for id in order
    ]
    others = [max(0, _memory(report, place)[1] - held) for report, held in zip(seen, sums, strict=True)]
    layers.append(
        Layer(
            name=_name_of_others(now, place),
            colour=None,
            now=others[-1],
            gone=False,
            parts="",
            path="" if zoomed else plots.area(xs, ys([a + b for a, b in zip(sums, others, strict=True)])),
        )
    )
    budget = now.budgets.get(place)
    return Chart(
        place=place,
        name=gpu.name if gpu else f"{machine_of(place) or 'this machine'}'s memory",
        total=total,
        used=used,
        budget=budget,
        budget_at=round(100 * budget / end, 2) if budget is not None and budget <= end else None,
        zoomed=zoomed,
        layers=tuple(layers[::-1]),
        unit="GiB" if unit == 2**30 else "MiB",
        y_ticks=tuple(
            plots.Tick(round(100 * v * unit / end, 2), f"{v:g}") for v in plots.ticks(axis, step) if v * unit <= end
        ),
        x_ticks=_minutes(window),
        window=_span(window),
        sensors=_sensors(seen, xs, place) if gpu else (),
        source=gpu.source if gpu else "",
        bandwidth=bandwidth,
    )


def _held(seen: Sequence[MemoryReport], place: str) -> tuple[dict[str, list[int]], dict[str, WorkerMemory]]:
    """Bytes at the place in each report, and how each was seen last, of all workers that may have held something."""
    held_by: dict[str, list[int]] = {}
    last: dict[str, WorkerMemory] = {}
    for at, report in enumerate(seen):
        for worker in report.workers:
            held = worker.held_at(place)
            if held != 0:
                held_by.setdefault(worker.id, [0] * len(seen))[at] = held or 0
                last[worker.id] = worker
    return held_by, last


def _name_of_others(now: MemoryReport, place: str) -> str:
    name = "the rest of the machine" if _gpu(now, place) is None else "other processes"
    hidden = any(worker.bytes is None and place in worker.places for worker in now.workers)
    return f"{name}, and handles whose memory is hidden" if hidden else name


def thinned(history: Sequence[MemoryReport], window: float) -> list[MemoryReport]:
    """At most about _POINTS of the reports within `window` seconds of the newest, which is the last.

    Of those that fall into one step the one in which the workers hold most: a short peak must not go. Steps are cut by
    the clock, so that a line does not tremble as time goes on.
    """
    now = history[-1].time
    step = math.ceil(window / _POINTS)
    steps = itertools.groupby(
        (report for report in history[:-1] if now - report.time <= window), lambda report: report.time // step
    )
    kept = [max(reports, key=lambda report: sum(w.bytes or 0 for w in report.workers)) for _, reports in steps]
    return [*kept, history[-1]]


def _gpu(report: MemoryReport, place: str) -> GpuMemory | None:
    return next((gpu for gpu in report.gpus if gpu.place == place), None)


def _memory(report: MemoryReport, place: str) -> tuple[int, int]:
    """Total and used bytes; 0 if the report does not tell."""
    if place == HOST:
        return report.host_total_bytes, report.host_total_bytes - report.host_available_bytes
    for machine in report.machines:
        if place == place_on(machine.name, HOST) and machine.host_total_bytes and machine.host_available_bytes:
            return machine.host_total_bytes, machine.host_total_bytes - machine.host_available_bytes
    gpu = _gpu(report, place)
    return (gpu.total_bytes, gpu.used_bytes) if gpu else (0, 0)


def _parts(worker: WorkerMemory, place: str) -> str:
    parts: MemoryParts | None = worker.forecast.parts.get(place) if worker.forecast else None
    if parts is None:
        return ""
    named = {
        "weights": parts.weights,
        "key-value cache": parts.kv_cache,
        "buffers": parts.compute,
        "process": parts.process,
    }
    return ", ".join(f"{name} {number_format.memory(n)}" for name, n in named.items() if n)


def _span(seconds: int) -> str:
    return f"{seconds} s" if seconds <= 60 else f"{seconds / 60:g} min"


def _minutes(window: int) -> tuple[plots.Tick, ...]:
    """Percent from the left."""
    step = 15 if window == 60 else 30 if window == 120 else window // 5
    labels = [(ago, f"−{ago} s" if window <= 60 else f"−{ago / 60:g} min") for ago in range(window, 0, -step)]
    return (*(plots.Tick(round(100 * (1 - ago / window), 1), text) for ago, text in labels), plots.Tick(100, "now"))


def _sensors(seen: Sequence[MemoryReport], xs: Sequence[int], place: str) -> tuple[Sensor, ...]:
    gpus = [_gpu(report, place) for report in seen]

    def sensor(name: str, values: Sequence[float | None], end: float | None, shown: str) -> Sensor:
        known = [v for v in values if v is not None]
        top = end or max(known, default=1.0) or 1.0
        value = "unknown" if values[-1] is None else shown.format(values[-1])
        return Sensor(name, value, plots.spark(xs, [None if v is None else v / top for v in values]))

    return (
        sensor("utilisation", [gpu.utilization if gpu else None for gpu in gpus], 1.0, "{:.0%}"),
        sensor("temperature", [gpu.temperature_c if gpu else None for gpu in gpus], 100.0, "{:.0f} °C"),
        sensor("power", [gpu.power_w if gpu else None for gpu in gpus], None, "{:.0f} W"),
    )


@dataclass(frozen=True, slots=True)
class HandleRow:
    worker: WorkerMemory
    colour: int
    role: str
    use: str
    error: str
    off: bool  # the forecast was further from the peak than it should be
    parts: str


def handle_row(worker: WorkerMemory, colours: Mapping[str, int]) -> HandleRow:
    forecast, peak = worker.forecast_bytes, worker.peak_bytes
    error = forecast / peak - 1 if forecast is not None and peak else None
    use = f"idle {lasted(worker.idle_s)}" if not worker.leases else "leased"
    if worker.leases and worker.sequences > 1:
        use = f"leased, up to {worker.sequences} questions at once"
    return HandleRow(
        worker=worker,
        colour=colours[worker.id],
        role=_ROLES[worker.role],
        use=f"leased {worker.leases} times" if worker.leases > 1 else use,
        error=number_format.UNKNOWN if error is None else f"{error:+.1%}".replace("-", "−"),
        off=error is not None and abs(error) > _OFF,
        parts="; ".join(
            f"{place}: {parts}"
            for place in (worker.forecast.parts if worker.forecast else ())
            if (parts := _parts(worker, place))
        ),
    )


@dataclass(frozen=True, slots=True)
class QueueRow:
    place: str  # where it runs, or its number in line
    runs: bool
    yours: bool
    files: str
    waited: str


def waiting(queue: Sequence[QueuedRun], person: str | None) -> list[QueueRow]:
    lines = itertools.count(1)
    return [
        QueueRow(
            place=queued.place if queued.place is not None else str(next(lines)),
            runs=queued.place is not None,
            yours=bool(queued.who) and queued.who == person,
            files=", ".join(queued.files),
            waited=lasted(queued.waited_s),
        )
        for queued in queue
    ]


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A machine of the cluster."""

    name: str  # "": the page's own
    gpus: str
    memory: str
    engine: str
    runs: int
    arriving: tuple[str, ...]  # files that it is getting
    copies: str  # of models that the page has sent there
    problem: str


def machine_rows(report: MemoryReport) -> list[MachineRow]:
    """The page's own machine first; none where there is no other."""
    if not report.machines:
        return []
    engine = next((machine.engine for machine in report.machines if machine.engine), "")  # all have the same
    own = MachineMemory("", report.host_total_bytes, report.host_available_bytes, engine=engine)
    return [
        MachineRow(
            name=machine.name,
            gpus=", ".join(gpu.name for gpu in report.gpus if gpu.machine == machine.name)
            or machine.processor
            or ("" if machine.problem else "no GPU"),
            memory=_free(machine.host_available_bytes, machine.host_total_bytes),
            engine=machine.engine,
            runs=sum(queued.is_on(machine.name) for queued in report.queue),
            arriving=tuple(
                f"{file.file}: {number_format.memory(file.done)} of {number_format.memory(file.total)}"
                for file in machine.arriving
            ),
            copies=_copies(machine),
            problem=machine.problem,
        )
        for machine in (own, *report.machines)
    ]


def _copies(machine: MachineMemory) -> str:
    if not machine.copies_bytes or machine.most_copies_bytes is None:
        return ""
    return f"{number_format.memory(machine.copies_bytes)} of {number_format.memory(machine.most_copies_bytes)}"


def _free(available: int | None, total: int | None) -> str:
    if available is None or total is None:
        return ""
    return f"{number_format.memory(available)} of {number_format.memory(total)} free"


def lasted(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
