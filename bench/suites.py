"""A sample of a large dataset: bytes fetched against the bytes of its row groups, requests, and seconds."""

from __future__ import annotations

import io
import os
import random
import time
from pathlib import Path

import PIL.Image
import pyarrow as pa
import pytest
from huggingface_hub.utils import close_session
from pyarrow import parquet

from playground.measuring.question_sets import QuestionSet
from playground.measuring.suite_samples import SampleJob
from playground.measuring.suites import read_suites
from playground.models.hub.client import Hub
from testkit import datasets
from testkit.hub_server import HubFile, HubRepo, hub_server

_BYTES = int(os.environ.get("BENCH_SUITE_BYTES", "2000000000"))
_GROUP = 100  # rows, as the datasets library writes images
_SIDE = 180  # of noise: 97 kB as PNG
_SAMPLE = 200


def measure(folder: Path) -> dict[str, float]:
    suite = read_suites()["chartqa"]
    path = folder / "test.parquet"
    rows = _write(path)
    served = HubFile(path)
    assert served.sha256  # computed once, before a client waits for it
    with (
        hub_server([HubRepo(suite.repo, {"data/test-00000-of-00001.parquet": served}, dataset=True)]) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        server.patch(patch, folder / "hf")
        begun = time.perf_counter()
        table = Hub(own_token=False).dataset(suite.repo, suite.configuration, suite.split)
        opened_s = time.perf_counter() - begun
        job = SampleJob(suite, table, _SAMPLE, 0, folder / "samples")
        groups, n_bytes = job.cost(job.order)
        ordered_s = time.perf_counter() - begun
        *_, questions = job.run()
        took = time.perf_counter() - begun
        assert isinstance(questions, QuestionSet)
        assert len(questions.items) == _SAMPLE
        seen = server.seen("GET", ".parquet", cdn=True)
        close_session()
    fetched = sum(request.sent for request in seen)
    return {
        "rows": rows,
        "bytes of the set": path.stat().st_size,
        "row groups of a sample of 200": groups,
        "bytes of these row groups": n_bytes,
        "bytes fetched": fetched,
        "fetched / row groups": fetched / n_bytes,
        "requests": len(seen),
        "seconds to open": opened_s,
        "seconds to the order of rows": ordered_s,
        "seconds": took,
    }


def _write(path: Path) -> int:
    """Returns the number of rows."""
    draw = random.Random(7)
    pictures = []
    for _ in range(20):
        file = io.BytesIO()
        PIL.Image.frombytes("RGB", (_SIDE, _SIDE), draw.randbytes(3 * _SIDE**2)).save(file, "PNG")
        pictures.append({"bytes": file.getvalue(), "path": None})
    rows = max(_GROUP, _BYTES // len(pictures[0]["bytes"] or b"") // _GROUP * _GROUP)
    with parquet.ParquetWriter(path, datasets.CHARTQA, use_dictionary=False, compression="snappy") as writer:
        for start in range(0, rows, _GROUP):
            group = [
                {
                    "type": "human_test" if k % 2 else "augmented_test",
                    "question": f"What is value {k}?",
                    "answer": str(k),
                    "image": pictures[k % len(pictures)],
                }
                for k in range(start, start + _GROUP)
            ]
            writer.write_table(pa.Table.from_pylist(group, datasets.CHARTQA), row_group_size=_GROUP)
    return rows
