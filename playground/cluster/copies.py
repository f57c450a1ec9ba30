"""The model files of an agent's machine: its own by their sha256, and copies that the page's machine has sent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from playground.cluster.messages import Located
from playground.errors import BadModel, NoRoom, cannot_write
from playground.models.checksums import Checksums
from playground.models.gguf import file_names

_SPARE_BYTES = 2**30  # that a copy leaves free on the disk


class Copies:
    """Owns the folder of copies. Safe to use from several threads."""

    def __init__(self, folder: Path, own_folders: Sequence[Path], hub_cache: Path, checksums: Checksums) -> None:
        self._folder = folder
        self._own_folders = own_folders
        self._hub_cache = hub_cache
        self._checksums = checksums
        self._writing = Lock()

    def locate(self, sha256: str, name: str, n_bytes: int) -> Located:
        """A file that has this sha256 now. A file that was changed since is not it."""
        copy = self._folder / sha256 / name
        candidates = [copy, *self._hub_cache.glob(f"models--*/blobs/{sha256}")]
        candidates += [path for root in self._own_folders for path in root.rglob("*") if file_names.is_gguf(path.name)]
        for path in candidates:
            try:
                if path.stat().st_size == n_bytes and self._checksums.of(path) == sha256:
                    return Located(str(path))
            except OSError:
                continue  # it is gone
        part = self._part(sha256)
        return Located(None, part.stat().st_size if part.exists() else 0)

    def append(self, sha256: str, offset: int, piece: bytes, n_bytes: int) -> int:
        """Write a piece of a copy of `n_bytes`; returns how many bytes are there now. Raises NoRoom and BadInput."""
        part = self._part(sha256)
        with self._writing:
            try:
                part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                free = shutil.disk_usage(part.parent).free
                if n_bytes - offset + _SPARE_BYTES > free:
                    raise NoRoom(
                        f"A copy needs {(n_bytes - offset) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in "
                        f"{self._folder}. Make room there, and run again."
                    )
                with open(part, "ab") as file:
                    if offset != file.tell():  # another run has sent this piece
                        return file.tell()
                    file.write(piece)
                    return file.tell()
            except OSError as error:
                raise cannot_write(part, error) from None

    def finish(self, sha256: str, name: str) -> str:
        """The path of a whole copy. Raises BadModel if what came is not the file: the copy is deleted."""
        part, copy = self._part(sha256), self._folder / sha256 / name
        with self._writing:
            if not part.exists() and copy.exists():
                return str(copy)
            with open(part, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    part.unlink()
                    raise BadModel(f"{name} changed while it was copied. Run again.")
            os.replace(part, copy)
            self._checksums.note(copy, sha256)
        return str(copy)

    def _part(self, sha256: str) -> Path:
        return self._folder / sha256 / "copy.part"
