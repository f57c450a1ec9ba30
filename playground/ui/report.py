"""Notebooks and cells as files: HTML report, JSON, Markdown, Jupyter notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from playground.errors import BadInput
from playground.lab import notebook as file
from playground.lab.library import Library
from playground.lab.notebook import Cell, Run


def write(format: str, title: str, whole: Sequence[tuple[Cell, Sequence[Run]]], library: Library) -> dict[str, Any]:
    """Name, MIME type and text."""
    if format == "json":
        return {"name": "notebook.json", "mime": "application/json", "text": file.to_json(title, whole, library.png)}
    raise BadInput("not yet")
