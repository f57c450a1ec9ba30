"""Pairs as llama.cpp's converter writes them, of six architectures: their headers, with random weights behind.

`tests/data/README.md` says how the headers were made.
"""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import numpy as np

from playground.models.gguf.header import TensorInfo, read_header
from testkit.pairs import PairFiles

HEADERS = Path(__file__).parent.parent / "tests/data/converted-headers.tar.xz"
# What is particular: M-RoPE and normed queries; tiles and scaled layers; short convolutions and a thumbnail; rows of an
# image with breaks and merged patches; a recurrent state; slices among special tokens.
NAMES = ("glmocr", "internvl", "lfm2vl", "mistral3", "qwen35", "smolvlm")

_TYPES = {"F16": np.float16, "F32": np.float32}
_ROOM = 64 * 2**20


def write_all(folder: Path) -> dict[str, PairFiles]:
    with tarfile.open(HEADERS) as archive:
        archive.extractall(folder, filter="data")
    rng = np.random.default_rng(7)
    pairs = {}
    for name in NAMES:
        files = PairFiles(name, folder / name / f"{name}-F16.gguf", folder / name / f"mmproj-{name}-F16.gguf")
        for path in (files.model, files.projector):
            _fill(path, rng)
        pairs[name] = files
    return pairs


def _fill(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, path.stat().st_size + _ROOM)  # the reader refuses a file that lacks its weights
    header = read_header(path)
    with open(path, "r+b") as file:
        for tensor in header.tensors:
            file.seek(header.data_offset + tensor.offset)
            file.write(_values(tensor, rng).astype(_TYPES[tensor.type.name]).tobytes())
        file.truncate()


def _values(tensor: TensorInfo, rng: np.random.Generator) -> np.ndarray:
    """Such that norms keep the scale, matrices too, and a state decays."""
    noise = rng.standard_normal(tensor.n_elements)
    if tensor.name.endswith("ssm_a"):
        return -np.abs(noise) - 0.5
    if len(tensor.shape) == 1:
        return 1 + 0.1 * noise if tensor.name.endswith("weight") else 0.1 * noise
    if tensor.name == "token_embd.weight":
        return noise
    rows = tensor.n_elements // tensor.shape[-1]  # how many values make one
    return 1.5 * noise / np.sqrt(rows)
