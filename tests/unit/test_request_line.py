"""How many requests of one person run at once."""

from __future__ import annotations

import asyncio

from playground.web.request_line import RequestLine
from testkit.waiting import awaited


def test_requests_when_a_machine_joins_then_more_of_them_run_at_once() -> None:
    places = 1

    async def held() -> int:
        line, running, end = RequestLine(lambda: places, most=9), 0, asyncio.Event()

        async def ask() -> None:
            nonlocal running
            async with line.turn("anna"):
                running += 1
                await end.wait()

        nonlocal places
        async with asyncio.TaskGroup() as tasks:
            for n in (1, 3):
                places = n
                for _ in range(2):
                    tasks.create_task(ask())
                for _ in range(10):  # rounds of the loop
                    await asyncio.sleep(0)
                assert running == n
            end.set()
        return running

    assert awaited(held()) == 4
