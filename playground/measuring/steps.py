"""The steps of a measurement: one variant, one question. The variant answers it, or reads an answer to it.

Answers and drifts are kept in the result cache, under a key of everything that they follow from.
"""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NamedTuple, TypeVar

import msgspec

from playground.comparing import batch, prompts
from playground.comparing.batch import BatchAnswer
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure, Interrupted, MachineLost, OutOfMemory, PlaygroundError
from playground.measuring.question_sets import Question
from playground.measuring.results import QuestionDrift, RecordedAnswer
from playground.measuring.summaries import question_drift
from playground.pool.handles import Lease
from playground.pool.leasing import Slot
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.values.answer import TokenDrift
from playground.values.files import Variant
from playground.values.request import USUAL_FORM, Image, PromptForm, Runtime, Sampling

# Questions that one model answers at once at most (bench/README.md).
_ON_GPU, _ON_CPU = 64, 16

_MOST_LOSSES = 8  # of machines, before a measurement gives up
_T = TypeVar("_T")

_TURN_S = 10.0  # of a batch while others wait for their turn

# Of one answer's record. Up to it records are float32; beyond it float16, whose rounding shows in the noise floor.
_EXACT_BYTES = 10 * 2**20
_MAX_RECORD_BYTES = 16 * 2**30


class Item(NamedTuple):
    """A question with its image opened."""

    question: Question
    image: Image


class Reading(NamedTuple):
    """An answer to read: its tokens, the record that it is compared with, and where its own distributions go.

    own_stays: they are read again at the same place alone, so another machine need not send them.
    """

    ids: tuple[int, ...]
    against: Path | None = None
    own: Path | None = None
    own_stays: bool = False


class _Opening(NamedTuple):
    """The fields of protocol.OpenBatch and ReadBatch."""

    runtime: Runtime
    sequences: int
    limit: int | None
    widest: int
    kv_unified: bool


def _is_unified(spec: WorkerSpec) -> bool:
    assert isinstance(spec.load, protocol.LoadLanguage)
    return spec.load.kv_unified


