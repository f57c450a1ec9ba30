"""What Ray adds, and what a second place gives: requests and a measurement on this host and on a second Ray node.

`python -m bench.cluster`, with the extra cluster. Both nodes share the processor, so the figures hold no network.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
os.environ |= {"PYTHONPATH": str(Path(__file__).parents[1]), "RAY_USAGE_STATS_ENABLED": "0"}

from ray.cluster_utils import Cluster

from bench import cluster_hops
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob, MeasureRequest
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
QUESTIONS = 6


def eight(parts: Parts, folder: Path) -> tuple[Variant, ...]:
    variants = [parts.catalog.open_pair(MODEL, PROJECTOR)]
    for quantization in OTHERS:
        file = folder / f"tiny-{quantization}.gguf"
        quantizer.make(MODEL, file, quantization, parts.pool, Half.MODEL)
        variants.append(replace(parts.catalog.read_pair(file, PROJECTOR), id=quantization))
    return tuple(variants)


def measured_s(parts: Parts, variants: tuple[Variant, ...], folder: Path) -> tuple[float, float, Measurement]:
    """Seconds of a measurement of which nothing is known, and of them those of the reference alone.

    Each worker has one thread, so that two places are twice as much as one.
    """
    questions = question_sets.embedded(parts.evaluation, level="hard").first(QUESTIONS)
    plan, runtime = MeasurementPlan(accuracy=True), replace(RUNTIME, n_threads=1)
    request = MeasureRequest(questions, variants, variants[0].id, plan, runtime)
    for role in (WorkerRole.LANGUAGE, WorkerRole.VISION):
        parts.pool.unload(role)
    began, alone_s = time.perf_counter(), 0.0
    for update in MeasureJob(replace(parts.lab, results=ResultCache(folder, "engine")), request).run():
        if isinstance(update, Measurement):
            return time.perf_counter() - began, alone_s, update
        if not alone_s and ("drift" in update.what or "against itself" in update.what):
            alone_s = time.perf_counter() - began
    raise AssertionError


def spread(parts: Parts, folder: Path) -> None:
    variants = eight(parts, folder)
    measured_s(parts, variants, folder / "warm")  # copies the files, and encodes the pictures
    one_s, alone_s, on_one = measured_s(replace(parts, pool=parts.pool.at(("host",))), variants, folder / "one")
    two_s, _, on_two = measured_s(parts, variants, folder / "two")
    at_best = one_s / (alone_s + (one_s - alone_s) / 2)
    print(f"{len(variants)} variants, {QUESTIONS} questions: {one_s:.1f} s on one place, {two_s:.1f} s on two")
    print(
        f"ratio {one_s / two_s:.2f} (goal 1.7), at best {at_best:.2f}: the reference answers alone for {alone_s:.1f} s"
    )
    print(f"the results are {'equal' if on_one.results == on_two.results else 'DIFFERENT'}")


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1, node_name="box2")
    cluster_hops.stamp_everywhere()
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(cache_dir=Path(folder), cluster=cluster.address)
        with open_parts(settings, any_folder=True) as parts:
            cluster_hops.report(parts, ("host", "box2 · host"))
            spread(parts, Path(folder))
    cluster.shutdown()


if __name__ == "__main__":
    main()
