"""Where results documents are read from: a folder, a file, a dataset repository of the Hub. What is damaged is said."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from playground.errors import BadInput, PlaygroundError
from playground.measuring import result_documents
from playground.measuring.result_documents import AnotherFormat, ResultDocument

MAX_DOCUMENTS = 2000  # of all sources together
MAX_BYTES = 100_000_000  # of all documents of one source, which are held in memory
_MAX_ENTRIES = 50_000  # of a folder that are looked at
_MAX_PROBLEMS = 30
_AT_ONCE = 8  # files that are fetched
_FRESH_S = 10.0  # of what a page shows of a folder; 100 documents are read in 40 ms
_FRESH_REPO_S = 600.0
_File = TypeVar("_File")
_REPO = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


class HubFile(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def bytes(self) -> int: ...


class HubListing(Protocol):
    @property
    def commit(self) -> str: ...
    @property
    def files(self) -> Sequence[HubFile]: ...


class ResultsHub(Protocol):
    """Where dataset repositories are (models/hub/client.py)."""

    def dataset_files(self, id: str, revision: str = "main", token: str | None = None) -> HubListing: ...

    def dataset_file(self, listing: Any, name: str, token: str | None = None) -> Path: ...


@dataclass(frozen=True, slots=True)
class SharedDocument:
    source: str  # the name of its file, behind the repository that it lies in
    document: ResultDocument


@dataclass(frozen=True, slots=True)
class Collected:
    documents: tuple[SharedDocument, ...] = ()
    problems: tuple[str, ...] = ()  # a sentence each


def collect(sources: Iterable[str], hub: ResultsHub) -> Collected:
    """Of folders, files and repositories, as a person names them. Raises BadInput, and what `from_repo` raises."""
    return merged(_opened(source, hub) for source in sources)


def _opened(source: str, hub: ResultsHub) -> Collected:
    if Path(source).exists():
        return from_folder(Path(source))
    name = source.removeprefix("https://huggingface.co/datasets/")
    if not _REPO.fullmatch(name):
        raise BadInput(f"'{source[:200]}' is not a folder or file here, and not a dataset repository (owner/name).")
    return from_repo(hub, name)


def merged(parts: Iterable[Collected]) -> Collected:
    """A document that several sources have is taken once."""
    documents: dict[bytes, SharedDocument] = {}
    problems: list[str] = []
    for part in parts:
        problems += part.problems
        for shared in part.documents:
            documents.setdefault(msgspec.json.encode(shared.document), shared)
    if len(documents) > MAX_DOCUMENTS:
        problems.append(f"Only the first {MAX_DOCUMENTS:,} of {len(documents):,} documents are shown.")
    return Collected(tuple(documents.values())[:MAX_DOCUMENTS], tuple(problems))


def from_folder(folder: Path) -> Collected:
    """All .json files below a folder, or one file. A link that leads elsewhere is not followed. Raises BadInput."""
    if folder.is_file():
        return Collected((SharedDocument(folder.name, result_documents.read(folder)),))
    if not folder.is_dir():
        raise BadInput(f"There is no folder {folder}.")
    root = folder.resolve()

    def read() -> Iterator[tuple[str, Callable[[], ResultDocument]]]:
        for path, size in _with_sums(_json_files(root), _size):
            if size > MAX_BYTES:
                yield path.name, _too_much
                return
            yield path.relative_to(root).as_posix(), lambda path=path: _read_inside(path, root)  # type: ignore[misc]

    return _read_all(read())


def _with_sums(files: Iterable[_File], size: Callable[[_File], int]) -> Iterator[tuple[_File, int]]:
    """Each with the bytes up to it. What is too large to be a document is not read, and not counted."""
    whole = 0
    for file in files:
        bytes = size(file)
        whole += bytes if bytes <= result_documents.MAX_BYTES else 0
        yield file, whole


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it says why
        return 0


def _too_much() -> ResultDocument:
    raise BadInput(f"Only the first {MAX_BYTES // 10**6} MB of documents were read.")


def _json_files(root: Path) -> Iterator[Path]:
    seen = 0
    for parent, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            seen += 1
            if seen > _MAX_ENTRIES:
                return
            if name.endswith(".json"):
                yield Path(parent, name)


def _read_inside(path: Path, root: Path) -> ResultDocument:
    """Raises BadInput."""
    target = path.resolve()
    if not target.is_relative_to(root):
        raise BadInput(f"{path.name} is a link that leads out of the folder.")
    try:
        regular = stat.S_ISREG(target.stat().st_mode)
    except OSError as error:
        raise BadInput(f"{path.name} cannot be read: {error.strerror}.") from None
    if not regular:  # a pipe would be waited for
        raise BadInput(f"{path.name} is not a file.")
    return result_documents.read(target)


def from_repo(hub: ResultsHub, id: str) -> Collected:
    """All .json files of a dataset repository, owner/name or owner/name@revision. Raises as the Hub's client does."""
    repo, _, revision = id.partition("@")
    listing = hub.dataset_files(repo, revision or "main")
    wanted = [file for file in listing.files if file.name.endswith(".json")]

    def read(file: HubFile) -> ResultDocument:
        if file.bytes > result_documents.MAX_BYTES:
            raise BadInput(f"{file.name} is larger than {result_documents.MAX_BYTES // 1_000_000} MB.")
        return result_documents.read(hub.dataset_file(listing, file.name))

    files = [file for file, size in _with_sums(wanted, lambda file: file.bytes) if size <= MAX_BYTES][:MAX_DOCUMENTS]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        reads = [(f"{repo}: {file.name}", threads.submit(read, file).result) for file in files]
        collected = _read_all(iter(reads))
    more = len(wanted) - len(files)
    problems = (f"{repo}: only the first {len(files):,} files were read.",) if more else ()
    return Collected(collected.documents, (*collected.problems, *problems))


