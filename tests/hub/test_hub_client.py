"""The Hub's client against a Hub of our own: search, a repository, headers by ranges, tokens, and every refusal."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import socket
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from playground.errors import BadInput, BadModel, NotAllowed, Offline, PlaygroundError
from playground.models.hub import transfer
from playground.models.hub.address import located, parse_repo
from playground.models.hub.client import Hub
from playground.models.hub.listing import RemoteFile
from testkit import pairs
from testkit.gguf_bytes import (
    ARRAY,
    GOOD,
    STRING,
    UINT8,
    array,
    gguf,
    language_with_a_large_vocabulary,
    pair,
)
from testkit.hub_server import TOKEN, HubFile, HubRepo, HubServer, hub_server, pair_repo

ROOT = Path(__file__).parents[2]
KILOBYTE, MEGABYTE = 2**10, 2**20
TINY, BIG, GATED, HOSTILE = "acme/tiny-VL-GGUF", "acme/big-VL-GGUF", "acme/gated-VL-GGUF", "mallory/hostile-GGUF"


def hole(begin: bytes) -> HubFile:
    """A file that begins so, and is said to have 300 MB of nothing behind it."""
    return HubFile(begin + bytes(6 * MEGABYTE), listed_bytes=300 * MEGABYTE)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    folder = tmp_path_factory.mktemp("served")
    tiny = pairs.write_pair("qwen3vl", folder)
    realistic = pairs.write_llava(folder, size=pairs.VisionSize(32, 27, 4, 64, 112, 14), name="27-layers")
    others: dict[str, bytes | Path | HubFile] = {
        f"tiny-qwen3vl-{name}.gguf": GOOD for name in ("Q8_0", "Q4_K_M", "UD-Q4_K_XL", "IQ2_XXS")
    }
    others |= {f"old/tiny-{n}.gguf": GOOD for n in range(22)}
    repos = [
        pair_repo(TINY, tiny, others),
        HubRepo(
            BIG,
            {
                "big-Q4_K_M.gguf": language_with_a_large_vocabulary(),
                "mmproj-F16.gguf": realistic.projector,
                "odd name+?#%&é.gguf": GOOD,
                "README.md": b"# Big",
            },
            base_model=["acme/big-VL", "acme/bigger-VL"],
            gguf={"architecture": "qwen3vl", "total": 4_000_000_000, "chat_template": "{{ messages }}"},
            downloads=500,
            licence="other",
        ),
        HubRepo(GATED, {"gated-Q8_0.gguf": GOOD}, gated=True, licence="gemma", downloads=300),
        HubRepo("acme/private-VL-GGUF", {"a.gguf": GOOD}, private=True),
        HubRepo("acme/text-GGUF", {"a.gguf": GOOD}, pipeline_tag="text-generation"),
        HubRepo(HOSTILE, hostile_files()),
    ]
    with hub_server(repos) as server:
        yield server
        close_session()


@pytest.fixture
def hub(served: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    served.well_behaved()
    served.forget()
    served.patch(monkeypatch, tmp_path)
    return Hub(own_token=False)


def remote(hub: Hub, id: str, name: str, token: str | None = None) -> tuple[str, RemoteFile]:
    """A repository's commit, and one of its files."""
    listing = hub.repo(id, token=token)
    return listing.commit, next(file for file in listing.files if file.name == name)


# --- search ------------------------------------------------------------------------------------------------


def test_search_when_asked_then_models_that_see_by_downloads(hub: Hub, served: HubServer) -> None:
    repos = hub.search("vl")
    assert [(repo.id, repo.downloads, repo.gated, repo.licence) for repo in repos] == [
        (BIG, 500, False, "other"),
        (GATED, 300, True, "gemma"),
        (TINY, 100, False, "apache-2.0"),
    ]
    assert all((repo.likes, repo.changed) == (10, "2026-03-04") for repo in repos)
    assert any(repo.n_params for repo in repos)
    requests = served.seen()
    assert [request.query.get("pipeline_tag") for request in requests] == [["image-text-to-text"], None]
    assert all(request.query["filter"] == ["gguf"] and request.query["search"] == ["vl"] for request in requests)
    assert all(request.token is None for request in requests)


