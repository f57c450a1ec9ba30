"""/health, /health/ready and /metrics: of a real app, and of what a machine with GPUs would say."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from threading import Thread

import httpx
import msgspec
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.errors import BadInput, Busy, PlaygroundError
from playground.notebooks.cells import RunState
from playground.pool.pool import Pool
from playground.values.answer import ComparisonUpdate, Metrics, Pane, PaneState
from playground.values.memory import (
    HOST,
    Forecast,
    GpuMemory,
    MachineMemory,
    MemoryParts,
    MemoryReport,
    QueuedRun,
    SpareMemory,
    WorkerMemory,
    WorkerRole,
    WorkerState,
)
from playground.web import health
from playground.web.health import Health
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts
from testkit.notebooks import ANSWERED, compare_cell, run_of
from testkit.running import SCENE, WHAT
from testkit.webapp import WebApp

IDS = ["tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16"]


def samples(text: str) -> dict[str, float]:
    pairs = re.findall(r"^playground_(\S+?(?:\{.*\})?) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in pairs}


def measured(app: WebApp) -> dict[str, float]:
    return samples(httpx.get(f"{app.url}/metrics").text)


def test_app_when_the_embedded_model_has_answered_then_it_is_ready(app: WebApp) -> None:
    deadline = time.monotonic() + 30
    while (reply := httpx.get(f"{app.url}/health/ready")).status_code == 503:
        assert reply.json() == {"alive": True, "ready": False, "reason": "The embedded model has not answered yet."}
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert reply.status_code == 200
    assert httpx.get(f"{app.url}/health").json() == {"alive": True, "ready": True, "reason": None}


def test_metrics_when_a_comparison_has_run_then_it_is_counted(app: WebApp) -> None:
    client = Client(app.url, verbose=False)
    before = measured(app)
    *_, last = client.submit(handle_file(SCENE), WHAT, IDS, {"max_tokens": 7}, api_name="/compare")
    with pytest.raises(AppError, match="says <image> 2 times, and there is 1 image"):
        client.predict(handle_file(SCENE), "<image> or <image>?", IDS, {}, api_name="/compare")
    client.predict(handle_file(SCENE), WHAT, IDS[:1], {"chat_template": "{% if"}, api_name="/compare")
    client.close()
    after = measured(app)
    grown = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert last["done"]
    assert grown['runs_started_total{kind="compare"}'] == 3
    assert grown['runs_ended_total{kind="compare",outcome="done"}'] == 1
    assert grown['runs_ended_total{kind="compare",outcome="refused"}'] == 1
    assert grown['runs_ended_total{kind="compare",outcome="failed"}'] == 1
    assert grown['panes_ended_total{state="done"}'] == 2
    assert grown['panes_ended_total{state="failed"}'] == 1
    assert grown["generated_tokens_total"] == sum(len(pane["token_ids"]) for pane in last["panes"]) == 14
    assert grown['phase_seconds_count{phase="decode"}'] == 2
    assert 0 < grown['phase_seconds_sum{phase="decode"}'] < 10
    assert after['worker_bytes{place="host",role="language",state="ready"}'] > 20 * 2**20
    assert after["host_total_bytes"] > after["host_available_bytes"] > 0
    text = httpx.get(f"{app.url}/metrics").text
    assert "gguf" not in text


def worker(**changed: object) -> WorkerMemory:
    forecast = Forecast({"GPU 0": MemoryParts(900, 50), HOST: MemoryParts(7)}, "header")
    known = WorkerMemory(
        id="1", pid=42, role=WorkerRole.LANGUAGE, state=WorkerState.READY, file="secret-model.gguf", place="GPU 0",
        bytes=1000, host_rss_bytes=9, gpu_bytes=1000, measured_by="process", peak_bytes=1100, forecast=forecast,
        leases=0, pinned=False, idle_s=1.0,
    )  # fmt: skip
    return dataclasses.replace(known, **changed)  # type: ignore[arg-type]


def test_metrics_when_there_is_a_gpu_then_what_is_unknown_has_no_sample() -> None:
    report = MemoryReport(
        time=0.0,
        workers=(worker(), worker(bytes=500, peak_bytes=None), worker(role=WorkerRole.VISION, place=HOST)),
        gpus=(
            GpuMemory(0, "H100", 80_000, 20_000, utilization=0.5, temperature_c=40.0, power_w=300.0),
            GpuMemory(1, "H100", 80_000, 0),
        ),
        host_total_bytes=64_000,
        host_available_bytes=32_000,
        budgets={HOST: 10, "GPU 0": 70_000},
        queue=(QueuedRun("anna", ("secret-model.gguf",), 0.0, "GPU 0"), QueuedRun("bert", (), 3.0, None)),
        alarms=("secret-model.gguf: 5 GB did not come back",),
        spares=(SpareMemory(7, 40), SpareMemory(8, 50)),
    )
    text = RunMetrics(lambda: report).text().decode()
    values = samples(text)
    where = '{place="GPU 0",role="language",state="ready"}'
    assert values[f"workers{where}"] == 2
    assert values[f"worker_bytes{where}"] == 1500
    assert values[f"worker_forecast_bytes{where}"] == 1900
    assert f"worker_peak_bytes{where}" not in values
    assert values['gpu_used_bytes{gpu="0"}'] == 20_000
    assert values['gpu_used_bytes{gpu="1"}'] == 0
    assert values['gpu_utilization_ratio{gpu="0"}'] == 0.5
    assert not any("ratio" in name or "celsius" in name or "watts" in name for name in values if 'gpu="1"' in name)
    assert values['budget_bytes{place="GPU 0"}'] == 70_000
    assert values['queue_runs{state="running"}'] == values['queue_runs{state="waiting"}'] == 1
    assert values["memory_alarms"] == 1
    assert (values["spare_workers"], values["spare_worker_bytes"]) == (2, 90)
    assert not re.search("secret|anna|bert", text)


def test_metrics_when_there_are_several_machines_then_each_sample_says_of_which() -> None:
    report = MemoryReport(
        time=0.0,
        workers=(worker(place="box2 · GPU 0"),),
        gpus=(GpuMemory(0, "H100", 80_000, 20_000), GpuMemory(0, "L4", 24_000, 0, machine="box2")),
        host_total_bytes=64_000,
        host_available_bytes=32_000,
        budgets={HOST: 10, "box2 · GPU 0": 20_000},
        queue=(QueuedRun("anna", (), 0.0, "box2 · GPU 0"), QueuedRun("bert", (), 3.0, None)),
        machines=(MachineMemory("box2", 16_000, 8_000), MachineMemory("box3", problem="other versions")),
    )
    values = samples(RunMetrics(lambda: report).text().decode())
    assert values['gpu_total_bytes{gpu="0",machine=""}'] == 80_000
    assert values['gpu_total_bytes{gpu="0",machine="box2"}'] == 24_000
    assert values['host_total_bytes{machine="box2"}'] == 16_000
    assert 'host_total_bytes{machine="box3"}' not in values
    assert values['worker_bytes{machine="box2",place="box2 · GPU 0",role="language",state="ready"}'] == 1000
    assert values['budget_bytes{machine="box2",place="box2 · GPU 0"}'] == 20_000
    assert values['queue_runs{machine="box2",state="running"}'] == 1
    assert values['queue_runs{machine="",state="running"}'] == 0
    assert values['queue_runs{machine="",state="waiting"}'] == 1


def nothing_held() -> MemoryReport:
    return MemoryReport(0.0, (), (), 1, 1, {}, ())


def one(state: PaneState, tokens: int = 0) -> ComparisonUpdate:
    return ComparisonUpdate((Pane("v", state, token_ids=(1,) * tokens, metrics=Metrics(encode_s=1.0)),))


@pytest.mark.parametrize(
    ("error", "outcome"), [(Busy("busy"), "busy"), (BadInput("no"), "refused"), (KeyError("x"), "failed")]
)
def test_measures_when_a_run_raises_then_its_outcome_says_why(error: Exception, outcome: str) -> None:
    def updates() -> Iterator[ComparisonUpdate]:
        yield one(PaneState.QUEUED)
        raise error

    measures = RunMetrics(nothing_held)
    with pytest.raises((PlaygroundError, KeyError)):
        list(measures.compared(updates()))
    assert samples(measures.text().decode())[f'runs_ended_total{{kind="compare",outcome="{outcome}"}}'] == 1


def test_measures_when_a_conversation_goes_on_then_its_first_answers_are_not_counted_again() -> None:
    shown = msgspec.structs.replace(run_of(compare_cell(), ANSWERED), state=RunState.RUNNING)
    both = msgspec.structs.replace(shown, results=(ANSWERED, ANSWERED))
    waiting = dataclasses.replace(
        ANSWERED.update, panes=tuple(dataclasses.replace(p, state=PaneState.QUEUED) for p in ANSWERED.update.panes)
    )
    begun = msgspec.structs.replace(both, results=(ANSWERED, msgspec.structs.replace(ANSWERED, update=waiting)))
    measures = RunMetrics(nothing_held)
    assert list(measures.ran(iter([begun, both]))) == [begun, both]
    values = samples(measures.text().decode())
    assert values['runs_ended_total{kind="compare",outcome="done"}'] == 1
    assert values['panes_ended_total{state="done"}'] == len(ANSWERED.update.panes)


def test_measures_when_who_asked_goes_then_the_run_was_stopped() -> None:
    measures = RunMetrics(nothing_held)
    updates = measures.compared(iter([one(PaneState.WRITING, 3), one(PaneState.DONE, 5)]))
    next(updates)
    updates.close()  # type: ignore[attr-defined]
    values = samples(measures.text().decode())
    assert values['runs_ended_total{kind="compare",outcome="stopped"}'] == 1
    assert values['panes_ended_total{state="stopped"}'] == 1
    assert values["generated_tokens_total"] == 3


def test_health_when_no_worker_can_be_had_then_it_says_why_until_one_can(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "_AGAIN_S", 0.05)
    closed = Pool.open()
    closed.close()
    checked = Health(dataclasses.replace(parts, pool=closed), RunMetrics(parts.pool.memory))
    client = TestClient(Starlette(routes=checked.routes()))
    thread = Thread(target=checked.wait_until_ready, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while "not answered yet" in client.get("/health").json()["reason"]:
        assert time.monotonic() < deadline
    reply = client.get("/health/ready")
    assert (reply.status_code, reply.json()["ready"]) == (503, False)
    assert reply.json()["reason"]
    assert client.get("/health").status_code == 200
    checked._parts = parts
    thread.join()
    assert client.get("/health/ready").status_code == 200
