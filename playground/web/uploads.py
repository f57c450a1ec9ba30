"""The folder of uploads: what one person, and all people, may keep in it.

Gradio writes the files, and deletes them a day later. A file is needed for a moment only: the page or the API names it
in its next request, and the app then keeps what it read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from gradio.utils import get_upload_folder

from playground.errors import Busy, NotAllowed

_NEEDED_S = 120.0  # after an upload has ended
_LEAST_BYTES = 65_536  # that a file counts, so that the folder is not filled with millions of empty ones
_MB = 1_000_000


@dataclass(slots=True, eq=False)
class _Upload:
    who: str
    bytes: int
    ended: float | None = None


def upload_folder(cache_dir: Path) -> Path:
    """A folder of this app's own below Gradio's, which all Gradio apps of a machine may share."""
    name = hashlib.sha256(str(cache_dir.resolve()).encode()).hexdigest()[:12]
    return Path(get_upload_folder()) / f"playground-{name}"


class Uploads:
    """Owns the folder's size. Safe to use from several threads."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self._limit = limit_bytes
        self._lock = Lock()
        self._needed: list[_Upload] = []
        self._kept: int | None = None  # bytes in the folder, at most; None: not known

    def begin(self, who: str, bytes: int, now: float | None = None) -> _Upload:
        """Makes room for an upload of so many bytes: the oldest files that are no longer needed are deleted.

        Raises Busy if the needed ones leave no room.
        """
        upload = _Upload(who, max(bytes, _LEAST_BYTES))
        now = time.time() if now is None else now
        with self._lock:
            self._needed = [other for other in self._needed if other.ended is None or now - other.ended < _NEEDED_S]
            own = sum(other.bytes for other in self._needed if other.who == who)
            if own + upload.bytes > self._limit // 2:
                raise Busy(
                    f"Busy: one person can upload {self._limit // 2 // _MB:,} MB in two minutes. Try again in a moment."
                )
            needed = sum(other.bytes for other in self._needed)
            if needed + upload.bytes > self._limit:
                raise Busy("Busy: the uploads of others have used up the room for uploads. Try again in two minutes.")
            if self._kept is None or self._kept + upload.bytes > self._limit:
                self._kept = self._sweep(self._limit // 2 - upload.bytes, now - _NEEDED_S)
            self._kept += upload.bytes
            self._needed.append(upload)
        return upload

    def end(self, upload: _Upload, now: float | None = None) -> None:
        """Call it once the upload has arrived, or was cut off."""
        upload.ended = time.time() if now is None else now

    def sweep(self, age_s: float) -> None:
        """Deletes what is older."""
        with self._lock:
            self._kept = self._sweep(0, time.time() - age_s)

    def _sweep(self, most: int, before: float) -> int:
        """Deletes the oldest files from before a time until at most so many bytes are left. Returns what is left."""
        files = []
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(OSError):  # it is gone already
                    path = os.path.join(folder, name)
                    state = os.stat(path)
                    files.append((state.st_mtime, max(state.st_size, _LEAST_BYTES), path))
        kept = sum(bytes for _, bytes, _ in files)
        for modified, bytes, path in sorted(files):
            if kept <= most or modified >= before:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
                kept -= bytes
                if os.path.dirname(path) != str(self._folder):
                    os.rmdir(os.path.dirname(path))
        return kept


def uploaded_file(path: str) -> Path:
    """Raises NotAllowed for what is not a file in Gradio's upload folder."""
    folder = Path(get_upload_folder()).resolve()
    file = Path(path.replace("\0", "")).resolve()
    if "\0" in path or not file.is_relative_to(folder) or not file.is_file():
        raise NotAllowed("Only a file that was uploaded here can be used.")
    return file
