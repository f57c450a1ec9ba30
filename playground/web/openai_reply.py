"""What /v1 answers, in OpenAI's form. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from playground.errors import PlaygroundError
from playground.values.answer import Pane, TokenScore
from playground.values.files import Variant

_FINISHED = {"max tokens": "length", "context full": "length"}  # else "stop"
_SMALLEST = 1e-300  # of the probabilities whose logarithm is written
# By PlaygroundError.code. OpenAI's clients try again by themselves after 429 and 5xx.
_STATUS = {
    "not_allowed": 403,
    "busy": 429,
    "engine_error": 500,
    "worker_died": 503,  # the next request starts a new worker
    "machine_lost": 503,
    "error": 500,
    "unavailable": 503,
    "out_of_memory": 503,
    "no_room": 503,
    "unreadable": 503,
    "offline": 503,
    "interrupted": 503,
}  # fmt: skip


class ApiError(PlaygroundError):
    """A refusal with its status and code in HTTP."""

    def __init__(self, message: str, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status or _STATUS.get(code, 400)
        self.name = code

    @classmethod
    def of(cls, error: PlaygroundError) -> ApiError:
        return error if isinstance(error, cls) else cls(error.message, error.code)

    @property
    def document(self) -> dict[str, Any]:
        return error_document(self.message, self.status, self.name)


def error_document(message: str, status: int, code: str | None = None) -> dict[str, Any]:
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def variant_named(variants: Sequence[Variant], model: str) -> Variant:
    """Raises ApiError."""
    for variant in variants:
        if variant.id == model:
            return variant
    raise ApiError(f"There is no model '{model[:200]}'. GET /v1/models lists them.", "model_not_found", 404)


def model_document(variant: Variant) -> dict[str, Any]:
    try:
        created = int(Path(variant.model.path).stat().st_mtime)
    except OSError:
        created = 0  # OpenAI's clients want a number
    return {"id": variant.id, "object": "model", "created": created, "owned_by": variant.family}


def fingerprint(variant: Variant) -> str:
    """Equal for equal files."""
    return f"{variant.model.sha256[:12]}-{variant.projector.sha256[:12]}"


def finish_reason(pane: Pane) -> str:
    return _FINISHED.get(pane.finish_reason or "", "stop")


def logprobs(scores: Sequence[TokenScore], n: int) -> dict[str, Any]:
    """Of an answer's tokens, each with the `n` likeliest in its place."""
    content = [
        {
            **_token(score.text, score.probability),
            "top_logprobs": [_token(candidate.text, candidate.probability) for candidate in score.candidates[:n]],
        }
        for score in scores
        if score.probability is not None  # else it stands behind the answer
    ]
    return {"content": content, "refusal": None}


def _token(text: str, probability: float) -> dict[str, Any]:
    data = text.encode("utf-8", "replace")
    return {"token": text, "logprob": math.log(max(probability, _SMALLEST)), "bytes": list(data)}


def usage(panes: Sequence[Pane]) -> dict[str, Any]:
    """Of all choices. A count that is not known is left out. The prompt counts once: all choices share it."""
    prompt = panes[0].metrics.prompt_tokens or 0
    written = sum(len(pane.token_ids) for pane in panes)
    document: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}
    reasoning = [pane.metrics.reasoning_tokens if pane.reasoning else 0 for pane in panes]
    if None not in reasoning:
        document["completion_tokens_details"] = {"reasoning_tokens": sum(count or 0 for count in reasoning)}
    if panes[0].metrics.reused_tokens is not None:
        document["prompt_tokens_details"] = {"cached_tokens": panes[0].metrics.reused_tokens}
    return document


def timings(pane: Pane) -> dict[str, Any]:
    """llama.cpp's server has the same names for what it measures. None: not measured."""
    metrics = pane.metrics

    def ms(seconds: float | None) -> float | None:
        return None if seconds is None else 1000 * seconds

    return {
        "prompt_n": metrics.prompt_tokens,
        "cache_n": metrics.reused_tokens,
        "prompt_ms": ms(metrics.prompt_s),
        "predicted_n": metrics.generated_tokens,
        "predicted_ms": ms(metrics.decode_s),
        "predicted_per_second": metrics.decode_tok_per_s,
        "preprocess_ms": ms(metrics.preprocess_s),
        "encode_ms": ms(metrics.encode_s),
        "encode_cached": metrics.encode_cached,
    }


def event(document: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    try:  # json holds the interpreter for 0.3 s where an answer has the likeliest tokens of 8192 places
        text = document.encode() if isinstance(document, str) else msgspec.json.encode(document)
    except UnicodeEncodeError:  # half a character
        text = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")
    return b"data: " + text + b"\n\n"
