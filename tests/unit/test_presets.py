"""The presets for families on the Hub: data, checked against names of files that are known to be there."""

from __future__ import annotations

import fnmatch
import re
import string
from typing import NamedTuple

import pytest
from huggingface_hub.utils import validate_repo_id

from playground.models.gguf import file_names
from playground.models.presets import Derive, Preset, Suggested, presets_folder, read_presets

PRESETS = {preset.family: preset for preset in read_presets()}
ON_THE_HUB = [preset for preset in PRESETS.values() if preset.repo]
# The ladder of quantizations, the most precise first.
PRECISION = [
    "BF16", "F16", "Q8_0", "UD-Q6_K_XL", "Q6", "Q6_K", "UD-Q6_K", "UD-Q5_K_S", "Q5_K_M", "UD-Q4_K_XL", "UD-Q4_K_M",
    "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K",
]  # fmt: skip
OTHERS = ["README.md", "imatrix_unsloth.dat", "{base}-imatrix.gguf", "mtp-{base}-Q8_0.gguf", "config.json"]


class Seen(NamedTuple):
    """What a repository was seen to hold, its quantizations as they are written there, and which projector is meant."""

    model: str  # with {}
    quantizations: str
    projectors: tuple[str, ...]  # the first one is the preset's


# From file lists and downloaders' pins (a preset's `evidence` says which): what is ticked, and more.
SEEN = {
    "smolvlm-256m": Seen(
        "SmolVLM-256M-Instruct-{}.gguf",
        "f16 Q8_0",
        ("mmproj-SmolVLM-256M-Instruct-f16.gguf", "mmproj-SmolVLM-256M-Instruct-Q8_0.gguf"),
    ),
    "smolvlm-500m": Seen(
        "SmolVLM-500M-Instruct-{}.gguf",
        "f16 Q8_0",
        ("mmproj-SmolVLM-500M-Instruct-f16.gguf", "mmproj-SmolVLM-500M-Instruct-Q8_0.gguf"),
    ),
    "smolvlm2-2.2b": Seen(
        "SmolVLM2-2.2B-Instruct-{}.gguf",
        "Q8_0 Q4_K_M",
        ("mmproj-SmolVLM2-2.2B-Instruct-f16.gguf", "mmproj-SmolVLM2-2.2B-Instruct-Q8_0.gguf"),
    ),
    "lfm2-vl-450m": Seen(
        "LFM2-VL-450M-{}.gguf", "F16 Q8_0 Q4_0", ("mmproj-LFM2-VL-450M-F16.gguf", "mmproj-LFM2-VL-450M-Q8_0.gguf")
    ),
    "lfm2.5-vl-1.6b": Seen(
        "LFM2.5-VL-1.6B-{}.gguf",
        "BF16 Q8_0 Q4_K_M Q4_0",
        (
            "mmproj-LFM2.5-VL-1.6b-F16.gguf",
            "mmproj-LFM2.5-VL-1.6b-BF16.gguf",
            "mmproj-LFM2.5-VL-1.6b-Q8_0.gguf",
        ),
    ),
    "paddleocr-vl-1.5": Seen("PaddleOCR-VL-1.5-{}.gguf", "BF16 Q8_0", ("PaddleOCR-VL-1.5-mmproj.gguf",)),
    "lightonocr-2-1b": Seen(
        "LightOnOCR-2-1B.{}.gguf", "f16 Q8_0", ("LightOnOCR-2-1B.mmproj-f16.gguf", "LightOnOCR-2-1B.mmproj-Q8_0.gguf")
    ),
    "glm-ocr": Seen("GLM-OCR.{}.gguf", "f16 Q8_0", ("GLM-OCR.mmproj-f16.gguf", "GLM-OCR.mmproj-Q8_0.gguf")),
    "dots.ocr": Seen("dots.ocr-{}.gguf", "Q8_0", ("mmproj-dots.ocr-f16.gguf", "mmproj-dots.ocr-Q8_0.gguf")),
    "granite-docling-258m": Seen(
        "granite-docling-258M-{}.gguf",
        "f16 Q8_0",
        ("mmproj-granite-docling-258M-f16.gguf", "mmproj-granite-docling-258M-Q8_0.gguf"),
    ),
    "smoldocling-256m": Seen(
        "SmolDocling-256M-preview-{}.gguf",
        "bf16 q8_0 q4_k_m f16_q8_0",
        (
            "SmolDocling-256M-preview-f16.mmproj",
            "SmolDocling-256M-preview-f32.mmproj",
            "SmolDocling-256M-preview-q8_0.mmproj",
        ),
    ),
    "deepseek-ocr": Seen("deepseek-ocr-{}.gguf", "bf16 q8_0 Q4_K_M", ("mmproj-deepseek-ocr-bf16.gguf",)),
    "minicpm-v-4.6": Seen("MiniCPM-V-4_6-{}.gguf", "Q8_0 Q4_K_M", ("mmproj-model-f16.gguf",)),
    "kimi-vl-a3b-thinking": Seen(
        "Kimi-VL-A3B-Thinking-2506-{}.gguf",
        "Q4_K_M",
        ("mmproj-Kimi-VL-A3B-Thinking-2506-f16.gguf", "mmproj-Kimi-VL-A3B-Thinking-2506-Q8_0.gguf"),
    ),
    "glm-4.6v-flash": Seen("GLM-4.6V-Flash-{}.gguf", "BF16 Q8_0 UD-Q6_K_XL Q4_K_M", ("mmproj-F16.gguf",)),
    "granite-vision-3.3-2b": Seen("granite-vision-3.3-2b-{}.gguf", "Q8_0 Q4_K_M", ("mmproj-model-f16.gguf",)),
    "mistral-small-3.2-24b": Seen(
        "mistralai_Mistral-Small-3.2-24B-Instruct-2506-{}.gguf",
        "Q6_K_L Q5_K_M Q4_K_M",
        (
            "mmproj-mistralai_Mistral-Small-3.2-24B-Instruct-2506-f16.gguf",
            "mmproj-mistralai_Mistral-Small-3.2-24B-Instruct-2506-bf16.gguf",
        ),
    ),
    "pixtral-12b": Seen(
        "pixtral-12b-{}.gguf", "Q4_K_M", ("mmproj-pixtral-12b-f16.gguf", "mmproj-pixtral-12b-Q8_0.gguf")
    ),
    "gemma-4-e4b": Seen("gemma-4-E4B-it-{}.gguf", "Q8_0 Q4_K_M Q4_K_S", ("mmproj-F16.gguf", "mmproj-BF16.gguf")),
    "gemma-4-31b": Seen("gemma-4-31B-it-{}.gguf", "UD-Q4_K_XL Q4_K_M Q4_K_S", ("mmproj-F16.gguf", "mmproj-BF16.gguf")),
    "qwen3.6-27b": Seen("Qwen3.6-27B-{}.gguf", "Q8_0 Q6_K UD-Q4_K_XL Q4_K_M", ("mmproj-F16.gguf", "mmproj-BF16.gguf")),
    "gemma-4-26b-a4b": Seen(
        "gemma-4-26B-A4B-it-{}.gguf",
        "UD-Q6_K_XL UD-Q5_K_XL UD-Q4_K_XL UD-Q4_K_M",
        ("mmproj-F16.gguf", "mmproj-BF16.gguf"),
    ),
    "qwen3.6-35b-a3b": Seen("Qwen3.6-35B-A3B-{}.gguf", "UD-Q6_K_XL UD-Q4_K_XL UD-Q4_K_M", ("mmproj-F16.gguf",)),
    "qwen3.8-27b": Seen("Qwen3.8-27B-{}.gguf", "UD-Q6_K UD-Q5_K_S UD-Q4_K_XL UD-Q4_K_M", ("mmproj-F16.gguf",)),
    "qwen2-vl-2b": Seen(
        "Qwen2-VL-2B-Instruct-{}.gguf",
        "f16 Q8_0 Q4_K_M IQ4_NL IQ4_XS Q3_K_XL Q3_K_L Q3_K_M Q3_K_S Q2_K_L Q2_K IQ3_M IQ3_XS IQ2_M",
        ("mmproj-Qwen2-VL-2B-Instruct-f16.gguf", "mmproj-Qwen2-VL-2B-Instruct-f32.gguf"),
    ),
    "qwen2.5-vl-3b": Seen(
        "Qwen2.5-VL-3B-Instruct-{}.gguf",
        "Q8_0 Q4_K_M",
        ("mmproj-Qwen2.5-VL-3B-Instruct-f16.gguf", "mmproj-Qwen2.5-VL-3B-Instruct-Q8_0.gguf"),
    ),
    "qwen2.5-vl-7b": Seen(
        "Qwen2.5-VL-7B-Instruct-{}.gguf",
        "Q8_0 Q4_K_M",
        ("mmproj-Qwen2.5-VL-7B-Instruct-f16.gguf", "mmproj-Qwen2.5-VL-7B-Instruct-Q8_0.gguf"),
    ),
    "qwen3-vl-2b": Seen(
        "Qwen3-VL-2B-Instruct-{}.gguf",
        "BF16 Q8_0 Q4_K_M UD-Q4_K_XL Q4_0 Q3_K_M",
        ("mmproj-F16.gguf", "mmproj-BF16.gguf"),
    ),
    "qwen3-vl-4b": Seen(
        "Qwen3-VL-4B-Instruct-{}.gguf",
        "BF16 Q8_0 Q6_K Q5_K_M Q4_K_M Q3_K_M",
        ("mmproj-F16.gguf", "mmproj-BF16.gguf"),
    ),
    "qwen3-vl-8b": Seen(
        "Qwen3-VL-8B-Instruct-{}.gguf",
        "Q8_0 Q6_K Q5_K_M Q4_K_M UD-Q4_K_XL UD-IQ3_XXS",
        ("mmproj-F16.gguf", "mmproj-BF16.gguf"),
    ),
    "qwen3.5-4b": Seen(
        "Qwen_Qwen3.5-4B-{}.gguf",
        "bf16 Q8_0 Q6_K Q6_K_L Q5_K_M Q4_K_M Q4_0 IQ4_XS Q3_K_L Q3_K_M IQ3_M",
        ("mmproj-Qwen_Qwen3.5-4B-f16.gguf", "mmproj-Qwen_Qwen3.5-4B-bf16.gguf"),
    ),
    "gemma-3-4b": Seen("gemma-3-4b-it-{}.gguf", "f16 Q8_0 Q4_K_M", ("mmproj-model-f16.gguf",)),
    "gemma-4-e2b": Seen(
        "gemma-4-E2B-it-{}.gguf",
        "BF16 Q8_0 Q5_K_M Q4_K_M Q4_0 Q3_K_M UD-IQ2_M",
        ("mmproj-F16.gguf", "mmproj-BF16.gguf"),
    ),
    "minicpm-v-2.6": Seen("ggml-model-{}.gguf", "Q8_0 Q5_K_M Q4_K_M Q4_0 Q2_K", ("mmproj-model-f16.gguf",)),
    "minicpm-v-4.5": Seen("MiniCPM-V-4_5-{}.gguf", "Q8_0 Q5_K_M Q5_1 Q4_K_M Q4_0", ("mmproj-model-f16.gguf",)),
    "internvl3.5-4b": Seen(
        "OpenGVLab_InternVL3_5-4B-{}.gguf",
        "Q8_0 Q4_K_M",
        ("mmproj-OpenGVLab_InternVL3_5-4B-f16.gguf", "mmproj-OpenGVLab_InternVL3_5-4B-bf16.gguf"),
    ),
    "moondream2": Seen("moondream2-text-model-{}_ct-vicuna.gguf", "f16", ("moondream2-mmproj-f16-20250414.gguf",)),
    "llava-1.5-7b": Seen(
        "llava-v1.5-7b-{}.gguf",
        "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_0 Q4_K_M Q4_K_S Q4_0 Q3_K_L Q3_K_M Q3_K_S Q2_K",
        ("llava-v1.5-7b-mmproj-model-f16.gguf",),
    ),
    "llava-1.6-mistral-7b": Seen(
        "llava-v1.6-mistral-7b.{}.gguf",
        "Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q3_K_M Q3_K Q3_K_XS",
        ("mmproj-model-f16.gguf",),
    ),
    "llava-1.6-vicuna-7b": Seen(
        "llava-v1.6-vicuna-7b.{}.gguf", "Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q3_K_M Q3_K_XS", ("mmproj-model-f16.gguf",)
    ),
    "llava-1.6-34b": Seen(
        "llava-v1.6-34b.{}.gguf", "Q8_0 Q6_K Q5_K_M Q5_K_S Q4_K_M Q3_K_M Q3_K_XS", ("mmproj-model-f16.gguf",)
    ),
    "nanollava": Seen("nanollava-text-model-{}.gguf", "f16", ("nanollava-mmproj-f16.gguf",)),
    "obsidian-3b": Seen("obsidian-{}.gguf", "f16 q6", ("mmproj-obsidian-f16.gguf",)),
}


