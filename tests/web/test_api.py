"""Without a browser: the command line, and the API through gradio_client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from playground.models.presets import data_folder
from testkit import pairs
from testkit.command_line import Called, called
from testkit.running import SCENE, WHAT
from testkit.webapp import WebApp

VARIANT_KEYS = {"id", "family", "label", "quantization", "projector", "bytes", "sha256", "reference"}
PANE_KEYS = {"variant", "state", "text", "metrics", "first_divergence", "error"}
METRIC_KEYS = {
    "load_s", "encode_s", "encode_cached", "prompt_s", "prompt_tokens", "image_tokens", "ttft_s", "decode_tok_per_s",
    "generated_tokens", "host_rss_bytes", "gpu_bytes",
}  # fmt: skip


@pytest.fixture
def client(app: WebApp) -> Iterator[Client]:
    opened = Client(app.url, verbose=False)
    yield opened
    opened.close()


def until_ready(app: WebApp) -> None:
    """The app asks the embedded model a question of its own at the start."""
    deadline = time.monotonic() + 30
    while httpx.get(f"{app.url}/health/ready").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def command(derived: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """As a process of its own: tests/web/test_wheel.py."""
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(derived))
    return partial(called, monkeypatch, capfd)


def test_variants_when_listed_through_the_api_then_the_grid_of_the_embedded_pair(client: Client) -> None:
    variants = client.predict(api_name="/variants")
    assert all(set(v) >= VARIANT_KEYS for v in variants)
    ids = [v["id"] for v in variants if v["family"] == "tiny-vlm"]
    assert len(ids) == 8 * 4
    assert "tiny-vlm:Q4_K_M+mmproj-F16" in ids
    assert next(v["id"] for v in variants if v["reference"]) == "tiny-vlm:F16+mmproj-F16"
    assert all(len(v["sha256"]) == 64 and v["bytes"] > 0 for v in variants)


def test_compare_when_called_then_documents_stream_and_the_last_is_done(client: Client) -> None:
    ids = ["tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16"]
    job = client.submit(handle_file(SCENE), WHAT, ids, {"max_tokens": 64, "seed": 1}, api_name="/compare")
    documents = list(job)
    assert len(documents) > 1
    assert [d["done"] for d in documents] == [False] * (len(documents) - 1) + [True]
    f16, q2 = documents[-1]["panes"]
    assert set(f16) >= PANE_KEYS
    assert set(f16["metrics"]) >= METRIC_KEYS
    assert [f16["variant"], q2["variant"]] == ids
    assert f16["state"] == q2["state"] == "done"
    assert (f16["first_divergence"], q2["first_divergence"]) == (None, 19)
    assert f16["metrics"]["gpu_bytes"] is None or f16["metrics"]["gpu_bytes"] > 0


@pytest.mark.parametrize(
    ("variants", "settings", "message"),
    [
        (["nope"], {}, "There is no variant called 'nope'"),
        ([], {}, "No variant is ticked"),
        ("F16", {}, "have to be a list of ids"),
        (["F16"], {"temperatur": 1}, "temperatur"),
        (["F16"], {"max_tokens": 0}, "max_tokens has to be between 1 and 8192"),
        (["F16"], {"pages": "2"}, "has 1 page: there is no page 2"),
        (["F16"], {"pages": "2-1"}, "Invalid pages '2-1'"),
    ],
)
def test_compare_when_input_is_bad_then_says_what(
    client: Client, variants: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(AppError, match=message):
        client.predict(handle_file(SCENE), WHAT, variants, settings, api_name="/compare")


def test_compare_when_refused_then_the_errors_title_is_its_code(app: WebApp) -> None:
    event = httpx.post(f"{app.url}/gradio_api/call/compare", json={"data": [None, WHAT, [], {}]}).json()["event_id"]
    answer = httpx.get(f"{app.url}/gradio_api/call/compare/{event}", timeout=30).text
    error = json.loads(answer.partition("event: error\ndata: ")[2])
    assert error["title"] == "bad_input"
    assert "No variant is ticked" in error["error"]


def test_compare_when_the_chat_template_is_bad_then_the_pane_says_where(client: Client) -> None:
    job = client.submit(handle_file(SCENE), WHAT, ["F16"], {"chat_template": "{% if"}, api_name="/compare")
    (pane,) = list(job)[-1]["panes"]
    assert pane["state"] == "failed"
    assert "The chat template has an error in line 1" in pane["error"]
    assert pane["error_code"] == "bad_input"


def test_compare_when_given_a_path_on_the_server_then_refused(app: WebApp) -> None:
    body = {"data": [{"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}, WHAT, ["F16"], {}]}
    event = httpx.post(f"{app.url}/gradio_api/call/compare", json=body).json()["event_id"]
    answer = httpx.get(f"{app.url}/gradio_api/call/compare/{event}", timeout=30).text
    assert "event: error" in answer
    assert "root:" not in answer
    model = data_folder() / "tiny-vlm/tiny-vlm-7M-F16.gguf"
    for path in ("/etc/passwd", model, Path(__file__)):
        assert httpx.get(f"{app.url}/gradio_api/file={path}").status_code in (403, 404)


def test_memory_when_a_model_is_loaded_then_its_worker_is_listed(client: Client) -> None:
    client.predict(handle_file(SCENE), WHAT, ["tiny-vlm:F16+mmproj-F16"], {"max_tokens": 2}, api_name="/compare")
    report = client.predict(api_name="/memory")
    assert {w["role"] for w in report["workers"]} >= {"vision", "language"}
    for worker in report["workers"]:
        assert set(worker) >= {"pid", "role", "state", "bytes"}
        assert worker["bytes"] > 10 * 2**20
        os.kill(worker["pid"], 0)


def test_client_when_it_is_killed_then_its_run_stops(client: Client, app: WebApp) -> None:
    until_ready(app)
    ids = [v["id"] for v in client.predict(api_name="/variants")][:16]
    code = (
        "import sys, json; from gradio_client import Client, handle_file; c = Client(sys.argv[1], verbose=False);"
        "j = c.submit(handle_file(sys.argv[2]), 'x', *map(json.loads, sys.argv[3:]), api_name='/compare');"
        "next(iter(j)); print('running', flush=True); list(j)"
    )
    arguments = [sys.executable, "-c", code, app.url, str(SCENE), json.dumps(ids)]
    arguments.append(json.dumps({"max_tokens": 8192, "grammar": "root ::= [a-z] root"}))  # no answer comes to an end

    def of_the_client(report: Any) -> tuple[int, int]:
        """Its runs, and the workers that it leases. The app itself measures the memory's bandwidth at the start."""
        runs = [run for run in report["queue"] if len(run["files"]) == 2 * len(ids)]
        leased = [w for w in report["workers"] if w["leases"] and w["role"] != "bandwidth"]
        return len(runs), len(leased)

    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "running\n"
        assert of_the_client(client.predict(api_name="/memory"))[0] == 1
        other.kill()
    deadline = time.monotonic() + 30
    while of_the_client(report := client.predict(api_name="/memory")) != (0, 0):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(report["workers"]) < 10


