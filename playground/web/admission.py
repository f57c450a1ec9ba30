"""Asks for the login before every route but the few that need none, and keeps room for everybody in the app's queue.

Gradio asks for the login in some of its routes only, and its queue has one limit for all people together.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from playground.errors import Busy
from playground.settings import Login, Settings
from playground.web import login
from playground.web.uploads import Uploads

# What somebody needs in order to log in, and what needs no login (docs/operate/login.md).
_OPEN = ("", "/models", "/results", "/inspect", "/login", "/logout", "/enter", "/favicon.ico", "/robots.txt",
         "/manifest.json", "/health", "/health/ready", "/metrics", "/theme.css",
         "/gradio_api/startup-events")  # fmt: skip
_OPEN_BELOW = ("/login/", "/assets/", "/static/", "/svelte/", "/vp-static/",
               "/v1/")  # asks for a key itself (openai_api.person)  # fmt: skip
# Gradio's, and not this page's: they keep files of whoever asks, or fetch something.
_UNUSED = tuple(
    f"{prefix}/{name}"
    for prefix in ("", "/gradio_api")
    for name in ("deep_link", "proxy=", "process_recording", "vibe-", "undo-vibe-", "stream/")
)
_JOINS = ("/gradio_api/queue/join", "/gradio_api/call/", "/gradio_api/run/", "/gradio_api/api/", "/vp-runs")
_UPLOAD = "/gradio_api/upload"
_HEARTBEAT = "/gradio_api/heartbeat/"
_MCP = "/gradio_api/mcp"
_ADDRESS = re.compile(r"/file[=/]\s*https?:", re.IGNORECASE)
_SMALL_BYTES = 65_536  # no image
_BEAT_S = 15.0
_now = time.monotonic
_sleep = asyncio.sleep

# Of one person. A page holds two requests open, and begins an event every two seconds, or a few with a click. An event
# costs the server milliseconds, even one that is refused.
_MOST_OPEN_REQUESTS = 200
_MOST_EVENTS = 100
_EVENTS_PER_S = 10.0
_EVENTS_AT_ONCE = 5  # beyond them one person's events begin one after another, with a pause for everybody else's
_PAUSE_S = 0.05
_MOST_PEOPLE = 1000  # who are remembered before those are forgotten who have been quiet


class Admission:
    """ASGI middleware behind Gradio's session and before its routes. Runs in the server's event loop alone."""

    def __init__(self, app: ASGIApp, settings: Settings, uploads: Uploads, on_leave: Callable[[str], None]) -> None:
        """`on_leave`: is told the session of a page that was closed."""
        self._app = app
        self._needs_login = settings.login is not Login.NONE
        self._uploads = uploads
        self._on_leave = on_leave
        self._open_requests: Counter[str] = Counter()  # by person
        self._events: dict[str, tuple[float, float]] = {}  # by person: events that still count, and when
        self._turns: dict[str, asyncio.Lock] = {}  # by person, while they have an open request

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        path = scope["path"].rstrip("/")
        is_open = path in _OPEN or path.startswith(_OPEN_BELOW)
        try:
            name = None if is_open else login.name_of(request)
        except HTTPException as error:  # the Hub's login leads a browser to the page before the door
            await Response(status_code=error.status_code, headers=error.headers)(scope, receive, send)
            return
        if self._needs_login and name is None and not is_open:
            await _refused(401, {"error": "Not authenticated", "auth_message": _message(request)})(scope, receive, send)
            return
        who = name or login.address_of(request)
        refusal = self._refusal(request, path, who)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        self._open_requests[who] += 1
        try:
            if request.method == "GET" and path.startswith(_HEARTBEAT):
                await self._until_left(request.app, path.removeprefix(_HEARTBEAT), receive, send)
            elif request.method == "POST" and path == _UPLOAD:
                await self._upload(request, who, receive, send)
            elif request.method == "POST" and path.startswith(_MCP):
                scope["headers"] = [*scope["headers"], login.behind(who)]
                size = request.headers.get("content-length", "")
                if size.isdecimal() and int(size) <= _SMALL_BYTES:
                    await self._app(scope, receive, send)
                else:  # the image in it becomes a file
                    await self._upload(request, who, receive, send)
            else:
                if request.method == "POST" and path.startswith(_JOINS):
                    await self._pause(who)
                await self._app(scope, receive, send)
        finally:
            self._open_requests[who] -= 1
            if not self._open_requests[who]:
                del self._open_requests[who]
                self._turns.pop(who, None)

    async def _pause(self, who: str) -> None:
        """A hundred events that begin at once hold up the event loop for a second."""
        if self._recent(who, _now()) > _EVENTS_AT_ONCE:
            async with self._turns.setdefault(who, asyncio.Lock()):
                await _sleep(_PAUSE_S)

    async def _upload(self, request: Request, who: str, receive: Receive, send: Send) -> None:
        size = request.headers.get("content-length", "")
        if not size.isdecimal():
            await PlainTextResponse("An upload needs a Content-Length.", 411)(request.scope, receive, send)
            return
        try:
            upload = await asyncio.to_thread(self._uploads.begin, who, int(size))
        except Busy as error:  # as text: Gradio's script shows it as it is
            await PlainTextResponse(error.message, 429)(request.scope, receive, send)
            return
        try:
            await self._app(request.scope, receive, send)
        finally:
            self._uploads.end(upload)

    async def _until_left(self, app: Any, session: str, receive: Receive, send: Send) -> None:
        """In place of Gradio's heartbeat and its event Blocks.unload, which take milliseconds for each page that comes
        or goes: the connections of 1,500 pages, closed at once, held up everybody for 10 s (bench attack)."""
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        stopped = asyncio.ensure_future(app.stop_event.wait())
        gone = asyncio.ensure_future(disconnected(receive))
        try:
            while not (stopped.done() or gone.done()):
                await send({"type": "http.response.body", "body": b"data: ALIVE\n\n", "more_body": True})
                await asyncio.wait([stopped, gone], timeout=_BEAT_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            gone.cancel()
            self._on_leave(session)
            if session in app.state_holder.session_data:  # Gradio drops what it keeps of the page an hour later
                app.state_holder.session_data[session].is_closed = True

    def _refusal(self, request: Request, path: str, who: str) -> Response | None:
        if self._open_requests[who] >= _MOST_OPEN_REQUESTS:
            return _refused(429, f"Busy: {_MOST_OPEN_REQUESTS} of your requests are open. Close some pages.")
        if path.startswith(_UNUSED):
            return _refused(404, "This address is not in use here.")
        if _ADDRESS.search(path):  # Gradio would fetch it, from anywhere, and pass it on
            return _refused(403, "This server fetches no files from other addresses.")
        if request.method == "POST" and path.startswith((*_JOINS, _UPLOAD)):
            now = _now()
            recent = self._recent(who, now)
            if recent >= _MOST_EVENTS:
                return _refused(429, "Busy: you sent too many requests at once. Try again in some seconds.")
            self._events[who] = recent + 1, now
            if len(self._events) > _MOST_PEOPLE:
                self._events = {other: events for other, events in self._events.items() if self._recent(other, now)}
        return None

    def _recent(self, who: str, now: float) -> float:
        events, at = self._events.get(who, (0.0, now))
        return max(0.0, events - (now - at) * _EVENTS_PER_S)


async def disconnected(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _message(request: Request) -> str | None:
    message: str | None = request.app.get_blocks().auth_message
    return message


def _refused(status: int, detail: object) -> Response:
    """As FastAPI words it, so that Gradio's clients show the text."""
    return JSONResponse({"detail": detail}, status)
