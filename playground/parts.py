"""Puts the long-lived parts together, for the page and for the command line."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from playground.lab.embeddings import EmbeddingCache
from playground.models.store import Store
from playground.pool.pool import Pool
from playground.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    store: Store
    pool: Pool
    embeddings: EmbeddingCache


@contextmanager
def open_parts(settings: Settings, *, any_folder: bool = False) -> Iterator[Parts]:
    """Open the store, the pool and the caches; close them, and end every worker, at the end.

    `any_folder`: model files may be opened from anywhere, since the operator asks in person.
    """
    store = Store(settings.cache_dir, None if any_folder else settings.model_dirs)
    pool = Pool(budget_bytes=settings.memory_budget_bytes, max_queue=settings.max_queue)
    gpus = ", ".join(gpu.name for gpu in pool.memory().gpus)
    engine = f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')} on {gpus or 'CPU'}"
    embeddings = EmbeddingCache(settings.cache_dir / "embeddings", settings.embedding_cache_bytes, engine)
    try:
        yield Parts(settings, store, pool, embeddings)
    finally:
        pool.close()
        embeddings.close()
        store.close()
