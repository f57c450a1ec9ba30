"""Reads tensors of a graph that ggml computes, by the struct of ggml.h, and checks first that the struct is ggml's."""

from __future__ import annotations

import ctypes
import math
from typing import Any

from playground.engine.ggml import Memory, function
from playground.errors import EngineError

_DIMENSIONS, _SOURCES, _PARAMETER_BYTES, _NAME_BYTES = 4, 10, 64, 64
F32, F16 = 0, 1  # of ggml_type


class Tensor(ctypes.Structure):
    """ggml_tensor of ggml.h, which has no functions for its sources, lengths and strides. `check_layout` guards it."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMENSIONS),  # elements, the length of a row first
        ("nb", ctypes.c_size_t * _DIMENSIONS),  # strides in bytes
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * (_PARAMETER_BYTES // 4)),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * _NAME_BYTES),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )


class Ggml:
    """The functions of ggml that the bindings leave out."""

    def __init__(self) -> None:
        pointer, number, text, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_char_p, ctypes.c_size_t
        try:
            self.init = function("ggml_init", pointer, Memory)
            self.free = function("ggml_free", None, pointer)
            self.new_matrix = function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, number, number)
            self.mul_mat = function("ggml_mul_mat", pointer, pointer, pointer, pointer)
            self.transpose = function("ggml_transpose", pointer, pointer, pointer)
            self.set_name = function("ggml_set_name", pointer, pointer, text)
            self.name = function("ggml_get_name", text, pointer)
            self.data = function("ggml_get_data", pointer, pointer)
            self.n_bytes = function("ggml_nbytes", size, pointer)
            self.n_elements = function("ggml_nelements", number, pointer)
            self.overhead = function("ggml_tensor_overhead", size)
            self.type_name = function("ggml_type_name", text, ctypes.c_int)
            self.op_name = function("ggml_op_name", text, ctypes.c_int)
            self.op_of = function("ggml_op_desc", text, pointer)
            self.is_host = function("ggml_backend_buffer_is_host", ctypes.c_bool, pointer)
            self.get = function("ggml_backend_tensor_get", None, pointer, pointer, size, size)
        except AttributeError as error:
            raise other_llama_cpp(str(error)) from None

    def values(self, tensor: Tensor, dtype: Any) -> Any:
        """(ne3, ne2, ne1, ne0) elements of 4 bytes, valid only until the callback returns."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        n = n_bytes(tensor)
        if self.is_host(tensor.buffer):
            memory: Any = (ctypes.c_char * n).from_address(tensor.data)
        else:
            memory = (ctypes.c_char * n)()
            self.get(ctypes.byref(tensor), memory, 0, n)
        return numpy.ndarray(tuple(tensor.ne)[::-1], dtype, memory, strides=tuple(tensor.nb)[::-1])


def other_llama_cpp(what: str) -> EngineError:
    return EngineError(
        f"Importance matrices and parity do not work with this version of llama.cpp ({what}). Install the "
        "llama-cpp-python that pyproject.toml names."
    )


def check_layout(ggml: Ggml, layout: type[Tensor] = Tensor) -> None:
    """Have ggml make tensors with known fields, and read them with our struct. Raises EngineError if they differ."""
    context = ggml.init(Memory(16 * ggml.overhead(), None, False))
    try:
        weight, rows = ggml.new_matrix(context, F16, 32, 3), ggml.new_matrix(context, F32, 32, 5)
        ggml.set_name(weight, b"blk.0.attn_q.weight")
        product, turned = ggml.mul_mat(context, weight, rows), ggml.transpose(context, rows)
        w, r, p, t = (layout.from_address(each) for each in (weight, rows, product, turned))
        for what, ours, known in (
            ("size", ctypes.sizeof(layout) < ggml.overhead(), True),
            ("type", (ggml.type_name(w.type), ggml.type_name(r.type)), (b"f16", b"f32")),
            ("ne", (*w.ne, *r.ne, *p.ne, *t.ne), (32, 3, 1, 1, 32, 5, 1, 1, 3, 5, 1, 1, 5, 32, 1, 1)),
            ("nb", (*w.nb, *t.nb), (2, 64, 192, 192, 128, 4, 640, 640)),
            ("elements", [n_elements(each) for each in (w, r)], [ggml.n_elements(each) for each in (weight, rows)]),
            ("bytes", [n_bytes(r), n_bytes(t)], [ggml.n_bytes(rows), ggml.n_bytes(turned)]),
            ("op", (ggml.op_name(w.op), ggml.op_name(p.op)), (b"NONE", ggml.op_of(product))),
            ("src", (*p.src[:3], w.src[0]), (weight, rows, None, None)),
            ("view_src", (t.view_src, t.view_offs, w.view_src), (rows, 0, None)),
            ("data", (w.data, p.data, t.data), (ggml.data(weight), ggml.data(product), ggml.data(rows))),
            ("name", w.name, ggml.name(weight)),
            ("buffer", (w.buffer, w.extra), (None, None)),
        ):
            if ours != known:
                raise other_llama_cpp(f"ggml_tensor, {what}: {ours} instead of {known}")
    finally:
        ggml.free(context)


def n_elements(tensor: Tensor) -> int:
    return int(math.prod(tensor.ne))


def n_bytes(tensor: Tensor) -> int:
    """From the first to the last of a tensor's elements of 4 bytes; some between may not be its own."""
    lengths, strides = tuple(tensor.ne), tuple(tensor.nb)
    return 4 + int(sum((length - 1) * stride for length, stride in zip(lengths, strides, strict=True)))
