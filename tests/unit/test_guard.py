"""What a request must state to reach the app: its host, its origin, its size."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from playground.errors import BadSettings
from playground.settings import Settings
from playground.web.guard import Guard, Rules, has_many_values

JSON = {"content-type": "application/json"}


async def echo(request: Request) -> Response:
    """Says how much it read and which Origin it saw; its cookie is as Gradio sets one."""
    reply = PlainTextResponse(f"{len(await request.body())} {request.headers.get('origin')}")
    reply.set_cookie("access-token", "t", httponly=True, samesite="none", secure=True)
    reply.set_cookie("access-token-unsecure", "t", httponly=True)
    return reply


def client(settings: Settings | None = None, host: str = "127.0.0.1:7860") -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    return TestClient(Guard(app, Rules.of(settings or Settings())), base_url=f"http://{host}")


@pytest.mark.parametrize(
    ("host", "settings", "status"),
    [
        ("127.0.0.1:7860", {}, 200),
        ("localhost:7860", {}, 200),
        ("LOCALHOST", {}, 200),
        ("[::1]:7860", {}, 200),
        ("192.168.1.20:7860", {}, 200),  # an address cannot be taken over
        ("evil.example:7860", {}, 421),  # DNS rebinding
        ("localhost.evil.example", {}, 421),
        ("127.0.0.1.evil.example", {}, 421),
        ("", {}, 421),
        ("gpubox:7860", {"host": "gpubox"}, 200),
        ("gpubox:7860", {"host": "0.0.0.0"}, 421),
        ("play.example.org", {"allowed_hosts": ("play.example.org",)}, 200),
        ("play.example.org:8443", {"allowed_hosts": ("Play.Example.org:8443",)}, 200),
        ("other.example.org", {"allowed_hosts": ("play.example.org",)}, 421),
        ("abc.gradio.live", {"share": True, "login": "password", "password": "x"}, 200),
        ("abc.gradio.live.evil.example", {"share": True, "login": "password", "password": "x"}, 421),
        ("abc.gradio.live", {}, 421),
        ("whatever.example", {"allowed_hosts": ("*",)}, 200),
        ("acme-play.hf.space", {"space_host": "acme-play.hf.space", "space_id": "acme/play"}, 200),
        ("acme-other.hf.space", {"space_host": "acme-play.hf.space", "space_id": "acme/play"}, 421),
    ],
)
def test_host_when_not_one_of_the_operators_then_refused(host: str, settings: dict[str, object], status: int) -> None:
    assert client(Settings(**settings)).get("/", headers={"host": host}).status_code == status  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # gradio_client, curl
        ({"origin": "http://play.example.org"}, 200),
        ({"origin": "http://play.example.org:80"}, 200),
        ({"origin": "https://play.example.org"}, 200),  # a proxy speaks TLS for the app
        ({"origin": "https://play.example.org:8443"}, 403),  # another app of the same machine
        ({"origin": "http://127.0.0.1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "https://play.example.org.evil.example"}, 403),
        ({"origin": "https://play.example.org@evil.example"}, 403),
        ({"origin": "null"}, 403),  # a frame in a sandbox, a file
        ({"origin": ""}, 403),
        ({"origin": "https://[half"}, 403),
        ({"origin": "https://play.example.org:port"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://public.example"}, 200),  # a proxy rewrites the host
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),  # a form that is sent to the app
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, 403),
    ],
)
def test_change_when_another_sites_page_asks_for_it_then_refused(headers: dict[str, str], status: int) -> None:
    app = client(Settings(allowed_hosts=("play.example.org",)), "play.example.org")
    assert app.post("/gradio_api/queue/join", headers={**JSON, **headers}, content=b"{}").status_code == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://play.example.org", 200),
        ("https://play.example.org:443", 200),
        ("https://play.example.org:8443", 403),
        ("https://lab.example.org:8443", 200),
        ("https://lab.example.org", 403),
        ("https://evil.example", 403),
    ],
)
def test_change_when_a_proxy_rewrites_the_host_then_the_operators_names_are_own(origin: str, status: int) -> None:
    app = client(Settings(allowed_hosts=("play.example.org", "lab.example.org:8443")))
    assert app.post("/", headers={**JSON, "origin": origin}, content=b"{}").status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 200),  # somebody follows a link
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),  # <script src>, <img>
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "origin": "https://evil.example"}, 403),
        ({"origin": "https://evil.example"}, 403),
    ],
)
def test_page_when_another_site_reads_it_then_refused_but_its_links_open(headers: dict[str, str], status: int) -> None:
    assert client().get("/config", headers=headers).status_code == status


@pytest.mark.parametrize(
    ("path", "kind", "status"),
    [
        ("/gradio_api/component_server", "text/plain", 415),
        ("/gradio_api/component_server", "multipart/form-data; boundary=x", 415),
        ("/gradio_api/queue/join", "", 415),
        ("/gradio_api/queue/join", "application/json; charset=utf-8", 200),
        ("/gradio_api/upload", "multipart/form-data; boundary=x", 200),
        ("/login", "application/x-www-form-urlencoded", 200),
        ("/login/", "multipart/form-data; boundary=x", 200),
    ],
)
def test_change_when_it_is_not_json_then_refused_but_uploads_and_the_login(path: str, kind: str, status: int) -> None:
    assert client().post(path, headers={"content-type": kind}, content=b"{}").status_code == status


def pieces(n: int) -> Iterator[bytes]:
    return (b" " * 1000 for _ in range(n))  # no Content-Length: sent in chunks


@pytest.mark.parametrize("path", ["/login", "/gradio_api/queue/join", "/gradio_api/upload"])
@pytest.mark.parametrize("chunked", [False, True])
def test_body_when_larger_than_allowed_then_refused_in_words(path: str, chunked: bool) -> None:
    settings = Settings(max_body_bytes=1_000_000, max_upload_bytes=100_000)
    n = {"/login": 65, "/gradio_api/queue/join": 1000, "/gradio_api/upload": 2600}[path]
    app = client(settings)

    def post(n: int) -> Response:
        content = pieces(n) if chunked else b"".join(pieces(n))
        return app.post(path, headers=JSON, content=content)  # type: ignore[return-value]

    assert post(n).status_code == 200
    reply = post(n + 1)
    assert reply.status_code == 413
    assert "too large: at most" in reply.text  # type: ignore[attr-defined]


def test_body_when_it_holds_very_many_values_then_refused_before_it_is_decoded() -> None:
    """They would be decoded in the event loop: 8 MB take a second."""
    app = client()
    refused = app.post("/gradio_api/queue/join", headers=JSON, content=b'{"data":[' + b"[]," * 60_000 + b"[]]}")
    assert refused.status_code == 413
    assert "too many values" in refused.text
    note = json.dumps({"text": '[{,\\"' * 100_000}).encode()
    assert app.post("/gradio_api/component_server", headers=JSON, content=note).text == f"{len(note)} None"


@pytest.mark.parametrize(
    ("text", "most", "many"),
    [
        ("[1,2]", 2, False), ("[1,2,3]", 2, True), ("[{},{}]", 3, True), ('["[,{[,{"]', 1, False),
        (r'["\"[[[["]', 1, False), (r'["\\",[[[]]]]', 3, True), (r'["\\\"[[[[[["]', 1, False),
        ('["' + "[" * 9, 2, False), ('["",' + '"",' * 9, 5, True),
    ],
)  # fmt: skip
def test_values_when_they_are_marks_in_a_string_then_not_counted(text: str, most: int, many: bool) -> None:
    halves = [text[:5].encode(), text[5:].encode()]
    assert has_many_values(halves, most) is many


def test_values_when_in_an_encoding_that_hides_quotes_then_many() -> None:
    hidden = '{"data":["\u2200",[],[],[],[]]}'
    assert json.loads(hidden.encode("utf-16"))
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert has_many_values([hidden.encode(encoding)], 5)
        assert not has_many_values([hidden.encode(encoding)], 100)


def test_origin_when_it_is_the_apps_own_then_gradio_does_not_see_it() -> None:
    """Gradio's CORS would echo it, with credentials."""
    reply = client().post("/", headers={**JSON, "origin": "http://127.0.0.1:7860"}, content=b"{}")
    assert reply.text == "2 None"


