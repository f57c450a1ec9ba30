"""What suits each kind of model on this machine: measured once, kept, and put in place of what nobody has set."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from threading import Lock

from playground.engine import protocol
from playground.errors import EngineError
from playground.pool.devices import Devices
from playground.pool.forecast import Forecasts
from playground.pool.handles import Lease, Stop
from playground.pool.worker_spec import WorkerSpec
from playground.values.engine_defaults import EngineDefaults, choose, is_busy
from playground.values.files import ModelFile
from playground.values.memory import HOST, WorkerRole
from playground.values.request import SMALLEST_CONTEXT, Runtime

logger = logging.getLogger(__name__)

_MOST_TRIES = 3  # of a kind of model in one process, where other work keeps the processors busy


class EngineChoices:
    """Owns the number of tries; the forecasts keep what was measured. Safe to use from several threads.

    A kind of model are all quantizations of one family: all panes of a comparison compute in the same way. On a GPU,
    and on the other machines of a cluster, llama.cpp's and the engine's own defaults hold.
    """

    def __init__(self, forecasts: Forecasts, devices: Devices, *, measures: bool) -> None:
        self._forecasts = forecasts
        self._devices = devices
        self._measures = measures
        self._lock = Lock()
        self._tries: Counter[str] = Counter()

    def of(self, file: ModelFile | WorkerSpec, runtime: Runtime) -> EngineDefaults | None:
        """None: not measured, or not for this device."""
        kind = kind_of(file)
        if not self._measures or kind is None or not self._is_here(runtime):
            return None
        return self._forecasts.engine_defaults(HOST, kind)

    def settled(self, model: ModelFile, runtime: Runtime) -> Runtime:
        """With what was measured in place of what is not set."""
        return with_defaults(runtime, self.of(model, runtime))

    def computed(self, model: ModelFile, runtime: Runtime) -> Runtime:
        """For the key of a result: threads, and room for more tokens, are no part of it."""
        return replace(runtime, flash_attention=self.settled(model, runtime).flash_attention)

    def is_missing(self, spec: WorkerSpec) -> bool:
        """Whether a worker's model is to be measured before it is used."""
        runtime, kind = spec.runtime, kind_of(spec)
        if not self._measures or kind is None or spec.role is not WorkerRole.LANGUAGE or not self._is_here(runtime):
            return False
        if None not in (runtime.flash_attention, runtime.n_threads, runtime.n_ctx):
            return False
        with self._lock:
            tried = self._tries[kind]
        return tried < _MOST_TRIES and self.of(spec, runtime) is None

    def measure(self, lease: Lease, stop: Stop) -> None:
        """Measure the leased worker's model, and keep what suits it. Raises as Lease.request.

        Nothing is kept where other work kept the processors busy: the next use tries again.
        """
        spec = lease.handle.spec
        kind = kind_of(spec)
        assert kind is not None
        with self._lock:
            self._tries[kind] += 1
        try:
            reply = lease.request(protocol.MeasureDefaults(), stop=stop)
        except EngineError as error:
            logger.warning("what suits %s could not be measured: %s", spec.file, error)
            raise
        if not reply.trials or is_busy(reply.waited_s, reply.seconds):
            logger.info("what suits %s was not measured: the processors are busy, or it is slow", spec.file)
            return
        chosen = choose(reply.usual, reply.trials)
        waited = None if reply.waited_s is None else reply.waited_s / reply.seconds
        self._forecasts.keep_engine_defaults(
            HOST,
            kind,
            EngineDefaults(chosen, reply.usual, reply.trials, reply.depth, reply.seconds, waited, spec.file),
        )

    def _is_here(self, runtime: Runtime) -> bool:
        on_gpu = self._devices.on_gpu and runtime.n_gpu_layers != 0
        return not on_gpu and self._devices.host_places == (HOST,)


def with_defaults(runtime: Runtime, defaults: EngineDefaults | None) -> Runtime:
    """Flash attention stays unset where it is off as usual."""
    if defaults is None:
        return runtime
    chosen = defaults.chosen
    attention = runtime.flash_attention
    if attention is None and chosen.flash_attention and not runtime.needs_flash_attention:
        attention = True
    return replace(
        runtime,
        flash_attention=attention,
        n_threads=runtime.n_threads or chosen.n_threads,
        least_ctx=chosen.n_ctx if chosen.n_ctx < SMALLEST_CONTEXT else None,
    )


def kind_of(file: ModelFile | WorkerSpec) -> str | None:
    """Of a language model, whatever its quantization; None: unknown."""
    shape = file.shape
    if shape is None:
        return None
    sizes = (shape.n_layers, shape.n_embd, shape.n_ff, shape.n_vocabulary, shape.kv_bytes_per_token)
    return " ".join(map(str, sizes))
