"""Answers prompts that are all there when the batch begins, and each one alone; prints the answers and the batches.

`python -m testkit.batch_child MODEL PICTURE:WORDS ...`: each prompt has an image of 40 tokens, made of noise by the
picture's number, and so many tokens of text behind it. A process of its own: llama_cpp has to be imported before numpy.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from queue import SimpleQueue
from threading import Event

from playground.engine import loading
from playground.engine.batch import Batch
from playground.engine.language import LanguageModel
from playground.engine.protocol import (
    BatchMessage,
    Chunk,
    CloseBatch,
    EncodedPrompt,
    ImageChunk,
    Join,
    OpenBatch,
    Reply,
    SequenceChunk,
    TextChunk,
)
from playground.values.request import Runtime, Sampling

N_IMAGE, N_ANSWER, N_CTX = 40, 6, 1024
SAMPLING = Sampling(max_tokens=N_ANSWER)


def prompt(model: LanguageModel, place: int, picture: int, words: int) -> EncodedPrompt:
    rng = random.Random(picture)
    embeddings = array("f", [rng.gauss(0, 1) for _ in range(N_IMAGE * model.n_embd)]).tobytes()
    image = ImageChunk(0, f"image {picture}", N_IMAGE, N_IMAGE, False, b"", embeddings)
    text = TextChunk(tuple(40 + (place + i) % 300 for i in range(words)))
    return EncodedPrompt((TextChunk((30, 31, 32)), image, text), model.n_embd, "", 0.0, 0.0)


def alone(model: LanguageModel, prompt: EncodedPrompt) -> list[int]:
    chunks: list[Chunk] = []
    model.generate(prompt, SAMPLING, Runtime(n_ctx=N_CTX, n_threads=1), cancelled=Event(), send=chunks.append)
    return [token for chunk in chunks for token in chunk.token_ids]


def main() -> None:
    path, *places = sys.argv[1:]
    loading.start()
    model = LanguageModel(path, n_gpu_layers=0)
    prompts = [prompt(model, k, *map(int, place.split(":"))) for k, place in enumerate(places)]
    expected = [alone(model, one) for one in prompts]
    inbox: SimpleQueue[BatchMessage] = SimpleQueue()
    for k, one in enumerate(prompts):
        inbox.put(Join(k, one, SAMPLING))
    inbox.put(CloseBatch())
    answers: dict[int, list[int]] = {k: [] for k in range(len(prompts))}

    def send(reply: Reply) -> None:
        if isinstance(reply, SequenceChunk):
            answers[reply.id] += reply.chunk.token_ids

    runtime = Runtime(n_ctx=N_CTX * len(prompts), n_threads=1)
    ended = Batch(model, OpenBatch(runtime, len(prompts), None, 0, False), inbox, Event(), send).run()
    found = {"equal": [*answers.values()] == expected, "steps": ended.steps, "prefix_batches": ended.prefix_batches}
    print(json.dumps(found | {"answered": [len(ids) for ids in answers.values()]}))


if __name__ == "__main__":
    main()
