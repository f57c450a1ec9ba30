"""Quantizing on the page: one half of the marked cell's reference into a new file, checked on images as it is made."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import markupsafe
import msgspec
import numpy
import PIL.Image

from playground.comparing.compare import StopFlag
from playground.errors import BadInput, NoRoom
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Progress
from playground.quantizing import quantizer
from playground.quantizing.make_variant import CheckedVariant, MakeJob, MakeRequest
from playground.rendering import measurement_view, number_format, templating
from playground.values.files import Half, Variant
from playground.values.request import Image, Runtime
from playground.wiring import Parts

# llama_ftype names, from large to small; the IQ ones want calibration.
TYPES = (
    "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "IQ4_XS", "Q4_0", "Q3_K_M", "Q3_K_S", "IQ3_S", "IQ3_XXS",
    "Q2_K", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0",
)  # fmt: skip
HALVES = {"Language model": Half.MODEL, "Projector (mmproj)": Half.PROJECTOR}
_QUESTIONS = 24  # half of them calibrate or are left out, half of them judge


def make(
    parts: Parts,
    source: Variant,
    half: str,
    quantization: str,
    exceptions: str,
    calibrate: bool,
    questions: QuestionSet,
    stop: StopFlag,
) -> Iterator[Progress | CheckedVariant]:
    """Raises BadInput, and what Making raises."""
    order = MakeRequest(
        HALVES[half], quantization.strip(), quantizer.tensor_types(exceptions.splitlines()), calibrate=calibrate
    )
    if order.tensor_types:
        # No commas: it becomes part of a variant's id, and a command separates these by commas.
        told = " ".join(f"{one.pattern}={one.kind}" for one in order.tensor_types)
        order = msgspec.structs.replace(order, name=f"{order.quantization} {told}".replace(",", ";")[:60])
    elif calibrate:
        order = msgspec.structs.replace(order, name=f"{order.quantization} calibrated")
    file = source.half(order.half)
    check_room(parts, file.bytes)
    slug = "-".join(filter(None, (_plain(order.quantization), "calibrated" * calibrate, _plain(exceptions))))[:70]
    # Another name for other patterns, and for another publisher's file of the same name.
    key = hashlib.sha256(repr((file.sha256, order.tensor_types)).encode()).hexdigest()[:8]
    target = parts.catalog.made / f"{quantizer.stem(Path(file.path))}-{slug}-{key}.gguf"
    if target.exists():
        raise BadInput(f"{target.name} was made before. It is a variant: tick it at the side.")
    order = msgspec.structs.replace(order, target=target)
    runtime = Runtime(n_ctx=1024)
    making = MakeJob(parts.pool, parts.embeddings, parts.result_cache, parts.workshop, runtime, stop.wanted)
    yield from making.run(source, order, questions.first(_QUESTIONS))


def check_room(parts: Parts, size: int) -> None:
    """Raises NoRoom if the operator does not allow that much more."""
    made = sum(path.stat().st_size for path in parts.catalog.made.glob("*.gguf"))
    if made + size > parts.settings.made_bytes:
        raise NoRoom(
            f"The files made here take {made / 1e9:.1f} GB, the operator allows {parts.settings.made_bytes / 1e9:.1f} "
            "(PLAYGROUND_MADE_BYTES)."
        )


def _plain(text: str) -> str:
    """Fit for a file's name, whatever a person wrote."""
    return "-".join(re.findall(r"[A-Za-z0-9_]+", text))


def html(checked: CheckedVariant) -> markupsafe.Markup:
    maps: Sequence[tuple[str | None, str]] = ()
    if checked.embeddings is not None:
        pairs = zip(checked.images, checked.embeddings.patches, strict=True)
        maps = [(heat_map(image, cosines), f"lowest {min(cosines):.3f}") for image, cosines in pairs]
    return templating.markup(
        "made.html",
        checked=checked,
        kl=measurement_view.nats(checked.kl.value),
        size=number_format.file_size(checked.bytes),
        maps=maps,
        kind=checked.verdict.split()[0],
    )


def heat_map(image: Image, cosines: Sequence[float], *, size: int = 168) -> str | None:
    """The picture with each patch marked by how far its embedding turned, as a data URL; None where the patches are no
    grid over the picture (several tiles, or rows with separators)."""
    grid = _grid(len(cosines), image.width / image.height)
    if grid is None:
        return None
    columns, rows = grid
    # 1 - cosine from 0.001, which nobody notices, to 1, on a logarithmic scale.
    off = numpy.clip((numpy.log10(numpy.maximum(1 - numpy.asarray(cosines), 1e-6)) + 3) / 3, 0, 1)
    alpha = PIL.Image.fromarray((off.reshape(rows, columns) * 230).astype(numpy.uint8))
    picture = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    picture.thumbnail((size, size))
    grey = picture.convert("L").convert("RGB")
    red = PIL.Image.new("RGB", grey.size, (214, 40, 28))
    marked = PIL.Image.composite(red, grey, alpha.resize(grey.size, PIL.Image.Resampling.NEAREST))
    png = io.BytesIO()
    marked.save(png, "PNG")
    return templating.data_url(("image/png", png.getvalue()))


def _grid(n: int, aspect: float) -> tuple[int, int] | None:
    """Columns and rows of n patches: square where that is possible (a picture of fixed size), else the picture's
    shape."""
    root = round(n**0.5)
    if root * root == n:
        return root, root
    pairs = [(n // rows, rows) for rows in range(1, n + 1) if n % rows == 0]
    columns, rows = min(pairs, key=lambda pair: abs(numpy.log(pair[0] / pair[1] / aspect)))
    return (columns, rows) if 0.7 < columns / rows / aspect < 1.4 else None
