"""Serve the page."""

from __future__ import annotations

from playground.settings import Settings


def serve() -> None:
    """Serve the page until it is interrupted. docs/operate/settings.md lists the settings: address, port, limits."""
    settings = Settings.read()
    from playground.web.server import serve as serve_page  # noqa: PLC0415  the other commands need no Gradio

    serve_page(settings)
