"""How much memory all workers on a place may take together, and whether something fits into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from playground.pool import placement
from playground.pool.contract import HostMemory, Joined
from playground.pool.forecast import Forecasts
from playground.pool.handles import Handle, Handles
from playground.pool.placement import Placement
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, Forecast, GpuMemory, MachineMemory, machine_of, place_on

# Left free on a GPU for what no forecast sees: fragments, another program's window.
_MARGIN_SHARE = 0.03
_HOST_SHARE = 0.8  # of what is available on a host
_MARGIN_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """What the operator allows. Bytes; None: what is free at the start, less a margin."""

    gpu_bytes: int | None = None  # of each GPU
    host_bytes: int | None = None
    waiting: int = 32
    waiting_per_person: int = 4
    idle_s: float = 0.0  # unload a model that nobody has used for this long; 0: never
    worker_silence_s: float = 30.0  # kill a busy worker that gives no sign of life for this long
    spare_workers: int = 0  # started, and holding nothing (spare_workers.py)
    measures_defaults: bool = False  # flash attention, threads and context by a measurement (engine_choices.py)


class Budgets:
    """Owns what other programs hold. Guarded by the handles' lock, which its methods take."""

    def __init__(
        self,
        limits: PoolLimits,
        gpus: Sequence[GpuMemory],
        host: HostMemory,
        handles: Handles,
        forecasts: Forecasts,
    ) -> None:
        self._limits = limits
        self._handles = handles
        self._forecasts = forecasts
        self._hosts = {HOST: host_budget(limits.host_bytes, host)}  # of each machine's host
        self._available: dict[str, int] = {}  # of the hosts of other machines, as their agents saw it last
        self._total = {gpu.place: gpu.total_bytes for gpu in gpus}
        self._others = {gpu.place: gpu.used_bytes for gpu in gpus}  # what other programs hold, by GPU

    @property
    def others(self) -> Mapping[str, int]:
        """Bytes that other programs hold, by GPU."""
        return dict(self._others)

    def by_place(self) -> dict[str, int]:
        """What all workers on a place may take together."""
        with self._handles.changed:
            budgets = dict(self._hosts)
            for place, available in self._available.items():
                own = sum(handle.bytes.get(place, 0) for handle in self._handles.all())
                budgets[place] = min(budgets[place], own + int(_HOST_SHARE * available))
            for place, total in self._total.items():
                room = total - self._others.get(place, 0) - max(_MARGIN_BYTES, int(_MARGIN_SHARE * total))
                budgets[place] = max(0, min(room, self._limits.gpu_bytes or room))
            return budgets

    def join(self, machine: Joined) -> None:
        with self._handles.changed:
            self._hosts[place_on(machine.name, HOST)] = machine.host_bytes
            self._total |= {gpu.place: gpu.total_bytes for gpu in machine.gpus}
            self._others |= {gpu.place: gpu.used_bytes for gpu in machine.gpus}

    def leave(self, name: str) -> None:
        """Its places have no budget any more: the queue gives no turn there."""
        with self._handles.changed:
            self._hosts = {place: n for place, n in self._hosts.items() if machine_of(place) != name}
            self._available.pop(place_on(name, HOST), None)
            self._total = {place: n for place, n in self._total.items() if machine_of(place) != name}

    def observe(self, gpus: Sequence[GpuMemory], listed: Mapping[int, Mapping[str, int]]) -> None:
        """Note what other programs hold: what the GPUs report as used, less what the pool's workers hold."""
        with self._handles.changed:
            workers = [(h.worker.pid, h.bytes) for h in self._handles.all() if h.worker is not None and h.worker.alive]
            for gpu in gpus:
                own = sum(listed.get(pid, bytes).get(gpu.place, 0) for pid, bytes in workers)
                self._others[gpu.place] = max(0, gpu.used_bytes - own)

    def observe_hosts(self, machines: Sequence[MachineMemory]) -> None:
        """Note what is left on other machines, where another page may have workers too."""
        with self._handles.changed:
            left = {place_on(machine.name, HOST): machine.host_available_bytes for machine in machines}
            self._available = {place: n for place, n in left.items() if n is not None and place in self._hosts}

    def choose(
        self, needs: Sequence[Mapping[str, int]], kept: Handle | None, *, leased_stay: bool = True
    ) -> Placement | None:
        """Where a worker goes that may be put in one of several ways, and what gives way to it (placement.py)."""
        with self._handles.changed:
            return placement.choose(needs, self._handles.residents(kept, leased_stay=leased_stay), self.by_place())

    def evictions(self, need: Mapping[str, int]) -> tuple[str, ...] | None:
        """What has to be unloaded so that `need` fits; None if it cannot fit now."""
        with self._handles.changed:
            return placement.evictions(need, self._handles.residents(), self.by_place())

    def fits(self, wanted: Mapping[WorkerSpec, Sequence[Places]]) -> bool:
        """Whether all of `wanted` can be loaded at once, each at one of its places, if everything idle gives way."""
        with self._handles.changed:
            room, needed = self.by_place(), set[str]()
            staying = [h for h in self._handles.all() if not h.leaving and (h.leased or h.usable)]
            loaded = {h.spec: h for h in staying if h.places in wanted.get(h.spec, ())}
            for handle in staying:
                if (handle.leased or handle.pinned) and handle not in loaded.values():
                    _take(room, handle.bytes)
            for spec, options in wanted.items():
                current = loaded.get(spec)
                roomiest = max(options, key=lambda way: min(room.get(place, 0) for place in way))
                places = current.places if current else roomiest
                forecast = self._forecasts.of(spec, places)
                if current is None:
                    need = forecast.bytes
                elif current.spec.context == spec.context:
                    need = dict(current.bytes)
                else:
                    need = larger(forecast, current.bytes)
                _take(room, need)
                needed |= need.keys()
        return all(room.get(place, -1) >= 0 for place in needed)


def host_budget(limit: int | None, host: HostMemory) -> int:
    """`limit`: what the operator allows."""
    return limit or int(_HOST_SHARE * host.available_bytes)


def growth(forecast: Forecast, held: Mapping[str, int]) -> dict[str, int]:
    """What a forecast takes beyond what is held already, by place."""
    return {place: n - held.get(place, 0) for place, n in forecast.bytes.items() if n > held.get(place, 0)}


def larger(forecast: Forecast, held: Mapping[str, int]) -> dict[str, int]:
    """The larger of what is forecast and what is held already, by place."""
    return {**held, **{place: max(n, held.get(place, 0)) for place, n in forecast.bytes.items()}}


def _take(room: dict[str, int], bytes: Mapping[str, int]) -> None:
    for place, n in bytes.items():
        room[place] = room.get(place, 0) - n
