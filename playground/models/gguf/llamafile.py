"""GGUF files out of a llamafile: a program that is a zip too, with its models uncompressed inside."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from playground.errors import BadModel, NoRoom
from playground.models.gguf import file_names
from playground.support import atomic

_PIECE = 2**22


def is_llamafile(path: Path) -> bool:
    return path.suffix.lower() == ".llamafile" or (path.suffix.lower() in (".exe", ".zip") and zipfile.is_zipfile(path))


def unpack(path: Path, folder: Path) -> tuple[Path, ...]:
    """Write the GGUF members into `folder`, those that are not there yet. llama.cpp reads no file inside another.

    Raises BadModel for an invalid llamafile, NoRoom when the disk has no room.
    """
    stat = path.stat()
    target = folder / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if file_names.is_gguf(member.filename)]
            if not members:
                raise BadModel(f"{path.name} holds no GGUF file: it is a llamafile without a model.")
            if any(m.compress_type != zipfile.ZIP_STORED or m.file_size > stat.st_size for m in members):
                raise BadModel(f"{path.name} holds compressed models, so it is no valid llamafile.")
            files = [(m, target / PurePosixPath(m.filename.replace("\\", "/")).name) for m in members]
            missing = [(member, file) for member, file in files if not file.exists()]
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted, free = sum(member.file_size for member, _ in missing), shutil.disk_usage(target).free
            if wanted > free:
                raise NoRoom(f"{path.name} unpacks to {wanted / 1e9:.2f} GB, but only {free / 1e9:.2f} GB are free.")
            for member, file in missing:
                with atomic.replacing(file) as part, archive.open(member) as source, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _PIECE)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise BadModel(f"{path.name} cannot be unpacked: {error}.") from None
    return tuple(file for _, file in files)
