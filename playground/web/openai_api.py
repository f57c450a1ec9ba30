"""The OpenAI-compatible API: /v1/models and /v1/chat/completions (docs/use/harnesses.md).

Every variant is a model. A request is one comparison of one variant, so it waits, runs and is counted like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from io import BytesIO
from threading import Thread
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from playground.comparing import compare, comparison_request
from playground.comparing.compare import StopFlag
from playground.comparing.shared_turns import SEQUENCES, SharedTurns
from playground.errors import BadInput, Busy, MachineLost, NotAllowed, PlaygroundError, WorkerDied
from playground.settings import Login, Settings
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.files import Variant
from playground.values.request import Image
from playground.web import login, openai_reply, remote_images
from playground.web.openai_reply import ApiError
from playground.web.openai_request import ChatRequest, data_of, read_chat
from playground.web.prometheus import RunMetrics
from playground.web.request_line import RequestLine
from playground.wiring import Parts

logger = logging.getLogger(__name__)

PATH = "/v1"
_HELD_BYTES = 512_000_000  # of all bodies together that are read or wait; of one person half of it
_IMAGES_AT_MOST = 16  # times the largest image, in pixels: of all images of one request
_SILENCE_S = 10.0  # between two signs of life in a stream
_AHEAD = 4  # requests of one person whose images are read while the others are answered
_SHORT_BYTES = 2**20  # of a body that is read within a millisecond: as long as a thread takes to begin
_RECENT_BYTES = 64 * 2**20  # of pixels
_TIMES = 2  # that a question is asked whose worker dies
_LEFT = 499  # nginx's number for a client that closed the connection; nobody reads it


class RecentImages:
    """The pictures that were read last, since programs ask several questions about one. For the event loop alone."""

    def __init__(self, read: Callable[[BytesIO, str, str], Image], most_bytes: int) -> None:
        self._read = read
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by person
        self._most_bytes = most_bytes
        self._images: OrderedDict[bytes, Image] = OrderedDict()  # by the digest of the file

    async def read(self, data: bytes, name: str, who: str) -> Image:
        """In a thread, one of a person at a time, unless this file was read lately. Raises BadImage, Busy."""
        short = len(data) < _SHORT_BYTES
        key = _digest(data) if short else await run_in_threadpool(_digest, data)
        turn = self._turns.setdefault(who, asyncio.Lock())
        async with turn:
            image = self._images.pop(key, None)
            if image is None:
                image = await run_in_threadpool(self._read, BytesIO(data), name, who)
        self._images[key] = image
        while sum(len(kept.rgb) for kept in self._images.values()) > self._most_bytes:
            self._images.popitem(last=False)
        return image


class OpenAiApi:
    """The routes. `deriving`, `metrics`: as for page.build."""

    def __init__(self, parts: Parts, deriving: Thread, metrics: RunMetrics) -> None:
        self._parts = parts
        self._deriving = deriving
        self._metrics = metrics
        sequences = parts.settings.max_sequences or SEQUENCES

        def at_once() -> int:  # not once for all: a machine may join
            return max(1, len(parts.pool.devices.gpu_places)) * (sequences + _AHEAD)

        self._line = RequestLine(at_once, parts.settings.max_api_requests)
        self._turns = SharedTurns(sequences)
        self._held_bytes: Counter[str] = Counter()  # by person
        self._recent = RecentImages(parts.read_image, _RECENT_BYTES)

    def routes(self) -> list[BaseRoute]:
        return [
            Route(f"{PATH}/models", self._answered(self._models)),
            Route(f"{PATH}/models/{{model:path}}", self._answered(self._model)),
            Route(f"{PATH}/chat/completions", self._answered(self._chat), methods=["POST"]),
            Route(f"{PATH}/{{rest:path}}", self._answered(self._unknown), methods=["GET", "POST", "PUT", "DELETE"]),
        ]

    def _answered(self, answer: Callable[[Request, str], Any]) -> Callable[[Request], Any]:
        """An endpoint whose errors have OpenAI's form."""

        async def endpoint(request: Request) -> Response:
            try:
                response: Response = await answer(request, person(request, self._parts.settings))
            except PlaygroundError as error:
                refusal = ApiError.of(error)
                retry = {"Retry-After": "1"} if refusal.status in (429, 503) else None
                return JSONResponse(refusal.document, refusal.status, headers=retry)
            except ClientDisconnect:
                return Response(status_code=_LEFT)
            except Exception:
                logger.exception("a request to %s", request.url.path)
                message = "Unexpected error. The app's log has more."
                return JSONResponse(openai_reply.error_document(message, 500), 500)
            return response

        return endpoint

    async def _variants(self) -> tuple[Variant, ...]:
        if self._deriving.is_alive():
            await run_in_threadpool(self._deriving.join)
        return self._parts.catalog.variants

    async def _models(self, request: Request, who: str) -> Response:
        models = [openai_reply.model_document(variant) for variant in await self._variants()]
        return JSONResponse({"object": "list", "data": models})

    async def _model(self, request: Request, who: str) -> Response:
        variant = openai_reply.variant_named(await self._variants(), request.path_params["model"])
        return JSONResponse(openai_reply.model_document(variant))

    async def _unknown(self, request: Request, who: str) -> Response:
        path = request.url.path[:100]
        raise ApiError(f"{request.method} {path} does not exist. Use {PATH}/chat/completions.", "not_found", 404)

    async def _chat(self, request: Request, who: str) -> Response:
        body = await self._body(request, who)
        try:
            chat = read_chat(body) if len(body) < _SHORT_BYTES else await run_in_threadpool(read_chat, body)
            if chat.settings.json_schema is not None and self._parts.settings.demo:
                raise NotAllowed("The operator has turned off response_format (demo mode).")
            variant = openai_reply.variant_named(await self._variants(), chat.model)
            completion = _Completion(chat, variant)
            if chat.stream:
                return await self._streamed(request, who, completion, len(body))
            await _unless_gone(request, self._complete(who, completion))
            if chat.top_logprobs is not None:  # megabytes: not in the event loop
                content = await run_in_threadpool(lambda: msgspec.json.encode(completion.document()))
                return Response(content, media_type="application/json")
            return JSONResponse(completion.document())
        finally:
            self._release(who, len(body))

    async def _body(self, request: Request, who: str) -> bytes:
        """Counted in `_held_bytes`, which the caller takes back. Raises Busy when too many large ones wait."""
        body = await request.body()
        mine, all = self._held_bytes[who] + len(body), self._held_bytes.total() + len(body)
        if mine > _HELD_BYTES // 2 or all > _HELD_BYTES:
            yours = " of yours" if all <= _HELD_BYTES else ""
            raise Busy(f"Busy: too many large requests{yours} wait. Try again in some seconds.")
        self._held_bytes[who] += len(body)
        return body

    def _release(self, who: str, held: int) -> None:
        self._held_bytes[who] -= held
        if not self._held_bytes[who]:
            del self._held_bytes[who]

    async def _streamed(self, request: Request, who: str, completion: _Completion, held: int) -> Response:
        """Begins with the first token, or when there was none for some seconds: an earlier error has its own status."""
        events: asyncio.Queue[bytes | None] = asyncio.Queue()
        completion.emit = events.put_nowait
        self._held_bytes[who] += held  # until the stream ends
        work = asyncio.ensure_future(_unless_gone(request, self._complete(who, completion)))

        def ended(work: asyncio.Future[None]) -> None:
            self._release(who, held)
            events.put_nowait(None)

        work.add_done_callback(ended)

        async def body(first: bytes | None) -> AsyncIterator[bytes]:
            try:
                event = first
                while event is not None:
                    yield event
                    event = await _next(events)
                if error := work.exception():
                    if not isinstance(error, PlaygroundError):
                        raise error
                    yield openai_reply.event(ApiError.of(error).document)
                else:
                    yield completion.last_event()
                    yield openai_reply.event("[DONE]")
            finally:
                work.cancel()

        try:
            first = await _next(events)
        except BaseException:
            work.cancel()
            raise
        if first is None and work.exception():
            await work  # raises
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(body(first), media_type="text/event-stream", headers=headers)

    async def _complete(self, who: str, completion: _Completion) -> None:
        """Run all choices. Raises PlaygroundError."""
        chat = completion.chat
        async with self._line.turn(who):
            images = await self._images(who, chat.images)
            for index in range(chat.n):
                for _ in range(_TIMES):
                    async for update in self._updates(who, completion, images, index):
                        completion.take(index, update)
                    if not completion.may_be_asked_again(index):
                        break
                if chat.top_logprobs is None:
                    completion.emit(completion.end(index))
                else:  # it may have megabytes: not in the event loop
                    completion.emit(await run_in_threadpool(completion.end, index))

    async def _updates(
        self, who: str, completion: _Completion, images: list[Image], index: int
    ) -> AsyncIterator[ComparisonUpdate]:
        """The comparison of one choice, in a thread of its own. It is stopped when the caller ends."""
        chat, own_parts = completion.chat, self._parts.of(who)
        given = self._parts.limited(chat.settings)
        comparison = comparison_request.comparison_of(images, "", [completion.variant], given)
        comparison = replace(
            comparison,
            conversation=chat.conversation,
            sampling=replace(comparison.sampling, seed=(comparison.sampling.seed + index) % 2**32),
            probabilities=chat.top_logprobs is not None,
            n_candidates=max(1, chat.top_logprobs or 0),
        )
        stop = StopFlag()
        news: asyncio.Queue[ComparisonUpdate | Exception | None] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def updates() -> Iterator[ComparisonUpdate]:
            yield from self._metrics.compared(compare.run(comparison, own_parts.lab, stop, turns=self._turns))

        def tell(update: ComparisonUpdate | Exception | None) -> None:
            try:
                loop.call_soon_threadsafe(news.put_nowait, update)
            except RuntimeError:  # the server has ended
                stop.run()

        def follow() -> None:
            end: Exception | None = None
            try:
                for update in updates():
                    if chat.stream or update.done:
                        tell(update)
            except Exception as error:
                end = error
            tell(end)

        Thread(target=follow, daemon=True).start()
        try:
            while (update := await news.get()) is not None:
                if isinstance(update, Exception):
                    raise update
                yield update
        finally:
            stop.run()

    async def _images(self, who: str, urls: tuple[str, ...]) -> list[Image]:
        """Raises BadImage, and BadInput if they are too large together or may not be fetched."""
        images: list[Image] = []
        most = _IMAGES_AT_MOST * self._parts.settings.max_image_pixels
        for number, url in enumerate(urls, 1):
            name = f"image {number}"
            short = len(url) < _SHORT_BYTES
            data = data_of(url, name) if short else await run_in_threadpool(data_of, url, name)
            if data is None:
                data = await remote_images.fetch(url, name, self._parts.settings)
            images.append(await self._recent.read(data, name, who))
            pixels = sum(image.width * image.height for image in images)
            if pixels > most:
                raise BadInput(f"The images have more than {most // 10**6} megapixels together. Scale them down.")
        return images


