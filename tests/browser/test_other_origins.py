"""Pages of other origins, in a real browser: they change nothing and read nothing; and the Hub's frame works."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from testkit.browser import chromium
from testkit.tls import tls_proxy
from testkit.webapp import WebApp, running

PASSWORD = "correct horse"
FOREIGN = "http://localhost"  # of another port: the same site as an app on localhost, another one than 127.0.0.1
SPACE = {"SPACE_ID": "acme/playground", "SPACE_HOST": "acme-playground.hf.space"}
LOGIN = {"PLAYGROUND_LOGIN": "password", "PLAYGROUND_USERS": json.dumps({"anna": PASSWORD})}


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title><body>")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def foreign_port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextmanager
def started(derived: Path, folder: Path, more: dict[str, str]) -> Iterator[WebApp]:
    (folder / "cache").mkdir()
    (folder / "cache/derived").symlink_to(derived / "derived")
    with running(folder / "cache", folder / "log.txt", more=more) as app:
        yield app


@pytest.fixture(scope="module")
def behind_login(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with started(derived, tmp_path_factory.mktemp("login"), LOGIN) as app:
        yield app


# What a foreign page can try; each answers what it learnt.
_TRIES = """
async ([url, id]) => {
  const server = {session_hash: 'e', component_id: id, fn_name: 'open', data: {}};
  const body = JSON.stringify(server);
  const post = (path, options) => fetch(url + path, {method: 'POST', credentials: 'include', ...options});
  const tries = {
    plain: () => post('/gradio_api/component_server', {headers: {'Content-Type': 'text/plain'}, body}),
    opaque: () => post('/gradio_api/component_server', {mode: 'no-cors', body}),
    json: () => post('/gradio_api/component_server', {headers: {'Content-Type': 'application/json'}, body}),
    join: () => post('/gradio_api/queue/join', {headers: {'Content-Type': 'application/json'}, body}),
    run: () => post('/vp-runs', {headers: {'Content-Type': 'application/json'}, body}),
    watch: () => fetch(url + '/vp-runs?notebook=e', {credentials: 'include'}),
    upload: () => { const form = new FormData(); form.append('files', new Blob(['x']), 'foreign.txt');
                    return post('/gradio_api/upload', {body: form}); },
    uploadOpaque: () => { const form = new FormData(); form.append('files', new Blob(['x']), 'foreign.txt');
                          return post('/gradio_api/upload', {mode: 'no-cors', body: form}); },
    config: () => fetch(url + '/config', {credentials: 'include'}),
    script: () => new Promise((done, failed) => { const it = document.createElement('script');
                   it.src = url + '/config'; it.onload = () => done({status: 200}); it.onerror = failed;
                   document.body.append(it); }),
    heartbeat: () => fetch(url + '/gradio_api/heartbeat/e', {credentials: 'include'}),
  };
  const learnt = {};
  for (const [name, attempt] of Object.entries(tries)) {
    try { const reply = await attempt(); learnt[name] = [reply.status, reply.type]; }
    catch (error) { learnt[name] = 'refused'; }
  }
  return learnt;
}
"""


def notebook_component(page: Page) -> int:
    """Found on the app's own page, as anybody may who runs the same version."""
    components = page.evaluate("fetch('config').then(it => it.json())")["components"]
    component_id: int = next(
        component["id"] for component in components if "open" in (component["props"].get("server_fns") or ())
    )
    return component_id


