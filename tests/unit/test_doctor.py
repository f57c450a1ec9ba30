"""The doctor on real files: every way in which two of them do not belong together."""

from __future__ import annotations

import importlib.util
import io
import random
import struct
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf as gguf_package
import pytest
from gguf import GGMLQuantizationType

from playground.errors import BadModel
from playground.models.doctor import Finding, Hardware, Level, diagnose, embedding_width, needs, width_of, worst
from playground.models.gguf.header import GgufHeader, read_header, read_remote
from playground.models.presets import data_folder
from playground.models.projector_types import AUDIO_TYPES, PROJECTOR_TYPES
from testkit import pairs
from testkit.doctor_files import (
    BROKEN,
    CHATML,
    DOUBTFUL,
    F16,
    FINE,
    GIB,
    LOOK,
    MIB,
    Q4_K,
    Q8_0,
    codes,
    diagnosed,
    entry,
    language,
    projector,
    sketch,
    sketched,
    the,
)
from testkit.gguf_bytes import gguf, tensor


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_pair_when_it_belongs_together_then_nothing_is_said(tiny: dict[str, pairs.PairFiles], kind: str) -> None:
    """tests/engine/test_equality.py has llama.cpp answer with every one of them."""
    assert diagnosed(tiny[kind].model, tiny[kind].projector) == ()


def test_embedded_pair_when_looked_at_then_nothing_is_said() -> None:
    """Its projector is of Janus's type."""
    folder = data_folder() / "tiny-vlm"
    assert diagnosed(folder / "tiny-vlm-7M-F16.gguf", folder / "mmproj-tiny-vlm-7M-F16.gguf") == ()


# --- which file is which ----------------------------------------------------------------------------------------------


def test_file_when_alone_then_told_which_one_is_missing(tiny: dict[str, pairs.PairFiles]) -> None:
    model, half = read_header(tiny["mlp"].model), read_header(tiny["mlp"].projector)
    alone = the(diagnose(model, None), "no-projector", BROKEN)
    assert alone.text == "tiny-mlp-F16.gguf cannot read images alone: its projector (mmproj) is missing."
    assert "called mmproj in the same repository" in alone.remedy
    assert "Models for text only have none" in alone.remedy
    alone = the(diagnose(half, None), "no-model", BROKEN)
    assert alone.text == "mmproj-tiny-mlp-F16.gguf is a projector (mmproj); the language model is missing."
    assert alone.remedy == "Choose the language model's file too."


def test_pair_when_twice_the_same_role_then_told_which_is_missing(tiny: dict[str, pairs.PairFiles]) -> None:
    files, other = tiny["mlp"], tiny["gemma3"]
    two = the(diagnosed(files.model, other.model), "two-models", BROKEN)
    assert two.text == "tiny-mlp-F16.gguf and tiny-gemma3-F16.gguf are both language models."
    assert "calls mmproj" in two.remedy
    two = the(diagnosed(files.projector, other.projector), "two-projectors", BROKEN)
    assert two.text == "mmproj-tiny-mlp-F16.gguf and mmproj-tiny-gemma3-F16.gguf are both projectors."
    assert "language model" in two.remedy


@pytest.mark.parametrize(
    ("encoders", "words"),
    [
        ({"audio": True}, "has no vision encoder: it is for audio."),
        ({"vision": False, "audio": True}, "has no vision encoder: it is for audio."),
        ({"vision": False, "gen_audio": True}, "has no vision encoder: it is for audio."),
        ({"vision": False}, "has no vision encoder."),
        ({}, "has no vision encoder."),
    ],
)
def test_projector_when_it_sees_nothing_then_said(tmp_path: Path, encoders: dict[str, bool], words: str) -> None:
    kinds = {f"clip.has_{kind}_encoder": has_it for kind, has_it in encoders.items()}
    clip = {"general.architecture": "clip", "clip.audio.projector_type": "qwen2a"} | kinds
    ears = sketch(tmp_path / "mmproj-ears-F16.gguf", clip, {"mm.a.fc.weight": (1024, 4096)})
    finding = the(diagnose(language(tmp_path), ears), "audio", BROKEN)
    assert finding.text == f"mmproj-ears-F16.gguf {words}"
    assert "Choose the mmproj file for images" in finding.remedy


def read_from_hub(data: bytes, size: int | None = None) -> GgufHeader:
    return read_remote(io.BytesIO(data), len(data) if size is None else size, "owner/repo/a.gguf")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"<!DOCTYPE html>", "not a GGUF file. Choose a file that ends in .gguf."),
        (b"", "not a GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(99), "a big-endian GGUF file; this app cannot read it"),
        (b"GGUF" + struct.pack("<IQQ", 9, 1, 1) + bytes(99), "a version 9 GGUF file; this app cannot read it"),
        (gguf([entry("general.architecture", "llama")], [])[:40], "its header is cut short"),
        (gguf([entry("general.architecture", "clip")], [tensor("a", (64, 64))]), "bytes of its tensors are missing"),
    ],
    ids=["a page", "empty", "big-endian", "version 9", "header cut", "weights cut"],
)  # fmt: skip
def test_file_when_it_cannot_be_read_then_refused_alike_here_and_on_the_hub(
    tmp_path: Path, data: bytes, message: str
) -> None:
    (tmp_path / "a.gguf").write_bytes(data)
    with pytest.raises(BadModel) as here:
        read_header(tmp_path / "a.gguf")
    with pytest.raises(BadModel) as error:
        read_from_hub(data)
    assert message in str(here.value)
    assert message in str(error.value)


# --- what llama.cpp does not know -------------------------------------------------------------------------------------


def test_table_when_held_against_the_installed_engine_then_it_knows_every_name() -> None:
    """Types, tokens and architectures as they stand in the libraries: a slip of the pen would doubt a right pair."""
    spec = importlib.util.find_spec("llama_cpp")  # imported only in workers
    assert spec is not None
    folder = Path(str(spec.origin)).parent / "lib"
    mtmd, llama = ((next(folder.glob(f"*{name}.*"))).read_bytes() for name in ("mtmd", "llama"))
    architectures = {arch for kind in PROJECTOR_TYPES.values() for arch in kind.architectures}
    assert {name for name in PROJECTOR_TYPES if name.encode() + b"\0" not in mtmd} == set()
    tokens = {token for kind in PROJECTOR_TYPES.values() for token in (*kind.around, *kind.needed)}
    assert {token for token in tokens if token.encode() + b"\0" not in mtmd} == set()
    assert {arch for arch in architectures if arch.encode() + b"\0" not in llama} == set()


