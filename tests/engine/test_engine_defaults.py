"""Flash attention, threads and context by a measurement, with real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from playground.comparing.run_settings import RunSettings
from playground.engine import protocol
from playground.pool.engine_choices import kind_of
from playground.pool.worker_spec import language_spec
from playground.settings import Settings
from playground.values.answer import PaneState
from playground.values.engine_defaults import EngineDefaults, EngineSettings
from playground.values.memory import HOST
from playground.values.request import Image, Runtime
from playground.wiring import Parts, open_parts
from testkit import running


def test_candidates_when_tried_then_each_has_its_speeds_and_the_worker_answers_as_before(
    parts: Parts, scene: Image
) -> None:
    (variant,) = parts.catalog.choose(("Q4_K_M",))
    comparison = running.comparison(scene, running.WHAT, (variant,), n_ctx=None)
    before = running.run(parts, comparison).panes[0]
    spec = language_spec(variant.model, Runtime())
    with parts.pool.lease(spec) as lease:
        measured = lease.request(protocol.MeasureDefaults(patient=True))
    tried = {trial.settings for trial in measured.trials}
    assert measured.usual in tried
    assert {settings.flash_attention for settings in tried} == {False, True}
    assert len({settings.n_ctx for settings in tried}) == 2
    assert all(trial.prompt_tok_per_s > 0 and trial.decode_tok_per_s > 0 for trial in measured.trials)
    after = running.run(parts, comparison).panes[0]
    assert after.token_ids == before.token_ids
    assert after.engine == before.engine


def test_comparison_when_this_machine_was_measured_then_all_panes_compute_so_unless_it_is_set(
    derived: Path, tmp_path: Path, scene: Image
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "derived").symlink_to(derived / "derived")
    chosen, usual = EngineSettings(True, 1, 1024), EngineSettings(False, 1, 2048)
    with open_parts(Settings(cache_dir=folder, measure_defaults=True), any_folder=True) as parts:
        variants = parts.catalog.choose(("F16", "Q4_K_M"))
        defaults = EngineDefaults(chosen, usual, (), 512, 1.0, 0.0, "F16")
        parts.pool.forecasts.keep_engine_defaults(HOST, kind_of(variants[0].model) or "", defaults)
        comparison = running.comparison(scene, running.WHAT, variants, n_ctx=None)
        panes = running.run(parts, comparison).panes
        assert [pane.state for pane in panes] == [PaneState.DONE] * 2
        assert {pane.engine for pane in panes} == {chosen}
        assert {worker.defaults for worker in parts.pool.memory().workers} == {None, defaults}  # None: the projector
        runtime = RunSettings(flash_attention=False, n_ctx=512).runtime()
        panes = running.run(parts, replace(comparison, runtime=runtime)).panes
        assert {pane.engine for pane in panes} == {EngineSettings(False, 1, 512)}
