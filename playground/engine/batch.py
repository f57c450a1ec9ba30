"""Continuous batching: prompts join and leave one batch, and each step decodes a token of every answer.

Each sequence has its own sampler and its own end. What goes wrong with one prompt ends this sequence alone.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event

import msgspec

from playground.engine.answer_stream import AnswerStream
from playground.engine.context import ContextFull
from playground.engine.finite import NotFinite
from playground.engine.language import SEND_INTERVAL_S, LanguageModel
from playground.engine.protocol import (
    BatchEnded,
    BatchMessage,
    CloseBatch,
    EncodedPrompt,
    Failed,
    ImageChunk,
    Join,
    JoinReading,
    Leave,
    OpenBatch,
    Reply,
    SequenceChunk,
    SequenceEnded,
)
from playground.engine.sampling import TokenSampler
from playground.engine.scoring import Scores
from playground.engine.sequences import Begun, Row, SequenceContext
from playground.errors import BadInput, BadPrompt, Interrupted, PlaygroundError
from playground.values.reasoning import opened_by


class NewestEmbeddings:
    """Keeps the embeddings of the newest prompt: the one after it may leave out what it has."""

    def __init__(self) -> None:
        self._embeddings: dict[str, bytes] = {}

    def filled(self, prompt: EncodedPrompt) -> EncodedPrompt:
        """With the embeddings that the prompt before had."""
        known, self._embeddings = self._embeddings, {}
        chunks = []
        for chunk in prompt.chunks:
            if isinstance(chunk, ImageChunk):
                if not chunk.embeddings:
                    chunk = msgspec.structs.replace(chunk, embeddings=known.get(chunk.key, b""))
                self._embeddings[chunk.key] = chunk.embeddings
            chunks.append(chunk)
        return msgspec.structs.replace(prompt, chunks=tuple(chunks))


def check_prompt(
    prompt: EncodedPrompt, model: LanguageModel, context: SequenceContext, n_ctx: int | None, n_answer: int = 0
) -> None:
    """Raises BadPair, BadPrompt for what cannot be decoded in a batch. `n_ctx`: as OpenBatch.limit."""
    model.check_width(prompt)
    model.check_length(prompt, (n_ctx or model.n_ctx_train) - n_answer, n_ctx)
    if prompt.widest > context.key.n_ubatch:
        raise BadPrompt(f"The image has {prompt.widest} tokens; the batch was opened for smaller ones.")
    if len(prompt.prefix) == len(prompt.chunks):
        raise BadPrompt("The prompt has no text behind its image.")
    if any(isinstance(chunk, ImageChunk) and not chunk.embeddings for chunk in prompt.chunks):
        raise BadPrompt("The prompt's image came without its embeddings.")


@dataclass(slots=True, eq=False)
class _Sequence:
    """A prompt in the batch. `pending`: tokens that are to be decoded, of the prompt or the newest of the answer."""

    join: Join
    number: int  # of the context's sequence
    sampler: TokenSampler
    answer: AnswerStream
    pending: tuple[int, ...]
    position: int  # of the first pending token
    reused: int
    scores: Scores | None  # None: they are not wanted
    generated: int = 0
    forced: deque[int] = field(default_factory=deque)  # tokens that have to come next
    unread: list[int] = field(default_factory=list)  # tokens that `answer` has not got yet
    sent_at: float = 0.0

    @property
    def budget(self) -> int | None:
        """Tokens of reasoning; None: no limit."""
        return None if self.join.sampling.bound else self.join.sampling.reasoning_tokens


class Batch:
    """One OpenBatch, from its first Join to its end."""

    def __init__(
        self,
        model: LanguageModel,
        request: OpenBatch,
        inbox: SimpleQueue[BatchMessage],
        cancelled: Event,
        send: Callable[[Reply], None],
    ) -> None:
        """Raises EngineError if there is not enough memory for so many sequences."""
        self._model = model
        self._n_ctx = request.limit
        self._limit = request.limit or model.n_ctx_train
        self._context = model.batch_context(request)
        self._inbox = inbox
        self._cancelled = cancelled
        self._send = send
        self._free = list(range(request.sequences, 0, -1))
        self._waiting: deque[Join] = deque()
        self._running: list[_Sequence] = []
        self._open = True
        self._full = False  # the cache has no room for more until a sequence ends
        self._spoiled = False  # NaN may be among the cache's values
        self._steps = self._tokens = self._prefix_batches = 0
        self._prefix_s = self._decode_s = self._idle_s = 0.0
        self._newest = NewestEmbeddings()

    def run(self) -> BatchEnded:
        """Answer until CloseBatch has come and every sequence has ended, or until Cancel. Raises EngineError."""
        started = time.perf_counter()
        try:
            while self._listen():
                self._admit()
                if self._running:
                    self._step()
        except BaseException:
            self._context.clear()
            raise
        if self._spoiled:
            self._context.wipe()
        seconds = time.perf_counter() - started
        return BatchEnded(
            self._steps, seconds, self._prefix_s, self._decode_s, self._idle_s, self._tokens, self._prefix_batches
        )

    def _listen(self) -> bool:
        """Take in what has come; block while there is nothing to do. False: everything has ended."""
        idle = not (self._running or self._waiting)
        try:
            while True:
                started = time.perf_counter()
                message = self._inbox.get(block=idle and self._open)
                if idle:
                    self._idle_s += time.perf_counter() - started
                idle = False
                match message:
                    case Join():
                        prompt = self._newest.filled(message.prompt)
                        self._waiting.append(msgspec.structs.replace(message, prompt=prompt))
                    case Leave():
                        self._leave(message.id)
                    case CloseBatch():
                        self._open = False
                    case JoinReading():
                        raise AssertionError("only a ReadBatch takes it")
                if self._cancelled.is_set():
                    break
        except Empty:
            pass
        if self._cancelled.is_set():
            self._stop_all()
        return self._open or bool(self._running or self._waiting)

    def _leave(self, id: int) -> None:
        for join in self._waiting:
            if join.id == id:
                self._waiting.remove(join)
                self._send(SequenceEnded(id, "stopped"))
                return
        for sequence in self._running:
            if sequence.join.id == id:
                self._end(sequence, "stopped")
                return

    def _stop_all(self) -> None:
        self._open = False
        for id in [join.id for join in self._waiting] + [sequence.join.id for sequence in self._running]:
            self._leave(id)

    def _admit(self) -> None:
        """Let prompts join that wait, as long as there is room."""
        if self._spoiled and not self._running:
            self._context.wipe()
            self._spoiled = False
        while self._waiting and self._free and not self._full and not self._cancelled.is_set():
            joins = self._next_joins()
            prompts = {number: join.prompt for number, join in joins.items()}
            waiting = dict(joins)
            try:
                for begun in self._begun(prompts):
                    for number, start in begun.items():
                        self._run_with(waiting.pop(number), number, start)
            except Interrupted:
                for join in waiting.values():
                    self._send(SequenceEnded(join.id, "stopped"))
            except ContextFull as error:
                if not self._context.key.kv_unified:  # each has the room that was asked for
                    raise
                ((number, join),) = waiting.items()
                self._context.end(number)
                if not self._running:
                    self._fail(join.id, error)
                    continue
                self._waiting.appendleft(join)  # when another one has ended
                return

    def _begun(self, prompts: Mapping[int, EncodedPrompt]) -> Iterator[dict[int, Begun]]:
        """As they are read. Raises Interrupted, EngineError."""
        started, batches = time.perf_counter(), self._context.batches
        try:
            yield from self._context.begin_together(prompts, self._cancelled, with_text=True)
            self._context.synchronize()
        finally:
            self._prefix_s += time.perf_counter() - started
            self._prefix_batches += self._context.batches - batches

    def _run_with(self, join: Join, number: int, begun: Begun) -> None:
        self._free.remove(number)
        opened = None if join.sampling.bound else opened_by(join.prompt.rendered)
        vocabulary, n_candidates = self._model.vocabulary, join.n_candidates
        answer = AnswerStream(vocabulary, join.sampling.stop, opened)
        scores = Scores(vocabulary, n_candidates) if n_candidates is not None else None
        sampler = self._model.samplers[number - 1]
        sequence = _Sequence(join, number, sampler, answer, begun.pending, begun.position, begun.reused, scores)
        sequence.forced.extend(answer.due(sequence.budget))
        self._running.append(sequence)

    def _next_joins(self) -> dict[int, Join]:
        """By the number of a free sequence: with one cache for all one prompt, else as many as there are, those of one
        length next to each other. What is wrong with one of them ends it alone."""
        free = sorted(self._free)[: 1 if self._context.key.kv_unified else None]
        fitting: list[Join] = []
        while self._waiting and len(fitting) < len(free):
            join = self._waiting.popleft()
            try:
                check_prompt(join.prompt, self._model, self._context, self._n_ctx)
                fitting.append(join)
            except PlaygroundError as error:  # of another model, too long
                self._fail(join.id, error)
        joins: dict[int, Join] = {}
        for number, join in zip(free, sorted(fitting, key=lambda join: join.prompt.n_tokens), strict=False):
            in_graph = join.n_candidates is None and not join.sampling.takes_largest
            try:
                self._model.samplers[number - 1].attach(self._context.handle, join.sampling, in_graph=in_graph)
                joins[number] = join
            except BadInput as error:  # a grammar that llama.cpp cannot read
                self._fail(join.id, error)
        return joins

    def _step(self) -> None:
        """Decode one batch: the newest token of each answer, and prompts as far as there is room."""
        taken: list[tuple[_Sequence, int]] = []
        room = self._context.key.n_batch
        for sequence in sorted(self._running, key=lambda running: running.generated == 0):  # answers first
            n = min(len(sequence.pending), room)
            if n == 0:
                break
            taken.append((sequence, n))
            room -= n
        rows: list[Row] = []
        parts: list[tuple[_Sequence, int]] = []
        # With a cache for each, llama.cpp computes those together whose numbers follow one another.
        for sequence, n in sorted(taken, key=lambda part: part[0].number):
            last = n == len(sequence.pending)
            rows += [
                Row(token, sequence.position + i, sequence.number, last and i == n - 1)
                for i, token in enumerate(sequence.pending[:n])
            ]
            parts.append((sequence, len(rows) - 1))
            sequence.pending = sequence.pending[n:]
            sequence.position += n
        started, full = time.perf_counter(), None
        try:
            self._context.decode(rows)
        except ContextFull as error:
            full = error
        # On a GPU llama_decode returns at once: this is done while it computes.
        for sequence in [sequence for sequence in self._running if sequence.unread]:
            self._read(sequence)
        if full is not None:
            if self._running:
                self._make_room(rows, full)
            return
        self._context.synchronize()
        self._decode_s += time.perf_counter() - started
        self._steps += 1
        for sequence, row in parts:
            if not sequence.pending and sequence in self._running:
                self._sample(sequence, row)

    def _make_room(self, rows: list[Row], error: ContextFull) -> None:
        """Nothing was decoded: put the tokens back, and let the newest sequence wait and begin anew."""
        for sequence in self._running:
            own = [row for row in rows if row.sequence == sequence.number]
            sequence.pending = (*(row.token for row in own), *sequence.pending)
            sequence.position -= len(own)
        newest = next((s for s in reversed(self._running) if not s.generated), self._running[-1])
        if len(self._running) == 1:
            self._release(newest)
            self._fail(newest.join.id, error)
        elif newest.generated:  # what was sent cannot be taken back
            self._end(newest, "context full")
        else:
            self._release(newest)
            self._waiting.appendleft(newest.join)
            self._full = True

    def _sample(self, sequence: _Sequence, row: int) -> None:
        try:
            if sequence.forced:
                sequence.sampler.accept(token := sequence.forced.popleft())
            else:
                token = sequence.sampler.sample(self._context.handle, row)
        except NotFinite as error:
            self._context.forget()
            self._spoiled = True
            self._release(sequence)
            self._fail(sequence.join.id, error)
            return
        except BadInput as error:  # its grammar takes too long
            self._release(sequence)
            self._fail(sequence.join.id, error)
            return
        is_end = self._model.vocabulary.ends_text(token)
        if sequence.scores is not None:
            logits = sequence.sampler.logits(self._context.handle, row)
            sequence.scores.push(None if is_end else token, logits)
        if is_end:
            self._end(sequence, "end of text")
            return
        sequence.generated += 1
        self._tokens += 1
        sequence.pending = (token,)
        sequence.unread.append(token)
        if sequence.generated >= sequence.join.sampling.max_tokens:
            self._end(sequence, "max tokens")
        elif sequence.join.prompt.n_tokens + sequence.generated >= self._limit:
            self._end(sequence, "context full")

    def _read(self, sequence: _Sequence) -> None:
        """Take in the newest token, and what follows from the answer's text: its end, a piece to send, what is due."""
        self._push(sequence)
        if sequence.answer.stopped:
            self._end(sequence, "stop text")
            return
        now = time.perf_counter()
        if sequence.join.streamed and now - sequence.sent_at >= SEND_INTERVAL_S:
            self._send(SequenceChunk(sequence.join.id, sequence.answer.take()))
            sequence.sent_at = now
        if not sequence.forced:
            sequence.forced.extend(sequence.answer.due(sequence.budget))

    def _push(self, sequence: _Sequence) -> None:
        for token in sequence.unread:
            sequence.answer.push(token)
        sequence.unread.clear()

    def _end(self, sequence: _Sequence, reason: str) -> None:
        self._push(sequence)
        if sequence.answer.stopped:
            reason = "stop text"
        self._release(sequence)
        self._send(SequenceChunk(sequence.join.id, sequence.answer.end()))
        self._send(
            SequenceEnded(
                sequence.join.id,
                reason,
                sequence.generated,
                sequence.reused,
                reasoning_tokens=sequence.answer.reasoning_tokens,
                in_reasoning=sequence.answer.in_reasoning,
                scores=sequence.scores.taken if sequence.scores is not None else (),
            )
        )

    def _release(self, sequence: _Sequence) -> None:
        self._running.remove(sequence)
        self._context.end(sequence.number)
        self._free.append(sequence.number)
        self._full = False

    def _fail(self, id: int, error: PlaygroundError) -> None:
        self._send(SequenceEnded(id, "", failed=Failed(kind=type(error).__name__, message=str(error))))
