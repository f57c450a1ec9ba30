"""Where files come from and where they are kept: the store, presets, the byte cache, the embedding cache."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter, LlamaFileType

from playground.comparing import embedding_cache
from playground.comparing.embedding_cache import EmbeddingCache
from playground.engine.protocol import EncodedPrompt, ImageChunk, TextChunk
from playground.errors import BadInput, BadModel, BadPair, EngineError, NotAllowed
from playground.models.catalog import Catalog
from playground.models.gguf.header import read_header
from playground.models.pair import quantization_of
from playground.models.presets import data_folder, presets_folder, read_preset, read_presets
from playground.support.byte_cache import BytesCache
from playground.values.files import Half, ModelFile
from playground.values.request import Image
from testkit import pairs
from testkit.full_disk import full_disk, needs_linux


def write_gguf(path: Path, *, size: int = 64, **metadata: str | bool) -> Path:
    """A GGUF file of one F32 tensor; metadata: "key__part" for "key.part"."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, str(metadata.pop("architecture", "llama")))
    for key, value in metadata.items():
        add = writer.add_bool if isinstance(value, bool) else writer.add_string
        add(key.replace("__", "."), value)
    writer.add_tensor("w", np.zeros(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a pair in it: a.gguf and mmproj.gguf."""
    write_gguf(tmp_path / "models/a-F16.gguf", general__basename="a")
    write_gguf(tmp_path / "models/mmproj-F16.gguf", architecture="clip", clip__has_vision_encoder=True)
    return tmp_path / "models"


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[Callable[..., Catalog]]:
    """Stores of one cache folder, as of one start of the app after the other."""
    stores = []

    def make(*allowed: Path, anywhere: bool = False) -> Catalog:
        stores.append(Catalog(tmp_path / "cache", None if anywhere else allowed))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


OpenStore = Callable[..., Catalog]

# --- folders ----------------------------------------------------------------------------------------------


def test_pair_when_in_an_allowed_folder_then_it_is_a_variant(models: Path, open_store: OpenStore) -> None:
    store = open_store(models.parent / "elsewhere", models)
    variant = store.open_pair(models / "../models/a-F16.gguf", models / "mmproj-F16.gguf")
    assert (variant.id, variant.label, variant.family) == ("a:F16+mmproj-F16", "F16", "a")
    assert variant.model.path == str(models / "a-F16.gguf")
    assert variant.model.sha256 != variant.projector.sha256
    assert (variant.model.architecture, variant.projector.architecture) == ("llama", "clip")
    assert variant.projector.vocabulary_sha256 is None
    assert variant in store.variants


@pytest.mark.parametrize("how", ["outside", "dots", "link", "linked folder", "same beginning", "not there", "home"])
def test_path_when_outside_the_allowed_folders_then_refused_alike(
    models: Path, open_store: OpenStore, tmp_path: Path, how: str
) -> None:
    secret = write_gguf(tmp_path / "models-secret/s-F16.gguf")
    (models / "link.gguf").symlink_to(secret)
    (models / "folder").symlink_to(secret.parent)
    path = {
        "outside": secret,
        "dots": models / "../models-secret/s-F16.gguf",
        "link": models / "link.gguf",
        "linked folder": models / "folder/s-F16.gguf",
        "same beginning": Path(f"{models}-secret/s-F16.gguf"),
        "not there": tmp_path / "nothing.gguf",
        "home": Path("~/s-F16.gguf"),
    }[how]
    store = open_store(models)
    for pair in ((path, models / "mmproj-F16.gguf"), (models / "a-F16.gguf", path)):
        with pytest.raises(NotAllowed) as refused:
            store.open_pair(*pair)
        assert str(refused.value) == f"Files may be opened only in the folders that the operator allowed: {models}."


def test_path_when_a_link_leads_inside_then_allowed(models: Path, open_store: OpenStore, tmp_path: Path) -> None:
    (tmp_path / "door").symlink_to(models)
    store = open_store(tmp_path / "door")
    assert store.open_pair(tmp_path / "door/a-F16.gguf", models / "mmproj-F16.gguf").family == "a"


def test_path_when_no_folder_is_allowed_then_says_how_to_allow_one(models: Path, open_store: OpenStore) -> None:
    with pytest.raises(NotAllowed, match="PLAYGROUND_MODEL_DIRS"):
        open_store().open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf")
    assert open_store(anywhere=True).open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf").reference


@pytest.mark.parametrize("name", ["~nobody-of-that-name/a.gguf", "nul\0.gguf", "loop.gguf", "x" * 300, "a-F16.gguf/b"])
@pytest.mark.parametrize("anywhere", [True, False])
def test_path_when_impossible_then_an_error_for_people(
    models: Path, open_store: OpenStore, name: str, anywhere: bool
) -> None:
    (models / "loop.gguf").symlink_to("loop.gguf")
    path = Path(name) if name.startswith("~") else models / name
    with pytest.raises((BadModel, NotAllowed)):
        open_store(models, anywhere=anywhere).open_pair(path, models / "mmproj-F16.gguf")


# --- pairs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "projector", "message"),
    [
        ("mmproj-F16", "a-F16", "swapped: mmproj-F16.gguf is the projector, a-F16.gguf the language model."),
        ("a-F16", "a-F16", "a-F16.gguf is a language model, not a projector."),
        ("mmproj-F16", "mmproj-F16", "mmproj-F16.gguf is a projector too. Give the language model's file"),
        ("a-F16", "audio", "audio.gguf has no vision encoder"),
        ("text", "mmproj-F16", "text.gguf: not a GGUF file."),
        ("a-F16", "gone", "gone.gguf does not exist."),
    ],
)
def test_pair_when_it_is_none_then_says_which_file_is_what(
    models: Path, open_store: OpenStore, model: str, projector: str, message: str
) -> None:
    write_gguf(models / "audio.gguf", architecture="clip", clip__has_vision_encoder=False)
    (models / "text.gguf").write_text("hello")
    store = open_store(models)
    before = store.variants
    with pytest.raises(BadModel) as refused:
        store.open_pair(models / f"{model}.gguf", models / f"{projector}.gguf")
    assert message in str(refused.value)
    assert isinstance(refused.value, BadPair) == (model not in ("text",) and projector != "gone")
    assert store.variants == before


def test_family_when_the_file_does_not_name_it_then_its_name_without_the_quantization(
    models: Path, open_store: OpenStore
) -> None:
    for name in ("Some.VL-2B-Q4_K_M.gguf", "Some.VL-2B-Q8_0.gguf"):
        write_gguf(models / name, general__name=name)
    store = open_store(models)
    variants = [
        store.open_pair(models / f"Some.VL-2B-{q}.gguf", models / "mmproj-F16.gguf") for q in ("Q4_K_M", "Q8_0")
    ]
    assert [v.family for v in variants] == ["Some.VL-2B"] * 2
    assert [v.label for v in variants] == ["Q4_K_M", "Q8_0"]


def test_family_when_two_sizes_have_one_basename_then_they_are_two(models: Path, open_store: OpenStore) -> None:
    """Converted files say general.basename = "Qwen2.5-VL" in all sizes: what is compared has to be one model."""
    for size in ("3B", "7B"):
        write_gguf(models / f"Qwen2.5-VL-{size}-Q4_K_M.gguf", general__basename="Qwen2.5-VL", general__size_label=size)
    store = open_store(models)
    variants = [
        store.open_pair(models / f"Qwen2.5-VL-{size}-Q4_K_M.gguf", models / "mmproj-F16.gguf") for size in ("3B", "7B")
    ]
    assert variants[0].family != variants[1].family
    assert [v.reference for v in variants] == [True, True]


@pytest.mark.parametrize(
    ("file", "family"),
    [
        ("qwen25vl-Q4_K_M.gguf", "qwen25vl-1.8M"),
        ("my-1.8M-F16.gguf", "my-1.8M"),
        ("invoices/model-F16.gguf", "invoices-1.8M"),
    ],
)
def test_family_when_the_header_knows_its_size_alone_then_the_file_or_its_folder_names_it(
    models: Path, open_store: OpenStore, file: str, family: str
) -> None:
    (models / file).parent.mkdir(exist_ok=True)
    write_gguf(models / file, general__size_label="1.8M")
    assert open_store(models).open_pair(models / file, models / "mmproj-F16.gguf").family == family


def test_pair_when_opened_again_then_it_is_the_same_variant(models: Path, open_store: OpenStore) -> None:
    store = open_store(models)
    first = store.open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf")
    n = len(store.variants)
    assert store.open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf") == first
    assert first.reference
    assert len(store.variants) == n


def test_pair_when_moved_and_opened_again_then_it_is_read_from_where_it_is(models: Path, open_store: OpenStore) -> None:
    store = open_store(models)
    store.open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf")
    (models / "new").mkdir()
    for name in ("a-F16.gguf", "mmproj-F16.gguf"):
        (models / name).rename(models / "new" / name)
    variant = store.open_pair(models / "new/a-F16.gguf", models / "new/mmproj-F16.gguf")
    assert Path(variant.model.path).exists()
    assert variant in store.variants


def test_pairs_when_files_differ_under_equal_names_then_each_is_a_variant(models: Path, open_store: OpenStore) -> None:
    """Two uploaders' files of one quantization: every combination of halves is kept apart."""
    write_gguf(models / "b/a-F16.gguf", general__basename="a", general__quantized_by="somebody else")
    write_gguf(models / "b/mmproj-F16.gguf", architecture="clip", general__quantized_by="somebody else")
    store = open_store(models)
    opened = [
        store.open_pair(model / "a-F16.gguf", projector / "mmproj-F16.gguf")
        for model in (models, models / "b")
        for projector in (models, models / "b")
    ]
    assert len({v.id for v in opened}) == 4
    assert {v.id for v in opened} <= {v.id for v in store.variants}
    assert sum(v.reference for v in store.variants if v.family == "a") == 1


@pytest.mark.parametrize("best_first", [True, False])
def test_reference_when_pairs_of_a_family_come_then_the_most_precise_one(
    tmp_path: Path, open_store: OpenStore, best_first: bool
) -> None:
    """Bits per weight decide, not names: the F32 file here has 32 of them and more, the other one about 16."""
    files = pairs.write_llava(tmp_path, size=pairs.VisionSize(layer=2, image=112, patch=14))
    precise = write_gguf(tmp_path / "tiny-mlp-F32.gguf", size=4096, general__basename="tiny-mlp")
    store = open_store(tmp_path)
    for model in (precise, files.model) if best_first else (files.model, precise):
        store.open_pair(model, files.projector)
    family = [v for v in store.variants if v.family == "tiny-mlp"]
    assert {v.label: v.reference for v in family} == {"F32": True, "F16": False}
    assert [v.reference for v in store.variants if v.family == "tiny-vlm"] == [True]  # another family's stays


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("Qwen3-VL-2B-Instruct-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("SmolVLM.i1-IQ2_XS", "i1-IQ2_XS"),
        ("ggml-model-Q4_K_M", "Q4_K_M"),
        ("gemma-3n-E2B_q4_0-it", "Q4_0"),
        ("mmproj-model-f16", "F16"),
        ("moondream2-text-model-f16_ct-vicuna", "F16"),
        ("moondream2-mmproj-f16-20250414", "F16"),
        ("some-model.BF16-mmproj", "BF16"),
        ("some-model-Q5_K_S-00001-of-00003", "Q5_K_S"),
        ("F16-trained-model-TQ2_0", "TQ2_0"),
        ("some-MXFP4_MOE", "MXFP4_MOE"),
        ("Q-Former-7B", "Q8_0"),  # nothing in the name: the file's own word
        ("XQ4_0X", "Q8_0"),
    ],
)
def test_quantization_when_the_name_tells_it_then_as_publishers_write_it(
    tmp_path: Path, stem: str, expected: str
) -> None:
    path = tmp_path / f"{stem}.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_file_type(int(LlamaFileType.MOSTLY_Q8_0))
    writer.add_tensor("w", np.zeros(64, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert quantization_of(path, read_header(path)) == expected


# --- labels -----------------------------------------------------------------------------------------------


def labels(store: Catalog, family: str = "a") -> dict[str, str]:
    """By the file names of the pair."""
    return {
        f"{Path(v.model.path).name} {Path(v.projector.path).name}": v.label
        for v in store.variants
        if v.family == family
    }


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_labels_when_projectors_share_a_quantization_then_their_names_tell_them_apart_in_any_order(
    models: Path, open_store: OpenStore, order: tuple[int, ...]
) -> None:
    projectors = [models / "mmproj-F16.gguf"]
    for damage in ("noise", "zeroed"):
        keys = {"architecture": "clip", "clip__has_vision_encoder": True, "general__description": damage}
        projectors.append(write_gguf(models / f"mmproj-{damage}-F16.gguf", **keys))  # type: ignore[arg-type]
    store = open_store(models)
    opened = [store.open_pair(models / "a-F16.gguf", projectors[n], remember=True) for n in order]
    expected = {
        "a-F16.gguf mmproj-F16.gguf": "F16 + mmproj-F16 (mmproj-F16)",
        "a-F16.gguf mmproj-noise-F16.gguf": "F16 + mmproj-F16 (mmproj-noise-F16)",
        "a-F16.gguf mmproj-zeroed-F16.gguf": "F16 + mmproj-F16 (mmproj-zeroed-F16)",
    }
    assert labels(store) == expected
    assert opened[-1].label == expected[f"a-F16.gguf {projectors[order[-1]].name}"]
    again = open_store(models)
    assert labels(again) == expected
    assert {v.id: v.label for v in again.variants} == {v.id: v.label for v in store.variants}
    chosen = again.choose(["F16"], ["F16 (mmproj-noise-F16)"])
    assert [Path(v.projector.path).name for v in chosen] == ["mmproj-noise-F16.gguf"]


def test_labels_when_a_copy_of_a_presets_projector_is_opened_then_only_the_copy_is_marked(
    models: Path, open_store: OpenStore
) -> None:
    """A name that people and presets use, such as F16, goes on meaning the preset's own file."""
    preset = read_presets()[0]
    damaged = bytearray((data_folder() / preset.projector).read_bytes())
    damaged[-1] ^= 1
    (models / "damaged.gguf").write_bytes(damaged)
    store = open_store(models, data_folder())
    store.open_pair(data_folder() / preset.model, models / "damaged.gguf")
    assert set(labels(store, preset.family).values()) == {"F16", "F16 + mmproj-F16 (damaged)"}
    assert [v.reference for v in store.choose(["F16"])] == [True]


def test_labels_when_two_uploaders_files_have_equal_names_then_checksums_tell_them_apart(
    models: Path, open_store: OpenStore
) -> None:
    write_gguf(models / "b/a-F16.gguf", general__basename="a", general__quantized_by="somebody else")
    store = open_store(models)
    for model in (models, models / "b"):
        store.open_pair(model / "a-F16.gguf", models / "mmproj-F16.gguf")
    assert sorted(v.label for v in store.variants if v.family == "a") == sorted(
        f"F16 ({v.model.sha256[:8]})" for v in store.variants if v.family == "a"
    )


def test_labels_when_a_family_has_projectors_of_16_bits_of_both_kinds_then_f16_is_the_usual_one(
    models: Path, open_store: OpenStore
) -> None:
    keys = {"architecture": "clip", "clip__has_vision_encoder": True, "general__description": "b"}
    other = write_gguf(models / "mmproj-BF16.gguf", **keys)  # type: ignore[arg-type]
    store = open_store(models)
    assert store.open_pair(models / "a-F16.gguf", other).label == "F16"
    assert store.open_pair(models / "a-F16.gguf", models / "mmproj-F16.gguf").label == "F16"
    assert [v.label for v in store.variants if v.family == "a"] == ["F16 + mmproj-BF16", "F16"]


# --- derived variants -------------------------------------------------------------------------------------


class Quantizer:
    """Stands in for the worker that quantizes: writes small files, and for one quantization what it is told instead."""

    def __init__(self, odd: str = "", how: Callable[[Path, Path], None] | None = None) -> None:
        self.odd, self.how, self.made = odd, how, list[str]()

    def __call__(self, source: Path, target: Path, quantization: str, half: Half) -> None:
        projector = half is Half.PROJECTOR
        assert projector == ("mmproj" in source.name)
        self.made.append(f"mmproj-{quantization}" if projector else quantization)
        if quantization == self.odd and self.how and not projector:
            self.how(source, target)
        else:
            write_gguf(target, architecture="clip" if projector else "llama", general__name=quantization)


def fails(source: Path, target: Path) -> None:
    target.write_bytes(b"half of it")
    raise EngineError("llama.cpp could not quantize this.")


def fills_the_disk(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: 2**20])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def writes_garbage(source: Path, target: Path) -> None:
    target.write_bytes(b"garbage" * 1000)


def writes_half(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes()[: 2**20])


def writes_nothing(source: Path, target: Path) -> None:
    pass


def derived_files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "cache/derived").rglob("*") if path.is_file())


