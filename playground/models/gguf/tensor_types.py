"""The types of tensors and files that llama.cpp reads: those that the gguf package lists, and newer ones.

tests/engine/test_tensor_types.py compares the sizes with those of the installed llama.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass

from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType


@dataclass(frozen=True, slots=True)
class GgmlType:
    name: str
    block: int  # elements
    block_bytes: int


# By ggml_type. In gguf 0.19 the size of Q8_1 is wrong, and Q2_0 is missing.
TENSOR_TYPES = {int(kind): GgmlType(kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType} | {
    9: GgmlType("Q8_1", 32, 36),
    42: GgmlType("Q2_0", 64, 18),
}

# Layouts for one processor, which llama.cpp read in 2024.
REMOVED = {
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

# The quantization's name by llama_ftype.
FILE_TYPES: dict[int, str] = {
    int(kind): str(kind.name).removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType
} | {
    41: "Q2_0",
}
