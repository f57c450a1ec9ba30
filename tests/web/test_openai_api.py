"""/v1 through OpenAI's own client, unmodified, over HTTP; the models are real."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.middleware import Middleware

from playground.comparing import top_drift
from playground.comparing.image_decoder import DECODER
from playground.endpoints.client import Endpoint
from playground.endpoints.endpoints import Endpoints
from playground.measuring import endpoint_jobs
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import Question, embedded
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.steps import Item, Steps
from playground.settings import Login, Settings
from playground.values.answer import Metrics, PaneState
from playground.values.files import Variant
from playground.values.memory import WorkerState
from playground.values.request import Runtime, Sampling
from playground.web import guard, openai_api
from playground.web.admission import Admission
from playground.web.openai_api import OpenAiApi
from playground.web.prometheus import RunMetrics
from playground.web.uploads import Uploads
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.processes import wait_ended
from testkit.running import SCENE, WHAT, comparison, run
from testkit.waiting import until

F16, Q2 = "tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q2_K+mmproj-F16"
BLURRED = "tiny-vlm:F16+mmproj-Q2_K"  # its language model computes alike in batches of any size
KEY = "a key of sixteen characters"
SCENE_URL = "data:image/png;base64," + base64.b64encode(SCENE.read_bytes()).decode()
PICTURE = {"type": "image_url", "image_url": {"url": SCENE_URL, "detail": "high"}}
ASKED: list[Any] = [{"role": "user", "content": [PICTURE, {"type": "text", "text": WHAT}]}]


@dataclass(frozen=True)
class Served:
    """The API of `parts` on a port of this machine, behind the app's guard and admission."""

    parts: Parts
    url: str
    endless: Variant
    metrics: RunMetrics
    api: OpenAiApi

    def client(self, key: str = "unused", **options: Any) -> Any:  # its types know other models only
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60, **options)

    def post(self, content: bytes, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json"} | headers
        return httpx.post(f"{self.url}/v1/chat/completions", content=content, headers=headers, timeout=60)


@contextmanager
def serving(parts: Parts, endless: pairs.PairFiles) -> Iterator[Served]:
    derived = Thread()  # nothing is left to be made
    metrics = RunMetrics(parts.pool.memory)
    uploads = Uploads(parts.settings.cache_dir, 1_000_000)
    api = OpenAiApi(parts, derived, metrics)
    app = Starlette(
        routes=api.routes(),
        middleware=[Middleware(Admission, parts.settings, uploads, lambda session: None)],
        lifespan=guard.around(guard.Rules.of(parts.settings)),
    )
    vars(app).update(auth_dependency=None, cookie_id="c", tokens={}, stop_event=asyncio.Event())  # as Gradio's app
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        variant = parts.catalog.open_pair(endless.model, endless.projector)
        yield Served(parts, f"http://127.0.0.1:{port}", variant, metrics, api)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def opened(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "derived").symlink_to(derived / "derived")
    with open_parts(Settings(cache_dir=folder, max_api_requests=40), any_folder=True) as parts:
        yield parts


@pytest.fixture(scope="module")
def served(opened: Parts, endless: pairs.PairFiles) -> Iterator[Served]:
    with serving(opened, endless) as api:
        yield api


@pytest.fixture
def keyed(opened: Parts, endless: pairs.PairFiles) -> Iterator[Served]:
    """The same models for people who log in, and programs with a key."""
    settings = opened.settings.model_copy(
        update={"login": Login.PASSWORD, "password": SecretStr("x"), "api_keys": {"ci": SecretStr(KEY)}}
    )
    with serving(replace(opened, settings=settings), endless) as api:
        yield api


def ask(served: Served, model: str = F16, **options: Any) -> Any:
    return served.client().chat.completions.create(**({"model": model, "messages": ASKED, "max_tokens": 64} | options))


def test_models_when_listed_then_every_variant_and_each_by_its_id(served: Served) -> None:
    client = served.client()
    ids = [model.id for model in client.models.list()]
    assert ids == [variant.id for variant in served.parts.catalog.variants]
    assert client.models.retrieve(Q2).owned_by == "tiny-vlm"
    with pytest.raises(openai.NotFoundError, match="There is no model 'gone'"):
        client.models.retrieve("gone")


@pytest.mark.parametrize("model", [F16, Q2])
def test_chat_when_asked_then_the_answer_of_a_comparison(served: Served, model: str) -> None:
    variant = next(v for v in served.parts.catalog.variants if v.id == model)
    image = served.parts.read_image(SCENE)
    (pane,) = run(served.parts, comparison(image, WHAT, (variant,), max_tokens=64, n_ctx=None)).panes
    answer = ask(served, model)
    (choice,) = answer.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (pane.text, "assistant", "stop")
    assert answer.model == model
    assert answer.usage.completion_tokens == len(pane.token_ids)
    assert answer.usage.prompt_tokens == pane.metrics.prompt_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    assert answer.system_fingerprint.split("-")[0] == variant.model.sha256[:12]


def test_chat_when_streamed_then_the_pieces_join_to_the_answer(served: Served) -> None:
    chunks = list(
        served.client().chat.completions.create(
            model=F16, messages=ASKED, max_tokens=64, stream=True, stream_options={"include_usage": True}
        )
    )
    *answering, last = chunks
    assert answering[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in answering)
    assert text == ask(served).choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in answering][-1] == "stop"
    assert (last.choices, last.usage.completion_tokens) == ([], ask(served).usage.completion_tokens)
    assert len({chunk.id for chunk in chunks}) == 1


