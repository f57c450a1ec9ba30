"""The Hugging Face Hub: finding repositories, reading headers, fetching files, and what the shared cache holds.

The standard cache (HF_HOME) is used, so other tools see what was fetched. huggingface_hub does not go on with a file
that was cut off by another process (its issue 4196); `fetch` does, and hands the whole file over to it.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

import huggingface_hub as hf
import msgspec
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from playground.errors import BadInput, BadModel, NotAllowed, Offline, PlaygroundError, Stopped
from playground.models.gguf.header import GgufHeader, read_remote
from playground.models.hub.listing import RemoteFile, RepoListing

_FIRST_BYTES = 64 * 2**10  # of a header: all keys before the vocabulary, or most of a projector's
_MAX_HEADER_BYTES = 4 * 2**20  # 40 times what projectors have; the worst takes a second
_HEADER_S = 60.0  # for all of one
_TRIES = 5  # in a row that bring nothing, when a connection breaks on the way
disable_progress_bars()


class FoundRepo(msgspec.Struct, frozen=True):
    id: str
    downloads: int | None
    likes: int | None
    gated: bool
    licence: str | None


class CachedFile(msgspec.Struct, frozen=True):
    """A file of the cache under the name that its repository gave it."""

    repo: str
    commit: str
    name: str
    path: str
    bytes: int
    last_used: float  # seconds since 1970


class Hub:
    """Talks to the Hub that HF_ENDPOINT names. Safe to use from several threads."""

    def __init__(self, *, own_token: bool) -> None:
        """`own_token`: who has no token of their own may use the operator's (HF_TOKEN)."""
        self._own_token = own_token
        self._api = hf.HfApi()

    @property
    def endpoint(self) -> str:
        return str(constants.ENDPOINT)

    @property
    def offline(self) -> bool:
        return bool(constants.is_offline_mode())

    @property
    def cache(self) -> Path:
        return Path(constants.HF_HUB_CACHE)

    def search(self, text: str, token: str | None = None, limit: int = 20) -> tuple[FoundRepo, ...]:
        """Repositories with GGUF files of models that answer about images. Raises Offline, BadInput."""
        with _told("the search"), _understood():
            # Not HfApi.list_models: it waits for ever, and tries again for minutes where the Hub asks to wait.
            reply = get_session().get(
                f"{self.endpoint}/api/models",
                params={
                    "filter": "gguf",
                    "pipeline_tag": "image-text-to-text",
                    **({"search": text} if text else {}),
                    "sort": "downloads",
                    "limit": limit,
                    "expand": ["downloads", "likes", "gated", "tags"],
                },
                headers=build_hf_headers(token=self._token(token)),
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            hf_raise_for_status(reply)
            found: list[dict[str, Any]] = [*reply.json()]
            return tuple(
                FoundRepo(
                    str(one["id"]),
                    one.get("downloads"),
                    one.get("likes"),
                    bool(one.get("gated")),
                    _licence(one.get("tags") or []),
                )
                for one in found
            )

    def repo(self, id: str, revision: str = "main", token: str | None = None) -> RepoListing:
        """What a repository holds, in one call. Raises Offline, BadInput, NotAllowed for a gated one."""
        with _told(id), _understood():
            info = self._api.model_info(
                id,
                revision=revision,
                files_metadata=True,
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
                token=self._token(token),
            )
            read: dict[str, Any] = dict(info.gguf or {})
            base = getattr(info.card_data, "base_model", None) if info.card_data else None
            return RepoListing(
                id=info.id,
                commit=str(info.sha),
                files=tuple(
                    RemoteFile(s.rfilename, int(s.size or 0), s.lfs.sha256 if s.lfs else None)
                    for s in info.siblings or ()
                    if _is_inside(s.rfilename) and (not s.lfs or re.fullmatch("[0-9a-f]{64}", s.lfs.sha256))
                ),
                licence=_licence(info.tags or []),
                gated=bool(info.gated),
                base_models=tuple([base] if isinstance(base, str) else base or ()),
                architecture=read.get("architecture"),
                n_params=read.get("total"),
                chat_template=read.get("chat_template"),
            )

    def header(self, repo: str, commit: str, file: RemoteFile, token: str | None = None) -> GgufHeader:
        """A file's GGUF header, by ranges: a language model's up to its vocabulary. Raises as `repo`, and BadModel."""
        what = f"{repo}: {file.name}"
        with _told(what):
            url = hf.hf_hub_url(repo, file.name, revision=commit)
            location, headers = self._located(url, token)
            with io.BufferedReader(_Ranges(what, location, headers, file.bytes), _FIRST_BYTES) as remote:
                return read_remote(remote, file.bytes, file.name)

    def fetch(
        self,
        repo: str,
        commit: str,
        file: RemoteFile,
        token: str | None,
        *,
        on_bytes: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> Path:
        """Fetch a file into the cache, or go on with one that was cut off. Returns its path.

        It gets its name when its sha256 is the Hub's. `on_bytes` is told how much is there. Raises Stopped, BadInput
        (no room; another process fetches it), BadModel (other bytes than the Hub promised: they are deleted), Offline.
        """
        if not _is_inside(file.name):
            raise BadInput(f"'{file.name[:80]}' is no file's name in a repository.")
        there = self.path(repo, commit, file.name)
        if there is not None:
            on_bytes(file.bytes)
            return there
        with _told(f"{repo}: {file.name}"):
            folder = self.cache / repo_folder_name(repo_id=repo, repo_type="model")
            if file.sha256 is not None and not (folder / "blobs" / file.sha256).exists():
                url = hf.hf_hub_url(repo, file.name, revision=commit)
                with self._locked(folder, file.sha256):
                    if not (folder / "blobs" / file.sha256).exists():  # another process had the lock
                        self._fetch_blob(url, folder / "blobs", file, token, on_bytes, stop)
            # Finds the blob and links it, as every other tool does. What git itself keeps is small, and fetched by it.
            return Path(hf.hf_hub_download(repo, file.name, revision=commit, token=self._token(token)))

    def _fetch_blob(
        self,
        url: str,
        folder: Path,
        file: RemoteFile,
        token: str | None,
        on_bytes: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        part = folder / f"{file.sha256}.resumable.incomplete"
        folder.mkdir(parents=True, exist_ok=True)
        with _Part(part, on_bytes, stop) as written:
            if written.size > file.bytes:
                written.restart()
            self.check_room(file.bytes - written.size)
            self._receive(url, token, written, file)
            written.sync()
        if written.sha256 != file.sha256:
            part.unlink()
            raise BadModel(
                f"{file.name} came with other bytes than the Hub promised (sha256 {written.sha256[:12]}… in "
                f"place of {str(file.sha256)[:12]}…). It was deleted; download it again."
            )
        part.replace(folder / str(file.sha256))

    def _receive(self, url: str, token: str | None, written: _Part, file: RemoteFile) -> None:
        """Write what is missing. A connection that breaks on the way is made again.

        Not huggingface_hub's http_get: it does not see that it shall stop while a server is silent (a minute), gives
        up on a reset, and writes what never ends until the disk is full.
        """
        begun, failures = written.size, 0
        while written.size < file.bytes:
            before, broken = written.size, None
            try:
                location, headers = self._located(url, token)
                headers["Range"] = f"bytes={before}-"
                with get_session().stream(
                    "GET", location, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
                ) as reply:
                    if reply.status_code >= 400:
                        raise _refused(reply.status_code, file.name)
                    if reply.status_code != 206:
                        written.restart()
                    for block in reply.iter_raw():
                        written.write(block[: file.bytes - written.size])
                        if written.size >= file.bytes:
                            break
            except Exception as error:
                if not _is_network(error):
                    raise
                broken = error
            failures = 0 if written.size > before else failures + 1
            if failures > (_TRIES if written.size > begun else 0):
                raise broken or Offline(f"{file.name}: the server ended it early. Resume it.")
            if written.size < file.bytes:
                written.wait(1.0)

    def check_room(self, wanted: int) -> None:
        """Raises BadInput if the cache's disk has no room for so many bytes more."""
        folder = next(path for path in (self.cache, *self.cache.parents) if path.exists())
        free = shutil.disk_usage(folder).free
        if wanted > free:
            raise BadInput(
                f"{wanted / 1e9:.2f} GB are to be downloaded, {free / 1e9:.2f} GB are free in {self.cache}. Delete "
                "something, or choose less."
            )

    def partial_bytes(self, repo: str, file: RemoteFile) -> int:
        """How much of a file that was cut off is there."""
        folder = self.cache / repo_folder_name(repo_id=repo, repo_type="model")
        part = folder / "blobs" / f"{file.sha256}.resumable.incomplete"
        return part.stat().st_size if part.exists() else 0

    def snapshot(self, repo: str, commit: str, name: str) -> Path:
        """Where a file will be in the cache."""
        return self.cache / repo_folder_name(repo_id=repo, repo_type="model") / "snapshots" / commit / name

    def path(self, repo: str, commit: str, name: str) -> Path | None:
        """Of a file in the cache; None if it is not there."""
        try:
            found = hf.try_to_load_from_cache(repo, name, revision=commit)
        except ValueError:  # a name that leads elsewhere, or no repository's id
            return None
        return Path(found) if isinstance(found, str) else None

    def cached(self) -> tuple[CachedFile, ...]:
        """All GGUF files of the cache."""
        if not self.cache.is_dir():
            return ()
        return tuple(
            CachedFile(
                repo.repo_id,
                revision.commit_hash,
                str(file.file_path.relative_to(revision.snapshot_path).as_posix()),
                str(file.file_path),
                file.size_on_disk,
                file.blob_last_accessed,
            )
            for repo in hf.scan_cache_dir(self.cache).repos
            if repo.repo_type == "model"
            for revision in repo.revisions
            for file in revision.files
            if file.file_name.lower().endswith(".gguf")
        )

    def delete(self, repo: str, commit: str, names: set[str]) -> int:
        """Delete files of the cache, and their bytes where no other name has them. Returns the bytes freed."""
        if not self.cache.is_dir():
            return 0
        cache = hf.scan_cache_dir(self.cache)
        chosen = [
            file
            for one in cache.repos
            if one.repo_id == repo and one.repo_type == "model"
            for revision in one.revisions
            if revision.commit_hash == commit
            for file in revision.files
            if file.file_path.relative_to(revision.snapshot_path).as_posix() in names
        ]
        strategy = cache.delete_files(*chosen)
        strategy.execute()
        return int(strategy.expected_freed_size)

    @contextmanager
    def _locked(self, folder: Path, name: str) -> Iterator[None]:
        """One download of a file at a time, across processes and tools: the lock that huggingface_hub takes too."""
        lock = self.cache / ".locks" / folder.name / f"{name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=0.5))
            except TimeoutError:
                raise BadInput(
                    "Another process is downloading this file already. Wait for it, or try again in a while."
                ) from None
            yield

    def _located(self, url: str, token: str | None) -> tuple[str, dict[str, str]]:
        """Where a file's bytes are, and what to send there: the token goes to the Hub alone."""
        found = hf.get_hf_file_metadata(url, token=self._token(token), timeout=constants.HF_HUB_ETAG_TIMEOUT)
        headers = build_hf_headers(token=self._token(token), headers={"Accept-Encoding": "identity"})
        if urlsplit(found.location)[:2] != urlsplit(url)[:2]:  # another host, or plain HTTP
            headers.pop("authorization", None)
        return found.location, headers

    def _token(self, token: str | None) -> str | bool:
        token = (token or "").strip()
        if not re.fullmatch("[!-~]*", token):
            raise BadInput("That is no token of the Hub: those begin with hf_ and have letters and digits only.")
        return token or (self._own_token and bool(hf.get_token()))


def parse_repo(text: str, endpoint: str) -> tuple[str, str, str | None]:
    """A repository's id, revision, and file if one is meant: from `org/name`, `org/name:file.gguf`, or a Hub's URL.

    Raises BadInput.
    """
    text = text.strip()
    revision, file = "main", None
    try:
        if re.match(r"https?://", text):
            url = urlsplit(text)
            if url.netloc.lower() not in {urlsplit(endpoint).netloc, "huggingface.co", "hf.co"}:
                raise BadInput(
                    f"{url.netloc[:80]} is not the Hub ({endpoint}). Paste a repository's id or its address there."
                )
            parts = [unquote(part) for part in url.path.split("/") if part]
            text = "/".join(parts[:2])
            if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve"):
                revision = parts[3]
                file = None if parts[2] == "tree" else "/".join(parts[4:])
        elif ":" in text:
            text, _, file = text.partition(":")
        if text.count("/") != 1 or text.startswith(("datasets/", "spaces/")):
            raise ValueError
        validate_repo_id(text)
        if not _is_inside(revision) or (file and not _is_inside(file)):
            raise ValueError
    except ValueError:
        raise BadInput(f"'{text[:80]}' is no model repository's id. It is written as owner/name.") from None
    return text, revision, file or None


def _is_inside(name: str) -> bool:
    """Whether a name stays in its repository's folder, on every system."""
    parts = re.split(r"[/\\]", name)
    return all(part not in ("", ".", "..") and not re.search(r"[:\0]", part) for part in parts)


class _Part:
    """A file that is being fetched: it is hashed as it is written, and knows when to stop."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None], stop: Callable[[], bool]) -> None:
        self._path = path
        self._on_bytes = on_bytes
        self._stop = stop
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> _Part:
        self._file: BinaryIO = open(self._path, "a+b", buffering=0)
        self._file.seek(0)
        while block := self._file.read(2**20):  # what is there has to be hashed, and is not fetched again
            if self._stop():
                self._file.close()
                raise Stopped("Stopped.")
            self._hash.update(block)
            self.size += len(block)
        self._on_bytes(self.size)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes) -> None:
        if self._stop():
            raise Stopped("Stopped.")
        left = memoryview(data)
        while left:  # a disk that is almost full takes a part, and says nothing
            left = left[self._file.write(left) :]
        self._hash.update(data)
        self.size += len(data)
        self._on_bytes(self.size)

    def restart(self) -> None:
        """The server gives everything again."""
        self._file.truncate(0)
        self._hash, self.size = hashlib.sha256(), 0

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._stop():
                raise Stopped("Stopped.")
            time.sleep(0.05)

    def sync(self) -> None:
        os.fsync(self._file.fileno())


class _Ranges(io.RawIOBase):
    """The beginning of a remote file: each request asks for four times as much as is there, up to a limit."""

    def __init__(self, what: str, url: str, headers: dict[str, str], size: int) -> None:
        super().__init__()
        self._what = what
        self._url = url
        self._headers = headers
        self._size = size
        self._data = b""
        self._position = 0
        self._until = time.monotonic() + _HEADER_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if len(self._data) == self._position < self._size:
            if len(self._data) >= _MAX_HEADER_BYTES:
                raise BadModel("its header is larger than any model's. The file is damaged.")
            self._ask(min(self._size, _MAX_HEADER_BYTES, max(_FIRST_BYTES, 4 * len(self._data))))
        piece = self._data[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _ask(self, end: int) -> None:
        start = len(self._data)
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        with get_session().stream(
            "GET", self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as reply:
            if reply.status_code == 416:
                raise BadModel("it is cut short: the server has less of it than the Hub says.")
            if reply.status_code >= 400:
                raise _refused(reply.status_code, self._what)
            if reply.status_code != 206 and start:
                raise BadModel("the server does not send parts of files.")
            for block in reply.iter_raw():  # as it comes: what was asked for is not packed
                self._data += block
                if len(self._data) >= end:  # a server that sends everything is not heard to the end
                    break
                if time.monotonic() > self._until:
                    raise Offline(f"{self._what}: the server is too slow. Try again.")
        if len(self._data) <= start:
            raise BadModel("the server sent nothing. Try again.")
        self._data = self._data[:end]


def _licence(tags: list[str]) -> str | None:
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """huggingface_hub's errors in the words of this app."""
    errors, repo = hf.errors, what.partition(":")[0]
    try:
        yield
    except errors.GatedRepoError:
        raise NotAllowed(
            f"{what} is gated: accept its licence at {constants.ENDPOINT}/{repo} with your account, then "
            "give a token of that account (Settings, Access Tokens) here."
        ) from None
    except errors.RepositoryNotFoundError:
        raise BadInput(
            f"{what} is not on the Hub, or private. Check the spelling; a private repository needs a token."
        ) from None
    except errors.RevisionNotFoundError:
        raise BadInput(f"{what} has no such revision. Leave it out for the newest.") from None
    except errors.LocalEntryNotFoundError:  # of hf_hub_download, when it cannot ask
        raise Offline(f"{what}: the Hub cannot be reached. Check the network, and resume.") from None
    except errors.EntryNotFoundError:
        raise BadInput(f"{what} is not there any more. Open the repository again.") from None
    except errors.OfflineModeIsEnabled:
        raise Offline("The Hub is switched off (HF_HUB_OFFLINE). What is on this machine can be used.") from None
    except errors.HFValidationError:
        raise BadInput(f"{what[:80]} is no repository's id. It is written as owner/name.") from None
    except errors.HfHubHTTPError as error:
        raise _refused(error.response.status_code if error.response is not None else None, what) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BadInput("The disk is full. What was fetched is kept: make room, and resume.") from None
        if error.errno is not None:
            raise BadInput(f"The Hub's cache cannot be used: {error}. Mend that, and resume.") from None
        raise Offline(f"{what}: {error}. Check the network, and resume.") from None
    except Exception as error:
        if _is_network(error):
            raise Offline(f"The Hub cannot be reached ({error}). Check the network, and resume.") from None
        raise


@contextmanager
def _understood() -> Iterator[None]:
    """Tells a Hub's answer from that of a hotel's login page."""
    try:
        yield
    except hf.errors.HFValidationError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Offline(
            f"What {constants.ENDPOINT} answers is not the Hub's. Check the network, and HF_ENDPOINT."
        ) from None


def _refused(status: int | None, what: str) -> PlaygroundError:
    if status == 429:
        return Offline("The Hub asks to wait: too many requests. Try again in some minutes.")
    if status in (401, 403):
        return NotAllowed(f"The Hub does not let this token see {what}. Check the token's rights.")
    return Offline(f"The Hub answered {status} for {what}. Try again later.")


def _is_network(error: Exception) -> bool:
    """Whether huggingface_hub's HTTP client raised it."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore")