LADDER = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0"]


def test_first_start_when_deriving_then_every_model_with_every_projector(open_store: OpenStore, tmp_path: Path) -> None:
    store, quantizer, labels = open_store(), Quantizer(), list[str]()
    assert [v.id for v in store.variants] == ["tiny-vlm:F16+mmproj-F16"]
    store.derive(quantizer, labels.append)
    assert store.problems == ()
    assert quantizer.made == [*LADDER[1:], "mmproj-Q8_0", "mmproj-Q4_0", "mmproj-Q2_K"]
    assert {v.id for v in store.variants} == {
        f"tiny-vlm:{model}+mmproj-{projector}" for model in LADDER for projector in ("F16", "Q8_0", "Q4_0", "Q2_K")
    }
    assert [v.id for v in store.variants if v.reference] == ["tiny-vlm:F16+mmproj-F16"]
    assert [v.label for v in store.variants if v.projector.quantization == "F16"] == LADDER
    assert "Q4_K_M + mmproj-Q2_K" in {v.label for v in store.variants}
    assert len(labels) == 10
    assert labels[0] == "Making Q8_0 of tiny-vlm-7M-F16.gguf ..."
    assert len(derived_files(tmp_path)) == 10


def test_second_start_when_all_was_made_then_nothing_is_made_again(open_store: OpenStore) -> None:
    first = open_store()
    first.derive(Quantizer())
    second, quantizer = open_store(), Quantizer()
    assert set(second.variants) == set(first.variants)
    second.derive(quantizer)
    assert quantizer.made == []
    assert set(second.variants) == set(first.variants)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (fails, "llama.cpp could not quantize this."),
        (fills_the_disk, "No space left on device"),
        (writes_garbage, "not a GGUF file"),
        (writes_half, "cut short"),
        (writes_nothing, "does not exist"),
    ],
)
def test_derived_file_when_it_cannot_be_made_then_told_and_the_others_are_there(
    open_store: OpenStore, tmp_path: Path, how: Callable[[Path, Path], None], message: str
) -> None:
    store = open_store()
    store.derive(Quantizer("Q4_K_M", how))
    (problem,) = store.problems
    assert problem.startswith("Q4_K_M of Tiny VLM 7M could not be made: ")
    assert message in problem
    assert [v.label for v in store.variants if v.projector.quantization == "F16"] == [
        rung for rung in LADDER if rung != "Q4_K_M"
    ]
    assert len(derived_files(tmp_path)) == 9
    assert not [name for name in derived_files(tmp_path) if "Q4_K_M" in name or not name.endswith(".gguf")]
    later, quantizer = open_store(), Quantizer()
    later.derive(quantizer)
    assert quantizer.made == ["Q4_K_M"]
    assert later.problems == ()
    assert {v.label for v in later.variants if v.projector.quantization == "F16"} == set(LADDER)


