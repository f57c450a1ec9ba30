"""Small random models, one function a family, each as large as its converter and llama.cpp need it to be.

A name is the pair's. Sizes are such that rows of 32 and of 256 weights both occur, and rows of neither.
"""

from __future__ import annotations

import json
import re
import shutil

import torch
import transformers as T
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from bench.tiny_pairs.making import (
    CHANCE,
    INNER,
    WIDTH,
    add_vision,
    byte_pairs,
    change,
    checkpoint,
    converter_options,
    corpus,
    fill,
    linear,
    norm,
    piece_config,
    save,
    sentence_pieces,
    text_sizes,
    token_id,
    turns,
    upstream,
)

# fmt: off
QWEN = turns("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n", "<|im_end|>\n")
GEMMA = turns("<start_of_turn>user\n", "<start_of_turn>model\n", "<end_of_turn>\n", "<end_of_turn>\n", begin="<bos>")
SMOL = turns("User:", "Assistant:", "<end_of_utterance>\n", "<end_of_utterance>\n", begin="<|im_start|>")
IDEFICS = turns("User:", "Assistant:", "<end_of_utterance>\n", "<end_of_utterance>\n", begin="<|begin_of_text|>")
MISTRAL = turns("[INST]", "", "[/INST]", "</s>", begin="<s>")
GLM = turns("<|user|>\n", "<|assistant|>\n", "", "", begin="[gMASK]<sop>")
KIMI = turns("<|im_user|>user<|im_middle|>", "<|im_assistant|>assistant<|im_middle|>", "<|im_end|>", "<|im_end|>")
GEMMA_IDS = dict(pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
    unk_piece="<unk>")
LLAMA_IDS = dict(unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
GEMMA4_SPECIAL = ["<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>", "<|audio|>",
    "<|video|>", "<|think|>"]
GEMMA4_DEFINED = ["<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>",
    '<|"|>', "<|tool>", "<tool|>"]

QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<think>", "</think>"]
CLIP = dict(image_mean=[0.48145466, 0.4578275, 0.40821073], image_std=[0.26862954, 0.26130258, 0.27577711])
HALF = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
IMNET = dict(image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225])


def pixtral_processor(name, patch_size, merge):
    """Without it transformers takes the processor of Llava, or merges no patches."""
    tokens = dict(image_token="[IMG]", image_break_token="[IMG_BREAK]", image_end_token="[IMG_END]")
    document = dict(processor_class="PixtralProcessor", patch_size=patch_size, spatial_merge_size=merge, **tokens)
    (checkpoint(name) / "processor_config.json").write_text(json.dumps(document))


def qwen_tok(template, extra=()):
    return byte_pairs(QWEN_SPECIAL + list(extra), eos="<|im_end|>", pad="<|endoftext|>", template=template)


def qwen2vl():
    tokenizer = qwen_tok(QWEN)
    size = len(tokenizer)
    config = T.Qwen2VLConfig(text_config=text_sizes(vocab_size=size, bos_token_id=token_id(tokenizer, "<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id, rope_parameters=dict(rope_type="default", rope_theta=1000000.0,
        mrope_section=[8, 12, 12])), vision_config=dict(depth=3, embed_dim=160, hidden_size=WIDTH, num_heads=2,
        mlp_ratio=4, patch_size=14), image_token_id=token_id(tokenizer, "<|image_pad|>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"), vision_start_token_id=token_id(tokenizer,
        "<|vision_start|>"), vision_end_token_id=token_id(tokenizer, "<|vision_end|>"))
    save("qwen2vl", T.Qwen2VLForConditionalGeneration(config), tokenizer, "qwen2", dict(CLIP, min_pixels=3136,
        max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2,
        image_processor_type="Qwen2VLImageProcessor"))


def qwen25vl():
    tokenizer = qwen_tok(QWEN)
    size = len(tokenizer)
    config = T.Qwen2_5_VLConfig(text_config=text_sizes(vocab_size=size, bos_token_id=token_id(tokenizer,
        "<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id, rope_parameters=dict(rope_type="default", rope_theta=1000000.0,
        mrope_section=[8, 12, 12])), vision_config=dict(depth=4, hidden_size=160, out_hidden_size=WIDTH,
        num_heads=2, intermediate_size=428, patch_size=14, window_size=112, fullatt_block_indexes=[1, 3]),
        image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"), vision_end_token_id=token_id(tokenizer,
        "<|vision_end|>"))
    save("qwen25vl", T.Qwen2_5_VLForConditionalGeneration(config), tokenizer, "qwen2", dict(CLIP, min_pixels=3136,
        max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2))


def qwen3vl():
    tokenizer = qwen_tok(QWEN)
    size = len(tokenizer)
    config = T.Qwen3VLConfig(text_config=text_sizes(vocab_size=size, head_dim=64, num_hidden_layers=4,
        rope_parameters=dict(rope_type="default", rope_theta=5000000.0, mrope_section=[12, 10, 10],
        mrope_interleaved=True), bos_token_id=token_id(tokenizer, "<|endoftext|>"),
        eos_token_id=tokenizer.eos_token_id), vision_config=dict(depth=4, hidden_size=144, out_hidden_size=WIDTH,
        num_heads=2, intermediate_size=538, patch_size=16, num_position_embeddings=256, deepstack_visual_indexes=[0,
        1, 2]), image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer,
        "<|video_pad|>"), vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"))
    save("qwen3vl", T.Qwen3VLForConditionalGeneration(config), tokenizer, "qwen2", dict(HALF,
        size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2))


def qwen35():
    tokenizer = qwen_tok(upstream("Qwen3.5-4B.jinja"))
    size = len(tokenizer)
    config = T.Qwen3_5Config(text_config=text_sizes(vocab_size=size, head_dim=64, num_hidden_layers=4,
        linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"], rope_parameters=dict(rope_type="default",
        rope_theta=10000000.0, mrope_section=[3, 3, 2], mrope_interleaved=True, partial_rotary_factor=0.25),
        eos_token_id=tokenizer.eos_token_id), vision_config=dict(depth=3, hidden_size=144, out_hidden_size=WIDTH,
        num_heads=2, intermediate_size=538, patch_size=16, num_position_embeddings=256),
        image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"), vision_end_token_id=token_id(tokenizer,
        "<|vision_end|>"))
    save("qwen35", T.Qwen3_5ForConditionalGeneration(config), tokenizer, "qwen35", dict(HALF,
        size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2))
    converter_options("qwen35", "--no-mtp")


