"""What an operator can forbid, who has to log in, and what is swept away; each asked of the server, not of the page."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import httpx
import itsdangerous
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AuthenticationError
from playwright.sync_api import Page, expect
from starlette.requests import Request

from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, NoRoom, NotAllowed
from playground.measuring.question_sets import DEFAULT_QUESTIONS
from playground.measuring.results import MeasurementPlan
from playground.notebooks.cells import CellQuestions, NoteCell
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library
from playground.settings import Settings
from playground.values.request import Remedy
from playground.web import login
from playground.web.models_page import ModelActions
from playground.wiring import Parts, open_parts, usable_cores
from testkit import live_runs
from testkit.notebooks import BLUE, RED, compare_cell, filled
from testkit.running import SCENE, WHAT
from testkit.webapp import WebApp, running

PASSWORD = "correct horse"
F16 = "tiny-vlm:F16+mmproj-F16"
TODAY = datetime.datetime.now(datetime.UTC).date()


def started(
    derived: Path, folder: Path, environment: dict[str, str], model_dirs: tuple[Path, ...] = ()
) -> Iterator[WebApp]:
    (folder / "cache").mkdir()
    (folder / "cache/derived").symlink_to(derived / "derived")
    with running(folder / "cache", folder / "log.txt", model_dirs=model_dirs, more=environment) as app:
        yield app


# --- a demonstration behind a password --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    environment = {
        "PLAYGROUND_LOGIN": "password",
        "PLAYGROUND_USERS": json.dumps({"anna": PASSWORD, "bert": "battery staple"}),
        "PLAYGROUND_DEMO": "true",
        "PLAYGROUND_DEMO_MAX_TOKENS": "5",
        "PLAYGROUND_DEMO_N_CTX": "512",
        "PLAYGROUND_MAX_UPLOAD_BYTES": "200000",
        "PLAYGROUND_LOG_FORMAT": "json",
    }
    yield from started(derived, tmp_path_factory.mktemp("demo"), environment)


@pytest.fixture
def anna(demo: WebApp) -> Iterator[Client]:
    client = Client(demo.url, auth=("anna", PASSWORD), verbose=False)
    yield client
    client.close()


@contextmanager
def logged_in(app: WebApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=app.url) as client:
        assert client.post("/login", data={"username": "anna", "password": PASSWORD}).status_code == 200
        yield client


def ask(client: httpx.Client, function: str, fields: dict[str, Any], page: str = "open") -> httpx.Response:
    """Call a server function as a page's script does. `page`: a function that only this page has."""
    config = client.get("/config")
    parts = config.json()["components"] if config.status_code == 200 else []
    id = next((component["id"] for component in parts if page in (component["props"].get("server_fns") or ())), 1)
    body = {"session_hash": "x", "component_id": id, "fn_name": function, "data": fields}
    return client.post("/gradio_api/component_server", json=body)


def test_page_when_nobody_has_logged_in_then_nothing_answers_but_health(demo: WebApp) -> None:
    with httpx.Client(base_url=demo.url) as client:
        assert client.get("/config").status_code == 401
        assert client.post("/gradio_api/call/variants", json={"data": []}).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert ask(client, "open", {}).status_code == 401
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "heartbeat/x"), ("POST", "cancel"), ("POST", "reset"), ("GET", "openapi.json"), ("GET", "app_id"),
        ("GET", "theme.css"), ("GET", "info"), ("GET", "queue/data?session_hash=x"), ("POST", "queue/join"),
        ("GET", "file=/etc/passwd"), ("GET", "user"), ("GET", "token"), ("POST", "run/variants"), ("GET", "runs"),
        ("POST", "stream/x"), ("GET", "nothing"),
    ],
)  # fmt: skip
def test_api_when_nobody_has_logged_in_then_no_address_answers(demo: WebApp, method: str, path: str) -> None:
    body = {"session_hash": "x", "event_id": "y", "fn_index": 0, "data": []} if method == "POST" else None
    reply = httpx.request(method, f"{demo.url}/gradio_api/{path}", json=body)
    assert reply.status_code == 401
    message = "Log in with the name and the password that you were given."
    assert reply.json()["detail"] == {"error": "Not authenticated", "auth_message": message}


