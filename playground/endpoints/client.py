"""Asks an endpoint, and reads its answer as it is written.

The key and the address stay here: no error, no answer and no log has them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import httpx
import msgspec

from playground.endpoints import wire
from playground.endpoints.wire import EndpointQuestion, Piece, TokenLogprob
from playground.errors import EndpointError, Interrupted, PlaygroundError, Unavailable
from playground.values.answer import Elsewhere, TokenScore
from playground.values.texts import shortened

_LOOK_S = 0.1  # how often it is looked whether a person has stopped the answer
_MOST_BYTES = 64_000_000  # of a reply
_MOST_LINE = 4_000_000  # of one event
_MOST_CHARACTERS = 1_000_000  # of an answer, as of a pane in a notebook's file
_MOST_TOKENS = 20_000
_MOST_PIECES = 100_000
_MOST_NAME = 300  # characters of what a server calls itself or its model
_MOST_MODELS = 5  # names of models in one answer
_REASONS = {"stop": "end of text", "length": "max tokens"}
_NOTHING = Elsewhere()
_NO_LOGPROBS = "It gives no log-probabilities."
_BAD_LOGPROBS = "Its log-probabilities are invalid: they are left out."


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, as the operator set it up."""

    name: str
    url: str = field(repr=False)  # of the API: .../v1
    model: str
    key: str = field(default="", repr=False)
    connect_s: float = 10.0
    silence_s: float = 120.0
    answer_s: float = 600.0
    at_once: int = 4  # questions of everybody

    @property
    def hidden(self) -> tuple[str, ...]:
        """What no message may repeat, the longest first."""
        return tuple(text for text in (self.key, self.url, urlsplit(self.url).netloc) if text)


@dataclass(frozen=True, slots=True)
class EndpointAnswer:
    """What is written so far, or all of it."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None  # as of a pane; None: it goes on
    elsewhere: Elsewhere = _NOTHING
    scores: tuple[TokenScore, ...] = ()
    tokens: tuple[TokenLogprob, ...] = ()  # what the scores were made of
    remarks: tuple[str, ...] = ()


def ask(
    endpoint: Endpoint,
    question: EndpointQuestion,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_text: Callable[[EndpointAnswer], None] = lambda answer: None,
) -> EndpointAnswer:
    """`on_text` gets the answer whenever it has grown. For a thread without an event loop.

    Raises Interrupted, EndpointError, BadPrompt for a question beyond the server's context, and Unavailable where the
    server cannot be reached, or is silent for too long.
    """
    return asyncio.run(_ask_until(endpoint, question, stop, on_text))


async def _ask_until(
    endpoint: Endpoint, question: EndpointQuestion, stop: Callable[[], bool], on_text: Callable[[EndpointAnswer], None]
) -> EndpointAnswer:
    work = asyncio.ensure_future(_ask(endpoint, question, on_text))
    try:
        while not work.done():
            await asyncio.wait({work}, timeout=_LOOK_S)
            if stop() and not work.done():
                raise Interrupted("Stopped.")
    finally:
        work.cancel()
    return work.result()


async def _ask(
    endpoint: Endpoint, question: EndpointQuestion, on_text: Callable[[EndpointAnswer], None]
) -> EndpointAnswer:
    name = endpoint.name
    try:
        async with asyncio.timeout(endpoint.answer_s):
            return await _answer(endpoint, question, on_text)
    except PlaygroundError:
        raise
    except httpx.ConnectTimeout:
        raise Unavailable(f"{name} cannot be reached within {endpoint.connect_s:g} s.") from None
    except httpx.ConnectError:
        raise Unavailable(f"{name} cannot be reached. Does it run?") from None
    except httpx.TimeoutException:
        raise Unavailable(f"{name} was silent for {endpoint.silence_s:g} s.") from None
    except TimeoutError:
        raise Unavailable(f"{name} took more than {endpoint.answer_s:g} s for an answer.") from None
    except httpx.TransportError:
        raise EndpointError(f"{name} broke the connection off.") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise EndpointError(f"{name} cannot be asked ({type(error).__name__}).") from None


async def _answer(
    endpoint: Endpoint, question: EndpointQuestion, on_text: Callable[[EndpointAnswer], None]
) -> EndpointAnswer:
    content = msgspec.json.encode(wire.body(endpoint.model, question))
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}  # a few bytes may unpack to gigabytes
    if endpoint.key:
        headers["Authorization"] = f"Bearer {endpoint.key}"
    silence = endpoint.silence_s
    timeout = httpx.Timeout(connect=endpoint.connect_s, read=silence, write=silence, pool=silence)
    started = time.monotonic()
    reading = _Reading(endpoint, wants_scores=question.n_candidates is not None, started=started)
    url = f"{endpoint.url}/chat/completions"
    async with (
        httpx.AsyncClient(timeout=timeout, follow_redirects=False) as client,
        client.stream("POST", url, content=content, headers=headers) as response,
    ):
        if response.status_code != 200:
            reply = await _short(response)
            raise wire.refusal(endpoint.name, response.status_code, reply, endpoint.hidden)
        async for piece in _pieces(endpoint.name, response):
            if piece.error is not None:
                raise wire.refusal_in_stream(endpoint.name, piece.error, endpoint.hidden)
            if reading.take(piece):
                on_text(reading.answer)
    return reading.ended()


async def _short(response: httpx.Response) -> bytes:
    """The begin of an error's reply."""
    content = b""
    async for data in response.aiter_raw():
        content += data
        if len(content) > 100_000:
            break
    return content


