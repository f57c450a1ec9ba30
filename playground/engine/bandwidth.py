"""Measures the bandwidth of the device's memory: the upper limit of the decode speed."""

from __future__ import annotations

import ctypes
import time

from playground.engine import llama_log, loading
from playground.engine.ggml import CPU, GPU, INTEGRATED_GPU, POINTER, SIZE, TEXT, Memory, function
from playground.engine.protocol import Bandwidth, MeasureBandwidth
from playground.errors import EngineError

_F32 = 0  # ggml_type
_LONG_ENOUGH_S = 0.2
_ROUND_S = 0.01  # a round this long hides the time that starting and waiting take


def measure_bandwidth(request: MeasureBandwidth) -> Bandwidth:
    """Copy one buffer to another with ggml, on the first GPU, else with all CPU cores. Everything is freed again.

    Returns bytes read plus bytes written per second. Raises EngineError if the device has no room for the buffers.
    """
    device_of = function("ggml_backend_dev_by_type", POINTER, ctypes.c_int)
    device = device_of(GPU) or device_of(INTEGRATED_GPU) or device_of(CPU)
    backend = function("ggml_backend_dev_init", POINTER, POINTER, TEXT)(device, None)
    if not backend:
        raise EngineError("ggml could not start its device.", llama_log.last_lines())
    room = 3 * function("ggml_tensor_overhead", SIZE)() + function("ggml_graph_overhead", SIZE)()
    context = function("ggml_init", POINTER, Memory)(Memory(room, None, True))
    try:
        _use_all_cores(device, backend)
        tensor = function("ggml_new_tensor_1d", POINTER, POINTER, ctypes.c_int, ctypes.c_int64)
        source, target = tensor(context, _F32, request.bytes // 4), tensor(context, _F32, request.bytes // 4)
        copied = function("ggml_cpy", POINTER, POINTER, POINTER, POINTER)(context, source, target)
        graph = function("ggml_new_graph", POINTER, POINTER)(context)
        function("ggml_build_forward_expand", None, POINTER, POINTER)(graph, copied)
        buffer = function("ggml_backend_alloc_ctx_tensors", POINTER, POINTER, POINTER)(context, backend)
        if not buffer:
            raise EngineError(f"There is no room for two buffers of {request.bytes / 1e6:.0f} MB on the device.")
        try:
            # Until they are written, all pages are one shared page of zeros.
            function("ggml_backend_buffer_clear", None, POINTER, ctypes.c_uint8)(buffer, 1)
            copies_per_s = _copies_per_s(backend, graph)
        finally:
            function("ggml_backend_buffer_free", None, POINTER)(buffer)
    finally:
        function("ggml_free", None, POINTER)(context)
        function("ggml_backend_free", None, POINTER)(backend)
    name: bytes = function("ggml_backend_dev_description", TEXT, POINTER)(device)
    return Bandwidth(2 * (request.bytes // 4 * 4) * copies_per_s, name.decode())


def _copies_per_s(backend: int, graph: int) -> float:
    """Copies per second in the best of several rounds."""
    compute = function("ggml_backend_graph_compute_async", ctypes.c_int, POINTER, POINTER)
    synchronize = function("ggml_backend_synchronize", None, POINTER)
    best, copies, until = 0.0, 1, time.perf_counter() + _LONG_ENOUGH_S
    while (started := time.perf_counter()) < until:
        for _ in range(copies):
            if compute(backend, graph):
                raise EngineError("ggml could not copy memory.", llama_log.last_lines())
        synchronize(backend)
        seconds = time.perf_counter() - started
        best = max(best, copies / seconds)
        if seconds < _ROUND_S:
            copies *= 2
    return best


def _use_all_cores(device: int, backend: int) -> None:
    registry = function("ggml_backend_dev_backend_reg", POINTER, POINTER)(device)
    # A GPU's backend has no such function.
    address = function("ggml_backend_reg_get_proc_address", POINTER, POINTER, TEXT)(
        registry, b"ggml_backend_set_n_threads"
    )
    if address:
        ctypes.CFUNCTYPE(None, POINTER, ctypes.c_int)(address)(backend, loading.physical_cores())