def test_search_when_a_repository_has_another_task_or_none_then_found_after_the_others(
    hub: Hub, served: HubServer
) -> None:
    assert [(repo.id, repo.task) for repo in hub.search("text")] == [("acme/text-GGUF", "text-generation")]
    repos = hub.search("acme")
    assert [repo.task for repo in repos] == ["image-text-to-text"] * (len(repos) - 1) + ["text-generation"]


def test_search_when_limited_or_empty_or_strange_then(hub: Hub) -> None:
    assert [repo.id for repo in hub.search("", limit=2)] == [BIG, GATED]
    assert hub.search("no such thing & ?limit=3 é") == ()


# --- a repository ------------------------------------------------------------------------------------------


def test_repo_when_it_has_30_files_then_one_call_tells_all(hub: Hub, served: HubServer) -> None:
    listing = hub.repo(TINY)
    assert len(listing.files) == 30
    (request,) = served.seen()
    assert (request.method, request.path) == ("GET", f"/api/models/{TINY}/revision/main")
    assert listing.commit == served.repos[TINY].commit
    assert (listing.id, listing.licence, listing.gated, listing.base_models) == (TINY, "apache-2.0", False, ())
    assert (listing.architecture, listing.chat_template) == ("qwen3vl", pairs.CHAT_TEMPLATE)
    assert listing.n_params is not None
    whole = served.repos[TINY].files
    answers = {file.name: (file.bytes, file.sha256) for file in listing.files}
    model, text = "tiny-qwen3vl-F16.gguf", "README.md"
    assert answers[model] == (whole[model].size, whole[model].sha256)
    assert answers[text] == (whole[text].size, None)
    assert [model.name for model in listing.projectors] == ["mmproj-tiny-qwen3vl-F16.gguf"]
    assert [model.quantization for model in listing.models][:1] == ["F16"]
    assert len(listing.models) == 27


def test_repo_when_the_card_says_more_then_told(hub: Hub) -> None:
    listing = hub.repo(BIG)
    assert (listing.licence, listing.base_models) == ("other", ("acme/big-VL", "acme/bigger-VL"))
    assert (listing.n_params, listing.architecture) == (4_000_000_000, "qwen3vl")
    assert hub.repo(GATED).gated
    assert hub.repo(BIG, revision=listing.commit) == listing


def test_repo_when_the_listing_is_hostile_then_only_names_inside_the_repository_are_left(hub: Hub) -> None:
    names = {file.name for file in hub.repo(HOSTILE).files}
    assert not [name for name in names if ".." in name or name.startswith("/") or "\\" in name]
    assert "checksum.gguf" not in names  # whose sha256 is a path
    assert "zip.gguf" in names


# --- headers -----------------------------------------------------------------------------------------------


def test_header_when_a_pair_is_checked_then_few_requests_and_few_bytes(hub: Hub, served: HubServer) -> None:
    """Goal: at most 6 range requests and 512 KB for a pair, here with a language model's header of 6 MB."""
    listing = hub.repo(BIG)
    (model,) = (model.files[0] for model in listing.models if model.quantization == "Q4_K_M")
    projector = listing.projectors[0].files[0]
    served.forget()
    language = hub.header(BIG, listing.commit, model)
    vision = hub.header(BIG, listing.commit, projector)
    ranges = served.seen("GET")
    assert all(request.cdn and request.range and request.status == 206 for request in ranges)
    assert len(ranges) <= 6
    assert sum(request.sent for request in ranges) <= 512 * KILOBYTE
    assert len(served.seen("HEAD")) == 2
    assert language.text("general.name") == "Qwen3-VL 4B"
    assert (language.architecture, language.integer("qwen3vl.n_deepstack_layers")) == ("qwen3vl", 3)
    assert (language.complete, language.file_bytes) == (False, model.bytes)
    assert (vision.complete, vision.is_projector, len(vision.tensors) > 400) == (True, True, True)
    assert vision.missing_bytes == 0


def test_header_when_the_files_name_is_odd_then_found(hub: Hub) -> None:
    name = "odd name+?#%&é.gguf"
    assert hub.header(BIG, *remote(hub, BIG, name)).text("general.name") == "a model"


def test_header_when_the_server_sends_no_ranges_then_a_short_one_is_read_and_the_rest_not_heard(
    hub: Hub, served: HubServer
) -> None:
    file = remote(hub, BIG, "big-Q4_K_M.gguf")
    served.behave("/cdn/", ignore_range=True)
    served.forget()
    assert hub.header(BIG, *file).architecture == "qwen3vl"
    assert sum(request.sent for request in served.seen("GET")) < 8 * MEGABYTE  # of 26: what waits in sockets


