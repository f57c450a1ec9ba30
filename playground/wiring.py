"""Puts the long-lived parts together, for the page and for the command line."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from playground.comparing.embedding_cache import EmbeddingCache
from playground.comparing.image_decoder import DECODER
from playground.comparing.images import Document
from playground.comparing.lab import Lab
from playground.comparing.run_settings import RunSettings
from playground.endpoints.client import Endpoint
from playground.endpoints.endpoints import Endpoints
from playground.errors import BadSettings
from playground.measuring.question_sets import DEFAULT_QUESTIONS
from playground.models import check_pair
from playground.models.catalog import Catalog
from playground.models.doctor import Hardware, Level
from playground.models.hub.client import Hub
from playground.models.hub.downloads import Downloads
from playground.models.hub.preloaded import preloaded
from playground.models.presets import data_folder, read_presets
from playground.notebooks.cells import CompareCell
from playground.notebooks.library import Library
from playground.pool.budgets import PoolLimits
from playground.pool.contract import Sensors, WorkerFactory
from playground.pool.local_workers import LocalWorkers
from playground.pool.monitor import Monitor
from playground.pool.pool import Pool
from playground.pool.sensors import LocalSensors
from playground.quantizing import quantizer
from playground.quantizing.importance_matrix import delete_leftovers
from playground.quantizing.scan_files import Workshop
from playground.settings import EndpointSettings, Settings
from playground.support import cgroup
from playground.support.move_data import move_data
from playground.support.processor import machine_name
from playground.support.result_cache import ResultCache
from playground.values.files import Half, Variant
from playground.values.request import Image

if TYPE_CHECKING:
    from playground.cluster.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Parts:
    settings: Settings
    catalog: Catalog
    pool: Pool
    monitor: Monitor
    embeddings: EmbeddingCache
    result_cache: ResultCache
    library: Library
    hub: Hub
    downloads: Downloads
    endpoints: Endpoints
    engine: str  # for the record of a run
    machine: str

    def of(self, who: str) -> Parts:
        """The same parts, as one person uses them: their turns are counted as theirs."""
        return replace(self, pool=self.pool.of(who))

    def quantize(self, source: Path, target: Path, quantization: str, half: Half) -> None:
        """For Catalog.derive: quantize a file with llama.cpp's own choice of types."""
        quantizer.quantize_file(source, target, quantization, self.pool, half)

    def choose(self, names: Sequence[str]) -> tuple[Variant, ...]:
        """As Catalog.choose; an endpoint by its id. Raises BadInput."""
        elsewhere = {v.id: v for v in self.endpoints.variants}
        here = self.catalog.choose([name for name in names if name not in elsewhere])
        return (*here, *(elsewhere[name] for name in dict.fromkeys(names) if name in elsewhere))

    @property
    def lab(self) -> Lab:
        """What a job needs of these parts."""
        return Lab(self.pool, self.embeddings, self.result_cache, self.settings.max_sequences, self.endpoints)

    def open_preloaded(self) -> None:
        """Presets whose files are in the Hub's cache already are among the variants."""
        for pair in preloaded(read_presets(), self.hub.cached()):
            self.catalog.expect_pair(pair.model, pair.projector, pair.preset.chat_template, pair.preset.family)

    @property
    def workshop(self) -> Workshop:
        """Makes files that become variants (Store.add_made)."""
        return Workshop(self.catalog.weights, self.catalog.read_pair, self.catalog.made)

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
        """The doctor's most serious finding about a variant that could not be run. Empty for one elsewhere."""
        if variant.endpoint:
            return ""
        diagnosis = check_pair.check_pair(
            lambda: check_pair.from_disk(variant.model.path, variant.projector.path),
            self.hardware,
            chat_template=variant.chat_template,
        )
        if diagnosis.level is Level.FINE:
            return ""
        return f"The doctor: {diagnosis.findings[0].text} {diagnosis.findings[0].remedy}"

    def read_image(self, source: str | Path | BytesIO, name: str = "", who: str = "") -> Image:
        """An image that `who` uploaded, scaled down to what the operator allows. Raises BadImage and Busy."""
        return DECODER.read(source, name, max_pixels=self.settings.max_image_pixels, who=who)

    def read_pages(self, path: str | Path, numbers: Sequence[int] | None = None, who: str = "") -> Document:
        """The same; pages of a document, None: the first ones. Raises BadImage and Busy."""
        return DECODER.read_pages(path, numbers, max_pixels=self.settings.max_image_pixels, who=who)

    def limited(self, settings: RunSettings) -> RunSettings:
        """Of a run: no more threads than cores, and in the demo mode nothing beyond what the operator allows."""
        if settings.n_threads is not None:  # the limits of a container are read from files: 0.4 ms
            settings = settings.within(usable_cores())
        if not self.settings.demo:
            return settings
        return settings.limited(self.settings.demo_max_tokens, self.settings.demo_n_ctx)

    def limited_cell(self, cell: CompareCell) -> CompareCell:
        """The same for a cell, and for the questions and answers of its measurement."""
        questions = cell.questions
        if self.settings.demo and questions is not None:
            most = min(questions.plan.max_tokens, self.settings.demo_max_tokens)
            questions = msgspec.structs.replace(
                questions,
                n=min(questions.n, DEFAULT_QUESTIONS),
                plan=msgspec.structs.replace(questions.plan, max_tokens=most),
            )
        return msgspec.structs.replace(cell, settings=self.limited(cell.settings), questions=questions)

    @property
    def samples(self) -> Path:
        """The folder of the questions that were drawn from datasets of the Hub."""
        return self.settings.cache_dir / "samples"

    @property
    def evaluation(self) -> Path:
        """The folder of the embedded questions."""
        return data_folder() / "tiny-vlm/evaluation"