def test_ladder_when_a_rung_was_missing_at_first_then_it_comes_back_to_its_place(open_store: OpenStore) -> None:
    open_store().derive(Quantizer("Q4_K_M", fails))
    store = open_store()
    store.derive(Quantizer())
    assert [v.label for v in store.variants if v.projector.quantization == "F16"] == LADDER


def test_derived_file_when_damaged_since_then_made_again(open_store: OpenStore, tmp_path: Path) -> None:
    open_store().derive(Quantizer())
    os.truncate(next((tmp_path / "cache/derived").rglob("*Q2_K.gguf")), 50)
    store, quantizer = open_store(), Quantizer()
    store.derive(quantizer)
    assert quantizer.made in (["Q2_K"], ["mmproj-Q2_K"])
    assert store.problems == ()


def test_problems_when_derived_twice_then_told_once(open_store: OpenStore) -> None:
    store = open_store()
    store.derive(Quantizer("Q2_K", fails))
    store.derive(Quantizer("Q2_K", fails))
    assert len(store.problems) == 1


@needs_linux
def test_store_when_the_disk_is_full_then_it_still_opens_and_tells(open_store: OpenStore) -> None:
    with full_disk():
        store = open_store()
        store.derive(Quantizer())
    assert [v.label for v in store.variants] == ["F16"]
    assert len(store.problems) == 10


