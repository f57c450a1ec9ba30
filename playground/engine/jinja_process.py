"""Renders chat templates in a child of the worker, within limits of time and memory.

A template is a program from a stranger. Python can neither interrupt its loops nor bound its memory; the kernel can,
for a process. So the worker keeps its model, and the turn is free again.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jinja2
import msgspec

from playground.engine.jinja_child import CPU_S, LimitExceeded, Outcome, RenderJob, TemplateFailed
from playground.errors import BadModel

_WALL_S = 10.0  # for a child that waits for a processor, or that was stopped
_ADVICE = "Choose another one, such as chatml."

_encoder = msgspec.msgpack.Encoder()
_outcomes: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Outcome)


class JinjaProcess:
    """Owns the child. Starts it when it is first needed, and again after a template that exceeded a limit."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._connection: Connection

    def close(self) -> None:
        """End the child. A worker need not: its own end is the pipe's."""
        if self._child is not None:
            self._connection.close()
            self._child.wait()

    def start(self) -> None:
        """Start the child unless it runs. Returns before it has imported Jinja."""
        if self._child is not None and self._child.poll() is None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "playground.engine.jinja_child", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())

    def render(
        self, template: str, messages: Sequence[Mapping[str, Any]], *, variables: Mapping[str, Any] | None = None
    ) -> str:
        """As jinja_chat.render. Raises jinja2.TemplateError, and BadModel for a template that exceeds a limit."""
        return self._do(RenderJob(template, [dict(m) for m in messages], dict(variables or {})))

    def compile(self, template: str) -> None:
        """Raises jinja2.TemplateSyntaxError, and BadModel for a template that exceeds a limit."""
        self._do(RenderJob(template, None, {}))

    def _do(self, job: RenderJob) -> str:
        self.start()
        assert self._child is not None
        try:
            self._connection.send_bytes(_encoder.encode(job))
            if not self._connection.poll(_WALL_S):
                self._child.kill()
                self._child.wait()
                self._start_again()
                raise _exceeded(f"took longer than {_WALL_S:.0f} s")
            outcome = _outcomes.decode(self._connection.recv_bytes())
        except (EOFError, OSError):
            code = self._child.wait()
            self._start_again()
            if code == -signal.SIGPROF:
                raise _exceeded(f"took more than {CPU_S:g} s of computing time") from None
            raise BadModel(f"The chat template ended its process (code {code}). {_ADVICE}") from None
        if isinstance(outcome, LimitExceeded):
            raise _exceeded(outcome.limit)
        if isinstance(outcome, TemplateFailed):
            if outcome.line is not None:
                raise jinja2.TemplateSyntaxError(outcome.message, outcome.line)
            raise jinja2.TemplateError(outcome.message)
        return outcome.text

    def _start_again(self) -> None:
        """The child imports Jinja while the error goes back: the next person need not wait for that."""
        with contextlib.suppress(OSError):  # the next template tells
            self.start()


def _exceeded(limit: str) -> BadModel:
    return BadModel(f"The chat template {limit} and was stopped. {_ADVICE}")
