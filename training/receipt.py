"""Draws the receipt of a first visitor's notebook: a picture that looks like work, which the embedded pair can read.

The pair was trained on drawn scenes and never saw a receipt; it reads the one large number on it. SHOWN was chosen
among the first SEEDS, since low bits change one digit of its total. Written again by
`python -m training.receipt playground/data/tiny-vlm`. With `--questions`, all of them are written as a question set:
`python -m playground accuracy --items FOLDER -n 200` then counts what the first notebook says of them.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from training.scenes import FONTS, font_of

GOODS = ("TEA", "RICE", "SOAP", "MILK", "BREAD", "OIL", "EGGS", "SALT", "FISH", "BEANS")
TABLES = ((58, 62, 70), (120, 92, 70), (46, 60, 84), (90, 90, 96))
PAPER, INK, FAINT, RULE = (250, 248, 240), (40, 42, 48), (150, 150, 150), (120, 120, 120)
SHOWN, SEEDS = 73, 200
SIZES = ((288, 288), (240, 320), (288, 384))


def draw(seed: int) -> tuple[PIL.Image.Image, str]:
    """A receipt on a table, and its total: the sum of its prices, in whole units, since the pair knows no decimals."""
    rng = random.Random(seed)
    width, height = rng.choice(SIZES)
    image = PIL.Image.new("RGB", (width, height), rng.choice(TABLES))
    canvas = PIL.ImageDraw.Draw(image)
    left, top, right, bottom = int(width * 0.08), int(height * 0.05), int(width * 0.92), int(height * 0.95)
    canvas.rectangle((left, top, right, bottom), fill=PAPER)
    small, y = font_of(0, 12), top + 14
    prices = [rng.randint(40, rng.choice((400, 4000, 20000))) for _ in range(4)]
    for name, price in zip(rng.sample(GOODS, 4), prices, strict=True):
        canvas.text((left + 12, y), name, font=small, fill=FAINT)
        canvas.text((right - 12 - canvas.textlength(str(price), font=small), y), str(price), font=small, fill=FAINT)
        y += 18
    canvas.line((left + 10, y + 4, right - 10, y + 4), fill=RULE)
    total = str(sum(prices))
    number, pixels = rng.randrange(len(FONTS)), rng.choice((44, 52, 60))
    while canvas.textlength(total, font=font_of(number, pixels)) > right - left - 20:
        pixels -= 2
    font = font_of(number, pixels)
    canvas.text(((width - canvas.textlength(total, font=font)) / 2, int(height * 0.62)), total, font=font, fill=INK)
    return image, total


def questions(folder: Path) -> None:
    """All receipts, with the question of the first notebook."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for seed in range(SEEDS):
        image, total = draw(seed)
        image.save(folder / f"{seed}.png")
        row = {"image": f"{seed}.png", "question": "What does the text say?", "answers": [total], "rule": "exact"}
        lines.append(json.dumps(row))
    (folder / "items.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[-1])
    if "--questions" in sys.argv:
        questions(target)
    else:
        draw(SHOWN)[0].save(target / "receipt.png", optimize=True)
