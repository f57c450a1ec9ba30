"""The page's own scripts: ES modules in static/, served as they are.

Their address changes with their content, so that a browser may keep them for ever and never mixes two versions.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from starlette.responses import Response
from starlette.routing import BaseRoute, Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"


def loader(module: str, *, events: tuple[str, ...] = ()) -> str:
    """The js_on_load of a gr.HTML: starts a module of static/ with what Gradio gives to such a script.

    `events`: those that the module triggers. gr.HTML has an event only if its name stands quoted in this text.
    """
    given = f"{{element, trigger, props, server, upload, watch, events: {json.dumps(events)}}}"
    return f"import(new URL({json.dumps(f'{_address()}/{module}')}, document.baseURI)).then(it => it.start({given}));"


def preload() -> str:
    """For the page's head: the scripts are fetched while Gradio starts."""
    modules = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*.js"))
    return "".join(f'<link rel="modulepreload" href="{_address()}/{module}">' for module in modules)


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


@functools.cache
def _address() -> str:
    digest = hashlib.sha256()
    for path in sorted(STATIC.rglob("*.js")):
        digest.update(path.relative_to(STATIC).as_posix().encode() + b"\0" + path.read_bytes())
    return f"vp-static/{digest.hexdigest()[:12]}"
