"""The pictures and the question sets that one notebook may show.

They are kept once for all notebooks, under their sha256. A sha256 is no secret: reports print it. An imported file that
names one without holding what it names must not get another person's picture by it.
"""

from __future__ import annotations

from playground.errors import BadImage, BadInput
from playground.measuring.packs import Pack
from playground.measuring.question_sets import QuestionSet
from playground.notebooks.cells import Picture
from playground.notebooks.entries import Entries
from playground.notebooks.pictures import Pictures
from playground.notebooks.question_files import QuestionFiles
from playground.values.request import Image


class OwnFiles:
    """Of one notebook. Raises Unreadable where the disk does not answer."""

    def __init__(self, entries: Entries, pictures: Pictures, questions: QuestionFiles, notebook: str) -> None:
        self._entries = entries
        self._pictures = pictures
        self._questions = questions
        self._notebook = notebook

    def may_show(self, sha256: str) -> bool:
        return self._entries.get(f"foreign/{self._notebook}/{sha256}") is None

    def refuse(self, sha256: str) -> None:
        """Notes that the notebook names a file that it does not have."""
        self._entries.put(f"foreign/{self._notebook}/{sha256}", b"")

    def accept(self, sha256: str) -> bool:
        """Somebody who may change the notebook has brought the file. Returns whether it was refused before."""
        refused = not self.may_show(sha256)
        if refused:
            self._entries.delete(f"foreign/{self._notebook}/{sha256}")
        return refused

    def png(self, sha256: str) -> bytes | None:
        """A picture's file; None if it is lost, or another notebook's."""
        return self._pictures.png(sha256) if self.may_show(sha256) else None

    def thumbnail(self, sha256: str) -> tuple[str, bytes] | None:
        """MIME type and bytes to show; None if the picture is lost, or another notebook's."""
        return self._pictures.thumbnail(sha256) if self.may_show(sha256) else None

    def image(self, picture: Picture) -> Image:
        """A picture's pixels. Raises BadImage if they are lost, or another notebook's."""
        if not self.may_show(picture.sha256):
            raise BadImage(f"{picture.name} was not in the imported file. Add the image again.")
        return self._pictures.image(picture)

    def has_questions(self, source: str) -> bool:
        return self._questions.has(source) and self.may_show(source)

    def questions(self, source: str) -> QuestionSet:
        """Of a source that `has_questions`. Raises BadInput."""
        return self._questions.read(source)

    def pack(self, sha256: str, name: str) -> Pack:
        """Raises BadInput if it is not on this machine, or another notebook's."""
        if not (self._questions.has_pack(sha256) and self.may_show(sha256)):
            raise BadInput(f"The reference pack {name} is not on this machine. Choose its file again.")
        return self._questions.read_pack(sha256)
