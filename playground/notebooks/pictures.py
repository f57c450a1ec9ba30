"""The pictures of all notebooks: one PNG file each, under the sha256 of its pixels, and a thumbnail of a large one."""

from __future__ import annotations

import base64
import contextlib
import io
import logging
import os
from pathlib import Path
from threading import Lock
from typing import Protocol

import PIL.Image

from playground.comparing.images import MAX_PIXELS, from_rgb
from playground.errors import BadImage
from playground.notebooks.cells import MAX_TITLE, Picture
from playground.support import atomic
from playground.values.request import Image

logger = logging.getLogger(__name__)

_THUMBNAIL_PIXELS = 512  # the longer side, for a pane of 170 CSS pixels on a dense screen
_MAX_STORED_PIXELS = 2 * MAX_PIXELS  # as many as the operator may allow
_SMALL_FILE = 48 * 1024  # bytes; below it the picture is its own thumbnail


class Decode(Protocol):
    def __call__(self, source: io.BytesIO, *, max_pixels: int) -> Image:
        """Raises BadImage, and Busy where it has to wait for too long."""


class Pictures:
    """Owns the folder of picture files. A file that the disk refuses is kept in memory; `retry` tries it again."""

    def __init__(self, folder: Path, decode: Decode) -> None:
        """`decode`: reads a stranger's file, as images.read_image does."""
        self.folder = folder
        self.deleting = Lock()  # held while an old file's age is looked at and it is deleted
        self._decode = decode
        self._unsaved: dict[str, bytes] = {}  # by file name

    @property
    def problem(self) -> str | None:
        return "the disk refused a picture" if self._unsaved else None

    def keep(self, image: Image, name: str) -> Picture:
        """A file is written once, however many notebooks show the picture."""
        picture = Picture(image.sha256, image.width, image.height, name[:MAX_TITLE], image.note)
        if not self._freshened(image.sha256):
            png = io.BytesIO()
            pixels = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
            pixels.save(png, "PNG", compress_level=1)  # 12 megapixels: 0.4 s in place of 3
            self._write(f"{image.sha256}.png", png.getvalue())
        return picture

    def _freshened(self, sha256: str) -> bool:
        """Whether the picture is there. Its file counts as new: a sweep that runs now must leave it to its notebook."""
        with self.deleting, contextlib.suppress(OSError):
            os.utime(self.folder / f"{sha256}.png")
        return self.png(sha256) is not None

    def keep_imported(self, sha256: str, png: str) -> bool:
        """Keeps a picture of an imported file, in base64, if its pixels have this sha256. Returns whether they
        have; otherwise its cell shows that the picture is lost."""
        try:
            image = self._decode(io.BytesIO(base64.b64decode(png, validate=True)), max_pixels=_MAX_STORED_PIXELS)
        except (ValueError, BadImage):
            return False
        if image.sha256 == sha256:
            self.keep(image, "")
        return image.sha256 == sha256

    def png(self, sha256: str) -> bytes | None:
        """A picture's file; None if it is lost."""
        return self._read(f"{sha256}.png")

    def image(self, picture: Picture) -> Image:
        """A picture's pixels. Raises BadImage if they are lost."""
        png = self.png(picture.sha256)
        try:
            if png is None:
                raise BadImage("the file is gone")
            return from_rgb(_decoded(png), picture.note)
        except BadImage as error:
            if png is not None:
                with contextlib.suppress(OSError):  # it gives way, so that adding the image again keeps it again
                    (self.folder / f"{picture.sha256}.png").unlink()
            raise BadImage(f"{picture.name} cannot be read any more ({error}). Add the image again.") from None

    def thumbnail(self, sha256: str) -> tuple[str, bytes] | None:
        """MIME type and bytes to show; None if the picture is lost."""
        png = self.png(sha256)
        if png is None:
            return None
        if len(png) <= _SMALL_FILE:
            return "image/png", png
        small = self._read(f"{sha256}.webp")
        if small is None:
            try:
                shown = _decoded(png)
            except BadImage:
                return None
            shown.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
            webp = io.BytesIO()
            shown.save(webp, "WEBP", quality=82)
            small = webp.getvalue()
            self._write(f"{sha256}.webp", small)
        return "image/webp", small

    def delete(self, sha256: str) -> None:
        for suffix in ("png", "webp"):
            self._unsaved.pop(f"{sha256}.{suffix}", None)
            (self.folder / f"{sha256}.{suffix}").unlink(missing_ok=True)

    def retry(self) -> None:
        """Writes what the disk refused."""
        for name, data in list(self._unsaved.items()):
            self._write(name, data)

    def _write(self, name: str, data: bytes) -> None:
        try:
            atomic.write(self.folder / name, data)
            self._unsaved.pop(name, None)
        except OSError as error:
            logger.warning("picture: %s", error)
            self._unsaved[name] = data

    def _read(self, name: str) -> bytes | None:
        stem, _, suffix = name.partition(".")
        if len(stem) != 64 or not set(stem) <= set("0123456789abcdef") or suffix not in ("png", "webp"):
            return None  # a checksum out of a file somebody made
        unsaved = self._unsaved.get(name)
        if unsaved is not None:
            return unsaved
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None


def _decoded(png: bytes) -> PIL.Image.Image:
    """Raises BadImage for what is damaged, or larger than any image that is kept here."""
    try:
        with PIL.Image.open(io.BytesIO(png), formats=("PNG",)) as opened:
            if opened.width * opened.height > _MAX_STORED_PIXELS:
                raise BadImage("it is too large")
            return opened.convert("RGB")
    except Exception as error:  # Pillow raises a dozen kinds on damaged files
        raise BadImage(str(error)) from None
