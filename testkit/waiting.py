"""Waiting for a state, never for a duration."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(true: Callable[[], object], seconds: float = 120.0) -> float:
    """Seconds until it is true. Fails after `seconds`."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not after {seconds:.0f} s"
        time.sleep(0.002)
    return time.monotonic() - started
