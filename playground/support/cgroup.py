"""The limits that a container sets to its processes: cgroup 2, cgroup 1. Linux only; elsewhere nothing is limited.

Docker and Kubernetes limit processors by a quota of time (cpu.max), which neither os.cpu_count nor sched_getaffinity
shows, and memory by memory.max, which /proc/meminfo does not show.
https://docs.kernel.org/admin-guide/cgroup-v2.html, https://docs.kernel.org/admin-guide/cgroup-v1/memory.html
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 2**60  # cgroup 1 writes a number near 2**63


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    limit_bytes: int
    used_bytes: int  # without the file cache that the kernel can drop

    @property
    def free_bytes(self) -> int:
        return max(0, self.limit_bytes - self.used_bytes)


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """How many processors this process may keep busy, such as 1.5; None: no limit."""
    quotas = []
    for folder in _folders(root, membership, "cpu"):
        limit, _, period = _text(folder / "cpu.max").partition(" ")
        limit = limit or _text(folder / "cpu.cfs_quota_us")
        period = period or _text(folder / "cpu.cfs_period_us")
        if _is_number(limit) and _is_number(period) and int(period):
            quotas.append(int(limit) / int(period))
    return min(quotas, default=None)


def memory_limit(root: Path = ROOT, membership: Path = MEMBERSHIP) -> MemoryLimit | None:
    """Of the group that leaves the least; None: no limit."""
    limits = []
    for folder in _folders(root, membership, "memory"):
        limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
        used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
        if _is_number(limit) and _is_number(used) and int(limit) < _UNLIMITED:
            limits.append(MemoryLimit(int(limit), max(0, int(used) - _droppable(folder))))
    return min(limits, key=lambda limit: limit.free_bytes, default=None)


def usable_processors(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """How many threads can run without being throttled: by affinity, which a cpuset sets, and by the quota."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(root, membership)
    return usable if quota is None else max(1, min(usable, math.floor(quota)))


def usable_cores(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int:
    """The same, counting a physical core once."""
    usable = usable_processors(root, membership)
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def _folders(root: Path, membership: Path, controller: str) -> list[Path]:
    """The folders of the groups that this process is in, from the own one up to the root.

    A container sees its own group as the root, but /proc/self/cgroup may name the host's path: only folders that exist
    count, and the root always does.
    """
    folders = [root, root / controller]  # cgroup 2; cgroup 1
    for line in _text(membership).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        base = root if number == "0" and not controllers else root / controllers
        if base != root and controller not in controllers.split(","):
            continue
        own = PurePosixPath(path.lstrip("/"))
        if ".." not in own.parts:
            folders += [base / folder for folder in (own, *own.parents)]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def _droppable(folder: Path) -> int:
    for line in _text(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file") and _is_number(value):
            return int(value)
    return 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
