"""Files that are all header: real names, shapes and keys, and a hole in place of the weights. And what is found."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from playground.models.doctor import Finding, Level, diagnose
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.projector_types import PROJECTOR_TYPES
from testkit.gguf_bytes import BOOL, FLOAT32, STRING, UINT32, UINT64, array, gguf, pair, tensor, text

FINE, DOUBTFUL, BROKEN = Level.FINE, Level.DOUBTFUL, Level.BROKEN
F16, Q8_0, Q4_K = GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_K
INT32 = 5
GIB, MIB = 2**30, 2**20
CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"
LOOK = "Run the look test"


def entry(key: str, value: object) -> bytes:
    if isinstance(value, list):
        kind = _kind(value[0]) if value else UINT32
        return array(key, kind, len(value), b"".join(_packed(kind, value_of) for value_of in value))
    return pair(key, _kind(value), _packed(_kind(value), value))


def _kind(value: object) -> int:
    match value:
        case str():
            return STRING
        case bool():
            return BOOL
        case float():
            return FLOAT32
        case int():
            return INT32 if value < 0 else UINT32 if value < 2**32 else UINT64
    raise TypeError(value)


def _packed(kind: int, value: Any) -> bytes:
    form = {BOOL: "<?", FLOAT32: "<f", INT32: "<i", UINT32: "<I", UINT64: "<Q"}
    return text(value) if kind == STRING else struct.pack(form[kind], value)


def sketched(
    metadata: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, GGMLQuantizationType] | None = None,
) -> tuple[bytes, int]:
    """A file's header, and how many bytes of weights it tells of. `shapes`: ggml's order; F16 unless `types` say."""
    tensors, at = [], 0
    for name, shape in shapes.items():
        kind = (types or {}).get(name, F16)
        block, size = GGML_QUANT_SIZES[kind]
        tensors.append(tensor(name, shape, kind, at))
        n = size
        for dimension in shape:
            n *= dimension
        at += -(-n // block // 32) * 32
    return gguf([entry(*item) for item in metadata.items()], tensors), at


def sketch(
    path: Path, metadata: Mapping[str, object], shapes: Mapping[str, tuple[int, ...]], **types: Any
) -> GgufHeader:
    data, weights = sketched(metadata, shapes, **types)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.truncate(path, len(data) + weights)
    return read_header(path)


def language(
    folder: Path,
    architecture: str = "llama",
    width: int = 4096,
    *,
    name: str = "model-Q4_K_M.gguf",
    template: str | None = CHATML,
    tokens: tuple[str, ...] = (),
    n_params: int = 2**20,
    also: Mapping[str, object] | None = None,
) -> GgufHeader:
    """A language model of Q4_K; `also`: metadata, a key that begins with a dot is the architecture's own."""
    own = {
        (f"{architecture}{key}" if key.startswith(".") else key): value
        for key, value in ({".embedding_length": width, ".block_count": 32} | dict(also or {})).items()
    }
    vocabulary = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", *tokens]}
    chat = {} if template is None else {"tokenizer.chat_template": template}
    metadata = {"general.architecture": architecture} | own | vocabulary | chat
    return sketch(
        folder / name, metadata, {"token_embd.weight": (256, n_params // 256)}, types={"token_embd.weight": Q4_K}
    )


def projector(
    folder: Path,
    kind: str = "mlp",
    width: int = 4096,
    *,
    name: str = "mmproj-F16.gguf",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    n_params: int = 0,
    also_shapes: Mapping[str, tuple[int, ...]] | None = None,
    also: Mapping[str, object] | None = None,
    types: Mapping[str, GGMLQuantizationType] | None = None,
) -> GgufHeader:
    """Of a known type: the tensors that llama.cpp needs, and the one that tells its width unless `shapes` are given.

    And n_params besides.
    """
    stated, axis = PROJECTOR_TYPES[kind].width
    needed = {name: (8,) for name in PROJECTOR_TYPES[kind].tensors if name != stated}
    if shapes is None:
        shapes = {stated: (width,) if stated.endswith(".bias") else (width, 1024) if axis == 0 else (1024, width)}
    shapes = needed | dict(shapes) | dict(also_shapes or {})
    if n_params:
        shapes = dict(shapes) | {"v.everything_else.weight": (1024, n_params // 1024)}
    clip = {"general.architecture": "clip", "clip.has_vision_encoder": True, "clip.projector_type": kind}
    return sketch(folder / name, clip | dict(also or {}), shapes, types=types)


def codes(findings: tuple[Finding, ...]) -> list[str]:
    return [finding.code for finding in findings]


def the(findings: tuple[Finding, ...], code: str, level: Level) -> Finding:
    """The one finding."""
    assert codes(findings) == [code], findings
    assert findings[0].level is level
    assert findings[0].text[-1] == "."
    assert findings[0].remedy[-1:] in (".", "") if level is FINE else "."
    return findings[0]


def diagnosed(model: Path, projector: Path, **how: Any) -> tuple[Finding, ...]:
    return diagnose(read_header(model), read_header(projector), **how)
