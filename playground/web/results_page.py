"""The results page: a table over the results documents of the operator's folder and repositories."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import markupsafe

from playground.measuring import results_table
from playground.measuring.result_sources import Collected, ResultsShelf
from playground.measuring.results_table import ResultRow
from playground.rendering import results_view, templating
from playground.web.replies import HtmlReply
from playground.web.server_function import server_function


class ResultsPage:
    """Server functions for the page's script. What it reads, the operator named; a visitor only filters."""

    def __init__(self, shelf: ResultsShelf) -> None:
        self._shelf = shelf
        self._lock = Lock()
        self._tabled: tuple[Collected, tuple[ResultRow, ...]] = (Collected(), ())

    def functions(self) -> list[Callable[[Any], dict[str, Any]]]:
        return [server_function(self.table)]

    def page(self) -> markupsafe.Markup:
        return templating.markup("results.html", sources=self._shelf.sources)

    def table(self, words: str = "") -> HtmlReply:
        """The rows in which all words stand."""
        collected = self._shelf.collected()
        rows = results_table.matching(self._rows(collected), words[:200])
        return HtmlReply(
            html=results_view.html(rows, len(collected.documents), collected.problems, self._shelf.sources)
        )

    def _rows(self, collected: Collected) -> tuple[ResultRow, ...]:
        with self._lock:
            if self._tabled[0] is not collected:
                self._tabled = collected, results_table.rows(collected.documents)
            return self._tabled[1]
