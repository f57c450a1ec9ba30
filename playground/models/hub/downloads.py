"""Files on their way from the Hub: several at a time, with progress; cancelled, and gone on with after a restart."""

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
_RATE_S = 5.0  # over how long a rate is taken
_SAMPLE_S = 0.2  # a fast line brings thousands of pieces a second


class DownloadState(StrEnum):
    WAITING = "waiting"
    RUNNING = "downloading"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"
    CUT_OFF = "cut off"  # by the end of an earlier process


_UNDER_WAY = (DownloadState.WAITING, DownloadState.RUNNING)


class Wanted(msgspec.Struct, frozen=True):
    """A file to fetch."""

    repo: str
    commit: str
    file: RemoteFile

    @property
    def key(self) -> str:
        return f"{self.repo}@{self.commit}:{self.file.name}"


class Download(msgspec.Struct, frozen=True):
    """How far a file is."""

    wanted: Wanted
    state: DownloadState
    done: int  # bytes
    rate: float | None = None  # bytes a second over the last seconds
    seconds_left: float | None = None
    error: str | None = None


@dataclass
class _Running:
    wanted: Wanted
    state: DownloadState
    token: str | None = None  # for as long as it runs; never written anywhere
    done: int = 0
    error: str | None = None
    stop: bool = False
    seen: list[tuple[float, int]] = field(default_factory=list)  # when, and how much was there


class Downloads:
    """Owns what is being fetched. Safe to use from several threads; `close` ends all, and keeps what is there."""

    def __init__(
        self, hub: Hub, file: Path, on_done: Callable[[Path, str | None], None] = lambda path, sha: None
    ) -> None:
        """`file`: what is not done is written there, so that another process can go on with it. `on_done` is told each
        file that has come whole, and its sha256."""
        self._on_done = on_done
        self._hub = hub
        self._file = file
        self._lock = Lock()
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download")
        self._all: dict[str, _Running] = {}
        kept = self._read()
        self._known = {wanted.key for wanted in kept}  # this process decides on these; all others are other processes'
        for wanted in kept:
            there = hub.path(wanted.repo, wanted.commit, wanted.file.name) is not None
            if not there:
                done = hub.partial_bytes(wanted.repo, wanted.file)
                self._all[wanted.key] = _Running(wanted, DownloadState.CUT_OFF, done=done)

    def close(self) -> None:
        with self._lock:
            for one in self._all.values():
                one.stop = True
        self._pool.shutdown(wait=True, cancel_futures=True)

    def start(self, wanted: Iterable[Wanted], token: str | None = None) -> None:
        """Fetch files, or go on with them. What is there or on its way is left alone. Raises NoRoom."""
        chosen = {one.key: one for one in wanted if self._hub.path(one.repo, one.commit, one.file.name) is None}
        there = {key: self._hub.partial_bytes(one.repo, one.file) for key, one in chosen.items()}
        with self._lock:
            under_way = {key: one for key, one in self._all.items() if one.state in _UNDER_WAY}
            new = [one for key, one in chosen.items() if key not in under_way]
            if new:
                missing = [one.file.bytes - there[one.key] for one in new]
                missing += [one.wanted.file.bytes - one.done for one in under_way.values()]
                self._hub.check_room(sum(missing))
            for key in chosen.keys() & under_way.keys():  # cancelled, but not ended yet: it goes on
                under_way[key].stop = False
                under_way[key].token = token or under_way[key].token
            for one in new:
                running = _Running(one, DownloadState.WAITING, token=token, done=there[one.key])
                self._all[one.key] = running
                self._known.add(one.key)
                self._pool.submit(self._run, running)
            self._write()

    def cancel(self, key: str) -> None:
        """What was fetched is kept, to go on from."""
        with self._lock:
            one = self._all.get(key)
            if one is not None:
                one.stop = True
                if one.state is DownloadState.WAITING:
                    one.state = DownloadState.CANCELLED

    def resume(self, key: str, token: str | None = None) -> None:
        """Raises BadInput."""
        with self._lock:
            one = self._all.get(key)
        if one is None:
            raise BadInput("There is no such download any more. Open the repository and download it again.")
        self.start([one.wanted], token)

    def forget(self, key: str) -> None:
        """Take one that does not run out of the list."""
        with self._lock:
            one = self._all.get(key)
            if one is not None and one.state not in _UNDER_WAY:
                del self._all[key]
                self._write()

    def all(self) -> tuple[Download, ...]:
        now = time.monotonic()
        with self._lock:
            return tuple(_shown(one, now) for one in self._all.values())

    def _run(self, one: _Running) -> None:
        with self._lock:
            if one.stop or one.state is not DownloadState.WAITING:
                one.state = DownloadState.CANCELLED
                return
            one.state = DownloadState.RUNNING
        while True:
            state, error = self._fetch(one)
            with self._lock:
                if state is DownloadState.CANCELLED and not one.stop:
                    continue  # resumed before it had ended
                one.state, one.error, one.token = state, error, None
                if state is DownloadState.FAILED:
                    one.done = self._hub.partial_bytes(one.wanted.repo, one.wanted.file)
                self._write()
                return

    def _fetch(self, one: _Running) -> tuple[DownloadState, str | None]:
        def on_bytes(n: int) -> None:
            now = time.monotonic()
            with self._lock:
                if n < one.done:
                    one.seen = []  # the server gives everything again
                one.done = n
                if not one.seen or now - one.seen[-1][0] > _SAMPLE_S:
                    one.seen = [*((t, m) for t, m in one.seen if now - t < _RATE_S), (now, n)]

        try:
            path = self._hub.fetch(
                one.wanted.repo,
                one.wanted.commit,
                one.wanted.file,
                one.token,
                on_bytes=on_bytes,
                stop=lambda: one.stop,
            )
            self._on_done(path, one.wanted.file.sha256)
            return DownloadState.DONE, None
        except Interrupted:
            return DownloadState.CANCELLED, None
        except PlaygroundError as problem:
            return DownloadState.FAILED, problem.message
        except Exception:
            logger.exception("downloading %s", one.wanted.key)
            return DownloadState.FAILED, "Unexpected: the app's log has more. Resume it."

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
        left = [one.wanted for one in self._all.values() if one.state is not DownloadState.DONE]
        try:
            with atomic.locked(self._file):
                others = [wanted for wanted in self._read() if wanted.key not in self._known]
                atomic.write(self._file, msgspec.json.encode([*others, *left]))
        except OSError as error:
            logger.warning("the list of downloads is not kept: %s", error)


def _shown(one: _Running, now: float) -> Download:
    rate = left = None
    first = next(((t, n) for t, n in one.seen if now - t < _RATE_S), None)
    if one.state is DownloadState.RUNNING and first and now - first[0] > 2 * _SAMPLE_S:
        rate = (one.done - first[1]) / (now - first[0])
        left = (one.wanted.file.bytes - one.done) / rate if rate else None
    done = one.wanted.file.bytes if one.state is DownloadState.DONE else one.done
    return Download(one.wanted, one.state, done, rate, left, one.error)
