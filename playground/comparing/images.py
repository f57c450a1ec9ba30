"""Turns an uploaded file into pixels, and says what was done to it."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy
import PIL.ExifTags
import PIL.Image
import PIL.ImageCms
import pillow_heif
import pypdfium2

from playground.errors import BadImage
from playground.values.request import Image

# Every vision encoder of the day scales down further than this; above it only time and memory are spent.
MAX_PIXELS = 12_000_000

_NEARLY_WHITE = 250  # of 255
_VISIBLE_ALPHA = 64  # of 255

_MAX_FRAMES = 100  # that are counted in a TIFF

# Of Pillow's fifty decoders these few; EPS would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
_NAMES = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC or PDF"
_PDF_SCALE = 2.0  # pixels of a point: 144 dpi, at which small print can be read

MAX_PAGES = 8  # of a document that are read at once

# By the EXIF orientation. Not ImageOps.exif_transpose, which writes the EXIF anew and fails on odd tags.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


class Document(NamedTuple):
    """Pages that were read, their numbers, and how many the file has."""

    images: tuple[Image, ...]
    numbers: tuple[int, ...]
    pages: int


def read_image(source: str | Path | io.BytesIO, name: str = "", *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode, turn upright, convert to sRGB of 8 bits, scale down to `max_pixels`. Raises BadImage.

    Of a document it is the first page, of an animation the first frame.
    """
    return read_page(source, name, 0, max_pixels=max_pixels)[0]


def read_pages(source: str | Path, *, max_pixels: int = MAX_PIXELS) -> tuple[Image, ...]:
    """The first pages of a document (PDF, TIFF); of any other file its one image. Raises BadImage."""
    return document(lambda page: read_page(source, "", page, max_pixels=max_pixels)).images


def document(read: Callable[[int], tuple[Image, int]], numbers: Sequence[int] | None = None) -> Document:
    """`read`: as `read_page`, by the index of a page. `numbers`: from 1 on; None: the first ones."""
    first, pages = read(numbers[0] - 1 if numbers else 0)
    wanted = tuple(numbers) if numbers else tuple(range(1, min(pages, MAX_PAGES) + 1))
    return Document((first, *(read(number - 1)[0] for number in wanted[1:])), wanted, pages)


