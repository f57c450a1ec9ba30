"""How long the threads of this process have waited because others had the processors."""

from __future__ import annotations

from pathlib import Path


def waited_s() -> float | None:
    """Seconds since the process began, of all threads together. None: the kernel does not count them (Linux does)."""
    try:
        return sum(int(path.read_text().split()[1]) for path in Path("/proc/self/task").glob("*/schedstat")) / 1e9
    except (OSError, ValueError, IndexError):  # also where a thread has just ended
        return None
