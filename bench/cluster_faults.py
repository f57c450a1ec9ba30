"""How soon a lost machine is noticed, given up and used again: two network namespaces with TCP between them.

It needs root and iproute2. Each fault comes in mid-answer.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from playground.cluster.machine import PIDS
from playground.engine import protocol
from playground.errors import MachineLost
from playground.pool.worker_spec import language_spec, vision_spec
from playground.settings import Settings
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit.running import MODEL, PROJECTOR
from testkit.second_page_child import BOX2
from testkit.two_networks import Network, NotPermitted, two_networks

_RUNTIME = Runtime(n_ctx=4096)
_MOST_S = 120.0
_CUT_S = 10.0

Row = tuple[str, float, float | None]  # what, seconds, goal


def measure(folder: Path) -> Iterator[Row]:
    os.environ["PLAYGROUND_CACHE_DIR"] = str(folder / "agents")
    try:
        with two_networks() as network:
            settings = Settings(cache_dir=folder / "page", cluster=network.address)
            with open_parts(settings, any_folder=True) as parts:
                yield from _faults(parts, network, folder)
    except NotPermitted as error:
        print(f"The faults were not measured: {error} (it needs root and iproute2).")


def _faults(parts: Parts, network: Network, folder: Path) -> Iterator[Row]:
    _until(lambda: BOX2 in parts.pool.devices.host_places)
    failed_s, pid = _lost_after(parts, lambda pid: os.kill(psutil.Process(pid).ppid(), signal.SIGKILL))
    yield "an agent is killed: its request fails after, s", failed_s, 3.0
    yield "  its worker has ended after", failed_s + _until(lambda: not psutil.pid_exists(pid)), 5.0
    yield "  another agent is used after", failed_s + _until(lambda: BOX2 in parts.pool.devices.host_places), None

    failed_s, pid = _lost_after(parts, lambda pid: network.cut())
    began = time.monotonic() - failed_s
    yield "the network is cut: its request fails after, s", failed_s, 3.0
    yield (
        "  its worker hears of no page, and ends after",
        failed_s + _until(lambda: not psutil.pid_exists(pid)),
        None,
    )
    time.sleep(max(0.0, began + _CUT_S - time.monotonic()))
    network.mend()
    back = _until(lambda: BOX2 in parts.pool.devices.host_places)
    yield f"  mended {_CUT_S:.0f} s after the cut: used again after", back, None  # TCP waits longer from try to try

    command = [sys.executable, "-m", "testkit.second_page_child", str(folder / "other"), network.address, str(MODEL)]
    with subprocess.Popen([*command, "512"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = [int(pid) % PIDS for pid in other.stdout.readline().split()]
        other.kill()
        ended = _until(lambda: not any(psutil.pid_exists(pid) for pid in theirs))
    yield "a page is killed: its last worker ends after, s", ended, 5.0


def _lost_after(parts: Parts, happens: Callable[[int], None]) -> tuple[float, int]:
    """Seconds until a request on box2 fails, and its worker's process id. `happens` gets it, in mid-answer."""
    pair, began = parts.catalog.open_pair(MODEL, PROJECTOR), list[float]()
    with parts.pool.at(("host",)).use(vision_spec(pair.projector, pair.model, Runtime())) as lease:
        prompt = lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))
    generate = protocol.Generate(prompt, Sampling(max_tokens=100_000), _RUNTIME, ignore_end=True)
    spec = language_spec(pair.model, _RUNTIME)
    with parts.pool.turn([spec], where=[(BOX2,)]) as slot, slot.lease(spec) as lease:
        pid = lease.pid % PIDS

        def on_chunk(chunk: protocol.Chunk) -> None:
            if not began:
                happens(pid)
                began.append(time.monotonic())

        try:
            lease.request(generate, on_chunk=on_chunk)
        except MachineLost as error:
            print(f"  {error.message}", flush=True)
    return time.monotonic() - began[0], pid


def _until(true: Callable[[], bool]) -> float:
    """Seconds until it is true."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > _MOST_S:
            raise SystemExit(f"not within {_MOST_S:.0f} s")
        time.sleep(0.02)
    return time.monotonic() - began
