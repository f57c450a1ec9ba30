"""Writes the frozen evaluation set: `python -m training.freeze --out playground/data/tiny-vlm/evaluation`.

PNG images and items.jsonl, one line for each question: {"image", "level", "category", "question", "answer"}. The seed
begins with a word that training's seeds do not begin with, so no image of it was ever trained on. Made once; made
again, it is the same up to Pillow's and FreeType's versions.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from pathlib import Path

from training.questions import CATEGORIES, questions
from training.scenes import ASPECTS, LEVELS, Level, compose, render

KINDS = {"ocr": ("text",), "chart": ("chart",), "clock": ("clock",)}
OTHERS = ("shapes", "shapes", "shapes", "crowd")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=15, help="questions of a category on each level")
    parser.add_argument("--seed", default="freeze", help="any word but train: another set, to measure more")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(item) for level in LEVELS for item in _items(level, arguments.each, arguments.seed, out)]
    (out / "items.jsonl").write_text("\n".join(lines) + "\n")
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{len(lines)} questions, {len(list(out.glob('*.png')))} images, {size / 1e6:.2f} MB")


def _items(level: Level, each: int, seed: str, out: Path) -> list[dict[str, str]]:
    rng = random.Random(f"{seed} {level}")
    remaining = dict.fromkeys(CATEGORIES, each)
    items: list[dict[str, str]] = []
    number = 0
    while any(remaining.values()):
        category = max(CATEGORIES, key=lambda c: (remaining[c], c not in KINDS))
        # Every fourth image has another shape and twice the pixels: llama.cpp scales and letterboxes it.
        shape = rng.choice([name for name in ASPECTS if name != "1:1"]) if number % 4 == 3 else "1:1"
        scene = compose(rng, level, kind=rng.choice(KINDS.get(category, OTHERS)), aspect=ASPECTS[shape])
        if number % 5:  # noise makes a PNG ten times as large
            scene = dataclasses.replace(scene, look=dataclasses.replace(scene.look, noise=0, jpeg=0))
        drawn = {}
        for question in questions(scene, rng, 100):
            if remaining[question.category] and question.category not in drawn:
                drawn[question.category] = question
        if category not in drawn:
            continue
        number += 1
        name = f"{level}-{number:02}.png"
        render(scene, letterbox=shape == "1:1").save(out / name, optimize=True)
        for chosen in sorted(drawn, key=lambda c: -remaining[c])[:3]:
            remaining[chosen] -= 1
            question = drawn[chosen]
            items.append({"image": name, "level": level, **dataclasses.asdict(question)})
    return items


if __name__ == "__main__":
    main()