@pytest.mark.parametrize("own", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("with_login", [False, True])
def test_foreign_page_when_it_tries_everything_then_nothing_is_read_or_changed(
    request: pytest.FixtureRequest, opened: Page, foreign_port: int, own: str, with_login: bool
) -> None:
    app: WebApp = request.getfixturevalue("behind_login" if with_login else "app")
    url = app.url.rstrip("/").replace("127.0.0.1", own)
    page = opened
    page.goto(url)
    if with_login:
        log_in(page)
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
    id = notebook_component(page)
    notebooks = sorted((app.log.parent / "cache/notebooks").rglob("*"))
    requests: list[tuple[str, int]] = []

    foreign = page.context.new_page()  # the same browser, with its cookies
    foreign.on("response", lambda reply: requests.append((reply.request.method, reply.status)))
    foreign.goto(f"{FOREIGN}:{foreign_port}")
    requests.clear()
    learnt = foreign.evaluate(_TRIES, [url, id])
    opaque = [0, "opaque"]  # a request without CORS: the page learns nothing, not even its status
    assert learnt == {name: "refused" for name in learnt} | {"opaque": opaque, "uploadOpaque": opaque}
    assert len(learnt) == 11
    assert requests
    assert {status for _, status in requests} == {403}
    assert sorted((app.log.parent / "cache/notebooks").rglob("*")) == notebooks


def test_foreign_page_when_it_sends_a_form_then_refused(opened: Page, app: WebApp, foreign_port: int) -> None:
    page = opened
    page.goto(f"{FOREIGN}:{foreign_port}")
    fields = '<form method=post enctype=text/plain action="{}/gradio_api/component_server"><input name=x></form>'
    page.evaluate("html => { document.body.innerHTML = html; document.forms[0].submit() }", fields.format(app.url))
    expect(page.locator("body")).to_contain_text("This request comes from another site.")


def test_foreign_page_when_it_shows_the_app_in_a_frame_then_the_browser_refuses(
    opened: Page, app: WebApp, foreign_port: int
) -> None:
    """Nobody is led to press buttons that they do not see."""
    page = opened
    page.goto(f"{FOREIGN}:{foreign_port}")
    with page.expect_console_message(lambda message: "frame-ancestors" in message.text):
        page.set_content(f'<iframe src="{app.url}"></iframe>')
    while not page.frames[1].url.startswith("chrome-error:"):
        page.wait_for_timeout(50)


def test_foreign_page_when_it_has_a_link_then_the_notebook_opens(opened: Page, app: WebApp, foreign_port: int) -> None:
    page = opened
    page.goto(f"{FOREIGN}:{foreign_port}")
    page.evaluate("url => { location.href = url }", app.url)
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)


def log_in(page: Page) -> None:
    page.get_by_label("username").fill("anna")
    page.get_by_label("password").fill(PASSWORD)
    page.get_by_role("button", name="Login").click()


def test_login_page_when_it_opens_then_it_has_all_its_files(opened: Page, behind_login: WebApp) -> None:
    """What stands before the login is enough to log in."""
    page = opened
    refused: list[str] = []
    page.on("response", lambda reply: refused.append(reply.url) if reply.status == 401 else None)
    page.goto(behind_login.url)
    expect(page.get_by_role("button", name="Login")).to_be_visible(timeout=20_000)
    assert refused == []
    log_in(page)
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
    assert [cookie["sameSite"] for cookie in page.context.cookies()] == ["Lax", "Lax"]


def test_hub_when_it_shows_a_space_in_its_frame_then_a_visitor_logs_in_and_runs(
    browser: Browser, derived: Path, tmp_path: Path
) -> None:
    """The Hub is simulated: its page comes from the test, its proxy is a proxy with TLS; the addresses are real."""
    host = SPACE["SPACE_HOST"]
    with (
        started(derived, tmp_path, {**LOGIN, **SPACE}) as app,
        tls_proxy(tmp_path, host, int(app.url.rpartition(":")[2])) as port,
        browser_that_maps(browser, f"{host} 127.0.0.1:{port}") as mapping,
    ):
        context = mapping.new_context(ignore_https_errors=True)
        context.grant_permissions(["local-network-access"], origin="https://huggingface.co")
        frame_html = f'<iframe src="https://{host}/" allow="local-network-access *" width=1200 height=800></iframe>'
        context.route(re.compile(r"^https://huggingface\.co/"), partial(_fulfil, body=f"<!doctype html>{frame_html}"))
        page = context.new_page()
        page.goto("https://huggingface.co/spaces/acme/playground")
        frame: Any = page.frame_locator("iframe")
        frame.get_by_label("username").fill("anna")
        frame.get_by_label("password").fill(PASSWORD)
        frame.get_by_role("button", name="Login").click()
        expect(frame.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
        frame.locator(".vp-is-compare").first.get_by_role("button", name="Run cell").click()
        expect(frame.locator(".vp-is-compare .vp-pane").first).to_be_visible(timeout=20_000)
        expect(frame.locator(".vp-running, .vp-queued")).to_have_count(0, timeout=60_000)
        assert {cookie["sameSite"] for cookie in context.cookies() if "unsecure" not in cookie["name"]} == {"None"}
        context.close()


@contextmanager
def browser_that_maps(browser: Browser, rule: str) -> Iterator[Browser]:
    """Another browser, with its own way to a host's name."""
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--host-resolver-rules=MAP {rule}"]
    mapping = browser.browser_type.launch(executable_path=chromium(), args=arguments)
    try:
        yield mapping
    finally:
        mapping.close()


def _fulfil(route: Route, body: str) -> None:
    route.fulfill(body=body, content_type="text/html")
