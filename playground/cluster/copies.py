"""The model files of an agent's machine: its own by their sha256, and copies that the page's machine has sent."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from playground.cluster.messages import Located, WantedFile
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

    def locate(self, file: WantedFile) -> Located:
        """A file that has this sha256 now. A file that was changed since is not it."""
        copy = self._folder / file.sha256 / file.name
        candidates = [copy, *self._hub_cache.glob(f"models--*/blobs/{file.sha256}")]
        candidates += [path for root in self._own_folders for path in root.rglob("*") if file_names.is_gguf(path.name)]
        for path in candidates:
            try:
                if path.stat().st_size == file.bytes and self._checksums.of(path) == file.sha256:
                    return Located(str(path))
            except OSError:
                continue  # it is gone
        part = self._part(file)
        return Located(None, part.stat().st_size if part.exists() else 0)

    def append(self, file: WantedFile, offset: int, piece: bytes) -> int:
        """Write a piece of a copy; returns how many bytes are there now. Raises NoRoom and BadInput."""
        part = self._part(file)
        with self._writing:
            try:
                part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                free = shutil.disk_usage(part.parent).free
                if file.bytes - offset + _SPARE_BYTES > free:
                    raise NoRoom(
                        f"A copy needs {(file.bytes - offset) / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free in "
                        f"{self._folder}. Make room there, and run again."
                    )
                with open(part, "ab") as copy:
                    if offset == copy.tell():  # else another run has sent this piece
                        copy.write(piece)
                    return copy.tell()
            except OSError as error:
                raise cannot_write(part, error) from None

    def finish(self, file: WantedFile) -> str:
        """The path of a whole copy. Raises BadModel if what came is not the file: the copy is deleted."""
        part, copy = self._part(file), self._folder / file.sha256 / file.name
        with self._writing:
            if not part.exists() and copy.exists():
                return str(copy)
            with open(part, "rb") as whole:
                if hashlib.file_digest(whole, "sha256").hexdigest() != file.sha256:
                    part.unlink()
                    raise BadModel(f"{file.name} changed while it was copied. Run again.")
            os.replace(part, copy)
            self._checksums.note(copy, file.sha256)
        return str(copy)

    def checked(self, path: Path, file: WantedFile) -> str:
        """A file that was downloaded. Raises BadModel if the Hub's cache has another one under this name."""
        if self._checksums.of(path) != file.sha256:
            raise BadModel(f"{file.name} is another file in the Hub's cache. It is copied.")
        return str(path)

    def together(self, shards: Sequence[str]) -> str:
        """The first shard of a model in several files, beside the others: links to them, if they lie apart."""
        paths = [Path(shard) for shard in shards]
        if len({path.parent for path in paths}) == 1:
            return shards[0]
        folder = self._folder / hashlib.sha256("\n".join(shards).encode()).hexdigest()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in paths:
            link = folder / path.name
            link.unlink(missing_ok=True)
            link.symlink_to(path)
        return str(folder / paths[0].name)

    def _part(self, file: WantedFile) -> Path:
        return self._folder / file.sha256 / "copy.part"
