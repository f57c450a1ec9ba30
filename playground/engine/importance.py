"""Collects an importance matrix: how large the values are that each column of a weight is multiplied with.

Sums of squares over the rows that go into a matrix multiplication, as llama-imatrix collects them (llama.cpp
tools/imatrix/imatrix.cpp), but for either half of a pair, and for prompts with images. The quantizer takes their mean
as what an error in that column costs. Two things are not llama-imatrix's: a multiplication of few rows counts too (a
short answer is what the model is for), and so does the head, even where it is the token embeddings.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine.ggml import Memory, function
from playground.engine.protocol import ImportanceWritten, WriteImportance
from playground.errors import BadInput, EngineError, cannot_write

_DIMENSIONS, _SOURCES, _PARAMETER_BYTES, _NAME_BYTES = 4, 10, 64, 64
_F32, _F16 = 0, 1

_SUMS, _ROWS = ".in_sum2", ".counts"
_DATASETS, _READINGS, _READING_ROWS = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


class _Tensor(ctypes.Structure):
    """ggml_tensor of ggml.h, which has no functions for its sources, lengths and strides. `_check_layout` guards it."""

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


class _Ggml:
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
            raise _other_llama_cpp(str(error)) from None


def _other_llama_cpp(what: str) -> EngineError:
    return EngineError(
        f"Importance matrices do not work with this version of llama.cpp ({what}). Install the "
        "llama-cpp-python that pyproject.toml names, or make the matrix with llama-imatrix."
    )


def _check_layout(ggml: _Ggml, layout: type[_Tensor] = _Tensor) -> None:
    """Have ggml make tensors with known fields, and read them with our struct. Raises EngineError if they differ."""
    context = ggml.init(Memory(16 * ggml.overhead(), None, False))
    try:
        weight, rows = ggml.new_matrix(context, _F16, 32, 3), ggml.new_matrix(context, _F32, 32, 5)
        ggml.set_name(weight, b"blk.0.attn_q.weight")
        product, turned = ggml.mul_mat(context, weight, rows), ggml.transpose(context, rows)
        w, r, p, t = (layout.from_address(each) for each in (weight, rows, product, turned))
        for what, ours, known in (
            ("size", ctypes.sizeof(layout) < ggml.overhead(), True),
            ("type", (ggml.type_name(w.type), ggml.type_name(r.type)), (b"f16", b"f32")),
            ("ne", (*w.ne, *r.ne, *p.ne, *t.ne), (32, 3, 1, 1, 32, 5, 1, 1, 3, 5, 1, 1, 5, 32, 1, 1)),
            ("nb", (*w.nb, *t.nb), (2, 64, 192, 192, 128, 4, 640, 640)),
            ("elements", [_n_elements(each) for each in (w, r)], [ggml.n_elements(each) for each in (weight, rows)]),
            ("bytes", [_n_bytes(r), _n_bytes(t)], [ggml.n_bytes(rows), ggml.n_bytes(turned)]),
            ("op", (ggml.op_name(w.op), ggml.op_name(p.op)), (b"NONE", ggml.op_of(product))),
            ("src", (*p.src[:3], w.src[0]), (weight, rows, None, None)),
            ("view_src", (t.view_src, t.view_offs, w.view_src), (rows, 0, None)),
            ("data", (w.data, p.data, t.data), (ggml.data(weight), ggml.data(product), ggml.data(rows))),
            ("name", w.name, ggml.name(weight)),
            ("buffer", (w.buffer, w.extra), (None, None)),
        ):
            if ours != known:
                raise _other_llama_cpp(f"ggml_tensor, {what}: {ours} instead of {known}")
    finally:
        ggml.free(context)


def _n_elements(tensor: _Tensor) -> int:
    return int(math.prod(tensor.ne))


def _n_bytes(tensor: _Tensor) -> int:
    """From the first to the last of a tensor's elements of 4 bytes; some between may not be its own."""
    lengths, strides = tuple(tensor.ne), tuple(tensor.nb)
    return 4 + int(sum((length - 1) * stride for length, stride in zip(lengths, strides, strict=True)))


@dataclass(slots=True)
class _Sums:
    """What was collected for one weight.

    squares: float64 (n_experts, columns), by column the sum of squares over the rows that it was multiplied with; for a
    stack of matrices that are no experts, one row with the columns of all. rows: float64 (n_experts), how many.
    """

    squares: Any
    rows: Any


def _add(sums: dict[str, _Sums], name: str, more: _Sums) -> None:
    known = sums.setdefault(name, more)
    if known is more:
        return
    if known.squares.shape != more.squares.shape:
        raise EngineError(f"{name} had the shape {known.squares.shape} before and has {more.squares.shape} now.")
    known.squares += more.squares
    known.rows += more.rows


