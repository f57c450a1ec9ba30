"""The speed test: one variant alone on the machine, its picture encoded afresh, nothing of the prompt cached."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec
import numpy

from playground.comparing import prompts
from playground.engine import protocol
from playground.measuring.results import Speed
from playground.measuring.steps import Item, Steps
from playground.pool.handles import Lease
from playground.pool.worker_spec import language_spec, vision_spec
from playground.values.files import Variant

QUESTIONS = 5


@dataclass(frozen=True, slots=True)
class Timing:
    """One question."""

    encode_s: float | None
    finished: protocol.Finished
    bytes: int | None  # of both workers


def timed(steps: Steps, variant: Variant, item: Item) -> Timing:
    pool, stop = steps.lab.pool, steps.stop
    messages = [protocol.ChatMessage("user", item.question.question, 1)]
    sizes: list[int | None] = []

    def weigh(lease: Lease) -> None:
        rss, gpu = pool.worker_bytes(lease.pid)
        sizes.append(gpu if pool.on_gpu else rss)

    vision = vision_spec(variant.projector, variant.model, steps.runtime)
    language = language_spec(variant.model, steps.runtime)
    with pool.turn([vision, language], stop=stop) as slot:
        with slot.lease(vision, stop=stop) as lease:
            template = variant.chat_template
            prompt, _ = prompts.encode(lease, None, variant.projector, messages, [item.image], template, stop)
            weigh(lease)
        with slot.lease(language, stop=stop) as lease:
            finished = lease.request(protocol.Generate(_unseen(prompt), steps.sampling, steps.runtime), stop=stop)
            weigh(lease)
    known = [size for size in sizes if size is not None]
    return Timing(prompt.encode_s, finished, sum(known) if len(known) == len(sizes) else None)


def speed(timings: Sequence[Timing]) -> Speed:
    def median(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(numpy.median(known)) if len(known) == len(timings) else None

    decoded = [(t.finished.generated_tokens - 1, t.finished.decode_s) for t in timings]
    seconds = math.fsum(s for _, s in decoded if s is not None)
    return Speed(
        questions=len(timings),
        tokens_per_second=sum(n for n, s in decoded if s is not None) / seconds if seconds else None,
        encode_s=median(t.encode_s for t in timings),
        prompt_s=median(t.finished.prompt_s for t in timings),
        first_token_s=median(_sum(t.encode_s, t.finished.first_token_s) for t in timings),
        bytes=max((t.bytes for t in timings if t.bytes is not None), default=None),
    )


def _unseen(prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
    """With pictures of which no key-value cache holds anything."""
    chunks = (
        msgspec.structs.replace(c, key=os.urandom(8).hex()) if isinstance(c, protocol.ImageChunk) else c
        for c in prompt.chunks
    )
    return msgspec.structs.replace(prompt, chunks=tuple(chunks))


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
