"""The notebook's file, and what is told of two runs."""

from __future__ import annotations

import base64
import copy
import io
import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
import PIL.Image
import pytest

from playground.errors import BadInput
from playground.lab.changes import changes
from playground.lab.documents import RunSettings
from playground.lab.images import from_rgb
from playground.lab.notebook import (
    MAX_CELLS,
    Cell,
    CompareCell,
    NoteCell,
    Picture,
    Result,
    Run,
    RunState,
    WholeCell,
    from_json,
    settled,
    to_json,
    without_paths,
)
from playground.ui import cells as page
from playground.ui import report
from playground.values import (
    Candidate,
    ComparisonUpdate,
    Image,
    Metrics,
    ModelFile,
    Order,
    Pane,
    PaneState,
    TokenScore,
    Variant,
)

# --- what a notebook is made of -------------------------------------------------------------------------------------


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


def result(*panes: Pane, turn: int = 0, of: Picture | None = None) -> Result:
    return Result(turn, ComparisonUpdate(panes, done=True, rendered_prompt="<s>", notes=("n",), elapsed_s=1.5), of)


def compare_cell(**fields: Any) -> CompareCell:
    given: dict[str, Any] = {"prompts": ("What?",), "pictures": (picture(RED),), "variants": (F16.id, Q2.id)}
    return CompareCell("c1", **{"family": "fam", **given, **fields})


def run_of(cell: CompareCell, *results: Result, number: int = 1, **fields: Any) -> Run:
    given: dict[str, Any] = {"variants": (without_paths(F16), without_paths(Q2)), "reference": F16.id}
    given |= {"engine": "llama 1", "machine": "2 cores", "started": "2025-01-02T03:04:05+01:00"}
    return Run(number, cell, results=results, **{**given, "state": RunState.DONE, "elapsed_s": 2.0, **fields})


ANSWERED = result(pane(F16, "three red squares"), pane(Q2, "three red circles", first_divergence=2))


def whole() -> list[tuple[Cell, tuple[Run, ...]]]:
    """A note, a conversation of two questions that was run twice, and a gallery."""
    talk = compare_cell(prompts=("What?", "Why \u2028 \U0001f600?"), settings=RunSettings(order=Order.RACE, stop=("x",)))
    talked = run_of(talk, ANSWERED, result(pane(F16, "because"), turn=1))
    failed = pane(Q2, "half", PaneState.FAILED, error="died", log=("a", "b"))
    again = run_of(talk, result(failed), number=2, state=RunState.STOPPED, elapsed_s=None)
    both = compare_cell(id_="", pictures=(picture(RED), picture(BLUE, "b.png")), gallery=True, collapsed=True) if 0 else (
        msgspec.structs.replace(
            compare_cell(pictures=(picture(RED), picture(BLUE, "b.png")), gallery=True, collapsed=True), id="c2"
        )
    )
    shown = run_of(both, *(result(pane(F16, "a"), of=one) for one in both.pictures))
    return [(NoteCell("n1", '# Title\n"cells": [\n{"cell": 1}'), ()), (talk, (talked, again)), (both, (shown,))]
