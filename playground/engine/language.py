"""The language half of the split engine: an encoded prompt in, an answer out.

Knows token ids and embeddings, not images, chats or projectors. Owns the model, its context (context.py) and the
sampler (sampling.py). The probabilities of an existing answer are computed by scoring.py.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from threading import Event
from typing import Any, Literal

from llama_cpp import llama_cpp as C

from playground.engine import llama_log, loading, waiting
from playground.engine.answer_stream import AnswerStream
from playground.engine.context import Context, ContextKey
from playground.engine.finite import NotFinite
from playground.engine.importance import Importance, watching
from playground.engine.protocol import (
    Chunk,
    EncodedPrompt,
    Finished,
    LoadLanguage,
    MemoryPlan,
    OpenBatch,
    ReadBatch,
)
from playground.engine.sampling import TokenSampler
from playground.engine.sequences import SequenceContext
from playground.engine.token_rows import TokenRows
from playground.engine.vocabulary import Vocabulary
from playground.errors import BadPair, BadPrompt, EngineError, Interrupted
from playground.values.reasoning import opened_by
from playground.values.request import Runtime, Sampling

_OUTPUT_BYTES = 2**26  # of the logits that a batch of many sequences has on the host at once

# Tokens that come faster than this are sent together: a person cannot see more, and each message costs 30 us.
SEND_INTERVAL_S = 0.05

_PROGRESS_STEPS = 40

# On a GPU images go in larger stretches than text, most of them whole. 1,024 tokens instead of 512 take 100 MB more
# (7 B, flash attention), 2,048 take 300.
_IMAGE_BATCHES, _IMAGE_TOKENS = 2, 1024  # twice that where the prompts of several sequences are one batch


def plan(load: LoadLanguage) -> MemoryPlan:
    """How much memory the context of such a load will take. The context is made without weights and cache, and freed.

    Raises what the load would raise: BadModel, EngineError.
    """
    model = LanguageModel(load.model, n_gpu_layers=load.runtime.n_gpu_layers, weights=False)
    lines: list[str] = []
    try:
        with llama_log.listening(lines.append):
            model.make_context(load.runtime, sequences=load.sequences, kv_unified=load.kv_unified)
        return MemoryPlan(*llama_log.context_bytes(lines, on_gpu=model.on_gpu))
    finally:
        model.close()


class LanguageModel:
    """Owns a language model and its context until `close`. Without weights it only serves `plan`."""

    def __init__(
        self, path: str, *, n_gpu_layers: int, importance: Importance | None = None, weights: bool = True
    ) -> None:
        self._importance = importance
        self.on_gpu: bool = loading.GPU_OFFLOAD and n_gpu_layers != 0
        self._model = loading.load_model(path, n_gpu_layers=n_gpu_layers, weights=weights)
        self.vocabulary = Vocabulary(self._model)
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self._model)
        self.n_embd: int = C.llama_model_n_embd_inp(self._model)
        self._path = path
        self._rows: TokenRows | Literal[False] | None = None  # False: this model needs ids; None: not tried
        self._looked_up: Context | None = None  # the newest context that was tried with them
        self._context: Context | None = None
        self._sampler = TokenSampler(self.vocabulary)
        self.samplers: tuple[TokenSampler, ...] = ()  # of a batch's sequences

    def close(self) -> None:
        self.drop_context()
        C.llama_model_free(self._model)

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return int(C.llama_model_size(self._model))

    def drop_context(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None
        for sampler in (self._sampler, *self.samplers):
            sampler.close()

    def prepare(
        self,
        runtime: Runtime,
        prompt: EncodedPrompt | None = None,
        n_answer: int = 0,
        *,
        sequences: int = 1,
        widest: int = 0,
        kv_unified: bool = True,
    ) -> float | None:
        """Make the context for `runtime` (and for a prompt with an answer) and warm it up, if there is none yet.

        sequences, kv_unified: as of OpenBatch. widest: tokens of the largest image that is decoded without a causal
        mask.
        Returns the seconds that it took; None if there was nothing to do. Raises EngineError.
        """
        started = time.perf_counter()
        context = self.make_context(
            runtime, prompt, n_answer, sequences=sequences, widest=widest, kv_unified=kv_unified
        )
        if context is None:
            return None
        # On a CPU a short prompt touches all weights. On a GPU kernels are loaded by the first use of a shape: with
        # these the first prompt takes 46 ms in place of 143, at 0.2-0.3 s of the load (3 B F16, H100).
        token = self.vocabulary.any_token()
        if self.on_gpu:
            if sequences == 1:
                self._sampler.attach(context.handle, Sampling())
            context.warm_up(token, (context.key.n_ubatch, 48, 16, 3, 1))
            context.warm_up_image(self.n_embd)
        else:
            context.warm_up(token, (2, 1))
        return time.perf_counter() - started

    def batch_context(self, request: OpenBatch | ReadBatch) -> SequenceContext:
        """The context of a batch; it is made and warmed up unless there is one of this size. Raises EngineError."""
        self.prepare(request.runtime, sequences=request.sequences, widest=request.widest, kv_unified=request.kv_unified)
        assert isinstance(self._context, SequenceContext)
        if not request.kv_unified and self._context is not self._looked_up and self._importance is None:
            self._looked_up = self._context
            self._look_up(self._context)
        return self._context

    def _look_up(self, context: SequenceContext) -> None:
        """Let the context read prompts with images as one batch, if this model can (token_rows.py)."""
        if self._rows is None:
            n_embd: int = C.llama_model_n_embd(self._model)
            self._rows = TokenRows.open(self._path, n_embd, self.n_embd) or False
        if not self._rows:
            return
        scale = loading.metadata(
            self._model, f"{loading.metadata(self._model, 'general.architecture')}.embedding_scale"
        )
        scales = (1.0, math.sqrt(C.llama_model_n_embd(self._model)), *([float(scale)] if scale else []))
        for sampler in self.samplers:  # with one in the graph the logits stay on the device
            sampler.detach(context.handle)
        try:
            same = context.use_rows(self._rows, scales)
        except EngineError:  # prompts are read as they were
            context.clear()
            same = False
        if not same:
            self._rows.close()
            self._rows = False

    def make_context(
        self,
        runtime: Runtime,
        prompt: EncodedPrompt | None = None,
        n_answer: int = 0,
        *,
        sequences: int = 1,
        widest: int = 0,
        kv_unified: bool = True,
    ) -> Context | None:
        """Make the context that `prepare` warms up; None if a fitting one exists. Raises EngineError."""
        current = self._context.key if self._context else None
        n_ctx = runtime.sized(prompt.n_tokens + n_answer if prompt else 0).context
        if runtime.n_ctx is None and current and current.n_sequences == sequences == 1:
            n_ctx = max(n_ctx, current.n_ctx)  # it only grows: the smaller one would have to be made, and read again
        if sequences > 1:  # n_ctx is that of all of them
            n_ctx = max(n_ctx, current.n_ctx) if current and current.n_sequences == sequences else n_ctx
        elif self.n_ctx_train > 0:
            n_ctx = min(n_ctx, self.n_ctx_train)
        n_batch = min(runtime.n_batch, n_ctx)
        # While an image is decoded without a causal mask, all of it has to be in one micro-batch.
        widest = prompt.widest if prompt else widest
        # From the start, not when an image comes: so the forecast holds, and no prompt waits for another context.
        packs = 2 if sequences > 1 and not kv_unified else 1
        on_gpu = packs * min(_IMAGE_BATCHES * n_batch, _IMAGE_TOKENS) if self.on_gpu else 0
        wanted = ContextKey(
            n_ctx=n_ctx,
            n_batch=n_batch,
            n_ubatch=max(n_batch, min(max(widest, on_gpu), n_ctx)),
            n_threads=runtime.n_threads or loading.default_threads(self.bytes),
            flash_attention=loading.flash_attention(runtime, self.on_gpu),
            type_k=loading.cache_type(runtime.cache_type_k),
            type_v=loading.cache_type(runtime.cache_type_v),
            n_sequences=sequences,
            kv_unified=kv_unified,
            n_outputs=min(n_batch, _OUTPUT_BYTES // (4 * self.vocabulary.n_tokens)) if sequences > 1 else 0,
        )
        if current and replace(current, n_ubatch=wanted.n_ubatch) == wanted and current.n_ubatch >= wanted.n_ubatch:
            return None
        self.drop_context()
        if sequences > 1:
            self._context = SequenceContext(self._model, wanted, self._importance)
            first = int(kv_unified)
            self.samplers = tuple(TokenSampler(self.vocabulary, first + n) for n in range(sequences))
        else:
            self._context = Context(self._model, wanted, self._importance)
        return self._context

    def check_width(self, prompt: EncodedPrompt) -> None:
        """Raises BadPair for embeddings of another width."""
        if prompt.n_embd != self.n_embd:
            raise BadPair(
                f"The projector writes {prompt.n_embd} values per image token, this language model reads {self.n_embd}."
            )

    def check_length(self, prompt: EncodedPrompt, limit: int, n_ctx: int | None) -> None:
        """Raises BadPrompt for a prompt that leaves no room below `limit`. `n_ctx`: that was asked for."""
        if prompt.n_tokens >= limit:
            raise BadPrompt(
                f"The prompt has {prompt.n_tokens} tokens ({prompt.n_image_tokens} of them from images), the context "
                f"holds {limit}. {self.remedy(prompt.n_tokens, n_ctx)}"
            )

    def generate(
        self,
        prompt: EncodedPrompt,
        sampling: Sampling,
        runtime: Runtime,
        *,
        begun: Sequence[int] = (),
        ignore_end: bool = False,
        cold: bool = False,
        cancelled: Event,
        send: Callable[[Chunk], None],
    ) -> Finished:
        """Write an answer to `prompt`, in pieces through `send`. `begun`: the tokens that it has to begin with.

        Raises BadPair for embeddings of another width, BadPrompt when the prompt does not fit the context,
        EngineError when llama.cpp fails. A cancelled answer is finished, not an error.
        """
        self.check_width(prompt)
        context_s = self.prepare(runtime, prompt, sampling.max_tokens)
        context = self._context
        assert context is not None
        n_prompt = prompt.n_tokens
        self.check_length(prompt, context.n_ctx, runtime.n_ctx)
        if not all(0 <= token < self.vocabulary.n_tokens for token in begun):
            raise BadPrompt("The answer is to begin with a token that this model does not have.")
        self._sampler.attach(context.handle, sampling)
        if cold:
            context.forget()

        received = time.perf_counter()
        try:
            reused = context.read(prompt, cancelled)
        except Interrupted:
            return Finished("stopped", context_s, None, None, None, 0, 0)
        budget = None if sampling.bound or ignore_end else sampling.reasoning_tokens
        opened = None if sampling.bound else opened_by(prompt.rendered)
        answer = AnswerStream(self.vocabulary, sampling.stop, opened)
        forced = deque(begun or answer.due(budget))
        token = self._next(context, forced)
        waited_before = waiting.waited_s()
        first_at = last_at = reasoned_at = time.perf_counter()

        sent_at = 0.0
        times: list[float] = []
        while True:
            if self.vocabulary.ends_text(token) and not ignore_end:
                reason = "end of text"
                break
            last_at = sampled_at = time.perf_counter()
            times.append(sampled_at)
            if len(times) >= sampling.max_tokens:
                reason = "max tokens"
            elif n_prompt + len(times) >= context.n_ctx:
                reason = "context full"
            elif cancelled.is_set():
                reason = "stopped"
            else:
                reason = ""
                context.decode_token(token)
            # On a GPU llama_decode returns at once: this is done while it computes.
            reasoning_tokens = answer.reasoning_tokens
            answer.push(token)
            if answer.reasoning_tokens > reasoning_tokens:
                reasoned_at = sampled_at
            if answer.stopped:
                reason = "stop text"
            if reason:
                break
            if sampled_at - sent_at >= SEND_INTERVAL_S:
                send(answer.take())
                sent_at = sampled_at
            if not forced:
                forced.extend(answer.due(budget))
            token = self._next(context, forced)
        waited = waiting.waited_s()
        send(answer.end())
        return Finished(
            reason=reason,
            context_s=context_s,
            prompt_s=context.read_s,
            first_token_s=first_at - received,
            decode_s=last_at - first_at if len(times) > 1 else None,
            generated_tokens=len(times),
            reused_tokens=reused,
            progress=_progress(first_at, times),
            reasoning_tokens=answer.reasoning_tokens,
            reasoning_s=reasoned_at - first_at if answer.reasoning_tokens else None,
            in_reasoning=answer.in_reasoning,
            raw=answer.raw,
            settings=context.settings,
            waited_s=waited - waited_before if waited is not None and waited_before is not None else None,
        )

    def _next(self, context: Context, forced: deque[int]) -> int:
        """The next token: one that has to come, or else a sampled one."""
        if not forced:
            return self._sample(context)
        token = forced.popleft()
        self._sampler.accept(token)
        return token

    def _sample(self, context: Context) -> int:
        try:
            return self._sampler.sample(context.handle)
        except NotFinite:
            context.wipe()
            raise

    def logits(
        self, prompt: EncodedPrompt, token_ids: Sequence[int], runtime: Runtime, cancelled: Event
    ) -> Iterator[Any]:
        """Read a prompt and an answer to it; the logits that each token was chosen from, and those behind the last."""
        self.prepare(runtime, prompt, len(token_ids))
        context = self._context
        assert context is not None
        # With a sampler in the graph the logits stay on the device.
        sampling = self._sampler.sampling
        self._sampler.detach(context.handle)
        try:
            with watching(self._importance):
                context.read(prompt, cancelled)
                yield from context.read_answer(token_ids, self.vocabulary.n_tokens, cancelled)
        finally:
            if sampling is not None:  # now, so that the next answer need not wait for it
                self._sampler.attach(context.handle, sampling)

    def remedy(self, n_prompt: int, n_ctx: int | None) -> str:
        """What to do about a prompt that is too long. `n_ctx`: what was set; None: as the model was trained."""
        if n_ctx is not None and self.n_ctx_train > n_prompt >= n_ctx:
            return f"Raise the context size above {n_prompt}, or shorten the prompt."
        return f"This model was trained for {self.n_ctx_train}: shorten the prompt or use a smaller image."


def _progress(first_at: float, times: list[float]) -> tuple[tuple[float, int], ...]:
    """(seconds, tokens) after the first token, in at most 40 even steps that end with the last token.

    times: of each token, by the clock of `first_at`.
    """
    last = len(times) - 1
    step = math.ceil(last / _PROGRESS_STEPS)
    return tuple((times[i] - first_at, i) for i in range(last, 0, -step))[::-1] if last > 0 else ()
