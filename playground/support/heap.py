"""Gives memory that is free back to the system. Only glibc keeps so much of it that this is needed."""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX = -8
_ARENAS = 2


def bound_arenas() -> None:
    """glibc gives each of the first threads a heap of its own, up to eight for each processor; what others freed there
    stays. Eight threads that read 60 MB of JSON left 262 MB that no `trim` frees, and nothing with two heaps."""
    if mallopt := _function("mallopt"):
        mallopt(_M_ARENA_MAX, _ARENAS)


def trim() -> bool:
    """Whether anything was given back. Other threads of Python go on meanwhile."""
    malloc_trim = _function("malloc_trim")
    return bool(malloc_trim(ctypes.c_size_t(0))) if malloc_trim else False


def _function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
