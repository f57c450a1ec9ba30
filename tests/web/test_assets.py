"""The page's scripts as a browser fetches them."""

from __future__ import annotations

import re

from starlette.applications import Starlette
from starlette.testclient import TestClient

from playground.web import assets


def test_scripts_when_fetched_then_each_import_is_there_and_may_be_kept_for_ever() -> None:
    client = TestClient(Starlette(routes=assets.routes()))
    modules = re.findall(r'<link rel="modulepreload" href="([^"]+)">', assets.preload())
    assert {"notebook/main.js", "models.js", "inspect.js"} <= {name.split("/", 2)[2] for name in modules}
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
