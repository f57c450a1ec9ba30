"""Cells run on the real engine: conversations, galleries, stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from playground.comparing.branching import BranchPoint
from playground.comparing.compare import StopFlag
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.errors import BadImage, BadInput, BadPrompt
from playground.models.presets import data_folder
from playground.notebooks.cells import CompareCell, Picture, Run, RunResult, RunState
from playground.notebooks.run_cell import continues, go_on, new_run, run_cell
from playground.values.answer import PaneState
from playground.values.files import Variant
from playground.values.request import Image
from playground.wiring import Parts
from testkit import pairs
from testkit.notebooks import pane, result

WHAT = "What do you see?"
COLOUR = "What colour is the background?"
SETTINGS = RunSettings(n_ctx=1024)


def kept(parts: Parts, *images: Image) -> tuple[Picture, ...]:
    return tuple(parts.library.pictures.keep(image, f"{number}.png") for number, image in enumerate(images))


def cell_of(
    variants: Sequence[Variant], *prompts: str, pictures: tuple[Picture, ...] = (), **more: object
) -> CompareCell:
    cell = CompareCell(
        "c", prompts=prompts, pictures=pictures, variants=tuple(v.id for v in variants), settings=SETTINGS
    )
    return msgspec.structs.replace(cell, **more)


def begun(cell: CompareCell, variants: Sequence[Variant]) -> Run:
    return new_run(cell, variants, "engine", "machine")


def run_all(parts: Parts, run: Run, variants: Sequence[Variant], stop: StopFlag | None = None) -> Run:
    *_, last = run_cell(run, variants, parts.library.pictures.image, parts.lab, stop or StopFlag(), max_panes=16)
    return last


def texts(run: Run) -> list[list[str]]:
    return [[pane.text for pane in result.update.panes] for result in run.results]


def test_conversation_when_it_has_two_turns_then_each_variant_goes_on_from_its_own_answer(
    parts: Parts, scene: Image
) -> None:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    cell = cell_of(variants, WHAT, COLOUR, pictures=kept(parts, scene))
    run = run_all(parts, begun(cell, variants), variants)
    assert run.state is RunState.DONE
    assert [result.turn for result in run.results] == [0, 1]
    (f16, q2), _ = texts(run)
    assert f16.startswith("The image shows the text RVJWPBX")
    assert f16 != q2
    for variant, answer in ((variants[0], f16), (variants[1], q2)):
        alone = cell_of((variant,), WHAT, COLOUR, pictures=cell.pictures)
        again = run_all(parts, begun(alone, (variant,)), (variant,))
        first, second = (result.update.rendered_prompt or "" for result in again.results)
        assert answer not in first
        assert second.index(WHAT) < second.index(answer) < second.index(COLOUR)
        turns = [
            again.results[1].update.panes[0],
            next(p for p in run.results[1].update.panes if p.variant == variant.id),
        ]
        assert turns[0].text == turns[1].text
        assert turns[1].state is PaneState.DONE


def test_gallery_when_it_has_two_pictures_then_each_is_asked_about_alone(parts: Parts, scene: Image) -> None:
    other = read_image(data_folder() / "tiny-vlm/evaluation/hard-61.png")
    variants = parts.catalog.choose(["F16"])
    pictures = kept(parts, scene, other)
    run = run_all(parts, begun(cell_of(variants, WHAT, pictures=pictures, gallery=True), variants), variants)
    assert run.state is RunState.DONE
    assert [result.picture for result in run.results] == list(pictures)
    assert run.turns == ()
    for picture, answer in zip(pictures, texts(run), strict=True):
        alone = run_all(parts, begun(cell_of(variants, WHAT, pictures=(picture,)), variants), variants)
        assert texts(alone) == [answer]
    assert texts(run)[0] != texts(run)[1]


def test_answer_when_it_goes_on_from_another_token_then_the_rest_is_written_anew_and_kept_in_the_run(
    parts: Parts, scene: Image
) -> None:
    variants = parts.catalog.choose(["tiny-vlm:F16+mmproj-F16", "tiny-vlm:TQ2_0+mmproj-F16"])
    settings = msgspec.structs.replace(SETTINGS, max_tokens=24, branches=True)
    cell = cell_of(variants, WHAT, pictures=kept(parts, scene), settings=settings)
    run = run_all(parts, begun(cell, variants), variants)
    update = run.results[0].update
    reference, pane = update.panes
    at = pane.first_divergence
    assert at is not None
    (branch,) = update.branches  # the settings have asked for it
    assert (branch.at, branch.token_id, branch.pane.variant) == (at, reference.token_ids[at], pane.variant)
    assert branch.pane.state is PaneState.DONE
    assert branch.pane.token_ids[: at + 1] == reference.token_ids[: at + 1]
    assert branch.pane.scores
    assert branch.pane.first_divergence is None or branch.pane.first_divergence > at

    def again(point: BranchPoint, index: int = 0) -> Run:
        image = parts.library.pictures.image
        *_, last = go_on(run, index, point, variants, image, parts.lab, StopFlag())
        return last

    own = again(BranchPoint(pane.variant, 2, pane.token_ids[2]))
    first, second = own.results[0].update.branches
    assert first == branch
    assert (second.pane.text, second.pane.token_ids) == (pane.text, pane.token_ids)  # as it was written before
    assert own.state is RunState.DONE
    assert own.results[0].update.panes == update.panes
    points = (BranchPoint(pane.variant, 99, 1), BranchPoint("other", 0, 1), BranchPoint(pane.variant, 0, 10**8))
    for point, index in (*((point, 0) for point in points[:2]), (points[0], 1)):
        with pytest.raises(BadInput):
            again(point, index)
    beyond = again(points[2]).results[0].update.branches[-1].pane
    assert (beyond.state, beyond.error) == (
        PaneState.FAILED,
        "The answer is to begin with a token that this model does not have.",
    )
    changed = [replace(v, model=replace(v.model, sha256="0" * 64)) for v in variants]
    with pytest.raises(BadInput, match="files of this variant"):
        next(go_on(run, 0, BranchPoint(pane.variant, 0, 1), changed, lambda _: scene, parts.lab, StopFlag()))


def test_run_when_stopped_in_the_middle_then_its_text_stays_and_nothing_more_is_asked(
    parts: Parts, endless: pairs.PairFiles
) -> None:
    slow = (parts.catalog.open_pair(endless.model, endless.projector),)
    cell = cell_of(slow, WHAT, "And then?", settings=RunSettings(n_ctx=2048, max_tokens=900))
    stop = StopFlag()
    for run in run_cell(begun(cell, slow), slow, parts.library.pictures.image, parts.lab, stop, max_panes=16):
        if len(run.results[0].update.panes[0].token_ids) > 5:
            stop.run()
    (pane,) = run.results[0].update.panes
    assert run.state is RunState.STOPPED
    assert len(run.results) == 1
    assert pane.state is PaneState.STOPPED
    assert 5 < len(pane.token_ids) < 900
    assert pane.text
    assert run.elapsed_s is not None
    assert not continues(run, begun(msgspec.structs.replace(cell, prompts=(*cell.prompts, "More?")), slow))


def test_run_when_the_first_turn_is_there_then_only_the_second_is_asked(parts: Parts, scene: Image) -> None:
    variants = parts.catalog.choose(["F16"])
    cell = cell_of(variants, WHAT, pictures=kept(parts, scene))
    first = run_all(parts, begun(cell, variants), variants)
    more = msgspec.structs.replace(cell, prompts=(WHAT, COLOUR), version=7, collapsed=True)
    assert continues(first, begun(more, variants))
    updates = list(
        run_cell(
            msgspec.structs.replace(first, cell=more), variants, parts.library.pictures.image, parts.lab, StopFlag(),
            max_panes=16,
        )
    )  # fmt: skip
    assert all(run.results[0] == first.results[0] for run in updates)
    assert all(run.state is RunState.RUNNING for run in updates[:-1])
    assert {len(run.results) for run in updates} == {2}
    whole = run_all(parts, begun(more, variants), variants)
    assert texts(updates[-1]) == texts(whole)
    assert (updates[-1].state, updates[-1].elapsed_s is not None) == (RunState.DONE, True)
    assert (updates[-1].elapsed_s or 0) > (first.elapsed_s or 0)


@pytest.mark.parametrize(
    ("changed", "state"),
    [
        ({"prompts": (WHAT,)}, RunState.DONE),
        ({"prompts": ("Where?", COLOUR)}, RunState.DONE),
        ({"settings": RunSettings(seed=2)}, RunState.DONE),
        ({"variants": ()}, RunState.DONE),
        ({"pictures": ()}, RunState.DONE),
        ({"gallery": True}, RunState.DONE),
        *(({}, state) for state in RunState if state is not RunState.DONE),
    ],
)
def test_run_when_more_than_the_next_question_changed_then_it_begins_anew(
    parts: Parts, scene: Image, changed: dict[str, object], state: RunState
) -> None:
    variants = parts.catalog.choose(["F16"])
    cell = cell_of(variants, WHAT, pictures=kept(parts, scene))
    run = begun(cell, variants)
    answered = msgspec.structs.replace(run, state=state, results=_answered(run))
    more = msgspec.structs.replace(cell, prompts=(WHAT, COLOUR))
    fresh = msgspec.structs.replace(run, cell=more)
    assert continues(msgspec.structs.replace(answered, state=RunState.DONE), fresh)
    assert not continues(answered, msgspec.structs.replace(fresh, cell=msgspec.structs.replace(more, **changed)))


def test_run_when_the_engine_or_a_file_is_another_one_then_it_begins_anew(parts: Parts, scene: Image) -> None:
    variants = parts.catalog.choose(["F16"])
    cell = cell_of(variants, WHAT, pictures=kept(parts, scene))
    run = begun(cell, variants)
    answered = msgspec.structs.replace(run, state=RunState.DONE, results=_answered(run))
    fresh = msgspec.structs.replace(run, cell=msgspec.structs.replace(cell, prompts=(WHAT, COLOUR)))
    assert continues(answered, fresh)
    assert not continues(answered, msgspec.structs.replace(fresh, engine="another"))
    other = replace(fresh.variants[0], model=replace(fresh.variants[0].model, sha256="another"))
    assert not continues(answered, msgspec.structs.replace(fresh, variants=(other,)))


def _answered(run: Run) -> tuple[RunResult, ...]:
    return (result(*(pane(variant, "a") for variant in run.variants)),)


def test_variant_when_it_failed_in_the_first_turn_then_in_the_second_it_says_that_it_cannot_go_on(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    slow = parts.catalog.open_pair(endless.model, endless.projector)
    variants = (*parts.catalog.choose(["F16"]), slow)
    cell = cell_of(
        variants, WHAT, COLOUR, pictures=kept(parts, scene), settings=RunSettings(n_ctx=2048, max_tokens=300)
    )
    killed = False
    for run in run_cell(
        begun(cell, variants),
        variants,
        parts.library.pictures.image,
        parts.lab,
        StopFlag(),
        max_panes=16,
    ):
        panes = {pane.variant: pane for pane in run.results[0].update.panes}
        if not killed and len(panes[slow.id].token_ids) > 5:
            worker = next(w for w in parts.pool.memory().workers if w.file == endless.model.name)
            os.kill(worker.pid, signal.SIGKILL)
            killed = True
    assert run.state is RunState.DONE
    assert panes[slow.id].state is PaneState.FAILED
    good, bad = run.results[1].update.panes
    assert (good.state, bad.state) == (PaneState.DONE, PaneState.FAILED)
    assert bad.error == "There is no answer to the question before this one to go on from. Run the cell again."
    assert bad.text == ""


@pytest.mark.parametrize(
    ("prompts", "max_panes", "error", "message"),
    [
        (("",), 16, BadPrompt, "The prompt is empty"),
        ((" \n",), 16, BadPrompt, "The prompt is empty"),
        ((WHAT, " "), 16, BadInput, "Question 2 is empty"),
        ((WHAT,), 1, BadInput, "2 variants are ticked; at most 1 fit"),
    ],
)
def test_cell_when_it_cannot_be_run_then_refused_before_anything_is_loaded(
    cold: Parts, prompts: tuple[str, ...], max_panes: int, error: type[Exception], message: str
) -> None:
    variants = cold.catalog.choose(["F16", "Q8_0"])
    run = begun(cell_of(variants, *prompts), variants)
    updates = run_cell(run, variants, cold.library.pictures.image, cold.lab, StopFlag(), max_panes=max_panes)
    with pytest.raises(error, match=message):
        next(updates)
    assert cold.pool.memory().workers == ()


def test_cell_when_its_image_is_lost_then_refused_before_anything_is_loaded(cold: Parts) -> None:
    variants = cold.catalog.choose(["F16"])
    cell = cell_of(variants, WHAT, pictures=(Picture("0" * 64, 4, 4, "cat.png"),))
    with pytest.raises(BadImage, match=r"cat.png cannot be read any more \(the file is gone\)"):
        run_all(cold, begun(cell, variants), variants)
    assert cold.pool.memory().workers == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [(RunSettings(n_ctx=10**9), "n_ctx has to be between"), (RunSettings(reference="Q9"), "The reference 'Q9' is not")],
)
def test_run_when_its_settings_are_edited_by_hand_to_nonsense_then_refused(
    parts: Parts, settings: RunSettings, message: str
) -> None:
    variants = parts.catalog.choose(["F16"])
    with pytest.raises(BadInput, match=message):
        begun(cell_of(variants, WHAT, settings=settings), variants)
    with pytest.raises(BadInput, match="No variant is ticked"):
        begun(cell_of((), WHAT), ())


def test_run_when_kept_then_it_holds_no_folder_of_this_machine(parts: Parts, scene: Image) -> None:
    variants = parts.catalog.choose(["F16", "Q8_0"])
    cell = cell_of(variants, WHAT, pictures=kept(parts, scene))
    run = begun(cell, variants)
    for before, after in zip(variants, run.variants, strict=True):
        assert "/" in before.model.path
        for old, new in ((before.model, after.model), (before.projector, after.projector)):
            assert "/" not in new.path
            assert new == replace(old, path=new.path, shape=None)
            assert old.path.endswith(f"/{new.path}")
    stored = run_all(parts, run, variants)
    saved = msgspec.json.encode(stored).decode()
    folders = {str(parts.settings.cache_dir), *(v.model.path.rpartition("/")[0] for v in variants)}
    assert not [folder for folder in folders if folder in saved]
    assert msgspec.json.decode(saved, type=Run) == stored
