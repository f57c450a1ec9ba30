"""What llama.cpp knows of projector types: with which language models they go, what tells their width, what they need.

Read from tools/mtmd of llama.cpp as llama-cpp-python 0.3.36 holds it (clip.cpp: clip_n_mmproj_embd and load_tensors;
mtmd.cpp: init_vision) and from its converters. `python -m bench projectors --source LLAMA.CPP` compares the table with
that source.
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
    # Tensors without which llama.cpp refuses the file, besides those of the encoder's layers.
    tensors: tuple[str, ...] = ()


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{part}" for name in names for part in ("weight", "bias"))


def _weights(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


_LINEAR = ("mm.2.weight", 1)
_MERGER = ("mm.2.bias", 0)
_FC = ("mm.model.fc.weight", 1)
_MLP3 = ("mm.model.mlp.3.weight", 1)
_GEMMA = "mm.input_projection.weight"
_VISION = ("<|vision_start|>", "<|vision_end|>")
_GLM = ("<|begin_of_image|>", "<|end_of_image|>")
_SLICES = ("<image>", "</image>", "<slice>", "</slice>", "\n")
_QWEN3 = ("qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe", "qwen4exp")
_DEEPSTACK = r"v\.deepstack\.\d+\.fc1\.weight"

_MERGER_TENSORS = _both("mm.0", "mm.2")
_KIMI_TENSORS = _both("mm.input_norm", "mm.1", "mm.2")
_DOTS_TENSORS = (*_both("mm.0", "mm.2", "mm.input_norm"), "mm.post_norm.weight")
_GLM_TENSORS = (
    *_weights("mm.model.fc", "mm.up", "mm.gate", "mm.down", "mm.post_norm"),
    *_both("mm.patch_merger"),
)
_GEMMA_TENSORS = _weights("mm.input_projection", "mm.soft_emb_norm")
_MINICPM_TENSORS = (
    "resampler.pos_embed_k",
    "resampler.query",
    *_weights("resampler.proj", "resampler.kv"),
    *_both(*(f"resampler.{name}" for name in ("attn.q", "attn.k", "attn.v", "attn.out", "ln_q", "ln_kv", "ln_post"))),
)
_SAM_TENSORS = (
    *_weights("v.sam.pos_embd", "v.sam.neck.0", "v.sam.neck.2", "v.sam.net_2", "v.sam.net_3"),
    *_both("v.sam.patch_embd", "v.sam.neck.1", "v.sam.neck.3", "mm.model.fc"),
    "v.view_seperator",  # llama.cpp's spelling
)
_MOBILE_BLOCKS = tuple(f"mm.model.mb_block.{block}.block" for block in (1, 2))

PROJECTOR_TYPES: dict[str, ProjectorType] = {
    "mlp": ProjectorType(("llama", "qwen2", "stablelm", "phi2", "phi3", "granite"), _LINEAR),
    "ldp": ProjectorType(
        ("llama",),
        ("mm.model.mb_block.1.block.2.1.bias", 0),
        tensors=(
            *_both("mm.model.mlp.1", "mm.model.mlp.3"),
            *_weights(*(f"{block}.{layer}" for block in _MOBILE_BLOCKS for layer in ("0.0", "2.0"))),
            *_both(*(f"{block}.{layer}" for block in _MOBILE_BLOCKS for layer in ("0.1", "1.fc1", "1.fc2", "2.1"))),
        ),
    ),
    "ldpv2": ProjectorType(
        ("llama",), ("mm.model.peg.0.bias", 0), tensors=_both("mm.model.mlp.0", "mm.model.mlp.2", "mm.model.peg.0")
    ),
    "adapter": ProjectorType(
        ("chatglm", "glm4"),
        ("adapter.linear.dense_4h_to_h.weight", 1),
        tensors=(
            "adapter.boi",
            "adapter.eoi",
            *_both("adapter.conv", "adapter.linear.norm1"),
            *_weights(
                *(f"adapter.linear.{name}" for name in ("linear", "dense_h_to_4h", "gate", "dense_4h_to_h")),
            ),
        ),
    ),
    "resampler": ProjectorType(
        ("minicpm", "llama", "qwen2", "qwen3"), ("resampler.proj.weight", 0), (), _SLICES, tensors=_MINICPM_TENSORS
    ),
    "minicpmv4_6": ProjectorType(
        ("qwen35",),
        ("mm.down.weight", 1),
        (),
        _SLICES,
        tensors=_weights("mm.input_norm", "mm.up", "mm.down"),
    ),
    # llama: Sarashina2.2-Vision
    "qwen2vl_merger": ProjectorType(("qwen2vl", "llama"), _MERGER, _VISION, tensors=_MERGER_TENSORS),
    "qwen2.5vl_merger": ProjectorType(("qwen2vl",), _MERGER, _VISION, tensors=_MERGER_TENSORS),
    "qwen2.5o": ProjectorType(("qwen2vl",), _MERGER, _VISION, tensors=_MERGER_TENSORS),
    "qwen3vl_merger": ProjectorType(_QWEN3, _MERGER, _VISION, again=_DEEPSTACK, tensors=_MERGER_TENSORS),
    "ling3vl": ProjectorType(("bailingmoe3",), _MERGER, _VISION, tensors=_both("mm.input_norm", "mm.0", "mm.2")),
    "mimovl": ProjectorType(("mimo2",), _LINEAR, _VISION, tensors=_weights("mm.0", "mm.2")),
    "youtuvl": ProjectorType(
        ("deepseek2",), _MERGER, _VISION, tensors=("mm.input_norm.weight", *_both("mm.0", "mm.2"))
    ),
    "exaone4_5": ProjectorType(("exaone4",), _MERGER, ("<vision>", "</vision>"), tensors=_MERGER_TENSORS),
    "glm4v": ProjectorType(("glm4", "glm4moe"), ("mm.down.weight", 1), _GLM, tensors=_GLM_TENSORS),
    "glm5v": ProjectorType(("glm5-next",), ("mm.down.weight", 1), _GLM, tensors=_GLM_TENSORS),
    "minimax_m3": ProjectorType(
        ("minimax-m3",),
        ("mm.merger.fc2.bias", 0),
        ("]<]start of image[>[", "]<]end of image[>["),
        tensors=_both("mm.1", "mm.2", "mm.merger.fc1", "mm.merger.fc2"),
    ),
    "muse-glimmer": ProjectorType(
        ("muse-glimmer",), _LINEAR, ("<|image_start|>", "<|image_end|>"), tensors=_weights("mm.0", "mm.1", "mm.2")
    ),
    "gemma3": ProjectorType(("gemma3",), (_GEMMA, 0), ("<start_of_image>", "<end_of_image>"), tensors=_GEMMA_TENSORS),
    "gemma3nv": ProjectorType(
        ("gemma3n",), (_GEMMA, 0), ("<start_of_image>", "<end_of_image>"), tensors=_GEMMA_TENSORS
    ),
    "gemma4v": ProjectorType(("gemma4",), (_GEMMA, 1), ("<|image>", "<image|>"), tensors=(_GEMMA,)),
    "gemma4uv": ProjectorType(
        ("gemma4",),
        (_GEMMA, 1),
        ("<|image>", "<image|>"),
        tensors=(_GEMMA, *_both("v.patch_norm.1", "v.patch_norm.2", "v.patch_norm.3")),
    ),
    "idefics3": ProjectorType(
        ("llama",), _FC, (), ("<fake_token_around_image>", "<global-img>", "\n\n", "\n"), tensors=(_FC[0],)
    ),
    "internvl": ProjectorType(
        ("qwen2", "qwen3", "qwen3moe", "llama", "internlm2", "gpt-oss"),
        _MLP3,
        ("<img>", "</img>"),
        tensors=_both("mm.model.mlp.0", "mm.model.mlp.1", "mm.model.mlp.3"),
    ),
    "nemotron_v2_vl": ProjectorType(
        ("nemotron_h", "nemotron_h_moe"),
        _MLP3,
        tensors=_weights("mm.model.mlp.0", "mm.model.mlp.1", "mm.model.mlp.3"),
    ),
    "pixtral": ProjectorType(
        ("llama", "mistral3", "mistral4", "deepseek2"),
        _LINEAR,
        ("[IMG_END]",),
        tensors=(*_weights("mm.1", "mm.2"), "v.token_embd.img_break"),
    ),
    "lightonocr": ProjectorType(("qwen3",), _LINEAR, ("<|im_start|>", "<|im_end|>"), tensors=_weights("mm.1", "mm.2")),
    "lfm2": ProjectorType(
        ("lfm2", "lfm2moe"),
        _LINEAR,
        ("<|image_start|>", "<|image_end|>"),
        ("<|img_thumbnail|>",),
        tensors=_both("mm.1", "mm.2"),
    ),
    "llama4": ProjectorType(
        ("llama4",),
        _FC,
        ("<|image_start|>", "<|image_end|>"),
        tensors=_weights("mm.model.fc", "mm.model.mlp.1", "mm.model.mlp.2"),
    ),
    "kimivl": ProjectorType(("deepseek2",), _LINEAR, ("<|media_start|>", "<|media_end|>"), tensors=_KIMI_TENSORS),
    # around an image: one of two pairs of tokens
    "kimik25": ProjectorType(("deepseek2", "glm-dsa"), _LINEAR, tensors=_KIMI_TENSORS),
    "paddleocr": ProjectorType(
        ("paddleocr", "ernie4_5"), _LINEAR, ("<|IMAGE_START|>", "<|IMAGE_END|>"), tensors=_KIMI_TENSORS
    ),
    "dots_ocr": ProjectorType(("qwen2",), _LINEAR, ("<|img|>", "<|endofimg|>"), tensors=_DOTS_TENSORS),
    "dots3note_v": ProjectorType(("dots3note",), _LINEAR, ("<|img|>", "<|endofimg|>"), tensors=_DOTS_TENSORS),
    "hunyuanvl": ProjectorType(
        ("hunyuan_vl", "hunyuan-dense"),
        _FC,
        ("<｜hy_place▁holder▁no▁100｜>", "<｜hy_place▁holder▁no▁101｜>"),
        tensors=(
            *_both("mm.0", "mm.2", "mm.model.fc"),
            *_weights("mm.pre_norm", "mm.post_norm"),
            "mm.image_begin",
            "mm.image_end",
            "v.image_newline",
        ),
    ),
    "deepseekocr": ProjectorType(("deepseek2-ocr", "deepseek2"), _FC, tensors=_SAM_TENSORS),
    "deepseekocr2": ProjectorType(("deepseek2-ocr", "deepseek2"), _FC, tensors=_SAM_TENSORS),
    "deepseek4v": ProjectorType(
        ("deepseek4",),
        _LINEAR,
        tensors=(
            *_both("mm.1", "mm.2"),
            "v.image_newline",
            *(f"v.token_embd.img_{name}" for name in ("start", "end", "pad")),
        ),
    ),
    "cogvlm": ProjectorType(
        ("cogvlm",),
        ("mm.down.weight", 1),
        tensors=(
            *_weights("mm.model.fc", "mm.up", "mm.gate", "mm.down"),
            *_both("mm.post_fc_norm"),
            "v.boi",
            "v.eoi",
        ),
    ),
    "janus_pro": ProjectorType(("llama",), ("mm.1.bias", 0), tensors=_both("mm.0", "mm.1")),
    "phi4": ProjectorType(("phi3",), _LINEAR, tensors=_both("mm.0", "mm.2")),
    "step3vl": ProjectorType(
        ("qwen3", "step35"),
        _FC,
        (),
        ("<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"),
        tensors=_weights("mm.0", "mm.1", "mm.model.fc"),
    ),
    "yasa2": ProjectorType(("qwen3",), _LINEAR, ("<image>", "</image>"), tensors=_weights("mm.0", "mm.2")),
    "granite4_vision": ProjectorType(
        ("granite", "granite_swa"),
        ("v.proj_blk.0.linear.weight", 1),
        again=r"v\.proj_blk\.[1-9]\d*\.linear\.weight",
        tensors=("v.image_newline",),
    ),
}

# Types of projectors without a vision encoder.
AUDIO_TYPES = frozenset(
    {
        "gemma3na", "gemma4a", "gemma4ua", "ultravox", "qwen2a", "qwen3a", "glma", "voxtral", "meralion",
        "musicflamingo", "dots3note_a", "lfm2a", "granite_speech", "mimo_audio", "parakeet", "qwen3tts_spkenc",
        "qwen3tts_gen", "pockettts_spkenc", "pockettts_gen",
    }
)  # fmt: skip

# How a vocabulary may spell a token that is a line break.
SPELLINGS = {"\n": ("\n", "Ċ", "<0x0A>"), "\n\n": ("\n\n", "ĊĊ")}

# Tokens of vocabularies that llama.cpp does not insert; `family_signs` reads them.
SIGN_TOKENS = ("<image_placeholder>", "<|AUDIO|>", "<tool_call>", "<slice>")

# What a header reader looks for in a vocabulary, of which it keeps nothing else.
SPECIAL_TOKENS = frozenset(
    spelling
    for kind in PROJECTOR_TYPES.values()
    for token in (*kind.around, *kind.needed, *SIGN_TOKENS)
    for spelling in SPELLINGS.get(token, (token,))
)