def gemma3():
    folder = checkpoint("gemma3")
    pieces = sentence_pieces(folder, **GEMMA_IDS, user_defined_symbols=["\n", "\n\n", "\n\n\n", "  ", "   "],
        control_symbols=["<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>"],
            add_dummy_prefix=False)
    text = dict(vocab_size=pieces.vocab_size(), hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=1, head_dim=64, max_position_embeddings=8192, sliding_window=512,
        layer_types=["sliding_attention"] * 2, query_pre_attn_scalar=64, rms_norm_eps=1e-06)
    config = T.Gemma3Config(text_config=text, vision_config=dict(hidden_size=288, intermediate_size=1076,
        num_hidden_layers=3, num_attention_heads=4, image_size=896, patch_size=14, vision_use_head=False,
        hidden_act="gelu_pytorch_tanh", layer_norm_eps=1e-06), mm_tokens_per_image=256,
        boi_token_index=pieces.piece_to_id("<start_of_image>"), eoi_token_index=pieces.piece_to_id("<end_of_image>"),
        image_token_index=pieces.vocab_size() - 1)
    save("gemma3", T.Gemma3ForConditionalGeneration(config), None, "gemma", dict(HALF, image_seq_length=256,
        size=dict(height=896, width=896), image_processor_type="Gemma3ImageProcessor", do_pan_and_scan=None), tied=True,
        branch=2.0, embed_std=0.15, boost=("post_feed",), boost_mean=9.0,
        rename=[("^vision_tower\\.", "vision_tower.vision_model.")])
    piece_config(folder, GEMMA, "<bos>", "<eos>", pad_token="<pad>", tokenizer_class="GemmaTokenizer",
        add_bos_token=True)


def smolvlm():
    special = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<fake_token_around_image>", "<global-img>",
        "<image>", "<end_of_utterance>"] + [f"<row_{r}_col_{column}>" for r in range(1, 7) for column in range(1,
        7)]
    tokenizer = byte_pairs(special, bos="<|im_start|>", eos="<end_of_utterance>", pad="<|im_end|>", template=SMOL)
    size = len(tokenizer)
    config = T.SmolVLMConfig(text_config=dict(text_sizes(vocab_size=size, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, rope_parameters=dict(rope_type="default", rope_theta=100000.0)),
        model_type="llama"), vision_config=dict(hidden_size=192, intermediate_size=768, num_hidden_layers=2,
        num_attention_heads=3, image_size=512, patch_size=16), scale_factor=4, image_token_id=token_id(tokenizer,
        "<image>"))

    def patch(config):
        config["text_config"]["architectures"] = ["VLlama3ForCausalLM"]
        config["vision_config"].pop("architectures", None)
    save("smolvlm", T.SmolVLMForConditionalGeneration(config), tokenizer, "smollm", dict(HALF,
        size=dict(longest_edge=2048), max_image_size=dict(longest_edge=512)), patch)


def idefics3():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<fake_token_around_image>", "<global-img>",
        "<image>", "<end_of_utterance>"] + [f"<row_{r}_col_{column}>" for r in range(1, 7) for column in range(1,
        7)]
    tokenizer = byte_pairs(special, bos="<|begin_of_text|>", eos="<|end_of_text|>", template=IDEFICS)
    size = len(tokenizer)
    config = T.Idefics3Config(text_config=dict(text_sizes(vocab_size=size, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id), model_type="llama"), vision_config=dict(hidden_size=288,
        intermediate_size=1076, num_hidden_layers=2, num_attention_heads=4, image_size=364, patch_size=14),
        scale_factor=2, image_token_id=token_id(tokenizer, "<image>"))

    def patch(config):
        config["text_config"]["architectures"] = ["LlamaForCausalLM"]
    save("idefics3", T.Idefics3ForConditionalGeneration(config), tokenizer, "llama-bpe", dict(HALF,
        size=dict(longest_edge=4 * 364), max_image_size=dict(longest_edge=364)), patch)


def pixtral():
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[IMG]",
        "<pad>", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer = byte_pairs(special, bos="<s>", eos="</s>", pad="<pad>", template=MISTRAL, add_bos=True)
    size = len(tokenizer)
    config = T.LlavaConfig(text_config=dict(text_sizes(vocab_size=size, head_dim=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id), model_type="mistral"), vision_config=dict(model_type="pixtral",
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2, image_size=1024,
        patch_size=16, head_dim=64, hidden_act="silu"), image_token_index=token_id(tokenizer, "[IMG]"),
        vision_feature_layer=-1, vision_feature_select_strategy="full", image_seq_length=1)

    def patch(config):
        config["text_config"]["architectures"] = ["MistralForCausalLM"]
    save("pixtral", T.LlavaForConditionalGeneration(config), tokenizer, "pixtral", dict(CLIP,
        size=dict(longest_edge=1024), patch_size=16, image_processor_type="PixtralImageProcessor"), patch)
    pixtral_processor("pixtral", patch_size=16, merge=1)


def mistral3():
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[IMG]",
        "<pad>", "[IMG_BREAK]", "[IMG_END]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"]
    tokenizer = byte_pairs(special, bos="<s>", eos="</s>", pad="<pad>",
        template=upstream("Mistral-Small-3.2-24B-Instruct-2506.jinja"), add_bos=True)
    size = len(tokenizer)
    config = T.Mistral3Config(text_config=dict(text_sizes(vocab_size=size, head_dim=64,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id), model_type="mistral"),
        vision_config=dict(model_type="pixtral", hidden_size=128, intermediate_size=512, num_hidden_layers=3,
        num_attention_heads=2, image_size=1540, patch_size=14, head_dim=64, hidden_act="silu"),
        image_token_index=token_id(tokenizer, "[IMG]"), spatial_merge_size=2)

    def patch(config):
        config["text_config"].pop("architectures", None)
    save("mistral3", T.Mistral3ForConditionalGeneration(config), tokenizer, "tekken", dict(CLIP,
        size=dict(longest_edge=1540), patch_size=14, image_processor_type="PixtralImageProcessor"), patch)
    pixtral_processor("mistral3", patch_size=14, merge=2)


def internvl():
    special = [*QWEN_SPECIAL, "<img>", "</img>", "<IMG_CONTEXT>"]
    template = QWEN
    tokenizer = byte_pairs(special, eos="<|im_end|>", pad="<|endoftext|>", template=template)
    size = len(tokenizer)
    config = T.InternVLConfig(text_config=dict(text_sizes(vocab_size=size, eos_token_id=tokenizer.eos_token_id),
        model_type="qwen2"), vision_config=dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4,
        num_attention_heads=2, image_size=[448, 448], patch_size=[14, 14], attention_bias=True),
        image_token_id=token_id(tokenizer, "<IMG_CONTEXT>"), tie_word_embeddings=False)

    def patch(config):
        config["vision_config"]["architectures"] = ["InternVisionModel"]
        config["text_config"]["architectures"] = ["Qwen2ForCausalLM"]
    save("internvl", T.InternVLForConditionalGeneration(config), tokenizer, "qwen2", dict(IMNET,
        size=dict(height=448, width=448), crop_to_patches=False, min_patches=1, max_patches=12), patch,
        rename=[("^(vision_tower|multi_modal_projector)", "model.\\1")])


def internvl_tiles():
    internvl()
    folder = checkpoint("internvl-tiles")
    shutil.copytree(checkpoint("internvl"), folder, dirs_exist_ok=True)
    change(folder / "config.json", lambda config: config.update(min_dynamic_patch=1, max_dynamic_patch=6))


