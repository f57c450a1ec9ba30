"""Times to numbers. Pure; docs/metrics.md defines each."""

from __future__ import annotations

from dataclasses import replace

from playground.engine.protocol import EncodedPrompt, Finished, ImageChunk
from playground.values.answer import Metrics
from playground.values.files import Shape

# Fewer tokens than this say little about speed (nanochat and llama-bench measure over 64 and more).
SHORT_RUN_TOKENS = 16


def decode_tok_per_s(finished: Finished) -> float | None:
    """Tokens after the first one over the time from the first to the last; None with fewer than two."""
    if finished.generated_tokens < 2 or not finished.decode_s:
        return None
    return (finished.generated_tokens - 1) / finished.decode_s


def of_prompt(metrics: Metrics, prompt: EncodedPrompt, *, cached: bool, paid: bool) -> Metrics:
    """`paid`: this pane waited for the encoding. Otherwise another pane of the run did, and it counts as cached."""
    return replace(
        metrics,
        preprocess_s=prompt.preprocess_s if paid else None,
        encode_s=prompt.encode_s if paid and not cached else None,
        encode_cached=(cached or not paid) if prompt.n_image_tokens else None,
        image_tokens=prompt.n_image_tokens,
        image_pixels=tuple(c.pixels for c in prompt.chunks if isinstance(c, ImageChunk) and c.pixels) or None,
        image_tiles=prompt.n_image_tiles,
        text_tokens=prompt.n_text_tokens,
        prompt_tokens=prompt.n_image_tokens + prompt.n_text_tokens,
    )


def of_generation(metrics: Metrics, finished: Finished) -> Metrics:
    ttft_s = None
    if finished.first_token_s is not None:
        ttft_s = finished.first_token_s + (metrics.preprocess_s or 0.0) + (metrics.encode_s or 0.0)
    return replace(
        metrics,
        load_s=_sum(metrics.load_s, finished.context_s),
        prompt_s=finished.prompt_s,
        reused_tokens=finished.reused_tokens,
        ttft_s=ttft_s,
        decode_s=finished.decode_s,
        decode_tok_per_s=decode_tok_per_s(finished),
        generated_tokens=finished.generated_tokens,
        short_run=finished.generated_tokens < SHORT_RUN_TOKENS,
        progress=finished.progress or None,
        reasoning_tokens=finished.reasoning_tokens or None,
        reasoning_s=finished.reasoning_s,
        waited_share=max(0.0, finished.waited_s) / finished.decode_s
        if finished.waited_s is not None and finished.decode_s
        else None,
    )


def read_bytes_per_token(
    shape: Shape | None, prompt_tokens: int | None, generated_tokens: int | None, cache_share: float = 1.0
) -> int | None:
    """Weights, and the key-value cache as deep as it is on average while the answer is written.

    cache_share: as Runtime has it.
    """
    if shape is None or shape.kv_bytes_per_token is None or prompt_tokens is None or generated_tokens is None:
        return None
    cache = shape.kv_bytes_per_token * cache_share
    return round(shape.read_bytes + cache * (prompt_tokens + generated_tokens / 2))


def bandwidth_share(
    read_bytes_per_token: int | None, decode_tok_per_s: float | None, bytes_per_s: float | None
) -> float | None:
    """Of what the device's memory can do, measured by copying; 1 is all of it."""
    if read_bytes_per_token is None or decode_tok_per_s is None or not bytes_per_s:
        return None
    return read_bytes_per_token * decode_tok_per_s / bytes_per_s


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None and b is None else (a or 0.0) + (b or 0.0)