def test_body_when_nobody_has_logged_in_then_it_is_not_waited_for(demo: WebApp) -> None:
    url = httpx.URL(demo.url)
    head = f"POST /gradio_api/cancel HTTP/1.1\r\nHost: {url.host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((url.host, url.port or 80), timeout=10) as client:
        client.sendall(f"{head}Content-Length: 1000000\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(("name", "password"), [("anna", "wrong"), ("bert", PASSWORD), ("carl", PASSWORD), ("", "")])
def test_login_when_name_or_password_is_wrong_then_refused(demo: WebApp, name: str, password: str) -> None:
    with pytest.raises((AuthenticationError, ValueError)):
        Client(demo.url, auth=(name, password), verbose=False)


def test_demo_when_more_is_asked_for_than_it_allows_then_it_answers_within_its_limits(anna: Client) -> None:
    settings = {"max_tokens": 4000, "n_ctx": 100_000}
    *_, last = anna.submit(handle_file(SCENE), WHAT, [F16], settings, api_name="/compare")
    (pane,) = last["panes"]
    assert (pane["state"], len(pane["token_ids"]), pane["finish_reason"]) == ("done", 5, "max tokens")


WHERE = {"repo": "a/b", "commit": "c" * 40, "projector": "p"}


@pytest.mark.parametrize(
    ("function", "fields"),
    [
        ("search", {"text": "x"}),
        ("repo", {"text": "a/b"}),
        ("download", {**WHERE, "models": ["m"], "projector_repo": "a/b", "projector_commit": "c"}),
        ("resume", {"download": "x"}),
        ("use", {**WHERE, "model": "m"}),
        ("inspect", {**WHERE, "model": "m"}),
        ("look", {**WHERE, "model": "m"}),
        ("delete", {"repo": "a/b", "commit": "c" * 40, "model": "m", "visitor": "root"}),
    ],
)
def test_demo_when_the_models_page_is_asked_behind_its_back_then_the_server_refuses(
    demo: WebApp, function: str, fields: dict[str, Any]
) -> None:
    with logged_in(demo) as client:
        reply = ask(client, function, fields, page="search")
    assert reply.status_code == 200
    assert reply.json()["error"].startswith("This is a demonstration")


def call(client: httpx.Client, data: list[Any], *, button: str) -> str:
    """Press a button as the page does; all that comes back."""
    config = client.get("/config").json()
    named = [
        component["id"]
        for component in config["components"]
        if component["type"] == "button" and component["props"]["value"] == button
    ]
    targets = [(dependency["id"], *target) for dependency in config["dependencies"] for target in dependency["targets"]]
    index = next(index for index, id, _ in targets if id in named)
    body = {"data": data, "fn_index": index, "session_hash": "s1"}
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    warning = ""
    with client.stream("GET", "/gradio_api/queue/data?session_hash=s1", timeout=30) as stream:
        for line in stream.iter_lines():
            warning += line + "\n"
            if "process_completed" in line:
                break
    return warning


@pytest.mark.parametrize(
    ("button", "data", "message"),
    [
        ("Open pair", ["{cell}", "/etc/passwd", None], "No file can be opened: this is a demonstration"),
        ("Quantize", ["{cell}", "Projector (mmproj)", "Q4_0", "", False], "Nothing can be quantized: this is a demo"),
    ],
)
def test_demo_when_a_hidden_button_is_pressed_then_the_server_refuses(
    demo: WebApp, button: str, data: list[Any], message: str
) -> None:
    with logged_in(demo) as client:
        page = ask(client, "open", {}).json()
        reply = ask(client, "add", {"key": page["key"], "kind": "compare"}).json()
        cell = f"{page['key']}/{reply['order'][-1]}"
        assert message in call(client, [cell if value == "{cell}" else value for value in data], button=button)


def test_demo_when_a_cell_is_run_that_wants_more_then_it_is_limited_too(demo: WebApp) -> None:
    with logged_in(demo) as client:
        page = ask(client, "open", {}).json()
        cells = [line["cell"] for line in exported(client, page["key"])]
        cell = next(candidate for candidate in cells if candidate["type"] == "compare")
        live_runs.run(client, page["key"], cell["id"])
        (run,) = next(line for line in exported(client, page["key"]) if line["cell"]["id"] == cell["id"])["runs"]
    assert run["state"] == "done"
    assert {len(pane["token_ids"]) for pane in run["results"][0]["update"]["panes"]} == {5}


def exported(client: httpx.Client, key: str) -> list[dict[str, Any]]:
    """A notebook's cells with their runs."""
    text = ask(client, "export", {"key": key, "format": "json"}).json()["text"]
    cells: list[dict[str, Any]] = json.loads(text)["cells"]
    return cells


def test_demo_when_a_cell_asks_which_tensors_matter_then_refused(demo: WebApp) -> None:
    with logged_in(demo) as client:
        page = ask(client, "open", {}).json()
        cell = ask(client, "add", {"key": page["key"], "kind": "measure"}).json()["order"][-1]
        changed = {"key": page["key"], "cell": cell, "questions": {"n": 1, "sensitivity": True}}
        assert "error" not in ask(client, "write", changed).json()
        update = live_runs.run(client, page["key"], cell)
    assert "Which tensors matter is not looked for here: this is a demonstration" in update["error"]


def test_upload_when_it_is_larger_than_allowed_then_refused(demo: WebApp) -> None:
    with logged_in(demo) as client:
        assert client.post("/gradio_api/upload", files={"files": b"x" * 150_000}).status_code == 200
        assert client.post("/gradio_api/upload", files={"files": b"x" * 250_000}).status_code == 413


@pytest.mark.browser
def test_demo_when_opened_in_a_browser_then_what_it_forbids_is_not_shown(demo: WebApp, opened: Page) -> None:
    page = opened
    page.goto(demo.url)
    page.get_by_label("username").fill("anna")
    page.get_by_label("password").fill(PASSWORD)
    page.get_by_role("button", name="Login").click()
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
    for name in ("+ Add a model", "Quantize here"):
        expect(page.get_by_text(name)).to_have_count(0)
    page.goto(f"{demo.url}/models")
    expect(page.get_by_text("This is a demonstration")).to_be_visible(timeout=10_000)
    expect(page.get_by_role("button", name="Delete")).to_have_count(0)


def test_log_when_people_have_logged_in_then_it_is_json_without_their_passwords(demo: WebApp) -> None:
    with logged_in(demo):
        pass
    deadline = time.monotonic() + 30
    while not (lines := [json.loads(line) for line in demo.log.read_text().splitlines() if line.startswith("{")]):
        assert time.monotonic() < deadline  # it says so when it is ready
        time.sleep(0.1)
    log_text = demo.log.read_text()
    assert {"time", "level", "logger", "message"} <= lines[0].keys()
    assert PASSWORD not in log_text


# --- an account of Hugging Face --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def space(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    environment = {
        "SYSTEM": "spaces", "SPACE_ID": "acme/playground", "OAUTH_CLIENT_ID": "id", "OAUTH_CLIENT_SECRET": "secret",
        "OAUTH_SCOPES": "openid profile", "OPENID_PROVIDER_URL": "http://127.0.0.1:9",
        "PLAYGROUND_LOGIN": "huggingface", "PLAYGROUND_ALLOWED_USERS": "anna,acme", "PLAYGROUND_OPERATORS": "anna",
    }  # fmt: skip
    yield from started(derived, tmp_path_factory.mktemp("space"), environment)


