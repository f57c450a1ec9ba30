"""Quantizes language models and projectors with llama.cpp. Runs in a worker: a bad combination aborts the process."""

from __future__ import annotations

import ctypes
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llama_cpp import llama_cpp as C

from playground.engine import importance, llama_log, loading
from playground.engine.protocol import Quantize, Quantized, Step, TensorType
from playground.errors import BadInput, EngineError
from playground.values.files import Half

_STEP = re.compile(r"\[ *(\d+)/ *(\d+)\] +(\S+)")
_FROM = re.compile(r"\], type = +(\w+), ")
_TO = re.compile(r"-> +[\d.]+ MiB \(\w+\)")
_LACKING = re.compile(r"did not find weights for +(\S+)")
_SIZE = re.compile(r"quant size += +([\d.]+) MiB")
_NARROW = re.compile(r"warning: (\S+) +- ncols +(\d+) not divisible by +(\d+) \(required for type +(\S+)\)")
_INSTEAD = re.compile(r"-> falling back to +(\S+)")
_PRECISE = ("f32", "f16", "bf16")
_NAMED = 12  # tensors that a note lists by name
# Projectors that llama.cpp reads with this matrix transposed, which it cannot do with a quantized one.
_TRANSPOSED = {"gemma3": "mm.input_projection.weight", "gemma3nv": "mm.input_projection.weight"}
_LEFT_ALONE = re.compile(r"\.position_embd|\.patch_embd|\.patch_merger|_norm\.weight")  # by the quantizer too
_CONVOLUTION = re.compile(r"conv(?!_pw)")  # conv_pw is a matrix
_TEXT_BYTES = 128  # length of a text in llama_model_kv_override, with its terminating zero


def quantize(request: Quantize, send: Callable[[Step], None]) -> Quantized:
    """Write `request.source` to `request.target`, and `send` how far it is.

    Raises BadInput for an unknown type or a matrix of another model, EngineError with llama.cpp's reason.
    """
    ftype = getattr(C, f"LLAMA_FTYPE_MOSTLY_{request.quantization}", None)
    if ftype is None and request.quantization == "F32":
        ftype = C.LLAMA_FTYPE_ALL_F32
    if ftype is None:
        raise BadInput(f"llama.cpp has no quantization called '{request.quantization}'.")
    params = C.llama_model_quantize_default_params()
    params.ftype = ftype
    params.nthread = request.n_threads or loading.default_threads(os.path.getsize(request.source))
    # The mixtures (which tensors get more bits) ask for a language model's head counts and abort on a projector's
    # file (0.3.36, Q2_K); so a projector gets one type throughout.
    params.pure = request.half is Half.PROJECTOR
    params.allow_requantize = request.requantize
    params.dry_run = request.dry_run
    kept = _kept(Path(request.source)) if request.half is Half.PROJECTOR else ()
    if request.tensor_types or kept:
        params.tt_overrides = _tensor_types((*kept, *request.tensor_types))
    if request.metadata:
        params.kv_overrides = _metadata(request.metadata)
    if request.imatrix:
        means = importance.read(Path(request.imatrix))  # has to live as long as the array that points into it
        params.imatrix = _imatrix(means)
    notes: list[str] = [f"kept as in the source: {_listed([_name(one) for one in kept])}"] if kept else []
    size: list[int] = []
    lacking: list[str] = []
    narrow: list[_Narrow] = []  # each line comes in pieces
    converted = 0
    kind = ""  # of the tensor that it is at
    again = ""  # the type of one that would be quantized twice

    def on_line(line: str) -> None:
        nonlocal converted, kind, again
        converted += "converting to" in line
        if source := _FROM.search(line):
            kind = source[1]
        if _TO.search(line) and kind not in _PRECISE:
            again = kind
        if step := _STEP.search(line):
            send(Step(int(step[1]), int(step[2]), step[3]))
        elif tensor := _LACKING.search(line):
            lacking.append(tensor[1])
        elif row := _NARROW.search(line):
            narrow.append(_Narrow(row[1], int(row[2]), int(row[3]), row[4].upper()))
        elif (instead := _INSTEAD.search(line)) and narrow:
            narrow[-1] = narrow[-1]._replace(instead=instead[1].upper())
        elif "is different from tensor size" in line:
            notes.append(line.strip(" =\n"))
        elif mib := _SIZE.search(line):
            size.append(int(float(mib[1]) * 2**20))

    started = time.perf_counter()
    llama_log.clear()
    with llama_log.listening(on_line):
        code = C.llama_model_quantize(request.source.encode(), request.target.encode(), ctypes.byref(params))
    if code:
        name = os.path.basename(request.source)
        reason = llama_log.explain(f"llama.cpp could not quantize {name} to {request.quantization}.")
        raise reason if isinstance(reason, EngineError) else EngineError(str(reason))
    if request.dry_run and again and not request.requantize:  # llama.cpp refuses it when it comes to that tensor
        raise EngineError(f"requantizing from type {again} is disabled")
    # Token embeddings are looked up; only a head that shares them is multiplied.
    without = [name for name in lacking if name != "token_embd.weight"]
    if without and len(lacking) == converted:
        raise BadInput(
            f"{os.path.basename(request.imatrix)} has no tensor of {os.path.basename(request.source)}: it is a "
            "matrix of another model, or of the other half."
        )
    if without:
        notes.append(f"quantized without the matrix, which lacks them: {_listed(without)}")
    notes = [*narrow_notes(narrow), *notes]
    return Quantized(time.perf_counter() - started, size[-1] if size else None, tuple(dict.fromkeys(notes)))


