"""The byte-level BPE of the pair, as llama.cpp's pre-tokenizer `smollm`: digits one by one, then GPT-2's pattern.

`python -m training.tokenizer` writes tokenizer.json anew. The strings that are read from images are kept out of the
text it is made from, so their capitals stay single tokens and each character is one step of the answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from training.model import Config
from training.phrases import phrasings
from training.questions import facts
from training.scenes import compose

FILE = Path(__file__).with_name("tokenizer.json")
SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")  # the first tokens, in this order
PADDING, USER, ASSISTANT, END = range(4)


Encode = Callable[[str], list[int]]


def encoder() -> Encode:
    """Text to token ids, remembered: questions come again and again."""
    tokenizer = Tokenizer.from_file(str(FILE))

    @lru_cache(maxsize=200_000)
    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return encode


def train(seed: int = 0, scenes: int = 4000) -> Tokenizer:
    """Made from phrasings and answers of `scenes` random scenes."""
    rng = random.Random(seed)
    texts = [text for templates in phrasings("trained").values() for same in templates for text in same]
    for _ in range(scenes):
        scene = compose(rng, rng.choice(("easy", "hard")))
        strings = {scene.text.string} if scene.text else set()
        for fact in facts(scene, rng):
            if fact.category not in ("ocr", "chart", "clock", "box"):
                words = (w for w in f"{fact.answer} {' '.join(fact.slots.values())}".split(" ") if w not in strings)
                texts.append(" ".join(words))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=Config().vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return tokenizer


if __name__ == "__main__":
    made = train()
    made.save(str(FILE))
    print(f"{made.get_vocab_size()} tokens in {FILE.name}")
