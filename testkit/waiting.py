"""Waiting for a state or a result, never for a duration."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_T = TypeVar("_T")


def until(true: Callable[[], object], seconds: float = 120.0) -> float:
    """Seconds until it is true. Fails after `seconds`."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not after {seconds:.0f} s"
        time.sleep(0.002)
    return time.monotonic() - started


def awaited(work: Coroutine[Any, Any, _T]) -> _T:
    """In a thread of its own: the browser that other tests of this process opened has its loop in this one."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
