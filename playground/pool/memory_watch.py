"""Reads the sensors around each load and unload: what a worker took, and whether its memory came back."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Condition

from playground.pool.contract import Sensors
from playground.pool.forecast import Forecasts
from playground.pool.handles import Handle
from playground.pool.turn_order import Places
from playground.values.memory import host_of, is_host

logger = logging.getLogger(__name__)

# NVML shows memory as free up to 1.5 s after a process ended (H100); what is not back then is lost.
_BACK_S = 5.0
_BACK_POLL_S = 0.05


class MemoryWatch:
    """Owns the alarms, and the count of loads and unloads, which the handles' lock guards."""

    def __init__(self, sensors: Sensors, forecasts: Forecasts, changed: Condition) -> None:
        self._sensors = sensors
        self._forecasts = forecasts
        self._changed = changed
        self._moving = 0  # workers that are being loaded or unloaded now
        self._moves = 0  # how many ever were
        self._alarms: deque[str] = deque(maxlen=20)

    @property
    def alarms(self) -> tuple[str, ...]:
        return tuple(self._alarms)

    @property
    def at_rest(self) -> int | None:
        """Names the current state of rest, the same until the next load or unload; None while one is under way."""
        with self._changed:
            return self._moves if self._moving == 0 else None

    @property
    def moves(self) -> int:
        with self._changed:
            return self._moves

    @contextmanager
    def moving(self) -> Iterator[Callable[[], bool]]:
        """Held while memory changes. Gives a function: whether nothing else has been loaded or unloaded meanwhile."""
        with self._changed:
            self._moving += 1
            self._moves += 1
            first, alone = self._moves, self._moving == 1
        try:
            yield lambda: alone and self._moves == first
        finally:
            with self._changed:
                self._moving -= 1

    @contextmanager
    def growth(self, places: Places, grown: list[int | None]) -> Iterator[None]:
        """Adds to `grown` how many bytes more these GPUs hold at the end; None if others moved meanwhile."""
        with self.moving() as is_alone:
            before = self.used_bytes()
            yield
            after = self.used_bytes()
            is_known = is_alone() and before.keys() & after.keys() >= {place for place in places if not is_host(place)}
            grown.append(
                sum(after[place] - before[place] for place in places if not is_host(place)) if is_known else None
            )

    def used_bytes(self) -> dict[str, int]:
        return {gpu.place: gpu.used_bytes for gpu in self._sensors.gpus()}

    def is_hidden(self, handle: Handle) -> bool:
        """Whether the driver does not list the process of a worker on a GPU."""
        assert handle.worker is not None
        return handle.is_on_gpu and handle.worker.pid not in self._sensors.gpu_processes()

    def weigh(self, handle: Handle) -> None:
        """Note what a worker takes, and teach it to the forecasts."""
        assert handle.worker is not None
        process = self._sensors.process(handle.worker.pid)
        if handle.is_on_gpu:
            on_gpu = self._sensors.gpu_processes().get(handle.worker.pid, {})
            if not on_gpu and handle.difference is not None:
                on_gpu = dict.fromkeys(handle.places, handle.difference // len(handle.places))
            measured, on_host = sum(on_gpu.values()) if on_gpu else None, process.own_bytes
        else:
            on_gpu, measured, on_host = {}, process.resident_bytes, process.resident_bytes
        handle.bytes = {**handle.bytes, **on_gpu, **({} if on_host is None else {host_of(handle.places[0]): on_host})}
        if measured is not None:
            handle.peak = max(handle.peak or 0, measured)
            if handle.peak > handle.learned:
                handle.learned = handle.peak
                self._forecasts.measured(handle.spec, handle.places, handle.peak)

    def await_return(self, gone: Sequence[Handle], before: Mapping[str, int], is_alone: Callable[[], bool]) -> None:
        """Block until the memory of stopped workers is free again. After 5 s raise an alarm and return."""
        deadline = time.monotonic() + _BACK_S
        while gone:
            listed, used = self._sensors.gpu_processes(), self.used_bytes()
            still_listed = any(h.worker is not None and h.worker.pid in listed for h in gone)
            lost = _lost(gone, before, used) if is_alone() else {}
            if not still_listed and not lost:
                return
            if time.monotonic() > deadline:
                self._raise_alarm(gone, lost)
                return
            time.sleep(_BACK_POLL_S)

    def _raise_alarm(self, gone: Sequence[Handle], lost: Mapping[str, int]) -> None:
        files = ", ".join(handle.spec.file for handle in gone)
        finding = ", ".join(f"{gib(n)} on {place}" for place, n in lost.items()) or "its process is still listed"
        alarm = (
            f"{time.strftime('%H:%M:%S')} GPU memory has not come back {_BACK_S:.0f} s after {files} was unloaded: "
            f"{finding}."
        )
        self._alarms.append(alarm)
        logger.warning("%s", alarm)


def _lost(gone: Sequence[Handle], before: Mapping[str, int], used: Mapping[str, int]) -> dict[str, int]:
    """By place, how much of 80 % of what the workers held last is not free again."""
    held: dict[str, int] = {}
    for handle in gone:
        for place in handle.places if handle.peak is not None else ():
            held[place] = held.get(place, 0) + handle.bytes.get(place, 0)
    known = before.keys() & used.keys()
    short = {place: used[place] - before[place] + int(0.8 * held[place]) for place in held.keys() & known}
    return {place: n for place, n in short.items() if n > 0}


def gib(n: int) -> str:
    return f"{n / 2**30:.1f} GiB"
