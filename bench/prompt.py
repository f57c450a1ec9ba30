"""A prompt with an image in one batch of embeddings, against text, image and text in three, as the engine makes them.

llama.cpp takes tokens or embeddings in a batch, not both. The text's rows are looked up in the file's embedding table
here, and the whole prompt is one batch. Models that need the ids as well (embeddings of each layer), or whose image has
no causal mask, cannot do so; Gemma's graph scales what it looks up itself, so rows have to be scaled here.

A child process does the work: llama_cpp has to be imported before numpy (playground/engine/loading.py).
"""

from __future__ import annotations

import ctypes
import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import engine

_BEFORE, _IMAGE, _BEHIND = 24, 576, 26  # tokens
_ROUNDS = 12
_THREE, _ONE, _TEXT = "three batches", "one batch of embeddings", "one batch of tokens"


def measure(ready: engine.Bench) -> dict[str, float]:
    """Tokens a second of a prompt in either way, and as text alone, which is what llama-bench measures; and how far the
    next token's log-probabilities lie apart, beside what smaller batches change."""
    figures: dict[str, float] = {}
    for variant in (v for v in ready.variants if v.model.quantization in ("F16", "Q4_K_M")):
        command = [sys.executable, "-m", "bench.prompt", variant.model.path, str(int(ready.gpu)), str(ready.threads)]
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if process.returncode:
            raise RuntimeError(process.stderr[-3000:])
        name = variant.model.quantization.lower()
        numbers: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
        figures |= {f"{name}, {what}": number for what, number in numbers.items()}
    return figures


def main(path: str, on_gpu: bool, n_threads: int) -> None:
    # In this order: with numpy, which gguf imports, before llama_cpp loading a model crashed on a GPU machine.
    from llama_cpp import llama_cpp as C  # noqa: I001, PLC0415

    import gguf  # noqa: PLC0415
    import numpy  # noqa: PLC0415

    C.llama_backend_init()
    params = C.llama_model_default_params()
    params.n_gpu_layers = -1 if on_gpu else 0
    model = C.llama_model_load_from_file(path.encode(), params)
    width, vocabulary = C.llama_model_n_embd_inp(model), C.llama_vocab_n_tokens(C.llama_model_get_vocab(model))
    n = _BEFORE + _IMAGE + _BEHIND
    rng = numpy.random.default_rng(0)
    before, behind, text = (rng.integers(10, vocabulary - 10, count).tolist() for count in (_BEFORE, _BEHIND, n))
    image = (0.02 * rng.standard_normal((_IMAGE, width))).astype("float32")
    (table,) = (t for t in gguf.GGUFReader(path).tensors if t.name == "token_embd.weight")

    def rows(tokens: list[int]) -> Any:
        return gguf.quants.dequantize(table.data[tokens], table.tensor_type).astype("float32")

    started = time.perf_counter()
    whole = numpy.concatenate([rows(before), image, rows(behind)])
    look_up_s = time.perf_counter() - started

    def context(n_ubatch: int) -> Any:
        given = C.llama_context_default_params()
        given.n_ctx, given.n_batch, given.n_ubatch, given.n_outputs_max = 1024, n_ubatch, n_ubatch, 32
        given.n_threads = given.n_threads_batch = n_threads
        given.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_AUTO if on_gpu else C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return C.llama_init_from_model(model, given)

    def decode(handle: Any, part: Any, position: int, last: bool) -> None:
        count = len(part)
        batch = C.llama_batch_init(count, 0 if isinstance(part, list) else width, 1)
        batch.n_tokens = count
        if isinstance(part, list):
            ctypes.memmove(batch.token, (C.llama_token * count)(*part), 4 * count)
        else:
            ctypes.memmove(batch.embd, part.ctypes.data, part.nbytes)
        for i in range(count):
            batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = position + i, 1, 0
            batch.logits[i] = int(last and i == count - 1)
        if C.llama_decode(handle, batch):
            raise RuntimeError("llama.cpp could not decode")
        C.llama_batch_free(batch)

    def read(handle: Any, parts: list[Any]) -> tuple[float, Any]:
        C.llama_memory_clear(C.llama_get_memory(handle), False)
        started, position = time.perf_counter(), 0
        for i, part in enumerate(parts):
            decode(handle, part, position, i == len(parts) - 1)
            position += len(part)
        C.llama_synchronize(handle)
        seconds = time.perf_counter() - started
        logits = numpy.ctypeslib.as_array(C.llama_get_logits_ith(handle, -1), (vocabulary,)).astype("float64")
        return seconds, logits - numpy.logaddexp.reduce(logits)

    ways: dict[str, list[Any]] = {_THREE: [before, image, behind], _ONE: [whole], _TEXT: [text]}
    handle, small = context(1024 if on_gpu else 640), context(256)
    speeds, likely = {}, {}
    for name, parts in ways.items():
        times = []
        for _ in range(_ROUNDS if on_gpu else 3):
            seconds, likely[name] = read(handle, parts)
            times.append(seconds)
        speeds[name] = n / statistics.median(times[1:])
    halves = [before, image[:256], image[256:512], image[512:], behind]
    other = read(small, halves)[1]
    weights = numpy.exp(likely[_THREE])
    numbers = {f"{name}, tok/s": speed for name, speed in speeds.items()} | {
        "one batch of embeddings / three": speeds[_ONE] / speeds[_THREE],
        "one batch of embeddings / of tokens": speeds[_ONE] / speeds[_TEXT],
        "three batches / one of tokens": speeds[_THREE] / speeds[_TEXT],
        "looking up, ms": 1e3 * look_up_s,
        "KL, one batch from three": float((weights * (likely[_THREE] - likely[_ONE])).sum()),
        "KL, smaller batches from three": float((weights * (likely[_THREE] - other)).sum()),
    }
    print(json.dumps(numbers))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]))