def cookie(name: str, *organisations: str, left_s: float = 86400.0) -> dict[str, str]:
    """What gr.LoginButton's routes leave in the browser of who comes back from Hugging Face; signed as there."""
    user = {
        "preferred_username": name,
        "orgs": [{"preferred_username": organisation} for organisation in organisations],
    }
    session = {"oauth_info": {"userinfo": user, "expires_at": time.time() + left_s}}
    signer = itsdangerous.TimestampSigner(hashlib.sha256(b"secret-v4").hexdigest())
    return {"session": signer.sign(base64.b64encode(json.dumps(session).encode())).decode()}


@pytest.mark.parametrize(
    ("cookies", "message"),
    [
        ({}, "Log in with your Hugging Face account"),
        (cookie("anna", left_s=-1), "Log in with your Hugging Face account"),
        ({"session": "A" + cookie("anna")["session"][1:]}, "Log in with your Hugging Face account"),
        (cookie("carl", "others"), "carl is not among those whom the operator lets in"),
        (cookie("<b>acme</b>"), "&lt;b&gt;acme&lt;/b&gt; is not among"),
    ],
)
def test_space_when_a_visitor_may_not_in_then_is_told_why(space: WebApp, cookies: dict[str, str], message: str) -> None:
    with httpx.Client(base_url=space.url, cookies=cookies) as client:
        reply = client.post("/gradio_api/call/variants", json={"data": []})
        assert reply.status_code == 401
        assert "Log in with your Hugging Face account" in reply.text
        assert ask(client, "open", {}).status_code == 401
        page = client.get("/?notebook=abc", headers={"Accept": "text/html"}, follow_redirects=True)
        assert page.url.path == "/enter"
        assert message in page.text
        if not cookies:
            assert 'href="/login/huggingface?notebook=abc"' in page.text


