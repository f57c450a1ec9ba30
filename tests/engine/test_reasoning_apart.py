"""Reasoning told from the answer, its budget, and the control tokens of an answer: with llama.cpp's own tokens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gguf import TokenType

from playground.comparing.compare import StopFlag
from playground.comparing.run_settings import RunSettings
from playground.measuring.question_sets import embedded
from playground.measuring.results import MeasurementPlan
from playground.models.presets import data_folder
from playground.notebooks import run_cell
from playground.notebooks.cells import CellQuestions, CompareCell, Run
from playground.values.answer import Pane, PaneState
from playground.values.files import Variant
from playground.values.request import Image, PromptForm, Sampling
from playground.wiring import Parts
from testkit import pairs
from testkit.running import comparison, measured, run

# The random pair knows no reasoning and never ends: under this template it begins inside of one.
OPENS = "{% for m in messages %}{{ m.content }}{% endfor %} A:<think>\n"

# Likewise, unless a variable of the template says otherwise.
THINKS = (
    "{% for m in messages %}{{ m.content }}{% endfor %} A:"
    "{% if enable_thinking is not defined or enable_thinking %}<think>\n{% endif %}"
)


@pytest.fixture
def noise(parts: Parts, tmp_path: Path) -> Variant:
    files = pairs.write_pair("mlp", tmp_path)
    return parts.catalog.open_pair(files.model, files.projector)


def answer(parts: Parts, image: Image, variant: Variant, template: str | None = OPENS, **sampling: Any) -> Pane:
    request = comparison(image, "Go on.", (variant,), sampling=Sampling(**sampling))
    pane = run(parts, replace(request, chat_template=template, probabilities=True)).panes[0]
    assert pane.state is PaneState.DONE, pane.error
    return pane


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_reasoning_when_its_budget_is_used_up_then_it_is_closed_and_the_answer_begins(
    parts: Parts, scene: Image, noise: Variant, budget: int
) -> None:
    free = answer(parts, scene, noise, max_tokens=24)
    pane = answer(parts, scene, noise, max_tokens=24, reasoning_tokens=budget)
    assert pane.token_ids[:budget] == free.token_ids[:budget]
    assert free.reasoning.startswith(pane.reasoning)
    assert bool(pane.reasoning) == (budget > 0)
    assert pane.text != ""
    assert "think>" not in pane.text + pane.reasoning
    assert "</think>" in str(pane.raw)
    assert pane.remarks == ()
    n = pane.metrics.reasoning_tokens or 0  # with those of the mark, which this vocabulary spells
    assert budget < n <= budget + len("</think>")
    assert "".join(score.text for score in pane.scores[n:]).strip() == pane.text.strip()
    assert 0 <= (pane.metrics.reasoning_s or -1) <= (pane.metrics.decode_s or 0)


def test_answer_when_it_never_left_its_reasoning_then_it_says_so(parts: Parts, scene: Image, noise: Variant) -> None:
    pane = answer(parts, scene, noise, max_tokens=4)
    assert (pane.text, pane.finish_reason, pane.metrics.reasoning_tokens) == ("", "max tokens", 4)
    assert pane.reasoning == str(pane.raw).strip()
    assert len(pane.remarks) == 1
    assert "still reasoning" in pane.remarks[0]
    assert "reasoning_tokens" in pane.remarks[0]


def test_answer_when_it_has_no_reasoning_then_a_budget_changes_nothing(parts: Parts, scene: Image) -> None:
    (f16,) = parts.catalog.choose(["F16"])
    free = answer(parts, scene, f16, None, max_tokens=8)
    pane = answer(parts, scene, f16, None, max_tokens=8, reasoning_tokens=0)
    assert (free.reasoning, free.controls, free.raw, free.metrics.reasoning_tokens) == ("", (), None, None)
    assert (pane.text, pane.token_ids) == (free.text, free.token_ids)


def test_answer_when_a_grammar_binds_it_then_it_begins_at_once(parts: Parts, scene: Image, noise: Variant) -> None:
    pane = answer(parts, scene, noise, grammar='root ::= "yes"', reasoning_tokens=0)
    assert (pane.text, pane.reasoning) == ("yes", "")


@pytest.mark.parametrize("kind", [TokenType.CONTROL, TokenType.USER_DEFINED])
def test_answer_when_it_has_control_tokens_then_they_are_part_of_its_text(
    parts: Parts, scene: Image, noise: Variant, tmp_path: Path, kind: TokenType
) -> None:
    plain = answer(parts, scene, noise, None, max_tokens=12)
    token, piece = plain.token_ids[0], plain.scores[0].text
    assert plain.controls == ()
    model = pairs.set_control(Path(noise.model.path), tmp_path / "control-F16.gguf", token, kind=kind)
    pane = answer(parts, scene, parts.catalog.open_pair(model, Path(noise.projector.path)), None, max_tokens=12)
    assert (pane.token_ids, pane.text) == (plain.token_ids, plain.text)
    assert pane.controls == (piece,) != ("",)
    assert (plain.control_ids, pane.control_ids) == ((), (token,))
    assert "".join(score.text for score in pane.scores) == pane.text


@pytest.mark.parametrize("n", [1, 3])  # alone, and in a batch
def test_measured_answers_when_they_never_left_their_reasoning_then_they_are_counted_and_a_budget_ends_it(
    parts: Parts, noise: Variant, n: int
) -> None:
    variants = (replace(noise, chat_template=OPENS),)
    questions = embedded(data_folder() / "tiny-vlm/evaluation")
    question_set = questions.with_items(
        [msgspec.structs.replace(questions.items[0], question=f"Go on {k}.") for k in range(n)]
    )
    plan = MeasurementPlan(drift=False, accuracy=True, max_tokens=10)
    free = measured(parts, question_set, variants, plan)
    assert (free.results[0].in_reasoning, [drift.text for drift in free.results[0].items]) == (n, [""] * n)
    assert [p for p in free.problems if f"{n} of {n} answers never left their reasoning" in p]
    ended = measured(parts, question_set, variants, msgspec.structs.replace(plan, reasoning_tokens=0))
    assert ended.results[0].in_reasoning == 0
    assert all(drift.text for drift in ended.results[0].items)
    assert not [p for p in ended.problems if "reasoning" in p]
    assert measured(parts, question_set, variants, plan).results == free.results  # each from its own key of the cache


@pytest.mark.parametrize("n", [1, 3])  # alone, and in a batch
def test_measured_answers_when_thinking_is_off_then_they_have_none(parts: Parts, noise: Variant, n: int) -> None:
    questions = embedded(data_folder() / "tiny-vlm/evaluation")
    question_set = questions.with_items(
        [msgspec.structs.replace(questions.items[0], question=f"Go on {k}.") for k in range(n)]
    )
    plan = MeasurementPlan(drift=False, accuracy=True, max_tokens=10)
    on = measured(parts, question_set, (noise,), plan, form=PromptForm(chat_template=THINKS))
    assert on.results[0].in_reasoning == n
    off = RunSettings(n_ctx=512, chat_template=THINKS, template_variables={"enable_thinking": False})
    cell = CompareCell("c", variants=(noise.id,), settings=off, questions=CellQuestions(plan=plan))
    begun = run_cell.new_run(cell, [noise], "engine", "machine")
    *_, run = run_cell.measure_cell(begun, [noise], question_set, parts.lab, parts.workshop, StopFlag())
    assert isinstance(run, Run)
    assert run.measurement is not None
    assert run.measurement.form == off.prompt_form()
    assert run.measurement.results[0].in_reasoning == 0
    assert all(drift.text for drift in run.measurement.results[0].items)
