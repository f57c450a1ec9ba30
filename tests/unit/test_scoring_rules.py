"""The scoring rules on answers as models write them, and what is taken off an answer first."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from playground.cli.commands import app
from playground.measuring.answer_text import answer_text
from playground.measuring.question_sets import Question, Rule
from playground.measuring.scoring_rules import score, yes_no


def of(rule: Rule, accepted: str, answer: str, options: tuple[str, ...] = ()) -> float | None:
    return score(Question("", "", (accepted,), rule, options=options), answer)


@pytest.mark.parametrize(
    ("rule", "accepted", "answer", "expected"),
    [
        (Rule.IOU, "[10, 20, 30, 40]", '{"bbox_2d": [10, 20, 30, 40], "label": "cat"}', 1),
        (Rule.IOU, "[0.1, 0.2, 0.3, 0.4]", "<ref>2 cats</ref><box>[[100, 200, 300, 400]]</box>", 1),
        (Rule.IOU, "[0.1, 0.2, 0.3, 0.4]", '```json\n[{"box_2d": [200, 100, 400, 300], "label": "cat"}]\n```', 1),
        (Rule.IOU, "[0.1, 0.2, 0.3, 0.4]", "<|box_start|>(100,200),(300,400)<|box_end|>", 1),
        (Rule.IOU, "[0.25, 0.125, 0.5, 0.75]", "<loc0128><loc0256><loc0768><loc0512> cat", 1),
        (Rule.IOU, "[0.1, 0.2, 0.3, 0.4]", "x1=0.1, y1=0.2, x2=0.3, y2=0.4", 1),
        (Rule.IOU, "[0.1, 0.2, 0.3, 0.4]", "[0.3, 0.4, 0.1, 0.2]", 0),
        (Rule.IOU_AT_HALF, "[0, 0, 1, 1]", "[0.5, 0, 1, 1]", 1),
        (Rule.IOU_AT_HALF, "[0, 0, 1, 1]", "[0.51, 0, 1, 1]", 0),
        (Rule.CHOICE, "B", "This is a cat, so the answer is B.", 1),
        (Rule.CHOICE, "B", "I think B", 1),
        (Rule.CHOICE, "B", "B) two dogs", 1),
        (Rule.CHOICE, "B", "Ｂ", 1),
        (Rule.CHOICE, "A", "A man is riding a horse.", 0),
        (Rule.CHOICE, "A", "The answer is A and B", 0),
        (Rule.CHOICE, "C", "The answer is not A but C.", 1),
        (Rule.CHOICE, "J", "J", 1),
        (Rule.NUMBER, "12.5", "In 2023 the total was $12.50", 1),
        (Rule.NUMBER, "2023", "It was built in 2023.", 1),
        (Rule.NUMBER, "1000", "1 000", 1),
        (Rule.NUMBER, "-5", "−5", 1),
        (Rule.NUMBER, "1234.5", "1.234,5 €", 1),
        (Rule.NUMBER, "0.5", "50%", 1),
        (Rule.NUMBER, "3", "three", 1),
        (Rule.NUMBER, "12", "一共12个", 1),
        (Rule.NUMBER, "12", "١٢", 1),
        (Rule.NUMBER, "1250000", "1.25 million", 1),
        (Rule.NUMBER, "12", "no number", 0),
        (Rule.EXACT, "Paris", "**Paris**", 1),
        (Rule.EXACT, "1.5", "15", 0),
        (Rule.CONTAINS, "东京", "答案是东京。", 1),
        (Rule.CONTAINS, "3", "13", 0),
        (Rule.JSON, '{"a": "Paris", "b": 3}', '```json\n{"a": "Paris", "b": 3.0}\n```', 1),
        (Rule.JSON, '{"a": "Paris", "b": 3}', "Here it is: {'a': 1}", 0),
        (Rule.JSON, '{"a": "Paris", "b": 3}', '{"a": "Paris"}', 2 / 3),
        (Rule.VQA, "yes", "Yes.", 1),
        (Rule.YES_NO, "no", "There is no dog.", 1),
        (Rule.YES_NO, "yes", "Yes and no", 1),
        (Rule.RELAXED, "100", "105", 1),
        (Rule.RELAXED, "100", "105.1", 0),
        *((rule, "Paris", "<think>It is Paris", 0) for rule in (Rule.EXACT, Rule.CONTAINS, Rule.ANLS, Rule.OCRBENCH)),
    ],
)
def test_score_when_an_answer_is_as_models_write_it_then_what_it_says_counts(
    rule: Rule, accepted: str, answer: str, expected: float
) -> None:
    assert of(rule, accepted, answer) == pytest.approx(expected)


def test_choice_when_the_answer_is_an_options_text_then_it_is_its_letter() -> None:
    options = ("a dog", "two dogs", "vitamin C", "A dog and a cat")
    assert of(Rule.CHOICE, "B", "two dogs", options) == 1
    assert of(Rule.CHOICE, "C", "I see some vitamin C", options) == 1
    assert of(Rule.CHOICE, "two dogs", "B", options) == 1
    assert of(Rule.CHOICE, "A", "There may be a dog or two dogs", options) == 0


def test_box_when_its_scale_is_named_then_it_is_used() -> None:
    pixels = Question("", "", ("[64, 48, 320, 240]",), Rule.IOU, image_size=(640, 480))
    assert score(pixels, "[64, 48, 320, 240]") == 1
    assert score(pixels, "[0.1, 0.1, 0.5, 0.5]") == 1
    resized = Question("", "", ("[64, 48, 320, 240]",), Rule.IOU, image_size=(640, 480), box_scale=(1280, 960))
    assert score(resized, "[128, 96, 640, 480]") == 1
    turned = Question("", "", ("[0.1, 0.2, 0.3, 0.4]",), Rule.IOU, box_scale=(1000, 1000), y_first=True)
    assert score(turned, "[200, 100, 400, 300]") == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>Rome?</think>\n\nParis", "Paris"),
        ("Rome?</think>Paris", "Paris"),
        ("<think>Rome", ""),
        ("◁think▷Rome◁/think▷Paris", "Paris"),
        ("[THINK]Rome[/THINK]Paris", "Paris"),
        ("<|channel>thought\nRome<channel|>Paris", "Paris"),
        (
            "<|channel|>analysis<|message|>Rome<|end|><|start|>assistant<|channel|>final<|message|>Paris<|return|>",
            "Paris",
        ),
        ("<answer>Rome</answer> no <answer>Paris</answer>", "Paris"),
        ("<|begin_of_box|>Paris<|end_of_box|>", "Paris"),
        ("The answer is $\\boxed{Paris}$", "Paris"),
        ("Paris<|im_end|>", "Paris"),
        ("# **Paris**", "Paris"),
        ("```python\nParis\n```", "Paris"),
        ("2*3*4 = a_b_c", "2*3*4 = a_b_c"),
        ("5 * 3 * 2", "5 * 3 * 2"),
        ("if a <b> c", "if a <b> c"),
    ],
)
def test_answer_when_it_has_more_than_the_answer_then_it_is_taken_off(answer: str, text: str) -> None:
    assert answer_text(answer) == text


@pytest.mark.thorough
@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize(
    "piece", ["<think>", "**", "[", "{", "1,", "(A) ", "<answer>", "\\boxed{", "a ", "answer is ", "1 ", "`"]
)
def test_score_when_an_answer_is_very_long_then_it_takes_seconds_at_most(rule: Rule, piece: str) -> None:
    start = time.process_time()
    of(rule, "1", piece * (30_000 // len(piece)))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("space", [" ", "\n"])
def test_choice_when_white_space_follows_its_announcement_then_it_takes_seconds_at_most(space: str) -> None:
    """It took a minute, in which every thread stood still."""
    start = time.process_time()
    assert of(Rule.CHOICE, "B", f"The answer is{space * 40_000}:{space * 40_000}B", ("u", "v")) == 1
    assert of(Rule.CHOICE, "B", f"The answer{space * 40_000}x", ("u", "v")) == 0
    assert time.process_time() - start < 5


def test_yes_no_when_over_all_questions_then_popes_figures() -> None:
    figures = yes_no(["Yes", "Yes.", "no", "No", "I cannot see"], ["yes", "no", "yes", "no", "yes"])
    assert figures is not None
    assert (figures.accuracy, figures.precision, figures.recall, figures.f1) == (0.4, 0.5, 0.5, 0.5)
    assert figures.yes_share == 0.4
    never = yes_no(["no"], ["no"])
    assert never is not None
    assert (never.precision, never.recall, never.f1) == (None, None, None)
    assert yes_no([], []) is None


def test_score_command_when_given_lines_then_one_object_a_line(tmp_path: Path) -> None:
    lines = [
        {"answer": "**Paris**", "accepted": ["paris"], "model": "any"},
        {"answer": "<think>P", "accepted": "Paris", "finish_reason": "length"},
        {"answer": "3", "accepted": 3},
        {"answer": "3", "accepted": []},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text("\ufeff" + "\n".join(map(json.dumps, lines)) + "\n")
    result = CliRunner().invoke(app, ["score", "--rule", "exact", str(path)])
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"score": 1.0, "scored": "Paris"},
        {"score": 0.0, "truncated": True},
        {"score": 1.0, "scored": "3"},
        {"score": None, "scored": "3"},
    ]
    assert result.stderr == (
        "4 answers, mean score 0.6667, 1 without accepted answers, 1 cut off by the limit of tokens.\n"
    )


def test_score_command_when_a_line_is_invalid_then_the_others_are_scored_and_the_exit_code_is_1() -> None:
    text = '{"answer": "B) two", "accepted": ["B"], "options": ["one", "two"]}\nnothing\n{"answer": 1}\n'
    result = CliRunner().invoke(app, ["score", "--rule", "choice", "-"], input=text)
    assert result.exit_code == 1
    first, second, third = map(json.loads, result.stdout.splitlines())
    assert first == {"score": 1.0, "scored": "B) two"}
    assert second["score"] is None
    assert "malformed" in second["error"]
    assert "`str`" in third["error"]
    assert "2 of the lines could not be read" in result.stderr


def test_score_command_when_a_line_cannot_be_scored_then_it_says_why_and_the_next_one_is_scored() -> None:
    text = (
        '{"answer": "[0, 0, 1, 1]", "accepted": "[0, 0, 1, 1]", "box_scale": [0, 0]}\n{"answer": "", "accepted": ""}\n'
    )
    result = CliRunner().invoke(app, ["score", "--rule", "iou", "-"], input=text)
    first, second = map(json.loads, result.stdout.splitlines())
    assert "box_scale" in first["error"]
    assert second["score"] == 0
    assert result.exit_code == 1