class _Completion:
    """One request's answers as they are written. `emit` takes the events of a stream."""

    def __init__(self, chat: ChatRequest, variant: Variant) -> None:
        self.chat = chat
        self.variant = variant
        self.emit: Callable[[bytes], None] = lambda event: None
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._panes: dict[int, Pane] = {}

    def take(self, index: int, update: ComparisonUpdate) -> None:
        """The newest of a choice. Sends what is new."""
        (pane,) = update.panes
        before, self._panes[index] = self._panes.get(index), pane
        if before is None:
            before = Pane(pane.variant)
        if not before.token_ids and (pane.token_ids or pane.state in (PaneState.DONE, PaneState.STOPPED)):
            self._send(index, {"role": "assistant", "content": ""})
        texts = {
            "content": _added(before.text, pane.text),
            "reasoning_content": _added(before.reasoning, pane.reasoning),
        }
        if any(texts.values()):
            self._send(index, {name: text for name, text in texts.items() if text})

    def may_be_asked_again(self, index: int) -> bool:
        """Whether its worker died, and the client has got nothing of the answer."""
        pane = self._panes[index]
        died = pane.state is PaneState.FAILED and pane.error_code in (WorkerDied.code, MachineLost.code)
        return died and not (self.chat.stream and pane.token_ids)

    def end(self, index: int) -> bytes:
        """The last event of a choice, after its last update; empty without a stream. Raises ApiError if it failed."""
        pane = self._panes[index]
        if pane.state is PaneState.FAILED:
            raise ApiError(pane.error or "The model failed.", pane.error_code or "error")
        if not self.chat.stream:
            return b""
        more = {"logprobs": self._logprobs(pane)} if self.chat.top_logprobs is not None else {}
        return self._event(index, {}, finish_reason=openai_reply.finish_reason(pane), **more)

    def document(self) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": self._message(index),
                "logprobs": self._logprobs(pane) if self.chat.top_logprobs is not None else None,
                "finish_reason": openai_reply.finish_reason(pane),
            }
            for index, pane in self._panes.items()
        ]
        return self._head("chat.completion") | {"choices": choices} | self._numbers()

    def last_event(self) -> bytes:
        """What follows the answers in a stream: the usage, where it is wanted."""
        if not self.chat.stream_usage:
            return b""
        return openai_reply.event(self._head("chat.completion.chunk") | {"choices": []} | self._numbers())

    def _message(self, index: int) -> dict[str, Any]:
        pane = self._panes[index]
        reasoning = {"reasoning_content": pane.reasoning} if pane.reasoning else {}
        return {"role": "assistant", "content": pane.text, "refusal": None} | reasoning

    def _logprobs(self, pane: Pane) -> dict[str, Any]:
        return openai_reply.logprobs(pane.scores, self.chat.top_logprobs or 0)

    def _numbers(self) -> dict[str, Any]:
        panes = list(self._panes.values())
        return {"usage": openai_reply.usage(panes), "timings": openai_reply.timings(panes[-1])}

    def _send(self, index: int, delta: dict[str, Any]) -> None:
        if self.chat.stream:
            self.emit(self._event(index, delta))

    def _event(self, index: int, delta: dict[str, Any], finish_reason: str | None = None, **more: Any) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason, **more}
        return openai_reply.event(self._head("chat.completion.chunk") | {"choices": [choice]})

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self.variant.id,
            "system_fingerprint": openai_reply.fingerprint(self.variant),
        }


