"""The embedded pair in llama.cpp against the network that it was exported from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from testkit.running import EMBEDDED, MODEL, PROJECTOR

EXPECTED = Path(__file__).parents[2] / "training/expected.jsonl"


def test_pair_when_asked_then_it_answers_as_pytorch_did() -> None:
    command = [sys.executable, "-m", "training.compare_gguf", str(EXPECTED), str(MODEL), str(PROJECTOR)]
    process = subprocess.run(
        [*command, "--images", str(EMBEDDED / "evaluation")], capture_output=True, text=True, cwd=EXPECTED.parents[1]
    )
    assert process.returncode == 0, process.stderr[-2000:]
    agreement = json.loads(process.stdout.splitlines()[-1])
    assert agreement["items"] == agreement["equal_prompts"] == 120
    assert agreement["equal_percent"] >= 98
    assert agreement["mean_difference"] < 0.01
    assert agreement["largest_difference"] < 0.1
