"""What POST /v1/chat/completions reads of a body, and what it refuses."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from playground.errors import BadImage, BadInput
from playground.values.answer import Candidate, Pane, TokenScore
from playground.values.request import ConversationMessage
from playground.web import openai_reply
from playground.web.openai_request import data_of, read_chat

QUESTION = {"role": "user", "content": "What do you see?"}


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "messages": [QUESTION]} | fields).encode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "low", "min_pixels": 3}}


def test_conversation_when_images_stand_between_texts_then_their_places_are_kept() -> None:
    content = [image("a"), {"type": "text", "text": "one"}, image("b"), {"type": "text", "text": "two"}, image("c")]
    chat = read_chat(
        body(messages=[{"role": "developer", "content": "Be short."}, {"role": "user", "content": content}])
    )
    assert chat.conversation == (
        ConversationMessage("system", "Be short."),
        ConversationMessage("user", "onetwo", (0, 3, 6)),
    )
    assert chat.images == ("a", "b", "c")


@pytest.mark.parametrize(
    ("fields", "max_tokens"),
    [
        ({}, 4096),
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 7, "max_completion_tokens": 9}, 9),
        ({"max_tokens": None}, 4096),
        ({"max_tokens": 32768}, 8192),
        ({"max_completion_tokens": 10**30}, 8192),
    ],
)
def test_max_tokens_when_given_either_way_then_clamped(fields: dict[str, Any], max_tokens: int) -> None:
    assert read_chat(body(**fields)).settings.sampling().max_tokens == max_tokens


def test_sampling_when_given_in_the_names_of_openai_and_vllm_then_llama_cpps() -> None:
    sampling = read_chat(
        body(
            temperature=0.5, top_p=1, top_k=-1, seed=-1, stop="\n", frequency_penalty=1, repetition_penalty=1.1,
            presence_penalty=None, user="me", metadata={"a": 1}, service_tier="auto", tools=[],
        )
    ).settings.sampling()  # fmt: skip
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.5, 1, 0, 2**32 - 1)
    assert (sampling.stop, sampling.frequency_penalty, sampling.repeat_penalty) == (("\n",), 1, 1.1)
    assert sampling.presence_penalty == 0


def test_response_format_when_it_names_a_schema_then_the_answer_is_bound_to_it() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "count", "strict": True, "schema": schema}}
    assert json.loads(read_chat(body(response_format=form)).settings.sampling().json_schema or "") == schema
    chat = read_chat(body(response_format={"type": "json_object"}))
    assert json.loads(chat.settings.sampling().json_schema or "") == {"type": "object"}
    assert read_chat(body(response_format={"type": "text"})).settings.sampling().json_schema is None


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"model": "m"', "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"model":' + b"[" * 100_000, "not valid JSON|Expected `str`"),
        (b"[]", "Expected `object`"),
        (b'{"messages": []}', "missing required field `model`"),
        (body(messages=[]), "messages is empty"),
        (body(messages=[{"role": "user", "content": 3}]), "messages"),
        (body(messages=[{"role": "user", "content": [{"type": "input_audio"}]}]), "'input_audio' is not supported"),
        (body(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "has no image_url"),
        (body(messages=[{"role": "user", "content": [image("a")] * 65}]), "65 images; at most 64"),
        (body(max_tokens=0), "max_tokens has to be between 1 and 8192"),
        (body(temperature="warm"), "temperature"),
        (body(temperature=9), "temperature has to be between 0 and 5"),
        (body(n=0), "n has to be between 1 and 16"),
        (body(top_logprobs=3), "top_logprobs has to be between 0 and 20, and needs logprobs"),
        (body(logprobs=True, top_logprobs=20, n=16), "16 × 4096 tokens with 20 others each are too many"),
        (body(logprobs=True, top_logprobs=21), "top_logprobs has to be between 0 and 20"),
        (body(response_format={"type": "xml"}), "Unknown response_format 'xml'"),
        (body(stop=["a"] * 17), "stop texts are too long"),
    ],
)  # fmt: skip
def test_body_when_it_is_invalid_then_the_words_say_where(sent: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_chat(sent)


def test_data_url_when_read_then_its_bytes() -> None:
    assert data_of("data:image/png;base64,aGFs\nbG8=", "image 1") == b"hallo"
    assert data_of("DATA:text/plain;charset=utf-8;BASE64,aGFsbG8=", "image 1") == b"hallo"
    assert data_of("data:text/plain,h%61llo", "image 1") == b"hallo"
    assert data_of("https://example.org/a.png", "image 1") is None
    for broken in ("data:image/png;base64,aGFsbG8", "data:image/png;base64,h§", "data:image/png;base64"):
        with pytest.raises(BadImage, match="data URL of image 3 is invalid"):
            data_of(broken, "image 3")


def test_logprobs_when_an_answer_was_read_then_one_for_each_token_and_none_behind_it() -> None:
    likely = (Candidate(1, "ja", 0.5), Candidate(2, "é", 0.25))
    scores = (TokenScore("ja", 0.5, likely), TokenScore("", None, likely))
    (content,) = openai_reply.logprobs(scores, 2)["content"]
    assert content["token"] == "ja"
    assert content["logprob"] == pytest.approx(-0.6931, abs=1e-4)
    assert [candidate["bytes"] for candidate in content["top_logprobs"]] == [[106, 97], [0xC3, 0xA9]]


def test_finish_reason_when_the_answer_was_cut_off_then_length() -> None:
    reasons = ["end of text", "stop text", "max tokens", "context full", None]
    finished = [openai_reply.finish_reason(Pane("v", finish_reason=reason)) for reason in reasons]
    assert finished == ["stop", "stop", "length", "length", "stop"]


@pytest.mark.parametrize("more", [{}, {"top_logprobs": 5, "n": 16}, {"top_logprobs": 20, "max_tokens": 8192, "n": 2}])
def test_logprobs_when_as_many_as_clients_ask_for_then_taken(more: dict[str, Any]) -> None:
    assert read_chat(body(logprobs=True, **more)).top_logprobs == more.get("top_logprobs", 0)


def test_data_url_when_made_of_millions_of_small_pieces_then_little_memory() -> None:
    tracemalloc.start()
    with pytest.raises(BadImage, match="too long for one without base64"):
        data_of("data:image/png," + "%41" * 1_000_000, "image 1")
    spaced = " ".join("QUFB" * 500_000)
    assert data_of("data:image/png;base64," + spaced, "image 1") == b"AAA" * 500_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000, "a list of the pieces alone has 16 bytes for each"
