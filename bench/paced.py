"""The app with answers that come at 100 tokens a second from nowhere: what the page and the server take, without the
models' share of the processor. `python -m bench.paced` starts it; only bench/notebook.py does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import app
from playground import wiring
from playground.engine import protocol
from playground.pool.pool import Pool
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST

TOKENS_PER_S = 100
_CHUNK_S = 0.05  # a worker sends what comes within this time at once


class _PacedLease:
    load_s = 0.1
    pid = 0
    places = (HOST,)

    def request(
        self,
        message: protocol.Request[Any],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        stop: Callable[[], bool],
    ) -> protocol.Reply:
        if isinstance(message, protocol.Encode):
            return protocol.EncodedPrompt((protocol.TextChunk((1, 2, 3)),), 1, "Go on.", 0.001, None)
        assert isinstance(message, protocol.Generate)
        n, begun = 0, time.monotonic()
        while n < message.sampling.max_tokens and not stop():
            time.sleep(_CHUNK_S)
            due = int((time.monotonic() - begun) * TOKENS_PER_S) - n
            on_chunk(protocol.Chunk("".join(f" word{n + k}" for k in range(due)), tuple(range(n, n + due))))
            n += due
        lasted = time.monotonic() - begun
        return protocol.Finished("stopped" if stop() else "max tokens", None, 0.01, 0.01, lasted, n, 0)


class _PacedPool(Pool):
    @contextmanager
    def _lease(self, spec: WorkerSpec, options: object, stop: Callable[[], bool]) -> Iterator[Any]:
        yield _PacedLease()


if __name__ == "__main__":
    wiring.Pool = _PacedPool  # type: ignore[misc]
    app.main()
