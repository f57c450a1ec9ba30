"""Many prompts at once in one language worker, with the real engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy
import pytest

from playground.comparing import batch
from playground.comparing.batch import BatchAnswer
from playground.engine import protocol, scoring
from playground.engine.language import LanguageModel
from playground.engine.reading import Readings
from playground.engine.sequences import Begun
from playground.engine.vocabulary import Vocabulary
from playground.errors import BadPrompt, EngineError, Failure, Interrupted, PlaygroundError
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan, RecordedAnswer
from playground.measuring.steps import Item, Reading, Steps
from playground.models.presets import data_folder
from playground.pool.leasing import Slot
from playground.pool.process import WorkerProcess
from playground.pool.turn_order import Places
from playground.pool.worker_spec import language_spec
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.files import Variant
from playground.values.memory import HOST, WorkerMemory, WorkerRole, WorkerState
from playground.values.request import Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.waiting import until

FOLDER = data_folder() / "tiny-vlm/evaluation"
MAX_TOKENS = 24


def steps_of(parts: Parts, variant: Variant, sequences: int, runtime: Runtime | None = None) -> Steps:
    lab = replace(parts.lab, sequences=sequences)
    return Steps(lab, variant, runtime or Runtime(), Sampling(max_tokens=MAX_TOKENS), lambda: False)


def items_of(n: int, level: str = "hard") -> list[Item]:
    questions = question_sets.embedded(FOLDER, level=level).first(n)
    return [Item(question, questions.image(question)) for question in questions.items]


def texts(answers: Sequence[RecordedAnswer | Failure]) -> list[str]:
    assert all(isinstance(answer, RecordedAnswer) for answer in answers), answers
    return [answer.text for answer in answers if isinstance(answer, RecordedAnswer)]


def at_once(
    parts: Parts,
    variant: Variant,
    prompts: Sequence[protocol.EncodedPrompt],
    sequences: int,
    *,
    kv_unified: bool = True,
) -> list[str]:
    """The answers of one batch, whatever their pictures are. Each comes once."""
    answers: dict[int, str] = {}

    def on_answer(place: int, answer: BatchAnswer | PlaygroundError) -> None:
        assert isinstance(answer, BatchAnswer), answer
        assert place not in answers
        answers[place] = answer.text

    size = (batch.cells if kv_unified else batch.own_cells)(prompts, MAX_TOKENS, sequences)
    runtime = Runtime(n_ctx=size)
    spec = language_spec(variant.model, runtime, sequences=sequences, kv_unified=kv_unified)
    with parts.pool.lease(spec) as lease:
        sampling = Sampling(max_tokens=MAX_TOKENS)
        batch.answer_all(
            lease, prompts, sampling, runtime, sequences, size, on_answer, lambda: False, kv_unified=kv_unified
        )
    return [answers[k] for k in range(len(prompts))]


def about_one_picture(n: int) -> list[Item]:
    picture = items_of(1)[0].image
    return [item._replace(image=picture) for item in items_of(n)]


@pytest.mark.parametrize("quantization", ["F16", "Q4_K_M"])
def test_answers_when_asked_at_once_then_those_of_one_at_a_time(parts: Parts, quantization: str) -> None:
    (variant,) = parts.catalog.choose([quantization], ["F16"])
    steps = steps_of(parts, variant, 8)
    prompts = [steps.prompt(variant, item) for item in items_of(20)]
    alone = [steps.write(variant, prompt).text for prompt in prompts]
    for kv_unified in (True, False):
        together = at_once(parts, variant, prompts, 8, kv_unified=kv_unified)
        assert sum(a != b for a, b in zip(together, alone, strict=True)) <= 1  # a near tie


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_answers_when_of_any_kind_of_model_then_those_of_one_at_a_time(
    parts: Parts, tiny: dict[str, pairs.PairFiles], kind: str
) -> None:
    """Tiles, M-RoPE, images without a causal mask, a sliding window. Random weights have no near ties."""
    variant = parts.catalog.open_pair(tiny[kind].model, tiny[kind].projector)
    items = [items_of(3)[k // 2] for k in range(5)]
    items = [i._replace(question=question_sets.Question("", f"What is {k}?")) for k, i in enumerate(items)]
    steps = steps_of(parts, variant, 3)
    prompts = [steps.prompt(variant, item) for item in items]
    alone = [steps.write(variant, prompt).text for prompt in prompts]
    assert at_once(parts, variant, prompts, 3) == alone
    assert at_once(parts, variant, prompts, 3, kv_unified=False) == alone


@pytest.mark.parametrize(("kind", "batches"), [("mlp", 1), ("qwen2vl", 1), ("gemma3", 6)])
def test_prompts_when_each_has_a_cache_then_they_are_one_batch_and_compute_the_same(
    parts: Parts, tiny: dict[str, pairs.PairFiles], kind: str, batches: int
) -> None:
    """Their text is looked up in the file. An image without a causal mask, as Gemma's, stays a batch of its own."""
    variant = parts.catalog.open_pair(tiny[kind].model, tiny[kind].projector)
    prompts = [steps_of(parts, variant, 3).prompt(variant, item) for item in items_of(3)]
    shared, n_shared = read_at_once(parts, variant, prompts, kv_unified=True)
    apart, n_apart = read_at_once(parts, variant, prompts, kv_unified=False)
    assert (n_shared, n_apart) == (4, batches)  # one cache for all keeps the text before the image
    assert apart == pytest.approx(shared, rel=1e-3)
    assert len(set(shared.values())) == 3


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_prompts_when_they_are_about_one_picture_then_it_is_read_once_and_copied_into_each_cache(
    parts: Parts, tiny: dict[str, pairs.PairFiles], kind: str
) -> None:
    variant = parts.catalog.open_pair(tiny[kind].model, tiny[kind].projector)
    items = [items_of(2)[picture] for picture in (0, 1, 0, 0)]
    items = [i._replace(question=question_sets.Question("", f"What is {n}?")) for n, i in enumerate(items)]
    prompts = [steps_of(parts, variant, 4).prompt(variant, item) for item in items]
    _, n_of_two = read_at_once(parts, variant, prompts[:2], kv_unified=False)
    apart, n_apart = read_at_once(parts, variant, prompts, kv_unified=False)
    shared, _ = read_at_once(parts, variant, prompts, kv_unified=True)
    assert n_apart == n_of_two
    assert apart == pytest.approx(shared, rel=1e-3)
    assert len(set(apart.values())) == 4


