"""What a forecast of memory and speed needs to know of a file: from its header's keys and tensor shapes. Pure.

Names of tensors and keys: https://github.com/ggml-org/llama.cpp/tree/master/gguf-py/gguf/constants.py
"""

from __future__ import annotations

from collections.abc import Sequence

from playground.models.gguf.header import GgufHeader, TensorInfo
from playground.values.files import Resizing, Shape

_EMBEDDINGS = "token_embd.weight"
_OUTPUT = "output.weight"

# Of projector types that resize images: patches a token's side has where the header says nothing, and the limits of an
# image's tokens (llama.cpp tools/mtmd/clip.cpp, load_hparams: set_limit_image_tokens).
_TOKENS = {
    "qwen2vl_merger": (2, 8, 4096),
    "qwen2.5vl_merger": (2, 8, 4096),
    "qwen3vl_merger": (2, 8, 4096),
    "ling3vl": (2, 8, 4096),
    "glm4v": (2, 8, 4096),
    "muse-glimmer": (2, 1, 4096),
    "pixtral": (1, 8, 1024),
    "kimivl": (2, 8, 1024),
    "kimik25": (2, 2, 4096),
    "minimax_m3": (2, 8, 576),
    "lfm2": (2, 64, 256),
    "gemma4v": (3, 70, 1120),
}
_LFM2_TILES = 10 * 512**2  # pixels, at most (tools/mtmd/mtmd-image.cpp)
_MASKED = ("muse-glimmer", "mimovl", "youtuvl")
_MAX_SIDE = 4096  # pixels; a damaged header may claim anything


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
        image_side=side,
        resizing=_resizing(header),
        masked=bool(header.integer("clip.vision.n_wa_pattern")) or _projector_type(header) in _MASKED,
        n_embd=header.integer("clip.vision.embedding_length"),
        n_ff=header.integer("clip.vision.feed_forward_length"),
    )


def _projector_type(header: GgufHeader) -> str:
    return header.text("clip.projector_type") or header.text("clip.vision.projector_type") or ""


def _resizing(header: GgufHeader) -> Resizing | None:
    patch, kind = header.integer("clip.vision.patch_size"), _projector_type(header)
    low, high = (header.integer(f"clip.vision.image_{end}_pixels") for end in ("min", "max"))
    merge, *limits = _TOKENS.get(kind, (2,))
    for name in ("projector.scale_factor", "spatial_merge_size"):
        merge = header.integer(f"clip.vision.{name}") or merge
    if not patch or patch * merge > _MAX_SIDE:
        return None
    side = patch * merge
    if low and high:
        return Resizing(patch, side, (low, high), adjustable=False)
    if not limits:
        return None
    tiled = _LFM2_TILES if kind == "lfm2" else 0
    return Resizing(patch, side, (limits[0] * side**2, limits[1] * side**2), adjustable=True, tiled=tiled)


def _is_float(tensors: Sequence[TensorInfo]) -> bool:
    floats = sum(tensor.n_elements for tensor in tensors if tensor.type.name in ("F16", "BF16", "F32"))
    return 2 * floats > sum(tensor.n_elements for tensor in tensors)