def test_logprobs_when_wanted_then_the_likeliest_tokens_of_each_place(served: Served) -> None:
    answer = ask(served, max_tokens=5, logprobs=True, top_logprobs=7)
    content = answer.choices[0].logprobs.content
    assert len(content) == answer.usage.completion_tokens == 5
    assert "".join(token.token for token in content) == answer.choices[0].message.content
    assert all(len(token.top_logprobs) == 7 for token in content)
    assert all(token.top_logprobs[0].logprob == token.logprob for token in content)  # greedy
    *_, last = served.client().chat.completions.create(
        model=F16, messages=ASKED, max_tokens=5, logprobs=True, top_logprobs=7, stream=True
    )
    assert [token.token for token in last.choices[0].logprobs.content] == [token.token for token in content]


def test_choices_when_several_are_wanted_then_each_has_a_seed_of_its_own(served: Served) -> None:
    options = {"n": 3, "temperature": 5, "top_p": 1, "seed": 7, "max_tokens": 8, "extra_body": {"top_k": 0, "min_p": 0}}
    answer = ask(served, served.endless.id, **options)
    texts = [choice.message.content for choice in answer.choices]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answer.usage.completion_tokens == 24
    assert [choice.message.content for choice in ask(served, served.endless.id, **options).choices] == texts
    pieces = ["", "", ""]
    for chunk in served.client().chat.completions.create(
        model=served.endless.id, messages=ASKED, stream=True, **options
    ):
        pieces[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert pieces == texts


def test_response_format_when_a_schema_is_given_then_the_answer_keeps_to_it(served: Served) -> None:
    schema = {"type": "object", "properties": {"red": {"type": "boolean"}}, "required": ["red"]}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    assert set(json.loads(ask(served, response_format=form).choices[0].message.content)) == {"red"}
    content = ask(served, response_format={"type": "json_object"}).choices[0].message.content
    assert isinstance(json.loads(content), dict)


def test_images_when_they_stand_between_texts_then_the_prompt_has_them_there(served: Served) -> None:
    def tokens(*content: dict[str, Any]) -> int:
        messages = [{"role": "user", "content": list(content)}]
        return ask(served, served.endless.id, messages=messages, max_tokens=1).usage.prompt_tokens

    text = {"type": "text", "text": "one two"}
    single, two = tokens(PICTURE, text), tokens(PICTURE, text, PICTURE, text)
    assert two > 1.5 * single
    assert tokens(text, PICTURE, text, PICTURE) == two


def test_conversation_when_it_has_turns_then_each_is_in_the_prompt(served: Served) -> None:
    def tokens(*more: dict[str, Any]) -> int:
        return ask(served, served.endless.id, messages=[*more, *ASKED], max_tokens=1).usage.prompt_tokens

    turns = [{"role": "user", "content": "Good morning."}, {"role": "assistant", "content": "Good morning to you."}]
    assert tokens({"role": "system", "content": "Be short."}, *turns) > tokens(*turns) > tokens()


def test_max_tokens_when_more_than_is_accepted_then_clamped_and_not_refused(served: Served) -> None:
    """VLMEvalKit sends 32768 by default."""
    assert ask(served, max_tokens=32768).choices[0].finish_reason == "stop"
    answer = ask(served, served.endless.id, max_tokens=3, extra_body={"max_completion_tokens": 4})
    assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 4)


