"""Chooses tokens with llama.cpp's samplers."""

from __future__ import annotations

from llama_cpp import llama_cpp as C

from playground.values.request import Sampling


class TokenSampler:
    """Owns a chain of samplers that runs in a context's compute graph: on a GPU the logits then stay on the device."""

    def __init__(self, n_vocabulary: int) -> None:
        self._n_vocabulary = n_vocabulary
        self._chain: C.llama_sampler_p | None = None
        self.sampling: Sampling | None = None  # of the chain that is attached

    def attach(self, context: C.llama_context_p, sampling: Sampling) -> None:
        """Sample with `sampling` from now on. Penalties and the random generator start anew."""
        if self._chain is not None and self.sampling == sampling:
            C.llama_sampler_reset(self._chain)
            return
        self.detach(context)
        self._chain = _chain_of(sampling, self._n_vocabulary)
        self.sampling = sampling
        C.llama_set_sampler(context, 0, self._chain)

    def detach(self, context: C.llama_context_p) -> None:
        C.llama_set_sampler(context, 0, None)
        self.close()

    def sample(self, context: C.llama_context_p) -> int:
        """Choose the token that follows the last decoded one."""
        return int(C.llama_sampler_sample(self._chain, context, -1))

    def close(self) -> None:
        """Free the chain. Free or detach its context before."""
        if self._chain is not None:
            C.llama_sampler_free(self._chain)
            self._chain = self.sampling = None


def _chain_of(sampling: Sampling, n_vocab: int) -> C.llama_sampler_p:
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