def test_api_when_viewed_then_only_the_public_names_are_there(client: Client) -> None:
    names = client.view_api(return_format="dict")["named_endpoints"]
    assert set(names) == {"/variants", "/compare", "/memory", "/doctor", "/measure"}


def test_command_when_compare_json_then_the_last_document(command: Callable[..., Called]) -> None:
    reply = command(
        "compare", "--image", str(SCENE), "--prompt", WHAT, "--variants", "F16,Q2_K", "--projector", "F16",
        "--seed", "1", "--max-tokens", "64", "--temperature", "0", "--json",
    )  # fmt: skip
    assert reply.code == 0, reply.err
    document = json.loads(reply.out)
    assert document["done"] is True
    assert [p["first_divergence"] for p in document["panes"]] == [None, 19]
    assert set(document["panes"][0]["metrics"]) >= METRIC_KEYS


def test_command_when_compare_then_panes_are_printed(command: Callable[..., Called]) -> None:
    reply = command("compare", "--image", str(SCENE), "--prompt", WHAT, "--variants", "F16,Q8_0,Q2_K")
    assert "── F16 ── reference" in reply.out
    assert "── Q8_0 ── same as the reference" in reply.out
    assert "── Q2_K ── differs: 6 words (token 20)" in reply.out
    assert "tok/s" in reply.out


def test_command_when_variants_json_then_the_list(command: Callable[..., Called]) -> None:
    variants = json.loads(command("variants", "--json").out)
    assert all(set(v) >= VARIANT_KEYS for v in variants)
    assert len(variants) == 32


def test_command_when_model_and_projector_are_given_then_that_pair_runs(
    command: Callable[..., Called], endless: pairs.PairFiles
) -> None:
    reply = command(
        "compare", "--image", str(SCENE), "--prompt", "x", "--model", str(endless.model),
        "--projector", str(endless.projector), "--max-tokens", "4", "--json",
    )  # fmt: skip
    (pane,) = json.loads(reply.out)["panes"]
    assert pane["metrics"]["generated_tokens"] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "nope.png", "--prompt", "x"], "nope.png does not exist"),
        (["--image", str(SCENE), "--prompt", "x", "--max-tokens", "0"], "max_tokens has to be between 1 and 8192"),
        (["--image", str(SCENE), "--prompt", "x", "--variants", "Q9"], "There is no variant called 'Q9'"),
        (["--image", str(SCENE), "--prompt", "x", "--model", "a.gguf"], "Give both halves of a pair"),
        (["--image", str(SCENE), "--prompt", "x", "--temperature", "-1"], "temperature has to be between 0 and 5"),
    ],
)
def test_command_when_input_is_bad_then_one_line_says_what(
    command: Callable[..., Called], arguments: list[str], message: str
) -> None:
    reply = command("compare", *arguments)
    assert reply.code == 2
    assert message in reply.err
    assert "Traceback" not in reply.err