def _read_all(reads: Iterator[tuple[str, Callable[[], ResultDocument]]]) -> Collected:
    documents: list[SharedDocument] = []
    problems: list[str] = []
    others = 0
    for source, read in reads:
        if len(documents) == MAX_DOCUMENTS:
            problems.append(f"Only the first {MAX_DOCUMENTS:,} documents were read.")
            break
        try:
            documents.append(SharedDocument(source, read()))
        except AnotherFormat:
            others += 1
        except PlaygroundError as error:
            problems.append(error.message)
    if len(problems) > _MAX_PROBLEMS:
        problems = [*problems[:_MAX_PROBLEMS], f"{len(problems) - _MAX_PROBLEMS} more documents could not be read."]
    if others:
        problems.append(f"{others} JSON file{'s are' if others > 1 else ' is'} not a results document.")
    return Collected(tuple(documents), tuple(problems))


class ResultsShelf:
    """What the operator's folder and repositories hold, kept for a while. Safe to use from several threads."""

    def __init__(
        self,
        hub: ResultsHub,
        folder: Path | None,
        repos: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hub = hub
        self._folder = folder
        self._repos = tuple(repos)
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[float, Collected]] = {}  # by source: when it was read
        self._merged: tuple[tuple[Collected, ...], Collected] = ((), Collected())

    @property
    def sources(self) -> tuple[str, ...]:
        """As a visitor may know them: where the folder lies is the operator's own business."""
        return (*(["a folder of this server"] if self._folder is not None else []), *self._repos)

    def collected(self) -> Collected:
        """The same object as before where nothing has changed.

        A source that cannot be read is a problem; what it held when it last could be read is still there.
        """
        with self._lock:
            parts = []
            if self._folder is not None:
                folder = self._folder
                parts.append(self._read("", lambda: from_folder(folder), _FRESH_S))
            parts += [self._read(id, lambda id=id: from_repo(self._hub, id), _FRESH_REPO_S) for id in self._repos]  # type: ignore[misc]
            if parts != list(self._merged[0]):
                self._merged = tuple(parts), merged(parts)
            return self._merged[1]

    def _read(self, source: str, read: Callable[[], Collected], fresh_s: float) -> Collected:
        now = self._clock()
        known = self._kept.get(source)
        if known is not None and now - known[0] < fresh_s:
            return known[1]
        try:
            collected = read()
        except PlaygroundError as error:
            before = known[1].documents if known is not None else ()
            words = error.message if source else "The folder of results cannot be read."
            collected = Collected(before, (words,))
        self._kept[source] = now, collected
        return collected
