"""Many prompts to one language worker at once: each answer comes back as soon as it has ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from playground.engine import protocol
from playground.errors import PlaygroundError
from playground.pool.handles import Lease
from playground.pool.process import as_error
from playground.support.ahead import Ahead
from playground.values.reasoning import Written
from playground.values.request import Runtime, Sampling

# Prompts that wait in the worker, so that a free sequence need not wait for the pipe, and as many on this side of it.
_AHEAD = 2
# Of embeddings that wait in the worker. Answers of one length end together: then as many prompts are wanted at once.
_AHEAD_BYTES = 2**28
CELLS = 256  # llama.cpp rounds a context up to a multiple


class BatchAnswer(NamedTuple):
    text: str
    token_ids: tuple[int, ...]
    reason: str  # as of protocol.Finished
    in_reasoning: bool  # likewise


def cells(prompts: Sequence[protocol.EncodedPrompt], n_answer: int, sequences: int) -> int:
    """The tokens that so many of the prompts may hold together at most; what they share counts once.

    The prompts may be without their embeddings, where an image chunk's key names the image (`planned`).
    """
    shared: dict[tuple[object, ...], int] = {}
    own = []
    for prompt in prompts:
        images = _pictures(prompt)
        shared[images] = sum(map(protocol.n_tokens, prompt.prefix))
        own.append(prompt.n_tokens - shared[images] + n_answer + 1)
    largest = sorted(shared.values(), reverse=True)[:sequences], sorted(own, reverse=True)[:sequences]
    return -(-sum(map(sum, largest)) // CELLS) * CELLS


def _pictures(prompt: protocol.EncodedPrompt) -> tuple[object, ...]:
    return tuple(c.key if isinstance(c, protocol.ImageChunk) else c.token_ids for c in prompt.prefix)


def own_cells(prompts: Sequence[protocol.EncodedPrompt], n_answer: int, sequences: int) -> int:
    """The same where each sequence has a cache of its own, all of one size."""
    largest = max(prompt.n_tokens for prompt in prompts) + n_answer + 1
    return sequences * -(-largest // CELLS) * CELLS


def answer_all(
    lease: Lease,
    prompts: Sequence[protocol.EncodedPrompt],
    sampling: Sampling,
    runtime: Runtime,
    sequences: int,
    limit: int | None,
    on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    stop: Callable[[], bool],
    *,
    kv_unified: bool = True,
) -> protocol.BatchEnded:
    """Have the worker answer; `on_answer` gets each answer, or the error that it ended with, with the prompt's place.

    runtime.n_ctx: `cells`, or `own_cells` without kv_unified. limit: the tokens of a prompt with its answer. An answer
    that `stop` ends has the reason "stopped". Raises what the worker raises: then the prompts of which nothing was
    heard have no answer.
    """
    widest = max(prompt.widest for prompt in prompts)
    request = protocol.OpenBatch(runtime, sequences, limit, widest, kv_unified)
    joins = [protocol.Join(place, prompt, sampling) for place, prompt in enumerate(prompts)]
    return answer_each(lease, request, joins, on_answer, stop)


def answer_each(
    lease: Lease,
    request: protocol.OpenBatch,
    joins: Iterable[protocol.Join],
    on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """The same with prompts that are made while others are answered: a thread takes them from `joins`, a few ahead.

    Raises also what ended `joins`.
    """
    return _converse(lease, request, _Answers(joins, request.sequences, lease.wake, on_answer), stop)


def read_each(
    lease: Lease,
    request: protocol.ReadBatch,
    joins: Iterable[protocol.JoinReading],
    on_reading: Callable[[protocol.SequenceRead], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """Have the worker read answers; `on_reading` gets what each reading found. Otherwise as `answer_each`."""
    return _converse(lease, request, _Readings(joins, request.sequences, lease.wake, on_reading), stop)


def read_all(
    lease: Lease,
    readings: Sequence[protocol.JoinReading],
    runtime: Runtime,
    sequences: int,
    limit: int | None,
    on_reading: Callable[[protocol.SequenceRead], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """The same with readings that are all there."""
    request = protocol.ReadBatch(runtime, sequences, limit, max(reading.prompt.widest for reading in readings))
    return read_each(lease, request, readings, on_reading, stop)


class Embeddings:
    """Knows which embeddings the worker has: those of the prompt that was sent last."""

    def __init__(self) -> None:
        self._sent: frozenset[str] = frozenset()  # images

    def without_sent(self, prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
        sent = self._sent
        images = [chunk for chunk in prompt.chunks if isinstance(chunk, protocol.ImageChunk)]
        self._sent = frozenset(image.key for image in images)
        chunks = (
            msgspec.structs.replace(chunk, embeddings=b"")
            if isinstance(chunk, protocol.ImageChunk) and chunk.key in sent
            else chunk
            for chunk in prompt.chunks
        )
        return msgspec.structs.replace(prompt, chunks=tuple(chunks))


J = TypeVar("J", protocol.Join, protocol.JoinReading)


def _converse(
    lease: Lease,
    request: protocol.OpenBatch | protocol.ReadBatch,
    prompts: _Prompts[protocol.Join] | _Prompts[protocol.JoinReading],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    try:
        ended = lease.request(request, dialogue=prompts, stop=stop)
    finally:
        prompts.close()
    if prompts.error is not None:
        raise prompts.error
    return ended


class _Prompts(Generic[J]):
    """The half of a Dialogue (pool/contract.py) that sends a prompt when there is room."""

    def __init__(self, joins: Iterable[J], sequences: int, wake: Callable[[], None]) -> None:
        """`wake`: has the dialogue asked when a prompt is there (contract.Worker.wake)."""
        self._left: Ahead[J] = Ahead(joins, _AHEAD, wake)
        self._sequences = sequences
        self._free: int | None = None  # prompts that may be sent; None: the first one's size will tell
        self._embeddings = Embeddings()
        self._closed = False

    @property
    def error(self) -> Exception | None:
        return self._left.error

    def close(self) -> None:
        self._left.close()

    def to_send(self) -> list[protocol.Message]:
        messages: list[protocol.Message] = []
        while self._free != 0 and (join := self._left.next_ready()) is not None:
            if self._free is None:
                self._free = self._sequences + n_ahead(join.prompt, self._sequences)
            self._free -= 1
            messages.append(msgspec.structs.replace(join, prompt=self._embeddings.without_sent(join.prompt)))
        if self._left.ended and not self._closed:
            self._closed = True
            messages.append(protocol.CloseBatch())
        return messages

    def received(self, reply: protocol.SequenceReply) -> None:
        raise NotImplementedError

    def ended(self) -> None:
        assert self._free is not None, "what has ended was sent"
        self._free += 1


def n_ahead(prompt: protocol.EncodedPrompt, sequences: int) -> int:
    """How many prompts of this size wait in the worker."""
    size = sum(len(chunk.embeddings) for chunk in prompt.chunks if isinstance(chunk, protocol.ImageChunk))
    return max(_AHEAD, min(sequences, _AHEAD_BYTES // max(1, size)))


class _Answers(_Prompts[protocol.Join]):
    """Joins the pieces of each answer."""

    def __init__(
        self,
        joins: Iterable[protocol.Join],
        sequences: int,
        wake: Callable[[], None],
        on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    ) -> None:
        super().__init__(joins, sequences, wake)
        self._on_answer = on_answer
        self._pieces: defaultdict[int, list[protocol.Chunk]] = defaultdict(list)

    def received(self, reply: protocol.SequenceReply) -> None:
        match reply:
            case protocol.SequenceChunk():
                self._pieces[reply.id].append(reply.chunk)
            case protocol.SequenceEnded():
                self.ended()
                pieces = self._pieces.pop(reply.id, [])
                if reply.failed is not None:
                    self._on_answer(reply.id, as_error(reply.failed))
                    return
                written = Written()
                for piece in pieces:
                    written = written.then(piece.written)
                ids = tuple(token for piece in pieces for token in piece.token_ids)
                self._on_answer(reply.id, BatchAnswer(written.answer, ids, reply.reason, reply.in_reasoning))


class _Readings(_Prompts[protocol.JoinReading]):
    def __init__(
        self,
        joins: Iterable[protocol.JoinReading],
        sequences: int,
        wake: Callable[[], None],
        on_reading: Callable[[protocol.SequenceRead], None],
    ) -> None:
        super().__init__(joins, sequences, wake)
        self._on_reading = on_reading

    def received(self, reply: protocol.SequenceReply) -> None:
        if isinstance(reply, protocol.SequenceRead):
            self.ended()
            self._on_reading(reply)
