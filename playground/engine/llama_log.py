"""The log of llama.cpp: keeps its last lines, and reads errors and memory sizes from them."""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from llama_cpp import llama_cpp as C
from llama_cpp import mtmd_cpp as M

from playground.errors import BadModel, BadPair, EngineError
from playground.values.request import ImageTokens

# ggml's log levels (ggml.h; the table in llama_cpp/_logger.py is out of date). CONTINUE extends the last line.
_DEBUG, _INFO, _CONTINUE = 1, 2, 5

_lines: deque[str] = deque(maxlen=200)
_level = _INFO
_listeners: list[Callable[[str], None]] = []


def _log(level: int, text: bytes, _user_data: object) -> None:
    global _level  # noqa: PLW0603  llama.cpp has one logger a process
    if level != _CONTINUE:
        _level = level
    if _level == _DEBUG:
        return
    line = text.decode("utf-8", "replace")
    _lines.append(line.rstrip("\n"))
    for listener in _listeners:
        listener(line)
    # The parent keeps the last lines of our stderr: what is left of an aborted worker.
    sys.stderr.write(line)
    sys.stderr.flush()


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with each piece of text that llama.cpp logs in the block. A piece may be less than a line."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


_log_callback = C.llama_log_callback(_log)  # must outlive every call into llama.cpp


def attach() -> None:
    """Have llama.cpp and mtmd log here. Call it once per process."""
    C.llama_log_set(_log_callback, None)
    M.mtmd_helper_log_set(_log_callback, None)


def clear() -> None:
    """Forget the lines before a call whose error `explain` may have to explain."""
    _lines.clear()


def last_lines() -> tuple[str, ...]:
    """The newest 20, oldest first: what an EngineError carries."""
    return tuple(_lines)[-20:]


_SHORT = "another program may have taken it. Run again when it is free, or choose a smaller quantization or context."


def explain(message: str) -> EngineError | BadModel:
    """The error that the last log lines describe, with a remedy where one is known; `message` says what failed."""
    text = "\n".join(_lines)
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
        return EngineError(f"{message} There was not enough memory: {_SHORT}", last_lines())
    if "is corrupted or incomplete" in text:
        return BadModel("The file is truncated or damaged. Download it again.")
    return EngineError(f"{message} {_reason(_lines)}".strip(), last_lines())


def _reason(lines: Iterable[str]) -> str:
    """The newest line with an error that says more than that a file was not loaded; "" if there is none.

    llama.cpp reports an error once where it happens ("... error loading model: tensor 'x' not found"), and again in
    each caller ("failed to load model").
    """
    errors = [line.strip() for line in lines if re.search("error|fail", line, re.IGNORECASE)]
    telling = [line for line in errors if not re.search(r"failed to load model$|Failed to load CLIP model from", line)]
    if not telling:
        return errors[-1] if errors else ""
    # Without the path, which is in the projector's line.
    return re.sub(r"^.*?(error loading model: |failed to load model '[^']*': )", "", telling[-1])


def context_bytes(lines: Iterable[str], *, on_gpu: bool) -> tuple[int | None, int | None]:
    """Sizes that llama.cpp logged while it made a context, in bytes: of its caches (a sliding window and a recurrent
    state have their own), and of its compute buffers on the GPUs, or on the host. None: not logged."""
    text = "".join(lines)
    caches = re.findall(r": size = +([\d.]+) MiB \( *\d+ cells", text)
    # CPU and, pinned for transfers, CUDA_Host are the host's; CUDA0, Vulkan1 are not.
    buffers = re.findall(r"(\S+) +compute buffer size = +([\d.]+) MiB", text)
    compute = [mib for name, mib in buffers if on_gpu is not (name == "CPU" or name.endswith("_Host"))]
    return _mib(caches), _mib(compute)


def image_warnings(pieces: Iterable[str]) -> tuple[str, ...]:
    """What llama.cpp logged about the quality of an encoder's images, or their tokens, while it loaded a projector."""
    lines = "".join(pieces).splitlines()
    telling = [line for line in lines if re.search(r"image tokens|-image-min-tokens|degraded quality", line)]
    return tuple(re.sub(r"^\w+: ", "llama.cpp: ", line).strip() for line in telling)


def ignores_budget(pieces: Iterable[str], image_tokens: ImageTokens) -> bool:
    """Whether an encoder has none of the limits that it was given: it does not resize images, or by its own limits."""
    text = "".join(pieces)
    side = token_side([text]) or 0
    limits = {int(pixels) for pixels in re.findall(r"image_m(?:in|ax)_pixels: +(\d+)", text)}
    given = {tokens * side**2 for tokens in image_tokens if tokens is not None}
    return bool(given) and not given & limits


def token_side(pieces: Iterable[str]) -> int | None:
    """Pixels of the square that becomes one image token, as logged while a projector was loaded. None: not logged."""
    text = "".join(pieces)
    patch, merge = (re.search(rf"\b{name}: +(\d+)", text) for name in ("patch_size", "n_merge"))
    return int(patch[1]) * int(merge[1]) if patch and merge else None


def encoder_plan(pieces: Iterable[str], *, on_gpu: bool) -> tuple[int | None, int | None]:
    """Bytes of the buffers that a projector's load reserved for an image, and the image's patches. None: not logged."""
    text = "".join(pieces)
    side, patch = re.search(r"warmup with image size = (\d+) x", text), re.search(r"\bpatch_size: +(\d+)", text)
    _, compute = context_bytes([text], on_gpu=on_gpu)
    return compute, (int(side[1]) // int(patch[1])) ** 2 if side and patch else None


def _mib(sizes: list[str]) -> int | None:
    return round(sum(map(float, sizes)) * 2**20) if sizes else None
