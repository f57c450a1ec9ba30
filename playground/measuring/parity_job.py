"""Measures parity: asks the original and the pair the same questions about the same pictures.

The pair encodes first and keeps what its encoder saw. The original then answers, in a process of its own, and encodes
both pictures: its own and the pair's. The pair's language model reads the original's answers at last.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import msgspec
import numpy
import PIL.Image

from playground.comparing import prompts
from playground.comparing.lab import Lab
from playground.comparing.prompts import IMAGE_WORD
from playground.engine import protocol
from playground.engine.protocol import EncodedPrompt
from playground.errors import BadInput, BadModel, Failure
from playground.measuring import original, parity, parity_prompts
from playground.measuring.parity import Parity, Part, PictureParity, TokenErrors
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Progress
from playground.measuring.steps import Item, Steps
from playground.pool.worker_spec import vision_spec
from playground.values.answer import TokenDrift
from playground.values.files import Variant
from playground.values.request import USUAL_FORM, PromptForm, Runtime, Sampling


class ParityRequest(msgspec.Struct, frozen=True):
    variant: Variant
    questions: QuestionSet
    original: Path  # a folder as transformers saves one
    name: str  # of the original, for people
    python: str  # an interpreter with torch and transformers
    free_bytes: int  # memory that the original may take
    dtype: str | None = None  # one of original.DTYPES; None: the most exact one that fits
    max_tokens: int = 32
    runtime: Runtime = Runtime()
    form: PromptForm = USUAL_FORM


class _Question(NamedTuple):
    """A question as the pair has it."""

    item: Item
    prompt: EncodedPrompt
    answer: tuple[int, ...]


class _Answer(NamedTuple):
    """What the original's process wrote about it."""

    ids: tuple[int, ...]  # of its answer
    native: bool
    aligned: bool  # its prompt has the pair's length and texts
    arrays: dict[str, Any]
    record: Path


class _Read(NamedTuple):
    """What the pair's language model made of one answer. KL: nats of the whole answer."""

    question: _Question
    answer: _Answer
    sums: dict[Part, float]
    total: tuple[TokenDrift, ...]
    floor: float
    difference: str | None  # of the texts' tokens