def read_at_once(
    parts: Parts, variant: Variant, prompts: Sequence[protocol.EncodedPrompt], *, kv_unified: bool
) -> tuple[dict[int, float | None], int]:
    """How likely an answer to each of them is, in nats, and how many batches its prompts were."""
    read: dict[int, float | None] = {}
    n = len(prompts)
    runtime = Runtime(n_ctx=(batch.cells if kv_unified else batch.own_cells)(prompts, 3, n))
    request = protocol.ReadBatch(runtime, n, None, max(prompt.widest for prompt in prompts), kv_unified)
    readings = [protocol.JoinReading(k, prompt, (5, 6, 7)) for k, prompt in enumerate(prompts)]
    with parts.pool.lease(language_spec(variant.model, runtime, sequences=n, kv_unified=kv_unified)) as lease:
        ended = batch.read_each(
            lease, request, readings, lambda reply: read.update({reply.id: reply.log_probability}), lambda: False
        )
    return read, ended.prefix_batches


@pytest.mark.parametrize(
    ("prompts", "batches"),
    [
        (("0:5", "1:5", "2:5"), 1),
        (("0:9", "1:5", "2:7"), 1),  # what is left of each is in the first step
        (("0:5", "1:7", "0:9", "0:6"), 2),  # the image of three is copied; then their text
        (("0:600", "0:610"), 3),  # 512 of its tokens are a batch
    ],
)
def test_prompts_when_all_are_there_then_in_few_batches_and_answers_are_those_of_one_at_a_time(
    tiny: dict[str, pairs.PairFiles], prompts: tuple[str, ...], batches: int
) -> None:
    """As testkit/batch_child.py names them: the picture, and the tokens behind it."""
    child = subprocess.run(
        [sys.executable, "-m", "testkit.batch_child", str(tiny["mlp"].model), *prompts],
        capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout)
    assert found == {"equal": True, "steps": 6, "prefix_batches": batches, "answered": [6] * len(prompts)}