def lfm2vl():
    special = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>",
        "<|image_start|>", "<|image_end|>",
        "<|img_thumbnail|>"] + [f"<|img_row_{r}_col_{column}|>" for r in range(1, 11) for column in range(1, 11)]
    template = turns("<|im_start|>user\n", "<|im_start|>assistant\n", "<|im_end|>\n", "<|im_end|>\n",
        begin="<|startoftext|>")
    tokenizer = byte_pairs(special, bos="<|startoftext|>", eos="<|im_end|>", pad="<|pad|>", template=template,
        add_bos=True)
    size = len(tokenizer)
    config = T.Lfm2VlConfig(text_config=dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=768,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
        layer_types=["conv", "full_attention", "conv"], block_multiple_of=256, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, conv_L_cache=3),
        vision_config=dict(model_type="siglip2_vision_model", hidden_size=288, intermediate_size=1076,
        num_hidden_layers=3, num_attention_heads=4, patch_size=16, num_patches=256, vision_use_head=False),
        image_token_id=token_id(tokenizer, "<image>"), projector_hidden_size=320, downsample_factor=2)

    def patch(config):
        config["text_config"]["architectures"] = ["Lfm2ForCausalLM"]
        config["text_config"].setdefault("block_ff_dim", 768)
    save("lfm2vl", T.Lfm2VlForConditionalGeneration(config), tokenizer, "lfm2", dict(HALF, tile_size=512,
        min_image_tokens=64, max_image_tokens=256, min_tiles=2, max_tiles=10, use_thumbnail=True,
        encoder_patch_size=16, downsample_factor=2, max_num_patches=1024, do_image_splitting=True), patch,
        branch=2.5, rename=[("vision_tower\\.(?!vision_model)", "vision_tower.vision_model.")])
GLM_SPECIAL = ["<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
    "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>",
    "<|end_of_video|>", "<|image|>", "<|video|>"]


def glm_tok():
    return byte_pairs(GLM_SPECIAL, eos="<|endoftext|>", pad="<|endoftext|>", template=GLM)


def glm4v():
    tokenizer = glm_tok()
    size = len(tokenizer)
    config = T.Glm4vConfig(text_config=text_sizes(vocab_size=size, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, rope_parameters=dict(rope_type="default", rope_theta=10000.0,
        mrope_section=[8, 12, 12], partial_rotary_factor=0.5) | {"mrope_section": [4, 6, 6]}),
        vision_config=dict(depth=3, hidden_size=192, out_hidden_size=WIDTH, num_heads=3, intermediate_size=428,
        image_size=336, patch_size=14), image_token_id=token_id(tokenizer, "<|image|>"),
        image_start_token_id=token_id(tokenizer, "<|begin_of_image|>"), image_end_token_id=token_id(tokenizer,
        "<|end_of_image|>"), video_token_id=token_id(tokenizer, "<|video|>"),
        video_start_token_id=token_id(tokenizer, "<|begin_of_video|>"), video_end_token_id=token_id(tokenizer,
        "<|end_of_video|>"))
    save("glm4v", T.Glm4vForConditionalGeneration(config), tokenizer, "glm4", dict(CLIP,
        size=dict(shortest_edge=12544, longest_edge=9633792), patch_size=14, temporal_patch_size=2, merge_size=2))


def glmocr():
    tokenizer = glm_tok()
    size = len(tokenizer)
    config = T.GlmOcrConfig(text_config=text_sizes(vocab_size=size, head_dim=64, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, rope_parameters=dict(rope_type="default", rope_theta=10000.0,
        mrope_section=[8, 12, 12], partial_rotary_factor=1.0), num_nextn_predict_layers=0),
        vision_config=dict(depth=3, hidden_size=192, out_hidden_size=WIDTH, num_heads=3, intermediate_size=428,
        image_size=336, patch_size=14), image_token_id=token_id(tokenizer, "<|image|>"),
        image_start_token_id=token_id(tokenizer, "<|begin_of_image|>"), image_end_token_id=token_id(tokenizer,
        "<|end_of_image|>"), video_token_id=token_id(tokenizer, "<|video|>"),
        video_start_token_id=token_id(tokenizer, "<|begin_of_video|>"), video_end_token_id=token_id(tokenizer,
        "<|end_of_video|>"))
    save("glmocr", T.GlmOcrForConditionalGeneration(config), tokenizer, "glm4", dict(CLIP,
        size=dict(shortest_edge=12544, longest_edge=9633792), patch_size=14, temporal_patch_size=2, merge_size=2))


def glm4vmoe():
    tokenizer = glm_tok()
    size = len(tokenizer)
    config = T.Glm4vMoeConfig(text_config=text_sizes(vocab_size=size, num_hidden_layers=3,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0, mrope_section=[4, 6, 6],
        partial_rotary_factor=0.5), moe_intermediate_size=256, n_routed_experts=4, num_experts_per_tok=2,
        n_shared_experts=1, first_k_dense_replace=1), vision_config=dict(depth=3, hidden_size=192,
        out_hidden_size=WIDTH, num_heads=3, intermediate_size=428, image_size=336, patch_size=14),
        image_token_id=token_id(tokenizer, "<|image|>"), image_start_token_id=token_id(tokenizer,
        "<|begin_of_image|>"), image_end_token_id=token_id(tokenizer, "<|end_of_image|>"),
        video_token_id=token_id(tokenizer, "<|video|>"), video_start_token_id=token_id(tokenizer,
        "<|begin_of_video|>"), video_end_token_id=token_id(tokenizer, "<|end_of_video|>"))
    save("glm4vmoe", T.Glm4vMoeForConditionalGeneration(config), tokenizer, "glm4", dict(CLIP,
        size=dict(shortest_edge=12544, longest_edge=9633792), patch_size=14, temporal_patch_size=2, merge_size=2))


def llama4():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eom|>", "<|eot|>",
        "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|tile_x_separator|>",
        "<|tile_y_separator|>", "<|finetune_right_pad|>"]
    template = turns("<|header_start|>user<|header_end|>\n\n", "<|header_start|>assistant<|header_end|>\n\n",
        "<|eot|>", "<|eot|>", begin="<|begin_of_text|>")
    tokenizer = byte_pairs(special, bos="<|begin_of_text|>", eos="<|eot|>", pad="<|finetune_right_pad|>",
        template=template, add_bos=True)
    size = len(tokenizer)
    config = T.Llama4Config(text_config=dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=256,
        intermediate_size_mlp=INNER, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        max_position_embeddings=8192, num_local_experts=4, interleave_moe_layer_step=1, attention_chunk_size=8192,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, use_qk_norm=True),
        vision_config=dict(hidden_size=192, intermediate_size=768, num_hidden_layers=3, num_attention_heads=3,
        image_size=336, patch_size=14, vision_output_dim=256, projector_input_dim=256, projector_output_dim=256),
        boi_token_index=token_id(tokenizer, "<|image_start|>"), eoi_token_index=token_id(tokenizer,
        "<|image_end|>"), image_token_index=token_id(tokenizer, "<|patch|>"))

    def patch(config):
        config["text_config"]["architectures"] = ["Llama4ForCausalLM"]
    save("llama4", T.Llama4ForConditionalGeneration(config), tokenizer, "llama4", dict(HALF, size=dict(height=336,
        width=336), max_patches=16, resize_to_max_canvas=False), patch)


