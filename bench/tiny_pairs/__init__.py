"""Small random pairs of many families: transformers makes them from a configuration, llama.cpp's converter writes them.

`python -m bench.tiny_pairs FOLDER --source LLAMA.CPP [NAME ...]`, with the extra "conformance". Nothing is downloaded.
"""

from __future__ import annotations

# What people call a family, by the name of its pair.
TITLES = {
    "dotsocr": "dots.ocr", "exaone45": "EXAONE 4.5", "gemma3": "Gemma 3", "gemma4": "Gemma 4, dense",
    "gemma4e": "Gemma 4 E", "glm4v": "GLM-4.1V", "glm4vmoe": "GLM-4.5V", "glmocr": "GLM-OCR",
    "granite4v": "Granite 4 Vision", "hunyuanvl": "HunyuanVL", "idefics3": "Idefics3", "internvl": "InternVL3",
    "internvl-tiles": "InternVL3, tiles", "janus": "Janus-Pro", "kimik25": "Kimi K2.5", "kimivl": "Kimi-VL",
    "lfm2vl": "LFM2-VL", "lightonocr": "LightOnOCR", "llama4": "Llama 4", "llava15": "LLaVA 1.5",
    "llava16": "LLaVA 1.6", "minicpmv46": "MiniCPM-V 4.6", "mistral3": "Mistral Small 3.1",
    "museglimmer": "Muse Glimmer", "paddleocr": "PaddleOCR-VL", "phi4": "Phi-4 vision", "pixtral": "Pixtral",
    "qwen25omni": "Qwen2.5-Omni", "qwen25vl": "Qwen2.5-VL", "qwen2vl": "Qwen2-VL", "qwen35": "Qwen3.5",
    "qwen35moe": "Qwen3.5-MoE", "qwen3vl": "Qwen3-VL", "qwen3vlmoe": "Qwen3-VL-MoE",
    "sarashina2": "Sarashina2.2-Vision", "smolvlm": "SmolVLM", "youtuvl": "Youtu-VL",
}  # fmt: skip
