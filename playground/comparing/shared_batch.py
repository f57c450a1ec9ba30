"""One batch of a language model that requests of several people join as they come, and leave when they are answered.

Each request waits in a thread of its own. One more thread holds the worker, and speaks for all of them.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Condition, Event, Thread

from playground.comparing.batch import CELLS, Embeddings
from playground.engine import protocol
from playground.errors import EngineError, OutOfMemory, PlaygroundError
from playground.pool.handles import Lease, Stop
from playground.pool.leasing import Slot
from playground.pool.process import as_error
from playground.pool.worker_spec import WorkerSpec, language_spec
from playground.values.files import ModelFile
from playground.values.request import Runtime, Sampling

logger = logging.getLogger(__name__)

_WAIT_S = 0.05  # how often a request looks at its stop flag
_AHEAD = 2  # prompts that wait in the worker
_LONGER = 128  # tokens by which the next question may be longer than the first one
_MOST_CELLS = 2**17  # of the context, unless two requests need more
_PASSED_AT_MOST = 32  # later requests about another picture that a request lets go first


@dataclass(eq=False, slots=True)
class _Member:
    """A request in the batch."""

    id: int
    prompt: protocol.EncodedPrompt
    sampling: Sampling
    on_chunk: Callable[[protocol.Chunk], None]
    n_candidates: int | None
    began: bool = False  # a piece of its answer came
    passed: int = 0  # how many joined before it though they came later
    end: protocol.SequenceEnded | PlaygroundError | None = None
    ended: Event = field(default_factory=Event)

    @property
    def picture(self) -> tuple[object, ...]:
        """Equal for prompts that share their beginning up to the last image."""
        return tuple(c.key if isinstance(c, protocol.ImageChunk) else c.token_ids for c in self.prompt.prefix)

    @property
    def prefix_tokens(self) -> int:
        return sum(map(protocol.n_tokens, self.prompt.prefix))

    @property
    def own_tokens(self) -> int:
        """What it may hold beside the prefix."""
        return self.prompt.n_tokens - self.prefix_tokens + self.sampling.max_tokens + 1


class SharedBatch:
    """Opened in a turn, for one language model. `close` ends it. Safe to use from several threads."""

    def __init__(
        self,
        slot: Slot,
        model: ModelFile,
        runtime: Runtime,
        sequences: int,
        *,
        one_picture: bool,
        beside: Sequence[WorkerSpec] = (),
    ) -> None:
        """`one_picture`: only requests about the same picture are answered at the same time.

        `beside`: the workers that its requests use before they join; they have to fit into memory with it.
        """
        self._slot = slot
        self._model = model
        self._runtime = runtime
        self._sequences = sequences
        self._one_picture = one_picture
        self._beside = tuple(beside)
        self._ids = itertools.count()
        self._changed = Condition()
        self._waiting: list[_Member] = []
        self._leaving: list[int] = []
        self._picture: tuple[object, ...] | None = None  # of the request that joined last
        self._closed = False
        self._lease: Lease | None = None  # while the worker serves
        self.worker = self._spec(sequences)  # as it was asked for last
        self._thread = Thread(target=self._serve_all, daemon=True)
        self._thread.start()

    def _spec(self, sequences: int, cells: int = CELLS) -> WorkerSpec:
        return language_spec(self._model, replace(self._runtime, n_ctx=cells), sequences=sequences)

    def answer(
        self,
        prompt: protocol.EncodedPrompt,
        sampling: Sampling,
        on_chunk: Callable[[protocol.Chunk], None],
        stop: Stop,
        n_candidates: int | None = None,
    ) -> protocol.SequenceEnded:
        """Blocks until the answer has ended; `on_chunk` gets its pieces in another thread. Raises what it failed with.

        `n_candidates`: as of Join. An answer that `stop` ends has the reason "stopped".
        """
        member = _Member(next(self._ids), prompt, sampling, on_chunk, n_candidates)
        with self._changed:
            self._waiting.append(member)
            self._changed.notify_all()
            self._wake()
        while not member.ended.wait(_WAIT_S):
            if stop():
                self._leave(member)
        if isinstance(member.end, PlaygroundError):
            raise member.end
        assert member.end is not None
        if member.end.failed is not None:
            raise as_error(member.end.failed)
        return member.end

    def close(self) -> None:
        """When nobody waits any more. Returns when the worker is free."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._wake()
        self._thread.join()

    def _leave(self, member: _Member) -> None:
        with self._changed:
            if member in self._waiting:
                self._waiting.remove(member)
                _end(member, protocol.SequenceEnded(member.id, "stopped"))
            else:
                self._leaving.append(member.id)
                self._wake()

    def _wake(self) -> None:
        if self._lease is not None:
            self._lease.wake()

    # --- the batch's thread --------------------------------------------------------------------------------------

    def _serve_all(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return
                first = self._waiting[0]
            self._serve(first)

    def _serve(self, first: _Member) -> None:
        """Answer those that fit into a context that `first` fits in, until none is left or another size is needed."""
        try:
            sequences, cells = self._size(first)
        except OutOfMemory as error:
            with self._changed:
                if first in self._waiting:
                    self._waiting.remove(first)
                    _end(first, error)
            return
        self.worker = self._spec(sequences, cells)
        request = protocol.OpenBatch(
            replace(self._runtime, n_ctx=cells), sequences, self._runtime.n_ctx, first.prompt.widest
        )
        dialogue = _Dialogue(self, request)
        try:
            with self._slot.lease(self.worker, stop=self._is_deserted) as lease:
                with self._changed:
                    self._lease = lease
                try:
                    lease.request(request, dialogue=dialogue)
                finally:
                    with self._changed:
                        self._lease = None
        except PlaygroundError as error:
            self._ask_again(dialogue, first, error)
        except Exception as error:  # whoever waits has to hear of it
            logger.exception("a batch")
            unexpected = EngineError(f"Unexpected: {type(error).__name__}. The app's log has more.")
            self._ask_again(dialogue, first, unexpected)

    def _size(self, first: _Member) -> tuple[int, int]:
        """Sequences and cells: fewer where memory is short. Raises OutOfMemory."""
        own = first.own_tokens + _LONGER
        sequences = self._sequences
        while True:
            pictures = 2 if self._one_picture else 1 + sequences
            cells = -(-(sequences * own + pictures * first.prefix_tokens) // CELLS) * CELLS
            fits = self._slot.fits([*self._beside, self._spec(sequences, cells)])
            if fits and (sequences <= 2 or cells <= _MOST_CELLS):
                if sequences < self._sequences:
                    logger.info("%s answers %d requests at once: memory is short", self._model.path, sequences)
                return sequences, cells
            if sequences <= 2:
                raise OutOfMemory("There is not enough memory for two such requests at once. Send them one by one.")
            sequences //= 2

    def _is_deserted(self) -> bool:
        return not self._waiting

    def _ask_again(self, dialogue: _Dialogue, first: _Member, error: PlaygroundError) -> None:
        """Those of whose answer nothing came are asked once more, fewer at once; the others end with the error."""
        with self._changed:
            lost = list(dialogue.running.values()) or [member for member in self._waiting if member is first]
            halves = isinstance(error, EngineError | OutOfMemory) and self._sequences > 2
            self._sequences = max(2, self._sequences // 2)
            again = [member for member in lost if halves and not member.began]
            self._waiting = [*again, *(member for member in self._waiting if member not in lost)]
            for member in lost:
                if member not in again:
                    _end(member, error)

    # --- what the dialogue asks ----------------------------------------------------------------------------------

    def left(self) -> list[int]:
        """Whose requests were stopped."""
        with self._changed:
            leaving, self._leaving = self._leaving, []
        return leaving

    def next(self, request: protocol.OpenBatch, running: Sequence[_Member]) -> _Member | None:
        """The member that joins now; None if none may."""
        with self._changed:
            if len(running) >= request.sequences + _AHEAD or not self._waiting:
                return None
            oldest, candidates = self._waiting[0], self._waiting
            if self._one_picture:
                candidates = [member for member in self._waiting if member.picture == self._picture]
                if oldest.passed >= _PASSED_AT_MOST:
                    candidates = []
                if not candidates and not running:
                    candidates = [oldest]
            if not candidates:
                return None
            member = candidates[0]
            if not _fits(member, request, running):
                return None
            if member is not oldest:
                oldest.passed += 1
            self._waiting.remove(member)
            self._picture = member.picture
            return member

    def may_close(self, running: Sequence[_Member]) -> bool:
        """Whether nobody else will join: everybody has left, or who waits needs another context."""
        with self._changed:
            return not running and (self._closed or bool(self._waiting))


class _Dialogue:
    """A Dialogue (pool/contract.py). For the batch's thread alone."""

    def __init__(self, batch: SharedBatch, request: protocol.OpenBatch) -> None:
        self._batch = batch
        self._request = request
        self._embeddings = Embeddings()
        self.running: dict[int, _Member] = {}
        self._closed = False

    def to_send(self) -> list[protocol.Message]:
        messages: list[protocol.Message] = [protocol.Leave(id) for id in self._batch.left() if id in self.running]
        while not self._closed and (member := self._batch.next(self._request, list(self.running.values()))):
            self.running[member.id] = member
            prompt = self._embeddings.without_sent(member.prompt)
            messages.append(protocol.Join(member.id, prompt, member.sampling, n_candidates=member.n_candidates))
        if not self._closed and self._batch.may_close(list(self.running.values())):
            self._closed = True
            messages.append(protocol.CloseBatch())
        return messages

    def received(self, reply: protocol.SequenceReply) -> None:
        match reply:
            case protocol.SequenceChunk():
                member = self.running[reply.id]
                member.began = True
                member.on_chunk(reply.chunk)
            case protocol.SequenceEnded():
                _end(self.running.pop(reply.id), reply)


def _fits(member: _Member, request: protocol.OpenBatch, running: Sequence[_Member]) -> bool:
    """Whether the context holds it beside the others, and the newest prefix once more."""
    if member.prompt.widest > request.widest:
        return False
    prefixes = {other.picture: other.prefix_tokens for other in (*running, member)}
    own = sum(other.own_tokens for other in (*running, member))
    return own + sum(prefixes.values()) + max(prefixes.values()) <= request.runtime.context


def _end(member: _Member, end: protocol.SequenceEnded | PlaygroundError) -> None:
    member.end = end
    member.ended.set()
