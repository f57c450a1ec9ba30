"""Lend this machine to a cluster."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from threading import Event
from types import FrameType
from typing import Annotated

import typer

from playground.errors import BadInput

_STARTED = "Ray runtime started"  # as Ray says it
_AGAIN_S = 3.0


def agent(
    address: Annotated[
        str, typer.Option(help="Address of the cluster's first machine, such as 10.0.0.1:6379. Default: start one.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name of this machine on the page. Default: its host name.")] = "",
    host: Annotated[
        str, typer.Option(help="Address under which the other machines reach this one. Default: Ray finds it out.")
    ] = "",
    port: Annotated[int, typer.Option(help="Port that the first machine listens on.")] = 6379,
) -> None:
    """Start a Ray cluster on this machine, or join one, until it is interrupted. Needs the extra cluster."""
    import playground.cluster  # noqa: F401, PLC0415  sets how Ray authenticates, which the child inherits

    if importlib.util.find_spec("ray") is None:
        raise BadInput("This needs Ray: pip install 'vlm-quant-playground[cluster]'.")
    where = [f"--address={address}"] if address else ["--head", f"--port={port}", "--include-dashboard=false"]
    named = [*([f"--node-name={name}"] if name else []), *([f"--node-ip-address={host}"] if host else [])]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *where, *named, "--disable-usage-stats", "--block"]
    if not address:
        os.execv(sys.executable, command)  # noqa: S606  whoever stops this process stops Ray
    raise typer.Exit(_keep_joined(command))


def _keep_joined(command: list[str]) -> int:
    """Join whenever Ray has given this machine up: after a minute without a network, or because the first one went.

    Returns Ray's exit status when a person has stopped it, or if it never joined.
    """
    stopped, has_joined, running = Event(), False, list[subprocess.Popen[str]]()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        for ray in running:
            ray.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    while True:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ray:
            running[:] = [ray]
            if stopped.is_set():
                ray.terminate()
            assert ray.stdout is not None
            for line in ray.stdout:
                print(line, end="", flush=True)
                has_joined = has_joined or _STARTED in line
        if stopped.is_set() or not has_joined:
            return ray.returncode
        print("Ray has ended on this machine, which joins again.", flush=True)
        stopped.wait(_AGAIN_S)
