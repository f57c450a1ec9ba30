"""The container and the Space: Dockerfile, .dockerignore, README's front matter and docs/operate/ agree."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path, PurePosixPath
from threading import Thread

import pytest
import yaml
from huggingface_hub import SpaceHardware

from playground.models.presets import read_presets
from playground.settings import Settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SPACES = (ROOT / "docs/operate/spaces.md").read_text()
CONTAINER = (ROOT / "docs/operate/container.md").read_text()
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def dockerfile() -> list[tuple[str, str]]:
    """Instructions and what follows them, comments and line breaks removed."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


STEPS = dockerfile()
LAST_STAGE = STEPS[max(i for i, (verb, _) in enumerate(STEPS) if verb == "FROM") :]
ENVIRONMENT = dict(pair.split("=", 1) for verb, rest in LAST_STAGE if verb == "ENV" for pair in shlex.split(rest))
COPIED = [
    source
    for verb, rest in STEPS
    if verb == "COPY" and not rest.startswith("--from=")
    for source in shlex.split(rest)[:-1]
]


def in_context(path: str) -> bool:
    """Whether .dockerignore lets a file into the build; of its patterns, the last that fits decides."""
    folders = [PurePosixPath(path), *PurePosixPath(path).parents]
    in_stage = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            name = pattern.removeprefix("**/")
            if any(fnmatch.fnmatch(p.name if name != pattern else str(p), name) for p in folders[:-1]):
                in_stage = line.startswith("!")
    return in_stage


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [name for name in listed.stdout.split("\0") if name]


def hardware() -> dict[str, str]:
    """Flavour and compute capability (– for none) of the table in docs/operate/spaces.md."""
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| ([\d.–]+) \|", SPACES, flags=re.MULTILINE)
    assert len(rows) > 5
    return dict(rows)


def head() -> dict[str, object]:
    match = re.match(r"---\n(.*?)\n---\n\n# ", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert match, "README.md begins with the Space's settings, and the title follows them"
    settings: dict[str, object] = yaml.safe_load(match[1])
    return settings


def test_context_when_files_are_copied_then_the_package_is_whole() -> None:
    tree = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*tree["packages"], *tree["force-include"], PROJECT["project"]["readme"], "LICENSE", "pyproject.toml"}
    assert needed | {"app.py"} == set(COPIED)
    files = tracked()
    assert all(in_context(name) for name in files if name.split("/")[0] in COPIED)
    assert all(any(name.split("/")[0] == source for name in files) for source in COPIED)


@pytest.mark.parametrize(
    "name", [".git/config", ".env", "model.gguf", "testkit/pairs.py", "build/x", "playground/ui/__pycache__/page.pyc"]
)
def test_context_when_a_file_is_not_needed_then_it_stays_out(name: str) -> None:
    assert not in_context(name)


def test_engine_when_installed_then_it_is_the_projects_own_requirement() -> None:
    (pinned,) = [
        requirement for requirement in PROJECT["project"]["dependencies"] if requirement.startswith("llama-cpp-python")
    ]
    assert any(verb == "RUN" and f'"{pinned}"' in rest for verb, rest in STEPS)


def test_images_when_chosen_then_each_accelerator_has_both_with_a_version() -> None:
    bases = {rest.split(" AS ")[-1]: rest.split()[0] for verb, rest in STEPS if verb == "FROM"}
    for name in ("build-cpu", "build-cuda", "run-cpu", "run-cuda"):
        assert re.search(r":\d\S+", bases[name]), f"{name} has no version"
    assert bases["build-cuda"].replace("-devel-", "-runtime-") == bases["run-cuda"]  # the same CUDA, and Python's place
    assert "devel" not in LAST_STAGE[0][1]
    assert not any(verb == "RUN" and ("build-essential" in rest or "gcc" in rest) for verb, rest in LAST_STAGE)


def test_port_when_said_in_five_places_then_it_is_one() -> None:
    exposed = [rest for verb, rest in LAST_STAGE if verb == "EXPOSE"]
    assert exposed == [ENVIRONMENT["GRADIO_SERVER_PORT"]] == [str(head()["app_port"])] == ["7860"]
    assert ENVIRONMENT["GRADIO_SERVER_NAME"] == "0.0.0.0"
    assert ":7860" in CONTAINER


