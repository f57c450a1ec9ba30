"""What Ray adds, how soon a machine that joins is used, and what a second place gives to a measurement.

`python -m bench.cluster`, with the extra cluster. Both nodes share the processor, so the figures hold no network.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from bench import cluster_hops
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob, MeasureRequest
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan
from playground.quantizing import quantizer
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.files import Half, Variant
from playground.values.memory import WorkerRole
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts
from testkit.running import MODEL, PROJECTOR

RUNTIME = Runtime(n_ctx=512)
OTHERS = ("Q8_0", "Q6_K", "Q5_K_M", "Q5_0", "Q4_K_M", "Q4_0", "Q3_K_M")  # of 8 variants; the F16 file is the reference
FEW = 6  # questions
LEAST_S = 60.0  # that the long measurement takes on one place


def questions_of(parts: Parts) -> QuestionSet:
    return question_sets.embedded(parts.evaluation, level="hard")


def joined(parts: Parts, cluster: Any) -> None:
    """From a node that is up to a place of the page."""
    cluster.add_node(num_cpus=1, node_name="box3")
    began = time.perf_counter()
    while "box3 · host" not in parts.pool.devices.host_places:
        time.sleep(0.02)
    print(f"a machine that joins is used {time.perf_counter() - began:.1f} s after its node is up (goal 5)")


def eight(parts: Parts, folder: Path) -> tuple[Variant, ...]:
    variants = [parts.catalog.open_pair(MODEL, PROJECTOR)]
    for quantization in OTHERS:
        file = folder / f"tiny-{quantization}.gguf"
        quantizer.make(MODEL, file, quantization, parts.pool, Half.MODEL)
        variants.append(replace(parts.catalog.read_pair(file, PROJECTOR), id=quantization))
    return tuple(variants)


def measured_s(
    parts: Parts, variants: tuple[Variant, ...], folder: Path, n: int, plan: MeasurementPlan
) -> tuple[float, float, Measurement]:
    """Seconds of a measurement of which nothing is known, and of them those of the reference alone.

    Each worker has one thread, so that two places are twice as much as one.
    """
    questions, runtime = questions_of(parts).first(n), replace(RUNTIME, n_threads=1)
    request = MeasureRequest(questions, variants, variants[0].id, plan, runtime)
    for role in (WorkerRole.LANGUAGE, WorkerRole.VISION):
        parts.pool.unload(role)
    began, alone_s = time.perf_counter(), 0.0
    for update in MeasureJob(replace(parts.lab, results=ResultCache(folder, "engine")), request).run():
        if isinstance(update, Measurement):
            return time.perf_counter() - began, alone_s, update
        is_spread = "against itself" in update.what or not update.what.startswith(f"{variants[0].label} ")
        if is_spread and not alone_s:
            alone_s = time.perf_counter() - began
    raise AssertionError


def spread(parts: Parts, variants: tuple[Variant, ...], folder: Path, n: int, plan: MeasurementPlan) -> float:
    """Seconds on one place. The pictures are encoded before: the page keeps them."""
    measured_s(parts, variants[:1], folder / "pictures", n, plan)
    one = replace(parts, pool=parts.pool.at(("host",)))
    one_s, alone_s, on_one = measured_s(one, variants, folder / "one", n, plan)
    two_s, _, on_two = measured_s(parts, variants, folder / "two", n, plan)
    at_best = one_s / (alone_s + (one_s - alone_s) / 2)
    print(f"{len(variants)} variants, {n} questions: {one_s:.1f} s on one place, {two_s:.1f} s on two")
    print(f"ratio {one_s / two_s:.2f}, at best {at_best:.2f}: the reference answers alone for {alone_s:.1f} s")
    print(f"the results are {'equal' if on_one.results == on_two.results else 'DIFFERENT'}")
    return one_s


def measurements(parts: Parts, folder: Path) -> None:
    variants = eight(parts, folder)
    measured_s(parts, variants, folder / "warm", FEW, MeasurementPlan())  # copies the files
    few_s = spread(parts, variants, folder / "few", FEW, MeasurementPlan(accuracy=True))
    # Drift has each variant read the answers once more with two threads, which takes both cores from one place: only
    # answers say what a second place with cores of its own gives.
    many = min(len(questions_of(parts).items), math.ceil(2 * FEW * LEAST_S / few_s))
    spread(parts, variants, folder / "many", many, MeasurementPlan(drift=False, accuracy=True))


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, node_name="box2")
    cluster_hops.stamp_everywhere()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_dir=Path(folder), cluster=cluster.address)
        with open_parts(settings, any_folder=True) as parts:
            cluster_hops.report(parts, ("host", "box2 · host"))
            measurements(parts, Path(folder))
            joined(parts, cluster)
    cluster.shutdown()


if __name__ == "__main__":
    main()
