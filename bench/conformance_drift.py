"""Whether a quantized half drifts by no more than its kind should, for `python -m bench conformance --make`.

"Its kind" is the same half of the same pair with every matrix rounded to Q4_0 by the gguf package, in numpy, and
written as F16 again. Neither llama.cpp's quantizer nor the app's choice of types takes part in that file: a tensor that
must not be quantized, or is used otherwise than it is stored, drifts in the quantized file alone. Random models magnify
chance, so a drift may be `FACTOR` times that of its kind; below `NOTHING` it is not judged.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants

from playground.errors import Failure
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan
from playground.models.presets import data_folder
from playground.quantizing import quantizer
from playground.values.files import Half, Variant
from playground.values.request import Runtime
from playground.wiring import Parts

QUANTIZATIONS = ("Q8_0", "Q4_0", "Q4_K_M")
FACTOR = 3.0
NOTHING = 0.01  # nats a token
_QUESTIONS, _TOKENS = 2, 16
_BLOCK = 32  # weights of a row that Q4_0 rounds together
_KEPT = ("norm", "position_embd", "bias")  # in the names of tensors that no quantizer rounds


class HalfDrifts(NamedTuple):
    """From F16, in nats for each token."""

    made: dict[str, float]  # by quantization; those that load and give a number
    rounded: float  # of its kind

    @property
    def beyond(self) -> list[str]:
        """The quantizations that drift too far."""
        most = max(NOTHING, FACTOR * self.rounded)
        return [name for name, drift in self.made.items() if not drift <= most]


def half_drifts(parts: Parts, source: Variant, half: Half, folder: Path, runtime: Runtime) -> HalfDrifts:
    drifts: dict[str, float] = {}
    for quantization in QUANTIZATIONS:
        target = folder / f"{half.name.lower()}-{quantization}.gguf"
        try:
            quantizer.make(Path(source.half(half).path), target, quantization, parts.pool, half=half)
            drift = _drift(parts, source, half, target, runtime)
            if drift is not None and math.isfinite(drift):
                drifts[quantization] = drift
        except Failure as error:
            print(f"  {target.name}: {error.message}", flush=True)
        finally:
            target.unlink(missing_ok=True)
    rounded = folder / f"{half.name.lower()}-rounded-F16.gguf"
    round_matrices(Path(source.half(half).path), rounded)
    try:
        return HalfDrifts(drifts, _drift(parts, source, half, rounded, runtime) or 0.0)
    finally:
        rounded.unlink()


def round_matrices(source: Path, target: Path) -> int:
    """Copy a file, with each matrix rounded to Q4_0 where it stands. Returns how many there are."""
    shutil.copyfile(source, target)
    n = 0
    for tensor in GGUFReader(target, "r+").tensors:
        floats = tensor.tensor_type in (GGMLQuantizationType.F16, GGMLQuantizationType.F32)
        if not floats or not 2 <= len(tensor.shape) <= 3 or tensor.shape[0] % _BLOCK:
            continue
        if any(part in tensor.name for part in _KEPT):
            continue
        values = np.asarray(tensor.data, np.float32)
        rounded = quants.dequantize(quants.quantize(values, GGMLQuantizationType.Q4_0), GGMLQuantizationType.Q4_0)
        tensor.data[:] = rounded.astype(tensor.data.dtype)
        n += 1
    return n


def _drift(parts: Parts, source: Variant, half: Half, target: Path, runtime: Runtime) -> float | None:
    questions = question_sets.embedded(data_folder() / "tiny-vlm/evaluation", level="easy").first(_QUESTIONS)
    model, projector = Path(source.model.path), Path(source.projector.path)
    files = (model, target) if half is Half.PROJECTOR else (target, projector)
    variants = (source, parts.catalog.open_pair(*files))
    runtime = Runtime(n_gpu_layers=runtime.n_gpu_layers)
    request = MeasureRequest(questions, variants, source.id, MeasurementPlan(max_tokens=_TOKENS), runtime)
    *_, last = MeasureJob(parts.lab, request).run()
    assert isinstance(last, Measurement)
    drift = last.results[1].mean_kl
    return None if drift is None else drift.value