def test_user_when_the_app_runs_then_it_is_1000_and_owns_every_folder_it_writes_to() -> None:
    user = next(i for i, step in enumerate(LAST_STAGE) if step == ("USER", "1000"))
    folders = next(rest for verb, rest in LAST_STAGE[user:] if verb == "RUN" and rest.startswith("mkdir -p"))
    for name in ("HF_HOME", "GRADIO_TEMP_DIR", "PLAYGROUND_CACHE_DIR"):
        assert ENVIRONMENT[name].startswith(ENVIRONMENT["HOME"] + "/.cache/")
        assert f'"${name}"' in folders
    assert ENVIRONMENT["HF_HOME"] == "/home/user/.cache/huggingface"  # where the Hub's preload_from_hub puts files


def test_variables_when_named_then_the_settings_have_them() -> None:
    known = {f"PLAYGROUND_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"PLAYGROUND_[A-Z_]+", SPACES + CONTAINER + (ROOT / "Dockerfile").read_text())) <= known


def test_arguments_when_set_by_a_spaces_variables_then_the_build_asks_for_them() -> None:
    arguments = {rest.split("=")[0] for verb, rest in STEPS if verb == "ARG"}
    (row,) = [line for line in SPACES.splitlines() if line.startswith("| `ACCELERATOR`")]
    assert set(re.findall(r"`(\w+)`", row.split("|")[1])) == arguments


def test_architectures_when_compiled_then_every_gpu_of_the_page_is_among_them() -> None:
    (architectures,) = [m[1] for _, rest in STEPS if (m := re.search(r"-DCMAKE_CUDA_ARCHITECTURES=([\w;-]+)", rest))]
    compiled = {architecture.removesuffix("-real") for architecture in architectures.split(";")}
    capabilities = {capability.replace(".", "") for capability in hardware().values() if capability != "–"}
    assert capabilities | {"90"} == compiled
    assert not architectures.split(";")[-1].endswith("-real"), "the newest keeps its PTX, for GPUs that are newer still"


def test_hardware_when_listed_then_the_hub_has_it() -> None:
    flavours = {flavour.value for flavour in SpaceHardware}
    assert set(hardware()) <= flavours
    assert head()["suggested_hardware"] in hardware()


def test_head_when_read_as_the_hub_does_then_every_value_is_allowed() -> None:
    settings = head()
    colours = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert settings["sdk"] == "docker"
    assert {settings["colorFrom"], settings["colorTo"]} <= colours
    assert len(str(settings["short_description"])) <= 60
    assert re.fullmatch(r"\d+[hm]", str(settings["startup_duration_timeout"]))
    assert settings["license"] == PROJECT["project"]["license"].lower()
    assert isinstance(settings["pinned"], bool)
    assert isinstance(settings["hf_oauth"], bool)
    assert set(settings["models"]) <= {preset.repo for preset in read_presets()}  # type: ignore[call-overload]
    assert set(settings) == {
        "title", "emoji", "colorFrom", "colorTo", "sdk", "app_port", "suggested_hardware", "startup_duration_timeout",
        "short_description", "license", "pinned", "hf_oauth", "models", "tags",
    }  # fmt: skip


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_health_check_when_the_app_answers_then_it_exits_accordingly(status: int, healthy: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing to standard error."""

    check = next(rest for verb, rest in LAST_STAGE if verb == "HEALTHCHECK")
    _, *arguments = json.loads(check[check.index("[") :])
    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {**os.environ, "GRADIO_SERVER_PORT": str(server.server_port)}
        process = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True)
        server.shutdown()
    assert (process.returncode == 0) is healthy


def test_files_when_pushed_to_the_hub_then_none_is_over_its_limit() -> None:
    assert not [name for name in tracked() if (ROOT / name).is_file() and (ROOT / name).stat().st_size > 10_000_000]


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_dockerfile_when_linted_then_nothing_is_found() -> None:
    process = subprocess.run([str(HADOLINT), "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "")
