"""A container's limits, from a folder that stands for /sys/fs/cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from playground.pool.sensors import LocalSensors
from playground.support import cgroup
from playground.support.cgroup import MemoryLimit

GIB = 2**30


def fake(folder: Path, membership: str, **files: str | int) -> tuple[Path, Path]:
    """A root and a /proc/self/cgroup; files: "a__b_c" for "a/b.c" (the first underscore of a name is its dot)."""
    root, own = folder / "cgroup", folder / "self"
    root.mkdir(exist_ok=True)
    own.write_text(membership)
    for key, value in files.items():
        *groups, name = key.split("__")
        path = root.joinpath(*groups, name.replace("_", ".", 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root, own


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu_max": "150000 100000"}, 1.5),
        ({"cpu_max": "max 100000"}, None),
        ({"pod__cpu_max": "100000 50000", "pod__app__cpu_max": "max 100000"}, 2.0),  # the group above limits it too
        ({"cpu__cpu_cfs_quota_us": 50000, "cpu__cpu_cfs_period_us": 100000}, 0.5),  # cgroup 1
        ({"cpu__cpu_cfs_quota_us": -1, "cpu__cpu_cfs_period_us": 100000}, None),
        ({"cpu_max": "nonsense"}, None),
        ({"cpu_max": "100000 0"}, None),
        ({}, None),
    ],
)
def test_quota_when_the_container_has_one_then_processors(
    tmp_path: Path, files: dict[str, str | int], expected: float | None
) -> None:
    place = fake(tmp_path, "4:memory:/docker/1\n2:cpu,cpuacct:/docker/1\n0::/pod/app\n", **files)
    assert cgroup.cpu_quota(*place) == expected
    assert 1 <= cgroup.usable_cores(*place) <= max(1, expected or 10**6)


def test_processors_when_the_quota_is_not_whole_then_no_thread_is_throttled(tmp_path: Path) -> None:
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cgroup.usable_processors(*fake(tmp_path, "0::/", cpu_max="190000 100000")) == 1
    assert cgroup.usable_processors(*fake(tmp_path, "0::/", cpu_max="99000000 100000")) == affinity


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {"memory_max": 4 * GIB, "memory_current": 2 * GIB, "memory_stat": f"anon 5\ninactive_file {GIB}"},
            MemoryLimit(4 * GIB, GIB),
        ),
        (
            {
                "memory__docker__1__memory_limit_in_bytes": 2 * GIB,
                "memory__docker__1__memory_usage_in_bytes": GIB,
                "memory__memory_limit_in_bytes": 9223372036854771712,  # cgroup 1 for no limit
                "memory__memory_usage_in_bytes": 30 * GIB,
            },
            MemoryLimit(2 * GIB, GIB),
        ),
        ({"memory_max": "max", "memory_current": 2 * GIB}, None),
        ({}, None),
    ],
)
def test_memory_when_the_container_has_a_limit_then_what_it_leaves(
    tmp_path: Path, files: dict[str, str | int], expected: MemoryLimit | None
) -> None:
    place = fake(tmp_path, "4:memory:/docker/1\n0::/\n", **files)
    assert cgroup.memory_limit(*place) == expected


def test_membership_when_it_leads_elsewhere_then_only_the_root_counts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("1 1")
    assert cgroup.cpu_quota(*fake(tmp_path, "0::/../\n", cpu_max="300000 100000")) == 3.0


def test_host_when_the_container_has_a_limit_then_it_is_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "memory_limit", lambda: MemoryLimit(100, 60))
    monkeypatch.setattr(cgroup, "cpu_quota", lambda: 1.5)
    host = LocalSensors(visible="").host()
    assert (host.total_bytes, host.available_bytes, host.limit_bytes, host.processors) == (100, 40, 100, 1.5)
    monkeypatch.setattr(cgroup, "memory_limit", lambda: MemoryLimit(2**59, 60))
    host = LocalSensors(visible="").host()
    assert (host.total_bytes, host.limit_bytes) == (psutil.virtual_memory().total, None)
