"""Images of people who are not trusted, decoded in child processes: two at a time, each within a time and a memory.

A file of some hundred kilobytes can take gigabytes (9400 × 9400 RGBA) or minutes (thousands of progressive scans), and
Pillow cannot be stopped. A child can: it is killed, and the next image gets a new one.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, LifoQueue
from socket import socketpair
from threading import BoundedSemaphore, Lock
from typing import IO

import msgspec

from playground.comparing.images import MAX_PIXELS, Document, document, read_page
from playground.errors import BadImage, Busy
from playground.support.background import give_way
from playground.values.request import Image

_AT_ONCE = 2
_OF_ONE_PERSON = 8  # that are read or wait; they are read one at a time
_WAIT_S = 60.0  # for one of them to be free
_NICENESS = 10  # a run's worker has ten times the weight: its speed is measured
_TIME_S = 20  # of the processor's; 60 megapixels take 1.3 s
_DEADLINE_S = 60.0  # on a busy machine
_MEMORY_BYTES = 3 * 2**29  # of addresses; 88 megapixels with transparency take 0.9 GB


class _Request(msgspec.Struct, frozen=True):
    path: str  # or empty
    data: bytes
    name: str
    max_pixels: int
    page: int


class _Decoded(msgspec.Struct, frozen=True):
    width: int
    height: int
    sha256: str
    note: str | None
    pages: int = 1
    error: str | None = None
    rgb: bytes = b""  # empty: they are in the shared file


class ImageDecoder:
    """Owns the children. Safe to use from several threads. A child starts with the first image, and stays."""

    def __init__(self, time_s: int = _TIME_S, memory_bytes: int = _MEMORY_BYTES) -> None:
        self._places = BoundedSemaphore(_AT_ONCE)
        self._idle: LifoQueue[_Child] = LifoQueue()
        self._lock = Lock()
        self._turns: dict[str, list[Lock]] = {}  # by person: their one lock, once for each of their images
        self._time_s = time_s
        self._memory_bytes = memory_bytes

    def read(
        self, source: str | Path | io.BytesIO, name: str = "", *, max_pixels: int = MAX_PIXELS, who: str = ""
    ) -> Image:
        """As `images.read_image`. Raises BadImage, and Busy if there are too many images.

        `who`: of this person one image is read at a time.
        """
        with self._turn(who):
            return self._read(source, name, 0, max_pixels)[0]

    def read_pages(
        self, path: str | Path, numbers: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS, who: str = ""
    ) -> Document:
        """Pages of a document, from 1 on; None: the first ones. Of any other file its one image. Raises as `read`."""
        with self._turn(who):
            return document(lambda page: self._read(path, "", page, max_pixels), numbers)

    @contextmanager
    def _turn(self, who: str) -> Iterator[None]:
        if not who:
            yield
            return
        with self._lock:
            locks = self._turns.setdefault(who, [])
            if len(locks) >= _OF_ONE_PERSON:
                raise Busy(f"Busy: {_OF_ONE_PERSON} of your images are being read. Try again in a moment.")
            lock = locks[0] if locks else Lock()
            locks.append(lock)
        try:
            if not lock.acquire(timeout=_WAIT_S):
                raise Busy("Others of your images are being read. Try again in a moment.")
            try:
                yield
            finally:
                lock.release()
        finally:
            with self._lock:
                locks.pop()
                if not locks:
                    del self._turns[who]

    def _read(self, source: str | Path | io.BytesIO, name: str, page: int, max_pixels: int) -> tuple[Image, int]:
        data, path = (source.getvalue(), "") if isinstance(source, io.BytesIO) else (b"", str(source))
        name = name or Path(path).name
        with self._child() as child:
            return child.read(_Request(path, data, name, max_pixels, page))

    def prepare(self) -> None:
        """Starts a child, so that the first image does not wait for it."""
        with self._child():
            pass

    def close(self) -> None:
        """Ends the children that are idle."""
        while True:
            try:
                self._idle.get_nowait().end()
            except Empty:
                return

    @contextmanager
    def _child(self) -> Iterator[_Child]:
        if not self._places.acquire(timeout=_WAIT_S):
            raise Busy("Other images are being read. Try again in a moment.")
        try:
            try:
                child = self._idle.get_nowait()
            except Empty:
                child = _Child(self._time_s, self._memory_bytes)
            try:
                yield child
            finally:
                if child.alive:
                    self._idle.put(child)
        finally:
            self._places.release()


class _Child:
    """A process that decodes one image after another, and ends with the app."""

    def __init__(self, time_s: int, memory_bytes: int) -> None:
        self._pixels = _memory_file()  # the child hands its pixels over in it: 12 megapixels take longer in a pipe
        ours, theirs = socketpair()
        # Nothing of the app's own environment: it may hold a token and a password.
        path = [str(Path(__file__).parents[2]), *filter(None, sys.path)]
        environment = {"PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "playground.comparing.image_decoder"]
                + [str(number) for number in (theirs.fileno(), self._pixels.fileno(), time_s, memory_bytes)],
                pass_fds=(theirs.fileno(), self._pixels.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        self._shared: mmap.mmap | None = None
        self.alive = True

    def read(self, request: _Request) -> tuple[Image, int]:
        done = False
        try:
            self._connection.send_bytes(msgspec.msgpack.encode(request))
            if not self._connection.poll(_DEADLINE_S):
                raise BadImage(f"{request.name} takes too long to read. Save it again as PNG or JPEG.")
            reply = msgspec.msgpack.decode(self._connection.recv_bytes(), type=_Decoded)
            rgb = b"" if reply.error is not None else reply.rgb or self._copied(reply.width * reply.height * 3)
            done = True
        except (EOFError, OSError):
            raise BadImage(
                f"{request.name} takes too much time or memory to read. Save it again, scaled down, as PNG or JPEG."
            ) from None
        finally:
            if not done:  # also when this thread is interrupted: the reply would be taken for the next image's
                self.end()
        if reply.error is not None:
            raise BadImage(reply.error)
        image = Image(rgb=rgb, width=reply.width, height=reply.height, sha256=reply.sha256, note=reply.note)
        return image, reply.pages

    def _copied(self, size: int) -> bytes:
        """Of the shared file. It stays mapped: reading 36 MB takes twice as long."""
        if self._shared is None or len(self._shared) < size:
            self._shared = mmap.mmap(self._pixels.fileno(), 0, access=mmap.ACCESS_READ)
        return self._shared[:size]

    def end(self) -> None:
        self.alive = False
        self._connection.close()
        if self._shared is not None:
            self._shared.close()
        self._pixels.close()
        self._process.kill()
        self._process.wait()


DECODER = ImageDecoder()


def _memory_file() -> IO[bytes]:
    if sys.platform == "linux":
        number = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        # A child that a stranger's image took over must not make it shorter: reading behind its end ends the app.
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        return os.fdopen(number, "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _serve(connection: Connection, pixels: IO[bytes], time_s: int, memory_bytes: int) -> None:
    """Runs in the child until the app closes the connection."""
    give_way(_NICENESS)
    if sys.platform == "linux":  # elsewhere the limit on addresses does not hold
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    shared = None
    while True:
        try:
            request = msgspec.msgpack.decode(connection.recv_bytes(), type=_Request)
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        resource.setrlimit(
            resource.RLIMIT_CPU, (1 + int(used.ru_utime + used.ru_stime) + time_s, resource.RLIM_INFINITY)
        )
        source = request.path or io.BytesIO(request.data)
        try:
            image, pages = read_page(source, request.name, request.page, max_pixels=request.max_pixels)
        except BadImage as error:
            reply = _Decoded(0, 0, "", None, error=error.message)
        else:
            reply = _Decoded(image.width, image.height, image.sha256, image.note, pages)
            try:
                shared = _filled(pixels, shared, image.rgb)
            except OSError:  # no file may grow here: a limit of the operator's, or memory
                reply = msgspec.structs.replace(reply, rgb=image.rgb)
            del image
        connection.send_bytes(msgspec.msgpack.encode(reply))


def _filled(pixels: IO[bytes], shared: mmap.mmap | None, rgb: bytes) -> mmap.mmap:
    """The file's memory with these bytes. It stays mapped: to write 36 MB into it takes 4 ms, into the file 20."""
    if shared is None or len(shared) < len(rgb):
        pixels.truncate(len(rgb))
        shared = mmap.mmap(pixels.fileno(), len(rgb))
    shared[: len(rgb)] = rgb
    return shared


if __name__ == "__main__":
    _number, _pixels, _seconds, _bytes = map(int, sys.argv[1:])
    _serve(Connection(_number), os.fdopen(_pixels, "w+b", buffering=0), _seconds, _bytes)
