"""Gives channels different scales without changing what the network computes.

Large models have channels that are many times as strong as their neighbours; a block of weights that shares one scale
then loses the weak ones, which is most of what low bits cost (AWQ, arXiv 2306.00978, evens the scales out before it
quantizes). This pair is too small and too regularised to grow such channels, and hardly degrades down to Q2_K. Here
AWQ is turned round: a channel's weights are multiplied by a random factor, and whatever feeds it is divided by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from training.model import Config


def spread(
    state: dict[str, Tensor], config: Config, model: float, projector: float, seed: int = 0
) -> dict[str, Tensor]:
    """The network's tensors with log-normal factors; `model` and `projector` are the standard deviations of their
    logarithms in either half, 0 for none. The same network but for rounding."""
    random = torch.Generator().manual_seed(seed)
    tensors = {name: tensor.clone() for name, tensor in state.items()}

    def move(width: int, deviation: float, feeding: list[str], fed: list[str], repeat: int = 1) -> None:
        """Divide the rows of `feeding`, multiply the columns of `fed`. `repeat`: query heads for each value head."""
        factors = torch.exp(torch.randn(width, generator=random) * deviation)
        for name in feeding:
            tensors[name] /= factors if tensors[name].ndim == 1 else factors[:, None]
        columns = factors
        if repeat > 1:
            columns = factors.view(-1, config.head_width).repeat_interleave(repeat, 0).flatten()
        for name in fed:
            tensors[name] *= columns

    for layer in range(config.vision_layers):
        at = f"v.blk.{layer}."
        norm = [f"{at}ln1.weight", f"{at}ln1.bias"]
        move(config.width, projector, norm, [f"{at}attn_{p}.weight" for p in "qkv"])
        move(config.width, projector, [f"{at}ln2.weight", f"{at}ln2.bias"], [f"{at}ffn_up.weight"])
        move(config.width, projector, [f"{at}attn_v.weight", f"{at}attn_v.bias"], [f"{at}attn_out.weight"])
    move(config.width, projector, ["v.post_ln.weight", "v.post_ln.bias"], ["v.mm_0.weight"])
    for layer in range(config.layers):
        at = f"lm.blk.{layer}."
        move(config.width, model, [f"{at}attn_norm.weight"], [f"{at}attn_{p}.weight" for p in "qkv"])
        move(config.width, model, [f"{at}ffn_norm.weight"], [f"{at}ffn_gate.weight", f"{at}ffn_up.weight"])
        values, shared = config.kv_heads * config.head_width, config.heads // config.kv_heads
        move(values, model, [f"{at}attn_v.weight"], [f"{at}attn_output.weight"], shared)
        move(config.ffn, model, [f"{at}ffn_up.weight"], [f"{at}ffn_down.weight"])
    return tensors
