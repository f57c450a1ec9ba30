"""What the speed of this machine depends on, in words. Not the host's name, since runs are shared."""

from __future__ import annotations

import platform
import sys

from playground.support import cgroup


def machine_name(gpus: str = "") -> str:
    """`gpus`: their names."""
    processor = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            processor = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor
            )
    return ", ".join(part for part in (gpus, processor, f"{cgroup.usable_processors()} cores") if part)
