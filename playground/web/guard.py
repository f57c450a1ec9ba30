"""Refuses requests of other origins, of unknown hosts and with too large bodies, before Gradio sees them.

docs/decisions/0022-own-origin.md says why these checks, and no token. Everything else that a request needs (a login,
room) is checked by admission.py, behind Gradio's session.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.settings import Settings
from playground.web.openai_reply import error_document

_UNSPECIFIED = ("0.0.0.0", "::", "")  # noqa: S104  compared with, not listened on
_LOOPBACK = "localhost"  # 127.0.0.1 and ::1 are addresses, which are always accepted
_ANY = "*"
_TUNNELS = ".gradio.live"  # of share links: each has a name of its own below it
_HUB = "https://huggingface.co"
_DEFAULT_PORT = {"http": 80, "https": 443}
_UPLOAD = "/gradio_api/upload"
_API = "/v1/"
_LOGIN = "/login"
_LOGIN_BYTES = 65_536
_UPLOADED_FILES = 16  # as many as a cell has pictures
_MULTIPART_BYTES = 1_000_000  # of an upload, beside its files
# Starlette decodes JSON in the event loop: 8 MB of "[],[]," become 2.7 million lists, and everybody waits for a second.
_MOST_VALUES = 100_000  # in a body of JSON
_MANY_BYTES = 1_000_000  # that are counted in a thread
_MARKS = (b"[", b"{", b",")
_OTHER_ENCODINGS = (b"\xff\xfe", b"\xfe\xff")  # that json.loads knows by their first bytes, beside a NUL


@dataclass(frozen=True, slots=True)
class Rules:
    """What a request must meet."""

    hosts: frozenset[str]  # names without a port, in lower case; "*": every one; ".name": each one below it
    origins: frozenset[str]  # "name" or "name:port", as the operator wrote them
    in_hubs_frame: bool
    max_body_bytes: int
    max_upload_bytes: int
    max_api_body_bytes: int

    @classmethod
    def of(cls, settings: Settings) -> Rules:
        named = [name.strip().lower() for name in (*settings.allowed_hosts, *filter(None, [settings.space_host]))]
        own = [] if settings.host in _UNSPECIFIED else [settings.host.lower()]
        return cls(
            hosts=frozenset([_LOOPBACK, *own, *map(_name, named), *([_TUNNELS] if settings.share else [])]),
            origins=frozenset(named) - {_ANY},
            in_hubs_frame=settings.space_id is not None,
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes * _UPLOADED_FILES + _MULTIPART_BYTES,
            max_api_body_bytes=settings.max_api_body_bytes,
        )

    def refusal(self, method: str, path: str, headers: Headers) -> Response | None:
        """None: the request may go on, as far as its head tells."""
        host = headers.get("host", "")
        if not self._knows(_name(host)):
            return _refused(
                421, f"This server does not serve {host[:200]!r}. The operator can add it to allowed_hosts."
            )
        if not self._is_own(method, headers):
            return _refused(403, "This request comes from another site. Open the page itself.")
        if method == "POST" and path not in (_UPLOAD, _LOGIN):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return _refused(415, "This address takes JSON: send Content-Type: application/json.")
        return None

    def most_bytes(self, path: str) -> int:
        if path == _LOGIN:
            return _LOGIN_BYTES
        if path.startswith(_API):
            return self.max_api_body_bytes
        return self.max_upload_bytes if path == _UPLOAD else self.max_body_bytes

    def _knows(self, name: str) -> bool:
        """An address is always known: a page can take over a name (DNS rebinding), but not an address."""
        below = f".{name.partition('.')[2]}"
        return _ANY in self.hosts or name in self.hosts or below in self.hosts or _is_address(name)

    def _is_own(self, method: str, headers: Headers) -> bool:
        """Whether a page of this server, a person, or a program made the request; and not a page of somebody else.

        A browser states Sec-Fetch-Site to servers on HTTPS or loopback, and Origin with all that changes something. A
        program, such as gradio_client or curl, states neither.
        """
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site in ("same-origin", "none"):
            return True
        if origin is not None and _is_in(origin, {headers.get("host", "").lower(), *self.origins}):
            return True
        if site is not None and origin is None and method in ("GET", "HEAD"):
            return headers.get("sec-fetch-mode") == "navigate"  # somebody follows a link, or the Hub shows the page
        return site is None and origin is None

    def mark(self, headers: MutableHeaders) -> None:
        """Add to a response who may show it in a frame, and to its cookies who may send them."""
        ancestors = f"'self' {_HUB}" if self.in_hubs_frame else "'self'"
        headers.append("Content-Security-Policy", f"frame-ancestors {ancestors}")
        if cookies := headers.getlist("set-cookie"):
            del headers["set-cookie"]
            for cookie in cookies:
                headers.append("set-cookie", self._marked(cookie))

    def _marked(self, cookie: str) -> str:
        """Gradio lets every site send its cookies. Browsers that block cookies of frames want to know them Partitioned;
        but the Hub's login ("session") comes back in a window of its own, outside of the frame's partition."""
        if not self.in_hubs_frame:
            return cookie.replace("SameSite=none", "SameSite=lax")
        framed = "SameSite=none" in cookie and cookie.startswith("access-token")
        return f"{cookie}; Partitioned" if framed else cookie


class Guard:
    """ASGI middleware round the whole app. Gradio adds its CORS outside any middleware that launch() is given, so
    `around` puts this one outside of it when the server starts."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        path = scope["path"].rstrip("/")
        root = scope.get("root_path")
        if root and f"{path}/".startswith(f"{root}/"):
            # Starlette would take it off once more, behind all that looks at paths.
            await _refused(404, f"The proxy has to take {root} off the path.")(scope, receive, send)
            return
        refusal = self._rules.refusal(scope.get("method", "GET"), path, headers)
        if refusal is None and scope["type"] == "http":
            body = _Body(receive, send, self._rules, most=self._rules.most_bytes(path))
            refusal = await body.serve(self._app, scope)
        if refusal is not None:
            if path.startswith(_API):
                refusal = _in_openais_form(refusal)
            await refusal(scope, receive, send)


