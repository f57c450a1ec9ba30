"""How many connections one address may hold."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from gradio.http_server import Server

from playground.web import connections
from playground.web.connections import Connections


async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["type"].encode()})


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """Of a server that takes three connections of one address."""
    with connections.counted(Connections(3)):
        config = uvicorn.Config(answer, port=0, log_level="warning", lifespan="off")  # type: ignore[arg-type]
    server = Server(config)
    server.run_in_thread()
    connections.keep_waiting(server)
    yield server.servers[0].sockets[0].getsockname()
    server.close()


def test_connections_when_an_address_opens_too_many_then_closed_unread_until_one_of_the_others_is_closed(
    address: tuple[str, int],
) -> None:
    url = f"http://{address[0]}:{address[1]}"
    with contextlib.ExitStack() as stack:
        kept = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        with pytest.raises(httpx.TransportError):
            httpx.get(url)
        kept.pop().close()
        while True:
            with contextlib.suppress(httpx.TransportError):
                reply = httpx.get(url, headers={"Connection": "Upgrade", "Upgrade": "websocket"})
                break
    assert reply.text == "http"


@pytest.fixture
def few_files() -> Iterator[None]:
    """A soft limit of 300 file descriptors, as far as the process holds no more, and the hard one as it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_files")
def test_limit_of_files_when_the_system_allows_more_then_raised_and_half_of_it_is_left_beside_connections() -> None:
    most = connections.most_of_all()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == (hard if 0 <= hard < 65_536 else 65_536)
    assert most == min(4096, soft // 2)


class Transport:
    aborted = False

    def abort(self) -> None:
        self.aborted = True


def held(counts: Connections, host: str, n: int) -> list[Any]:
    transports: list[Any] = [Transport() for _ in range(n)]
    assert [counts.enter(host, transport) for transport in transports] == [True] * n
    return transports


def test_connections_when_three_addresses_hold_all_then_a_new_one_gets_the_newest_of_whoever_holds_the_most() -> None:
    counts = Connections(400, most_of_all=900)
    first = held(counts, "192.0.2.1", 400)
    second, third = held(counts, "192.0.2.2", 300), held(counts, "192.0.2.3", 200)
    new = held(counts, "192.0.2.4", 100)
    assert sum(transport.aborted for transport in first) == 100
    assert all(transport.aborted for transport in first[300:])
    assert not any(transport.aborted for transport in (*second, *third, *new))
    assert not counts.enter("192.0.2.2"), "it holds as many as anybody"
    for transport in first:  # of those that were aborted the server hears once more
        counts.leave("192.0.2.1", transport)
    held(counts, "192.0.2.4", 300)
    assert not counts.enter("192.0.2.4"), "400 of one address"
    assert not any(transport.aborted for transport in (*second, *third, *new))


def test_connections_when_everybody_holds_one_and_all_are_taken_then_one_more_is_refused() -> None:
    counts = Connections(400, most_of_all=3)
    kept = [held(counts, f"192.0.2.{n}", 1)[0] for n in range(3)]
    assert not counts.enter("192.0.2.9")
    counts.leave("192.0.2.0", kept[0])
    assert counts.enter("192.0.2.9")


def test_proxy_when_all_connections_are_taken_then_it_loses_none() -> None:
    counts = Connections(400, ("10.0.0.0/8",), most_of_all=100)
    many = held(counts, "10.0.0.1", 100)
    assert not counts.enter("192.0.2.1")
    assert not any(transport.aborted for transport in many)


@pytest.mark.parametrize(
    ("first", "second", "are_one"),
    [
        ("192.0.2.1", "192.0.2.1", True), ("192.0.2.1", "192.0.2.2", False), ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("2001:db8::1", "2001:db8::2", True), ("2001:db8::1", "2001:db8:0:1::1", False), ("", "", True),
    ],
)  # fmt: skip
def test_address_when_it_holds_as_many_connections_as_it_may_then_refused_until_one_of_them_closes(
    first: str, second: str, are_one: bool
) -> None:
    counts = Connections(2)
    assert counts.enter(first)
    assert counts.enter(first)
    assert counts.enter(second) is not are_one
    counts.leave(first)
    assert counts.enter(second)


def test_proxy_when_it_brings_the_connections_of_many_people_then_not_limited() -> None:
    counts = Connections(1, ("10.0.0.0/8", "192.0.2.7", "::1"))
    for proxy in ("10.1.2.3", "192.0.2.7", "::1"):
        assert [counts.enter(proxy) for _ in range(3)] == [True] * 3
    assert [counts.enter("192.0.2.8") for _ in range(2)] == [True, False]