def hostile_files() -> dict[str, bytes | Path | HubFile]:
    huge = 2**63
    fields = b"".join(pair(f"k{n}", UINT8, b"\0") for n in range(90_000))
    return {
        "zip.gguf": b"PK\x03\x04" + bytes(1000),
        "empty.gguf": b"",
        "cut.gguf": GOOD[:50],
        "cut-behind.gguf": GOOD[:-1],
        "listed-larger.gguf": HubFile(GOOD[:50], listed_bytes=10**9),
        "listed-much-larger.gguf": HubFile(GOOD[:4] + bytes(3 * KILOBYTE), listed_bytes=10**15),
        "old.gguf": gguf([], [], version=1) + bytes(1000),
        "tensors.gguf": b"GGUF" + struct.pack("<IQQ", 3, huge, 0) + bytes(1000),
        "keys.gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, huge) + bytes(1000),
        "text.gguf": hole(gguf([pair("k", STRING, struct.pack("<Q", 2**62))], [])),
        "hole-text.gguf": hole(gguf([pair("k", STRING, struct.pack("<Q", 7 * MEGABYTE))], [])),
        "hole-array.gguf": hole(gguf([array("k", UINT8, 60 * MEGABYTE)], [])),
        "hole-texts.gguf": hole(gguf([array("k", STRING, 2**21)], [])),
        "hole-keys.gguf": hole(b"GGUF" + struct.pack("<IQQ", 3, 0, 100_000)),
        "hole-tensors.gguf": hole(b"GGUF" + struct.pack("<IQQ", 3, 100_000, 0)),
        "many-keys.gguf": b"GGUF" + struct.pack("<IQQ", 3, 0, 90_001) + fields,
        "nested.gguf": gguf([array("k", ARRAY, 1, struct.pack("<IQ", ARRAY, 1) * 1000)], []) + bytes(1000),
        "garbage.gguf": random.Random(1).randbytes(200 * KILOBYTE),
        "checksum.gguf": HubFile(GOOD, listed_sha256="../../../../../../../tmp/escaped"),
        "../../escaped.gguf": GOOD,
        "/tmp/escaped.gguf": GOOD,
        "a/../../../escaped.gguf": GOOD,
        "..\\..\\escaped.gguf": GOOD,
        "C:\\escaped.gguf": GOOD,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zip.gguf", "not a GGUF file"),
        ("empty.gguf", "not a GGUF file"),
        ("cut.gguf", "cut short"),
        ("cut-behind.gguf", "1 bytes of its tensors are missing"),
        ("listed-larger.gguf", "cut short"),
        ("listed-much-larger.gguf", "version 0"),
        ("old.gguf", "version 1"),
        ("tensors.gguf", "it claims 9,223,372,036,854,775,808 tensors"),
        ("keys.gguf", "it claims 9,223,372,036,854,775,808 metadata keys"),
        ("text.gguf", "bytes in a text"),
        ("hole-text.gguf", "its header is larger than any model's"),
        ("hole-array.gguf", "its header is larger than any model's"),
        ("hole-texts.gguf", "its header is larger than any model's"),
        ("hole-keys.gguf", "no tensors"),
        ("many-keys.gguf", "cut short"),
        ("nested.gguf", "an array of the unknown type 9"),
        ("garbage.gguf", "not a GGUF file"),
    ],
)
def test_header_when_hostile_then_a_clear_refusal_and_little_read(
    hub: Hub, served: HubServer, name: str, message: str
) -> None:
    file = remote(hub, HOSTILE, name)
    served.forget()
    started = time.process_time()
    with pytest.raises(BadModel) as refused:
        hub.header(HOSTILE, *file)
    assert time.process_time() - started < 30
    assert message in str(refused.value)
    assert str(refused.value).startswith(name)
    assert len(str(refused.value)) < 300
    assert sum(request.sent for request in served.seen("GET")) <= 4 * MEGABYTE
    assert len(served.seen("GET")) <= 5


def test_header_when_it_is_full_of_nothing_then_little_memory(hub: Hub) -> None:
    for name in ("hole-text.gguf", "hole-array.gguf", "text.gguf", "garbage.gguf"):
        peak, _, refused = cost_of(functools.partial(hub.header, HOSTILE, *remote(hub, HOSTILE, name)))
        assert type(refused) is BadModel
        assert peak < 32


