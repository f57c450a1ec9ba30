"""An importance matrix from plain text, as `llama-imatrix` makes it, but by the app's engine.
`python -m bench.text_importance MODEL TEXT N_CTX CHUNKS OUT`; bench/lab.py holds it against llama-imatrix's own."""

from __future__ import annotations

import sys
from pathlib import Path
from threading import Event

from llama_cpp import llama_cpp as C

from playground.engine import loading, scoring
from playground.engine.importance import Importance
from playground.engine.language import LanguageModel
from playground.engine.protocol import EncodedPrompt, Score, TextChunk, WriteImportance
from playground.values.request import Runtime


def main() -> None:
    path, text, n_ctx, n_chunks, out = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    loading.start()
    importance = Importance()
    model = LanguageModel(path, n_gpu_layers=0, importance=importance)
    vocabulary = C.llama_model_get_vocab(model._model)
    raw = Path(text).read_bytes()
    buffer = (C.llama_token * (len(raw) + 8))()
    tokens = list(buffer[: C.llama_tokenize(vocabulary, raw, len(raw), buffer, len(buffer), True, False)])
    runtime = Runtime(n_ctx=n_ctx + 8, n_batch=n_ctx, n_threads=1, flash_attention=False)
    for begin in range(0, n_chunks * n_ctx, n_ctx):
        chunk = tokens[begin : begin + n_ctx]
        if C.llama_vocab_get_add_bos(vocabulary):
            chunk[0] = C.llama_vocab_bos(vocabulary)
        # llama-imatrix wants the logits of every token, so that the last layer computes them all.
        prompt = EncodedPrompt((TextChunk((chunk[0],)),), model.n_embd, "", 0.0, None)
        scoring.score(model, Score(prompt, tuple(chunk[1:]), runtime), cancelled=Event())
    importance.write(WriteImportance(out, Path(text).name))


if __name__ == "__main__":
    main()
