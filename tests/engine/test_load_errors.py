"""What is said of a file that llama.cpp refuses: the reason, not that it was refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.engine import protocol
from playground.errors import EngineError
from playground.pool.process import WorkerProcess
from playground.values.request import Runtime
from testkit import pairs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    return pairs.write_pair("mlp", tmp_path_factory.mktemp("refused"))


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    process = WorkerProcess("refused")
    process.wait_ready()
    yield process
    process.stop()


def renamed(file: Path, name: bytes, folder: Path) -> str:
    """A copy in which a tensor or a key has another name of the same length."""
    data = file.read_bytes()
    assert name in data
    copy = folder / file.name
    copy.write_bytes(data.replace(name, name[:-1] + b"_"))
    return str(copy)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"blk.1.ffn_norm.weight", "tensor 'blk.1.ffn_norm.weight' not found"),
        (b"llama.block_count", "key not found in model: llama.block_count"),
    ],
)
def test_model_when_it_lacks_something_then_the_error_names_it(
    files: pairs.PairFiles, worker: WorkerProcess, tmp_path: Path, name: bytes, reason: str
) -> None:
    with pytest.raises(EngineError) as error:
        worker.request(protocol.LoadLanguage(renamed(files.model, name, tmp_path), Runtime(n_ctx=256)))
    assert reason in error.value.message


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"v.blk.0.attn_out.weight", "unable to find tensor v.blk.0.attn_out.weight"),
        (b"clip.vision.block_count", "Key not found: clip.vision.block_count"),
    ],
)
def test_projector_when_it_lacks_something_then_the_error_names_it_and_no_path(
    files: pairs.PairFiles, worker: WorkerProcess, tmp_path: Path, name: bytes, reason: str
) -> None:
    file = renamed(files.projector, name, tmp_path)
    with pytest.raises(EngineError) as error:
        worker.request(protocol.LoadVision(file, str(files.model), False, 1))
    assert reason in error.value.message
    assert str(tmp_path) not in error.value.message