class Importance:
    """Collects while `watching`. Owns the callback that a context is made with; it has to outlive the context."""

    def __init__(self) -> None:
        """Raises EngineError if this llama.cpp has another layout of ggml_tensor."""
        self._ggml = _Ggml()
        _check_layout(self._ggml)
        self.callback = C.ggml_backend_sched_eval_callback(self._on_node)
        self._watching = False
        self._error: Exception | None = None
        self._sums: dict[str, _Sums] = {}
        self._readings = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what is computed in the block: all of it, or nothing if the block fails or is stopped.

        Raises EngineError if an activation is NaN or infinite.
        """
        before, self._sums = self._sums, {}
        self._error, self._watching = None, True
        try:
            yield
        finally:
            self._watching = False
            collected, self._sums = self._sums, before
        if self._error is not None:
            raise self._error
        for name, sums in collected.items():
            _add(self._sums, name, sums)
        self._readings += bool(collected)

    def write(self, request: WriteImportance) -> ImportanceWritten:
        """Write what was collected as llama.cpp's GGUF imatrix, and begin anew, even where that fails.

        Raises BadInput, EngineError.
        """
        from playground.support import atomic  # noqa: PLC0415  only a worker that observes needs its locks

        path, sums, readings, datasets = Path(request.path), self._sums, self._readings, [request.dataset]
        self._sums, self._readings = {}, 0
        if not sums:
            raise EngineError("Nothing was read since the last importance matrix was written.")
        if request.adding and path.exists():
            earlier = _load(path)
            datasets = list(dict.fromkeys([*earlier.datasets, *datasets]))
            readings += earlier.readings
            for name, more in earlier.sums.items():
                _add(sums, name, more)
        rows = int(max(collected.rows.max() for collected in sums.values()))
        try:
            with atomic.replacing(path) as part:
                _save(part, sums, datasets, readings, rows)
        except OSError as error:
            raise cannot_write(path, error) from None
        return ImportanceWritten(len(sums), rows)

    def _on_node(self, pointer: int, ask: bool, _user_data: object) -> bool:
        """ggml calls it twice per node: first to ask whether it is of interest (`ask`), then with its values.

        Returning False the second time would end the graph.
        """
        if not self._watching:
            return False
        try:
            op = self._ggml.op_of(pointer)
            if op not in (b"MUL_MAT", b"MUL_MAT_ID"):
                return False
            node = _Tensor.from_address(pointer)
            weight, rows = _Tensor.from_address(node.src[0]), _Tensor.from_address(node.src[1])
            name = _weight_name(weight.name.decode("utf-8", "replace"))
            # A computed tensor is not a weight: its columns differ from the file's (views, transposed weights).
            if rows.type != _F32 or self._ggml.op_name(weight.op) != b"NONE" or not name.endswith(".weight"):
                return False
            if not ask and self._error is None:
                more = self._of_experts(node, weight, rows) if op == b"MUL_MAT_ID" else self._of(weight, rows)
                _add(self._sums, name, more)
        except Exception as error:  # an exception cannot pass through C: `watching` raises it
            self._error = error
        return True

    def _of(self, weight: _Tensor, rows: _Tensor) -> _Sums:
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        squares = self._squares(rows).sum(axis=2, dtype=numpy.float64)
        # Of several matrices in one weight each meets its own rows; several batches over one matrix are one.
        n3, n2 = weight.ne[3], weight.ne[2]
        squares = squares.reshape(-1, n3, rows.ne[2] // n2, n2, rows.ne[0]).sum(axis=(0, 2))
        n = rows.ne[1] * rows.ne[2] * rows.ne[3] / (n2 * n3)
        return _Sums(squares.reshape(1, -1), numpy.array([n]))

    def _of_experts(self, node: _Tensor, weight: _Tensor, rows: _Tensor) -> _Sums:
        """rows: columns x experts used (or one for all of them) x tokens. The third source: which experts, by token."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        chosen = self._values(_Tensor.from_address(node.src[2]), numpy.int32)[0, 0]  # tokens x experts used
        squares = self._squares(rows)[0]
        squares = numpy.broadcast_to(squares, (*chosen.shape, rows.ne[0]))
        n_experts = weight.ne[2]
        sums = numpy.zeros((n_experts, rows.ne[0]))
        for expert in numpy.unique(chosen):
            sums[expert] = squares[chosen == expert].sum(axis=0, dtype=numpy.float64)
        return _Sums(sums, numpy.bincount(chosen.ravel(), minlength=n_experts).astype(numpy.float64))

    def _squares(self, rows: _Tensor) -> Any:
        """float32 (ne3, ne2, ne1, ne0). Raises EngineError."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        squares = numpy.square(self._values(rows, numpy.float32))
        if not numpy.isfinite(squares).all():
            raise EngineError("The model's activations are NaN or infinite: the file is damaged.")
        return squares

    def _values(self, tensor: _Tensor, dtype: Any) -> Any:
        """(ne3, ne2, ne1, ne0) elements of 4 bytes, valid only until the callback returns."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        n = _n_bytes(tensor)
        if self._ggml.is_host(tensor.buffer):
            memory: Any = (ctypes.c_char * n).from_address(tensor.data)
        else:
            memory = (ctypes.c_char * n)()
            self._ggml.get(ctypes.byref(tensor), memory, 0, n)
        return numpy.ndarray(tuple(tensor.ne)[::-1], dtype, memory, strides=tuple(tensor.nb)[::-1])


