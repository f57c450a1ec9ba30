"""The page's scripts as a browser fetches them."""

from __future__ import annotations

import re

import gradio.routes
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.web import assets, early_paint, page


def test_scripts_when_fetched_then_each_import_is_there_and_may_be_kept_for_ever() -> None:
    client = TestClient(Starlette(routes=assets.routes()))
    preloads = "".join(map(assets.preload, page.SCRIPTS.values()))
    modules = set(re.findall(r'<link rel="modulepreload" [^>]*href="([^"]+)">', preloads))
    every = {path.relative_to(assets.STATIC).as_posix() for path in assets.STATIC.rglob("*.js")}
    assert {name.split("/", 2)[2] for name in modules} == every
    for name in modules:
        reply = client.get(f"/{name}")
        assert reply.status_code == 200
        assert "javascript" in reply.headers["content-type"]
        assert "immutable" in reply.headers["cache-control"]
        for imported in re.findall(r'^(?:import|export) .* from "(.+)";$', reply.text, re.MULTILINE):
            address = reply.url.join(imported).path.removeprefix("/")
            assert address in modules, f"{name} imports {imported}"


def test_loader_when_a_module_triggers_events_then_their_names_stand_in_its_text() -> None:
    loaded = assets.loader("notebook/main.js", events=("run",))
    assert re.search(r'import\(new URL\("vp-static/[0-9a-f]{12}/notebook/main.js", document.baseURI\)\)', loaded)
    assert '"run"' in loaded  # gr.HTML makes an event of what is quoted there


@pytest.mark.parametrize("template", ["frontend/index.html", "frontend/share.html"])
def test_gradios_page_when_it_is_rendered_then_the_first_paint_stands_before_gradio_and_nothing_is_of_another_host(
    template: str,
) -> None:
    gradios = gradio.routes.templates.env.loader
    assert gradios is not None
    loader = early_paint.EarlyPaint(gradios, page.early_bodies(), page.SCRIPTS)
    environment = gradio.routes.templates.env.overlay(loader=loader)
    rendered = environment.get_template(template).render(config={"current_page": "models"})
    assert re.search(r'<body.*<div id="vp-early">.*aria-current="page">Models<.*<gradio-app', rendered, re.DOTALL)
    assert rendered.index("#vp-early {") < rendered.index("models.js") < rendered.index("</head>")
    assert "notebook/main.js" not in rendered
    assert not re.search(r'<(script|link)[^>]+(src|href)="https?:', rendered)
    asks = environment.get_template(template).render(config={"current_page": "", "auth_required": True})
    assert 'id="vp-early"' not in asks


def test_page_when_a_browser_asks_then_it_is_compressed_and_other_answers_stay_as_they_are() -> None:
    async def answer(request: Request) -> PlainTextResponse:
        return PlainTextResponse("settings " * 1000)

    app = Starlette(routes=[Route("/{path:path}", answer)])
    client = TestClient(assets.CompressedPages(app, page.SCRIPTS))
    assert client.get("/").headers["content-encoding"] == "gzip"
    assert client.get("/models").headers["content-encoding"] == "gzip"
    assert "content-encoding" not in client.get("/gradio_api/queue/data").headers
    assert "content-encoding" not in client.get("/", headers={"Accept-Encoding": "identity"}).headers