def test_table_when_held_against_the_converters_types_then_every_one_that_sees_is_there() -> None:
    known = {value for key, value in vars(gguf_package.VisionProjectorType).items() if key.isupper()}
    assert known - AUDIO_TYPES - set(PROJECTOR_TYPES) <= {"hunyuanocr"}  # which became hunyuanvl
    assert AUDIO_TYPES & set(PROJECTOR_TYPES) == set()


# --- width ------------------------------------------------------------------------------------------------------------


# What the vocabulary of a family's own language model has besides the tokens around an image.
SIGN_TOKENS_OF = {"janus_pro": ("<image_placeholder>",), "qwen2.5o": ("<|AUDIO|>",)}


@pytest.mark.parametrize("kind", PROJECTOR_TYPES)
def test_projector_when_of_any_known_type_then_its_width_and_its_tokens_are_checked(tmp_path: Path, kind: str) -> None:
    known = PROJECTOR_TYPES[kind]
    half = projector(tmp_path, kind, 1280)
    tokens = (*known.around, *known.needed, *SIGN_TOKENS_OF.get(kind, ()))
    for architecture in known.architectures:
        merges = kind == "pixtral" and architecture.startswith("mistral")
        signed = projector(tmp_path, kind, 1280, also_shapes={"mm.patch_merger.weight": (8,)}) if merges else half
        ranked = {".attention.q_lora_rank": 1536} if kind == "kimik25" else {}
        assert diagnose(language(tmp_path, architecture, 1280, tokens=tokens, also=ranked), signed) == ()
    architecture = known.architectures[0]
    finding = the(diagnose(language(tmp_path, architecture, 1024, tokens=tokens), half), "width", BROKEN)
    assert "writes 1280 values for an image token, the model reads 1024." in finding.text
    assert finding.remedy == "Use the mmproj file that was published with this model, of the same size."
    for group, code, level in ((known.needed, "tokens", BROKEN), (known.around, "around", DOUBTFUL)):
        for token in group:
            others = tuple(other for other in tokens if other != token)
            finding = the(diagnose(language(tmp_path, architecture, 1280, tokens=others), half), code, level)
            shown = token.replace("\n", "\\n")
            assert finding.text.endswith(f": {shown}.")
    lacking = projector(tmp_path, kind, shapes={"v.patch_embd.weight": (14, 14, 3, 1024)})
    finding = the(diagnose(language(tmp_path, architecture, 1280, tokens=tokens), lacking), "projector-tensor", BROKEN)
    assert known.width[0] in finding.text


QWEN3_VL = {"2B": 2048, "4B": 2560, "8B": 4096}


def qwen3_vl(folder: Path, width: int, declared: int | None = None) -> GgufHeader:
    """All three sizes: the same vision tower but for its width, three deepstack layers."""
    shapes = {"mm.2.bias": (width,), "mm.2.weight": (4608, width)}
    for layer in (5, 11, 17):
        shapes |= {f"v.deepstack.{layer}.fc1.weight": (4608, 4608), f"v.deepstack.{layer}.fc2.weight": (4608, width)}
    said_layers: dict[str, object] = {"clip.vision.is_deepstack_layers": [layer in (5, 11, 17) for layer in range(24)]}
    size = {"clip.vision.projection_dim": declared or width}
    return projector(folder, "qwen3vl_merger", shapes=shapes, also=said_layers | size)


def test_qwen3_vl_when_of_two_sizes_then_told_by_width_alone(tmp_path: Path) -> None:
    seen = PROJECTOR_TYPES["qwen3vl_merger"].around
    for size, width in QWEN3_VL.items():
        model = language(tmp_path / size, "qwen3vl", width, tokens=seen, also={".n_deepstack_layers": 3})
        assert embedding_width(model) == 4 * width
        for other in QWEN3_VL.values():
            half = qwen3_vl(tmp_path, other)
            assert width_of(half) == 4 * other
            if other == width:
                assert diagnose(model, half) == ()
            else:
                finding = the(diagnose(model, half), "width", BROKEN)
                assert f"writes {4 * other} values for an image token, the model reads {4 * width}." in finding.text


def test_qwen3_5_when_it_gets_qwen3_vls_projector_then_the_deepstack_tells_them_apart(tmp_path: Path) -> None:
    """Both 2560 wide; Qwen3.5 reads no deepstack."""
    seen = PROJECTOR_TYPES["qwen3vl_merger"].around
    model = language(tmp_path, "qwen35", 2560, tokens=seen, also={".n_deepstack_layers": 0})
    finding = the(diagnose(model, qwen3_vl(tmp_path, 2560)), "width", BROKEN)
    assert "writes 10240 values for an image token, the model reads 2560." in finding.text
    assert diagnose(model, projector(tmp_path, "qwen3vl_merger", 2560)) == ()


@pytest.mark.parametrize("declared", [0, 768, 4096, 2**31])
def test_projection_dim_when_it_lies_then_the_shapes_count(tmp_path: Path, declared: int) -> None:
    lie = {"clip.vision.projection_dim": declared}
    assert diagnose(language(tmp_path, width=2560), projector(tmp_path, width=2560, also=lie)) == ()
    findings = diagnose(language(tmp_path, width=4096), projector(tmp_path, width=2560, also=lie))
    assert "writes 2560 values" in the(findings, "width", BROKEN).text
    assert width_of(qwen3_vl(tmp_path, 2048, declared=2560)) == 4 * 2048


def test_yi_type_projector_when_read_then_its_last_layer_tells_the_width(tmp_path: Path) -> None:
    """LLaVA on Yi, which llama.cpp calls mlp_norm: linear, norm, linear, norm."""
    shapes = {"mm.0.weight": (1024, 7168), "mm.1.weight": (7168,), "mm.3.weight": (7168, 7168), "mm.3.bias": (7168,)}
    assert width_of(projector(tmp_path, shapes=shapes)) == 7168
    without_bias = {key: shape for key, shape in shapes.items() if key != "mm.3.bias"}
    assert codes(diagnose(language(tmp_path, width=7168), projector(tmp_path, shapes=without_bias))) == [
        "projector-tensor"
    ]


def test_granite_vision_when_read_then_every_stream_counts_on_both_sides(tmp_path: Path) -> None:
    """Eight streams of 2560; the first is the base embedding, seven go into other layers."""
    shapes = {f"v.proj_blk.{n}.linear.weight": (1152, 2560) for n in range(8)}
    half = projector(tmp_path, "granite4_vision", shapes=shapes)
    mapping = [-1, 1, -1, 2, 3, -1, 4, 5, 6, 7] + [-1] * 30
    model = language(tmp_path, "granite", 2560, also={".deepstack_mapping": mapping})
    assert (width_of(half), embedding_width(model)) == (8 * 2560, 8 * 2560)
    assert diagnose(model, half) == ()
    plain = language(tmp_path, "granite", 2560)
    assert "writes 20480 values" in the(diagnose(plain, half), "width", BROKEN).text


