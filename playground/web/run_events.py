"""The address at which a page starts runs (POST) and watches those of a notebook (GET: server-sent events).

Each event is a RunNews in JSON. It holds all that the page shows of one part, so that a page which lost its connection
needs nothing but the newest.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from playground.errors import NoNotebook, PlaygroundError
from playground.notebooks.library import Library, Notebook
from playground.pool.monitor import Monitor
from playground.rendering import memory_strip
from playground.values.memory import MemoryReport
from playground.web.admission import disconnected
from playground.web.live_runs import LiveRuns
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.web.replies import RunNews, RunUpdate, encoded
from playground.web.server_function import server_function

PATH = "/vp-runs"
_MEMORY_S = 2.0
_BEAT_S = 15.0  # a proxy ends a connection that is silent for a minute


class RunEvents:
    def __init__(
        self, library: Library, view: NotebookView, runs: LiveRuns, actions: NotebookActions, monitor: Monitor
    ) -> None:
        self._library = library
        self._monitor = monitor
        self._strip: tuple[MemoryReport, str] | None = None  # the newest, for all pages
        self._view = view
        self._runs = runs
        self._run = server_function(actions.run)

    def routes(self) -> list[BaseRoute]:
        return [Route(PATH, self._start, methods=["POST"]), Route(PATH, self._watch, methods=["GET"])]

    async def _start(self, request: Request) -> Response:
        try:
            given = msgspec.json.decode(await request.body())
        except msgspec.DecodeError:
            return PlainTextResponse("This address takes JSON.", 400)
        return JSONResponse(await run_in_threadpool(self._run, given, request))

    async def _watch(self, request: Request) -> Response:
        key, since = request.query_params.get("notebook", ""), request.query_params.get("since", "0")
        try:
            await run_in_threadpool(self._library.read, key)
        except NoNotebook as error:
            return PlainTextResponse(error.message, 404)
        except PlaygroundError as error:  # the disk does not answer now
            return PlainTextResponse(error.message, 503)
        return _Stream(self, key, int(since[:15]) if since.isdecimal() else 0)

    async def serve(self, key: str, since: int, receive: Receive, send: Send) -> None:
        """Send the news until the page is gone, or the notebook or its link is."""
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        gone = asyncio.ensure_future(disconnected(receive))

        def on_news() -> None:
            with suppress(RuntimeError):  # the loop has ended with the app
                loop.call_soon_threadsafe(news.set)

        async def event(message: RunNews) -> None:
            await _sent(send, b"data: " + encoded(message) + b"\n\n")

        try:
            notebook, can_edit = await run_in_threadpool(self._library.read, key)
            with self._runs.watching(notebook.id, since, on_news) as watcher:
                await event(RunNews(id=since, server=self._runs.server))
                for cell, error in watcher.missed:
                    outputs = await run_in_threadpool(self._ended, notebook, cell, can_edit)
                    await event(RunNews(id=since, update=msgspec.structs.replace(outputs, error=error)))
                strip, beat_at = "", loop.time()
                while not (gone.done() or self._runs.closing):
                    news.clear()
                    updates, queue = watcher.take()
                    for id, update in updates:
                        await event(RunNews(id=id, update=update))
                    if queue is not None:
                        await event(RunNews(id=queue.id, queue=queue))
                    if (newest := self._memory()) != strip:
                        strip = newest
                        await event(RunNews(id=since, memory=strip))
                    await _happens(news, gone)
                    if loop.time() - beat_at > _BEAT_S:
                        beat_at = loop.time()
                        await run_in_threadpool(self._library.read, key)  # raises NoNotebook if it is no longer shared
                        await _sent(send, b": beat\n\n")
        except PlaygroundError:
            pass  # the page asks again, and is told why
        finally:
            gone.cancel()
        with suppress(OSError):
            await send({"type": "http.response.body", "body": b""})

    def _memory(self) -> str:
        """The strip at the top of the page; empty until the sensors were read."""
        reports = self._monitor.history[-1:]
        if reports and (self._strip is None or self._strip[0] is not reports[0]):
            self._strip = reports[0], memory_strip.html(reports[0])
        return self._strip[1] if self._strip is not None else ""

    def _ended(self, notebook: Notebook, cell: str, can_edit: bool) -> RunUpdate:
        """A run that ended while the page was away."""
        if cell not in notebook.cells:
            return RunUpdate(cell=cell, ended=True)
        runs = self._library.runs(notebook, cell)
        outputs = self._view.outputs(notebook, cell, can_edit)
        return (
            RunUpdate(cell=cell, outputs=outputs, runs=len(runs), ended=True)
            if runs
            else RunUpdate(cell=cell, ended=True)
        )


class _Stream(Response):
    def __init__(self, events: RunEvents, key: str, since: int) -> None:
        super().__init__(media_type="text/event-stream")
        self._events, self._key, self._since = events, key, since

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [
            (b"content-type", b"text/event-stream"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._events.serve(self._key, self._since, receive, send)


async def _happens(news: asyncio.Event, gone: asyncio.Future[None]) -> None:
    """Returns when there is news, or the page is gone, or it is time to look at the memory again."""
    waiting = asyncio.ensure_future(_wait(news))
    try:
        await asyncio.wait([waiting, gone], timeout=_MEMORY_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


async def _wait(news: asyncio.Event) -> None:
    await news.wait()


async def _sent(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
