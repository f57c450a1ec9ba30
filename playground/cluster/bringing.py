"""Brings model files to another machine: its own by their sha256, else from the Hub, else copied from the page's."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any
from uuid import uuid4

from ray.exceptions import RayError

from playground.cluster.machine import Machine
from playground.cluster.messages import Fault, Located, WantedFile
from playground.engine import protocol
from playground.errors import Interrupted, NoRoom
from playground.models.gguf import file_links
from playground.values.memory import Arriving

logger = logging.getLogger(__name__)

_PIECE_BYTES = 8 * 2**20
_WAIT_S = 0.2
_HASHING_S = 600.0  # an agent may have to read its own files first


def brought(machine: Machine, path: str, stop: Callable[[], bool], on_step: Callable[[protocol.Step], None]) -> str:
    """Where the machine has this model: all shards of it, in one folder.

    `on_step` gets bytes. Raises what the agent reports, Interrupted and MachineLost.
    """
    shards = file_links.shards(Path(path))
    theirs = [_brought(machine, shard, stop, on_step) for shard in shards]
    if len(theirs) > 1:
        return str(machine.call("together", theirs))
    return theirs[0]


def _brought(machine: Machine, path: Path, stop: Callable[[], bool], on_step: Callable[[protocol.Step], None]) -> str:
    file = WantedFile(path.name, machine.sha256_of(path), path.stat().st_size, file_links.origin(path))

    def note(done: int) -> None:
        machine.note_arriving(Arriving(file.name, done, file.bytes))
        on_step(protocol.Step(done, file.bytes, f"{file.name}, to {machine.name}"))

    with machine.bringing(file.sha256, stop):  # one worker brings a file, the others wait for it
        located: Located = machine.call("locate", file, timeout_s=_HASHING_S)
        if located.path is not None:
            return located.path
        note(located.copied)
        try:
            if file.origin is not None and not located.copied:
                downloaded = _downloaded(machine, file, stop, note)
                if downloaded is not None:
                    return downloaded
            return _copied(machine, path, file, located.copied, stop, note)
        finally:
            machine.note_arrived(file.name)


def _downloaded(
    machine: Machine, file: WantedFile, stop: Callable[[], bool], note: Callable[[int], None]
) -> str | None:
    """None: the machine cannot get it from the Hub; its log and this one's say why."""
    logger.info("%s downloads %s", machine.name, file.name)
    replies, is_stopped = SimpleQueue[int | str | Fault | RayError](), False
    name = uuid4().hex
    machine.stream(replies, "download", name, file)
    while True:
        if not is_stopped and stop():
            is_stopped = True
            machine.send("stop_download", name)
        try:
            news = replies.get(timeout=_WAIT_S)
        except Empty:
            if machine.lost:
                raise machine.gone() from None
            continue
        if isinstance(news, str):
            return news
        if isinstance(news, RayError):
            raise machine.gone(news)
        if isinstance(news, int):
            note(news)
        elif is_stopped or news.kind == NoRoom.__name__:
            raise news.error
        else:
            logger.info("%s cannot download %s, so it is copied: %s", machine.name, file.name, news.message)
            return None


def _copied(
    machine: Machine,
    path: Path,
    file: WantedFile,
    offset: int,
    stop: Callable[[], bool],
    note: Callable[[int], None],
) -> str:
    """From where an earlier copy was cut off."""
    logger.info("copying %s to %s from byte %d on", file.name, machine.name, offset)
    with open(path, "rb") as source:
        while offset < file.bytes:
            if stop():
                raise Interrupted("Stopped while a model was copied. The next run goes on with the copy.")
            source.seek(offset)
            piece = source.read(_PIECE_BYTES)
            if not piece:
                break  # it was cut short meanwhile: its sha256 tells
            offset = _known(machine.call("append", file, offset, piece, timeout_s=60.0))
            note(offset)
    finished: str = _known(machine.call("finish", file, timeout_s=_HASHING_S))
    return finished


def _known(reply: Any) -> Any:
    if isinstance(reply, Fault):
        raise reply.error
    return reply