def lightonocr():
    tokenizer = qwen_tok(QWEN)
    size = len(tokenizer)
    config = T.LightOnOcrConfig(text_config=dict(text_sizes(vocab_size=size, head_dim=64,
        eos_token_id=tokenizer.eos_token_id), model_type="qwen3"), vision_config=dict(model_type="pixtral",
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=2, image_size=1540,
        patch_size=14, head_dim=64, hidden_act="silu"), image_token_id=token_id(tokenizer, "<|image_pad|>"),
        spatial_merge_size=2, tie_word_embeddings=False)

    def patch(config):
        config["architectures"] = ["LightOnOCRForConditionalGeneration"]
        config["text_config"]["architectures"] = ["Qwen3ForCausalLM"]
    save("lightonocr", T.LightOnOcrForConditionalGeneration(config), tokenizer, "qwen2", dict(CLIP,
        size=dict(longest_edge=1540), patch_size=14), patch)


def janus():
    special = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>", "<begin_of_image>", "<end_of_image>",
        "<image_placeholder>", "<|User|>", "<|Assistant|>"]
    template = turns("<|User|>: ", "<|Assistant|>:", "\n\n", "\n\n")
    tokenizer = byte_pairs(special, bos=special[0], eos=special[1], pad=special[2], template=template, add_bos=True)
    size = len(tokenizer)
    config = T.JanusConfig(text_config=dict(text_sizes(vocab_size=size, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id), model_type="llama"), vision_config=dict(hidden_size=192,
        num_hidden_layers=3, num_attention_heads=3, image_size=384, patch_size=16, mlp_ratio=4.0,
        projection_dim=WIDTH, num_image_tokens=576, depth=2), vq_config=dict(base_channels=32, num_embeddings=64,
        channel_multiplier=[1, 1, 1, 1, 1], projection_dim=WIDTH, image_token_embed_dim=WIDTH),
        image_token_id=token_id(tokenizer, "<image_placeholder>"), tie_word_embeddings=False)

    def patch(config):
        config["text_config"].pop("architectures", None)
    save("janus", T.JanusForConditionalGeneration(config), tokenizer, "deepseek-llm", dict(HALF,
        size=dict(height=384, width=384), min_size=14), patch)


def minicpmv46():
    special = [*QWEN_SPECIAL, "<image>", "</image>", "<slice>", "</slice>", "<image_id>", "</image_id>", "<unk>"]
    tokenizer = byte_pairs(special, eos="<|im_end|>", pad="<|endoftext|>",
        template=upstream("Qwen3.5-4B.jinja").replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>"))
    size = len(tokenizer)
    config = T.MiniCPMV4_6Config(text_config=text_sizes(vocab_size=size, head_dim=64, num_hidden_layers=4,
        linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"], rope_parameters=dict(rope_type="default",
        rope_theta=10000000.0, partial_rotary_factor=0.25, mrope_section=[3, 3, 2], mrope_interleaved=True),
        eos_token_id=tokenizer.eos_token_id), vision_config=dict(hidden_size=288, intermediate_size=1076,
        num_hidden_layers=4, num_attention_heads=4, image_size=980, patch_size=14, insert_layer_id=1),
        insert_layer_id=1, image_size=448, image_token_id=token_id(tokenizer, "<unk>"),
        video_token_id=token_id(tokenizer, "<|video_pad|>"))
    save("minicpmv46", T.MiniCPMV4_6ForConditionalGeneration(config), tokenizer, "qwen35", dict(HALF,
        scale_resolution=448, max_slice_nums=9, patch_size=14, downsample_mode="16x"))
    converter_options("minicpmv46", "--no-mtp")


def paddleocr():
    folder = checkpoint("paddleocr")
    special = ["<|begin_of_sentence|>", "<|end_of_sentence|>", "<|IMAGE_PLACEHOLDER|>", "<|video_pad|>",
        "<|IMAGE_START|>", "<|IMAGE_END|>"]
    pieces = sentence_pieces(folder, **LLAMA_IDS, control_symbols=special, user_defined_symbols=["\n"],
        add_dummy_prefix=False)
    ids = dict(zip(special, map(pieces.piece_to_id, special), strict=True))
    config = T.PaddleOCRVLConfig(text_config=text_sizes(vocab_size=pieces.vocab_size(), head_dim=64, bos_token_id=1,
        eos_token_id=2, rope_parameters=dict(rope_type="default", rope_theta=500000.0, mrope_section=[8, 12, 12])),
        vision_config=dict(hidden_size=288, intermediate_size=1076, num_hidden_layers=3, num_attention_heads=4,
        image_size=384, patch_size=14, spatial_merge_size=2), image_token_id=ids["<|IMAGE_PLACEHOLDER|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|IMAGE_START|>"],
        vision_end_token_id=ids["<|IMAGE_END|>"], tie_word_embeddings=False)

    def patch(config):
        config["vision_config"]["architectures"] = ["PaddleOCRVisionModel"]
        config["text_config"].pop("architectures", None)
    save("paddleocr", T.PaddleOCRVLForConditionalGeneration(config), None, "gpt-2", dict(HALF, min_pixels=147384,
        max_pixels=2822400, patch_size=14, merge_size=2, temporal_patch_size=1), patch)
    template = turns("User: ", "Assistant: ", "\n", "\n</s>", begin="<|begin_of_sentence|>")
    piece_config(folder, template, "<s>", "</s>", cls_token="<|begin_of_sentence|>", add_bos_token=False)


def granite4v():
    special = ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>", "<image>"]
    tokenizer = byte_pairs(special, bos="<|end_of_text|>", eos="<|end_of_text|>", pad="<|end_of_text|>",
        template=upstream("ibm-granite-granite-4.0.jinja"))
    size = len(tokenizer)
    config = T.Granite4VisionConfig(text_config=dict(text_sizes(vocab_size=size, num_hidden_layers=6,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, embedding_multiplier=1.0,
        logits_scaling=1.0, residual_multiplier=0.5, attention_multiplier=0.125)),
        vision_config=dict(model_type="siglip_vision_model", hidden_size=320, intermediate_size=1076,
        num_hidden_layers=8, num_attention_heads=4, image_size=384, patch_size=16, vision_use_head=False),
        qformer_config=dict(hidden_size=320, num_hidden_layers=1, num_attention_heads=5, intermediate_size=1076,
        encoder_hidden_size=320), downsample_rate="4/8", deepstack_layer_map=[[-4, 0], [-2, 1]],
        spatial_vision_layer=-1, spatial_target_layers=[2, 3, 4, 5], image_grid_pinpoints=[[384, 768], [768, 384],
        [768, 768]], image_token_index=token_id(tokenizer, "<image>"), tie_word_embeddings=False)

    def patch(config):
        config["text_config"]["architectures"] = ["GraniteForCausalLM"]
    save("granite4v", T.Granite4VisionForConditionalGeneration(config), tokenizer, "granite-docling", dict(HALF,
        size=dict(height=384, width=384)), patch)


