"""A model's reasoning told from its answer, in whole texts and in any stretches that they come in."""

from __future__ import annotations

import random
import time

import pytest

from playground.values.reasoning import ReasoningReader, Written, opened_by, split

HARMONY = "<|channel|>analysis<|message|>Rome?<|end|><|start|>assistant<|channel|>final<|message|>Paris"
TEXTS = [
    ("Paris", "", "Paris"),
    ("<think>Rome?</think>\n\nParis", "Rome?", "Paris"),
    ("\n<think>\nRome?\n\nNo.\n</think>\n\nParis", "Rome?\n\nNo.", "Paris"),
    ("[THINK]Rome?[/THINK]Paris", "Rome?", "Paris"),
    ("<seed:think>Rome?</seed:think>Paris", "Rome?", "Paris"),
    ("◁think▷Rome?◁/think▷Paris", "Rome?", "Paris"),
    ("<|channel>thought\nRome?<channel|>Paris", "Rome?", "Paris"),
    ("<|START_THINKING|>Rome?<|END_THINKING|>Paris", "Rome?", "Paris"),
    (HARMONY, "Rome?", "Paris"),
    ("Rome?</think>Paris", "Rome?", "Paris"),  # the prompt opened it
    ("<think>\n\n</think>\n\nParis", "", "Paris"),
    ("<think>Rome", "Rome", ""),
    ("The tag <think> opens it", "", "The tag <think> opens it"),
    ("if a <b> c <", "", "if a <b> c <"),
    ("<doctag><loc_1>a</doctag>", "", "<doctag><loc_1>a</doctag>"),
    ("  indented", "", "  indented"),
]


@pytest.mark.parametrize(("text", "reasoning", "answer"), TEXTS)
def test_answer_when_it_comes_whole_or_in_stretches_then_its_reasoning_is_told_from_it(
    text: str, reasoning: str, answer: str
) -> None:
    assert split(text)[:2] == (reasoning, answer)
    chance = random.Random(1)
    for _ in range(50):
        reader, written, at = ReasoningReader(), Written(), 0
        while at < len(text):
            size = chance.randint(1, 8)
            written = written.then(reader.push(text[at : at + size]))
            at += size
        assert written.then(reader.push("", last=True))[:2] == (reasoning, answer)


@pytest.mark.parametrize(
    ("prompt", "closing"),
    [
        ("<|im_start|>assistant\n<think>\n", "</think>"),
        ("[/INST][THINK]", "[/THINK]"),
        ("<start_of_turn>model\n<|channel>thought\n", "<channel|>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", None),
        ("What is <think>?\nASSISTANT:", None),
    ],
)
def test_prompt_when_it_opens_the_reasoning_then_the_answer_begins_inside_it(prompt: str, closing: str | None) -> None:
    assert opened_by(prompt) == closing
    if closing:
        assert split(f"Rome?{closing}Paris", closing) == Written("Rome?", "Paris")
        assert split("Rome?", closing) == Written("Rome?", "")


def test_reader_when_text_is_certain_then_it_is_not_held_back() -> None:
    reader = ReasoningReader()
    assert reader.push("<thi") == Written()
    assert reader.push("nk>Is it Rome") == Written("Is it Rome")
    assert reader.closing == "</think>"
    assert reader.push("? </thi") == Written("?")
    assert reader.push("nk>\nPa") == Written("", "Pa")
    assert (reader.closing, reader.begun) == (None, True)
    assert reader.push("ris") == Written("", "ris")


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<", "\n", "word ", "<|channel>thought"])
def test_answer_when_it_is_as_long_as_can_be_then_reading_it_takes_no_time(piece: str) -> None:
    reader = ReasoningReader()
    start = time.process_time()
    for _ in range(8192):  # the most tokens that an answer has
        reader.push(piece)
    assert time.process_time() - start < 5
