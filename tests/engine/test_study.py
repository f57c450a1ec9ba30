"""A study of the real engine: killed in the middle, continued, and written as a report by the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from playground.cli import commands
from playground.measuring.measure_request import steps_of
from playground.measuring.results import Progress
from playground.settings import Settings
from playground.study.study_file import find_study, read_study, studies_folder
from playground.study.study_job import StudyJob
from playground.study.study_plan import study_plan
from playground.study.study_steps import plan_of
from playground.wiring import Parts, open_parts
from testkit import pairs

N = 8
KILLED = """
import os, pathlib, signal, sys
from playground.settings import Settings
from playground.study.study_file import read_study
from playground.study.study_job import StudyJob
from playground.wiring import open_parts

def on_progress(what, update):
    if what.endswith("embedded:hard") and update.done >= 4:
        os.kill(os.getpid(), signal.SIGKILL)

path, out = map(pathlib.Path, sys.argv[1:])
with open_parts(Settings.read(), any_folder=True) as parts:
    StudyJob(parts, read_study(path), path.parent, out, on_progress=on_progress).run()
"""


@pytest.fixture
def study(tmp_path: Path, few: pairs.PairFiles) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(f"""\
name = "Small"
models = ["source", "Q8_0"]
suites = ["embedded:easy", "embedded:hard"]
questions = {N}
max_tokens = 2
measure = ["drift"]

[[families]]
name = "Few"
model = "{few.model}"
projector = "{few.projector}"
""")
    return path


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(tmp_path / "cache"))
    # One GPU at most: over four, measurements of two language models run two at once.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0])
    monkeypatch.chdir(tmp_path)


def test_study_when_killed_in_the_middle_then_the_same_command_goes_on_and_measures_nothing_twice(
    study: Path, environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small-study"
    killed = subprocess.run([sys.executable, "-c", KILLED, study, out], env=os.environ, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    (first,) = (out / "steps").iterdir()
    before = first.stat().st_mtime_ns
    times = {path: path.stat().st_mtime_ns for path in (out / "files").rglob("*.gguf")}
    assert len(times) == 1

    steps, news = Counter[str](), list[str]()

    def on_progress(what: str, update: Progress) -> None:
        steps[what] = update.total

    read = read_study(study)
    with open_parts(Settings.read(), any_folder=True) as parts:
        assert study_plan(parts, read, tmp_path, out).done == 1
        result = StudyJob(parts, read, tmp_path, out, news.append, on_progress).run()
        whole = sum(steps_of(plan_of(read, "embedded:hard", tmp_path), N, 2).values())
    assert result is not None
    assert result.problems == ()
    assert (len(result.finished), result.n_kept) == (2, 1)
    assert news[0] == "1 of 2 measurements were finished before."
    assert set(steps) == {"Few, embedded:hard"}
    assert 0 < steps["Few, embedded:hard"] < whole  # what was answered before takes no step
    assert first.stat().st_mtime_ns == before
    assert {path: path.stat().st_mtime_ns for path in times} == times

    monkeypatch.setattr(sys, "argv", ["playground", "study", str(study), "--json", "--uploader", "me"])
    with pytest.raises(SystemExit) as ended:
        commands.main()
    printed = capfd.readouterr()
    assert ended.value.code in (None, 0), printed.err
    assert "2 of 2 measurements were finished before." in printed.err
    documents = json.loads(printed.out)
    assert [document["questions"]["count"] for document in documents] == [N, N]
    assert {variant["label"] for variant in documents[0]["variants"]} == {"F16", "Q8_0"}
    page = (out / "report.html").read_text()
    assert "One change at a time" in page
    assert all(path.name in page for path in times)
    assert "Few: language model Q8_0" in (out / "report.md").read_text()
    assert len(list((out / "results").iterdir())) == 2


@pytest.fixture
def offline(parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Parts:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return parts


def test_shipped_studies_when_planned_without_network_then_each_says_what_it_needs(
    offline: Parts, tmp_path: Path
) -> None:
    plans = {
        path.stem: study_plan(offline, read_study(path), path.parent, tmp_path / path.stem)
        for path in sorted(studies_folder().glob("*.toml"))
    }
    own = plans.pop("embedded")
    assert own.problems == []
    assert (own.to_fetch, own.measurements, own.done, own.seconds) == (0, 3, 0, None)
    assert 0 < own.to_write < 20_000_000
    assert len(plans) == 3
    for name, plan in plans.items():
        study = read_study(find_study(name))
        assert len(plan.problems) == len(study.families) + len(study.suites)
        assert all("HF_HUB_OFFLINE" in problem for problem in plan.problems)
        assert any("Its preset says: " in family.problem for family in plan.families)
        assert all(suite.questions == study.questions and suite.shows for suite in plan.suites)
        assert "and what is unknown: " in "\n".join(plan.lines)