# --- choosing ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def derived_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    store = Catalog(tmp_path_factory.mktemp("derived"), ())
    store.derive(Quantizer())
    yield store
    store.close()


@pytest.mark.parametrize(
    ("names", "projectors", "expected"),
    [
        (["Q2_K", "F16"], (), ["Q2_K+mmproj-F16", "F16+mmproj-F16"]),
        (["F16", "F16", "tiny-vlm:F16+mmproj-F16"], (), ["F16+mmproj-F16"]),
        (["tiny-vlm:Q4_K_M+mmproj-Q2_K"], (), ["Q4_K_M+mmproj-Q2_K"]),
        (["Q4_K_M + mmproj-Q2_K"], (), ["Q4_K_M+mmproj-Q2_K"]),
        (["Q4_K_M"], ("Q2_K", "F16"), ["Q4_K_M+mmproj-F16", "Q4_K_M+mmproj-Q2_K"]),
        (["F16", "Q2_K"], ("Q2_K",), ["F16+mmproj-Q2_K", "Q2_K+mmproj-Q2_K"]),
        (["tiny-vlm:F16+mmproj-F16"], ("Q2_K",), ["F16+mmproj-F16"]),
        ([], (), []),
    ],
)
def test_choice_when_named_then_those_variants_once_and_in_that_order(
    derived_store: Catalog, names: list[str], projectors: tuple[str, ...], expected: list[str]
) -> None:
    assert [v.id.removeprefix("tiny-vlm:") for v in derived_store.choose(names, projectors)] == expected