def test_header_when_it_has_100_000_tensors_of_nothing_then_read_in_seconds(hub: Hub, served: HubServer) -> None:
    file = remote(hub, HOSTILE, "hole-tensors.gguf")
    started = time.process_time()
    assert len(hub.header(HOSTILE, *file).tensors) == 100_000
    assert time.process_time() - started < 30


def test_header_when_the_server_sends_endless_garbage_then_it_is_not_heard_to_the_end(
    hub: Hub, served: HubServer
) -> None:
    file = remote(hub, BIG, "big-Q4_K_M.gguf")
    served.behave("/cdn/", endless=True)
    served.forget()
    peak, lasted, refused = cost_of(lambda: hub.header(BIG, *file))
    assert type(refused) is BadModel
    assert "not a GGUF file" in str(refused)
    time.sleep(0.2)
    assert sum(request.sent for request in served.seen("GET")) < 8 * MEGABYTE
    assert peak < 16
    assert lasted < 30


def test_header_when_the_server_sends_it_packed_a_thousandfold_then_it_is_not_unpacked(
    hub: Hub, served: HubServer
) -> None:
    file = remote(hub, BIG, "big-Q4_K_M.gguf")
    bomb = gzip.compress(bytes(50 * MEGABYTE), 1)
    headers = {"Content-Encoding": "gzip", "Content-Range": f"bytes 0-{len(bomb) - 1}/{10**9}"}
    served.behave("/cdn/", status=206, body=bomb, headers=headers)
    peak, lasted, refused = cost_of(lambda: hub.header(BIG, *file))
    assert type(refused) is BadModel
    assert peak < 16
    assert lasted < 30


