"""What quantizations cost, over a set of questions: drift from the reference, accuracy, and whether a pair looks.

Drift: the reference answers each question greedily; every variant reads that answer, with the image embedded by its own
projector, and its distribution over each next token is compared with the reference's over the whole vocabulary. Nothing
is decoded but the reference's answers: where a variant would first have said something else is where its likeliest
token first is another one.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy
import PIL.Image

from playground.comparing import prompts
from playground.comparing.embedding_cache import EmbeddingCache
from playground.comparing.images import from_rgb
from playground.engine import protocol
from playground.errors import BadInput, Failure, Interrupted
from playground.measuring import statistics
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.result_cache import ResultCache
from playground.measuring.results import (
    Measurement,
    MeasurementPlan,
    Progress,
    QuestionDrift,
    RecordedAnswer,
    Speed,
    TokenCost,
    VariantResult,
)
from playground.measuring.scoring_rules import score
from playground.measuring.statistics import Interval
from playground.pool.pool import Lease, Pool
from playground.pool.worker_spec import language_spec, vision_spec
from playground.values.answer import TokenDrift
from playground.values.files import Variant
from playground.values.request import Image, Runtime, Sampling

# Of an answer's record. Below it records are float32; above it float16, whose rounding the noise floor then shows.
_EXACT_BYTES = 10 * 2**20
MAX_RECORD_BYTES = 16 * 2**30

_FLOOR_ITEMS = 12
_LOOK_ITEMS = 8
_SPEED_ITEMS = 5
_KEPT_CANDIDATES = 12  # tokens of an answer whose likeliest candidates are kept: those with the largest divergence

# Of the noise floor and of nats: an answer whose distributions move less when the picture goes is not about it.
BLIND_KL = 0.02


_Asked = tuple[Question, Image]


@dataclass(frozen=True, slots=True)
class _Timed:
    encode_s: float | None
    finished: protocol.Finished
    bytes: int | None


class MeasureJob:
    """One measurement. `run` yields Progress, and at the end a Measurement."""

    def __init__(
        self,
        items: QuestionSet,
        variants: Sequence[Variant],
        reference: str,
        plan: MeasurementPlan,
        runtime: Runtime,
        pool: Pool,
        embeddings: EmbeddingCache,
        known: ResultCache,
        stop: Callable[[], bool],
    ) -> None:
        """Raises BadInput for what cannot be compared."""
        self._variants = tuple(variants)
        self._reference = next(v for v in variants if v.id == reference)
        check(self._variants, self._reference, items)
        self._set = items
        self._plan = plan
        self._runtime = runtime
        self._pool = pool
        self._embeddings = embeddings
        self._known = known
        self._stop = stop
        self._sampling = Sampling(max_tokens=plan.max_tokens)
        self.problems: list[str] = list(items.problems)
        self.asked: list[_Asked] = []
        self._answers: list[RecordedAnswer] = []  # the reference's
        self._started = time.monotonic()
        self._done = self._total = 0
        self._dtype = "float32"

    def run(self) -> Iterator[Progress | Measurement]:
        """Raises Interrupted, and what makes all of it impossible. An item that fails is reported and left out."""
        plan, base = self._plan, self._reference
        # Variants with one language model stand together, so that it is loaded once.
        order = [v.model.sha256 for v in self._variants]
        others = sorted((v for v in self._variants if v.id != base.id), key=lambda v: order.index(v.model.sha256))
        n = len(self._set.items)
        self.expect(n * (1 + plan.drift) + 3 * min(_FLOOR_ITEMS, n) * plan.drift)
        self.expect(len(others) * n * (plan.drift + plan.accuracy))
        self.expect(len(self._variants) * (min(_LOOK_ITEMS, n) * plan.look + min(_SPEED_ITEMS, n) * plan.speed))
        with self._known.scratch() as records:
            yield from self.ask()
            floors: dict[str, float] = {}
            if plan.drift:
                floors = yield from self.record(records, others)
            told = {base.id: [self._own_answer(k) for k in range(len(self.asked))]}
            for variant in others:
                told[variant.id] = yield from self.read(variant, records)
            looks: dict[str, float] = {}
            speeds: dict[str, Speed] = {}
            for variant in self._variants:
                try:
                    if plan.look:
                        looks[variant.id] = yield from self._look(variant, records)
                    if plan.speed:
                        speeds[variant.id] = yield from self._run_timed(variant)
                except Failure as error:
                    self.problems.append(f"{variant.label}: {error.message}")
        yield Measurement(
            questions=tuple(item for item, _ in self.asked),
            answers=tuple(said.text for said in self._answers),
            results=tuple(
                _result(v, told[v.id], told[base.id], looks.get(v.id), speeds.get(v.id), is_reference=v.id == base.id)
                for v in self._variants
            ),
            floor=max(floors.values(), default=None),
            floors=floors,
            problems=tuple(self.problems),
            elapsed_s=time.monotonic() - self._started,
        )

    # --- stages; a scan of many variants goes through them itself (quantizing/sensitivity_scan.py) ---

    def expect(self, steps: int) -> None:
        """More to be done."""
        self._total += steps

    def ask(self) -> Iterator[Progress]:
        """Have the reference answer every question; fills `asked`. Raises BadInput if none can be asked."""
        for item in self._set.items:
            try:
                image = self._set.image(item)
                if self._is_new(self._key("said", self._reference, (item, image))):
                    yield self.step(f"{self._reference.label} answers")
                said = self._said(self._reference, (item, image))
                if not said.token_ids:
                    raise BadInput("the reference has nothing to say to it")
            except Failure as error:
                self.problems.append(f"{item.image}, {item.question[:40]!r}: {error.message}")
                continue
            self.asked.append((item, image))
            self._answers.append(said)
        if not self.asked:
            raise BadInput(f"No question could be asked. {self.problems[-1]}")

    def record(self, records: Path, others: Sequence[Variant] | None) -> Generator[Progress, None, dict[str, float]]:
        """Record what the reference holds likely, as far as a variant of `others` (None: any) will be compared with it.

        Returns the noise floor, by what was done in another way.
        """
        base, asked = self._reference, self.asked
        n_floor = min(_FLOOR_ITEMS, len(asked))
        floor_keys = {name: self._floor_key(name, asked[:n_floor]) for name, _, _ in self._conditions()}
        wanted = {
            k
            for k, one in enumerate(asked)
            if others is None or not all(self._known.has(self._drift_key(v, one)) for v in others)
        }
        if not all(self._known.has(key) for key in floor_keys.values()):
            wanted |= set(range(n_floor))
        for k in range(len(asked)):
            if k not in wanted:
                self._total -= 1
                continue
            yield self.step(f"{base.label} reads its answers")
            prompt, ids, path = self._prompt(base, *asked[k]), self._answers[k].token_ids, records / f"{k}"
            n_vocabulary = self._record(base, prompt, ids, path)
            if k == min(wanted):
                self._choose_dtype(n_vocabulary, len(wanted), records)
                self._record(base, prompt, ids, path)
        floors: dict[str, float] = {}
        for name, runtime, fresh in self._conditions():
            kl = self._known.get(floor_keys[name], float)
            if kl is not None:
                self._total -= n_floor
            else:
                found: list[TokenDrift] = []
                for k in range(n_floor):
                    yield self.step(f"noise floor: {name}")
                    prompt = self._prompt(base, *asked[k], fresh=fresh)
                    found += self._measure(base, prompt, self._answers[k].token_ids, records / f"{k}", runtime)
                kl = _mean([drift.kl for drift in found])
                self._known.put(floor_keys[name], kl)
            floors[name] = kl
        return floors

    def read(
        self, variant: Variant, records: Path, *, label: str = "", strict: bool = False
    ) -> Generator[Progress, None, list[QuestionDrift]]:
        """What one variant makes of every question: drift and answers, as the plan wants.

        What goes wrong with a question is told with it and in `problems`; `strict`: it is raised.
        """
        label = label or variant.label
        told = []
        for k, one in enumerate(self.asked):
            answered = QuestionDrift()
            try:
                if self._plan.drift:
                    if self._is_new(self._drift_key(variant, one)):
                        yield self.step(f"{label}: drift")
                    answered = self._drift(variant, one, self._answers[k].token_ids, records / f"{k}")
                if self._plan.accuracy:
                    if self._is_new(self._key("said", variant, one)):
                        yield self.step(f"{label}: answers")
                    text = self._said(variant, one).text
                    answered = msgspec.structs.replace(answered, text=text, score=score(one[0], text))
            except Failure as error:
                if strict:
                    raise
                answered = QuestionDrift(error=error.message)
                self.problems.append(f"{label}, {one[0].question[:40]}: {error.message}")
            told.append(answered)
        return told

    def read_once(self, variant: Variant, records: Path, label: str) -> Generator[Progress, None, list[QuestionDrift]]:
        """The drift of a variant whose files are about to go: nothing of it is kept, and what goes wrong is raised."""
        told = []
        fresh = variant.projector.sha256 != self._reference.projector.sha256
        for k, one in enumerate(self.asked):
            yield self.step(f"{label}: drift")
            prompt = self._prompt(variant, *one, fresh=fresh)
            drifts = self._measure(variant, prompt, self._answers[k].token_ids, records / f"{k}", self._runtime)
            told.append(_answered(drifts))
        return told

    def step(self, what: str) -> Progress:
        """Raises Interrupted when that is wanted."""
        if self._stop():
            raise Interrupted("Stopped.")
        lasted = time.monotonic() - self._started
        left = lasted / self._done * (self._total - self._done) if self._done else None
        self._done += 1
        return Progress(what, self._done - 1, self._total, left)

    def _own_answer(self, k: int) -> QuestionDrift:
        text = self._answers[k].text
        return QuestionDrift(text=text, score=score(self.asked[k][0], text) if self._plan.accuracy else None)

    def _look(self, variant: Variant, records: Path) -> Generator[Progress, None, float]:
        moved = []
        for k in range(min(_LOOK_ITEMS, len(self.asked))):
            if self._is_new(self._look_key(variant, k)):
                yield self.step(f"{variant.label}: does it look?")
            moved.append(self._moved(variant, k, records))
        return _mean(moved)

    def _run_timed(self, variant: Variant) -> Generator[Progress, None, Speed]:
        timed = []
        for one in self.asked[:_SPEED_ITEMS]:
            yield self.step(f"{variant.label}: speed")
            timed.append(self._timed(variant, one))
        return _speed(timed)

    # --- what is known from before -----------------------------------------------------------------------------------

    def _key(self, what: str, variant: Variant, asked: _Asked, *more: Any) -> str:
        item, image = asked
        settings = (self._runtime, self._plan.max_tokens)
        return self._known.key(what, _files(variant), item.question, image.sha256, settings, *more)

    def _drift_key(self, variant: Variant, asked: _Asked) -> str:
        return self._key("drift", variant, asked, _files(self._reference))

    def _floor_key(self, name: str, asked: Sequence[_Asked]) -> str:
        return self._key("floor", self._reference, asked[0], name, [(i.question, p.sha256) for i, p in asked])

    def _look_key(self, variant: Variant, k: int) -> str:
        foreign = _foreign(self.asked[k][1], self.asked)
        return self._key("look", variant, self.asked[k], foreign and foreign.sha256)

    def _is_new(self, key: str) -> bool:
        """Whether it has to be computed; what has not is no part of the work that is counted."""
        if self._known.has(key):
            self._total -= 1
            return False
        return True

    # --- steps -------------------------------------------------------------------------------------------------

    def _conditions(self) -> list[tuple[str, Runtime, bool]]:
        """Ways to compute the same once more: name, runtime, and whether the image is encoded afresh."""
        other = 32 if self._runtime.n_batch > 32 else 64
        given = self._runtime.flash_attention
        attention = not (self._pool.on_gpu if given is None else given)  # what llama.cpp takes of itself, turned round
        return [
            (f"batches of {other}", replace(self._runtime, n_batch=other), False),
            (
                f"flash attention {'on' if attention else 'off'}",
                replace(self._runtime, flash_attention=attention),
                False,
            ),
            ("image encoded afresh", self._runtime, True),
        ]

    def _prompt(self, variant: Variant, item: Question, image: Image, *, fresh: bool = False) -> protocol.EncodedPrompt:
        messages = [protocol.ChatMessage("user", item.question, 1)]
        spec = vision_spec(variant.projector, variant.model, self._runtime)
        cache = None if fresh else self._embeddings
        with self._pool.use(spec, stop=self._stop) as lease:
            prompt, _ = prompts.encode(
                lease, cache, variant.projector, messages, [image], variant.chat_template, self._stop
            )
        return prompt

    def _said(self, variant: Variant, asked: _Asked) -> RecordedAnswer:
        key = self._key("said", variant, asked)
        found = self._known.get(key, RecordedAnswer)
        if found is None:
            found = self._answer(variant, self._prompt(variant, *asked))
            self._known.put(key, found)
        return found

    def _answer(self, variant: Variant, prompt: protocol.EncodedPrompt) -> RecordedAnswer:
        with self._pool.use(language_spec(variant.model, self._runtime), stop=self._stop) as lease:
            request = protocol.Generate(prompt, self._sampling, self._runtime)
            return RecordedAnswer(*prompts.answer(lease, request, self._stop))

    def _drift(self, variant: Variant, asked: _Asked, ids: tuple[int, ...], record: Path) -> QuestionDrift:
        key = self._drift_key(variant, asked)
        found = self._known.get(key, QuestionDrift)
        if found is None:
            prompt = self._prompt(variant, *asked)
            found = _answered(self._measure(variant, prompt, ids, record, self._runtime))
            self._known.put(key, found)
        return found

    def _timed(self, variant: Variant, asked: _Asked) -> _Timed:
        """The picture encoded afresh, and a prompt of which nothing is in the key-value cache."""
        item, image = asked
        messages = [protocol.ChatMessage("user", item.question, 1)]
        held: list[int | None] = []

        def weigh(lease: Lease) -> None:
            rss, gpu = self._pool.worker_bytes(lease.pid)
            held.append(gpu if self._pool.on_gpu else rss)

        vision = vision_spec(variant.projector, variant.model, self._runtime)
        language = language_spec(variant.model, self._runtime)
        with self._pool.turn([vision, language], stop=self._stop) as slot:
            with slot.lease(vision, stop=self._stop) as lease:
                template = variant.chat_template
                prompt, _ = prompts.encode(lease, None, variant.projector, messages, [image], template, self._stop)
                weigh(lease)
            with slot.lease(language, stop=self._stop) as lease:
                request = protocol.Generate(_unseen(prompt), self._sampling, self._runtime)
                finished = lease.request(request, stop=self._stop)
                weigh(lease)
        known = [n for n in held if n is not None]
        return _Timed(prompt.encode_s, finished, sum(known) if len(known) == len(held) else None)

    def _record(self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], path: Path) -> int:
        """Returns the number of tokens in the vocabulary."""
        with self._pool.use(language_spec(variant.model, self._runtime), stop=self._stop) as lease:
            request = protocol.Record(prompt, ids, self._runtime, str(path), self._dtype)
            reply = lease.request(request, stop=self._stop)
        return reply.n_vocabulary

    def _measure(
        self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], path: Path, runtime: Runtime
    ) -> tuple[TokenDrift, ...]:
        with self._pool.use(language_spec(variant.model, self._runtime), stop=self._stop) as lease:
            request = protocol.Measure(prompt, ids, runtime, str(path), self._dtype)
            reply = lease.request(request, stop=self._stop)
        return reply.drifts

    def _choose_dtype(self, n_vocabulary: int, n_records: int, folder: Path) -> None:
        """By the vocabulary alone, so that what is known from before was rounded alike. Raises BadInput if the records
        would be too many for the disk."""
        record = 4 * n_vocabulary * (self._plan.max_tokens + 1)
        if record > _EXACT_BYTES:
            self._dtype, record = "float16", record // 2
        free = min(MAX_RECORD_BYTES, shutil.disk_usage(folder).free // 2)
        if n_records * record > free:
            raise BadInput(
                f"The reference's distributions would take {n_records * record / 1e9:.1f} GB on disk. Take at most "
                f"{max(1, free // record)} questions, or shorter answers."
            )

    def _moved(self, variant: Variant, k: int, records: Path) -> float:
        """How far a variant's answer moves, in nats a token, when the picture is another one; the most of three."""
        key = self._look_key(variant, k)
        known = self._known.get(key, float)
        if known is not None:
            return known
        item, image = self.asked[k]
        ids = self._said(variant, self.asked[k]).token_ids
        moved = [0.0]
        if ids:
            self._record(variant, self._prompt(variant, item, image), ids, records / "look")
            for other in (_blank(image), _shuffled(image), _foreign(image, self.asked)):
                if other is not None:
                    changed = self._prompt(variant, item, other)
                    drifts = self._measure(variant, changed, ids, records / "look", self._runtime)
                    moved.append(_mean([drift.kl for drift in drifts]))
        self._known.put(key, max(moved))
        return max(moved)