class ParityJob:
    """`run` yields Progress, and at the end a Parity, which is kept in the result cache."""

    def __init__(
        self, lab: Lab, request: ParityRequest, *, engine: str, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Raises BadInput, BadModel for an original that cannot be asked here."""
        self._lab = lab
        self._request = request
        self._engine = engine
        self._stop = stop
        original.check_interpreter(request.python)
        counts = original.tensor_counts(request.original)
        self._dtype = original.choose_dtype(counts, request.dtype, request.free_bytes)
        sampling = Sampling(max_tokens=request.max_tokens)
        self._steps = Steps(lab, request.variant, request.runtime, sampling, stop, form=request.form)
        self._problems = list(request.questions.problems)
        self._done = 0
        self._total = 3 * len(request.questions.items) + 1

    def run(self) -> Iterator[Progress | Parity]:
        """Raises Interrupted, BadInput if no question can be asked, and what the workers and the original raise."""
        with self._lab.results.scratch() as folder:
            questions = []
            for wanted in self._request.questions.items:
                try:
                    questions.append(self._encoded(Item(wanted, self._request.questions.image(wanted))))
                except Failure as error:
                    self._problems.append(f"{wanted.image}, {wanted.question[:40]!r}: {error.message}")
                yield self._step(f"{self._request.variant.label} answers")
            if not questions:
                raise BadInput(f"No question could be asked. {self._problems[-1]}")
            self._write(folder, questions)
            for what in original.ask(self._request.python, folder, self._job(questions), self._stop):
                yield self._step(what)
            tokens, theirs = self._vocabularies(folder)
            problem = parity.vocabulary_problem(tokens, theirs)
            if problem is not None:
                self._problems.append(problem)
            readings = []
            for k, question in enumerate(questions):
                readings.append(self._read(folder, question, self._answer(folder, k, len(tokens))))
                yield self._step("the pair reads the original's answers")
        reading = self._reading(readings, problem)
        key = self._lab.results.key(*parity.key_parts(self._request.variant, self._request.runtime))
        self._lab.results.put(key, reading)
        yield reading

    def _step(self, what: str) -> Progress:
        self._done += 1
        return Progress(what, min(self._done, self._total), self._total)

    def _encoded(self, item: Item) -> _Question:
        variant, runtime = self._request.variant, self._request.runtime.of(self._request.variant)
        spec = vision_spec(variant.projector, variant.model, runtime, [item.image], keep_inputs=True)
        with self._lab.pool.use(spec, stop=self._stop) as lease:
            text, form = item.question.question, self._request.form
            prompt = prompts.encode_one(lease, None, variant, runtime, text, item.image, form, self._stop)
        return _Question(item, prompt, self._steps.answer(variant, item).token_ids)

    def _write(self, folder: Path, questions: Sequence[_Question]) -> None:
        """What the original's process reads beside the job."""
        for k, (item, prompt, _) in enumerate(questions):
            image = item.image
            PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb).save(folder / f"{k}.png")
            numpy.savez(
                folder / f"inputs-{k}.npz", **{str(i): p for i, p in enumerate(parity_prompts.pictures_of(prompt))}
            )

    def _job(self, questions: Sequence[_Question]) -> dict[str, Any]:
        form = self._request.form
        return {
            "model": str(self._request.original.resolve()),
            "dtype": self._dtype,
            "threads": self._request.runtime.n_threads or 0,
            "gpu": self._request.runtime.n_gpu_layers != 0,
            "max_tokens": self._request.max_tokens,
            "questions": [
                {
                    "name": str(k),
                    "image": f"{k}.png",
                    "inputs": f"inputs-{k}.npz",
                    "frame": parity_prompts.frame_of(question.prompt),
                    "messages": [
                        {"role": message.role, "parts": _parts(message)}
                        for message in prompts.asked(question.item.question.question, form)
                    ],
                    "variables": dict(form.template_variables),
                }
                for k, question in enumerate(questions)
            ],
        }

    def _vocabularies(self, folder: Path) -> tuple[list[str], list[str | None]]:
        """The texts of all token ids: of the pair's file, and of the original's tokenizer."""
        field = gguf.GGUFReader(self._request.variant.model.path).fields["tokenizer.ggml.tokens"]
        return list(map(str, field.contents())), json.loads((folder / "vocabulary.json").read_text())

    def _answer(self, folder: Path, k: int, n_vocabulary: int) -> _Answer:
        document = json.loads((folder / f"{k}.json").read_text())
        ids = tuple(document["answer"])
        if any(id >= n_vocabulary for id in ids):
            raise BadModel("The original's answer has a token that the pair's vocabulary lacks.")
        original.record_rows(folder / f"{k}.f32", len(ids) + 1, n_vocabulary)
        arrays = original.read_arrays(folder / f"{k}.npz")
        return _Answer(ids, document["native"], document["aligned"], arrays, folder / f"{k}.f32")

    def _read(self, folder: Path, question: _Question, answer: _Answer) -> _Read:
        """The chain of prompts, from the original's to the pair's."""
        variant, steps = self._request.variant, self._steps
        own = question.prompt
        theirs = _original_prompt(own, answer)
        texts = theirs or own
        seen = answer.arrays.get("embeddings-of-inputs")
        encoded = None if seen is None else parity_prompts.with_rows(own, seen)
        difference = parity_prompts.first_difference(own, texts)
        chain: list[tuple[Part, EncodedPrompt]] = []
        if theirs is not None:
            chain.append((Part.MODEL, theirs))
        if encoded is not None:
            chain.append((Part.PREPROCESSING, parity_prompts.around(texts, encoded)))
        # Where the encoders cannot be compared, a picture of another size is reason enough.
        resized = own.n_image_tokens != len(answer.arrays["slots"])
        last = Part.PREPROCESSING if encoded is None and resized else Part.ENCODER
        chain.append((last, parity_prompts.around(texts, own)))
        if difference is not None:
            chain.append((Part.PROMPT, own))
        sums: dict[Part, float] = {}
        against = answer.record
        for part, prompt in chain:
            path = folder / f"{part.name}.f32"
            drifts = steps.read(variant, prompt, answer.ids, against, own=path)
            sums[part] = math.fsum(drift.kl for drift in drifts)
            against = path
        total = steps.read(variant, own, answer.ids, answer.record)
        floor = steps.read(variant, own, answer.ids, against, steps.other_way(variant).runtime)
        return _Read(question, answer, sums, total, math.fsum(drift.kl for drift in floor), difference)

    def _reading(self, readings: Sequence[_Read], vocabulary: str | None) -> Parity:
        variant = self._request.variant
        n = sum(len(reading.total) for reading in readings)
        parts = {
            part: math.fsum(reading.sums[part] for reading in readings if part in reading.sums) / n
            for part in Part
            if any(part in reading.sums for reading in readings)
        }
        floor = math.fsum(reading.floor for reading in readings) / n
        pictures = tuple(_picture(reading) for reading in readings)
        difference = next((reading.difference for reading in readings if reading.difference is not None), None)
        prompt = " ".join(filter(None, (vocabulary, difference)))
        answers = [(reading.question.answer, reading.answer.ids) for reading in readings]
        files = dict.fromkeys((variant.model.quantization, variant.projector.quantization))
        return Parity(
            original=self._request.name,
            dtype=self._dtype,
            model=variant.model.sha256,
            projector=variant.projector.sha256,
            quantization=" + ".join(files),
            engine=self._engine,
            measured=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            questions=len(readings),
            tokens=n,
            kl=math.fsum(drift.kl for reading in readings for drift in reading.total) / n,
            same_top=sum(drift.same_top for reading in readings for drift in reading.total) / n,
            same_answers=sum(ours == theirs for ours, theirs in answers),
            floor=floor,
            parts=parts,
            culprit=parity.culprit_of(parts, floor),
            findings=(*parity.findings(pictures, parts, floor, prompt), *parity.ends(answers)),
            pictures=pictures,
            native=all(reading.answer.native for reading in readings),
            problems=tuple(self._problems),
        )


