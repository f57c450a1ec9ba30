"""Bytes from the Hub: a whole file into the cache, resumed where an earlier attempt ended; a header by ranges."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock, get_session

from playground.errors import BadModel, Interrupted, NoRoom, Offline, Unavailable
from playground.models.hub.address import located
from playground.models.hub.listing import RemoteFile
from playground.models.hub.refusals import is_network, refused, translated

_FIRST_BYTES = 64 * 2**10  # of a header: all keys before the vocabulary, or most of a projector's
_MAX_HEADER_BYTES = 4 * 2**20  # 40 times what projectors have; the worst takes a second
_HEADER_S = 60.0  # for a whole header
_TRIES = 5  # attempts in a row that bring no bytes, after a connection broke


def fetch_blob(
    url: str,
    folder: Path,
    file: RemoteFile,
    token: str | bool,
    on_bytes: Callable[[int], None],
    stop: Callable[[], bool],
) -> None:
    """Write folder/<sha256>, from what an earlier attempt left of it. Raises BadModel for another sha256."""
    assert file.sha256 is not None
    part = partial_file(folder, file)
    folder.mkdir(parents=True, exist_ok=True)
    with _PartialFile(part, on_bytes, stop) as written:
        if written.size > file.bytes:
            written.restart()
        check_room(folder, file.bytes - written.size)
        _receive(url, token, written, file)
        written.sync()
    if written.sha256 != file.sha256:
        part.unlink()
        raise BadModel(
            f"{file.name} arrived with the wrong content (sha256 {written.sha256[:12]}… instead of "
            f"{file.sha256[:12]}…). It was deleted. Download it again."
        )
    part.replace(folder / file.sha256)


def partial_file(folder: Path, file: RemoteFile) -> Path:
    """Where a file's bytes are collected until all have come."""
    return folder / f"{file.sha256}.resumable.incomplete"


def check_room(folder: Path, wanted: int) -> None:
    """Raises NoRoom if the disk of `folder`, which need not exist yet, has no room for so many bytes more."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if wanted > free:
        raise NoRoom(
            f"{wanted / 1e9:.2f} GB are to be downloaded, but only {free / 1e9:.2f} GB are free in {folder}. Delete "
            "something, or choose less."
        )


@contextmanager
def locked(cache: Path, folder: Path, name: str) -> Iterator[None]:
    """One download of a file at a time, across processes and tools: the lock that huggingface_hub takes too."""
    lock = cache / ".locks" / folder.name / f"{name}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock, timeout=0.5))
        except TimeoutError:
            raise Unavailable("Another process is downloading this file. Wait for it, or try again later.") from None
        yield


def _receive(url: str, token: str | bool, written: _PartialFile, file: RemoteFile) -> None:
    """Write what is missing. A connection that breaks is opened again.

    Not huggingface_hub's http_get: it does not notice a stop while a server is silent (a minute), gives up on a reset,
    and writes an endless body until the disk is full.
    """
    begun, failures = written.size, 0
    while written.size < file.bytes:
        before, broken = written.size, None
        try:
            location, headers = located(url, token)
            headers["Range"] = f"bytes={before}-"
            with get_session().stream(
                "GET", location, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            ) as reply:
                if reply.status_code >= 400:
                    raise refused(reply.status_code, file.name)
                if reply.status_code != 206:
                    written.restart()
                for block in reply.iter_raw():
                    written.write(block[: file.bytes - written.size])
                    if written.size >= file.bytes:
                        break
        except Exception as error:
            if not is_network(error):
                raise
            broken = error
        failures = 0 if written.size > before else failures + 1
        if failures > (_TRIES if written.size > begun else 0):
            raise broken or Offline(f"{file.name}: the server ended the download early. Resume it.")
        if written.size < file.bytes:
            written.wait(1.0)


class _PartialFile:
    """A file on its way: hashes what is written, and raises Interrupted when told to stop."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None], stop: Callable[[], bool]) -> None:
        self._path = path
        self._on_bytes = on_bytes
        self._stop = stop
        self._hash = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> _PartialFile:
        self._file: BinaryIO = open(self._path, "a+b", buffering=0)
        self._file.seek(0)
        while block := self._file.read(2**20):  # bytes of an earlier attempt have to be hashed too
            if self._stop():
                self._file.close()
                raise Interrupted("Stopped.")
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
            raise Interrupted("Stopped.")
        left = memoryview(data)
        while left:  # a disk that is almost full takes a part, and reports no error
            left = left[self._file.write(left) :]
        self._hash.update(data)
        self.size += len(data)
        self._on_bytes(self.size)

    def restart(self) -> None:
        """Begin at byte 0: the server sends everything again."""
        self._file.truncate(0)
        self._hash, self.size = hashlib.sha256(), 0

    def wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._stop():
                raise Interrupted("Stopped.")
            time.sleep(0.05)

    def sync(self) -> None:
        os.fsync(self._file.fileno())


