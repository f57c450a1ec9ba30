"""Collects an importance matrix: how large the values are that each column of a weight is multiplied with.

Sums of squares over the rows that go into a matrix multiplication, as llama-imatrix collects them (llama.cpp
tools/imatrix/imatrix.cpp), but for either half of a pair, and for prompts with images. The quantizer takes their mean
as what an error in that column costs. Two things are not llama-imatrix's: a multiplication of few rows counts too (a
short answer is what the model is for), and so does the head, even where it is the token embeddings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_cpp import llama_cpp as C

from playground.engine.protocol import ImportanceWritten, WriteImportance
from playground.engine.tensors import F32, Ggml, Tensor, check_layout
from playground.errors import BadInput, EngineError, cannot_write

_SUMS, _ROWS = ".in_sum2", ".counts"
_DATASETS, _READINGS, _READING_ROWS = "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size"


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
        self._ggml = Ggml()
        check_layout(self._ggml)
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
            node = Tensor.from_address(pointer)
            weight, rows = Tensor.from_address(node.src[0]), Tensor.from_address(node.src[1])
            name = _weight_name(weight.name.decode("utf-8", "replace"))
            # A computed tensor is not a weight: its columns differ from the file's (views, transposed weights).
            if rows.type != F32 or self._ggml.op_name(weight.op) != b"NONE" or not name.endswith(".weight"):
                return False
            if not ask and self._error is None:
                more = self._of_experts(node, weight, rows) if op == b"MUL_MAT_ID" else self._of(weight, rows)
                _add(self._sums, name, more)
        except Exception as error:  # an exception cannot pass through C: `watching` raises it
            self._error = error
        return True

    def _of(self, weight: Tensor, rows: Tensor) -> _Sums:
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        squares = self._squares(rows).sum(axis=2, dtype=numpy.float64)
        # Of several matrices in one weight each meets its own rows; several batches over one matrix are one.
        n3, n2 = weight.ne[3], weight.ne[2]
        squares = squares.reshape(-1, n3, rows.ne[2] // n2, n2, rows.ne[0]).sum(axis=(0, 2))
        n = rows.ne[1] * rows.ne[2] * rows.ne[3] / (n2 * n3)
        return _Sums(squares.reshape(1, -1), numpy.array([n]))

    def _of_experts(self, node: Tensor, weight: Tensor, rows: Tensor) -> _Sums:
        """rows: columns x experts used (or one for all of them) x tokens. The third source: which experts, by token."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        chosen = self._ggml.values(Tensor.from_address(node.src[2]), numpy.int32)[0, 0]  # tokens x experts used
        squares = self._squares(rows)[0]
        squares = numpy.broadcast_to(squares, (*chosen.shape, rows.ne[0]))
        n_experts = weight.ne[2]
        sums = numpy.zeros((n_experts, rows.ne[0]))
        for expert in numpy.unique(chosen):
            sums[expert] = squares[chosen == expert].sum(axis=0, dtype=numpy.float64)
        return _Sums(sums, numpy.bincount(chosen.ravel(), minlength=n_experts).astype(numpy.float64))

    def _squares(self, rows: Tensor) -> Any:
        """float32 (ne3, ne2, ne1, ne0). Raises EngineError."""
        import numpy  # noqa: PLC0415  llama_cpp has to be imported before it (loading.py)

        squares = numpy.square(self._ggml.values(rows, numpy.float32))
        if not numpy.isfinite(squares).all():
            raise EngineError("The model's activations are NaN or infinite: the file is damaged.")
        return squares


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
