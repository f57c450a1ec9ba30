"""The body of POST /v1/chat/completions: what is read of it, and what it becomes. Pure.

Unknown keys are ignored, since each client sends some of its own.
"""

from __future__ import annotations

import base64
import binascii
import string
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from playground.comparing.run_settings import RunSettings, read_settings
from playground.errors import BadImage, BadInput
from playground.values.request import ConversationMessage

# A client that sets no limit expects a whole answer. The limits of an answer are read_settings'.
_DEFAULT_TOKENS = 4096
_MOST_TOKENS = 8192
_MOST_CHOICES = 16
_MOST_CANDIDATES = 20  # OpenAI's limit of top_logprobs
MOST_IMAGES = 64
_MOST_PERCENT = 1_000_000  # characters of a data URL without base64: each %41 becomes an object
_MOST_LIKELY = 400_000  # tokens with their probability, in all choices; 16 of 4096 tokens with 5 each
_ROLES = {"developer": "system"}  # OpenAI's newer name


class _ImageUrl(msgspec.Struct, frozen=True):
    url: str


class _Part(msgspec.Struct, frozen=True):
    type: str = "text"
    text: str | None = None
    image_url: _ImageUrl | str | None = None


class _Message(msgspec.Struct, frozen=True):
    role: str
    content: str | list[_Part] | None = None


class _JsonSchema(msgspec.Struct, frozen=True):
    schema: dict[str, Any] = {}


class _ResponseFormat(msgspec.Struct, frozen=True):
    type: str = "text"
    json_schema: _JsonSchema | None = None


class _StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool = False


class _Body(msgspec.Struct, frozen=True):
    model: str
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None  # vLLM's name
    repeat_penalty: float | None = None  # llama.cpp's name
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: _ResponseFormat | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # vLLM's and llama.cpp's name


class ChatRequest(msgspec.Struct, frozen=True):
    """A valid request. Nothing is decoded or loaded yet."""

    model: str
    conversation: tuple[ConversationMessage, ...]
    images: tuple[str, ...]  # the addresses in the conversation's order; most are data URLs
    settings: RunSettings
    n: int = 1
    stream: bool = False
    stream_usage: bool = False
    top_logprobs: int | None = None  # None: no probabilities are wanted


def read_chat(body: bytes) -> ChatRequest:
    """Raises BadInput naming what is wrong and where."""
    try:
        read = msgspec.json.decode(body, type=_Body)
    except msgspec.ValidationError as error:
        raise BadInput(f"The request cannot be used: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(f"The body is not valid JSON: {error}.") from None
    if not read.messages:
        raise BadInput("messages is empty. Send at least one message.")
    n = 1 if read.n is None else read.n
    if not 1 <= n <= _MOST_CHOICES:
        raise BadInput(f"n has to be between 1 and {_MOST_CHOICES}, not {n}.")
    if read.top_logprobs is not None and not (read.logprobs and 0 <= read.top_logprobs <= _MOST_CANDIDATES):
        raise BadInput(f"top_logprobs has to be between 0 and {_MOST_CANDIDATES}, and needs logprobs.")
    settings = _settings(read)
    per_token = 1 + (read.top_logprobs or 0)
    if read.logprobs and n * (settings.max_tokens or 0) * per_token > _MOST_LIKELY:
        raise BadInput(
            f"logprobs of {n} × {settings.max_tokens} tokens with {per_token - 1} others each are too many: at most "
            f"{_MOST_LIKELY:,} together. Lower n, max_tokens or top_logprobs."
        )
    images: list[str] = []
    conversation = tuple(_message(message, images) for message in read.messages)
    if len(images) > MOST_IMAGES:
        raise BadInput(f"The request has {len(images)} images; at most {MOST_IMAGES} are accepted.")
    return ChatRequest(
        model=read.model,
        conversation=conversation,
        images=tuple(images),
        settings=settings,
        n=n,
        stream=bool(read.stream),
        stream_usage=read.stream_options is not None and read.stream_options.include_usage,
        top_logprobs=(read.top_logprobs or 0) if read.logprobs else None,
    )


def data_of(url: str, name: str) -> bytes | None:
    """The bytes of a data URL; None for another address. Raises BadImage."""
    if url[:5].lower() != "data:":
        return None
    head, comma, data = url[5:].partition(",")
    try:
        if not comma:
            raise ValueError("no comma")
        if head.lower().endswith(";base64"):
            return base64.b64decode(data.encode("ascii").translate(None, string.whitespace.encode()), validate=True)
        if len(data) > _MOST_PERCENT:
            raise ValueError("it is too long for one without base64")
        return unquote_to_bytes(data)
    except (ValueError, binascii.Error) as error:
        raise BadImage(f"The data URL of {name} is invalid ({error}).") from None


def _settings(read: _Body) -> RunSettings:
    wanted = read.max_completion_tokens if read.max_completion_tokens is not None else read.max_tokens
    document: dict[str, Any] = {
        "max_tokens": min(_DEFAULT_TOKENS if wanted is None else wanted, _MOST_TOKENS),
        "temperature": read.temperature,
        "top_p": read.top_p,
        "top_k": None if read.top_k is None else min(max(read.top_k, 0), 1000),  # -1 is vLLM's "off"
        "min_p": read.min_p,
        "seed": None if read.seed is None else read.seed % 2**32,
        "stop": [read.stop] if isinstance(read.stop, str) else read.stop,
        "presence_penalty": read.presence_penalty,
        "frequency_penalty": read.frequency_penalty,
        "repeat_penalty": read.repeat_penalty if read.repeat_penalty is not None else read.repetition_penalty,
        "template_variables": read.chat_template_kwargs,
        "probabilities": bool(read.logprobs),
    }
    form = read.response_format or _ResponseFormat()
    match form.type:
        case "text":
            pass
        case "json_object":
            document["json_schema"] = {"type": "object"}
        case "json_schema":
            if form.json_schema is None:
                raise BadInput("response_format has the type json_schema, and no json_schema.")
            document["json_schema"] = form.json_schema.schema
        case other:
            raise BadInput(f"Unknown response_format '{other[:40]}'. Use text, json_object or json_schema.")
    return read_settings(document)


def _message(message: _Message, images: list[str]) -> ConversationMessage:
    """`images`: the addresses of its images are added here."""
    role = _ROLES.get(message.role, message.role)
    if not isinstance(message.content, list):
        return ConversationMessage(role, message.content or "")
    text, places = "", []
    for part in message.content:
        if part.type in ("image_url", "input_image"):
            if part.image_url is None:
                raise BadInput("A part of the type image_url has no image_url.")
            places.append(len(text))
            images.append(part.image_url if isinstance(part.image_url, str) else part.image_url.url)
        elif part.type in ("text", "input_text"):
            text += part.text or ""
        else:
            raise BadInput(f"Content of the type '{part.type[:40]}' is not supported. Send text and image_url.")
    return ConversationMessage(role, text, tuple(places))
