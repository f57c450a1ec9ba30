"""Workers that a file's tests share: starting one and loading a model takes longer than most of the tests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from playground.pool.pool import Pool
from playground.wiring import Parts


@pytest.fixture(scope="module")
def pool(derived: Path) -> Iterator[Pool]:
    """The pool of all tests of a file that ask for `parts`."""
    with closing(Pool.open()) as opened:
        yield opened


@pytest.fixture
def parts(parts: Parts, pool: Pool) -> Iterator[Parts]:
    """With caches of a test's own, but workers that other tests may have loaded."""
    yield replace(parts, pool=pool)
    while any(worker.leases for worker in pool.memory().workers):
        time.sleep(0.01)  # what a test has stopped is on its way out
    for worker in pool.memory().workers:
        if "tiny-vlm-7M" not in worker.file:  # the embedded pair's are wanted again
            pool.unload_id(worker.id)


@pytest.fixture
def cold(parts: Parts) -> Iterator[Parts]:
    """With a pool of its own, which has loaded nothing yet."""
    with closing(Pool.open()) as pool:
        yield replace(parts, pool=pool)
