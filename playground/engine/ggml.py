"""ggml functions that the bindings leave out, and the devices that ggml sees."""

from __future__ import annotations

import ctypes
from typing import Any

from llama_cpp import _ggml

from playground.engine.protocol import Device

CPU, GPU, INTEGRATED_GPU = 0, 1, 2  # ggml_backend_dev_type

POINTER, SIZE, TEXT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p


class Memory(ctypes.Structure):
    """ggml_init_params of ggml.h."""

    _fields_ = (("mem_size", SIZE), ("mem_buffer", POINTER), ("no_alloc", ctypes.c_bool))


def function(name: str, result: Any, *arguments: Any) -> Any:
    """A function of ggml's library. Raises AttributeError if ggml has no function of this name."""
    symbol = getattr(_ggml.libggml, name)
    symbol.restype, symbol.argtypes = result, arguments
    return symbol


def to_float16(values: Any) -> Any:
    """Rounded as numpy rounds, in a tenth of the time: ggml uses the processor's instructions. `values`: float32."""
    return _converted(values, "float16", "ggml_cpu_fp32_to_fp16")


def to_float32(values: Any) -> Any:
    """`values`: float16."""
    return _converted(values, "float32", "ggml_cpu_fp16_to_fp32")


def _converted(values: Any, dtype: str, name: str) -> Any:
    """`values`: contiguous."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    converted = numpy.empty(values.shape, dtype)
    function(name, None, POINTER, POINTER, ctypes.c_int64)(values.ctypes.data, converted.ctypes.data, values.size)
    return converted


def devices() -> tuple[Device, ...]:
    """The GPUs whose memory only ggml reports. CUDA's are left out: NVML reports them, and asking ggml would cost a
    context of half a GB on each."""
    device_at = function("ggml_backend_dev_get", POINTER, SIZE)
    kind = function("ggml_backend_dev_type", ctypes.c_int, POINTER)
    name = function("ggml_backend_dev_name", TEXT, POINTER)
    description = function("ggml_backend_dev_description", TEXT, POINTER)
    memory = function("ggml_backend_dev_memory", None, POINTER, ctypes.POINTER(SIZE), ctypes.POINTER(SIZE))
    gpus = []
    for i in range(function("ggml_backend_dev_count", SIZE)()):
        device = device_at(i)
        if kind(device) in (GPU, INTEGRATED_GPU) and backend_name(device) != "CUDA":
            free, total = SIZE(), SIZE()
            memory(device, ctypes.byref(free), ctypes.byref(total))
            gpus.append(Device(name(device).decode(), description(device).decode(), total.value, free.value))
    return tuple(gpus)


def backend_name(device: int) -> str:
    """CUDA, ROCm, MTL, Vulkan, CPU ..."""
    registry = function("ggml_backend_dev_backend_reg", POINTER, POINTER)(device)
    registered: bytes = function("ggml_backend_reg_name", TEXT, POINTER)(registry)
    return registered.decode()
