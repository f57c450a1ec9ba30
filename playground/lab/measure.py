"""What quantizations cost, over a set of questions: drift from the reference, accuracy, and whether a pair looks.

Drift: the reference answers each question greedily; every variant reads that answer, with the image embedded by its own
projector, and its distribution over each next token is compared with the reference's over the whole vocabulary. Nothing
is decoded but the reference's answers: where a variant would first have said something else is where its likeliest
token first is another one.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy
import PIL.Image

from playground.engine import protocol
from playground.errors import BadInput, OutOfMemory, PlaygroundError, Stopped
from playground.lab import prompts, statistics
from playground.lab.embeddings import EmbeddingCache
from playground.lab.images import from_rgb
from playground.lab.items import Item, ItemSet, score
from playground.lab.measured import Answered, Measurement, Plan, Progress, TokenCost, VariantResult
from playground.lab.statistics import Interval
from playground.pool.pool import Pool, language_spec, vision_spec
from playground.values import Image, Runtime, Sampling, TokenDrift, Variant

# Below it records are float32; above it float16, whose rounding the noise floor then shows.
_EXACT_BYTES = 512 * 2**20
MAX_RECORD_BYTES = 16 * 2**30

_FLOOR_ITEMS = 12
_LOOK_ITEMS = 8
_KEPT_CANDIDATES = 12  # tokens of an answer whose likeliest candidates are kept: those with the largest divergence

# Of the noise floor and of nats: an answer whose distributions move less when the picture goes is not about it.
BLIND_KL = 0.02


_Asked = tuple[Item, Image]


class Measuring:
    """One measurement. `run` yields Progress, and at the end a Measurement."""

    def __init__(
        self,
        items: ItemSet,
        variants: Sequence[Variant],
        reference: str,
        plan: Plan,
        runtime: Runtime,
        pool: Pool,
        embeddings: EmbeddingCache,
        stop: Callable[[], bool],
        folder: Path,
    ) -> None:
        """`folder`: where the reference's records are kept meanwhile. Raises BadInput for what cannot be compared."""
        self._variants = tuple(variants)
        self._reference = next(v for v in variants if v.id == reference)
        check(self._variants, self._reference, items)
        self._set = items
        self._plan = plan
        self._runtime = runtime
        self._pool = pool
        self._embeddings = embeddings
        self._stop = stop
        self._folder = folder
        self._sampling = Sampling(max_tokens=plan.max_tokens)
        self._problems: list[str] = list(items.problems)
        self._started = time.monotonic()
        self._done = self._total = 0

    def run(self) -> Iterator[Progress | Measurement]:
        """Raises Stopped, and what makes all of it impossible; what goes wrong with one item is told and left out."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        records = Path(tempfile.mkdtemp(prefix="measure-", dir=self._folder))
        try:
            yield from self._run(records)
        finally:
            shutil.rmtree(records, ignore_errors=True)

    def _run(self, records: Path) -> Iterator[Progress | Measurement]:
        plan, others = self._plan, [v for v in self._variants if v.id != self._reference.id]
        n = len(self._set.items)
        n_floor = min(_FLOOR_ITEMS, n) if plan.drift else 0
        self._total = n + 3 * n_floor + len(others) * n * plan.drift
        self._total += len(others) * n * plan.accuracy + len(self._variants) * min(_LOOK_ITEMS, n) * plan.look

        asked: list[_Asked] = []
        answers: list[tuple[str, tuple[int, ...]]] = []
        dtype = ""
        for item in self._set.items:
            yield self._progress(f"{self._reference.label} answers")
            try:
                image = self._set.image(item)
                prompt = self._prompt(self._reference, item, image)
                text, ids = self._answer(self._reference, prompt)
                if not ids:
                    raise BadInput("the reference has nothing to say to it")
                if plan.drift:
                    dtype = dtype or self._dtype(prompt, ids, records)
                    self._record(self._reference, prompt, ids, records / f"{len(asked)}", dtype)
            except PlaygroundError as error:
                self._refuse(item, error)
                continue
            asked.append((item, image))
            answers.append((text, ids))
        if not asked:
            raise BadInput(f"No question could be asked. {self._problems[-1]}")

        floors: dict[str, float] = {}
        if plan.drift:
            for name, runtime, fresh in self._conditions():
                found = []
                for k in range(min(n_floor, len(asked))):
                    yield self._progress(f"noise floor: {name}")
                    prompt = self._prompt(self._reference, *asked[k], fresh=fresh)
                    path = records / f"{k}"
                    found.append(self._measure(self._reference, prompt, answers[k][1], path, dtype, runtime))
                floors[name] = _mean([drift.kl for drifts in found for drift in drifts])

        told: dict[str, list[Answered]] = {v.id: [Answered() for _ in asked] for v in self._variants}
        # Variants with one language model stand together, so that it is loaded once.
        for variant in sorted(others, key=lambda v: [w.model.sha256 for w in self._variants].index(v.model.sha256)):
            for k, one in enumerate(asked):
                try:
                    if plan.drift:
                        yield self._progress(f"{variant.label}: drift")
                        prompt = self._prompt(variant, *one)
                        drifts = self._measure(variant, prompt, answers[k][1], records / f"{k}", dtype, self._runtime)
                        told[variant.id][k] = _answered(drifts)
                    if plan.accuracy:
                        yield self._progress(f"{variant.label}: answers")
                        text, _ = self._answer(variant, self._prompt(variant, *one))
                        told[variant.id][k] = msgspec.structs.replace(
                            told[variant.id][k], text=text, score=score(one[0], text)
                        )
                except (Stopped, OutOfMemory):
                    raise
                except PlaygroundError as error:
                    told[variant.id][k] = Answered(error=error.message)
                    self._problems.append(f"{variant.label}, {one[0].question[:40]}: {error.message}")
        for k, one in enumerate(asked):
            own = Answered(text=answers[k][0], score=score(one[0], answers[k][0]) if plan.accuracy else None)
            told[self._reference.id][k] = own

        looks: dict[str, float] = {}
        if plan.look:
            for variant in self._variants:
                moved = []
                for k in range(min(_LOOK_ITEMS, len(asked))):
                    yield self._progress(f"{variant.label}: does it look?")
                    moved.append(self._moved(variant, k, asked, records))
                looks[variant.id] = _mean(moved)

        yield Measurement(
            questions=tuple(item for item, _ in asked),
            answers=tuple(text for text, _ in answers),
            results=tuple(
                _result(v, told[v.id], told[self._reference.id], looks.get(v.id), v.id == self._reference.id)
                for v in self._variants
            ),
            floor=max(floors.values(), default=None),
            floors=floors,
            problems=tuple(self._problems),
            elapsed_s=time.monotonic() - self._started,
        )

    # --- steps -------------------------------------------------------------------------------------------------

    def _progress(self, what: str) -> Progress:
        if self._stop():
            raise Stopped("Stopped.")
        lasted = time.monotonic() - self._started
        left = lasted / self._done * (self._total - self._done) if self._done else None
        self._done += 1
        return Progress(what, self._done - 1, self._total, left)

    def _refuse(self, item: Item, error: PlaygroundError) -> None:
        if isinstance(error, (Stopped, OutOfMemory)):
            raise error
        self._problems.append(f"{item.image}, {item.question[:40]!r}: {error.message}")

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

    def _prompt(self, variant: Variant, item: Item, image: Image, *, fresh: bool = False) -> protocol.EncodedPrompt:
        messages = [protocol.ChatMessage("user", item.question, 1)]
        spec = vision_spec(variant.projector, variant.model, self._runtime)
        cache = None if fresh else self._embeddings
        with self._pool.turn(stop=self._stop), self._pool.lease(spec, stop=self._stop) as lease:
            prompt, _ = prompts.encode(
                lease, cache, variant.projector, messages, [image], variant.chat_template, self._stop
            )
        return prompt

    def _answer(self, variant: Variant, prompt: protocol.EncodedPrompt) -> tuple[str, tuple[int, ...]]:
        text: list[str] = []
        ids: list[int] = []

        def on_chunk(chunk: protocol.Chunk) -> None:
            text.append(chunk.text)
            ids.extend(chunk.token_ids)

        with (
            self._pool.turn(stop=self._stop),
            self._pool.lease(language_spec(variant.model, self._runtime), stop=self._stop) as lease,
        ):
            request = protocol.Generate(prompt, self._sampling, self._runtime)
            lease.request(request, on_chunk=on_chunk, stop=self._stop)
        return "".join(text), tuple(ids)

    def _record(
        self, variant: Variant, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], path: Path, dtype: str
    ) -> int:
        with (
            self._pool.turn(stop=self._stop),
            self._pool.lease(language_spec(variant.model, self._runtime), stop=self._stop) as lease,
        ):
            reply = lease.request(protocol.Record(prompt, ids, self._runtime, str(path), dtype), stop=self._stop)
        assert isinstance(reply, protocol.Recorded)
        return reply.n_vocabulary

    def _measure(
        self,
        variant: Variant,
        prompt: protocol.EncodedPrompt,
        ids: tuple[int, ...],
        path: Path,
        dtype: str,
        runtime: Runtime,
    ) -> tuple[TokenDrift, ...]:
        with (
            self._pool.turn(stop=self._stop),
            self._pool.lease(language_spec(variant.model, self._runtime), stop=self._stop) as lease,
        ):
            reply = lease.request(protocol.Measure(prompt, ids, runtime, str(path), dtype), stop=self._stop)
        assert isinstance(reply, protocol.Measured)
        return reply.drifts

    def _dtype(self, prompt: protocol.EncodedPrompt, ids: tuple[int, ...], records: Path) -> str:
        """float32 if all records fit _EXACT_BYTES. Raises BadInput if they would be too many for the disk."""
        n_vocabulary = self._record(self._reference, prompt, ids, records / "first", "float32")
        (records / "first").unlink()
        rows = len(self._set.items) * (self._plan.max_tokens + 1)
        wanted = 4 * rows * n_vocabulary
        if wanted <= _EXACT_BYTES:
            return "float32"
        free = min(MAX_RECORD_BYTES, shutil.disk_usage(records).free // 2)
        if wanted // 2 > free:
            fit = max(1, int(len(self._set.items) * free / (wanted / 2)))
            raise BadInput(
                f"The reference's distributions would take {wanted / 2e9:.1f} GB on disk. Take at most {fit} questions "
                "or shorter answers."
            )
        return "float16"

    def _moved(self, variant: Variant, k: int, asked: Sequence[_Asked], records: Path) -> float:
        """How far a variant's answer moves, in nats a token, when the picture is another one; the most of three."""
        item, image = asked[k]
        prompt = self._prompt(variant, item, image)
        _, ids = self._answer(variant, prompt)
        if not ids:
            return 0.0
        self._record(variant, prompt, ids, records / "look", "float32")
        foreign = next((other for _, other in asked if other.sha256 != image.sha256), None)
        moved = []
        for other in (_blank(image), _shuffled(image), foreign):
            if other is not None:
                changed = self._prompt(variant, item, other)
                drifts = self._measure(variant, changed, ids, records / "look", "float32", self._runtime)
                moved.append(_mean([drift.kl for drift in drifts]))
        return max(moved)


def check(variants: Sequence[Variant], reference: Variant, items: ItemSet) -> None:
    """Raises BadInput for variants whose tokens are not the reference's, and for no items."""
    if not items.items:
        raise BadInput("There is no question in the set.")
    for variant in variants:
        if variant.model.vocabulary_sha256 != reference.model.vocabulary_sha256:
            raise BadInput(
                f"{variant.label} has another vocabulary than {reference.label}: their distributions cannot be "
                "compared. Measure variants of one language model."
            )


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


def _answered(drifts: Sequence[TokenDrift]) -> Answered:
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
    return Answered(kl=tuple(shown(i) for i in range(len(drifts))), first_divergence=first)


def _result(
    variant: Variant, mine: Sequence[Answered], reference: Sequence[Answered], look: float | None, is_reference: bool
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
