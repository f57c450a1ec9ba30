"""Quantizes either half of a pair, and checks a new projector against its source before anybody ships it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy

from playground.comparing import prompts
from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import BadInput, BadModel, EngineError, Interrupted, NoRoom, cannot_write
from playground.pool.pool import Pool
from playground.pool.worker_spec import QUANTIZE
from playground.support import atomic
from playground.values.files import Half, Variant
from playground.values.request import Image, Runtime


class QuantizedFile(msgspec.Struct, frozen=True):
    """A new file, or with `path` None what one would be."""

    path: Path | None
    bytes: int
    seconds: float
    notes: tuple[str, ...]


class EmbeddingCheck(msgspec.Struct, frozen=True):
    """A projector's output against its source's, over images: cosine and relative error of each patch's embedding."""

    images: int
    cosine_mean: float
    cosine_min: float
    relative_error: float  # mean of |new - source| / |source|
    patches: tuple[tuple[float, ...], ...]  # the cosines, for each image


def run_request(
    request: protocol.Quantize,
    pool: Pool,
    *,
    on_step: Callable[[protocol.Step], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
) -> protocol.Quantized:
    """Have a worker quantize. Raises EngineError with llama.cpp's words, BadInput for an unknown quantization.

    WorkerDied: llama.cpp aborted, or `stop` had the worker killed, which cannot be asked to stop.
    """
    with pool.lease(QUANTIZE, stop=stop) as lease:
        return lease.request(request, on_step=on_step, stop=stop)


def no_room(name: str, wanted: int, free: int) -> str:
    """In a unit in which neither number is rounded to nothing."""
    unit, size = ("MB", 1e6) if min(wanted, free) >= 1e6 else ("kB", 1e3)
    return f"{name} needs {wanted / size:,.1f} {unit}, {free / size:,.1f} {unit} are free there."


def quantize_file(source: Path, target: Path, quantization: str, pool: Pool, half: Half) -> None:
    """Quantize with llama.cpp's own choice of types. Raises what `run_request` does."""
    run_request(protocol.Quantize(str(source), str(target), quantization, half), pool)


def plan(
    source: Path,
    quantization: str,
    pool: Pool,
    half: Half,
    *,
    tensor_types: Sequence[protocol.TensorType] = (),
    requantize: bool = False,
    imatrix: Path | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> QuantizedFile:
    """What a file would be: how large, and what a type cannot hold. Nothing is written. Raises as `make`."""
    return _planned(_request(source, quantization, half, tensor_types, requantize, imatrix), pool, stop)


def make(
    source: Path,
    target: Path,
    quantization: str,
    pool: Pool,
    half: Half,
    *,
    tensor_types: Sequence[protocol.TensorType] = (),
    requantize: bool = False,
    imatrix: Path | None = None,
    name: str = "",
    made_with: Sequence[str] = (),
    planned: QuantizedFile | None = None,
    on_plan: Callable[[Sequence[str]], None] = lambda notes: None,
    on_step: Callable[[protocol.Step], None] = lambda step: None,
    stop: Callable[[], bool] = lambda: False,
) -> QuantizedFile:
    """Write a quantized file: all of it or nothing, and never over the source.

    `planned`: what `plan` said of the same arguments; None: it is asked now. `on_plan` gets its notes before anything
    is quantized: what a type cannot hold, what stays as it is.

    `imatrix`: an importance matrix of this half (quantizing/importance_matrix.py, or llama-imatrix).
    `name`: what to call the new file's quantization where llama.cpp's name does not tell it all.
    `made_with`: fingerprints of the questions that calibrated it or chose its types; later measurements leave them out.
    Raises NoRoom, BadInput (no such type; the source is quantized and `requantize` is not set; a matrix that is none,
    or another model's), BadModel, EngineError with llama.cpp's words, Interrupted.
    """
    if target.resolve() == source.resolve():
        raise BadInput("The new file would replace its source. Give it another name.")
    check_name(target)
    request = _request(source, quantization, half, tensor_types, requantize, imatrix)
    try:
        if planned is None:
            planned = _planned(request, pool, stop)
        on_plan(planned.notes)
        check_room(target, planned.bytes)
        with _explained(source, stop), atomic.replacing(target) as part:
            metadata = _metadata(source, quantization, tensor_types, imatrix, name, made_with)
            order = msgspec.structs.replace(request, target=str(part), dry_run=False, metadata=metadata)
            done = run_request(order, pool, on_step=on_step, stop=stop)
            if stop():  # it cannot be asked to stop: it was killed, or was done before that
                raise Interrupted("Stopped.")
        return QuantizedFile(target, target.stat().st_size, done.seconds, done.notes)
    except OSError as error:
        raise cannot_write(target, error) from None


def _request(
    source: Path,
    quantization: str,
    half: Half,
    tensor_types: Sequence[protocol.TensorType],
    requantize: bool,
    imatrix: Path | None,
) -> protocol.Quantize:
    """A dry run."""
    return protocol.Quantize(
        source=str(source),
        target="",
        quantization=quantization,
        half=half,
        tensor_types=tuple(tensor_types),
        requantize=requantize,
        dry_run=True,
        imatrix="" if imatrix is None else str(imatrix),
    )


def _planned(dry_run: protocol.Quantize, pool: Pool, stop: Callable[[], bool]) -> QuantizedFile:
    source = Path(dry_run.source)
    with _explained(source, stop):
        planned = run_request(dry_run, pool, stop=stop)
    return QuantizedFile(None, planned.bytes or source.stat().st_size, planned.seconds, planned.notes)


@contextmanager
def _explained(source: Path, stop: Callable[[], bool]) -> Iterator[None]:
    """Raises Interrupted where a worker was killed for `stop`, and BadModel where the source is quantized already."""
    try:
        yield
    except EngineError as error:
        if stop():
            raise Interrupted("Stopped.") from None
        if "requantizing" in error.message or any("requantizing" in line for line in error.log):
            raise BadModel(
                f"{source.name} is quantized already: quantizing it again costs quality twice. Take the F16 file, "
                "or say that you want it all the same."
            ) from None
        raise


def check_name(target: Path) -> None:
    """Raises BadInput if there is a file of this name."""
    if target.exists():
        raise BadInput(f"{target.name} is there already. Give another name, or delete it first.")


def check_room(target: Path, wanted: int) -> None:
    """Makes the folder. Raises NoRoom, BadInput."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise cannot_write(target, error) from None
    if wanted > free:
        raise NoRoom(no_room(target.name, wanted, free))


def tensor_types(lines: Iterable[str]) -> tuple[protocol.TensorType, ...]:
    """Lines of PATTERN=TYPE, as of llama-quantize --tensor-type. Raises BadInput."""
    types = []
    for line in lines:
        pattern, kind = (part.strip() for part in line.rpartition("=")[::2])
        if line.strip() and not (pattern and kind):
            raise BadInput(f"A tensor's type is written as PATTERN=TYPE, such as ffn_down=q8_0, not '{line[:60]}'.")
        if pattern:
            types.append(protocol.TensorType(pattern, kind))
    return tuple(types)


def stem(source: Path) -> str:
    """A file's name without the type of a source."""
    return re.sub(r"[-.](F16|BF16|F32)$", "", source.stem, flags=re.IGNORECASE)


def _metadata(
    source: Path,
    quantization: str,
    tensor_types: Sequence[protocol.TensorType],
    imatrix: Path | None,
    name: str,
    made_with: Sequence[str],
) -> dict[str, str]:
    recipe = " ".join([quantization, *(f"{override.pattern}={override.kind}" for override in tensor_types)])
    known = {
        "quantize.source.sha256": _sha256(source),
        "quantize.recipe": recipe,
        "quantize.by": f"vlm-quant-playground, llama-cpp-python {importlib.metadata.version('llama-cpp-python')}",
    }
    if name:
        known["quantize.name"] = name
    if made_with:
        known["quantize.questions"] = " ".join(made_with)
    return known if imatrix is None else known | {"quantize.imatrix.sha256": _sha256(imatrix)}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_projector(
    lab: Lab,
    source: Variant,
    made: Variant,
    images: Sequence[Image],
    runtime: Runtime | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> EmbeddingCheck:
    """Compare what two projectors make of the same images. Raises EngineError when one gives no numbers."""
    cosines, errors, patches = [], [], []
    for image in images:
        new, original = (_embedded(lab, v, image, runtime or Runtime(), stop) for v in (made, source))
        if new.shape != original.shape:
            raise BadInput(f"The projectors make {len(new)} and {len(original)} embeddings of one image.")
        if not numpy.isfinite(new).all():
            raise EngineError("The projector's embeddings are not numbers (NaN): the file is damaged.")
        norms = numpy.linalg.norm(new, axis=1) * numpy.linalg.norm(original, axis=1)
        cosine = (new * original).sum(axis=1) / numpy.maximum(norms, 1e-12)
        error = numpy.linalg.norm(new - original, axis=1) / numpy.maximum(numpy.linalg.norm(original, axis=1), 1e-12)
        cosines.append(cosine)
        errors.append(error)
        patches.append(tuple(round(float(c), 5) for c in cosine))
    every = numpy.concatenate(cosines)
    return EmbeddingCheck(
        images=len(images),
        cosine_mean=float(every.mean()),
        cosine_min=float(every.min()),
        relative_error=float(numpy.concatenate(errors).mean()),
        patches=tuple(patches),
    )


def _embedded(lab: Lab, variant: Variant, image: Image, runtime: Runtime, stop: Callable[[], bool]) -> numpy.ndarray:
    """float64 (n_patches, n_embd)."""
    prompt = prompts.ask(lab, variant, "What is this?", image, runtime, stop)
    rows = [
        numpy.frombuffer(chunk.embeddings, numpy.float32).reshape(chunk.n_tokens, -1)
        for chunk in prompt.chunks
        if isinstance(chunk, protocol.ImageChunk)
    ]
    return numpy.concatenate(rows).astype(numpy.float64)
