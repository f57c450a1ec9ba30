"""The memory strip at the top of each page: what the loaded models hold, by place."""

from __future__ import annotations

from dataclasses import dataclass

import markupsafe

from playground.rendering.templating import markup
from playground.values.memory import HOST, MemoryReport, WorkerRole


@dataclass(frozen=True, slots=True)
class _Meter:
    """One place's share of the strip; percent of what the workers may take there together."""

    name: str
    held: int | None
    budget: int
    projectors: float
    models: float
    utilization: float | None


def html(report: MemoryReport) -> markupsafe.Markup:
    return markup("memory.html", report=report, meters=[_meter(report, place) for place in report.places])


def _meter(report: MemoryReport, place: str) -> _Meter:
    held = [worker.held_at(place) for worker in report.workers]
    total = sum(n or 0 for n in held)
    projectors = sum(w.held_at(place) or 0 for w in report.workers if w.role is WorkerRole.VISION)
    budget = report.budgets.get(place, report.budget_bytes)
    scale = 100 / max(budget, total, 1)
    gpu = next((gpu for gpu in report.gpus if gpu.place == place), None)
    return _Meter(
        name="CPU" if place == HOST else gpu.name if gpu is not None and len(report.gpus) == 1 else place,
        held=None if None in held else total,
        budget=budget,
        projectors=projectors * scale,
        models=(total - projectors) * scale,
        utilization=gpu.utilization if gpu else None,
    )
