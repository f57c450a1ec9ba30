"""Random scenes: what is in an image (frozen values, all answers follow from them), and the image itself.

Coordinates are hundredths of the square that the model sees. An image of another shape is letterboxed into that
square by llama.cpp, so its things lie inside `Scene.frame`. Sizes are relative to the frame's shorter side.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Literal

import numpy
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIZE = 192  # pixels of the model's square, as in model.Config
PAD = (127, 127, 127)  # llama.cpp's letterbox colour for janus_pro

COLOURS = {
    "red": (215, 35, 35),
    "orange": (245, 135, 20),
    "yellow": (245, 215, 40),
    "green": (35, 150, 60),
    "blue": (35, 85, 215),
    "purple": (125, 50, 170),
    "pink": (245, 120, 190),
    "brown": (120, 70, 35),
    "black": (20, 20, 20),
    "white": (246, 246, 246),
}
BACKGROUNDS = {
    "beige": (232, 220, 190),
    "light gray": (200, 200, 200),
    "light green": (185, 230, 180),
    "light blue": (175, 212, 240),
    "lavender": (214, 200, 240),
    "dark gray": (66, 66, 70),
    "dark blue": (24, 34, 84),
    "dark green": (18, 66, 44),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
SIZES = {"small": (0.10, 0.12), "medium": (0.17, 0.20), "large": (0.26, 0.30)}
ROWS, COLUMNS = ("top", "", "bottom"), ("left", "", "right")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDS = (
    "CAT", "DOG", "SUN", "MAP", "BUS", "HAT", "KEY", "CUP", "BOX", "PEN", "ICE", "JAM", "OWL", "FOX", "BEE",
    "EGG", "TEA", "ZOO", "SKY", "NET", "OPEN", "EXIT", "STOP", "TAXI", "CAFE", "BOOK", "FISH", "MOON", "STAR",
    "TREE", "LAMP", "MILK", "RAIN", "SNOW", "WIND", "FIRE", "GOLD", "KITE", "LION", "DUCK", "FROG", "JAZZ",
    "ROBOT", "FLUTE", "TIGER", "ZEBRA", "LEMON", "GRAPE", "HOTEL", "MUSIC", "WATER", "BREAD", "CLOUD", "RIVER",
    "HOUSE", "MOUSE", "TRAIN", "PLANE", "QUICK", "VOWEL", "PYTHON", "BANANA", "ORANGE", "GARDEN", "WINDOW",
    "YELLOW", "MARKET", "BRIDGE", "CASTLE", "JUNGLE", "ROCKET", "SUMMER", "WINTER", "PLANET", "COFFEE", "SILVER",
    "DOCTOR", "SCHOOL", "PARADE", "VIOLET",
)  # fmt: skip
FONTS = (
    ("font_source_sans_pro", "SourceSansPro-Regular.ttf"),
    ("font_source_sans_pro", "SourceSansPro-Bold.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Regular.ttf"),
    ("font_source_serif_pro", "SourceSerifPro-Bold.ttf"),
    ("font_caladea", "Caladea-Regular.ttf"),
    ("font_caladea", "Caladea-BoldItalic.ttf"),
    ("font_manrope", "Manrope-Medium.ttf"),
    ("font_manrope", "Manrope-ExtraBold.ttf"),
    ("font_hanken_grotesk", "HankenGrotesk-Medium.otf"),
    ("font_fredoka_one", "FredokaOne-Regular.ttf"),
)
PLAIN_FONT = 8  # for the numbers of charts and clocks
ASPECTS = {"1:1": 1.0, "4:3": 4 / 3, "3:2": 3 / 2, "16:9": 16 / 9, "3:4": 3 / 4, "2:3": 2 / 3, "9:16": 9 / 16}

Level = Literal["easy", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "hard")
RGB = tuple[int, int, int]
Frame = tuple[float, float, float, float]  # left, top, width, height; hundredths
Box = tuple[int, int, int, int]  # left, top, right, bottom; hundredths, even: finer than that is not asked


def place(row: int, column: int) -> str:
    """The name of a cell of three by three, such as "top left"; the middle column of a row is "top"."""
    return f"{ROWS[row]} {COLUMNS[column]}".strip() or "center"


@dataclass(frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    row: int
    column: int
    box: Box

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    @property
    def place(self) -> str:
        return place(self.row, self.column)


@dataclass(frozen=True)
class Text:
    string: str
    colour: str
    row: int
    centre: tuple[float, float]
    font: int
    height: float  # of the font, hundredths


@dataclass(frozen=True)
class Bar:
    label: str
    colour: str
    value: int


@dataclass(frozen=True)
class Clock:
    hour: int
    minute: int
    colour: str
    centre: tuple[float, float]
    radius: float
    numerals: int  # 0, 4 or 12


@dataclass(frozen=True)
class Look:
    """What nobody asks about: texture, noise, blur. Noise and contrast in grey levels of 255."""

    seed: int
    texture: str = "plain"
    noise: float = 0.0
    contrast: float = 1.0
    blur: float = 0.0
    jpeg: int = 0  # quality; 0: none


@dataclass(frozen=True)
class Scene:
    kind: Literal["shapes", "crowd", "text", "chart", "clock"]
    frame: Frame
    background: str
    look: Look
    things: tuple[Thing, ...] = ()
    text: Text | None = None
    bars: tuple[Bar, ...] = ()
    values_printed: bool = False
    clock: Clock | None = None


def compose(rng: random.Random, level: Level, *, kind: str | None = None, aspect: float | None = None) -> Scene:
    """A random scene. `aspect` is width / height; None takes the square in half of the cases."""
    if kind is None:
        kind = rng.choices(("shapes", "crowd", "text", "chart", "clock"), (32, 14, 27, 15, 12))[0]
    if aspect is None:
        aspect = (
            1.0 if rng.random() < 0.5 else rng.choice((rng.choice(list(ASPECTS.values())), rng.uniform(0.55, 1.85)))
        )
    width, height = (100.0, 100 / aspect) if aspect >= 1 else (100 * aspect, 100.0)
    frame = ((100 - width) / 2, (100 - height) / 2, width, height)
    background = rng.choice(list(BACKGROUNDS))
    look = _look(rng, level)
    if kind == "shapes":
        many = rng.randint(1, 6) if level == "easy" else rng.randint(3, 7)
        things = _things(rng, frame, background, rng.sample(range(9), many))
        return Scene("shapes", frame, background, look, things)
    if kind == "crowd":
        return Scene("crowd", frame, background, look, _crowd(rng, frame, background, level))
    if kind == "text":
        row = rng.randrange(3)
        free = [cell for cell in range(9) if cell // 3 != row]
        many = 0 if rng.random() < 0.6 else rng.randint(1, 3 if level == "easy" else 5)
        things = _things(rng, frame, background, rng.sample(free, many))
        return Scene("text", frame, background, look, things, text=_text(rng, frame, background, row, level))
    if kind == "chart":
        many = rng.randint(3, 5) if level == "easy" else rng.randint(3, 6)
        printed = level == "hard" and rng.random() < 0.65
        pool = list(range(1, 10)) if level == "easy" else list(range(10, 100)) if printed else list(range(10, 96, 5))
        colours = rng.sample(_visible(background), many)
        bars = tuple(Bar(LETTERS[i], colours[i], v) for i, v in enumerate(rng.sample(pool, many)))
        return Scene("chart", frame, background, look, bars=bars, values_printed=printed)
    if kind == "clock":
        short = min(width, height)
        radius = short * rng.uniform(0.36, 0.47)
        x, y = (
            start + rng.uniform(radius + 1, length - radius - 1)
            for start, length in ((frame[0], width), (frame[1], height))
        )
        minute = rng.randrange(60) if level == "hard" else rng.randrange(0, 60, 5)
        face = rng.choice(["white", "yellow", "black", "blue", "red", "green"])
        clock = Clock(rng.randint(1, 12), minute, face, (x, y), radius, rng.choice((0, 4, 12, 12)))
        return Scene("clock", frame, background, look, clock=clock)
    raise ValueError(f"no such kind of scene: {kind}")


def render(scene: Scene, *, detail: int = 2, letterbox: bool = True) -> Image.Image:
    """The scene as an image: in the model's square with the padding of llama.cpp, or (letterbox False) on its own,
    `detail` times as large, as somebody would upload it."""
    rng = random.Random(scene.look.seed)
    left, top, width, height = scene.frame
    scale = SIZE * detail / 100
    # As mtmd_image_preprocessor_fixed_size rounds: sizes up, offsets down.
    inner = (-(-SIZE * width // 100), -(-SIZE * height // 100))
    inner = (min(SIZE, int(inner[0])), min(SIZE, int(inner[1])))
    image = Image.new("RGB", (inner[0] * detail, inner[1] * detail), _shaded(rng, BACKGROUNDS[scene.background], 8))
    draw = ImageDraw.Draw(image)
    _texture(rng, draw, image, scene.look.texture, BACKGROUNDS[scene.background], detail)

    def at(x: float, y: float) -> tuple[float, float]:
        return (x - left) * scale, (y - top) * scale

    for thing in scene.things:
        _draw_shape(
            draw, thing.shape, (*at(*thing.box[:2]), *at(*thing.box[2:])), _shaded(rng, COLOURS[thing.colour], 12)
        )
    if scene.text is not None:
        font = font_of(scene.text.font, round(scene.text.height * scale))
        draw.text(at(*scene.text.centre), scene.text.string, _shaded(rng, COLOURS[scene.text.colour], 12), font, "mm")
    if scene.bars:
        _draw_chart(rng, draw, scene, scale)
    if scene.clock is not None:
        _draw_clock(rng, draw, scene.clock, at(*scene.clock.centre), scale)
    if not letterbox:
        return _worn(rng, image, scene.look)
    image = image.reduce(detail) if rng.random() < 0.95 else image.resize(inner, Image.Resampling.BICUBIC)
    image = _worn(rng, image, scene.look)
    if inner == (SIZE, SIZE):
        return image
    square = Image.new("RGB", (SIZE, SIZE), PAD)
    square.paste(image, ((SIZE - inner[0]) // 2, (SIZE - inner[1]) // 2))
    return square


def _look(rng: random.Random, level: Level) -> Look:
    texture = rng.choice(("plain", "plain", "striped", "dotted", "checked", "gradient"))
    if level == "easy":
        noise = rng.uniform(0, 6) if rng.random() < 0.25 else 0.0
        return Look(rng.getrandbits(32), texture, noise)
    return Look(
        rng.getrandbits(32),
        texture,
        noise=rng.uniform(3, 22) if rng.random() < 0.4 else 0.0,
        contrast=rng.uniform(0.55, 1) if rng.random() < 0.3 else 1.0,
        blur=rng.uniform(0.3, 0.8) if rng.random() < 0.2 else 0.0,
        jpeg=rng.randint(45, 92) if rng.random() < 0.15 else 0,
    )


def _things(rng: random.Random, frame: Frame, background: str, cells: list[int]) -> tuple[Thing, ...]:
    """One thing in each of the given cells (0 ... 8, in reading order)."""
    short = min(frame[2:])
    colours = _visible(background)
    things = []
    for cell in sorted(cells):
        row, column = divmod(cell, 3)
        size = rng.choice(list(SIZES))
        side = _even(short * rng.uniform(*SIZES[size]))
        box = _in_cell(rng, frame, 3, row, column, side)
        things.append(Thing(rng.choice(SHAPES), rng.choice(colours), size, row, column, box))
    return tuple(things)


def _crowd(rng: random.Random, frame: Frame, background: str, level: Level) -> tuple[Thing, ...]:
    """Up to 12 small things of one to four kinds, in a grid of four by four."""
    short = min(frame[2:])
    colours = _visible(background)
    kinds = [(rng.choice(SHAPES), rng.choice(colours)) for _ in range(rng.randint(1, 3 if level == "easy" else 4))]
    many = rng.randint(4, 8) if level == "easy" else rng.randint(6, 12)
    side = max(6, _even(short * rng.uniform(0.09, 0.13)))
    things = []
    for cell in sorted(rng.sample(range(16), many)):
        row, column = divmod(cell, 4)
        shape, colour = rng.choice(kinds)
        things.append(Thing(shape, colour, "small", row, column, _in_cell(rng, frame, 4, row, column, side)))
    return tuple(things)


def _text(rng: random.Random, frame: Frame, background: str, row: int, level: Level) -> Text:
    left, top, width, height = frame
    if level == "easy":
        string = rng.choice(WORDS) if rng.random() < 0.5 else "".join(rng.choices(LETTERS, k=rng.randint(3, 6)))
        size = rng.uniform(24, 40)
    else:
        # In a mixture of letters and digits nobody can tell O from 0 and I from 1.
        alphabet = rng.choice((LETTERS, "0123456789", "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"))
        string = "".join(rng.choices(alphabet, k=rng.randint(3, 9)))
        size = rng.uniform(15, 36)
    if level == "easy" and rng.random() < 0.15:
        string = "".join(rng.choices("0123456789", k=rng.randint(3, 6)))
    font = rng.randrange(len(FONTS))
    tall = min(size * 100 / SIZE, height / 3 * 0.95)
    wide = font_of(font, 64).getlength(string) / 64 * tall
    if wide > width * 0.94:
        tall, wide = tall * width * 0.94 / wide, width * 0.94
    x = left + width / 2 + rng.uniform(-1, 1) * max(0, (width - wide) / 2 - 2)
    y = top + height * (row + 0.5) / 3 + rng.uniform(-1, 1) * max(0, (height / 3 - tall) / 2)
    return Text(string, rng.choice(_visible(background, 150)), row, (x, y), font, tall)


def _draw_chart(rng: random.Random, draw: ImageDraw.ImageDraw, scene: Scene, scale: float) -> None:
    width, height = scene.frame[2] * scale, scene.frame[3] * scale
    dark = sum(BACKGROUNDS[scene.background]) < 300
    ink = (235, 235, 235) if dark else (25, 25, 25)
    grid = (120, 120, 125) if dark else (150, 150, 150)
    highest, tick, step = (9, 3, 1) if scene.bars[0].value < 10 else (100, 50, 10)
    size = max(9 * scale * 100 / SIZE, min(0.075 * height, 13 * scale * 100 / SIZE))
    font = font_of(PLAIN_FONT, round(size))
    x0, x1 = size * (0.9 if highest == 9 else 1.9) + 3 * scale, width - 3 * scale
    y0, y1 = height - 1.5 * size, 3 * scale + (size if scene.values_printed else 0)
    unit = (y0 - y1) / highest
    line = max(1, round(scale * 0.35))
    if not scene.values_printed:
        for value in range(0, highest + 1, step):
            draw.line((x0, y0 - value * unit, x1, y0 - value * unit), grid, line)
    for value in range(0, highest + 1, tick):
        draw.text((x0 - 1.2 * scale, y0 - value * unit), str(value), ink, font, "rm")
    slot = (x1 - x0) / len(scene.bars)
    thick = slot * rng.uniform(0.5, 0.75)
    for i, bar in enumerate(scene.bars):
        middle = x0 + (i + 0.5) * slot
        high = y0 - bar.value * unit
        draw.rectangle((middle - thick / 2, high, middle + thick / 2, y0), _shaded(rng, COLOURS[bar.colour], 12))
        draw.text((middle, y0 + size * 0.75), bar.label, ink, font, "mm")
        if scene.values_printed:
            draw.text((middle, high - size * 0.6), str(bar.value), ink, font, "mm")
    draw.line((x0, y1, x0, y0, x1, y0), ink, 2 * line)


def _draw_clock(
    rng: random.Random, draw: ImageDraw.ImageDraw, clock: Clock, centre: tuple[float, float], scale: float
) -> None:
    x, y = centre
    r = clock.radius * scale
    face = _shaded(rng, COLOURS[clock.colour], 12)
    ink = (245, 245, 245) if sum(face) < 380 else (20, 20, 20)
    draw.ellipse((x - r, y - r, x + r, y + r), face, ink, max(2, round(r * 0.05)))

    def tip(turn: float, length: float) -> tuple[float, float]:
        angle = turn * 2 * numpy.pi
        return x + float(numpy.sin(angle)) * length * r, y - float(numpy.cos(angle)) * length * r

    fine = r / scale * SIZE / 100 > 42  # pixels; closer ticks run into one another
    for tick in range(60 if fine else 12):
        turn = tick / (60 if fine else 12)
        main = not fine or tick % 5 == 0
        draw.line(
            (*tip(turn, 0.95), *tip(turn, 0.86 if main else 0.91)), ink, max(1, round(r * (0.04 if main else 0.015)))
        )
    if clock.numerals:
        font = font_of(PLAIN_FONT, round(r * 0.2))
        for hour in range(12 // clock.numerals, 13, 12 // clock.numerals):
            draw.text(tip(hour / 12, 0.73), str(hour), ink, font, "mm")
    hour = (clock.hour % 12 + clock.minute / 60) / 12
    draw.line((*tip(hour, -0.08), *tip(hour, 0.46)), ink, max(2, round(r * 0.085)))
    draw.line((*tip(clock.minute / 60, -0.1), *tip(clock.minute / 60, 0.83)), ink, max(1, round(r * 0.04)))
    draw.ellipse((x - r * 0.06, y - r * 0.06, x + r * 0.06, y + r * 0.06), ink)


def _polygon(*points: tuple[float, float]) -> numpy.ndarray:
    """Scaled so that it fills the unit square."""
    array = numpy.array(points)
    low, high = array.min(0), array.max(0)
    return (array - low) / (high - low)


_TURNS = numpy.arange(10) * numpy.pi / 5
_RADII = numpy.where(numpy.arange(10) % 2, 0.4, 1.0)
_T = numpy.linspace(0, 2 * numpy.pi, 40)
_OUTLINES = {
    "square": _polygon((0, 0), (1, 0), (1, 1), (0, 1)),
    "triangle": _polygon((0.5, 0), (1, 1), (0, 1)),
    "diamond": _polygon((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
    "star": _polygon(*zip(numpy.sin(_TURNS) * _RADII, -numpy.cos(_TURNS) * _RADII, strict=True)),
    "cross": _polygon(
        *((0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67)),
        *((0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)),
    ),
    "heart": _polygon(
        *zip(
            numpy.sin(_T) ** 3,
            -(13 * numpy.cos(_T) - 5 * numpy.cos(2 * _T) - 2 * numpy.cos(3 * _T) - numpy.cos(4 * _T)) / 16,
            strict=True,
        )
    ),
}


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, box: tuple[float, float, float, float], fill: RGB) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        draw.ellipse(box, fill)
    elif shape == "ring":
        draw.ellipse(box, None, fill, round((right - left) * 0.22))
    else:
        points = _OUTLINES[shape] * (right - left, bottom - top) + (left, top)
        draw.polygon(points.ravel().tolist(), fill)


def _texture(
    rng: random.Random, draw: ImageDraw.ImageDraw, image: Image.Image, texture: str, colour: RGB, detail: int
) -> None:
    if texture == "plain":
        return
    width, height = image.size
    other = _shaded(rng, colour, 4, rng.choice((-16, 14)))
    step = rng.randint(9, 18) * detail
    if texture == "striped":
        slant = rng.choice((0, width, 2 * width))
        for x in range(-2 * width, 2 * width, step):
            draw.line((x, 0, x + slant, height), other, step // 2)
    elif texture == "dotted":
        for y in range(step // 2, height, step):
            for x in range(step // 2, width, step):
                draw.ellipse((x, y, x + step // 3, y + step // 3), other)
    elif texture == "checked":
        for row, y in enumerate(range(0, height, step)):
            for x in range(step * (row % 2), width, 2 * step):
                draw.rectangle((x, y, x + step, y + step), other)
    else:
        slope = Image.linear_gradient("L").resize(image.size, Image.Resampling.NEAREST)
        image.paste(Image.new("RGB", image.size, _shaded(rng, colour, 4, rng.choice((-22, 18)))), mask=slope)


def _worn(rng: random.Random, image: Image.Image, look: Look) -> Image.Image:
    """Blur, contrast, noise and JPEG, in this order."""
    if look.blur:
        image = image.filter(ImageFilter.GaussianBlur(look.blur * image.width / SIZE))
    if look.contrast < 1 or look.noise:
        pixels = numpy.asarray(image, numpy.float32)
        if look.contrast < 1:
            pixels = 128 + (pixels - 128) * look.contrast
        if look.noise:
            bank = _noise()
            height, width = pixels.shape[:2]
            tiles = -(-max(height, width) // (bank.shape[0] // 2))
            x, y = rng.randrange(bank.shape[0] // 2), rng.randrange(bank.shape[0] // 2)
            bank = bank if tiles == 1 else numpy.tile(bank, (tiles, tiles, 1))
            pixels = pixels + bank[y : y + height, x : x + width] * look.noise
        image = Image.fromarray(pixels.clip(0, 255).astype(numpy.uint8))
    if look.jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=look.jpeg)
        image = Image.open(buffer).convert("RGB")
    return image


@lru_cache
def _noise() -> numpy.ndarray:
    """Normal noise to cut from: making it anew for each image would take longer than drawing."""
    return numpy.random.default_rng(0).standard_normal((512, 512, 3), numpy.float32)


@lru_cache(maxsize=2048)
def font_of(number: int, pixels: int) -> ImageFont.FreeTypeFont:
    package, name = FONTS[number]
    return ImageFont.truetype(str(files(package) / "files" / name), max(4, pixels))


def _shaded(rng: random.Random, colour: RGB, spread: int, shift: int = 0) -> RGB:
    red, green, blue = (min(255, max(0, c + shift + rng.randint(-spread, spread))) for c in colour)
    return red, green, blue


def _visible(background: str, least: float = 105) -> list[str]:
    """The colours that are far enough from a background's, in RGB."""
    ground = BACKGROUNDS[background]
    return [c for c, rgb in COLOURS.items() if sum((x - y) ** 2 for x, y in zip(rgb, ground, strict=True)) > least**2]


def _even(value: float) -> int:
    return 2 * round(value / 2)


def _in_cell(rng: random.Random, frame: Frame, grid: int, row: int, column: int, side: int) -> Box:
    """A random square box in a cell of grid by grid."""
    left, top, width, height = frame
    x = _within(rng, left + column * width / grid, width / grid, side)
    y = _within(rng, top + row * height / grid, height / grid, side)
    return x, y, x + side, y + side


def _within(rng: random.Random, start: float, length: float, side: int) -> int:
    """A random even place for a side in a cell, one hundredth away from the cell's edges."""
    low, high = -(-(start + 1) // 2), (start + length - 1 - side) // 2
    return 2 * int(rng.randint(int(low), int(high)) if high >= low else round((start + (length - side) / 2) / 2))
