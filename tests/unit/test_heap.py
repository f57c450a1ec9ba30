"""Memory that a large request needed goes back to the system."""

from __future__ import annotations

import ctypes
import gc

import psutil
import pytest

from playground.support import heap


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
@pytest.mark.thorough
def test_heap_when_a_large_import_is_over_then_its_memory_goes_back_though_something_behind_it_stays() -> None:
    process = psutil.Process()
    values = [bytes(2000) for _ in range(50_000)]
    last = values[-1]
    del values
    gc.collect()
    before = process.memory_info().rss
    assert heap.trim()
    assert before - process.memory_info().rss > 50_000_000
    assert len(last) == 2000
