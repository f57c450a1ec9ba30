"""Makes a new variant of a pair: one half quantized, and checked against its source on images before it is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import msgspec

from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure, Unavailable
from playground.measuring.gate import Gate, Verdict, gates
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet, fingerprints
from playground.measuring.results import Measurement, MeasurementPlan, Progress, Sight
from playground.measuring.statistics import Interval
from playground.quantizing import importance_matrix, quantizer
from playground.quantizing.quantizer import EmbeddingCheck
from playground.quantizing.scan_files import Workshop
from playground.values.files import Half, Variant
from playground.values.request import USUAL_FORM, Image, PromptForm, Runtime

_CHECKED_IMAGES = 8
_PROGRESS_S = 0.25


class MakeRequest(msgspec.Struct, frozen=True):
    """What to make of one half of a pair."""

    half: Half
    quantization: str
    tensor_types: tuple[protocol.TensorType, ...] = ()
    name: str = ""  # of a recipe
    target: Path | None = None  # None: in the workshop's folder
    calibrate: bool = False
    imatrix: Path | None = None
    requantize: bool = False


class CheckedVariant(msgspec.Struct, frozen=True):
    """A new file, and what the questions say of it."""

    path: Path
    bytes: int
    notes: tuple[str, ...]
    images: tuple[Image, ...]  # that the projector was checked on
    embeddings: EmbeddingCheck | None  # None: of a language model
    questions: int
    kl: Interval
    looks: str | None
    verdict: str  # a gate.Verdict, or that it does not see
    gate: Gate
    imatrix: str = ""  # the file's name


class MakeJob:
    """Makes files in a workshop."""

    def __init__(
        self,
        lab: Lab,
        workshop: Workshop,
        runtime: Runtime,
        stop: Callable[[], bool] = lambda: False,
        form: PromptForm = USUAL_FORM,
    ) -> None:
        """`form`: of the questions that calibrate, and of those that judge."""
        self._lab = lab
        self._workshop = workshop
        self._runtime = runtime
        self._form = form
        self._stop = stop

    def check(
        self, source: Path, request: MakeRequest, planned: quantizer.QuantizedFile | None = None
    ) -> quantizer.QuantizedFile:
        """What llama.cpp plans of the half's file. Raises what can be refused before a question is asked, as
        quantizer.make does: names that llama.cpp does not know, a source that is quantized, too little room.

        `planned`: of an earlier check. llama.cpp would plan the same; another file may have the name now, or the room.
        """
        target = self._target(source, request)
        quantizer.check_name(target)
        if planned is None:
            planned = quantizer.plan(
                source,
                request.quantization,
                self._lab.pool,
                request.half,
                tensor_types=request.tensor_types,
                requantize=request.requantize,
                imatrix=request.imatrix,
                stop=self._stop,
            )
        quantizer.check_room(target, planned.bytes)
        return planned

    def _target(self, source: Path, request: MakeRequest) -> Path:
        return request.target or self._workshop.folder / f"{quantizer.stem(source)}-{request.quantization}.gguf"

    def run(
        self,
        source: Variant,
        request: MakeRequest,
        questions: QuestionSet,
        planned: quantizer.QuantizedFile | None = None,
    ) -> Iterator[Progress | CheckedVariant]:
        """Yields Progress, and at the end the checked variant. A file that cannot be used is deleted again; one that
        could not be checked is kept. `planned`: what `check` returned for this request.

        Half of the questions calibrate, if that is wanted, and the other half judges: they share no picture. Raises
        what quantizer.make and MeasureJob raise.
        """
        calibrates = request.calibrate and request.imatrix is None
        calibrating, judging = questions.parts(2) if calibrates else (None, questions)
        if not judging.items:
            raise BadInput("At least two questions about two pictures are needed to calibrate and check a new file.")
        file = Path(source.half(request.half).path)
        target, planned = self._target(file, request), self.check(file, request, planned)
        imatrix, made, checked, kept = request.imatrix, None, None, False
        calibrated = target.with_suffix(".imatrix.gguf") if calibrates else None
        made_with = fingerprints(calibrating) if calibrating is not None else ()
        try:
            if calibrated is not None and calibrating is not None:
                imatrix = calibrated
                _remove(imatrix)  # of a job that was killed
                yield from self._calibrate(source, request, calibrating, imatrix)
                planned = None  # it knew no matrix
            made = yield from self._quantize(file, request, target, imatrix, made_with, planned)
            try:
                checked = yield from self._check(source, request, made, judging)
            except (BadInput, Unavailable) as error:  # of the questions, or of this machine now; not of the file
                kept = True
                raise type(error)(f"{target.name} was made, but could not be checked: {error.message}") from None
            except Failure as error:
                raise EngineError(f"{target.name} cannot be used and was deleted: {error.message}") from None
        finally:
            if checked is None and not kept:  # also where a page was closed, or the job was stopped
                if made is not None:
                    _remove(target)
                if calibrated is not None:
                    _remove(calibrated)
        yield msgspec.structs.replace(checked, imatrix=imatrix.name if imatrix else "")

    def _calibrate(
        self, source: Variant, request: MakeRequest, questions: QuestionSet, target: Path
    ) -> Iterator[Progress]:
        def work(report: Callable[[Progress], None]) -> None:
            importance_matrix.collect(
                self._lab,
                source,
                request.half,
                questions,
                target,
                runtime=self._runtime,
                form=self._form,
                stop=self._stop,
                on_item=lambda done, total: report(Progress("calibrating", done, total)),
            )

        yield from _in_thread(work)

    def _quantize(
        self,
        source: Path,
        request: MakeRequest,
        target: Path,
        imatrix: Path | None,
        made_with: Sequence[str],
        planned: quantizer.QuantizedFile | None,
    ) -> Generator[Progress, None, quantizer.QuantizedFile]:
        made: list[quantizer.QuantizedFile] = []
        notes: list[str] = []

        def work(report: Callable[[Progress], None]) -> None:
            made.append(
                quantizer.make(
                    source,
                    target,
                    request.quantization,
                    self._lab.pool,
                    request.half,
                    tensor_types=request.tensor_types,
                    requantize=request.requantize,
                    imatrix=imatrix,
                    name=request.name,
                    made_with=made_with,
                    planned=planned,
                    on_plan=lambda planned_notes: notes.extend(note.partition(" for ")[0] for note in planned_notes),
                    on_step=lambda step: report(
                        Progress("; ".join([f"quantizing {step.tensor}", *notes]), step.done, step.total)
                    ),
                    stop=self._stop,
                )
            )

        yield from _in_thread(work)
        return made[0]

    def _check(
        self, source: Variant, request: MakeRequest, made: quantizer.QuantizedFile, questions: QuestionSet
    ) -> Generator[Progress, None, CheckedVariant]:
        assert made.path is not None
        is_projector = request.half is Half.PROJECTOR
        pair = (Path(source.model.path), made.path) if is_projector else (made.path, Path(source.projector.path))
        # With an id of its own, whatever both are called.
        variant = replace(self._workshop.pair(*pair, {}), id="")
        images: tuple[Image, ...] = ()
        embeddings = None
        if is_projector:
            yield Progress("comparing embeddings", 0, 1)
            images = tuple(questions.image(item) for item in questions.items[:_CHECKED_IMAGES])
            embeddings = quantizer.check_projector(self._lab, source, variant, images, self._runtime, self._stop)
        plan = MeasurementPlan(look=is_projector)
        check = MeasureRequest(questions, (source, variant), source.id, plan, self._runtime, self._form)
        measurement: Measurement | None = None
        for update in MeasureJob(self._lab, check, self._stop).run():
            if isinstance(update, Progress):
                yield update
            else:
                measurement = update
        assert measurement is not None
        result = measurement.results[1]
        blank = is_projector and result.looks is None  # it gave no numbers for one of the other pictures
        judged = gates(measurement.results, measurement.questions, source.id)[variant.id]
        if result.mean_kl is None or blank or any(item.error for item in result.items):
            raise EngineError(measurement.problems[-1])
        return CheckedVariant(
            path=made.path,
            bytes=made.bytes,
            notes=made.notes,
            images=images,
            embeddings=embeddings,
            questions=len(measurement.questions),
            kl=result.mean_kl,
            looks=result.looks,
            verdict=_verdict(judged, result.looks),
            gate=judged,
        )


def _verdict(judged: Gate, looks: str | None) -> str:
    """A projector is fit only if the pair sees with it, and broken if it ignores the picture."""
    if looks == Sight.BLIND:
        return Verdict.BROKEN
    if looks is not None and looks != Sight.SEES and judged.verdict is Verdict.FIT:
        return Verdict.UNKNOWN
    return judged.verdict


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it or its folder does not exist, which is reported elsewhere
        path.unlink()


def _in_thread(work: Callable[[Callable[[Progress], None]], None]) -> Iterator[Progress]:
    """The newest progress that `work` reports, several times a second. Raises what it raises. `work` has to heed a stop
    flag of its own: nothing here ends its thread."""
    news: SimpleQueue[Progress] = SimpleQueue()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work(news.put)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    newest = None
    while thread.is_alive():
        thread.join(_PROGRESS_S)
        while not news.empty():
            newest = news.get()
        if newest is not None:
            yield newest
    if raised:
        raise raised[0]