def person(request: Request, settings: Settings) -> str:
    """Whose turn and limits count: the name of a key, of a login, or the address of a program on this machine.

    Raises ApiError for everybody else.
    """
    key = request.headers.get("authorization", "").partition("Bearer ")[2].strip()
    for name, secret in settings.api_keys.items():
        if hmac.compare_digest(secret.get_secret_value().encode(), key.encode()):
            return f"key {name}"
    try:
        visitor = login.name_of(request)
    except HTTPException:  # the Hub's login would lead a browser to its page
        visitor = None
    if visitor is not None:
        return visitor
    if settings.login is Login.NONE and _is_on_this_machine(request):
        return login.address_of(request)
    raise ApiError("Send a key in the header Authorization: Bearer KEY. The operator sets api_keys.", "no_key", 401)


def _is_on_this_machine(request: Request) -> bool:
    """A proxy that is not trusted hides the visitor behind its own address."""
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers:
        return False
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _added(before: str, now: str) -> str:
    """What is new in a text. It begins anew if what looked like the answer was reasoning."""
    return now.removeprefix(before)


async def _next(events: asyncio.Queue[bytes | None]) -> bytes | None:
    try:
        return await asyncio.wait_for(events.get(), _SILENCE_S)
    except TimeoutError:
        return b": waiting\n\n"  # a comment: clients and proxies see that the connection lives


async def _unless_gone(request: Request, work: Any) -> None:
    """Cancels `work` when the client closes the connection. Raises ClientDisconnect, and what `work` raises."""
    running, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            raise ClientDisconnect
        await running
    finally:
        running.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
