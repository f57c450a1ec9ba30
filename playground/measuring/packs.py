"""Reference packs: what a reference answered, and what it held likely, in one safetensors file.

Of each position of an answer a pack keeps the likeliest tokens, and the probability of all others together. The KL from
a pack is a lower bound of that from the whole vocabulary (docs/metrics.md). Images are not in it, only their sha256.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy
import safetensors
import safetensors.numpy

from playground.comparing.run_settings import read_settings
from playground.errors import BadInput, cannot_write
from playground.measuring.question_sets import MAX_ITEMS, Question, SampleRecord, check_question
from playground.measuring.results import MeasurementPlan, RecordedAnswer, UsedPack
from playground.support import atomic, pieces
from playground.values.files import ModelFile, Variant
from playground.values.request import ANY, ImageTokens, PromptForm, Runtime

VERSION = 3  # 1 has no limit of the reasoning, and no form of the questions; 2 no number of image tokens
_VERSIONS = {str(version) for version in range(1, VERSION + 1)}
# Probability of the tokens that are not kept, at most; the first whose KL is near enough to the whole one is taken.
LADDER = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
UNCHECKED = 1e-4  # where no variant is at hand to check with
WITHIN = 0.01  # of the KL over the whole vocabulary
_LEAST, _MOST = 5, 4096  # tokens of a position: those that the page shows, and what a flat distribution may take
MAX_BYTES = 4 * 2**30
_MOST_RECORD = 32 * 2**20  # bytes of all but the distributions: 5,000 questions and answers of 6 kB
_MOST_NAME = 300  # characters of a label and its like
_MOST_LICENCE = 100_000  # characters
_MOST_TOKENS = 262_144  # of an answer: the largest context
_MOST_COUNT = 2**31 - 1  # of a vocabulary, whose ids have 32 bits
_MOST_BYTES = 2**53  # of a model
_MOST_KL = 1e18
ID = "pack:"  # before the sha256 in the id of a pack's reference, where other ids have their family
_NAME = "playground.reference-pack"
_ARRAYS = {"counts": "int32", "ids": "int32", "log_probabilities": "float32", "rest": "float32"}


class PackFile(msgspec.Struct, frozen=True):
    """One half of the reference."""

    sha256: str
    bytes: int
    quantization: str
    n_params: int
    architecture: str
    vocabulary_sha256: str | None = None


class PackCheck(msgspec.Struct, frozen=True):
    """The mean KL of a variant from the reference, nats a token, computed in both ways when the pack was made."""

    variant: str  # its label
    whole: float
    packed: float


class PackRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """All of a pack but the distributions."""

    version: int
    family: str
    label: str  # of the reference
    model: PackFile
    projector: PackFile
    n_vocabulary: int
    questions: tuple[Question, ...]
    images: tuple[str, ...]  # sha256 of the pixels, one for each question
    answers: tuple[RecordedAnswer, ...]
    max_tokens: int  # of an answer
    left_out_mass: float  # probability of the tokens that are not kept, at most, unless 4,096 are
    engine: str
    floor: float  # of the reference: mean KL from itself, computed another way, nats a token
    other_way: str  # that way
    checks: tuple[PackCheck, ...] = ()
    set_name: str = ""
    sample: SampleRecord | None = None
    chat_template: str | None = None
    reasoning_tokens: int | None = None  # of an answer; None: no limit
    form: PromptForm | None = None  # of every question; None: nothing was given
    image_tokens: ImageTokens = ANY  # of each image; before version 3 it was not kept
    licence: str = ""  # of the questions and answers, as the maker of the pack says

    @property
    def reference(self) -> Variant:
        """As the variant that the others are compared with. Its files are not here."""
        model, projector = (
            ModelFile("", f.bytes, f.sha256, f.quantization, f.n_params, f.architecture, f.vocabulary_sha256)
            for f in (self.model, self.projector)
        )
        id = f"{ID}{self.model.sha256[:12]}+{self.projector.sha256[:12]}"
        return Variant(id, self.family, f"{self.label} (pack)", model, projector, True, self.chat_template)

    @property
    def questions_name(self) -> str:
        return self.sample.words if self.sample else self.set_name

    def limits(self, plan: MeasurementPlan) -> MeasurementPlan:
        """The plan with the pack's limits of an answer."""
        return msgspec.structs.replace(plan, max_tokens=self.max_tokens, reasoning_tokens=self.reasoning_tokens)

    def runtime(self, given: Runtime) -> Runtime:
        """With the pack's numbers of image tokens. Raises BadInput for others."""
        if self.version < 3:
            return given
        if given.image_tokens not in (ANY, self.image_tokens):
            raise BadInput(
                "The numbers of image tokens are the pack's. Leave out image_min_tokens and image_max_tokens."
            )
        low, high = self.image_tokens
        return replace(given, image_min_tokens=low, image_max_tokens=high)

    @property
    def used(self) -> UsedPack:
        return UsedPack(self.version, None if self.version < 3 else self.image_tokens)

    @property
    def missing_share(self) -> float | None:
        """Of the KL over the whole vocabulary, the largest share that the pack does not show; None: not checked."""
        shares = [1 - check.packed / check.whole for check in self.checks if check.whole > 0]
        return max(shares) if shares else None


