"""Drift, accuracy and looking, with the real engine on the embedded pair."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy
import pytest

from playground.comparing.images import read_image
from playground.comparing.lab import Lab
from playground.errors import BadInput, Interrupted
from playground.measuring import question_sets, scoring_rules
from playground.measuring import results as lab
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import Question, QuestionSet, Rule
from playground.measuring.results import Measurement, MeasurementPlan, Progress, RecordedAnswer
from playground.measuring.steps import Item, Steps
from playground.models.presets import data_folder
from playground.notebooks.library import Library
from playground.pool.pool import Pool
from playground.quantizing import quantizer
from playground.settings import Settings
from playground.support.result_cache import ResultCache
from playground.values.files import Half, Variant
from playground.values.memory import WorkerRole
from playground.values.request import ImagePlace, PromptForm, Runtime, Sampling
from playground.wiring import Parts, open_parts
from testkit import old_files, pairs
from testkit.fake_machine import GIB, FakeMachine
from testkit.pairs import changed_projector
from testkit.running import measured

RUNTIME = Runtime(n_ctx=512)
FOLDER = data_folder() / "tiny-vlm/evaluation"
WHAT = Question("hard-62.png", "What do you see?", ("x",))


def log_probabilities(
    variants: tuple[Variant, ...], rendered: str, tokens: list[int], tmp_path: Path
) -> list[numpy.ndarray]:
    """Upstream's, with the whole model in one process, in the same batches (another one rounds quantized activations
    anew: 1e-5 nats at Q4_K_M)."""
    outs = [str(tmp_path / f"{k}.npy") for k in range(len(variants))]
    command = [str(Path(pairs.__file__).with_name("logits_child.py")), str(FOLDER / WHAT.image), rendered]
    command += [json.dumps(tokens)]
    for variant, out in zip(variants, outs, strict=True):
        command += [variant.model.path, variant.projector.path, out]
    child = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    logits = [numpy.load(out) for out in outs]
    return [one - numpy.logaddexp.reduce(one, axis=-1, keepdims=True) for one in logits]


def test_kl_when_computed_from_upstreams_full_logits_then_the_same(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q4_K_M", "Q2_K"], ["F16"]) + parts.catalog.choose(["F16"], ["Q2_K"])
    run = MeasureJob(
        parts.lab,
        MeasureRequest(QuestionSet("one", [WHAT], FOLDER), variants, variants[0].id, MeasurementPlan(), RUNTIME),
    )
    prompt = run.steps.prompt(variants[0], Item(WHAT, read_image(FOLDER / WHAT.image)))
    ids = run.steps.write(variants[0], prompt).token_ids
    *_, last = run.run()
    assert isinstance(last, Measurement)
    reference, *others = log_probabilities(variants, prompt.rendered, list(ids), tmp_path)
    assert reference.shape[0] == len(ids) + 1
    for result, theirs in zip(last.results[1:], others, strict=True):
        kl = (numpy.exp(reference) * (reference - theirs)).sum(axis=-1)
        assert [token.kl for token in result.items[0].kl] == pytest.approx(kl.tolist(), rel=1e-3, abs=1e-7)
        assert result.mean_kl is not None
        assert result.mean_kl.value == pytest.approx(kl.mean(), rel=1e-3, abs=1e-7)
        tops = (reference.argmax(axis=-1) == theirs.argmax(axis=-1)).tolist()
        assert [token.same_top for token in result.items[0].kl] == tops
        assert kl.max() > 1e-4  # there was something to be right about


def test_ladder_when_measured_then_ordered_and_above_the_floor(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q8_0", "Q4_K_M", "Q2_K", "TQ2_0"])
    measurement = measured(
        parts, question_sets.embedded(FOLDER, level="hard").first(10), variants, MeasurementPlan(accuracy=True)
    )
    kls = [r.mean_kl.value for r in measurement.results[1:] if r.mean_kl]
    assert kls == sorted(kls)
    assert measurement.floor is not None
    assert 0 < measurement.floor < kls[1] / 100
    assert set(measurement.floors) == {"flash attention on, batches of 32, 1 thread"}
    # Each variant has a floor of its own, and the coarser it is the higher; but Q8_0's drift is far above none.
    floors = [r.floor or 0.0 for r in measurement.results]
    assert floors[0] < floors[1] < floors[3] < floors[4]
    assert [r.within_arithmetic for r in measurement.results[2:]] == [False, False, False]
    q2, tq2 = measurement.results[3], measurement.results[4]
    assert q2.same_answer is not None
    assert 0.5 < q2.same_answer.value < 1
    # Where the likeliest token first is another one, the variant's own answer differs from the reference's, and
    # nowhere else.
    for answer, drift in zip(measurement.answers, q2.items, strict=True):
        assert (drift.first_divergence is None) == (drift.text == answer)
    assert tq2.accuracy is not None
    assert tq2.accuracy.value < 0.2
    assert tq2.against is not None
    assert tq2.against.words == "worse"


def test_reference_when_measured_against_itself_then_only_the_floor_is_left(parts: Parts, tmp_path: Path) -> None:
    (f16,) = parts.catalog.choose(["F16"])
    again = msgspec.convert(msgspec.to_builtins(f16) | {"id": "again"}, Variant)
    measurement = measured(parts, question_sets.embedded(FOLDER, level="hard").first(4), (f16, again))
    result = measurement.results[1]
    assert result.mean_kl is not None
    assert result.mean_kl.value <= (measurement.floor or 0) + 1e-12
    assert result.within_arithmetic
    assert result.floor == measurement.floor
    assert result.same_answer is not None
    assert result.same_answer.value == 1


def test_drift_when_the_weights_are_the_same_in_32_bits_then_within_arithmetic(parts: Parts, tmp_path: Path) -> None:
    """A lossless copy computes with other kernels; that is no drift."""
    (f16,) = parts.catalog.choose(["F16"])
    copy = tmp_path / "copy-F32.gguf"
    quantizer.make(Path(f16.model.path), copy, "F32", parts.pool, Half.MODEL)
    f32 = replace(parts.catalog.read_pair(copy, Path(f16.projector.path)), id="f32")
    result = measured(parts, question_sets.embedded(FOLDER, level="hard").first(4), (f16, f32)).results[1]
    assert result.mean_kl is not None
    assert 0 < result.mean_kl.value < 1e-6
    assert result.within_arithmetic


def test_grid_when_both_halves_are_quantized_then_each_alone_and_both_together(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q2_K"], ["F16", "Q4_0", "Q2_K"])
    measurement = measured(parts, question_sets.embedded(FOLDER, level="hard").first(4), variants)
    effects = lab.grid(measurement, variants, variants[0].id)
    assert len(effects) == 6
    for effect in effects:
        assert effect.language is not None
        assert effect.vision is not None
        assert len(effect.by_question) in (0, 4)
    by_halves = {(e.model, e.projector): e for e in effects}
    assert by_halves["F16", "Q2_K"].vision == by_halves["F16", "Q2_K"].kl > by_halves["F16", "Q4_0"].kl
    assert lab.which_half(effects).startswith("At Q2_K")
    one_projector = msgspec.structs.replace(measurement, results=measurement.results[::3])
    assert lab.grid(one_projector, variants[::3], variants[0].id) == ()


def test_projector_when_it_is_dead_then_called_blind_also_in_batches(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: while images are encoded. In a batch the same answer is not as likely to the last bit."""
    monkeypatch.setattr(type(parts.pool), "on_gpu", property(lambda pool: True))
    (f16,) = parts.catalog.choose(["F16"])
    dead = changed_projector(Path(f16.projector.path), tmp_path / "mmproj-dead-F16.gguf", "zeroed")
    blind = parts.catalog.open_pair(Path(f16.model.path), dead)
    question_set = question_sets.embedded(FOLDER, level="hard").first(10)
    measurement = measured(parts, question_set, (f16, blind), MeasurementPlan(drift=False, look=True))
    assert [r.looks for r in measurement.results] == ["sees", "blind"]