@pytest.mark.parametrize("kind", [kind for kind, known in PROJECTOR_TYPES.items() if known.tensors])
def test_projector_when_it_lacks_a_tensor_of_its_type_then_broken(tmp_path: Path, kind: str) -> None:
    known = PROJECTOR_TYPES[kind]
    model = language(tmp_path, known.architectures[0], 1280, tokens=(*known.around, *known.needed))
    half = projector(tmp_path, kind, 1280)
    for name in known.tensors:
        without = replace(half, tensors=tuple(tensor for tensor in half.tensors if tensor.name != name))
        assert f"lacks the tensor {name}, without" in the(diagnose(model, without), "projector-tensor", BROKEN).text


def test_projector_when_a_layer_of_its_encoder_lacks_a_tensor_then_broken(tmp_path: Path) -> None:
    parts = ("attn_out", "ffn_up", "ffn_down")
    layers = {f"v.blk.{layer}.{part}.weight": (64, 64) for layer in range(3) for part in parts}
    count = {"clip.vision.block_count": 3}
    assert diagnose(language(tmp_path), projector(tmp_path, also=count, also_shapes=layers)) == ()
    short = {name: shape for name, shape in layers.items() if not name.startswith("v.blk.2.")}
    finding = the(
        diagnose(language(tmp_path), projector(tmp_path, also=count, also_shapes=short)), "projector-tensor", BROKEN
    )
    assert "lacks the tensor v.blk.2.attn_out.weight and 2 more, without" in finding.text


@pytest.mark.parametrize("kind", sorted(AUDIO_TYPES))
def test_projector_when_its_type_is_for_audio_then_broken(tmp_path: Path, kind: str) -> None:
    clip = {"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": kind}
    finding = the(diagnose(language(tmp_path), sketch(tmp_path / "mmproj.gguf", clip, {"a": (8,)})), "audio", BROKEN)
    assert finding.text == f"The projector's type '{kind}' is for audio."


# --- family and tokens ------------------------------------------------------------------------------------------------


def test_pair_when_of_equal_width_and_two_families_then_unproven_and_the_look_test_is_offered(tmp_path: Path) -> None:
    qwen, gemma = language(tmp_path, "qwen3", 2560), projector(tmp_path, "gemma3", 2560)
    finding = the(diagnose(qwen, gemma), "family", DOUBTFUL)
    assert finding.text == (
        "The sizes match, but this combination is untested: a projector of type 'gemma3' is made for gemma3; this "
        "language model is qwen3."
    )
    assert finding.remedy.startswith(f"{LOOK}: if the answers do not change with the picture, the pair ignores it")
    nameless = language(tmp_path, "qwen3", 2560, also={".embedding_length": "2560"})
    assert diagnose(nameless, gemma)[0].text.startswith(
        "The sizes cannot be compared, and this combination is untested"
    )


@pytest.mark.parametrize(
    ("kind", "architecture", "own", "foreign"),
    [
        ("pixtral", "mistral3", {"merger": True}, {"merger": False}),
        ("pixtral", "llama", {"pre": "pixtral", "merger": False}, {"pre": "pixtral", "merger": True}),
        ("idefics3", "llama", {"pre": "smollm", "scale": 4}, {"pre": "smollm", "scale": 2}),
        ("idefics3", "llama", {"pre": "llama-bpe", "scale": 2}, {"pre": "llama-bpe", "scale": 4}),
        ("qwen2vl_merger", "qwen2vl", {}, {"token": "<|AUDIO|>"}),
        ("qwen2vl_merger", "qwen2vl", {}, {"token": "<tool_call>"}),
        ("qwen2.5vl_merger", "qwen2vl", {"token": "<tool_call>"}, {"token": "<|AUDIO|>"}),
        ("qwen3vl_merger", "qwen35", {}, {"token": "<slice>"}),
        ("mlp", "llama", {}, {"token": "<image_placeholder>"}),
        ("mlp", "qwen2", {"token": "<|vision_start|>"}, {"token": "<|endofimg|>"}),
        ("kimivl", "deepseek2", {}, {"rank": 1536}),
        ("gemma4v", "gemma4", {"per_layer": 0}, {"per_layer": 256}),
    ],
)  # fmt: skip
def test_pair_when_the_headers_show_two_families_of_one_type_then_doubted(
    tmp_path: Path, kind: str, architecture: str, own: dict[str, Any], foreign: dict[str, Any]
) -> None:
    known = PROJECTOR_TYPES[kind]

    def findings(of: dict[str, Any]) -> tuple[Finding, ...]:
        fields: dict[str, object] = {"tokenizer.ggml.pre": of.get("pre", "default")}
        fields |= {".attention.q_lora_rank": of["rank"]} if "rank" in of else {}
        fields |= {".embedding_length_per_layer_input": of["per_layer"]} if "per_layer" in of else {}
        tokens = (*known.around, *known.needed, *([of["token"]] if "token" in of else []))
        merger = {"mm.patch_merger.weight": (8,)} if of.get("merger") else {}
        scale: dict[str, object] = {"clip.vision.projector.scale_factor": of["scale"]} if "scale" in of else {}
        return diagnose(
            language(tmp_path, architecture, 1280, tokens=tokens, also=fields),
            projector(tmp_path, kind, 1280, also=scale, also_shapes=merger),
        )

    assert findings(own) == ()
    finding = the(findings(foreign), "sign", DOUBTFUL)
    assert finding.text.startswith("The sizes match (1280 values), but ")
    assert finding.remedy.startswith(f"Equal sizes prove nothing. {LOOK}")


def test_vocabulary_when_long_then_its_special_tokens_are_found_at_its_end(tmp_path: Path) -> None:
    needed = PROJECTOR_TYPES["resampler"].needed
    words = (*(f"word {n}" for n in range(40_000)), *needed)
    model = language(tmp_path, "qwen2", 3584, tokens=words)
    assert model.special_tokens == set(needed)
    assert len(model.metadata["tokenizer.ggml.tokens"]) == 256  # type: ignore[arg-type]


# --- on the Hub: the header is read up to the vocabulary --------------------------------------------------------------


def test_header_when_read_from_the_hub_then_what_lies_behind_the_vocabulary_is_not_judged(
    tiny: dict[str, pairs.PairFiles], tmp_path: Path
) -> None:
    bare = pairs.write_pair("idefics3", tmp_path, special_tokens=False)
    model = read_from_hub(bare.model.read_bytes()[:4000], bare.model.stat().st_size)
    half = read_from_hub(bare.projector.read_bytes())
    assert (model.complete, half.complete) == (False, True)
    assert (model.file_bytes, model.n_params) == (bare.model.stat().st_size, 0)
    assert diagnose(model, half) == ()  # neither the tokens nor the template, which both lack here
    other = read_from_hub(tiny["gemma3"].projector.read_bytes())
    assert codes(diagnose(model, other)) == ["family"]
    wide = pairs.write_llava(tmp_path, n_embd=512, name="wide")
    assert codes(diagnose(model, read_from_hub(wide.projector.read_bytes()))) == ["width"]
    assert codes(diagnose(half, model)) == ["swapped"]


