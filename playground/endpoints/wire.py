"""What is sent to an endpoint, and how its reply is read: OpenAI's chat completions. Pure.

Servers differ in what they leave out: every field of a reply may be missing.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import PIL.Image

from playground.errors import BadPrompt, EndpointError, PlaygroundError, Unavailable
from playground.values.answer import Candidate, TokenScore
from playground.values.request import ConversationMessage, Image, Sampling

MOST_CANDIDATES = 20  # OpenAI's and vLLM's limit of top_logprobs
_MOST_MESSAGE = 300  # characters of a server's own message
_ABOVE_ONE = 1e-3  # by which rounded probabilities may exceed 1 together
_CONTEXT = re.compile(r"context|n_ctx|max_model_len|too many tokens|prompt is too long", re.IGNORECASE)
_NOT_SENT = ("grammar", "reasoning_tokens", "dry_multiplier")  # OpenAI's protocol has no field for these


class EndpointQuestion(msgspec.Struct, frozen=True):
    """One request."""

    conversation: tuple[ConversationMessage, ...]
    images: tuple[Image, ...]  # in the order of their places in the conversation
    sampling: Sampling
    template_variables: Mapping[str, Any] = {}
    n_candidates: int | None = None  # of each token's log-probabilities; None: none are wanted


def body(model: str, question: EndpointQuestion) -> dict[str, Any]:
    """Settings that are off are left out: a server may refuse a field that it does not know."""
    sampling, off = question.sampling, Sampling()
    document: dict[str, Any] = {
        "model": model,
        "messages": messages(question.conversation, question.images),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
    }
    if not sampling.greedy:
        document |= {"top_p": sampling.top_p, "top_k": sampling.top_k, "min_p": sampling.min_p}
    for name in ("presence_penalty", "frequency_penalty"):
        if getattr(sampling, name) != getattr(off, name):
            document[name] = getattr(sampling, name)
    if sampling.repeat_penalty != off.repeat_penalty:  # llama.cpp's name, and vLLM's
        document |= dict.fromkeys(("repeat_penalty", "repetition_penalty"), sampling.repeat_penalty)
    if sampling.stop:
        document["stop"] = list(sampling.stop)
    if sampling.json_schema is not None:
        schema = {"name": "answer", "schema": json.loads(sampling.json_schema)}
        document["response_format"] = {"type": "json_schema", "json_schema": schema}
    if question.template_variables:
        document["chat_template_kwargs"] = dict(question.template_variables)
    if question.n_candidates is not None:
        document |= {"logprobs": True, "top_logprobs": min(question.n_candidates, MOST_CANDIDATES)}
    return document


def not_sent(sampling: Sampling) -> tuple[str, ...]:
    """The names of what was set and has no field in the protocol."""
    off = Sampling()
    return tuple(name for name in _NOT_SENT if getattr(sampling, name) != getattr(off, name))


def messages(conversation: Sequence[ConversationMessage], images: Sequence[Image]) -> list[dict[str, Any]]:
    urls = map(_data_url, images)
    return [{"role": message.role, "content": _content(message, urls)} for message in conversation]


def _content(message: ConversationMessage, urls: Iterator[str]) -> str | list[dict[str, Any]]:
    if not message.places:
        return message.text
    ends = (0, *message.places, len(message.text))
    parts: list[dict[str, Any]] = []
    for at, (start, end) in enumerate(pairwise(ends)):
        if at:
            parts.append({"type": "image_url", "image_url": {"url": next(urls)}})
        if start < end:
            parts.append({"type": "text", "text": message.text[start:end]})
    return parts


def _data_url(image: Image) -> str:
    """As PNG, so that the server sees the same pixels."""
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


# --- replies --------------------------------------------------------------------------------------------------


class TopLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] | None = None


class _Logprobs(msgspec.Struct, frozen=True):
    content: list[TokenLogprob] | None = None


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None
    reasoning_content: str | None = None  # llama.cpp's and DeepSeek's name
    reasoning: str | None = None  # vLLM's and Ollama's


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta | None = None
    message: _Delta | None = None  # of a reply in one piece
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Piece(msgspec.Struct, frozen=True):
    """One event of a stream, or a whole reply."""

    choices: list[_Choice] = []
    model: str | None = None
    system_fingerprint: str | None = None
    usage: _Usage | None = None
    error: Any = None

    @property
    def choice(self) -> _Choice:
        return next((choice for choice in self.choices if choice.index == 0), _Choice())

    @property
    def _delta(self) -> _Delta:
        return self.choice.delta or self.choice.message or _Delta()

    @property
    def text(self) -> str:
        return self._delta.content or ""

    @property
    def reasoning(self) -> str:
        return self._delta.reasoning_content or self._delta.reasoning or ""

    @property
    def logprobs(self) -> Sequence[TokenLogprob]:
        logprobs = self.choice.logprobs
        return (logprobs.content or ()) if logprobs is not None else ()


def read_piece(name: str, data: str | bytes) -> Piece:
    """Raises EndpointError. `name`: the endpoint's."""
    try:
        return msgspec.json.decode(data, type=Piece)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise EndpointError(
            f"{name} answers what is not OpenAI's protocol. Is its url that of the API (.../v1)?"
        ) from None


