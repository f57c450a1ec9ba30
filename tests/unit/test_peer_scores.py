"""Our scores are lmms-eval 0.7.3's, or a row says why not. `python -m bench.peer_scores` froze the rows."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from playground.measuring.question_sets import Question, Rule
from playground.measuring.scoring_rules import score

# Where we differ on purpose.
DIFFERENCES = {
    "taken off": "The peer scores reasoning, special tokens, Markdown and outer spaces with the answer. It agrees "
    "on the answer without them: bench/peer_scores.py asks it.",
    "read": "The peer reads some forms only (AI2D 'B.', POPE 'Yes' and nothing else, RefCOCO [a, b, c, d] in shares of "
    "the image, CC-OCR nothing but JSON), takes a letter out of a word, or guesses (MMMU). We read what is "
    "said.",
    "spelling": "The peer drops all punctuation, so that 1.5 is 15. We drop the outer one, and fold case and width.",
    "whole words": "The peer looks for a substring: 3 is in 13. `contains` looks for whole words.",
    "textvqa": "VQAv2 and TextVQA differ on a comma within a word. `vqa` is TextVQA's.",
}


@cache
def rows() -> list[dict[str, Any]]:
    path = Path(__file__).parents[1] / "data/peer-scores.jsonl.xz"
    return [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]


def scored(row: dict[str, Any]) -> float | None:
    question = Question(
        image="",
        question="",
        answers=tuple(row["answers"]),
        rule=Rule(row["rule"]),
        options=tuple(row.get("options", ())),
        category=row.get("category", ""),
    )
    return score(question, row["answer"])


@pytest.mark.thorough
@pytest.mark.parametrize("rule", Rule)
def test_score_when_lmms_eval_has_scored_the_answer_then_it_is_the_same_or_says_why(rule: Rule) -> None:
    of_rule = [row for row in rows() if row["rule"] == rule]
    wrong = [row for row in of_rule if scored(row) != pytest.approx(row.get("score", row["peer"]), abs=1e-5)]
    assert wrong == []
    assert len({(row["task"], *row["answers"], *row.get("options", ()), row["answer"]) for row in of_rule}) >= 2000


@pytest.mark.thorough
@pytest.mark.parametrize("rule", Rule)
def test_score_when_it_is_not_the_peers_then_for_a_reason_that_is_written_down(rule: Rule) -> None:
    of_rule = [row for row in rows() if row["rule"] == rule]
    reasons = Counter(row.get("why", "") for row in of_rule)
    assert set(reasons) - {""} <= set(DIFFERENCES)
    assert all(abs(row["score"] - row["peer"]) > 1e-6 for row in of_rule if "why" in row)
    alike = [row["peer"] for row in of_rule if "why" not in row]
    assert min(alike) < 0.01  # no constant passes
    assert max(alike) > 0.99
    assert len(alike) > 900
