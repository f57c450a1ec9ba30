"""What tells two families apart whose sizes, architectures and projector types allow both. Pure.

Each sign is something in a projector's header that its own family's language model answers to. A sign that one of the
two headers does not decide says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from playground.models.gguf.header import GgufHeader
from playground.models.projector_types import PROJECTOR_TYPES

# Tokens that many vocabularies have, whatever the model sees with.
_COMMON = frozenset(
    {"<|vision_start|>", "<|vision_end|>", "<|im_start|>", "<|im_end|>", "<image>", "</image>", "\n", "\n\n"}
)
_BARE = ("mlp", "ldp", "ldpv2", "janus_pro")  # llama.cpp inserts no token around their images
_MARKS = {
    token: name
    for name, kind in reversed(PROJECTOR_TYPES.items())
    for token in (*kind.around, *kind.needed)
    if token not in _COMMON
}

Evidence = Callable[[GgufHeader], bool | None]  # None: the header does not decide


class Sign(NamedTuple):
    family: str
    types: tuple[str, ...]  # of projectors that the sign tells apart
    projector: Evidence
    model: Evidence


def _tensor(name: str) -> Evidence:
    return lambda projector: any(tensor.name == name for tensor in projector.tensors)


def _type(name: str) -> Evidence:
    return lambda projector: projector_type(projector) == name


def _token(text: str) -> Evidence:
    return lambda model: text in model.special_tokens if model.complete else None


def _mistral3(model: GgufHeader) -> bool | None:
    if model.architecture in ("mistral3", "mistral4"):
        return True
    return False if model.text("tokenizer.ggml.pre") == "pixtral" else None


def _idefics3(model: GgufHeader) -> bool | None:
    return {"llama-bpe": True, "smollm": False, "granite-docling": False}.get(model.text("tokenizer.ggml.pre") or "")


def _gemma4_e(model: GgufHeader) -> bool | None:
    width = model.integer("gemma4.embedding_length_per_layer_input")
    return None if width is None else width > 0


def _glm_ocr(model: GgufHeader) -> bool | None:
    return model.architecture == "glm4" and "glm4.nextn_predict_layers" in model.metadata


def _kimi_k25(model: GgufHeader) -> bool | None:
    return "deepseek2.attention.q_lora_rank" in model.metadata if model.architecture == "deepseek2" else None


def _janus(model: GgufHeader) -> bool | None:
    """Models of other makers use this projector too, without its token."""
    if _token("<image_placeholder>")(model):
        return True
    return False if model.text("tokenizer.ggml.model") == "llama" else None


def _newer_than_qwen2(model: GgufHeader) -> bool | None:
    """Only the vocabulary of Qwen2.5 has tool calls; a shortened one says nothing."""
    return True if model.architecture == "qwen2vl" and _token("<tool_call>")(model) else None


_QWEN2 = ("qwen2vl_merger", "qwen2.5vl_merger", "qwen2.5o")

SIGNS = (
    Sign("Mistral 3", ("pixtral",), _tensor("mm.patch_merger.weight"), _mistral3),
    Sign("GLM-OCR", ("glm4v",), _tensor("v.blk.0.attn_q_norm.weight"), _glm_ocr),
    Sign("Qwen2.5-Omni", _QWEN2, _type("qwen2.5o"), _token("<|AUDIO|>")),
    Sign("Qwen2.5-VL", _QWEN2[:2], _type("qwen2.5vl_merger"), _newer_than_qwen2),
    Sign("Idefics3", ("idefics3",), lambda header: _scale(header) == 2, _idefics3),
    Sign("a Gemma 4 E model", ("gemma4v",), _tensor("v.blk.0.attn_k.input_max"), _gemma4_e),
    Sign("Kimi K2.5", ("kimivl", "kimik25"), _type("kimik25"), _kimi_k25),
    Sign("Janus", ("mlp", "janus_pro"), _type("janus_pro"), _janus),
    Sign("MiniCPM-V 4.6", ("minicpmv4_6", "qwen3vl_merger"), _type("minicpmv4_6"), _token("<slice>")),
)


def projector_type(projector: GgufHeader) -> str | None:
    return projector.text("clip.projector_type") or projector.text("clip.vision.projector_type")


def contradiction(model: GgufHeader, projector: GgufHeader) -> str | None:
    """A sentence that says what one header shows and the other one does not; None where nothing speaks against it."""
    kind = projector_type(projector)
    for sign in SIGNS:
        if kind not in sign.types:
            continue
        sees, reads = sign.projector(projector), sign.model(model)
        if sees is not None and reads is not None and sees != reads:
            ours, theirs = ("projector", "language model") if sees else ("language model", "projector")
            return f"by its header the {ours} belongs to {sign.family}, the {theirs} does not"
    is_janus = kind == "janus_pro" and _janus(model)  # its vocabulary has <end_of_image>, as Gemma's
    if kind in _BARE and not is_janus and (marks := sorted(_MARKS.keys() & model.special_tokens)):
        return (
            f"the language model's vocabulary has {marks[0]} of projectors of type '{_MARKS[marks[0]]}', "
            f"and this one's type is '{kind}'"
        )
    return None


def _scale(projector: GgufHeader) -> int | None:
    return projector.integer("clip.vision.projector.scale_factor")
