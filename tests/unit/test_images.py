"""read_image on real files: what comes out, what the person is told, and that no file can do worse than be refused."""

from __future__ import annotations

import io
import random
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pillow_heif
import pytest

from playground.comparing.images import MAX_PIXELS, read_image, read_pages
from playground.errors import BadImage

# A picture whose quarters differ, so that every turn and every mirroring of it shows.
QUARTERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))
ORIENTATION = 0x0112


def quarters(width: int = 32, height: int = 16) -> PIL.Image.Image:
    image = PIL.Image.new("RGB", (2, 2))
    image.putdata(QUARTERS)
    return image.resize((width, height), PIL.Image.Resampling.NEAREST)


def save(path: Path, image: PIL.Image.Image, file_format: str | None = None, **options: Any) -> Path:
    image.save(path, file_format, **options)
    return path


def pixel(path: Path, x: int = 0, y: int = 0) -> tuple[int, ...]:
    image = read_image(path)
    start = 3 * (y * image.width + x)
    return tuple(image.rgb[start : start + 3])


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, row: bytes) -> bytes:
    """A PNG of whatever header. Colour 0: grey, 2: RGB, 4: grey with alpha, 6: RGBA."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")


def exif(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF of (tag, type, count, value) entries, values of at most 4 bytes in place, others after them."""
    end, directory, values = 8 + 2 + 12 * len(tags) + 4, struct.pack("<H", len(tags)), b""
    for tag, kind, count, value in sorted(tags):
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", end + len(values))
        values += value if len(value) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + directory + bytes(4) + values


# --- what is refused, and with which words ----------------------------------------------------------------


