"""Turns an uploaded file into pixels, and says what was done to it."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy
import PIL.ExifTags
import PIL.Image
import PIL.ImageOps

from playground.errors import BadImage
from playground.values import Image

# Every vision encoder of the day scales down further than this; above it only time and memory are spent.
MAX_PIXELS = 12_000_000


def read_image(path: str | Path) -> Image:
    """Decode, turn upright, reduce to 8-bit RGB. Raises BadImage.

    Pillow's own limit against decompression bombs is kept: its warning is an error here.
    """
    name = Path(path).name
    try:
        if Path(path).stat().st_size == 0:
            raise BadImage(f"{name} is empty (0 bytes). Choose another image.")
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as opened:
                notes = []
                width, height = opened.size
                frames: int = getattr(opened, "n_frames", 1)
                if frames > 1:
                    notes.append(f"first of {frames} frames")
                # Lets a JPEG be decoded at a fraction of its size.
                opened.draft("RGB", _fitting(opened.size))
                opened.load()
                if opened.getexif().get(PIL.ExifTags.Base.Orientation, 1) != 1:
                    notes.append("turned upright")
                rgb = _as_rgb(PIL.ImageOps.exif_transpose(opened), notes)
    except BadImage:
        raise
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        limit = (PIL.Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise BadImage(f"{name} has more than {limit:.0f} megapixels. Scale it down first.") from None
    except PIL.UnidentifiedImageError:
        raise BadImage(
            f"{name} is not an image that can be read here. Use PNG, JPEG, WebP, GIF, BMP or TIFF."
        ) from None
    except FileNotFoundError:
        raise BadImage(f"{name} does not exist.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise BadImage(f"{name} is cut short or damaged ({error}). Choose another image.") from None
    if rgb.width * rgb.height > MAX_PIXELS:
        rgb.thumbnail(_fitting(rgb.size), PIL.Image.Resampling.LANCZOS)
    if rgb.width * rgb.height < width * height:
        notes.append(f"scaled down from {width * height / 1e6:.0f} to {rgb.width * rgb.height / 1e6:.1f} megapixels")
    return from_rgb(rgb, "; ".join(notes) or None)


def from_rgb(rgb: PIL.Image.Image, note: str | None = None) -> Image:
    pixels = rgb.tobytes()
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + pixels).hexdigest()
    return Image(rgb=pixels, width=rgb.width, height=rgb.height, sha256=digest, note=note)


def _fitting(size: tuple[int, int]) -> tuple[int, int]:
    scale = min(1.0, (MAX_PIXELS / max(1, size[0] * size[1])) ** 0.5)
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _as_rgb(image: PIL.Image.Image, notes: list[str]) -> PIL.Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        # More than 8 bits a pixel; Pillow's own conversion would clip everything above 255 to white.
        notes.append("reduced to 8 bits")
        grey = image.convert("F")
        top = 65535.0 if image.mode.startswith("I") else float(max(1.0, numpy.asarray(grey).max()))
        return grey.point(lambda value: value * (255.0 / top) + 0.0).convert("L").convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        notes.append("transparency laid on white")
        rgba = image.convert("RGBA")
        white = PIL.Image.new("RGBA", rgba.size, "white")
        return PIL.Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "CMYK":
        notes.append("converted from CMYK")
    return image.convert("RGB")
