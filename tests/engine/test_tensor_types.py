"""The table of tensor types, against the llama.cpp that is installed."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as C

from playground.engine import ggml
from playground.errors import BadModel
from playground.models.gguf.header import read_header
from playground.models.gguf.tensor_types import FILE_TYPES, REMOVED, TENSOR_TYPES
from testkit.gguf_bytes import NAME, gguf, tensor


def test_types_when_llama_cpp_knows_them_then_the_table_does_with_equal_sizes() -> None:
    block = ggml.function("ggml_blck_size", ctypes.c_int64, ctypes.c_int)
    size = ggml.function("ggml_type_size", ctypes.c_size_t, ctypes.c_int)
    name = ggml.function("ggml_type_name", ctypes.c_char_p, ctypes.c_int)
    last = max(getattr(C, key) for key in dir(C) if key.startswith("GGML_TYPE_") and key != "GGML_TYPE_COUNT")
    known = {n: (name(n).decode().upper(), block(n), size(n)) for n in range(last + 1) if block(n)}
    assert {n: (kind.name, kind.block, kind.block_bytes) for n, kind in TENSOR_TYPES.items()} == known
    assert not {n for n in REMOVED if block(n)}


def test_file_types_when_llama_cpp_knows_them_then_the_table_does() -> None:
    known = {getattr(C, key) for key in dir(C) if key.startswith(("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_"))}
    assert known <= FILE_TYPES.keys()


def test_header_when_a_tensor_is_of_a_type_newer_than_the_gguf_package_then_read(tmp_path: Path) -> None:
    path = tmp_path / "new.gguf"
    path.write_bytes(gguf([NAME], [tensor("w", (128,), 42)], bytes(36)))
    header = read_header(path)
    assert (header.tensors[0].type.name, header.tensors[0].n_bytes, header.quantization) == ("Q2_0", 36, "Q2_0")


@pytest.mark.parametrize(("kind", "instead"), [(31, "Q4_0"), (38, "IQ4_NL")])
def test_header_when_a_type_was_removed_from_llama_cpp_then_says_what_to_use(
    tmp_path: Path, kind: int, instead: str
) -> None:
    path = tmp_path / "old.gguf"
    path.write_bytes(gguf([NAME], [tensor("w", (128,), kind)], bytes(128)))
    with pytest.raises(BadModel, match=f"does not support any more. Use a {instead} file"):
        read_header(path)
