"""NaN is never an answer, never a score and never an embedding, whatever a file holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from gguf import GGUFReader

from playground.engine import protocol
from playground.errors import EngineError
from playground.pool.process import WorkerProcess
from playground.values.request import Image, Runtime, Sampling
from testkit import pairs

RUNTIME = Runtime(n_ctx=300, n_threads=1)
PROMPT = protocol.EncodedPrompt((protocol.TextChunk((3, 4, 5)),), 256, "", 0.0, None)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    return pairs.write_pair("mlp", tmp_path_factory.mktemp("damaged"))


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("damaged")
    process.wait_ready()
    yield process
    process.stop()


def damage(file: Path, tensor_name: str) -> None:
    tensor = next(t for t in GGUFReader(file, "r+").tensors if t.name == tensor_name)
    tensor.data[3] = numpy.nan
    tensor.data.base.flush()


def test_model_when_its_logits_are_nan_then_every_request_says_so_and_the_worker_lives(
    files: pairs.PairFiles, worker: WorkerProcess, tmp_path: Path
) -> None:
    damage(files.model, "output_norm.weight")
    worker.request(protocol.LoadLanguage(str(files.model), RUNTIME))
    record = str(tmp_path / "record")
    n_vocabulary = 512
    numpy.zeros(2 * n_vocabulary, "float32").tofile(record)
    requests: list[protocol.Request[Any]] = [
        protocol.Generate(PROMPT, Sampling(max_tokens=4), RUNTIME),  # greedy
        protocol.Generate(PROMPT, Sampling(max_tokens=4, temperature=0.8, top_k=20), RUNTIME),
        protocol.Score(PROMPT, (7,), RUNTIME),
        protocol.Measure(PROMPT, (7,), RUNTIME, record),
        protocol.Record(PROMPT, (7,), RUNTIME, str(tmp_path / "other")),
    ]
    for request in requests:
        with pytest.raises(EngineError, match="outputs are NaN or infinite"):
            worker.request(request)
    assert isinstance(worker.ping(), protocol.Pong)


def test_cache_when_a_prompt_gave_nan_then_later_answers_are_those_of_a_fresh_one(
    files: pairs.PairFiles, worker: WorkerProcess
) -> None:
    """The values of masked cells count as 0 times themselves: NaN would stay NaN."""
    runtime = replace(RUNTIME, flash_attention=False)
    fresh = pairs.write_pair("mlp", Path(files.model).parent / "fresh")
    worker.request(protocol.LoadLanguage(str(fresh.model), runtime))
    sampling = Sampling(max_tokens=4)

    def answer(prompt: protocol.EncodedPrompt) -> list[int]:
        tokens: list[int] = []
        request = protocol.Generate(prompt, sampling, runtime, cold=True)
        worker.request(request, on_chunk=lambda chunk: tokens.extend(chunk.token_ids))
        return tokens

    before = answer(PROMPT)
    image = protocol.ImageChunk(0, "nan", 200, 200, False, b"", numpy.full((200, 256), numpy.nan, "float32").tobytes())
    text = protocol.TextChunk((6, 7))
    with pytest.raises(EngineError, match="outputs are NaN or infinite"):
        answer(protocol.EncodedPrompt((*PROMPT.chunks, image, text), 256, "", 0.0, None))
    assert answer(PROMPT) == before


def test_projector_when_its_embeddings_are_nan_then_an_error_after_a_second_encode(
    files: pairs.PairFiles, worker: WorkerProcess
) -> None:
    damage(files.projector, "v.pre_ln.weight")
    worker.request(protocol.LoadVision(str(files.projector), str(files.model), False, 1))
    image = Image(bytes(3 * 64 * 64), 64, 64, "black")
    for _ in range(2):
        with pytest.raises(EngineError, match="embeddings are NaN or infinite"):
            worker.request(protocol.Encode((protocol.ChatMessage("user", "What?", 1),), (image,), "chatml"))
    assert isinstance(worker.ping(), protocol.Pong)
