"""What attacks on the app tried without success: files by path, requests to other hosts, read-only keys, live HTML."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zipfile
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import gradio.processing_utils
import httpx
import pytest
import safehttpx
from starlette.requests import Request

from playground.errors import BadImage
from playground.measuring.question_sets import read_questions
from playground.notebooks import file_format
from playground.notebooks.cells import NoteCell
from playground.notebooks.file_format import WholeCell
from playground.settings import Settings
from playground.web import remote_images
from playground.web.live_runs import LiveRuns
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.web.replies import CellsReply
from playground.web.server_function import server_function
from playground.web.uploads import Uploads
from playground.wiring import Parts
from testkit.notebooks import ANSWERED, RED, compare_cell, run_of, whole
from testkit.running import SCENE
from testkit.waiting import awaited
from testkit.webapp import WebApp

# --- files, and other hosts -------------------------------------------------------------------------------------------


BOMB = gzip.compress(b"x" * 10_000_000)


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and the paths that were asked of it."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_response(302 if self.path.startswith("/to=") else 200)
            self.send_header("Location", self.path.removeprefix("/to="))
            if self.path == "/bomb":
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            self.wfile.write(BOMB if self.path == "/bomb" else b"x" * 3000)

        do_HEAD = do_GET

        def log_message(self, *arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", requests
    server.shutdown()
    server.server_close()


def test_file_when_asked_for_by_path_then_nobody_gets_it(app: WebApp) -> None:
    cache = app.log.parent / "cache"
    files = ["/etc/passwd", "/proc/self/environ", str(app.log), str(cache / "notebooks/cache.db"), __file__]
    ways = ["/gradio_api/file={}", "/file={}", "/file/{}", "/static{}", "/static/..{}", "/assets/../..{}",
            "/svelte/../../..{}", "/gradio_api/file=/tmp/../{}", "/gradio_api/deep_links/..{}"]  # fmt: skip
    secrets = [b"root:", b"PLAYGROUND_CACHE_DIR", b"Running on local URL", b"SQLite format", b"nobody_gets_it"]
    with httpx.Client(base_url=app.url) as client:
        for file, secret in zip(files, secrets, strict=True):
            assert secret in Path(file).read_bytes() or "proc" in file
            for way in ways:
                for path in (way.format(file), way.format(file).replace("..", "%2e%2e").replace("//", "/%2f")):
                    assert secret not in client.get(path).content, path


def test_url_when_given_as_an_image_or_a_proxied_file_then_nothing_is_requested(
    app: WebApp, listener: tuple[str, list[str]]
) -> None:
    host, requests = listener
    urls = [f"http://{host}/x.png", f"http://user@{host}/x.png", f"https://huggingface.co@{host}/x.png"]
    with httpx.Client(base_url=app.url, timeout=60) as client:
        for url in urls:
            for image in ({"path": url}, {"path": "x.png", "url": url}, {"path": str(SCENE), "url": url}):
                file = {**image, "meta": {"_type": "gradio.FileData"}}
                reply = client.post("/gradio_api/call/compare", json={"data": [file, "What?", ["F16"], {}]})
                if reply.status_code == 200:
                    id = reply.json()["event_id"]
                    assert "event: error" in client.get(f"/gradio_api/call/compare/{id}").text
            for way in ("/gradio_api/proxy=", "/gradio_api/file=", "/file="):
                assert client.get(way + url).status_code in (307, 400, 403, 404)
    assert requests == []


def test_image_when_its_address_is_public_and_the_operator_allows_none_then_refused_in_words(app: WebApp) -> None:
    """Gradio would fetch it, of any size, for any input of any endpoint."""
    remote = {"path": "https://example.org/a.png", "meta": {"_type": "gradio.FileData"}}
    with httpx.Client(base_url=app.url, timeout=60) as client:
        everywhere: list[list[Any]] = [
            [remote, "What?", [], {}],
            [None, "What?", [], {"more": remote}],
            [None, "What?", [remote], {}],
        ]
        for data in everywhere:
            id = client.post("/gradio_api/call/compare", json={"data": data}).json()["event_id"]
            answer = client.get(f"/gradio_api/call/compare/{id}").text
            assert "event: error" in answer
            assert "This server does not fetch images" in answer
        for way in ("/gradio_api/file=", "/file=", "/gradio_api/file/"):
            refused = client.get(f"{way}https://example.org/a.png")
            assert refused.status_code in (403, 404)
            assert "example.org" not in refused.text


def test_fetch_when_redirected_or_too_large_then_only_public_addresses_are_asked_and_little_is_read(
    listener: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    host, requests = listener
    validate = safehttpx.async_validate_url

    async def validated(name: str) -> str:
        return "127.0.0.1" if name == "public.example" else await validate(name)

    async def nothing(name: str) -> list[str]:
        return []

    monkeypatch.setattr(safehttpx, "async_validate_url", validated)
    monkeypatch.setattr(safehttpx, "async_resolve_hostname_google", nothing)
    monkeypatch.setattr(remote_images, "is_public", lambda address: address == "127.0.0.1")
    public = f"http://public.example:{host.rpartition(':')[2]}"

    def fetched(url: str, **settings: Any) -> bytes:
        allowed = Settings(api_remote_images=True, **settings)
        return awaited(remote_images.fetch(url, "image 1", allowed))

    assert fetched(f"{public}/to={public}/a.png") == b"x" * 3000
    for url in (f"http://{host}/b", f"{public}/to=http://{host}/b", f"{public}/to=file:///etc/passwd"):
        with pytest.raises(BadImage, match=r"image 1 cannot be fetched \(ValueError\)"):
            fetched(url)
    with pytest.raises(BadImage, match="image 1 cannot be fetched"):
        fetched(f"{public}/to=/to=/to=/to=/to=/to=/to=/a.png")
    with pytest.raises(BadImage, match="image 1 is larger than 2,000 bytes"):
        fetched(f"{public}/a.png", max_upload_bytes=2000)
    assert "/b" not in requests
    assert fetched(f"{public}/bomb", max_upload_bytes=20_000) == BOMB, "nothing is unpacked"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True), ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("100.64.0.1", False), ("100.127.255.254", False), ("224.0.0.1", False),
        ("169.254.169.254", False), ("::ffff:10.0.0.1", False), ("::ffff:100.64.0.1", False), ("2002:7f00:1::", False),
        ("2002:a00:1::", False), ("64:ff9b::a00:1", False), ("2001:0:7f00:1::", False), ("ff0e::1", False),
        ("fd7a:115c:a1e0::1", False),
    ],
)  # fmt: skip
def test_address_when_shared_or_leading_to_a_private_one_then_it_is_not_public(address: str, public: bool) -> None:
    assert remote_images.is_public(address) is public


def test_fetch_when_gradio_wants_many_images_then_a_few_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take max_upload_bytes of memory."""
    running = most = 0

    async def fetch(url: str, name: str, settings: Settings) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        return b"x"

    async def all_at_once() -> list[str]:
        download: Any = vars(gradio.processing_utils)["async_ssrf_protected_download"]
        return await asyncio.gather(*(download(f"https://public.example/{n}", str(tmp_path)) for n in range(20)))

    monkeypatch.setattr(gradio.processing_utils, "async_ssrf_protected_download", None)  # is put back
    monkeypatch.setattr(remote_images, "fetch", fetch)
    remote_images.fetch_for_gradio(Settings(api_remote_images=True), Uploads(tmp_path, 10_000_000))
    files = awaited(all_at_once())
    assert [Path(file).read_bytes() for file in files] == [b"x"] * 20
    assert most == 8