def _cut(file_format: str) -> bytes:
    data = io.BytesIO()
    PIL.Image.effect_noise((64, 64), 80).save(data, file_format)
    return data.getvalue()[: len(data.getvalue()) // 2]


NOT_ONE = "is not an image that can be read here. Use PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC or PDF."


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty (0 bytes). Choose another image."),
        (b"hello", NOT_ONE),
        (b"\x89PNG\r\n\x1a\n", NOT_ONE),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', NOT_ONE),
        (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n%%EOF\n", "is cut short or damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", NOT_ONE),
        (png(0, 10, 8, 2, b""), NOT_ONE),
        (_cut("PNG"), "is cut short or damaged"),
        (_cut("JPEG"), "is cut short or damaged"),
        (_cut("BMP"), "is cut short or damaged"),
        (_cut("TIFF"), "is cut short or damaged"),
        (_cut("WEBP"), "is cut short or damaged"),
        (png(8, 8, 8, 2, b"too little"), "is cut short or damaged"),
        (png(20_000, 20_000, 8, 2, b""), "has more than 89 megapixels. Scale it down first."),
        (png(9_500, 9_500, 8, 2, b""), "has more than 89 megapixels. Scale it down first."),
    ],
    ids=[
        "0-bytes",
        "text",
        "magic-only",
        "svg",
        "pdf",
        "eps",
        "no-width",
        "cut-png",
        "cut-jpeg",
        "cut-bmp",
        "cut-tiff",
        "cut-webp",
        "few-rows",
        "bomb",
        "90-mp",
    ],
)
def test_file_when_no_whole_image_then_refused_by_name(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    with pytest.raises(BadImage) as refused:
        read_image(path)
    assert str(refused.value).startswith("picture.png " + message)


def _with_chunks(*chunks: bytes) -> bytes:
    whole = png(1, 1, 8, 2, b"abc")
    return whole[:33] + b"".join(chunks) + whole[33:]


ZEROS = zlib.compress(bytes(2**26), 1)  # 64 MB in 0.3


@pytest.mark.parametrize(
    "data",
    [
        _with_chunks(chunk(b"iCCP", b"x\0\0" + ZEROS)),
        _with_chunks(chunk(b"zTXt", b"k\0\0" + ZEROS)),
        _with_chunks(chunk(b"iTXt", b"k\0\1\0\0\0" + ZEROS)),
        _with_chunks(*[chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000)))] * 200),
    ],
    ids=["profile", "text", "international text", "many texts"],
)
def test_png_when_a_chunk_of_it_is_a_bomb_then_refused_before_it_is_unpacked(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(BadImage, match=r"MAX_TEXT_(CHUNK|MEMORY)"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.thorough
def test_gif_when_it_has_20000_frames_then_the_first_one_alone_is_unpacked(tmp_path: Path) -> None:
    whole = save(tmp_path / "one.gif", PIL.Image.new("P", (1, 1))).read_bytes()
    frame = whole[whole.index(b"\x2c") : -1]
    (tmp_path / "many.gif").write_bytes(whole[:-1] + frame * 19_999 + whole[-1:])
    tracemalloc.start()
    image = read_image(tmp_path / "many.gif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (image.width, image.height) == (1, 1)
    assert "frames" in str(image.note)
    assert peak < 10_000_000


def bombed(kind: bytes) -> bytes:
    """A PNG of 8 x 8 with 64 chunks, each of which unpacks to 16 MB."""
    plain = png(8, 8, 8, 0, b"\0" * 71)
    head = plain.index(b"IDAT") - 4
    packed = zlib.compress(b"\0" * 2**24)
    chunks = chunk(kind, b"name\0\0" + packed) * (1 if kind == b"iCCP" else 64)
    return plain[:head] + chunks + plain[head:]


@pytest.mark.parametrize("kind", [b"iCCP", b"zTXt"])
def test_png_when_a_small_chunk_unpacks_to_very_much_then_little_of_it_is_kept(kind: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bombed(kind))
    tracemalloc.start()
    try:
        image = read_image(tmp_path / "a.png")
    except BadImage:
        image = None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image is None or (image.width, image.height) == (8, 8)
    assert peak < 100_000_000, "64 chunks are a gigabyte"


def test_path_when_nothing_is_there_then_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"^gone\.png does not exist\.$"):
        read_image(tmp_path / "gone.png")


def test_path_when_a_folder_then_says_so_and_not_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(BadImage) as refused:
        read_image(tmp_path / "photos")
    assert "folder" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)


def test_name_when_it_holds_markup_then_the_message_holds_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "<img src=x onerror=alert(1)>.png"
    path.write_bytes(b"no image")
    with pytest.raises(BadImage) as refused:
        read_image(path)
    assert str(refused.value).startswith("<img src=x onerror=alert(1)>.png is not an image")  # the page escapes


def test_format_when_not_one_that_is_named_then_refused(tmp_path: Path) -> None:
    """Pillow has decoders for some forty more formats: each is room for a stranger's file to do harm."""
    image = quarters()
    for file_format in ("DDS", "JPEG2000", "PCX", "SGI", "TGA", "ICNS", "PPM"):
        path = save(tmp_path / "picture.png", image.resize((32, 32)), file_format)
        with pytest.raises(BadImage, match="Use PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF, HEIC or PDF"):
            read_image(path)


def _samples() -> dict[str, bytes]:
    noise, tags = PIL.Image.effect_noise((40, 30), 60).convert("RGB"), PIL.Image.Exif()
    tags[ORIENTATION], tags[0x010F], tags[0x011A] = 6, "maker", 72.0
    turned = [noise.rotate(90)]
    options: dict[str, dict[str, object]] = {
        "JPEG": {"exif": tags},
        "PNG": {"exif": tags},
        "TIFF": {"exif": tags},
        "WEBP": {"exif": tags},
        "GIF": {"save_all": True, "append_images": turned},
        "BMP": {},
        "MPO": {"save_all": True, "append_images": turned},
    }
    samples = {}
    for file_format, fields in options.items():
        data = io.BytesIO()
        noise.save(data, file_format, **fields)
        samples[file_format] = data.getvalue()
    return samples


def _mutate(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        at = draw.randrange(min(len(changed), draw.choice([60, 300, len(changed)])))
        how = draw.randrange(10)
        if how < 5:
            changed[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif how < 7:
            changed[at : at + 4] = b"\xff" * draw.choice([2, 4, 8])
        elif how < 9:
            del changed[at : at + draw.randrange(1, 20)]
        else:
            del changed[max(at, 1) :]
        changed = changed or bytearray(b"x")
    return bytes(changed)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")  # Pillow's own remarks on damaged files
def test_file_when_damaged_at_random_then_an_image_or_bad_image_and_nothing_else(tmp_path: Path) -> None:
    draw, samples, path = random.Random(4), _samples(), tmp_path / "picture.png"
    others: dict[str, str] = {}
    n_read = n_refused = 0
    for number in range(2500):
        kind = draw.choice(sorted(samples))
        path.write_bytes(_mutate(samples[kind], draw))
        try:
            image = read_image(path)
            assert len(image.rgb) == 3 * image.width * image.height
            n_read += 1
        except BadImage:
            n_refused += 1
        except Exception as error:
            others.setdefault(f"{kind}: {type(error).__name__}: {error}", f"mutation {number}")
    assert others == {}
    assert min(n_read, n_refused) > 400  # else the damage is too mild, or too wild to get anywhere


# --- what the pixels become -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("png", {}), ("bmp", {}), ("tiff", {"compression": "tiff_lzw"}), ("webp", {"lossless": True}), ("gif", {})],
)
def test_picture_when_in_another_lossless_format_then_it_is_the_same_image(
    tmp_path: Path, suffix: str, options: dict[str, Any]
) -> None:
    picture = quarters()
    image = read_image(save(tmp_path / f"a.{suffix}", picture, **options))
    assert (image.rgb, image.width, image.height, image.note) == (picture.tobytes(), 32, 16, None)
    assert image.sha256 == read_image(save(tmp_path / "b.png", picture)).sha256


def test_sha256_when_the_same_bytes_have_another_shape_then_it_differs(tmp_path: Path) -> None:
    wide = read_image(save(tmp_path / "a.png", PIL.Image.new("RGB", (4, 2))))
    tall = read_image(save(tmp_path / "b.png", PIL.Image.new("RGB", (2, 4))))
    assert wide.rgb == tall.rgb
    assert wide.sha256 != tall.sha256


# What a picture has to be turned by, so that its orientation tag turns it back.
STORED = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_90,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_270,
}


def tagged(path: Path, picture: PIL.Image.Image, orientation: int) -> Path:
    tags = PIL.Image.Exif()
    tags[ORIENTATION] = orientation
    options: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"lossless": True}}
    return save(path, picture, exif=tags, **options.get(path.suffix, {}))


