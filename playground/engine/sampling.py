"""Chooses tokens with llama.cpp's samplers.

A chain in the compute graph costs a batch of many sequences more than it saves: llama.cpp then copies every sequence's
logits on its own. A batch's chains are therefore on the host, where the most probable token alone needs no list of the
vocabulary: 0.01 ms a token in place of 0.08 with a vocabulary of 32,000.
"""

from __future__ import annotations

import ctypes
import signal
import time
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine import finite, grammar
from playground.engine.vocabulary import Vocabulary
from playground.errors import BadInput
from playground.values.request import Sampling

_DRY_LAST_N = 4096  # generated tokens in which the DRY sampler looks for the repetition
# Texts at which a repetition ends for it: llama.cpp's own (common/common.h).
_SEQUENCE_BREAKERS = (b"\n", b":", b'"', b"*")
# What llama.cpp computes for a grammar grows with the ways in which it may go on: 500 optional letters in a row, each
# with 500 ways to go on behind it, take minutes for one token, in a call that nothing can interrupt. Then SIGALRM ends
# the process.
_TOKEN_S = 10.0
_ANSWER_S, _EACH_S = 10.0, 0.5  # of the processor for the grammar of one answer, and more with each token


class TokenSampler:
    """Owns a chain of samplers. In a context's compute graph, the logits stay on a GPU."""

    def __init__(self, vocabulary: Vocabulary, sequence: int = 0) -> None:
        self._vocabulary = vocabulary
        self._sequence = sequence
        self._chain: C.llama_sampler_p | None = None
        self._in_graph = True
        self._left_s = _ANSWER_S  # of the processor, for the grammar
        self.sampling: Sampling | None = None  # of the chain that is attached

    def attach(self, context: C.llama_context_p, sampling: Sampling, *, in_graph: bool = True) -> None:
        """Sample with `sampling` from now on. Penalties, the grammar and the random generator start anew.

        `in_graph`: False leaves all logits to the host, for `logits`. Raises BadInput for a grammar that llama.cpp
        cannot read.
        """
        self._left_s = _ANSWER_S
        if self._chain is not None and self.sampling == sampling and self._in_graph == in_graph:
            C.llama_sampler_reset(self._chain)
            return
        self.detach(context)
        self._chain = _chain_of(sampling, self._vocabulary)
        self.sampling, self._in_graph = sampling, in_graph
        if in_graph:
            C.llama_set_sampler(context, self._sequence, self._chain)

    def detach(self, context: C.llama_context_p) -> None:
        C.llama_set_sampler(context, self._sequence, None)
        self.close()

    def sample(self, context: C.llama_context_p, i: int = -1) -> int:
        """Choose the token that follows the i-th token of the last batch; by default the last one of those with logits.

        Raises EngineError if the logits are NaN or infinite, and BadInput for a grammar that takes too long.
        """
        if self.sampling is not None and self.sampling.takes_largest and not self._in_graph:
            logits = self.logits(context, i)
            largest = int(logits.argmax())  # the first of equal ones, as llama.cpp's greedy sampler; NaN where any is
            finite.check_logits(logits[largest])
            return largest
        finite.check_logits(self._logits(context, i), sampled=True)
        if self.sampling is None or not self.sampling.bound:
            return int(C.llama_sampler_sample(self._chain, context, i))
        begun = time.thread_time()
        signal.setitimer(signal.ITIMER_REAL, _TOKEN_S)
        try:
            token = int(C.llama_sampler_sample(self._chain, context, i))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        self._left_s += _EACH_S - (time.thread_time() - begun)
        if self._left_s < 0:
            raise BadInput("The grammar or JSON schema may go on in too many ways: each token takes too long.")
        return token

    def accept(self, token_id: int) -> None:
        """Count a token that was not sampled, as the penalties count those that were.

        Raises BadInput for one that the grammar does not allow: llama.cpp would abort.
        """
        if self.sampling is not None and self.sampling.bound and not self._allows(token_id):
            raise BadInput(
                "The grammar or JSON schema of this answer does not allow the token that it has to go on with."
            )
        C.llama_sampler_accept(self._chain, token_id)

    def _allows(self, token_id: int) -> bool:
        """Whether the grammar, which is the chain's first sampler, does."""
        token = C.llama_token_data(token_id, 0.0, 0.0)
        one = C.llama_token_data_array(ctypes.pointer(token), 1, -1, False)
        C.llama_sampler_apply(C.llama_sampler_chain_get(self._chain, 0), ctypes.byref(one))
        return bool(token.logit == 0.0)

    def _logits(self, context: C.llama_context_p, i: int) -> Any:
        """What is chosen from, as far as the host has it: all logits, or those that the device's samplers left."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        # Without any sampler in the graph the count is that of the vocabulary.
        if sampled := C.llama_get_sampled_logits_ith(context, i):
            return numpy.ctypeslib.as_array(sampled, (C.llama_get_sampled_logits_count_ith(context, i),))
        return self.logits(context, i)

    def logits(self, context: C.llama_context_p, i: int) -> Any:
        """The model's own for all tokens, valid until the next batch. For a chain that is not in the graph."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        return numpy.ctypeslib.as_array(C.llama_get_logits_ith(context, i), (self._vocabulary.n_tokens,))

    def close(self) -> None:
        """Free the chain. Free or detach its context before."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = self.sampling = None


def _chain_of(sampling: Sampling, vocabulary: Vocabulary) -> C.llama_sampler_p:
    """llama.cpp's samplers in the order of its common library, the grammar first. The caller frees the chain."""
    bound = grammar.sampler(sampling, vocabulary.handle)
    chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
    add = C.llama_sampler_chain_add
    if bound is not None:
        add(chain, bound)
    penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    if penalties != (1, 0, 0):
        add(chain, C.llama_sampler_init_penalties(vocabulary.n_tokens, sampling.penalty_last_n, *penalties))
    if sampling.dry_multiplier > 0:
        breakers = (ctypes.c_char_p * len(_SEQUENCE_BREAKERS))(*_SEQUENCE_BREAKERS)
        add(
            chain,
            C.llama_sampler_init_dry(
                vocabulary.handle,
                sampling.dry_multiplier,
                sampling.dry_base,
                sampling.dry_allowed_length,
                _DRY_LAST_N,
                breakers,
                len(breakers),
            ),
        )
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
