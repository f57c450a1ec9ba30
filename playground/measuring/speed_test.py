"""The speed test: rounds in which every variant takes its turn, alone on the machine.

Each pass encodes its picture afresh, reads a prompt of which nothing is cached, and writes a fixed number of tokens.
The first round warms up and is thrown away; every other round goes through the variants backwards, so that a machine
that gets slower or faster favours none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec

from playground.comparing import prompts
from playground.engine import protocol
from playground.measuring.results import Speed
from playground.measuring.statistics import Interval
from playground.measuring.steps import Item, Steps
from playground.pool.handles import Lease
from playground.pool.worker_spec import language_spec, vision_spec
from playground.values.files import Variant
from playground.values.request import Sampling

ROUNDS = 6  # the first one is thrown away
_TOKENS = 64  # of each pass; the end of the answer is ignored


@dataclass(frozen=True, slots=True)
class Timing:
    """One pass."""

    encode_s: float | None
    finished: protocol.Finished
    bytes: int | None  # of both workers

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens behind the first one."""
        behind, seconds = self.finished.generated_tokens - 1, self.finished.decode_s
        return behind / seconds if seconds and behind > 0 else None


def timed(steps: Steps, variant: Variant, item: Item) -> Timing:
    pool, stop = steps.lab.pool, steps.stop
    sizes: list[int | None] = []

    def weigh(lease: Lease) -> None:
        rss, gpu = pool.worker_bytes(lease.pid)
        sizes.append(gpu if pool.on_gpu else rss)

    runtime = steps.runtime_of(variant)
    vision = vision_spec(variant.projector, variant.model, runtime, [item.image])
    language = language_spec(variant.model, runtime)  # sized when the prompt is known
    with pool.turn([vision, language], stop=stop) as slot:
        with slot.lease(vision, stop=stop) as lease:
            text, image = item.question.question, item.image
            prompt = prompts.encode_one(lease, None, variant, runtime, text, image, steps.form, stop)
            weigh(lease)
        with slot.lease(steps.language(variant, prompt, _TOKENS), stop=stop) as lease:
            sampling = Sampling(max_tokens=_TOKENS)
            request = protocol.Generate(_unseen(prompt), sampling, steps.settled(variant), ignore_end=True)
            finished = lease.request(request, stop=stop)
            weigh(lease)
    known = [size for size in sizes if size is not None]
    return Timing(prompt.encode_s, finished, sum(known) if len(known) == len(sizes) else None)


def speed(timings: Sequence[Timing], reference: Sequence[Timing] | None) -> Speed:
    """Of a variant's passes without the first round. `reference`: the reference's; None: this is the reference."""

    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return median(known) if len(known) == len(timings) and known else None

    rates = [timing.tokens_per_second for timing in timings]
    known = [rate for rate in rates if rate is not None]
    whole = len(known) == len(rates) and bool(known)
    return Speed(
        questions=len(timings),
        tokens_per_second=middle(rates),
        encode_s=middle(t.encode_s for t in timings),
        prompt_s=middle(t.finished.prompt_s for t in timings),
        first_token_s=middle(_sum(t.encode_s, t.finished.first_token_s) for t in timings),
        bytes=max((t.bytes for t in timings if t.bytes is not None), default=None),
        rounds=len(timings),
        slowest=min(known) if whole else None,
        fastest=max(known) if whole else None,
        ratio=None if reference is None else _ratio(rates, [timing.tokens_per_second for timing in reference]),
    )


def _ratio(rates: Sequence[float | None], reference: Sequence[float | None]) -> Interval | None:
    """Median of the rounds' paired ratios, and their range."""
    ratios = [a / b for a, b in zip(rates, reference, strict=False) if a is not None and b]
    return Interval(median(ratios), min(ratios), max(ratios)) if ratios else None


def _unseen(prompt: protocol.EncodedPrompt) -> protocol.EncodedPrompt:
    """With pictures of which no key-value cache holds anything."""
    chunks = (
        msgspec.structs.replace(c, key=os.urandom(8).hex()) if isinstance(c, protocol.ImageChunk) else c
        for c in prompt.chunks
    )
    return msgspec.structs.replace(prompt, chunks=tuple(chunks))


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
