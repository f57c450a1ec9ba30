"""Accuracies of a checkpoint in PyTorch, on thousands of fresh images: `python -m training.measure CHECKPOINT`.

An answer counts if it is right to the last character. It is not written but checked: all of its tokens are the most
likely ones after the right ones before, which is when greedy decoding writes that answer. What the exported pair
does in llama.cpp is what evaluate.py measures.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer

from training import tokenizer
from training.model import Config, VisionLanguageModel, as_input
from training.questions import CATEGORIES, Question, iou, questions, unseen
from training.rows import NO_TARGET, Rows, pack
from training.scenes import ASPECTS, compose, render

CONDITIONS = ("easy", "easy 4:3", "easy 3:2", "easy 16:9", "hard", "unseen")
BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", type=int, default=2048, help="for each condition")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    saved = torch.load(arguments.checkpoint, map_location=device, weights_only=True)
    model = VisionLanguageModel(Config(**saved["config"])).to(device).eval()
    model.load_state_dict(saved["model"])
    words = Tokenizer.from_file(str(tokenizer.FILE))
    table: dict[str, dict[str, tuple[int, int]]] = {}
    overlaps: dict[str, list[float]] = defaultdict(list)
    with ProcessPoolExecutor(arguments.workers) as pool:
        for condition in CONDITIONS:
            counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
            numbers = range(arguments.images // BATCH)
            for rows, asked in pool.map(partial(fresh, condition), numbers):
                for (row, block), best, right in answers(model, rows, device):
                    question = asked[row][block - 1]
                    counted[question.category][0] += right
                    counted[question.category][1] += 1
                    if question.category == "box":
                        overlaps[condition].append(iou(words.decode(best[:-1]), question.answer))
            table[condition] = {c: (counted[c][0], counted[c][1]) for c in CATEGORIES}
    print(f"| category | {' | '.join(CONDITIONS)} |\n|---|{'---|' * len(CONDITIONS)}")
    for category in CATEGORIES:
        cells = (table[c][category] for c in CONDITIONS)
        print(f"| {category} | {' | '.join(f'{r / n:.4f} ({n})' if n else '' for r, n in cells)} |")
    means = {c: round(sum(v) / len(v), 4) for c, v in overlaps.items() if v}
    print(f"| box: mean IoU | {' | '.join(str(means.get(c, '')) for c in CONDITIONS)} |")
    print(json.dumps({"exact": table, "iou": means, "step": saved["step"], "seconds": saved["seconds"]}))


def fresh(condition: str, number: int) -> tuple[Rows, list[list[Question]]]:
    """A batch of images that training never sees (its seeds begin with "train"), with the questions of each."""
    rng = random.Random(f"measure {condition} {number}")
    level, _, shape = condition.partition(" ")
    items, asked = [], []
    for i in range(BATCH):
        aspect = None if level == "hard" else ASPECTS[shape or "1:1"]
        scene = compose(rng, "hard" if level == "hard" else "easy", aspect=aspect)
        if condition == "unseen":  # two of the ten phrasings of a category for each image
            mine = [q for category in CATEGORIES for q in list(unseen(scene, rng, category))[i % 5 :: 5]]
            rng.shuffle(mine)
        else:
            mine = questions(scene, rng, 24)
        items.append((render(scene), [[q] for q in mine]))
        asked.append(mine)
    return pack(items, tokenizer.encoder()), asked


@torch.no_grad()
def answers(model: VisionLanguageModel, rows: Rows, device: str) -> list[tuple[tuple[int, int], list[int], bool]]:
    """For each (row, block): the most likely tokens of its answer, and whether all of them are right."""
    tensors = (torch.from_numpy(a).to(device) for a in (rows.images, rows.tokens, rows.blocks, rows.positions))
    images, tokens, blocks, positions = tensors
    best = model(as_input(images), tokens, blocks, positions).argmax(-1).cpu().numpy()
    results = []
    for row in range(len(best)):
        targeted = rows.targets[row] != NO_TARGET
        for block in sorted(set(rows.blocks[row][targeted].tolist())):
            of_block = targeted & (rows.blocks[row] == block)
            right = bool((best[row][of_block] == rows.targets[row][of_block]).all())
            results.append(((row, block), best[row][of_block].tolist(), right))
    return results


if __name__ == "__main__":
    main()
