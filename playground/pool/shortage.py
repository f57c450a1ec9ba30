"""The message for a model that does not fit: what it needs where it lacks least, and what would free that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from playground.pool.budgets import PoolLimits
from playground.pool.forecast import remedied
from playground.pool.handles import Handle
from playground.pool.memory_watch import gib
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, Forecast, MemoryParts, WorkerRole, is_host
from playground.values.request import Remedy

_REMEDIES = {Remedy.CONTEXT: "a smaller context", Remedy.PROJECTOR: "its projector on the CPU"}


def shortage(
    spec: WorkerSpec,
    forecast_of: Callable[[WorkerSpec, Places], Forecast],
    ways: Sequence[Places],
    pinned: Sequence[Handle],
    budgets: Mapping[str, int],
    limits: PoolLimits,
) -> str:
    """`ways`: where the worker may go. `pinned`: what other workers a person has pinned."""
    free = {place: n - sum(h.bytes.get(place, 0) for h in pinned) for place, n in budgets.items()}
    forecasts = [forecast_of(spec, places) for places in ways]
    lacks = [max((n - free[place], place) for place, n in forecast.bytes.items()) for forecast in forecasts]
    (_, place), forecast, places = min(zip(lacks, forecasts, ways, strict=True), key=lambda way: way[0])
    parts, budget = forecast.parts[place], budgets[place]
    device = "this machine" if place == HOST else place
    text = (
        f"{spec.file} needs about {gib(parts.total)} on {device} ({_detail(parts)}), the budget for all models there "
        f"is {gib(budget)}."
    )
    pinned = [h for h in pinned if h.bytes.get(place)]
    if pinned:
        text += f" Unpin {', '.join(h.spec.file for h in pinned)}: {gib(sum(h.bytes[place] for h in pinned))}."
    text += _remedies(spec, place, free[place], lambda less: forecast_of(less, places).bytes.get(place, 0))
    text += " Choose a smaller quantization"
    if not is_host(place):
        text += ', or allow a remedy ("If GPU memory is short", under "Sampling and engine")'
    limit = limits.host_bytes if is_host(place) else limits.gpu_bytes
    variable = "PLAYGROUND_MEMORY_BUDGET_BYTES" if is_host(place) else "PLAYGROUND_GPU_BUDGET_BYTES"
    return f"{text}. The operator has set {variable}." if limit is not None and limit <= budget else f"{text}."


def _detail(parts: MemoryParts) -> str:
    made_of = {
        "weights": parts.weights,
        "key-value cache": parts.kv_cache,
        "buffers": parts.compute,
        "the process": parts.process,
    }
    return ", ".join(f"{name} {gib(n)}" for name, n in made_of.items() if n)


def _remedies(spec: WorkerSpec, place: str, free: int, bytes_of: Callable[[WorkerSpec], int]) -> str:
    """Each remedy with which the model would fit, in its mildest form."""
    text = ""
    for remedy in [Remedy.CONTEXT] if is_host(place) else list(Remedy):
        for runtime in remedied(spec.runtime, [remedy], spec.shape.n_layers) if spec.shape is not None else ():
            moves_away = spec.role is WorkerRole.VISION and remedy is Remedy.PROJECTOR
            if bytes_of(spec.with_runtime(runtime)) <= free or moves_away:
                layers = f"at most {runtime.n_gpu_layers} of its layers on the GPU"
                text += f" It would fit with {_REMEDIES.get(remedy, layers)}."
                break
    return text
