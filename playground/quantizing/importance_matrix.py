"""Makes an importance matrix of either half of a pair from questions about images (engine/importance.py)."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from playground.comparing import prompts
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, Failure, Interrupted, cannot_write
from playground.measuring.question_sets import Question, QuestionSet
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.files import Half, Variant
from playground.values.request import USUAL_FORM, PromptForm, Runtime, Sampling


class CollectedMatrix(msgspec.Struct, frozen=True):
    path: Path
    tensors: int
    rows: int  # the most that one tensor met: tokens, or the projector's patches
    readings: int  # prompts, or the projector's images
    seconds: float
    problems: tuple[str, ...]  # questions that were left out, and why


def collect(
    lab: Lab,
    variant: Variant,
    half: Half,
    questions: QuestionSet,
    target: Path,
    *,
    answers: Sequence[tuple[int, ...]] | None = None,
    runtime: Runtime | None = None,
    form: PromptForm = USUAL_FORM,
    max_tokens: int = 128,
    stop: Callable[[], bool] = lambda: False,
    on_item: Callable[[int, int], None] = lambda done, total: None,
) -> CollectedMatrix:
    """Write the importance matrix of one half of `variant` to `target`: all of it or nothing.

    The projector encodes each distinct image once. The language model reads each question, its image and an answer:
    of `answers` (token ids, one for each item), or else its own greedy one. `form`: of every question. `on_item` gets
    the number of steps that are done, and of all. An item with an error is reported and left out. Raises BadInput,
    NoRoom, OutOfMemory, Interrupted, and what loading raises.
    """
    if target.exists():
        raise BadInput(f"{target.name} is there already. Give another name, or delete it first.")
    if answers is not None and len(answers) != len(questions.items):
        raise BadInput(f"There are {len(answers)} answers to {len(questions.items)} questions.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"importance-{os.getpid()}-", dir=target.parent) as folder:
            path = Path(folder) / target.name
            job = _CollectJob(lab, variant, questions, path, runtime or Runtime(), form, stop, on_item)
            match half:
                case Half.PROJECTOR:
                    matrix = job.projector()
                case Half.MODEL:
                    matrix = job.language_model(answers, max_tokens)
            path.replace(target)
    except OSError as error:
        raise cannot_write(target, error) from None
    return msgspec.structs.replace(matrix, path=target)


class _CollectJob:
    """Each item is read by the observing worker, and added to the file, under one lease.

    In between the worker may be unloaded: others take turns and may need its memory. What it collected is in the file.
    """

    def __init__(
        self,
        lab: Lab,
        variant: Variant,
        questions: QuestionSet,
        path: Path,
        runtime: Runtime,
        form: PromptForm,
        stop: Callable[[], bool],
        on_item: Callable[[int, int], None],
    ) -> None:
        self._lab = lab
        self._pool = lab.pool
        self._path = path
        self._variant = variant
        self._set = questions
        self._runtime = runtime
        self._form = form
        self._stop = stop
        self._on_item = on_item
        self._problems: list[str] = list(questions.problems)
        self._started = time.monotonic()
        self._readings = 0
        self._written = protocol.ImportanceWritten(0, 0)

    def projector(self) -> CollectedMatrix:
        spec = vision_spec(self._variant.projector, self._variant.model, self._runtime, observe=True)
        seen: set[str] = set()

        def encode(_place: int, item: Question) -> None:
            image = self._set.image(item)
            if image.sha256 not in seen:
                messages, template = prompts.asked(item.question, self._form), self._form.template_of(self._variant)
                self._read(spec, protocol.Encode(messages, (image,), template, dict(self._form.template_variables)))
                seen.add(image.sha256)

        return self._each([encode], spec)

    def language_model(self, answers: Sequence[tuple[int, ...]] | None, max_tokens: int) -> CollectedMatrix:
        spec = language_spec(self._variant.model, self._runtime, observe=True)
        known = dict(enumerate(answers or ()))

        def answer(place: int, item: Question) -> None:
            prompt = self._prompt(item)
            request = protocol.Generate(prompt, Sampling(max_tokens=max_tokens), self._runtime)
            usual = language_spec(self._variant.model, self._runtime.sized(prompt.n_tokens + max_tokens))
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
        self._pool.unload(spec)  # it may hold sums of an earlier job that were never written
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
        seconds = time.monotonic() - self._started
        written, problems = self._written, tuple(self._problems)
        return CollectedMatrix(self._path, written.tensors, written.rows, self._readings, seconds, problems)

    def _prompt(self, item: Question) -> protocol.EncodedPrompt:
        """With the usual worker's embeddings, which are kept."""
        image = self._set.image(item)
        return prompts.ask(self._lab, self._variant, item.question, image, self._runtime, self._stop, self._form)

    def _read(self, spec: WorkerSpec, request: protocol.Request[Any]) -> None:
        with self._pool.use(spec, stop=self._stop) as lease:
            lease.request(request, stop=self._stop)
            written = lease.request(protocol.WriteImportance(str(self._path), self._set.name, adding=True))
        self._written = written
        self._readings += 1


def delete_leftovers(folder: Path) -> None:
    """Deletes what a process that was killed had collected in a folder of files that are quantized here."""
    for left in folder.rglob("importance-*"):
        pid = left.name.split("-")[1]
        if left.is_dir() and not (pid.isdecimal() and psutil.pid_exists(int(pid))):
            shutil.rmtree(left, ignore_errors=True)
