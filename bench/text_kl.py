"""The KL divergence of two language models on plain text, as `llama-perplexity --kl-divergence` computes it, but by the
app's engine. `python -m bench.text_kl BASE QUANTIZED TEXT N_CTX CHUNKS` prints mean, maximum and share of the same top
token; bench/lab.py holds them against llama-perplexity's own."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from threading import Event

from llama_cpp import llama_cpp as C

from playground.engine import loading, scoring
from playground.engine.language import LanguageModel
from playground.engine.protocol import EncodedPrompt, Measure, Record, TextChunk
from playground.values.request import Runtime


def main() -> None:
    base_path, path, text, n_ctx, n_chunks = *sys.argv[1:4], int(sys.argv[4]), int(sys.argv[5])
    loading.start()
    base, quantized = LanguageModel(base_path, n_gpu_layers=0), LanguageModel(path, n_gpu_layers=0)
    vocabulary = C.llama_model_get_vocab(base._model)
    raw = Path(text).read_bytes()
    buffer = (C.llama_token * (len(raw) + 8))()
    tokens = list(buffer[: C.llama_tokenize(vocabulary, raw, len(raw), buffer, len(buffer), True, False)])
    runtime = Runtime(n_ctx=n_ctx + 8, n_batch=n_ctx, n_threads=1, flash_attention=False)
    drifts = []
    with tempfile.TemporaryDirectory() as folder:
        for begin in range(0, n_chunks * n_ctx, n_ctx):
            chunk = tokens[begin : begin + n_ctx]
            if C.llama_vocab_get_add_bos(vocabulary):
                chunk[0] = C.llama_vocab_bos(vocabulary)
            # llama-perplexity looks at the second half of each chunk, and at no token behind its end.
            known = n_ctx // 2 + 1
            prompt = EncodedPrompt((TextChunk(tuple(chunk[:known])),), base.n_embd, "", 0.0, None)
            rest, record = tuple(chunk[known:-1]), f"{folder}/record"
            scoring.record(base, Record(prompt, rest, runtime, record), cancelled=Event())
            drifts += scoring.measure(quantized, Measure(prompt, rest, runtime, record), cancelled=Event())
    print(
        json.dumps(
            {
                "n": len(drifts),
                "mean": sum(d.kl for d in drifts) / len(drifts),
                "max": max(d.kl for d in drifts),
                "same_top": sum(d.same_top for d in drifts) / len(drifts),
            }
        )
    )


if __name__ == "__main__":
    main()
