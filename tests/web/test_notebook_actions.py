"""The page's server functions, called without a page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from playground.errors import NoRoom, NotAllowed
from playground.notebooks.library import Library
from playground.web.active_runs import ActiveRuns
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.wiring import Parts

ActionsOf = Callable[[Parts], NotebookActions]


@pytest.fixture
def actions_of() -> ActionsOf:
    deriving = Thread(target=lambda: None)
    deriving.start()
    return lambda parts: NotebookActions(parts, NotebookView(parts), ActiveRuns(), deriving)


def test_notebooks_when_there_is_no_room_then_no_way_makes_another_one(
    parts: Parts, tmp_path: Path, actions_of: ActionsOf
) -> None:
    with_room = actions_of(parts)
    opened = with_room.open()
    exported = with_room.export(str(opened.key), "json").text
    library = Library(parts.library.pictures.folder.parent, limit_bytes=1)
    actions = actions_of(dataclasses.replace(parts, library=library))
    for make in (
        lambda: actions.create(opened.browser),
        lambda: actions.copy(str(opened.key), opened.browser),
        lambda: actions.import_file(exported, opened.browser),
    ):
        with pytest.raises(NoRoom, match="notebooks_bytes"):
            make()
    stranger = actions.open()
    assert (stranger.key, "notebooks_bytes" in stranger.page) == (None, True)
    assert actions.open(opened.key, opened.browser).key == opened.key  # what is there opens
    library.close()


def test_cell_when_deleted_then_its_run_stops_and_no_other_and_a_reader_stops_none(parts: Parts) -> None:
    """A scan of a deleted cell went on for minutes where the page's "stop" came behind its "delete"."""
    runs, deriving = ActiveRuns(), Thread(target=lambda: None)
    deriving.start()
    actions = NotebookActions(parts, NotebookView(parts), runs, deriving)
    key = actions.open().key
    assert key is not None
    deleted, kept = parts.library.own(key).cells[:2]
    stops = {cell: runs.start("page", cell) for cell in (deleted, kept)}
    link = parts.library.share(key, True).share
    assert link is not None
    with pytest.raises(NotAllowed):
        actions.delete(link, deleted)
    assert not stops[deleted].wanted()
    actions.delete(key, deleted)
    assert stops[deleted].wanted()
    assert not stops[kept].wanted()
