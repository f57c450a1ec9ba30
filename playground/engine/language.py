"""The language half of the split engine: an encoded prompt in, tokens out.

Knows token ids and embeddings, not images, chats or projectors. A prompt is decoded chunk by chunk as
mtmd_helper_eval_chunks does (llama.cpp tools/mtmd/mtmd-helper.cpp), and the key-value cache is kept by whole chunks:
a second question on the same image starts behind the image, and what it decodes is cut into the same batches as if
nothing had been kept, so its logits are the same bit for bit.
"""

from __future__ import annotations

import codecs
import ctypes
import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine import llama
from playground.engine.importance import Importance, watching
from playground.engine.protocol import (
    Chunk,
    EncodedPrompt,
    Finished,
    ImageChunk,
    LoadLanguage,
    Measure,
    MemoryPlan,
    Record,
    TextChunk,
)
from playground.errors import BadPair, BadPrompt, EngineError, Interrupted
from playground.values.answer import Candidate, TokenDrift, TokenScore
from playground.values.request import Runtime, Sampling

# Tokens that come faster than this are sent together: a person cannot see more, and each message costs 30 us.
_SEND_INTERVAL_S = 0.05

# Tokens whose logits are on the host at once; 32 x 150,000 logits are 19 MB.
_SCORED_AT_ONCE = 32

_N_CANDIDATES = 5

_USUAL_IMAGE = 576  # tokens of an image, to warm up with: LLaVA's

_PROGRESS_STEPS = 40

# On a GPU images go in larger stretches than text, most of them whole. 1,024 tokens instead of 512 take 100 MB more
# (7 B, flash attention), 2,048 take 300.
_IMAGE_BATCHES, _IMAGE_TOKENS = 2, 1024


@dataclass(frozen=True, slots=True)
class _ContextKey:
    """What a llama_context is made for; another value needs another context."""

    n_ctx: int
    n_batch: int  # tokens of text that are decoded at once
    n_ubatch: int  # as many tokens fit at once: the stretch of an image
    n_threads: int
    flash_attention: int


def plan(load: LoadLanguage) -> MemoryPlan:
    """What the context of such a load will take: made without memory for weights and cache, and freed again.

    Raises what the load would: BadModel, EngineError.
    """
    model = LanguageModel(load.model, n_gpu_layers=load.runtime.n_gpu_layers, weights=False)
    lines: list[str] = []
    try:
        with llama.listening(lines.append):
            model.make_context(load.runtime)
        return MemoryPlan(*llama.context_bytes(lines, on_gpu=model.on_gpu))
    finally:
        model.close()


