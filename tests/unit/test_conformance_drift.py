"""The drift of its kind that a quantized half is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader

from bench.conformance_drift import HalfDrifts, round_matrices
from testkit import pairs


def test_matrices_when_rounded_then_the_file_keeps_its_types_and_all_else(tmp_path: Path) -> None:
    source, target = pairs.write_pair("mlp", tmp_path).projector, tmp_path / "rounded-F16.gguf"
    n = round_matrices(source, target)
    before, after = GGUFReader(source).tensors, GGUFReader(target).tensors
    assert [(t.name, t.tensor_type, t.shape.tolist()) for t in after] == [
        (t.name, t.tensor_type, t.shape.tolist()) for t in before
    ]
    changed = {a.name for a, b in zip(after, before, strict=True) if not np.array_equal(a.data, b.data)}
    assert len(changed) == n > 4
    assert not [name for name in changed if "norm" in name or "bias" in name or "position_embd" in name]
    for a, b in zip(after, before, strict=True):
        if a.name in changed:
            old, new = b.data.astype(np.float64), a.data.astype(np.float64)
            assert 0.02 < np.linalg.norm(new - old) / np.linalg.norm(old) < 0.15


@pytest.mark.parametrize(
    ("drift", "rounded", "beyond"),
    [(0.5, 0.2, []), (0.61, 0.2, ["Q8_0"]), (0.009, 0.0, []), (0.02, 0.0, ["Q8_0"]), (float("nan"), 1.0, ["Q8_0"])],
)
def test_drift_when_it_is_several_times_that_of_its_kind_then_it_is_too_far(
    drift: float, rounded: float, beyond: list[str]
) -> None:
    assert HalfDrifts({"Q8_0": drift}, rounded).beyond == beyond
