"""Whether the app is alive and ready, and its measures: /health, /health/ready and /metrics, for who watches over it.

They need no login, and tell of nobody and of no file.
"""

from __future__ import annotations

import hashlib
import logging
import time

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from playground.comparing import compare, comparison_request
from playground.comparing.run_settings import RunSettings
from playground.errors import PlaygroundError, Unreadable
from playground.values.answer import PaneState
from playground.values.request import Image
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts

logger = logging.getLogger(__name__)

_AGAIN_S = 60.0
_QUESTION = RunSettings(max_tokens=4, n_ctx=512)


def _grey() -> Image:
    """None of the examples: the first person to ask about one is shown what its encoding takes."""
    size = 64
    rgb = bytes([128]) * (3 * size * size)
    return Image(rgb, size, size, hashlib.sha256(rgb).hexdigest())


class Health:
    """Ready once the embedded pair has answered a question since the start."""

    def __init__(self, parts: Parts, measures: RunMetrics) -> None:
        self._parts = parts
        self._measures = measures
        self._reason: str | None = "The embedded model has not answered yet."  # None: ready

    def wait_until_ready(self) -> None:
        """Ask the embedded pair until it answers."""
        while (reason := self._ask()) is not None:
            self._reason = "The embedded model does not answer; the app's log says why."  # which names files
            logger.error("not ready: %s", reason)
            time.sleep(_AGAIN_S)
        self._reason = None
        logger.info("ready: the embedded model answers")

    def _ask(self) -> str | None:
        """Why it does not answer."""
        parts = self._parts
        preset = parts.catalog.presets[0]
        try:
            variant = next(v for v in parts.catalog.variants if v.family == preset.family and v.reference)
            comparison = comparison_request.comparison_of([_grey()], "What is this?", [variant], _QUESTION)
            *_, last = compare.run(comparison, parts.lab, compare.StopFlag())
        except PlaygroundError as error:
            return error.message
        except Exception as error:  # whatever it is, the app is not ready, and says so
            logger.exception("the embedded model")
            return f"Unexpected: {type(error).__name__}. The app's log has more."
        (pane,) = last.panes
        return None if pane.state is PaneState.DONE else pane.error or f"The embedded model's answer was {pane.state}."

    def routes(self) -> list[BaseRoute]:
        def alive(request: Request) -> Response:
            return JSONResponse(self._state())

        def ready(request: Request) -> Response:
            reason = self._reason or self._disk_reason()
            problem = self._parts.library.problem  # the app serves all the same
            disk = {"disk": problem} if problem else {}
            state = {**self._state(), "ready": reason is None, "reason": reason, **disk}
            return JSONResponse(state, status_code=503 if reason else 200)

        def metrics(request: Request) -> Response:
            return Response(self._measures.text(), media_type=CONTENT_TYPE_LATEST)

        return [Route("/health", alive), Route("/health/ready", ready), Route("/metrics", metrics)]

    def _disk_reason(self) -> str | None:
        try:
            self._parts.library.check_disk()
        except Unreadable as error:
            return error.message
        return None

    def _state(self) -> dict[str, object]:
        return {"alive": True, "ready": self._reason is None, "reason": self._reason}
