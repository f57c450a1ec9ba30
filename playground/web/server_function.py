"""Functions of the server that a page's script calls: gr.HTML(server_functions=...)."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import gradio as gr
import msgspec

from playground.errors import PlaygroundError
from playground.web import login
from playground.web.replies import ErrorReply, InspectReply, Reply, document

logger = logging.getLogger(__name__)


def server_function(method: Callable[..., Reply | InspectReply]) -> Callable[..., dict[str, Any]]:
    """A function of one JSON object: its fields are checked against the method's annotations.

    Fields that the method does not take (every call carries key and browser) are dropped. `visitor`, where the method
    takes it, is the name under which they have logged in, whatever the page says; `person` is whose limits count.
    """
    hints = inspect.get_annotations(method, eval_str=True)
    parameters = inspect.signature(method).parameters.values()
    fields = msgspec.defstruct(
        method.__name__,
        [
            (p.name, hints[p.name]) if p.default is p.empty else (p.name, hints[p.name], p.default)
            for p in sorted(parameters, key=lambda p: p.default is not p.empty)
            if p.name not in ("visitor", "person")
        ],
    )

    def answer(given: Any, request: gr.Request | None) -> Reply | InspectReply:
        try:
            call = msgspec.convert(given, fields)
        except msgspec.ValidationError as error:
            return ErrorReply(error=f"The page asked for something that it may not: {error}. Reload it.")
        try:
            known: dict[str, str | None] = {"visitor": login.name_of(request)} if "visitor" in hints else {}
            if "person" in hints:
                known["person"] = login.person(request) if request is not None else ""
            return method(**{name: getattr(call, name) for name in fields.__struct_fields__}, **known)
        except PlaygroundError as error:
            return ErrorReply(error=error.message, error_code=error.code)
        except Exception:
            logger.exception("%s", method.__name__)
            return ErrorReply(error="Unexpected: the app's log has more. Nothing was lost; try again.")

    def called(given: Any, request: gr.Request | None = None) -> dict[str, Any]:
        reply = answer(given, request)
        return document(reply) if isinstance(reply, Reply) else dict(reply)

    called.__name__ = method.__name__
    return called
