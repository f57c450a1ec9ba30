"""What file names say, and a repository as quantizations and projectors: the patterns that publishers use."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from playground.errors import BadInput, BadModel
from playground.models.gguf import file_names
from playground.models.gguf.header import read_header
from playground.models.hub.listing import RemoteFile, RemoteModel, RepoListing
from playground.values.files import Half


def repo(*files: str | tuple[str, int]) -> RepoListing:
    """With the sizes given, or each file a byte smaller than the one before it."""
    sized = [(part, 1000 - n) if isinstance(part, str) else part for n, part in enumerate(files)]
    return RepoListing("acme/a-GGUF", "0" * 40, tuple(RemoteFile(name, size) for name, size in sized))


def quantizations(models: tuple[RemoteModel, ...]) -> list[str]:
    return [model.quantization for model in models]


# --- the quantization --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # projectors: unsloth, ggml-org, bartowski, LiquidAI, mudler, google, mradermacher, openbmb, moondream
        ("mmproj-F16.gguf", "F16"),
        ("mmproj-BF16.gguf", "BF16"),
        ("mmproj-F32.gguf", "F32"),
        ("mmproj-SmolVLM-500M-Instruct-Q8_0.gguf", "Q8_0"),
        ("mmproj-Qwen_Qwen3.5-4B-f16.gguf", "F16"),
        ("mmproj-gemma-4-E2B-it-bf16.gguf", "BF16"),
        ("mmproj-LFM2.5-VL-1.6b-F16.gguf", "F16"),
        ("mmproj.gguf", None),
        ("mmproj-kquant.gguf", None),
        ("gemma-4-E2B-it-mmproj.gguf", None),
        ("Bonsai-VL-mmproj-Q8_0.gguf", "Q8_0"),
        ("mmproj-model-f16.gguf", "F16"),
        ("mmproj-model-f32.gguf", "F32"),
        ("Qwen2.5-VL-7B-Instruct.mmproj-f16.gguf", "F16"),
        ("Qwen2.5-VL-7B-Instruct.mmproj-Q8_0.gguf", "Q8_0"),
        ("Qwen3-VL-2B-Instruct.BF16-mmproj.gguf", "BF16"),
        ("moondream2-mmproj-f16.gguf", "F16"),
        ("moondream2-mmproj-f16-20250414.gguf", "F16"),
        ("vision/MiniCPM-o-4_5-vision-F16.gguf", "F16"),
        ("qwen2vl-vision.gguf", None),
        ("qwen.qwen2-vl-2b-vision.gguf", None),
        # language models
        ("Qwen3-VL-2B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("Qwen3-VL-2B-Instruct-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("Qwen3-VL-2B-Instruct-UD-IQ1_S.gguf", "UD-IQ1_S"),
        ("Qwen3-VL-2B-Instruct-UD-TQ1_0.gguf", "UD-TQ1_0"),
        ("Qwen2.5-VL-7B-Instruct.i1-IQ2_XXS.gguf", "i1-IQ2_XXS"),
        ("Qwen2.5-VL-7B-Instruct.i1-Q4_K_M.gguf", "i1-Q4_K_M"),
        ("Qwen2.5-VL-7B-Instruct.Q4_K_M.gguf", "Q4_K_M"),
        ("mistral-community_pixtral-12b-Q6_K_L.gguf", "Q6_K_L"),
        ("mistral-community_pixtral-12b-Q3_K_XL.gguf", "Q3_K_XL"),
        ("mistral-community_pixtral-12b-Q6_K.gguf", "Q6_K"),
        ("pixtral-12b-Q4_0_4_4.gguf", "Q4_0_4_4"),
        ("ggml-model-Q4_K_M.gguf", "Q4_K_M"),
        ("ggml-model-q4_k_m.gguf", "Q4_K_M"),
        ("ggml-model-f16.gguf", "F16"),
        ("MiniCPM-V-4_5-Q4_K_M.gguf", "Q4_K_M"),
        ("gemma-4-E2B_q4_0-it.gguf", "Q4_0"),
        ("moondream2-text-model-f16_ct-vicuna.gguf", "F16"),
        ("gpt-oss-20b-MXFP4.gguf", "MXFP4"),
        ("Qwen3.5-35B-A3B-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("Qwen3.5-4B-NVFP4.gguf", "NVFP4"),
        ("Qwen3.5-4B-TQ2_0.gguf", "TQ2_0"),
        ("Bonsai-8B-Q1_0.gguf", "Q1_0"),
        ("model-Q8_0-of-a-Q4_K_M.gguf", "Q4_K_M"),
        ("SmolDocling-256M-preview-f16_q8_0.gguf", "F16_Q8_0"),  # beside bf16, f16 and q8_0
        ("SmolDocling-256M-preview-q8_0.mmproj", "Q8_0"),
        ("SmolDocling-256M-preview-f16.mmproj", "F16"),
        # folders and shards
        ("UD-Q4_K_XL/Qwen3.5-397B-UD-Q4_K_XL-00001-of-00005.gguf", "UD-Q4_K_XL"),
        ("Q8_0/Qwen3.5-397B-00001-of-00005.gguf", "Q8_0"),
        ("BF16/model.gguf", "BF16"),
        ("Q8_0/old/model.gguf", "Q8_0"),
        ("Q8_0/model-Q4_K_M.gguf", "Q4_K_M"),
        ("model-00001-of-00005.gguf", None),
        # no quantization
        ("exl-3.7bpw.gguf", None),
        ("model-3.7bpw.gguf", None),
        ("Qwen3-VL-2B.gguf", None),
        ("model.gguf", None),
        ("Q8_0", "Q8_0"),
        ("", None),
        (".gguf", None),
    ],
)
def test_quantization_when_a_publisher_writes_it_so_then(name: str, expected: str | None) -> None:
    assert file_names.quantization(name) == expected


def test_quantization_when_no_name_tells_then_a_question_mark() -> None:
    assert quantizations(repo("model-3.7bpw.gguf").models) == ["?"]


# --- which of the two files it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("mmproj-F16.gguf", "mmproj.gguf", "mmproj-kquant.gguf", "gemma-4-E2B-it-mmproj.gguf", "MMPROJ-F16.GGUF"),
        *("Qwen2.5-VL-7B-Instruct.mmproj-f16.gguf", "Qwen3-VL-2B-Instruct.BF16-mmproj.gguf"),
        *("moondream2-mmproj-f16-20250414.gguf", "Q4_K_M/mmproj-model-f16.gguf", "llama-13b-mmproj-v1.5.Q4_1.gguf"),
        *("vision/MiniCPM-o-4_5-vision-F16.gguf", "qwen2vl-vision.gguf", "qwen.qwen2-vl-2b-vision.gguf"),
        *("SmolDocling-256M-preview-f16.mmproj", "Qwen2-VL.MMPROJ", "mmproj-Qwen3.8-Flash-F16.mmproj"),
    ],
)
def test_projector_when_named_as_publishers_do_then_known(name: str) -> None:
    assert file_names.is_projector(name)
    assert not file_names.is_other(name)
    assert [model.name for model in repo(name).projectors] == [name]
    assert repo(name).models == ()


@pytest.mark.parametrize(
    "name",
    [
        *("Qwen3-VL-2B-Instruct-Q4_K_M.gguf", "ggml-model-f16.gguf", "visionary-7b-Q4_0.gguf", "mmproj/a-Q4_K_M.gguf"),
        # "vision" is a part of these language models' names
        *("Llama-3.2-11B-Vision-Instruct.Q4_K_M.gguf", "Phi-3.5-vision-instruct-Q4_K_M.gguf"),
        *("granite-vision-3.2-2b-Q4_K_M.gguf", "granite-vision-3.2-2b-f16.gguf", "granite-vision-3.3-2b.i1-Q4_0.gguf"),
        *("granite-4.0-3b-vision-Q4_K_M.gguf", "granite-4.0-3b-vision-UD-Q4_K_XL.gguf"),
    ],
)  # fmt: skip
def test_language_model_when_its_name_has_the_word_then_it_is_none_the_less(name: str) -> None:
    assert not file_names.is_projector(name)
    assert [model.name for model in repo(name, "mmproj-model-f16.gguf").models] == [name]
    assert [model.name for model in repo(name, "mmproj-model-f16.gguf").projectors] == ["mmproj-model-f16.gguf"]


def test_vision_when_a_model_and_a_projector_end_in_it_then_mmproj_decides() -> None:
    both = repo("granite-4.0-3b-vision-f16.gguf", "mmproj-granite-4.0-3b-vision-f16.gguf")
    assert [model.name for model in both.models] == ["granite-4.0-3b-vision-f16.gguf"]
    assert [model.name for model in both.projectors] == ["mmproj-granite-4.0-3b-vision-f16.gguf"]


@pytest.mark.parametrize(
    "name",
    [
        *("imatrix.gguf", "imatrix_unsloth.gguf", "Qwen3-VL-2B-Instruct.imatrix.gguf", "Qwen3-VL-2B-imatrix.gguf"),
        *("mtp-Qwen3.5-4B-Q8_0.gguf", "MTP-Qwen3.5-4B-Q8_0.gguf", "eagle3-Qwen3.gguf", "dflash-Qwen3-4B-F16.gguf"),
        *("dspark-a-Q4_0.gguf", "._model-Q4_K_M.gguf", "Q8_0/._model-Q8_0.gguf"),
        *("README.md", "config.json", "model.safetensors", "model.gguf.part", "imatrix.dat", ".gitattributes"),
        *("mm_projector.bin", "mmproj-F16.mmproj.sha256"),
    ],
)
def test_file_when_it_is_neither_then_skipped(name: str) -> None:
    assert file_names.is_other(name)
    assert repo(name, "model-Q8_0.gguf").models == repo("README.md", "model-Q8_0.gguf").models
    assert repo(name).projectors == ()


def test_models_when_the_prefix_stands_inside_then_they_are_models() -> None:
    assert len(repo("Qwen3.5-4B-MTP-Q4_K_M.gguf", "my-eagle3-model-Q4_K_M.gguf").models) == 2


# --- shards ------------------------------------------------------------------------------------------------


def shards_of(base: str, count: int, missing: tuple[int, ...] = ()) -> list[str]:
    return [f"{base}-{n:05}-of-{count:05}.gguf" for n in range(1, count + 1) if n not in missing]


def test_shards_when_all_are_there_then_one_variant() -> None:
    files = shards_of("Q4_K_M/big-Q4_K_M", 3)
    models = repo(*((name, 100) for name in reversed(files)), ("small-Q8_0.gguf", 150)).models
    assert quantizations(models) == ["Q4_K_M", "Q8_0"]
    assert (models[0].name, [f.name for f in models[0].files], models[0].missing) == (files[0], files, 0)
    assert models[0].bytes == 300


@pytest.mark.parametrize("gone", [(1,), (2,), (3,), (1, 3)])
def test_shards_when_some_are_missing_then_counted(gone: tuple[int, ...]) -> None:
    (model,) = repo(*shards_of("big-Q8_0", 3, gone)).models
    assert (model.name, model.missing) == ("big-Q8_0-00001-of-00003.gguf", len(gone))
    assert [f.name for f in model.files] == shards_of("big-Q8_0", 3, gone)


def test_shards_when_the_same_model_is_cut_twice_then_two_variants() -> None:
    models = repo(*shards_of("big-Q8_0", 2), *shards_of("big-Q8_0", 3)).models
    assert sorted((len(model.files), model.missing) for model in models) == [(2, 0), (3, 0)]


def test_shards_when_in_a_folder_of_their_own_then_the_projector_above_them_is_listed_too() -> None:
    listed = repo(*shards_of("UD-Q6_K_XL/M", 2), "UD-Q4_K_XL/M-UD-Q4_K_XL.gguf", "mmproj-F32.gguf")
    assert sorted(quantizations(listed.models)) == ["UD-Q4_K_XL", "UD-Q6_K_XL"]
    assert [model.missing for model in listed.models] == [0, 0]
    assert [model.name for model in listed.projectors] == ["mmproj-F32.gguf"]


def test_shards_when_a_projector_is_in_shards_then_one_projector() -> None:
    (model,) = repo(*shards_of("mmproj-F16", 2)).projectors
    assert (len(model.files), model.missing) == (2, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b-00002-of-00003.gguf", ("a/b", 2, 3)),
        ("b-00003-of-00003.GGUF", ("b", 3, 3)),
        ("b.gguf", None),
        ("b-2-of-3.gguf", None),
        ("b-00001-of-00003.gguf.part", None),
        ("-00001-of-00003.gguf", None),
        # no shard's number
        ("b-00000-of-00000.gguf", None),
        ("b-00001-of-00000.gguf", None),
        ("b-00004-of-00003.gguf", None),
        ("b-00000-of-00003.gguf", None),
    ],
)
def test_shard_when_named_then(name: str, expected: tuple[str, int, int] | None) -> None:
    assert file_names.shard(name) == expected


def test_shards_when_any_of_them_is_named_then_all_are_told() -> None:
    assert list(file_names.shards("a/b-00002-of-00003.gguf")) == shards_of("a/b", 3)
    assert file_names.shards("b.gguf") == ("b.gguf",)
    assert file_names.shards("b-00001-of-00000.gguf") == ("b-00001-of-00000.gguf",)


def test_listing_when_it_claims_millions_of_shards_then_it_takes_no_seconds() -> None:
    files = [f"m{n}-00001-of-99999.gguf" for n in range(1000)] + ["w-00009-of-00002.gguf", "x-00001-of-00000.GGUF"]
    started = time.process_time()
    models = repo(*files).models
    assert len(models) == 1002
    assert all(model.files for model in models)
    assert time.process_time() - started < 5


# --- the order ---------------------------------------------------------------------------------------------


def test_models_when_listed_then_the_largest_first() -> None:
    models = repo(("a-Q2_K.gguf", 20), ("a-F16.gguf", 160), ("a-Q4_K_M.gguf", 40), ("mmproj-F16.gguf", 999)).models
    assert quantizations(models) == ["F16", "Q4_K_M", "Q2_K"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], ["F16", "BF16", "F32"]),
        (["mmproj-a-Q8_0.gguf", "mmproj-a-F16.gguf"], ["F16", "Q8_0"]),
        (["mmproj-a-Q8_0.gguf", "mmproj-a-bf16.gguf"], ["BF16", "Q8_0"]),
        (["mmproj-Q4_K_M.gguf", "mmproj.gguf", "mmproj-Q8_0.gguf", "mmproj-f32.gguf"], ["F32", "Q8_0", "Q4_K_M", "?"]),
        (["vision/m-vision-F16.gguf", "vision/m-vision-Q8_0.gguf"], ["F16", "Q8_0"]),
    ],
)  # fmt: skip
def test_projectors_when_listed_then_f16_first_whatever_the_models_bits(files: list[str], expected: list[str]) -> None:
    """llama.cpp takes the one nearest to the model's bits, so a Q4 model gets Q8_0 before F16."""
    for model in ("a-Q8_0.gguf", "a-Q4_K_M.gguf", "a-F32.gguf"):
        assert quantizations(repo(model, *files).projectors) == expected
        assert quantizations(repo(*reversed(files), model).projectors)[0] == expected[0]


