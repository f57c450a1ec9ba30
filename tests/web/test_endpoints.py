"""Servers elsewhere: a real one over HTTP that is slow, breaks off, answers nonsense, wants a key, or lies."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import pytest

from playground.endpoints.client import Endpoint, EndpointAnswer, ask
from playground.endpoints.endpoints import Endpoints
from playground.endpoints.wire import EndpointQuestion
from playground.errors import BadPrompt, EndpointError, Interrupted, PlaygroundError, Unavailable
from playground.values.request import ConversationMessage, Image, Sampling
from testkit.endpoint_server import KEY, MODEL, Answer, EndpointServer, Reply, says, serving, with_logprobs

RED = Image(b"\xff\x00\x00" * 4, 2, 2, "0" * 64)
ASKED = EndpointQuestion(
    (ConversationMessage("system", "Be short."), ConversationMessage("user", "What is this?", (0,))), (RED,), Sampling()
)


@pytest.fixture(scope="module")
def box() -> Iterator[EndpointServer]:
    with serving(says("a ", "cat")) as server:
        yield server


def apart(ask: Callable[..., EndpointAnswer], *values: Any, **options: Any) -> EndpointAnswer:
    """In a thread of its own: the browser that other tests of this process opened has its loop in this one."""
    with ThreadPoolExecutor(1) as threads:
        return threads.submit(ask, *values, **options).result()


def answered(box: EndpointServer, answer: Answer, **options: object) -> EndpointAnswer:
    box.answer = answer
    return apart(ask, box.endpoint(**options), ASKED)  # type: ignore[arg-type]


def test_answer_when_streamed_then_text_usage_and_model_and_the_picture_is_sent(box: EndpointServer) -> None:
    box.answer = says("a ", "cat")
    texts: list[str] = []
    answer = apart(ask, box.endpoint(key=KEY), ASKED, on_text=lambda now: texts.append(now.text))
    assert (answer.text, answer.finish_reason, texts) == ("a cat", "end of text", ["a ", "a cat"])
    assert (answer.elsewhere.model, answer.elsewhere.prompt_tokens, answer.elsewhere.answer_tokens) == (MODEL, 7, 2)
    assert answer.remarks == ()
    assert box.keys[-1] == f"Bearer {KEY}"
    system, question = box.asked[-1]["messages"]
    assert system == {"role": "system", "content": "Be short."}
    picture, text = question["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text == {"type": "text", "text": "What is this?"}
    assert {"top_p", "top_k", "logprobs", "stop"}.isdisjoint(box.asked[-1])


def test_answer_when_the_server_does_not_stream_then_it_is_read_all_the_same(box: EndpointServer) -> None:
    def whole(reply: Reply) -> None:
        choice = {"message": {"content": "a cat", "reasoning_content": "hm"}, "finish_reason": "length"}
        reply.refuse(200, {"model": MODEL, "choices": [choice]})

    answer = answered(box, whole)
    assert (answer.text, answer.reasoning, answer.finish_reason) == ("a cat", "hm", "max tokens")


def test_answer_when_the_server_packs_it_though_it_was_asked_not_to_then_nothing_is_unpacked(
    box: EndpointServer,
) -> None:
    whole = json.dumps({"model": MODEL, "choices": [{"message": {"content": "a cat"}, "finish_reason": "stop"}]})

    def packed(reply: Reply) -> None:
        reply.head(200, "application/json", **{"Content-Encoding": "gzip"})
        reply.raw(gzip.compress(whole.encode()))

    with pytest.raises(EndpointError):
        answered(box, packed)


def test_answer_when_stopped_while_the_server_waits_then_it_ends(box: EndpointServer) -> None:
    written = Event()

    def waits(reply: Reply) -> None:
        reply.head()
        reply.piece("a ")
        reply.server.go_on.wait()

    box.answer = waits
    box.go_on.clear()
    with pytest.raises(Interrupted):
        apart(ask, box.endpoint(), ASKED, stop=written.is_set, on_text=lambda answer: written.set())
    box.go_on.set()


def breaks_off(reply: Reply) -> None:
    reply.head()
    reply.piece("a ")


def breaks_off_in_json(reply: Reply) -> None:
    reply.head()
    reply.raw(b'data: {"choices": [{"delta"')


def error_in_stream(reply: Reply) -> None:
    reply.head()
    reply.piece("a ")
    reply.event(error={"message": "out of memory"})


def nonsense(reply: Reply) -> None:
    reply.head(kind="text/html")
    reply.raw(b"<html>Welcome</html>")


def endless_line(reply: Reply) -> None:
    reply.head()
    try:
        for _ in range(100):
            reply.raw(b"x" * 1_000_000)
    except OSError:
        pass  # the client has gone


def redirects(reply: Reply) -> None:
    reply.refuse(307, {}, Location=f"{reply.server.url}/elsewhere")


def wants_a_key(reply: Reply) -> None:
    reply.refuse(401, {"error": {"message": f"Incorrect API key: {KEY}"}})


def too_long(reply: Reply) -> None:
    reply.refuse(400, {"error": {"message": "This model's maximum context length is 2048 tokens."}})


def repeats_secrets(reply: Reply) -> None:
    reply.refuse(400, {"error": f"{KEY} at {reply.server.url}/v1 may not do this"})


def busy(reply: Reply) -> None:
    reply.refuse(503, {"object": "error", "message": "loading the model"})


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (breaks_off, EndpointError, "box broke the answer off."),
        (breaks_off_in_json, EndpointError, "box answers what is not OpenAI's protocol."),
        (error_in_stream, EndpointError, "It says: out of memory"),
        (nonsense, EndpointError, "box answers what is not OpenAI's protocol."),
        (endless_line, EndpointError, "box sends too much."),
        (redirects, EndpointError, "box redirects elsewhere (HTTP 307), which is refused."),
        (wants_a_key, EndpointError, "box wants another key (HTTP 401). The operator sets it."),
        (too_long, BadPrompt, "do not fit into the context of box. It says: This model's maximum context length"),
        (repeats_secrets, EndpointError, "It says: *** at *** may not do this"),
        (busy, Unavailable, "box cannot answer now (HTTP 503). It says: loading the model"),
    ],
)
def test_answer_when_the_server_fails_then_the_error_says_how_and_no_secret(
    box: EndpointServer, answer: Answer, kind: type[PlaygroundError], message: str
) -> None:
    n = len(box.asked)
    with pytest.raises(kind) as refused:
        answered(box, answer, key=KEY)
    assert message in refused.value.message
    assert KEY not in refused.value.message
    assert box.url not in refused.value.message
    assert len(box.asked) == n + 1  # a redirect was not followed


def test_answer_when_nobody_listens_then_unavailable_without_the_address() -> None:
    with serving(says("a")) as server:
        gone = server.endpoint(key=KEY)
    with pytest.raises(Unavailable, match=r"^box cannot be reached\. Does it run\?$"):
        apart(ask, gone, ASKED)


def test_answer_when_the_server_is_silent_then_that_is_said(box: EndpointServer) -> None:
    def waits(reply: Reply) -> None:
        reply.head()
        reply.server.go_on.wait()

    box.go_on.clear()
    with pytest.raises(Unavailable, match=r"box was silent for 0\.05 s"):
        answered(box, waits, silence_s=0.05)
    box.go_on.set()


def test_model_when_the_server_names_another_or_none_then_that_is_said(box: EndpointServer) -> None:
    assert answered(box, says("a", model="cheap/model")).remarks == (
        f"It says that cheap/model answered; {MODEL} was asked.",
    )
    assert answered(box, says("a", model=None)).remarks == ("It does not say which model answered.",)

    def several(reply: Reply) -> None:
        reply.head()
        reply.piece("a ", model="cheap/model")
        reply.piece("cat", end="stop")

    assert answered(box, several).remarks == (f"It names several models within one answer: cheap/model, {MODEL}.",)


def test_model_when_it_changed_since_the_answer_before_then_that_is_said(box: EndpointServer) -> None:
    endpoints = Endpoints([box.endpoint()])
    box.answer = says("a")
    assert apart(endpoints.ask, "box", ASKED).remarks == ()
    assert apart(endpoints.ask, "box", ASKED).remarks == ()
    box.answer = says("a", model="cheap/model")
    assert (
        f"Its model changed since its answer before: from {MODEL} to cheap/model."
        in apart(endpoints.ask, "box", ASKED).remarks
    )


def test_question_when_all_places_are_taken_then_it_waits_and_can_be_stopped(box: EndpointServer) -> None:
    endpoints = Endpoints([box.endpoint(at_once=1)])
    written, stopped = Event(), Event()

    def waits(reply: Reply) -> None:
        reply.head()
        reply.piece("a ")
        reply.server.go_on.wait()
        reply.piece("cat", end="stop")

    def stop() -> bool:
        stopped.set()  # it has looked
        return True

    box.answer = waits
    box.go_on.clear()
    n = len(box.asked)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(endpoints.ask, "box", ASKED, on_text=lambda answer: written.set())
        assert written.wait(60)
        with pytest.raises(Interrupted):
            apart(endpoints.ask, "box", ASKED, stop=stop)
        assert len(box.asked) == n + 1
        box.go_on.set()
        assert first.result().text == "a cat"
    box.answer = says("a")
    assert apart(endpoints.ask, "box", ASKED).text == "a"  # its place is free again
    assert stopped.is_set()


def test_questions_when_one_person_has_asked_already_then_another_persons_comes_first(box: EndpointServer) -> None:
    endpoints = Endpoints([box.endpoint(at_once=1)])
    texts: list[str] = []  # whose answers they are, in their order

    def waits(reply: Reply) -> None:
        reply.head()
        reply.piece("a ")
        reply.server.go_on.wait()
        reply.piece("cat", end="stop")

    def ask(who: str, label: str, seen: Event) -> None:
        def stop() -> bool:  # looked at where the question waits, too
            seen.set()
            return False

        def on_text(answer: EndpointAnswer) -> None:
            texts.append(label)
            seen.set()

        endpoints.ask("box", ASKED, who=who, stop=stop, on_text=on_text)

    box.answer = waits
    box.go_on.clear()
    with ThreadPoolExecutor(3) as threads:
        asked = []
        for who, label in (("ann", "ann's first"), ("ann", "ann's second"), ("bob", "bob's")):
            asked.append(threads.submit(ask, who, label, seen := Event()))
            assert seen.wait(60)
        box.go_on.set()
        for each in asked:
            each.result()
    assert list(dict.fromkeys(texts)) == ["ann's first", "bob's", "ann's second"]


def test_logprobs_when_given_then_scores_and_invalid_ones_are_left_out(box: EndpointServer) -> None:
    def gives(first: float, top: list[tuple[str, float]]) -> Answer:
        def answer(reply: Reply) -> None:
            reply.head()
            reply.piece("cat", logprobs=with_logprobs([("cat", first)], [top]), end="stop")
            reply.done()

        return answer

    question = EndpointQuestion(ASKED.conversation, ASKED.images, Sampling(), n_candidates=2)

    def scored(answer: Answer) -> EndpointAnswer:
        box.answer = answer
        return apart(ask, box.endpoint(), question)

    answer = scored(gives(-0.5, [("dog", -1.5), ("cat", -0.5)]))
    assert box.asked[-1]["top_logprobs"] == 2
    (score,) = answer.scores
    assert (score.text, score.probability) == ("cat", pytest.approx(0.6065, abs=1e-4))
    assert [(c.text, c.token_id) for c in score.candidates] == [("cat", None), ("dog", None)]
    for invalid in (gives(0.5, []), gives(-0.1, [("cat", -0.1), ("dog", -0.1)])):
        answer = scored(invalid)
        assert (answer.scores, answer.remarks) == ((), ("Its log-probabilities are invalid: they are left out.",))
    assert scored(says("cat")).remarks == ("It gives no log-probabilities.",)


def test_endpoint_when_shown_then_neither_key_nor_address(box: EndpointServer) -> None:
    endpoint: Endpoint = box.endpoint(key=KEY)
    assert KEY not in repr(endpoint)
    assert box.url not in repr(endpoint)
