"""Which hop of a piece takes how long, from the worker that sends it to the page that has it.

The worker, the agent and the page each put a stamp into the piece. They are on one host, so their clock is one.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from bench.stamped_worker import stamped
from playground.cluster import cluster
from playground.cluster.agent import Agent
from playground.cluster.messages import Fault
from playground.engine import protocol
from playground.pool.process import WorkerProcess
from playground.pool.worker_spec import language_spec, vision_spec
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts
from testkit.running import MODEL, PROJECTOR

_ROUNDS, _TOKENS, _RUNTIME = 12, 300, Runtime(n_ctx=512)
_HOPS = {"sent": "worker", "read": "pipe", "agent": "agent", "page": "to the page"}
_receive = protocol.receive_reply


class StampingAgent(Agent):
    def __init__(self) -> None:
        super().__init__()
        stamp_here()

    async def request(self, *given: Any) -> AsyncIterator[Sequence[bytes | Fault]]:
        async for replies in super().request(*given):
            yield [
                reply if isinstance(reply, Fault) else protocol.encoded(stamped(protocol.as_reply(reply), "agent"))
                for reply in replies
            ]


def stamp_here() -> None:
    """From now on workers of this process stamp their pieces, and so does it when it reads them."""

    def receive(connection: Connection) -> protocol.Reply:
        return stamped(_receive(connection), "read")

    protocol.receive_reply = receive
    WorkerProcess.__init__.__kwdefaults__["module"] = "bench.stamped_worker"


def stamp_everywhere() -> None:
    """Of a page that has not opened its parts."""
    stamp_here()
    cluster.Agent = StampingAgent  # type: ignore[misc]


class Added(NamedTuple):
    """Medians in ms. `first`: from the request to its first piece, without the worker's own time for it."""

    first: float
    update: float  # from the worker that sends a later piece to the page that has it
    hops: dict[str, float]  # of the later pieces


def added(parts: Parts, place: str) -> Added:
    pair = parts.catalog.open_pair(MODEL, PROJECTOR)
    with parts.pool.use(vision_spec(pair.projector, pair.model, _RUNTIME)) as lease:
        prompt = lease.request(protocol.Encode((protocol.ChatMessage("user", "Hello"),), ()))
    generate = protocol.Generate(prompt, Sampling(max_tokens=_TOKENS), _RUNTIME, ignore_end=True)
    spec, firsts, updates, hops = language_spec(pair.model, _RUNTIME), list[float](), list[float](), defaultdict(list)
    with parts.pool.turn([spec], where=[(place,)]) as slot, slot.lease(spec) as lease:
        lease.request(generate)  # makes the context
        for _ in range(_ROUNDS):
            began, came = time.monotonic_ns(), list[protocol.Chunk]()
            finished = lease.request(generate, on_chunk=lambda chunk, came=came: came.append(stamped(chunk, "page")))
            pieces = [_stamps(chunk) for chunk in came]
            firsts.append((pieces[0]["page"] - began) / 1e6 - 1000 * (finished.first_token_s or 0))
            for piece in pieces[1:]:
                updates.append((piece["page"] - piece["sent"]) / 1e6)
                for (_, start), (hop, end) in pairwise(piece.items()):
                    hops[_HOPS[hop]].append((end - start) / 1e6)
    medians = {hop: statistics.median(times) for hop, times in hops.items()}
    return Added(statistics.median(firsts), statistics.median(updates), medians)


def _stamps(chunk: protocol.Chunk) -> dict[str, int]:
    """When it was where, in its order."""
    stamps = (control.rpartition(" ") for control in chunk.controls)
    return {hop: int(at) for hop, _, at in stamps if hop in _HOPS}


def rows(parts: Parts, places: tuple[str, str]) -> Iterator[tuple[str, float, float | None]]:
    """What, milliseconds, and the goal."""
    here, there = (added(parts, place) for place in places)
    for place, measured in zip(places, (here, there), strict=True):
        hops = ", ".join(f"{hop} {ms:.2f}" for hop, ms in measured.hops.items())
        print(f"{place}: first piece {measured.first:.1f} ms, later ones {measured.update:.2f} ms ({hops})", flush=True)
    yield "Ray adds to the first piece of an answer, ms", there.first - here.first, 20.0
    yield "Ray adds to each later piece, ms", there.update - here.update, 3.0
