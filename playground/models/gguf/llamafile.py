"""GGUF files out of a llamafile: a program that is a zip too, with its models uncompressed inside."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from playground.errors import BadModel, NoRoom
from playground.support import atomic

_PIECE = 2**22


def is_llamafile(path: Path) -> bool:
    return path.suffix.lower() == ".llamafile" or (path.suffix.lower() in (".exe", ".zip") and zipfile.is_zipfile(path))


def unpack(path: Path, folder: Path) -> tuple[Path, ...]:
    """Write the GGUF members into `folder`, those that are not there yet. llama.cpp reads no file inside another.

    Raises BadModel for what is no llamafile, NoRoom when the disk has no room.
    """
    stat = path.stat()
    target = folder / f"{path.stem}-{stat.st_size}-{stat.st_mtime_ns}"
    try:
        with zipfile.ZipFile(path) as archive:
            members = [one for one in archive.infolist() if one.filename.lower().endswith(".gguf")]
            if not members:
                raise BadModel(f"{path.name} holds no GGUF file: it is a llamafile without a model.")
            if any(one.compress_type != zipfile.ZIP_STORED or one.file_size > stat.st_size for one in members):
                raise BadModel(f"{path.name} holds compressed models, which no llamafile does. It may be damaged.")
            found = [(one, target / PurePosixPath(one.filename.replace("\\", "/")).name) for one in members]
            missing = [(one, to) for one, to in found if not to.exists()]
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
            wanted, free = sum(one.file_size for one, _ in missing), shutil.disk_usage(target).free
            if wanted > free:
                raise NoRoom(f"{path.name} unpacks to {wanted / 1e9:.2f} GB, {free / 1e9:.2f} GB are free.")
            for one, to in missing:
                with atomic.replacing(to) as part, archive.open(one) as source, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy, _PIECE)
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        raise BadModel(f"{path.name} cannot be unpacked: {error}.") from None
    return tuple(to for _, to in found)
