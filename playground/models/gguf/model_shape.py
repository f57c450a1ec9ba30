"""What a forecast of memory and speed needs to know of a file: from its header's keys and tensor shapes. Pure.

Names of tensors and keys: https://github.com/ggml-org/llama.cpp/tree/master/gguf-py/gguf/constants.py
"""

from __future__ import annotations

from collections.abc import Sequence

from playground.models.gguf.header import GgufHeader, TensorInfo
from playground.values.files import Shape

_EMBEDDINGS = "token_embd.weight"
_OUTPUT = "output.weight"


def shape(headers: Sequence[GgufHeader]) -> Shape:
    """Of a file, or of all shards of one; the first header has the keys."""
    first, tensors = headers[0], [tensor for header in headers for tensor in header.tensors]
    return _projector(first, tensors) if first.is_projector else _language_model(first, tensors)


def kv_bytes_per_token(header: GgufHeader) -> int | None:
    """Of 16-bit keys and values, as if every layer that attends looked at all of it (a sliding window takes less)."""
    arch = header.architecture
    layers, width = header.integer(f"{arch}.block_count"), header.integer(f"{arch}.embedding_length")
    heads, kv = header.integer(f"{arch}.attention.head_count"), header.metadata.get(f"{arch}.attention.head_count_kv")
    if not layers or not width or not heads:
        return None
    per_head = width / heads
    key = header.integer(f"{arch}.attention.key_length") or per_head
    value = header.integer(f"{arch}.attention.value_length") or per_head
    interval = header.integer(f"{arch}.full_attention_interval") or 1  # Qwen3.5: the layers between have no cache
    if isinstance(kv, tuple):  # one for each layer
        total = sum(n for n in kv if isinstance(n, int))
    else:
        total = layers // interval * (kv if isinstance(kv, int) and kv else heads)
    return min(int(total * (key + value) * 2), 2**40)  # a damaged header may claim anything


def _language_model(header: GgufHeader, tensors: Sequence[TensorInfo]) -> Shape:
    arch = header.architecture
    total = sum(tensor.n_bytes for tensor in tensors)
    layers = sum(tensor.n_bytes for tensor in tensors if tensor.name.startswith("blk."))
    embeddings = sum(tensor.n_bytes for tensor in tensors if tensor.name == _EMBEDDINGS)
    tied = not any(tensor.name == _OUTPUT for tensor in tensors)
    other = total - layers - embeddings + (embeddings if tied else 0)
    experts = sum(tensor.n_bytes for tensor in tensors if "_exps." in tensor.name)
    n_experts, used = header.integer(f"{arch}.expert_count"), header.integer(f"{arch}.expert_used_count")
    idle = experts * (n_experts - used) // n_experts if n_experts and used and 0 < used <= n_experts else 0
    return Shape(
        n_layers=header.integer(f"{arch}.block_count") or 0,
        layer_bytes=layers,
        embedding_bytes=embeddings,
        other_bytes=other,
        read_bytes=layers + other - idle,
        is_float=_is_float(tensors),
        kv_bytes_per_token=kv_bytes_per_token(header),
        n_vocabulary=next((t.shape[-1] for t in tensors if t.name == _EMBEDDINGS and t.shape), None),
        n_embd=header.integer(f"{arch}.embedding_length"),
        n_ff=header.integer(f"{arch}.feed_forward_length"),
    )


def _projector(header: GgufHeader, tensors: Sequence[TensorInfo]) -> Shape:
    total = sum(tensor.n_bytes for tensor in tensors)
    layers = sum(tensor.n_bytes for tensor in tensors if ".blk." in tensor.name)
    side, patch = header.integer("clip.vision.image_size"), header.integer("clip.vision.patch_size")
    return Shape(
        n_layers=header.integer("clip.vision.block_count") or 0,
        layer_bytes=layers,
        embedding_bytes=0,
        other_bytes=total - layers,
        read_bytes=0,
        is_float=_is_float(tensors),
        n_patches=(side // patch) ** 2 if side and patch else None,
        n_embd=header.integer("clip.vision.embedding_length"),
        n_ff=header.integer("clip.vision.feed_forward_length"),
    )


def _is_float(tensors: Sequence[TensorInfo]) -> bool:
    floats = sum(tensor.n_elements for tensor in tensors if tensor.type.name in ("F16", "BF16", "F32"))
    return 2 * floats > sum(tensor.n_elements for tensor in tensors)