# --- lineage ----------------------------------------------------------------------------------------------------------


def converted(repo: str, n_params: int, base: str | None = None, **extra: str) -> dict[str, object]:
    """What llama.cpp's converter writes of a language model or a projector: of a repository's name and the size."""
    name, organization, basename, finetune, version, size = gguf_package.Metadata.get_model_id_components(
        repo, n_params
    )
    fields = {
        "general.name": (name or "").replace("-", " ").title(),
        "general.organization": organization,
        "general.basename": basename,
        "general.finetune": finetune,
        "general.version": version,
        "general.size_label": size or gguf_package.size_label(n_params, 0, 0, 0),
        "general.base_model.0.repo_url": f"https://huggingface.co/{base}" if base else None,
    }
    return {key: value for key, value in (fields | {f"general.{key}": v for key, v in extra.items()}).items() if value}


B, M = 10**9, 10**6
GEMMA = ("gemma3", "gemma3", 2560, 3880 * M, 420 * M)
# architecture, projector type, width, parameters of the language model and of the projector, and how they are named
TOGETHER: dict[str, tuple[str, str, int, int, int, dict[str, object], dict[str, object]]] = {
    "bartowski, gemma 3": (
        "gemma3", "gemma3", 2560, 3880 * M, 420 * M,
        converted("google/gemma-3-4b-it", 3880 * M, "google/gemma-3-4b-pt"),
        converted("google/gemma-3-4b-it", 420 * M, "google/gemma-3-4b-pt"),
    ),
    "unsloth, gemma 4: title case, size of its own": (
        "gemma4", "gemma4v", 2560, 7500 * M, 560 * M,
        {
            "general.name": "Gemma-4-E4B-It", "general.basename": "Gemma-4-E4B-It", "general.size_label": "7.5B",
            "general.quantized_by": "Unsloth", "general.repo_url": "https://huggingface.co/unsloth",
            "general.base_model.0.repo_url": "https://huggingface.co/google/gemma-4-E4B-it",
        },
        {
            "general.name": "Gemma-4-E4B-It", "general.basename": "Gemma-4-E4B-It", "general.size_label": "560M",
            "general.quantized_by": "Unsloth", "general.repo_url": "https://huggingface.co/unsloth",
            "general.base_model.0.repo_url": "https://huggingface.co/google/gemma-4-E4B-it",
        },
    ),
    "unsloth's model, ggml-org's projector": (
        "qwen2vl", "qwen2.5vl_merger", 3584, 7616 * M, 677 * M,
        {
            "general.name": "Qwen2.5-Vl-7B-Instruct", "general.basename": "Qwen2.5-Vl-7B-Instruct",
            "general.size_label": "7B", "general.base_model.0.repo_url": "https://huggingface.co/Qwen/Qwen2.5-VL-7B-Instruct",
        },
        converted("Qwen/Qwen2.5-VL-7B-Instruct", 677 * M),
    ),
    "ggml-org, name of one word and the quantization in it": (
        "llama", "idefics3", 960, 409 * M, 98 * M,
        converted("HuggingFaceTB/SmolVLM-500M-Instruct", 409 * M, "HuggingFaceTB/SmolLM2-360M-Instruct"),
        converted("HuggingFaceTB/SmolVLM-500M-Instruct", 98 * M, basename="mmproj-SmolVLM-Q8_0"),
    ),
    "mradermacher, a tuned model with its own conversion": (
        "qwen3vl", "qwen3vl_merger", 2560, 4022 * M, 415 * M,
        converted("huihui-ai/Huihui-Qwen3-VL-4B-Instruct-abliterated", 4022 * M, "Qwen/Qwen3-VL-4B-Instruct"),
        converted("huihui-ai/Huihui-Qwen3-VL-4B-Instruct-abliterated", 415 * M, "Qwen/Qwen3-VL-4B-Instruct"),
    ),
    "mradermacher's tuned model, the projector of what it was made of": (
        "qwen3vl", "qwen3vl_merger", 2560, 4022 * M, 415 * M,
        converted("prithivMLmods/Caption-Pro-4B-it", 4022 * M, "Qwen/Qwen3-VL-4B-Instruct"),
        converted("Qwen/Qwen3-VL-4B-Instruct", 415 * M, "Qwen/Qwen3-VL-4B"),
    ),
    "a projector of billions says its own size": (
        "qwen2", "internvl", 8192, 72_706 * M, 5_540 * M,
        converted("OpenGVLab/InternVL3-78B", 72_706 * M), converted("OpenGVLab/InternVL3-78B", 5_540 * M),
    ),
    "experts": (
        "qwen3vlmoe", "qwen3vl_merger", 2048, 30_532 * M, 580 * M,
        converted("Qwen/Qwen3-VL-30B-A3B-Instruct", 30_532 * M), converted("Qwen/Qwen3-VL-30B-A3B-Instruct", 580 * M),
    ),
    "a name that the converter leaves out": (
        "qwen2", "dots_ocr", 1536, 1777 * M, 1260 * M,
        converted("rednote-hilab/dots.ocr", 1777 * M), converted("rednote-hilab/dots.ocr", 1260 * M),
    ),
    "7B by its name, 7.6 by its weights": (
        "qwen2vl", "qwen2vl_merger", 3584, 7616 * M, 676 * M,
        {"general.basename": "Qwen2-VL", "general.size_label": "7.6B"},
        {"general.basename": "Qwen2-VL", "general.size_label": "7B"},
    ),
    "openbmb: model": (
        "qwen2", "resampler", 3584, 7616 * M, 480 * M, {"general.name": "Model", "general.size_label": "7.6B"}, {},
    ),
    "gemma3 and gemma-3": (
        *GEMMA, {"general.basename": "gemma3", "general.size_label": "4B"}, {"general.basename": "gemma-3"},
    ),
    "the first LLaVA": (
        "llama", "mlp", 4096, 6738 * M, 312 * M,
        {"general.name": "LLaMA v2"},
        {"general.name": "vit-large336-custom", "general.description": "image encoder for LLaVA"},
    ),
}  # fmt: skip


