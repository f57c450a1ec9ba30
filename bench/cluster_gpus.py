"""What the second GPU of a host gives to a measurement: as a place of one pool, and as a machine of a Ray cluster.

`python -m bench cluster --gpu --size 3b`: a random pair and seven quantizations of it are made there. Without the
extra cluster only the first is measured.
"""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path

import PIL.Image

from bench import engine
from bench.spread import Spread, spread
from playground.comparing.lab import Lab
from playground.measuring import question_sets
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import MeasurementPlan
from playground.pool.pool import Pool
from playground.pool.sensors import LocalSensors

VARIANTS = ("Q8_0", "Q6_K", "Q5_1", "Q5_0", "Q4_K_M", "Q4_1", "Q4_0")  # and the F16 file, which is the reference
GOAL = 1.8
_TOKENS = 60
_STORE_BYTES = 4 * 2**30  # of a node's object store; `ray start` takes 30 % of the memory, a node of a test 150 MB
_WAIT_S = 120.0


def measure(size: str, folder: Path, tools: Path, threads: int, n_questions: int) -> dict[str, float]:
    if len(LocalSensors(os.environ.get("CUDA_VISIBLE_DEVICES")).gpus()) != 2:
        raise SystemExit("`cluster --gpu` needs two GPUs: name them in CUDA_VISIBLE_DEVICES.")
    began = time.perf_counter()
    ready = engine.prepare(size, folder, tools, gpu=True, threads=threads, quantizations=VARIANTS)
    request, numbers = _request(ready, n_questions), dict[str, float]()
    print(f"files made in {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{len(request.variants)} variants, {n_questions} questions; goal {GOAL} x", flush=True)
    with engine.fresh_lab() as lab:
        numbers |= _said("two places of one host", _spread(lab, request, ready.folder / "one pool"))
    if importlib.util.find_spec("ray") is None:
        print("The extra cluster is not installed: the same over Ray was not measured.", flush=True)
        return numbers
    return numbers | _said("two machines of a Ray cluster, on one host", _over_ray(request, ready.folder))


def _request(ready: engine.Bench, n: int) -> MeasureRequest:
    names = [f"noise-{k}.png" for k in range(n)]
    for k, name in enumerate(names):
        noise = ready.picture(k)
        PIL.Image.frombytes("RGB", (noise.width, noise.height), noise.rgb).save(ready.folder / name)
    questions = [question_sets.Question(name, engine.PROMPT) for name in names]
    plan = MeasurementPlan(accuracy=True, max_tokens=_TOKENS)
    question_set = question_sets.QuestionSet("noise", questions, ready.folder)
    return MeasureRequest(question_set, ready.variants, ready.variants[0].id, plan, ready.runtime)


def _spread(lab: Lab, request: MeasureRequest, folder: Path) -> Spread:
    first = lab.pool.devices.gpu_places[0]
    return spread(lab, request, (first,), folder, told=True)


def _over_ray(request: MeasureRequest, folder: Path) -> Spread:
    """The page sees the first GPU, and the other node the second. Its agent finds the files in the same folder."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef"}
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH"))))
    os.environ |= {"PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ |= {"PLAYGROUND_MODEL_DIRS": str(folder), "PLAYGROUND_CACHE_DIR": str(folder / "box2")}
    from ray.cluster_utils import Cluster  # noqa: PLC0415  reads the environment

    from playground.settings import Settings  # noqa: PLC0415  needs more of the app than a pool does
    from playground.wiring import open_parts  # noqa: PLC0415

    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    try:
        os.environ["CUDA_VISIBLE_DEVICES"] = "1"
        nodes.add_node(num_cpus=1, node_name="box2", object_store_memory=_STORE_BYTES)
        settings = Settings(cache_dir=folder / "page", cluster=nodes.address, cuda_visible_devices="0")
        with open_parts(settings, any_folder=True) as parts:
            _wait(parts.pool)
            return _spread(parts.lab, request, folder / "over Ray")
    finally:
        nodes.shutdown()


def _wait(pool: Pool) -> None:
    deadline = time.monotonic() + _WAIT_S
    while len(pool.devices.gpu_places) < 2:
        if time.monotonic() > deadline:
            raise SystemExit(f"box2 has not joined with its GPU: {pool.memory().machines}")
        time.sleep(0.1)


def _said(what: str, measured: Spread) -> dict[str, float]:
    print(f"{what}: {measured.one_s:.1f} s on one, {measured.all_s:.1f} s on two", flush=True)
    print(f"  ratio {measured.ratio:.2f} (goal {GOAL}); {measured.differ} answers and drifts differ", flush=True)
    return {f"{what}: {name}": value for name, value in measured._asdict().items()} | {f"{what}: ratio": measured.ratio}
