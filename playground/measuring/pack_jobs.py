"""Make a reference pack, and measure variants against one: on a machine that need not hold the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy

from playground.comparing.lab import Lab
from playground.errors import BadImage, BadInput, Failure
from playground.measuring import packs
from playground.measuring.measure import MeasureJob, record_of
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.packs import Distributions, Pack, PackCheck, PackFile, PackRecord
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.results import MeasurementPlan, Progress, UsedPack
from playground.measuring.steps import Item, Steps
from playground.measuring.summaries import mean_kl
from playground.measuring.time_left import Kind, TimeLeft
from playground.values.files import ModelFile, Variant
from playground.values.request import USUAL_FORM, Runtime


def make_pack(
    lab: Lab, request: MeasureRequest, *, engine: str, licence: str = "", stop: Callable[[], bool] = lambda: False
) -> Iterator[Progress | Pack]:
    """Yields Progress, and at the end the pack of the request's reference.

    The other variants check it: tokens are kept until the KL of each is within 1 % of that over the whole vocabulary.
    Raises what MeasureJob raises.
    """
    job = MeasureJob(lab, request, stop)
    reference = next(v for v in request.variants if v.id == request.reference)
    others = [v for v in request.variants if v.id != request.reference]
    n = len(request.questions.items)
    job.expect_baseline(n)
    job.expect(n * len(others), Kind.DRIFT)  # over the whole vocabulary
    job.expect(n * len(others))  # from the pack
    with lab.results.scratch() as records:
        job.stay()
        yield from job.ask()
        yield from job.record(records, None)
        floor = yield from job.floor(reference, records)
        whole = {}
        for variant in others:
            whole[variant] = mean_kl((yield from job.read(variant, records, strict=True)))
        paths = [record_of(reference, records, k) for k in range(len(job.items))]
        rows = [numpy.fromfile(path, job.steps.dtype) for path in paths]
        n_vocabulary = len(rows[0]) // (len(job.answers[0].token_ids) + 1)
        content = yield from _fewest(job, whole, rows, n_vocabulary, records)
    yield Pack(
        PackRecord(
            version=packs.VERSION,
            family=reference.family,
            label=reference.label,
            model=_file(reference.model),
            projector=_file(reference.projector),
            n_vocabulary=n_vocabulary,
            questions=tuple(item.question for item in job.items),
            images=tuple(item.image.sha256 for item in job.items),
            answers=job.answers,
            max_tokens=request.plan.max_tokens,
            reasoning_tokens=request.plan.reasoning_tokens,
            form=request.form.or_none,
            image_tokens=request.runtime.of(reference).image_tokens,
            left_out_mass=content.left_out_mass,
            engine=engine,
            floor=floor,
            other_way=job.steps.other_way(reference).name,
            checks=content.checks,
            set_name=request.questions.name,
            sample=request.questions.sample if len(job.items) == n else None,
            chat_template=reference.chat_template,
            licence=licence,
        ),
        content.distributions,
    )


class _Content(NamedTuple):
    """What a pack keeps of each answer, and how far the KLs from it are from those over the whole vocabulary."""

    left_out_mass: float
    distributions: tuple[Distributions, ...]
    checks: tuple[PackCheck, ...]


def _fewest(
    job: MeasureJob,
    whole: Mapping[Variant, float],
    rows: Sequence[numpy.ndarray],
    n_vocabulary: int,
    records: Path,
) -> Generator[Progress, None, _Content]:
    """The fewest tokens with which all KLs are as those of `whole`, or else the most; without a variant, unchecked."""
    if not whole:
        return _Content(packs.UNCHECKED, _kept(rows, n_vocabulary, packs.UNCHECKED), ())
    for mass in packs.LADDER:
        distributions = _kept(rows, n_vocabulary, mass)
        checks = []
        for variant, kl in whole.items():
            packed = yield from _packed_kl(job, variant, distributions, n_vocabulary, records)
            checks.append(PackCheck(variant.label, kl, packed))
        content = _Content(mass, distributions, tuple(checks))
        if all(abs(check.whole - check.packed) <= packs.WITHIN * check.whole for check in checks):
            break
    return content


def _kept(rows: Sequence[numpy.ndarray], n_vocabulary: int, mass: float) -> tuple[Distributions, ...]:
    return tuple(packs.kept(row.reshape(-1, n_vocabulary), mass) for row in rows)


def _packed_kl(
    job: MeasureJob, variant: Variant, distributions: Sequence[Distributions], n_vocabulary: int, records: Path
) -> Generator[Progress, None, float]:
    """The variant's mean KL from a pack, nats a token."""
    total, tokens, path = 0.0, 0, records / "pack.npz"
    for item, answer, kept in zip(job.items, job.answers, distributions, strict=True):
        yield job.step(f"{variant.label}: drift from the pack")
        with path.open("wb") as file:
            kept.write(file, n_vocabulary)
        drifts = job.steps.read(variant, job.steps.prompt(variant, item), answer.token_ids, path)
        total += math.fsum(drift.kl for drift in drifts)
        tokens += len(drifts)
    return total / tokens


