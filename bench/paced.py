"""The app with answers that come at 100 tokens a second from nowhere: what the page and the server take, without the
models' share of the processor. `python -m bench.paced` starts it; only bench/notebook.py does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import app
from playground import wiring
from playground.engine import protocol
from playground.pool.contract import Dialogue
from playground.pool.turn_order import Places
from playground.values.memory import WorkerState
from playground.web import server

TOKENS_PER_S = 100
_CHUNK_S = 0.05  # a worker sends what comes within this time at once


class PacedWorker:
    """A Worker (playground/pool/contract.py) without a process of its own."""

    def __init__(self, name: str, places: Places) -> None:
        self.name = name
        self.pid = os.getpid()
        self.state = WorkerState.STARTING

    @property
    def alive(self) -> bool:
        return self.state is WorkerState.READY

    @property
    def is_fresh(self) -> bool:
        return self.alive

    def wait_ready(self) -> protocol.Ready:
        self.state = WorkerState.READY
        return protocol.Ready("paced", gpu_offload=False)

    def ping(self) -> protocol.Pong:
        return protocol.Pong()

    def wake(self) -> None:
        pass

    def stop(self) -> None:
        self.state = WorkerState.STOPPED

    def request(
        self,
        request: protocol.Request[Any],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        dialogue: Dialogue | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Any:
        match request:
            case protocol.Encode():
                return protocol.EncodedPrompt((protocol.TextChunk((1, 2, 3)),), 1, "Go on.", 0.001, None)
            case protocol.Generate():
                return _generate(request.sampling.max_tokens, on_chunk, stop)
            case protocol.PlanMemory():
                return protocol.MemoryPlan(0, 0)
            case protocol.MeasureBandwidth():
                return protocol.Bandwidth(1e10, "paced")
            case _:
                return protocol.Loaded(0.1, 0.0, 4096)


def _generate(
    max_tokens: int, on_chunk: Callable[[protocol.Chunk], None], stop: Callable[[], bool]
) -> protocol.Finished:
    n, begun = 0, time.monotonic()
    while n < max_tokens and not stop():
        time.sleep(_CHUNK_S)
        due = int((time.monotonic() - begun) * TOKENS_PER_S) - n
        on_chunk(protocol.Chunk("".join(f" word{n + k}" for k in range(due)), tuple(range(n, n + due))))
        n += due
    lasted = time.monotonic() - begun
    return protocol.Finished("stopped" if stop() else "max tokens", None, 0.01, 0.01, lasted, n, 0)


if __name__ == "__main__":
    server.open_parts = partial(wiring.open_parts, start_worker=PacedWorker)  # type: ignore[attr-defined]
    app.main()