def test_header_when_the_server_drips_then_given_up(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = remote(hub, BIG, "big-Q4_K_M.gguf")
    monkeypatch.setattr(transfer, "_HEADER_S", 0.5)
    served.behave("/cdn/", slow=20_000)
    started = time.monotonic()
    with pytest.raises(Offline, match=r"big-Q4_K_M\.gguf: .*too slow"):
        hub.header(BIG, *file)
    assert time.monotonic() - started < 30


def cost_of(call: Callable[[], object]) -> tuple[float, float, BaseException | None]:
    """Peak megabytes, seconds, and the error."""
    error: BaseException | None = None
    tracemalloc.start()
    started = time.monotonic()
    try:
        call()
    except PlaygroundError as refused:
        error = refused
    lasted = time.monotonic() - started
    peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    return peak, lasted, error


# --- tokens ------------------------------------------------------------------------------------------------


def test_gated_when_there_is_no_token_then_the_message_says_where_to_accept_the_licence(
    hub: Hub, served: HubServer
) -> None:
    file = remote(hub, GATED, "gated-Q8_0.gguf")  # the listing is public
    for call in (lambda: hub.header(GATED, *file), lambda: fetch(hub, GATED, *file)):
        with pytest.raises(NotAllowed) as refused:
            call()
        assert f"accept its licence at {served.url}/{GATED} with your account" in str(refused.value)
        assert "gated-Q8_0.gguf is gated" in str(refused.value)
    with pytest.raises(NotAllowed, match="is gated"):
        hub.header(GATED, *file, token="hf_of_somebody_else")


def test_token_when_given_then_the_hub_sees_it_and_the_cdn_does_not(hub: Hub, served: HubServer) -> None:
    file = remote(hub, GATED, "gated-Q8_0.gguf", TOKEN)
    assert hub.header(GATED, *file, token=TOKEN).text("general.name") == "a model"
    assert fetch(hub, GATED, *file, token=TOKEN).read_bytes() == GOOD
    hub.search("vl", TOKEN)
    at_hub, at_cdn = served.seen(cdn=False), served.seen(cdn=True)
    assert len(at_cdn) == 2
    assert all(request.token is None for request in at_cdn)
    assert {request.token for request in at_hub} == {f"Bearer {TOKEN}"}
    assert hub.repo("acme/private-VL-GGUF", token=TOKEN).files


def test_token_when_the_hub_redirects_to_plain_http_then_it_stays_at_home(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://hub.example/acme/a/resolve/main/a.gguf"
    for location, sent in (
        (url, True),
        ("http://hub.example/cdn/a.gguf", False),
        ("https://hub.example:8443/a.gguf", False),
        ("https://cdn.example/a.gguf", False),
    ):
        found = type("Found", (), {"location": location})
        monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url, found=found, **_: found)
        assert ("authorization" in located(url, TOKEN)[1]) is sent


CHILD = """
import json, sys
from playground.errors import PlaygroundError
from playground.models.hub.client import Hub
asked = json.load(sys.stdin)
hub = Hub(own_token=asked["own_token"])
told = {"endpoint": hub.endpoint, "cache": str(hub.cache), "offline": hub.offline}
try:
    told["search"] = [one.id for one in hub.search("gated")]
    repo = hub.repo(asked["id"])
    told["header"] = hub.header(repo.id, repo.commit, repo.files[0], asked["token"]).text("general.name")
    told["path"] = str(hub.fetch(repo.id, repo.commit, repo.files[0], asked["token"], on_bytes=len, stop=lambda: False))
except PlaygroundError as error:
    told["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(told))
""".replace("on_bytes=len", "on_bytes=lambda n: None")


def child(
    served: HubServer, folder: Path, environment: dict[str, str] | None = None, **fields: object
) -> dict[str, str]:
    """What another process gets from the Hub that its environment names."""
    process = subprocess.run(
        [sys.executable, "-c", CHILD],
        input=json.dumps({"own_token": False, "token": None, "id": GATED} | fields),
        env=os.environ | served.environment(folder) | (environment or {}),
        cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "Traceback" not in process.stderr
    report: dict[str, str] = json.loads(process.stdout)
    return report


def test_operators_token_when_it_is_not_shared_then_it_is_never_sent(
    hub: Hub, served: HubServer, tmp_path: Path
) -> None:
    report = child(served, tmp_path, {"HF_TOKEN": TOKEN}, own_token=False)
    assert report["error"].startswith(f"NotAllowed: {GATED}: gated-Q8_0.gguf is gated: accept its licence")
    assert (report["endpoint"], report["cache"]) == (served.url, str(tmp_path / "hub"))
    assert len(served.seen()) == 4  # two searches, listing, HEAD: and no telemetry
    assert [request.token for request in served.seen()] == [None] * 4


def test_operators_token_when_it_is_shared_then_visitors_without_one_use_it(
    hub: Hub, served: HubServer, tmp_path: Path
) -> None:
    report = child(served, tmp_path, {"HF_TOKEN": TOKEN}, own_token=True)
    assert report["header"] == "a model"
    assert Path(report["path"]).read_bytes() == GOOD
    assert {request.token for request in served.seen(cdn=False)} == {f"Bearer {TOKEN}"}
    assert {request.token for request in served.seen(cdn=True)} == {None}


def test_operators_token_when_a_visitor_has_one_then_the_visitors_is_sent(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.search("", "hf_visitor")
    Hub(own_token=True).search("", "hf_visitor")
    Hub(own_token=True).search("")
    hub.search("")
    assert [request.token for request in served.seen()] == [
        "Bearer hf_visitor",
        "Bearer hf_visitor",
        f"Bearer {TOKEN}",
        None,
    ]


def test_token_when_pasted_with_space_around_it_then_it_is_good(hub: Hub, served: HubServer) -> None:
    hub.repo(BIG, token=f" {TOKEN}\n")
    hub.repo(BIG, token=" ")
    assert [request.token for request in served.seen()] == [f"Bearer {TOKEN}", None]


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_token_when_it_cannot_be_sent_then_said(hub: Hub, served: HubServer, what: str) -> None:
    for token in ("hf_é", "hf_a\nX-Injected: 1", "two words"):
        error = refused(calls(hub, token)[what])
        assert type(error) is BadInput
        assert "This is not a valid Hugging Face token." in str(error)
    assert served.seen() == []


# --- refusals ----------------------------------------------------------------------------------------------


def fetch(hub: Hub, id: str, commit: str, file: RemoteFile, token: str | None = None) -> Path:
    return hub.fetch(id, commit, file, token, on_bytes=lambda n: None, stop=lambda: False)


def calls(hub: Hub, token: str | None = None) -> dict[str, Callable[[], object]]:
    """Everything that asks the Hub."""
    commit, file = "0" * 40, RemoteFile("big-Q4_K_M.gguf", 26 * MEGABYTE, "a" * 64)
    return {
        "search": lambda: hub.search("vl", token),
        "repo": lambda: hub.repo(BIG, token=token),
        "header": lambda: hub.header(BIG, commit, file, token),
        "fetch": lambda: fetch(hub, BIG, commit, file, token),
    }


def refused(call: Callable[[], object], within: float = 60.0) -> PlaygroundError:
    started = time.monotonic()
    with pytest.raises(PlaygroundError) as caught:
        call()
    assert time.monotonic() - started < within
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    return caught.value


def test_repository_when_there_is_none_then_said(hub: Hub) -> None:
    error = refused(lambda: hub.repo("acme/none"))
    assert type(error) is BadInput
    assert str(error).startswith("acme/none is not on the Hub, or private. Check the spelling; ")
    assert str(refused(lambda: hub.repo("acme/private-VL-GGUF"))).startswith("acme/private-VL-GGUF is not on the Hub")


def test_revision_when_there_is_none_then_said(hub: Hub) -> None:
    error = refused(lambda: hub.repo(BIG, revision="v9"))
    assert type(error) is BadInput
    assert "has no such revision" in str(error)


@pytest.mark.parametrize("what", ["header", "fetch"])
def test_file_when_it_is_gone_then_said(hub: Hub, served: HubServer, what: str) -> None:
    commit, file = served.repos[BIG].commit, RemoteFile("gone.gguf", 1000, "a" * 64)
    call = {"header": lambda: hub.header(BIG, commit, file), "fetch": lambda: fetch(hub, BIG, commit, file)}[what]
    error = refused(call)
    assert type(error) is BadInput
    assert f"{BIG}: gone.gguf is not there any more" in str(error)


@pytest.mark.parametrize("id", ["nothing", "a/b/c", "a/..", "../..", "a b/c", "a/b--c", "a/" + "b" * 200, ""])
def test_id_when_impossible_then_said_without_asking(hub: Hub, served: HubServer, id: str) -> None:
    commit, file = "0" * 40, RemoteFile("a.gguf", 1000, "a" * 64)
    for call in (lambda: hub.repo(id), lambda: hub.header(id, commit, file), lambda: fetch(hub, id, commit, file)):
        assert type(refused(call)) is BadInput
    assert served.seen() == [] or id == "nothing"  # a canonical model of old times had no owner


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_hub_when_it_asks_to_wait_then_said_at_once(hub: Hub, served: HubServer, what: str) -> None:
    for method in ("GET", "HEAD"):
        served.behave(method=method, status=429, headers={"Retry-After": "60"})
    error = refused(calls(hub)[what])
    assert type(error) is Offline
    assert str(error) == "The Hub received too many requests. Try again in a few minutes."


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_hub_when_it_is_broken_then_said_at_once(hub: Hub, served: HubServer, what: str) -> None:
    for method in ("GET", "HEAD"):
        served.behave(method=method, status=503, body=b"<html>" + b"sorry " * 5000)
    error = refused(calls(hub)[what])
    assert type(error) is Offline
    assert "The Hub answered 503" in str(error)


@pytest.mark.parametrize("what", ["header", "fetch"])
@pytest.mark.parametrize(("status", "message"), [(503, "The Hub answered 503"), (429, "too many requests")])
def test_cdn_when_it_is_broken_then_said_without_the_signed_address(
    hub: Hub, served: HubServer, what: str, status: int, message: str
) -> None:
    file = remote(hub, BIG, "big-Q4_K_M.gguf")
    served.behave("/cdn/", status=status, headers={"Retry-After": "60"})
    error = refused({"header": lambda: hub.header(BIG, *file), "fetch": lambda: fetch(hub, BIG, *file)}[what])
    assert type(error) is Offline
    assert message in str(error)
    assert "Signature" not in str(error)


@pytest.mark.parametrize("what", ["search", "repo"])
@pytest.mark.parametrize("body", [b"<html>Log in to the Wi-Fi", b"[1]", b'{"a": 1}', b"null", b"\xff\xfe"])
def test_answer_when_it_is_not_the_hubs_then_said(hub: Hub, served: HubServer, what: str, body: bytes) -> None:
    served.behave("/api/", body=body)
    error = refused(calls(hub)[what])
    assert type(error) is Offline
    assert "not the Hub's" in str(error)


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_token_when_it_is_wrong_then_said(hub: Hub, served: HubServer, what: str) -> None:
    headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
    for method in ("GET", "HEAD"):
        served.behave(method=method, status=401, headers=headers)
    error = refused(calls(hub)[what])
    assert type(error) is NotAllowed
    assert "This token does not give access to" in str(error)


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_hub_when_it_does_not_answer_then_given_up(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.3)
    for method in ("GET", "HEAD"):
        served.behave(method=method, delay=20)
    error = refused(calls(hub)[what])
    assert type(error) is Offline
    assert "Check the network" in str(error)


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_hub_when_nobody_is_there_then_said_at_once(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(served, "url", nobody)
    with monkeypatch.context() as patched:
        served.patch(patched, hub.cache.parent)
        error = refused(calls(Hub(own_token=False))[what])
    assert type(error) is Offline
    assert "The Hub cannot be reached" in str(error)
    assert "Check the network" in str(error)


@pytest.mark.parametrize("what", ["search", "repo", "header", "fetch"])
def test_offline_when_switched_so_then_said_without_asking(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.offline
    error = refused(calls(hub)[what])
    assert type(error) is Offline
    assert "switched off (HF_HUB_OFFLINE)" in str(error)
    assert served.seen() == []


def test_offline_when_the_environment_says_so_then_said(hub: Hub, served: HubServer, tmp_path: Path) -> None:
    report = child(served, tmp_path, {"HF_HUB_OFFLINE": "1"})
    assert report["offline"] is True
    assert report["error"].startswith("Offline: Access to the Hub is switched off")
    assert served.seen() == []


def test_offline_when_a_file_is_there_then_it_can_be_used(
    hub: Hub, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_file = remote(hub, TINY, "tiny-qwen3vl-Q8_0.gguf")
    path = fetch(hub, TINY, *remote_file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(hub, TINY, *remote_file) == path == hub.path(TINY, remote_file[0], remote_file[1].name)
    assert [(file.name, file.repo) for file in hub.cached()] == [(remote_file[1].name, TINY)]


# --- what a person pastes ----------------------------------------------------------------------------------

SHA = "b" * 40


@pytest.mark.parametrize(
    ("pasted", "expected"),
    [
        ("acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        ("  acme/a-GGUF \n", ("acme/a-GGUF", "main", None)),
        ("acme/a-GGUF:a-Q4_K_M.gguf", ("acme/a-GGUF", "main", "a-Q4_K_M.gguf")),
        ("acme/a-GGUF:Q4/a.gguf", ("acme/a-GGUF", "main", "Q4/a.gguf")),
        ("acme/a-GGUF:", ("acme/a-GGUF", "main", None)),
        ("https://huggingface.co/acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        ("http://huggingface.co/acme/a-GGUF/", ("acme/a-GGUF", "main", None)),
        ("https://HuggingFace.co/acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        ("https://hf.co/acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        ("https://huggingface.co/acme/a-GGUF?not-for-all-audiences=true#x", ("acme/a-GGUF", "main", None)),
        ("https://huggingface.co/acme/a-GGUF/tree/main", ("acme/a-GGUF", "main", None)),
        ("https://huggingface.co/acme/a-GGUF/tree/v2", ("acme/a-GGUF", "v2", None)),
        ("https://huggingface.co/acme/a-GGUF/tree/main/UD-Q4_K_XL", ("acme/a-GGUF", "main", None)),
        (f"https://huggingface.co/acme/a-GGUF/blob/{SHA}/a.gguf", ("acme/a-GGUF", SHA, "a.gguf")),
        ("https://huggingface.co/acme/a-GGUF/blob/main/Q8_0/a%20b.gguf", ("acme/a-GGUF", "main", "Q8_0/a b.gguf")),
        ("https://huggingface.co/acme/a-GGUF/resolve/main/a.gguf?download=true", ("acme/a-GGUF", "main", "a.gguf")),
        ("https://huggingface.co/acme/a-GGUF/resolve/refs%2Fpr%2F1/a.gguf", ("acme/a-GGUF", "refs/pr/1", "a.gguf")),
        ("https://huggingface.co/acme/a-GGUF/discussions/3", ("acme/a-GGUF", "main", None)),
        ("https://mirror.example:8443/acme/a-GGUF/blob/main/a.gguf", ("acme/a-GGUF", "main", "a.gguf")),
        # a quantization, and what the Hub's buttons copy
        ("acme/a-GGUF:Q4_K_M", ("acme/a-GGUF", "main", "Q4_K_M")),
        ("hf.co/acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        ("hf.co/acme/a-GGUF:Q4_K_M", ("acme/a-GGUF", "main", "Q4_K_M")),
        ("huggingface.co/acme/a-GGUF/blob/main/a.gguf", ("acme/a-GGUF", "main", "a.gguf")),
        ("https://hf.co/acme/a-GGUF:UD-Q4_K_XL", ("acme/a-GGUF", "main", "UD-Q4_K_XL")),
        ("hf.co/acme/a-GGUF:latest", ("acme/a-GGUF", "main", None)),
        ("hf://acme/a-GGUF/Q4/a.gguf", ("acme/a-GGUF", "main", "Q4/a.gguf")),
        ("https://huggingface.co/acme/a-GGUF?show_file_info=a-Q8_0.gguf", ("acme/a-GGUF", "main", "a-Q8_0.gguf")),
        ("llama-server -hf acme/a-GGUF:Q4_K_M", ("acme/a-GGUF", "main", "Q4_K_M")),
        ("./llama.cpp/llama-cli -hf acme/a-GGUF --jinja", ("acme/a-GGUF", "main", None)),
        ("llama-mtmd-cli --hf-repo acme/a-GGUF --hf-file a.gguf", ("acme/a-GGUF", "main", "a.gguf")),
        ("ollama run hf.co/acme/a-GGUF:Q4_K_M", ("acme/a-GGUF", "main", "Q4_K_M")),
        ("docker model run hf.co/acme/a-GGUF:Q4_K_M", ("acme/a-GGUF", "main", "Q4_K_M")),
        ('vllm serve "acme/a-GGUF"', ("acme/a-GGUF", "main", None)),
        ("hf download acme/a-GGUF a-Q8_0.gguf --local-dir .", ("acme/a-GGUF", "main", "a-Q8_0.gguf")),
        ("hf download acme/a-GGUF a-f16.mmproj", ("acme/a-GGUF", "main", "a-f16.mmproj")),
        ("git clone https://huggingface.co/acme/a-GGUF", ("acme/a-GGUF", "main", None)),
        (
            'llm = Llama.from_pretrained(\n\trepo_id="acme/a-GGUF",\n\tfilename="a-Q8_0.gguf",\n)',
            ("acme/a-GGUF", "main", "a-Q8_0.gguf"),
        ),
    ],
)
def test_parse_when_a_repository_is_pasted_then(pasted: str, expected: tuple[str, str, str | None]) -> None:
    assert parse_repo(pasted, "https://mirror.example:8443") == expected


@pytest.mark.parametrize(
    "pasted",
    [
        *("", " ", "acme", "acme/", "/a", "a/b/c", "acme/a b", "acme/a\nb", "acme/..", "../..", "acme/a--b", "-a/b-"),
        *("acme/\u202egguf", "acme/" + "a" * 200, "C:\\models\\a.gguf", "/home/me/a.gguf", "~/a.gguf:x"),
        *("https://", "https://huggingface.co", "https://huggingface.co/acme", "https://huggingface.co//"),
        *("https://huggingface.co.evil.example/acme/a", "https://evil.example/acme/a", "https://localhost:9/acme/a"),
        *("https://huggingface.co@evil.example/acme/a", "https://me:pw@huggingface.co/acme/a", "https://[::1/acme/a"),
        *("https://huggingface.co:444/acme/a", "ftp://huggingface.co/acme/a", "file:///etc/passwd", "javascript:f(1)"),
        *("https://huggingface.co/acme/%2e%2e", "https://huggingface.co/%2e%2e%2f%2e%2e/a"),
        *("https://huggingface.co/datasets/acme/a", "https://huggingface.co/spaces/acme/a"),
        *("acme/a:../../x.gguf", "acme/a:/etc/passwd", "acme/a:b/../../../x.gguf", "acme/a:..\\x.gguf"),
        "https://huggingface.co/acme/a/resolve/main/%2e%2e/%2e%2e/x.gguf",
        "https://huggingface.co/acme/a/resolve/main/%2Fetc/passwd",
        "https://huggingface.co/acme/a/resolve/%2e%2e/x.gguf",
    ],
)  # fmt: skip
def test_parse_when_it_is_no_repository_then_said_shortly(pasted: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse_repo(pasted, "https://huggingface.co")
    assert len(str(refused.value)) < 250