def test_stop_when_the_text_comes_then_the_answer_ends_before_it(served: Served) -> None:
    whole = ask(served).choices[0].message.content
    answer = ask(served, stop=[" text", "never"])
    assert answer.choices[0].message.content == whole.partition(" text")[0]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,aGFsbG8="}}], "image 1 is not an image"),
        ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,%"}}], "data URL of image 1 is invalid"),
        ([PICTURE, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}], "image 2 is not supported"),
        ([{"type": "text", "text": " "}], "The prompt is empty"),
    ],
)  # fmt: skip
def test_chat_when_the_content_is_bad_then_400_in_words(served: Served, content: list[Any], message: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match=message) as caught:
            ask(served, messages=[{"role": "user", "content": content}], stream=stream)
        assert caught.value.type == "invalid_request_error"


def test_images_when_they_are_too_large_together_then_400(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_api, "_IMAGES_AT_MOST", 0)
    with pytest.raises(openai.BadRequestError, match="megapixels together"):
        ask(served)


def test_demo_when_a_request_asks_for_more_than_the_operator_allows_then_clamped_or_refused(
    opened: Parts, endless: pairs.PairFiles
) -> None:
    demo = {"demo": True, "demo_max_tokens": 5, "demo_n_ctx": 256}
    with serving(replace(opened, settings=opened.settings.model_copy(update=demo)), endless) as served:
        assert ask(served).usage.completion_tokens == 5
        with pytest.raises(openai.PermissionDeniedError, match="turned off response_format"):
            ask(served, response_format={"type": "json_object"})
        with pytest.raises(openai.BadRequestError, match=r"The prompt has \d+ tokens"):
            ask(served, messages=[{"role": "user", "content": [PICTURE, PICTURE]}])


def test_remote_image_when_the_operator_does_not_allow_it_then_403(served: Served) -> None:
    remote = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]}]
    with pytest.raises(openai.PermissionDeniedError, match="does not fetch images"):
        ask(served, messages=remote)


def test_remote_image_when_its_address_is_private_then_it_is_not_fetched(
    opened: Parts, endless: pairs.PairFiles
) -> None:
    parts = replace(opened, settings=opened.settings.model_copy(update={"api_remote_images": True}))
    with serving(parts, endless) as served:
        own = [{"type": "image_url", "image_url": {"url": f"{served.url}/v1/models"}}]
        with pytest.raises(openai.BadRequestError, match="image 1 cannot be fetched"):
            ask(served, messages=[{"role": "user", "content": own}])


def test_bodies_when_they_cannot_be_used_then_errors_in_openais_form(served: Served) -> None:
    replies = {
        400: served.post(b"{"),
        404: served.post(json.dumps({"model": "gone", "messages": ASKED}).encode()),
        413: served.post(b" " * 64_000_001),
        415: served.post(b"{}", **{"Content-Type": "text/plain"}),
        403: served.post(b"{}", Origin="https://elsewhere.example"),
    }
    for status, reply in replies.items():
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert "64,000,000 bytes" in replies[413].json()["error"]["message"]
    assert httpx.get(f"{served.url}/v1/nothing").json()["error"]["code"] == "not_found"


def ended_runs(served: Served, outcome: str) -> float:
    lines = served.metrics.text().decode().splitlines()
    prefix = f'playground_runs_ended_total{{kind="compare",outcome="{outcome}"}} '
    return sum(float(line.removeprefix(prefix)) for line in lines if line.startswith(prefix))


