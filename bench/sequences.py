"""Many sequences in one context: one cache for all (kv_unified) against a cache for each. What decision 0025 rests on.

With one cache a prompt's attention goes over the cells of all sequences, whatever the mask says; with a cache for each,
a prefix that several share is copied, and what has ended in the middle splits a batch.

A child process does the work: llama_cpp has to be imported before numpy (playground/engine/loading.py).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench import engine

_DEPTH, _STEPS, _ROOM = 600, 12, 64  # tokens of a prompt, of an answer, and that an answer has room for
_WAYS = ("one cache", "a cache for each", "one cache, one prompt shared")


def measure(ready: engine.Bench) -> dict[str, float]:
    """Of F16 and Q4_K_M, by sequences and way: tokens a second of their prompts, and of their answers."""
    speeds: dict[str, float] = {}
    for variant in (v for v in ready.variants if v.model.quantization in ("F16", "Q4_K_M")):
        command = [sys.executable, "-m", "bench.sequences", variant.model.path, str(int(ready.gpu)), str(ready.threads)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                name = f"{variant.model.quantization.lower()}, {json.loads(line)['way']}"
                prompt, answer = (json.loads(line)[what] for what in ("prompt", "answer"))
                print(f"  {name:50} prompts {prompt:9.0f} tok/s, answers {answer:9.1f} tok/s", flush=True)
                speeds |= {f"{name}, prompts": prompt, f"{name}, answers": answer}
        if process.returncode:
            raise RuntimeError(f"bench.sequences ended with {process.returncode}")
    return speeds


def main(path: str, on_gpu: bool, n_threads: int) -> None:
    from llama_cpp import llama_cpp as C  # noqa: PLC0415  before numpy

    C.llama_backend_init()
    params = C.llama_model_default_params()
    params.n_gpu_layers = -1 if on_gpu else 0
    model = C.llama_model_load_from_file(path.encode(), params)
    n_batch = 1024 if on_gpu else 512
    batch = C.llama_batch_init(n_batch, 0, 1)

    def context(n: int, way: str) -> Any:
        given = C.llama_context_default_params()
        shared = way == _WAYS[2]
        given.n_seq_max = n + shared
        given.kv_unified = way != _WAYS[1]
        each = -(-(_DEPTH + _ROOM) // 256) * 256
        given.n_ctx = _DEPTH + n * _ROOM if shared else each * n
        given.n_batch, given.n_ubatch, given.n_outputs_max = n_batch, n_batch, max(32, n + shared)
        given.n_threads = given.n_threads_batch = n_threads
        given.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_ENABLED
        return C.llama_init_from_model(model, given)

    def decode(handle: Any, rows: list[tuple[int, int, int, bool]]) -> None:
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wants_logits) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wants_logits
        if C.llama_decode(handle, batch):
            raise RuntimeError("llama.cpp could not decode")
        C.llama_synchronize(handle)

    for n in (1, 8, 16, 32) if on_gpu else (1, 8):
        for way in _WAYS if n > 1 else _WAYS[:1]:
            handle = context(n, way)
            shared = way == _WAYS[2]
            decode(handle, [(100, 0, 0, True)])  # warm
            C.llama_memory_clear(C.llama_get_memory(handle), False)
            started, n_prompts = time.perf_counter(), 1 if shared else n
            for sequence in range(n_prompts):
                for start in range(0, _DEPTH, n_batch):
                    places = range(start, min(_DEPTH, start + n_batch))
                    decode(handle, [(100 + (7 * i + sequence) % 300, i, sequence, False) for i in places])
            prompt_s = time.perf_counter() - started
            for sequence in range(1, n + 1 if shared else 0):
                C.llama_memory_seq_cp(C.llama_get_memory(handle), 0, sequence, -1, -1)
            times = []
            for k in range(_STEPS):
                started = time.perf_counter()
                decode(handle, [(200 + s + k, _DEPTH + k, s + shared, True) for s in range(n)])
                times.append(time.perf_counter() - started)
            answer = n / statistics.median(times[2:])
            print(
                json.dumps({"way": f"{n}, {way}", "prompt": n_prompts * _DEPTH / prompt_s, "answer": answer}),
                flush=True,
            )
            C.llama_free(handle)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "1", int(sys.argv[3]))
