"""How many requests of one person run at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from anyio import CapacityLimiter

from playground.errors import Busy


class RequestLine:
    """Where each person's requests wait before their images are read, which take memory.

    Lives in the server's event loop alone.
    """

    def __init__(self, at_once: Callable[[], int], most: int) -> None:
        """`at_once`: how many requests of one person run, or wait for a turn, now. `most`: of one person, open."""
        self._at_once = at_once
        self._most = most
        self._open: Counter[str] = Counter()
        self._turns: dict[str, CapacityLimiter] = {}

    @asynccontextmanager
    async def turn(self, who: str) -> AsyncIterator[None]:
        """First come, first served. Raises Busy."""
        if self._open[who] >= self._most:
            raise Busy(f"Busy: {self._most} of your requests are open. Wait for one of them to end.")
        self._open[who] += 1
        limiter = self._turns.setdefault(who, CapacityLimiter(1))
        limiter.total_tokens = self._at_once()  # anew: a machine may have joined
        try:
            async with limiter:
                yield
        finally:
            self._open[who] -= 1
            if not self._open[who]:
                del self._open[who], self._turns[who]
