"""Bounds the connections of one address, and how many new ones the event loop takes before it looks at anything else.

A connection costs the event loop 0.3 ms even if its request is refused. asyncio takes all that wait at once, so 800 of
them held up everybody for 0.3 s, and whoever held a thousand open took the file descriptors of all (bench attack).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from playground.web.login import network_of

MOST = 400  # of one address: twice the requests that one person may have open
_AT_ONCE = 32  # connections that are taken in one turn of the event loop
_WAITING = 2048  # connections that the kernel keeps meanwhile


class Connections:
    """Owns the count of connections by address. Lives in the server's event loop alone."""

    def __init__(self, most: int, proxies: Sequence[str] = ()) -> None:
        """`proxies`: addresses and networks that bring the connections of many people."""
        self._most = most
        self._proxies = [ipaddress.ip_network(name) for name in proxies]
        self._open: Counter[str] = Counter()

    def enter(self, host: str) -> bool:
        """Whether there is room for one more. If so, `leave` has to follow."""
        who = network_of(host)
        if self._open[who] >= self._most and not self._is_proxy(host):
            return False
        self._open[who] += 1
        return True

    def leave(self, host: str) -> None:
        who = network_of(host)
        self._open[who] -= 1
        if not self._open[who]:
            del self._open[who]

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


class _Counted(H11Protocol):
    """A connection that is counted. One too many is closed before anything of it is read."""

    connections_of_all: Connections  # of the class that `counted` makes
    _host: str | None = None  # None: it was refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        peer = transport.get_extra_info("peername")
        host = str(peer[0]) if peer else ""
        if self.connections_of_all.enter(host):
            self._host = host
            super().connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._host is not None:
            self.connections_of_all.leave(self._host)
            super().connection_lost(exc)


@contextmanager
def counted(connections: Connections) -> Iterator[None]:
    """The server that Gradio makes meanwhile counts its connections; Gradio has no argument for it.

    It knows no WebSockets: the app has none, and such a connection would not be counted.
    """
    protocol = type("Counted", (_Counted,), {"connections_of_all": connections})
    made = functools.partial(uvicorn.Config, http=protocol, ws="none", backlog=_AT_ONCE)
    with mock.patch.object(uvicorn, "Config", made):
        yield


def keep_waiting(server: uvicorn.Server) -> None:
    """asyncio has one number for the connections that it takes at once and those that the kernel keeps."""
    for listening in (socket for served in server.servers for socket in served.sockets):
        with listening.dup() as socket:
            socket.listen(_WAITING)
