"""The model files of an agent's machine: its own by their sha256, and copies that the page's machine has sent.

The copies of all agents of a machine are bounded together: those that nobody has used for longest are deleted. Whoever
uses one holds a shared lock on it, so an agent of another page does not delete it.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from threading import Lock

from playground.cluster.messages import Located, WantedFile
from playground.errors import BadInput, BadModel, NoRoom, cannot_write
from playground.models.checksums import Checksums
from playground.models.gguf import file_links, file_names

logger = logging.getLogger(__name__)

_SPARE_BYTES = 2**30  # that a copy leaves free on the disk
_PART = "copy.part"
_SHA256 = re.compile("[0-9a-f]{64}")
_USED = "used"  # a file beside a copy: its time is that of the last use
# A copy is kept so long after it was wanted, though no worker has loaded it yet: other shards of its model may come
# first. So is a part after its last piece.
_ARRIVED_S = 600.0


@dataclass(frozen=True, slots=True)
class _Copy:
    path: Path
    bytes: int
    used_at: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class _Hold:
    """Open files with a shared lock: they are in use."""

    files: list[BufferedReader]
    since: float = field(default_factory=time.monotonic)

    def release(self) -> None:
        for file in self.files:
            file.close()


class Copies:
    """Owns the folder of copies, together with the agents of other pages. Safe to use from several threads."""

    def __init__(
        self, folder: Path, own_folders: Sequence[Path], hub_cache: Path, checksums: Checksums, most_bytes: int
    ) -> None:
        """`most_bytes`: of all copies together."""
        self._folder = folder
        self._most_bytes = most_bytes
        self._holds: dict[int, _Hold] = {}  # by the worker that has loaded them
        self._arrived: dict[Path, _Hold] = {}  # copies that no worker has loaded yet
        self._holding = Lock()
        self._own_folders = own_folders
        self._hub_cache = hub_cache
        self._checksums = checksums
        self._writing = Lock()

    def locate(self, file: WantedFile) -> Located:
        """A file that has this sha256 now. A file that was changed since is not it."""
        copy = self._whole(file)
        candidates = [copy, *self._hub_cache.glob(f"models--*/blobs/{file.sha256}")]
        candidates += [path for root in self._own_folders for path in root.rglob("*") if file_names.is_gguf(path.name)]
        for path in candidates:
            try:
                if path.stat().st_size == file.bytes and self._checksums.of(path) == file.sha256:
                    if path == copy and not self._keep_arrived(copy):
                        continue  # it is being deleted
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
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._make_room(file, file.bytes - offset)
                part.parent.mkdir(mode=0o700, exist_ok=True)
                with open(part, "ab") as copy:
                    if offset == copy.tell():  # else another run has sent this piece
                        copy.write(piece)
                    return copy.tell()
            except OSError as error:
                raise cannot_write(part, error) from None

    def finish(self, file: WantedFile) -> str:
        """The path of a whole copy. Raises BadModel if what came is not the file: the copy is deleted."""
        part, copy = self._part(file), self._whole(file)
        with self._writing:
            if not part.exists() and self._keep_arrived(copy):
                return str(copy)
            with open(part, "rb") as whole:
                if hashlib.file_digest(whole, "sha256").hexdigest() != file.sha256:
                    part.unlink()
                    raise BadModel(f"{file.name} changed while it was copied. Run again.")
            os.replace(part, copy)
            self._checksums.note(copy, file.sha256)
            self._keep_arrived(copy)
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

    # --- which are in use, and which give way ------------------------------------------------------------------------

    @property
    def bytes(self) -> int:
        """Of all copies, also those of other pages."""
        return sum(copy.bytes for copy in self._all())

    def hold(self, pid: int, paths: Sequence[str]) -> None:
        """A worker loads these models: their copies are kept as long as it lives (`keep_only`)."""
        shards = [shard.resolve() for path in paths for shard in file_links.shards(Path(path))]
        copies = [shard for shard in shards if shard.is_relative_to(self._folder.resolve())]
        files = [file for copy in copies if (file := _locked(copy)) is not None]
        with self._holding:
            earlier = [*self._holds.pop(pid, _Hold([])).files]
            self._holds[pid] = _Hold([*earlier, *files])
            arrived = [self._arrived.pop(path) for path in tuple(self._arrived) if path.resolve() in copies]
        for hold in arrived:
            hold.release()

    def keep_only(self, pids: Collection[int]) -> None:
        """These workers are left; nobody uses what the others had loaded."""
        with self._holding:
            ended = [self._holds.pop(pid) for pid in tuple(self._holds) if pid not in pids]
        for hold in ended:
            for file in hold.files:
                _note_used(Path(file.name))
            hold.release()

    def _keep_arrived(self, copy: Path) -> bool:
        """False: it is gone."""
        file = _locked(copy)
        if file is None:
            return False
        _note_used(copy)
        with self._holding:
            earlier, self._arrived[copy] = self._arrived.get(copy), _Hold([file])
        if earlier is not None:
            earlier.release()
        return True

    def _make_room(self, file: WantedFile, missing: int) -> None:
        """Delete copies until so many bytes of this one may come. Raises NoRoom."""
        with self._holding:
            old = [path for path, hold in self._arrived.items() if time.monotonic() - hold.since > _ARRIVED_S]
            for path in old:
                self._arrived.pop(path).release()
        copies = sorted(self._all(), key=lambda copy: copy.used_at)
        taken = sum(copy.bytes for copy in copies)
        others = (copy for copy in copies if copy.path.parent.name != file.sha256)
        while True:
            free = shutil.disk_usage(self._folder).free
            if missing + _SPARE_BYTES <= free and taken + missing <= self._most_bytes:
                return
            unused = next((copy for copy in others if self._delete(copy)), None)
            if unused is None:
                break
            taken -= unused.bytes
        needed = f"A copy needs {missing / 1e9:.1f} GB"
        if missing + _SPARE_BYTES > free:
            raise NoRoom(
                f"{needed}, and {free / 1e9:.1f} GB are free in {self._folder}. Make room there, and run again."
            )
        raise NoRoom(
            f"{needed}. Copies of models may take {self._most_bytes / 1e9:.1f} GB on that machine (copies_bytes), and "
            f"those in use take {taken / 1e9:.1f} GB. Unload models there, or allow more, and run again."
        )

    def _delete(self, copy: _Copy) -> bool:
        """And the links to it, which joined the shards of a model. False: it is in use."""
        if not _deleted(copy):
            return False
        _remove_folder(copy.path.parent)
        for folder in self._folder.iterdir():
            link = folder / copy.path.name
            if link.is_symlink() and not link.exists():
                link.unlink(missing_ok=True)
                _remove_folder(link.parent)
        return True

    def _all(self) -> Iterator[_Copy]:
        for path in self._folder.glob("*/*"):
            try:
                if path.name != _USED and not path.is_symlink():
                    stamp = path.with_name(_USED)
                    stat = path.stat()
                    used = stamp.stat() if stamp.exists() and path.name != _PART else stat
                    yield _Copy(path, stat.st_size, used.st_mtime)
            except FileNotFoundError:
                continue  # another agent has deleted it

    def _whole(self, file: WantedFile) -> Path:
        """Raises BadInput for a file that would lie elsewhere."""
        is_plain = Path(file.name).name == file.name and file.name not in ("", "..", _PART, _USED)
        if not is_plain or not _SHA256.fullmatch(file.sha256):
            raise BadInput(f"A copy cannot be called {file.name[:200]!r}, with the sha256 {file.sha256[:100]!r}.")
        return self._folder / file.sha256 / file.name

    def _part(self, file: WantedFile) -> Path:
        return self._whole(file).with_name(_PART)


def _locked(copy: Path) -> BufferedReader | None:
    """The file, open and in use from now on. None: it is gone."""
    try:
        file = open(copy, "rb")  # noqa: SIM115  as long as it is in use
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if copy.exists():
            return file
    except OSError:  # somebody deletes it
        pass
    file.close()
    return None


def _note_used(copy: Path) -> None:
    with suppress(OSError):  # the disk is full, or the copy is gone
        copy.with_name(_USED).touch()


def _deleted(copy: _Copy) -> bool:
    """False: it is in use."""
    if copy.path.name == _PART and time.time() - copy.used_at < _ARRIVED_S:
        return False
    try:
        with open(copy.path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            copy.path.unlink()
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    logger.info("%s is deleted to make room: nobody has used it for longest", copy.path)
    return True


def _remove_folder(folder: Path) -> None:
    """If no copy and no link is left in it."""
    with suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {_USED}:
            folder.joinpath(_USED).unlink(missing_ok=True)
            folder.rmdir()
