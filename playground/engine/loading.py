"""Starts llama.cpp and loads its files: a language model, with or without weights, and a projector.

llama_cpp has to be imported before numpy: the other order made model loading crash on a machine with an H100
(Python 3.12, numpy 2.5). llama_cpp's own package does so; nothing here imports numpy.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import llama_cpp
from llama_cpp import llama_cpp as C
from llama_cpp import mtmd_cpp as M

from playground.engine import llama_log
from playground.errors import BadPair
from playground.support import cgroup
from playground.values.overrides import CacheType
from playground.values.request import ANY, ImageTokens, Runtime

GPU_OFFLOAD: bool = bool(C.llama_supports_gpu_offload())


def start() -> str:
    """Initialise llama.cpp. Call it once per process. Returns the versions of llama-cpp-python and llama.cpp."""
    llama_log.attach()
    C.llama_backend_init()
    build = C.llama_version().decode()
    return f"llama-cpp-python {llama_cpp.__version__} (llama.cpp {build})"


# Below this size one thread is as fast as two, and with two every barrier (200 a token) can cost a time slice as soon
# as anything else runs on the machine: measured 4-14 tok/s instead of 800 (bench/README.md).
_ONE_THREAD_BYTES = 32 * 2**20


def default_threads(model_bytes: int) -> int:
    """One thread for a small model, else one per physical core: a second thread on a core slows decoding down, since
    memory limits it."""
    return 1 if model_bytes < _ONE_THREAD_BYTES else physical_cores()


def physical_cores() -> int:
    """The number of physical cores that this process may use, also by its container's limits."""
    return cgroup.usable_cores()


def flash_attention(runtime: Runtime, on_gpu: bool) -> int:
    """The llama_flash_attn_type. By default (None) it is off on the CPU, where it costs a quarter of the decode speed
    (bench/README.md), unless the cache's values are quantized, which need it."""
    wanted = runtime.flash_attention
    if wanted is None and runtime.needs_flash_attention:
        wanted = True
    if wanted is None:
        return int(C.LLAMA_FLASH_ATTN_TYPE_AUTO if on_gpu else C.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    return int(C.LLAMA_FLASH_ATTN_TYPE_ENABLED if wanted else C.LLAMA_FLASH_ATTN_TYPE_DISABLED)


def cache_type(kind: CacheType | None) -> int:
    """The ggml_type."""
    return int(getattr(C, f"GGML_TYPE_{(kind or CacheType.F16).upper()}"))


def load_model(path: str, *, n_gpu_layers: int = 0, weights: bool = True) -> C.llama_model_p:
    """Load a GGUF language model; without weights: its vocabulary, hyper-parameters and tensor sizes only.

    Raises BadModel or EngineError with llama.cpp's reason.
    """
    params = C.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    if not weights:
        # Not vocab_only, which leaves the embedding width at 0. no_alloc with mmap aborts the process.
        params.no_alloc = True
        params.load_mode = C.LLAMA_LOAD_MODE_NONE
    llama_log.clear()
    model = C.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise llama_log.explain(f"llama.cpp could not load {os.path.basename(path)}.")
    return model


def load_projector(
    path: str,
    model: C.llama_model_p,
    *,
    use_gpu: bool,
    n_threads: int,
    image_tokens: ImageTokens = ANY,
    observer: Any = None,
    warm: bool = True,
) -> M.mtmd_context_p:
    """Load a projector for `model`, with a media marker of its own.

    image_tokens: the least and the most of an image, for an encoder that resizes images. None: as the file says.
    warm: let llama.cpp encode something first.
    observer: a ggml_backend_sched_eval_callback that is called for every graph node; the caller keeps it alive.
    Raises BadPair, BadModel or EngineError with llama.cpp's reason.
    """
    params = M.mtmd_context_params_default()
    params.use_gpu = use_gpu
    params.n_threads = n_threads
    params.print_timings = False
    params.warmup = warm
    params.media_marker = media_marker().encode()
    params.image_min_tokens, params.image_max_tokens = (tokens or -1 for tokens in image_tokens)
    if observer is not None:
        params.cb_eval = observer
    llama_log.clear()
    context = M.mtmd_init_from_file(path.encode(), model, params)
    if not context:
        raise llama_log.explain(f"llama.cpp could not load {os.path.basename(path)} as a projector.")
    if not M.mtmd_support_vision(context):
        M.mtmd_free(context)
        raise BadPair(
            f"{os.path.basename(path)} has no vision encoder (it may be for audio). Choose an image projector."
        )
    return context


def media_marker() -> str:
    """A text that stands for an image. It is random, so that no prompt can contain it."""
    return f"<__media_{os.urandom(8).hex()}__>"


def metadata(model: C.llama_model_p, key: str) -> str | None:
    """A metadata value of the GGUF file as text; None if the key is missing."""
    buffer = ctypes.create_string_buffer(1)
    length = C.llama_model_meta_val_str(model, key.encode(), buffer, 1)
    if length < 0:
        return None
    buffer = ctypes.create_string_buffer(length + 1)
    C.llama_model_meta_val_str(model, key.encode(), buffer, length + 1)
    return buffer.value.decode("utf-8", "replace")