def named(
    folder: Path, row: tuple[str, str, int, int, int, dict[str, object], dict[str, object]]
) -> tuple[Finding, ...]:
    architecture, kind, width, n_model, n_projector, model, half = row
    known = PROJECTOR_TYPES[kind]
    return diagnose(
        language(folder, architecture, width, tokens=(*known.around, *known.needed), n_params=n_model, also=model),
        projector(folder, kind, width, n_params=n_projector, also=half),
        chat_template="vicuna",
    )


@pytest.mark.parametrize("row", TOGETHER.values(), ids=TOGETHER)
def test_names_when_of_one_model_then_not_doubted(tmp_path: Path, row: Any) -> None:
    assert named(tmp_path, row) == ()


QWEN2 = ("qwen2vl", "qwen2vl_merger", 3584, 7616 * M, 676 * M)


@pytest.mark.parametrize(
    ("row", "ours", "theirs"),
    [
        (
            (*GEMMA, converted("google/gemma-3-4b-it", 3880 * M),
             converted("google/medgemma-4b-it", 420 * M, "google/gemma-3-4b-pt")),
            "gemma-3", "medgemma",
        ),
        (
            (*QWEN2, converted("Qwen/Qwen2-VL-7B-Instruct", 7616 * M),
             converted("Qwen/Qwen2.5-VL-7B-Instruct", 677 * M)),
            "Qwen2-VL", "Qwen2.5-VL",
        ),
        (
            (*QWEN2, {"general.basename": "Qwen2-VL", "general.size_label": "7B"},
             {"general.basename": "Qwen2-VL", "general.size_label": "2B"}),
            "Qwen2-VL", "Qwen2-VL",
        ),
        (
            ("llama", "idefics3", 960, 409 * M, 98 * M, converted("HuggingFaceTB/SmolVLM-500M-Instruct", 409 * M),
             converted("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", 98 * M)),
            "SmolVLM", "SmolVLM2",
        ),
        (
            ("llama", "mlp", 4096, 6738 * M, 312 * M, converted("liuhaotian/llava-v1.5-7b", 6738 * M),
             converted("liuhaotian/llava-v1.6-vicuna-7b", 312 * M)),
            "llava-v1.5", "llava-v1.6",
        ),
    ],
    ids=["medgemma's", "2.5's", "another size", "2's", "1.6's"],
)  # fmt: skip
def test_names_when_of_two_models_of_one_width_then_doubted(tmp_path: Path, row: Any, ours: str, theirs: str) -> None:
    finding = the(named(tmp_path, row), "lineage", DOUBTFUL)
    assert finding.text.startswith(f"The sizes match ({row[2]} values), but the files name different models: {ours}")
    assert f" and {theirs}" in finding.text
    assert finding.remedy.startswith(f"Equal sizes prove nothing. {LOOK}")


def test_names_when_of_two_sizes_of_two_widths_then_the_width_is_said(tmp_path: Path) -> None:
    """A 3B projector at a 7B model."""
    seen = PROJECTOR_TYPES["qwen2.5vl_merger"].around
    names = converted("Qwen/Qwen2.5-VL-7B-Instruct", 7616 * M), converted("Qwen/Qwen2.5-VL-3B-Instruct", 669 * M)
    model = language(tmp_path, "qwen2vl", 3584, tokens=seen, also=names[0])
    finding = the(diagnose(model, projector(tmp_path, "qwen2.5vl_merger", 2048, also=names[1])), "width", BROKEN)
    assert "writes 2048 values for an image token, the model reads 3584." in finding.text


# --- chat templates ---------------------------------------------------------------------------------------------------

VICUNA = (
    "{% for m in messages %}{% if m.role == 'user' %}USER: {{ m.content }} "
    "{% else %}ASSISTANT: {{ m.content }}</s>{% endif %}{% endfor %}"
)
MISTRAL = "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}"
LLAMA3 = "{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}{% endfor %}"
PHI3 = "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
# Names of files as they are published, and the template of llama.cpp that their models were trained with, or nearly.
LEGACY = {
    "llava-v1.5-7b-Q4_K_M.gguf": "vicuna",
    "llava-v1.5-13b-q5_k.gguf": "vicuna",
    "llava-v1.6-vicuna-7b.Q4_K_M.gguf": "vicuna",
    "llava-v1.6-vicuna-13b.Q4_K.gguf": "vicuna",
    "llava-v1.6-mistral-7b.Q4_K_M.gguf": "llama2",
    "llava-1.6-mistral-7b.Q3_K_M.gguf": "llama2",
    "llava-v1.6-34b.Q5_K_M.gguf": "chatml",
    "ggml-yi-34b-f16-q_3_k.gguf": "chatml",
    "obsidian-f16.gguf": "chatml",
    "nanollava-text-model-f16.gguf": "chatml",
    "moondream2-text-model-f16.gguf": "vicuna",
    "BakLLaVA-1-Q4_K_M.gguf": "vicuna",
    "ShareGPT4V-7B_Q5_K_M.gguf": "vicuna",
}


def templated(folder: Path, name: str, template: str | None, also: dict[str, object] | None = None, **how: Any) -> Any:
    return diagnose(language(folder, name=name, template=template, also=also), projector(folder), **how)


@pytest.mark.parametrize(("name", "right"), LEGACY.items())
def test_llava_when_its_file_has_no_template_then_the_right_one_is_named(tmp_path: Path, name: str, right: str) -> None:
    finding = the(templated(tmp_path, name, None), "template-missing", BROKEN)
    assert finding.text == "The language model's file has no chat template."
    assert finding.remedy == f"Choose '{right}' as the chat template; the model's name suggests it."
    assert finding.chat_template == right
    assert templated(tmp_path, name, None, chat_template=right) == ()


@pytest.mark.parametrize(
    ("architecture", "token", "right"),
    [
        ("gemma3", None, "gemma"),
        ("llama4", None, "llama4"),
        ("mistral3", None, "mistral-v7-tekken"),
        ("hunyuan_vl", None, "hunyuan-vl"),
        ("exaone4", None, "exaone4"),
        ("deepseek2", "<|media_end|>", "kimi-k2"),
        ("glm4moe", None, "chatglm4"),
        ("llama", "<fake_token_around_image>", "smolvlm"),
        ("llama", "[IMG_END]", "mistral-v7"),
        ("qwen2vl", "<|im_start|>", "chatml"),
        ("llama", None, None),
        ("paddleocr", None, None),
    ],
)
def test_template_when_missing_then_the_familys_built_in_one_is_named(
    tmp_path: Path, architecture: str, token: str | None, right: str | None
) -> None:
    model = language(tmp_path, architecture, template=None, tokens=() if token is None else (token,))
    problem = next(finding for finding in diagnose(model, projector(tmp_path)) if finding.code == "template-missing")
    assert problem.chat_template == right
    assert problem.remedy == (
        f"Choose '{right}' as the chat template; the model's architecture suggests it."
        if right
        else "Choose a chat template; the model's card says which one."
    )