def test_repository_when_it_has_only_projectors_then_no_models() -> None:
    listing = repo("llama-13b-mmproj-v1.5.Q4_1.gguf", "qwen2.5-vl-7b-mmproj-f16.gguf")
    assert (len(listing.models), len(listing.projectors)) == (0, 2)


# --- the projector, where its name does not say so ---------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("clip-vit-large-f16.gguf", "visual-F16.gguf", "vision_encoder.gguf", "mm-projector-f16.gguf"),
        *("projector.gguf", "mmproj/Qwen-F16.gguf", "odd.gguf"),
    ],
)
def test_projector_when_its_name_is_odd_then_its_header_decides(name: str) -> None:
    listed = repo(("a-Q8_0.gguf", 3000), ("a-Q4_K_M.gguf", 2000), (name, 1000))
    if listed.undecided:  # else the name says mm-projector
        assert listed.undecided[0].name == name
        read = {file.name: Half.PROJECTOR if file.name == name else Half.MODEL for file in listed.undecided}
        listed = msgspec.structs.replace(listed, halves=read)
    assert [model.name for model in listed.projectors] == [name]
    assert quantizations(listed.models) == ["Q8_0", "Q4_K_M"]


def test_language_model_when_it_alone_is_called_vision_then_its_header_decides() -> None:
    listed = repo("granite-vision-f16.gguf")
    assert [file.name for file in listed.undecided] == ["granite-vision-f16.gguf"]
    listed = msgspec.structs.replace(listed, halves={"granite-vision-f16.gguf": Half.MODEL})
    assert (len(listed.models), len(listed.projectors)) == (1, 0)


