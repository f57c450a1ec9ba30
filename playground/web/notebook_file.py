"""The address at which a page downloads a notebook as JSON, in pieces. No Gradio here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from playground.errors import BadInput, NoNotebook, PlaygroundError
from playground.web.notebook_actions import NotebookActions

PATH = "/vp-notebook"
_CHUNK = 65_536  # characters


def routes(actions: NotebookActions) -> list[BaseRoute]:
    def download(request: Request) -> Response:
        key, cell = (request.query_params.get(name, "") for name in ("notebook", "cell"))
        try:
            name, pieces = actions.pieces(key, cell or None)
        except PlaygroundError as error:
            status = 404 if isinstance(error, NoNotebook) else 400 if isinstance(error, BadInput) else 503
            return PlainTextResponse(error.message, status)
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}", "Cache-Control": "no-store"}
        return StreamingResponse(chunks(pieces), media_type="application/json", headers=headers)

    return [Route(PATH, download, methods=["GET"])]


def chunks(pieces: Iterable[str], size: int = _CHUNK) -> Iterator[bytes]:
    """Small pieces together: each chunk costs the server a change of threads."""
    waiting, length = [], 0
    for piece in pieces:
        waiting.append(piece)
        length += len(piece)
        if length >= size:
            yield "".join(waiting).encode()
            waiting, length = [], 0
    yield "".join(waiting).encode()
