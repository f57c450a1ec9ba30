"""The split engine against upstream's mtmd_helper_eval_chunks with the full model, for every kind of pair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testkit import pairs

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", params=pairs.KINDS)
def result(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    files = pairs.write_pair(request.param, tmp_path_factory.mktemp(request.param))
    child = subprocess.run(
        [sys.executable, "-m", "testkit.equality_child", str(files.model), str(files.projector), "320", "240"],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=ROOT,
        env=os.environ | {"GGML_NO_BACKTRACE": "1"},
    )
    assert child.returncode == 0, child.stderr[-3000:]
    report: dict[str, Any] = json.loads(child.stdout.splitlines()[-1])
    return report


def test_split_when_compared_with_upstream_then_logits_and_greedy_tokens_are_equal(result: dict[str, Any]) -> None:
    assert result["difference"] <= 1e-4
    assert result["spread"] > 1  # flat logits would be equal by accident
    assert len(result["tokens"]) >= 1
    assert result["tokens"] == result["expected"]


def test_split_when_two_images_then_equal_too(result: dict[str, Any]) -> None:
    assert result["two_difference"] <= 1e-4
    assert result["two_tokens"] == result["two_expected"]


def test_second_question_when_image_is_kept_then_same_as_without(result: dict[str, Any]) -> None:
    assert result["reused"] >= result["image_tokens"] > 0
    assert result["kept_difference"] == 0.0
    assert result["kept_tokens"] == result["clean_tokens"]


def test_image_when_its_embeddings_were_nan_then_encoded_anew_to_the_same_prompt(result: dict[str, Any]) -> None:
    assert result["renewed_alike"]


def test_prompt_when_planned_without_pixels_then_same_chunks(result: dict[str, Any]) -> None:
    assert result["planned_alike"]
