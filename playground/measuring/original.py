"""Starts the original model in an interpreter that has torch and transformers, and checks first that it fits."""

from __future__ import annotations

import json
import math
import struct
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy

from playground.errors import BadInput, BadModel, EngineError, Interrupted
from playground.pool.process import child_environment

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BYTES = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = ("F64", "F32", "BF16", "F16", "F8_E4M3", "F8_E5M2")
_MAX_HEADER = 100 * 2**20
_WORKING = 1.2  # activations, and what transformers needs while it loads
_NEEDS = "It needs torch and transformers: pip install 'vlm-quant-playground[parity]', or --python INTERPRETER."


def tensor_counts(folder: Path) -> dict[str, int]:
    """How many values of each type the folder's safetensors files have. Raises BadModel."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "config.json").is_file():
        raise BadModel(f"{folder} is not a model of transformers: it has no config.json or no .safetensors file.")
    counts: dict[str, int] = {}
    for path in files:
        for tensor in _header(path).values():
            kind = str(tensor["dtype"])
            counts[kind] = counts.get(kind, 0) + math.prod(tensor["shape"])
    return counts


def _header(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > _MAX_HEADER:
                raise ValueError("its header is too long")
            header = json.loads(file.read(size))
        return {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    except (OSError, ValueError, AttributeError, struct.error) as error:
        raise BadModel(f"{path.name} is not a valid safetensors file: {error}.") from None


def needed_bytes(counts: Mapping[str, int], dtype: str) -> int:
    """Memory that the original takes, computed in `dtype`. Whole numbers stay as they are."""
    each = ((n, DTYPES[dtype] if kind in _FLOATS else _BYTES.get(kind, 1)) for kind, n in counts.items())
    return int(_WORKING * sum(n * size for n, size in each))


def choose_dtype(counts: Mapping[str, int], wanted: str | None, free: int) -> str:
    """`wanted`, else float32 where it fits, else bfloat16. Raises BadInput if it does not fit."""
    tried = (wanted,) if wanted else ("float32", "bfloat16")
    for dtype in tried:
        if needed_bytes(counts, dtype) <= free:
            return dtype
    n = sum(counts.values())
    sizes = ", ".join(f"{needed_bytes(counts, dtype) / 1e9:.1f} GB in {dtype}" for dtype in tried)
    raise BadInput(
        f"The original has {n / 1e9:.2f} billion parameters and needs {sizes}; {free / 1e9:.1f} GB are free. Use a "
        "machine with more memory."
    )


def check_interpreter(python: str) -> None:
    """Raises BadInput if it lacks torch or transformers."""
    code = "import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ('torch', 'transformers'))))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BadInput(f"{python} cannot be run ({error}). {_NEEDS}") from None
    if done.returncode:
        raise BadInput(f"{python} has no torch or no transformers. {_NEEDS}")


def ask(python: str, folder: Path, job: Mapping[str, Any], stop: Callable[[], bool]) -> Iterator[str]:
    """Run the job in a child process; yields what it is doing. What comes out lies in `folder`.

    Raises Interrupted, EngineError, BadModel with what the original's side reports.
    """
    (folder / "job.json").write_text(json.dumps(job))
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    last: deque[str] = deque(maxlen=12)
    with subprocess.Popen(
        [python, "-m", "playground.original.child", str(folder / "job.json")],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment() | offline,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        reader = Thread(target=last.extend, args=(child.stderr,), daemon=True)
        reader.start()
        try:
            for line in child.stdout:
                if stop():
                    raise Interrupted("Stopped.")
                try:
                    document = json.loads(line)
                except ValueError:  # a library's own words
                    continue
                if "error" in document:
                    raise BadModel(str(document["error"]))
                if document.get("done"):
                    return
                yield str(document.get("what", ""))
        finally:
            child.kill()
            reader.join(2)
    raise EngineError(f"The original's process ended (status {child.returncode}).", tuple(last))


def read_arrays(path: Path) -> dict[str, Any]:
    with numpy.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def record_rows(path: Path, n_rows: int, n_vocabulary: int) -> None:
    """Make the original's record as wide as the pair's vocabulary: ids beyond it do not exist in the pair, and ids that
    the original lacks are impossible. Raises BadModel for another number of positions."""
    values = numpy.fromfile(path, numpy.float32)
    if not n_rows or len(values) % n_rows:
        raise BadModel("The original's probabilities belong to another answer.")
    rows = values.reshape(n_rows, -1)
    if rows.shape[1] < n_vocabulary:
        rows = numpy.pad(rows, ((0, 0), (0, n_vocabulary - rows.shape[1])), constant_values=-1e4)
    numpy.ascontiguousarray(rows[:, :n_vocabulary]).tofile(path)
