"""What every job needs and none owns: the workers, the image embeddings, earlier measurements, endpoints."""

from __future__ import annotations

from dataclasses import dataclass, field

from playground.comparing.embedding_cache import EmbeddingCache
from playground.endpoints.endpoints import Endpoints
from playground.pool.pool import Pool
from playground.support.result_cache import ResultCache


@dataclass(frozen=True, slots=True)
class Lab:
    """Outlives the jobs that use it. They are safe to use from several threads."""

    pool: Pool
    embeddings: EmbeddingCache
    results: ResultCache
    sequences: int | None = None  # questions of a measurement that one model answers at once at most; None: 32 or 16
    endpoints: Endpoints = field(default_factory=Endpoints)  # servers elsewhere
