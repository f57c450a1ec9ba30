"""Reference packs with the real engine: made, and measured against on the embedded pair."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest

from playground.comparing.compare import StopFlag
from playground.comparing.image_decoder import DECODER
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput
from playground.measuring import packs, question_sets
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.pack_jobs import PackJob, make_pack
from playground.measuring.packs import Pack
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan
from playground.models.presets import data_folder
from playground.notebooks.cells import CellQuestions, Run
from playground.notebooks.run_cell import against_pack, card_of, measure_cell, new_run, results_of
from playground.rendering import card_view
from playground.values.files import Variant
from playground.wiring import Parts
from testkit.notebooks import compare_cell
from testkit.running import SHORT_CONTEXT, measured

FOLDER = data_folder() / "tiny-vlm/evaluation"
QUESTIONS = question_sets.embedded(FOLDER, level="hard").first(8)


def made(parts: Parts, variants: tuple[Variant, ...], path: Path) -> Pack:
    return packs.read(written(parts, variants, path))


def written(parts: Parts, variants: tuple[Variant, ...], path: Path) -> Path:
    request = MeasureRequest(QUESTIONS, variants, variants[0].id, MeasurementPlan(), SHORT_CONTEXT)
    *_, pack = make_pack(parts.lab, request, engine=parts.engine, licence="CC0-1.0")
    assert isinstance(pack, Pack)
    packs.write(path, pack)
    return path


def against(
    parts: Parts, pack: Pack, variants: tuple[Variant, ...], images: QuestionSet = QUESTIONS, *, look: bool = False
) -> Measurement:
    plan = MeasurementPlan(accuracy=True, look=look)
    *_, last = PackJob(parts.lab, pack, images, variants, plan, SHORT_CONTEXT).run()
    assert isinstance(last, Measurement)
    return last


def test_drift_when_measured_from_a_pack_then_within_one_percent_below_that_of_the_file(
    parts: Parts, tmp_path: Path
) -> None:
    variants = parts.catalog.choose(["F16", "Q8_0", "Q4_K_M", "Q2_K"])
    pack = made(parts, parts.catalog.choose(["F16", "Q4_K_M"]), tmp_path / "a.safetensors")
    whole = measured(parts, QUESTIONS, variants, MeasurementPlan(accuracy=True))
    packed = against(parts, pack, variants[1:])
    assert packed.answers == whole.answers
    for by_file, by_pack in zip(whole.results[1:], packed.results[1:], strict=True):
        assert by_file.mean_kl is not None
        assert by_pack.mean_kl is not None
        share = by_pack.mean_kl.value / by_file.mean_kl.value
        assert 1 - packs.WITHIN <= share <= 1 + 1e-6
        assert [a.first_divergence for a in by_pack.items] == [a.first_divergence for a in by_file.items]
        assert by_pack.floor == by_file.floor
        assert (by_pack.accuracy, by_pack.against) == (by_file.accuracy, by_file.against)
    assert packed.floors == whole.floors
    (check,) = pack.record.checks
    assert check.whole == pytest.approx(whole.results[2].mean_kl.value)
    assert check.packed == pytest.approx(packed.results[2].mean_kl.value)
    n = pack.record.n_vocabulary
    assert sum(len(d.ids) for d in pack.distributions) < 0.5 * n * sum(len(d.counts) for d in pack.distributions)


def test_pack_when_images_have_other_names_then_found_and_when_some_are_missing_then_counted(
    parts: Parts, tmp_path: Path
) -> None:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    pack = made(parts, variants[:1], tmp_path / "a.safetensors")
    assert pack.record.left_out_mass == packs.UNCHECKED
    names = list(dict.fromkeys(question.image for question in QUESTIONS.items))
    renamed = tmp_path / "renamed"
    renamed.mkdir()
    for k, name in enumerate(names[1:]):
        shutil.copy(FOLDER / name, renamed / f"{k}.png")
    items = [question_sets.Question(f"{k}.png", "?") for k in range(len(names) - 1)]
    measured = against(parts, pack, variants[1:], QuestionSet("renamed", items, renamed), look=True)
    lost = sum(question.image == names[0] for question in QUESTIONS.items)
    assert (measured.left_out, len(measured.questions)) == (lost, len(QUESTIONS.items) - lost)
    assert f"1 of the pack's {len(names)} images are not in renamed." in measured.problems
    assert measured.results[0].looks is None
    assert measured.results[1].looks is not None
    with pytest.raises(BadInput, match=r"images are not in none. The pack was made with embedded questions, hard."):
        against(parts, pack, variants[1:], QuestionSet("none", [], tmp_path))
    assert DECODER.read(FOLDER / names[0]).sha256 in pack.record.images


def test_cell_when_measured_against_a_pack_then_its_run_card_and_results_say_so(parts: Parts, tmp_path: Path) -> None:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    stored = parts.library.questions.keep_pack(written(parts, variants[:1], tmp_path / "a.safetensors"))
    plan = stored.record.limits(MeasurementPlan())
    questions = CellQuestions(pack=stored.digest, pack_name="a.safetensors", plan=plan)
    cell = compare_cell(questions=questions, settings=RunSettings(n_ctx=SHORT_CONTEXT.n_ctx))
    run = against_pack(new_run(cell, variants[1:], "engine", "machine"), stored, variants[1:])
    pack = parts.library.questions.read_pack(stored.digest)
    images = question_sets.embedded(FOLDER)
    *_, ended = measure_cell(run, variants[1:], images, parts.lab, parts.workshop, StopFlag(), pack)
    assert isinstance(ended, Run)
    assert [v.label for v in ended.variants] == ["F16 (pack)", "Q2_K"]
    card, shared = card_of(ended), results_of(ended, "anna")
    assert card is not None
    assert shared is not None
    assert card_view.model_of(card) == "Tiny VLM 7M"
    assert "--pack a.safetensors" in card.command
    assert variants[0].id not in card.command
    assert (card.questions, card.rows[0].label) == (len(QUESTIONS.items), "F16 (pack)")
    assert shared.reference.pack_version == packs.VERSION
    assert (shared.reference.pack_sha256, shared.questions.name) == (stored.digest, "questions of a.safetensors")
    scan = msgspec.structs.replace(run, cell=compare_cell(questions=CellQuestions(pack="a" * 64, sensitivity=True)))
    with pytest.raises(BadInput, match="is looked for in the reference's files"):
        against_pack(scan, pack, variants[1:])
