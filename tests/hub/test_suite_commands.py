"""`suites` and `--suite` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from playground.measuring.suites import read_suites
from testkit import datasets
from testkit.hub_server import HubRepo, HubServer, hub_server

CHARTQA = read_suites()["chartqa"]
Call = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def served() -> Iterator[HubServer]:
    files = {"data/test-00000-of-00001.parquet": datasets.chartqa(60)}
    with hub_server([HubRepo(CHARTQA.repo, dict(files), licence="gpl-3.0", dataset=True)]) as server:
        yield server


@pytest.fixture
def call(served: HubServer, derived: Path, tmp_path: Path) -> Call:
    served.well_behaved()
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    environment = os.environ | served.environment(tmp_path / "hf") | {"PLAYGROUND_CACHE_DIR": str(cache)}

    def called(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "playground", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)

    return called


def test_suites_when_listed_then_each_has_a_line(call: Call) -> None:
    process = call("suites")
    assert process.returncode == 0
    assert len(process.stdout.splitlines()) == len(read_suites())
    assert "lmms-lab-encoder/ChartQA" in process.stdout


def test_suite_when_shown_then_it_says_what_it_would_fetch_and_show(call: Call) -> None:
    process = call("suites", "chartqa", "-n", 50, "--difference", 2)
    assert process.returncode == 0, process.stderr
    assert "60 rows" in process.stdout
    assert "licence: gpl-3.0" in process.stdout
    assert "image = image, question = question, answers = answer, category = type" in process.stdout
    assert "in 6 row groups" in process.stdout
    assert "50 questions are too few to show a difference of accuracy" in process.stdout
    assert "questions show 2 points." in process.stdout
    document = json.loads(call("suites", "chartqa", "-n", 500, "--json").stdout)
    assert (document["rows"], document["questions"], document["shows"]) == (60, 60, None)


def test_dataset_when_it_has_no_suite_then_the_guess_can_be_changed_and_used(call: Call, tmp_path: Path) -> None:
    guess = tmp_path / "guess.toml"
    assert call("suites", CHARTQA.repo, "--out", guess).returncode == 0
    text = guess.read_text()
    assert 'answers = "answer"' in text
    guess.write_text(text.replace('rule = "exact"', 'rule = "number"'))
    shown = call("suites", guess)
    assert "rule number" in shown.stdout, shown.stderr
    assert "exists" in call("suites", CHARTQA.repo, "--out", guess).stderr


def test_suite_when_it_is_unknown_then_those_that_are_there_are_named(call: Call) -> None:
    process = call("suites", "chartq")
    assert process.returncode == 2
    assert "There is no suite 'chartq'. There are: ai2d, chartqa" in process.stderr


def test_drift_when_asked_with_a_suite_then_the_report_says_which_rows_of_which_commit(
    call: Call, served: HubServer
) -> None:
    options = ("--suite", "chartqa", "-n", 3, "--variants", "F16", "--max-tokens", 2, "--json")
    process = call("drift", *options)
    assert process.returncode == 0, process.stderr
    sample = json.loads(process.stdout)["sample"]
    assert sample["commit"] == served.repos[f"datasets/{CHARTQA.repo}"].commit
    assert len(sample["rows"]) == 3
    assert "3 of 60 rows, seed 0" in process.stderr
    served.behave(status=503)
    offline = call("drift", *options)
    assert json.loads(offline.stdout)["sample"] == sample
    assert "The Hub cannot be reached: the questions were drawn before." in offline.stderr
