"""Boxes in answers: what is read, at which scale they are drawn, and what nobody means as a box."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from playground.measuring.boxes import read_boxes
from playground.notebooks.cells import Picture
from playground.rendering import boxes_view
from playground.values.answer import ComparisonUpdate, Metrics, Pane, PaneState
from playground.values.files import ModelFile, Variant

FILE = ModelFile(path="a.gguf", bytes=10, sha256="0", quantization="F16", n_params=10, architecture="llama")
F16, Q2 = (Variant(id=name, family="f", label=name, model=FILE, projector=FILE) for name in ("F16", "Q2_K"))
PICTURE = Picture("0" * 64, 400, 200, "a.png")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            '```json\n[{"bbox_2d": [1, 2, 30, 40], "label": "cat"}, {"label": "dog", "bbox_2d": [5, 6, 7, 8]}]\n```',
            [((1, 2, 30, 40), "cat"), ((5, 6, 7, 8), "dog")],
        ),
        ('[{"box_2d": [200, 100, 400, 300], "label": "a"}]', [((100, 200, 300, 400), "a")]),
        ("<loc0128><loc0256><loc0768><loc0512> cat ; <loc0001><loc0002><loc0003><loc0004> dog",
         [((256, 128, 512, 768), ""), ((2, 1, 4, 3), "")]),
        ("<ref>cats</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>", [((1, 2, 3, 4), ""), ((5, 6, 7, 8), "")]),
        ("<|box_start|>(1,2),(3,4)<|box_end|><|box_start|>(5,6),(7,8)<|box_end|>",
         [((1, 2, 3, 4), ""), ((5, 6, 7, 8), "")]),
        ('{"x1": 1, "y1": 2, "x2": 3, "y2": 4, "name": "n"} {"x1": 5, "y1": 6, "x2": 7, "y2": 8}',
         [((1, 2, 3, 4), "n"), ((5, 6, 7, 8), "")]),
        ("[3, 4, 1, 2]", []),  # no area
        ("There are 1 2 3 4 of them", []),  # numbers without brackets
        ("a red circle", []),
    ],
)  # fmt: skip
def test_boxes_when_written_in_a_familys_form_then_all_are_read(
    text: str, expected: list[tuple[tuple[float, ...], str]]
) -> None:
    assert [(box.corners, box.label) for box in read_boxes(text)] == expected


@pytest.mark.parametrize("text", ["[1," + " " * 200_000, "(1,2)" + " " * 200_000, "[1, " * 50_000, "{" * 200_000])
def test_boxes_when_a_text_is_made_to_be_slow_then_read_within_seconds(text: str) -> None:
    begun = time.process_time()
    assert read_boxes(text) == ()
    assert time.process_time() - begun < 20


def drawn(variant: Variant, text: str, metrics: Metrics | None = None) -> list[str]:
    """The rectangles' x, y, width, height."""
    pane = Pane(variant.id, PaneState.DONE, text, metrics=metrics or Metrics())
    html = str(boxes_view.html(ComparisonUpdate((pane,)), (variant,), variant.id, PICTURE, "data:"))
    return re.findall(r'\s(?:x|y|width|height)="([\d.]+)"', html.split("<svg")[1])


def test_scale_when_the_numbers_are_small_then_shares_else_thousandths() -> None:
    assert drawn(F16, "[0.1, 0.5, 0.2, 1.0]") == ["40.0", "100.0", "40.0", "100.0"]
    assert drawn(F16, "[100, 500, 200, 1000]") == ["40.0", "100.0", "40.0", "100.0"]
    assert drawn(F16, "<loc0512><loc0256><loc1024><loc0512>") == ["100.0", "100.0", "100.0", "100.0"]


def test_scale_when_the_family_writes_pixels_then_those_that_its_encoder_saw() -> None:
    qwen = replace(Q2, family="Qwen2.5-VL-3B-Instruct")
    seen = Metrics(image_pixels=((800, 400),))
    assert drawn(qwen, '{"bbox_2d": [80, 40, 160, 80]}', seen) == ["40.0", "20.0", "40.0", "20.0"]
    assert drawn(qwen, '{"bbox_2d": [80, 40, 160, 80]}') == ["80.0", "40.0", "80.0", "40.0"]
    assert drawn(F16, '{"bbox_2d": [800, 40, 1200, 80]}', Metrics(image_pixels=((1600, 400),))) == [
        "200.0", "20.0", "100.0", "20.0"]  # fmt: skip


SCALES = [
    ("dots.ocr", "", "a.gguf", True),  # by its preset
    ("qwen3-vl-2b", "qwen2.5vl_merger", "qwen2.5-vl.gguf", False),  # by its preset, whatever the files say
    ("mine", "qwen2.5vl_merger", "a.gguf", True),  # by the projector's type
    ("mine", "qwen2vl_merger", "qwen2.5-vl.gguf", False),  # by the type, whatever the name is
    ("mine", "", "my-qwen2.5-vl.gguf", True),  # of an older run: by the name
    ("mine", "", "a.gguf", False),
]


@pytest.mark.parametrize(("family", "kind", "name", "pixels"), SCALES)
def test_scale_when_preset_type_and_name_differ_then_the_first_that_is_known_counts(
    family: str, kind: str, name: str, pixels: bool
) -> None:
    files = replace(FILE, path=name), replace(FILE, projector_type=kind)
    variant = replace(Q2, family=family, model=files[0], projector=files[1])
    seen = Metrics(image_pixels=((800, 400),))
    assert drawn(variant, "[80, 40, 160, 80]", seen)[:2] == (["40.0", "20.0"] if pixels else ["32.0", "8.0"])


def test_boxes_when_variants_differ_then_each_has_a_colour_and_its_overlap_with_the_reference() -> None:
    panes = (
        Pane("F16", PaneState.DONE, '{"bbox_2d": [0, 0, 500, 500], "label": "<b>"}'),
        Pane("Q2_K", PaneState.DONE, '{"bbox_2d": [0, 0, 500, 250]}'),
    )
    html = str(boxes_view.html(ComparisonUpdate(panes), (F16, Q2), "F16", PICTURE, "data:"))
    assert "IoU 0.50" in html
    assert html.count("<rect") == 2
    assert {"vp-b0", "vp-b1"} <= set(re.findall(r"vp-b\d", html))
    assert "&lt;b&gt;" in html
    assert "read as thousandths" in html


def test_boxes_when_no_ended_answer_has_one_then_nothing_is_drawn() -> None:
    writing = Pane("F16", PaneState.WRITING, "[0, 0, 500, 500]")
    assert not boxes_view.html(ComparisonUpdate((writing,)), (F16, Q2), "F16", PICTURE, "data:")
    pane = replace(writing, state=PaneState.DONE)
    assert not boxes_view.html(ComparisonUpdate((pane,)), (F16, Q2), "F16", PICTURE, None)