def open_ranges(what: str, url: str, token: str | bool, size: int) -> io.BufferedReader:
    """The beginning of a remote file, for a reader of its header. `what` names it in errors."""
    location, headers = located(url, token)
    return io.BufferedReader(_Ranges(what, location, headers, size), _FIRST_BYTES)


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
            self._request(min(self._size, _MAX_HEADER_BYTES, max(_FIRST_BYTES, 4 * len(self._data))))
        piece = self._data[self._position : self._position + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def _request(self, end: int) -> None:
        start = len(self._data)
        headers = {**self._headers, "Range": f"bytes={start}-{end - 1}"}
        with get_session().stream(
            "GET", self._url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        ) as reply:
            if reply.status_code == 416:
                raise BadModel("it is cut short: the server has less of it than the Hub says.")
            if reply.status_code >= 400:
                raise refused(reply.status_code, self._what)
            if reply.status_code != 206 and start:
                raise BadModel("the server does not send parts of files.")
            for block in reply.iter_raw():  # the bytes as sent: the request allowed no compression
                self._data += block
                if len(self._data) >= end:  # stop reading from a server that sends everything
                    break
                if time.monotonic() > self._until:
                    raise Offline(f"{self._what}: the server is too slow. Try again.")
        if len(self._data) <= start:
            raise BadModel("the server sent nothing. Try again.")
        self._data = self._data[:end]


class RemoteBytes(io.RawIOBase):
    """A remote file for a reader that seeks: each read is one request, whose rest is requested again if it breaks."""

    def __init__(self, what: str, url: str, token: str | bool, size: int, stop: Callable[[], bool]) -> None:
        """`what` names the file in errors."""
        super().__init__()
        self._what = what
        self._url = url
        self._token = token
        self._size = size
        self._stop = stop
        self._position = 0
        self._located: tuple[str, dict[str, str]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fills the buffer, or reads to the end of the file. Raises Interrupted, Offline, NotAllowed, BadModel."""
        wanted = max(0, min(len(buffer), self._size - self._position))
        with translated(self._what):
            self._fill(memoryview(buffer)[:wanted])
        self._position += wanted
        return wanted

    def _fill(self, buffer: memoryview) -> None:
        wanted, got, failures = len(buffer), 0, 0
        while got < wanted:
            before, broken = got, None
            try:
                for block in self._blocks(self._position + got, self._position + wanted):
                    if self._stop():
                        raise Interrupted("Stopped.")
                    block = block[: wanted - got]
                    buffer[got : got + len(block)] = block
                    got += len(block)
            except Exception as error:
                if not is_network(error):
                    raise
                broken = error
            failures = 0 if got > before else failures + 1
            if got < wanted and failures > _TRIES:
                raise broken or Offline(f"{self._what}: the server ended the download early. Try again.")

    def _blocks(self, start: int, end: int) -> Iterator[bytes]:
        """Of one request. The address of a file's bytes expires: it is asked for again where it is refused."""
        fresh = self._located is None
        location, headers = self._located = self._located or located(self._url, self._token)
        with get_session().stream(
            "GET",
            location,
            headers={**headers, "Range": f"bytes={start}-{end - 1}"},
            timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        ) as reply:
            if reply.status_code in (400, 401, 403) and not fresh:
                self._located = None
                return
            if reply.status_code >= 400:
                raise refused(reply.status_code, self._what)
            if reply.status_code != 206:
                raise BadModel(f"{self._what}: the server does not send parts of files.")
            yield from reply.iter_raw()