def read_page(
    source: str | Path | io.BytesIO, name: str, page: int, *, max_pixels: int = MAX_PIXELS
) -> tuple[Image, int]:
    """A page of a document, and how many pages it has; 1 for what is no document. Raises BadImage.

    Pillow's own limit against decompression bombs is kept: where it would warn, the image is refused.
    """
    pages = 1
    if not isinstance(source, io.BytesIO):
        name = Path(source).name
    notes: list[str] = []
    try:
        if not (source.getbuffer().nbytes if isinstance(source, io.BytesIO) else Path(source).stat().st_size):
            raise BadImage(f"{name} is empty (0 bytes). Choose another image.")
        if _is_pdf(source):
            rgb, note, pages = _pdf_page(source, name, page, max_pixels)
            return from_rgb(rgb, note), pages
        pillow_heif.register_heif_opener(thumbnails=False)
        with PIL.Image.open(source, formats=_FORMATS) as opened:
            width, height = opened.size
            if width * height > (PIL.Image.MAX_IMAGE_PIXELS or width * height):
                raise PIL.Image.DecompressionBombError
            frames = _frames(opened)
            if page and (opened.format != "TIFF" or page >= frames):
                raise _no_page(name, page, frames if opened.format == "TIFF" else 1)
            if frames > 1:
                more = f"more than {_MAX_FRAMES}" if frames > _MAX_FRAMES else f"{frames}"
                if opened.format == "TIFF":
                    pages = frames
                    opened.seek(page)
                    width, height = opened.size
                    if width * height > (PIL.Image.MAX_IMAGE_PIXELS or width * height):
                        raise PIL.Image.DecompressionBombError
                    notes.append(f"page {page + 1} of {more}")
                else:
                    notes.append(f"first of {more} frames")
            # Pillow turns a TIFF itself while it loads, and finds a PNG's tag only then.
            before = opened.getexif().get(PIL.ExifTags.Base.Orientation, 1)
            opened.draft("RGB", _fitting(opened.size, max_pixels))  # lets a JPEG be decoded at a fraction of its size
            opened.load()
            turn = _UPRIGHT.get(opened.getexif().get(PIL.ExifTags.Base.Orientation, 1))
            if turn is not None or before in _UPRIGHT:
                notes.append("turned upright")
            rgb = _as_rgb(_in_srgb(opened, notes, max_pixels), notes, max_pixels)
    except BadImage:
        raise
    except PIL.Image.DecompressionBombError:
        limit = (PIL.Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise BadImage(f"{name} has more than {limit:.0f} megapixels. Scale it down first.") from None
    except PIL.UnidentifiedImageError:
        raise BadImage(f"{name} is not an image that can be read here. Use {_NAMES}.") from None
    except FileNotFoundError:
        raise BadImage(f"{name} does not exist.") from None
    except IsADirectoryError:
        raise BadImage(f"{name} is a folder. Choose an image in it.") from None
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadImage(f"{name} is cut short or damaged ({error}). Choose another image.") from None
    if rgb.width * rgb.height > max_pixels:
        rgb.thumbnail(_fitting(rgb.size, max_pixels), PIL.Image.Resampling.LANCZOS)
    if turn is not None:
        rgb = rgb.transpose(turn)
    if rgb.width * rgb.height < width * height:
        notes.append(f"scaled down from {width * height / 1e6:.1f} to {rgb.width * rgb.height / 1e6:.1f} megapixels")
    return from_rgb(rgb, "; ".join(notes) or None), pages


def _is_pdf(source: str | Path | io.BytesIO) -> bool:
    if isinstance(source, io.BytesIO):
        return source.getvalue()[:5] == b"%PDF-"
    with open(source, "rb") as file:
        return file.read(5) == b"%PDF-"


def _no_page(name: str, page: int, pages: int) -> BadImage:
    return BadImage(f"{name} has {pages} page{'s'[: pages != 1]}: there is no page {page + 1}.")


def _pdf_page(
    source: str | Path | io.BytesIO, name: str, page: int, max_pixels: int
) -> tuple[PIL.Image.Image, str, int]:
    """A page as pixels, the note, and the number of pages."""
    with pypdfium2.PdfDocument(source) as document:
        pages = len(document)
        if page >= pages > 0:
            raise _no_page(name, page, pages)
        width, height = document.get_page_size(page)
        scale = min(_PDF_SCALE, (max_pixels / max(1.0, width * height)) ** 0.5)
        rgb = document[page].render(scale=scale).to_pil().convert("RGB")
    return rgb, f"page {page + 1} of {pages}, drawn at {72 * scale:.0f} dpi", pages


def _in_srgb(image: PIL.Image.Image, notes: list[str], max_pixels: int) -> PIL.Image.Image:
    """Colours by the file's profile, as every browser shows them. A profile that cannot be used is ignored."""
    data = image.info.get("icc_profile")
    if not data or image.mode not in ("RGB", "RGBA", "CMYK", "L"):
        return image
    try:
        profile = PIL.ImageCms.ImageCmsProfile(io.BytesIO(data))
        name = PIL.ImageCms.getProfileDescription(profile).strip()
        if "srgb" in name.lower():
            return image
        if image.width * image.height > max_pixels:  # before anything is copied
            image.thumbnail(_fitting(image.size, max_pixels), PIL.Image.Resampling.LANCZOS)
        colours = image.convert("RGB") if image.mode == "RGBA" else image
        srgb = PIL.ImageCms.createProfile("sRGB")
        converted = PIL.ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB")
    except (PIL.ImageCms.PyCMSError, OSError, ValueError):
        return image
    if converted is None:
        return image
    if image.mode == "RGBA":
        converted.putalpha(image.getchannel("A"))
    notes.append(f"colours converted from {name[:40]} to sRGB")
    return converted


def _frames(opened: PIL.Image.Image) -> int:
    """How many; of a TIFF at most one more than _MAX_FRAMES, since Pillow's count is quadratic there."""
    if opened.format != "TIFF":
        return getattr(opened, "n_frames", 1)
    count = 1
    with contextlib.suppress(EOFError):
        while count <= _MAX_FRAMES:
            opened.seek(count)
            count += 1
    opened.seek(0)
    return count


def from_rgb(rgb: PIL.Image.Image, note: str | None = None) -> Image:
    pixels = rgb.tobytes()
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode())
    digest.update(pixels)
    return Image(rgb=pixels, width=rgb.width, height=rgb.height, sha256=digest.hexdigest(), note=note)


def cropped(image: Image, x: int, y: int, width: int, height: int) -> Image:
    """A part of an image. Raises BadImage if it is none."""
    if min(x, y) < 0 or min(width, height) < 1 or x + width > image.width or y + height > image.height:
        raise BadImage("This part lies outside of the image.")
    whole = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    return from_rgb(whole.crop((x, y, x + width, y + height)))


def _fitting(size: tuple[int, int], max_pixels: int) -> tuple[int, int]:
    scale = min(1.0, (max_pixels / max(1, size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _as_rgb(image: PIL.Image.Image, notes: list[str], max_pixels: int) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        # More than 8 bits a pixel; Pillow's own conversion would clip everything above 255 to white.
        notes.append("reduced to 8 bits")
        grey = image.convert("F")
        top = 65535.0 if image.mode.startswith("I") else float(max(1.0, numpy.asarray(grey).max()))
        return grey.point(lambda value: value * (255.0 / top) + 0.0).convert("L").convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        if rgba.width * rgba.height > max_pixels:  # before anything is copied
            rgba.thumbnail(_fitting(rgba.size, max_pixels), PIL.Image.Resampling.LANCZOS)
        alpha = rgba.getchannel("A")
        if alpha.getextrema() == (255, 255):
            return rgba.convert("RGB")
        notes.append("transparency laid on white")
        white = PIL.Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=alpha)
        is_white = int(numpy.asarray(white.convert("L")).min()) >= _NEARLY_WHITE
        if is_white and int(numpy.asarray(alpha).max()) > _VISIBLE_ALPHA:
            notes[-1] += ", on which its white drawing cannot be seen"
        return white
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    return image.convert("RGB")