def gemma4_tokenizer():
    """Byte pairs over words with their space behind them, and bytes for what is left."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=1400, special_tokens=special, show_progress=False, max_token_length=16)
    words = [word for text in corpus() for word in re.findall(r" ?\S+|\n+", text[:20000])]
    tokenizer.train_from_iterator(words, trainer)
    document = json.loads(tokenizer.to_str())  # the bytes are no special tokens
    document["added_tokens"] = [token for token in document["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in GEMMA4_SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in GEMMA4_DEFINED])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<turn|>",
        pad_token="<pad>", unk_token="<unk>")
    fast.chat_template = upstream("google-gemma-4-31B-it.jinja")
    fast.adds_bos = True
    return fast


def gemma4():
    tokenizer = gemma4_tokenizer()
    size = len(tokenizer)
    config = T.Gemma4Config(text_config=dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=64, global_head_dim=128,
        num_global_key_value_heads=1, max_position_embeddings=8192, sliding_window=512,
        layer_types=["sliding_attention", "full_attention"], vocab_size_per_layer_input=size,
        hidden_size_per_layer_input=0, rms_norm_eps=1e-06, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id),
        vision_config=dict(hidden_size=192, intermediate_size=428, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=3, head_dim=64, patch_size=16, pooling_kernel_size=3, position_embedding_size=1024),
        audio_config=None, boi_token_id=token_id(tokenizer, "<|image>"), eoi_token_id=token_id(tokenizer,
        "<image|>"), image_token_id=token_id(tokenizer, "<|image|>"), video_token_id=token_id(tokenizer,
        "<|video|>"))

    def patch(config):
        config["text_config"].setdefault("global_head_dim", 128)
        config["text_config"].setdefault("num_global_key_value_heads", 1)
    save("gemma4", T.Gemma4ForConditionalGeneration(config), tokenizer, "gemma4", dict(image_mean=[0.0] * 3,
        image_std=[1.0] * 3, patch_size=16, pooling_kernel_size=3, max_soft_tokens=280), patch, tied=True,
        branch=2.0, embed_std=0.15, boost=("post_feed",), boost_mean=9.0)


def exaone45():
    special = ["[BOS]", "[PAD]", "[|endofturn|]", "[|system|]", "[|user|]", "[|assistant|]", "<vision>",
        "</vision>", "<|image_pad|>", "<|video_pad|>"]
    template = turns("[|user|]", "[|assistant|]\n", "[|endofturn|]\n", "[|endofturn|]\n")
    tokenizer = byte_pairs(special, bos="[BOS]", eos="[|endofturn|]", pad="[PAD]", template=template)
    size = len(tokenizer)
    config = T.Exaone4_5_Config(text_config=dict(text_sizes(vocab_size=size, num_hidden_layers=4, sliding_window=512,
        sliding_window_pattern=4, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        layer_types=["sliding_attention"] * 3 + ["full_attention"]), model_type="exaone4"),
        vision_config=dict(depth=4, hidden_size=256, out_hidden_size=WIDTH, num_heads=4, num_key_value_heads=2,
        intermediate_size=428, patch_size=14, window_size=112, fullatt_block_indexes=[1, 3]),
        image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer, "<|video_pad|>"))
    save("exaone45", T.Exaone4_5_ForConditionalGeneration(config), tokenizer, "exaone4", dict(CLIP, min_pixels=3136,
        max_pixels=1003520, patch_size=14, merge_size=2))


def hunyuanvl():
    special = ["<｜hy_begin▁of▁sentence｜>", "<｜hy_end▁of▁sentence｜>", "<｜hy_User｜>", "<｜hy_Assistant｜>",
        "<｜hy_place▁holder▁no▁2｜>", "<｜hy_place▁holder▁no▁3｜>", "<｜hy_place▁holder▁no▁8｜>",
        "<｜hy_▁pad▁｜>"] + [f"<｜hy_place▁holder▁no▁{i}｜>" for i in (100, 101, 102, 103)]
    template = turns("", "", "<｜hy_User｜>", "<｜hy_Assistant｜>", begin="<｜hy_begin▁of▁sentence｜>")
    tokenizer = byte_pairs(special, bos=special[0], eos="<｜hy_Assistant｜>", pad="<｜hy_▁pad▁｜>", template=template)
    size = len(tokenizer)
    config = T.HunYuanVLConfig(text_config=text_sizes(vocab_size=size, head_dim=64, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        rope_parameters=dict(rope_type="dynamic", rope_theta=10000.0, alpha=1000.0, factor=1.0, beta_fast=32,
        beta_slow=1, mscale=1.0, mscale_all_dim=1.0, mrope_section=[8, 8, 8, 8])),
        vision_config=dict(hidden_size=288, intermediate_size=1076, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, out_hidden_size=WIDTH, text_hidden_size=WIDTH, patch_size=16, spatial_merge_size=2,
        max_image_size=512, min_image_size=128), image_token_id=token_id(tokenizer, "<｜hy_place▁holder▁no▁102｜>"),
        im_start_id=token_id(tokenizer, "<｜hy_place▁holder▁no▁100｜>"), im_end_id=token_id(tokenizer,
        "<｜hy_place▁holder▁no▁101｜>"), im_newline_id=token_id(tokenizer, "<｜hy_place▁holder▁no▁103｜>"),
        tie_word_embeddings=False)
    save("hunyuanvl", T.HunYuanVLForConditionalGeneration(config), tokenizer, "hunyuan-dense", dict(CLIP,
        min_pixels=262144, max_pixels=4194304, patch_size=16, merge_size=2))


def qwen3vlmoe():
    tokenizer = qwen_tok(QWEN)
    size = len(tokenizer)
    config = T.Qwen3VLMoeConfig(text_config=text_sizes(vocab_size=size, head_dim=64, num_hidden_layers=4,
        moe_intermediate_size=256, num_experts=4, num_experts_per_tok=2, rope_parameters=dict(rope_type="default",
        rope_theta=5000000.0, mrope_section=[12, 10, 10], mrope_interleaved=True),
        eos_token_id=tokenizer.eos_token_id), vision_config=dict(depth=4, hidden_size=144, out_hidden_size=WIDTH,
        num_heads=2, intermediate_size=538, patch_size=16, num_position_embeddings=256, deepstack_visual_indexes=[1,
        2, 3]), image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer,
        "<|video_pad|>"), vision_start_token_id=token_id(tokenizer, "<|vision_start|>"),
        vision_end_token_id=token_id(tokenizer, "<|vision_end|>"))
    save("qwen3vlmoe", T.Qwen3VLMoeForConditionalGeneration(config), tokenizer, "qwen2", dict(HALF,
        size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2))
    # On the Hub the experts are stored transposed: [experts, hidden, 2 * inner] and [experts, inner, hidden].
    path = checkpoint("qwen3vlmoe") / "model.safetensors"
    weights = load_file(path)
    for key, tensor in weights.items():
        if "experts.down_proj" in key or ("gate_up_proj" in key and tensor.shape[1] != WIDTH):
            weights[key] = tensor.transpose(1, 2).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


def dsv3(size, tokenizer, layers=3, q=None):
    return dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=INNER, moe_intermediate_size=64,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=4, n_shared_experts=1,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=64, q_lora_rank=q,
        qk_rope_head_dim=32, v_head_dim=64, qk_nope_head_dim=64, first_k_dense_replace=1,
        max_position_embeddings=8192, rms_norm_eps=1e-06, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, tie_word_embeddings=False, rope_parameters=dict(rope_type="default",
        rope_theta=50000.0))
KIMI_SPECIAL = ["[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>",
    "<|media_start|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>", "<|media_begin|>"]


def moonvit(width, inner):
    """Tensors of the tower that Kimi-VL and Kimi K2.5 share."""
    weights = {}
    tower = "vision_tower."
    weights[tower + "patch_embed.proj.weight"] = torch.randn(width, 3, 14, 14, generator=CHANCE) * 0.08
    weights[tower + "patch_embed.proj.bias"] = torch.randn(width, generator=CHANCE) * 0.1
    weights[tower + "patch_embed.pos_emb.weight"] = torch.randn(64, 64, width, generator=CHANCE) * 0.5
    for i in range(3):
        block = f"{tower}encoder.blocks.{i}."
        linear(weights, block + "wqkv", 3 * width, width)
        linear(weights, block + "wo", width, width)
        norm(weights, block + "norm0", width)
        norm(weights, block + "norm1", width)
        linear(weights, block + "mlp.fc0", inner, width)
        linear(weights, block + "mlp.fc1", width, inner)
    norm(weights, tower + "encoder.final_layernorm", width)
    return weights


def kimivl():
    tokenizer = byte_pairs(KIMI_SPECIAL, bos="[BOS]", eos="<|im_end|>", pad="[EOS]", template=KIMI)
    size = len(tokenizer)
    config = T.DeepseekV3Config(**dsv3(size, tokenizer, 27))
    save("kimivl", T.DeepseekV3ForCausalLM(config), tokenizer, "kimi-k2", HALF)
    width, inner = 256, 1076
    weights = moonvit(width, inner)
    norm(weights, "multi_modal_projector.pre_norm", width)
    linear(weights, "multi_modal_projector.linear_1", 4 * width, 4 * width)
    linear(weights, "multi_modal_projector.linear_2", WIDTH, 4 * width, gain=2)

    def patch(config):
        text = {key: value for key, value in config.items() if key != "architectures"}
        text["architectures"] = ["DeepseekV3ForCausalLM"]
        config["architectures"] = ["KimiVLForConditionalGeneration"]
        config["model_type"] = "kimi_vl"
        config["text_config"] = text
        config["vision_config"] = dict(model_type="moonvit", patch_size=14, num_attention_heads=4,
            num_hidden_layers=3, hidden_size=width, intermediate_size=inner, init_pos_emb_height=64,
            init_pos_emb_width=64, merge_kernel_size=[2, 2])
    add_vision("kimivl", weights, patch)


def kimik25():
    tokenizer = byte_pairs(KIMI_SPECIAL, bos="[BOS]", eos="<|im_end|>", pad="[EOS]", template=KIMI)
    size = len(tokenizer)
    config = T.DeepseekV3Config(**dsv3(size, tokenizer, 3, 64))
    save("kimik25", T.DeepseekV3ForCausalLM(config), tokenizer, "kimi-k2", dict(HALF, in_patch_limit=4096))
    width, inner = 256, 1076
    weights = moonvit(width, inner)
    norm(weights, "mm_projector.pre_norm", width)
    linear(weights, "mm_projector.proj.0", 4 * width, 4 * width)
    linear(weights, "mm_projector.proj.2", WIDTH, 4 * width, gain=2)

    def patch(config):
        text = {key: value for key, value in config.items() if key != "architectures"}
        text["architectures"] = ["DeepseekV3ForCausalLM"]
        config["architectures"] = ["KimiK25ForConditionalGeneration"]
        config["model_type"] = "kimi_k25"
        config["text_config"] = text
        config["vision_config"] = dict(patch_size=14, vt_num_attention_heads=4, vt_num_hidden_layers=3,
            vt_hidden_size=width, vt_intermediate_size=inner, num_attention_heads=4, num_hidden_layers=3,
            hidden_size=width, intermediate_size=inner, init_pos_emb_height=64, init_pos_emb_width=64,
            init_pos_emb_time=4, merge_kernel_size=[2, 2], projector_hidden_act="gelu", projector_ln_eps=1e-05)
    add_vision("kimik25", weights, patch)


def dotsocr():
    template = turns("<|user|>", "<|assistant|>", "<|endofuser|>", "<|endofassistant|>")
    tokenizer = byte_pairs(["<|endoftext|>", "[PAD]", "<|user|>", "<|endofuser|>", "<|assistant|>",
        "<|endofassistant|>", "<|system|>", "<|endofsystem|>", "<|img|>", "<|imgpad|>", "<|endofimg|>"],
        eos="<|endofassistant|>", pad="[PAD]", template=template)
    size = len(tokenizer)
    config = T.Qwen2Config(**text_sizes(vocab_size=size, eos_token_id=tokenizer.eos_token_id))
    save("dotsocr", T.Qwen2ForCausalLM(config), tokenizer, "qwen2", dict(CLIP, min_pixels=3136, max_pixels=1003520,
        patch_size=14, merge_size=2))
    weights = {}
    width = 256
    inner = 428
    tower = "vision_tower."
    weights[tower + "patch_embed.patchifier.proj.weight"] = torch.randn(width, 3, 14, 14, generator=CHANCE) * 0.08
    weights[tower + "patch_embed.patchifier.proj.bias"] = torch.randn(width, generator=CHANCE) * 0.1
    norm(weights, tower + "patch_embed.patchifier.norm", width, False)
    for i in range(3):
        block = f"{tower}blocks.{i}."
        linear(weights, block + "attn.qkv", 3 * width, width, False)
        linear(weights, block + "attn.proj", width, width, False)
        norm(weights, block + "norm1", width, False)
        norm(weights, block + "norm2", width, False)
        linear(weights, block + "mlp.fc1", inner, width, False)
        linear(weights, block + "mlp.fc3", inner, width, False)
        linear(weights, block + "mlp.fc2", width, inner, False)
    norm(weights, tower + "post_trunk_norm", width, False)
    norm(weights, tower + "merger.ln_q", width)
    linear(weights, tower + "merger.mlp.0", 4 * width, 4 * width)
    linear(weights, tower + "merger.mlp.2", WIDTH, 4 * width, gain=2)

    def patch(config):
        config["architectures"] = ["DotsOCRForCausalLM"]
        config["model_type"] = "dots_ocr"
        config["vision_config"] = dict(embed_dim=width, hidden_size=width, intermediate_size=inner, num_hidden_layers=3,
            num_attention_heads=4, num_channels=3, patch_size=14, spatial_merge_size=2, temporal_patch_size=1,
            rms_norm_eps=1e-05, use_bias=False)
    add_vision("dotsocr", weights, patch)


def museglimmer():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|header_start|>", "<|header_end|>", "<|eot|>",
        "<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|video|>", "<|pad|>"]
    tokenizer = byte_pairs(special, bos="<|begin_of_text|>", eos="<|end_of_text|>", pad="<|pad|>",
        template=upstream("muse-glimmer.jinja"), add_bos=True)
    size = len(tokenizer)
    config = T.MuseGlimmerConfig(text_config=dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        max_position_embeddings=8192, sliding_window=512, output_multiplier=1.0,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id),
        vision_config=dict(hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        layer_types=["window_attention", "window_attention", "window_attention", "full_attention"]),
        image_token_id=token_id(tokenizer, "<|patch|>"), video_token_id=token_id(tokenizer, "<|video|>"),
        out_hidden_size=1024, projector_hidden_size=512)
    save("museglimmer", T.MuseGlimmerForConditionalGeneration(config), tokenizer, "llama4", dict(HALF,
        patch_size=14, merge_size=2))


def qwen25omni():
    tokenizer = qwen_tok(QWEN, ["<|audio_bos|>", "<|audio_eos|>", "<|AUDIO|>"])
    size = len(tokenizer)
    config = T.Qwen2_5OmniThinkerConfig(text_config=text_sizes(vocab_size=size, eos_token_id=tokenizer.eos_token_id,
        rope_parameters=dict(rope_type="default", rope_theta=1000000.0, mrope_section=[8, 12, 12])),
        vision_config=dict(depth=4, hidden_size=160, out_hidden_size=WIDTH, num_heads=2, intermediate_size=428,
        patch_size=14, window_size=112, fullatt_block_indexes=[1, 3], embed_dim=160),
        audio_config=dict(num_mel_bins=128, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=512,
        d_model=256, output_dim=WIDTH, n_window=100), image_token_index=token_id(tokenizer, "<|image_pad|>"),
        video_token_index=token_id(tokenizer, "<|video_pad|>"), audio_token_index=token_id(tokenizer, "<|AUDIO|>"))

    def patch(config):
        th = dict(config)
        th.pop("transformers_version", None)
        th["architectures"] = ["Qwen2_5OmniNaViTThinkerForConditionalGeneration"]
        th["vision_config"].pop("embed_dim", None)
        config.clear()
        config.update(architectures=["Qwen2_5OmniModel"], model_type="qwen2_5_omni", thinker_config=th)
    save("qwen25omni", T.Qwen2_5OmniThinkerForConditionalGeneration(config), tokenizer, "qwen2", dict(CLIP,
        min_pixels=3136, max_pixels=12845056, patch_size=14, merge_size=2), patch, rename=[("^", "thinker.")])


def gemma4e():
    """like E2B/E4B: per-layer embeddings, shared KV layers, an audio encoder in the same mmproj"""
    tokenizer = gemma4_tokenizer()
    size = len(tokenizer)
    config = T.Gemma4Config(text_config=dict(vocab_size=size, hidden_size=WIDTH, intermediate_size=INNER,
        num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, head_dim=64, global_head_dim=128,
        max_position_embeddings=8192, sliding_window=512, layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2, vocab_size_per_layer_input=size, hidden_size_per_layer_input=64, rms_norm_eps=1e-06,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id), vision_config=dict(hidden_size=192, intermediate_size=428,
        num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3, head_dim=64, patch_size=16,
        pooling_kernel_size=3, position_embedding_size=1024, use_clipped_linears=True),
        audio_config=dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2),
        boi_token_id=token_id(tokenizer, "<|image>"), eoi_token_id=token_id(tokenizer, "<image|>"),
        image_token_id=token_id(tokenizer, "<|image|>"), video_token_id=token_id(tokenizer, "<|video|>"))

    def patch(config):
        config["text_config"].setdefault("global_head_dim", 128)
    model = T.Gemma4ForConditionalGeneration(config)
    for name, block in model.named_buffers():
        if name.endswith(("input_max", "output_max")):
            block.fill_(25.0)
        if name.endswith(("input_min", "output_min")):
            block.fill_(-25.0)
    save("gemma4e", model, tokenizer, "gemma4", dict(image_mean=[0.0] * 3, image_std=[1.0] * 3, patch_size=16,
        pooling_kernel_size=3, max_soft_tokens=280), patch, tied=True, branch=2.0, embed_std=0.15,
        boost=("post_feed",), boost_mean=9.0)


def llava(name, **more):
    """Vicuna with its vocabulary of SentencePiece; CLIP as a folder of its own, for llama.cpp's older converter."""
    folder = checkpoint(name)
    pieces = sentence_pieces(folder, **LLAMA_IDS, add_dummy_prefix=True)
    config = T.LlamaConfig(**text_sizes(vocab_size=pieces.vocab_size(), bos_token_id=1, eos_token_id=2))
    save(name, T.LlamaForCausalLM(config), None, "default", CLIP)
    piece_config(folder, turns("USER: ", "ASSISTANT:", " ", "</s>"), "<s>", "</s>", add_bos_token=True)
    vision = folder / "vision"
    sizes = dict(hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3, image_size=336)
    model = fill(T.CLIPVisionModel(T.CLIPVisionConfig(**sizes, patch_size=14, projection_dim=128)))
    model.save_pretrained(vision)
    change(vision / "config.json", lambda config: config.update(more))
    projector = {}
    linear(projector, "model.mm_projector.0", WIDTH, 192)
    linear(projector, "model.mm_projector.2", WIDTH, WIDTH, gain=2)
    if more:
        projector["model.image_newline"] = torch.randn(WIDTH, generator=CHANCE) * 0.5
    torch.save(projector, vision / "llava.projector")

