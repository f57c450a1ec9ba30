"""Reads the header of a GGUF file: metadata and tensor shapes, never the weights.

The bytes are untrusted: counts and lengths are checked against limits and against the file's size before anything
is allocated, and long arrays are hashed, not kept. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

from playground.errors import BadModel
from playground.models.gguf import file_names
from playground.models.gguf.tensor_types import FILE_TYPES, REMOVED, TENSOR_TYPES, GgmlType
from playground.models.projector_types import SPECIAL_TOKENS
from playground.values.files import Half

_MAX_KEYS = 100_000
_MAX_TENSORS = 100_000
_MAX_HEADER_BYTES = 64 * 2**20  # the largest vocabularies take 13
_MAX_TEXT_BYTES = 8 * 2**20
_MAX_TEXTS = 2**21  # in one array; Gemma 3 has 514,906 merges
_PIECE = 2**20
_MAX_KEY_BYTES = 65_535
_KEPT_ARRAY = 256  # elements; longer arrays (the vocabulary) are only hashed

JOIN = "Download all parts and join them in order (cat on Linux and macOS, copy /b on Windows)."

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY = 8, 9

Scalar = int | float | bool | str


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    shape: tuple[int, ...]  # ggml's order: the length of a row first
    type: GgmlType
    offset: int  # from the start of the tensor data

    @property
    def n_elements(self) -> int:
        n = 1
        for dimension in self.shape:
            n *= dimension
        return n

    @property
    def n_bytes(self) -> int:
        return self.n_elements // self.type.block * self.type.block_bytes


@dataclass(frozen=True)
class GgufHeader:
    path: str
    file_bytes: int
    metadata: dict[str, Scalar | tuple[Scalar, ...]]
    tensors: tuple[TensorInfo, ...] = field(repr=False)
    data_offset: int
    # Over every tokenizer.* key, chat template included, and the width: equal values turn a chat into the same ids.
    vocabulary_sha256: str
    special_tokens: frozenset[str] = frozenset()  # those of projector_types.SPECIAL_TOKENS that the vocabulary has
    # False: read up to the vocabulary only; what follows it (tensors, the chat template) is unknown.
    complete: bool = True

    def text(self, key: str) -> str | None:
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None

    def integer(self, key: str) -> int | None:
        value = self.metadata.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    @property
    def architecture(self) -> str:
        return self.text("general.architecture") or "unknown"

    @property
    def half(self) -> Half:
        return Half.PROJECTOR if self.is_projector else Half.MODEL

    @property
    def is_projector(self) -> bool:
        return self.architecture == "clip"

    @property
    def is_audio_only(self) -> bool:
        sees, hears = (self.metadata.get(f"clip.has_{kind}_encoder") is True for kind in ("vision", "audio"))
        return self.is_projector and hears and not sees

    @cached_property
    def n_params(self) -> int:
        return sum(tensor.n_elements for tensor in self.tensors)

    @property
    def quantization(self) -> str:
        """The name of the file's llama_ftype, such as Q4_K_M; else the type that most weights have."""
        file_type = self.integer("general.file_type")
        if file_type in FILE_TYPES:
            return FILE_TYPES[file_type]
        by_type: dict[str, int] = {}
        for tensor in self.tensors:
            by_type[tensor.type.name] = by_type.get(tensor.type.name, 0) + tensor.n_elements
        return max(by_type, key=lambda name: by_type[name], default="unknown")

    @cached_property
    def missing_bytes(self) -> int:
        """How many bytes the declared tensors reach beyond the file's end; 0 for a whole file."""
        end = max((t.offset + t.n_bytes for t in self.tensors), default=0)
        return max(0, self.data_offset + end - self.file_bytes)


def read_remote(file: BinaryIO, size: int, name: str) -> GgufHeader:
    """Read a header through a file that costs something to read: up to the vocabulary, which can have megabytes.

    A projector has none, and is read whole. Raises BadModel with what is wrong with the file.
    """
    try:
        header = _Reader(file, size, name, whole=False).header()
    except (OSError, ValueError) as error:
        raise BadModel(f"{name[:80]} cannot be read ({error}).") from None
    except BadModel as error:
        raise BadModel(f"{name}: {error}") from None
    if header.complete and header.missing_bytes:
        raise BadModel(f"{name} is cut short: {header.missing_bytes:,} bytes of its tensors are missing.")
    return header


def read_start(path: str | Path) -> GgufHeader:
    """A file's header up to the vocabulary, in a millisecond; whether the file is whole is not checked.

    Raises BadModel.
    """
    return _read(path, whole=False)


def read_header(path: str | Path) -> GgufHeader:
    """Read and check a file's header. Raises BadModel with what is wrong with the file."""
    header = _read(path, whole=True)
    if header.missing_bytes:
        raise BadModel(
            f"{os.path.basename(path)} is cut short: {header.missing_bytes:,} bytes of its tensors are missing. "
            "Download it again."
        )
    return header


def _read(path: str | Path, *, whole: bool) -> GgufHeader:
    name = os.path.basename(path)
    if cut := file_names.part_of(name):
        raise BadModel(f"{name} is a part of {cut}, which was cut into several files. {JOIN}")
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _Reader(file, size, str(path), whole=whole).header()
    except FileNotFoundError:
        raise BadModel(f"{name} does not exist.") from None
    except IsADirectoryError:
        raise BadModel(f"{name} is a folder, not a GGUF file.") from None
    except PermissionError:
        raise BadModel(f"{name} may not be read by this user.") from None
    except (OSError, ValueError) as error:
        raise BadModel(f"{name[:80]} cannot be read ({getattr(error, 'strerror', None) or error}).") from None
    except BadModel as error:
        raise BadModel(f"{name}: {error}") from None


