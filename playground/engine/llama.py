"""The seam to llama.cpp: what the engine needs of the ctypes bindings, with Python types and errors.

llama_cpp has to be imported before numpy: the other order made model loading crash on a machine with an H100
(Python 3.12, numpy 2.5). llama_cpp's own package does so; nothing here imports numpy.
"""

from __future__ import annotations

import codecs
import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import llama_cpp
import psutil
from llama_cpp import llama_cpp as C
from llama_cpp import mtmd_cpp as M

from playground.errors import BadModel, BadPair, EngineError
from playground.values.request import Sampling

GPU_OFFLOAD: bool = bool(C.llama_supports_gpu_offload())

# ggml's log levels (ggml.h; the table in llama_cpp/_logger.py is out of date). CONTINUE goes on with the last line.
_DEBUG, _INFO, _CONTINUE = 1, 2, 5

log_lines: deque[str] = deque(maxlen=200)
_level = _INFO
_listeners: list[Callable[[str], None]] = []


def _log(level: int, text: bytes, _user_data: object) -> None:
    global _level  # noqa: PLW0603  llama.cpp has one logger a process
    if level != _CONTINUE:
        _level = level
    if _level == _DEBUG:
        return
    line = text.decode("utf-8", "replace")
    log_lines.append(line.rstrip("\n"))
    for listener in _listeners:
        listener(line)
    # The parent keeps the last lines of our stderr: what is left of an aborted worker.
    sys.stderr.write(line)
    sys.stderr.flush()


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Hand each piece that llama.cpp logs to `listener`."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


_log_callback = C.llama_log_callback(_log)  # must outlive every call into llama.cpp


def start() -> str:
    """Initialise llama.cpp once a process. Returns the engine's versions in words."""
    C.llama_log_set(_log_callback, None)
    M.mtmd_helper_log_set(_log_callback, None)
    C.llama_backend_init()
    build = C.llama_version().decode()
    return f"llama-cpp-python {llama_cpp.__version__} (llama.cpp {build})"


# Below this size one thread is as fast as two, and with two every barrier (200 a token) can cost a time slice as soon
# as anything else runs on the machine: measured 4-14 tok/s instead of 800 (bench/README.md).
_ONE_THREAD_BYTES = 32 * 2**20


def default_threads(model_bytes: int) -> int:
    """Physical cores that this process may use: decoding is bound by memory, a second thread on a core slows it."""
    return 1 if model_bytes < _ONE_THREAD_BYTES else physical_cores()


def physical_cores() -> int:
    """That this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(usable, psutil.cpu_count(logical=False) or usable))


def flash_attention(wanted: bool | None, on_gpu: bool) -> int:
    """On the CPU flash attention costs a quarter of the decode speed (bench/README.md), so it is off there."""
    if wanted is None:
        return int(C.LLAMA_FLASH_ATTN_TYPE_AUTO if on_gpu else C.LLAMA_FLASH_ATTN_TYPE_DISABLED)
    return int(C.LLAMA_FLASH_ATTN_TYPE_ENABLED if wanted else C.LLAMA_FLASH_ATTN_TYPE_DISABLED)


def load_model(path: str, *, n_gpu_layers: int = 0, weights: bool = True) -> C.llama_model_p:
    """Load a GGUF language model; without weights its vocabulary, hyper-parameters and what size its tensors have.

    Raises BadModel or EngineError with llama.cpp's reason.
    """
    params = C.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    if not weights:
        # Not vocab_only, which leaves the embedding width at 0. no_alloc with mmap aborts the process.
        params.no_alloc = True
        params.load_mode = C.LLAMA_LOAD_MODE_NONE
    log_lines.clear()
    model = C.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise explain(f"llama.cpp could not load {os.path.basename(path)}.")
    return model


def load_projector(
    path: str, model: C.llama_model_p, *, use_gpu: bool, n_threads: int, observer: Any = None
) -> M.mtmd_context_p:
    """Load a projector for `model`. Its media marker is random, so that no prompt can contain it.

    `observer`: a ggml_backend_sched_eval_callback that hears of every node; the caller keeps it alive.
    Raises BadPair, BadModel or EngineError with llama.cpp's reason.
    """
    params = M.mtmd_context_params_default()
    params.use_gpu = use_gpu
    params.n_threads = n_threads
    params.print_timings = False
    params.media_marker = f"<__media_{os.urandom(8).hex()}__>".encode()
    if observer is not None:
        params.cb_eval = observer
    log_lines.clear()
    context = M.mtmd_init_from_file(path.encode(), model, params)
    if not context:
        raise explain(f"llama.cpp could not load {os.path.basename(path)} as a projector.")
    if not M.mtmd_support_vision(context):
        M.mtmd_free(context)
        raise BadPair(
            f"{os.path.basename(path)} has no vision encoder (it may be for audio). Choose an image projector."
        )
    return context


_SHORT = "another program may have taken it. Run again when it is free, or choose a smaller quantization or context."


def explain(message: str) -> EngineError | BadModel:
    """The error that llama.cpp's last log lines tell of, with a remedy where we know one."""
    text = "\n".join(log_lines)
    if width := re.search(r"mismatch between text model \(n_embd = (\d+)\) and mmproj \(n_embd = (\d+)\)", text):
        return BadPair(
            f"The projector does not fit the language model: it writes {width[2]} values per image token, the model "
            f"reads {width[1]}. Use the mmproj file that was published with this model."
        )
    if "CLIP cannot be used as main model" in text:
        return BadModel("This is a projector (mmproj), not a language model. Swap the two files.")
    if unknown := re.search(r"unknown model architecture: '([^']*)'", text):
        return BadModel(f"This llama.cpp does not know the architecture '{unknown[1]}'. A newer llama-cpp-python may.")
    if re.search(r"(unable|failed) to allocate|out of memory", text):
        return EngineError(f"{message} There was not enough memory: {_SHORT}", tuple(log_lines)[-20:])
    if "is corrupted or incomplete" in text:
        return BadModel("The file is cut short or damaged. Download it again.")
    reasons = [line for line in log_lines if "error" in line.lower() or "fail" in line.lower()]
    return EngineError(f"{message} {reasons[-1].strip() if reasons else ''}".strip(), tuple(log_lines)[-20:])


