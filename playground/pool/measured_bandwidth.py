"""Measures how fast each device copies memory: what the speed of an answer is held against."""

from __future__ import annotations

import logging
from dataclasses import replace

from playground.engine import protocol
from playground.errors import EngineError, OutOfMemory
from playground.pool.pool import Pool
from playground.pool.worker_spec import BANDWIDTH

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 256 * 2**20  # each of two buffers: far more than any cache


def measure_missing(pool: Pool) -> None:
    """Measure each device once, in a turn of its own, and keep the figure (Pool.bandwidth).

    Where a device cannot be measured its bandwidth stays unknown.
    """
    for place in pool.devices.gpu_places or pool.devices.host_places:
        if pool.bandwidth(place) is not None:
            continue
        spec = replace(BANDWIDTH, key=(place,), bytes=2 * _BUFFER_BYTES)
        try:
            with pool.turn([spec], where=[(place,)]) as slot, slot.lease(spec) as lease:
                reply = lease.request(protocol.MeasureBandwidth(_BUFFER_BYTES))
            pool.forecasts.keep_bandwidth(place, reply.bytes_per_s)
        except (EngineError, OutOfMemory) as error:
            logger.warning("the memory bandwidth of %s could not be measured: %s", place, error)
        finally:
            pool.unload(spec)
