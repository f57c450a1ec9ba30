"""The machines of a Ray cluster, as sensors and a worker factory of the pool.

Only playground/cluster imports ray. Ray's messages are pickles: whoever holds the cluster's token can run code on all
of its machines (docs/operate/cluster.md).
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import ray
from ray.exceptions import AuthenticationError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from playground.cluster.agent import Agent, versions
from playground.cluster.machine import Machine
from playground.cluster.remote_worker import RemoteWorker
from playground.cluster.shared_embeddings import SHARE, SharedEmbeddings
from playground.errors import BadSettings, MachineLost
from playground.pool.contract import HostMemory, Joined, ProcessMemory, Sensors, Worker, WorkerFactory
from playground.pool.turn_order import Places
from playground.values.memory import GpuMemory, MachineMemory, machine_of

logger = logging.getLogger(__name__)

_EVERY_S = 0.5
_WHY_CHARACTERS = 300  # of Ray's message
_AGAIN = 10  # rounds until a machine that failed is tried again


class Cluster:
    """Owns the connection, the list of machines, and the thread that keeps it. Sensors and WorkerFactory (contract.py).

    The page's own machine works as without a cluster.
    """

    def __init__(
        self,
        address: str,
        sensors: Sensors,
        start_worker: WorkerFactory,
        sha256_of: Callable[[Path], str],
    ) -> None:
        """`sensors`, `start_worker`: of the page's own machine. Raises BadSettings if nothing answers at `address`."""
        self._local = sensors
        self._start_local = start_worker
        self._sha256_of = sha256_of
        self._machines: dict[str, Machine] = {}  # by name
        self._problems: dict[str, str] = {}  # of machines that are not used, by name
        self._wait: dict[str, int] = {}  # rounds, by the node's id
        self._count = 0
        self._leave: Callable[[str], None] = lambda name: None
        self._closing = Event()
        self._thread: Thread | None = None
        try:
            ray.init(address=address, namespace="playground", log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, RayError, AuthenticationError) as error:
            why = " ".join(str(error).split())[:_WHY_CHARACTERS] or type(error).__name__
            raise BadSettings(f"cluster: no Ray cluster could be joined at {address}: {why}") from None
        self._own_node = ray.get_runtime_context().get_node_id()
        own = next(node for node in _nodes() if node["NodeID"] == self._own_node)
        self._embeddings = SharedEmbeddings(int(own["Resources"].get("object_store_memory", 0) * SHARE))
        self._warn_of_public_networks()

    # --- membership ----------------------------------------------------------------------------------------------

    def start(self, join: Callable[[Joined], None], leave: Callable[[str], None]) -> None:
        """Looks for machines twice a second; the first look is over when this returns."""
        self._leave = leave
        with ThreadPoolExecutor(8) as threads:
            self._look(join, leave, threads)
        self._thread = Thread(target=self._keep, args=(join, leave), name="cluster", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the agents, and with them their workers."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(10)  # Ray is not used while it is shut down
        for machine in tuple(self._machines.values()):
            machine.end()
        ray.shutdown()

    def _keep(self, join: Callable[[Joined], None], leave: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(8) as threads:
            while not self._closing.wait(_EVERY_S):
                try:
                    self._look(join, leave, threads)
                except Exception:  # a head that hiccups must not end the watch
                    if not self._closing.is_set():
                        logger.exception("the cluster could not be looked at")

    def _look(self, join: Callable[[Joined], None], leave: Callable[[str], None], threads: ThreadPoolExecutor) -> None:
        list(threads.map(lambda machine: machine.refresh(), tuple(self._machines.values())))
        for name, machine in tuple(self._machines.items()):
            if machine.lost:
                logger.warning("the machine %s is lost: %s", name, machine.lost)
                self._machines = {other: m for other, m in self._machines.items() if m is not machine}
                self._problems[name] = machine.lost
                leave(name)
                machine.end()
        nodes = {node["NodeID"]: node for node in _nodes() if node["Alive"] and node["NodeID"] != self._own_node}
        for name in self._problems.keys() - {_name(node) for node in nodes.values()}:
            del self._problems[name]
        new = [node for node in nodes.values() if _name(node) not in self._machines and self._is_due(node)]
        for opened in threads.map(self._open, new):
            if opened is not None:
                self._machines = {**self._machines, opened.name: opened}
                join(opened.joined)
                self._problems.pop(opened.name, None)
                logger.info("the machine %s has joined", opened.name)

    def _is_due(self, node: dict[str, Any]) -> bool:
        left = self._wait.get(node["NodeID"], 0)
        self._wait[node["NodeID"]] = max(0, left - 1)
        return left == 0

    def _open(self, node: dict[str, Any]) -> Machine | None:
        """Start an agent. None: the machine cannot be used, and `_problems` says why."""
        name = _name(node)
        self._count += 1
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        actor = ray.remote(Agent).options(num_cpus=0, scheduling_strategy=where).remote()
        try:
            machine = Machine(name, self._count, actor, self._sha256_of, self._leave)
            theirs, ours = machine.description.versions, versions()
            if theirs == ours:
                return machine
            problem = f"It has {theirs}, and the page has {ours}: install the same versions."
            machine.end()
        except RayError as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            problem = f"Its agent did not start: {lines[-1]}"
        if self._problems.get(name) != problem:
            logger.warning("the machine %s is not used. %s", name, problem)
        self._problems[name] = problem
        self._wait[node["NodeID"]] = _AGAIN
        return None

    def _warn_of_public_networks(self) -> None:
        for node in _nodes():
            if ipaddress.ip_address(node["NodeManagerAddress"]).is_global:
                logger.warning(
                    "The cluster's network is not private (%s). Ray does not encrypt its token: use a private network, "
                    "or TLS (docs/operate/cluster.md).",
                    node["NodeManagerAddress"],
                )

    # --- WorkerFactory -------------------------------------------------------------------------------------------

    def __call__(self, name: str, places: Places) -> Worker:
        machine_name = machine_of(places[0])
        if not machine_name:
            return self._start_local(name, places)
        machine = self._machines.get(machine_name)
        if machine is None:
            raise MachineLost.of(machine_name, "it left the cluster")
        own = tuple(place.rpartition(" · ")[2] for place in places)
        return RemoteWorker(machine, name, own, self._embeddings)

    # --- Sensors -------------------------------------------------------------------------------------------------

    def gpus(self) -> tuple[GpuMemory, ...]:
        return (*self._local.gpus(), *(gpu for machine in self._machines.values() for gpu in machine.gpus))

    def gpu_processes(self) -> dict[int, dict[str, int]]:
        processes = self._local.gpu_processes()
        for machine in self._machines.values():
            processes |= machine.gpu_processes
        return processes

    def host(self) -> HostMemory:
        return self._local.host()

    def machines(self) -> tuple[MachineMemory, ...]:
        used = tuple(machine.memory for machine in self._machines.values())
        return used + tuple(MachineMemory(name, problem=text) for name, text in tuple(self._problems.items()))

    def process(self, pid: int) -> ProcessMemory:
        machine = next((m for m in self._machines.values() if m.owns(pid)), None)
        return machine.process(pid) if machine is not None else self._local.process(pid)


def _name(node: dict[str, Any]) -> str:
    """The name that the node was given, else its host's."""
    name = str(node.get("NodeName") or "")
    plain = name if name and name != node["NodeManagerAddress"] else str(node["NodeManagerHostname"])
    return plain.replace(" · ", " ").replace(" + ", " ")


def _nodes() -> list[dict[str, Any]]:
    nodes: Any = ray.nodes
    return list(nodes())