@pytest.mark.parametrize(
    ("settings", "same_site", "ancestors"),
    [
        ({}, "lax", "'self'"),
        ({"space_id": "acme/play"}, "none; Partitioned", "'self' https://huggingface.co"),
    ],
)
def test_cookies_when_not_in_the_hubs_frame_then_other_sites_do_not_send_them(
    settings: dict[str, str], same_site: str, ancestors: str
) -> None:
    reply = client(Settings(**settings)).get("/")  # type: ignore[arg-type]
    secure, plain = reply.headers.get_list("set-cookie")
    assert secure.replace("; Secure", "").endswith(f"SameSite={same_site}")
    assert plain.endswith("SameSite=lax")
    assert reply.headers["content-security-policy"] == f"frame-ancestors {ancestors}"


@pytest.mark.parametrize("name", ["https://play.example.org", "play.example.org/x", "a b", "", "*.example.org"])
def test_settings_when_a_host_is_not_a_name_then_said(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("PLAYGROUND_ALLOWED_HOSTS", f"localhost,{name or '-/-'}")
    with pytest.raises(BadSettings, match=r"PLAYGROUND_ALLOWED_HOSTS.*: invalid host name"):
        Settings.read()


def test_settings_when_a_proxy_is_not_an_address_then_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_TRUSTED_PROXIES", "10.0.0.0/8,proxy")
    with pytest.raises(BadSettings, match=r"PLAYGROUND_TRUSTED_PROXIES.*: invalid address 'proxy'"):
        Settings.read()


def test_forwarders_when_none_is_named_then_only_a_space_has_some() -> None:
    assert Settings().forwarders == ()
    assert "10.0.0.0/8" in Settings(space_id="acme/play").forwarders
    assert Settings(space_id="acme/play", trusted_proxies=("10.1.2.3",)).forwarders == ("10.1.2.3",)


def test_api_when_a_request_is_refused_then_openais_form_and_its_own_limit() -> None:
    api = client(Settings(max_body_bytes=1_000_000, max_api_body_bytes=2_000_000))
    assert api.post("/v1/chat/completions", headers=JSON, content=b" " * 1_500_000).status_code == 200
    assert api.post("/other", headers=JSON, content=b" " * 1_500_000).status_code == 413
    refused = api.post("/v1/chat/completions", headers=JSON, content=b" " * 2_000_001)
    assert refused.status_code == 413
    assert "at most 2,000,000 bytes" in refused.json()["error"]["message"]