@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_when_tagged_then_the_pixels_are_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = quarters(64, 32)
    stored = upright.transpose(STORED[orientation]) if orientation in STORED else upright
    path = tagged(tmp_path / f"a.{suffix}", stored, orientation)
    image = read_image(path)
    assert (image.width, image.height) == (64, 32)
    corners = [pixel(path, x, y) for y in (4, 27) for x in (8, 55)]
    for corner, expected in zip(corners, QUARTERS, strict=True):
        assert corner == pytest.approx(expected, abs=4)


@pytest.mark.parametrize(
    ("orientation", "suffix", "note"),
    [
        (1, "png", None),
        *((3, suffix, "turned upright") for suffix in ("png", "jpg", "tiff", "webp")),
        *((0, suffix, None) for suffix in ("png", "jpg", "tiff", "webp")),
        (9, "jpg", None),
        (65535, "jpg", None),
    ],
)
def test_orientation_when_the_picture_was_turned_then_the_note_says_so(
    tmp_path: Path, orientation: int, suffix: str, note: str | None
) -> None:
    """0 is common in the wild and means nothing, like anything above 8."""
    image = read_image(tagged(tmp_path / f"a.{suffix}", quarters(), orientation))
    assert (image.width, image.height, image.note) == (32, 16, note)


@pytest.mark.parametrize(
    "odd",
    [
        (0x0100, 5, 1, struct.pack("<II", 1, 2)),  # a width that is a fraction
        (0x0131, 12, 1, struct.pack("<d", 1.5)),  # a software's name that is a number
        (0x011A, 2, 4, b"abc\0"),  # a resolution that is a text
        (0x010F, 5, 1, struct.pack("<II", 1, 0)),  # a maker that is a division by zero
    ],
    ids=["width", "software", "resolution", "maker"],
)
def test_photo_when_another_exif_tag_is_odd_then_it_is_still_turned_upright(
    tmp_path: Path, odd: tuple[int, int, int, bytes]
) -> None:
    tags = exif((ORIENTATION, 3, 1, struct.pack("<H", 6)), odd)
    image = read_image(save(tmp_path / "a.jpg", quarters(64, 32), exif=tags))
    assert (image.width, image.height, image.note) == (32, 64, "turned upright")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(1, 1, 16, 0, struct.pack(">H", 0)), (0, 0, 0)),
        (png(1, 1, 16, 0, struct.pack(">H", 0x8000)), (128, 128, 128)),
        (png(1, 1, 16, 0, struct.pack(">H", 0x4040)), (64, 64, 64)),
        (png(1, 1, 16, 0, struct.pack(">H", 0xFFFF)), (255, 255, 255)),
        (png(1, 1, 16, 4, struct.pack(">HH", 0x8000, 0xFFFF)), (128, 128, 128)),
        (png(1, 1, 16, 2, struct.pack(">HHH", 0x8000, 0xFFFF, 0)), (128, 255, 0)),
        (png(1, 1, 16, 6, struct.pack(">HHHH", 0x8000, 0xFFFF, 0, 0xFFFF)), (128, 255, 0)),
        (png(1, 1, 1, 0, b"\x80"), (255, 255, 255)),
        (png(1, 1, 1, 0, b"\x00"), (0, 0, 0)),
        (png(1, 1, 2, 0, b"\x80"), (170, 170, 170)),
    ],
    ids=["black16", "mid16", "quarter16", "white16", "alpha16", "rgb16", "rgba16", "white1", "black1", "grey2"],
)
def test_depth_when_not_8_bits_then_the_brightness_stays(
    tmp_path: Path, data: bytes, expected: tuple[int, ...]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert pixel(path) == pytest.approx(expected, abs=1)


def test_grey_when_16_bits_then_the_note_says_what_was_done(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", PIL.Image.new("I;16", (3, 2), 40_000)))
    assert image.note == "reduced to 8 bits"


def test_grey_when_floats_between_0_and_1_then_1_is_white(tmp_path: Path) -> None:
    picture = PIL.Image.new("F", (2, 1), 0.5)
    picture.putpixel((1, 0), 1.0)
    path = save(tmp_path / "a.tiff", picture)
    assert pixel(path, 0) == pytest.approx((127, 127, 127), abs=1)
    assert pixel(path, 1) == (255, 255, 255)


def _one_bit() -> PIL.Image.Image:
    picture = PIL.Image.new("1", (2, 1))
    picture.putpixel((1, 0), 1)
    return picture


def _palette_with_a_hole() -> PIL.Image.Image:
    picture = PIL.Image.new("P", (2, 1))
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.putpixel((1, 0), 1)
    picture.info["transparency"] = 0
    return picture


def _half_red() -> PIL.Image.Image:
    picture = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (255, 0, 0, 128))
    return picture


@pytest.mark.parametrize(
    ("make", "suffix", "left", "right", "note"),
    [
        (_one_bit, "png", (0, 0, 0), (255, 255, 255), None),
        (_palette_with_a_hole, "png", (255, 255, 255), (0, 0, 255), "transparency laid on white"),
        (_palette_with_a_hole, "gif", (255, 255, 255), (0, 0, 255), "transparency laid on white"),
        (_half_red, "png", (255, 255, 255), (255, 127, 127), "transparency laid on white"),
        (lambda: _half_red().convert("LA"), "png", (255, 255, 255), (165, 165, 165), "transparency laid on white"),
        (lambda: PIL.Image.new("CMYK", (2, 1), (0, 255, 255, 0)), "jpg", (255, 0, 0), (255, 0, 0), "from CMYK"),
        (lambda: PIL.Image.new("CMYK", (2, 1), (0, 0, 0, 255)), "tiff", (0, 0, 0), (0, 0, 0), "from CMYK"),
        (lambda: PIL.Image.new("LAB", (2, 1), (128, 128, 128)), "tiff", (119, 119, 119), (119, 119, 119), None),
    ],
    ids=["1-bit", "palette-png", "palette-gif", "rgba", "grey-alpha", "cmyk-jpeg", "cmyk-tiff", "lab"],
)
def test_mode_when_not_rgb_then_its_colours_and_a_note(
    tmp_path: Path,
    make: Callable[[], PIL.Image.Image],
    suffix: str,
    left: tuple[int, ...],
    right: tuple[int, ...],
    note: str | None,
) -> None:
    path = save(tmp_path / f"a.{suffix}", make())
    assert pixel(path, 0) == pytest.approx(left, abs=3)
    assert pixel(path, 1) == pytest.approx(right, abs=3)
    remark = read_image(path).note
    assert remark is None if note is None else note in (remark or "")


def test_alpha_when_nothing_is_transparent_then_no_note(tmp_path: Path) -> None:
    """Screenshots have an alpha channel as a rule; nothing was laid on white."""
    assert read_image(save(tmp_path / "a.png", quarters().convert("RGBA"))).note is None


@pytest.mark.parametrize(("suffix", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tiff", {})])
def test_animation_when_read_then_it_is_its_first_frame(tmp_path: Path, suffix: str, options: dict[str, Any]) -> None:
    others = [PIL.Image.new("RGB", (8, 8), colour) for colour in ("blue", "green")]
    path = save(
        tmp_path / f"a.{suffix}", PIL.Image.new("RGB", (8, 8), "red"), save_all=True, append_images=others, **options
    )
    image = read_image(path)
    assert pixel(path) == pytest.approx((255, 0, 0), abs=1)
    note = "page 1 of 3" if suffix == "tiff" else "first of 3 frames"
    assert (image.width, image.height, image.note) == (8, 8, note)


def test_photo_when_a_phone_adds_a_second_picture_then_the_first_one_is_read(tmp_path: Path) -> None:
    """MPO: a JPEG with a depth or brightness map behind it; it is called .jpg."""
    extra = PIL.Image.new("L", (8, 4), 255).convert("RGB")
    path = save(tmp_path / "a.jpg", quarters(64, 32), "MPO", save_all=True, append_images=[extra])
    assert (read_image(path).width, read_image(path).height) == (64, 32)
    assert pixel(path, 8, 4) == pytest.approx(QUARTERS[0], abs=4)


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 30_000), (30_000, 1), (4000, 3000)], ids=str)
def test_size_when_small_enough_then_kept(tmp_path: Path, size: tuple[int, int]) -> None:
    image = read_image(save(tmp_path / "a.png", PIL.Image.new("RGB", size, "red"), compress_level=1))
    assert (image.width, image.height, image.note) == (*size, None)
    assert len(image.rgb) == 3 * size[0] * size[1]


