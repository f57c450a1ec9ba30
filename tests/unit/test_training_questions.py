"""The embedded pair as it is shipped, and the scenes it was trained on. None of this needs PyTorch."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from gguf import GGUFReader

from testkit.running import EMBEDDED, MODEL, PROJECTOR
from training import evaluate
from training.phrases import INTENTS, phrasings
from training.questions import CATEGORIES, iou, questions, unseen, written
from training.scenes import ASPECTS, LEVELS, SIZE, compose, render


def items() -> list[dict[str, Any]]:
    return [json.loads(line) for line in (EMBEDDED / "evaluation/items.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("path", "kind", "name"), [(MODEL, "model", "Tiny VLM"), (PROJECTOR, "mmproj", "Tiny VLM projector")]
)
def test_pair_when_read_then_its_metadata_says_what_it_is(path: Path, kind: str, name: str) -> None:
    fields = GGUFReader(path).fields
    general = {key: field.contents() for key, field in fields.items() if key.startswith("general.")}
    assert general["general.type"] == kind
    assert general["general.name"] == name
    assert general["general.basename"] == "tiny-vlm"
    assert general["general.size_label"] == "7M"
    assert general["general.license"] == "apache-2.0"
    assert general["general.file_type"] == 1


def test_pair_when_read_then_every_k_quant_fits_each_of_its_matrices() -> None:
    # ggml's super-blocks are 256 weights of a row; positions and the patches' convolution are never quantized.
    rows = {
        tensor.name: int(tensor.shape[0])
        for path in (MODEL, PROJECTOR)
        for tensor in GGUFReader(path).tensors
        if len(tensor.shape) == 2 and "position" not in tensor.name
    }
    assert len(rows) == 6 * 7 + 1 + 6 * 6 + 2
    assert {name: width for name, width in rows.items() if width % 256} == {}


def test_pair_when_weighed_then_it_is_at_most_15_mb() -> None:
    assert MODEL.stat().st_size + PROJECTOR.stat().st_size <= 15_000_000


def test_evaluation_set_when_read_then_it_is_whole_and_small() -> None:
    folder = EMBEDDED / "evaluation"
    rows = items()
    assert len(rows) >= 300
    assert Counter((i["level"], i["category"]) for i in rows) == {(v, c): 15 for v in LEVELS for c in CATEGORIES}
    assert {i["image"] for i in rows} == {path.name for path in folder.glob("*.png")}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3_000_000
    for name in {i["image"] for i in rows}:
        with PIL.Image.open(folder / name) as image:
            assert image.size == (SIZE, SIZE) or max(image.size) == 2 * SIZE


def test_unseen_phrasings_when_compared_then_training_has_none_of_them() -> None:
    trained = {p.casefold().rstrip("?.") for same in phrasings("trained").values() for ps in same for p in ps}
    held_out = phrasings("unseen")
    assert list(held_out) == list(CATEGORIES)
    assert all(len(phrasings) == 10 for phrasings in held_out.values())
    assert not {p.casefold().rstrip("?.") for same in held_out.values() for (p,) in same} & trained
    assert set(INTENTS.values()) <= set(phrasings("trained"))


def test_scenes_when_of_the_same_seed_then_the_same_to_the_last_pixel() -> None:
    for level in LEVELS:
        drawing, two = (compose(random.Random("tests 1"), level) for _ in range(2))
        assert drawing == two
        assert render(drawing).tobytes() == render(two).tobytes()
        drawn = [questions(scene, random.Random(2), 20) for scene in (drawing, two)]
        assert drawn[0] == drawn[1]


@pytest.mark.parametrize("aspect", ASPECTS.values(), ids=ASPECTS)
def test_scene_when_of_another_shape_then_letterboxed_as_llama_cpp_does(aspect: float) -> None:
    for seed in range(20):
        scene = compose(random.Random(f"tests {seed}"), "hard", aspect=aspect)
        boxed, alone = render(scene), render(scene, letterbox=False)
        assert boxed.size == (SIZE, SIZE)
        assert max(alone.size) == 2 * SIZE
        assert alone.width / alone.height == pytest.approx(aspect, abs=0.02)
        if aspect != 1:
            assert {boxed.getpixel((0, 0)), boxed.getpixel((SIZE - 1, SIZE - 1))} == {(127, 127, 127)}
        left, top, width, height = scene.frame
        for thing in scene.things:
            assert left <= thing.box[0] < thing.box[2] <= left + width
            assert top <= thing.box[1] < thing.box[3] <= top + height


def test_questions_when_asked_then_each_category_comes_and_no_answer_is_empty() -> None:
    rng = random.Random("tests 3")
    counted: Counter[str] = Counter()
    for number in range(60):
        scene = compose(rng, LEVELS[number % 2])
        items = questions(scene, rng, 100)
        counted.update(q.category for q in items)
        assert all(q.question.strip() and q.answer and "{" not in q.question for q in items)
        for category in CATEGORIES:
            assert all("{" not in q.question for q in unseen(scene, rng, category))
    assert set(counted) == set(CATEGORIES)


def test_boxes_when_written_then_their_overlap_is_read_back() -> None:
    assert written((2, 4, 10, 98)) == "[0.02, 0.04, 0.10, 0.98]"
    assert iou(written((0, 0, 10, 10)), written((0, 0, 10, 10))) == 1
    assert iou(written((0, 0, 10, 10)), written((0, 5, 10, 15))) == pytest.approx(1 / 3)
    assert iou(written((0, 0, 10, 10)), written((20, 20, 30, 30))) == 0
    assert iou("there is no star", written((0, 0, 10, 10))) == 0
    assert iou("[0.10, 0.2", written((0, 0, 10, 10))) == 0


def test_interval_when_of_a_share_then_wilsons() -> None:
    low, high = evaluate.interval(15, 100)
    assert (round(low, 4), round(high, 4)) == (0.0931, 0.2328)  # Wilson 1927, as in every table of it
    assert evaluate.interval(0, 10)[0] == 0
    assert evaluate.interval(10, 10)[1] == 1


def test_tables_when_made_then_each_rung_has_what_was_counted() -> None:
    answers = [
        {"level": "easy", "category": "ocr", "answer": "A", "answers": {"F16 / F16": "A", "Q2_K / F16": "A"}},
        {"level": "hard", "category": "ocr", "answer": "B", "answers": {"F16 / F16": "B", "Q2_K / F16": "C"}},
        {"level": "hard", "category": "box", "answer": "D", "answers": {"F16 / F16": "E", "Q2_K / F16": "E"}},
    ]
    files = {"F16 / F16": (2_000_000, 3_000_000), "Q2_K / F16": (1_000_000, 3_000_000)}
    counted = evaluate.summary(answers, files)["Q2_K / F16"]
    assert counted["levels"]["hard"] == {"questions": 2, "right": 0, "changed": 1}
    assert counted["right_by_category"] == {"ocr": 1, "box": 0}
    lines = evaluate.tables(answers, files).splitlines()
    assert lines[3].startswith("| Q2_K / F16 | 4.0 | 100 (21–100) | 0 (0–66) | 50 (9–91) |")
