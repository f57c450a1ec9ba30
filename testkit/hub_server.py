"""A Hub of the tests' own: what huggingface_hub asks of huggingface.co, answered by a real HTTP server.

    with hub_server([HubRepo("acme/a-GGUF", {"a-Q4_K_M.gguf": data})]) as hub:
        subprocess.run([...], env=os.environ | hub.environment(tmp_path))  # another process
        hub.patch(monkeypatch, tmp_path)                                   # or this one
        hub.behave("Q4_K_M.gguf", cut_after=1_000_000)
        ...
        assert [seen.range for seen in hub.seen("GET", "Q4_K_M")] == ["bytes=0-", "bytes=1000000-"]

It has two origins, as the real one: the Hub (http://127.0.0.1:PORT), which knows tokens, and the store of large files
(http://localhost:PORT/cdn), where the Hub's redirects lead and which, like S3, refuses a request that brings a token.
`python -m testkit.hub_server FOLDER [BYTES A SECOND]` serves a folder's files as one repository, local/files.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

from playground.models.gguf.header import read_header
from testkit import pairs

TOKEN = "hf_who_accepted_the_licence"
_PIECE = 2**18


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; what the listing says of it may be a lie."""

    data: bytes | Path
    listed_bytes: int | None = None
    listed_sha256: str | None = None
    lfs: bool = True  # else git itself keeps it, and the Hub knows no sha256

    @cached_property
    def size(self) -> int:
        return self.data.stat().st_size if isinstance(self.data, Path) else len(self.data)

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.data, bytes):
            return hashlib.sha256(self.data).hexdigest()
        with self.data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def piece(self, start: int, end: int) -> bytes:
        if isinstance(self.data, bytes):
            return self.data[start:end]
        with self.data.open("rb") as file:
            file.seek(start)
            return file.read(end - start)


@dataclass
class HubRepo:
    id: str
    contents: dict[str, bytes | Path | HubFile]
    licence: str = "apache-2.0"
    gated: bool = False
    private: bool = False
    base_model: str | list[str] | None = None
    gguf: dict[str, Any] | None = None
    pipeline_tag: str = "image-text-to-text"
    downloads: int = 100
    likes: int = 10
    dataset: bool = False  # else a model repository
    configs: list[dict[str, Any]] | None = None  # of a dataset's card
    changed: int = 0  # how often something was committed since

    @cached_property
    def files(self) -> dict[str, HubFile]:
        """By name. Files that are neither GGUF nor parquet are kept by git."""
        large = (".gguf", ".mmproj", ".parquet")
        return {
            name: content if isinstance(content, HubFile) else HubFile(content, lfs=name.lower().endswith(large))
            for name, content in self.contents.items()
        }

    @property
    def commit(self) -> str:
        return hashlib.sha1(f"{self.id}{self.changed or ''}".encode()).hexdigest()

    @property
    def tags(self) -> list[str]:
        return ["gguf", self.pipeline_tag, f"license:{self.licence}"]

    def info(self, *, blobs: bool) -> dict[str, Any]:
        siblings = []
        for name, file in self.files.items():
            sibling: dict[str, Any] = {"rfilename": name}
            if blobs:
                size = file.size if file.listed_bytes is None else file.listed_bytes
                sibling |= {"size": size, "blobId": "0" * 40}
                if file.lfs:
                    sibling["lfs"] = {"size": size, "sha256": file.listed_sha256 or file.sha256, "pointerSize": 135}
            siblings.append(sibling)
        card: dict[str, Any] = {"license": self.licence}
        card |= {"base_model": self.base_model} if self.base_model else {}
        card |= {"configs": self.configs} if self.configs else {}
        return {
            "_id": "0" * 24,
            "id": self.id,
            "modelId": self.id,
            "sha": self.commit,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "downloads": self.downloads,
            "lastModified": "2026-03-04T05:06:07.000Z",
            "likes": self.likes,
            "tags": self.tags,
            "pipeline_tag": self.pipeline_tag,
            "cardData": card,
            **({"gguf": self.gguf} if self.gguf else {}),
            "siblings": siblings,
        }


def pair_repo(id: str, files: pairs.PairFiles, more: dict[str, bytes | Path | HubFile] | None = None) -> HubRepo:
    """A repository of a real pair, under the files' own names, with what the Hub reads of its language model."""
    header = read_header(files.model)
    read = {
        "architecture": header.architecture,
        "total": header.n_params,
        "context_length": header.integer(f"{header.architecture}.context_length"),
        "chat_template": header.text("tokenizer.chat_template"),
    }
    whole: dict[str, bytes | Path | HubFile] = {
        ".gitattributes": b"*.gguf filter=lfs\n",
        "README.md": f"---\nlicense: apache-2.0\n---\n# {id}\n".encode(),
        files.model.name: files.model,
        files.projector.name: files.projector,
    }
    return HubRepo(id, whole | (more or {}), gguf=read)


