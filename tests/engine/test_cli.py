"""The lab's commands as a person calls them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import PIL.Image
import pytest
from gguf import GGUFReader

from playground.cli import commands, options
from playground.errors import BadInput
from playground.measuring import result_documents
from playground.measuring.ship_card import ShipCard
from playground.models.presets import data_folder
from playground.quantizing import recipes
from playground.quantizing.scan_results import Sensitivity
from testkit import pairs
from testkit.command_line import Called, called

FOLDER = data_folder() / "tiny-vlm"
MODEL, PROJECTOR = str(FOLDER / "tiny-vlm-7M-F16.gguf"), str(FOLDER / "mmproj-tiny-vlm-7M-F16.gguf")


Call = Callable[..., Called]


@pytest.fixture(scope="module")
def cache(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one command measured serves the others."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "derived").symlink_to(derived / "derived")
    return folder


@pytest.fixture
def call(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls a command in this process, where importing has been paid for, with the test's folder as its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PLAYGROUND_CACHE_DIR", str(cache))
    monkeypatch.setattr(
        "playground.quantizing.uniform_baseline._NEAREST", 1
    )  # uniform pairs take most of a small scan's time

    return partial(called, monkeypatch, capfd)


def fine(result: Called) -> str:
    assert result.code == 0, result.err[-2000:]
    return result.out


def told(result: Called) -> str:
    """One clear line, and the exit code of bad input."""
    assert result.code == 2, result
    lines = result.err.strip().splitlines()
    assert len(lines) == 1, result.err
    return lines[0].removeprefix("Error: ")


def test_module_when_called_from_a_shell_then_the_same(cache: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "playground", "sensitivity", "--max-size", "5XB"],
        env=os.environ | {"PLAYGROUND_CACHE_DIR": str(cache)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (process.returncode, process.stdout, process.stderr) == (
        2, "", "Error: Invalid size '5XB'; write 5MB or 1.2GB.\n",
    )  # fmt: skip


def test_scan_when_under_a_size_then_a_recipe_whose_files_quantize_makes_again(
    call: Call, few: pairs.PairFiles
) -> None:
    pair = ("--model", few.model, "--projector", few.projector)
    scan = ("sensitivity", *pair, "--types", "q4_K, q2_K", "-n", "4", "--max-tokens", "16")
    before = few.model.stat().st_size + few.projector.stat().st_size
    shown = fine(call(*scan, "--max-size", f"{before - 60_000}B", "--out", "new/folder"))
    lines = shown.splitlines()
    assert lines[0].startswith("2 questions, noise floor ")
    assert lines[1].split() == ["group", "q4_K", "q2_K", "nats/MB"]
    assert {lines[2].split()[0], lines[3].split()[0]} == {"ffn_down", "v.ffn_down"}
    assert lines[4].split()[1:] == ["–", "–", "–"]
    (toml,) = Path("new/folder").glob("*.toml")
    assert f"new/folder/{toml.name}, made with:" in shown
    assert shown.count("llama-quantize ") == 2
    assert "The recipe (0.8 MB) drifts by " in shown
    files = {path.name: path for path in toml.parent.glob("*.gguf")}
    assert len(files) == 2

    document = json.loads(fine(call(*scan, "--json")))
    sensitivity = msgspec.convert(document, Sensitivity)
    assert [rung.kind for rung in sensitivity.sensed[0].rungs] == ["q4_K", "q2_K"]
    assert sensitivity.built is None

    recipe = recipes.read(toml)
    again = Path("again.gguf")
    shown = fine(call("quantize", few.projector, "--recipe", toml, "--out", again))
    assert shown.startswith("again.gguf: ")
    original = next(path for name, path in files.items() if name.startswith("mmproj"))
    assert {t.name: t.tensor_type for t in GGUFReader(again).tensors} == {
        t.name: t.tensor_type for t in GGUFReader(original).tensors
    }
    assert all(
        (a.data == b.data).all() for a, b in zip(GGUFReader(again).tensors, GGUFReader(original).tensors, strict=True)
    )
    assert GGUFReader(again).fields["quantize.name"].contents() == recipe.name

    impossible = call(*scan, "--max-size", "100KB", "--out", "none")
    assert told(impossible).startswith("No recipe was made: With these types the files come down to ")
    assert "v.ffn_down" in impossible.out  # the ranking is there
    assert not list(Path("none").glob("*"))
    assert "has no tensors" not in told(call("quantize", few.model, "--recipe", "gone.toml"))


VARIANTS = ("-n", "1", "--max-tokens", "4", "--json")
LAST = {
    "compare": (
        "compare",
        "--image",
        str(FOLDER / "evaluation/hard-62.png"),
        "--prompt",
        "x",
        "--repeat",
        "2",
        "--cold",
        *VARIANTS[2:],
    ),
    **{name: (name, *VARIANTS) for name in ("drift", "grid", "accuracy", "card")},
}


@pytest.mark.parametrize(("command", "form"), [*zip(LAST, itertools.cycle(["repeated", "commas"]), strict=False)])
def test_files_and_names_when_repeated_or_with_commas_then_every_one_is_used(
    call: Call, derived: Path, tmp_path: Path, command: str, form: str
) -> None:
    """All commands read these options by the same functions, so each is tried in one form."""
    models = [MODEL, str(next((derived / "derived").glob("*/tiny-vlm*Q2_K.gguf")))]
    comma = tmp_path / "mmproj, with a comma-Q4_0.gguf"
    comma.write_bytes(next((derived / "derived").glob("*/mmproj*Q4_0.gguf")).read_bytes())
    projectors = [PROJECTOR, str(comma)]

    def options(option: str, values: list[str]) -> list[str]:
        return [option, ",".join(values)] if form == "commas" else [w for value in values for w in (option, value)]

    files = options("--model", models) + [w for half in projectors for w in ("--projector", half)]
    names = options("--variants", ["F16", "Q2_K"]) + options("--projector", ["F16", "Q4_0"])
    for words in (files, names):
        document = json.loads(fine(call(*LAST[command], *words)))
        rows = document.get("panes") or document.get("rows") or document["results"]
        assert len({row["variant"] for row in rows}) == 4
        if command == "compare":
            assert [speeds["n"] for speeds in document["decode_tok_per_s"].values()] == [2] * 4
            assert {row["metrics"]["reused_tokens"] for row in rows} == {0}


def test_variants_when_named_with_files_then_these_of_the_pairs(call: Call, derived: Path) -> None:
    other = next((derived / "derived").glob("*/tiny-vlm*Q2_K.gguf"))
    words = ("--model", MODEL, "--model", other, "--projector", PROJECTOR)
    document = json.loads(fine(call("drift", *VARIANTS, *words, "--variants", "Q2_K")))
    assert [row["variant"] for row in document["results"]] == ["tiny-vlm:Q2_K+mmproj-F16"]
    assert (document["reference"], document["verdicts"]) == ("tiny-vlm:Q2_K+mmproj-F16", {})


def test_help_when_shown_then_it_names_every_command(call: Call) -> None:
    shown = fine(call("--help"))
    for command in commands.app.registered_commands:
        assert re.search(rf"^\W*{command.callback.__name__} ", shown, re.MULTILINE)
    assert len(commands.app.registered_commands) >= 11


def test_card_when_written_to_files_then_each_of_its_kind(call: Call) -> None:
    words = ("card", "--variants", "F16,Q4_K_M", "-n", "2", "--max-tokens", "8", "--max-kl", "0.5", "--max-size", "1GB")
    result = call(*words, "--out", "x.png", "--out", "x.html", "--json")
    card = msgspec.json.decode(fine(result), type=ShipCard)
    assert [row.label for row in card.rows] == ["F16", "Q4_K_M"]
    assert card.recommended is None
    assert card.reasons[0] == "Not enough questions to recommend one (2 asked)."
    assert card.command.startswith("python -m playground card --variants F16,Q4_K_M -n 2 ")
    assert all(row.tokens_per_second and row.memory for row in card.rows)
    assert "x.png written.\nx.html written.\n" in result.err
    with PIL.Image.open("x.png") as picture:
        assert picture.format == "PNG"
    assert "Not enough questions to recommend one (2 asked)." in Path("x.html").read_text()
    shown = fine(call(*words))
    assert "→ " not in shown
    assert "Not enough questions to recommend one (2 asked)." in shown
    assert "About 88 questions without a change would show 5%" in shown


def test_quantize_when_with_the_partner_then_checked_and_said(call: Call) -> None:
    words = ("quantize", PROJECTOR, "Q4_0", "--partner", MODEL, "-n", "1", "--out", "new.gguf")
    lines = fine(call(*words)).splitlines()
    assert lines[0].startswith("new.gguf: 2.")
    assert lines[1].startswith("embeddings against the source's, 1 image: cosine 0.99")
    assert lines[2].startswith("1 question: not enough questions; look test: too few questions.")
    assert "About 88 questions would be enough if they went on like these." in lines[2]
    shown = fine(call("quantize", MODEL, "Q2_K", "--dry-run"))
    assert shown.startswith("tiny-vlm-7M-Q2_K.gguf: would have ")
    assert os.listdir() == ["new.gguf"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sensitivity --max-size 5XB", "Invalid size '5XB'"),
        ("drift -n 3 -n 4", "-n was given 2 times; give it once."),
        (f"sensitivity --model {MODEL} --model {MODEL}", "--model was given 2 times"),
        ("download o/n Q4_0 --projector F16 --projector Q8_0", "--projector was given 2 times"),
        (f"drift --model {MODEL}", "Give both halves of a pair"),
        ("sensitivity --max-size 0", "A limit has to be a number above 0"),
        ("sensitivity --max-kl nan", "A limit has to be a number above 0"),
        ("sensitivity --types , --restore", "Say which types"),
        ("sensitivity -n 3", "at least four questions"),
        ("sensitivity --types q8_0,q99", "no quantization called 'Q99'"),
        (f"sensitivity --max-size 5MB --out {MODEL}", "cannot be written"),
        ("sensitivity --depth 0", "depth has to be between"),
        (f"sensitivity --model {MODEL}", "Give both --model and --projector"),
        ("card --out x.pdf", "written as html, json, png, not as 'pdf'"),
        ("card --out gone/x.png", "There is no folder gone"),
        ("drift --results gone/x.json", "There is no folder gone"),
        ("grid --uploader anna", "give --results FILE too"),
        ("card --max-kl -1", "A limit has to be a number above 0"),
        (f"quantize {MODEL}", "Say which quantization"),
        (f"quantize {MODEL} Q4_0 --recipe x.toml", "Say which quantization"),
        (f"quantize {MODEL} --recipe gone.toml", "gone.toml cannot be read"),
        (f"quantize {MODEL} Q4_0 --calibrate", "--calibrate makes a matrix with the other half"),
        (f"quantize {MODEL} Q4_0 --tensor-type x", "PATTERN=TYPE"),
        (f"quantize {MODEL} Q9_9 --dry-run", "no quantization called 'Q9_9'"),
        (f"quantize {MODEL} Q9_9 --partner gone.gguf", "no quantization called 'Q9_9'"),  # before a file is hashed
    ],
)  # fmt: skip
def test_words_when_they_make_no_sense_then_one_line_and_code_2(call: Call, words: str, message: str) -> None:
    assert message in told(call(*words.split()))
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("text", "size"), [("5MB", 5_000_000), ("1.2 GB", 1_200_000_000), ("7", 7), ("3k", 3000), (" 1tb ", 10**12)]
)
def test_size_when_written_by_a_person_then_bytes(text: str, size: int) -> None:
    assert options.bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-5MB", "1.2.3GB", ".", "5MiB", "1e9", "nan", "inf", "9" * 400])
def test_size_when_it_is_none_then_said(text: str) -> None:
    with pytest.raises(BadInput, match=r"Invalid size .*; write 5MB") as refused:
        options.bytes_of(text)
    assert len(str(refused.value)) < 100


def test_drift_when_a_question_cannot_be_asked_then_the_table_and_the_exit_code_say_so(
    call: Call, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.png").write_bytes((FOLDER / "evaluation/hard-62.png").read_bytes())
    rows = [{"image": "a.png", "question": text, "answer": "x"} for text in ("What do you see?", "a " * 3000)]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    options = ("drift", "--variants", "F16,Q2_K", "--items", folder, "--max-tokens", "8")
    drift = call(*options)
    assert drift.code == 1
    assert re.search(r"^Q2_K +reference", call(*options, "--reference", "Q2_K").out, re.MULTILINE)
    assert "1 question (1 left out)" in drift.out
    assert "\nNot enough questions to tell: Q2_K" in drift.out
    assert "1 of 2 questions could not be asked" in drift.err
    assert "this model was trained for" in drift.err.lower()


def test_pack_when_it_is_shown_and_measured_against_then_it_stands_in_for_the_reference(
    call: Call, tmp_path: Path
) -> None:
    shipped = Path(__file__).parents[2] / "examples/tiny-vlm-7M-F16-hard-150.safetensors"
    shown = fine(call("pack", "show", shipped))
    assert "questions: 150 about" in shown
    assert "check: Q2_K" in shown
    small = tmp_path / "small.safetensors"
    mood = ("--template-variables", '{"mood": "calm"}')
    words = fine(call("pack", "make", small, "--variants", "F16", "-n", 3, *mood))
    assert 'asked with: mood "calm"' in words
    assert "check: none" in words
    assert "exists" in told(call("pack", "make", small))
    shared = tmp_path / "shared.json"
    rows = fine(call("drift", "--pack", small, "--variants", "Q2_K", "--results", shared, "--uploader", "Anna B"))
    document = result_documents.read(shared)
    assert document.reference.pack_sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
    assert (document.uploader, document.reference_variant.label, document.settings.max_tokens) == (
        "Anna B",
        "F16 (pack)",
        64,
    )
    assert document.settings.template_variables == {"mood": "calm"}
    assert re.search(r"F16 \(pack\) +reference", rows)
    assert 'asked with: mood "calm"' in rows
    assert re.search(r"Q2_K +\d of 3", rows)
    card = call("card", "--pack", small, "--variants", "Q2_K", "--json")
    assert "64 tokens" in json.loads(fine(card))["settings"]
    assert json.loads(card.out)["recommended"] is None
    assert re.search(r"Q2_K +\d", fine(call("accuracy", "--pack", small, "--variants", "Q2_K")))
    gate = call("gate", "--pack", small, "--candidate", "Q2_K", "--max-kl", "0.000001", "--json")
    assert gate.code == 1
    assert set(json.loads(gate.out)["labels"].values()) == {"F16 (pack)", "Q2_K"}
    assert call("gate", "--pack", small, "--reference", "F16", "--candidate", "Q2_K").code == 3
    assert call("gate", "--candidate", "Q2_K").code == 3
    halves = ("--variants", "F16,Q2_K", "--projector", "F16,Q2_K")
    assert re.search(r"Q2_K +[\d.]+ +[\d.]+", fine(call("grid", "--pack", small, *halves)))
    assert "Leave out --max-tokens" in told(call("drift", "--pack", small, "--max-tokens", 8))
    assert "Leave out --template-variables" in told(call("drift", "--pack", small, *mood))
    other = pairs.write_pair("mlp", tmp_path)
    files = ("--model", str(other.model), "--projector", str(other.projector))
    assert "another vocabulary than F16 (pack)" in told(call("drift", "--pack", small, *files))
