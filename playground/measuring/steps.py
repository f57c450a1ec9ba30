"""The steps of a measurement: one variant, one question. The variant answers it, or reads an answer to it.

Answers and drifts are kept in the result cache, under a key of everything that they follow from.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from playground.comparing import batch, prompts
from playground.comparing.batch import BatchAnswer
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure, Interrupted, OutOfMemory, PlaygroundError
from playground.measuring.question_sets import Question
from playground.measuring.results import QuestionDrift, RecordedAnswer
from playground.measuring.summaries import question_drift
from playground.pool.leasing import Slot
from playground.pool.worker_spec import WorkerSpec, language_spec
from playground.values.answer import TokenDrift
from playground.values.files import Variant
from playground.values.request import Image, Runtime, Sampling

# Questions that one model answers at once at most (bench/README.md).
_SEQUENCES = 16

_GROUP = 4  # as many times the questions of a batch are read in one turn

# Of one answer's record. Up to it records are float32; beyond it float16, whose rounding shows in the noise floor.
_EXACT_BYTES = 10 * 2**20
_MAX_RECORD_BYTES = 16 * 2**30


class Item(NamedTuple):
    """A question with its image opened."""

    question: Question
    image: Image


class Reading(NamedTuple):
    """An answer to read: its tokens, the record that it is compared with, and where its own distributions go."""

    ids: tuple[int, ...]
    against: Path | None = None
    own: Path | None = None


class Condition(NamedTuple):
    """Another way to compute the same, for the noise floor."""

    name: str
    runtime: Runtime


class Steps:
    """What one measurement does with a variant and a question. Raises what the workers raise."""

    def __init__(
        self,
        lab: Lab,
        reference: Variant,
        runtime: Runtime,
        sampling: Sampling,
        stop: Callable[[], bool],
        tokenizer: Variant | None = None,
        pack: str = "",
    ) -> None:
        """`sampling`: greedy. `tokenizer`: whose file turns texts into tokens; None: the reference's.

        `pack`: the digest of the reference pack that the drifts are measured against; empty: records of the whole
        vocabulary.
        """
        self.lab = lab
        self.runtime = runtime
        self.sampling = sampling
        self.stop = stop
        self._reference = reference
        self._tokenizer = tokenizer or reference
        self._pack = pack
        self._dtype = "float32"
        self.sequences = lab.sequences or _SEQUENCES
        self.notes: list[str] = []  # for the person: what was done otherwise than wanted

    def key(self, what: str, variant: Variant, item: Item, *more: Any) -> str:
        budget = self.sampling.reasoning_tokens
        # What later versions added stands in the key only where it is given, so old results are found.
        limits = (self.sampling.max_tokens, *(() if budget is None else (f"reasoning {budget}",)))
        settings = (settings_key(self.runtime_of(variant)), *limits)
        return self.lab.results.key(what, _files(variant), item.question.question, item.image.sha256, settings, *more)

    def runtime_of(self, variant: Variant) -> Runtime:
        return self.runtime.of(variant)

    @property
    def reference_key(self) -> tuple[Any, ...]:
        files = _files(self._reference)
        own = () if self._reference.overrides is None else (settings_key(self.runtime_of(self._reference)),)
        return (*files, *own, *((f"pack {self._pack}",) if self._pack else ()))

    def answer_key(self, variant: Variant, item: Item) -> str:
        return self.key("said", variant, item)  # the name that the first version gave it

    def drift_key(self, variant: Variant, item: Item) -> str:
        return self.key("drift", variant, item, self.reference_key)

    def prompt(self, variant: Variant, item: Item, *, fresh: bool = False) -> protocol.EncodedPrompt:
        question = item.question.question
        return prompts.ask(self.lab, variant, question, item.image, self.runtime, self.stop, fresh=fresh)

    def language(self, variant: Variant, prompt: protocol.EncodedPrompt, n_answer: int) -> WorkerSpec:
        """The worker that reads a prompt and so many tokens of an answer."""
        return language_spec(variant.model, self.runtime_of(variant).sized(prompt.n_tokens + n_answer))

    def answer(self, variant: Variant, item: Item) -> RecordedAnswer:
        """The variant's own greedy answer."""
        key = self.answer_key(variant, item)
        answer = self.lab.results.get(key, RecordedAnswer)
        if answer is None:
            answer = self.write(variant, self.prompt(variant, item))
            self.lab.results.put(key, answer)
        return answer

    def write(self, variant: Variant, prompt: protocol.EncodedPrompt) -> RecordedAnswer:
        with self.lab.pool.use(self.language(variant, prompt, self.sampling.max_tokens), stop=self.stop) as lease:
            request = protocol.Generate(prompt, self.sampling, self.runtime_of(variant))
            text, ids, finished = prompts.answer_and_end(lease, request, self.stop)
        if finished.reason == "stopped":
            raise Interrupted("Stopped.")
        return RecordedAnswer(text, ids, finished.reason, finished.in_reasoning)

    def answers(self, variant: Variant, items: Sequence[Item], at_once: int) -> list[RecordedAnswer | Failure]:
        """The variant's own greedy answers, up to `at_once` together; each is cached as soon as it has ended.

        Where memory is short fewer are asked at once, in the end one by one. Raises Interrupted.
        """
        answers: dict[int, RecordedAnswer | Failure] = {}
        encodings: dict[int, protocol.EncodedPrompt] = {}
        for k, item in enumerate(items):
            try:
                encodings[k] = self.prompt(variant, item)
            except Failure as error:
                answers[k] = error

        def keep(k: int, answer: BatchAnswer | PlaygroundError) -> None:
            if isinstance(answer, Failure):
                answers[k] = answer
            elif isinstance(answer, BatchAnswer) and answer.reason != "stopped":
                answers[k] = RecordedAnswer(*answer)
                self.lab.results.put(self.answer_key(variant, items[k]), answers[k])

        def ask(slot: Slot, places: Sequence[int], sequences: int) -> None:
            encoded = [encodings[k] for k in places]
            spec, limit = self._batch(variant, encoded, self.sampling.max_tokens, runtime, sequences)
            with slot.lease(spec, stop=self.stop) as lease:
                batch.answer_all(
                    lease,
                    encoded,
                    self.sampling,
                    spec.runtime,
                    sequences,
                    limit,
                    lambda i, answer: keep(places[i], answer),
                    self.stop,
                )

        runtime, tokens = self.runtime_of(variant), self.sampling.max_tokens
        for group in self._together(items):
            self._at_once(
                variant, [k for k in group if k in encodings], encodings, answers, tokens, runtime, at_once, ask
            )
        for k in [k for k in encodings if k not in answers]:
            try:
                answers[k] = self.write(variant, encodings[k])
                self.lab.results.put(self.answer_key(variant, items[k]), answers[k])
            except Failure as error:
                answers[k] = error
        return [answers[k] for k in range(len(items))]

    def at_once(self, items: Sequence[Item]) -> int:
        """How many of these questions one model answers at once at most."""
        return min(self.sequences, max(map(len, self._together(items)), default=1))

    def _together(self, items: Sequence[Item]) -> list[list[int]]:
        """The places of questions that may be in one batch. On a CPU they are about one picture.

        There, attention to the pictures of all sequences costs more than a batch saves (bench/README.md).
        """
        if self.lab.pool.on_gpu:
            return [list(range(len(items)))] if items else []
        groups: dict[str, list[int]] = {}
        for k, item in enumerate(items):
            groups.setdefault(item.image.sha256, []).append(k)
        return list(groups.values())

    def _ask_fewer(self, reason: str, sequences: int) -> None:
        self.sequences = max(1, sequences)
        self.notes.append(f"{reason} From then on at most {self.sequences} of its questions were asked at once.")

    def _at_once(
        self,
        variant: Variant,
        group: Sequence[int],
        asked: Mapping[int, protocol.EncodedPrompt],
        done: Mapping[int, object],
        n_answer: int,
        runtime: Runtime,
        at_once: int,
        ask: Callable[[Slot, Sequence[int], int], None],
    ) -> None:
        """Have `ask` fill `done` in batches, fewer at once where memory is short; what cannot be asked so is left."""
        while len(left := [k for k in group if k not in done]) > 1:
            sequences = min(at_once, self.sequences)
            if sequences < 2:
                return
            encoded = [asked[k] for k in left]
            try:
                with self.lab.pool.turn([language_spec(variant.model, runtime)], stop=self.stop) as slot:
                    while sequences > 1 and not slot.fits(
                        [self._batch(variant, encoded, n_answer, runtime, sequences)[0]]
                    ):
                        sequences //= 2
                    if sequences < min(at_once, self.sequences):
                        self._ask_fewer(f"{variant.label}: memory is short.", sequences)
                    if sequences > 1:
                        ask(slot, left, sequences)
            except (EngineError, OutOfMemory) as error:
                self._ask_fewer(f"{variant.label}: {error.message}", sequences // 2)
            if self.stop():
                raise Interrupted("Stopped.")

    def _batch(
        self,
        variant: Variant,
        encoded: Sequence[protocol.EncodedPrompt],
        n_answer: int,
        runtime: Runtime,
        sequences: int,
    ) -> tuple[WorkerSpec, int | None]:
        """The worker, and how many tokens a prompt may have with its answer: OpenBatch.limit."""
        size = batch.cells(encoded, n_answer, sequences)
        spec = language_spec(variant.model, replace(runtime, n_ctx=size), sequences=sequences)
        return spec, runtime.n_ctx

    def readings(
        self,
        variant: Variant,
        items: Sequence[Item],
        wanted: Mapping[int, Reading],
        keep: Callable[[int, protocol.SequenceRead], None],
        runtime: Runtime | None = None,
    ) -> None:
        """Read answers to the questions at some places of `items`; `keep` gets each, as soon as it was read.

        What fails, or cannot be read with others, is left to be read alone. Raises Interrupted.
        """
        encodings: dict[int, protocol.EncodedPrompt] = {}
        done: dict[int, object] = {}
        runtime = runtime or self.runtime_of(variant)

        def ask(slot: Slot, places: Sequence[int], sequences: int) -> None:
            joins = [
                protocol.JoinReading(
                    k, encodings[k], wanted[k].ids, str(wanted[k].against or ""), str(wanted[k].own or ""), self._dtype
                )
                for k in places
            ]
            spec, limit = self._batch(variant, [encodings[k] for k in places], n_answer, runtime, sequences)

            def kept(reply: protocol.SequenceRead) -> None:
                done[reply.id] = reply
                if reply.failed is None:
                    keep(reply.id, reply)

            with slot.lease(spec, stop=self.stop) as lease:
                batch.read_all(lease, joins, spec.runtime, sequences, limit, kept, self.stop)

        places = list(wanted)
        groups = [[places[i] for i in group] for group in self._together([items[k] for k in places])]
        at_once = min(self.sequences, max(map(len, groups), default=1))
        n_answer = max((len(reading.ids) for reading in wanted.values()), default=0)
        for group in groups:
            for start in range(0, len(group), _GROUP * at_once):
                part = group[start : start + _GROUP * at_once]
                if len(part) < 2 or at_once < 2:
                    continue
                encodings.clear()  # embeddings: 9 MB each
                for k in part:
                    with contextlib.suppress(Failure):  # it is reported where it is read alone
                        encodings[k] = self.prompt(variant, items[k])
                known = [k for k in part if k in encodings]
                self._at_once(variant, known, encodings, done, n_answer, runtime, at_once, ask)

    def truncated(self, answer: RecordedAnswer) -> bool:
        """Whether the answer was cut off, by the limit of tokens or because the context was full."""
        if answer.finish_reason is None:
            return len(answer.token_ids) >= self.sampling.max_tokens
        return answer.finish_reason in ("max tokens", "context full")

    def drift(
        self, variant: Variant, item: Item, ids: tuple[int, ...], record: Path, own: Path | None = None
    ) -> QuestionDrift:
        """How far the variant's distributions lie from those in `record`, over the reference's answer.

        `own`: where the variant's own distributions are written, unless its drift is known already.
        """
        key = self.drift_key(variant, item)
        drift = self.lab.results.get(key, QuestionDrift)
        if drift is None:
            drift = question_drift(self.read(variant, self.prompt(variant, item), ids, record, own=own))
            self.lab.results.put(key, drift)
        return drift

    def own_drift_key(self, variant: Variant, item: Item) -> str:
        return self.key("own drift", variant, item, self.reference_key, self.other_way(variant).name)

    def own_drift(self, variant: Variant, item: Item, ids: tuple[int, ...], own: Path) -> float:
        """How far the variant lies from itself, computed another way: nats of the whole answer.

        `own`: its distributions; they are recorded where nothing is there yet.
        """
        key = self.own_drift_key(variant, item)
        total = self.lab.results.get(key, float)
        if total is None:
            prompt = self.prompt(variant, item)
            if not own.exists():
                self.record(variant, prompt, ids, own)
            drifts = self.read(variant, prompt, ids, own, self.other_way(variant).runtime)
            total = math.fsum(drift.kl for drift in drifts)
            self.lab.results.put(key, total)
        return total

    def token_ids(self, text: str) -> tuple[int, ...]:
        """Of a text, in the reference's vocabulary, which all variants share."""
        key = self.lab.results.key("tokens", self._reference.model.sha256, text)
        known = self.lab.results.get(key, tuple[int, ...])
        if known is None:
            with self.lab.pool.use(language_spec(self._tokenizer.model, self.runtime), stop=self.stop) as lease:
                known = lease.request(protocol.Tokenize(text), stop=self.stop).token_ids
            self.lab.results.put(key, known)
        return known

    def log_probability(self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...]) -> float:
        """Of a whole answer, in nats."""
        with self.lab.pool.use(self.language(variant, prompt, len(ids)), stop=self.stop) as lease:
            reply = lease.request(protocol.Score(prompt, ids, self.runtime_of(variant)), stop=self.stop)
        return math.fsum(math.log(max(score.probability or 0.0, 1e-300)) for score in reply.scores[: len(ids)])

    def record(self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], path: Path) -> int:
        """Write the variant's distributions over an answer to `path`. Returns the size of the vocabulary."""
        with self.lab.pool.use(self.language(variant, prompt, len(ids)), stop=self.stop) as lease:
            request = protocol.Record(prompt, ids, self.runtime_of(variant), str(path), self._dtype)
            reply = lease.request(request, stop=self.stop)
        return reply.n_vocabulary

    def read(
        self,
        variant: Variant,
        prompt: protocol.EncodedPrompt,
        ids: tuple[int, ...],
        record: Path,
        runtime: Runtime | None = None,
        own: Path | None = None,
    ) -> tuple[TokenDrift, ...]:
        """Compare the variant's distributions over an answer with those in `record`; write them to `own`, if given."""
        with self.lab.pool.use(self.language(variant, prompt, len(ids)), stop=self.stop) as lease:
            request = protocol.Measure(
                prompt, ids, runtime or self.runtime_of(variant), str(record), self._dtype, str(own) if own else ""
            )
            reply = lease.request(request, stop=self.stop)
        return reply.drifts

    def choose_dtype(self, n_vocabulary: int, n_records: int, folder: Path) -> None:
        """By the vocabulary alone, so that cached results were rounded alike. Raises BadInput if the records would not
        fit on the disk."""
        record = 4 * n_vocabulary * (self.sampling.max_tokens + 1)
        if record > _EXACT_BYTES:
            self._dtype, record = "float16", record // 2
        free = min(_MAX_RECORD_BYTES, shutil.disk_usage(folder).free // 2)
        if n_records * record > free:
            raise BadInput(
                f"The reference's distributions would take {n_records * record / 1e9:.1f} GB on disk. Take at most "
                f"{max(1, free // record)} questions, or shorter answers."
            )

    @property
    def dtype(self) -> str:
        """Of the records."""
        return self._dtype

    @property
    def resolution(self) -> float:
        """Nats a token that rounding the records alone may take or give (docs/metrics.md)."""
        return 1e-7 if self._dtype == "float32" else 5e-6

    def other_way(self, variant: Variant) -> Condition:
        """Another way to compute the same: the attention that was not chosen, other batches, other threads.

        Quantized values of the key-value cache need flash attention: it stays on.
        """
        runtime = self.runtime_of(variant)
        # On a GPU a batch of 32 tokens takes as long as one of 128, and the floor as long as all else together.
        size = 128 if self.lab.pool.on_gpu else 32
        batch = size if runtime.n_batch > size else size * 2
        given = runtime.flash_attention
        # The opposite of llama.cpp's own choice.
        attention = runtime.needs_flash_attention or not (self.lab.pool.on_gpu if given is None else given)
        threads = 1 if runtime.n_threads != 1 else 2
        return Condition(
            f"flash attention {'on' if attention else 'off'}, batches of {batch}, {threads} thread{'s'[: threads - 1]}",
            replace(runtime, n_batch=batch, flash_attention=attention, n_threads=threads),
        )


_LATER = ("cache_type_k", "cache_type_v", "image_min_tokens", "image_max_tokens")


def settings_key(runtime: Runtime) -> msgspec.Raw:
    """For the result cache. What later versions added is left out where it is not set, so old results are found."""
    given = msgspec.to_builtins(runtime)
    return msgspec.Raw(msgspec.json.encode({k: v for k, v in given.items() if k not in _LATER or v is not None}))


def _files(variant: Variant) -> tuple[str, str, str | None]:
    return variant.model.sha256, variant.projector.sha256, variant.chat_template
