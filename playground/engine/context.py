"""A llama_context: batches in, logits out. Its key-value cache keeps chunks of the prompt before.

A prompt is decoded chunk by chunk as mtmd_helper_eval_chunks does (llama.cpp tools/mtmd/mtmd-helper.cpp). The cache is
kept by whole chunks: a second question on the same image starts behind the image. What it decodes is cut into the same
batches as if nothing had been kept, so its logits are the same bit for bit.
"""

from __future__ import annotations

import ctypes
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine import finite, llama_log
from playground.engine.importance import Importance
from playground.engine.protocol import EncodedPrompt, ImageChunk, TextChunk, n_tokens
from playground.errors import EngineError, Interrupted
from playground.values.engine_defaults import EngineSettings

# Tokens whose logits are on the host at once; 32 x 150,000 logits are 19 MB.
SCORED_AT_ONCE = 32

_USUAL_IMAGE = 576  # tokens of an image, to warm up with: LLaVA's


@dataclass(frozen=True, slots=True)
class ContextKey:
    """The parameters of a llama_context; another value needs another context."""

    n_ctx: int
    n_batch: int  # tokens of text that are decoded at once
    n_ubatch: int  # as many tokens fit at once: the stretch of an image
    n_threads: int
    flash_attention: int
    type_k: int  # a ggml_type
    type_v: int
    n_sequences: int = 1  # that are answered at once; n_ctx is the size of all of them together
    kv_unified: bool = True  # one key-value cache for all sequences; False: one of equal size for each
    n_outputs: int = 0  # tokens of many sequences whose logits are wanted at once; at least 32


class ContextFull(EngineError):
    """No cells are left in the key-value cache; nothing of the batch was decoded."""


