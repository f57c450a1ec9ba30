"""The wheel holds all that the app needs: it is installed in a clean environment and run in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testkit.webapp import ROOT, running

PROGRAM = "vlm-quant-playground"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed program. Its environment sees the dependencies of this one, but not its playground."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    packages = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # Files named in a .pth file are read in site-packages only, so an editable install of this environment is not seen.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(pip, check=True, capture_output=True)
    return folder / "bin" / PROGRAM


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; no Python path leads to the checkout."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    folder = tmp_path / "empty"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def output(program: Path, *arguments: str, folder: Path, cache: Path) -> str:
    environment = os.environ | {"PLAYGROUND_CACHE_DIR": str(cache)}
    process = subprocess.run([program, *arguments], cwd=folder, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_wheel_when_built_then_it_has_every_file_of_the_package(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "-z", "playground", "presets", "suites"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    tracked = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    members = {f"playground/{name}" if name.startswith(("presets/", "suites/")) else name for name in tracked}
    assert len(members) > 200
    assert sorted(members - packed) == []


def test_program_when_served_then_the_page_opens(program: Path, empty: Path, derived: Path, tmp_path: Path) -> None:
    with running(derived, tmp_path / "log", program=program, command=("serve",), folder=empty) as served:
        page = httpx.get(served.url).text
        models = httpx.get(f"{served.url.rstrip('/')}/models").text
        assert "VLM Quant Playground" in page
        assert "vp-hub" in models
        assert httpx.get(f"{served.url.rstrip('/')}/health").json()["alive"] is True


def test_program_when_asked_for_variants_then_it_lists_them(program: Path, empty: Path, derived: Path) -> None:
    assert "Q4_K_M" in output(program, "variants", folder=empty, cache=derived)
    assert "Qwen3-VL" in output(program, "presets", folder=empty, cache=derived)


def test_program_when_it_compares_then_its_workers_answer(program: Path, empty: Path, derived: Path) -> None:
    image = ROOT / "examples/questions/word.png"
    arguments = ("compare", "--image", str(image), "--prompt", "Will you spell the text?", "--variants", "F16")
    assert "UOCDPA" in output(program, *arguments, folder=empty, cache=derived)


HELP = """
import playground
from typer.testing import CliRunner
from playground.cli.commands import app
print(playground.__file__)
for command in app.registered_commands:
    name = command.callback.__name__
    result = CliRunner().invoke(app, [name, "--help"], prog_name="program")
    print(name, result.exit_code, f"program {name}" in result.output)
"""


def test_commands_when_asked_for_help_then_each_prints_it(program: Path, empty: Path, tmp_path: Path) -> None:
    listed = output(program, "--help", folder=empty, cache=tmp_path)
    python = program.with_name("python")
    package, *replies = output(python, "-c", HELP, folder=empty, cache=tmp_path).splitlines()
    assert Path(package).is_relative_to(program.parents[1])
    assert len(replies) >= 12
    for reply in replies:
        name, *rest = reply.split()
        assert rest == ["0", "True"], reply
        assert f" {name} " in listed