@pytest.mark.parametrize("stream", [True, False])
def test_client_when_it_leaves_in_the_middle_then_its_run_is_stopped(served: Served, stream: bool) -> None:
    """bench api says how soon."""
    body = json.dumps({"model": served.endless.id, "messages": ASKED, "max_tokens": 8192, "stream": stream}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    address = urlsplit(served.url)
    before = ended_runs(served, "stopped")
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: WorkerState.BUSY in {worker.state for worker in served.parts.pool.memory().workers})
    until(lambda: ended_runs(served, "stopped") == before + 1)
    until(lambda: not served.parts.pool.memory().queue)


def test_requests_when_32_come_at_once_then_each_is_answered_and_others_find_room(served: Served) -> None:
    pool = served.parts.pool
    waiting: list[int] = []
    running: list[int] = []
    ended = Event()

    def look() -> None:
        while not ended.wait(0.01):
            queue = pool.memory().queue
            waiting.append(sum(run.place is None for run in queue))
            running.append(sum(run.place is not None for run in queue))
            pool.of("somebody else").check_busy()

    with ThreadPoolExecutor(33) as threads, served.client() as client:
        watch = threads.submit(look)
        create = partial(client.chat.completions.create, messages=ASKED, max_tokens=4)
        answers = list(threads.map(lambda model: create(model=model), [F16, Q2] * 16))
        ended.set()
        watch.result()
    assert [answer.model for answer in answers] == [F16, Q2] * 16
    assert len({answer.choices[0].message.content for answer in answers}) <= 2
    assert max(waiting) <= 2  # one of each model: the others wait before the queue
    assert max(running) > 1  # they share a turn


def test_requests_when_they_share_a_turn_then_one_can_leave_and_the_others_are_answered(served: Served) -> None:
    options = {"model": served.endless.id, "messages": ASKED, "extra_body": {"presence_penalty": 0.5}}
    create = served.client().chat.completions.create

    def content(**more: Any) -> tuple[str, bool]:
        answer = create(max_tokens=60, **options, **more)
        return str(answer.choices[0].message.content), answer.timings["prompt_ms"] is not None

    alone, is_timed = content()
    assert is_timed
    with ThreadPoolExecutor(5) as threads:
        first = create(max_tokens=8000, stream=True, **options)
        next(iter(first))
        leaving = threads.submit(create, max_tokens=8000, stream=True, **options)
        staying = [threads.submit(content), threads.submit(content, temperature=2, seed=3), threads.submit(content)]
        likely = threads.submit(create, max_tokens=60, logprobs=True, top_logprobs=2, **options)
        until(lambda: len(served.api._turns._waiting) == 5)
        first.close()
        same, other, again = [answer.result() for answer in staying]
        leaving.result().close()
    assert same == again == (alone, False)
    (choice,), timings = likely.result().choices, likely.result().timings
    assert (choice.message.content, timings["prompt_ms"]) == (alone, None)
    assert [len(token.top_logprobs) for token in choice.logprobs.content] == [2] * 60
    assert other != same
    until(lambda: not served.parts.pool.memory().queue)


def test_requests_when_beyond_the_operators_limit_then_429(opened: Parts, endless: pairs.PairFiles) -> None:
    settings = opened.settings.model_copy(update={"max_api_requests": 1})
    with serving(replace(opened, settings=settings), endless) as strict:
        body = {"model": strict.endless.id, "messages": ASKED, "max_tokens": 1500, "stream": True}
        with httpx.stream("POST", f"{strict.url}/v1/chat/completions", json=body, timeout=60) as reply:
            pieces = reply.iter_bytes()
            assert b"assistant" in next(pieces)
            with pytest.raises(openai.RateLimitError, match="1 of your requests are open") as caught:
                ask(strict)
        assert caught.value.response.headers["retry-after"] == "1"


def answering(served: Served) -> list[int]:
    """The processes that write an answer of the endless pair."""
    file, busy = Path(served.endless.model.path).name, WorkerState.BUSY
    return [w.pid for w in served.parts.pool.memory().workers if w.file == file and w.state is busy]


def kill_answering(served: Served) -> None:
    until(lambda: len(answering(served)) == 1)
    (pid,) = answering(served)
    os.kill(pid, signal.SIGKILL)
    wait_ended(pid)


