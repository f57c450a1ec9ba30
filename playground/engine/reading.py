"""Reads many answers at once: probabilities of their tokens, and the drift from records, of several sequences a batch.

The logits of a whole vocabulary stay here, a stretch of tokens at a time. On a GPU the next stretch is decoded while
threads work on the one before.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby, islice
from queue import SimpleQueue
from threading import Event
from typing import Any, NamedTuple

import msgspec
from llama_cpp import llama_cpp as C

from playground.engine import finite
from playground.engine.batch import NewestEmbeddings, check_prompt
from playground.engine.language import LanguageModel
from playground.engine.protocol import (
    BatchEnded,
    BatchMessage,
    CloseBatch,
    Failed,
    JoinReading,
    ReadBatch,
    Reply,
    SequenceRead,
)
from playground.engine.scoring import likelihoods, recorded, texts
from playground.engine.sequences import Begun, Row
from playground.engine.vocabulary import Vocabulary
from playground.errors import Interrupted, PlaygroundError
from playground.values.answer import TokenDrift

_THREADS = 8
# Logits of some rows that are worked on at once. With few, threads wait for each other's Python; 1 MB stays in a cache.
_VALUES = 2**18


class _Place(NamedTuple):
    """A token of a batch, and who reads its logits."""

    row: Row
    reading: _Reading


class _Reading:
    """One answer that is read. `read` gets its logits in their order."""

    def __init__(self, vocabulary: Vocabulary, join: JoinReading, files: ExitStack) -> None:
        """Raises EngineError for a record of another shape, and for one that is not there."""
        self.id = join.id
        self.error: PlaygroundError | None = None
        self._vocabulary = vocabulary
        self._dtype = join.dtype
        self._ids = iter(join.token_ids)
        self._texts = texts(vocabulary, join.token_ids)
        self._log_probability = 0.0
        self._drifts: list[TokenDrift] = []
        n_rows = len(join.token_ids) + 1
        self._record = recorded(vocabulary, join.against, join.dtype, n_rows) if join.against else None
        self._own = files.enter_context(open(join.own, "wb")) if join.own else None  # noqa: SIM115

    def read(self, rows: Any) -> None:
        """rows: float32 (tokens, n_vocabulary). An error is kept."""
        step = max(1, _VALUES // rows.shape[1])
        try:
            for start in range(0, len(rows), step):
                if self.error is not None:
                    return
                self._read(rows[start : start + step])
        except PlaygroundError as error:
            self.error = error

    def _read(self, rows: Any) -> None:
        finite.check_logits(rows)
        own = likelihoods(rows)
        ids = list(islice(self._ids, len(rows)))  # one less behind the last token
        self._log_probability += float(own.of(ids).sum())
        if self._own is not None:
            self._own.write(own.as_record(self._dtype))
        if self._record is not None:
            self._drifts += self._record.drifts(list(islice(self._texts, len(rows))), own)

    def reply(self) -> SequenceRead:
        if self.error is not None:
            return failed(self.id, self.error)
        return SequenceRead(self.id, self._vocabulary.n_tokens, tuple(self._drifts), self._log_probability)


class Readings:
    """One ReadBatch, from its first JoinReading to its end."""

    def __init__(
        self,
        model: LanguageModel,
        request: ReadBatch,
        inbox: SimpleQueue[BatchMessage],
        cancelled: Event,
        send: Callable[[Reply], None],
    ) -> None:
        """Raises EngineError if there is not enough memory for so many sequences."""
        self._model = model
        self._n_ctx = request.limit
        self._n = request.sequences
        self._context = model.batch_context(request)
        self._inbox = inbox
        self._cancelled = cancelled
        self._send = send
        self._newest = NewestEmbeddings()
        self._steps = self._tokens = self._prefix_batches = 0
        self._prefix_s = self._decode_s = self._idle_s = 0.0

    def run(self) -> BatchEnded:
        """Read until CloseBatch or Cancel. Raises EngineError, OSError where a record cannot be written."""
        started = time.perf_counter()
        for sampler in self._model.samplers:  # with one in the graph the logits stay on the device
            sampler.detach(self._context.handle)
        threads = min(_THREADS, os.cpu_count() or 1) if self._model.on_gpu else 1
        try:
            with ThreadPoolExecutor(threads) as pool:
                for group in self._groups():
                    self._read(group, pool)
        except Interrupted:
            pass
        except BaseException:
            self._context.clear()
            raise
        seconds = time.perf_counter() - started
        return BatchEnded(
            self._steps, seconds, self._prefix_s, self._decode_s, self._idle_s, self._tokens, self._prefix_batches
        )

    def _groups(self) -> Iterator[list[JoinReading]]:
        group: list[JoinReading] = []
        while not self._cancelled.is_set():
            started = time.perf_counter()
            message = self._inbox.get()
            self._idle_s += time.perf_counter() - started
            match message:
                case JoinReading():
                    prompt = self._newest.filled(message.prompt)
                    group.append(msgspec.structs.replace(message, prompt=prompt))
                case CloseBatch():
                    if group and not self._cancelled.is_set():
                        yield group
                    return
                case _:
                    raise AssertionError("a reading neither leaves nor is answered")
            if len(group) == self._n:
                yield group
                group = []

    def _read(self, group: Sequence[JoinReading], pool: ThreadPoolExecutor) -> None:
        with ExitStack() as files:
            places: list[_Place] = []
            readings: dict[int, _Reading] = {}
            joins: dict[int, JoinReading] = {}
            for number, join in enumerate(group, 1):
                try:
                    check_prompt(join.prompt, self._model, self._context, self._n_ctx, len(join.token_ids))
                    readings[number] = _Reading(self._model.vocabulary, join, files)
                    joins[number] = join
                except PlaygroundError as error:
                    self._send(failed(join.id, error))
            for number, begun in self._begun(joins, readings).items():
                ids, n_before = joins[number].token_ids, len(begun.pending) - 1
                self._tokens += len(ids)
                for i, token in enumerate((*begun.pending, *ids)):
                    row = Row(token, begun.position + i, number, i >= n_before)
                    places.append(_Place(row, readings[number]))
            tasks: list[Future[None]] = []
            for stretch in self._stretches(places):
                if self._cancelled.is_set():
                    raise Interrupted("Stopped.")
                tasks = self._decode(stretch, tasks, pool)
            _await(tasks)
            for number in range(1, 1 + len(group)):
                self._context.end(number)
        if any(isinstance(reading.error, finite.NotFinite) for reading in readings.values()):
            self._context.wipe()
        for reading in readings.values():
            self._send(reading.reply())

    def _begun(self, joins: Mapping[int, JoinReading], readings: dict[int, _Reading]) -> dict[int, Begun]:
        """Decode what comes before the answers; a reading that fails is taken out. Raises Interrupted, MemoryError."""
        together = [[number] for number in joins] if self._context.key.kv_unified else [list(joins)]
        begun: dict[int, Begun] = {}
        started, batches = time.perf_counter(), self._context.batches
        for numbers in together:
            try:
                for read in self._context.begin_together({n: joins[n].prompt for n in numbers}, self._cancelled):
                    begun |= read
            except (Interrupted, MemoryError):
                raise
            except PlaygroundError as error:
                for number in (number for number in numbers if number not in begun):
                    del readings[number]
                    self._send(failed(joins[number].id, error))
        self._prefix_s += time.perf_counter() - started
        self._prefix_batches += self._context.batches - batches
        return begun

    def _stretches(self, places: Sequence[_Place]) -> Iterator[list[_Place]]:
        """As many tokens, and as many of them with logits, as fit into one batch.

        An answer is cut only where it does not fit alone: llama.cpp computes only as many tokens of several sequences
        together as each of them has.
        """
        n_batch, n_outputs = self._context.key.n_batch, self._context.n_outputs
        stretch: list[_Place] = []
        outputs = 0
        for _, answer in groupby(places, lambda place: place.row.sequence):
            whole = list(answer)
            wanted = sum(place.row.wants_logits for place in whole)
            fits_alone = len(whole) <= n_batch and wanted <= n_outputs
            if stretch and fits_alone and (len(stretch) + len(whole) > n_batch or outputs + wanted > n_outputs):
                yield stretch
                stretch, outputs = [], 0
            for place in whole:
                if len(stretch) == n_batch or outputs + place.row.wants_logits > n_outputs:
                    yield stretch
                    stretch, outputs = [], 0
                stretch.append(place)
                outputs += place.row.wants_logits
        if stretch:
            yield stretch

    def _decode(
        self, stretch: Sequence[_Place], before: Sequence[Future[None]], pool: ThreadPoolExecutor
    ) -> list[Future[None]]:
        """Decode, and start to read the logits; what was started before has then ended, so that rows stay in order."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        started = time.perf_counter()
        self._context.decode([place.row for place in stretch])
        self._context.synchronize()
        self._decode_s += time.perf_counter() - started
        self._steps += 1
        _await(before)
        n = self._model.vocabulary.n_tokens
        readings: list[_Reading] = []
        views: list[Any] = []
        for _, own in groupby(enumerate(stretch), lambda place: place[1].reading.id):
            wanted = [(i, reading) for i, (row, reading) in own if row.wants_logits]  # they follow one another
            if wanted:
                i, reading = wanted[0]
                logits = C.llama_get_logits_ith(self._context.handle, i)
                readings.append(reading)
                views.append(numpy.ctypeslib.as_array(logits, (len(wanted), n)))
        copies = list(pool.map(numpy.copy, views))  # the next stretch takes their place
        return [pool.submit(reading.read, rows) for reading, rows in zip(readings, copies, strict=True)]


def failed(id: int, error: PlaygroundError) -> SequenceRead:
    return SequenceRead(id, failed=Failed(kind=type(error).__name__, message=str(error)))


def _await(tasks: Sequence[Future[None]]) -> None:
    for task in tasks:
        task.result()