class _Narrow(NamedTuple):
    """A tensor whose rows are no multiple of a type's block."""

    tensor: str
    columns: int
    block: int
    kind: str
    instead: str = "another type"


def narrow_notes(narrow: Sequence[_Narrow]) -> list[str]:
    """What a type cannot hold, and what is taken instead: one sentence for each pair of types."""
    groups: dict[tuple[str, int, str], list[_Narrow]] = {}
    for row in narrow:
        groups.setdefault((row.kind, row.block, row.instead), []).append(row)
    notes = []
    for (kind, block, instead), rows in groups.items():
        widths = ", ".join(map(str, sorted({row.columns for row in rows})))
        notes.append(
            f"{kind} cannot hold {len(rows)} tensor{'s'[: len(rows) != 1]}, whose rows ({widths}) are no multiple of "
            f"{block}: {instead} is taken instead for {_listed([row.tensor for row in rows])}"
        )
    return notes


def _imatrix(means: dict[str, Any]) -> Any:
    """An array that ends with an empty entry. It points into `means`, which has to outlive it."""
    entries = (C.llama_model_imatrix_data * (len(means) + 1))()
    for i, (name, mean) in enumerate(means.items()):
        entries[i].name, entries[i].size = name.encode(), mean.size
        entries[i].data = mean.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _kept(projector: Path) -> tuple[TensorType, ...]:
    """The tensors that llama.cpp's converter would not quantize, and its quantizer would: each with the type it has.

    Those are kernels of convolutions, for which the quantizer counts too few rows (0.3.36); matrices that are
    transposed; and what the converter keeps at F32 in a file of F16 or BF16.
    """
    import gguf  # noqa: PLC0415  it imports numpy, which a worker that answers need not wait for

    reader = gguf.GGUFReader(projector)
    fields = (reader.get_field(key) for key in ("clip.projector_type", "clip.vision.projector_type"))
    kind = next((str(field.contents()) for field in fields if field is not None), "")
    matrices = [
        tensor
        for tensor in reader.tensors
        if len(tensor.shape) > 1 and tensor.name.endswith("weight") and not _LEFT_ALONE.search(tensor.name)
    ]
    sizes: dict[gguf.GGMLQuantizationType, int] = {}
    for tensor in matrices:
        sizes[tensor.tensor_type] = sizes.get(tensor.tensor_type, 0) + int(tensor.n_elements)
    exact = gguf.GGMLQuantizationType.F32
    mixed = max(sizes, key=lambda name: sizes[name], default=exact) is not exact
    return tuple(
        TensorType(f"^{re.escape(tensor.name)}$", tensor.tensor_type.name)
        for tensor in matrices
        if len(tensor.shape) > 3
        or _CONVOLUTION.search(tensor.name)
        or tensor.name == _TRANSPOSED.get(kind)
        or (mixed and tensor.tensor_type is exact)
    )


def _name(override: TensorType) -> str:
    return re.sub(r"[\^$\\]", "", override.pattern)


def _tensor_types(overrides: Sequence[TensorType]) -> Any:
    """An array that ends with an empty entry. Raises BadInput for an unknown type."""
    import gguf  # noqa: PLC0415  it imports numpy, which a worker that answers need not wait for

    types = {kind.name.lower(): int(kind) for kind in gguf.GGMLQuantizationType}
    entries = (C.llama_model_tensor_override * (len(overrides) + 1))()
    for i, override in enumerate(overrides):
        if override.kind.lower() not in types:
            raise BadInput(f"ggml has no type called '{override.kind}'. It has: {', '.join(types)}.")
        entries[i].pattern, entries[i].type = override.pattern.encode(), types[override.kind.lower()]
    return entries


def _metadata(texts: dict[str, str]) -> Any:
    """An array that ends with an empty entry. Texts longer than llama.cpp's field are truncated."""
    entries = (C.llama_model_kv_override * (len(texts) + 1))()
    for i, (key, text) in enumerate(texts.items()):
        entries[i].key = key.encode()[: _TEXT_BYTES - 1]
        entries[i].tag = C.LLAMA_KV_OVERRIDE_TYPE_STR
        entries[i].value.val_str = text.encode()[: _TEXT_BYTES - 1]
    return entries