def test_choice_when_unknown_then_says_what_there_is(derived_store: Catalog) -> None:
    with pytest.raises(BadInput, match=r"no variant called 'Q9_X'\. There are: F16, .*Q4_K_M, .*TQ2_0"):
        derived_store.choose(["F16", "Q9_X"])


def test_choice_when_the_projector_is_unknown_then_it_is_the_one_that_is_named(derived_store: Catalog) -> None:
    with pytest.raises(BadInput) as refused:
        derived_store.choose(["F16"], ["Q9_X"])
    assert "'Q9_X'" in str(refused.value)
    assert "called 'F16'" not in str(refused.value)


def test_choice_when_one_of_two_projectors_is_unknown_then_refused_too(derived_store: Catalog) -> None:
    with pytest.raises(BadInput, match="Q9_X"):
        derived_store.choose(["F16"], ["F16", "Q9_X"])


# --- presets ----------------------------------------------------------------------------------------------


def test_presets_when_read_then_all_parse_and_families_are_unique() -> None:
    presets = read_presets()
    assert len(presets) == len(list(presets_folder().glob("*.toml"))) > 0
    assert len({preset.family for preset in presets}) == len(presets)


@pytest.mark.parametrize("preset", [p for p in read_presets() if not p.repo], ids=lambda preset: preset.family)
def test_preset_when_it_names_files_and_quantizations_then_they_exist(preset) -> None:  # type: ignore[no-untyped-def]
    model, projector = read_header(data_folder() / preset.model), read_header(data_folder() / preset.projector)
    assert (model.is_projector, projector.is_projector) == (False, True)
    for example in preset.examples:
        assert (data_folder() / example.image).is_file()
        assert example.prompt.strip()
    known = {file_type.name.removeprefix("MOSTLY_") for file_type in LlamaFileType}
    assert set(preset.derive.models) | set(preset.derive.projectors) <= known
    assert set(preset.ticked) <= {model.quantization, *preset.derive.models}
    assert preset.about.strip()
    assert preset.licence.strip()


