"""The parent's end of a worker's pipe.

Threads of its own read and write it: a worker that was stopped in the middle of a message holds nobody but them.
"""

from __future__ import annotations

import os
import socket
import time
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread

import msgspec

from playground.engine import protocol


class Pipe:
    """Sends and receives messages without blocking on the other side. For one thread at a time."""

    def __init__(self, connection: Connection) -> None:
        self.heard_at = time.monotonic()  # when the last message came, a sign of life included
        self._connection = connection
        self._outbox: SimpleQueue[protocol.Message | None] = SimpleQueue()
        self._inbox: SimpleQueue[protocol.Reply | Exception | None] = SimpleQueue()
        Thread(target=self._read, daemon=True).start()
        Thread(target=self._write, daemon=True).start()

    def send(self, message: protocol.Message) -> None:
        """Returns at once. A message that cannot be sent is lost; `receive` raises then."""
        self._outbox.put(message)

    def receive(self, timeout_s: float) -> protocol.Reply | None:
        """The next reply, None if there is none yet. Raises EOFError or OSError once the worker is gone, and
        msgspec.MsgspecError for what is no reply."""
        try:
            reply = self._inbox.get(timeout=timeout_s)
        except Empty:
            return None
        if isinstance(reply, Exception):
            self._inbox.put(reply)  # nothing comes after it
            raise reply
        return reply

    def wake(self) -> None:
        """`receive` returns None at once. From any thread."""
        self._inbox.put(None)

    def close(self) -> None:
        """The worker reads the end of the pipe, and so do the threads here. From any thread."""
        with socket.socket(fileno=os.dup(self._connection.fileno())) as pipe:
            try:
                pipe.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the worker's side is gone

    def _read(self) -> None:
        try:
            while True:
                reply = protocol.receive_reply(self._connection)
                self.heard_at = time.monotonic()
                if not isinstance(reply, protocol.Alive):
                    self._inbox.put(reply)
        except (EOFError, OSError, msgspec.MsgspecError) as error:
            self._inbox.put(error)
        finally:
            self._outbox.put(None)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                protocol.send(self._connection, message)
            except OSError:
                return
