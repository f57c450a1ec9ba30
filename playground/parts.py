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

from playground.errors import BadModel
from playground.lab.embeddings import EmbeddingCache
from playground.lab.known import Known
from playground.lab.library import Library
from playground.lab.sensitivity import Workshop
from playground.models import doctor
from playground.models.doctor import Hardware
from playground.models.downloads import Downloads
from playground.models.gguf import read_header
from playground.models.hub import Hub
from playground.models.presets import data_folder
from playground.models.store import Store
from playground.pool.monitor import Monitor
from playground.pool.pool import Limits, Pool
from playground.settings import Settings
from playground.values import Variant


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    store: Store
    pool: Pool
    monitor: Monitor
    embeddings: EmbeddingCache
    known: Known
    library: Library
    hub: Hub
    downloads: Downloads
    engine: str  # for the record of a run
    machine: str

    @property
    def workshop(self) -> Workshop:
        """Makes files that become variants (Store.add_made)."""
        return Workshop(self.store.weights, self.store.read_pair, self.store.made)

    @property
    def hardware(self) -> Hardware:
        """What a pair would be loaded into now."""
        report = self.pool.memory()
        gpu = max(report.gpus, key=lambda gpu: gpu.total_bytes - gpu.used_bytes, default=None)
        return Hardware(
            gpu_name=gpu.name if gpu else None,
            gpu_free=gpu.total_bytes - gpu.used_bytes if gpu else None,
            host_free=report.host_available_bytes,
            gpu_offload=self.pool.gpu_offload,
        )

    def explain(self, variant: Variant) -> str:
        """The worst that the doctor has to say of a variant that could not be run."""
        try:
            model, projector = read_header(variant.model.path), read_header(variant.projector.path)
        except BadModel as error:
            return error.message
        found = doctor.diagnose(
            model,
            projector,
            hardware=self.hardware,
            chat_template=variant.chat_template,
            model_bytes=variant.model.bytes,
        )
        worst = found[0] if found and found[0].level > doctor.Level.FINE else None
        return f"The doctor: {worst.text} {worst.remedy}" if worst else ""

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
    version = importlib.metadata.version("llama-cpp-python")
    limits = Limits(host_bytes=settings.memory_budget_bytes, waiting=settings.max_queue)
    pool = Pool(limits, forecasts=settings.cache_dir / "forecasts", engine=version)
    monitor = Monitor(pool)
    gpus = ", ".join(gpu.name for gpu in pool.memory().gpus)
    engine = f"llama-cpp-python {version} on {gpus or 'CPU'}"
    embeddings = EmbeddingCache(settings.cache_dir / "embeddings", settings.embedding_cache_bytes, engine)
    known = Known(settings.cache_dir / "measured", engine)
    library = Library(settings.cache_dir / "notebooks")
    shares = settings.space_id is None if settings.share_token is None else settings.share_token
    hub = Hub(own_token=shares)
    downloads = Downloads(hub, settings.cache_dir / "downloads.json", store.arrived)
    try:
        yield Parts(settings, store, pool, monitor, embeddings, known, library, hub, downloads, engine, _machine(gpus))
    finally:
        downloads.close()
        monitor.close()
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