@dataclass
class Seen:
    """A request, and how it was answered."""

    method: str
    path: str  # unquoted
    query: dict[str, list[str]]
    headers: dict[str, str]  # names in small letters
    cdn: bool
    status: int = 0
    sent: int = 0  # bytes of the body that the socket took

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def token(self) -> str | None:
        return self.headers.get("authorization")


@dataclass
class Behaviour:
    """What is wrong with the answers to the requests that it is meant for."""

    where: str  # in the path
    method: str
    times: int | None  # for so many requests; None: for all
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)  # of an answer with `status`
    body: bytes | None = None  # in place of the file, or of the JSON
    delay: float = 0.0  # seconds before the answer
    slow: float | None = None  # bytes a second
    cut_after: int | None = None  # bytes of a body after which the connection is closed
    reset_after: int | None = None  # ... after which it is reset
    stall_after: int | None = None  # ... after which nothing more is said
    ignore_range: bool = False  # 200, and everything
    wrong: bool = False  # one byte is another one
    endless: bool = False  # garbage that never ends


class HubServer:
    def __init__(self, repos: Iterable[HubRepo], port: int = 0) -> None:
        self.repos = {f"datasets/{repo.id}" if repo.dataset else repo.id: repo for repo in repos}
        self.tokens = {TOKEN}
        self.xet = False  # whether files are offered through Xet too, which nothing here answers
        self.requests: list[Seen] = []
        self.stopping = threading.Event()
        self._behaviours: list[Behaviour] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}/cdn"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()

    # --- for tests ----------------------------------------------------------------------------------------

    def environment(self, folder: Path) -> dict[str, str]:
        """For a process that is to talk to this Hub, with its cache in `folder`; beside the environment it has."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(folder),
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_TOKEN": "",  # as good as unset
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def patch(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        """The same for this process, where huggingface_hub has read its environment already."""
        from huggingface_hub import constants
        from huggingface_hub.utils import _cache_manager

        monkeypatch.setattr(_cache_manager, "HF_HUB_CACHE", str(folder / "hub"))  # its own copy
        for name, value in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HOME": str(folder),
            "HF_HUB_CACHE": str(folder / "hub"),
            "HF_TOKEN_PATH": str(folder / "token"),
            "HF_STORED_TOKENS_PATH": str(folder / "stored_tokens"),
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")

    def behave(self, where: str = "", *, method: str = "GET", times: int | None = None, **how: Any) -> Behaviour:
        """Answer the next requests with `where` in their path badly; the fields of Behaviour say how."""
        behaviour = Behaviour(where, method, times, **how)
        with self._lock:
            self._behaviours.insert(0, behaviour)
        return behaviour

    def well_behaved(self) -> None:
        with self._lock:
            self._behaviours.clear()

    def seen(self, method: str | None = None, where: str = "", *, cdn: bool | None = None) -> list[Seen]:
        with self._lock:
            return [
                request
                for request in self.requests
                if method in (None, request.method) and where in request.path and cdn in (None, request.cdn)
            ]

    def forget(self) -> None:
        with self._lock:
            self.requests.clear()

    # --- for the handler ----------------------------------------------------------------------------------

    def note(self, seen: Seen) -> Behaviour:
        with self._lock:
            self.requests.append(seen)
            for behaviour in self._behaviours:
                if behaviour.where in seen.path and behaviour.method == seen.method and behaviour.times != 0:
                    if behaviour.times is not None:
                        behaviour.times -= 1
                    return behaviour
        return Behaviour("", seen.method, None)

    def search(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        """Of the listing's parameters those that the app sends."""
        text = query.get("search", [""])[0].lower()
        tags = {*query.get("filter", []), *query.get("pipeline_tag", [])}
        repos = [
            repo
            for repo in self.repos.values()
            if not repo.private and not repo.dataset and text in repo.id.lower() and tags <= {*repo.tags}
        ]
        if query.get("sort") == ["downloads"]:
            repos.sort(key=lambda repo: -repo.downloads)
        fields = {"_id", "id", "modelId", *query.get("expand", ["downloads", "likes", "tags", "pipeline_tag"])}
        shown = [{k: v for k, v in repo.info(blobs=False).items() if k in fields} for repo in repos]
        return shown[: int(query.get("limit", ["1000"])[0])]


