"""A worker that notes in each piece of an answer when it was sent. Processes of one host share the clock."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.connection import Connection
from typing import TypeVar

import msgspec

from playground.engine.protocol import Chunk, Message, Reply
from playground.engine.worker import RequestServer

M = TypeVar("M", bound=Message)


def stamped(message: M, hop: str) -> M:
    """A piece with one stamp more; anything else as it is."""
    if not isinstance(message, Chunk):
        return message
    return msgspec.structs.replace(message, controls=(*message.controls, f"{hop} {time.monotonic_ns()}"))


class StampingServer(RequestServer):
    def _send(self, reply: Reply) -> None:
        super()._send(stamped(reply, "sent"))


if __name__ == "__main__":
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    StampingServer(Connection(int(sys.argv[1]))).serve()