def _file(file: ModelFile) -> PackFile:
    return PackFile(
        file.sha256, file.bytes, file.quantization, file.n_params, file.architecture, file.vocabulary_sha256
    )


class KeptJob(MeasureJob):
    """A measurement whose reference's answers and likeliest tokens are kept, and is not here itself."""

    def __init__(
        self,
        lab: Lab,
        request: MeasureRequest,
        stop: Callable[[], bool] = lambda: False,
        work: TimeLeft | None = None,
    ) -> None:
        super().__init__(lab, request, stop, work)
        self._kept: list[Distributions] = []  # one for each of `items`
        self._n_vocabulary = 0  # set with them

    def record(self, records: Path, others: Sequence[Variant] | None) -> Iterator[Progress]:
        """What is kept is written for the workers."""
        yield from ()
        self.steps.choose_dtype(self._n_vocabulary, len(self.items), records)  # of each variant's own
        for k, kept in enumerate(self._kept):
            with self.reference_record(records, k).open("wb") as file:
                kept.write(file, self._n_vocabulary)

    def reference_record(self, records: Path, k: int) -> Path:
        return records / f"pack-{k}.npz"

    def _steps_for_question(self, n_others: int) -> dict[Kind, int]:
        """The reference has no records and no floor."""
        steps = super()._steps_for_question(n_others)
        return steps | {Kind.RECORD: 0, Kind.FLOOR: n_others * self._plan.drift}


class PackJob(KeptJob):
    """A measurement whose reference is a pack. `run` yields Progress, and at the end a Measurement."""

    def __init__(
        self,
        lab: Lab,
        pack: Pack,
        images: QuestionSet,
        variants: Sequence[Variant],
        plan: MeasurementPlan,
        runtime: Runtime = Runtime(),  # noqa: B008  frozen
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """`images`: a set with the images of the pack, under whatever names; the pack has the questions and their form.

        Raises BadInput for variants with another vocabulary, for other numbers of image tokens, and if no image of the
        pack is here.
        """
        record = pack.record
        located, self._places = _located(record, images)
        plan = record.limits(plan)
        form, runtime = record.form or USUAL_FORM, record.runtime(runtime)
        request = MeasureRequest(located, (record.reference, *variants), record.reference.id, plan, runtime, form)
        super().__init__(lab, request, stop)
        self._pack = pack
        self._at_hand = tuple(variants)
        self._n_vocabulary = record.n_vocabulary
        self.steps = Steps(lab, self._reference, runtime, plan.sampling, self._stop, variants[0], pack.digest, form)
        self.left_out = len(record.questions) - len(located.items)

    @property
    def _other_way(self) -> str:
        return self._pack.record.other_way

    @property
    def _used_pack(self) -> UsedPack:
        return self._pack.record.used

    def ask(self) -> Iterator[Progress]:
        """The answers are the pack's."""
        yield from ()
        for question in self._judging():
            place = self._places[question]
            try:
                self.items.append(Item(question, self._set.image(question)))
            except Failure as error:
                self._leave_out(question, error)
                continue
            self._answers.append(self._pack.record.answers[place])
            self._kept.append(self._pack.distributions[place])
        if not self.items:
            raise BadInput(f"No question could be asked. {self.problems[-1]}")

    def floor(self, variant: Variant, records: Path) -> Generator[Progress, None, float]:
        """The reference's is the pack's."""
        if variant.id != self._reference.id:
            return (yield from super().floor(variant, records))
        return self._pack.record.floor

    def _steps_for_question(self, n_others: int) -> dict[Kind, int]:
        """Nothing of the reference."""
        return super()._steps_for_question(n_others) | {Kind.ASK: 0}


def _located(record: PackRecord, images: QuestionSet) -> tuple[QuestionSet, dict[Question, int]]:
    """The pack's questions whose images are in the set, under the names that these have there; and their places.

    Raises BadInput if there are none.
    """
    wanted = {question.image: sha256 for question, sha256 in zip(record.questions, record.images, strict=True)}
    others = dict.fromkeys(item.image for item in images.items if item.image not in wanted)
    shas = set(record.images)
    names: dict[str, str] = {}  # by sha256
    for name in (*wanted, *others):
        if len(names) == len(shas):
            break
        try:
            sha256 = images.image(Question(name, "")).sha256
        except BadImage:
            continue
        if sha256 in shas:
            names.setdefault(sha256, name)
    places = {
        msgspec.structs.replace(question, image=names[sha256]): k
        for k, (question, sha256) in enumerate(zip(record.questions, record.images, strict=True))
        if sha256 in names
    }
    n_missing = len(shas) - len(names)
    problem = f"{n_missing} of the pack's {len(shas)} images are not in {images.name}."
    if not places:
        source = record.sample.words if record.sample else record.set_name
        raise BadInput(f"{problem} The pack was made with {source}. Give the set that holds its images.")
    return images.with_items(places, (*images.problems, problem) if n_missing else images.problems), places