@dataclass(frozen=True, slots=True)
class Distributions:
    """Of every position of every answer, one after another: the likeliest tokens first, and the others' probability."""

    counts: Any  # of the tokens of each position
    ids: Any
    log_probabilities: Any  # natural logarithms
    rest: Any  # of each position: the natural logarithm of what all other tokens have together

    def write(self, file: IO[bytes], n_vocabulary: int) -> None:
        """As a worker reads it (engine/protocol.py, Measure)."""
        numpy.savez(file, n_vocabulary=numpy.int64(n_vocabulary), **self.arrays)

    @property
    def arrays(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _ARRAYS}


@dataclass(frozen=True, slots=True)
class Pack:
    record: PackRecord
    distributions: tuple[Distributions, ...]  # one for each question
    digest: str = ""  # sha256 of the file; empty: not written yet


def kept(rows: Any, left_out_mass: float) -> Distributions:
    """Of log probabilities over the whole vocabulary (positions x tokens), the likeliest tokens."""
    counts, ids, likely, rest = [], [], [], []
    for row in rows.astype(numpy.float64):
        row -= numpy.logaddexp.reduce(row)  # records of 16 bits are rounded
        order = numpy.argsort(-row, kind="stable")
        probabilities = numpy.exp(row[order])
        enough = int(numpy.searchsorted(numpy.cumsum(probabilities), 1 - left_out_mass)) + 1
        n = min(max(enough, _LEAST), _MOST, len(row))
        others = float(probabilities[n:][::-1].sum())
        counts.append(n)
        ids.append(order[:n])
        likely.append(row[order[:n]])
        rest.append(math.log(others) if others > 0 else -math.inf)
    arrays = (counts, numpy.concatenate(ids), numpy.concatenate(likely), rest)
    return Distributions(*(numpy.asarray(a, kind) for a, kind in zip(arrays, _ARRAYS.values(), strict=True)))


def write(path: Path, pack: Pack) -> None:
    """Raises BadInput."""
    arrays = {name: numpy.concatenate([d.arrays[name] for d in pack.distributions]) for name in _ARRAYS}
    metadata = {"format": _NAME, "version": str(VERSION), "pack": msgspec.json.encode(pack.record).decode()}
    try:
        atomic.write(path, safetensors.numpy.save(arrays, metadata))
    except OSError as error:
        raise cannot_write(path, error) from None