@contextmanager
def hub_server(repos: Iterable[HubRepo]) -> Iterator[HubServer]:
    server = HubServer(repos)
    try:
        yield server
    finally:
        server.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up
            super().handle_error(request, client_address)


class _Cut(Exception):
    """The connection is to end here."""


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(_Handler):
        server_hub = hub

    return Handler


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_hub: HubServer

    def setup(self) -> None:
        super().setup()
        # Little waits in the socket, so that `sent` is near what the client has read.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**17)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        at_cdn = headers.get("host", "").startswith("localhost")
        self._seen = Seen(self.command, unquote(url.path), parse_qs(url.query), headers, at_cdn)
        self._how = self.server_hub.note(self._seen)
        try:
            if self._how.delay:
                self.server_hub.stopping.wait(self._how.delay)
            if self._how.status is not None:
                self._answer(self._how.status, self._how.body or b"", self._how.headers)
            elif self._how.body is not None and not at_cdn:
                self._answer(200, self._how.body, {"Content-Type": "application/json"})
            elif at_cdn:
                self._large(url.path)
            elif url.path.startswith("/api/"):
                self._api(url.path)
            else:
                self._resolve(url.path)
        except (_Cut, BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def do_POST(self) -> None:
        """A repository that is created, and a commit of small files to it, as huggingface_hub's upload_file makes."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        self._seen = Seen("POST", unquote(urlsplit(self.path).path), {}, headers, cdn=False)
        self._how = self.server_hub.note(self._seen)
        if self._how.status is not None:
            return self._answer(self._how.status, self._how.body or b"", self._how.headers)
        if not self._allowed():
            return self._error(401, "", "Invalid username or password.")
        if self._seen.path == "/api/repos/create":
            order = json.loads(body)
            id = f"{order['organization']}/{order['name']}" if order.get("organization") else order["name"]
            repos, repo = (
                self.server_hub.repos,
                HubRepo(id, {}, dataset=True, private=order.get("visibility") == "private"),
            )
            if f"datasets/{id}" in repos:
                return self._error(409, "", "You already created this dataset repo")
            repos[f"datasets/{id}"] = repo
            return self._json({"url": f"{self.server_hub.url}/datasets/{id}"})
        _, _, _, *parts = self._seen.path.split("/")
        repo = self.server_hub.repos["datasets/" + "/".join(parts[:2])]
        if parts[2] == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                data = base64.b64decode(entry["value"]["content"])
                repo.files[entry["value"]["path"]] = HubFile(data, lfs=False)
        repo.changed += 1
        url = f"{self.server_hub.url}/datasets/{repo.id}/commit/{repo.commit}"
        return self._json({"success": True, "commitOid": repo.commit, "commitUrl": url})

    # --- the Hub --------------------------------------------------------------------------------------------

    def _api(self, path: str) -> None:
        if path == "/api/models":
            return self._json(self.server_hub.search(self._seen.query))
        parts = [unquote(part) for part in path.removeprefix("/api/").split("/")]
        kind, *parts = parts
        prefix = "datasets/" if kind == "datasets" else ""
        repo = self._repo(prefix + "/".join(parts[:2]))
        if repo is None or (len(parts) > 2 and not self._known(repo, parts[3])):
            return None
        return self._json(repo.info(blobs="blobs" in self._seen.query))

    def _resolve(self, path: str) -> None:
        prefix = "datasets/" if path.startswith("/datasets/") else ""
        parts = [unquote(part) for part in path.removeprefix("/datasets").strip("/").split("/")]
        if len(parts) < 5 or parts[2] != "resolve":
            return self._error(404, "EntryNotFound", "Entry not found")
        repo, name = self._repo(prefix + "/".join(parts[:2])), "/".join(parts[4:])
        if repo is None or not self._known(repo, parts[3]):
            return None
        commit = {"X-Repo-Commit": repo.commit}
        if repo.gated and not self._allowed():
            reason = "Access to this model is restricted."
            return self._error(403 if self._seen.token else 401, "GatedRepo", reason)
        if name not in repo.files:
            return self._error(404, "EntryNotFound", "Entry not found", commit)
        file = repo.files[name]
        if not file.lfs:
            etag = hashlib.sha1(file.piece(0, file.size)).hexdigest()
            return self._answer(200, file.piece(0, file.size), {**commit, "ETag": f'"{etag}"'})
        refresh = f"{self.server_hub.url}/api/models/{repo.id}/xet-read-token/{repo.commit}"
        xet = {"X-Xet-Hash": file.sha256, "X-Xet-Refresh-Route": refresh, "Link": f'<{refresh}>; rel="xet-auth"'}
        return self._answer(
            302,
            b"",
            {
                **commit,
                **(xet if self.server_hub.xet else {}),
                "X-Linked-Size": str(file.size),
                "X-Linked-Etag": f'"{file.sha256}"',
                "ETag": f'"{file.sha256}"',
                "Location": f"{self.server_hub.cdn}/{prefix}{repo.id}/{repo.commit}/{quote(name)}?Signature=s",
            },
        )

    def _repo(self, id: str) -> HubRepo | None:
        repo = self.server_hub.repos.get(id)
        if repo is None or (repo.private and not self._allowed()):
            return self._error(404, "RepoNotFound", "Repository not found")
        return repo

    def _known(self, repo: HubRepo, revision: str) -> bool:
        if revision in ("main", repo.commit):
            return True
        self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return False

    def _allowed(self) -> bool:
        return (self._seen.token or "").removeprefix("Bearer ") in self.server_hub.tokens

    # --- the store of large files -----------------------------------------------------------------------------

    def _large(self, path: str) -> None:
        if self._seen.token:
            return self._answer(400, b"Only one auth mechanism allowed")
        prefix = "datasets/" if path.startswith("/cdn/datasets/") else ""
        parts = [unquote(part) for part in path.removeprefix("/cdn/").removeprefix(prefix).split("/")]
        file = self.server_hub.repos[prefix + "/".join(parts[:2])].files["/".join(parts[3:])]
        if self._how.endless:
            return self._garbage()
        if self._how.body is not None:
            file = HubFile(self._how.body)
        start, end, status, headers = 0, file.size, 200, {"Accept-Ranges": "bytes"}
        if self._seen.range and not self._how.ignore_range:
            first, _, last = self._seen.range.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last or file.size) + 1, file.size)
            if start >= file.size:
                return self._answer(416, b"", {"Content-Range": f"bytes */{file.size}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{file.size}"
        self._begin(status, {**headers, "Content-Length": str(end - start)})
        if self.command == "HEAD":
            return None
        plain = self._how == Behaviour(self._how.where, self._how.method, self._how.times)
        if plain and isinstance(file.data, Path):
            with file.data.open("rb") as opened:
                self._seen.sent += self.connection.sendfile(opened, start, end - start)
            return None
        while start < end:
            piece = file.piece(start, min(end, start + _PIECE))
            middle = file.size // 2
            if self._how.wrong and start <= middle < start + len(piece):
                changed = bytearray(piece)
                changed[middle - start] ^= 1
                piece = bytes(changed)
            self._send(piece)
            start += len(piece)
        return None

    def _garbage(self) -> None:
        self._begin(200, {"Connection": "close"})
        block = random.Random(4).randbytes(_PIECE)
        while not self.server_hub.stopping.is_set():
            self._send(block)

    # --- answers ----------------------------------------------------------------------------------------------

    def _json(self, value: Any) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        fields = {
            "X-Error-Code": code,
            "X-Error-Message": message,
            "Content-Type": "application/json",
            **(headers or {}),
        }
        self._answer(status, json.dumps({"error": message}).encode(), fields)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._begin(status, {**(headers or {}), "Content-Length": str(len(body))})
        if self.command != "HEAD" and body:
            self._send(body)

    def _begin(self, status: int, headers: dict[str, str]) -> None:
        self._seen.status = status
        self._begun = time.monotonic()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, data: bytes) -> None:
        how = self._how
        step = len(data) if how.slow is None else max(1, int(how.slow / 20))
        limits = [n for n in (how.cut_after, how.reset_after, how.stall_after) if n is not None]
        for at in range(0, len(data), step):
            piece = data[at : at + step]
            if limits:
                piece = piece[: max(0, min(limits) - self._seen.sent)]
            self.wfile.write(piece)
            self._seen.sent += len(piece)
            if limits and self._seen.sent >= min(limits):
                self._end()
            if how.slow is not None:
                early = self._begun + self._seen.sent / how.slow - time.monotonic()
                if early > 0 and self.server_hub.stopping.wait(early):
                    raise _Cut

    def _end(self) -> None:
        if self._how.stall_after is not None:
            self.server_hub.stopping.wait()
        if self._how.reset_after is not None:
            time.sleep(0.1)  # what was sent arrives before the reset does
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise _Cut


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    served = HubRepo("local/files", {path.name: path for path in sorted(folder.iterdir()) if path.is_file()})
    server = HubServer([served])
    if len(sys.argv) > 2:
        server.behave("/cdn/", slow=float(sys.argv[2]))
    print(server.url, flush=True)
    server.stopping.wait()
