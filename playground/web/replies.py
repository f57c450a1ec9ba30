"""What the server sends to the page's scripts. `document` is the one place where a reply becomes JSON.

A field that is UNSET is left out: for the page, `problem: null` (the notebook is saved) is not the same as no news.
"""

from __future__ import annotations

from typing import Any, TypedDict

import markupsafe
import msgspec
from msgspec import UNSET, UnsetType


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer to one call of a script."""

    notice: str | UnsetType = UNSET  # shown in passing
    problems: tuple[str, ...] = ()  # shown as errors, though the call did what it was asked for


class ErrorReply(Reply, frozen=True, kw_only=True):
    """The call did nothing."""

    error: str
    error_code: str | UnsetType = UNSET  # of a PlaygroundError


class SavedReply(Reply, frozen=True, kw_only=True):
    problem: str | UnsetType | None = UNSET  # why the notebook could not be saved; None: it is saved


class PageReply(SavedReply, frozen=True, kw_only=True):
    """A whole notebook."""

    page: str
    key: str | None
    browser: str
    can_edit: bool
    home: bool = False  # one of this browser's own notebooks
    seen: int = 0  # the newest news of runs that the page holds


class CellHtml(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    html: str
    stale: bool | UnsetType = UNSET  # whether the cell has changed since its newest run


class DocumentPages(msgspec.Struct, frozen=True):
    """What was taken of a document of several pages."""

    name: str
    pages: int  # that it has
    most: int  # that are taken at once
    taken: str  # their numbers: 1-8
    pictures: tuple[str, ...]  # sha256


class CellsReply(SavedReply, frozen=True, kw_only=True):
    """Cells that have changed; ids of all cells, where their order has."""

    cells: tuple[CellHtml, ...] = ()
    order: tuple[str, ...] | UnsetType = UNSET
    replaced: bool = False  # an upload took the place of pictures, which can be put back
    document: DocumentPages | UnsetType = UNSET  # an upload that other pages can be taken of


class SettingsReply(CellsReply, frozen=True, kw_only=True):
    switched: bool  # to another model family: the settings panel has to be filled anew


class OutputsReply(Reply, frozen=True, kw_only=True):
    outputs: tuple[CellHtml, ...]


class UseReply(Reply, frozen=True, kw_only=True):
    variant: str  # id


class HtmlReply(Reply, frozen=True, kw_only=True):
    html: str


class PictureReply(Reply, frozen=True, kw_only=True):
    url: str | None


class TextFileReply(Reply, frozen=True, kw_only=True):
    name: str
    mime: str
    text: str


class BinaryFileReply(Reply, frozen=True, kw_only=True):
    name: str
    mime: str
    data: str  # base64


class CardsReply(Reply, frozen=True, kw_only=True):
    """Cards of known models, by family."""

    cards: dict[str, str]


class FindingsReply(HtmlReply, frozen=True, kw_only=True):
    """What the doctor found in the chosen files of a repository."""

    fits: dict[str, str]  # by the name of a language model
    level: int


class DownloadsReply(Reply, frozen=True, kw_only=True):
    downloads: str
    running: bool


class DiskReply(Reply, frozen=True, kw_only=True):
    disk: str


class LookReply(Reply, frozen=True, kw_only=True):
    """The result of a look test."""

    looks: bool
    verdict: str


class InspectReply(TypedDict):
    """The regions of the inspect page. A dictionary, since most of it is shared by all who look."""

    time: float
    alarms: str
    places: str
    handles: str
    queue: str


class RunUpdate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """News of a cell's run. Each holds everything that the page shows of the part which it is about."""

    cell: str
    outputs: str | UnsetType = UNSET  # the whole run
    block: str | UnsetType = UNSET  # one comparison of the run ...
    html: str | UnsetType = UNSET  # ... and how it looks
    runs: int | UnsetType = UNSET  # the run's number
    error: str | UnsetType = UNSET
    problem: str | UnsetType | None = UNSET  # as in SavedReply
    ended: bool = False


class RunQueue(msgspec.Struct, frozen=True, kw_only=True):
    """The cells of a notebook that run, or wait to be run. A page drops one with a smaller id than it knows."""

    id: int
    running: str | None
    waiting: tuple[str, ...]


class QueueReply(Reply, frozen=True, kw_only=True):
    queue: RunQueue


class RunNews(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One event of the stream that a page watches (web/run_events.py)."""

    id: int  # a page that comes back says the newest one that it has
    server: str | UnsetType = UNSET  # with the first event: another one means that the app was started anew
    update: RunUpdate | UnsetType = UNSET
    queue: RunQueue | UnsetType = UNSET
    memory: str | UnsetType = UNSET  # the strip at the top


def encoded(news: RunNews) -> bytes:
    return msgspec.json.encode(news, enc_hook=_text)


def document(value: msgspec.Struct) -> dict[str, Any]:
    converted: dict[str, Any] = msgspec.to_builtins(value, enc_hook=_text)
    return converted


def _text(value: object) -> str:
    if isinstance(value, markupsafe.Markup):
        return str(value)
    raise NotImplementedError(f"a reply holds no {type(value).__name__}")