def read(path: Path) -> Pack:
    """Raises BadInput for a file that is not a valid pack of this version."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadInput(f"{path.name} is larger than {MAX_BYTES // 2**30} GiB.")
        with path.open("rb") as file:
            if int.from_bytes(file.read(8), "little") > _MOST_RECORD:  # safetensors: the length of what follows
                raise BadInput(f"{path.name} is not a reference pack, or it has too many questions.")
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with safetensors.safe_open(path, framework="numpy") as opened:
            metadata = opened.metadata() or {}
            if metadata.get("format") != _NAME:
                raise BadInput(f"{path.name} is not a reference pack.")
            if metadata.get("version") not in _VERSIONS:
                version = str(metadata.get("version"))[:20]
                raise BadInput(
                    f"{path.name} was written by a newer version of the app (format {version!r}; this one reads up to "
                    f"{VERSION}). Update the app."
                )
            record = pieces.decode(metadata.get("pack", "").encode(), PackRecord)
            arrays = {name: opened.get_tensor(name) for name in _ARRAYS}
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error}.") from None
    except safetensors.SafetensorError as error:
        raise BadInput(f"{path.name} is damaged or cut short: {error}.") from None
    except (TypeError, AttributeError):  # safetensors asks numpy for a type that it has not
        raise BadInput(f"{path.name} is not a valid reference pack: its arrays have other types.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadInput(f"{path.name} is not a valid reference pack: {error}.") from None
    problem = _problem(record, arrays) or _problem_of_values(record)
    if problem:
        raise BadInput(f"{path.name} is not a valid reference pack: {problem}.")
    return Pack(record, _split(record.answers, Distributions(**arrays)), digest)


def _problem(record: PackRecord, arrays: dict[str, Any]) -> str:
    """What a worker could not use; empty: nothing."""
    n = len(record.questions)
    counts, ids, likely, rest = arrays.values()
    if not n or (len(record.images), len(record.answers)) != (n, n):
        return "it has no questions, or other numbers of questions, images and answers"
    if any(arrays[name].ndim != 1 or arrays[name].dtype != kind for name, kind in _ARRAYS.items()):
        return "its arrays have other types"
    if n > MAX_ITEMS:
        return f"it has more than {MAX_ITEMS:,} questions"
    positions = sum(len(answer.token_ids) + 1 for answer in record.answers)
    if not len(counts) == len(rest) == positions or len(ids) != len(likely):
        return "its distributions belong to other answers"
    if counts.min() < 1 or counts.sum(dtype=numpy.int64) != len(ids):
        return "its distributions are incomplete"
    tokens = [token for answer in record.answers for token in answer.token_ids]
    if ids.min() < 0 or ids.max() >= record.n_vocabulary or any(not 0 <= t < record.n_vocabulary for t in tokens):
        return "it has tokens beyond its vocabulary"
    # A little above 0: rounded.
    if not (numpy.isfinite(likely).all() and likely.max() < 1e-3 and not numpy.isnan(rest).any() and rest.max() < 1e-3):
        return "it has invalid probabilities"
    return ""


def _problem_of_values(record: PackRecord) -> str:
    """What no model, prompt or page has use for; empty: nothing."""
    files, form, sample = (record.model, record.projector), record.form, record.sample
    names = [record.family, record.label, record.engine, record.other_way, record.set_name]
    names += [name for file in files for name in (file.sha256, file.quantization, file.architecture)]
    names += [file.vocabulary_sha256 or "" for file in files] + [check.variant for check in record.checks]
    if sample is not None:
        names += [sample.suite, sample.repo, sample.commit, sample.split, sample.configuration]
    if max(map(len, names)) > _MOST_NAME or len(record.licence) > _MOST_LICENCE:
        return f"a name in it has more than {_MOST_NAME} characters, or its licence more than {_MOST_LICENCE:,}"
    counts = [(record.version, VERSION), (record.max_tokens, _MOST_TOKENS), (record.n_vocabulary, _MOST_COUNT)]
    counts += [(record.reasoning_tokens + 1, _MOST_TOKENS)] if record.reasoning_tokens is not None else []
    counts += [pair for file in files for pair in ((file.bytes, _MOST_BYTES), (file.n_params + 1, _MOST_BYTES))]
    if not all(1 <= count <= most for count, most in counts):
        return "it has a number that is none of a model or an answer"
    amounts = [record.floor, *(kl for check in record.checks for kl in (check.whole, check.packed))]
    if not all(abs(amount) <= _MOST_KL for amount in amounts):
        return "it has a drift that is too large"
    given = {} if form is None else {name: value for name, value in form.given.items() if name != "image_place"}
    least, most = record.image_tokens
    try:
        read_settings({**given, "image_min_tokens": least, "image_max_tokens": most})
        for question in record.questions:
            check_question(question)
    except BadInput as error:
        return error.message.rstrip(".")
    return ""


def _split(answers: Sequence[RecordedAnswer], whole: Distributions) -> tuple[Distributions, ...]:
    position, start, parts = 0, 0, []
    for answer in answers:
        rows = slice(position, position := position + len(answer.token_ids) + 1)
        counts = whole.counts[rows]
        tokens = slice(start, start := start + int(counts.sum()))
        parts.append(Distributions(counts, whole.ids[tokens], whole.log_probabilities[tokens], whole.rest[rows]))
    return tuple(parts)
