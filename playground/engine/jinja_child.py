"""The process that renders strangers' templates. `python -m playground.engine.jinja_child FD`.

It serves one job at a time. The kernel ends it when a job takes too much computing time; an allocation beyond the
memory limit fails. jinja_process.py is its parent's side.
"""

from __future__ import annotations

import resource
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

import jinja2
import msgspec

from playground.engine import jinja_chat

CPU_S = 0.75  # for one job; the templates of 70 models take milliseconds
MEMORY_BYTES = 512 * 2**20  # of addresses, Python and Jinja included
_TEXT_CHARACTERS = 2**20  # beside what the chat itself holds


class RenderJob(msgspec.Struct, frozen=True):
    """messages: None only compiles the template."""

    template: str
    messages: list[dict[str, Any]] | None
    variables: dict[str, Any]


class RenderedChat(msgspec.Struct, frozen=True, tag=True):
    text: str


class TemplateFailed(msgspec.Struct, frozen=True, tag=True):
    """The template failed. line: where its syntax is invalid; None for every other failure."""

    message: str
    line: int | None = None


class LimitExceeded(msgspec.Struct, frozen=True, tag=True):
    """A limit was exceeded; `limit` names it."""

    limit: str


Outcome = RenderedChat | TemplateFailed | LimitExceeded

_encoder = msgspec.msgpack.Encoder()
_jobs = msgspec.msgpack.Decoder(RenderJob)


def _outcome(data: bytes) -> bytes:
    """The encoded Outcome of an encoded RenderJob."""
    try:
        job = _jobs.decode(data)
        if job.messages is None:
            jinja_chat.compile_template(job.template)
            return _encoder.encode(RenderedChat(""))
        text = jinja_chat.render(job.template, job.messages, variables=job.variables)
        if len(text) > _TEXT_CHARACTERS + 4 * len(data):
            return _encoder.encode(LimitExceeded("wrote more than 1 MB of text"))
        return _encoder.encode(RenderedChat(text))  # fails for half a surrogate pair
    except MemoryError:
        return _encoder.encode(LimitExceeded(f"needed more than {MEMORY_BYTES // 2**20} MiB of memory"))
    except jinja2.TemplateSyntaxError as error:
        return _encoder.encode(TemplateFailed(_sendable(error.message or "invalid syntax"), error.lineno))
    except Exception as error:  # a template can raise anything
        return _encoder.encode(TemplateFailed(_sendable(str(error) or type(error).__name__)))


def _sendable(text: str) -> str:
    return text[:2000].encode(errors="replace").decode()


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection = Connection(int(sys.argv[1]))
    while True:
        try:
            data = connection.recv_bytes()
        except EOFError:
            return
        signal.setitimer(signal.ITIMER_PROF, CPU_S)
        outcome = _outcome(data)
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send_bytes(outcome)


if __name__ == "__main__":
    main()