def test_projector_when_it_is_dead_or_only_reacts_then_it_is_not_called_seeing_and_a_whole_one_is(
    parts: Parts, tmp_path: Path
) -> None:
    """Other pictures move the answers of those that react by nats; their own picture fits no better."""
    (f16,) = parts.catalog.choose(["F16"])
    changes = ("zeroed", "permuted", "x 0.1", "shuffled")
    projectors = [
        changed_projector(Path(f16.projector.path), tmp_path / f"mmproj-{i}-F16.gguf", change)
        for i, change in enumerate(changes)
    ]
    variants = (f16, *(parts.catalog.open_pair(Path(f16.model.path), projector) for projector in projectors))
    question_set = question_sets.embedded(FOLDER, level="hard").first(10)
    measurement = measured(parts, question_set, variants, MeasurementPlan(drift=False, look=True))
    assert [r.looks for r in measurement.results] == ["sees", "blind", "reacts", "reacts", "reacts"]
    assert measurement.results[0].own_picture is not None
    wins, losses = measurement.results[0].own_picture
    assert wins >= 9  # an answer such as "no" may be as likely with other pictures
    assert losses == 0
    assert measurement.results[1].own_picture == (0, 0)
    assert all(sum(r.own_picture or ()) > 8 for r in measurement.results[2:])


