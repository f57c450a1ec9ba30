"""The network, in PyTorch, as llama.cpp computes it: a `janus_pro` vision encoder and projector, a `llama` decoder.

Weights carry the names of the GGUF tensors, so export is a copy. Sources: llama.cpp `tools/mtmd/models/siglip.cpp`
(pre-norm layers, learned positions, post-norm, two-layer projector, tanh-GELU) and `src/models/llama.cpp`
(RMSNorm, RoPE over interleaved pairs, grouped-query attention, SwiGLU, tied embeddings).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Config:
    """Sizes of the pair. Rows of every matrix are multiples of 256, so each K-quant applies to each of them."""

    image_size: int = 192  # pixels
    patch_size: int = 16  # pixels
    width: int = 256  # of both halves
    vision_layers: int = 6
    vision_heads: int = 4
    vision_ffn: int = 512
    layer_norm_eps: float = 1e-6
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    rms_norm_eps: float = 1e-5
    rope_base: float = 10_000.0
    vocabulary: int = 768
    context: int = 2048

    @property
    def image_tokens(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def head_width(self) -> int:
        return self.width // self.heads


class VisionLayer(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads = c.vision_heads
        self.ln1 = nn.LayerNorm(c.width, c.layer_norm_eps)
        self.attn_q = nn.Linear(c.width, c.width)
        self.attn_k = nn.Linear(c.width, c.width)
        self.attn_v = nn.Linear(c.width, c.width)
        self.attn_out = nn.Linear(c.width, c.width)
        self.ln2 = nn.LayerNorm(c.width, c.layer_norm_eps)
        self.ffn_up = nn.Linear(c.width, c.vision_ffn)
        self.ffn_down = nn.Linear(c.vision_ffn, c.width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.ln1(x)
        q, k, v = (_split(p(h), self.heads) for p in (self.attn_q, self.attn_k, self.attn_v))
        x = x + self.attn_out(_join(functional.scaled_dot_product_attention(q, k, v)))
        return x + self.ffn_down(functional.gelu(self.ffn_up(self.ln2(x)), approximate="tanh"))


class Vision(nn.Module):
    """Encoder and projector: the mmproj file."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.patch_embd = nn.Conv2d(3, c.width, c.patch_size, c.patch_size)
        self.position_embd = nn.Parameter(torch.randn(c.image_tokens, c.width) * 0.02)
        self.blk = nn.ModuleList(VisionLayer(c) for _ in range(c.vision_layers))
        self.post_ln = nn.LayerNorm(c.width, c.layer_norm_eps)
        self.mm_0 = nn.Linear(c.width, c.width)
        self.mm_1 = nn.Linear(c.width, c.width)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, size, size) in -1 ... 1 -> (batch, image tokens, width)."""
        x = self.patch_embd(images).flatten(2).transpose(1, 2) + self.position_embd
        for layer in self.blk:
            x = layer(x)
        return self.mm_1(functional.gelu(self.mm_0(self.post_ln(x)), approximate="tanh"))


class LanguageLayer(nn.Module):
    def __init__(self, c: Config) -> None:
        super().__init__()
        self.heads, self.kv_heads = c.heads, c.kv_heads
        self.attn_norm = nn.RMSNorm(c.width, c.rms_norm_eps)
        self.attn_q = nn.Linear(c.width, c.width, bias=False)
        self.attn_k = nn.Linear(c.width, c.head_width * c.kv_heads, bias=False)
        self.attn_v = nn.Linear(c.width, c.head_width * c.kv_heads, bias=False)
        self.attn_output = nn.Linear(c.width, c.width, bias=False)
        self.ffn_norm = nn.RMSNorm(c.width, c.rms_norm_eps)
        self.ffn_gate = nn.Linear(c.width, c.ffn, bias=False)
        self.ffn_up = nn.Linear(c.width, c.ffn, bias=False)
        self.ffn_down = nn.Linear(c.ffn, c.width, bias=False)

    def forward(self, x: Tensor, mask: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        h = self.attn_norm(x)
        q = _rotate(_split(self.attn_q(h), self.heads), cos, sin)
        k = _rotate(_split(self.attn_k(h), self.kv_heads), cos, sin)
        v = _split(self.attn_v(h), self.kv_heads)
        shared = self.heads // self.kv_heads
        k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)
        x = x + self.attn_output(_join(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)))
        h = self.ffn_norm(x)
        return x + self.ffn_down(functional.silu(self.ffn_gate(h)) * self.ffn_up(h))


class Language(nn.Module):
    """Decoder: the language model's file."""

    def __init__(self, c: Config) -> None:
        super().__init__()
        self.config = c
        self.token_embd = nn.Embedding(c.vocabulary, c.width)
        self.blk = nn.ModuleList(LanguageLayer(c) for _ in range(c.layers))
        self.output_norm = nn.RMSNorm(c.width, c.rms_norm_eps)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Embeddings (batch, n, width), positions (batch, n), mask (batch, 1, n, n), True where a token may look
        -> logits (batch, n, vocabulary)."""
        c = self.config
        frequencies = c.rope_base ** (-torch.arange(0, c.head_width, 2, device=x.device) / c.head_width)
        angles = positions[:, None, :, None] * frequencies
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.blk:
            x = layer(x, mask, cos, sin)
        return functional.linear(self.output_norm(x), self.token_embd.weight)


class VisionLanguageModel(nn.Module):
    """A row is: user token, the image's tokens, then one or more blocks of text that do not see one another."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__()
        self.config = config or Config()
        self.v = Vision(self.config)
        self.lm = Language(self.config)
        self.apply(_initialise)
        deep = (2 * self.config.layers) ** -0.5
        for name, weight in self.named_parameters():
            if name.endswith(("attn_out.weight", "attn_output.weight", "ffn_down.weight")):
                weight.data.mul_(deep)

    def forward(self, images: Tensor, tokens: Tensor, blocks: Tensor, positions: Tensor) -> Tensor:
        """Images (batch, 3, size, size) in -1 ... 1, tokens (batch, 1 + n): the user token, then n of text;
        blocks (batch, n): the number of each text token's block; positions (batch, n)
        -> logits (batch, n, vocabulary) at the text tokens."""
        seen = self.v(images)
        head, text = self.lm.token_embd(tokens).split([1, tokens.shape[1] - 1], 1)
        x = torch.cat([head, seen.to(head.dtype), text], 1)
        prefix = x.shape[1] - text.shape[1]
        batch, n = blocks.shape
        block = torch.cat([blocks.new_zeros(batch, prefix), blocks], 1)  # text blocks count from 1
        same = block[:, :, None] == block[:, None, :]
        before = torch.ones(n + prefix, n + prefix, dtype=torch.bool, device=x.device).tril()
        mask = ((same | (block == 0)[:, None, :]) & before)[:, None]
        where = torch.cat([torch.arange(prefix, device=x.device).expand(batch, -1), positions], 1)
        return self.lm(x, where, mask)[:, prefix:]


def as_input(images: Tensor) -> Tensor:
    """uint8 (batch, size, size, 3) -> float (batch, 3, size, size) in -1 ... 1, as mean = std = 0.5 makes it."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02 if isinstance(module, nn.Embedding) else module.weight.shape[1] ** -0.5)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)


def _split(x: Tensor, heads: int) -> Tensor:
    """(batch, n, heads * width) -> (batch, heads, n, width)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on interleaved pairs: ggml's "norm" type, what the `llama` architecture uses."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