class Context:
    """Owns a llama_context, its batch buffers, and the knowledge of what its key-value cache holds."""

    def __init__(self, model: C.llama_model_p, key: ContextKey, importance: Importance | None) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = key.n_ctx
        params.n_batch = params.n_ubatch = key.n_ubatch
        # By default there is room for logits of all tokens of a batch: 300 MB with a vocabulary of 150,000, and as much
        # again with a sampler.
        params.n_outputs_max = min(SCORED_AT_ONCE, key.n_ubatch)
        if key.n_sequences > 1:
            # Sequence 0 holds what the others share: with one cache for all, sharing copies nothing.
            params.n_seq_max = key.n_sequences + key.kv_unified
            params.kv_unified = key.kv_unified
            params.n_outputs_max = min(max(SCORED_AT_ONCE, key.n_sequences, key.n_outputs), key.n_ubatch)
            params.n_outputs_max_per_seq = 1  # with a sampler
        params.n_threads = params.n_threads_batch = key.n_threads
        params.flash_attn_type = key.flash_attention
        params.type_k, params.type_v = key.type_k, key.type_v
        if importance is not None:
            params.cb_eval = importance.callback
        self._observed = importance is not None
        llama_log.clear()
        handle = C.llama_init_from_model(model, params)
        if not handle:
            raise llama_log.explain(f"llama.cpp could not make a context of {key.n_ctx} tokens.")
        self.handle = handle
        self.key = key
        self.n_ctx: int = C.llama_n_ctx_seq(handle)  # tokens that one sequence may hold
        self.read_s = 0.0
        self.batches = 0  # that were decoded
        self._memory = C.llama_get_memory(handle)
        self._n_swa: int = C.llama_model_n_swa(model)
        self._n_pos = 0
        # Whole chunks in the key-value cache: their key and the position behind them.
        self._kept: list[tuple[object, int]] = []
        self._n_batch = key.n_batch
        n = self._n_ubatch = key.n_ubatch
        self._tokens = (C.llama_token * n)()
        self._positions = (C.llama_pos * (4 * n))()
        self._n_seq_id = (ctypes.c_int32 * n)(*([1] * n))
        self._sequence = (C.llama_seq_id * 1)(0)
        self._seq_id = (ctypes.POINTER(C.llama_seq_id) * n)(
            *([ctypes.cast(self._sequence, ctypes.POINTER(C.llama_seq_id))] * n)
        )
        self._wants_logits = (ctypes.c_int8 * n)()

    def close(self) -> None:
        C.llama_free(self.handle)

    @property
    def settings(self) -> EngineSettings:
        attention = {C.LLAMA_FLASH_ATTN_TYPE_ENABLED: True, C.LLAMA_FLASH_ATTN_TYPE_DISABLED: False}
        return EngineSettings(attention.get(self.key.flash_attention), self.key.n_threads, self.n_ctx)

    def synchronize(self) -> None:
        """Wait until a GPU has computed what was decoded."""
        C.llama_synchronize(self.handle)

    def set_threads(self, n_threads: int) -> None:
        """From the next batch on. The key keeps the number that the context was made with."""
        C.llama_set_n_threads(self.handle, n_threads, n_threads)

    def extend(self, token_ids: Sequence[int], cancelled: Event) -> None:
        """Decode up to n_batch tokens behind those in the cache, until the last one's logits are there.

        The cache is not to be used for a prompt afterwards: forget it. Raises Interrupted, EngineError.
        """
        self._decode_tokens(token_ids, cancelled, n_logits=1)
        C.llama_synchronize(self.handle)

    def warm_up(self, token: int, sizes: Sequence[int]) -> None:
        C.llama_set_warmup(self.handle, True)
        for size in sizes:
            n = min(size, self._n_ubatch, self.n_ctx - 1)
            self._decode(self._text_batch([token] * n, n_logits=1))
            C.llama_synchronize(self.handle)
            self.forget()
        C.llama_set_warmup(self.handle, False)

    def warm_up_image(self, n_embd: int) -> None:
        n = min(_USUAL_IMAGE, self._n_ubatch, self.n_ctx - 1)
        # Not zeros: llama.cpp 0.3.36 reads no epsilon for the norms of Qwen2-VL, and zeros become NaN.
        blank = ImageChunk(0, "", n, n, False, b"", array("f", [0.01]).tobytes() * (n * n_embd))
        try:
            self._read_image(blank, Event())
            C.llama_synchronize(self.handle)
        except EngineError:
            pass  # this model needs other positions
        self.wipe()

    def read(self, prompt: EncodedPrompt, cancelled: Event) -> int:
        """Decode the prompt up to its last token's logits. Returns how many of its tokens were still in the cache.

        Sets read_s, the seconds until the logits are there. Raises Interrupted when cancelled, EngineError.
        """
        started = time.perf_counter()
        kept = self._keep(prompt.chunks[:-1])  # the last chunk is always read again: its logits are wanted
        self._read_chunks(prompt.chunks[kept:], cancelled, logits=True)
        self.read_s = time.perf_counter() - started
        return sum(n_tokens(chunk) for chunk in prompt.chunks[:kept])

    def _read_chunks(self, chunks: Sequence[TextChunk | ImageChunk], cancelled: Event, *, logits: bool) -> None:
        """Decode chunks behind those in the cache. `logits`: of the last token."""
        try:
            with self._listening(cancelled):
                self._decode_chunks(chunks, cancelled, logits=logits)
                if logits:  # a GPU computes what is behind the last image of a batch's prompt next
                    C.llama_synchronize(self.handle)
        except BaseException:
            self.forget()
            raise

    @contextmanager
    def _listening(self, cancelled: Event) -> Iterator[None]:
        """Between tokens the caller looks at `cancelled`; within a prompt batch ggml asks (CPU only)."""
        abort = C.ggml_abort_callback(lambda _data: cancelled.is_set())
        C.llama_set_abort_callback(self.handle, abort, None)
        try:
            yield
        finally:
            C.llama_set_abort_callback(self.handle, C.ggml_abort_callback(), None)

    def _decode_chunks(self, chunks: Sequence[TextChunk | ImageChunk], cancelled: Event, *, logits: bool) -> None:
        """As mtmd_helper_eval_chunks does."""
        for i, chunk in enumerate(chunks, start=1):
            if isinstance(chunk, TextChunk):
                self._read_text(chunk, cancelled, logits=logits and i == len(chunks))
            else:
                self._read_image(chunk, cancelled)
            self._kept.append((chunk_key(chunk), self._n_pos))

    def read_answer(self, token_ids: Sequence[int], n_vocabulary: int, cancelled: Event) -> Iterator[Any]:
        """Decode an answer to the prompt that was read. Yields the logits that each token was chosen from, and those
        after the last one: float32 (n_vocabulary), finite, valid until the next. Raises Interrupted, EngineError."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        def logits(i: int) -> Any:
            row = numpy.ctypeslib.as_array(C.llama_get_logits_ith(self.handle, i), (n_vocabulary,))
            finite.check_logits(row)
            return row

        try:
            yield logits(-1)
            step = min(SCORED_AT_ONCE, self._n_batch)
            for start in range(0, len(token_ids), step):
                part = token_ids[start : start + step]
                self._decode_tokens(part, cancelled, n_logits=len(part))
                yield from map(logits, range(len(part)))
        except finite.NotFinite:
            self.wipe()
            raise
        except BaseException:
            self.forget()
            raise

    def decode_token(self, token: int) -> None:
        self._tokens[0] = token
        self._positions[0] = self._n_pos
        self._wants_logits[0] = 1
        self._n_pos += 1
        try:
            self._decode(self._batch(1))
        except EngineError:
            self.forget()
            raise

    def _keep(self, chunks: Sequence[TextChunk | ImageChunk]) -> int:
        """Cut the key-value cache back to the first of `chunks` that it holds. Returns their number."""
        if self._observed:
            # Every question is to count with its image: with the image kept, a second one on it would count as text
            # alone, and the mixture of the two would be an accident of the questions' order.
            self.forget()
            return 0
        n = 0
        limit = min(len(self._kept), len(chunks))
        while n < limit and self._kept[n][0] == chunk_key(chunks[n]):
            n += 1
        if n == 0:
            self.forget()
            return 0
        position = self._kept[n - 1][1]
        # A sliding window may have dropped what the kept end looks back to; recurrent states cannot be cut.
        window_gone = self._n_swa > 0 and C.llama_memory_seq_pos_min(self._memory, 0) > max(0, position - self._n_swa)
        if window_gone or not C.llama_memory_seq_rm(self._memory, 0, position, -1):
            self.forget()
            return 0
        del self._kept[n:]
        self._n_pos = position
        return n

    def forget(self) -> None:
        """Empty the key-value cache: the next prompt is read whole."""
        # The values stay in their cells and are masked: overwriting 2 GB of them takes 0.2 s on a CPU.
        C.llama_memory_clear(self._memory, False)
        self._kept.clear()
        self._n_pos = 0

    def wipe(self) -> None:
        """Empty the key-value cache of all sequences, and overwrite its values where NaN may be among them.

        Attention counts a masked cell as 0 times its value, and 0 times NaN is NaN.
        """
        C.llama_memory_clear(self._memory, True)
        self._kept.clear()
        self._n_pos = 0

    def _read_text(self, chunk: TextChunk, cancelled: Event, *, logits: bool) -> None:
        ids = chunk.token_ids
        for start in range(0, len(ids), self._n_batch):
            part = ids[start : start + self._n_batch]
            ends = start + len(part) == len(ids)
            self._decode_tokens(part, cancelled, n_logits=int(logits and ends))

    def _decode_tokens(self, token_ids: Sequence[int], cancelled: Event, *, n_logits: int) -> None:
        """Decode up to n_batch tokens after those in the cache, with logits for the last `n_logits` of them."""
        self._decode(self._text_batch(token_ids, n_logits), cancelled)

    def _text_batch(self, token_ids: Sequence[int], n_logits: int) -> C.llama_batch:
        n = len(token_ids)
        fill(self._tokens, array("i", token_ids))
        fill(self._positions, array("i", range(self._n_pos, self._n_pos + n)))
        ctypes.memset(self._wants_logits, 0, n - n_logits)
        ctypes.memset(ctypes.byref(self._wants_logits, n - n_logits), 1, n_logits)
        self._n_pos += n
        return self._batch(n)

    def _read_image(self, chunk: ImageChunk, cancelled: Event) -> None:
        positions = array("i", chunk.positions or range(self._n_pos, self._n_pos + chunk.n_tokens))
        if chunk.non_causal:
            C.llama_set_causal_attn(self.handle, False)
        try:
            self._decode_embeddings(chunk.embeddings, chunk.n_tokens, positions, cancelled)
        finally:
            if chunk.non_causal:
                C.llama_set_causal_attn(self.handle, True)
        self._n_pos += chunk.n_pos

    def _decode_embeddings(
        self, embeddings: bytes, count: int, positions: array[int], cancelled: Event | None, *, logits: bool = False
    ) -> None:
        """Decode embeddings behind those in the cache. positions: with M-RoPE in the order t, y, x, z.

        `logits`: of the last one.
        """
        width = len(embeddings) // count  # bytes of one embedding
        # No copy: 9 MB in an image of 576 tokens. The caller keeps them alive.
        address = ctypes.cast(ctypes.c_char_p(embeddings), ctypes.c_void_p).value or 0
        for start in range(0, count, self._n_ubatch):
            n = min(self._n_ubatch, count - start)
            for section in range(len(positions) // count):
                first = section * count + start
                fill(self._positions, positions[first : first + n], section * n)
            ctypes.memset(self._wants_logits, 0, n)
            self._wants_logits[n - 1] = logits and start + n == count
            batch = self._batch(n)
            batch.token = None
            batch.embd = ctypes.cast(address + start * width, ctypes.POINTER(ctypes.c_float))
            self._decode(batch, cancelled)

    def _batch(self, n: int) -> C.llama_batch:
        return C.llama_batch(
            n_tokens=n,
            token=self._tokens,
            embd=None,
            pos=self._positions,
            n_seq_id=self._n_seq_id,
            seq_id=self._seq_id,
            logits=self._wants_logits,
        )

    def _decode(self, batch: C.llama_batch, cancelled: Event | None = None) -> None:
        self.batches += 1
        code = C.llama_decode(self.handle, batch)
        if cancelled is not None and cancelled.is_set():
            raise Interrupted("Interrupted while the prompt was read.")
        self._check(code)

    def _check(self, code: int) -> None:
        if code:
            reason = {1: "the context is full", 2: "it was aborted"}.get(code, f"code {code}")
            kind = ContextFull if code == 1 else EngineError
            raise kind(f"llama.cpp could not continue decoding: {reason}.", llama_log.last_lines())


def fill(target: ctypes.Array[ctypes.c_int32], values: array[int], start: int = 0) -> None:
    """Set target[start:] with one memory copy."""
    ctypes.memmove(ctypes.byref(target, 4 * start), values.buffer_info()[0], 4 * len(values))


def chunk_key(chunk: TextChunk | ImageChunk) -> object:
    return chunk.token_ids if isinstance(chunk, TextChunk) else (chunk.key, chunk.positions)