def test_requests_when_their_worker_is_killed_then_each_is_asked_again_once(served: Served) -> None:
    until(lambda: not answering(served))  # what was asked before has ended
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, served, served.endless.id, max_tokens=150) for _ in range(3)]
        until(lambda: len(served.api._turns._waiting) == 2 or any(s.members == 3 for s in served.api._turns._shared))
        kill_answering(served)
        answers = [answer.result() for answer in asked]
    assert [answer.usage.completion_tokens for answer in answers] == [150, 150, 150]


def test_request_when_each_of_its_workers_is_killed_then_503_and_when_to_try_again(served: Served) -> None:
    until(lambda: not answering(served))
    with ThreadPoolExecutor(1) as threads:
        request = threads.submit(ask, served, served.endless.id, max_tokens=1500)
        killed: set[int] = set()
        while not request.done():  # a batch that had not begun its answer asks by itself, too
            for pid in {*answering(served)} - killed:  # it is listed until the app has noticed
                os.kill(pid, signal.SIGKILL)
                wait_ended(pid)
                killed.add(pid)
            time.sleep(0.01)
        with pytest.raises(openai.InternalServerError, match=r"killed \(SIGKILL\).* Run again") as caught:
            request.result()
    assert len(killed) >= 2
    assert (caught.value.status_code, caught.value.code) == (503, "worker_died")
    assert caught.value.response.headers["retry-after"] == "1"


def test_stream_when_its_worker_is_killed_behind_the_first_piece_then_it_ends_in_words(served: Served) -> None:
    until(lambda: not answering(served))
    client = served.client()
    stream = client.chat.completions.create(model=served.endless.id, messages=ASKED, max_tokens=1500, stream=True)
    chunks = iter(stream)
    assert next(chunks).choices[0].delta.role == "assistant"
    kill_answering(served)
    roles: list[str | None] = []
    with pytest.raises(openai.APIError, match=r"killed \(SIGKILL\)"):
        roles.extend(chunk.choices[0].delta.role for chunk in chunks)
    assert "assistant" not in roles  # it does not begin anew


def test_run_when_it_ends_then_the_metrics_count_it(served: Served) -> None:
    before = ended_runs(served, "done")
    ask(served, max_tokens=2)
    until(lambda: ended_runs(served, "done") == before + 1)


def test_keys_when_a_login_is_needed_then_only_a_key_opens(keyed: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="Send a key"):
        keyed.client("a wrong key, as long as it").models.list()
    assert httpx.get(f"{keyed.url}/v1/models").status_code == 401
    assert F16 in [model.id for model in keyed.client(KEY).models.list()]
    client = keyed.client(KEY)
    stream = client.chat.completions.create(model=keyed.endless.id, messages=ASKED, max_tokens=1500, stream=True)
    next(iter(stream))
    assert [run.who for run in keyed.parts.pool.memory().queue] == ["key ci"]
    stream.close()


def test_key_when_a_request_comes_from_elsewhere_then_it_is_needed(served: Served) -> None:
    assert httpx.get(f"{served.url}/v1/models").status_code == 200
    through_a_proxy = httpx.get(f"{served.url}/v1/models", headers={"X-Forwarded-For": "192.0.2.1"})
    assert through_a_proxy.status_code == 401


# --- two instances, one asking the other ----------------------------------------------------------------------


