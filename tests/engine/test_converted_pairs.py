"""Pairs as llama.cpp's converter writes them: the doctor, the split engine beside llama.cpp, quantizing either half."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from playground.models import doctor
from playground.models.gguf.header import read_header
from playground.quantizing import quantizer
from playground.values.answer import PaneState
from playground.values.files import Half
from playground.values.request import Image
from playground.wiring import Parts
from testkit import converted_pairs, equality_child
from testkit.pairs import PairFiles
from testkit.running import comparison, run


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PairFiles]:
    return converted_pairs.write_all(tmp_path_factory.mktemp("converted"))


def test_doctor_when_it_sees_each_pair_and_each_crossing_then_only_the_pairs_are_fine(
    converted: dict[str, PairFiles],
) -> None:
    models = {name: read_header(files.model) for name, files in converted.items()}
    projectors = {name: read_header(files.projector) for name, files in converted.items()}
    fine = {
        (model, projector)
        for model in models
        for projector in projectors
        if doctor.worst(doctor.diagnose(models[model], projectors[projector])) is doctor.Level.FINE
    }
    assert fine == {(name, name) for name in converted}


@pytest.mark.parametrize("name", converted_pairs.NAMES)
def test_pair_when_it_answers_then_as_llama_cpps_own_helper_does(converted: dict[str, PairFiles], name: str) -> None:
    files = converted[name]
    process = subprocess.run(
        [sys.executable, equality_child.__file__, files.model, files.projector, "120", "90"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    report = json.loads(process.stdout.splitlines()[-1])
    assert report["image_tokens"] > 0
    assert report["difference"] == 0
    assert report["tokens"] == report["expected"]
    assert report["two_tokens"] == report["two_expected"]


@pytest.mark.parametrize("name", converted_pairs.NAMES)
def test_halves_when_quantized_then_the_pair_still_answers(
    parts: Parts, scene: Image, converted: dict[str, PairFiles], tmp_path: Path, name: str
) -> None:
    files = converted[name]
    paths = {
        half: quantizer.make(Path(source), tmp_path / f"{half.name}.gguf", "Q4_0", parts.pool, half=half).path
        for half, source in ((Half.MODEL, files.model), (Half.PROJECTOR, files.projector))
    }
    for model, projector in ((paths[Half.MODEL], files.projector), (files.model, paths[Half.PROJECTOR])):
        variant = parts.catalog.open_pair(Path(str(model)), Path(str(projector)))
        pane = run(parts, comparison(scene, "What?", (variant,), max_tokens=3, n_ctx=4096)).panes[0]
        assert pane.state is PaneState.DONE, pane.error
