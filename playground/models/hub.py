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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import huggingface_hub as hf
import msgspec
from huggingface_hub import constants
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
    get_session,
    tqdm,
    validate_repo_id,
)

from playground.errors import BadInput, BadModel, NotAllowed, Offline, Stopped
from playground.models.gguf import GgufHeader, read_remote
from playground.models.repos import RemoteFile, Repo

_FIRST_BYTES = 64 * 2**10  # of a header: all keys before the vocabulary, or most of a projector's
_MAX_HEADER_BYTES = 8 * 2**20
# http_get writes, and tells how far it is, by the chunk; its own 10 MiB are ten seconds on a slow line.
constants.DOWNLOAD_CHUNK_SIZE = 2**20
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
        with _told("the search"):
            found = self._api.list_models(
                filter="gguf",
                pipeline_tag="image-text-to-text",
                search=text or None,
                sort="downloads",
                limit=limit,
                expand=["downloads", "likes", "gated", "tags"],
                token=self._token(token),
            )
            return tuple(
                FoundRepo(one.id, one.downloads, one.likes, bool(one.gated), _licence(one.tags or [])) for one in found
            )

    def repo(self, id: str, revision: str = "main", token: str | None = None) -> Repo:
        """What a repository holds, in one call. Raises Offline, BadInput, NotAllowed for a gated one."""
        with _told(id):
            info = self._api.model_info(id, revision=revision, files_metadata=True, token=self._token(token))
        read: dict[str, Any] = dict(info.gguf or {})
        base = getattr(info.card_data, "base_model", None) if info.card_data else None
        return Repo(
            id=info.id,
            commit=str(info.sha),
            files=tuple(
                RemoteFile(s.rfilename, s.size or 0, s.lfs.sha256 if s.lfs else None) for s in info.siblings or ()
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
        with _told(f"{repo}: {file.name}"):
            url = hf.hf_hub_url(repo, file.name, revision=commit)
            location, headers = self._located(url, token)
            with io.BufferedReader(_Ranges(location, headers, file.bytes), _FIRST_BYTES) as remote:
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
        there = self.path(repo, commit, file.name)
        if there is not None:
            on_bytes(file.bytes)
            return there
        folder = self.cache / repo_folder_name(repo_id=repo, repo_type="model")
        if file.sha256 is not None and not (folder / "blobs" / file.sha256).exists():
            part = folder / "blobs" / f"{file.sha256}.resumable.incomplete"
            with _told(f"{repo}: {file.name}"), self._locked(folder, file.sha256):
                url = hf.hf_hub_url(repo, file.name, revision=commit)
                part.parent.mkdir(parents=True, exist_ok=True)
                with _Part(part, on_bytes, stop) as written:
                    if written.size > file.bytes:
                        written.truncate(0)
                    self.check_room(file.bytes - written.size)
                    location, headers = self._located(url, token)
                    http_get(
                        location,
                        cast(BinaryIO, written),  # of which it uses write, seek, tell and truncate
                        resume_size=written.size,
                        headers=headers,
                        expected_size=file.bytes,
                        tqdm_class=tqdm,
                    )
                    written.sync()
                if written.sha256 != file.sha256:
                    part.unlink()
                    raise BadModel(
                        f"{file.name} came with other bytes than the Hub promised (sha256 {written.sha256[:12]}… in "
                        f"place of {file.sha256[:12]}…). It was deleted; download it again."
                    )
                part.replace(part.parent / file.sha256)
        with _told(f"{repo}: {file.name}"):
            # Finds the blob and links it, as every other tool does. What git itself keeps is small, and fetched by it.
            return Path(hf.hf_hub_download(repo, file.name, revision=commit, token=self._token(token)))

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
        found = hf.try_to_load_from_cache(repo, name, revision=commit)
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
            for repo in hf.scan_cache_dir().repos
            if repo.repo_type == "model"
            for revision in repo.revisions
            for file in revision.files
            if file.file_name.lower().endswith(".gguf")
        )

    def delete(self, repo: str, commit: str, names: set[str]) -> int:
        """Delete files of the cache, and their bytes where no other name has them. Returns the bytes freed."""
        chosen = [
            file
            for one in hf.scan_cache_dir().repos
            if one.repo_id == repo and one.repo_type == "model"
            for revision in one.revisions
            if revision.commit_hash == commit
            for file in revision.files
            if file.file_path.relative_to(revision.snapshot_path).as_posix() in names
        ]
        strategy = hf.scan_cache_dir().delete_files(*chosen)
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
        found = hf.get_hf_file_metadata(url, token=self._token(token))
        headers = build_hf_headers(token=self._token(token))
        if urlsplit(found.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)
        return found.location, headers

    def _token(self, token: str | None) -> str | bool:
        return token or (self._own_token and bool(hf.get_token()))


def parse_repo(text: str, endpoint: str) -> tuple[str, str, str | None]:
    """A repository's id, revision, and file if one is meant: from `org/name`, `org/name:file.gguf`, or a Hub's URL.

    Raises BadInput.
    """
    text = text.strip()
    revision, file = "main", None
    if re.match(r"https?://", text):
        url = urlsplit(text)
        if url.netloc not in {urlsplit(endpoint).netloc, "huggingface.co", "hf.co"}:
            raise BadInput(
                f"{url.netloc[:80]} is not the Hub ({endpoint}). Paste a repository's id or its address there."
            )
        parts = [unquote(part) for part in url.path.split("/") if part]
        text = "/".join(parts[:2])
        if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve"):
            revision, file = parts[3], "/".join(parts[4:]) or None
    elif ":" in text:
        text, _, file = text.partition(":")
    try:
        if text.count("/") != 1:
            raise ValueError
        validate_repo_id(text)
    except ValueError:
        raise BadInput(f"'{text[:80]}' is no repository's id. It is written as owner/name.") from None
    return text, revision, file or None


class _Part:
    """A file that is being fetched, as http_get wants it: it is hashed as it is written, and knows when to stop."""

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

    def write(self, data: bytes) -> int:
        if self._stop():
            raise Stopped("Stopped.")
        self._hash.update(data)
        self._file.write(data)
        self.size += len(data)
        self._on_bytes(self.size)
        return len(data)

    def tell(self) -> int:
        return self.size

    def seek(self, position: int) -> int:
        """Only to the start, when the server gave everything again."""
        if position:
            raise OSError(errno.EINVAL, "a download goes on at its end or from its start")
        return 0

    def truncate(self, size: int = 0) -> int:
        self._file.truncate(size)
        self._hash, self.size = hashlib.sha256(), 0
        return 0

    def sync(self) -> None:
        os.fsync(self._file.fileno())


class _Ranges(io.RawIOBase):
    """The beginning of a remote file: each request asks for four times as much as is there, up to a limit."""

    def __init__(self, url: str, headers: dict[str, str], size: int) -> None:
        super().__init__()
        self._url = url
        self._headers = headers
        self._size = size
        self._data = b""
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        end = min(self._position + len(buffer), self._size)
        while len(self._data) < end:
            if len(self._data) >= _MAX_HEADER_BYTES:
                raise BadModel("its header is larger than any model's. The file is damaged.")
            self._ask(min(self._size, max(_FIRST_BYTES, 4 * len(self._data))))
        piece = self._data[self._position : end]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _ask(self, end: int) -> None:
        start = len(self._data)
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
        with get_session().stream(
            "GET", self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as reply:
            reply.raise_for_status()
            if reply.status_code != 206 and start:
                raise BadModel("the server does not send parts of files.")
            for block in reply.iter_bytes():
                self._data += block
                if len(self._data) >= end:  # a server that sends everything is not heard to the end
                    break
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
    except errors.EntryNotFoundError:
        raise BadInput(f"{what} is not there any more. Open the repository again.") from None
    except errors.OfflineModeIsEnabled:
        raise Offline("The Hub is switched off (HF_HUB_OFFLINE). What is on this machine can be used.") from None
    except errors.HFValidationError as error:
        raise BadInput(f"{what[:80]} is no repository's id: {error}.") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 429:
            raise Offline("The Hub asks to wait: too many requests. Try again in some minutes.") from None
        if status in (401, 403):
            raise NotAllowed(f"The Hub does not let this token see {what}. Check the token's rights.") from None
        raise Offline(f"The Hub answered {status} for {what}. Try again later.") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise BadInput("The disk is full. What was fetched is kept: make room, and resume.") from None
        raise Offline(f"{what}: {error}. Check the network, and resume.") from None
    except (BadInput, BadModel, NotAllowed, Offline, Stopped):
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore"):
            raise Offline(f"The Hub cannot be reached ({error}). Check the network, and resume.") from None
        raise