def test_instance_when_it_asks_another_then_the_same_answer_and_a_drift_below_the_whole_one(
    served: Served, parts: Parts
) -> None:
    """`parts` has a pool and workers of its own."""
    ends = [Endpoint("same", f"{served.url}/v1", F16), Endpoint("small", f"{served.url}/v1", BLURRED)]
    asking = replace(parts, endpoints=Endpoints(ends))
    reference, small = asking.catalog.choose([F16, BLURRED])
    variants = (reference, *asking.endpoints.variants)
    request = comparison(DECODER.read(SCENE, SCENE.name), WHAT, variants, max_tokens=12)
    update = run(asking, replace(request, probabilities=True, n_candidates=20))
    ours, same, other = update.panes
    assert [pane.state for pane in update.panes] == [PaneState.DONE] * 3
    assert (same.text, same.token_ids, same.finish_reason) == (ours.text, (), ours.finish_reason)
    assert same.elsewhere is not None
    assert (same.elsewhere.model, same.elsewhere.answer_tokens) == (F16, len(ours.token_ids))
    assert same.metrics == Metrics()  # its times are not ours
    equal = top_drift.between(ours, same)
    assert equal is not None
    assert (equal.tokens, equal.kl) == (len(ours.token_ids), pytest.approx(0, abs=1e-4))
    whole = whole_kl(asking, reference, small, ours.token_ids)
    bounds = [top_drift.at_least(a, b) for a, b in zip(ours.scores, other.scores, strict=False)]
    parted = next((i for i, (a, b) in enumerate(zip(ours.scores, other.scores, strict=False)) if a.text != b.text), 99)
    pairs = list(zip(bounds[: parted + 1], whole, strict=False))
    assert pairs
    assert all(-1e-9 <= bound <= kl + 1e-5 for bound, kl in pairs)
    assert max(bound for bound, _ in pairs) > 0


def test_measurement_when_another_instance_answers_then_as_reference_a_lower_bound_and_beside_the_same_accuracy(
    served: Served, parts: Parts
) -> None:
    ends = [Endpoint("same", f"{served.url}/v1", F16), Endpoint("small", f"{served.url}/v1", BLURRED, at_once=2)]
    asking = replace(parts, endpoints=Endpoints(ends))
    here, (same, small) = asking.catalog.choose([F16, BLURRED]), asking.endpoints.variants
    questions = embedded(asking.evaluation, level="easy").first(2)

    def measured(variants: tuple[Variant, ...], plan: MeasurementPlan) -> Measurement:
        request = MeasureRequest(questions, variants, variants[0].id, plan, Runtime(n_ctx=512))
        *_, last = endpoint_jobs.job_of(asking.lab, request).run()
        assert isinstance(last, Measurement)
        assert last.left_out == 0
        return last

    plan = MeasurementPlan(accuracy=True, max_tokens=8)
    whole = measured((*here, small), plan)
    bound = measured((same, *here), plan)
    assert bound.answers == whole.answers
    assert any("is a lower bound" in problem for problem in bound.problems)
    equal, quantized = bound.results[1:]
    assert equal.mean_kl is not None
    assert equal.mean_kl.value == pytest.approx(0, abs=1e-4)
    for ours, theirs in zip(whole.results[1].items, quantized.items, strict=True):
        assert all(-1e-9 <= low.kl <= high.kl + 1e-5 for low, high in zip(theirs.kl, ours.kl, strict=True))
        assert theirs.kl[-1].kl == pytest.approx(0, abs=1e-6)  # nothing is known behind the last token
    assert quantized.mean_kl is not None
    assert whole.results[1].mean_kl is not None
    assert 0 < quantized.mean_kl.value <= whole.results[1].mean_kl.value
    assert (bound.results[0].mean_kl, bound.floors, quantized.floor is None) == (None, {}, False)
    local, elsewhere = whole.results[1:]
    assert (elsewhere.accuracy, elsewhere.mean_kl) == (local.accuracy, None)
    n_same = sum(item.text == answer for item, answer in zip(local.items, whole.answers, strict=True))
    assert f"elsewhere: small: {n_same} of 2 answers are those of F16, word for word." in whole.problems
    assert f"elsewhere: small: by its own word {BLURRED} answered." in whole.problems
    assert [item.text for item in elsewhere.items] == [item.text for item in local.items]


def whole_kl(parts: Parts, reference: Variant, variant: Variant, ids: tuple[int, ...]) -> list[float]:
    """Over the whole vocabulary, at each of the reference's tokens."""
    steps = Steps(parts.lab, reference, Runtime(), Sampling(), lambda: False)
    image = DECODER.read(SCENE, SCENE.name)
    prompts = [steps.prompt(v, Item(Question(SCENE.name, WHAT), image)) for v in (reference, variant)]
    with parts.result_cache.scratch() as folder:
        steps.record(reference, prompts[0], ids, folder / "record")
        return [drift.kl for drift in steps.read(variant, prompts[1], ids, folder / "record")]
