"""What the notebook's script asks of the server about the pictures of a cell (see notebook_actions.py)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from playground.comparing import pages as document_pages
from playground.comparing.images import MAX_PAGES, cropped, read_image
from playground.errors import BadInput
from playground.models.presets import data_folder
from playground.notebooks.cells import CompareCell, Picture
from playground.notebooks.library import Library
from playground.rendering import templating
from playground.web.notebook_view import NotebookView
from playground.web.replies import CellsReply, DocumentPages, PictureReply, Reply
from playground.web.uploads import uploaded_file
from playground.wiring import Parts

_MOST_REPLACED = 1000  # cells whose replaced pictures can be put back


class PictureActions:
    """Uploads, examples, crops. Owns the pictures that an upload replaced, so that they can be put back."""

    def __init__(self, parts: Parts, view: NotebookView) -> None:
        self._parts = parts
        self._view = view
        self._library: Library = parts.library
        # By notebook and cell: the pictures before the last upload that replaced some, and the uploaded ones.
        self._replaced: dict[tuple[str, str], tuple[tuple[Picture, ...], tuple[Picture, ...]]] = {}

    def methods(self) -> tuple[Callable[..., Reply], ...]:
        return self.add_picture, self.put_back, self.example, self.picture, self.crop

    def add_picture(
        self,
        key: str,
        cell: str,
        path: str,
        instead: str | None = None,
        pages: str = "",
        others: list[str] | None = None,
        person: str = "",
    ) -> CellsReply:
        """Take an image that this browser has just uploaded. `instead`: of which picture, by its sha256.

        `pages`: of a document, such as "2,5-7", in place of the pictures `others`; empty: the first ones.
        """
        uploaded = uploaded_file(path)
        if pages:
            taken = frozenset(others or ())
            return self._add_picture(
                key, cell, uploaded, person, document_pages.read_numbers(pages), instead=lambda _: taken
            )
        return self._add_picture(key, cell, uploaded, person, instead=lambda now: self._given_up(now, instead))

    def put_back(self, key: str, cell: str, both: bool = False) -> CellsReply:
        """The pictures that an upload replaced, in its place or, with `both`, beside it."""
        with self._library.writing():
            notebook = self._library.own(key)
            now = self._view.compare_cell(notebook, cell)
            before, fresh = self._replaced.pop((notebook.id, cell), ((), ()))
            if not before:
                raise BadInput("There is nothing to undo here.")
            known = {picture.sha256 for picture in (*before, *(() if both else fresh))}
            pictures = (*before, *(picture for picture in now.pictures if picture.sha256 not in known))
            written, _ = self._library.write(key, replace(now, pictures=pictures))
        return self._view.changed(key, written)

    def _given_up(self, now: CompareCell, instead: str | None) -> frozenset[str]:
        """Which pictures give way to an upload: the one that it was dropped on, or the examples of a first visitor."""
        shown = frozenset(picture.sha256 for picture in now.pictures)
        return shown & {instead} if instead else shown if shown <= self._examples else frozenset()

    @functools.cached_property
    def _examples(self) -> frozenset[str]:
        """The sha256 of the presets' own pictures."""
        presets = self._parts.catalog.presets
        files = {example.image for preset in presets for example in preset.examples}
        files |= {cell.image for preset in presets for cell in preset.cells}
        return frozenset(read_image(data_folder() / file).sha256 for file in files)

    def example(self, key: str, cell: str, index: int) -> CellsReply:
        """A preset's example image, and its prompt where there is none yet."""
        now = self._view.compare_cell(self._library.own(key), cell)
        examples = self._view.preset(now.family).examples
        if not 0 <= index < len(examples):
            raise BadInput("There is no such example. Reload the page.")
        reply = self._add_picture(key, cell, data_folder() / examples[index].image)
        now = self._view.compare_cell(self._library.own(key), cell)
        if not any(prompt.strip() for prompt in now.prompts):
            written, _ = self._library.write(key, replace(now, prompts=(examples[index].prompt,)))
            return self._view.changed(key, written)
        return reply

    def picture(self, key: str, cell: str, sha256: str) -> PictureReply:
        """A picture of a cell in full."""
        notebook, _ = self._library.read(key)
        now = self._view.compare_cell(notebook, cell)
        png = self._library.files(notebook).png(sha256) if sha256 in {p.sha256 for p in now.pictures} else None
        if png is None:
            raise BadInput("This image is gone.")
        return PictureReply(url=templating.data_url(("image/png", png)))

    def crop(
        self, key: str, cell: str, sha256: str, x: int, y: int, width: int, height: int, alone: bool = False
    ) -> CellsReply:
        """A part of a picture: one more in its cell, or alone in a new cell that asks the same."""
        notebook = self._library.own(key)
        self._library.check_room()
        now = self._view.compare_cell(notebook, cell)
        whole = next((p for p in now.pictures if p.sha256 == sha256), None)
        if whole is None:
            raise BadInput("This image is gone.")
        part = cropped(self._library.files(notebook).image(whole), x, y, width, height)
        kept = self._library.pictures.keep(part, f"{whole.name}, {width} × {height} at {x}, {y}")
        self._library.files(notebook).accept(kept.sha256)
        if alone:
            fresh = replace(now, pictures=(kept,), gallery=False, marks=(), votes=())
            return self._view.added(key, self._library.add(key, fresh, cell))
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            pictures = {p.sha256: p for p in (*now.pictures, kept)}
            written, _ = self._library.write(key, replace(now, pictures=tuple(pictures.values())))
        return self._view.changed(key, written)

    def _add_picture(
        self,
        key: str,
        cell: str,
        path: Path,
        person: str = "",
        numbers: Sequence[int] | None = None,
        *,
        instead: Callable[[CompareCell], frozenset[str]] = lambda now: frozenset(),
    ) -> CellsReply:
        """`numbers`: the pages of a document that a person chose. `instead`: of which pictures."""
        notebook = self._library.own(key)
        self._library.check_room()
        document = self._parts.read_pages(path, numbers, person)
        read = [self._library.pictures.keep(image, path.name) for image in document.images]
        accepted = [picture for picture in read if self._library.files(notebook).accept(picture.sha256)]
        with self._library.writing():
            now = self._view.compare_cell(notebook, cell)
            present = {p.sha256 for p in now.pictures}
            new = tuple({p.sha256: p for p in read if p.sha256 not in present}.values())
            if not new and not accepted and numbers is None:
                return CellsReply(notice=f"{path.name} is in this cell already.")
            gone = instead(now) - {p.sha256 for p in read} if new or numbers else frozenset()
            at = next((n for n, picture in enumerate(now.pictures) if picture.sha256 in gone), len(now.pictures))
            kept = [[p for p in part if p.sha256 not in gone] for part in (now.pictures[:at], now.pictures[at:])]
            written, _ = self._library.write(key, replace(now, pictures=(*kept[0], *new, *kept[1])))
            if gone and numbers is None:
                self._replaced[notebook.id, cell] = now.pictures, new
                while len(self._replaced) > _MOST_REPLACED:
                    del self._replaced[next(iter(self._replaced))]
        reply = replace(self._view.changed(key, written), replaced=bool(gone) and numbers is None)
        if document.pages == 1:
            return reply
        shown = DocumentPages(
            name=path.name,
            pages=document.pages,
            most=MAX_PAGES,
            taken=document_pages.words(document.numbers),
            pictures=tuple(picture.sha256 for picture in read),
        )
        return replace(reply, document=shown)