@pytest.mark.parametrize("cookies", [cookie("anna"), cookie("carl", "acme")])
def test_space_when_a_visitor_may_in_then_the_page_opens(space: WebApp, cookies: dict[str, str]) -> None:
    with httpx.Client(base_url=space.url, cookies=cookies) as client:
        assert "gradio" in client.get("/", headers={"Accept": "text/html"}).text
        assert "vp-title" in ask(client, "open", {}).json()["page"]


def test_space_when_a_file_is_to_be_deleted_then_only_by_an_operator(space: WebApp) -> None:
    fields = {"repo": "a/b", "commit": "c" * 40, "model": "m", "visitor": "anna"}
    with httpx.Client(base_url=space.url, cookies=cookie("carl", "acme")) as client:
        assert "Only the operators" in ask(client, "delete", fields, page="search").json()["error"]
    with httpx.Client(base_url=space.url, cookies=cookie("anna")) as client:
        assert "Only the operators" not in ask(client, "delete", fields, page="search").text


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("testclient", "testclient"),
    ],
)
def test_person_when_nobody_has_logged_in_then_the_address_whatever_the_session(host: str, address: str) -> None:
    for session in ("s1", "s2"):
        scope = {"type": "http", "headers": [], "client": (host, 50000)}
        assert login.person(gr.Request(Request(scope), session_hash=session)) == address
    assert login.person(gr.Request(Request(scope), username="anna", session_hash="s1")) == "anna"


