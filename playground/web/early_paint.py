"""What a browser paints before Gradio's scripts have built the page: its head, and boxes where the cells will be.

Gradio's index.html holds no content. Here its template gets a style sheet, the addresses of the page's own scripts and
an element that covers the page until a script takes it away (static/early_paint.js).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio.routes
import jinja2

from playground.web import assets

_INDEX = "frontend/index.html"
_SHARED = "frontend/share.html"  # the same, with Gradio's scripts from a server of Gradio's


class EarlyPaint(jinja2.BaseLoader):
    """Gradio's templates, with what is painted early in the page. A page that asks for a login stays as it is."""

    def __init__(self, templates: jinja2.BaseLoader, bodies: Mapping[str, str], scripts: Mapping[str, str]) -> None:
        """`bodies`, `scripts`: by the path of a page, what is painted, and the module that the page starts with."""
        self._templates = templates
        style = (assets.STATIC / "early-paint.css").read_text(encoding="utf-8")
        self._head = _verbatim(f"<style>{style}</style>")
        for page, module in scripts.items():
            self._head += _only_on(page, assets.preload(module))
        self._body = "".join(_only_on(page, f'<div id="vp-early">{body}</div>') for page, body in bodies.items())

    def get_source(
        self, environment: jinja2.Environment, template: str
    ) -> tuple[str, str | None, Callable[[], bool] | None]:
        name = _INDEX if template == _SHARED else template
        source, path, is_fresh = self._templates.get_source(environment, name)
        if name == _INDEX:
            source = source.replace("</head>", f"{self._head}</head>", 1)
            source = source.replace("<gradio-app", f"{self._body}<gradio-app", 1)
        return source, path, is_fresh


def install(bodies: Mapping[str, str], scripts: Mapping[str, str]) -> None:
    environment: Any = gradio.routes.templates.env
    environment.loader = EarlyPaint(environment.loader, bodies, scripts)


def _only_on(page: str, text: str) -> str:
    return f'{{% if not config.auth_required and config.current_page == "{page}" %}}{_verbatim(text)}{{% endif %}}'


def _verbatim(text: str) -> str:
    return f"{{% raw %}}{text}{{% endraw %}}"
