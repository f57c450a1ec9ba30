"""Two Ray nodes on this machine: the page's own, and "box2"; and two machines with a network between them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import playground.cluster  # noqa: F401  before any test imports Ray, which then reads what this sets
from testkit.hub_server import HubServer, hub_server
from testkit.two_networks import Network, NotPermitted, two_networks


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked() -> None:
    """They are not: the environment of a node's workers differs."""


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """Of the agents; without a repository, until a test adds one."""
    with hub_server([]) as server:
        yield server


@pytest.fixture(scope="session")
def surroundings(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The environment of the agents, and of the page. Ray reads it once, when it is imported."""
    folder = tmp_path_factory.mktemp("box2")
    changed = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef0123456789abcdef",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PLAYGROUND_CACHE_DIR": str(folder / "cache"),  # of the agents: the page's settings are given in the tests
        "PLAYGROUND_COPIES_BYTES": "60000000",
        "PLAYGROUND_MEMORY_BUDGET_BYTES": "1000000000000",  # so that only what is left of the memory bounds it
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **hub.environment(folder / "hf"),
    }
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def nodes(surroundings: None) -> Iterator[Any]:
    """ray.cluster_utils.Cluster with its head; a test adds "box2"."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def network(surroundings: None) -> Iterator[Network]:
    with ExitStack() as stack:
        try:
            yield stack.enter_context(two_networks())
        except NotPermitted as error:
            pytest.skip(f"{error} (it needs root and iproute2)")
