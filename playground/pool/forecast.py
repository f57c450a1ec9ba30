"""Predicts what a worker will take in memory, and learns from what it then takes.

There are three sources, and the last one known wins: the GGUF header; llama.cpp's own plan of cache and buffers (a load
without weights); what the same files took before. What a process takes beside a model (the CUDA context, cuBLAS's
workspaces, Python) is learned from each worker that is measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec

from playground.engine import protocol
from playground.pool.worker_spec import WorkerSpec
from playground.support.byte_cache import BytesCache
from playground.values.engine_defaults import EngineDefaults
from playground.values.files import Shape
from playground.values.memory import Forecast, MemoryParts, WorkerRole, host_of, is_host
from playground.values.request import Remedy, Runtime

_T = TypeVar("_T")

_MIB = 2**20
_KEPT_BYTES = 16 * _MIB

# Until a worker has been measured. By role, and whether it is on a GPU: there 518 MiB are the CUDA context, the rest
# kernels, pools and cuBLAS's workspace (90 MiB quantized, 192 F16; 177 a vision encoder). Seen on an H100, CUDA 13.
_PROCESS = {
    (WorkerRole.LANGUAGE, True): 640 * _MIB,
    (WorkerRole.VISION, True): 695 * _MIB,
    (WorkerRole.LANGUAGE, False): 50 * _MIB,
    (WorkerRole.VISION, False): 60 * _MIB,
}
_OTHER_PROCESS = {True: 520 * _MIB, False: 60 * _MIB}
_CUDA_HOST = 456 * _MIB  # resident, of a process that has opened CUDA

_MIN_CONTEXT = 1024  # tokens; a smaller one hardly holds an image


class Forecasts:
    """Owns what was learned. Safe to use from several threads. Without a folder it is forgotten at the end."""

    def __init__(self, folder: Path | None, devices: dict[str, str], engine: str = "") -> None:
        """`devices`: the name of each place's device. What was learned on one kind does not apply to another."""
        self._devices = devices
        self._engine = engine
        self._disk = BytesCache(folder, _KEPT_BYTES) if folder is not None else None
        self._kept: dict[str, bytes | None] = {}  # None: not on the disk either

    def add_devices(self, devices: dict[str, str]) -> None:
        """Of a machine that joins; a place that comes back may have another device."""
        self._devices |= devices

    def close(self) -> None:
        if self._disk is not None:
            self._disk.close()

    def of(self, spec: WorkerSpec, places: Sequence[str]) -> Forecast:
        """For a worker at these places: the host alone, one GPU, or several GPUs that share its layers."""
        planned = self._get(self._key("plan", spec, places), protocol.MemoryPlan)
        parts = _parts(spec, places, planned, self._process_bytes(spec, places))
        source = "dry run" if planned else "header"
        measured = self._get(self._key("measured", spec, places), int)
        if measured is not None:
            predicted = sum(p.total for place, p in parts.items() if place in places)
            parts = {
                place: replace(p, process=max(0, p.process + (measured - predicted) // len(places)))
                if place in places
                else p
                for place, p in parts.items()
            }
            source = "measured before"
        return Forecast(parts, source)

    def has_plan(self, spec: WorkerSpec, places: Sequence[str]) -> bool:
        return self._get(self._key("plan", spec, places), protocol.MemoryPlan) is not None

    def planned(self, spec: WorkerSpec, places: Sequence[str], plan: protocol.MemoryPlan) -> None:
        self._put(self._key("plan", spec, places), plan)

    def measured(self, spec: WorkerSpec, places: Sequence[str], measured: int) -> None:
        """Keep a worker's peak for the same files, and what its process took beside them for other files."""
        if spec.shape is None:
            return
        self._put(self._key("measured", spec, places), measured)
        planned = self._get(self._key("plan", spec, places), protocol.MemoryPlan)
        bare = sum(p.total for place, p in _parts(spec, places, planned, 0).items() if place in places)
        self._put(self._process_key(spec, places), max(0, measured - bare) // len(places))

    def device(self, place: str) -> str:
        """What computes there: a GPU's name, or the host's processor."""
        return self._devices.get(place, "")

    def knows(self, place: str) -> bool:
        return place in self._devices

    def bandwidth(self, place: str) -> float | None:
        """Bytes a second that the device of a place copies; None: not measured yet."""
        return self._get(f"bandwidth {self._devices[place]}", float)

    def keep_bandwidth(self, place: str, bytes_per_s: float) -> None:
        self._put(f"bandwidth {self._devices[place]}", bytes_per_s)

    def engine_defaults(self, place: str, kind: str) -> EngineDefaults | None:
        """What suits a kind of model on the device of a place; None: not measured."""
        return self._get(f"engine defaults {self._engine} {self._devices[place]} {kind}", EngineDefaults)

    def keep_engine_defaults(self, place: str, kind: str, defaults: EngineDefaults) -> None:
        self._put(f"engine defaults {self._engine} {self._devices[place]} {kind}", defaults)

    def _process_key(self, spec: WorkerSpec, places: Sequence[str]) -> str:
        kind = "float" if spec.shape is not None and spec.shape.is_float else "quantized"
        return f"process {spec.role} {kind} {self._engine} {self._devices[places[0]]} {len(places)}"

    def _process_bytes(self, spec: WorkerSpec, places: Sequence[str]) -> int:
        learned = self._get(self._process_key(spec, places), int) if spec.shape is not None else None
        on_gpu = not is_host(places[0])
        return _PROCESS.get((spec.role, on_gpu), _OTHER_PROCESS[on_gpu]) if learned is None else learned

    def _key(self, kind: str, spec: WorkerSpec, places: Sequence[str]) -> str:
        how = [kind, self._engine, self._devices[places[0]], len(places), spec.role, spec.key]
        if spec.role is WorkerRole.LANGUAGE or kind == "measured":  # an encoder's plan is scaled to the picture
            how += spec.context
        return hashlib.sha256(msgspec.json.encode(how)).hexdigest()

    def _get(self, key: str, kind: type[_T]) -> _T | None:
        if key not in self._kept:  # the pool asks again and again, with its lock held
            self._kept[key] = self._disk.find(key) if self._disk is not None else None
        data = self._kept[key]
        try:
            return None if data is None else msgspec.msgpack.decode(data, type=kind)
        except msgspec.DecodeError:
            return None  # of an earlier version

    def _put(self, key: str, value: object) -> None:
        self._kept[key] = data = msgspec.msgpack.encode(value)
        if self._disk is not None:
            self._disk.set(key, data)


def _parts(
    spec: WorkerSpec, places: Sequence[str], planned: protocol.MemoryPlan | None, process: int
) -> dict[str, MemoryParts]:
    """By place: the worker's places, and the host beside a GPU."""
    if spec.shape is None:
        own = MemoryParts(spec.bytes // len(places), process=process)
        return {place: own for place in places}
    whole = (
        _vision(spec, planned, on_gpu=not is_host(places[0]))
        if spec.role is WorkerRole.VISION
        else _language(spec.shape, spec.runtime, planned)
    )
    warm_up = (planned.patches or 0) if planned is not None else 0
    if is_host(places[0]):
        weights, compute = whole.weights + spec.shape.embedding_bytes, spec.encoding_bytes(whole.compute, warm_up)
        return {places[0]: replace(whole, weights=weights, compute=compute, process=process)}
    share = 1.0 if spec.role is WorkerRole.VISION else gpu_share(spec.shape, spec.runtime.n_gpu_layers)
    n = len(places)
    on_gpu = MemoryParts(
        weights=int(whole.weights * share / n),
        kv_cache=int(whole.kv_cache * share / n),
        compute=whole.compute,
        process=process,
    )
    on_host = MemoryParts(
        weights=int(whole.weights * (1 - share)),
        kv_cache=int(whole.kv_cache * (1 - share)),
        compute=spec.encoding_bytes(0, warm_up),
        process=_CUDA_HOST,
    )
    return {**{place: on_gpu for place in places}, host_of(places[0]): on_host}


def gpu_share(shape: Shape, n_gpu_layers: int) -> float:
    """Of the layers' and the output's weights: llama.cpp offloads the output first, then layers from the last one."""
    if n_gpu_layers < 0 or n_gpu_layers > shape.n_layers:
        return 1.0
    total = shape.layer_bytes + shape.other_bytes
    if not shape.n_layers or not total or not n_gpu_layers:
        return 0.0
    return (shape.other_bytes + shape.layer_bytes * (n_gpu_layers - 1) / shape.n_layers) / total


def _language(shape: Shape, runtime: Runtime, planned: protocol.MemoryPlan | None) -> MemoryParts:
    cache = planned.kv_cache_bytes if planned else None
    compute = planned.compute_bytes if planned else None
    if cache is None:
        cache = round((shape.kv_bytes_per_token or 0) * runtime.context * runtime.cache_share)
    if compute is None:  # a batch's activations and logits, float32
        compute = 4 * runtime.n_batch * ((shape.n_vocabulary or 0) + 4 * (shape.n_embd or 0) + 2 * (shape.n_ff or 0))
    return MemoryParts(shape.layer_bytes + shape.other_bytes, cache, compute)


def _vision(spec: WorkerSpec, planned: protocol.MemoryPlan | None, *, on_gpu: bool) -> MemoryParts:
    """Buffers grow with the patches, the mask of windows with their square: 4 bytes a value, and 2 as a copy in F16.

    llama.cpp tells the buffers of one size of image when it loads the projector. Before that, 3 activations of the
    tower's width and one of its feed-forward layer are counted for each patch, float32 (bench/README.md).
    """
    shape = spec.shape
    assert shape is not None
    patches = spec.patches or 0
    each = 4.0 * (3 * (shape.n_embd or 0) + (shape.n_ff or 0))
    if planned is not None and planned.compute_bytes is not None and planned.patches:
        # The host's memory is taken when it is written to; a GPU's when it is reserved.
        patches = max(patches, planned.patches) if on_gpu else patches
        each = max(0, planned.compute_bytes - _mask(shape, planned.patches)) / planned.patches
    compute = round(each * patches) + _mask(shape, patches)
    return MemoryParts(shape.layer_bytes + shape.other_bytes, 0, compute)


def _mask(shape: Shape, patches: int) -> int:
    return 6 * patches**2 if shape.masked else 0


def remedied(runtime: Runtime, allowed: Sequence[Remedy], n_layers: int) -> Sequence[Runtime]:
    """Ways to take less GPU memory, the mildest first. Each remedy is applied on top of those before it."""
    ways = []
    if Remedy.CONTEXT in allowed:
        while runtime.context // 2 >= _MIN_CONTEXT:
            runtime = replace(runtime, n_ctx=runtime.context // 2)
            ways.append(runtime)
    if Remedy.PROJECTOR in allowed and runtime.projector_on_gpu:
        runtime = replace(runtime, projector_on_gpu=False)
        ways.append(runtime)
    if Remedy.LAYERS in allowed:
        most = n_layers if runtime.n_gpu_layers < 0 else min(n_layers, runtime.n_gpu_layers - 1)
        ways += [replace(runtime, n_gpu_layers=n) for n in range(most, -1, -1)]
    return ways