def llava15():
    llava("llava15")

def llava16():
    sizes = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    llava("llava16", image_grid_pinpoints=sizes, mm_patch_merge_type="spatial_unpad", image_aspect_ratio="anyres",
        mm_projector_type="mlp2x_gelu")


def qwen35moe():
    tokenizer = qwen_tok(upstream("Qwen3.5-4B.jinja"))
    size = len(tokenizer)
    config = T.Qwen3_5MoeConfig(text_config=text_sizes(vocab_size=size, head_dim=64, num_hidden_layers=4,
        moe_intermediate_size=128, shared_expert_intermediate_size=128, num_experts=4, num_experts_per_tok=2,
        linear_key_head_dim=64, linear_value_head_dim=64, linear_num_key_heads=2, linear_num_value_heads=4,
        layer_types=["linear_attention"] * 3 + ["full_attention"], rope_parameters=dict(rope_type="default",
        rope_theta=10000000.0, mrope_section=[3, 3, 2], mrope_interleaved=True, partial_rotary_factor=0.25),
        eos_token_id=tokenizer.eos_token_id), vision_config=dict(depth=3, hidden_size=144, out_hidden_size=WIDTH,
        num_heads=2, intermediate_size=538, patch_size=16, num_position_embeddings=256),
        image_token_id=token_id(tokenizer, "<|image_pad|>"), video_token_id=token_id(tokenizer, "<|video_pad|>"),
        vision_start_token_id=token_id(tokenizer, "<|vision_start|>"), vision_end_token_id=token_id(tokenizer,
        "<|vision_end|>"))
    save("qwen35moe", T.Qwen3_5MoeForConditionalGeneration(config), tokenizer, "qwen35", dict(HALF,
        size=dict(longest_edge=16777216, shortest_edge=65536), patch_size=16, temporal_patch_size=2, merge_size=2))
    converter_options("qwen35moe", "--no-mtp")


