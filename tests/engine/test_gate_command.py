"""`gate`: real files, real exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from testkit.command_line import Called, called

Call = Callable[..., Called]


@pytest.fixture
def cache(derived: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "derived").symlink_to(derived / "derived")
    return folder


@pytest.fixture
def call(cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache / "hub"))
    return partial(called, monkeypatch, capfd, "gate")


def test_gate_when_a_candidate_is_damaged_by_2_bits_then_the_code_is_1_and_reports_name_it(
    cache: Path, tmp_path: Path
) -> None:
    """As a CI calls it: in a process of its own."""
    report = tmp_path / "gate.xml"
    options = ["--reference", "F16", "--candidate", "Q2_K", "-n", "12", "--max-kl", "0.01", "--max-tokens", "8"]
    command = [sys.executable, "-m", "playground", "gate", *options, "--junit", str(report), "--json"]
    environment = os.environ | {"PLAYGROUND_CACHE_DIR": str(cache)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
    assert process.returncode == 1, process.stderr
    document = json.loads(process.stdout)
    (check,) = document["checks"]
    assert (check["check"], check["outcome"], document["questions"]) == ("drift", "failed", 12)
    assert check["value"] > check["limit"] == 0.01
    suite = ET.parse(report).getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("1", "1", "0")
    assert suite.find("testcase/failure").get("message") == check["words"]


def test_gate_when_questions_are_few_then_the_code_is_2_and_says_how_many_more(call: Call, tmp_path: Path) -> None:
    report = tmp_path / "gate.xml"
    process = call(
        *("--reference", "F16", "--candidate", "Q8_0", "-n", 4, "--not-worse", "--max-tokens", 8, "--junit", report)
    )
    assert process.code == 2, process.err
    assert "Q8_0, accuracy: not enough questions." in process.out
    assert "more questions would be enough" in process.out
    assert ET.parse(report).getroot().find("testcase/error").get("type") == "not enough questions"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reference", "F16"], "Missing option"),
        (["--reference", "F16", "--candidate", "Q8_0", "--colour", "red"], "No such option"),
        (["--reference", "F16", "--candidate", "Q9"], "There is no variant called 'Q9'"),
        (["--reference", "F16", "--candidate", "F16"], "the reference itself"),
        (["--reference", "gone.gguf+mmproj.gguf", "--candidate", "F16"], "gone.gguf"),
        (["--reference", "F16", "--candidate", "Q8_0", "--suite", "chartqa"], "HF_HUB_OFFLINE"),
        (["--reference", "F16", "--reference", "F16", "--candidate", "Q8_0"], "2 times"),
        (["--reference", "F16", "--candidate", "Q8_0", "-n", "0"], "between 1 and"),
        (["--reference", "F16", "--candidate", "Q8_0", "--junit", "gone/gate.xml"], "There is no folder gone"),
    ],
)
def test_gate_when_it_cannot_run_then_the_code_is_3(call: Call, words: list[str], message: str) -> None:
    process = call(*words)
    assert process.code == 3, process.err
    assert message in " ".join(process.err.replace("│", " ").split())


def test_gate_when_it_cannot_run_then_the_reports_say_why(call: Call, tmp_path: Path) -> None:
    report = tmp_path / "gate.xml"
    process = call("--reference", "F16", "--candidate", "Q9", "--json", "--junit", report)
    assert json.loads(process.out)["exit_code"] == 3
    assert "no variant called 'Q9'" in json.loads(process.out)["error"]
    assert ET.parse(report).getroot().find("testcase/error").get("type") == "could not run"


def test_gate_when_planned_then_it_says_how_long_and_what_would_show(call: Call) -> None:
    process = call("--reference", "F16", "--candidate", "Q8_0", "-n", 200, "--max-tokens", 4, "--plan")
    assert process.code == 0, process.err
    assert "200 questions take" in process.out
    assert "200 questions show a difference of 5.6 points" in process.out