def matching(pattern: str, files: list[str], quantization: str = "") -> list[str]:
    """Case does not count: publishers write F16 and f16, and the app's labels are upper case."""
    name = pattern.replace("{q}", quantization).lower()
    return [file for file in files if fnmatch.fnmatchcase(file.lower(), name)]


def in_the_repository(seen: Seen) -> list[str]:
    base = seen.model.split("{}")[0].rstrip("-.")
    models = [seen.model.format(quantization) for quantization in seen.quantizations.split()]
    return [*models, *seen.projectors, *(other.format(base=base) for other in OTHERS)]


def test_presets_when_read_then_there_is_a_family_for_every_file_and_at_least_14_on_the_hub() -> None:
    files = sorted(path.stem for path in presets_folder().glob("*.toml"))

    assert sorted(PRESETS) == files  # each file is named after its family, so no two families are alike
    assert len(ON_THE_HUB) >= 14
    assert len({preset.name for preset in PRESETS.values()}) == len(files)


@pytest.mark.parametrize("preset", ON_THE_HUB, ids=lambda preset: preset.family)
def test_preset_on_the_hub_when_read_then_it_is_whole(preset: Preset) -> None:
    for repo in filter(None, (preset.repo, preset.projector_repo)):
        validate_repo_id(repo)
        assert repo.count("/") == 1
    assert re.fullmatch(r"main|[0-9a-f]{40}", preset.revision)
    assert preset.about.rstrip().endswith(".")
    assert 0 < len(preset.about) <= 500
    assert preset.licence
    assert preset.ticked
    assert len(set(preset.ticked)) == len(preset.ticked)
    assert list(preset.ticked) == sorted(preset.ticked, key=PRECISION.index)
    assert "{q}" in preset.model or len(preset.ticked) == 1
    assert {field for _, field, *_ in string.Formatter().parse(preset.model) if field is not None} <= {"q"}
    assert "{" not in preset.projector
    assert preset.derive == Derive()
    assert preset.examples == preset.cells == ()


