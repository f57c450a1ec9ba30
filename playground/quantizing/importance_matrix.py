"""Makes an importance matrix of either half of a pair from questions about images (engine/importance.py)."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from playground.comparing import prompts
from playground.comparing.embedding_cache import EmbeddingCache
from playground.engine import protocol
from playground.errors import BadInput, Failure, Interrupted, cannot_write
from playground.measuring.question_sets import Question, QuestionSet
from playground.pool.pool import Pool
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.files import Half, Variant
from playground.values.request import Runtime, Sampling


class CollectedMatrix(msgspec.Struct, frozen=True):
    path: Path
    tensors: int
    rows: int  # the most that one tensor met: tokens, or the projector's patches
    readings: int  # prompts, or the projector's images
    seconds: float
    problems: tuple[str, ...]  # questions that were left out, and why


def collect(
    variant: Variant,
    asked: QuestionSet,
    answers: Sequence[tuple[int, ...]] | None,
    pool: Pool,
    embeddings: EmbeddingCache,
    target: Path,
    half: Half,
    *,
    runtime: Runtime | None = None,
    max_tokens: int = 128,
    stop: Callable[[], bool] = lambda: False,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> CollectedMatrix:
    """Write the importance matrix of one half of `variant` to `target`: all of it or nothing.

    The projector encodes each distinct image once. The language model reads each question, its image and an answer:
    of `answers` (token ids, one for each item), or else its own greedy one. `on_item` is told how many steps are done,
    of how many. What goes wrong with one item is told and left out. Raises BadInput, NoRoom, OutOfMemory,
    Interrupted, and what loading raises.
    """
    if target.exists():
        raise BadInput(f"{target.name} is there already. Give another name, or delete it first.")
    if answers is not None and len(answers) != len(asked.items):
        raise BadInput(f"There are {len(answers)} answers to {len(asked.items)} questions.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="importance-", dir=target.parent) as folder:
            collecting = _CollectJob(
                variant, asked, pool, embeddings, Path(folder) / target.name, runtime or Runtime(), stop, on_item
            )
            match half:
                case Half.PROJECTOR:
                    found = collecting.projector()
                case Half.MODEL:
                    found = collecting.language_model(answers, max_tokens)
            collecting.path.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from None
    return msgspec.structs.replace(found, path=target)


class _CollectJob:
    """Each item is read by the observing worker, and added to the file, under one lease.

    In between the worker may go: others take their turns, and may need its memory. What it collected is in the file.
    """

    def __init__(
        self,
        variant: Variant,
        asked: QuestionSet,
        pool: Pool,
        embeddings: EmbeddingCache,
        path: Path,
        runtime: Runtime,
        stop: Callable[[], bool],
        on_item: Callable[[int, int], None],
    ) -> None:
        self.path = path
        self._variant = variant
        self._set = asked
        self._pool = pool
        self._embeddings = embeddings
        self._runtime = runtime
        self._stop = stop
        self._on_item = on_item
        self._problems: list[str] = list(asked.problems)
        self._started = time.monotonic()
        self._readings = 0
        self._written = protocol.ImportanceWritten(0, 0)

    def projector(self) -> CollectedMatrix:
        spec = vision_spec(self._variant.projector, self._variant.model, self._runtime, observe=True)
        seen: set[str] = set()

        def encode(_place: int, item: Question) -> None:
            image = self._set.image(item)
            if image.sha256 not in seen:
                message = protocol.ChatMessage("user", item.question, 1)
                self._read(spec, protocol.Encode((message,), (image,), self._variant.chat_template))
                seen.add(image.sha256)

        return self._each([encode], spec)

    def language_model(self, answers: Sequence[tuple[int, ...]] | None, max_tokens: int) -> CollectedMatrix:
        spec = language_spec(self._variant.model, self._runtime, observe=True)
        known = dict(enumerate(answers or ()))

        def answer(place: int, item: Question) -> None:
            prompt = self._prompt(item)
            request = protocol.Generate(prompt, Sampling(max_tokens=max_tokens), self._runtime)
            usual = language_spec(self._variant.model, self._runtime)
            with self._pool.use(usual, stop=self._stop) as lease:
                _, known[place] = prompts.answer(lease, request, self._stop)

        def read(place: int, item: Question) -> None:
            if place in known:  # else it could not be asked
                self._read(spec, protocol.Score(self._prompt(item), known[place], self._runtime))

        # Not item by item: where both workers do not fit at once, each would be loaded for each question.
        return self._each([read] if answers is not None else [answer, read], spec)

    def _each(self, steps: Sequence[Callable[[int, Question], None]], spec: WorkerSpec) -> CollectedMatrix:
        """Take every step for every item; end the worker behind the last one."""
        places = [(step, place) for step in steps for place in range(len(self._set.items))]
        self._pool.unload(spec)  # and what somebody had it read, and never had it write
        try:
            for done, (step, place) in enumerate(places):
                self._on_item(done, len(places))
                if self._stop():
                    raise Interrupted("Stopped.")
                item = self._set.items[place]
                try:
                    step(place, item)
                except Failure as error:
                    self._problems.append(f"{item.image}, {item.question[:40]!r}: {error.message}")
        finally:
            self._pool.unload(spec)
        if not self._readings:
            raise BadInput(f"No question could be read. {self._problems[-1] if self._problems else 'There is none.'}")
        self._on_item(len(places), len(places))
        lasted = time.monotonic() - self._started
        written, problems = self._written, tuple(self._problems)
        return CollectedMatrix(self.path, written.tensors, written.rows, self._readings, lasted, problems)

    def _prompt(self, item: Question) -> protocol.EncodedPrompt:
        """With the usual worker's embeddings, which are kept."""
        variant, messages = self._variant, [protocol.ChatMessage("user", item.question, 1)]
        image = self._set.image(item)
        spec = vision_spec(variant.projector, variant.model, self._runtime)
        with self._pool.use(spec, stop=self._stop) as lease:
            prompt, _ = prompts.encode(
                lease, self._embeddings, variant.projector, messages, [image], variant.chat_template, self._stop
            )
        return prompt

    def _read(self, spec: WorkerSpec, request: protocol.Request[Any]) -> None:
        with self._pool.use(spec, stop=self._stop) as lease:
            lease.request(request, stop=self._stop)
            written = lease.request(protocol.WriteImportance(str(self.path), self._set.name, adding=True))
        self._written = written
        self._readings += 1
