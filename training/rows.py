"""Rows to train and to measure on: one image, and many questions that share its tokens but do not see one another.

The layout is that of model.VisionLanguageModel.forward. Packing about 19 questions behind one image is what makes
20 minutes of one GPU enough: the image is encoded and read once for all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy
from PIL import Image

from training.model import Config
from training.questions import Question, questions
from training.scenes import SIZE, compose, render
from training.tokenizer import ASSISTANT, END, PADDING, USER, Encode

TEXT = 383  # text tokens of a row; with the user token and the image's 144 tokens, 528
NO_TARGET = -100


@dataclass(frozen=True)
class Rows:
    """Arrays of a batch: images uint8 (batch, size, size, 3), tokens (batch, 1 + n), the others (batch, n)."""

    images: numpy.ndarray
    tokens: numpy.ndarray
    targets: numpy.ndarray
    blocks: numpy.ndarray
    positions: numpy.ndarray


def training_rows(seed: int, index: int, size: int, encode: Encode) -> Rows:
    """Batch number `index` of the endless training data: the same for the same seed."""
    rng = random.Random(f"train {seed} {index}")
    items = []
    for _ in range(size):
        scene = compose(rng, "easy" if rng.random() < 0.45 else "hard")
        items.append((render(scene), _turns(rng, questions(scene, rng, 24))))
    return pack(items, encode)


def _turns(rng: random.Random, questions: list[Question]) -> Iterator[list[Question]]:
    """Mostly single questions, sometimes a conversation of two or three."""
    while questions:
        n = rng.choices((1, 2, 3), (80, 15, 5))[0]
        yield questions[:n]
        questions = questions[n:]


def pack(items: Iterable[tuple[Image.Image, Iterable[list[Question]]]], encode: Encode) -> Rows:
    """Images with conversations. A conversation that no longer fits into its row is left out."""
    items = list(items)
    size, first = len(items), Config().image_tokens + 1
    rows = Rows(
        numpy.empty((size, SIZE, SIZE, 3), numpy.uint8),
        numpy.full((size, 1 + TEXT), PADDING, numpy.int32),
        numpy.full((size, TEXT), NO_TARGET, numpy.int32),
        numpy.full((size, TEXT), -1, numpy.int32),
        numpy.zeros((size, TEXT), numpy.int32),
    )
    rows.tokens[:, 0] = USER
    counting = numpy.arange(first, first + TEXT)
    for row, (image, conversations) in enumerate(items):
        rows.images[row] = numpy.asarray(image)
        used = 0
        for number, conversation in enumerate(conversations, 1):
            ids: list[int] = []
            answers: list[tuple[int, int]] = []
            for turn in conversation:
                ids += [*([USER] if ids else []), *encode(turn.question), ASSISTANT]
                answer = encode(turn.answer)
                answers.append((len(ids), len(ids) + len(answer) + 1))
                ids += [*answer, END]
            end = used + len(ids)
            if end > TEXT:
                continue
            rows.tokens[row, 1 + used : 1 + end] = ids
            rows.blocks[row, used:end] = number
            rows.positions[row, used:end] = counting[: len(ids)]
            for start, stop in answers:
                rows.targets[row, used + start - 1 : used + stop - 1] = ids[start:stop]
            used = end
    return rows