def test_undecided_when_a_repository_is_large_then_few_headers_are_read() -> None:
    assert len(repo(*(f"a{n}-Q8_0.gguf" for n in range(50))).undecided) == 8
    assert repo("a-Q8_0.gguf", "mmproj-F16.gguf").undecided == ()


# --- one of several ----------------------------------------------------------------------------------------


def test_model_when_two_files_have_one_quantization_then_neither_is_taken_silently() -> None:
    listed = repo("LFM-Q4_0.gguf", "LFM-QAD-Q4_0.gguf", "mmproj-2B-F16.gguf", "mmproj-8B-F16.gguf", "b-UD-Q4_K_XL.gguf")
    assert listed.model("LFM-QAD-Q4_0.gguf").name == "LFM-QAD-Q4_0.gguf"
    assert listed.model("q4_k_xl").name == "b-UD-Q4_K_XL.gguf"
    for choose in (lambda: listed.model("Q4_0"), listed.projector):
        with pytest.raises(BadInput, match=r"2 files are called .*Give the name of one"):
            choose()


# --- cut files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("M.i1-Q6_K.gguf.part1of2", "M.i1-Q6_K.gguf"),
        ("M.Q6_K.gguf-split-b", "M.Q6_K.gguf"),
        ("m.q8_0.GGUF.PART2OF3", "m.q8_0.GGUF"),
        ("M-00001-of-00002.gguf", None),
        ("M.gguf", None),
        ("M.gguf.sha256", None),
    ],
)
def test_name_when_it_is_a_part_of_a_cut_file_then_the_file_is_named(name: str, whole: str | None) -> None:
    assert file_names.part_of(name) == whole


def test_repository_when_a_file_is_cut_then_it_is_no_model_and_named_for_what_it_is(tmp_path: Path) -> None:
    listed = repo("M.Q4_K_M.gguf", "M.Q6_K.gguf.part1of2", "M.Q6_K.gguf.part2of2")
    assert quantizations(listed.models) == ["Q4_K_M"]
    assert listed.cut_files == {"M.Q6_K.gguf": 2}
    for name in ("Q6_K", "M.Q6_K.gguf"):
        with pytest.raises(BadInput, match=r"has M\.Q6_K\.gguf only in 2 parts\. Download all parts and join them"):
            listed.model(name)
    (tmp_path / "M.Q6_K.gguf.part1of2").write_bytes(b"GGUF")
    with pytest.raises(BadModel, match=r"is a part of M\.Q6_K\.gguf, which was cut into several files"):
        read_header(tmp_path / "M.Q6_K.gguf.part1of2")
