"""How models are asked: system messages, places of images, template variables, samplers, bound answers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from playground.comparing import compare
from playground.errors import BadInput, BadPrompt
from playground.values.answer import Pane, PaneState
from playground.values.request import Image, ImagePlace, Runtime, Sampling
from playground.wiring import Parts
from testkit import pairs
from testkit.running import comparison, run

WHAT = "What do you see?"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if enable_thinking is false %}[no thinking]{% endif %}[assistant]"
)
SCHEMA = {"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}


def rendered(parts: Parts, image: Image | tuple[Image, ...], prompt: str, **fields: Any) -> str:
    """The prompt as it was sent under TEMPLATE."""
    request = comparison(image, prompt, parts.catalog.choose(["F16"]), max_tokens=1)
    update = run(parts, replace(request, chat_template=TEMPLATE, **fields))
    assert update.panes[0].state is PaneState.DONE, update.panes[0].error
    assert update.rendered_prompt is not None
    return update.rendered_prompt


def answer(parts: Parts, image: Image, **sampling: Any) -> Pane:
    pane = run(parts, comparison(image, WHAT, parts.catalog.choose(["F16"]), sampling=Sampling(**sampling))).panes[0]
    assert pane.state is PaneState.DONE, pane.error
    return pane


def test_prompt_when_there_is_a_system_message_then_it_comes_first(parts: Parts, scene: Image) -> None:
    assert rendered(parts, scene, WHAT, system="Be brief.") == f"[system]Be brief.[user]<image>{WHAT}[assistant]"
    assert rendered(parts, scene, WHAT, system="") == f"[system][user]<image>{WHAT}[assistant]"


def test_prompt_when_the_image_has_a_place_then_it_stands_there(parts: Parts, scene: Image) -> None:
    assert rendered(parts, scene, WHAT, image_place=ImagePlace.BEHIND) == f"[user]{WHAT}<image>[assistant]"
    assert rendered(parts, scene, "In <image>, what?") == "[user]In <image>, what?[assistant]"


def test_prompt_when_images_stand_between_words_then_each_has_its_place(parts: Parts, scene: Image) -> None:
    text = rendered(parts, (scene, scene), "First <image>, then <image>: alike?")
    assert text == "[user]First <image>, then <image>: alike?[assistant]"


def test_prompt_when_it_is_empty_then_the_image_alone_is_asked(parts: Parts, scene: Image) -> None:
    assert rendered(parts, scene, "") == "[user]<image>[assistant]"


def test_template_when_a_variable_is_set_then_it_is_asked_otherwise(parts: Parts, scene: Image) -> None:
    plain = f"[user]<image>{WHAT}"
    assert rendered(parts, scene, WHAT) == f"{plain}[assistant]"
    variables = {"enable_thinking": False}
    assert rendered(parts, scene, WHAT, template_variables=variables) == f"{plain}[no thinking][assistant]"


def test_template_when_it_reads_enable_thinking_then_the_run_says_what_others_pass(parts: Parts, scene: Image) -> None:
    request = replace(comparison(scene, WHAT, parts.catalog.choose(["F16"]), max_tokens=1), chat_template=TEMPLATE)
    notes = run(parts, request).notes
    assert [note for note in notes if "enable_thinking" in note] != []
    notes = run(parts, replace(request, template_variables={"enable_thinking": True})).notes
    assert [note for note in notes if "enable_thinking" in note] == []


@pytest.mark.parametrize("n_tokens", [1500, 5000])
def test_context_when_none_is_chosen_then_as_large_as_the_question_needs(
    cold: Parts, scene: Image, tiny: dict[str, pairs.PairFiles], n_tokens: int
) -> None:
    variant = cold.catalog.open_pair(tiny["mlp"].model, tiny["mlp"].projector)
    request = comparison(scene, "a " * n_tokens, (variant,), n_ctx=None, max_tokens=4)
    pane = run(cold, request).panes[0]
    assert pane.state is PaneState.DONE, pane.error
    assert pane.metrics.prompt_tokens is not None
    assert pane.metrics.prompt_tokens > n_tokens
    assert pane.metrics.generated_tokens == 4
    refused = run(cold, replace(request, runtime=Runtime(n_ctx=1024))).panes[0]
    assert refused.state is PaneState.FAILED
    assert "the context holds 1024" in str(refused.error)


def test_context_when_the_next_question_needs_less_then_the_larger_one_stays(
    cold: Parts, scene: Image, tiny: dict[str, pairs.PairFiles]
) -> None:
    variant = cold.catalog.open_pair(tiny["mlp"].model, tiny["mlp"].projector)
    larger = run(cold, comparison(scene, "a " * 3000, (variant,), n_ctx=None, max_tokens=4)).panes[0]
    again = run(cold, comparison(scene, "b", (variant,), n_ctx=None, max_tokens=4)).panes[0]
    assert larger.metrics.load_s is not None
    assert again.metrics.load_s is None


@pytest.mark.parametrize(
    ("prompt", "images", "reason"),
    [("<image> and <image>?", 1, "2 times, and there is 1 image"), ("<image>?", 2, "1 time, and there are 2 images")],
)
def test_prompt_when_it_names_other_images_than_there_are_then_refused(
    parts: Parts, scene: Image, prompt: str, images: int, reason: str
) -> None:
    with pytest.raises(BadPrompt, match=reason):
        run(parts, comparison((scene,) * images, prompt, parts.catalog.choose(["F16"])))


def test_answer_when_bound_to_a_grammar_then_it_keeps_to_it(parts: Parts, scene: Image) -> None:
    assert answer(parts, scene, grammar='root ::= "yes" | "no"').text in ("yes", "no")
    hot = answer(parts, scene, grammar="root ::= [0-9] [0-9] [0-9]", temperature=2, seed=3)
    assert re.fullmatch(r"\d{3}", hot.text)


def test_answer_when_it_has_to_go_on_with_a_token_that_its_grammar_forbids_then_said_and_the_worker_lives(
    parts: Parts, scene: Image
) -> None:
    """The likely tokens that a person may choose are those without the grammar. llama.cpp aborted."""
    free = answer(parts, scene)
    (variant,) = parts.catalog.choose(["F16"])
    bound = comparison(scene, WHAT, (variant,), sampling=Sampling(grammar='root ::= "yes" | "no"'))
    before = [worker.id for worker in parts.pool.memory().workers]
    refused = run(parts, replace(bound, begun={variant.id: free.token_ids[:1]})).panes[0]
    assert "does not allow the token" in (refused.error or "")
    assert [worker.id for worker in parts.pool.memory().workers] == before


def test_answer_when_bound_to_a_schema_then_it_is_such_json(parts: Parts, scene: Image) -> None:
    pane = answer(parts, scene, json_schema=json.dumps(SCHEMA), max_tokens=200)
    assert pane.finish_reason == "end of text"
    assert isinstance(json.loads(pane.text)["count"], int)
    assert answer(parts, scene).text.startswith("The image shows")  # the next answer is free again


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"grammar": "root ::= nothing"}, "Undefined rule identifier 'nothing'"),
        ({"grammar": 'root ::= "a'}, "cannot read the grammar: .*unexpected end|cannot read the grammar"),
        ({"grammar": 'root ::= root "a" | "b"'}, "left recursion"),
        ({"grammar": 'other ::= "a"'}, "root"),
        ({"json_schema": '{"type": "wrong"}'}, "JSON schema cannot be used"),
        ({"json_schema": '{"$ref": "#/nowhere"}'}, "JSON schema cannot be used"),
        ({"json_schema": '{"type": "array", "items": {}, "minItems": 1000000000}'}, "repeats too often"),
        ({"json_schema": '{"allOf": [{"type": "string", "pattern": "^[ab]{9,100000}$"}]}'}, "repeats too often"),
        ({"json_schema": '{"type": "string", "maxLength": 20000}'}, "more than 2,000 brackets in each other"),
        ({"grammar": "root ::= " + '(")" ' * 40_000 + '"a"' + ")" * 40_000}, "more than 2,000 brackets"),
    ],
)
def test_answer_form_when_llama_cpp_cannot_read_it_then_refused_before_anything_is_loaded(
    parts: Parts, scene: Image, form: dict[str, str], reason: str
) -> None:
    before = [worker.id for worker in parts.pool.memory().workers]
    request = comparison(scene, WHAT, parts.catalog.choose(["F16"]), sampling=Sampling(**form))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=reason):
        next(compare.run(request, parts.lab, compare.StopFlag()))
    assert [worker.id for worker in parts.pool.memory().workers] == before


def test_penalties_when_set_then_repetitions_are_rarer(parts: Parts, scene: Image) -> None:
    letters: dict[str, Any] = {"grammar": "root ::= [a-h]{40}", "max_tokens": 60, "penalty_last_n": 20}
    plain = answer(parts, scene, **letters).text
    assert longest_repetition(plain) > 4
    for penalty in ({"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"dry_multiplier": 5.0, "dry_base": 4.0}):
        text = answer(parts, scene, **letters, **penalty).text
        assert len(text) == len(plain) == 40
        assert longest_repetition(text) < longest_repetition(plain), (penalty, text, plain)


def longest_repetition(text: str) -> int:
    """Characters of the longest part that stands in the text twice."""
    return max(n for n in range(len(text)) if any(text.find(text[i : i + n], i + 1) >= 0 for i in range(len(text) - n)))


def test_answer_when_it_loops_then_the_pane_says_so(parts: Parts, scene: Image) -> None:
    looping = answer(parts, scene, grammar='root ::= "ab "{80}', max_tokens=200)
    assert [remark for remark in looping.remarks if "ends in a loop" in remark] != []
    assert answer(parts, scene).remarks == ()
