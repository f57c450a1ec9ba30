"""A worker on another machine, seen from the page: a Worker of the pool's contract."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import msgspec
from ray.exceptions import RayError

from playground.cluster.bringing import brought
from playground.cluster.machine import Machine
from playground.cluster.messages import Fault
from playground.cluster.shared_embeddings import SharedEmbeddings
from playground.engine import protocol
from playground.errors import WorkerDied
from playground.pool.contract import FRESH_S, Dialogue
from playground.pool.turn_order import Places
from playground.values.memory import WorkerState

logger = logging.getLogger(__name__)

_POLL_S = 0.05
_START_S = 130.0  # the agent's own limit is 120 s
_STOP_S = 7.0


class RemoteWorker:
    """Owns a worker that an agent started. See contract.Worker."""

    def __init__(self, machine: Machine, name: str, places: Places, embeddings: SharedEmbeddings) -> None:
        """`places`: as its machine names them."""
        self.name = name
        self.state = WorkerState.STARTING
        self._machine = machine
        self._embeddings = embeddings
        self._replies: SimpleQueue[Any] = SimpleQueue()  # of the running request; None: a call to wake
        self._heard_at = 0.0
        self._requests = itertools.count()
        self._own_pid: int = machine.call("start", name, places)
        self.pid = machine.pid(self._own_pid)

    @property
    def alive(self) -> bool:
        return self.state in (WorkerState.READY, WorkerState.BUSY) and not self._machine.lost

    @property
    def is_fresh(self) -> bool:
        return self.alive and time.monotonic() - self._heard_at < FRESH_S

    def wait_ready(self) -> protocol.Ready:
        ready = self._known(self._machine.call("wait_ready", self._own_pid, timeout_s=_START_S))
        assert isinstance(ready, protocol.Ready)
        self.state = WorkerState.READY
        return ready

    def ping(self) -> protocol.Pong | None:
        try:
            pong: protocol.Pong | None = self._machine.call("ping", self._own_pid)
        except WorkerDied:
            pong = None
        if pong is None:
            self.state = WorkerState.FAILED
        return pong

    def request(
        self,
        request: protocol.Request[protocol.R],
        *,
        on_chunk: Callable[[protocol.Chunk], None] = lambda chunk: None,
        on_step: Callable[[protocol.Step], None] = lambda step: None,
        dialogue: Dialogue | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> protocol.R:
        self.state = WorkerState.BUSY
        try:
            sent, written = self._with_its_paths(request, stop, on_step)
            reply = self._ask(sent, on_chunk, on_step, dialogue, stop)
            for theirs, (ours, stays) in written.items():
                self._keep(theirs, ours, stays=stays, failed=isinstance(reply, Fault))
        except BaseException:
            self.stop()  # its replies to this request would be taken for those to the next one
            raise
        if isinstance(reply, Fault):
            self.state = reply.state
            raise reply.error
        self.state = WorkerState.READY
        assert isinstance(reply, request.reply_type())
        return reply

    def wake(self) -> None:
        self._replies.put(None)

    def stop(self) -> None:
        if self.state is WorkerState.STOPPED:
            return
        self.state = WorkerState.STOPPED
        try:
            self._machine.call("stop", self._own_pid, timeout_s=_STOP_S)
        except WorkerDied as error:  # it ends with its agent, or by the agent's watch
            logger.info("%s: %s", self.name, error)

    def _ask(
        self,
        request: protocol.Request[Any],
        on_chunk: Callable[[protocol.Chunk], None],
        on_step: Callable[[protocol.Step], None],
        dialogue: Dialogue | None,
        stop: Callable[[], bool],
    ) -> protocol.Message | Fault:
        self._replies = replies = SimpleQueue[Any]()
        number = next(self._requests)
        self._machine.stream(replies, "request", self._own_pid, number, *self._embeddings.sent(request))
        cancelled, n_told, joining = False, 0, deque[protocol.Message]()
        written: dict[int, tuple[str, str, bool]] = {}  # by id: as for _keep
        while True:
            if not cancelled and stop():
                cancelled = True
                self._machine.send("cancel", self._own_pid, number)
            if dialogue is not None:
                joining += dialogue.to_send()
            if cancelled:
                joining.clear()
            if joining:  # one by one: its machine begins with the first while the next one's record is copied
                sent = self._embeddings.sent(self._joining(joining.popleft(), written))
                self._machine.send("tell", self._own_pid, number, n_told, *sent)
                n_told += 1
            try:
                batch = replies.get(timeout=0.0 if joining else _POLL_S)
            except Empty:
                if self._machine.lost:
                    raise self._machine.gone() from None
                if self.state is WorkerState.STOPPED:
                    raise WorkerDied("The worker was ended. Run again to start it anew.") from None
                continue
            if batch is None:
                continue
            if isinstance(batch, RayError):
                raise self._machine.gone(batch)
            self._heard_at = time.monotonic()
            for encoded in batch:
                if isinstance(encoded, Fault):
                    return encoded
                reply = protocol.as_reply(encoded)
                if isinstance(reply, protocol.Chunk):
                    on_chunk(reply)
                elif isinstance(reply, protocol.SequenceReply):
                    if isinstance(reply, protocol.SequenceRead) and reply.id in written:
                        theirs, ours, stays = written.pop(reply.id)
                        self._keep(theirs, ours, stays=stays, failed=reply.failed is not None)
                    if dialogue is not None:
                        dialogue.received(reply)
                elif isinstance(reply, protocol.Step):
                    on_step(reply)
                else:
                    return reply

    def _known(self, reply: Any) -> Any:
        if isinstance(reply, Fault):
            self.state = reply.state
            raise reply.error
        return reply

    # --- files ---------------------------------------------------------------------------------------------------

    def _with_its_paths(
        self, request: protocol.Request[Any], stop: Callable[[], bool], on_step: Callable[[protocol.Step], None]
    ) -> tuple[protocol.Request[Any], dict[str, tuple[str, bool]]]:
        """The request as its machine understands it, and what it writes there: the path here, and whether it stays."""

        def model(path: str) -> str:
            return brought(self._machine, path, stop, on_step)

        match request:
            case protocol.LoadLanguage():
                return msgspec.structs.replace(request, model=model(request.model)), {}
            case protocol.LoadVision():
                projector = model(request.projector)
                return msgspec.structs.replace(request, projector=projector, model=model(request.model)), {}
            case protocol.PlanMemory():
                load = msgspec.structs.replace(request.load, model=model(request.load.model))
                return protocol.PlanMemory(load), {}
            case protocol.Record():
                path = self._machine.scratch(Path(request.path).suffix)
                return msgspec.structs.replace(request, path=path), {path: (request.path, False)}
            case protocol.Measure():
                path = self._record_there(request.path)
                own = self._machine.scratch(Path(request.own).suffix) if request.own else ""
                sent = msgspec.structs.replace(request, path=path, own=own)
                return sent, {own: (request.own, request.own_stays)} if own else {}
            case _:
                return request, {}

    def _joining(self, message: protocol.Message, written: dict[int, tuple[str, str, bool]]) -> protocol.Message:
        """The message as its machine understands it. What it writes there is noted in `written`."""
        if not isinstance(message, protocol.JoinReading):
            return message
        against = self._record_there(message.against) if message.against else ""
        own = self._machine.scratch(Path(message.own).suffix) if message.own else ""
        if own:
            written[message.id] = own, message.own, message.own_stays
        return msgspec.structs.replace(message, against=against, own=own)

    def _record_there(self, ours: str) -> str:
        """Where it is there. If it was lost with another machine, the path of none: the worker fails this reading."""
        try:
            return self._machine.records.there(ours)
        except FileNotFoundError:
            return self._machine.scratch(Path(ours).suffix)

    def _keep(self, theirs: str, ours: str, *, stays: bool, failed: bool) -> None:
        """What was written there, so that it need not be copied there."""
        if failed:
            self._machine.send("delete", theirs)
            return
        if not stays:
            self._machine.fetch(theirs, ours)
        self._machine.records.written(theirs, ours, stays=stays)
