"""`study` with files and questions of a Hub of the tests' own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from playground.cli.commands import main
from playground.measuring.suites import read_suites
from testkit import datasets, pairs
from testkit.hub_server import HubRepo, HubServer, hub_server

REPO, BESIDE, CHARTQA = "acme/few-GGUF", "acme/few-mmproj-GGUF", read_suites()["chartqa"]
STUDY = f"""\
name = "From the Hub"
models = ["source", "Q8_0"]
suites = ["chartqa"]
questions = 6
max_tokens = 2
measure = ["drift"]

[[families]]
repo = "{REPO}"
projector_repo = "{BESIDE}"

[[families]]
repo = "acme/gone-GGUF"
"""


@pytest.fixture(scope="module")
def served(few: pairs.PairFiles) -> Iterator[HubServer]:
    repos = [
        HubRepo(REPO, {"few-F16.gguf": few.model}),
        HubRepo(BESIDE, {"mmproj-few-F16.gguf": few.projector}),
        HubRepo(CHARTQA.repo, {"data/test-00000-of-00001.parquet": datasets.chartqa(20)}, dataset=True),
    ]
    with hub_server(repos) as server:
        yield server
        close_session()


@pytest.fixture
def call(
    served: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    served.patch(monkeypatch, tmp_path)
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hub.toml").write_text(STUDY)

    def called(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["playground", "study", "hub.toml", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return called


def test_study_when_its_files_are_on_the_hub_then_they_are_planned_fetched_made_and_measured(
    call: Callable[..., tuple[int, str, str]], served: HubServer, few: pairs.PairFiles, tmp_path: Path
) -> None:
    code, plan, _ = call("--dry-run")
    assert code == 0
    assert "language model F16: few-F16.gguf, 0." in plan
    assert plan.count(", to download") == 2
    assert ", to make here" in plan
    assert "acme/gone-GGUF: 2 variants. " in plan
    assert "chartqa: 6 questions are too few" in plan
    assert list(tmp_path.rglob("*.gguf")) == []
    code, written, errors = call()
    assert code == 1, errors  # one family is missing
    assert "report.html" in written
    report = (tmp_path / "hub-study/report.md").read_text()
    assert "## What is missing" in report
    assert "acme/gone-GGUF: " in report
    assert f"{REPO}: language model Q8_0" in report
    commit = served.repos[REPO].commit
    assert f"hf download {REPO} few-F16.gguf --revision {commit}" in report
    assert "seed 0, commit" in report
    served.behave(status=503)
    code, _, errors = call("--time")
    assert "1 of 1 measurements were finished before." in errors
    assert "The files of the cache are taken." in errors
