"""What a second place gives to a measurement: the same variants and questions on one place, and on all of them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from playground.comparing.lab import Lab
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, Progress
from playground.pool.turn_order import Places
from playground.support.result_cache import ResultCache
from playground.values.memory import WorkerRole


class Spread(NamedTuple):
    one_s: float
    all_s: float
    differ: int  # answers and drifts

    @property
    def ratio(self) -> float:
        return self.one_s / self.all_s


def spread(lab: Lab, request: MeasureRequest, place: Places, folder: Path, *, told: bool = False) -> Spread:
    """Nothing is known or loaded at the start of either. Before, all files are where they are needed, and the pictures
    are encoded: the page keeps them. `told`: say where the time goes."""
    reference = tuple(variant for variant in request.variants if variant.id == request.reference)
    one = replace(lab, pool=lab.pool.at(place))
    briefly = msgspec.structs.replace(request.plan, drift=False, max_tokens=1)
    for number, at in enumerate({place, *lab.pool.turn_options(())}):
        first = msgspec.structs.replace(request, questions=request.questions.first(1), plan=briefly)
        _measured(replace(lab, pool=lab.pool.at(at)), first, folder / f"warm {number}")
    _measured(one, msgspec.structs.replace(request, variants=reference), folder / "pictures")
    one_s, on_one = _measured(one, request, folder / "one", told=told)
    all_s, on_all = _measured(lab, request, folder / "all", told=told)
    return Spread(one_s, all_s, differences(on_one, on_all))


def differences(a: Measurement, b: Measurement) -> int:
    """How many answers, and drifts of an answer, are not the same to the last bit."""
    n = sum(ours != theirs for ours, theirs in zip(a.answers, b.answers, strict=True))
    for ours, theirs in zip(a.results, b.results, strict=True):
        n += sum(x != y for x, y in zip(ours.items, theirs.items, strict=True))
    return n


def _measured(lab: Lab, request: MeasureRequest, folder: Path, *, told: bool = False) -> tuple[float, Measurement]:
    """Also its seconds."""
    for role in (WorkerRole.LANGUAGE, WorkerRole.VISION):
        lab.pool.unload(role)
    job = MeasureJob(replace(lab, results=ResultCache(folder, "engine")), request)
    began, steps = time.perf_counter(), dict[str, list[float]]()
    for last in job.run():
        if isinstance(last, Progress):
            steps.setdefault(last.what, []).append(time.perf_counter() - began)
    assert isinstance(last, Measurement)
    seconds = time.perf_counter() - began
    if told:
        print(f"{folder.name}: {seconds:.1f} s")
        for what, ended in sorted(steps.items(), key=lambda step: step[1]):
            print(f"  {ended[0]:5.1f} to {ended[-1]:5.1f} s: {what}, {len(ended)} steps")
        phases = (f"{phase} {n:.1f}" for phase, n in job.steps.phases.items())
        print(f"  of the batches: {', '.join(phases)}", flush=True)
    return seconds, last
