"""The Hugging Face Hub: find repositories, read headers, fetch files, and manage what its shared cache holds.

The standard cache (HF_HOME) is used, so other tools see the same files. huggingface_hub does not resume a file that
another process left incomplete (its issue 4196); `fetch` does, and hands the whole file over to it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import Any

import cachetools
import huggingface_hub as hf
import msgspec
from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import build_hf_headers, disable_progress_bars, get_session, hf_raise_for_status

from playground.errors import BadInput, PlaygroundError
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader, read_remote
from playground.models.hub import address, transfer
from playground.models.hub.datasets import (
    CONVERTED,
    DatasetListing,
    ParquetTable,
    check_pyarrow,
    read_configurations,
)
from playground.models.hub.listing import RemoteFile, RepoListing
from playground.models.hub.refusals import translated, understood
from playground.values.files import Half

_KEPT_LISTINGS = 64
_KEPT_HEADER_ENTRIES = 400_000  # keys and tensors of all headers together, some 300 bytes each; a header has hundreds
# What transformers reads of a repository.
_ORIGINAL = (".json", ".safetensors", ".jinja", ".model", ".txt")
disable_progress_bars()


class FoundRepo(msgspec.Struct, frozen=True):
    id: str
    downloads: int | None
    likes: int | None
    gated: bool
    licence: str | None
    task: str | None  # the Hub's tag, such as image-text-to-text
    n_params: int | None = None
    changed: str | None = None  # the day of its last commit


class CachedFile(msgspec.Struct, frozen=True):
    """A file of the cache under the name that its repository gave it."""

    repo: str
    commit: str
    name: str
    path: str
    bytes: int
    last_used: float  # seconds since 1970


class Hub:
    """Talks to the Hub that HF_ENDPOINT names. Safe to use from several threads.

    A commit never changes: its listing and its files' headers are requested once, and kept for the same token only.
    Threads that want the same at once share one request.
    """

    def __init__(self, *, own_token: bool) -> None:
        """`own_token`: requests without a token may use the operator's (HF_TOKEN)."""
        self._own_token = own_token
        self._api = hf.HfApi()
        self._listings = cachetools.LRUCache[Any, RepoListing](_KEPT_LISTINGS)
        self._listed = Condition()
        self._listing_of_commit = cachetools.cached(self._listings, key=_key, condition=self._listed)(self._list)
        self._header_of_commit = cachetools.cached(
            cachetools.LRUCache[Any, GgufHeader](_KEPT_HEADER_ENTRIES, getsizeof=_entries),
            key=_key,
            condition=Condition(),
        )(self._read_header)

    @property
    def endpoint(self) -> str:
        return address.endpoint()

    @property
    def offline(self) -> bool:
        return bool(constants.is_offline_mode())

    @property
    def cache(self) -> Path:
        return address.hub_cache()

    # --- the Hub ------------------------------------------------------------------------------------------------------

    def search(self, text: str, token: str | None = None, limit: int = 20) -> tuple[FoundRepo, ...]:
        """Repositories with GGUF files, those that are known to read images first. Raises Offline, BadInput.

        Many repositories of such models are tagged as something else, or not at all: a search by words covers all
        repositories with GGUF files.
        """
        vision = self._search(text, token, limit, {"pipeline_tag": "image-text-to-text"})
        others = self._search(text, token, limit, {}) if text else ()
        known = {repo.id for repo in vision}
        return vision + tuple(repo for repo in others if repo.id not in known)

    def _search(self, text: str, token: str | None, limit: int, tags: dict[str, str]) -> tuple[FoundRepo, ...]:
        with translated("the search"), understood():
            # Not HfApi.list_models: it waits for ever, and retries for minutes where the Hub asks to wait.
            reply = get_session().get(
                f"{self.endpoint}/api/models",
                params={
                    "filter": "gguf",
                    **tags,
                    **({"search": text} if text else {}),
                    "sort": "downloads",
                    "limit": limit,
                    "expand": ["downloads", "likes", "gated", "tags", "pipeline_tag", "gguf", "lastModified"],
                },
                headers=build_hf_headers(token=self._token(token)),
                timeout=constants.HF_HUB_ETAG_TIMEOUT,
            )
            hf_raise_for_status(reply)
            repos: list[dict[str, Any]] = [*reply.json()]
            return tuple(
                FoundRepo(
                    str(repo["id"]),
                    repo.get("downloads"),
                    repo.get("likes"),
                    bool(repo.get("gated")),
                    _licence(repo.get("tags") or []),
                    repo.get("pipeline_tag"),
                    (repo.get("gguf") or {}).get("total"),
                    (repo.get("lastModified") or "")[:10] or None,
                )
                for repo in repos
            )

    def repo(self, id: str, revision: str = "main", token: str | None = None) -> RepoListing:
        """What a repository holds, in one request if its files' names say which one is the projector.

        Raises Offline, BadInput, NotAllowed for a gated one.
        """
        access = self._token(token)
        if address.COMMIT.fullmatch(revision):
            return self._listing_of_commit(id, revision, access)
        listing = self._list(id, revision, access)
        with self._listed:
            self._listings[_key(id, listing.commit, access)] = listing
        return listing

    def glance(self, id: str, revision: str = "main") -> RepoListing:
        """The same, always in one request: which file is the projector is decided by names alone. Nothing is kept."""
        return self._list_names(id, revision, self._token(None))

    def header(self, repo: str, commit: str, file: RemoteFile, token: str | None = None) -> GgufHeader:
        """A file's GGUF header, by ranges: a language model's up to its vocabulary. Raises as `repo`, and BadModel."""
        return self._header_of_commit(repo, commit, self._token(token), file)

    def dataset(
        self,
        id: str,
        configuration: str = "",
        split: str = "",
        revision: str = "main",
        token: str | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> ParquetTable:
        """A split of a dataset repository; empty: the usual one. A dataset in another form is read as the Hub's own
        conversion. Raises Offline, BadInput, NotAllowed for a gated one, BadModel."""
        check_pyarrow()
        access = self._token(token)
        listing = self._list_dataset(id, revision, access)
        if not listing.parquet_names and revision == "main":
            listing = self._list_dataset(id, CONVERTED, access)
        name, files = listing.split(configuration, split)

        def opened(file: RemoteFile) -> transfer.RemoteBytes:
            url = hf.hf_hub_url(id, file.name, repo_type="dataset", revision=listing.commit)
            return transfer.RemoteBytes(f"datasets/{id}: {file.name}", url, access, file.bytes, stop)

        return ParquetTable(listing, name, files, opened)

    def dataset_files(self, id: str, revision: str = "main", token: str | None = None) -> DatasetListing:
        """Raises Offline, BadInput."""
        return self._list_dataset(id, revision, self._token(token))

    def dataset_file(self, listing: DatasetListing, name: str, token: str | None = None) -> Path:
        """A small file of a dataset repository, in the cache. Raises Offline, BadInput, NotAllowed."""
        with translated(f"datasets/{listing.id}: {name}"):
            access = self._token(token)
            return Path(
                hf.hf_hub_download(listing.id, name, repo_type="dataset", revision=listing.commit, token=access)
            )

    def original(
        self,
        id: str,
        revision: str = "main",
        token: str | None = None,
        *,
        check: Callable[[Mapping[str, int]], object] = lambda counts: None,
    ) -> Path:
        """A model of transformers: the folder in the cache that has its configuration and weights.

        `check` gets how many values of each type there are before any is fetched; what it raises is passed on.
        Raises Offline, BadInput, NotAllowed, NoRoom.
        """
        access = self._token(token)
        with translated(id), understood():
            info = self._api.model_info(id, revision=revision, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=access)
            commit = str(info.sha)
            names = [s.rfilename for s in info.siblings or () if address.is_inside(s.rfilename)]
        with translated(id):
            try:
                weights = self._api.get_safetensors_metadata(id, revision=commit, token=access)
            except hf.errors.NotASafetensorsRepoError:
                raise BadInput(f"{id} has no weights in safetensors files: pickles are never opened.") from None
        check({str(kind): n for kind, n in weights.parameter_count.items()})
        with translated(id):
            wanted = [name for name in names if name.endswith(_ORIGINAL) and "/" not in name]
            paths = [hf.hf_hub_download(id, name, revision=commit, token=access) for name in wanted]
        return Path(paths[0]).parent

    def push_to_dataset(self, id: str, path: Path, *, private: bool) -> str:
        """Commit a file to a dataset repository, which is created where it is missing. Returns the commit.

        `private`: of a new repository. Raises Offline, BadInput, NotAllowed.
        """
        access = self._token(None)
        with translated(f"datasets/{id}"):
            self._api.create_repo(id, repo_type="dataset", private=private, exist_ok=True, token=access)
            commit = self._api.upload_file(
                path_or_fileobj=path,
                path_in_repo=path.name,
                repo_id=id,
                repo_type="dataset",
                commit_message=f"Add {path.name}",
                token=access,
            )
            return str(commit.oid)

    def _list_dataset(self, id: str, revision: str, access: str | bool) -> DatasetListing:
        with translated(f"datasets/{id}"), understood():
            info = self._api.dataset_info(
                id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=access
            )
            return DatasetListing(
                id=info.id,
                commit=str(info.sha),
                files=tuple(
                    RemoteFile(s.rfilename, int(s.size or 0), s.lfs.sha256 if s.lfs else None)
                    for s in info.siblings or ()
                    if address.is_inside(s.rfilename)
                ),
                licence=_licence(info.tags or []),
                gated=bool(info.gated),
                configurations=read_configurations(getattr(info.card_data, "configs", None)),
            )

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
        """Fetch a file into the cache, or resume it. Returns its path.

        It gets its name when its sha256 is the Hub's. `on_bytes` receives how many bytes are there. Raises Interrupted,
        BadInput, BadModel (another content than the Hub promised, which is deleted), NoRoom, Offline, Unavailable
        (another process fetches it).
        """
        if not address.is_inside(file.name):
            raise BadInput(f"'{file.name[:80]}' is not a valid file name in a repository.")
        cached = self.path(repo, commit, file.name)
        if cached is not None:
            on_bytes(file.bytes)
            return cached
        access = self._token(token)
        with translated(f"{repo}: {file.name}"):
            folder = self._folder(repo)
            blobs = folder / "blobs"
            if file.sha256 is not None and not (blobs / file.sha256).exists():
                url = hf.hf_hub_url(repo, file.name, revision=commit)
                with transfer.locked(self.cache, folder, file.sha256):
                    if not (blobs / file.sha256).exists():  # another process had the lock
                        transfer.fetch_blob(url, blobs, file, access, on_bytes, stop)
            # Finds the blob and links it, as every other tool does. It also fetches the small files of git itself.
            return Path(hf.hf_hub_download(repo, file.name, revision=commit, token=access))

    # --- the cache ----------------------------------------------------------------------------------------------------

    def check_room(self, wanted: int) -> None:
        """Raises NoRoom if the cache's disk has no room for so many bytes more."""
        transfer.check_room(self.cache, wanted)

    def partial_bytes(self, repo: str, file: RemoteFile) -> int:
        """How many bytes of an incomplete file are there."""
        part = transfer.partial_file(self._folder(repo) / "blobs", file)
        return part.stat().st_size if part.exists() else 0

    def snapshot(self, repo: str, commit: str, name: str) -> Path:
        """Where a file will be in the cache."""
        return self._folder(repo) / "snapshots" / commit / name

    def path(self, repo: str, commit: str, name: str) -> Path | None:
        """Where a file is in the cache; None if it is not there."""
        try:
            cached = hf.try_to_load_from_cache(repo, name, revision=commit)
        except ValueError:  # a name that leads elsewhere, or an invalid repository id
            return None
        return Path(cached) if isinstance(cached, str) else None

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
            if file_names.is_gguf(file.file_name)
        )

    def delete(self, repo: str, commit: str, names: set[str]) -> int:
        """Delete files of the cache, and their bytes where no other name has them. Returns the bytes freed."""
        if not self.cache.is_dir():
            return 0
        scanned = hf.scan_cache_dir(self.cache)
        chosen = [
            file
            for cached in scanned.repos
            if cached.repo_id == repo and cached.repo_type == "model"
            for revision in cached.revisions
            if revision.commit_hash == commit
            for file in revision.files
            if file.file_path.relative_to(revision.snapshot_path).as_posix() in names
        ]
        strategy = scanned.delete_files(*chosen)
        strategy.execute()
        return int(strategy.expected_freed_size)

    # --- help ---------------------------------------------------------------------------------------------------------

    def _list(self, id: str, revision: str, access: str | bool) -> RepoListing:
        listing = self._list_names(id, revision, access)
        files = () if listing.gated and access is False else listing.undecided
        with ThreadPoolExecutor(max(1, len(files))) as threads:
            halves = threads.map(lambda file: self._half(listing.id, listing.commit, access, file), files)
            read = {file.name: half for file, half in zip(files, halves, strict=True) if half is not None}
        return msgspec.structs.replace(listing, halves=read)

    def _list_names(self, id: str, revision: str, access: str | bool) -> RepoListing:
        with translated(id), understood():
            info = self._api.model_info(
                id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT, token=access
            )
            gguf: dict[str, Any] = dict(info.gguf or {})
            base = getattr(info.card_data, "base_model", None) if info.card_data else None
            return RepoListing(
                id=info.id,
                commit=str(info.sha),
                files=tuple(
                    RemoteFile(s.rfilename, int(s.size or 0), s.lfs.sha256 if s.lfs else None)
                    for s in info.siblings or ()
                    if address.is_inside(s.rfilename) and (not s.lfs or re.fullmatch("[0-9a-f]{64}", s.lfs.sha256))
                ),
                licence=_licence(info.tags or []),
                gated=bool(info.gated),
                base_models=tuple([base] if isinstance(base, str) else base or ()),
                architecture=gguf.get("architecture"),
                n_params=gguf.get("total"),
                chat_template=gguf.get("chat_template"),
                downloads=info.downloads,
                changed=info.last_modified.date().isoformat() if info.last_modified else None,
            )

    def _half(self, repo: str, commit: str, access: str | bool, file: RemoteFile) -> Half | None:
        """By the header; None if it cannot be read now."""
        try:
            return self._header_of_commit(repo, commit, access, file).half
        except PlaygroundError:
            return None

    def _read_header(self, repo: str, commit: str, access: str | bool, file: RemoteFile) -> GgufHeader:
        what = f"{repo}: {file.name}"
        with translated(what):
            url = hf.hf_hub_url(repo, file.name, revision=commit)
            with transfer.open_ranges(what, url, access, file.bytes) as remote:
                return read_remote(remote, file.bytes, file.name)

    def _folder(self, repo: str) -> Path:
        return self.cache / repo_folder_name(repo_id=repo, repo_type="model")

    def _token(self, token: str | None) -> str | bool:
        return address.checked_token(token, own_token=self._own_token)


def _key(repo: str, commit: str, access: str | bool, *file: RemoteFile) -> tuple[object, ...]:
    """What an answer depends on. A token is kept as its hash: what one may see, another may not."""
    who = hashlib.sha256(access.encode()).hexdigest() if isinstance(access, str) else access
    return (constants.ENDPOINT, repo, commit, who, *file)


def _entries(header: GgufHeader) -> int:
    return 1 + len(header.metadata) + len(header.tensors)


def _licence(tags: list[str]) -> str | None:
    return next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None)
