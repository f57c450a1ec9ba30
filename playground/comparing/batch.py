"""Many prompts to one language worker at once: each answer comes back as soon as it has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from playground.engine import protocol
from playground.errors import PlaygroundError
from playground.pool.handles import Lease
from playground.pool.process import as_error
from playground.values.reasoning import Written
from playground.values.request import Runtime, Sampling

_AHEAD = 2  # prompts that wait in the worker, so that a free sequence need not wait for the pipe
CELLS = 256  # llama.cpp rounds a context up to a multiple


class BatchAnswer(NamedTuple):
    text: str
    token_ids: tuple[int, ...]
    reason: str  # as of protocol.Finished
    in_reasoning: bool  # likewise


def cells(prompts: Sequence[protocol.EncodedPrompt], n_answer: int, sequences: int) -> int:
    """The tokens that so many of the prompts may hold together at most; what they share counts once."""
    shared: dict[tuple[object, ...], int] = {}
    own = []
    for prompt in prompts:
        images = tuple(c.key if isinstance(c, protocol.ImageChunk) else c.token_ids for c in prompt.prefix)
        shared[images] = sum(map(protocol.n_tokens, prompt.prefix))
        own.append(prompt.n_tokens - shared[images] + n_answer + 1)
    largest = sorted(shared.values(), reverse=True)[:sequences], sorted(own, reverse=True)[:sequences]
    return -(-sum(map(sum, largest)) // CELLS) * CELLS


def answer_all(
    lease: Lease,
    prompts: Sequence[protocol.EncodedPrompt],
    sampling: Sampling,
    runtime: Runtime,
    sequences: int,
    limit: int | None,
    on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """Have the worker answer; `on_answer` gets each answer, or the error that it ended with, with the prompt's place.

    runtime.n_ctx: `cells`. limit: the tokens of a prompt with its answer. An answer that `stop` ends has the reason
    "stopped". Raises what the worker raises: then the prompts of which nothing was heard have no answer.
    """
    request = protocol.OpenBatch(runtime, sequences, limit, max(prompt.widest for prompt in prompts))
    joins = [protocol.Join(place, prompt, sampling) for place, prompt in enumerate(prompts)]
    return lease.request(request, dialogue=_Answers(joins, sequences, on_answer), stop=stop)


def read_all(
    lease: Lease,
    readings: Sequence[protocol.JoinReading],
    runtime: Runtime,
    sequences: int,
    limit: int | None,
    on_reading: Callable[[protocol.SequenceRead], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """Have the worker read answers; `on_reading` gets what each reading found. Otherwise as `answer_all`."""
    request = protocol.ReadBatch(runtime, sequences, limit, max(reading.prompt.widest for reading in readings))
    return lease.request(request, dialogue=_Readings(readings, sequences, on_reading), stop=stop)


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


class _Prompts(Generic[J]):
    """The half of a Dialogue (pool/contract.py) that sends a prompt when there is room."""

    def __init__(self, joins: Sequence[J], sequences: int) -> None:
        self._left: deque[J] = deque(joins)
        self._free = sequences + _AHEAD
        self._embeddings = Embeddings()
        self._closed = False

    def to_send(self) -> list[protocol.Message]:
        messages: list[protocol.Message] = []
        while self._left and self._free:
            self._free -= 1
            join = self._left.popleft()
            messages.append(msgspec.structs.replace(join, prompt=self._embeddings.without_sent(join.prompt)))
        if not self._left and not self._closed:
            self._closed = True
            messages.append(protocol.CloseBatch())
        return messages

    def ended(self) -> None:
        self._free += 1


class _Answers(_Prompts[protocol.Join]):
    """Joins the pieces of each answer."""

    def __init__(
        self,
        joins: Sequence[protocol.Join],
        sequences: int,
        on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    ) -> None:
        super().__init__(joins, sequences)
        self._on_answer = on_answer
        self._pieces: dict[int, list[protocol.Chunk]] = {join.id: [] for join in joins}

    def received(self, reply: protocol.SequenceReply) -> None:
        match reply:
            case protocol.SequenceChunk():
                self._pieces[reply.id].append(reply.chunk)
            case protocol.SequenceEnded():
                self.ended()
                pieces = self._pieces.pop(reply.id)
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
        joins: Sequence[protocol.JoinReading],
        sequences: int,
        on_reading: Callable[[protocol.SequenceRead], None],
    ) -> None:
        super().__init__(joins, sequences)
        self._on_reading = on_reading

    def received(self, reply: protocol.SequenceReply) -> None:
        if isinstance(reply, protocol.SequenceRead):
            self.ended()
            self._on_reading(reply)