@pytest.mark.thorough
def test_size_when_a_little_too_large_then_the_note_shows_a_difference(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.png", PIL.Image.new("RGB", (4000, 3010)), compress_level=1))
    assert image.width * image.height <= MAX_PIXELS
    assert image.note != "scaled down from 12 to 12.0 megapixels"


@pytest.mark.thorough
def test_size_when_60_megapixels_then_turned_and_scaled_down_with_a_note(tmp_path: Path) -> None:
    image = read_image(tagged(tmp_path / "a.jpg", quarters(10_000, 6_000), 6))
    assert image.height / image.width == pytest.approx(10_000 / 6_000, rel=0.001)
    assert 0.99 * MAX_PIXELS < image.width * image.height <= MAX_PIXELS
    assert re.fullmatch(r"turned upright; scaled down from 60(\.0)? to 12\.0 megapixels", image.note or "")
    assert tuple(image.rgb[:3]) == pytest.approx(QUARTERS[2], abs=4)


# --- phones, documents and profiles ------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["AVIF", "HEIF"])
def test_photo_when_of_a_phones_format_then_read(tmp_path: Path, file_format: str) -> None:
    pillow_heif.register_heif_opener()
    path = save(tmp_path / "photo.heic", PIL.Image.new("RGB", (64, 48), (200, 30, 30)), file_format)
    image = read_image(path)
    assert (image.width, image.height, image.note) == (64, 48, None)
    assert np.abs(np.frombuffer(image.rgb[:3], np.uint8).astype(int) - (200, 30, 30)).max() < 12


def test_pdf_when_it_has_pages_then_each_is_a_picture_up_to_eight(tmp_path: Path) -> None:
    pages = [PIL.Image.new("RGB", (100, 50), (n, 0, 0)) for n in range(10)]
    pages[0].save(tmp_path / "two.pdf", save_all=True, append_images=pages[1:2], resolution=72)
    read = read_pages(tmp_path / "two.pdf")
    assert [image.note for image in read] == [f"page {n} of 2, drawn at 144 dpi" for n in (1, 2)]
    assert (read[0].width, read[0].height) == (200, 100)
    pages[0].save(tmp_path / "ten.pdf", save_all=True, append_images=pages[1:], resolution=72)
    assert len(read_pages(tmp_path / "ten.pdf", max_pixels=5000)) == 8
    assert read_image(tmp_path / "ten.pdf", max_pixels=5000).width == 100
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 nothing")
    with pytest.raises(BadImage, match=r"bad\.pdf is cut short or damaged"):
        read_image(tmp_path / "bad.pdf")


def test_tiff_when_it_has_pages_then_each_is_a_picture_and_an_animation_is_one(tmp_path: Path) -> None:
    pages = [PIL.Image.new("RGB", (20 + n, 10), (90 * n, 0, 0)) for n in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    frames = [page.resize((20, 10)) for page in pages]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    read = read_pages(tmp_path / "a.tiff")
    assert [(image.width, image.note) for image in read] == [
        (20, "page 1 of 3"),
        (21, "page 2 of 3"),
        (22, "page 3 of 3"),
    ]
    (animation,) = read_pages(tmp_path / "a.webp")
    assert animation.note == "first of 3 frames"


def test_profile_when_it_is_another_than_srgb_then_the_colours_are_converted(tmp_path: Path) -> None:
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    # The same with red and blue exchanged, under another name.
    odd = srgb.replace("sRGB".encode("utf-16-be"), "odd!".encode("utf-16-be"))
    odd = odd.replace(b"rXYZ", b"____", 1).replace(b"bXYZ", b"rXYZ", 1).replace(b"____", b"bXYZ", 1)
    plain = read_image(save(tmp_path / "plain.png", quarters(), "PNG"))
    for name, profile in (("same", srgb), ("broken", b"no profile")):
        image = read_image(save(tmp_path / f"{name}.png", quarters(), "PNG", icc_profile=profile))
        assert (image.sha256, image.note) == (plain.sha256, None)
    for mode in ("RGB", "RGBA"):
        red = PIL.Image.new("RGB", (4, 4), (255, 0, 0)).convert(mode)
        image = read_image(save(tmp_path / f"{mode}.png", red, "PNG", icc_profile=odd))
        assert image.note == "colours converted from odd! built-in to sRGB"
        assert image.rgb[0] < 10
        assert image.rgb[2] > 245


def test_alpha_when_a_white_drawing_is_on_transparent_then_the_note_says_that_it_cannot_be_seen(tmp_path: Path) -> None:
    logo = PIL.Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    logo.paste((255, 255, 255, 255), (2, 2, 6, 6))
    image = read_image(save(tmp_path / "logo.png", logo, "PNG"))
    assert image.note == "transparency laid on white, on which its white drawing cannot be seen"
