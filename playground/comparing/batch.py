"""Many prompts to one language worker at once: each answer comes back as soon as it has ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from playground.engine import protocol
from playground.errors import PlaygroundError
from playground.pool.handles import Lease
from playground.pool.process import as_error
from playground.values.reasoning import Written
from playground.values.request import Runtime, Sampling

_AHEAD = 2  # prompts that wait in the worker, so that a free sequence need not wait for the pipe
_CELLS = 256  # llama.cpp rounds a context up to a multiple


class BatchAnswer(NamedTuple):
    text: str
    token_ids: tuple[int, ...]
    reason: str  # as of protocol.Finished


def cells(prompts: Sequence[protocol.EncodedPrompt], n_answer: int, sequences: int) -> int:
    """The tokens that so many of the prompts may hold together at most; what they share counts once."""
    shared: dict[tuple[object, ...], int] = {}
    own = []
    for prompt in prompts:
        images = tuple(c.key if isinstance(c, protocol.ImageChunk) else c.token_ids for c in prompt.prefix)
        shared[images] = sum(map(protocol.n_tokens, prompt.prefix))
        own.append(prompt.n_tokens - shared[images] + n_answer + 1)
    largest = sorted(shared.values(), reverse=True)[:sequences], sorted(own, reverse=True)[:sequences]
    return -(-sum(map(sum, largest)) // _CELLS) * _CELLS


def answer_all(
    lease: Lease,
    prompts: Sequence[protocol.EncodedPrompt],
    sampling: Sampling,
    runtime: Runtime,
    sequences: int,
    limit: int,
    on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    stop: Callable[[], bool],
) -> protocol.BatchEnded:
    """Have the worker answer; `on_answer` gets each answer, or the error that it ended with, with the prompt's place.

    runtime.n_ctx: `cells`. limit: the tokens of a prompt with its answer. An answer that `stop` ends has the reason
    "stopped". Raises what the worker raises: then the prompts of which nothing was heard have no answer.
    """
    request = protocol.OpenBatch(runtime, sequences, limit, max(prompt.widest for prompt in prompts))
    return lease.request(request, dialogue=_Answers(prompts, sampling, sequences, on_answer), stop=stop)


class _Answers:
    """A Dialogue (pool/contract.py): sends a prompt when there is room, and joins the pieces of each answer."""

    def __init__(
        self,
        prompts: Sequence[protocol.EncodedPrompt],
        sampling: Sampling,
        sequences: int,
        on_answer: Callable[[int, BatchAnswer | PlaygroundError], None],
    ) -> None:
        self._left = deque(enumerate(prompts))
        self._sampling = sampling
        self._room = sequences + _AHEAD
        self._on_answer = on_answer
        self._pieces: dict[int, list[protocol.Chunk]] = {}
        self._sent: frozenset[str] = frozenset()  # images of the prompt that was sent last
        self._closed = False

    def to_send(self) -> list[protocol.Message]:
        messages: list[protocol.Message] = []
        while self._left and len(self._pieces) < self._room:
            place, prompt = self._left.popleft()
            self._pieces[place] = []
            messages.append(protocol.Join(place, self._without_sent(prompt), self._sampling))
        if not self._left and not self._closed:
            self._closed = True
            messages.append(protocol.CloseBatch())
        return messages

    def received(self, reply: protocol.SequenceChunk | protocol.SequenceEnded) -> None:
        if isinstance(reply, protocol.SequenceChunk):
            self._pieces[reply.id].append(reply.chunk)
            return
        pieces = self._pieces.pop(reply.id)
        if reply.failed is not None:
            self._on_answer(reply.id, as_error(reply.failed))
            return
        written = Written()
        for piece in pieces:
            written = written.then(piece.written)
        ids = tuple(token for piece in pieces for token in piece.token_ids)
        self._on_answer(reply.id, BatchAnswer(written.answer, ids, reply.reason))

    def _without_sent(self, prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
        """Without the embeddings that the prompt before had: the worker keeps these."""
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