def test_pictures_when_there_are_few_then_nothing_is_said_of_sight(parts: Parts) -> None:
    question_set = question_sets.embedded(FOLDER, level="hard").first(9)
    result = measured(
        parts, question_set, parts.catalog.choose(["F16"]), MeasurementPlan(drift=False, look=True)
    ).results[0]
    assert result.looks == "too few questions"


def test_questions_when_a_file_was_calibrated_with_them_then_left_out_and_told(parts: Parts) -> None:
    f16, q8 = parts.catalog.choose(["F16", "Q8_0"])
    question_set = question_sets.embedded(FOLDER, level="hard").first(6)
    used = tuple(question_sets.fingerprint(q, question_set.image(q)) for q in question_set.items[:2])
    variant = replace(q8, model=replace(q8.model, made_with=used))
    measurement = measured(parts, question_set, (f16, variant))
    assert measurement.questions == question_set.items[2:]
    assert "2 questions were left out: Q8_0 was calibrated or searched with them." in measurement.problems


def test_measuring_when_stopped_then_ends_and_leaves_nothing(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q8_0"])
    question_set = question_sets.embedded(FOLDER).first(20)
    seen = 0

    def stop() -> bool:
        return seen > 3

    run = MeasureJob(
        parts.lab,
        MeasureRequest(question_set, variants, variants[0].id, MeasurementPlan(), RUNTIME),
        stop,
    )
    updates = run.run()
    with pytest.raises(Interrupted):  # noqa: PT012  each update is counted
        for _ in updates:
            seen += 1
    assert list((parts.settings.cache_dir / "measured").glob("scratch-*")) == []
    assert all(w.leases == 0 for w in parts.pool.memory().workers)


def test_items_when_an_image_is_missing_or_broken_then_told_and_the_rest_goes_on(parts: Parts, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "a.png").write_bytes((FOLDER / "hard-62.png").read_bytes())
    (folder / "broken.png").write_bytes((FOLDER / "hard-62.png").read_bytes()[:900])
    rows = [
        {"image": "a.png", "question": "What shape is green?", "answer": "cross"},
        {"image": "broken.png", "question": "What?", "answers": ["x"]},
        {"image": "gone.png", "question": "What?", "answer": "x"},
        "no object",
        {"image": "a.png", "question": "What does the text say?", "answers": ["rvjwpbx"], "rule": "contains"},
    ]
    (folder / "items.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n{cut")
    question_set = question_sets.read_questions(folder)
    assert len(question_set.items) == 3
    assert len(question_set.problems) == 3
    variants = parts.catalog.choose(["F16", "TQ2_0"])
    measurement = measured(parts, question_set, variants, MeasurementPlan(accuracy=True))
    assert len(measurement.questions) == 2
    assert any("broken.png" in problem for problem in measurement.problems)
    assert measurement.left_out == 1  # of those that are in the list; the others are problems of the list
    assert measurement.results[0].accuracy is not None
    assert measurement.results[0].accuracy.value == 1


def test_answers_when_cut_off_by_the_limit_then_counted_apart(parts: Parts) -> None:
    """A record of an older version has no reason; then its length says it."""
    items = question_sets.embedded(FOLDER, level="hard").first(4)
    variants = parts.catalog.choose(["F16", "Q8_0"])
    long, short = (measured(parts, items, variants, MeasurementPlan(accuracy=True, max_tokens=n)) for n in (64, 1))
    assert [result.truncated for result in long.results] == [0, 0]
    for result in short.results:
        assert 0 < result.truncated <= 4
        assert result.truncated == sum(item.truncated for item in result.items)
    steps = Steps(parts.lab, variants[0], RUNTIME, Sampling(max_tokens=2), lambda: False)
    reasons = [RecordedAnswer("ab", (1, 2)), RecordedAnswer("a", (1,)), RecordedAnswer("ab", (1, 2), "end of text")]
    assert [steps.truncated(answer) for answer in reasons] == [True, False, False]


def test_prompt_when_a_form_is_given_then_rendered_by_it_and_kept_under_its_own_key(parts: Parts) -> None:
    variants = parts.catalog.choose(["F16"])
    item = Item(WHAT, question_sets.QuestionSet("one", [WHAT], FOLDER).image(WHAT))
    template = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}{{ mood }}"
    form = PromptForm("Be brief.", {"mood": "calm"}, ImagePlace.BEHIND, template)
    usual, formed = (
        Steps(parts.lab, variants[0], RUNTIME, Sampling(max_tokens=2), lambda: False, form=prompt_form)
        for prompt_form in (PromptForm(), form)
    )
    text = formed.prompt(variants[0], item).rendered
    assert text.startswith("system=Be brief.;user=What do you see?")
    assert text.endswith(";calm")
    assert "Be brief." not in usual.prompt(variants[0], item).rendered
    assert usual.answer_key(variants[0], item) != formed.answer_key(variants[0], item)
    assert usual.drift_key(variants[0], item) != formed.drift_key(variants[0], item)