@pytest.mark.parametrize(("name", "right"), LEGACY.items())
def test_llava_when_its_file_has_anothers_template_then_the_right_one_is_named(
    tmp_path: Path, name: str, right: str
) -> None:
    wrong = {"vicuna": CHATML, "llama2": VICUNA, "chatml": VICUNA}[right]
    finding = the(templated(tmp_path, name, wrong), "template-legacy", DOUBTFUL)
    assert f"needs the template '{right}'" in finding.text
    assert finding.remedy == f"Choose '{right}' as the chat template and compare."
    assert finding.chat_template == right
    assert templated(tmp_path, name, wrong, chat_template=right) == ()
    assert templated(tmp_path, name, wrong, chat_template="a Jinja template of one's own") == ()


@pytest.mark.parametrize(
    ("name", "template", "also"),
    [
        *((name, {"vicuna": VICUNA, "llama2": MISTRAL, "chatml": CHATML}[right], {}) for name, right in LEGACY.items()),
        # Some files say a built-in one by its name: ggml-org's Moondream.
        ("moondream2-text-model-f16_ct-vicuna.gguf", "vicuna", {}),
        ("moondream2.gguf", "{% for m in messages %}Question: {{ m.content }}\n\nAnswer:{% endfor %}", {}),
        ("BakLLaVA-1-Mistral-7B.gguf", VICUNA, {}),
        ("ggml-model-q4_k.gguf", VICUNA, {"general.name": "llava-v1.5-7b"}),
        ("llava-1.5-7b.gguf", "{{ m.role.upper() + ': ' + m.content }}{{ 'ASSISTANT:' }}", {}),
        # LLaVA by name, and not by what it was trained with.
        ("llava-llama-3-8b-v1_1-int4.gguf", LLAMA3, {}),
        ("llama-joycaption-beta-one-hf-llava-Q4_K_M.gguf", LLAMA3, {"general.name": "Llama Joycaption Beta Hf Llava"}),
        ("llava-phi-3-mini-int4.gguf", PHI3, {}),
        ("llava-qwen-1.5-7b.gguf", CHATML, {}),
        ("Qwen3-VL-8B-Instruct-Q4_K_M.gguf", CHATML, {}),
        ("gemma-3-4b-it-Q4_K_M.gguf", "{{ messages[0]['content'] }}", {}),
    ],
)  # fmt: skip
def test_template_when_right_then_nothing_is_said(tmp_path: Path, name: str, template: str, also: Any) -> None:
    assert templated(tmp_path, name, template, also) == ()


def test_template_when_it_writes_no_content_then_there_is_no_place_for_an_image(tmp_path: Path) -> None:
    finding = the(
        templated(tmp_path, "a.gguf", "{% for m in messages %}{{ m['role'] }}{% endfor %}"), "template-no-place", BROKEN
    )
    assert "an image has no place in the prompt" in finding.text
    assert "the model's card says which" in finding.remedy
    assert finding.chat_template is None


def test_template_when_missing_and_no_name_tells_then_the_card_is_pointed_to(tmp_path: Path) -> None:
    finding = the(templated(tmp_path, "Some-VL-7B-Q4_K_M.gguf", None), "template-missing", BROKEN)
    assert finding.remedy == "Choose a chat template; the model's card says which one."
    assert finding.chat_template is None


# --- bits of the projector --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "type_of_all", "level", "words"),
    [
        ("mmproj-F16.gguf", F16, None, ""),
        ("mmproj-model-bf16.gguf", GGMLQuantizationType.BF16, None, ""),
        ("mmproj.gguf", F16, None, ""),
        ("Some-VL-7B-Q4_K_M-mmproj.gguf", F16, None, ""),  # named for the language model beside it
        ("mmproj-Some-VL-7B-Q8_0.gguf", Q8_0, FINE, "(Q8_0)"),
        ("mmproj.gguf", Q8_0, FINE, "(Q8_0)"),
        ("mmproj-Q4_0.gguf", GGMLQuantizationType.Q4_0, DOUBTFUL, "(Q4_0)"),
        ("mmproj-Some-VL-7B-Q4_K_M.gguf", Q4_K, DOUBTFUL, "(Q4_K_M)"),
        ("mmproj.gguf", Q4_K, DOUBTFUL, "(Q4_K)"),
    ],
)
def test_projector_when_quantized_then_who_advises_what(
    tmp_path: Path, name: str, type_of_all: GGMLQuantizationType, level: Level | None, words: str
) -> None:
    half = projector(tmp_path, name=name, types={"mm.2.weight": type_of_all})
    findings = diagnose(language(tmp_path), half)
    if level is None:
        assert findings == ()
        return
    finding = the(findings, "projector-bits", level)
    assert f"The projector is quantized {words}," in finding.text
    assert [who for who in ("KoboldCpp", "Unsloth", "llamafile") if who in finding.text] == [
        "KoboldCpp",
        "Unsloth",
        "llamafile",
    ]
    assert "measure it against the F16 projector" in finding.remedy


# --- room -------------------------------------------------------------------------------------------------------------

QWEN_3B = {".block_count": 36, ".attention.head_count": 16, ".attention.head_count_kv": 2}
LLAVA_7B = {".block_count": 32, ".attention.head_count": 32, ".attention.head_count_kv": 32}


@pytest.mark.parametrize(
    ("architecture", "width", "keys", "bytes_at_4096"),
    [
        # layers x heads of keys and values x (128 + 128) x 2 bytes x 4096
        ("qwen2vl", 2048, QWEN_3B, 36 * 2 * 256 * 2 * 4096),
        ("llama", 4096, LLAVA_7B, 2 * GIB),
        ("llama", 4096, {".block_count": 32, ".attention.head_count": 32}, 2 * GIB),  # no group: as many as heads
        # Heads are wider than width / heads; of 34 layers 29 would need less, since they look back 1,024 tokens.
        ("gemma3", 2560, {".block_count": 34, ".attention.head_count": 8, ".attention.head_count_kv": 4,
                          ".attention.key_length": 256, ".attention.value_length": 256}, 544 * MIB),
        ("qwen3vl", 2560, {".block_count": 36, ".attention.head_count": 32, ".attention.head_count_kv": 8,
                           ".attention.key_length": 128, ".attention.value_length": 128}, 576 * MIB),
        # Every fourth layer of Qwen3.5 attends.
        ("qwen35", 2560, {".block_count": 32, ".full_attention_interval": 4, ".attention.head_count": 16,
                          ".attention.head_count_kv": 4, ".attention.key_length": 256, ".attention.value_length": 256},
         128 * MIB),
        # So do six of LFM2's sixteen.
        ("lfm2", 1024, {".block_count": 16, ".attention.head_count": 16,
                        ".attention.head_count_kv": [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0]}, 48 * MIB),
        ("llama", 4096, {".attention.head_count": 0}, None),
        ("llama", 4096, {}, None),
    ],
    ids=["qwen2.5-3b", "llava", "no groups", "gemma-3-4b", "qwen3-vl-4b", "qwen3.5-4b", "lfm2", "0 heads", "not told"],
)  # fmt: skip
def test_cache_when_estimated_then_as_reckoned_by_hand(
    tmp_path: Path, architecture: str, width: int, keys: dict[str, object], bytes_at_4096: int | None
) -> None:
    model = language(tmp_path, architecture, width, also=keys)
    assert needs(model, None, 4096, on_gpu=False).kv_cache == bytes_at_4096
    if bytes_at_4096:
        assert needs(model, None, 1024, on_gpu=False).kv_cache == bytes_at_4096 // 4


