"""`suites` and `--suite` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from playground.measuring.suites import read_suites
from testkit import datasets
from testkit.command_line import Called, called
from testkit.hub_server import HubRepo, HubServer, hub_server

CHARTQA = read_suites()["chartqa"]
Call = Callable[..., Called]


@pytest.fixture(scope="module")
def served() -> Iterator[HubServer]:
    files = {"data/test-00000-of-00001.parquet": datasets.chartqa(60)}
    with hub_server([HubRepo(CHARTQA.repo, dict(files), licence="gpl-3.0", dataset=True)]) as server:
        yield server
        close_session()


@pytest.fixture
def call(
    served: HubServer,
    derived: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Call:
    served.well_behaved()
    served.patch(monkeypatch, tmp_path / "hf")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(cache))
    return partial(called, monkeypatch, capfd)


def test_suites_when_listed_then_each_has_a_line(call: Call) -> None:
    reply = call("suites")
    assert reply.code == 0
    assert len(reply.out.splitlines()) == len(read_suites())
    assert "lmms-lab-encoder/ChartQA" in reply.out


def test_suite_when_shown_then_it_says_what_it_would_fetch_and_show(call: Call) -> None:
    reply = call("suites", "chartqa", "-n", 50, "--difference", 2)
    assert reply.code == 0, reply.err
    assert "60 rows" in reply.out
    assert "licence: gpl-3.0" in reply.out
    assert "image = image, question = question, answers = answer, category = type" in reply.out
    assert "in 6 row groups" in reply.out
    assert "50 questions are too few to show a difference of accuracy" in reply.out
    assert "questions show 2 points." in reply.out
    document = json.loads(call("suites", "chartqa", "-n", 500, "--json").out)
    assert (document["rows"], document["questions"], document["shows"]) == (60, 60, None)


def test_dataset_when_it_has_no_suite_then_the_guess_can_be_changed_and_used(call: Call, tmp_path: Path) -> None:
    guess = tmp_path / "guess.toml"
    assert call("suites", CHARTQA.repo, "--out", guess).code == 0
    text = guess.read_text()
    assert 'answers = "answer"' in text
    guess.write_text(text.replace('rule = "exact"', 'rule = "number"'))
    shown = call("suites", guess)
    assert "rule number" in shown.out, shown.err
    assert "exists" in call("suites", CHARTQA.repo, "--out", guess).err


def test_suite_when_it_is_unknown_then_those_that_are_there_are_named(call: Call) -> None:
    reply = call("suites", "chartq")
    assert reply.code == 2
    assert "There is no suite 'chartq'. There are: ai2d, chartqa" in reply.err


def test_drift_when_asked_with_a_suite_then_the_report_says_which_rows_of_which_commit(
    call: Call, served: HubServer
) -> None:
    options = ("--suite", "chartqa", "-n", 3, "--variants", "F16", "--max-tokens", 2, "--json")
    reply = call("drift", *options)
    assert reply.code == 0, reply.err
    sample = json.loads(reply.out)["sample"]
    assert sample["commit"] == served.repos[f"datasets/{CHARTQA.repo}"].commit
    assert len(sample["rows"]) == 3
    assert "3 of 60 rows, seed 0" in reply.err
    served.behave(status=503)
    offline = call("drift", *options)
    assert json.loads(offline.out)["sample"] == sample
    assert "The Hub cannot be reached: the questions were drawn before." in offline.err
