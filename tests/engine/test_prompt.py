"""How a prompt is cut into batches, and what is told of the tokens' times."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from playground.engine.protocol import (
    EncodedPrompt,
    Generate,
    Loaded,
    LoadLanguage,
    Score,
    Scored,
    TextChunk,
)
from playground.errors import EngineError
from playground.pool.process import WorkerProcess
from playground.values.request import Runtime, Sampling
from testkit import pairs

ROOT = Path(__file__).parents[2]
RUNTIME = Runtime(n_ctx=300, n_threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pairs.write_pair("mlp", tmp_path_factory.mktemp("prompt")).model


@pytest.fixture(scope="module")
def worker(model: Path) -> Iterator[WorkerProcess]:
    process = WorkerProcess("prompt")
    process.wait_ready()
    assert isinstance(process.request(LoadLanguage(str(model), RUNTIME)), Loaded)
    yield process
    process.stop()


def text(n_tokens: int) -> EncodedPrompt:
    return EncodedPrompt((TextChunk(tuple(3 + i % 500 for i in range(n_tokens))),), 256, "", 0.0, None)


@pytest.fixture(scope="module")
def report(model: Path) -> dict[str, Any]:
    """What testkit/prompt_child.py prints."""
    child = subprocess.run(
        [sys.executable, "-m", "testkit.prompt_child", str(model)], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert child.returncode == 0, child.stderr[-3000:]
    printed: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return printed


def test_image_when_on_a_gpu_then_decoded_whole_and_on_a_cpu_in_upstreams_batches(report: dict[str, Any]) -> None:
    assert report["cpu"] == [3, 512, 88, 2]
    assert report["gpu"] == [3, 600, 2]
    assert report["same_again"]  # although another prompt's values were left in the cache
    assert report["spread"] > 1
    assert report["difference"] < report["spread"] / 100  # other batches round differently


def test_answer_when_it_is_read_then_not_token_by_token(report: dict[str, Any]) -> None:
    """All but the text behind the image was read before. `python -m bench lab` prints how much faster that is."""
    assert report["answer"] == [2, 32, 32, 6]


@pytest.mark.parametrize("generated", [1, 2, 40, 41, 42, 100, 200])
def test_progress_when_tokens_came_then_in_even_steps_to_the_end(worker: WorkerProcess, generated: int) -> None:
    reply = worker.request(Generate(text(5), Sampling(max_tokens=generated), RUNTIME))
    assert reply.generated_tokens == generated
    if generated == 1:
        assert reply.progress == ()
        return
    seconds, tokens = zip(*reply.progress, strict=True)
    assert (seconds[-1], tokens[-1]) == (reply.decode_s, generated - 1)
    assert len(tokens) == (generated - 1 if generated <= 41 else len(tokens)) <= 40
    assert len({b - a for a, b in pairwise(tokens)}) <= 1
    assert seconds[0] > 0
    assert list(seconds) == sorted(seconds)


def test_text_when_longer_than_the_context_then_an_error_and_the_worker_lives(worker: WorkerProcess) -> None:
    # A batch of 512, as the runtime has it, is more than this context's llama.cpp takes at once: it would abort.
    assert isinstance(worker.request(Score(text(200), (9,), RUNTIME)), Scored)
    with pytest.raises(EngineError, match="the context is full"):
        worker.request(Score(text(600), (), RUNTIME))
    assert isinstance(worker.request(Score(text(9), (9,), RUNTIME)), Scored)