class _Body:
    """One request: counts its body as it comes, and marks its response."""

    def __init__(self, receive: Receive, send: Send, rules: Rules, *, most: int) -> None:
        self._receive = receive
        self._send = send
        self._rules = rules
        self._most = most
        self._read = 0
        self._chunks: list[bytes] | None = None  # of JSON, until all of it is here; None: it is not looked at
        self._has_many_values = False
        self._answered = False

    async def serve(self, app: ASGIApp, scope: Scope) -> Response | None:
        """The refusal, if the body is too large."""
        declared = Headers(scope=scope).get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._most:
            return self._too_large()
        if Headers(scope=scope).get("content-type", "").lower().startswith("application/json"):
            self._chunks = []
        # Gradio's CORS echoes every Origin that it sees, credentials included; a page of this server needs none of it.
        own = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"origin"]}
        try:
            await app(own, self._counted, self._marked)
        except Exception:
            if not self._is_exceeded:
                raise
        return self._too_large() if self._is_exceeded and not self._answered else None

    async def _counted(self) -> Message:
        message = await self._receive()
        body = message.get("body", b"")
        self._read += len(body)
        if self._chunks is not None and not self._is_exceeded:
            self._chunks.append(body)
            if not message.get("more_body", False):
                chunks, self._chunks = self._chunks, None
                if self._read > _MANY_BYTES:
                    self._has_many_values = await asyncio.to_thread(has_many_values, chunks)
                else:
                    self._has_many_values = has_many_values(chunks)
        return {"type": "http.disconnect"} if self._is_exceeded else message

    async def _marked(self, message: Message) -> None:
        if self._is_exceeded and not self._answered:
            return  # the app's reply to half a body
        if message["type"] == "http.response.start":
            self._answered = True
            message.setdefault("headers", [])
            self._rules.mark(MutableHeaders(scope=message))
        await self._send(message)

    @property
    def _is_exceeded(self) -> bool:
        return self._read > self._most or self._has_many_values

    def _too_large(self) -> Response:
        if self._has_many_values:
            return _refused(413, f"The request holds too many values: at most {_MOST_VALUES:,} are accepted.")
        return _refused(413, f"The request is too large: at most {self._most:,} bytes are accepted here.")


def has_many_values(chunks: Sequence[bytes], most: int = _MOST_VALUES) -> bool:
    """Whether more values than that stand in a text of JSON. Marks in a string count for nothing."""
    if sum(chunk.count(mark) for chunk in chunks for mark in _MARKS) <= most:
        return False
    text = b"".join(chunks)
    if text.startswith(_OTHER_ENCODINGS) or b"\0" in text[:4]:
        return True  # in UTF-16 the byte of a quote may be half of another character
    text = text.replace(rb"\\", b"").replace(rb"\"", b"")
    if text.count(b'"') > 2 * most:
        return True
    return sum(part.count(mark) for part in text.split(b'"')[::2] for mark in _MARKS) > most


def around(rules: Rules) -> Any:
    """A lifespan for launch(app_kwargs=...): it puts the guard round the app before the server takes a request."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        app.middleware_stack = Guard(app.middleware_stack, rules)
        yield

    return lifespan


def _refused(status: int, why: str) -> Response:
    return PlainTextResponse(why, status, headers={"Connection": "close"})


def _in_openais_form(refusal: Response) -> Response:
    document = error_document(bytes(refusal.body).decode(), refusal.status_code)
    return JSONResponse(document, refusal.status_code, headers={"Connection": "close"})


def _name(host: str) -> str:
    """The host without its port, and an IPv6 address without its brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host if _is_address(host) else host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_in(origin: str, hosts: Collection[str]) -> bool:
    """Whether an origin, such as https://name:8443, is one of `hosts`, whose port may be left out if it is usual."""
    try:
        url = urlsplit(origin)
        port = url.port or _DEFAULT_PORT[url.scheme]
    except (ValueError, KeyError):  # "null" too
        return False
    place = url.netloc.rpartition("@")[2].lower().removesuffix(f":{_DEFAULT_PORT[url.scheme]}")
    return place in hosts or f"{place.removesuffix(f':{port}')}:{port}" in hosts
