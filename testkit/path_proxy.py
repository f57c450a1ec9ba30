"""A reverse proxy on this machine that shows an app below a path, and takes the path off each request."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import httpx

_MOST_HEAD = 65536


class PathProxy:
    """One request a connection: a head can then be changed without reading bodies."""

    def __init__(self, url: str, path: str) -> None:
        target = httpx.URL(url)
        self._target = target.host, target.port or 80
        self._path = path.encode()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}{path}/"
        Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            read = b""
            while b"\r\n\r\n" not in read and len(read) < _MOST_HEAD:
                if not (data := client.recv(65536)):
                    return
                read += data
            head, _, body = read.partition(b"\r\n\r\n")
            method, path, rest = head.split(b" ", 2)
            if not path.startswith(self._path + b"/"):
                client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            rest = re.sub(rb"(?im)^connection:.*\r\n", b"", rest + b"\r\n") + b"Connection: close\r\n\r\n"
            with socket.create_connection(self._target) as app:
                app.sendall(b" ".join((method, path.removeprefix(self._path), rest)) + body)
                Thread(target=_copy, args=(client, app), daemon=True).start()
                _copy(app, client)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)


@contextmanager
def below(path: str, url: str) -> Iterator[PathProxy]:
    proxy = PathProxy(url, path)
    try:
        yield proxy
    finally:
        proxy.close()
