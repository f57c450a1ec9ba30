"""What llama.cpp knows of projector types: with which language models they go, what tells their width, what they need.

Read from tools/mtmd of llama.cpp as llama-cpp-python 0.3.36 holds it (clip.cpp: clip_n_mmproj_embd and load_tensors;
mtmd.cpp: init_vision) and from its converters. Audio projectors are left out: nothing here listens.
"""

from __future__ import annotations

from typing import NamedTuple


class ProjectorType(NamedTuple):
    # general.architecture of the language models that it was published with. Another one of the same width loads, and
    # may understand nothing.
    architectures: tuple[str, ...]
    # The tensor whose shape tells how many values an image token has, and which of its dimensions (ggml's order).
    width: tuple[str, int]
    # Tokens that stand around an image; a vocabulary without them reads them as plain text.
    around: tuple[str, ...] = ()
    # Tokens that llama.cpp inserts by their id, and aborts on where the vocabulary has none.
    needed: tuple[str, ...] = ()
    # The names of tensors each of which adds as many values again (deepstack).
    again: str | None = None


_LINEAR = ("mm.2.weight", 1)
_MERGER = ("mm.2.bias", 0)
_FC = ("mm.model.fc.weight", 1)
_MLP3 = ("mm.model.mlp.3.weight", 1)
_GEMMA = "mm.input_projection.weight"
_VISION = ("<|vision_start|>", "<|vision_end|>")
_GLM = ("<|begin_of_image|>", "<|end_of_image|>")
_SLICES = ("<image>", "</image>", "<slice>", "</slice>")
_QWEN3 = ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp")
_DEEPSTACK = r"v\.deepstack\.\d+\.fc1\.weight"

PROJECTOR_TYPES: dict[str, ProjectorType] = {
    "mlp": ProjectorType(("llama", "qwen2", "stablelm", "phi2", "phi3", "granite"), _LINEAR),
    "ldp": ProjectorType(("llama",), ("mm.model.mb_block.1.block.2.1.bias", 0)),
    "ldpv2": ProjectorType(("llama",), ("mm.model.peg.0.bias", 0)),
    "adapter": ProjectorType(("chatglm", "glm4"), ("adapter.linear.dense_4h_to_h.weight", 1)),
    "resampler": ProjectorType(("minicpm", "llama", "qwen2", "qwen3"), ("resampler.proj.weight", 0), (), _SLICES),
    "minicpmv4_6": ProjectorType(("qwen35",), ("mm.down.weight", 1), (), _SLICES),
    "qwen2vl_merger": ProjectorType(("qwen2vl", "llama"), _MERGER, _VISION),  # llama: Sarashina2.2-Vision
    "qwen2.5vl_merger": ProjectorType(("qwen2vl",), _MERGER, _VISION),
    "qwen2.5o": ProjectorType(("qwen2vl",), _MERGER, _VISION),
    "qwen3vl_merger": ProjectorType(_QWEN3, _MERGER, _VISION, again=_DEEPSTACK),
    "ling3vl": ProjectorType(("bailingmoe3",), _MERGER, _VISION),
    "mimovl": ProjectorType(("mimo2",), ("mm.2.weight", 1), _VISION),
    "youtuvl": ProjectorType(("deepseek2",), _MERGER, _VISION),
    "exaone4_5": ProjectorType(("exaone4",), _MERGER, ("<vision>", "</vision>")),
    "glm4v": ProjectorType(("glm4", "glm4moe"), ("mm.down.weight", 1), _GLM),
    "glm5v": ProjectorType(("glm5-next",), ("mm.down.weight", 1), _GLM),
    "minimax_m3": ProjectorType(
        ("minimax-m3",), ("mm.merger.fc2.bias", 0), ("]<]start of image[>[", "]<]end of image[>[")
    ),
    "muse-glimmer": ProjectorType(("muse-glimmer",), _LINEAR, ("<|image_start|>", "<|image_end|>")),
    "gemma3": ProjectorType(("gemma3",), (_GEMMA, 0), ("<start_of_image>", "<end_of_image>")),
    "gemma3nv": ProjectorType(("gemma3n",), (_GEMMA, 0), ("<start_of_image>", "<end_of_image>")),
    "gemma4v": ProjectorType(("gemma4",), (_GEMMA, 1), ("<|image>", "<image|>")),
    "gemma4uv": ProjectorType(("gemma4",), (_GEMMA, 1), ("<|image>", "<image|>")),
    "idefics3": ProjectorType(("llama",), _FC, (), ("<fake_token_around_image>", "<global-img>")),
    "internvl": ProjectorType(
        ("qwen2", "qwen3", "qwen3moe", "llama", "internlm2", "gpt-oss"), _MLP3, ("<img>", "</img>")
    ),
    "nemotron_v2_vl": ProjectorType(("nemotron_h", "nemotron_h_moe"), _MLP3),
    "pixtral": ProjectorType(("llama", "mistral3", "mistral4", "deepseek2"), _LINEAR, ("[IMG_END]",)),
    "lightonocr": ProjectorType(("qwen3",), _LINEAR, ("<|im_start|>", "<|im_end|>")),
    "lfm2": ProjectorType(("lfm2", "lfm2moe"), _LINEAR, ("<|image_start|>", "<|image_end|>"), ("<|img_thumbnail|>",)),
    "llama4": ProjectorType(("llama4",), _FC, ("<|image_start|>", "<|image_end|>")),
    "kimivl": ProjectorType(("deepseek2",), _LINEAR, ("<|media_start|>", "<|media_end|>")),
    "kimik25": ProjectorType(("deepseek2", "glm-dsa"), _LINEAR),  # around an image: one of two pairs of tokens
    "paddleocr": ProjectorType(("paddleocr", "ernie4_5"), _LINEAR, ("<|IMAGE_START|>", "<|IMAGE_END|>")),
    "dots_ocr": ProjectorType(("qwen2",), _LINEAR, ("<|img|>", "<|endofimg|>")),
    "dots3note_v": ProjectorType(("dots3note",), _LINEAR, ("<|img|>", "<|endofimg|>")),
    "hunyuanvl": ProjectorType(
        ("hunyuan_vl", "hunyuan-dense"), _FC, ("<｜hy_place▁holder▁no▁100｜>", "<｜hy_place▁holder▁no▁101｜>")
    ),
    "deepseekocr": ProjectorType(("deepseek2-ocr", "deepseek2"), _FC),
    "deepseekocr2": ProjectorType(("deepseek2-ocr", "deepseek2"), _FC),
    "deepseek4v": ProjectorType(("deepseek4",), _LINEAR),
    "cogvlm": ProjectorType(("cogvlm",), ("mm.down.weight", 1)),
    "janus_pro": ProjectorType(("llama",), ("mm.1.bias", 0)),
    "phi4": ProjectorType(("phi3",), _LINEAR),
    "step3vl": ProjectorType(
        ("qwen3", "step35"),
        _FC,
        (),
        ("<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"),
    ),
    "yasa2": ProjectorType(("qwen3",), _LINEAR, ("<image>", "</image>")),
    "granite4_vision": ProjectorType(
        ("granite", "granite_swa"),
        ("v.proj_blk.0.linear.weight", 1),
        again=r"v\.proj_blk\.[1-9]\d*\.linear\.weight",
    ),
}

# What a header reader looks for in a vocabulary, of which it keeps nothing else.
SPECIAL_TOKENS = frozenset(token for kind in PROJECTOR_TYPES.values() for token in (*kind.around, *kind.needed))
