"""NaN is never an answer, never cached and never a score: whatever llama.cpp computes is checked here."""

from __future__ import annotations

from typing import Any

from playground.errors import EngineError


class NotFinite(EngineError):
    """A file is damaged, or llama.cpp read memory that nothing had set."""


def check_logits(logits: Any, *, sampled: bool = False) -> None:
    """Raises NotFinite for NaN and infinity, but for -inf with `sampled`: a token that the sampler excluded."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    # The largest value is NaN where any is.
    if not numpy.isfinite(logits.max() if sampled else logits).all():
        raise _error("The model's outputs")


def check_embeddings(embeddings: bytes) -> None:
    """Raises NotFinite for NaN and infinity. `embeddings`: of float32."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    if not numpy.isfinite(numpy.frombuffer(embeddings, numpy.float32)).all():
        raise _error("The image's embeddings")


def _error(what: str) -> NotFinite:
    return NotFinite(
        f"{what} are NaN or infinite, so there is no answer. The file may be damaged: compare its checksum, or choose "
        "another quantization."
    )
