"""Decides what gives way to a new worker. Pure: no clock, no process, no lock (tests/test_memory.py is its table)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A worker's process without a model: Python, llama.cpp's libraries and buffers (measured: 90-150 MB).
PROCESS_BYTES = 160 * 2**20


@dataclass(frozen=True, slots=True)
class Resident:
    """A loaded worker, as the decision sees it."""

    name: str
    bytes: int
    leased: bool
    last_used: float  # seconds on any clock; smaller is longer ago


def evictions(need_bytes: int, residents: Sequence[Resident], budget_bytes: int) -> tuple[str, ...] | None:
    """Names to unload so that `need_bytes` more fit, longest unused first; () if they fit, None if they cannot."""
    over = sum(r.bytes for r in residents) + need_bytes - budget_bytes
    if over <= 0:
        return ()
    names = []
    for resident in sorted((r for r in residents if not r.leased), key=lambda r: r.last_used):
        names.append(resident.name)
        over -= resident.bytes
        if over <= 0:
            return tuple(names)
    return None