# --- read-only keys ---------------------------------------------------------------------------------------------------

READING = {
    "open", "outputs", "picture", "look", "likely", "copy", "create", "export", "card", "import_file", "questions_file",
    "results",
}  # fmt: skip


@pytest.fixture
def actions(parts: Parts) -> NotebookActions:
    deriving = Thread(target=lambda: None)
    deriving.start()
    return NotebookActions(parts, NotebookView(parts), LiveRuns(lambda job: iter(()), unwatched_s=0), deriving)


def test_reader_when_calling_any_function_that_changes_a_notebook_then_refused(
    parts: Parts, actions: NotebookActions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new function is refused too, or is one of READING."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    picture = tmp_path / "a.png"
    picture.write_bytes(SCENE.read_bytes())
    library = parts.library
    shown = library.pictures.keep(RED, "red.png")
    compare = compare_cell(pictures=(shown,))
    notebook = library.create(
        "anna", "Anna's", [WholeCell(compare, (run_of(compare, ANSWERED),)), WholeCell(NoteCell(""))]
    )
    cell = notebook.cells[0]
    link = library.share(notebook.id, True).share
    before = actions.export(notebook.id, "json").text
    panel = {"family": "fam", "models": [], "projectors": [], "reference": "", "order": "race", "settings": {}}
    fields: dict[str, Any] = {
              "browser": "ben", "cell": cell, "cells": [cell], "kind": "note", "to": 1, "prompt": "x", "index": 0,
              "path": str(picture), "title": "Ben's", "shared": False, "text": "x", "run": 1, "suite": "x",
              "format": "json", "sha256": RED.sha256, "collapsed": True, "prompts": ["y"], "panel": panel,
              "variants": ["x"], "block": 0, "variant": "x", "right": True, "at": 0, "token": 1,
              "x": 0, "y": 0, "width": 9, "height": 9}  # fmt: skip
    for function in actions.functions():
        if function.__name__ not in READING:
            payload = {**fields, "path": None} if function.__name__ == "own_questions" else fields
            for key in (link, "no such key"):
                reply = function({**payload, "key": key})
                expected = "not_allowed" if key == link else "no_notebook"
                assert reply.get("error_code") == expected, (function.__name__, reply)
    assert actions.export(notebook.id, "json").text == before


def test_upload_when_it_names_a_folder_or_what_others_own_then_refused_and_nothing_is_told_of_it(
    parts: Parts, actions: NotebookActions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    (tmp_path / "uploads/folder").mkdir(parents=True)
    (tmp_path / "uploads/folder/items.jsonl").write_text("{}")
    os.mkfifo(tmp_path / "uploads/pipe")
    (tmp_path / "secret.jsonl").write_text("{}")
    (tmp_path / "uploads/link").symlink_to(tmp_path / "secret.jsonl")
    own = actions.create("anna").key
    added = {kind: actions.add(str(own), kind) for kind in ("compare", "measure")}
    compare, measure = (list(added[kind].order or ())[-1] for kind in ("compare", "measure"))
    functions = {function.__name__: function for function in actions.functions()}
    names = ["folder", ".", "pipe", "link", "../secret.jsonl", "folder/\0", "nothing"]
    for path in [str(tmp_path / "uploads" / name) for name in names] + ["/etc/passwd", str(parts.settings.cache_dir)]:
        for function, cell in (("add_picture", compare), ("own_questions", measure), ("own_pack", measure),
                               ("import_file", compare)):  # fmt: skip
            reply = functions[function]({"key": own, "cell": cell, "path": path, "browser": "anna"})
            assert reply.get("error_code") == "not_allowed", (function, path, reply)
            assert "uploaded here" in reply["error"]
            assert "secret" not in reply["error"]


GOOD = '{{"image": "{}", "question": "What?", "answer": "a"}}\n'


def test_questions_when_a_zip_names_files_outside_of_it_then_none_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(SCENE.read_bytes())
    names = ["../secret.png", str(tmp_path / "secret.png"), "/etc/passwd", "link.png"]
    with zipfile.ZipFile(tmp_path / "q.zip", "w") as archive:
        archive.writestr("items.jsonl", "".join(GOOD.format(name) for name in ("in.png", *names)))
        archive.write(SCENE, "in.png")
        link = zipfile.ZipInfo("link.png")
        link.external_attr = 0o120777 << 16  # a symbolic link, whose content is its target
        archive.writestr(link, str(tmp_path / "secret.png"))
    question_set = read_questions(tmp_path / "q.zip")
    assert len(question_set.items) >= 1
    opened = 0
    for item in question_set.items:
        try:
            question_set.image(item)
            opened += 1
        except BadImage:
            assert item.image != "in.png"
    assert opened == 1


def test_payload_when_it_names_another_person_then_who_asks_is_who_they_are() -> None:
    seen: list[tuple[str, str | None]] = []

    def look(key: str, person: str = "", visitor: str | None = None) -> CellsReply:
        seen.append((person, visitor))
        return CellsReply()

    app = SimpleNamespace(auth_dependency=None, cookie_id="c", tokens={})
    request: Any = Request({"type": "http", "headers": [], "client": ("192.0.2.7", 1), "app": app})
    server_function(look)({"key": "k", "person": "ben", "visitor": "operator"}, request)
    assert seen == [("192.0.2.7", None)]


# --- live HTML --------------------------------------------------------------------------------------------------------

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>{{7*7}}"


class Live(HTMLParser):
    """Collects what a browser would run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        handlers = [name for name, _ in attrs if name.startswith("on")]
        urls = [value for name, value in attrs if name in ("href", "src") and (value or "").startswith("javascript:")]
        if tag in ("script", "iframe", "object") or handlers or urls:
            self.found.append(f"<{tag} {attrs}>")


def poisoned(value: Any, key: str = "") -> Any:
    """The document with EVIL in every text that is anybody's choice."""
    if isinstance(value, dict):
        return {name: poisoned(inner, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [poisoned(inner, key) for inner in value]
    fixed = ("type", "state", "sha256", "order", "variants", "variant", "id", "reference", "level", "source", "rule",
             "format", "quantization", "started", "image")  # fmt: skip
    return f"{value}{EVIL}" if isinstance(value, str) and key not in fixed else value


def test_notebook_when_each_of_its_texts_is_html_then_none_is_live(parts: Parts, actions: NotebookActions) -> None:
    text = file_format.to_json("T", whole(), lambda sha256: None)
    document = json.loads(text)
    document["title"] = EVIL
    document["cells"] = [poisoned(cell) for cell in document["cells"]]
    reply = actions.import_file("ben", json.dumps(document))
    assert reply.problems == ()
    notebook = parts.library.own(str(reply.key))
    assert len(notebook.cells) == len(document["cells"])
    outputs = actions.outputs(notebook.id, list(notebook.cells)).outputs
    pages = [reply.page, *(output.html for output in outputs)]
    assert sum(page.count("&lt;img src=x") for page in pages) > 10
    assert [Live(page).found for page in pages] == [[]] * len(pages)
    assert Live(actions.export(notebook.id, "html").text).found == []
    book = json.loads(actions.export(notebook.id, "ipynb").text)
    shown = [output["data"].get("text/html", "") for cell in book["cells"] for output in cell.get("outputs", ())]
    assert [Live("".join(html)).found for html in shown] == [[]] * len(shown)
    for cell in book["cells"]:
        if cell["cell_type"] == "markdown":
            assert "<img" not in "".join(cell["source"]).replace("\\<img", "").replace("&lt;img", "")