def test_variants_when_of_another_vocabulary_then_refused(parts: Parts, tmp_path: Path) -> None:
    other = pairs.write_pair("mlp", tmp_path)
    variants = (*parts.catalog.choose(["F16"]), parts.catalog.open_pair(other.model, other.projector))
    with pytest.raises(BadInput, match="another vocabulary"):
        measured(parts, question_sets.embedded(FOLDER).first(2), variants)


@pytest.mark.parametrize(
    ("rule", "tolerance", "accepted", "answer", "expected"),
    [
        (Rule.EXACT, 0, "Dark Blue", " dark  blue. ", 1),
        (Rule.EXACT, 0, "blue", "dark blue", 0),
        (Rule.CONTAINS, 0, "blue", "It is dark blue!", 1),
        (Rule.CONTAINS, 0, "red", "It is bored", 0),
        (Rule.NUMBER, 0.05, "100", "about 104 items", 1),
        (Rule.NUMBER, 0.05, "100", "106", 0),
        (Rule.NUMBER, 0, "1234.5", "1,234.5 km", 1),
        (Rule.NUMBER, 0, "7", "seven", 1),
        (Rule.ANLS, 0, "hello", "hallo", 0.8),
        (Rule.ANLS, 0, "hello", "xyz", 0),
        (Rule.IOU, 0, "[0, 0, 1, 1]", "[0.5, 0, 1, 1]", 0.5),
        (Rule.IOU, 0, "[0, 0, 1, 1]", "no box", 0),
        (Rule.CHOICE, 0, "b", "The answer is B) two", 1),
        (Rule.CHOICE, 0, "b", "A", 0),
    ],
)
def test_score_when_by_a_rule_then_as_defined(
    rule: Rule, tolerance: float, accepted: str, answer: str, expected: float
) -> None:
    assert scoring_rules.score(Question("i", "q", (accepted,), rule, tolerance), answer) == pytest.approx(expected)


