"""What a notebook is made of: pictures, variants, answers, cells and runs, and a notebook that has some of each."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import PIL.Image

from playground.comparing.images import from_rgb
from playground.comparing.run_settings import RunSettings
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, QuestionDrift, Speed, TokenCost, VariantResult
from playground.measuring.statistics import Interval, Paired
from playground.notebooks.cells import (
    Cell,
    CompareCell,
    NoteCell,
    Picture,
    Run,
    RunResult,
    RunState,
    without_paths,
)
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library, Notebook
from playground.quantizing.recipes import Group, GroupSensitivity, Recipe, Rung
from playground.quantizing.scan_results import BuiltRecipe, RestoredGroup, Scan, Sensitivity, UniformComparison
from playground.values.answer import Branch, Candidate, ComparisonUpdate, Metrics, Pane, PaneState, TokenScore
from playground.values.files import ModelFile, Variant
from playground.values.request import Image, Order


def image(colour: str = "red", size: tuple[int, int] = (8, 6)) -> Image:
    return from_rgb(PIL.Image.new("RGB", size, colour))


def png(shown: Image) -> bytes:
    file = io.BytesIO()
    PIL.Image.frombytes("RGB", (shown.width, shown.height), shown.rgb).save(file, "PNG")
    return file.getvalue()


def picture(shown: Image, name: str = "a.png") -> Picture:
    return Picture(shown.sha256, shown.width, shown.height, name)


RED, BLUE = image("red"), image("blue")


def variant(label: str, bytes: int = 1000) -> Variant:
    model = ModelFile(f"/home/me/{label}.gguf", bytes, label.lower() * 8, label, 500, "llama", "v" * 64)
    projector = ModelFile("/home/me/mmproj.gguf", 200, "p" * 64, "F16", 100, "clip")
    return Variant(f"fam:{label}+mmproj-F16", "fam", label, model, projector, reference=label == "F16")


F16, Q8, Q2 = variant("F16"), variant("Q8_0", 500), variant("Q2_K", 200)


def pane(of: Variant, text: str, state: PaneState = PaneState.DONE, **fields: Any) -> Pane:
    ids = tuple(range(len(text.split())))
    scores = tuple(TokenScore(word, 0.5, (Candidate(1, "a", 0.5),)) for word in (*text.split(), ""))
    return Pane(of.id, state, text, ids, scores, Metrics(ttft_s=0.1, model_bytes=of.model.bytes), **fields)


def result(*panes: Pane, turn: int = 0, of: Picture | None = None, branches: tuple[Branch, ...] = ()) -> RunResult:
    update = ComparisonUpdate(panes, True, rendered_prompt="<s>", notes=("n",), elapsed_s=1.5, branches=branches)
    return RunResult(turn, update, of)


def compare_cell(**fields: Any) -> CompareCell:
    contents: dict[str, Any] = {"prompts": ("What?",), "pictures": (picture(RED),), "variants": (F16.id, Q2.id)}
    return CompareCell("c1", **{"family": "fam", **contents, **fields})


def run_of(cell: CompareCell, *results: RunResult, number: int = 1, **fields: Any) -> Run:
    contents: dict[str, Any] = {"variants": (without_paths(F16), without_paths(Q2)), "reference": F16.id}
    contents |= {"engine": "llama 1", "machine": "2 cores", "started": "2025-01-02T03:04:05+01:00"}
    return Run(number, cell, results=results, **{**contents, "state": RunState.DONE, "elapsed_s": 2.0, **fields})


ANSWERED = result(
    pane(F16, "three red squares"),
    pane(Q2, "three red circles", first_divergence=2),
    branches=(Branch(2, 2, pane(Q2, "three red squares")),),
)


def whole() -> list[tuple[Cell, tuple[Run, ...]]]:
    """A note, a conversation of two questions that was run twice, and a gallery."""
    talk = compare_cell(
        prompts=("What?", "Why \u2028 \U0001f600?"), settings=RunSettings(order=Order.RACE, stop=("x",))
    )
    talked = run_of(talk, ANSWERED, result(pane(F16, "because"), turn=1))
    failed = pane(Q2, "half", PaneState.FAILED, error="died", log=("a", "b"))
    again = run_of(talk, result(failed), number=2, state=RunState.STOPPED, elapsed_s=None)
    gallery = msgspec.structs.replace(
        compare_cell(pictures=(picture(RED), picture(BLUE, "b.png")), gallery=True, collapsed=True), id="c2"
    )
    shown = run_of(gallery, *(result(pane(F16, "a"), of=picture) for picture in gallery.pictures))
    note = NoteCell("n1", '# Title\n"cells": [\n{"cell": 1}')
    return [(note, ()), (talk, (talked, again)), (gallery, (shown,))]


def measurement() -> Measurement:
    moved = QuestionDrift(
        kl=(TokenCost("a", 0.5, False, (("a", 0.9),), (("b", 0.8),)), TokenCost("", 0.01)),
        first_divergence=0,
        text="b",
        score=0.0,
    )
    right = QuestionDrift(text="a", score=1.0)
    interval = Interval(0.25, 0.1, 0.5)
    result = VariantResult(
        Q2.id,
        mean_kl=interval,
        median_kl=0.01,
        p99_kl=0.5,
        same_top=interval,
        same_answer=interval,
        accuracy=interval,
        against=Paired(2, 0, 2, Interval(-1.0), 0.5, "worse"),
        looks="blind",
        look_kl=0.001,
        speed=Speed(2, 30.5, 0.1, 0.2, 0.3, 2**20),
        items=(moved, msgspec.structs.replace(moved, error="it crashed")),
    )
    questions = (Question("a.png", "What?", ("a",)), Question("../../etc/passwd", "Why?", ("a",)))
    speed = Speed(2, 20.0, None, 0.2, 0.3, 2**21)
    reference = VariantResult(F16.id, accuracy=Interval(1.0), speed=speed, items=(right, right))
    return Measurement(questions, ("a", "a"), (reference, result), 1e-9, {"batches of 32": 1e-9}, ("p",), 3.0)


def sensitivity() -> Sensitivity:
    groups = Group(False, "ffn_up", r"^blk\.\d+\.ffn_up\.weight$", 1000), Group(True, "mm", "^mm", 500)
    rungs = Rung("q4_K", 100, 0.01), Rung("q2_K", 300, 0.5)
    refused = Rung("q4_K", 0, None, "it crashed"), Rung("q2_K", 200, 0.001)
    against = UniformComparison("Q4_K_M", 600, Interval(0.02, 0.01, 0.03), Interval(0.01, 0.005, 0.02))
    recipe = Recipe("fam in 0.0 MB", "fam", 2, {"ffn_up": "q4_K"}, {"mm": "q2_K"}, note="found")
    built = BuiltRecipe(
        recipe, 700, 0.011, 0.012, Interval(0.01, 0.005, 0.02), (against,), ("llama-quantize",), "a", "b"
    )
    return Sensitivity(
        F16.id, 1200, Scan(("q4_K", "q2_K"), 2, True, max_bytes=900, max_kl=0.5), 4, 4, 1e-9,
        (GroupSensitivity(groups[0], rungs), GroupSensitivity(groups[1], refused)),
        (RestoredGroup(groups[0], "q2_K", 300, 0.1, 0.6),), built, ("p",), 3.0,
    )  # fmt: skip


def filled(library: Library, browser: str = "me") -> tuple[Notebook, NoteCell, CompareCell]:
    """A notebook of a note and a cell with two runs."""
    shown = library.pictures.keep(RED, "a.png")
    cell = compare_cell(pictures=(shown,))
    library.create(browser, "Mine", [WholeCell(NoteCell("", "hello")), WholeCell(cell, (run_of(cell, ANSWERED),))])
    notebook, _ = library.read(library.browser(browser)[1][0].id)
    note, compare = (library.cell(notebook, id) for id in notebook.cells)
    assert isinstance(note, NoteCell)
    assert isinstance(compare, CompareCell)
    library.save_run(notebook.id, library.begin_run(notebook.id, run_of(compare, ANSWERED)))
    return notebook, note, compare