GOOD = 'family = "f"\nname = "n"\nabout = "a"\nlicence = "l"\nmodel = "m"\nprojector = "p"\n'


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (GOOD.replace('model = "m"\n', "").encode(), "`model`"),
        (GOOD.replace('"m"', "3").encode(), "`$.model`"),
        (f"{GOOD}colour = 1".encode(), "`colour`"),
        (f'{GOOD}[derive]\nmodels = "Q4_K_M"'.encode(), "`$.derive.models`"),
        (f"{GOOD}[derive]\nlayers = []".encode(), "`layers`"),
        (f'{GOOD}[[examples]]\nimage = "i.png"'.encode(), "`$.examples[0]`"),
        (f"{GOOD}max_tokens = 1.5".encode(), "`$.max_tokens`"),
        (b"name = 'n'\nfamily = f", "line 2"),
        (GOOD.encode() + b'x = "\xff"', "utf-8"),
    ],
    ids=["missing", "type", "unknown", "nested type", "nested unknown", "list", "fraction", "syntax", "encoding"],
)
def test_preset_when_bad_then_the_file_and_the_field_are_named(tmp_path: Path, content: bytes, field: str) -> None:
    path = tmp_path / "some-model.toml"
    path.write_bytes(content)
    with pytest.raises(BadModel) as refused:
        read_preset(path)
    assert str(refused.value).startswith("The preset some-model.toml cannot be used: ")
    assert field in str(refused.value)


def test_preset_when_good_then_read_and_when_gone_then_said(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    preset = read_preset(tmp_path / "a.toml")
    assert (preset.family, preset.model, preset.derive.models, preset.max_tokens) == ("f", "m", (), 128)
    with pytest.raises(BadModel, match=r"The preset b\.toml cannot be used"):
        read_preset(tmp_path / "b.toml")


# --- the byte cache ---------------------------------------------------------------------------------------

MEGABYTE = 2**20


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[BytesCache]:
    opened = BytesCache(tmp_path / "bytes", MEGABYTE)
    yield opened
    opened.close()


@pytest.mark.parametrize("value", [b"", b"x", bytes(range(256)) * 1000], ids=["empty", "in a row", "in a file"])
def test_cache_when_bytes_are_kept_then_they_come_back_in_the_next_start_too(
    tmp_path: Path, cache: BytesCache, value: bytes
) -> None:
    cache.set("key", value)
    assert (cache.get("key"), cache.get("other"), cache.problem) == (value, None, None)
    cache.close()
    again = BytesCache(tmp_path / "bytes", MEGABYTE)
    assert again.get("key") == value
    again.close()


@pytest.mark.parametrize("value", ["text", 1, None, {"a": 1}, bytearray(b"x"), Path()], ids=repr)
def test_cache_when_given_anything_but_bytes_then_refused(cache: BytesCache, value: object) -> None:
    with pytest.raises(TypeError, match="bytes"):
        cache.set("key", value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="key"):
        cache.set(value if not isinstance(value, str) else 1.5, b"x")  # type: ignore[arg-type]
    assert cache.get("key") is None


def _planting(path: Path) -> bytes:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(path),)

    return pickle.dumps(Bomb())


@pytest.mark.parametrize("mode", [1, 2, 3, 4, 5, 0, None])
@pytest.mark.parametrize("in_file", [False, True])
def test_row_when_a_pickle_is_planted_then_it_is_refused_and_does_not_run(
    tmp_path: Path, cache: BytesCache, mode: int | None, in_file: bool
) -> None:
    """diskcache's modes: 1 raw, 2 binary, 3 text, 4 pickle. A pickle that is read as bytes is only bytes."""
    cache.set("key", b"x")
    bomb = _planting(tmp_path / "boom")
    (tmp_path / "bytes/planted.val").write_bytes(bomb)
    with sqlite3.connect(tmp_path / "bytes/cache.db") as rows:
        values = (mode, "planted.val", None) if in_file else (mode, None, sqlite3.Binary(bomb))
        assert rows.execute("UPDATE Cache SET mode = ?, filename = ?, value = ?", values).rowcount == 1
    assert cache.get("key") in ((bomb, None) if mode in (1, 2) else (None,))
    assert not (tmp_path / "boom").exists()
    cache.set("key", b"new")
    assert cache.get("key") == b"new"


@pytest.mark.parametrize("value", ["text", 10**12, 1.5, None])
def test_row_when_a_value_of_another_type_is_planted_then_nothing_is_there(
    tmp_path: Path, cache: BytesCache, value: object
) -> None:
    cache.set("key", b"x")
    with sqlite3.connect(tmp_path / "bytes/cache.db") as rows:
        rows.execute("UPDATE Cache SET value = ?", (value,))
    assert cache.get("key") is None


def test_key_when_a_pickle_is_planted_then_making_room_does_not_run_it(tmp_path: Path, cache: BytesCache) -> None:
    cache.set("key", b"x" * 100_000)
    with sqlite3.connect(tmp_path / "bytes/cache.db") as rows:
        rows.execute("UPDATE Cache SET key = ?, raw = 0", (sqlite3.Binary(_planting(tmp_path / "boom")),))
    for number in range(30):
        cache.set(str(number), b"x" * 100_000)
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("before", [None, 0o755])
def test_folder_when_opened_then_only_this_user_can_read_it(tmp_path: Path, before: int | None) -> None:
    folder = tmp_path / "deep/cache"
    if before:
        folder.mkdir(parents=True)
        folder.chmod(before)
    BytesCache(folder, MEGABYTE).close()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_cache_when_more_is_kept_than_fits_then_the_oldest_give_way(tmp_path: Path, cache: BytesCache) -> None:
    for number in range(40):
        cache.set(str(number), bytes(100_000))
    assert cache.get("39") is not None
    assert cache.get("0") is None
    assert sum(path.stat().st_size for path in (tmp_path / "bytes").rglob("*.val")) < 1.3 * MEGABYTE


