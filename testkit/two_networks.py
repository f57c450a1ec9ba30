"""Two machines that lend themselves to a cluster, with a network between them that can be cut: two namespaces."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

HERE, THERE = "10.77.0.1", "10.77.0.2"
_TRIES = 3


@dataclass(frozen=True)
class Network:
    """A cable between this machine and a network namespace."""

    address: str  # of the cluster
    cable: str

    def cut(self) -> None:
        _ip("link", "set", self.cable, "down")

    def mend(self) -> None:
        _ip("link", "set", self.cable, "up")


class NotPermitted(Exception):
    """Network namespaces need root, and iproute2."""


@contextmanager
def two_networks() -> Iterator[Network]:
    """`python -m playground agent` here, which begins a cluster, and in a network namespace, which joins it as "box2".

    Raises NotPermitted.
    """
    name = f"vp{os.getpid()}"
    cable = f"{name}a"
    with ExitStack() as stack:
        try:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", cable, "type", "veth", "peer", "name", f"{name}b", "netns", name)
            _ip("addr", "add", f"{HERE}/24", "dev", cable)
            _ip("link", "set", cable, "up")
            _ip("-n", name, "addr", "add", f"{THERE}/24", "dev", f"{name}b")
            for device in (f"{name}b", "lo"):
                _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "route", "add", "default", "via", HERE)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            raise NotPermitted(f"no network namespace can be made: {error}") from None
        with socket.socket() as free:
            free.bind((HERE, 0))
            port = free.getsockname()[1]
        address = f"{HERE}:{port}"
        stack.enter_context(_agent([], "--host", HERE, "--port", str(port), "--name", "box1"))
        inside = ["ip", "netns", "exec", name]
        stack.enter_context(_agent(inside, "--host", THERE, "--address", address, "--name", "box2"))
        yield Network(address, cable)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@contextmanager
def _agent(inside: list[str], *options: str) -> Iterator[None]:
    """Until it says that Ray has started. Ray gives itself 30 s for that, so on a busy machine it is asked again."""
    command = [*inside, sys.executable, "-m", "playground", "agent", *options]
    lines: list[str] = []
    for _ in range(_TRIES):
        agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert agent.stdout is not None
            for line in agent.stdout:
                lines.append(line)
                if "Ray runtime started" in line:
                    yield
                    return
        finally:
            agent.terminate()
            agent.communicate(timeout=60)
    raise AssertionError("".join(lines))
