"""How many connections one address may hold."""

from __future__ import annotations

import contextlib
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
