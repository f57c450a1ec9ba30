"""Renders a chat as text, with the GGUF file's Jinja template, the user's own, or one built into llama.cpp.

A chat template is code from a stranger's file. It runs in Jinja's sandbox, and only in a worker, which can be killed.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
from collections.abc import Sequence
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment
from llama_cpp import llama_cpp as C

from playground.engine.protocol import ChatMessage
from playground.errors import BadInput, BadModel


@functools.cache
def builtin_names() -> tuple[str, ...]:
    """Names of the templates that llama.cpp has built in, such as chatml and vicuna."""
    count = C.llama_chat_builtin_templates(None, 0)
    names = (ctypes.c_char_p * count)()
    C.llama_chat_builtin_templates(names, count)
    return tuple(name.decode() for name in names if name)


def render(template: str, messages: Sequence[ChatMessage], marker: str, *, bos: str, eos: str) -> str:
    """The prompt's text, with `marker` where each image goes and the assistant's turn begun.

    Raises BadModel if the template fails or leaves out an image.
    """
    n_images = sum(m.n_images for m in messages)
    if template in builtin_names():
        text = _render_builtin(template, messages, marker)
        return _checked(text, marker, n_images)
    # Most templates take a string; some (SmolVLM, Qwen2-VL) insist on a list of parts, and with a string either
    # fail or write nothing of it. An image is given as text, the marker, as llama.cpp's own server does: what a
    # model wants around its images is written by mtmd, from the projector type.
    errors: list[Exception] = []
    for as_parts in (False, True):
        try:
            text = _render_jinja(template, messages, marker, as_parts=as_parts, bos=bos, eos=eos)
            return _checked(text, marker, n_images, messages)
        except (jinja2.TemplateError, BadModel, TypeError, ValueError, RecursionError, OverflowError) as error:
            errors.append(error)
    if isinstance(errors[-1], BadModel):
        raise errors[-1]
    raise BadModel(
        f"The chat template failed: {errors[0]}. Choose another one, such as {', '.join(builtin_names()[:3])}."
    )


def _checked(text: str, marker: str, n_images: int, messages: Sequence[ChatMessage] = ()) -> str:
    if text.count(marker) != n_images:
        raise BadModel(
            "The chat template leaves no place for the image. Choose another template: the model's card says which; "
            f"llama.cpp has {', '.join(builtin_names()[:6])} and more built in."
        )
    if messages and messages[-1].text.strip() not in text:
        raise BadModel("The chat template drops the prompt. Choose another template: the model's card says which.")
    return text


def _content(message: ChatMessage, marker: str) -> str:
    return marker * message.n_images + message.text


def _render_builtin(name: str, messages: Sequence[ChatMessage], marker: str) -> str:
    chat = (C.llama_chat_message * len(messages))(
        *(C.llama_chat_message(role=m.role.encode(), content=_content(m, marker).encode()) for m in messages)
    )
    size = C.llama_chat_apply_template(name.encode(), chat, len(messages), True, None, 0)
    buffer = ctypes.create_string_buffer(size + 1)
    C.llama_chat_apply_template(name.encode(), chat, len(messages), True, buffer, size + 1)
    return buffer.raw[:size].decode()


def _render_jinja(
    template: str, messages: Sequence[ChatMessage], marker: str, *, as_parts: bool, bos: str, eos: str
) -> str:
    def content(message: ChatMessage) -> str | list[dict[str, str]]:
        text = _content(message, marker)
        return [{"type": "text", "text": text}] if as_parts else text

    variables: dict[str, Any] = {
        "messages": [{"role": m.role, "content": content(m)} for m in messages],
        "add_generation_prompt": True,
        "bos_token": bos,
        "eos_token": eos,
        "raise_exception": _fail,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),  # noqa: DTZ005  Llama 3.2 asks for today
    }
    return _compile(template).render(**variables)


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    """Kept, since compiling takes longer than all else that a second question costs."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    return environment.from_string(template)


def _fail(message: str) -> None:
    raise jinja2.TemplateError(message)


def check(template: str) -> None:
    """Raises BadInput if `template` is neither a built-in name nor Jinja."""
    if template in builtin_names():
        return
    if "{" not in template:
        raise BadInput(f"Unknown chat template '{template}'. Give Jinja text, or one of: {', '.join(builtin_names())}.")
    try:
        _compile(template)
    except jinja2.TemplateSyntaxError as error:
        raise BadInput(f"The chat template has an error in line {error.lineno}: {error.message}.") from error
