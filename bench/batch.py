"""Many questions at once against one at a time, and against llama-server: the same questions to a random pair."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import PIL.Image
import psutil

from bench import engine
from playground.comparing.lab import Lab
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan
from playground.support.result_cache import ResultCache
from playground.values.files import Variant

PARTS = ("accuracy", "eight", "drift", "server")

_PROCESSES = ("processor app", "processor workers")
_CLIENTS = 16
_START_S = 300.0
_WORDS = ("colour", "shape", "number", "place", "size", "kind", "side", "name")


def measure(
    ready: engine.Bench, n: int, tokens: int, n_variants: int, server: Path | None, only: str | None
) -> dict[str, float]:
    """Each part prints as it ends. `only`: one of PARTS. `server`: the program llama-server, for the last one.

    Of either way: the seconds with the models loaded, and those of a first measurement of two questions, which loads
    them. `differ`: answers that are not those of one at a time.
    """
    numbers: dict[str, float] = {"questions": n, "tokens": tokens, "variants": n_variants}
    variants = ready.variants[:n_variants]
    accuracy = MeasurementPlan(drift=False, accuracy=True, max_tokens=tokens)
    if only in (None, "accuracy"):
        numbers |= _both(ready, "accuracy", _questions(ready, n, 1), accuracy, variants)
    if only in (None, "eight"):
        numbers |= _both(ready, "eight", _questions(ready, n, 8), accuracy, variants)
    if only in (None, "drift"):
        numbers |= _both(ready, "drift", _questions(ready, n, 1), MeasurementPlan(max_tokens=tokens), variants)
    if server is not None and only in (None, "server"):
        numbers |= _against_server(ready, _questions(ready, n, 1), accuracy, server)
    return numbers


def _both(
    ready: engine.Bench, name: str, question_set: QuestionSet, plan: MeasurementPlan, variants: tuple[Variant, ...]
) -> dict[str, float]:
    ways = {"batched": None, "alone": 1}
    numbers: dict[str, float] = {}
    measured = {}
    for way, sequences in ways.items():
        with engine.fresh_lab() as lab:
            first = _run(ready, replace(lab, sequences=sequences), _warming(ready), plan, variants)[0]
            before = _processor_s()
            last, phases = _run(ready, replace(lab, sequences=sequences), question_set, plan, variants)
            phases |= {who: seconds - before[who] for who, seconds in _processor_s().items()}
        measured[way] = last
        numbers |= {f"{name}_{way}_s": last.elapsed_s, f"{name}_{way}_loads_s": first.elapsed_s}
        print(f"  {name}, {way}: {last.elapsed_s:.1f} s, and {first.elapsed_s:.1f} s with the loads before", flush=True)
        for phase, seconds in phases.items():
            print(f"    {phase:12} {seconds:10.2f}", flush=True)
            numbers[f"{name}_{way}_{phase}"] = seconds
    pairs = [
        (a.text, b.text)
        for alone, other in zip(measured["alone"].results, measured["batched"].results, strict=True)
        for a, b in zip(alone.items, other.items, strict=True)
    ]
    alone, batched = measured["alone"].elapsed_s, measured["batched"].elapsed_s
    loads = {way: numbers[f"{name}_{way}_loads_s"] for way in ways}
    used = {way: sum(numbers[f"{name}_{way}_{who}"] for who in _PROCESSES) for way in ways}
    numbers |= {
        f"{name}_ratio": alone / batched,
        f"{name}_ratio_processor": used["alone"] / used["batched"],
        f"{name}_ratio_with_loads": (alone + loads["alone"]) / (batched + loads["batched"]),
        f"{name}_differ": sum(a != b for a, b in pairs) / len(pairs),
    }
    print(f"  {name}: {alone / batched:.2f} x, by the processor {numbers[f'{name}_ratio_processor']:.2f} x", flush=True)
    return numbers


def _processor_s() -> dict[str, float]:
    """Of this process, and of its workers: what other programs do on the machine changes it little."""
    own, workers = psutil.Process(), 0.0
    for worker in own.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            workers += sum(worker.cpu_times()[:2])
    return dict(zip(_PROCESSES, (sum(own.cpu_times()[:2]), workers), strict=True))


def _run(
    ready: engine.Bench, lab: Lab, question_set: QuestionSet, plan: MeasurementPlan, variants: tuple[Variant, ...]
) -> tuple[Measurement, dict[str, float]]:
    """Also what the batches were made of; on a GPU images are encoded while answers are written."""
    request = MeasureRequest(question_set, variants, variants[0].id, plan, replace(ready.runtime, n_ctx=None))
    job = MeasureJob(lab, request)
    *_, last = job.run()
    assert isinstance(last, Measurement)
    for problem in last.problems:  # random weights: answers end in loops
        print(f"    {problem}", flush=True)
    return last, job.steps.phases


def _against_server(
    ready: engine.Bench, question_set: QuestionSet, plan: MeasurementPlan, server: Path
) -> dict[str, float]:
    """One variant each: the same questions from 16 clients to `llama-server -np 16`, and in a measurement."""
    numbers: dict[str, float] = {}
    for variant in (v for v in ready.variants if v.model.quantization in ("F16", "Q4_K_M")):
        with engine.fresh_lab() as lab:
            _run(ready, lab, _warming(ready), plan, (variant,))
            ours = _run(ready, lab, question_set, plan, (variant,))[0].elapsed_s
            with tempfile.TemporaryDirectory() as folder:
                results = ResultCache(Path(folder), "bench")
                again = _run(ready, replace(lab, results=results), question_set, plan, (variant,))[0].elapsed_s
                results.close()
        with _served(ready, variant, server) as address, ThreadPoolExecutor(_CLIENTS) as clients:
            list(clients.map(lambda q: _ask(ready, address, q, 2), _warming(ready).items))
            started = time.perf_counter()
            list(clients.map(lambda q: _ask(ready, address, q, plan.max_tokens), question_set.items))
            theirs = time.perf_counter() - started
        name = variant.model.quantization.lower()
        numbers |= {
            f"server_{name}_s": theirs,
            f"ours_{name}_s": ours,
            f"server_{name}_ratio": theirs / ours,
            f"server_{name}_ratio_images_known": theirs / again,
        }
        print(f"  {name}: llama-server {theirs:.1f} s, ours {ours:.1f} s, {theirs / ours:.2f} x", flush=True)
    return numbers


@contextlib.contextmanager
def _served(ready: engine.Bench, variant: Variant, server: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        str(server), "-m", variant.model.path, "--mmproj", variant.projector.path, "-np", str(_CLIENTS),
        "-c", str(_CLIENTS * 1024), "-ngl", "99" if ready.gpu else "0", "-fa", ready.flash_attention,
        "-t", str(ready.threads), "--port", str(port), *([] if ready.gpu else ["--no-mmproj-offload"]),
    ]  # fmt: skip
    with open(ready.folder / "server.log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            _await(f"http://127.0.0.1:{port}/health", process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(address, timeout=5) as reply:
            if reply.status == 200:
                return
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError("llama-server did not start: server.log in the folder says why")


def _ask(ready: engine.Bench, address: str, question: Question, tokens: int) -> None:
    picture = base64.b64encode((ready.folder / question.image).read_bytes()).decode()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "text", "text": question.question},
    ]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": tokens, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as reply:
        json.load(reply)


def _warming(ready: engine.Bench) -> QuestionSet:
    """Two questions about pictures that no other question has."""
    return _questions(ready, 2, 1, first=10_000)


def _questions(ready: engine.Bench, n: int, per_picture: int, first: int = 0) -> QuestionSet:
    questions = []
    for k in range(n):
        number = first + k // per_picture
        picture = f"noise-{number}.png"
        if not (ready.folder / picture).exists():
            noise = ready.picture(number)
            PIL.Image.frombytes("RGB", (noise.width, noise.height), noise.rgb).save(ready.folder / picture)
        text = f"{engine.PROMPT} Look at its {_WORDS[k % len(_WORDS)]}, please."
        questions.append(Question(picture, text, ("x",), question_sets.Rule.CONTAINS))
    return QuestionSet("noise", questions, ready.folder)
