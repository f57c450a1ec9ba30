"""Starts the workers of this machine, each in a process that sees only its own GPUs."""

from __future__ import annotations

from collections.abc import Sequence

from playground.pool.process import SILENCE_S, WorkerProcess
from playground.pool.turn_order import Places
from playground.values.memory import HOST, GpuMemory

# llama.cpp allocates and frees the embeddings' host buffer for every batch, and glibc gives it back to the kernel each
# time: page faults for 6 MB. Kept, an image's prompt is read in 2-18 % less time (H100, 3 B and 7 B, two runs).
_KEEPS_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}


class LocalWorkers:
    """A WorkerFactory (contract.py)."""

    def __init__(self, gpus: Sequence[GpuMemory], silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._uuids = {gpu.place: gpu.uuid for gpu in gpus}

    def __call__(self, name: str, places: Places) -> WorkerProcess:
        return WorkerProcess(name, self.environment(places), silence_s=self._silence_s)

    def environment(self, places: Places) -> dict[str, str]:
        """A worker sees its own GPUs alone. A worker on the host sees none, so it takes no memory of a GPU."""
        if not self._uuids:
            return {}
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self._uuids[place] for place in places if place != HOST)}
        return visible if places == (HOST,) else visible | _KEEPS_FREED_MEMORY