def context_bytes(lines: Iterable[str], *, on_gpu: bool) -> tuple[int | None, int | None]:
    """What llama.cpp logged while it made a context: bytes of its caches (a sliding window and a recurrent state have
    their own), and of its compute buffers on the GPUs, or on the host. None: it said nothing of that."""
    text = "".join(lines)
    caches = re.findall(r": size = +([\d.]+) MiB \( *\d+ cells", text)
    # CPU and, pinned for transfers, CUDA_Host are the host's; CUDA0, Vulkan1 are not.
    buffers = re.findall(r"(\S+) +compute buffer size = +([\d.]+) MiB", text)
    compute = [mib for name, mib in buffers if on_gpu is not (name == "CPU" or name.endswith("_Host"))]
    return _mib(caches), _mib(compute)


def _mib(sizes: list[str]) -> int | None:
    return round(sum(map(float, sizes)) * 2**20) if sizes else None


def metadata(model: C.llama_model_p, key: str) -> str | None:
    """A metadata value of the GGUF file as text, or None."""
    buffer = ctypes.create_string_buffer(1)
    length = C.llama_model_meta_val_str(model, key.encode(), buffer, 1)
    if length < 0:
        return None
    buffer = ctypes.create_string_buffer(length + 1)
    C.llama_model_meta_val_str(model, key.encode(), buffer, length + 1)
    return buffer.value.decode("utf-8", "replace")


class Vocabulary:
    """Token ids to bytes, and which ids end a text."""

    def __init__(self, model: C.llama_model_p) -> None:
        self._vocab = C.llama_model_get_vocab(model)
        self.n_tokens: int = C.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}

    def ends_text(self, token_id: int) -> bool:
        return bool(C.llama_vocab_is_eog(self._vocab, token_id))

    def special_text(self, token_id: int) -> str:
        """The text of a control token, such as <s>, for a chat template; empty if there is none."""
        if token_id < 0:
            return ""
        text = C.llama_vocab_get_text(self._vocab, token_id)
        return text.decode("utf-8", "replace") if text else ""

    @property
    def bos(self) -> str:
        return self.special_text(C.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> str:
        return self.special_text(C.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(C.llama_vocab_get_add_bos(self._vocab))

    def any_token(self) -> int:
        """A token that is certain to exist, for warming up."""
        bos = int(C.llama_vocab_bos(self._vocab))
        return bos if bos >= 0 else 0

    def piece(self, token_id: int) -> bytes:
        """The bytes that a token writes; control tokens write none."""
        known = self._pieces.get(token_id)
        if known is None:
            buffer = ctypes.create_string_buffer(64)
            length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, False)
            if length < 0:
                buffer = ctypes.create_string_buffer(-length)
                length = C.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, False)
            known = self._pieces[token_id] = buffer.raw[:length]
        return known


class TextStream:
    """Turns token bytes into text that can be shown: whole characters, and nothing of a stop text."""

    def __init__(self, stop: Iterable[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = [s for s in stop if s]
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes, *, last: bool = False) -> str:
        """Returns the text that is now certain. Sets `stopped` when a stop text has come."""
        text = self._held + self._decoder.decode(piece, final=last)
        self._held = ""
        found = [position for s in self._stop if (position := text.find(s)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        if not last:
            held = max((_overlap(text, s) for s in self._stop), default=0)
            if held:
                text, self._held = text[:-held], text[-held:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def sampler_chain(sampling: Sampling, n_vocab: int) -> C.llama_sampler_p:
    """llama.cpp's samplers in the order of its common library. The caller frees the chain."""
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    add = C.llama_sampler_chain_add
    if sampling.repeat_penalty != 1:
        add(chain, C.llama_sampler_init_penalties(n_vocab, 64, sampling.repeat_penalty, 0.0, 0.0))
    if sampling.greedy:
        add(chain, C.llama_sampler_init_greedy())
        return chain
    if sampling.top_k > 0:
        add(chain, C.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        add(chain, C.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        add(chain, C.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, C.llama_sampler_init_temp(sampling.temperature))
    add(chain, C.llama_sampler_init_dist(sampling.seed & 0xFFFFFFFF))
    return chain