def check(variants: Sequence[Variant], reference: Variant, items: QuestionSet) -> None:
    """Raises BadInput for variants whose tokens are not the reference's, and for no items."""
    if not items.items:
        raise BadInput("There is no question in the set.")
    for variant in variants:
        if variant.model.vocabulary_sha256 != reference.model.vocabulary_sha256:
            raise BadInput(
                f"{variant.label} has another vocabulary than {reference.label}: their distributions cannot be "
                "compared. Measure variants of one language model."
            )


def _files(variant: Variant) -> tuple[str, str, str | None]:
    return variant.model.sha256, variant.projector.sha256, variant.chat_template


def _foreign(image: Image, asked: Sequence[_Asked]) -> Image | None:
    return next((other for _, other in asked if other.sha256 != image.sha256), None)


def _unseen(prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
    """With pictures of which no key-value cache has anything."""
    chunks = (
        msgspec.structs.replace(c, key=os.urandom(8).hex()) if isinstance(c, protocol.ImageChunk) else c
        for c in prompt.chunks
    )
    return msgspec.structs.replace(prompt, chunks=tuple(chunks))


def _speed(timed: Sequence[_Timed]) -> Speed:
    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(numpy.median(known)) if len(known) == len(timed) else None

    decoded = [(t.finished.generated_tokens - 1, t.finished.decode_s) for t in timed]
    seconds = math.fsum(s for _, s in decoded if s is not None)
    return Speed(
        questions=len(timed),
        tokens_per_second=sum(n for n, s in decoded if s is not None) / seconds if seconds else None,
        encode_s=median(t.encode_s for t in timed),
        prompt_s=median(t.finished.prompt_s for t in timed),
        first_token_s=median(_sum(t.encode_s, t.finished.first_token_s) for t in timed),
        bytes=max((t.bytes for t in timed if t.bytes is not None), default=None),
    )


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _blank(image: Image) -> Image:
    """Of the picture's mean colour."""
    pixels = numpy.frombuffer(image.rgb, numpy.uint8).reshape(image.height, image.width, 3)
    mean = tuple(int(c) for c in pixels.reshape(-1, 3).mean(axis=0))
    return from_rgb(PIL.Image.new("RGB", (image.width, image.height), mean))


def _shuffled(image: Image, n: int = 8) -> Image:
    """Its n x n tiles in another order, always the same one."""
    whole = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    w, h = max(1, image.width // n), max(1, image.height // n)
    places = [(x * w, y * h) for y in range(n) for x in range(n)]
    order = numpy.random.default_rng(1).permutation(len(places))
    for place, tile in zip(
        places, [whole.crop((*places[i], places[i][0] + w, places[i][1] + h)) for i in order], strict=True
    ):
        whole.paste(tile, place)
    return from_rgb(whole)


def _answered(drifts: Sequence[TokenDrift]) -> QuestionDrift:
    largest = set(sorted(range(len(drifts)), key=lambda i: -drifts[i].kl)[:_KEPT_CANDIDATES])

    def shown(i: int) -> TokenCost:
        drift = drifts[i]
        if i not in largest:
            return TokenCost(drift.text, drift.kl, drift.same_top)
        reference, variant = (
            tuple((c.text, round(c.probability, 5)) for c in side) for side in (drift.reference, drift.variant)
        )
        return TokenCost(drift.text, drift.kl, drift.same_top, reference, variant)

    first = next((i for i, drift in enumerate(drifts) if not drift.same_top), None)
    return QuestionDrift(kl=tuple(shown(i) for i in range(len(drifts))), first_divergence=first)


def _result(
    variant: Variant,
    mine: Sequence[QuestionDrift],
    reference: Sequence[QuestionDrift],
    look: float | None,
    speed: Speed | None,
    *,
    is_reference: bool,
) -> VariantResult:
    read = [one for one in mine if one.kl]
    kls = [token.kl for one in read for token in one.kl]
    scored = [(one.score, theirs.score) for one, theirs in zip(mine, reference, strict=True)]
    known = [(a, b) for a, b in scored if a is not None and b is not None]
    return VariantResult(
        variant=variant.id,
        mean_kl=statistics.ratio([(sum(t.kl for t in one.kl), len(one.kl)) for one in read]) if read else None,
        median_kl=float(numpy.median(kls)) if kls else None,
        p99_kl=float(numpy.quantile(kls, 0.99)) if kls else None,
        same_top=statistics.ratio([(sum(t.same_top for t in one.kl), len(one.kl)) for one in read]) if read else None,
        same_answer=statistics.share(sum(o.first_divergence is None for o in read), len(read)) if read else None,
        accuracy=_accuracy([a for a, _ in known]),
        against=statistics.paired([b >= 0.5 for _, b in known], [a >= 0.5 for a, _ in known])
        if known and not is_reference
        else None,
        looks=None if look is None else "blind" if look < BLIND_KL else "looks",
        look_kl=look,
        speed=speed,
        items=tuple(mine),
    )


def _accuracy(scores: Sequence[float]) -> Interval | None:
    if not scores:
        return None
    if set(scores) <= {0.0, 1.0}:
        return statistics.share(int(sum(scores)), len(scores))
    return statistics.ratio([(score, 1.0) for score in scores])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