def usable_cores() -> int:
    """How many threads of a worker can run at once."""
    return cgroup.usable_processors()


@contextmanager
def open_parts(
    settings: Settings, *, any_folder: bool = False, start_worker: WorkerFactory | None = None
) -> Iterator[Parts]:
    """Open the catalog, the pool and the caches; close them, and end every worker, at the end.

    `any_folder`: model files may be opened from anywhere, since the operator asks in person.
    `start_worker`: in place of processes on this machine.
    """
    data = move_data(settings.cache_dir, settings.data_folder, ("notebooks", "made", "pairs.json"))
    catalog = Catalog(settings.cache_dir, None if any_folder else settings.model_dirs, data)
    delete_leftovers(catalog.made)
    version = importlib.metadata.version("llama-cpp-python")
    limits = PoolLimits(
        gpu_bytes=settings.gpu_budget_bytes,
        host_bytes=settings.memory_budget_bytes,
        waiting=settings.max_waiting,
        waiting_per_person=settings.max_waiting_per_person,
        idle_s=settings.idle_unload_s,
        worker_silence_s=settings.worker_silence_s,
        spare_workers=settings.spare_workers,
        measures_defaults=settings.measure_defaults,
    )
    learned = settings.cache_dir / "forecasts"
    sensors: Sensors = LocalSensors(settings.cuda_visible_devices)
    cluster = None
    if settings.cluster is not None:
        cluster = _open_cluster(settings.cluster, sensors, start_worker, limits, catalog)
        sensors, start_worker = cluster, cluster
    pool = Pool.open(
        limits, sensors=sensors, start_worker=start_worker, forecasts=learned, engine=version, host=machine_name()
    )
    monitor = Monitor(pool)
    gpus = ", ".join(gpu.name for gpu in pool.memory().gpus)
    where = gpus or "CPU"
    if cluster is not None:
        where += " and a cluster"  # what is cached here may be another machine's
    engine = f"llama-cpp-python {version} on {where}"
    embeddings = EmbeddingCache(settings.cache_dir / "embeddings", settings.embedding_cache_bytes, engine)
    result_cache = ResultCache(settings.cache_dir / "measured", engine)
    library = Library(data / "notebooks", settings.notebooks_bytes, DECODER.read)
    shares = settings.space_id is None if settings.share_token is None else settings.share_token
    hub = Hub(own_token=shares)
    downloads = Downloads(hub, settings.cache_dir / "downloads.json", catalog.arrived)
    monitor.start()
    try:
        if cluster is not None:
            cluster.start(pool.join, pool.leave)
        yield Parts(
            settings,
            catalog,
            pool,
            monitor,
            embeddings,
            result_cache,
            library,
            hub,
            downloads,
            Endpoints([_endpoint(given) for given in settings.endpoints]),
            engine,
            machine_name(gpus),
        )
    finally:
        downloads.close()
        monitor.close()
        pool.close()
        if cluster is not None:
            cluster.close()
        embeddings.close()
        result_cache.close()
        library.close()
        catalog.close()


def _endpoint(given: EndpointSettings) -> Endpoint:
    key = given.secret.get_secret_value() if given.secret is not None else ""
    times = (given.connect_s, given.silence_s, given.answer_s)
    return Endpoint(given.name, given.url, given.model, key, *times, given.at_once)


def _open_cluster(
    address: str, sensors: Sensors, start_worker: WorkerFactory | None, limits: PoolLimits, catalog: Catalog
) -> Cluster:
    try:
        from playground.cluster.cluster import Cluster  # noqa: PLC0415  the only user of Ray, which is not required
    except ImportError as error:
        raise BadSettings(f"cluster needs Ray: pip install 'vlm-quant-playground[cluster]' ({error}).") from None
    start_local = start_worker or LocalWorkers(sensors.gpus(), limits.worker_silence_s)
    return Cluster(address, sensors, start_local, catalog.sha256_of)
