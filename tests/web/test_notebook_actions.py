"""The page's server functions, called without a page."""

from __future__ import annotations

from threading import Thread

import pytest

from playground.errors import NotAllowed
from playground.web.active_runs import ActiveRuns
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.wiring import Parts


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