async def _pieces(name: str, response: httpx.Response) -> AsyncIterator[Piece]:
    """The events of a stream, or the one reply of a server that does not stream."""
    if "event-stream" not in response.headers.get("content-type", ""):
        whole = b""
        async for data in response.aiter_raw():
            whole += data
            if len(whole) > _MOST_BYTES:
                raise EndpointError(f"{name} sends too much.")
        yield wire.read_piece(name, whole)
        return
    async for data in _events(name, response):
        if data == b"[DONE]":
            return
        yield wire.read_piece(name, data)


async def _events(name: str, response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events. An event's lines are joined; comments and other fields are left out."""
    rest, event, size, held = b"", list[bytes](), 0, 0
    async for data in response.aiter_raw():
        size += len(data)
        rest += data
        *lines, rest = rest.split(b"\n")
        if size > _MOST_BYTES or len(rest) + held > _MOST_LINE:
            raise EndpointError(f"{name} sends too much.")
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                event.append(line[5:].removeprefix(b" "))
                held += len(line)  # an empty one too: it is an object in the list
            elif not line and event:
                yield b"\n".join(event)
                event, held = [], 0
    if rest.startswith(b"data:"):  # the last line may lack its end
        event.append(rest[5:].strip())
    if event:
        yield b"\n".join(event)


class _Reading:
    """One answer as its pieces come."""

    def __init__(self, endpoint: Endpoint, *, wants_scores: bool, started: float) -> None:
        self._endpoint = endpoint
        self._wants_scores = wants_scores
        self._started = started
        self._models: list[str] = []  # the different ones that the pieces name
        self._n_pieces = 0
        self._tokens: list[TokenLogprob] = []
        self.answer = EndpointAnswer()

    def take(self, piece: Piece) -> bool:
        """Whether the answer has grown. Raises EndpointError for one that is too long."""
        answer, elsewhere = self.answer, self.answer.elsewhere
        model = shortened(piece.model or "", _MOST_NAME)
        if model and model not in self._models and len(self._models) < _MOST_MODELS:
            self._models.append(model)
        grown = bool(piece.text or piece.reasoning)
        if grown and elsewhere.first_s is None:
            elsewhere = replace(elsewhere, first_s=time.monotonic() - self._started)
        self._tokens += piece.logprobs
        usage = piece.usage
        if usage is not None:
            elsewhere = replace(
                elsewhere, prompt_tokens=_count(usage.prompt_tokens), answer_tokens=_count(usage.completion_tokens)
            )
        self.answer = replace(
            answer,
            text=answer.text + piece.text,
            reasoning=answer.reasoning + piece.reasoning,
            finish_reason=piece.choice.finish_reason or answer.finish_reason,
            elsewhere=replace(
                elsewhere,
                model=self._models[0] if self._models else None,
                fingerprint=shortened(piece.system_fingerprint or "", _MOST_NAME) or elsewhere.fingerprint,
            ),
        )
        self._n_pieces += 1
        characters = len(self.answer.text) + len(self.answer.reasoning)
        if characters > _MOST_CHARACTERS or len(self._tokens) > _MOST_TOKENS or self._n_pieces > _MOST_PIECES:
            raise EndpointError(f"{self._endpoint.name} sends too much.")
        return grown

    def ended(self) -> EndpointAnswer:
        """Raises EndpointError for an answer without an end."""
        answer = self.answer
        if answer.finish_reason is None:
            raise EndpointError(f"{self._endpoint.name} broke the answer off.")
        remarks = self._remarks_on_model()
        scores: tuple[TokenScore, ...] = ()
        if self._wants_scores and not self._tokens:
            remarks.append(_NO_LOGPROBS)
        elif self._wants_scores:
            try:
                scores = tuple(map(wire.score, self._tokens))
            except (ValueError, OverflowError):
                remarks.append(_BAD_LOGPROBS)
        return replace(
            answer,
            finish_reason=_REASONS.get(answer.finish_reason, shortened(answer.finish_reason, _MOST_NAME)),
            elsewhere=replace(answer.elsewhere, answer_s=time.monotonic() - self._started),
            scores=scores,
            tokens=tuple(self._tokens) if scores else (),
            remarks=tuple(remarks),
        )

    def _remarks_on_model(self) -> list[str]:
        wanted = self._endpoint.model
        if len(self._models) > 1:
            return [f"It names several models within one answer: {', '.join(self._models)}."]
        if self._models and self._models[0] != shortened(wanted, _MOST_NAME):
            return [f"It says that {self._models[0]} answered; {wanted} was asked."]
        return [] if self._models else ["It does not say which model answered."]


def _count(value: int | None) -> int | None:
    return value if value is not None and 0 <= value < 2**53 else None
