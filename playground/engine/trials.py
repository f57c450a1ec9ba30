"""Tries flash attention, threads and context sizes with a loaded language model.

Each candidate reads the same number of tokens and writes a few behind them, in turn with the others, so that a machine
that gets slower favours none.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Event

from playground.engine import loading, waiting
from playground.engine.context import Context
from playground.engine.language import LanguageModel
from playground.engine.protocol import DefaultsMeasured, MeasureDefaults
from playground.errors import EngineError, Interrupted
from playground.values.engine_defaults import EngineSettings, Trial, choose, is_busy, thread_candidates
from playground.values.request import SMALLEST_CONTEXT, Runtime

_DEPTH = 512  # tokens of the prompt at most, as of a question about an image
_PROMPT_S = 0.2  # of a candidate for flash attention and the context's size
_ROUND_S = 0.03  # of writing
_ROUNDS, _SLOW_ROUNDS = 3, 1
_SLOW_S = 0.02  # a token of a model that reads shorter pieces and writes one round
_MOST_S, _MOST_TOKENS = 6.0, 120  # then it gives up: after these seconds, or the time of so many tokens if that is more


@dataclass(frozen=True, slots=True)
class _Pace:
    """What all candidates do, planned with the first one."""

    threads: tuple[int, ...]
    piece: int  # tokens of the prompt that are read at once
    pieces: int
    written: int  # tokens in a round
    rounds: int


class _GaveUp(Exception):
    """Other work keeps the processors busy, or it takes too long."""


class _Watch:
    """When to give up, and how long it took."""

    def __init__(self, cancelled: Event, patient: bool) -> None:
        self.cancelled = cancelled
        self._patient = patient
        self.most_s = _MOST_S
        self._started, self._waited = time.perf_counter(), waiting.waited_s()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    @property
    def waited_s(self) -> float | None:
        now = waiting.waited_s()
        return None if now is None or self._waited is None else max(0.0, now - self._waited)

    def check_busy(self) -> None:
        if not self._patient and is_busy(self.waited_s, self.seconds):
            raise _GaveUp

    def timed(self, context: Context, token_ids: Sequence[int]) -> float:
        """Seconds that it takes to decode these tokens."""
        if self.cancelled.is_set():
            raise Interrupted("Stopped.")
        if not self._patient and self.seconds > self.most_s:
            raise _GaveUp
        started = time.perf_counter()
        context.extend(token_ids, self.cancelled)
        return time.perf_counter() - started


def measure(model: LanguageModel, request: MeasureDefaults, cancelled: Event) -> DefaultsMeasured:
    """Its context is gone afterwards. Without trials if it gave up. Raises EngineError, Interrupted."""
    watch = _Watch(cancelled, request.patient)
    attention = None if model.on_gpu else False
    size = min(SMALLEST_CONTEXT, model.n_ctx_train or SMALLEST_CONTEXT)
    usual = EngineSettings(attention, loading.default_threads(model.bytes), size)
    threads = tuple(sorted({*thread_candidates(loading.physical_cores(), model.bytes), usual.n_threads}, reverse=True))
    depth = 0
    trials: tuple[Trial, ...] = ()
    try:
        pace = _pace(model, replace(usual, n_threads=threads[0]), threads, watch)
        depth = pace.piece * pace.pieces
        made = _try(model, usual, pace, watch)
        made += _try(model, replace(usual, flash_attention=True), pace, watch)
        made += _try(model, replace(choose(usual, made), n_ctx=size // 2), pace, watch)
        trials = made
    except _GaveUp:
        pass
    finally:
        model.drop_context()
    return DefaultsMeasured(usual, trials, depth, watch.seconds, watch.waited_s)


def _pace(model: LanguageModel, settings: EngineSettings, threads: tuple[int, ...], watch: _Watch) -> _Pace:
    context, token = _context(model, settings), model.vocabulary.any_token()
    watch.check_busy()
    token_s = min(watch.timed(context, [token]) for _ in range(2))
    watch.most_s = max(_MOST_S, _MOST_TOKENS * token_s)
    piece = 32 if token_s < _SLOW_S else 8
    piece_s = min(watch.timed(context, [token] * piece) for _ in range(2))
    watch.check_busy()
    most = min(_DEPTH, settings.n_ctx // 4) // piece
    rounds = max(1, min(most, int(_PROMPT_S / piece_s)) // len(threads))
    written = max(2, min(16, int(_ROUND_S / token_s)))
    return _Pace(threads, piece, rounds * len(threads), written, _ROUNDS if token_s < _SLOW_S else _SLOW_ROUNDS)


def _try(model: LanguageModel, settings: EngineSettings, pace: _Pace, watch: _Watch) -> tuple[Trial, ...]:
    """One trial for each number of threads; none if llama.cpp cannot make such a context."""
    try:
        context = _context(model, settings)
    except EngineError:
        return ()
    token, threads = model.vocabulary.any_token(), pace.threads
    reading = dict.fromkeys(threads, 0.0)
    for i in range(pace.pieces):
        # Back and forth: behind more tokens each piece takes longer.
        n = threads[i % len(threads)] if i // len(threads) % 2 == 0 else threads[-1 - i % len(threads)]
        context.set_threads(n)
        reading[n] += watch.timed(context, [token] * pace.piece)
    writing = dict.fromkeys(threads, float("inf"))
    for _ in range(pace.rounds):
        for n in threads:
            context.set_threads(n)
            watch.timed(context, [token])  # without the threads' start
            writing[n] = min(writing[n], sum(watch.timed(context, [token]) for _ in range(pace.written)))
    watch.check_busy()
    read = pace.piece * pace.pieces / len(threads)
    return tuple(
        Trial(replace(settings, n_threads=n, n_ctx=context.n_ctx), read / reading[n], pace.written / writing[n])
        for n in threads
    )


def _context(model: LanguageModel, settings: EngineSettings) -> Context:
    model.drop_context()
    runtime = Runtime(settings.n_ctx, settings.n_threads, flash_attention=settings.flash_attention)
    context = model.make_context(runtime)
    assert context is not None
    context.warm_up(model.vocabulary.any_token(), (2, 1))
    return context
