"""pairs.json: the pairs that people chose, so that the next start opens them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Lock

import msgspec

from playground.support import atomic


class RememberedPair(msgspec.Struct, frozen=True):
    model: str  # paths
    projector: str
    chat_template: str | None = None
    family: str = ""  # of the preset that it was chosen by; empty: what the file says

    @property
    def files(self) -> tuple[str, str]:
        return self.model, self.projector


Pairs = dict[tuple[str, str], RememberedPair]


class RememberedPairs:
    """Owns the list, with other processes: the app and the command line add to one file. Safe for several threads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = Lock()
        self.problems: tuple[str, ...] = ()
        try:
            self._pairs = self._read()
        except (OSError, msgspec.DecodeError) as error:
            self._pairs = {}
            self.problems = (f"The list of opened pairs cannot be read: {error}.",)

    @property
    def all(self) -> tuple[RememberedPair, ...]:
        """In the order of their first opening, which decides their ids (Catalog)."""
        with self._lock:
            return tuple(self._pairs.values())

    def add(self, pair: RememberedPair) -> None:
        """Until the app ends also where the disk refuses it."""
        with self._lock:
            try:
                self._write(lambda pairs: {**pairs, pair.files: pair})
            except OSError as error:
                self._pairs[pair.files] = pair
                self.problems += (f"The pair is not remembered: {error}.",)

    def remove(self, files: tuple[str, str]) -> None:
        """Raises OSError."""
        with self._lock:
            self._write(lambda pairs: {key: pair for key, pair in pairs.items() if key != files})

    def _write(self, change: Callable[[Pairs], Pairs]) -> None:
        """Change what this process and others have written."""
        with atomic.locked(self._file):
            try:
                others = self._read()
            except msgspec.DecodeError:
                others = {}
            self._pairs = change({**others, **self._pairs})
            atomic.write(self._file, msgspec.json.encode(tuple(self._pairs.values())))

    def _read(self) -> dict[tuple[str, str], RememberedPair]:
        try:
            pairs = msgspec.json.decode(self._file.read_bytes(), type=tuple[RememberedPair, ...])
        except FileNotFoundError:
            return {}
        return {pair.files: pair for pair in pairs}
