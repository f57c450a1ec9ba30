"""Two Ray nodes on this machine: the page's own, and "box2"."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testkit.hub_server import HubServer, hub_server


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """Of the agents; without a repository, until a test adds one."""
    with hub_server([]) as server:
        yield server


@pytest.fixture(scope="session")
def nodes(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """ray.cluster_utils.Cluster with its head; a test adds "box2"."""
    folder = tmp_path_factory.mktemp("box2")
    changed = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PLAYGROUND_CACHE_DIR": str(folder / "cache"),  # of the agents: the page's settings are given in the tests
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **hub.environment(folder / "hf"),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    from ray.cluster_utils import Cluster  # reads the environment once, when it is imported

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