def machine(**known: Any) -> Hardware:
    """No GPU and 64 GiB, unless told otherwise."""
    return Hardware(**({"gpu_name": None, "gpu_free": None, "host_free": 64 * GIB, "gpu_offload": False} | known))


def h100(free: float, **known: Any) -> Hardware:
    return machine(**({"gpu_name": "NVIDIA H100", "gpu_free": int(free * GIB), "gpu_offload": True} | known))


@pytest.fixture
def llava(tmp_path: Path) -> tuple[GgufHeader, GgufHeader]:
    """LLaVA 7B: 3.5 GiB of Q4_K weights (4.5 bits), a projector of 0.6, a cache of 2 at 4,096 tokens."""
    return (
        language(tmp_path, width=4096, n_params=int(3.5 * GIB * 8 / 4.5), also=LLAVA_7B),
        projector(tmp_path, n_params=int(0.6 * GIB / 2)),
    )


def test_needs_when_asked_then_each_part_is_told(llava: tuple[GgufHeader, GgufHeader]) -> None:
    model, half = llava
    on_gpu, on_host = (needs(model, half, 4096, on_gpu=gpu) for gpu in (True, False))
    assert (on_gpu.weights, on_gpu.projector, on_gpu.kv_cache) == (model.file_bytes, half.file_bytes, 2 * GIB)
    assert on_gpu.weights / GIB == pytest.approx(3.5, abs=0.01)
    assert on_gpu.projector / GIB == pytest.approx(0.6, abs=0.01)
    assert on_gpu.all == model.file_bytes + half.file_bytes + 2 * GIB + on_gpu.overhead
    assert on_gpu.overhead > on_host.overhead > 0
    assert needs(model, half, 4096, on_gpu=True, model_bytes=9 * GIB).weights == 9 * GIB


def test_room_when_it_fits_on_the_gpu_then_how_much_of_how_much(llava: tuple[GgufHeader, GgufHeader]) -> None:
    finding = the(diagnose(*llava, hardware=h100(70)), "room", FINE)
    assert finding.text == "The pair needs about 7.5 GiB at a context of 4,096; 70.0 GiB are free on NVIDIA H100."
    assert finding.remedy == ""


def test_room_when_it_does_not_fit_then_layers_context_and_bits_that_would(
    llava: tuple[GgufHeader, GgufHeader],
) -> None:
    finding = the(diagnose(*llava, hardware=h100(6.5)), "room", DOUBTFUL)
    assert finding.text.endswith("; 6.5 GiB are free on NVIDIA H100.")
    # Of 6.5 GiB 2.5 are left for weights: 2.5 / 3.5 of the layers, or of the bits.
    assert finding.remedy == (
        "Put 23 of its 32 layers on the GPU, or halve the context (its key-value cache takes 2.0 GiB), or choose "
        "a quantization of at most 3.2 bits per weight."
    )


def test_room_when_a_part_of_a_model_was_read_then_bits_are_those_of_all_shards(
    llava: tuple[GgufHeader, GgufHeader],
) -> None:
    finding = the(diagnose(*llava, hardware=h100(22), model_bytes=30 * GIB, n_ctx=2048), "room", DOUBTFUL)
    assert "at most 2.9 bits per weight" in finding.remedy  # 19 of 30 GiB, of 4.5 bits


def test_room_when_it_fits_nowhere_then_broken(llava: tuple[GgufHeader, GgufHeader]) -> None:
    finding = the(diagnose(*llava, hardware=h100(2, host_free=2 * GIB)), "room", BROKEN)
    assert finding.remedy == "Choose a smaller model."
    finding = the(diagnose(*llava, hardware=machine(host_free=6 * GIB)), "room", BROKEN)
    assert finding.text == (
        "The pair needs about 6.6 GiB at a context of 4,096; 6.0 GiB are free in this machine's memory."
    )
    assert finding.remedy.startswith("Halve the context (its key-value cache takes 2.0 GiB")
    assert "layers on the GPU" not in finding.remedy


def test_build_when_for_the_cpu_beside_a_gpu_then_how_to_install_the_other(
    llava: tuple[GgufHeader, GgufHeader],
) -> None:
    findings = diagnose(*llava, hardware=h100(70, gpu_offload=False))
    assert [(finding.code, finding.level) for finding in findings] == [("cpu-build", DOUBTFUL), ("room", FINE)]
    assert findings[0].text == "This machine has a GPU (NVIDIA H100), but llama-cpp-python was built for the CPU only."
    assert 'CMAKE_ARGS="-DGGML_CUDA=on"' in findings[0].remedy
    assert "in this machine's memory" in findings[1].text


def test_gpu_when_its_memory_is_not_known_then_nothing_is_called_impossible(
    llava: tuple[GgufHeader, GgufHeader],
) -> None:
    metal = machine(gpu_offload=True)
    finding = the(diagnose(*llava, hardware=metal), "room", FINE)
    assert finding.text.endswith("64.0 GiB are free in this machine's memory. The GPU's memory is unknown.")
    finding = the(diagnose(*llava, hardware=machine(gpu_offload=True, host_free=GIB)), "room", DOUBTFUL)
    assert "memory is unknown" in finding.text


def test_findings_when_several_then_the_worst_first(tmp_path: Path) -> None:
    findings = diagnose(
        language(tmp_path, "qwen3", template=None),
        projector(tmp_path, name="mmproj-Q8_0.gguf", types={"mm.2.weight": Q8_0}),
        hardware=machine(),
    )
    assert codes(findings) == ["template-missing", "family", "projector-bits", "room"]
    assert [finding.level for finding in findings] == [BROKEN, DOUBTFUL, FINE, FINE]
    assert worst(findings) is BROKEN
    assert worst(()) is FINE


# --- a stranger's headers ---------------------------------------------------------------------------------------------

