"""Puts the long-lived parts together, for the page and for the command line."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playground.lab.embeddings import EmbeddingCache
from playground.lab.known import Known
from playground.lab.library import Library
from playground.lab.sensitivity import Workshop
from playground.models.presets import data_folder
from playground.models.store import Store
from playground.pool.pool import Pool
from playground.settings import Settings


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    store: Store
    pool: Pool
    embeddings: EmbeddingCache
    known: Known
    library: Library
    engine: str  # for the record of a run
    machine: str

    @property
    def workshop(self) -> Workshop:
        """Makes files that become variants (Store.add_made)."""
        return Workshop(self.store.weights, self.store.read_pair, self.store.made)

    @property
    def evaluation(self) -> Path:
        """The folder of the embedded questions."""
        return data_folder() / "tiny-vlm/evaluation"


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
    known = Known(settings.cache_dir / "measured", engine)
    library = Library(settings.cache_dir / "notebooks")
    try:
        yield Parts(settings, store, pool, embeddings, known, library, engine, _machine(gpus))
    finally:
        pool.close()
        embeddings.close()
        known.close()
        library.close()
        store.close()


def _machine(gpus: str) -> str:
    """What the speeds depend on; not the host's name, since runs are shared."""
    processor = platform.processor() or platform.machine()
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as file:
            processor = next(
                (line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), processor
            )
    return ", ".join(part for part in (gpus, processor, f"{os.cpu_count()} cores") if part)