def test_cache_when_its_folder_cannot_be_made_then_told_and_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = BytesCache(tmp_path / "file/cache", MEGABYTE)
    cache.set("key", b"x")
    assert cache.get("key") is None
    assert "Not a directory" in (cache.problem or "")
    cache.close()


@needs_linux
@pytest.mark.parametrize("value", [b"x" * 3000, b"x" * 100_000], ids=["in a row", "in a file"])
def test_cache_when_the_disk_is_full_then_told_until_there_is_room(cache: BytesCache, value: bytes) -> None:
    cache.set("old", b"x")
    with full_disk():
        cache.set("key", value)
        assert cache.problem
        assert cache.get("key") is None
    cache.set("key", value)
    assert (cache.problem, cache.get("key"), cache.get("old")) == (None, value, b"x")


def test_cache_when_its_folder_vanishes_then_no_error(tmp_path: Path, cache: BytesCache) -> None:
    cache.set("key", b"x" * 100_000)
    shutil.rmtree(tmp_path / "bytes")
    assert cache.get("key") is None
    cache.set("key", b"x")
    cache.set("large", b"x" * 100_000)
    assert cache.get("unknown") is None


# --- the embedding cache ----------------------------------------------------------------------------------

PROJECTOR = ModelFile("/m/mmproj.gguf", 1, "pp", "F16", 1, "clip")
WIDTH = 4


def picture(sha256: str = "ii") -> Image:
    return Image(rgb=b"", width=1, height=1, sha256=sha256)


def tile(image: int, n_tokens: int, fill: int | None) -> ImageChunk:
    """A tile of whatever embeddings; None: planned, not encoded."""
    floats = b"" if fill is None else bytes([fill]) * (n_tokens * WIDTH * 4)
    key = "" if fill is None else f"tile {fill}"
    return ImageChunk(image, key, n_tokens, n_pos=n_tokens, non_causal=False, positions=b"", embeddings=floats)


def prompt(*tiles: ImageChunk) -> EncodedPrompt:
    return EncodedPrompt((TextChunk((1,)), *tiles, TextChunk((2,))), WIDTH, "text", 0.1, 0.2)


@pytest.fixture
def embeddings(tmp_path: Path) -> Iterator[EmbeddingCache]:
    opened = EmbeddingCache(tmp_path / "embeddings", 10 * MEGABYTE, "engine 1")
    yield opened
    opened.close()


def reopened(tmp_path: Path, engine: str = "engine 1") -> EmbeddingCache:
    return EmbeddingCache(tmp_path / "embeddings", 10 * MEGABYTE, engine)


@pytest.mark.parametrize("new_start", [False, True])
def test_embeddings_when_put_then_they_fill_a_planned_prompt(
    tmp_path: Path, embeddings: EmbeddingCache, new_start: bool
) -> None:
    whole = prompt(tile(0, 2, 7), tile(1, 3, 8), tile(0, 2, 9))
    keys = {0: embeddings.key(PROJECTOR, picture("a")), 1: embeddings.key(PROJECTOR, picture("b"))}
    for image, key in keys.items():
        assert not embeddings.has(key)
        embeddings.put(key, whole, image)
    cache = reopened(tmp_path) if new_start else embeddings
    planned = prompt(tile(0, 2, None), tile(1, 3, None), tile(0, 2, None))
    assert all(cache.has(key) for key in keys.values())
    assert cache.fill(planned, keys) == whole
    half_planned = prompt(tile(0, 2, None), tile(1, 3, 8), tile(0, 2, None))
    assert cache.fill(half_planned, {0: keys[0]}) == whole
    assert cache.fill(planned, {}) == planned


def test_embeddings_when_nan_then_neither_kept_nor_read_from_an_earlier_versions_cache(
    tmp_path: Path, embeddings: EmbeddingCache
) -> None:
    key, planned = embeddings.key(PROJECTOR, picture()), prompt(tile(0, 2, None))
    embeddings.put(key, prompt(tile(0, 2, 0xFF)), 0)
    assert not embeddings.has(key)
    embeddings._disk.set(key, embedding_cache._encoder.encode((embedding_cache._Tile("k", b"\xff" * 2 * 4 * WIDTH),)))
    cache = reopened(tmp_path)
    assert not cache.has(key)
    assert cache.fill(planned, {0: key}) is None
    cache.put(key, prompt(tile(0, 2, 7)), 0)
    assert reopened(tmp_path).has(key)


def test_key_when_anything_differs_then_so_does_it(tmp_path: Path, embeddings: EmbeddingCache) -> None:
    other = ModelFile("/m/mmproj.gguf", 1, "other", "F16", 1, "clip")
    moved = ModelFile("/elsewhere/mmproj.gguf", 1, "pp", "F16", 1, "clip")
    keys = {
        embeddings.key(PROJECTOR, picture()),
        embeddings.key(other, picture()),
        embeddings.key(PROJECTOR, picture("other")),
        reopened(tmp_path, "engine 2").key(PROJECTOR, picture()),
    }
    assert len(keys) == 4
    assert embeddings.key(moved, picture()) == reopened(tmp_path).key(PROJECTOR, picture())


