"""The page's own scripts: ES modules in static/, served as they are. The pages themselves are compressed.

Their address changes with their content, so that a browser may keep them for ever and never mixes two versions.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = Path(__file__).parent / "static"
_IMPORT = re.compile(r'^(?:import|export) .* from "(\.[^"]+)";$', re.MULTILINE)


def loader(module: str, *, events: tuple[str, ...] = ()) -> str:
    """The js_on_load of a gr.HTML: starts a module of static/ with what Gradio gives to such a script.

    `events`: those that the module triggers. gr.HTML has an event only if its name stands quoted in this text.
    """
    given = f"{{element, trigger, props, server, upload, watch, events: {json.dumps(events)}}}"
    return f"import(new URL({json.dumps(f'{_address()}/{module}')}, document.baseURI)).then(it => it.start({given}));"


def preload(module: str) -> str:
    """For the head of a page that starts `module`: its scripts are fetched while Gradio starts, and after Gradio's."""
    return "".join(
        f'<link rel="modulepreload" fetchpriority="low" href="{_address()}/{name}">'
        for name in sorted(_imported(module))
    )


@functools.cache
def _imported(module: str) -> frozenset[str]:
    """The names of the module and of all that it imports."""
    names, new = {module}, [module]
    while new:
        path = STATIC / new.pop()
        for imported in _IMPORT.findall(path.read_text(encoding="utf-8")):
            name = (path.parent / imported).resolve().relative_to(STATIC.resolve()).as_posix()
            if name not in names:
                names.add(name)
                new.append(name)
    return frozenset(names)


def routes() -> list[BaseRoute]:
    return [Mount(f"/{_address()}", _Unchanging(directory=STATIC))]


class _Unchanging(StaticFiles):
    def get_path(self, scope: Scope) -> str:
        # Starlette looks for the proxy's path (root_path) in that of the request, from which the proxy has taken it.
        path: str = scope["path"]
        return os.path.normpath(path.partition(f"/{_address()}/")[2])

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return response


class CompressedPages:
    """ASGI middleware. Gradio compresses files, but not the pages, which hold 180 kB of settings and styles."""

    def __init__(self, app: ASGIApp, paths: Collection[str]) -> None:
        self._app = app
        self._compressing = GZipMiddleware(app)
        self._paths = frozenset(f"/{path}".rstrip("/") for path in paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].rstrip("/") in self._paths
        await (self._compressing if is_page else self._app)(scope, receive, send)


@functools.cache
def _address() -> str:
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*.js")):
        digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return f"vp-static/{digest.hexdigest()[:12]}"