def test_person_when_logged_in_then_the_name_else_the_open_page() -> None:
    assert login.person(gr.Request(username="anna", session_hash="s1")) == "anna"
    assert login.person(gr.Request(session_hash="s1")) == "s1"
    assert login.name_of(gr.Request(session_hash="s1")) is None
    app = SimpleNamespace(auth_dependency=None, cookie_id="c", tokens={"t": "anna"})
    for cookies, name in (({"access-token-unsecure-c": "t"}, "anna"), ({"access-token-c": "t2"}, None), ({}, None)):
        assert login.name_of(SimpleNamespace(app=app, cookies=cookies)) == name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "password", "right"),
    [("anna", "geheim", True), ("whoever", "geheim", True), ("", "geheim", False), ("a" * 65, "geheim", False),
     ("an\nna", "geheim", False), ("anna", "geheim ", False), ("anna", "", False)],
)  # fmt: skip
def test_password_when_it_is_one_for_all_then_any_name_goes_with_it(name: str, password: str, right: bool) -> None:
    door = login.door(Settings(login="password", password="geheim"))
    assert door["auth"](name, password) is right
    assert door["auth_message"] == "Choose a name, and enter the password that you were given."


def test_door_when_no_login_is_wanted_then_there_is_none() -> None:
    assert login.door(Settings()) == {}
    assert login.routes(Settings()) == []


# --- limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (RunSettings(), RunSettings(max_tokens=100, n_ctx=2048)),
        (RunSettings(max_tokens=99, n_ctx=512, seed=3), RunSettings(max_tokens=99, n_ctx=512, seed=3)),
        (RunSettings(max_tokens=101, n_ctx=2049), RunSettings(max_tokens=100, n_ctx=2048)),
        (
            RunSettings(
                max_tokens=1,
                n_ctx=64,
                temperature=1.0,
                stop=("x",),
                probabilities=True,
                n_threads=2,
                n_batch=8192,
                n_gpu_layers=0,
                flash_attention=True,
                chat_template="{{ x }}",
                projector_on_gpu=False,
                split_gpus=True,
                remedies=(Remedy.CONTEXT,),
            ),
            RunSettings(max_tokens=1, n_ctx=64, temperature=1.0, stop=("x",), probabilities=True),
        ),
    ],
)
def test_settings_when_limited_then_only_what_is_above(settings: RunSettings, expected: RunSettings) -> None:
    assert settings.limited(100, 2048) == expected


@pytest.mark.parametrize(("requested", "threads"), [(None, None), (1, 1), (4, 4), (5, 4), (256, 4)])
def test_threads_when_more_than_the_machine_has_cores_then_these(requested: int | None, threads: int | None) -> None:
    assert RunSettings(n_threads=requested, seed=3).within(4) == RunSettings(n_threads=threads, seed=3)


@pytest.mark.parametrize("demo_mode", [False, True])
def test_cell_when_it_wants_more_threads_than_cores_then_it_runs_and_is_kept_with_these(
    parts: Parts, demo_mode: bool
) -> None:
    limited = dataclasses.replace(parts, settings=Settings(demo=demo_mode))
    cell = limited.limited_cell(compare_cell(settings=RunSettings(n_threads=256)))
    assert cell.settings.n_threads == (None if demo_mode else usable_cores())


@pytest.mark.parametrize(("demo_mode", "most"), [(True, 7), (False, 64)])
def test_measurement_when_in_the_demo_mode_then_its_answers_are_limited(
    parts: Parts, demo_mode: bool, most: int
) -> None:
    limited = dataclasses.replace(parts, settings=Settings(demo=demo_mode, demo_max_tokens=7))
    cell = limited.limited_cell(compare_cell(questions=CellQuestions(n=5000, plan=MeasurementPlan(max_tokens=64))))
    assert cell.questions is not None
    assert cell.questions.plan.max_tokens == most
    assert cell.questions.n == (DEFAULT_QUESTIONS if demo_mode else 5000)


def test_image_when_larger_than_the_operator_allows_then_scaled_down(parts: Parts, derived: Path) -> None:
    assert (parts.read_image(SCENE).width, parts.read_image(SCENE).height) == (192, 192)
    with open_parts(Settings(cache_dir=derived, max_image_pixels=10_000)) as small:
        image = small.read_image(SCENE)
    assert (image.width, image.height) == (100, 100)
    assert "scaled down" in str(image.note)


