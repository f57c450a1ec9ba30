"""The zips of questions and the reference packs that people uploaded, each kept under its sha256."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from playground.errors import BadInput, Unavailable
from playground.measuring import packs
from playground.measuring.packs import Pack
from playground.measuring.question_sets import QuestionSet, read_questions
from playground.support import atomic


class QuestionFiles:
    """Owns the folder of these files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def keep(self, path: Path) -> str:
        """Returns the sha256. Raises BadInput if the zip is invalid, Unavailable if it cannot be written."""
        if not path.is_file():
            raise BadInput("Choose a zip with images and one list of questions.")
        read_questions(path)
        with open(path, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._copy(path, f"{sha256}.zip")
        return sha256

    def keep_pack(self, path: Path) -> Pack:
        """Raises BadInput if the file is not a valid pack, Unavailable if it cannot be written."""
        if not path.is_file():
            raise BadInput("Choose a reference pack (.safetensors).")
        pack = packs.read(path)
        self._copy(path, f"{pack.digest}.safetensors")
        return pack

    def _copy(self, path: Path, name: str) -> None:
        try:
            with atomic.replacing(self.folder / name) as part:
                shutil.copyfile(path, part)
        except OSError as error:
            raise Unavailable(f"{path.name} could not be kept: {error}.") from None

    def has(self, sha256: str) -> bool:
        return bool(sha256) and (self.folder / f"{sha256}.zip").is_file()

    def read(self, sha256: str) -> QuestionSet:
        """Raises BadInput."""
        return read_questions(self.folder / f"{sha256}.zip")

    def has_pack(self, sha256: str) -> bool:
        return bool(sha256) and (self.folder / f"{sha256}.safetensors").is_file()

    def read_pack(self, sha256: str) -> Pack:
        """Raises BadInput."""
        return packs.read(self.folder / f"{sha256}.safetensors")