def watching(importance: Importance | None) -> AbstractContextManager[None]:
    return nullcontext() if importance is None else importance.watching()


def _weight_name(name: str) -> str:
    """The name in the file. The scheduler's copy on another backend is called CUDA0#blk.0.attn_k.weight#0."""
    return name.split("#")[1] if "#" in name else name


# --- files ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Matrix:
    """The contents of a file."""

    sums: dict[str, _Sums]
    datasets: tuple[str, ...]
    readings: int


def read(path: Path) -> dict[str, Any]:
    """The mean of squares of each column, by the weight's name: float32 (n_experts * columns).

    An expert that no token went to has ones, as llama-quantize expects. Raises BadInput.
    """
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    means = {}
    for name, sums in _load(path).sums.items():
        rows = sums.rows[:, None]
        mean = numpy.where(rows > 0, sums.squares / numpy.maximum(rows, 1), 1.0)
        means[name] = numpy.ascontiguousarray(mean.reshape(-1), numpy.float32)
    return means


def _load(path: Path) -> _Matrix:
    """Raises BadInput for a damaged file, or one of another kind."""
    import gguf  # noqa: PLC0415  it imports numpy
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    try:
        file = gguf.GGUFReader(path)
        kind = file.fields["general.type"].contents() if "general.type" in file.fields else None
        if kind != "imatrix":
            raise BadInput(f"it is a GGUF file of another kind ({kind})")
        tensors = {tensor.name: tensor for tensor in file.tensors}
        sums = {}
        for name in (n.removesuffix(_SUMS) for n in tensors if n.endswith(_SUMS)):
            squares, rows = tensors[name + _SUMS], tensors[name + _ROWS]
            if {squares.tensor_type, rows.tensor_type} != {gguf.GGMLQuantizationType.F32}:
                raise BadInput(f"{name} is not F32")
            collected = _Sums(squares.data.astype(numpy.float64), rows.data.astype(numpy.float64).reshape(-1))
            collected.squares = collected.squares.reshape(len(collected.rows), -1)
            for values in (collected.squares, collected.rows):
                if not (numpy.isfinite(values).all() and (values >= 0).all()):
                    raise BadInput(f"{name} contains an invalid sum of squares")
            sums[name] = collected
        if not sums:
            raise BadInput("it has no tensors")
        datasets = file.fields[_DATASETS].contents() if _DATASETS in file.fields else []
        readings = file.fields[_READINGS].contents() if _READINGS in file.fields else 0
        return _Matrix(sums, tuple(map(str, datasets)), int(readings))
    except FileNotFoundError:
        raise BadInput(f"There is no importance matrix {path}.") from None
    except BadInput as error:
        raise BadInput(f"{path.name} is not a valid importance matrix: {error}.") from None
    # gguf has no errors of its own for other files and truncated ones; it raises these.
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, MemoryError) as error:
        raise BadInput(
            f"{path.name} is damaged, or not a GGUF file ({type(error).__name__}). Give an importance matrix in "
            "GGUF form; llama-imatrix turns older ones into it (--in-file old.dat -o new.gguf)."
        ) from None


def _save(path: Path, sums: dict[str, _Sums], datasets: list[str], readings: int, rows: int) -> None:
    """Raises OSError."""
    import gguf  # noqa: PLC0415  it imports numpy
    import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

    writer = gguf.GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array(_DATASETS, datasets)
    # llama.cpp counts chunks of equal size; ours are prompts with their answers, so the size is a mean.
    writer.add_uint32(_READINGS, readings)
    writer.add_uint32(_READING_ROWS, max(1, rows // max(1, readings)))
    for name, collected in sorted(sums.items()):
        writer.add_tensor(name + _SUMS, collected.squares.astype(numpy.float32))
        writer.add_tensor(name + _ROWS, collected.rows.astype(numpy.float32).reshape(-1, 1))
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