def test_disk_when_the_notebooks_take_what_is_allowed_then_no_picture_more_but_texts(tmp_path: Path) -> None:
    library = Library(tmp_path / "notebooks", limit_bytes=400_000)
    notebook, note, _ = filled(library)
    library.check_room()
    assert library.problem is None
    (tmp_path / "notebooks/pictures/large.png").write_bytes(b"x" * 400_000)
    with pytest.raises(NoRoom, match="no room for more pictures"):
        library.check_room()
    assert "no room for more pictures" in str(library.problem)
    library.write(notebook.id, NoteCell(note.id, "still written"))
    library.close()
    assert "no room" in str(Library(tmp_path / "notebooks", limit_bytes=400_000).problem)


# --- what nobody uses any more -----------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Iterator[Library]:
    opened = Library(tmp_path / "notebooks")
    yield opened
    opened.close()


def in_days(days: int) -> datetime.date:
    return TODAY + datetime.timedelta(days)


def test_sweep_when_nobody_has_used_a_notebook_for_so_long_then_it_goes_with_its_pictures(library: Library) -> None:
    notebook, _, _ = filled(library)
    shared = library.share(notebook.id, True).share
    assert library.sweep(30, in_days(30)) == 0
    assert library.read(str(shared))[0].id == notebook.id
    assert library.pictures.png(RED.sha256) is not None
    assert library.sweep(30, in_days(31)) == 1
    with pytest.raises(BadInput):
        library.read(notebook.id)
    assert library.pictures.png(RED.sha256) is None
    assert library.browser("me")[1] == ()
    assert library._entries.keys("") == []


def test_sweep_when_the_operator_keeps_notebooks_for_ever_then_none_goes(library: Library) -> None:
    notebook, _, _ = filled(library)
    assert library.sweep(None, in_days(10_000)) == 0
    assert library.read(notebook.id)


@pytest.mark.parametrize("use", ["by its owner", "by a reader"])
def test_sweep_when_a_notebook_is_used_then_its_days_begin_anew(library: Library, use: str) -> None:
    used, unused = (library.create("me", name, [WholeCell(NoteCell("", "x"))]) for name in ("used", "unused"))
    shared = str(library.share(used.id, True).share)
    for notebook in (used, unused):  # a month ago
        library._entries.put(f"used/{notebook.id}", in_days(-31).isoformat().encode())
    library._retention._used.clear()
    library.read(used.id if use == "by its owner" else shared)
    assert library.sweep(30) == 1
    assert [entry.title for entry in library.browser("me")[1]] == ["used"]


def test_sweep_when_a_notebook_is_from_before_days_were_kept_then_they_begin_today(library: Library) -> None:
    notebook, _, _ = filled(library)
    library._entries.delete(f"used/{notebook.id}")
    library._retention._used.clear()
    assert library.sweep(30, in_days(100)) == 0
    assert library.sweep(30, in_days(100)) == 1


def test_sweep_when_a_picture_came_into_no_notebook_then_it_goes_after_a_day(library: Library, tmp_path: Path) -> None:
    filled(library)
    library.pictures.keep(BLUE, "b.png")
    library.sweep(None)
    assert library.pictures.png(BLUE.sha256) is not None
    for path in (tmp_path / "notebooks/pictures").iterdir():
        os.utime(path, (time.time() - 90_000,) * 2)
    library.sweep(None)
    assert library.pictures.png(BLUE.sha256) is None
    assert library.pictures.png(RED.sha256) is not None


def test_delete_when_the_operators_are_named_then_nobody_else_may(derived: Path) -> None:
    settings = Settings(cache_dir=derived, login="password", users={"anna": "x"}, operators=("anna",))
    with open_parts(settings) as parts:
        actions = ModelActions(parts)
        with pytest.raises(NotAllowed, match="Only the operators"):
            actions.delete("a/b", "c" * 40, "m", "bert")
