"""Reads a long image in the batches of a CPU and in those of a GPU; prints their sizes and how the logits compare.

`python -m testkit.prompt_child MODEL`. A process of its own: llama_cpp has to be imported before numpy.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event

from llama_cpp import llama_cpp as C

from playground.engine import loading, scoring
from playground.engine.language import LanguageModel
from playground.engine.protocol import EncodedPrompt, ImageChunk, Score, TextChunk
from playground.values.request import Runtime

RUNTIME = Runtime(n_ctx=1024, n_threads=1)


def prompt(model: LanguageModel, seed: int) -> EncodedPrompt:
    rng, n = random.Random(seed), 600
    embeddings = array("f", [rng.gauss(0, 1) for _ in range(n * model.n_embd)]).tobytes()
    image = ImageChunk(0, f"image {seed}", n, n, False, b"", embeddings)
    return EncodedPrompt((TextChunk((seed, 31, 32)), image, TextChunk((33, 34))), model.n_embd, "", 0.0, 0.0)


@contextmanager
def batches(model: LanguageModel) -> Iterator[list[int]]:
    """The sizes of the batches that are decoded meanwhile."""
    model.prepare(RUNTIME)
    context = model._context
    assert context is not None
    sizes: list[int] = []
    decode = context._decode
    context._decode = lambda batch, cancelled=None: (sizes.append(batch.n_tokens), decode(batch, cancelled))[1]  # type: ignore[method-assign]
    yield sizes
    context._decode = decode  # type: ignore[method-assign]


def read(model: LanguageModel, prompt: EncodedPrompt) -> tuple[list[float], list[int]]:
    with batches(model) as sizes:
        context = model._context
        assert context is not None
        context.read(prompt, Event())
    return C.llama_get_logits_ith(context.handle, -1)[: model.vocabulary.n_tokens], sizes


def main() -> None:
    loading.start()
    cpu, gpu = (LanguageModel(sys.argv[1], n_gpu_layers=0) for _ in range(2))
    gpu.on_gpu = True
    first, cpu_sizes = read(cpu, prompt(cpu, 1))
    read(cpu, prompt(cpu, 2))
    again, _ = read(cpu, prompt(cpu, 1))
    whole, gpu_sizes = read(gpu, prompt(gpu, 1))
    with batches(cpu) as answer_sizes:
        scoring.score(cpu, Score(prompt(cpu, 1), tuple(range(70)), RUNTIME), cancelled=Event())
    print(
        json.dumps(
            {
                "cpu": cpu_sizes,
                "gpu": gpu_sizes,
                "answer": answer_sizes,
                "same_again": again == first,
                "difference": max(abs(a - b) for a, b in zip(first, whole, strict=True)),
                "spread": max(first) - min(first),
            }
        )
    )


if __name__ == "__main__":
    main()
