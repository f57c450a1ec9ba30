"""Bounds the connections of one address and of all, and how many new ones the event loop takes before it looks at
anything else.

A connection costs the event loop 0.3 ms even if its request is refused. asyncio takes all that wait at once, so 800 of
them held up everybody for 0.3 s, and whoever held a thousand open took the file descriptors of all (bench attack).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import resource
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from unittest import mock

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from playground.web.login import network_of

MOST = 400  # of one address: twice the requests that one person may have open
_MOST_OF_ALL = 4096
_MOST_FILES = 65_536  # a limit beyond it is left as it is: some programs look at each possible descriptor
_AT_ONCE = 32  # connections that are taken in one turn of the event loop
_WAITING = 2048  # connections that the kernel keeps meanwhile


class Connections:
    """Owns the connections by address. Lives in the server's event loop alone.

    Where all together are too many, somebody who holds fewer gets the newest of whoever holds the most.
    """

    def __init__(self, most: int, proxies: Sequence[str] = (), most_of_all: int = _MOST_OF_ALL) -> None:
        """`proxies`: addresses and networks that bring the connections of many people."""
        self._most = most
        self._most_of_all = most_of_all
        self._proxies = [ipaddress.ip_network(name) for name in proxies]
        self._open: defaultdict[str, list[asyncio.Transport | None]] = defaultdict(list)
        self._of_proxies: set[str] = set()
        self._count = 0

    def enter(self, host: str, transport: asyncio.Transport | None = None) -> bool:
        """Whether there is room for one more. If so, `leave` has to follow."""
        who = network_of(host)
        n = len(self._open.get(who, ()))
        if self._is_proxy(host):
            self._of_proxies.add(who)
        elif n >= self._most:
            return False
        if self._count >= self._most_of_all and not self._make_room(n):
            return False
        self._open[who].append(transport)
        self._count += 1
        return True

    def leave(self, host: str, transport: asyncio.Transport | None = None) -> None:
        self._remove(network_of(host), transport)

    def _make_room(self, n: int) -> bool:
        """For somebody who holds `n`."""
        sizes = {who: len(held) for who, held in self._open.items() if who not in self._of_proxies}
        largest = max(sizes, key=sizes.__getitem__, default="")
        if sizes.get(largest, 0) <= n + 1:
            return False
        newest = self._open[largest][-1]
        self._remove(largest, newest)
        if newest is not None:
            newest.abort()
        return True

    def _remove(self, who: str, transport: asyncio.Transport | None) -> None:
        held = self._open.get(who, [])
        if transport not in held:  # room was made of it
            return
        held.remove(transport)
        self._count -= 1
        if not held:
            del self._open[who]
            self._of_proxies.discard(who)

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)


class _Counted(H11Protocol):
    """A connection that is counted. One too many is closed before anything of it is read."""

    connections_of_all: Connections  # of the class that `counted` makes
    _entered: tuple[str, asyncio.Transport] | None = None  # None: it was refused

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        peer = transport.get_extra_info("peername")
        host = str(peer[0]) if peer else ""
        if self.connections_of_all.enter(host, transport):
            self._entered = host, transport
            super().connection_made(transport)
        else:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._entered is not None:
            self.connections_of_all.leave(*self._entered)
            super().connection_lost(exc)


def most_of_all() -> int:
    """Connections that leave half of the process's file descriptors to databases, workers and uploads.

    Raises the process's limit as far as it may.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _MOST_FILES:
        wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
        with suppress(OSError, ValueError):  # macOS refuses more than it has, whatever the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OF_ALL if soft < 0 else min(_MOST_OF_ALL, soft // 2)


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
