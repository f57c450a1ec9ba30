"""Downloads from the Hub: several at a time, with progress. They can be cancelled, and resumed after a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from threading import Lock

import msgspec

from playground.errors import BadInput, Interrupted, PlaygroundError
from playground.models.hub.client import Hub
from playground.models.hub.listing import RemoteFile
from playground.support import atomic

logger = logging.getLogger(__name__)

_AT_ONCE = 3
_RATE_S = 5.0  # the time that a rate is averaged over
_SAMPLE_S = 0.2  # a fast connection delivers thousands of blocks a second


class DownloadState(StrEnum):
    WAITING = "waiting"
    RUNNING = "downloading"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CUT_OFF = "cut off"  # by the end of an earlier process


_ACTIVE = (DownloadState.WAITING, DownloadState.RUNNING)


class Wanted(msgspec.Struct, frozen=True):
    """A file to fetch."""

    repo: str
    commit: str
    file: RemoteFile

    @property
    def key(self) -> str:
        return f"{self.repo}@{self.commit}:{self.file.name}"


class Download(msgspec.Struct, frozen=True):
    """The progress of a file."""

    wanted: Wanted
    state: DownloadState
    done: int  # bytes
    rate: float | None = None  # bytes a second over the last seconds
    seconds_left: float | None = None
    error: str | None = None

    @property
    def is_active(self) -> bool:
        return self.state in _ACTIVE

    @property
    def share(self) -> float:
        return self.done / self.wanted.file.bytes if self.wanted.file.bytes else 1.0


@dataclass
class _Running:
    wanted: Wanted
    state: DownloadState
    token: str | None = None  # for as long as it runs; never written anywhere
    done: int = 0
    error: str | None = None
    stop: bool = False
    samples: list[tuple[float, int]] = field(default_factory=list)  # time, and bytes at that time


class Downloads:
    """Owns this process's downloads. Safe to use from several threads. `close` ends them, and keeps their bytes."""

    def __init__(
        self, hub: Hub, file: Path, on_done: Callable[[Path, str | None], None] = lambda path, sha: None
    ) -> None:
        """`file`: the list of unfinished downloads, for a later process to resume. `on_done` receives the path and the
        sha256 of each complete file."""
        self._on_done = on_done
        self._hub = hub
        self._file = file
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download")
        self._all: dict[str, _Running] = {}
        listed = self._read()
        self._known = {wanted.key for wanted in listed}  # this process decides on these; others are other processes'
        for wanted in listed:
            if hub.path(wanted.repo, wanted.commit, wanted.file.name) is None:
                done = hub.partial_bytes(wanted.repo, wanted.file)
                self._all[wanted.key] = _Running(wanted, DownloadState.CUT_OFF, done=done)

    def close(self) -> None:
        with self._lock:
            for download in self._all.values():
                download.stop = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, wanted: Iterable[Wanted], token: str | None = None) -> None:
        """Start or resume downloads. Complete files and active downloads are left alone. Raises NoRoom."""
        missing = {w.key: w for w in wanted if self._hub.path(w.repo, w.commit, w.file.name) is None}
        partial = {key: self._hub.partial_bytes(w.repo, w.file) for key, w in missing.items()}
        with self._lock:
            active = {key: download for key, download in self._all.items() if download.state in _ACTIVE}
            new = [w for key, w in missing.items() if key not in active]
            if new:
                to_come = [w.file.bytes - partial[w.key] for w in new]
                to_come += [download.wanted.file.bytes - download.done for download in active.values()]
                self._hub.check_room(sum(to_come))
            for key in missing.keys() & active.keys():  # one that was cancelled, and has not ended yet, continues
                active[key].stop = False
                active[key].token = token or active[key].token
            for w in new:
                download = _Running(w, DownloadState.WAITING, token=token, done=partial[w.key])
                self._all[w.key] = download
                self._known.add(w.key)
                self._pool.submit(self._run, download)
            self._write()

    def cancel(self, key: str) -> None:
        """The bytes that have come are kept, for resuming."""
        with self._lock:
            download = self._all.get(key)
            if download is not None:
                download.stop = True
                if download.state is DownloadState.WAITING:
                    download.state = DownloadState.CANCELLED

    def resume(self, key: str, token: str | None = None) -> None:
        """Raises BadInput."""
        with self._lock:
            download = self._all.get(key)
        if download is None:
            raise BadInput("This download is not on the list any more. Open the repository and download it again.")
        self.start([download.wanted], token)

    def forget(self, key: str) -> None:
        """Take a download off the list unless it is active."""
        with self._lock:
            download = self._all.get(key)
            if download is not None and download.state not in _ACTIVE:
                del self._all[key]
                self._write()

    def all(self) -> tuple[Download, ...]:
        now = time.monotonic()
        with self._lock:
            return tuple(_progress(download, now) for download in self._all.values())

    def _run(self, download: _Running) -> None:
        with self._lock:
            if download.stop or download.state is not DownloadState.WAITING:
                download.state = DownloadState.CANCELLED
                return
            download.state = DownloadState.RUNNING
        while True:
            state, error = self._fetch(download)
            with self._lock:
                if state is DownloadState.CANCELLED and not download.stop:
                    continue  # it was resumed before it had ended
                download.state, download.error, download.token = state, error, None
                if state is DownloadState.FAILED:
                    download.done = self._hub.partial_bytes(download.wanted.repo, download.wanted.file)
                self._write()
                return

    def _fetch(self, download: _Running) -> tuple[DownloadState, str | None]:
        def on_bytes(n: int) -> None:
            now = time.monotonic()
            with self._lock:
                if n < download.done:
                    download.samples = []  # the server sends everything again
                download.done = n
                if not download.samples or now - download.samples[-1][0] > _SAMPLE_S:
                    recent = [(t, m) for t, m in download.samples if now - t < _RATE_S]
                    download.samples = [*recent, (now, n)]

        wanted = download.wanted
        try:
            path = self._hub.fetch(
                wanted.repo,
                wanted.commit,
                wanted.file,
                download.token,
                on_bytes=on_bytes,
                stop=lambda: download.stop,
            )
            self._on_done(path, wanted.file.sha256)
            return DownloadState.DONE, None
        except Interrupted:
            return DownloadState.CANCELLED, None
        except PlaygroundError as error:
            return DownloadState.FAILED, error.message
        except Exception:
            logger.exception("downloading %s", wanted.key)
            return DownloadState.FAILED, "Unexpected error; the app's log has the details. Resume the download."

    def _read(self) -> tuple[Wanted, ...]:
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=tuple[Wanted, ...])
        except FileNotFoundError:
            return ()
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("%s cannot be read: %s", self._file, error)
            return ()

    def _write(self) -> None:
        """Under the lock. What other processes (the app, the command line) have put on the list stays on it."""
        unfinished = [d.wanted for d in self._all.values() if d.state is not DownloadState.DONE]
        try:
            with atomic.locked(self._file):
                others = [wanted for wanted in self._read() if wanted.key not in self._known]
                atomic.write(self._file, msgspec.json.encode([*others, *unfinished]))
        except OSError as error:
            logger.warning("the list of downloads is not kept: %s", error)


def _progress(download: _Running, now: float) -> Download:
    rate = left = None
    size = download.wanted.file.bytes
    first = next(((t, n) for t, n in download.samples if now - t < _RATE_S), None)
    if download.state is DownloadState.RUNNING and first and now - first[0] > 2 * _SAMPLE_S:
        rate = (download.done - first[1]) / (now - first[0])
        left = (size - download.done) / rate if rate else None
    done = size if download.state is DownloadState.DONE else download.done
    return Download(download.wanted, download.state, done, rate, left, download.error)