@pytest.mark.parametrize("preset", ON_THE_HUB, ids=lambda preset: preset.family)
def test_preset_on_the_hub_when_it_gives_sizes_then_its_words_give_the_same(preset: Preset) -> None:
    sizes = [*preset.sizes.values(), *filter(None, [preset.projector_size])]
    stated = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", preset.about)]
    assert set(sizes) <= set(stated)
    assert {*preset.sizes} <= {name for name in re.findall(r"\w+", preset.about)}
    assert 10 <= len(preset.purpose) <= 160


@pytest.mark.parametrize("preset", ON_THE_HUB, ids=lambda preset: preset.family)
def test_preset_on_the_hub_when_something_is_not_evidenced_then_it_says_so(preset: Preset) -> None:
    assert bool(preset.evidence) != ("a guess" in preset.about)
    assert preset.source or preset.suggested == Suggested()
    assert preset.evidence or preset.revision == "main"


@pytest.mark.parametrize("preset", ON_THE_HUB, ids=lambda preset: preset.family)
def test_patterns_when_a_repository_holds_what_was_seen_then_each_finds_its_one_file(preset: Preset) -> None:
    seen = SEEN[preset.family]
    files = in_the_repository(seen)

    files_found = {quantization: matching(preset.model, files, quantization) for quantization in preset.ticked}

    expected = {written.upper(): written for written in seen.quantizations.split()}
    assert files_found == {label: [seen.model.format(expected[label])] for label in preset.ticked}
    assert matching(preset.projector, files) == [seen.projectors[0]]


@pytest.mark.parametrize("preset", ON_THE_HUB, ids=lambda preset: preset.family)
def test_patterns_when_files_are_found_then_their_names_say_what_they_are(preset: Preset) -> None:
    files = in_the_repository(SEEN[preset.family])

    for quantization in preset.ticked:
        (model,) = matching(preset.model, files, quantization)
        assert file_names.quantization(model) == quantization
        assert not file_names.is_projector(model)
        assert not file_names.is_other(model)
    (projector,) = matching(preset.projector, files)
    if preset.family != "paddleocr-vl-1.5":  # whose makers do not say it
        assert file_names.quantization(projector) in ("F16", "BF16")
    assert file_names.is_projector(projector)


def test_minicpm_pattern_when_the_repository_has_its_older_names_then_they_are_found() -> None:
    preset = PRESETS["minicpm-v-4.5"]
    files = ["ggml-model-Q4_K_M.gguf", "mmproj-model-f16.gguf"]

    assert matching(preset.model, files, "Q4_K_M") == ["ggml-model-Q4_K_M.gguf"]
    assert matching(preset.projector, files) == ["mmproj-model-f16.gguf"]
