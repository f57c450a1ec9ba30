"""Who joins a shared batch, what happens to the others when it fails, and how large it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any, cast

import pytest

from playground.comparing.shared_batch import SharedBatch
from playground.engine import protocol
from playground.errors import EngineError, OutOfMemory
from playground.pool.contract import Dialogue
from playground.pool.leasing import Slot
from playground.pool.worker_spec import WorkerSpec
from playground.values.files import ModelFile
from playground.values.request import Runtime, Sampling

MODEL = ModelFile("m.gguf", 1, "sha", "F16", 1, "llama")


def asked(picture: str, n_text: int = 3) -> protocol.EncodedPrompt:
    image = protocol.ImageChunk(0, picture, 10, 10, False, b"", b"embeddings")
    return protocol.EncodedPrompt((image, protocol.TextChunk(tuple(range(n_text)))), 1, "", 0.0, None)


class Worker:
    """A Slot and its Lease: answers in the order of the joins when `go` is set. `script`: what each request does."""

    def __init__(self, most_sequences: int = 99) -> None:
        self.go = Event()
        self.most_sequences = most_sequences
        self.opened: list[protocol.OpenBatch] = []
        self.joined: list[protocol.Join] = []
        self.faults: list[Callable[[Dialogue, Sequence[protocol.Join]], None]] = []

    def fits(self, specs: Sequence[WorkerSpec]) -> bool:
        return specs[-1].sequences <= self.most_sequences

    @contextmanager
    def lease(self, spec: WorkerSpec, stop: Callable[[], bool]) -> Iterator[Worker]:
        yield self

    def wake(self) -> None:
        pass

    def request(self, request: protocol.OpenBatch, dialogue: Dialogue) -> None:
        self.opened.append(request)
        assert self.go.wait(20)
        running: list[protocol.Join] = []
        while True:
            for message in dialogue.to_send():
                if isinstance(message, protocol.CloseBatch):
                    return
                if isinstance(message, protocol.Join):
                    running.append(message)
                    self.joined.append(message)
            if self.faults:
                self.faults.pop(0)(dialogue, running)
            elif running:
                dialogue.received(protocol.SequenceEnded(running.pop(0).id, "end of text"))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as executor:
        yield executor


def opened(worker: Worker, sequences: int = 8, *, one_picture: bool = False) -> SharedBatch:
    return SharedBatch(cast(Slot, worker), MODEL, Runtime(), sequences, one_picture=one_picture)


def ask(
    threads: ThreadPoolExecutor, batch: SharedBatch, prompts: Sequence[protocol.EncodedPrompt], max_tokens: int = 5
) -> list[Future[protocol.SequenceEnded]]:
    """In this order."""
    answers = []
    for prompt in prompts:
        before = len(batch._waiting)
        answers.append(
            threads.submit(batch.answer, prompt, Sampling(max_tokens=max_tokens), lambda chunk: None, lambda: False)
        )
        while len(batch._waiting) == before:
            pass
    return answers


def pictures(worker: Worker) -> str:
    return "".join(cast(Any, join.prompt.chunks[0]).key for join in worker.joined)


@pytest.mark.parametrize(("one_picture", "order"), [(False, "ABABC"), (True, "AABBC")])
def test_requests_when_they_are_about_several_pictures_then_on_a_cpu_those_of_one_come_together(
    threads: ThreadPoolExecutor, one_picture: bool, order: str
) -> None:
    worker = Worker()
    batch = opened(worker, one_picture=one_picture)
    answers = ask(threads, batch, [asked(name) for name in "ABABC"])
    worker.go.set()
    assert [answer.result().reason for answer in answers] == ["end of text"] * 5
    batch.close()
    assert pictures(worker) == order
    sent = [bool(cast(Any, join.prompt.chunks[0]).embeddings) for join in worker.joined]
    assert sent == [before != now for before, now in zip(" " + order[:-1], order, strict=True)]


def test_request_when_many_of_another_picture_come_then_it_lets_32_go_first(threads: ThreadPoolExecutor) -> None:
    worker = Worker()
    batch = opened(worker, one_picture=True)
    answers = ask(threads, batch, [asked(name) for name in "AB" + 35 * "A"])
    worker.go.set()
    for answer in answers:
        answer.result()
    batch.close()
    assert pictures(worker) == 33 * "A" + "B" + 3 * "A"


def test_batch_when_it_fails_then_what_has_no_piece_is_asked_again_half_as_many_at_once(
    threads: ThreadPoolExecutor,
) -> None:
    def fail(dialogue: Dialogue, running: Sequence[protocol.Join]) -> None:
        dialogue.received(protocol.SequenceChunk(running[0].id, protocol.Chunk("a", (1,))))
        raise EngineError("It died.")

    worker = Worker()
    worker.faults.append(fail)
    batch = opened(worker)
    begun, *others = ask(threads, batch, [asked("A") for _ in range(4)])
    worker.go.set()
    with pytest.raises(EngineError, match="It died"):
        begun.result()
    assert [answer.result().reason for answer in others] == ["end of text"] * 3
    batch.close()
    assert [request.sequences for request in worker.opened] == [8, 4]


def test_batch_when_it_fails_with_two_at_once_then_each_has_the_error(threads: ThreadPoolExecutor) -> None:
    def fail(dialogue: Dialogue, running: Sequence[protocol.Join]) -> None:
        raise EngineError("No.")

    worker = Worker()
    worker.faults += [fail] * 3
    batch = opened(worker)
    answers = ask(threads, batch, [asked("A"), asked("B")])
    worker.go.set()
    for answer in answers:
        with pytest.raises(EngineError, match="No"):
            answer.result()
    batch.close()
    assert [request.sequences for request in worker.opened] == [8, 4, 2]


def test_context_when_memory_is_short_or_answers_are_long_then_fewer_are_answered_at_once() -> None:
    for most, max_tokens, expected in [(99, 5, 16), (4, 5, 4), (99, 16_000, 8), (99, 200_000, 2)]:
        worker = Worker(most)
        worker.go.set()
        batch = opened(worker, 16)
        batch.answer(asked("A"), Sampling(max_tokens=max_tokens), lambda chunk: None, lambda: False)
        batch.close()
        assert worker.opened[0].sequences == expected
        assert worker.opened[0].runtime.context >= expected * (max_tokens + 3) + 10


def test_context_when_memory_holds_no_two_requests_then_refused_in_words() -> None:
    batch = opened(Worker(1), 16)
    with pytest.raises(OutOfMemory, match="one by one"):
        batch.answer(asked("A"), Sampling(), lambda chunk: None, lambda: False)
    batch.close()


def test_request_when_it_is_larger_than_the_context_then_the_batch_is_opened_anew(threads: ThreadPoolExecutor) -> None:
    worker = Worker()
    batch = opened(worker, 2)
    small = ask(threads, batch, [asked("A")])
    large = ask(threads, batch, [asked("A", 2000)])
    worker.go.set()
    assert small[0].result().reason == large[0].result().reason == "end of text"
    batch.close()
    first, second = worker.opened
    assert first.runtime.context < 2000 < second.runtime.context


def test_request_when_it_is_stopped_before_it_joined_then_it_ends_stopped() -> None:
    worker = Worker()
    batch = opened(worker)
    assert batch.answer(asked("A"), Sampling(), lambda chunk: None, lambda: True).reason == "stopped"
    worker.go.set()
    batch.close()
