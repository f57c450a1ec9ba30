"""`study` with files and questions of a Hub of the tests' own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from playground.cli.commands import main
from playground.measuring.suites import read_suites
from playground.settings import Settings
from playground.study.study_file import read_study
from playground.study.study_job import StudyJob
from playground.wiring import open_parts
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
        HubRepo("acme/late-GGUF", {"late-F16.gguf": few.model}),
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
    served.well_behaved()
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


def test_study_when_the_files_of_one_family_are_here_then_it_is_measured_while_another_ones_come(
    call: Callable[..., tuple[int, str, str]], served: HubServer, tmp_path: Path
) -> None:
    late = served.behave("/cdn/acme/late", slow=2000)  # for minutes, until the other family is measured
    served.behave("/cdn/acme/late", times=1)  # but for its header
    families = "".join(
        f'[[families]]\nname = "{name}"\nrepo = "{repo}"\nprojector_repo = "{BESIDE}"\n\n'
        for name, repo in (("Late", "acme/late-GGUF"), ("Early", REPO))
    )
    file = tmp_path / "two.toml"
    file.write_text(STUDY.partition("[[")[0].replace("chartqa", "embedded:easy") + families)
    news: list[tuple[str, bool]] = []

    def on_news(line: str) -> None:
        news.append((line, any(download.is_active for download in parts.downloads.all())))
        if line.startswith("Early, "):
            late.slow = 1e12

    with open_parts(Settings.read(), any_folder=True) as parts:
        result = StudyJob(parts, read_study(file), tmp_path, tmp_path / "out", on_news).run()
    assert result is not None
    assert result.problems == ()
    assert [family.title for family in result.families] == ["Late", "Early"]
    measured = [each for each in news if each[0].endswith("6 questions measured")]
    assert measured == [
        ("Early, embedded:easy: 6 questions measured", True),
        ("Late, embedded:easy: 6 questions measured", False),
    ]
