"""What Ray adds, what a second place gives to a measurement, and how soon machines that come and go are noticed.

`python -m bench cluster`, with the extra cluster: one table with goals, in less than 10 minutes. All nodes share the
processor, so only the faults' figures hold a network, between two namespaces.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from bench import cluster_faults, cluster_hops
from bench.cluster_faults import Row
from bench.spread import Spread, spread
from playground.measuring import question_sets
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import MeasurementPlan
from playground.quantizing import quantizer
from playground.settings import Settings
from playground.values.files import Half, Variant
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts
from testkit.running import MODEL, PROJECTOR

# One thread a worker, so that two places are twice as much as one.
RUNTIME = Runtime(n_ctx=512, n_threads=1)
OTHERS = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "Q3_K_M")  # of 8 variants; the F16 file is the reference
FEW = 6  # questions
LEAST_S = 60.0  # that the long measurement takes on one place


def joins(parts: Parts, cluster: Any) -> Row:
    """From a node that is up to a place of the page."""
    cluster.add_node(num_cpus=1, node_name="box3")
    began = time.perf_counter()
    while "box3 · host" not in parts.pool.devices.host_places:
        time.sleep(0.02)
    return "a machine that joins is used after, s", time.perf_counter() - began, 5.0


def eight(parts: Parts, folder: Path) -> tuple[Variant, ...]:
    variants = [parts.catalog.open_pair(MODEL, PROJECTOR)]
    for quantization in OTHERS:
        file = folder / f"tiny-{quantization}.gguf"
        quantizer.make(MODEL, file, quantization, parts.pool, Half.MODEL)
        variants.append(replace(parts.catalog.read_pair(file, PROJECTOR), id=quantization))
    return tuple(variants)


def measured(parts: Parts, variants: tuple[Variant, ...], folder: Path, n: int, plan: MeasurementPlan) -> Spread:
    questions = question_sets.embedded(parts.evaluation, level="hard").first(n)
    request = MeasureRequest(questions, variants, variants[0].id, plan, RUNTIME)
    both = spread(parts.lab, request, ("host",), folder)
    print(f"{len(variants)} variants, {len(questions.items)} questions, {plan}: {both}", flush=True)
    return both


def measurements(parts: Parts, folder: Path, least_s: float) -> Iterator[Row]:
    variants = eight(parts, folder)
    few = measured(parts, variants, folder / "few", FEW, MeasurementPlan(accuracy=True))
    yield "8 variants, 6 questions with drift: on two places, times as fast", few.ratio, None
    # Drift has each variant read the answers once more with two threads, which takes both cores from one place: only
    # answers say what a second place with cores of its own gives.
    n = math.ceil(2 * FEW * least_s / few.one_s)
    many = measured(parts, variants, folder / "many", n, MeasurementPlan(drift=False, accuracy=True))
    yield f"8 variants, {n} questions, answers alone: on two places, times as fast", many.ratio, 1.7
    yield "answers and drifts that differ from those on one place", few.differ + many.differ, 0.0


def rows(folder: Path, least_s: float) -> Iterator[Row]:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, node_name="box2")
    os.environ["PLAYGROUND_CACHE_DIR"] = str(folder / "box2")
    cluster_hops.stamp_everywhere()
    settings = Settings(cache_dir=folder / "page", cluster=cluster.address)
    with open_parts(settings, any_folder=True) as parts:
        yield from cluster_hops.rows(parts, ("host", "box2 · host"))
        yield from measurements(parts, folder, least_s)
        yield joins(parts, cluster)
    cluster.shutdown()
    yield from cluster_faults.measure(folder)


def measure(folder: Path, least_s: float = LEAST_S) -> dict[str, float]:
    began, numbers, lines = time.perf_counter(), dict[str, float](), list[str]()
    for what, value, goal in rows(folder, least_s):
        numbers[what.strip()] = value
        mark = "" if goal is None else "kept" if _keeps(value, goal) else "missed"
        lines.append(f"{what:76} {value:8.2f} {'' if goal is None else f'{goal:g}':>6} {mark}")
        print(lines[-1], flush=True)
    load, took_s = os.getloadavg()[1], time.perf_counter() - began
    print(f"\n{'':76} {'measured':>8} {'goal':>6}", *lines, sep="\n")
    print(f"{took_s:.0f} s on {os.cpu_count()} cores, at a load of {load:.1f} in the last 5 minutes.")
    print(_HELD_BACK)
    return numbers


_HELD_BACK = """What holds it back on two cores: the page, Ray's two nodes and the workers share them, and with drift
each variant reads the answers once more with two threads, which takes both cores from one place.
Quiet means a load below 0.5 before it begins; beside other work the figures of the second place say nothing."""


def _keeps(value: float, goal: float) -> bool:
    """More is better of a ratio, less of seconds and differences."""
    return value >= goal if goal == 1.7 else value <= goal


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


if __name__ == "__main__":
    main()
