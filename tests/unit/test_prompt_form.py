"""The form of a measurement's prompts: its words, its key in the result cache, and the way back to the command line."""

from __future__ import annotations

import json
import shlex

import msgspec
import pytest

from playground.cli.options import QuestionOptions
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.ship_card import settings_line
from playground.measuring.steps import form_key
from playground.notebooks.cells import CellQuestions
from playground.notebooks.run_cell import card_of
from playground.rendering import json_documents, measurement_view
from playground.values.request import ImagePlace, PromptForm
from testkit.notebooks import F16, Q2, compare_cell, measurement, run_of

OFF = PromptForm("Be brief.", {"enable_thinking": False}, ImagePlace.BEHIND, "chatml")
WORDS = 'system message "Be brief.", enable_thinking false, image behind the question, chat template "chatml"'


def test_key_when_nothing_is_given_then_that_of_older_versions() -> None:
    assert form_key(PromptForm()) == ()
    assert PromptForm().or_none is None
    assert PromptForm().words == ""


def test_key_when_any_field_is_given_then_another_one() -> None:
    forms = [
        PromptForm(system=""),
        PromptForm(system="a"),
        PromptForm(template_variables={"a": 1}),
        PromptForm(template_variables={"a": "1"}),
        PromptForm(image_place=ImagePlace.BEHIND),
        PromptForm(chat_template="a"),
    ]
    assert len({form_key(form) for form in forms} | {()}) == 7
    first, second = ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert form_key(PromptForm(template_variables=first)) == form_key(PromptForm(template_variables=second))


def test_settings_line_when_a_form_is_given_then_it_ends_with_its_words() -> None:
    plan = MeasurementPlan(max_tokens=8)
    assert settings_line(plan, None, OFF) == f"greedy, 8 tokens at most, context as needed, {WORDS}"
    assert settings_line(plan, None) == "greedy, 8 tokens at most, context as needed"
    assert len(PromptForm(system="a" * 5000).words) < 100


def test_settings_when_a_cell_has_them_then_they_are_its_form() -> None:
    settings = RunSettings(
        system="Be brief.", template_variables={"enable_thinking": False}, image_place=ImagePlace.BEHIND
    )
    assert msgspec.structs.replace(settings, chat_template="chatml").prompt_form() == OFF
    assert RunSettings(max_tokens=3).prompt_form() == PromptForm()


def test_options_when_invalid_then_refused() -> None:
    with pytest.raises(BadInput, match="--template-variables"):
        _ = QuestionOptions(template_variables="no").form
    with pytest.raises(BadInput, match="messages"):
        _ = QuestionOptions(template_variables='{"messages": []}').form


def test_measurement_when_it_has_a_form_then_the_page_the_json_and_the_card_show_it() -> None:
    measured = msgspec.structs.replace(measurement(), form=OFF)
    again = msgspec.json.decode(msgspec.json.encode(measured), type=Measurement)
    assert again.form == OFF
    assert json.loads(json.dumps(json_documents.of_news(measured, (F16, Q2), F16.id)))["form"]["system"] == "Be brief."
    html = str(measurement_view.html(measured, (F16, Q2), F16.id, lambda name: None))
    assert "asked with system message" in html
    card = card_of(run_of(compare_cell(questions=CellQuestions()), measurement=measured))
    assert card is not None
    assert card.settings.endswith(WORDS)
    words = shlex.split(card.command)
    options = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    question_options = QuestionOptions(
        system=options["system"],
        template_variables=options["template-variables"],
        image_place=ImagePlace(options["image-place"]),
        chat_template=options["chat-template"],
    )
    assert question_options.form == OFF


def test_measurement_when_an_older_version_made_it_then_no_form_is_shown() -> None:
    older = measurement()
    assert older.form is None
    assert b'"form"' not in msgspec.json.encode(older)
    assert "asked with" not in str(measurement_view.html(older, (F16, Q2), F16.id, lambda name: None))
