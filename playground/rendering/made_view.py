"""A file that was quantized here: its verdict, and heat maps of what quantizing did to the image embeddings."""

from __future__ import annotations

import io
import urllib.parse
from collections.abc import Sequence

import markupsafe
import numpy
import PIL.Image

from playground.measuring.gate import Verdict
from playground.measuring.results import Sight
from playground.quantizing.make_variant import CheckedVariant
from playground.rendering import measurement_view, number_format, templating
from playground.values.request import Image

# Of a file that is sound: it was loaded, and gave numbers for all questions.
_VERDICTS = {Verdict.BROKEN.value: "answers change a lot", Verdict.CHANGES.value: "answers change"}

_MAP_PIXELS = 168  # of a heat map's longer side


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
        link=link(checked.path.name),
        kind=checked.verdict.split()[0],
        verdict=checked.verdict if checked.looks == Sight.BLIND else _VERDICTS.get(checked.verdict, checked.verdict),
    )


def link(name: str) -> markupsafe.Markup:
    """To a file that was made here."""
    return markupsafe.Markup('<a href="./vp-made/{}" download>Download the file</a>').format(urllib.parse.quote(name))


def heat_map(image: Image, cosines: Sequence[float]) -> str | None:
    """The picture with each patch marked by how far its embedding turned, as a data URL; None where the patches are no
    grid over the picture (several tiles, or rows with separators)."""
    grid = _grid(len(cosines), image.width / image.height)
    if grid is None:
        return None
    columns, rows = grid
    # 1 - cosine from 0.001 to 1, on a logarithmic scale; its ends are a convention.
    off = numpy.clip((numpy.log10(numpy.maximum(1 - numpy.asarray(cosines), 1e-6)) + 3) / 3, 0, 1)
    alpha = PIL.Image.fromarray((off.reshape(rows, columns) * 230).astype(numpy.uint8))
    picture = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    picture.thumbnail((_MAP_PIXELS, _MAP_PIXELS))
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
