"""Which candidate is chosen, where it is kept, what it replaces, and what a run says of a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from playground.comparing.run_settings import RunSettings
from playground.measuring.steps import settings_key
from playground.notebooks import engine_changes
from playground.notebooks.cells import Run
from playground.pool.devices import Devices
from playground.pool.engine_choices import EngineChoices, kind_of
from playground.pool.forecast import Forecasts
from playground.values.answer import ComparisonUpdate
from playground.values.engine_defaults import (
    EngineDefaults,
    EngineSettings,
    Trial,
    choose,
    is_busy,
    thread_candidates,
)
from playground.values.files import ModelFile, Shape
from playground.values.memory import HOST
from playground.values.overrides import CacheType
from playground.values.request import Runtime
from testkit import notebooks

UNSET = RunSettings()
USUAL = EngineSettings(False, 2, 2048)
ON, SMALL = replace(USUAL, flash_attention=True), replace(USUAL, n_ctx=1024)
SHAPE = Shape(16, 0, 0, 0, 0, n_embd=768, n_ff=2048, n_vocabulary=32_000, kv_bytes_per_token=49_152)
F16 = ModelFile("a-F16.gguf", 300, "1", "F16", 168, "llama", shape=SHAPE)
Q4 = replace(F16, path="a-Q4_K_M.gguf", bytes=100, sha256="2", quantization="Q4_K_M")


def trial(settings: EngineSettings, speed: float) -> Trial:
    return Trial(settings, 10 * speed, speed)


def defaults(chosen: EngineSettings) -> EngineDefaults:
    return EngineDefaults(chosen, USUAL, (trial(USUAL, 100), trial(chosen, 130)), 256, 2.0, 0.01, "a-F16.gguf")


@pytest.fixture
def forecasts(tmp_path: Path) -> Iterator[Forecasts]:
    opened = Forecasts(tmp_path, {HOST: "EPYC, 2 cores"}, "0.3.36")
    yield opened
    opened.close()


def choices(forecasts: Forecasts, *, measures: bool = True) -> EngineChoices:
    return EngineChoices(forecasts, Devices(()), measures=measures)


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({USUAL: 100, ON: 126}, ON),
        ({USUAL: 100, ON: 102}, USUAL),  # two measurements differ so
        ({USUAL: 100, ON: 110, replace(ON, n_ctx=1024): 111}, ON),
        ({USUAL: 100, SMALL: 110, ON: 90}, SMALL),
        ({}, USUAL),
    ],
)
def test_choice_when_a_candidate_is_clearly_faster_then_it_else_what_is_usual(
    speeds: dict[EngineSettings, float], chosen: EngineSettings
) -> None:
    assert choose(USUAL, (trial(*pair) for pair in speeds.items())) == chosen


def test_choice_when_the_prompt_is_slower_and_the_answer_faster_then_by_the_time_of_a_question() -> None:
    assert choose(USUAL, [Trial(USUAL, 600, 128), Trial(ON, 300, 192)]) == USUAL


def test_machine_when_threads_waited_for_others_then_busy_but_not_by_the_start_of_a_thread() -> None:
    assert is_busy(0.4, 2.0)
    assert not is_busy(0.2, 2.0)
    assert not is_busy(0.03, 0.02)
    assert is_busy(0.04, 0.02)
    assert not is_busy(None, 2.0)  # not known


def test_threads_when_the_model_is_large_then_one_thread_is_not_tried() -> None:
    assert thread_candidates(8, 2**20) == (8, 4, 1)
    assert thread_candidates(8, 2**32) == (8, 4)
    assert thread_candidates(1, 2**32) == (1,)


def test_settled_when_measured_then_all_quantizations_compute_alike_and_what_is_set_wins(forecasts: Forecasts) -> None:
    forecasts.keep_engine_defaults(HOST, kind_of(F16) or "", defaults(replace(ON, n_threads=1, n_ctx=1024)))
    settle = choices(forecasts).settled
    assert settle(F16, Runtime()) == settle(Q4, Runtime()) == Runtime(n_threads=1, flash_attention=True, least_ctx=1024)
    assert settle(Q4, Runtime()).sized(700).n_ctx == 1024
    assert settle(Q4, Runtime(n_threads=2, flash_attention=False, n_ctx=512)) == Runtime(
        n_threads=2, flash_attention=False, n_ctx=512, least_ctx=1024
    )
    quantized = Runtime(cache_type_v=CacheType.Q8_0)
    assert settle(Q4, quantized).flash_attention is None  # it is on anyway
    other = replace(F16, shape=replace(SHAPE, n_layers=17))
    assert settle(other, Runtime()) == Runtime()
    assert choices(forecasts, measures=False).settled(F16, Runtime()) == Runtime()


def test_settled_when_what_is_usual_was_chosen_then_results_of_before_are_found(forecasts: Forecasts) -> None:
    forecasts.keep_engine_defaults(HOST, kind_of(F16) or "", defaults(USUAL))
    computed = choices(forecasts).computed(F16, Runtime())
    assert settings_key(computed) == settings_key(Runtime())
    assert b"least_ctx" not in bytes(settings_key(replace(computed, least_ctx=1024)))


def test_settled_when_the_engine_or_the_machine_is_another_then_nothing_is_known(
    forecasts: Forecasts, tmp_path: Path
) -> None:
    forecasts.keep_engine_defaults(HOST, kind_of(F16) or "", defaults(ON))
    forecasts.close()
    for device, engine, known in (
        ("EPYC, 2 cores", "0.3.36", ON),
        ("EPYC, 2 cores", "1", None),
        ("M4", "0.3.36", None),
    ):
        opened = Forecasts(tmp_path, {HOST: device}, engine)
        chosen = choices(opened).of(Q4, Runtime())
        opened.close()
        assert (chosen and chosen.chosen) == known


def ran(engine: EngineSettings | None, number: int = 1) -> Run:
    pane = notebooks.pane(notebooks.variant("F16"), "a red house", engine=engine)
    return notebooks.run_of(notebooks.compare_cell(), notebooks.result(pane), number=number)


def test_change_when_the_machine_computes_otherwise_than_in_the_run_before_then_the_run_says_so() -> None:
    def remark(now: EngineSettings, before: Run | None, settings: RunSettings = UNSET) -> tuple[str, ...]:
        update: ComparisonUpdate = ran(now).results[0].update
        return engine_changes.said(update, before, settings).notes[len(update.notes) :]

    (note,) = remark(ON, ran(USUAL, 3))
    assert "than in run 3: flash attention on, 2 threads, context 2048; before flash attention off" in note
    assert remark(USUAL, ran(USUAL)) == remark(SMALL, ran(USUAL)) == remark(ON, None) == ()
    assert remark(ON, ran(USUAL), RunSettings(flash_attention=True)) == ()  # the person has set it


def test_next_question_when_the_run_was_computed_with_flash_attention_then_so_is_it() -> None:
    assert engine_changes.as_before(RunSettings(), ran(ON)).flash_attention is True
    assert engine_changes.as_before(RunSettings(), ran(USUAL)).flash_attention is False
    assert engine_changes.as_before(RunSettings(flash_attention=True), ran(USUAL)).flash_attention is True
    assert engine_changes.as_before(RunSettings(), ran(None)).flash_attention is None
