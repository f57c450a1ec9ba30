"""read_header on files that gguf-py wrote, and on files that somebody damaged or forged."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, LlamaFileType

from playground.errors import BadModel
from playground.models.gguf.header import GgufHeader, read_header
from testkit import pairs
from testkit.gguf_bytes import (
    ARRAY,
    BOOL,
    F16,
    F32,
    FLOAT32,
    GOOD,
    NAME,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    array,
    gguf,
    mutate,
    pair,
    rich,
    tensor,
    text,
)


def header_of(path: Path, data: bytes) -> GgufHeader:
    path.write_bytes(data)
    return read_header(path)


def refusal(path: Path, data: bytes) -> str:
    with pytest.raises(BadModel) as refused:
        header_of(path, data)
    return str(refused.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.gguf"


# --- whole files ------------------------------------------------------------------------------------------


def write_language(path: Path, file_type: LlamaFileType, *, seed: int = 0, **changes: object) -> Path:
    """A language model of three tensors, in a quantization, with a vocabulary; changes: "key__part" for "key.part"."""
    writer = GGUFWriter(path, "llama")
    metadata = {
        "llama.embedding_length": 256,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [f"token {n}" for n in range(1000)],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.chat_template": "{{ messages }}",
    } | {key.replace("__", "."): value for key, value in changes.items()}
    writer.add_file_type(int(file_type))
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, str(value))
    noise = np.random.default_rng(seed)
    writer.add_tensor("norm", noise.random(256, dtype=np.float32))
    half = file_type is LlamaFileType.MOSTLY_F16
    for name in ("a", "b"):
        if half:
            writer.add_tensor(name, noise.random((8, 256)).astype(np.float16))
        else:
            packed = noise.integers(0, 255, (8, 8 * 34), dtype=np.uint8)
            writer.add_tensor(name, packed, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_pair_when_read_then_each_half_is_told_from_the_other(tmp_path: Path, kind: str) -> None:
    files = pairs.write_pair(kind, tmp_path)
    model, projector = read_header(files.model), read_header(files.projector)
    assert (model.is_projector, projector.is_projector) == (False, True)
    assert (model.quantization, projector.quantization) == ("F16", "F16")
    assert projector.architecture == "clip"
    assert model.architecture == {"mlp": "llama", "idefics3": "llama"}.get(kind, kind)
    assert (model.file_bytes, model.missing_bytes) == (files.model.stat().st_size, 0)
    assert model.text("general.basename") == f"tiny-{kind}"
    assert model.integer(f"{model.architecture}.embedding_length") == 256


def test_header_when_two_quantizations_of_a_model_then_only_the_numbers_differ(tmp_path: Path) -> None:
    f16 = read_header(write_language(tmp_path / "f16.gguf", LlamaFileType.MOSTLY_F16))
    q8 = read_header(write_language(tmp_path / "q8.gguf", LlamaFileType.MOSTLY_Q8_0, seed=1))
    assert (f16.quantization, q8.quantization) == ("F16", "Q8_0")
    assert f16.n_params == q8.n_params == 256 + 2 * 8 * 256
    assert [t.type.name for t in q8.tensors] == ["F32", "Q8_0", "Q8_0"]
    assert [t.shape for t in q8.tensors] == [(256,), (256, 8), (256, 8)]
    assert [t.n_bytes for t in q8.tensors] == [1024, 8 * 8 * 34, 8 * 8 * 34]
    assert f16.vocabulary_sha256 == q8.vocabulary_sha256


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer__chat_template": "{{ messages }} "},
        {"tokenizer__ggml__tokens": [f"token {n}" for n in range(999)] + ["another"]},  # far behind what is kept
        {"tokenizer__ggml__bos_token_id": 2},
        {"tokenizer__ggml__eos_token_id": 3},
        {"llama__embedding_length": 512},
    ],
    ids=["template", "last token", "bos", "one more key", "width"],
)
def test_vocabulary_when_a_detail_differs_then_so_does_its_hash(tmp_path: Path, change: dict[str, Any]) -> None:
    header = read_header(write_language(tmp_path / "a.gguf", LlamaFileType.MOSTLY_F16))
    other = read_header(write_language(tmp_path / "b.gguf", LlamaFileType.MOSTLY_F16, **change))
    assert header.vocabulary_sha256 != other.vocabulary_sha256


def test_vocabulary_when_a_value_stands_under_another_key_then_the_hash_differs(tmp_path: Path) -> None:
    first, other = (
        write_language(tmp_path / f"{role}.gguf", LlamaFileType.MOSTLY_F16, **{f"tokenizer__ggml__{role}_token_id": 3})
        for role in ("eos", "eot")
    )
    assert read_header(first).vocabulary_sha256 != read_header(other).vocabulary_sha256


def test_vocabulary_when_only_another_part_differs_then_the_hash_is_the_same(tmp_path: Path) -> None:
    header = read_header(write_language(tmp_path / "a.gguf", LlamaFileType.MOSTLY_F16))
    other = read_header(write_language(tmp_path / "b.gguf", LlamaFileType.MOSTLY_F16, general__name="another name"))
    assert header.vocabulary_sha256 == other.vocabulary_sha256


def test_quantization_when_the_file_does_not_say_then_the_type_of_most_weights(path: Path) -> None:
    header = header_of(path, gguf([], [tensor("few", (4,), F32), tensor("many", (32,), F16, 32)], bytes(96)))
    assert header.quantization == "F16"
    assert header.architecture == "unknown"


def test_long_array_when_read_then_only_its_begin_is_kept(path: Path) -> None:
    words = array("tokenizer.ggml.tokens", STRING, 1000, b"".join(text(f"word {n}") for n in range(1000)))
    numbers = array("tokenizer.ggml.token_type", UINT32, 1000, struct.pack("<1000I", *range(1000)))
    header = header_of(path, gguf([words, numbers, NAME], [tensor("w", (4,))], bytes(16)))
    assert header.metadata["tokenizer.ggml.tokens"] == tuple(f"word {n}" for n in range(256))
    assert header.metadata["tokenizer.ggml.token_type"] == tuple(range(256))
    assert header.text("general.name") == "a model"


def test_text_when_not_utf8_then_still_read(path: Path) -> None:
    header = header_of(path, gguf([pair("general.name", STRING, text(b"caf\xe9"))], [tensor("w", (4,))], bytes(16)))
    assert header.text("general.name") == "caf\ufffd"


def test_version_2_when_read_then_it_is_as_good(path: Path) -> None:
    assert header_of(path, gguf([NAME], [tensor("w", (4,))], bytes(16), version=2)).n_params == 4


def test_alignment_when_given_then_it_places_the_tensors(path: Path) -> None:
    entries = [pair("general.alignment", UINT32, struct.pack("<I", 4096))]
    header = header_of(path, gguf(entries, [tensor("w", (4,))], bytes(16), alignment=4096))
    assert (header.data_offset, header.missing_bytes) == (4096, 0)


@pytest.mark.thorough
def test_vocabulary_when_as_large_as_the_largest_then_read_within_5_s(path: Path) -> None:
    """Gemma 3: 262,144 tokens, 514,906 merges."""
    tokens = array("tokenizer.ggml.tokens", STRING, 262_144, b"".join(text(f"t{n}") for n in range(262_144)))
    merges = array("tokenizer.ggml.merges", STRING, 514_906, b"".join(text(f"a {n}") for n in range(514_906)))
    data = gguf([tokens, merges], [tensor("w", (4,))], bytes(16))
    started = time.process_time()
    assert header_of(path, data).n_params == 4
    assert time.process_time() - started < 25


# --- files that are refused -------------------------------------------------------------------------------


def test_path_when_nothing_can_be_read_there_then_says_why(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"^gone\.gguf does not exist\.$"):
        read_header(tmp_path / "gone.gguf")
    with pytest.raises(BadModel, match="is a folder, not a GGUF file"):
        read_header(tmp_path)


@pytest.mark.parametrize("name", ["a.gguf/b.gguf", "x" * 300, "nul\0.gguf", "loop.gguf"])
def test_path_when_impossible_then_bad_model_too(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.gguf").write_bytes(GOOD)
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    with pytest.raises(BadModel):
        read_header(f"{tmp_path}/{name}")


CUT_HEADER = "header is cut short"
NOT_GGUF = "not a GGUF file. Choose a file that ends in .gguf."


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        *((keep, NOT_GGUF) for keep in (0, 3)),
        *((keep, CUT_HEADER) for keep in (4, 7, 20, 30, len(GOOD) - 60)),
        (len(GOOD) - 1, "1 bytes of its tensors are missing. Download it again."),
    ],
)
def test_file_when_truncated_then_says_where(path: Path, keep: int, message: str) -> None:
    assert message in refusal(path, GOOD[:keep])
    assert refusal(path, GOOD[:keep]).startswith("a.gguf")


@pytest.mark.parametrize("keep", [0.001, 0.05, 0.5, 0.999])
def test_real_file_when_truncated_then_refused(tmp_path: Path, keep: float) -> None:
    model = pairs.write_pair("mlp", tmp_path).model
    with pytest.raises(BadModel, match=r"cut short.* Download"):
        read_header(pairs.truncate(model, tmp_path / "cut.gguf", keep))


HUGE = 2**63


def aligned(kind: int, value: bytes) -> bytes:
    return gguf([pair("general.alignment", kind, value)], [tensor("w", (4,))], bytes(64))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK\x03\x04 a zip", NOT_GGUF),
        (b"GGJT" + bytes(100), NOT_GGUF),
        (gguf([], [], version=1), "a version 1 GGUF file; this app cannot read it"),
        (gguf([], [], version=4), "a version 4 GGUF file; this app cannot read it"),
        (gguf([], [], version=0), "a version 0 GGUF file"),
        (b"GGUF" + struct.pack(">IQQ", 3, 1, 1) + bytes(99), "a big-endian GGUF file; this app cannot read it"),
        (b"GGUF" + struct.pack("<IQQ", 3, HUGE, 0), "it claims 9,223,372,036,854,775,808 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, HUGE), "it claims 9,223,372,036,854,775,808 metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 99_999, 0), CUT_HEADER),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, HUGE), "bytes in a text"),
        (gguf([pair("k", STRING, struct.pack("<Q", 2**20) + b"x")], []), CUT_HEADER),
        (gguf([pair("k", STRING, struct.pack("<Q", 2**64 - 1))], []), "bytes in a text"),
        (gguf([pair("k", 13, b"")], []), "a value of the unknown type 13"),
        (gguf([array("k", ARRAY, 1, struct.pack("<IQ", UINT8, 1) + b"x")], []), "an array of the unknown type 9"),
        (gguf([array("k", 200, 1)], []), "an array of the unknown type 200"),
        (gguf([array("k", UINT64, 2**64 - 1)], []), "array elements"),
        (gguf([array("k", UINT64, 2**20)], []), CUT_HEADER),
        (gguf([array("k", STRING, 2**20)], []), CUT_HEADER),
        (aligned(UINT32, struct.pack("<I", 0)), "alignment is not a power of two"),
        (aligned(UINT32, struct.pack("<I", 48)), "alignment is not a power of two"),
        (aligned(FLOAT32, struct.pack("<f", float("nan"))), "not a power of two"),
        (aligned(STRING, text("32")), "alignment is not a power of two"),
        (aligned(BOOL, b"\1"), "alignment is not a power of two"),
        (gguf([], [tensor("w", (1, 1, 1, 1, 1))]), "tensor 'w' has 5 dimensions"),
        (gguf([], [tensor("w", (4,), kind=4)]), "tensor 'w' has the unknown type 4"),
        (gguf([], [tensor("w", (4,), kind=2**32 - 1)]), "tensor 'w' has the unknown type 4294967295"),
        (gguf([], [tensor("w", (2**41,))]), "elements in a tensor"),
        (gguf([], [tensor("w", (2**40,) * 4)]), "bytes of its tensors are missing"),
        (gguf([], [tensor("w", (4,), offset=2**64 - 16)], bytes(16)), "bytes of tensors"),
        (gguf([], [tensor("w", (4,), offset=2**50)], bytes(16)), "bytes of its tensors are missing"),
        (gguf([], [tensor("w", (5,))], bytes(16)), "4 bytes of its tensors are missing"),
        (gguf([NAME], [], bytes(64)), "no tensors"),
        (gguf([], []) + b"", "no tensors"),
    ],
    ids=[
        *("zip", "ggjt", "version 1", "version 4", "version 0", "big-endian", "tensors", "keys", "99,999 tensors"),
        *("key", "text beyond the end", "text of 2^64", "value type", "array of arrays", "array type"),
        *("array of 2^64", "array beyond the end", "texts beyond the end", "alignment 0", "alignment 48"),
        *("alignment nan", "alignment text", "alignment bool", "5 dimensions", "removed type", "type of 2^32"),
        *("2^41 elements", "2^160 elements", "offset wraps", "offset beyond the end", "a row too long"),
        *("no tensors", "empty"),
    ],
)
def test_file_when_forged_then_says_what_is_wrong(path: Path, data: bytes, message: str) -> None:
    assert message in refusal(path, data)


def test_message_when_a_tensors_name_is_a_strangers_novel_then_it_stays_short(path: Path) -> None:
    assert len(refusal(path, gguf([], [tensor("<b>" * 20_000, (4,), kind=99)]))) < 500


# --- what a file may cost ---------------------------------------------------------------------------------

MEGABYTE = 2**20


def peak_of(path: Path) -> float:
    """Peak megabytes of reading a header, whatever comes of it."""
    tracemalloc.start()
    try:
        read_header(path)
    except BadModel:
        pass
    peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "claim",
    [
        pair("general.name", STRING, struct.pack("<Q", 200 * MEGABYTE)),
        array("general.name", UINT8, 200 * MEGABYTE),
        array("tokenizer.ggml.scores", UINT64, 25 * MEGABYTE),
    ],
    ids=["text", "bytes", "numbers"],
)
def test_file_when_it_holds_a_hole_of_300_mb_then_memory_stays_below_64_mb(path: Path, claim: bytes) -> None:
    """A hole costs its author nothing, on disk or in a compressed upload."""
    path.write_bytes(gguf([claim], []))
    os.truncate(path, 300 * MEGABYTE)
    assert peak_of(path) < 64


@pytest.mark.thorough
@pytest.mark.parametrize(
    "claim",
    [
        gguf([array("a", STRING, 2**28)], []),  # a hole is full of empty texts ...
        b"GGUF" + struct.pack("<IQQ", 3, 100_000, 0),  # ... of tensors without a name ...
        b"GGUF" + struct.pack("<IQQ", 3, 0, 100_000),  # ... and of keys
    ],
    ids=["texts", "tensors", "keys"],
)
def test_file_when_a_hole_is_claimed_to_be_full_of_entries_then_it_takes_no_minutes(path: Path, claim: bytes) -> None:
    """Measured on 32 MB: a hole of the 256 MB that a header may have takes 8 times as long."""
    path.write_bytes(claim)
    os.truncate(path, 32 * MEGABYTE)
    started = time.process_time()
    try:
        read_header(path)
    except BadModel:
        pass
    assert time.process_time() - started < 10


@pytest.mark.thorough
def test_header_when_mutated_3000_times_then_read_or_refused_quickly_and_in_little_memory(path: Path) -> None:
    draw, whole = random.Random(20), rich()
    assert header_of(path, whole).n_params == 16 + 512 + 32
    messages, n_read, slowest = [], 0, 0.0
    tracemalloc.start()
    for _ in range(3000):
        path.write_bytes(mutate(whole, draw))
        started = time.process_time()
        try:
            header = read_header(path)
            assert header.missing_bytes == 0
            assert header.n_params >= 0
            assert header.quantization
            assert header.architecture
            n_read += 1
        except BadModel as error:
            messages.append(str(error))
        slowest = max(slowest, time.process_time() - started)
    peak = tracemalloc.get_traced_memory()[1] / MEGABYTE
    tracemalloc.stop()
    assert min(n_read, len(messages)) > 400  # else the mutations are too mild, or too wild to get anywhere
    assert all(message.startswith("a.gguf") for message in messages)
    assert slowest < 1
    assert peak < 64