def _parts(message: protocol.ChatMessage) -> list[str]:
    """Its texts, with IMAGE_WORD where an image stands; empty texts are left out."""
    first, *rest = message.pieces
    return [part for part in (first, *(word for text in rest for word in (IMAGE_WORD, text))) if part]


def _original_prompt(pair: EncodedPrompt, answer: _Answer) -> EncodedPrompt | None:
    """What the original was asked, for the pair's language model; None: it cannot read it.

    Where both prompts have the same tokens it has the pair's form: what the original has as text, such as the breaks
    between rows of an image, may be part of the pair's image.
    """
    arrays = answer.arrays
    if answer.aligned:
        return parity_prompts.with_rows(pair, arrays["embeddings"])
    ids, slots = arrays["ids"].tolist(), arrays["slots"].tolist()
    return parity_prompts.of_tokens(pair, ids, slots, arrays["embeddings"], arrays.get("positions"))


def _picture(reading: _Read) -> PictureParity:
    pair, theirs = parity_prompts.pictures_of(reading.question.prompt), _original_pictures(reading.answer)
    fits = [parity.channel_fits(y, x) for x, y in zip(pair, theirs, strict=False)]
    same = len(pair) == len(theirs) and bool(fits) and all(fits)
    channels = parity.mean_fit(fits) if same else ()
    return PictureParity(
        image=reading.question.item.question.image,
        tokens=(reading.question.prompt.n_image_tokens, len(reading.answer.arrays["slots"])),
        sizes=(_sizes(pair), _sizes(theirs)),
        channels=channels,
        errors=_errors(reading),
    )


def _original_pictures(answer: _Answer) -> list[Any]:
    names = sorted((n for n in answer.arrays if n.startswith("picture-")), key=lambda name: int(name[8:]))
    return [answer.arrays[name] for name in names]


def _sizes(pictures: Sequence[Any]) -> str:
    """ "448x448", or "5 of 512x512"; empty: unknown."""
    counts: dict[str, int] = {}
    for picture in pictures:
        size = f"{picture.shape[2]}x{picture.shape[1]}"
        counts[size] = counts.get(size, 0) + 1
    return ", ".join(size if n == 1 else f"{n} of {size}" for size, n in counts.items())


def _errors(reading: _Read) -> TokenErrors | None:
    seen, prompt = reading.answer.arrays.get("embeddings-of-inputs"), reading.question.prompt
    own = parity_prompts.rows_of(prompt)
    if seen is None or seen.shape != own.shape:
        return None
    return parity.token_errors(seen, own, parity_prompts.grid_of(prompt))