def siglip2(weights, tower, width, inner, layers, patch, positions=None):
    weights[tower + "embeddings.patch_embedding.weight"] = torch.randn(width, 3 * patch * patch,
        generator=CHANCE) * 0.08
    weights[tower + "embeddings.patch_embedding.bias"] = torch.randn(width, generator=CHANCE) * 0.1
    if positions:
        weights[tower + "embeddings.position_embedding.weight"] = torch.randn(positions, width,
            generator=CHANCE) * 0.5
    for i in range(layers):
        block = f"{tower}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            linear(weights, block + "self_attn." + name, width, width)
        norm(weights, block + "layer_norm1", width)
        norm(weights, block + "layer_norm2", width)
        linear(weights, block + "mlp.fc1", inner, width)
        linear(weights, block + "mlp.fc2", width, inner)
    norm(weights, tower + "post_layernorm", width)


def phi4():
    special = ["<|endoftext|>", "<|im_start|>", "<|im_sep|>", "<|im_end|>", "<|image|>"]
    template = turns("<|im_start|>user<|im_sep|>", "<|im_start|>assistant<|im_sep|>", "<|im_end|>", "<|im_end|>")
    tokenizer = byte_pairs(special, bos="<|endoftext|>", eos="<|im_end|>", pad="<|endoftext|>", template=template)
    size = len(tokenizer)
    config = T.Phi3Config(**text_sizes(vocab_size=size, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        original_max_position_embeddings=8192))
    save("phi4", T.Phi3ForCausalLM(config), tokenizer, "dbrx", dict(HALF, patch_size=16, min_num_patches=16,
        max_num_patches=1024))
    change(checkpoint("phi4") / "tokenizer_config.json", lambda config: config.update(tokenizer_class="GPT2Tokenizer"))
    weights = {}
    width = 288
    siglip2(weights, "model.vision_tower.vision_tower.vision_model.", width, 1076, 4, 16, 256)
    linear(weights, "model.mm_projector.0", WIDTH, width)
    linear(weights, "model.mm_projector.2", WIDTH, WIDTH, gain=2)

    def patch(config):
        config["architectures"] = ["Phi4ForCausalLMV"]
        config["vision_config"] = dict(hidden_size=width, intermediate_size=1076, num_hidden_layers=4,
            num_attention_heads=4, patch_size=16, layer_norm_eps=1e-06)
    add_vision("phi4", weights, patch)


