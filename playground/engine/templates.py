"""Renders a chat as text, with the GGUF file's Jinja template, the user's own, or one built into llama.cpp.

A chat template is code from a stranger's file. It runs in Jinja's sandbox, in a process of its own with limits
(jinja_process.py).
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from llama_cpp import llama_cpp as C

from playground.engine import jinja_chat
from playground.engine.jinja_process import JinjaProcess
from playground.engine.protocol import ChatMessage
from playground.errors import BadInput, BadModel

_jinja = JinjaProcess()


def start() -> None:
    """Start the process that renders, so that the first question need not wait for it."""
    _jinja.start()


@functools.cache
def builtin_names() -> tuple[str, ...]:
    """Names of the templates that llama.cpp has built in, such as chatml and vicuna."""
    count = C.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    C.llama_chat_builtin_templates(names, count)
    return tuple(name.decode() for name in names if name)


def render(
    template: str,
    messages: Sequence[ChatMessage],
    marker: str,
    *,
    bos: str,
    eos: str,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The prompt's text, with `marker` where each image goes and the assistant's turn begun.

    variables: what a person sets, such as enable_thinking. They go over what is passed by default.
    Raises BadModel if the template fails, exceeds a limit, or leaves out an image or a text.
    """
    if template in builtin_names():
        return _checked(_render_builtin(template, messages, marker), messages, marker)
    given = {"bos_token": bos, "eos_token": eos, "media_marker": marker, **(variables or {})}
    # Most templates take a string; some (SmolVLM, Qwen2-VL) insist on a list of parts, and with a string either
    # fail or write nothing of it. An image is given as text, the marker, as llama.cpp's own server does: what a
    # model wants around its images is written by mtmd, from the projector type.
    errors: list[Exception] = []
    for source in jinja_chat.sources(template, marker):
        for as_parts in (False, True):
            try:
                chat = [{"role": m.role, "content": _content(m, marker, as_parts=as_parts)} for m in messages]
                text = _jinja.render(source, chat, variables=given)
            except jinja2.TemplateError as error:
                errors.append(error)
                continue
            try:
                return _checked(text, messages, marker)
            except BadModel as error:
                errors.append(error)
    for problem in errors:
        if isinstance(problem, BadModel):
            raise problem
    raise BadModel(
        f"The chat template failed: {errors[0]}. Choose another one, such as {', '.join(builtin_names()[:3])}."
    )


def _checked(text: str, messages: Sequence[ChatMessage], marker: str) -> str:
    if text.count(marker) != sum(m.n_images for m in messages):
        raise BadModel(
            "The chat template leaves no place for the image. Choose another template: the model's card says which; "
            f"llama.cpp has {', '.join(builtin_names()[:6])} and more built in."
        )
    if any(piece.strip() not in text for piece in messages[-1].pieces):
        raise BadModel("The chat template drops the prompt. Choose another template: the model's card says which.")
    if messages[0].role == "system" and messages[0].text.strip() not in text:
        raise BadModel("The chat template drops the system message. Leave it empty, or choose another template.")
    return text


def _content(message: ChatMessage, marker: str, *, as_parts: bool) -> str | list[dict[str, str]]:
    text = marker.join(message.pieces)
    return [{"type": "text", "text": text}] if as_parts else text


def _render_builtin(name: str, messages: Sequence[ChatMessage], marker: str) -> str:
    chat = (C.llama_chat_message * len(messages))(
        *(C.llama_chat_message(role=m.role.encode(), content=marker.join(m.pieces).encode()) for m in messages)
    )
    size = C.llama_chat_apply_template(name.encode(), chat, len(messages), True, None, 0)
    buffer = ctypes.create_string_buffer(size + 1)
    C.llama_chat_apply_template(name.encode(), chat, len(messages), True, buffer, size + 1)
    return buffer.raw[:size].decode()


def check(template: str) -> None:
    """Raises BadInput if `template` is neither a built-in name nor Jinja, BadModel if compiling exceeds a limit."""
    if template in builtin_names():
        return
    if "{" not in template:
        raise BadInput(f"Unknown chat template '{template}'. Give Jinja text, or one of: {', '.join(builtin_names())}.")
    try:
        _jinja.compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise BadInput(f"The chat template has an error in line {error.lineno}: {error.message}.") from error


def names(template: str) -> frozenset[str]:
    """The names of variables, filters and attributes in a template that `check` has passed."""
    return frozenset() if template in builtin_names() else jinja_chat.names(template)
