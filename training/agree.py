"""What PyTorch answers, for `training.compare_gguf` to hold llama.cpp's answers against. Computed in F32.

`python -m training.agree CHECKPOINT --out FILE.jsonl` asks 200 fresh questions and saves their images beside FILE;
with `--items FOLDER` it asks those of an evaluation set, whose images stay where they are.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor

from training.export import Checkpoint, ExportError, read_checkpoint
from training.model import VisionLanguageModel, as_input
from training.questions import Question, questions
from training.scenes import LEVELS, compose, render
from training.tokenizer import ASSISTANT, END, FILE, USER

MAX_TOKENS = 128
TOP = 5


@dataclass(frozen=True)
class Answer:
    """A greedy answer without its end token."""

    tokens: tuple[int, ...]
    top: tuple[tuple[int, float], ...]  # the likeliest first tokens: id, natural logarithm of the probability
    margins: tuple[float, ...]  # by how much each choice (the end too) was likelier than the second one, in logarithms


def load(checkpoint: Checkpoint) -> VisionLanguageModel:
    """The network as it was trained."""
    model = VisionLanguageModel(checkpoint.config)
    model.load_state_dict(checkpoint.state)
    model.eval()
    return model


def pixels(image: Image.Image, size: int) -> Tensor:
    """(1, 3, size, size) in -1 ... 1. Raises ValueError for an image of another size: llama.cpp would resize it."""
    if image.size != (size, size):
        raise ValueError(f"The image is {image.width} x {image.height}, not {size} x {size}.")
    return as_input(torch.from_numpy(np.array(image.convert("RGB")))[None])


def greedy(model: VisionLanguageModel, image: Image.Image, prompt: Sequence[int], guess: Sequence[int] = ()) -> Answer:
    """Answer `prompt`, the tokens behind the image with the assistant's last.

    Nothing is kept between two runs of the network; but one run goes on as far as `guess` foretells its choices, so
    that a right guess costs one run instead of one for each token. A wrong guess changes nothing.
    """
    tokens: list[int] = []
    margins: list[float] = []
    top: tuple[tuple[int, float], ...] = ()
    embed = model.lm.token_embd
    with torch.inference_mode():
        seen = model.v(pixels(image, model.config.image_size))
        head = torch.cat([embed(torch.tensor([[USER]])), seen, embed(torch.tensor([list(prompt)]))], 1)
        while True:
            text = torch.tensor([[*tokens, *guess]], dtype=torch.long)
            x = torch.cat([head, embed(text)], 1)
            n = x.shape[1]
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            logits = model.lm(x, torch.arange(n)[None], mask)[0, n - len(guess) - 1 :]
            values, ids = logits.log_softmax(-1).topk(TOP)
            top = top or tuple(zip(ids[0].tolist(), values[0].tolist(), strict=True))
            for foretold, token, lead in zip(
                [*guess, None], ids[:, 0].tolist(), values[:, 0] - values[:, 1], strict=True
            ):
                margins.append(float(lead))
                guess = guess[1:]
                if token != END:
                    tokens.append(token)
                if token == END or len(tokens) == MAX_TOKENS:
                    return Answer(tuple(tokens), top, tuple(margins))
                if token != foretold:
                    break


@dataclass(frozen=True)
class Item:
    file: str  # of the image, in the folder of images
    image: Image.Image
    question: Question


def answered(model: VisionLanguageModel, tokenizer: Tokenizer, item: Item) -> dict[str, Any]:
    """A line of the file."""
    prompt = [*tokenizer.encode(item.question.question, add_special_tokens=False).ids, ASSISTANT]
    truth = tokenizer.encode(item.question.answer, add_special_tokens=False).ids
    answer = greedy(model, item.image, prompt, guess=truth)
    return asdict(item.question) | {
        "image": item.file,
        "torch_prompt": prompt,
        "torch_answer": tokenizer.decode(list(answer.tokens)),
        "torch_tokens": answer.tokens,
        "torch_top": [(token, round(value, 5)) for token, value in answer.top],
        "torch_margins": [round(margin, 3) for margin in answer.margins],
    }


def fresh(seed: int, folder: Path) -> Iterator[Item]:
    """One question about each of endless new images, easy and hard ones in turn; the images are saved."""
    rng = random.Random(f"agree {seed}")
    for number in count():
        scene = compose(rng, LEVELS[number % 2])
        item = Item(f"{number:04}.png", render(scene), questions(scene, rng, 1)[0])
        item.image.save(folder / item.file)
        yield item


def frozen(folder: Path, size: int) -> Iterator[Item]:
    """The items of an evaluation set whose images are of the model's own size."""
    for line in (folder / "items.jsonl").read_text(encoding="utf-8").splitlines():
        item = json.loads(line)
        image = Image.open(folder / item["image"])
        if image.size == (size, size):
            yield Item(item["image"], image, Question(item["category"], item["question"], item["answer"]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m training.agree", description="Write down PyTorch's answers.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="file to write, .jsonl")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1, help="of fresh images")
    parser.add_argument("--items", type=Path, help="folder of an evaluation set, to ask its questions instead")
    arguments = parser.parse_args()
    try:
        checkpoint = read_checkpoint(arguments.checkpoint)
    except ExportError as error:
        print(error, file=sys.stderr)
        return 1
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    if arguments.items:
        items = frozen(arguments.items, checkpoint.config.image_size)
    else:
        items = fresh(arguments.seed, arguments.out.parent)
    model, tokenizer = load(checkpoint), Tokenizer.from_file(str(FILE))
    with open(arguments.out, "w", encoding="utf-8") as file:
        for item in islice(items, arguments.questions):
            file.write(json.dumps(answered(model, tokenizer, item)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