def score(token: TokenLogprob) -> TokenScore:
    """Raises ValueError for what are no probabilities."""
    candidates = [(top.token, _probability(top.logprob)) for top in token.top_logprobs or ()]
    if sum(probability for _, probability in candidates) > 1 + _ABOVE_ONE:
        raise ValueError("probabilities above 1")
    ordered = sorted(candidates, key=lambda candidate: -candidate[1])
    return TokenScore(token.token, _probability(token.logprob), tuple(Candidate(None, text, p) for text, p in ordered))


def _probability(logprob: float) -> float:
    """A server may write a large negative number for impossible."""
    if math.isnan(logprob) or logprob > _ABOVE_ONE:
        raise ValueError("a log-probability above 0")
    return math.exp(min(logprob, 0.0))


def token_bytes(token: TokenLogprob | TopLogprob) -> bytes:
    """What a token writes; a server that leaves the bytes out has them in the text."""
    try:
        return bytes(token.bytes) if token.bytes is not None else token.token.encode()
    except (ValueError, UnicodeEncodeError):
        return b""


def refusal(name: str, status: int, content: bytes, hidden: Sequence[str]) -> PlaygroundError:
    """What a reply with an error's status means. `hidden`: texts that may not be repeated, such as the key."""
    if status in (401, 403):
        return EndpointError(f"{name} wants another key (HTTP {status}). The operator sets it.")
    if 300 <= status < 400:
        return EndpointError(
            f"{name} redirects elsewhere (HTTP {status}), which is refused. The operator sets its url."
        )
    message = _message(content, hidden)
    its_words = f" It says: {message}" if message else ""
    if status == 404:
        return EndpointError(f"{name} has no such API or model (HTTP 404).{its_words}")
    if status == 429 or status >= 500:
        return Unavailable(f"{name} cannot answer now (HTTP {status}).{its_words}")
    if status in (400, 413, 422) and _CONTEXT.search(message):
        return BadPrompt(f"The question and its answer do not fit into the context of {name}.{its_words}")
    return EndpointError(f"{name} refuses the request (HTTP {status}).{its_words}")


def refusal_in_stream(name: str, error: Any, hidden: Sequence[str]) -> PlaygroundError:
    """The same for an error within a stream."""
    content = msgspec.json.encode({"error": error})
    message = _message(content, hidden)
    if _CONTEXT.search(message):
        return BadPrompt(f"The question and its answer do not fit into the context of {name}. It says: {message}")
    return EndpointError(f"{name} broke the answer off. It says: {message or 'nothing'}")


def _message(content: bytes, hidden: Sequence[str]) -> str:
    """The server's own words: OpenAI's form, Ollama's, vLLM's older one."""
    try:
        document = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    for name in ("error", "message", "detail"):
        if isinstance(document, dict):
            document = document.get(name, document)
    if not isinstance(document, str):
        return ""
    text = " ".join(document.split())
    for secret in hidden:
        text = text.replace(secret, "***")
    return text if len(text) <= _MOST_MESSAGE else f"{text[:_MOST_MESSAGE]} …"
