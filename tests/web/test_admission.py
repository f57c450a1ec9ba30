"""What one person may ask of the app at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.settings import Settings
from playground.web import admission, login, server
from playground.web.admission import Admission
from playground.web.uploads import Uploads
from testkit.waiting import awaited

JOIN = "/gradio_api/queue/join"


@pytest.fixture
def left() -> list[str]:
    """The sessions of pages that were closed."""
    return []


@pytest.fixture
def client_at(left: list[str], tmp_path: Path) -> Callable[[str], TestClient]:
    """A client with this address."""

    async def answer(request: Request) -> Response:
        return PlainTextResponse(f"{len(await request.body())} bytes")

    uploads = Uploads(tmp_path, 10_000_000)
    routes = [Route("/{path:path}", answer, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(Admission, Settings(), uploads, left.append)])
    session = SimpleNamespace(is_closed=False)
    holder = SimpleNamespace(session_data={"s1": session})
    vars(app).update(state_holder=holder, stop_event=asyncio.Event())
    vars(app).update(auth_dependency=None, cookie_id="c", tokens={})  # as Gradio's app has them
    return lambda address: TestClient(app, client=(address, 50000))


def test_events_when_one_person_sends_very_many_then_refused_and_others_go_on(
    client_at: Callable[[str], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, pauses = 1000.0, list[float]()

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(admission, "_now", lambda: now)
    monkeypatch.setattr(admission, "_sleep", sleep)
    attacker, visitor = client_at("192.0.2.1"), client_at("192.0.2.2")
    statuses = [attacker.post(JOIN, json={"session_hash": f"invented{n}"}).status_code for n in range(120)]
    assert statuses == [200] * 100 + [429] * 20
    assert len(pauses) == 95
    assert attacker.get("/").status_code == visitor.post(JOIN, json={}).status_code == 200
    now += 1.0
    statuses = [attacker.post(JOIN, json={}).status_code for _ in range(12)]
    assert statuses == [200] * 10 + [429] * 2


def test_events_when_one_person_sends_many_at_once_then_they_begin_one_after_another(
    client_at: Callable[[str], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = client_at("192.0.2.1").app
    pausing = most = 0

    async def sleep(seconds: float) -> None:
        nonlocal pausing, most
        pausing += 1
        most = max(most, pausing)
        await asyncio.sleep(0)
        pausing -= 1

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}"}

    statuses: list[int] = []

    async def send(message: dict[str, Any]) -> None:
        statuses.extend([message["status"]] if "status" in message else [])

    async def join() -> None:
        client = ("192.0.2.1", 50000)
        await app({"type": "http", "method": "POST", "path": JOIN, "headers": [], "client": client}, receive, send)

    async def all_at_once() -> None:
        await asyncio.gather(*(join() for _ in range(40)))

    monkeypatch.setattr(admission, "_sleep", sleep)
    awaited(all_at_once())
    assert statuses == [200] * 40
    assert most == 1


def test_upload_when_one_person_uploads_too_much_then_refused_in_words_and_others_go_on(
    client_at: Callable[[str], TestClient],
) -> None:
    attacker, visitor = client_at("192.0.2.1"), client_at("192.0.2.2")
    replies = [attacker.post("/gradio_api/upload", content=b"x" * 2_000_000) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[0].text == "2000000 bytes"
    assert replies[-1].text.startswith("Busy: one person can upload 5 MB")
    assert visitor.post("/gradio_api/upload", content=b"x" * 2_000_000).status_code == 200
    assert visitor.post("/gradio_api/upload", content=iter([b"x"])).status_code == 411


def test_heartbeat_when_its_connection_closes_then_the_page_was_left(
    client_at: Callable[[str], TestClient], left: list[str]
) -> None:
    app: Any = client_at("192.0.2.1").app
    sent: list[dict[str, Any]] = []
    closes = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await closes.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def page() -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/gradio_api/heartbeat/s1",
            "headers": [],
            "client": None,
        }
        open_page = asyncio.ensure_future(app(scope, receive, send))
        await asyncio.sleep(0.05)
        assert left == []
        closes.set()
        await open_page

    awaited(page())
    assert left == ["s1"]
    assert sent[1]["body"] == b"data: ALIVE\n\n"
    assert app.state_holder.session_data["s1"].is_closed


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/deep_link?session_hash=x", 404), ("/gradio_api/proxy=https://x.example/a", 404),
        ("/proxy=https://x.example/a", 404), ("/gradio_api/vibe-code/", 404), ("/gradio_api/stream/x/close", 404),
        ("/gradio_api/file=https://x.example/a", 403), ("/file=HTTP://x.example/a", 403),
        ("/gradio_api/file=%20http://x.example/a", 403), ("/gradio_api/file=/tmp/http:", 200), ("/static/a.js", 200),
    ],
)  # fmt: skip
def test_part_of_gradio_when_it_would_fetch_or_keep_files_for_anybody_then_refused(
    client_at: Callable[[str], TestClient], path: str, status: int
) -> None:
    assert client_at("192.0.2.1").get(path).status_code == status


def test_mcp_request_when_it_brings_an_image_then_an_upload_of_this_person_and_so_are_the_calls_it_makes(
    client_at: Callable[[str], TestClient],
) -> None:
    attacker, visitor = client_at("192.0.2.1"), client_at("192.0.2.2")
    statuses = [attacker.post("/gradio_api/mcp/", content=b"x" * 2_000_000).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert attacker.post("/gradio_api/mcp/", content=b"x").status_code == 200
    assert visitor.post("/gradio_api/mcp/", content=b"x" * 2_000_000).status_code == 200
    name, value = login.behind("192.0.2.1")
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": [(name, value)]}
    assert login.address_of(Request(scope)) == "192.0.2.1"
    assert login.address_of(Request({**scope, "headers": [(name, b"192.0.2.1")]})) == "127.0.0.1"


def test_session_when_another_page_opens_then_no_signature_is_read_again() -> None:
    server.keep_signatures()
    with gr.Blocks() as blocks:
        gr.Textbox()
    SessionState(blocks)
    known = inspect_cache().cache_info()
    SessionState(blocks)
    assert inspect_cache().cache_info().hits > known.hits
    assert inspect_cache().cache_info().misses == known.misses


def inspect_cache() -> Any:
    return vars(gr.blocks)["inspect"].signature