def test_questions_when_on_a_cpu_then_those_about_one_picture_are_asked_at_once(parts: Parts) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    steps = steps_of(parts, variant, 16)
    items = [*about_one_picture(3), *items_of(5)]
    assert steps.at_once(items) == 4  # the first picture is also that of one other question
    assert steps.at_once(items_of(5)) == 1
    assert len(texts(steps.answers(variant, items, 4))) == 8
    assert steps.notes == []


def test_readings_when_there_is_nothing_to_read_then_no_worker_is_asked(
    cold: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU all questions are one group, also where there are none: a measurement whose records are all there."""
    (variant,) = cold.catalog.choose(["F16"], ["F16"])
    monkeypatch.setattr(type(cold.pool), "on_gpu", property(lambda pool: True))
    steps = steps_of(cold, variant, 16)
    steps.readings(variant, items_of(2), {}, lambda place, reply: None)
    assert steps.at_once([]) == 1
    assert cold.pool.memory().workers == ()


# More questions than are sent before one is answered (twice as many as at once), so that it cannot have ended before.
@pytest.mark.parametrize(("sequences", "fewer", "n"), [(4, 2, 12), (16, 8, 40)])
def test_answers_when_the_worker_is_killed_then_each_question_is_asked_again_and_none_twice(
    cold: Parts, sequences: int, fewer: int, n: int
) -> None:
    (variant,) = cold.catalog.choose(["F16"], ["F16"])
    items = about_one_picture(n)
    lab = replace(cold.lab, sequences=sequences)
    killed: list[int] = []
    places: list[int] = []

    def stop() -> bool:
        n_done = sum(lab.results.has(steps.answer_key(variant, item)) for item in items)
        if 0 < n_done < len(items) and not killed:
            (pid,) = (w.pid for w in cold.pool.memory().workers if w.role is WorkerRole.LANGUAGE)
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return False

    steps = Steps(lab, variant, Runtime(), Sampling(max_tokens=MAX_TOKENS), stop)
    answers = texts(steps.answers(variant, items, sequences, places.append))
    assert killed
    assert sorted(places) == list(range(n))  # each once
    assert len(answers) == len(items)
    assert steps.sequences == fewer
    assert "SIGKILL" in steps.notes[0]
    assert f"at most {fewer} of its questions" in steps.notes[0]
    assert answers == [steps.write(variant, steps.prompt(variant, item)).text for item in items]


@pytest.mark.parametrize("fault", ["-2:4", "-3:4", "context:4"])  # of llama_decode: no memory, failed to compute
def test_batch_when_memory_runs_out_in_it_then_half_as_many_at_once_and_each_question_once(
    derived: Path, tmp_path: Path, fault: str
) -> None:
    with faulty(derived, tmp_path, fault) as parts:
        (variant,) = parts.catalog.choose(["F16"], ["F16"])
        steps, items = steps_of(parts, variant, 8), about_one_picture(10)
        places: list[int] = []
        answers = steps.answers(variant, items, 8, places.append)
        assert sorted(places) == list(range(10))
        assert texts(answers) == [steps.write(variant, steps.prompt(variant, item)).text for item in items]
        assert steps.sequences == 4
        assert len(steps.notes) == 1
        assert "at most 4 of its questions were asked at once" in steps.notes[0]

        steps = steps_of(parts, variant, 8)
        sequences = {k: Reading(a.token_ids) for k, a in enumerate(answers) if isinstance(a, RecordedAnswer)}
        read: list[int] = []
        steps.readings(variant, items, sequences, lambda k, reply: read.append(k))
        assert sorted(read) == list(range(10))
        assert steps.sequences == 4


def test_batch_when_its_cache_is_full_then_the_newest_wait_and_each_question_is_answered(
    derived: Path, tmp_path: Path
) -> None:
    with faulty(derived, tmp_path, "1:4") as parts:
        (variant,) = parts.catalog.choose(["F16"], ["F16"])
        steps, items = steps_of(parts, variant, 8), about_one_picture(10)
        answers = texts(steps.answers(variant, items, 8))
        assert answers == [steps.write(variant, steps.prompt(variant, item)).text for item in items]
        assert steps.notes == []  # nothing was asked twice


@contextmanager
def faulty(derived: Path, folder: Path, fault: str) -> Iterator[Parts]:
    """Parts whose workers fail (testkit/faulty_worker_child.py)."""
    (folder / "derived").symlink_to(derived / "derived")

    def start(name: str, places: Places) -> WorkerProcess:
        return WorkerProcess(name, {"FAULT": fault}, module="testkit.faulty_worker_child")

    with open_parts(Settings(cache_dir=folder), any_folder=True, start_worker=start) as parts:
        yield parts


def test_answers_when_memory_is_short_then_fewer_are_asked_at_once_and_it_says_so(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    monkeypatch.setattr(Slot, "fits", lambda slot, specs: all(spec.sequences <= 4 for spec in specs))
    steps = steps_of(parts, variant, 16)
    assert len(texts(steps.answers(variant, about_one_picture(16), 16))) == 16
    assert steps.sequences == 4
    assert steps.notes == ["F16: memory is short. From then on at most 4 of its questions were asked at once."]


def test_variant_when_it_comes_next_then_it_is_loaded_with_the_context_of_the_batch_before(cold: Parts) -> None:
    f16, q8 = cold.catalog.choose(["F16", "Q8_0"], ["F16"])
    items = about_one_picture(4)
    steps = steps_of(cold, f16, 4)
    steps.then = q8
    steps.answers(f16, items, 4)

    def loaded() -> dict[str, WorkerMemory]:
        workers = cold.pool.memory().workers
        return {w.file: w for w in workers if w.role is WorkerRole.LANGUAGE and w.state is WorkerState.READY}

    until(lambda: len(loaded()) == 2)
    before = loaded()
    assert {w.sequences for w in before.values()} == {4}
    assert len(texts(steps.answers(q8, items, 4))) == 4
    assert {file: w.pid for file, w in loaded().items()} == {file: w.pid for file, w in before.items()}


def test_questions_when_others_wait_for_a_turn_then_the_rest_is_asked_in_another(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playground.measuring.steps._TURN_S", 0.0)
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    items = about_one_picture(12)
    steps = steps_of(parts, variant, 2)
    for item in items:
        steps.prompt(variant, item)  # encoded
    answered: list[int] = []
    seen: list[int] = []

    def use() -> None:
        with parts.pool.use(language_spec(variant.model, Runtime())):
            seen.append(len(answered))

    other = Thread(target=use)

    def on_answer(place: int) -> None:
        answered.append(place)
        if len(answered) == 1:
            other.start()
            while not parts.pool.is_wanted((HOST,)):
                pass

    assert len(texts(steps.answers(variant, items, 2, on_answer))) == 12
    other.join()
    assert 0 < seen[0] < 12


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_drift_when_computed_in_float32_then_the_exact_one(tmp_path: Path, dtype: str) -> None:
    class Words:
        n_tokens = 50_000

        def piece(self, token: int) -> bytes:
            return b"word"

    def exact(rows: Any) -> Any:
        rows = rows.astype("float64")
        return rows - numpy.logaddexp.reduce(rows, axis=1, keepdims=True)

    rng = numpy.random.default_rng(0)
    shape = (3, Words.n_tokens)
    theirs = (3 * rng.standard_normal(shape)).astype("float32")
    ours = theirs + (0.1 * rng.standard_normal(shape)).astype("float32")
    (tmp_path / "record").write_bytes(scoring.likelihoods(theirs).as_record(dtype))
    record = numpy.fromfile(tmp_path / "record", dtype).reshape(shape)
    assert record.astype("float64") == pytest.approx(exact(theirs), rel=1e-3 if dtype == "float16" else 1e-6)
    reader = scoring.recorded(cast(Vocabulary, Words()), str(tmp_path / "record"), dtype, 3)
    own = scoring.likelihoods(ours)
    drifts = reader.drifts(["a"], scoring.likelihoods(ours[:1]))
    drifts += reader.drifts(["b", ""], scoring.likelihoods(ours[1:]))
    p, q = exact(record), exact(ours)
    assert [drift.kl for drift in drifts] == pytest.approx((numpy.exp(p) * (p - q)).sum(axis=1), abs=1e-7)
    likeliest = numpy.argsort(-ours, axis=1, kind="stable")[:, :5].tolist()
    assert [[candidate.token_id for candidate in drift.variant] for drift in drifts] == likeliest
    assert [drift.text for drift in drifts] == ["a", "b", ""]
    assert drifts[2].variant[0].probability == pytest.approx(float(numpy.exp(q[2].max())), rel=1e-5)
    assert own.of([7]) == pytest.approx(q[0, 7], rel=1e-6)
    assert own.of([]).sum() == 0


def test_answers_when_one_prompt_does_not_fit_then_it_fails_alone(parts: Parts) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    items = about_one_picture(4)
    items[2] = items[2]._replace(question=question_sets.Question("", "red " * 600))
    steps = steps_of(parts, variant, 4, Runtime(n_ctx=512))
    answers = steps.answers(variant, items, 4)
    assert [type(answer) for answer in answers] == [RecordedAnswer, RecordedAnswer, BadPrompt, RecordedAnswer]
    assert "the context holds 512" in str(answers[2])


def test_answers_when_stopped_then_what_is_done_is_kept(parts: Parts) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    items = about_one_picture(12)
    lab = replace(parts.lab, sequences=2)

    def n_done() -> int:
        return sum(lab.results.has(steps.answer_key(variant, item)) for item in items)

    steps = Steps(lab, variant, Runtime(), Sampling(max_tokens=MAX_TOKENS), lambda: n_done() > 0)
    with pytest.raises(Interrupted):
        steps.answers(variant, items, 2)
    assert 0 < n_done() < len(items)


def test_sequence_when_it_leaves_then_the_others_go_on(parts: Parts, endless: pairs.PairFiles) -> None:
    variant = parts.catalog.open_pair(endless.model, endless.projector)
    prompt = steps_of(parts, variant, 2).prompt(variant, items_of(1)[0])
    runtime = Runtime(n_ctx=batch.cells([prompt], 2000, 1) * 2)

    class Leaving:
        def __init__(self) -> None:
            self.outbox: list[protocol.Message] = [
                protocol.Join(id, prompt, Sampling(max_tokens=n)) for id, n in ((0, 2000), (1, 20), (2, 2000))
            ]
            self.ended: list[tuple[int, str]] = []

        def to_send(self) -> Sequence[protocol.Message]:
            messages, self.outbox = self.outbox, []
            return messages

        def received(self, reply: protocol.SequenceReply) -> None:
            if isinstance(reply, protocol.SequenceEnded):
                self.ended.append((reply.id, reply.reason))
                if reply.id == 1:  # what runs, and what may still wait, can leave
                    self.outbox += [protocol.Leave(2), protocol.Leave(0), protocol.CloseBatch()]

    leaving = Leaving()
    with parts.pool.lease(language_spec(variant.model, runtime, sequences=2)) as lease:
        lease.request(protocol.OpenBatch(runtime, 2, runtime.context), dialogue=leaving)
    assert leaving.ended == [(1, "max tokens"), (2, "stopped"), (0, "stopped")]


class Asking:
    """A Dialogue that sends all joins at once."""

    def __init__(self, joins: Sequence[protocol.Join]) -> None:
        self.outbox: list[protocol.Message] = [*joins, protocol.CloseBatch()]
        self.ids: dict[int, tuple[int, ...]] = {join.id: () for join in joins}
        self.ended: dict[int, protocol.SequenceEnded] = {}

    def to_send(self) -> Sequence[protocol.Message]:
        messages, self.outbox = self.outbox, []
        return messages

    def received(self, reply: protocol.SequenceReply) -> None:
        if isinstance(reply, protocol.SequenceChunk):
            self.ids[reply.id] += reply.chunk.token_ids
        elif isinstance(reply, protocol.SequenceEnded):
            self.ended[reply.id] = reply


def test_scores_when_wanted_in_a_batch_then_those_that_reading_the_answer_alone_finds(parts: Parts) -> None:
    """Beside answers whose logits are not wanted. A sampler outside of the graph takes the same tokens."""
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    steps = steps_of(parts, variant, 4)
    prompt = steps.prompt(variant, items_of(1)[0])
    greedy = Sampling(max_tokens=MAX_TOKENS)
    warm = Sampling(max_tokens=8, temperature=9, seed=5, top_k=40, top_p=1, min_p=0)
    kinds = [(greedy, 3), (greedy, None), (warm, 2), (warm, None), (Sampling(max_tokens=1), 0), (greedy, 1)]
    asking = Asking([protocol.Join(k, prompt, sampling, n_candidates=n) for k, (sampling, n) in enumerate(kinds)])
    runtime = Runtime(n_ctx=batch.cells([prompt], MAX_TOKENS, 4))
    with parts.pool.lease(language_spec(variant.model, runtime, sequences=4)) as lease:
        lease.request(protocol.OpenBatch(runtime, 4, runtime.context), dialogue=asking)
    assert asking.ids[0] == asking.ids[1] == asking.ids[5]
    assert asking.ids[2] == asking.ids[3] != asking.ids[0]
    assert asking.ended[1].scores == asking.ended[3].scores == ()
    for k, n in [(k, n) for k, (_, n) in enumerate(kinds) if n is not None]:
        request = protocol.Score(prompt, asking.ids[k], Runtime(), n)
        with parts.pool.lease(language_spec(variant.model, Runtime())) as lease:
            alone = lease.request(request).scores
        scores, ended = asking.ended[k].scores, asking.ended[k].reason == "end of text"
        assert len(scores) == len(asking.ids[k]) + ended
        for ours, theirs in zip(scores, alone, strict=False):
            assert ours.text == theirs.text
            assert len(ours.candidates) == n
            assert ours.probability == (theirs.probability and pytest.approx(theirs.probability, rel=0.01, abs=1e-6))
            likely = [candidate.probability for candidate in theirs.candidates]
            assert [c.probability for c in ours.candidates] == pytest.approx(likely, rel=0.01, abs=1e-6)
    assert asking.ended[0].reason == "end of text"
    assert asking.ended[4].reason == "max tokens"


def test_answer_when_its_picture_was_sent_with_the_prompt_before_then_not_again(parts: Parts) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    first, second = items_of(2)
    steps = steps_of(parts, variant, 2)
    prompts = [steps.prompt(variant, item) for item in (first, first, second, first)]
    answers = at_once(parts, variant, prompts, 2)
    assert len({answers[k] for k in (0, 1, 3)}) == 1


def test_cells_when_prompts_share_a_picture_then_it_counts_once() -> None:
    def prompt(picture: str, n_text: int) -> protocol.EncodedPrompt:
        image = protocol.ImageChunk(0, picture, 500, 500, False, b"", b"")
        chunks = (protocol.TextChunk((1,) * 3), image, protocol.TextChunk((1,) * n_text))
        return protocol.EncodedPrompt(chunks, 1, "", 0.0, None)

    prompts = [prompt("a", 20)] * 16
    assert batch.cells(prompts, 64, 16) == 2048  # 503 + 16 * 85, in steps of 256
    assert batch.cells(prompts, 64, 1) == 768
    assert batch.cells([*prompts, prompt("b", 20)], 64, 2) == 1280  # both pictures


@pytest.mark.parametrize("kind", [*pairs.KINDS, "embedded"])
def test_readings_when_read_at_once_then_what_each_alone_finds(
    parts: Parts, tiny: dict[str, pairs.PairFiles], tmp_path: Path, kind: str
) -> None:
    """Two groups of three; answers of several lengths, more tokens than one stretch has with logits."""
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    if kind != "embedded":
        variant = parts.catalog.open_pair(tiny[kind].model, tiny[kind].projector)
    steps = steps_of(parts, variant, 3)
    items = [items_of(3)[k // 2] for k in range(5)]
    prompts = [steps.prompt(variant, item) for item in items]
    answers = [tuple(range(40, 60 + 20 * k)) for k in range(5)]
    for k, (prompt, ids) in enumerate(zip(prompts, answers, strict=True)):
        steps.record(variant, prompt, ids, tmp_path / f"alone-{k}")
    alone = [steps.log_probability(variant, p, ids) for p, ids in zip(prompts, answers, strict=True)]
    readings = [
        protocol.JoinReading(k, prompts[k], answers[k], str(tmp_path / f"alone-{k}"), str(tmp_path / f"own-{k}"))
        for k in range(5)
    ]
    size = batch.cells(prompts, len(answers[-1]), 3)
    reads: dict[int, protocol.SequenceRead] = {}
    with parts.pool.lease(language_spec(variant.model, Runtime(n_ctx=size), sequences=3)) as lease:
        batch.read_all(
            lease, readings, Runtime(n_ctx=size, n_batch=64), 3, size, lambda r: reads.update({r.id: r}), lambda: False
        )
    for k, ids in enumerate(answers):
        assert reads[k].failed is None
        assert len(reads[k].drifts) == len(ids) + 1
        assert max(drift.kl for drift in reads[k].drifts) < 1e-4
        assert reads[k].log_probability == pytest.approx(alone[k], rel=1e-3)
        assert (tmp_path / f"own-{k}").stat().st_size == (tmp_path / f"alone-{k}").stat().st_size
        theirs, own = (numpy.fromfile(tmp_path / f"{name}-{k}", "float32") for name in ("alone", "own"))
        assert numpy.exp(own) == pytest.approx(numpy.exp(theirs), abs=0.01)


def test_reading_when_its_record_is_of_another_answer_or_gone_then_it_fails_alone(parts: Parts, tmp_path: Path) -> None:
    (variant,) = parts.catalog.choose(["F16"], ["F16"])
    steps = steps_of(parts, variant, 2)
    prompts = [steps.prompt(variant, item) for item in about_one_picture(3)]
    (tmp_path / "short").write_bytes(b"1234")
    readings = [protocol.JoinReading(0, prompts[0], (5, 6), str(tmp_path / "short"))]
    readings += [protocol.JoinReading(1, prompts[1], (5, 6))]
    readings += [protocol.JoinReading(2, prompts[2], (5, 6), str(tmp_path / "gone"))]
    runtime = Runtime(n_ctx=batch.cells(prompts, 2, 2))
    reads: dict[int, protocol.SequenceRead] = {}
    with parts.pool.lease(language_spec(variant.model, runtime, sequences=2)) as lease:
        batch.read_all(lease, readings, runtime, 2, runtime.context, lambda r: reads.update({r.id: r}), lambda: False)
    assert "another vocabulary or answer" in (reads[0].failed or protocol.Failed("", "")).message
    assert "is not there" in (reads[2].failed or protocol.Failed("", "")).message
    assert reads[1].log_probability == pytest.approx(steps.log_probability(variant, prompts[1], (5, 6)), rel=1e-3)


def test_readings_when_a_later_pack_of_prompts_fails_then_what_was_decoded_before_is_read() -> None:
    """On a GPU, where memory may run out between two packs. No pair fails so on a CPU."""

    class SecondPackFails:
        key = SimpleNamespace(kv_unified=False)
        batches = 0

        def begin_together(self, prompts: object, cancelled: object) -> Iterator[dict[int, Begun]]:
            yield {1: Begun((5,), 0, 0)}
            raise EngineError("no memory is left")

    sent: list[protocol.Reply] = []
    model = cast(LanguageModel, SimpleNamespace(batch_context=lambda request: SecondPackFails()))
    read = Readings(model, protocol.ReadBatch(Runtime(), 3, None), SimpleQueue(), Event(), sent.append)
    joins = {n: protocol.JoinReading(n, cast(protocol.EncodedPrompt, None), ()) for n in (1, 2, 3)}
    left = dict.fromkeys(joins, cast(Any, None))
    assert read._begun(joins, left).keys() == left.keys() == {1}
    assert [(reply.id, reply.failed is not None) for reply in sent if isinstance(reply, protocol.SequenceRead)] == [
        (2, True),
        (3, True),
    ]


def test_drift_when_questions_share_a_picture_then_as_one_at_a_time(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q4_K_M"], ["F16"])
    name = items_of(1)[0].question.image
    question_set = question_sets.QuestionSet(
        "one picture", [msgspec.structs.replace(item.question, image=name) for item in items_of(5)], FOLDER
    )
    kls = []
    for sequences in (1, 4):
        results = ResultCache(tmp_path / str(sequences), "test")
        lab = replace(parts.lab, sequences=sequences, results=results)
        request = MeasureRequest(
            question_set, variants, variants[0].id, MeasurementPlan(accuracy=True), Runtime(n_ctx=512)
        )
        *_, last = MeasureJob(lab, request).run()
        results.close()
        assert isinstance(last, Measurement)
        assert last.problems == ()
        assert last.results[1].mean_kl is not None
        assert last.floor is not None
        assert 0 < last.floor < last.results[1].mean_kl.value / 20
        kls.append(last.results[1].mean_kl.value)
        assert (last.asked_alone is not None) == (sequences > 1)
        if last.asked_alone is not None:
            assert last.asked_alone.differ == 0
            assert 0 < last.floors["in batches of questions instead of alone"] <= last.floor
    assert kls[1] == pytest.approx(kls[0], rel=0.05)