def test_embeddings_when_another_engine_made_them_then_they_are_not_used(
    tmp_path: Path, embeddings: EmbeddingCache
) -> None:
    embeddings.put(embeddings.key(PROJECTOR, picture()), prompt(tile(0, 2, 7)), 0)
    other = reopened(tmp_path, "engine 2")
    assert not other.has(other.key(PROJECTOR, picture()))
    assert other.fill(prompt(tile(0, 2, None)), {0: other.key(PROJECTOR, picture())}) is None


@pytest.mark.parametrize(
    "planned",
    [
        prompt(tile(0, 3, None), tile(0, 2, None)),
        prompt(tile(0, 2, None), tile(0, 2, None), tile(0, 2, None)),
        prompt(tile(0, 2, None)),
        prompt(),
    ],
    ids=["a larger tile", "a tile more", "a tile less", "no tile"],
)
def test_embeddings_when_of_another_shape_than_planned_then_none(
    embeddings: EmbeddingCache, planned: EncodedPrompt
) -> None:
    key = embeddings.key(PROJECTOR, picture())
    embeddings.put(key, prompt(tile(0, 2, 7), tile(0, 2, 8)), 0)
    assert embeddings.fill(planned, {0: key}) is None


def test_embeddings_when_damaged_on_disk_then_none(tmp_path: Path, embeddings: EmbeddingCache) -> None:
    key = embeddings.key(PROJECTOR, picture())
    cache = BytesCache(tmp_path / "embeddings", MEGABYTE)
    cache.set(key, b"\xc1 not msgpack")
    cache.close()
    assert embeddings.fill(prompt(tile(0, 2, None)), {0: key}) is None


def test_embeddings_when_the_disk_does_not_work_then_memory_serves_and_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "embeddings").write_text("a file where the folder should be")
    cache = reopened(tmp_path)
    key, whole = cache.key(PROJECTOR, picture()), prompt(tile(0, 2, 7))
    cache.put(key, whole, 0)
    assert cache.fill(prompt(tile(0, 2, None)), {0: key}) == whole
    assert (cache.problem or "").startswith("Image embeddings are not kept: ")
    cache.close()


def test_embeddings_when_the_folder_vanishes_then_memory_serves(tmp_path: Path, embeddings: EmbeddingCache) -> None:
    shutil.rmtree(tmp_path / "embeddings")
    key, whole = embeddings.key(PROJECTOR, picture()), prompt(tile(0, 20_000, 7))
    embeddings.put(key, whole, 0)
    assert embeddings.fill(prompt(tile(0, 20_000, None)), {0: key}) == whole


@needs_linux
def test_embeddings_when_the_disk_is_full_then_memory_serves_and_it_is_told(embeddings: EmbeddingCache) -> None:
    key, whole = embeddings.key(PROJECTOR, picture()), prompt(tile(0, 20_000, 7))
    with full_disk():
        embeddings.put(key, whole, 0)
        assert embeddings.fill(prompt(tile(0, 20_000, None)), {0: key}) == whole
    assert embeddings.problem


def test_memory_when_full_then_the_longest_unused_embeddings_leave_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedding_cache, "_MEMORY_BYTES", 1000)
    (tmp_path / "embeddings").write_text("no disk")
    cache = reopened(tmp_path)

    def put(name: str, n_tokens: int = 20) -> None:  # of 16 bytes, and some 20 bytes for the frame
        cache.put(cache.key(PROJECTOR, picture(name)), prompt(tile(0, n_tokens, 7)), 0)

    def names() -> list[str]:
        return [name for name in "abcd" if cache.has(cache.key(PROJECTOR, picture(name)))]

    put("a")
    put("b")
    assert cache.has(cache.key(PROJECTOR, picture("a")))
    put("c")
    assert names() == ["a", "c"]
    put("d", n_tokens=200)  # larger than all the memory: it is kept alone
    assert names() == ["d"]


def test_path_when_a_named_pipe_then_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.gguf")
    with pytest.raises(BadModel, match="is not a file"):
        Catalog(tmp_path / "cache", None).open_pair(tmp_path / "x.gguf", None)


def test_pair_when_closed_then_it_is_gone_at_the_next_start_too_and_its_files_stay(tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path / "models")
    catalog = Catalog(tmp_path / "cache", (tmp_path / "models",))
    embedded = {variant.id for variant in catalog.variants}
    variant = catalog.open_pair(files.model, files.projector, remember=True)
    assert [opened.id for opened in catalog.opened] == [variant.id]
    catalog.close_pair(variant.id)
    assert {v.id for v in catalog.variants} == embedded
    catalog.close()
    again = Catalog(tmp_path / "cache", (tmp_path / "models",))
    assert {v.id for v in again.variants} == embedded
    assert files.model.exists()
    for id in (variant.id, next(iter(embedded))):
        with pytest.raises(BadInput):
            again.close_pair(id)
    again.close()