class _Reader:
    def __init__(self, file: BinaryIO, size: int, path: str, *, whole: bool = True) -> None:
        self._file = file
        self._size = size
        self._path = path
        self._whole = whole
        self._special: frozenset[str] = frozenset()
        self._position = 0
        self._hash: hashlib._Hash | None = None

    def header(self) -> GgufHeader:
        magic = self._take(4) if self._size >= 4 else b""
        if magic != b"GGUF":
            raise BadModel("not a GGUF file. Choose a file that ends in .gguf.")
        version = self._scalar(4)
        assert isinstance(version, int)
        if version not in (2, 3):
            kind = "big-endian" if version and version & 0xFFFF == 0 else f"version {version}"
            raise BadModel(f"a {kind} GGUF file; this app cannot read it. Convert it again with a current llama.cpp.")
        n_tensors, n_keys = self._length(_MAX_TENSORS, "tensors"), self._length(_MAX_KEYS, "metadata keys")
        vocabulary = hashlib.sha256()
        metadata: dict[str, Scalar | tuple[Scalar, ...]] = {}
        for _ in range(n_keys):
            key = self._string(_MAX_KEY_BYTES)
            self._hash = vocabulary if key.startswith("tokenizer.") else None
            if self._hash:
                self._hash.update(key.encode())
            value_type = self._type()
            if not self._whole and self._hash and value_type == _ARRAY:
                return GgufHeader(self._path, self._size, metadata, (), 0, "", complete=False)
            metadata[key] = self._value(value_type, special=key == "tokenizer.ggml.tokens")
            self._hash = None
        tensors = tuple(self._tensor() for _ in range(n_tensors))
        if not tensors:
            raise BadModel("it holds no tensors, so it is not a model. Choose another file.")
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise BadModel("its alignment is not a power of two; the file is damaged.")
        architecture = metadata.get("general.architecture")
        vocabulary.update(repr([architecture, metadata.get(f"{architecture}.embedding_length")]).encode())
        return GgufHeader(
            path=self._path,
            file_bytes=self._size,
            metadata=metadata,
            tensors=tensors,
            data_offset=-(-self._position // alignment) * alignment,
            vocabulary_sha256=vocabulary.hexdigest(),
            special_tokens=self._special,
        )

    def _take(self, n: int) -> bytes:
        self._check(n)
        data = self._file.read(n)
        if len(data) != n:
            raise BadModel("its header is cut short. Download the file again.")
        self._position += n
        if self._hash:
            self._hash.update(data)
        return data

    def _check(self, n: int) -> None:
        if self._position + n > min(self._size, _MAX_HEADER_BYTES):
            raise BadModel("its header is cut short or damaged. Download the file again.")

    def _type(self) -> int:
        value = self._scalar(4)
        assert isinstance(value, int)
        return value

    def _scalar(self, kind: int) -> Scalar:
        form = _SCALARS[kind]
        value: Scalar = struct.unpack(form, self._take(struct.calcsize(form)))[0]
        return value

    def _length(self, limit: int, what: str) -> int:
        value = self._scalar(10)
        assert isinstance(value, int)
        if value > limit:
            raise BadModel(f"it claims {value:,} {what}; the file is damaged.")
        return value

    def _string(self, limit: int = _MAX_TEXT_BYTES) -> str:
        return self._take(self._length(limit, "bytes in a text")).decode("utf-8", "replace")

    def _value(self, kind: int, *, special: bool = False) -> Scalar | tuple[Scalar, ...]:
        if kind == _STRING:
            return self._string()
        if kind in _SCALARS:
            return self._scalar(kind)
        if kind != _ARRAY:
            raise BadModel(f"it has a value of the unknown type {kind}; the file is damaged.")
        element = self._type()
        if element == _STRING:
            count = self._length(_MAX_TEXTS, "texts in an array")
            kept, special_tokens = [], set()
            for i in range(count):
                text = self._string()
                if i < _KEPT_ARRAY:
                    kept.append(text)
                if special and text in SPECIAL_TOKENS:
                    special_tokens.add(text)
            self._special |= special_tokens
            return tuple(kept)
        if element not in _SCALARS:
            raise BadModel(f"it has an array of the unknown type {element}; the file is damaged.")
        form = _SCALARS[element]
        size = struct.calcsize(form)
        left = self._length(_MAX_HEADER_BYTES, "array elements") * size
        self._check(left)
        head = self._take(min(left, _KEPT_ARRAY * size))
        left -= len(head)
        while left:
            left -= len(self._take(min(left, _PIECE)))
        return tuple(value[0] for value in struct.iter_unpack(form, head))

    def _tensor(self) -> TensorInfo:
        name = self._string(_MAX_KEY_BYTES)
        n_dimensions = self._type()
        if n_dimensions > 4:
            raise BadModel(f"tensor {name[:80]!r} has {n_dimensions} dimensions; the file is damaged.")
        shape = tuple(self._length(2**40, "elements in a tensor") for _ in range(n_dimensions))
        kind = self._type()
        if kind in REMOVED:
            raise BadModel(
                f"tensor {name[:80]!r} has the type {REMOVED[kind]}, which llama.cpp does not support any more. Use a "
                f"{REMOVED[kind].rsplit('_', 2)[0]} file."
            )
        tensor_type = TENSOR_TYPES.get(kind)
        if tensor_type is None:
            raise BadModel(f"tensor {name[:80]!r} has the unknown type {kind}. A newer version may read it.")
        return TensorInfo(name, shape, tensor_type, self._length(2**50, "bytes of tensors"))
