"""The rows of a model's table of token embeddings, read from its file: floats as ggml's get_rows makes them.

llama.cpp takes tokens or embeddings in a batch, not both. With its text as rows, a prompt with an image is one batch.
The file is read, not llama.cpp's tensor, which may be in a GPU's memory.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from contextlib import suppress

from playground.engine.ggml import POINTER, SIZE, TEXT, function

_TABLE = b"token_embd.weight"
_F32 = 0  # ggml_type


class _Header(ctypes.Structure):
    """gguf_init_params of gguf.h."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", POINTER))


class _Type(ctypes.Structure):
    """ggml_type_traits of ggml.h."""

    _fields_ = (
        ("type_name", TEXT),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", SIZE),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, POINTER, POINTER, ctypes.c_int64)),
    )


class TokenRows:
    """A table in a mapped file."""

    def __init__(self, data: mmap.mmap, at: int, kind: int, n_embd: int, width: int) -> None:
        """`at`: of its first byte; `kind`: its ggml_type. `width`: floats of a row with the zeros behind it."""
        self._data = data
        self._at = at
        self._n_embd = n_embd
        self.width = width
        self._bytes: int = function("ggml_row_size", SIZE, ctypes.c_int, ctypes.c_int64)(kind, n_embd)
        traits = function("ggml_get_type_traits", ctypes.POINTER(_Type), ctypes.c_int)(kind)
        self._to_float = None if kind == _F32 else traits.contents.to_float
        self.scale = 1.0  # the factor by which the graph multiplies tokens' rows, and embeddings not

    @classmethod
    def open(cls, path: str, n_embd: int, width: int) -> TokenRows | None:
        """None: the file has no such table."""
        header = function("gguf_init_from_file", POINTER, TEXT, _Header)(path.encode(), _Header(True, None))
        if not header:
            return None
        try:
            index = function("gguf_find_tensor", ctypes.c_int64, POINTER, TEXT)(header, _TABLE)
            if index < 0:
                return None
            kind = function("gguf_get_tensor_type", ctypes.c_int, POINTER, ctypes.c_int64)(header, index)
            at = function("gguf_get_data_offset", SIZE, POINTER)(header)
            at += function("gguf_get_tensor_offset", SIZE, POINTER, ctypes.c_int64)(header, index)
        finally:
            function("gguf_free", None, POINTER)(header)
        with suppress(OSError, ValueError), open(path, "rb") as file:
            return cls(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), at, kind, n_embd, width)
        return None

    def close(self) -> None:
        self._data.close()

    def of(self, token_ids: Sequence[int]) -> bytes:
        """float32 (tokens, width)."""
        rows = (ctypes.c_float * (self.width * len(token_ids)))()
        for n, token in enumerate(token_ids):
            start = self._at + token * self._bytes
            row = self._data[start : start + self._bytes]
            place = ctypes.addressof(rows) + 4 * n * self.width
            if self._to_float is None:
                ctypes.memmove(place, row, self._bytes)
            else:
                self._to_float(ctypes.cast(ctypes.c_char_p(row), POINTER), place, self._n_embd)
        if self.scale != 1.0:
            import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

            scaled = numpy.frombuffer(bytes(rows), numpy.float32) * numpy.float32(self.scale)
            return bytes(scaled.data)
        return bytes(rows)