class LanguageModel:
    """Owns a language model and its context until `close`. Without weights it can only be planned with."""

    def __init__(
        self, path: str, *, n_gpu_layers: int, importance: Importance | None = None, weights: bool = True
    ) -> None:
        self._importance = importance
        self.on_gpu: bool = llama.GPU_OFFLOAD and n_gpu_layers != 0
        self._model = llama.load_model(path, n_gpu_layers=n_gpu_layers, weights=weights)
        self._vocabulary = llama.Vocabulary(self._model)
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self._model)
        self.n_embd: int = C.llama_model_n_embd_inp(self._model)
        self._context: _Context | None = None
        self._sampling: Sampling | None = None
        self._chain: C.llama_sampler_p | None = None

    def close(self) -> None:
        self._drop_context()
        C.llama_model_free(self._model)

    def _drop_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = self._sampling = None

    def prepare(self, runtime: Runtime, prompt: EncodedPrompt | None = None) -> float | None:
        """Make the context for `runtime` (and for `prompt`'s images) and warm it up, if there is none yet.

        Returns the seconds that took, None if there was nothing to do. Raises EngineError.
        """
        started = time.perf_counter()
        context = self.make_context(runtime, prompt)
        if context is None:
            return None
        # On a CPU a short prompt touches all weights. On a GPU kernels are loaded by the first use of a shape: with
        # these the first prompt takes 46 ms in place of 143, at 0.2-0.3 s of the load (3 B F16, H100).
        token = self._vocabulary.any_token()
        if self.on_gpu:
            self._attach_sampler(context, Sampling())
            context.warm_up(token, (context.key.n_ubatch, 48, 16, 3, 1))
            context.warm_up_image(self.n_embd)
        else:
            context.warm_up(token, (2, 1))
        return time.perf_counter() - started

    def make_context(self, runtime: Runtime, prompt: EncodedPrompt | None = None) -> _Context | None:
        """Make the context that `prepare` warms up; None if it is there. Raises EngineError."""
        n_ctx = min(runtime.n_ctx, self.n_ctx_train) if self.n_ctx_train > 0 else runtime.n_ctx
        n_batch = min(runtime.n_batch, n_ctx)
        # While an image is decoded without a causal mask, all of it has to be in one micro-batch.
        images = prompt.chunks if prompt else ()
        widest = max((c.n_tokens for c in images if isinstance(c, ImageChunk) and c.non_causal), default=0)
        # From the start, not when an image comes: so the forecast holds, and no prompt waits for another context.
        on_gpu = min(_IMAGE_BATCHES * n_batch, _IMAGE_TOKENS) if self.on_gpu else 0
        wanted = _ContextKey(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=max(n_batch, min(max(widest, on_gpu), n_ctx)),
            n_threads=runtime.n_threads or llama.default_threads(C.llama_model_size(self._model)),
            flash_attention=llama.flash_attention(runtime.flash_attention, self.on_gpu),
        )
        there = self._context.key if self._context else None
        if there and replace(there, n_ubatch=wanted.n_ubatch) == wanted and there.n_ubatch >= wanted.n_ubatch:
            return None
        self._drop_context()
        self._context = _Context(self._model, wanted, self._importance)
        return self._context

    def generate(
        self,
        prompt: EncodedPrompt,
        sampling: Sampling,
        runtime: Runtime,
        *,
        cancelled: Event,
        send: Callable[[Chunk], None],
    ) -> Finished:
        """Write an answer to `prompt`, in pieces through `send`.

        Raises BadPair for embeddings of another width, BadPrompt when the prompt does not fit the context,
        EngineError when llama.cpp fails. A cancelled answer is finished, not an error.
        """
        if prompt.n_embd != self.n_embd:
            raise BadPair(
                f"The projector writes {prompt.n_embd} values per image token, this language model reads {self.n_embd}."
            )
        context_s = self.prepare(runtime, prompt)
        context = self._context
        assert context is not None
        n_prompt = prompt.n_text_tokens + prompt.n_image_tokens
        if n_prompt >= context.n_ctx:
            raise BadPrompt(
                f"The prompt has {n_prompt} tokens ({prompt.n_image_tokens} of them from images), the context holds "
                f"{context.n_ctx}. {self._remedy(n_prompt, runtime)}"
            )
        self._attach_sampler(context, sampling)

        received = time.perf_counter()
        try:
            reused = context.read(prompt, cancelled)
        except Interrupted:
            return Finished("stopped", context_s, None, None, None, 0, 0)
        chain = self._chain
        token = C.llama_sampler_sample(chain, context.handle, -1)
        first_at = last_at = time.perf_counter()

        text = llama.TextStream(sampling.stop)
        pending_text: list[str] = []
        pending_ids: list[int] = []
        sent_at = 0.0
        generated = 0
        times: list[float] = []
        while True:
            if self._vocabulary.ends_text(token):
                reason = "end of text"
                break
            generated += 1
            last_at = sampled_at = time.perf_counter()
            times.append(sampled_at)
            if generated >= sampling.max_tokens:
                reason = "max tokens"
            elif n_prompt + generated >= context.n_ctx:
                reason = "context full"
            elif cancelled.is_set():
                reason = "stopped"
            else:
                reason = ""
                context.decode_token(token)
            # On a GPU llama_decode returns at once: this is done while it computes.
            pending_ids.append(token)
            pending_text.append(text.push(self._vocabulary.piece(token)))
            if text.stopped:
                reason = "stop text"
            if reason:
                break
            if sampled_at - sent_at >= _SEND_INTERVAL_S:
                send(Chunk(text="".join(pending_text), token_ids=tuple(pending_ids)))
                pending_text, pending_ids, sent_at = [], [], sampled_at
            token = C.llama_sampler_sample(chain, context.handle, -1)
        if not text.stopped:
            pending_text.append(text.push(b"", last=True))
        send(Chunk(text="".join(pending_text), token_ids=tuple(pending_ids)))
        return Finished(
            reason=reason,
            context_s=context_s,
            prompt_s=context.read_s,
            first_token_s=first_at - received,
            decode_s=last_at - first_at if generated > 1 else None,
            generated_tokens=generated,
            reused_tokens=reused,
            progress=_progress(first_at, times),
        )

    def score(
        self, prompt: EncodedPrompt, token_ids: Sequence[int], runtime: Runtime, *, cancelled: Event
    ) -> tuple[TokenScore, ...]:
        """How likely each token of an answer to `prompt` was, and the likeliest ones: of the model's own logits.

        Returns one more than there are tokens. Raises Interrupted, EngineError.
        """
        scored = zip(
            self._texts(token_ids),
            (*token_ids, None),
            self._logits(prompt, token_ids, runtime, cancelled),
            strict=True,
        )
        return tuple(self._scored(text, token, logits) for text, token, logits in scored)

    def record(self, asked: Record, *, cancelled: Event) -> int:
        """Write what the model holds likely at each token of an answer, and behind the last one, for `measure`.

        Returns the number of tokens in the vocabulary. Raises Interrupted, EngineError.
        """
        with open(asked.path, "wb") as file:
            for logits in self._logits(asked.prompt, asked.token_ids, asked.runtime, cancelled):
                file.write(_log_probabilities(logits).astype(asked.dtype).tobytes())
        return self._vocabulary.n_tokens

    def measure(self, asked: Measure, *, cancelled: Event) -> tuple[TokenDrift, ...]:
        """Compare with what a reference of the same vocabulary has recorded about the same answer.

        Returns one more than there are tokens. Raises Interrupted; EngineError for a record of another shape, and when
        the model's logits are no numbers.
        """
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (llama.py)

        n = self._vocabulary.n_tokens
        recorded = numpy.fromfile(asked.path, asked.dtype)
        if recorded.size != n * (len(asked.token_ids) + 1):
            raise EngineError("The reference's record is of another vocabulary or answer.")
        found = []
        every = self._logits(asked.prompt, asked.token_ids, asked.runtime, cancelled)
        for text, row, logits in zip(self._texts(asked.token_ids), recorded.reshape(-1, n), every, strict=True):
            mine, theirs = _log_probabilities(logits), row.astype(numpy.float64)
            if not numpy.isfinite(mine).all():
                raise EngineError("The model's outputs are no numbers (NaN): the file is damaged.")
            found.append(
                TokenDrift(
                    text=text,
                    # Rounding takes it a little below 0 where both are the same.
                    kl=max(0.0, float((numpy.exp(theirs) * (theirs - mine)).sum())),
                    same_top=int(theirs.argmax()) == int(mine.argmax()),
                    reference=self._likeliest(theirs),
                    variant=self._likeliest(mine),
                )
            )
        return tuple(found)

    def _texts(self, token_ids: Sequence[int]) -> Iterator[str]:
        """Of each token, so that they join to the answer, and of none behind the last."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in token_ids:
            yield decoder.decode(self._vocabulary.piece(token))
        yield ""

    def _logits(
        self, prompt: EncodedPrompt, token_ids: Sequence[int], runtime: Runtime, cancelled: Event
    ) -> Iterator[Any]:
        """Read a prompt and an answer to it; the logits that each token was chosen from, and those behind the last."""
        self.prepare(runtime, prompt)
        context = self._context
        assert context is not None
        # With a sampler in the graph the logits stay on the device.
        sampling = self._sampling
        self._detach_sampler(context)
        try:
            with watching(self._importance):
                context.read(prompt, cancelled)
                yield from context.read_answer(token_ids, self._vocabulary.n_tokens, cancelled)
        finally:
            if sampling is not None:  # now, so that the next answer need not wait for it
                self._attach_sampler(context, sampling)

    def _scored(self, text: str, token: int | None, logits: Any) -> TokenScore:
        likely = _log_probabilities(logits)
        probability = None if token is None else math.exp(likely[token])
        return TokenScore(text=text, probability=probability, candidates=self._likeliest(likely))

    def _likeliest(self, log_probabilities: Any) -> tuple[Candidate, ...]:
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (llama.py)

        n = min(_N_CANDIDATES, len(log_probabilities))
        likeliest = sorted(
            numpy.argpartition(log_probabilities, -n)[-n:].tolist(), key=lambda i: (-log_probabilities[i], i)
        )
        return tuple(Candidate(i, self._shown(i), math.exp(log_probabilities[i])) for i in likeliest)

    def _shown(self, token: int) -> str:
        piece = self._vocabulary.piece(token)
        return piece.decode("utf-8", "replace") if piece else self._vocabulary.special_text(token)

    def _remedy(self, n_prompt: int, runtime: Runtime) -> str:
        if self.n_ctx_train > n_prompt >= runtime.n_ctx:
            return f"Raise the context size above {n_prompt}, or shorten the prompt."
        return f"This model was trained for {self.n_ctx_train}: shorten the prompt or use a smaller image."

    def _attach_sampler(self, context: _Context, sampling: Sampling) -> None:
        """Sample in the compute graph: on a GPU the logits then need not come to the host."""
        if self._chain is not None and self._sampling == sampling:
            C.llama_sampler_reset(self._chain)
            return
        self._detach_sampler(context)
        self._chain = llama.sampler_chain(sampling, self._vocabulary.n_tokens)
        self._sampling = sampling
        C.llama_set_sampler(context.handle, 0, self._chain)

    def _detach_sampler(self, context: _Context) -> None:
        C.llama_set_sampler(context.handle, 0, None)
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = self._sampling = None


def _progress(first_at: float, times: list[float]) -> tuple[tuple[float, int], ...]:
    """Of the times when tokens came: seconds and tokens behind the first one, in even steps that end with the last."""
    last = len(times) - 1
    step = math.ceil(last / _PROGRESS_STEPS)
    return tuple((times[i] - first_at, i) for i in range(last, 0, -step))[::-1] if last > 0 else ()


def _log_probabilities(logits: Any) -> Any:
    """float64 (n_vocabulary), natural logarithms of the softmax."""
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (llama.py)

    shifted = logits.astype(numpy.float64) - float(logits.max())
    return shifted - math.log(float(numpy.exp(shifted).sum()))


class _Context:
    """Owns a llama_context, its batch buffers, and the knowledge of what its key-value cache holds."""

    def __init__(self, model: C.llama_model_p, key: _ContextKey, importance: Importance | None) -> None:
        params = C.llama_context_default_params()
        params.n_ctx = key.n_ctx
        params.n_batch = params.n_ubatch = key.n_ubatch
        # By default there is room for logits of all tokens of a batch: 300 MB with a vocabulary of 150,000, and as much
        # again with a sampler.
        params.n_outputs_max = min(_SCORED_AT_ONCE, key.n_ubatch)
        params.n_threads = params.n_threads_batch = key.n_threads
        params.flash_attn_type = key.flash_attention
        if importance is not None:
            params.cb_eval = importance.callback
        self._observed = importance is not None
        llama.log_lines.clear()
        handle = C.llama_init_from_model(model, params)
        if not handle:
            raise llama.explain(f"llama.cpp could not make a context of {key.n_ctx} tokens.")
        self.handle = handle
        self.key = key
        self.n_ctx: int = C.llama_n_ctx(handle)
        self.read_s = 0.0
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

    def warm_up(self, token: int, sizes: Sequence[int]) -> None:
        C.llama_set_warmup(self.handle, True)
        for size in sizes:
            n = min(size, self._n_ubatch, self.n_ctx - 1)
            self._decode(self._text_batch([token] * n, n_logits=1))
            C.llama_synchronize(self.handle)
            self._forget()
        C.llama_set_warmup(self.handle, False)

    def warm_up_image(self, n_embd: int) -> None:
        n = min(_USUAL_IMAGE, self._n_ubatch, self.n_ctx - 1)
        blank = ImageChunk(0, "", n, n, False, b"", bytes(4 * n * n_embd))
        try:
            self._read_image(blank, Event())
            C.llama_synchronize(self.handle)
        except EngineError:
            pass  # a model that takes other positions than these
        self._forget()

    def read(self, prompt: EncodedPrompt, cancelled: Event) -> int:
        """Decode the prompt up to its last token's logits. Returns how many tokens of it were still there.

        Sets read_s, the seconds until the logits are there. Raises Interrupted when cancelled, EngineError.
        """
        started = time.perf_counter()
        kept = self._keep(prompt)
        # Between tokens the caller looks at `cancelled`; within a prompt batch ggml asks (CPU only).
        abort = C.ggml_abort_callback(lambda _data: cancelled.is_set())
        C.llama_set_abort_callback(self.handle, abort, None)
        try:
            for i, chunk in enumerate(prompt.chunks[kept:], start=kept):
                if isinstance(chunk, TextChunk):
                    self._read_text(chunk, cancelled, logits=i == len(prompt.chunks) - 1)
                else:
                    self._read_image(chunk, cancelled)
                self._kept.append((_chunk_key(chunk), self._n_pos))
            C.llama_synchronize(self.handle)
        except BaseException:
            self._forget()
            raise
        finally:
            C.llama_set_abort_callback(self.handle, C.ggml_abort_callback(), None)
        self.read_s = time.perf_counter() - started
        return sum(_n_tokens(chunk) for chunk in prompt.chunks[:kept])

    def read_answer(self, token_ids: Sequence[int], n_vocabulary: int, cancelled: Event) -> Iterator[Any]:
        """Behind a prompt that was read: the logits, float32 (n_vocabulary), that each token was chosen from, and those
        behind the last one. Valid until the next. Raises Interrupted, EngineError."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (llama.py)

        def logits(i: int) -> Any:
            return numpy.ctypeslib.as_array(C.llama_get_logits_ith(self.handle, i), (n_vocabulary,))

        yield logits(-1)
        try:
            step = min(_SCORED_AT_ONCE, self._n_batch)
            for start in range(0, len(token_ids), step):
                part = token_ids[start : start + step]
                self._decode_tokens(part, cancelled, n_logits=len(part))
                yield from map(logits, range(len(part)))
        except BaseException:
            self._forget()
            raise

    def decode_token(self, token: int) -> None:
        self._tokens[0] = token
        self._positions[0] = self._n_pos
        self._wants_logits[0] = 1
        self._n_pos += 1
        try:
            self._decode(self._batch(1))
        except EngineError:
            self._forget()
            raise

    def _keep(self, prompt: EncodedPrompt) -> int:
        """Cut the key-value cache back to the chunks that `prompt` begins with. Returns their number."""
        if self._observed:
            # Every question is to count with its image: with the image kept, a second one on it would count as text
            # alone, and the mixture of the two would be an accident of the questions' order.
            self._forget()
            return 0
        n = 0
        # The last chunk is always read again: its logits are wanted.
        limit = min(len(self._kept), len(prompt.chunks) - 1)
        while n < limit and self._kept[n][0] == _chunk_key(prompt.chunks[n]):
            n += 1
        if n == 0:
            self._forget()
            return 0
        position = self._kept[n - 1][1]
        # A sliding window may have dropped what the kept end looks back to; recurrent states cannot be cut.
        window_gone = self._n_swa > 0 and C.llama_memory_seq_pos_min(self._memory, 0) > max(0, position - self._n_swa)
        if window_gone or not C.llama_memory_seq_rm(self._memory, 0, position, -1):
            self._forget()
            return 0
        del self._kept[n:]
        self._n_pos = position
        return n

    def _forget(self) -> None:
        # The values stay in their cells and are masked: overwriting 2 GB of them takes 0.2 s on a CPU.
        C.llama_memory_clear(self._memory, False)
        self._kept.clear()
        self._n_pos = 0

    def _read_text(self, chunk: TextChunk, cancelled: Event, *, logits: bool) -> None:
        ids = chunk.token_ids
        for start in range(0, len(ids), self._n_batch):
            part = ids[start : start + self._n_batch]
            ends = start + len(part) == len(ids)
            self._decode_tokens(part, cancelled, n_logits=int(logits and ends))

    def _decode_tokens(self, token_ids: Sequence[int], cancelled: Event, *, n_logits: int) -> None:
        """Up to n_batch tokens behind what is there; the logits of the last `n_logits` of them are wanted."""
        self._decode(self._text_batch(token_ids, n_logits), cancelled)

    def _text_batch(self, token_ids: Sequence[int], n_logits: int) -> C.llama_batch:
        n = len(token_ids)
        _fill(self._tokens, array("i", token_ids))
        _fill(self._positions, array("i", range(self._n_pos, self._n_pos + n)))
        ctypes.memset(self._wants_logits, 0, n - n_logits)
        ctypes.memset(ctypes.byref(self._wants_logits, n - n_logits), 1, n_logits)
        self._n_pos += n
        return self._batch(n)

    def _read_image(self, chunk: ImageChunk, cancelled: Event) -> None:
        width = len(chunk.embeddings) // chunk.n_tokens  # bytes of one embedding
        # No copy: 9 MB in an image of 576 tokens. The chunk keeps them alive.
        embeddings = ctypes.cast(ctypes.c_char_p(chunk.embeddings), ctypes.c_void_p).value or 0
        sections = array("i", chunk.positions)
        if chunk.non_causal:
            C.llama_set_causal_attn(self.handle, False)
        try:
            for start in range(0, chunk.n_tokens, self._n_ubatch):
                n = min(self._n_ubatch, chunk.n_tokens - start)
                if sections:
                    for section in range(4):
                        first = section * chunk.n_tokens + start
                        _fill(self._positions, sections[first : first + n], section * n)
                else:
                    _fill(self._positions, array("i", range(self._n_pos + start, self._n_pos + start + n)))
                ctypes.memset(self._wants_logits, 0, n)
                batch = self._batch(n)
                batch.token = None
                batch.embd = ctypes.cast(embeddings + start * width, ctypes.POINTER(ctypes.c_float))
                self._decode(batch, cancelled)
        finally:
            if chunk.non_causal:
                C.llama_set_causal_attn(self.handle, True)
        self._n_pos += chunk.n_pos

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
        code = C.llama_decode(self.handle, batch)
        if cancelled is not None and cancelled.is_set():
            raise Interrupted("Interrupted while the prompt was read.")
        if code:
            reason = {1: "the context is full", 2: "it was aborted"}.get(code, f"code {code}")
            raise EngineError(f"llama.cpp could not go on decoding: {reason}.", tuple(llama.log_lines)[-20:])


def _fill(target: ctypes.Array[ctypes.c_int32], values: array[int], start: int = 0) -> None:
    """Set target[start:], at the speed of a copy."""
    ctypes.memmove(ctypes.byref(target, 4 * start), values.buffer_info()[0], 4 * len(values))


def _chunk_key(chunk: TextChunk | ImageChunk) -> object:
    return chunk.token_ids if isinstance(chunk, TextChunk) else (chunk.key, chunk.positions)


def _n_tokens(chunk: TextChunk | ImageChunk) -> int:
    return len(chunk.token_ids) if isinstance(chunk, TextChunk) else chunk.n_tokens
