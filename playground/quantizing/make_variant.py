"""Makes a new variant of a pair: one half quantized, and checked against its source on images before it is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import msgspec

from playground.comparing.embedding_cache import EmbeddingCache
from playground.engine import protocol
from playground.errors import BadInput, EngineError, Failure
from playground.measuring.measure import MeasureJob
from playground.measuring.question_sets import QuestionSet
from playground.measuring.result_cache import ResultCache
from playground.measuring.results import Measurement, MeasurementPlan, Progress
from playground.measuring.statistics import Interval
from playground.pool.pool import Pool
from playground.quantizing import importance_matrix, quantizer
from playground.quantizing.quantizer import EmbeddingCheck
from playground.quantizing.sensitivity_scan import Workshop
from playground.values.files import Half, Variant
from playground.values.request import Image, Runtime

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
    verdict: str  # "fit to ship", "doubtful", "broken"
    imatrix: str = ""  # the file's name


class MakeJob:
    """Makes files in a workshop."""

    def __init__(
        self,
        pool: Pool,
        embeddings: EmbeddingCache,
        known: ResultCache,
        workshop: Workshop,
        runtime: Runtime,
        stop: Callable[[], bool],
    ) -> None:
        self._pool = pool
        self._embeddings = embeddings
        self._known = known
        self._workshop = workshop
        self._runtime = runtime
        self._stop = stop

    def run(self, source: Variant, order: MakeRequest, questions: QuestionSet) -> Iterator[Progress | CheckedVariant]:
        """Yields Progress, and at the end what came of it. What cannot be used is deleted again.

        Half of the questions calibrate, if that is wanted; the other half judges. Raises as quantizing.make and
        Measuring do.
        """
        if len(questions.items) < 2:
            raise BadInput("At least two questions are needed to check a new file.")
        calibrating, judging = questions.halves()
        file = Path(source.half(order.half).path)
        target = order.target or self._workshop.folder / f"{quantizer.stem(file)}-{order.quantization}.gguf"
        if target.exists():
            raise BadInput(f"{target.name} is there already. Give another name, or delete it first.")
        imatrix, made, checked = order.imatrix, None, None
        calibrated = target.with_suffix(".imatrix.gguf") if order.calibrate and imatrix is None else None
        try:
            if calibrated is not None:
                imatrix = calibrated
                _remove(imatrix)  # of an order that was killed
                yield from self._calibrate(source, order, calibrating, imatrix)
            made = yield from self._quantize(source, order, target, imatrix)
            try:
                checked = yield from self._check(source, order, made, judging)
            except Failure as error:
                raise EngineError(f"{target.name} cannot be used and was deleted: {error.message}") from None
        finally:
            if checked is None:  # also where a page was closed: what nobody has checked, nobody may find
                if made is not None:
                    _remove(target)
                if calibrated is not None:
                    _remove(calibrated)
        yield msgspec.structs.replace(checked, imatrix=imatrix.name if imatrix else "")

    def _calibrate(self, source: Variant, order: MakeRequest, asked: QuestionSet, target: Path) -> Iterator[Progress]:
        def work(tell: Callable[[Progress], None]) -> None:
            importance_matrix.collect(
                source,
                asked,
                None,
                self._pool,
                self._embeddings,
                target,
                order.half,
                runtime=self._runtime,
                stop=self._stop,
                on_item=lambda done, total: tell(Progress("calibrating", done, total)),
            )

        yield from _in_thread(work)

    def _quantize(
        self, source: Variant, order: MakeRequest, target: Path, imatrix: Path | None
    ) -> Generator[Progress, None, quantizer.QuantizedFile]:
        made: list[quantizer.QuantizedFile] = []

        def work(tell: Callable[[Progress], None]) -> None:
            made.append(
                quantizer.make(
                    Path(source.half(order.half).path),
                    target,
                    order.quantization,
                    self._pool,
                    order.half,
                    tensor_types=order.tensor_types,
                    requantize=order.requantize,
                    imatrix=imatrix,
                    name=order.name,
                    on_step=lambda step: tell(Progress(f"quantizing {step.tensor}", step.done, step.total)),
                    stop=self._stop,
                )
            )

        yield from _in_thread(work)
        return made[0]

    def _check(
        self, source: Variant, order: MakeRequest, made: quantizer.QuantizedFile, asked: QuestionSet
    ) -> Generator[Progress, None, CheckedVariant]:
        assert made.path is not None
        is_projector = order.half is Half.PROJECTOR
        pair = (Path(source.model.path), made.path) if is_projector else (made.path, Path(source.projector.path))
        # With an id of its own, whatever both are called.
        variant = replace(self._workshop.pair(*pair, {}), id="")
        images: tuple[Image, ...] = ()
        embeddings = None
        if is_projector:
            yield Progress("comparing embeddings", 0, 1)
            images = tuple(asked.image(item) for item in asked.items[:_CHECKED_IMAGES])
            embeddings = quantizer.check_projector(
                source, variant, images, self._pool, self._embeddings, self._runtime, self._stop
            )
        measuring = MeasureJob(
            asked,
            (source, variant),
            source.id,
            MeasurementPlan(look=is_projector),
            self._runtime,
            self._pool,
            self._embeddings,
            self._known,
            self._stop,
        )
        found: Measurement | None = None
        for update in measuring.run():
            if isinstance(update, Progress):
                yield update
            else:
                found = update
        assert found is not None
        result = found.results[1]
        blank = is_projector and result.looks is None  # it gave no numbers for one of the other pictures
        if result.mean_kl is None or blank or any(one.error for one in result.items):
            raise EngineError(found.problems[-1])
        return CheckedVariant(
            path=made.path,
            bytes=made.bytes,
            notes=made.notes,
            images=images,
            embeddings=embeddings,
            questions=len(found.questions),
            kl=result.mean_kl,
            looks=result.looks,
            verdict="broken" if result.looks == "blind" else quantizer.verdict(result.mean_kl.value),
        )


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it is not there, or its folder is none, which is told elsewhere
        path.unlink()


def _in_thread(work: Callable[[Callable[[Progress], None]], None]) -> Iterator[Progress]:
    """The newest of what `work` tells, several times a second; raises what it raises. It has to heed a stop of its own:
    nobody ends it."""
    told: SimpleQueue[Progress] = SimpleQueue()
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work(told.put)
        except BaseException as error:
            raised.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    newest = None
    while thread.is_alive():
        thread.join(_PROGRESS_S)
        while not told.empty():
            newest = told.get()
        if newest is not None:
            yield newest
    if raised:
        raise raised[0]
