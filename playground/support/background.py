"""Makes a process give way to others: the speed of a model is measured beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path

_TRIES = 5
_PAUSE_S = 0.1  # the kernel changes one session's weight in this time, unless root asks


def give_way(niceness: int) -> None:
    """Of this process, which has to be the only one of its session.

    Linux weighs sessions first (autogroup), and processes by their niceness only within a session: without the second
    step, a process that began a session of its own takes as much as the whole app.
    """
    os.nice(niceness)
    for _ in range(_TRIES):
        try:
            Path("/proc/self/autogroup").write_text(str(niceness))
        except BlockingIOError:
            time.sleep(_PAUSE_S)
        except OSError:  # another system, or a kernel without sessions' weights
            return
        else:
            return
