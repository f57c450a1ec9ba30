"""The files that an earlier version wrote (tests/data/README.md)."""

from __future__ import annotations

import tarfile
from pathlib import Path

import msgspec

_ARCHIVE = Path(__file__).parents[1] / "tests/data/cache-0.1.0.tar.xz"


class Written(msgspec.Struct):
    """What the archive says of itself."""

    notebook: str
    share: str
    engine: str
    machine: str


def unpack(folder: Path) -> Written:
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return msgspec.json.decode((folder / "written.json").read_bytes(), type=Written)