KILLED = """
import os, pathlib, signal
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob, MeasureRequest
from playground.measuring.results import MeasurementPlan
from playground.settings import Settings
from playground.values.request import Runtime
from playground.wiring import open_parts

with open_parts(Settings.read(), any_folder=True) as parts:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    asked = question_sets.embedded(parts.evaluation, level="hard").first(6)
    request = MeasureRequest(asked, variants, variants[0].id, MeasurementPlan(), Runtime(n_ctx=512))
    for step in MeasureJob(parts.lab, request).run():
        if step.done >= 8:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_measuring_when_killed_then_goes_on_where_it_was(parts: Parts, derived: Path, tmp_path: Path) -> None:
    """kill -9 in the middle; the next one asks what is left, and finds what one from nothing finds."""
    cache = tmp_path / "killed"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    environment = os.environ | {"PLAYGROUND_CACHE_DIR": str(cache)}
    child = subprocess.run([sys.executable, "-c", KILLED], env=environment, capture_output=True, text=True, timeout=150)
    assert child.returncode == -signal.SIGKILL, child.stderr[-2000:]
    assert list((cache / "measured").glob("scratch-*"))
    whole, steps = _all_steps(parts)
    with open_parts(Settings(cache_dir=cache), any_folder=True) as reopened:
        assert list((cache / "measured").glob("scratch-*")) == []
        again, left = _all_steps(replace(reopened, pool=parts.pool))
    assert 0 < len(left) <= len(steps) - 6  # the answers are there; their records went with the process
    assert [r.mean_kl for r in again.results] == [r.mean_kl for r in whole.results]
    assert again.answers == whole.answers


def _all_steps(parts: Parts) -> tuple[Measurement, list[lab.Progress]]:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    question_set = question_sets.embedded(FOLDER, level="hard").first(6)
    run = MeasureJob(parts.lab, MeasureRequest(question_set, variants, variants[0].id, MeasurementPlan(), RUNTIME))
    *steps, last = run.run()
    assert isinstance(last, Measurement)
    return last, [step for step in steps if isinstance(step, lab.Progress)]


def test_measuring_when_a_variant_is_added_then_only_it_is_measured(parts: Parts) -> None:
    question_set = question_sets.embedded(FOLDER, level="hard").first(6)

    def steps(names: list[str]) -> tuple[list[lab.Progress], Measurement]:
        variants = parts.catalog.choose(names)
        plan = MeasurementPlan(accuracy=True)
        run = MeasureJob(parts.lab, MeasureRequest(question_set, variants, variants[0].id, plan, RUNTIME))
        *events, last = run.run()
        assert isinstance(last, Measurement)
        return [step for step in events if isinstance(step, lab.Progress)], last

    first, measured = steps(["F16", "Q4_K_M"])
    assert steps(["F16", "Q4_K_M"])[0] == []
    added, more = steps(["F16", "Q4_K_M", "Q2_K"])
    itself = "Q2_K against itself: flash attention on, batches of 32, 1 thread"
    assert {step.what for step in added} == {"F16 reads its answers", "Q2_K: drift", "Q2_K: answers", itself}
    assert more.results[1] == measured.results[1]
    assert (added[-1].done + 1, added[-1].total) == (len(added), len(added))
    assert len(first) > len(added)


def test_speed_when_measured_then_afresh_each_time(parts: Parts) -> None:
    question_set = QuestionSet("one", [WHAT], FOLDER)
    for _ in range(2):
        measurement = measured(
            parts, question_set, parts.catalog.choose(["F16", "Q4_K_M"]), MeasurementPlan(drift=False, speed=True)
        )
        reference, variant = measurement.results
        assert reference.speed is not None
        assert variant.speed is not None
        assert reference.speed.ratio is None
        assert variant.speed.ratio is not None
        for result in measurement.results:
            assert result.speed is not None
            assert result.speed.rounds == 5
            assert 0 < (result.speed.slowest or 0) <= (result.speed.tokens_per_second or 0)
            assert (result.speed.tokens_per_second or 0) <= (result.speed.fastest or 0)
            assert result.speed.encode_s is not None  # the picture was encoded, though its embeddings may be kept
            assert result.speed.prompt_s is not None
            assert result.speed.first_token_s is not None
            assert 0.002 < result.speed.prompt_s < result.speed.first_token_s  # all of the prompt was read
            assert (result.speed.tokens_per_second or 0) > 10
            assert (result.speed.bytes or 0) > 2 * 2**20
            assert result.mean_kl is None


def test_measurement_when_another_variant_joins_an_old_one_then_only_that_one_is_asked(
    parts: Parts, tmp_path: Path
) -> None:
    """The results are those that version 0.1.0 kept."""
    written = old_files.unpack(tmp_path)
    library = Library(tmp_path / "cache/notebooks")
    notebook = library.own(written.notebook)
    run = library.newest_run(notebook, notebook.cells[-1])
    assert run is not None
    assert run.measurement is not None
    questions = run.cell.questions
    assert questions is not None
    (f16,), (q8,) = parts.catalog.choose(["F16"], ["F16"]), parts.catalog.choose(["Q8_0"], ["F16"])
    old = [v for v in run.variants if v.id != run.reference]  # their files need not be there
    results = ResultCache(tmp_path / "cache/measured", written.engine)
    plan = msgspec.structs.replace(questions.plan, speed=False, look=False)
    request = MeasureRequest(library.questions.read(questions.source), (f16, *old, q8), f16.id, plan, RUNTIME)
    job = MeasureJob(Lab(parts.pool, parts.embeddings, results), request)
    *steps, last = job.run()
    assert isinstance(last, Measurement)
    whats = [step.what for step in steps if isinstance(step, Progress)]
    # What the old version did not measure: how far each variant lies from itself.
    itself = " against itself: flash attention on, batches of 32, 1 thread"
    assert [what for what in whats if itself not in what] == [
        *["F16 reads its answers"] * 4, *["Q8_0: drift"] * 4, *["Q8_0: answers"] * 4,
    ]  # fmt: skip
    assert sum(itself in what for what in whats) == 4 * 4
    means = [
        [r.mean_kl and r.mean_kl.value for r in results] for results in (last.results[:3], run.measurement.results)
    ]
    assert means[0] == means[1]
    assert last.results[3].mean_kl is not None
    results.close()
    library.close()


class _Waiting(MeasureJob):
    """Its reference is recorded once a variant of another GPU has answered."""

    def record(self, records: Path, others: Sequence[Variant] | None) -> Iterator[Progress]:
        assert others is not None
        keys = [self.steps.answer_key(variant, self.items[0]) for variant in others]
        deadline = time.monotonic() + 60
        while not any(map(self._results.has, keys)):
            assert time.monotonic() < deadline, "no other GPU has answered"
            time.sleep(0.02)
        yield from super().record(records, others)


def test_measurement_when_there_are_two_gpus_then_spread_each_model_loaded_once_and_the_same_numbers(
    parts: Parts, tmp_path: Path
) -> None:
    variants = parts.catalog.choose(["F16", "Q8_0", "Q2_K"])
    questions = question_sets.embedded(FOLDER, level="hard").first(2)
    request = MeasureRequest(questions, variants, variants[0].id, MeasurementPlan(accuracy=True), RUNTIME)
    one_by_one = parts.settings.model_copy(update={"max_sequences": 1})  # a batch's numbers depend on its size
    measurements, places = list[Measurement](), list[dict[str, str]]()
    for n_gpus, job in ((1, MeasureJob), (2, _Waiting)):
        machine = FakeMachine(n_gpus=n_gpus, total=80 * GIB)
        cache = ResultCache(tmp_path / f"{n_gpus}", "engine")
        with closing(Pool.open(sensors=machine, start_worker=machine.start_worker)) as pool, closing(cache):
            *_, last = job(replace(parts, settings=one_by_one, pool=pool, result_cache=cache).lab, request).run()
            assert isinstance(last, Measurement)
            measurements.append(last)
            workers = [w for w in pool.memory().workers if w.role is WorkerRole.LANGUAGE]
            assert len(workers) == len(variants)
            places.append({worker.file: worker.place for worker in workers})
    assert [measurement.places for measurement in measurements] == [(), ("GPU 0: H", "GPU 1: H")]
    on_one, on_two = (msgspec.structs.replace(m, elapsed_s=0.0, places=()) for m in measurements)
    assert on_one == on_two
    assert [len(at) for at in places] == [3, 3]
    assert [set(at.values()) for at in places] == [{"GPU 0"}, {"GPU 0", "GPU 1"}]


def test_grid_of_one_language_model_when_there_are_two_gpus_then_both_load_it_and_the_same_numbers(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were a load to take long, one GPU would measure all (tests/unit/test_shares.py)."""
    monkeypatch.setattr(Pool, "load_s", lambda *_: 0.0)
    variants = parts.catalog.choose(["F16"], ["F16", "Q2_K"])
    questions = question_sets.embedded(FOLDER, level="hard").first(2)
    one_by_one = parts.settings.model_copy(update={"max_sequences": 1})
    measurements, places = list[Measurement](), list[set[str]]()
    for n_gpus in (1, 2):
        machine = FakeMachine(n_gpus=n_gpus, total=80 * GIB)
        cache = ResultCache(tmp_path / f"{n_gpus}", "engine")
        with closing(Pool.open(sensors=machine, start_worker=machine.start_worker)) as pool, closing(cache):
            on_gpus = replace(parts, settings=one_by_one, pool=pool, result_cache=cache)
            measurements.append(measured(on_gpus, questions, variants))
            places.append({w.place for w in pool.memory().workers if w.role is WorkerRole.LANGUAGE})
    assert places == [{"GPU 0"}, {"GPU 0", "GPU 1"}]
    on_one, on_two = (msgspec.structs.replace(m, elapsed_s=0.0, places=()) for m in measurements)
    assert on_one == on_two