class _Turn(NamedTuple):
    """Of one batch. `fresh`: images' embeddings are not cached."""

    slot: Slot
    began: float
    variant: Variant
    items: Sequence[Item]
    fresh: bool


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
        form: PromptForm = USUAL_FORM,
    ) -> None:
        """`sampling`: greedy. `tokenizer`: whose file turns texts into tokens; None: the reference's.

        `pack`: the digest of the reference pack that the drifts are measured against; empty: records of the whole
        vocabulary. `form`: of every question.
        """
        self.lab = lab
        self.form = form
        self.runtime = runtime
        self.sampling = sampling
        self.stop = stop
        self._reference = reference
        self._tokenizer = tokenizer or reference
        self._pack = pack
        self._dtype = "float32"
        self.sequences = lab.sequences or (_ON_GPU if lab.pool.on_gpu else _ON_CPU)
        self.phases: dict[str, float] = {}  # seconds of what the batches were made of; for a benchmark
        self._planned: dict[tuple[object, ...], protocol.EncodedPrompt] = {}
        self.then: Variant | None = None  # comes next here: its model is loaded while a batch is answered
        self.notes: list[str] = []  # for the person: what was done otherwise than wanted
        self._losses = 0
        self._settled: dict[tuple[str, Runtime], Runtime] = {}

    def measure_against(self, pack: str) -> None:
        """`pack`: as for the constructor, where it is known only when the reference has answered."""
        self._pack = pack

    def at(self, places: Places) -> Steps:
        """The same steps at these places, while others are taken elsewhere."""
        steps = copy(self)
        steps.lab = replace(self.lab, pool=self.lab.pool.at(places))
        return steps

    def key(self, what: str, variant: Variant, item: Item, *more: Any) -> str:
        budget = self.sampling.reasoning_tokens
        # What later versions added stands in the key only where it is given, so old results are found.
        limits = (self.sampling.max_tokens, *(() if budget is None else (f"reasoning {budget}",)))
        settings = (settings_key(self._computed(variant)), *limits, *form_key(self.form))
        return self.lab.results.key(what, _files(variant), item.question.question, item.image.sha256, settings, *more)

    def runtime_of(self, variant: Variant) -> Runtime:
        return self.runtime.of(variant)

    def settled(self, variant: Variant) -> Runtime:
        """How its language model computes: with what was measured to suit this machine.

        The same for the whole measurement, whatever machine joins and whatever is measured meanwhile.
        """
        given = self.runtime_of(variant)
        key = variant.model.sha256, given
        return self._settled.setdefault(key, self.lab.pool.choices.settled(variant.model, given))

    def settle(self, variant: Variant) -> None:
        """At the first use of a kind of model, measure what suits it on this machine, in a turn of its own."""
        spec = language_spec(variant.model, self.runtime_of(variant))
        if not self.lab.pool.choices.is_missing(spec):
            return
        with contextlib.suppress(PlaygroundError), self.lab.pool.turn([spec], stop=self.stop) as slot:
            self.lab.pool.settle(slot, spec, stop=self.stop)  # an error comes again when the model is asked

    def _computed(self, variant: Variant) -> Runtime:
        """For the result cache."""
        return replace(self.runtime_of(variant), flash_attention=self.settled(variant).flash_attention)

    @property
    def reference_key(self) -> tuple[Any, ...]:
        files = _files(self._reference)
        own = () if self._reference.overrides is None else (settings_key(self._computed(self._reference)),)
        return (*files, *own, *((f"pack {self._pack}",) if self._pack else ()))

    def answer_key(self, variant: Variant, item: Item) -> str:
        return self.key("said", variant, item)  # the name that the first version gave it

    def drift_key(self, variant: Variant, item: Item) -> str:
        return self.key("drift", variant, item, self.reference_key)

    def prompt(self, variant: Variant, item: Item, *, fresh: bool = False) -> protocol.EncodedPrompt:
        text, image = item.question.question, item.image
        return self._again(
            lambda: prompts.ask(self.lab, variant, text, image, self.runtime, self.stop, self.form, fresh=fresh)
        )

    def _use(self, spec: WorkerSpec, ask: Callable[[Lease], _T]) -> _T:
        """What one worker says, in a turn of its own."""

        def in_turn() -> _T:
            with self.lab.pool.use(spec, stop=self.stop) as lease:
                return ask(lease)

        return self._again(in_turn)

    def _again(self, ask: Callable[[], _T]) -> _T:
        """What is asked; it is asked again, elsewhere, if its machine was lost."""
        while True:
            try:
                return ask()
            except MachineLost as error:
                self.note_loss(error)

    def note_loss(self, error: MachineLost) -> None:
        """Raises `error` after too many."""
        self._losses += 1
        if self._losses > _MOST_LOSSES:
            raise error
        note = f"The machine {error.machine} was lost. What it had not answered was asked elsewhere."
        if note not in self.notes:
            self.notes.append(note)
        if self.stop():
            raise Interrupted("Stopped.") from None

    def language(self, variant: Variant, prompt: protocol.EncodedPrompt, n_answer: int) -> WorkerSpec:
        """The worker that reads a prompt and so many tokens of an answer."""
        return language_spec(variant.model, self.settled(variant).sized(prompt.n_tokens + n_answer))

    def answer(self, variant: Variant, item: Item) -> RecordedAnswer:
        """The variant's own greedy answer."""
        key = self.answer_key(variant, item)
        answer = self.lab.results.get(key, RecordedAnswer)
        if answer is None:
            answer = self.write(variant, self.prompt(variant, item))
            self.lab.results.put(key, answer)
        return answer

    def write(self, variant: Variant, prompt: protocol.EncodedPrompt) -> RecordedAnswer:
        request = protocol.Generate(prompt, self.sampling, self.settled(variant))
        text, ids, finished = self._use(
            self.language(variant, prompt, self.sampling.max_tokens),
            lambda lease: prompts.answer_and_end(lease, request, self.stop),
        )
        if finished.reason == "stopped":
            raise Interrupted("Stopped.")
        return RecordedAnswer(text, ids, finished.reason, finished.in_reasoning)

    def answers(
        self,
        variant: Variant,
        items: Sequence[Item],
        at_once: int,
        on_answer: Callable[[int], None] = lambda place: None,
    ) -> list[RecordedAnswer | Failure]:
        """The variant's own greedy answers, up to `at_once` together; each is cached as soon as it has ended.

        `on_answer` gets the place of each. Where memory is short fewer are asked at once, in the end one by one.
        Raises Interrupted.
        """
        answers: dict[int, RecordedAnswer | Failure] = {}
        runtime, tokens = self.settled(variant), self.sampling.max_tokens

        def keep(k: int, answer: BatchAnswer | PlaygroundError) -> None:
            if isinstance(answer, Failure):
                answers[k] = answer
            elif isinstance(answer, BatchAnswer) and answer.reason != "stopped":
                answers[k] = RecordedAnswer(*answer)
                self.lab.results.put(self.answer_key(variant, items[k]), answers[k])
            if k in answers:
                on_answer(k)

        def ask(lease: Lease, request: _Opening, encoded: Iterable[tuple[int, protocol.EncodedPrompt]]) -> None:
            joins = (protocol.Join(k, prompt, self.sampling, streamed=False) for k, prompt in encoded)
            opened = protocol.OpenBatch(*request)
            self._count(batch.answer_each(lease, opened, joins, keep, self.stop))

        for group in self._together(items):
            self._at_once(variant, items, group, answers, keep, tokens, runtime, at_once, ask)
        for k in [k for k in range(len(items)) if k not in answers]:
            try:
                answers[k] = self.write(variant, self.prompt(variant, items[k]))
                self.lab.results.put(self.answer_key(variant, items[k]), answers[k])
            except Failure as error:
                answers[k] = error
            on_answer(k)
        return [answers[k] for k in range(len(items))]

    def at_once(self, items: Sequence[Item]) -> int:
        """How many of these questions one model answers at once at most."""
        return min(self.sequences, max(map(len, self._together(items)), default=1))

    def in_batches(self, items: Sequence[Item]) -> list[int]:
        """The places of those that are asked together with others."""
        return sorted(k for group in self._together(items) if len(group) > 1 and self.sequences > 1 for k in group)

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
        items: Sequence[Item],
        group: Sequence[int],
        done: Mapping[int, object],
        fail: Callable[[int, PlaygroundError], None],
        n_answer: int,
        runtime: Runtime,
        at_once: int,
        ask: Callable[[Lease, _Opening, Iterable[tuple[int, protocol.EncodedPrompt]]], None],
        *,
        fresh: bool = False,
    ) -> None:
        """Have `ask` fill `done` in batches, fewer at once where memory is short; what cannot be asked so is left."""
        while len(left := [k for k in group if k not in done]) > 1 and min(at_once, self.sequences) > 1:
            wanted = [language_spec(variant.model, runtime)]
            n = min(at_once, self.sequences)
            try:
                with self.lab.pool.turn(wanted, stop=self.stop) as slot:
                    turn = _Turn(slot, time.monotonic(), variant, items, fresh)
                    plans = self._plans(turn, left, fail)
                    spec = self._largest(turn, list(plans.values()), runtime, n_answer, n)
                    if spec is None or not self._made_ready(turn, plans, spec):
                        return
                    with contextlib.ExitStack() as leased:
                        with self.timed("load"):
                            lease = leased.enter_context(slot.lease(spec, stop=self.stop))
                        widest = max(plan.widest for plan in plans.values())
                        request = _Opening(spec.runtime, spec.sequences, runtime.n_ctx, widest, _is_unified(spec))
                        self._load_ahead(spec)
                        ask(lease, request, self._in_turn(turn, plans, fail))
            except MachineLost as error:
                self.note_loss(error)
            except (EngineError, OutOfMemory) as error:
                self._ask_fewer(f"{variant.label}: {error.message}", n // 2)
            if self.stop():
                raise Interrupted("Stopped.")

    def _largest(
        self, turn: _Turn, plans: Sequence[protocol.EncodedPrompt], runtime: Runtime, n_answer: int, sequences: int
    ) -> WorkerSpec | None:
        """The worker for so many sequences, or for half as many and so on if memory is short; None: for one."""
        if len(plans) < 2:
            return None
        if self.lab.pool.on_gpu:  # as many steps as with all sequences, and none of them at the end nearly empty
            sequences = -(-len(plans) // -(-len(plans) // sequences))
        # On a GPU attention to the cells of all costs more than copies of a picture's (bench/README.md).
        unified = not self.lab.pool.on_gpu
        n, spec = sequences, None
        while n > 1 and spec is None:
            cells = (batch.cells if unified else batch.own_cells)(plans, n_answer, n)
            candidate = self._batch(turn.variant, cells, runtime, n, kv_unified=unified)
            spec = candidate if turn.slot.fits([candidate]) else None
            n //= 1 if spec else 2
        if n < sequences:
            self._ask_fewer(f"{turn.variant.label}: memory is short.", n)
        return spec

    def _batch(self, variant: Variant, cells: int, runtime: Runtime, sequences: int, *, kv_unified: bool) -> WorkerSpec:
        runtime = replace(runtime, n_ctx=cells)
        return language_spec(variant.model, runtime, sequences=sequences, kv_unified=kv_unified)

    def _load_ahead(self, batch: WorkerSpec) -> None:
        """Load what comes next with the batch's context, in a thread, if nothing has to be unloaded for it."""
        variant, self.then = self.then, None
        if variant is None or batch.key == language_spec(variant.model, self.settled(variant)).key:
            return
        runtime, unified = self.settled(variant), _is_unified(batch)
        spec = self._batch(variant, batch.runtime.context, runtime, batch.sequences, kv_unified=unified)

        def load() -> None:
            with contextlib.suppress(PlaygroundError):  # an error comes again when it is asked
                if self.lab.pool.has_room(spec):
                    with self.lab.pool.lease(spec, stop=self.stop):
                        pass

        Thread(target=load, daemon=True).start()

    # --- prompts, in the turn of the batch that they are for ---

    def _plans(
        self, turn: _Turn, places: Sequence[int], fail: Callable[[int, PlaygroundError], None]
    ) -> dict[int, protocol.EncodedPrompt]:
        """The prompts without embeddings: their sizes say how large a context is needed."""
        plans: dict[int, protocol.EncodedPrompt] = {}
        variant, items = turn.variant, turn.items
        with self.timed("plan"), contextlib.ExitStack() as leased:
            lease: Lease | None = None
            for k in places:
                key = self._plan_key(variant, items[k])
                try:
                    if key not in self._planned:
                        if lease is None:
                            vision = self._vision(variant, [items[k] for k in places])
                            lease = leased.enter_context(turn.slot.lease(vision, stop=self.stop))
                        text, image = items[k].question.question, items[k].image
                        self._planned[key] = prompts.planned(lease, variant, text, image, self.form, self.stop)
                    plans[k] = _named(self._planned[key], items[k].image.sha256)
                except MachineLost:
                    raise
                except Failure as error:
                    fail(k, error)
        return plans

    def _made_ready(self, turn: _Turn, plans: dict[int, protocol.EncodedPrompt], spec: WorkerSpec) -> bool:
        """Encode the images before the batch, unless they are encoded while others are answered.

        On a CPU the two would fight for its cores, and a small GPU does not hold both models. Takes out of `plans`
        those whose image failed; False: there is no room to keep what is encoded.
        """
        vision = self._vision(turn.variant, [turn.items[k] for k in plans])
        if self.lab.pool.on_gpu and turn.slot.fits([spec, vision]):
            return True
        if turn.fresh:
            return False
        encoded = set()
        for k, plan in plans.items():
            if self.stop() or self._others_waited(turn):
                break
            with contextlib.suppress(Failure):  # it comes again when the prompt is sent
                self._filled(turn, k, plan)
            encoded.add(k)
        for k in plans.keys() - encoded:
            del plans[k]
        return bool(plans)

    def _in_turn(
        self,
        turn: _Turn,
        plans: Mapping[int, protocol.EncodedPrompt],
        fail: Callable[[int, PlaygroundError], None],
    ) -> Iterator[tuple[int, protocol.EncodedPrompt]]:
        """The prompts as they are wanted, until others have waited for a while: the rest is asked in another turn."""
        turn = turn._replace(began=time.monotonic())  # what was made ready is asked
        for k, plan in plans.items():
            if self.stop() or self._others_waited(turn):
                return
            try:
                yield k, self._filled(turn, k, plan)
            except MachineLost:
                raise
            except Failure as error:
                fail(k, error)

    def _filled(self, turn: _Turn, k: int, plan: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
        """With its embeddings: from the cache, or encoded now."""
        variant, item, runtime = turn.variant, turn.items[k], self.runtime_of(turn.variant)
        cache = None if turn.fresh else self.lab.embeddings
        if cache is not None:
            filled = cache.fill(plan, {0: cache.key(variant.projector, item.image, runtime.image_tokens)})
            if filled is not None:
                return filled
        with self.timed("encode"), turn.slot.lease(self._vision(variant, [item]), stop=self.stop) as lease:
            text, image = item.question.question, item.image
            return prompts.encode_one(lease, cache, variant, runtime, text, image, self.form, self.stop)

    def _vision(self, variant: Variant, items: Sequence[Item]) -> WorkerSpec:
        images = [item.image for item in items]
        largest = sorted(images, key=lambda image: image.width * image.height)[-1:]
        return vision_spec(variant.projector, variant.model, self.runtime_of(variant), largest)

    def _plan_key(self, variant: Variant, item: Item) -> tuple[object, ...]:
        vocabulary = variant.model.vocabulary_sha256 or variant.model.sha256
        tokens = self.runtime_of(variant).image_tokens
        files = (variant.projector.sha256, vocabulary, variant.chat_template, tokens)
        return (*files, item.question.question, item.image.width, item.image.height)

    def _others_waited(self, turn: _Turn) -> bool:
        return time.monotonic() - turn.began > _TURN_S and self.lab.pool.is_wanted(turn.slot.places)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.phases[phase] = self.phases.get(phase, 0.0) + time.perf_counter() - started

    def _count(self, ended: protocol.BatchEnded) -> None:
        """What the worker says of its time."""
        own = ended.seconds - ended.prefix_s - ended.decode_s - ended.idle_s
        times = {"prefix": ended.prefix_s, "decode": ended.decode_s, "idle": ended.idle_s, "own": own}
        counts = {"steps": ended.steps, "tokens": ended.tokens, "prefix batches": ended.prefix_batches}
        for phase, seconds in (times | counts).items():
            self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def readings(
        self,
        variant: Variant,
        items: Sequence[Item],
        wanted: Mapping[int, Reading],
        keep: Callable[[int, protocol.SequenceRead], None],
        runtime: Runtime | None = None,
        *,
        fresh: bool = False,
        once: bool = False,
    ) -> None:
        """Read answers to the questions at some places of `items`; `keep` gets each, as soon as it was read.

        What fails, or cannot be read with others, is left to be read alone. `fresh`: the images' embeddings are not
        cached. `once`: what is equal to the last bit, as with a dead projector, is read once, so that it stays equal.
        Raises Interrupted.
        """
        done: dict[int, object] = {}
        equal: dict[tuple[object, ...], list[int]] = {}  # places, by the prompt and the answer
        lock = Lock()
        runtime = runtime or self.settled(variant)

        def kept(reply: protocol.SequenceRead) -> None:
            with lock:
                places = [*next((places for places in equal.values() if reply.id in places), [reply.id])]
                for k in places:
                    done[k] = reply
            if reply.failed is None:
                for k in places:
                    keep(k, reply)

        def is_known(k: int, prompt: protocol.EncodedPrompt) -> bool:
            """Whether it was sent already: it gets the same reply."""
            chunks = (c.key if isinstance(c, protocol.ImageChunk) else c.token_ids for c in prompt.chunks)
            with lock:
                places = equal.setdefault((*chunks, wanted[k].ids), [])
                if k not in places:
                    places.append(k)
                first, reply = places[0], done.get(places[0])
                if reply is not None:
                    done[k] = reply
            if isinstance(reply, protocol.SequenceRead) and reply.failed is None:
                keep(k, reply)
            return k != first

        def join(k: int, prompt: protocol.EncodedPrompt) -> protocol.JoinReading:
            reading = wanted[k]
            files = (str(reading.against or ""), str(reading.own or ""), self._dtype)
            return protocol.JoinReading(k, prompt, reading.ids, *files, own_stays=reading.own_stays)

        def ask(lease: Lease, request: _Opening, encoded: Iterable[tuple[int, protocol.EncodedPrompt]]) -> None:
            opened = protocol.ReadBatch(*request)
            joins = (join(k, prompt) for k, prompt in encoded if not (once and is_known(k, prompt)))
            self._count(batch.read_each(lease, opened, joins, kept, self.stop))

        places = list(wanted)
        groups = [[places[i] for i in group] for group in self._together([items[k] for k in places])]
        at_once = min(self.sequences, max(map(len, groups), default=1))
        n_answer = max((len(reading.ids) for reading in wanted.values()), default=0)
        for group in groups:
            # A failure is reported where the question is read alone.
            self._at_once(variant, items, group, done, done.__setitem__, n_answer, runtime, at_once, ask, fresh=fresh)

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
            drift = question_drift(self.read(variant, self.prompt(variant, item), ids, record, own=own, own_stays=True))
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
        key = self.lab.results.key("tokens", self._reference.model.sha256 or self._tokenizer.model.sha256, text)
        known = self.lab.results.get(key, tuple[int, ...])
        if known is None:
            known = self._use(
                language_spec(self._tokenizer.model, self.runtime),
                lambda lease: lease.request(protocol.Tokenize(text), stop=self.stop),
            ).token_ids
            self.lab.results.put(key, known)
        return known

    def tokens_that_write(self, pieces: Sequence[bytes]) -> protocol.TokensFound:
        """In the vocabulary of the tokenizer."""
        with self.lab.pool.use(language_spec(self._tokenizer.model, self.runtime), stop=self.stop) as lease:
            return lease.request(protocol.FindTokens(tuple(pieces)), stop=self.stop)

    def log_probability(self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...]) -> float:
        """Of a whole answer, in nats."""
        request = protocol.Score(prompt, ids, self.settled(variant))
        spec = self.language(variant, prompt, len(ids))
        reply = self._use(spec, lambda lease: lease.request(request, stop=self.stop))
        return math.fsum(math.log(max(score.probability or 0.0, 1e-300)) for score in reply.scores[: len(ids)])

    def record(self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], path: Path) -> int:
        """Write the variant's distributions over an answer to `path`. Returns the size of the vocabulary."""
        request = protocol.Record(prompt, ids, self.settled(variant), str(path), self._dtype)
        spec = self.language(variant, prompt, len(ids))
        return self._use(spec, lambda lease: lease.request(request, stop=self.stop)).n_vocabulary

    def read(
        self,
        variant: Variant,
        prompt: protocol.EncodedPrompt,
        ids: tuple[int, ...],
        record: Path,
        runtime: Runtime | None = None,
        own: Path | None = None,
        *,
        own_stays: bool = False,
    ) -> tuple[TokenDrift, ...]:
        """Compare the variant's distributions over an answer with those in `record`; write them to `own`, if given.

        own_stays: as of Reading.
        """
        request = protocol.Measure(
            prompt, ids, runtime or self.settled(variant), str(record), self._dtype, str(own) if own else "", own_stays
        )
        spec = self.language(variant, prompt, len(ids))
        return self._use(spec, lambda lease: lease.request(request, stop=self.stop)).drifts

    def choose_dtype(self, n_vocabulary: int, n_records: int, folder: Path) -> None:
        """By the vocabulary and the longest answer, so that cached results were rounded alike.

        Raises BadInput if the records would not fit on the disk.
        """
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
        runtime = self.settled(variant)
        # On a GPU a batch of 32 tokens takes as long as one of 256, and with 384 two prompts are one batch where three
        # were: with one alone the floor takes as long as all else together.
        size = 384 if self.lab.pool.on_gpu else 32
        batch = size if runtime.n_batch > size else size * 2
        given = runtime.flash_attention
        # The opposite of llama.cpp's own choice.
        attention = runtime.needs_flash_attention or not (self.lab.pool.on_gpu if given is None else given)
        threads = 1 if runtime.n_threads != 1 else 2
        return Condition(
            f"flash attention {'on' if attention else 'off'}, batches of {batch}, {threads} thread{'s'[: threads - 1]}",
            replace(runtime, n_batch=batch, flash_attention=attention, n_threads=threads),
        )


def _named(plan: protocol.EncodedPrompt, picture: str) -> protocol.EncodedPrompt:
    """Its image chunks by the picture: what is about one picture shares cells (batch.cells)."""
    chunks = (
        msgspec.structs.replace(chunk, key=picture) if isinstance(chunk, protocol.ImageChunk) else chunk
        for chunk in plan.chunks
    )
    return msgspec.structs.replace(plan, chunks=tuple(chunks))


_LATER = ("cache_type_k", "cache_type_v", "image_min_tokens", "image_max_tokens")


def settings_key(runtime: Runtime) -> msgspec.Raw:
    """For the result cache. What later versions added is left out where it is not set, so old results are found."""
    given = msgspec.to_builtins(runtime)
    del given["least_ctx"]  # room alone changes nothing
    return msgspec.Raw(msgspec.json.encode({k: v for k, v in given.items() if k not in _LATER or v is not None}))


def form_key(form: PromptForm) -> tuple[str, ...]:
    """For the result cache: empty where nothing is given, so old results are found."""
    given = msgspec.json.encode(form.given, order="deterministic").decode()
    return (f"form {given}",) if form.given else ()


def _files(variant: Variant) -> tuple[str, str, str | None]:
    return variant.model.sha256, variant.projector.sha256, variant.chat_template
