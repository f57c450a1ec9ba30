"""An OpenAI-compatible server that answers what a test tells it: also slowly, not to the end, and nonsense."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any

from playground.endpoints.client import Endpoint

KEY = "sk-of-the-tests"
MODEL = "some/model"

Answer = Callable[["Reply"], None]


@dataclass
class EndpointServer:
    """`answer` writes each reply; what was asked is kept."""

    url: str
    answer: Answer
    asked: list[dict[str, Any]] = field(default_factory=list)  # the bodies
    keys: list[str] = field(default_factory=list)  # the Authorization headers
    go_on: Event = field(default_factory=Event)  # for an answer that waits

    def endpoint(self, name: str = "box", model: str = MODEL, **options: Any) -> Endpoint:
        return Endpoint(name, f"{self.url}/v1", model, **({"connect_s": 20.0, "silence_s": 60.0} | options))


class Reply:
    """One response that is being written."""

    def __init__(self, handler: BaseHTTPRequestHandler, server: EndpointServer) -> None:
        self._handler = handler
        self.server = server

    def head(self, status: int = 200, kind: str = "text/event-stream", **headers: str) -> None:
        self._handler.send_response(status)
        self._handler.send_header("Content-Type", kind)
        for name, value in headers.items():
            self._handler.send_header(name, value)
        self._handler.send_header("Connection", "close")
        self._handler.end_headers()

    def raw(self, data: bytes) -> None:
        self._handler.wfile.write(data)
        self._handler.wfile.flush()

    def event(self, **document: Any) -> None:
        self.raw(f"data: {json.dumps(document)}\n\n".encode())

    def piece(self, text: str, *, model: str | None = MODEL, logprobs: Any = None, end: str | None = None) -> None:
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": end, "logprobs": logprobs}
        self.event(model=model, choices=[choice])

    def done(self, **usage: int) -> None:
        self.event(choices=[], usage=usage or None)
        self.raw(b"data: [DONE]\n\n")

    def refuse(self, status: int, document: Any, **headers: str) -> None:
        self.head(status, "application/json", **headers)
        self.raw(json.dumps(document).encode())


def says(*texts: str, model: str | None = MODEL) -> Answer:
    """Streams an answer in these pieces."""

    def answer(reply: Reply) -> None:
        reply.head()
        for text in texts:
            reply.piece(text, model=model)
        reply.piece("", model=model, end="stop")
        reply.done(prompt_tokens=7, completion_tokens=len(texts))

    return answer


def with_logprobs(tokens: Sequence[tuple[str, float]], top: Sequence[Sequence[tuple[str, float]]]) -> dict[str, Any]:
    """The logprobs of a choice: tokens, and the likeliest ones in the place of each."""
    content = [
        {"token": text, "logprob": lp, "top_logprobs": [{"token": t, "logprob": p} for t, p in candidates]}
        for (text, lp), candidates in zip(tokens, top, strict=True)
    ]
    return {"content": content}


@contextmanager
def serving(answer: Answer) -> Iterator[EndpointServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            endpoint.asked.append(json.loads(body))
            endpoint.keys.append(self.headers.get("Authorization", ""))
            endpoint.answer(Reply(self, endpoint))

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    endpoint = EndpointServer(f"http://127.0.0.1:{server.server_port}", answer)
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.go_on.set()
        server.shutdown()
        thread.join()
        server.server_close()
