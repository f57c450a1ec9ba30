"""Lend this machine to a cluster."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Annotated

import typer

from playground.errors import BadInput


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
    os.execv(sys.executable, command)  # noqa: S606  whoever stops this process stops Ray
