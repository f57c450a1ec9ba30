"""`doctor`, `download` and `presets` as a person calls them, against a Hub of the tests' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session

from playground.models.hub.client import Hub
from playground.settings import Settings
from playground.wiring import open_parts
from testkit import pairs
from testkit.command_line import Called, called
from testkit.hub_server import TOKEN, HubRepo, HubServer, hub_server

REPO, OTHER, GATED = "acme/pair-GGUF", "acme/projectors-GGUF", "acme/gated-GGUF"
ENDS_IN_MMPROJ = "acme/docling-GGUF"


Call = Callable[..., Called]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    return pairs.write_llava(tmp_path_factory.mktemp("pair"), name="pair")


@pytest.fixture(scope="module")
def served(files: pairs.PairFiles) -> Iterator[HubServer]:
    models: dict[str, bytes | Path] = {f"pair-{name}.gguf": files.model for name in ("F16", "Q8_0")}
    repos = [
        HubRepo(REPO, {**models, "mmproj-F16.gguf": files.projector, "Q2_K/pair-Q2_K-00001-of-00002.gguf": b"GGUF"}),
        HubRepo(OTHER, {"mmproj-BF16.gguf": files.projector}),
        HubRepo(GATED, {**models, "mmproj-F16.gguf": files.projector}, gated=True),
        HubRepo(
            ENDS_IN_MMPROJ,
            {"doc-bf16_q8_0.gguf": b"GGUF", "doc-q8_0.gguf": files.model, "doc-f16.mmproj": files.projector},
        ),
    ]
    with hub_server(repos) as server:
        yield server
        close_session()


@pytest.fixture
def call(served: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    served.well_behaved()
    served.patch(monkeypatch, tmp_path)
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(tmp_path / "cache"))

    return partial(called, monkeypatch, capfd)


def labels(tmp_path: Path) -> list[str]:
    """Of what the next start of the app opens beside the embedded model."""
    with open_parts(Settings(cache_dir=tmp_path / "cache")) as parts:
        return [v.label for v in parts.catalog.variants if v.family != "tiny-vlm"]


def test_download_when_by_quantization_then_the_next_start_has_the_pairs(call: Call, tmp_path: Path) -> None:
    result = call("download", REPO, "F16", "q8_0")
    assert result.code == 0, result.err
    lines = [Path(line) for line in result.out.splitlines()]
    assert [path.name for path in lines] == ["pair-F16.gguf", "mmproj-F16.gguf", "pair-Q8_0.gguf", "mmproj-F16.gguf"]
    assert all(path.is_file() for path in lines)
    assert labels(tmp_path) == ["F16"]  # the tests' two files are one


def test_download_when_the_projector_is_elsewhere_then_it_is_taken_from_there(call: Call) -> None:
    result = call("download", REPO, "pair-F16.gguf", "--projector", "bf16", "--projector-repo", OTHER)
    assert result.code == 0, result.err
    assert [Path(line).name for line in result.out.splitlines()] == ["pair-F16.gguf", "mmproj-BF16.gguf"]


def test_download_when_the_projectors_name_ends_in_mmproj_then_it_is_checked_fetched_and_opened(
    call: Call, tmp_path: Path
) -> None:
    """As in Mungert's repositories, which also have files of two types: bf16_q8_0 beside q8_0."""
    assert call("doctor", f"{ENDS_IN_MMPROJ}:Q8_0", f"{ENDS_IN_MMPROJ}:doc-f16.mmproj").code < 2
    assert "doc-f16.mmproj" in call("doctor", f"{ENDS_IN_MMPROJ}:none.mmproj").err.partition("It has: ")[2]
    result = call("download", ENDS_IN_MMPROJ, "Q8_0")
    assert result.code == 0, result.err
    assert [Path(line).name for line in result.out.splitlines()] == ["doc-q8_0.gguf", "doc-f16.mmproj"]
    assert labels(tmp_path) == ["Q8_0"]
    assert {file.name for file in Hub(own_token=False).cached()} == {"doc-q8_0.gguf", "doc-f16.mmproj"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([REPO, "Q9_X"], f"{REPO} has no language model 'Q9_X'. It has: F16, Q8_0, Q2_K."),
        ([REPO, "F16", "--projector", "Q9_X"], f"{REPO} has no projector 'Q9_X'. It has: F16."),
        ([OTHER, "F16"], f"{OTHER} has no language model 'F16'. It has: none."),
        ([REPO, "Q2_K"], "The repository lacks 1 shards of Q2_K/pair-Q2_K-00001-of-00002.gguf."),
    ],
)
def test_download_when_the_repository_has_no_such_file_then_it_says_what_it_has(
    call: Call, words: list[str], message: str
) -> None:
    result = call("download", *words)
    assert (result.code, result.out) == (2, "")
    assert result.err.strip() == f"Error: {message}"


def test_download_when_it_fails_then_said_and_the_pair_opens_once_it_has_come(call: Call, tmp_path: Path) -> None:
    result = call("download", GATED, "F16")
    assert (result.code, result.out) == (1, "")
    assert "pair-F16.gguf: acme/gated-GGUF: pair-F16.gguf is gated" in result.err
    assert labels(tmp_path) == []
    assert call("download", GATED, "F16", "--token", TOKEN).code == 0
    assert labels(tmp_path) == ["F16"]


def test_doctor_when_the_files_are_here_or_on_the_hub_then_it_finds_the_same(
    call: Call, files: pairs.PairFiles, tmp_path: Path
) -> None:
    here = json.loads(call("doctor", files.model, files.projector, "--json").out)
    on_hub = json.loads(call("doctor", f"{REPO}:pair-F16.gguf", f"{REPO}:mmproj-F16.gguf", "--json").out)
    assert here["level"] == on_hub["level"] < 2
    shared = {finding["code"] for finding in here["findings"]} & {finding["code"] for finding in on_hub["findings"]}
    assert "room" in shared
    blobs = [tmp_path / f"sha256-{n}" for n in "01"]  # as Ollama names its files
    for blob, file in zip(blobs, (files.model, files.projector), strict=True):
        blob.symlink_to(file)
    assert json.loads(call("doctor", *blobs, "--json").out)["level"] == here["level"]
    swapped = call("doctor", files.projector, f"{REPO}:pair-F16.gguf")
    assert swapped.code == 2
    assert "The two files are swapped" in swapped.out


def test_doctor_when_a_file_cannot_be_read_then_that_is_its_finding(call: Call, tmp_path: Path) -> None:
    (tmp_path / "text.gguf").write_text("hello")
    result = call("doctor", tmp_path / "text.gguf")
    assert result.code == 2
    assert result.out.startswith("✕ text.gguf: not a GGUF file.")
    assert result.err == ""


def test_doctor_when_the_repository_lacks_the_file_then_it_says_what_it_has(call: Call) -> None:
    result = call("doctor", f"{REPO}:none.gguf")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"Error: {REPO} has no file 'none.gguf'. It has: pair-F16.gguf, pair-Q8_0.gguf, ")


def test_doctor_when_a_quantization_is_named_then_that_file(call: Call) -> None:
    assert call("doctor", f"{REPO}:F16", f"hf.co/{REPO}:F16").code < 2
    assert "has no language model 'Q9'" in call("doctor", f"{REPO}:Q9", f"{REPO}:F16").err


def test_download_when_the_id_names_a_quantization_then_it_is_enough(call: Call) -> None:
    called = call("download", f"llama-server -hf {REPO}:Q8_0")
    assert called.code == 0, called.err
    assert called.out.split()[0].endswith("pair-Q8_0.gguf")