INFINITE = float("inf")
ODD: list[object] = [
    "", "7B", "999999.999999B", "-1", "clip", "https://huggingface.co/", "///", "\0", "é" * 300, "llava-v1.6-34b",
    0, 1, 2, 7, -1, -(2**31), 4096, 2**31, 2**32 - 1, 2**63, 2**64 - 1, True, False, 0.0, -1.5, float("nan"), INFINITE,
    [], [0], [0] * 260, [-1, -1], [1, 2, 3], [True, False], [2**64 - 1] * 9, [1.5, INFINITE], ["x", ""], [""] * 260,
]  # fmt: skip
GENERAL = ["architecture", "name", "basename", "size_label", "file_type", "base_model.0.repo_url", "type"]
OWN = [
    "embedding_length", "block_count", "n_deepstack_layers", "deepstack_mapping", "attention.head_count",
    "attention.head_count_kv", "attention.key_length", "attention.value_length", "full_attention_interval",
]  # fmt: skip
CLIP = [
    "has_vision_encoder", "has_audio_encoder", "projector_type", "vision.projector_type", "vision.projection_dim",
    "vision.is_deepstack_layers", "minicpmv_version", "vision.block_count",
]  # fmt: skip
SHAPES: list[tuple[int, ...]] = [
    (),
    (0,),
    (1,),
    (4,),
    (4, 4),
    (0, 0),
    (2, 0, 2**39),
    (4, 4, 1, 1),
    (2**40,),
    (2**20, 2**20),
]


def hostile(draw: random.Random, kind: str, *, clip: bool) -> bytes:
    """One half of a pair of a type. Most of it is as it should be, so that the rest gets somewhere."""
    known = PROJECTOR_TYPES[kind]
    own = "clip" if clip else draw.choice(known.architectures)
    metadata: dict[str, object] = {"general.architecture": own, "general.name": draw.choice(("A", "LLaVA 1.5"))}
    metadata |= {"general.basename": "A", "general.size_label": "7B"}
    if clip:
        metadata |= {"clip.has_vision_encoder": True, "clip.projector_type": kind}
    else:
        metadata |= {f"{own}.{key}": draw.choice((1, 4, 32)) for key in OWN} | {f"{own}.embedding_length": 4}
        metadata |= {f"{own}.n_deepstack_layers": 0, f"{own}.deepstack_mapping": []}
        metadata |= {"tokenizer.chat_template": CHATML, "tokenizer.ggml.tokens": ["a", *known.around, *known.needed]}
    keys = [f"general.{key}" for key in GENERAL] + [f"clip.{key}" for key in CLIP] + [f"{own}.{key}" for key in OWN]
    keys += ["tokenizer.chat_template", "tokenizer.ggml.tokens", ""]
    for key in draw.sample(keys, draw.choice((0, 1, 2, 3, 6, len(keys)))):
        metadata[key] = draw.choice(ODD)
    names = ["mm.3.weight", "mm.3.bias", "v.deepstack.0.fc1.weight", "v.proj_blk.1.linear.weight", ""]
    shapes: dict[str, tuple[int, ...]] = {known.width[0]: (4, 4)}
    for name in draw.sample([known.width[0], *names], draw.choice((0, 0, 1, 3))):
        shapes[name] = draw.choice(SHAPES)
    types = {name: draw.choice(list(GGMLQuantizationType)) for name in shapes if draw.random() < 0.2}
    data = bytearray(sketched(metadata, shapes, types)[0] + bytes(200))
    if draw.random() < 0.2:
        for _ in range(draw.choice((1, 1, 4))):
            data[draw.randrange(24, len(data))] = draw.randrange(256)
    return bytes(data)


@pytest.mark.thorough
def test_headers_when_hostile_2000_times_then_read_or_refused_and_always_diagnosed(tmp_path: Path) -> None:
    draw = random.Random(7)
    headers: list[GgufHeader] = []
    refused: list[str] = []
    seen: set[str] = set()
    path = tmp_path / "a.gguf"
    started = time.process_time()
    for _ in range(1000):
        kind = draw.choice(list(PROJECTOR_TYPES))
        for clip in (False, True):
            data = hostile(draw, kind, clip=clip)
            path.write_bytes(data)
            try:
                headers.append(read_header(path) if draw.random() < 0.8 else read_from_hub(data, 2**40))
            except BadModel as error:
                refused.append(str(error))
        if len(headers) < 2:
            continue
        hardware = Hardware(
            draw.choice((None, "", "H100")), draw.choice((None, -1, 0, 2**40)), draw.choice((-1, 0, 2**40)),
            draw.choice((None, True, False)),
        )  # fmt: skip
        others = draw.sample(headers[-20:], 2)
        for first, second in (headers[-2:], headers[:-3:-1], others, (others[0], None)):
            findings = diagnose(
                first, second, hardware=hardware, n_ctx=draw.choice((0, 1, 4096, 2**31)),
                chat_template=draw.choice((None, "", "chatml")), model_bytes=draw.choice((None, 0, 2**50)),
            )  # fmt: skip
            seen |= set(codes(findings))
            assert all(finding.text and len(finding.text + finding.remedy) < 2000 for finding in findings)
    assert time.process_time() - started < 25
    assert len(headers) > 800
    assert len(refused) > 200  # else they are too mild
    assert max(map(len, refused)) < 500
    assert seen >= {
        "swapped", "no-model", "no-projector", "two-models", "two-projectors", "audio", "architecture",
        "projector-type", "projector-tensor", "width", "width-unknown", "tokens", "around", "family", "lineage",
        "template-missing", "template-legacy", "template-no-place", "projector-bits", "cpu-build", "room",
    }  # fmt: skip


@pytest.mark.parametrize(
    "novel", ["llava" * 2**18, "-Q4" + "_K" * 2**19, "_Q4" * 2**18, "7" * 2**20 + "B", "a-" * 2**19]
)
def test_headers_when_their_texts_are_novels_then_neither_time_nor_page_is_lost(tmp_path: Path, novel: str) -> None:
    """Names of a megabyte, made for regular expressions that go back."""
    names = {f"general.{key}": novel for key in ("name", "basename", "size_label", "base_model.0.repo_url")}
    model = language(tmp_path, template=novel, also=names)
    strange = language(tmp_path, architecture=novel[:60_000], name="b.gguf", template=novel, also=names)
    halves = [
        projector(tmp_path, also=names),
        projector(tmp_path, kind="mlp", also=names | {"clip.projector_type": novel}),
    ]
    started = time.process_time()
    for header in (model, strange):
        for half in halves:
            for finding in diagnose(header, half, hardware=machine(host_free=0)):
                assert len(finding.text) < 800
    assert time.process_time() - started < 2.5