def youtuvl():
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|User|>", "<|Assistant|>", "<|vision_start|>",
        "<|vision_end|>", "<|image_pad|>"]
    template = turns("<|User|>", "<|Assistant|>", "", "<|end_of_text|>", begin="<|begin_of_text|>")
    tokenizer = byte_pairs(special, bos="<|begin_of_text|>", eos="<|end_of_text|>", pad="<|end_of_text|>",
        template=template, add_bos=True)
    size = len(tokenizer)
    config = T.DeepseekV3Config(**dsv3(size, tokenizer, 3, 64))
    save("youtuvl", T.DeepseekV3ForCausalLM(config), tokenizer, "youtu", dict(HALF, patch_size=16, merge_size=2))
    weights = {}
    width = 256
    siglip2(weights, "siglip2.vision_model.", width, 1076, 4, 16)
    norm(weights, "merger.ln_q", width, False)
    linear(weights, "merger.mlp.0", 4 * width, 4 * width)
    linear(weights, "merger.mlp.2", WIDTH, 4 * width, gain=2)

    def patch(config):
        config["architectures"] = ["YoutuVLForConditionalGeneration"]
        config["model_type"] = "youtu_vl"
        config["vision_config"] = dict(hidden_size=width, intermediate_size=1076, num_hidden_layers=4,
            num_attention_heads=4, patch_size=16, layer_norm_eps=1e-06, hidden_act="gelu_pytorch_tanh",
            spatial_merge_size=2, window_size=128, fullatt_block_indexes=[1, 3])
    add_vision("youtuvl", weights, patch)


def sarashina2():
    special = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|vision_start|>", "<|vision_end|>",
        "<|image_pad|>"]
    template = turns("<|user|>", "<|assistant|>", "</s>", "</s>", begin="<s>")
    tokenizer = byte_pairs(special, bos="<s>", eos="</s>", pad="<pad>", template=template, add_bos=True)
    size = len(tokenizer)
    save("sarashina2", T.LlamaForCausalLM(T.LlamaConfig(**text_sizes(vocab_size=size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id))), tokenizer, "llama-bpe", dict(CLIP, min_pixels=3136,
        max_pixels=12845056, patch_size=14, temporal_patch_size=2, merge_size=2), rename=[("^", "llm.")])
    vision = dict(depth=3, embed_dim=160, hidden_size=WIDTH, num_heads=2, mlp_ratio=4, patch_size=14)
    model = fill(Qwen2VisionTransformerPretrainedModel(T.Qwen2VLConfig(vision_config=vision).vision_config))
    weights = {f"visual.{key}": tensor.float() for key, tensor in model.state_dict().items()}

    def patch(config):
        text = {key: value for key, value in config.items() if key != "architectures"}
        text["architectures"] = ["LlamaForCausalLM"]
        config["architectures"] = ["Sarashina2VisionForCausalLM"]
        config["model_type"] = "sarashina2_vision"
        config["text_config"] = text
        config["vision_config"] = dict(vision, model_type="qwen2_vl", spatial_merge_size=2, temporal_patch_size=2)
    add_vision("sarashina2", weights, patch)


# By the name of the pair.
FAMILIES = {function.__name__.replace("_", "-"): function for function in (
    dotsocr, exaone45, gemma3, gemma4, gemma4e, glm4v, glm4vmoe, glmocr, granite4v, hunyuanvl, idefics3, internvl,
    internvl_tiles, janus, kimik25, kimivl, lfm2vl, lightonocr, llama4, llava15, llava16, minicpmv46, mistral3,
    museglimmer, paddleocr, phi4, pixtral, qwen25omni, qwen25vl, qwen2vl, qwen35, qwen35moe, qwen3vl, qwen3vlmoe,
    sarashina2, smolvlm, youtuvl,
)}
