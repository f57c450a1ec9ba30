"""A disk on which no file can grow."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

needs_linux = pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs a limit on a file's size")


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow: what a full disk does, as EFBIG in place of ENOSPC."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
