"""The main job on the real engine: answers, reuse, stop, queue."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import psutil
import pytest

from playground.comparing import compare
from playground.comparing.images import read_image
from playground.engine import protocol
from playground.errors import BadInput, BadPrompt, Busy
from playground.models.presets import data_folder
from playground.pool.budgets import PoolLimits
from playground.pool.handles import Lease
from playground.pool.pool import Pool
from playground.rendering import waterfall_view
from playground.settings import Settings
from playground.values.answer import ComparisonUpdate, PaneState
from playground.values.memory import WorkerRole
from playground.values.request import Image, Order, Sampling, Turn
from playground.wiring import Parts, open_parts
from testkit import pairs
from testkit.fake_machine import GIB, FakeMachine
from testkit.running import MODEL, PROJECTOR, comparison, run

EVALUATION = data_folder() / "tiny-vlm/evaluation"
WHAT = "What do you see?"


def test_embedded_pair_when_asked_of_the_evaluation_set_then_it_is_right(parts: Parts) -> None:
    items = [json.loads(line) for line in (EVALUATION / "items.jsonl").read_text().splitlines()][::20]
    f16 = parts.catalog.choose(["F16"])
    wrong = []
    for item in items:
        image = read_image(EVALUATION / item["image"])
        answer = run(parts, comparison(image, item["question"], f16)).panes[0].text
        if answer != item["answer"]:
            wrong.append((item["image"], answer))
    assert len(items) == 21
    assert len(wrong) <= 1, wrong


def split(source: Path, target: Path) -> list[Path]:
    """A model's file in two shards, as llama-gguf-split writes them."""
    reader = gguf.GGUFReader(source)
    architecture = str(reader.fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture, split_max_tensors=len(reader.tensors) // 2 + 1)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], field.types[-1] if field.types[1:] else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(target.parent.glob(f"{target.stem}-*-of-00002.gguf"))


def test_shards_when_they_are_links_of_the_hubs_cache_then_they_answer_as_the_whole_file(
    parts: Parts, scene: Image, tmp_path: Path
) -> None:
    """The second shard is chosen, and the projector's name ends in .mmproj."""
    snapshot, blobs = (tmp_path / "models--acme--a-GGUF" / name for name in ("snapshots/c", "blobs"))
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    shards = split(MODEL, tmp_path / "a-F16.gguf")
    for name, source in ({shard.name: shard for shard in shards} | {"a-f16.mmproj": PROJECTOR}).items():
        blob = blobs / hashlib.sha256(name.encode()).hexdigest()
        shutil.copyfile(source, blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob.name}")
    whole = parts.catalog.choose(["F16"])
    variant = parts.catalog.open_pair(snapshot / shards[1].name, snapshot / "a-f16.mmproj")
    assert variant.model.path == str(snapshot / shards[0].name)
    texts = [run(parts, comparison(scene, WHAT, chosen, max_tokens=12)).panes[0].text for chosen in ((variant,), whole)]
    assert texts[0] == texts[1] != ""


@dataclass(frozen=True)
class Ladder:
    """What one run of six variants gave, and the roles of the workers that were loaded for it."""

    update: ComparisonUpdate
    roles: tuple[WorkerRole, ...]


@pytest.fixture(scope="module")
def ladder(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Ladder:
    cache = tmp_path_factory.mktemp("ladder")
    (cache / "derived").symlink_to(derived / "derived")
    with open_parts(Settings(cache_dir=cache), any_folder=True) as parts:
        variants = parts.catalog.choose(["F16", "Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0"])
        update = run(parts, comparison(read_image(EVALUATION / "hard-62.png"), WHAT, variants))
        return Ladder(update, tuple(worker.role for worker in parts.pool.memory().workers))


@pytest.mark.golden
def test_ladder_when_run_then_only_low_bits_part_from_the_reference(ladder: Ladder) -> None:
    update = ladder.update
    panes = {p.variant.split(":")[1].split("+")[0]: p for p in update.panes}
    assert all(p.state is PaneState.DONE for p in update.panes)
    assert "and three objects on a dark blue background" in panes["F16"].text
    assert [panes[q].first_divergence for q in ("F16", "Q8_0", "Q4_K_M", "Q3_K_M")] == [None] * 4
    assert "and four objects on a dark blue background" in panes["Q2_K"].text
    assert panes["Q2_K"].first_divergence == 19
    assert panes["TQ2_0"].first_divergence == 0


def test_ladder_when_run_then_one_projector_serves_all_and_the_image_is_encoded_once(ladder: Ladder) -> None:
    assert ladder.roles.count(WorkerRole.VISION) == 1
    assert ladder.roles.count(WorkerRole.LANGUAGE) == 6
    encoded = [p.metrics.encode_s for p in ladder.update.panes]
    assert encoded[0] is not None
    assert encoded[0] > 0
    assert encoded[1:] == [None] * 5
    assert [p.metrics.encode_cached for p in ladder.update.panes] == [False, *[True] * 5]


def test_metrics_when_done_then_each_is_known_or_none_for_a_reason(cold: Parts, scene: Image) -> None:
    f16 = cold.catalog.choose(["F16"])
    first = run(cold, comparison(scene, WHAT, f16)).panes[0].metrics
    again = run(cold, comparison(scene, WHAT, f16)).panes[0].metrics
    assert (first.image_tokens, first.text_tokens, first.prompt_tokens) == (144, 7, 151)
    assert first.load_s is not None
    assert first.load_s > 0
    assert again.load_s is None
    assert (first.reused_tokens, again.reused_tokens) == (0, 145)
    assert again.encode_cached is True
    assert again.encode_s is None
    anew = run(cold, comparison(scene, WHAT, f16, cold=True)).panes[0].metrics
    assert (anew.reused_tokens, anew.encode_cached) == (0, False)
    assert (anew.encode_s or 0) > 0
    for m in (first, again):
        assert m.generated_tokens == 53
        assert m.ttft_s is not None
        assert m.prompt_s is not None
        assert m.ttft_s >= m.prompt_s > 0
        assert m.decode_tok_per_s is not None
        assert m.decode_s is not None
        assert m.decode_tok_per_s == pytest.approx(52 / m.decode_s)
        assert m.short_run is False
        assert m.host_rss_bytes is not None
        assert m.host_rss_bytes > 10 * 2**20


def test_timeline_when_run_then_panes_work_one_after_another_and_the_reference_alone_encodes(
    parts: Parts, scene: Image
) -> None:
    update = run(parts, comparison(scene, WHAT, parts.catalog.choose(["F16", "Q8_0"]), max_tokens=3))
    first, second = (waterfall_view.spans(pane, update.elapsed_s) for pane in update.panes)
    assert [span.kind for span in first if span.kind != "load"] == ["image", "prompt", "decode"]
    assert "image" not in [span.kind for span in second]
    assert [span.kind for span in second][-2:] == ["prompt", "decode"]
    assert first[-1].end <= second[0].begin
    assert second[-1].end <= update.elapsed_s


def test_embeddings_when_pool_is_new_then_they_come_from_the_disk(cold: Parts, scene: Image) -> None:
    f16 = cold.catalog.choose(["F16"])
    fresh = run(cold, comparison(scene, WHAT, f16)).panes[0]
    cold.embeddings._recent.clear()
    cold.pool.unload(WorkerRole.VISION)
    cold.pool.unload(WorkerRole.LANGUAGE)
    again = run(cold, comparison(scene, WHAT, f16)).panes[0]
    assert again.metrics.encode_cached is True
    assert again.metrics.load_s is not None
    assert again.token_ids == fresh.token_ids


def test_projector_grid_when_run_then_each_projector_encodes_for_itself(parts: Parts, scene: Image) -> None:
    grid = parts.catalog.choose(["F16", "Q2_K"], ["F16", "Q2_K"])
    update = run(parts, comparison(scene, WHAT, grid))
    texts = {p.variant: p.text for p in update.panes}
    assert "text RVJX4PBX" in texts["tiny-vlm:Q2_K+mmproj-Q2_K"]
    assert "text RVJWPBX" in texts["tiny-vlm:Q2_K+mmproj-F16"]
    assert sum(p.metrics.encode_cached is False for p in update.panes) == 2


def test_race_when_run_then_answers_are_those_of_one_after_another_and_speeds_are_marked(
    parts: Parts, scene: Image
) -> None:
    ladder = parts.catalog.choose(["F16", "Q4_K_M", "Q2_K"])
    in_turn = run(parts, comparison(scene, WHAT, ladder))
    race = run(parts, comparison(scene, WHAT, ladder, order=Order.RACE))
    assert [p.token_ids for p in race.panes] == [p.token_ids for p in in_turn.panes]
    assert [p.first_divergence for p in race.panes] == [p.first_divergence for p in in_turn.panes]
    assert all(p.metrics.speed_shared is True for p in race.panes)
    assert all(p.metrics.speed_shared is False for p in in_turn.panes)


def test_families_when_mixed_then_nothing_is_said_about_where_they_part(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    other = parts.catalog.open_pair(endless.model, endless.projector)
    f16, q8 = parts.catalog.choose(["tiny-vlm:F16+mmproj-F16", "tiny-vlm:Q8_0+mmproj-F16"])
    request = replace(comparison(scene, WHAT, (f16, q8, other), max_tokens=8), reference=f16.id)
    panes = {p.variant: p for p in run(parts, request).panes}
    assert [panes[v.id].comparable for v in (f16, q8, other)] == [True, True, False]
    assert panes[other.id].text != panes[f16.id].text
    assert panes[other.id].first_divergence is None


@pytest.fixture
def on_gpu(parts: Parts) -> Iterator[Parts]:
    machine = FakeMachine(n_gpus=1, total=80 * GIB)
    with closing(Pool.open(sensors=machine, start_worker=machine.start_worker)) as pool:
        yield replace(parts, pool=pool)


def test_loads_when_side_by_side_as_on_a_gpu_then_all_are_loaded_before_the_first_answer(
    on_gpu: Parts, scene: Image
) -> None:
    parts = on_gpu
    ladder = parts.catalog.choose(["F16", "Q4_K_M", "Q2_K"])
    loaded_at_first_token = None
    for update in compare.run(comparison(scene, WHAT, ladder), parts.lab, compare.StopFlag()):
        if loaded_at_first_token is None and any(p.token_ids for p in update.panes):
            loaded_at_first_token = len(parts.pool.memory().workers)
    assert loaded_at_first_token == 4
    assert [p.state for p in update.panes] == [PaneState.DONE] * 3
    assert all(p.metrics.load_s for p in update.panes)
    assert update.panes[0].metrics.projector_load_s
    assert [p.first_divergence for p in update.panes] == [None, None, 19]


def test_loads_when_side_by_side_and_one_file_is_gone_then_only_its_pane_fails(
    on_gpu: Parts, scene: Image, tmp_path: Path
) -> None:
    parts = on_gpu
    files = pairs.write_pair("mlp", tmp_path)
    bad = parts.catalog.open_pair(files.model, files.projector)
    files.model.unlink()
    f16 = parts.catalog.choose(["tiny-vlm:F16+mmproj-F16"])[0]
    panes = run(parts, replace(comparison(scene, WHAT, (f16, bad)), reference=f16.id)).panes
    assert [p.state for p in panes] == [PaneState.DONE, PaneState.FAILED]


@pytest.mark.golden
def test_probabilities_when_asked_then_each_token_has_them_and_the_parting_is_explained(
    parts: Parts, scene: Image
) -> None:
    variants = parts.catalog.choose(["F16", "Q2_K"])
    update = run(parts, replace(comparison(scene, WHAT, variants), probabilities=True))
    f16, q2 = update.panes
    for pane in (f16, q2):
        assert len(pane.scores) == len(pane.token_ids) + 1
        assert "".join(score.text for score in pane.scores) == pane.text
        for token, score in zip(pane.token_ids, pane.scores, strict=False):
            assert score.candidates[0].token_id == token  # greedy
            assert score.probability == score.candidates[0].probability
            assert [c.probability for c in score.candidates] == sorted(
                (c.probability for c in score.candidates), reverse=True
            )
            assert 0 < sum(c.probability for c in score.candidates) <= 1 + 1e-9
        assert pane.scores[-1].probability is None
        assert pane.scores[-1].candidates[0].text == "<|end|>"
    assert q2.first_divergence == 19
    assert [pane.scores[19].candidates[0].text for pane in (f16, q2)] == [" three", " four"]
    assert f16.scores[19].candidates[0].probability > q2.scores[19].candidates[0].probability


def test_probabilities_when_read_then_the_next_answers_are_as_if_they_had_not_been(parts: Parts, scene: Image) -> None:
    f16 = parts.catalog.choose(["F16"])
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1, min_p=0, seed=3, max_tokens=24)

    def answers(*, probabilities: bool) -> list[tuple[tuple[int, ...], int | None]]:
        rows = []
        for prompt in (WHAT, "What does the text say?", WHAT):
            request = comparison(scene, prompt, f16, sampling=sampling)
            pane = run(parts, replace(request, probabilities=probabilities)).panes[0]
            assert bool(pane.scores) is probabilities
            rows.append((pane.token_ids, pane.metrics.reused_tokens))
        return rows

    run(parts, comparison(scene, WHAT, f16))  # so that both find the image in the cache
    assert answers(probabilities=True) == answers(probabilities=False)


@pytest.mark.parametrize("kind", pairs.KINDS)
def test_probabilities_when_of_any_kind_of_pair_then_greedy_took_the_likeliest(
    parts: Parts, scene: Image, tiny: dict[str, pairs.PairFiles], kind: str
) -> None:
    variant = (parts.catalog.open_pair(tiny[kind].model, tiny[kind].projector),)
    pane = run(parts, replace(comparison(scene, "Go on.", variant, max_tokens=40), probabilities=True)).panes[0]
    assert pane.state is PaneState.DONE
    assert len(pane.scores) == len(pane.token_ids) + 1
    # Forty tokens in two batches, one by one in writing: near ties may swap, nothing else.
    for score in pane.scores[:-1]:
        assert score.probability == pytest.approx(score.candidates[0].probability, rel=0.02)


def test_probabilities_when_the_worker_dies_then_the_answer_stays_and_it_is_said(
    parts: Parts, scene: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Lease.request

    def killed(self: Lease, request: protocol.Request[Any], **options: Any) -> protocol.Reply:
        if isinstance(request, protocol.Score):
            psutil.Process(self.pid).kill()
        return sent(self, request, **options)

    monkeypatch.setattr(Lease, "request", killed)
    job = replace(comparison(scene, WHAT, parts.catalog.choose(["F16"])), probabilities=True)
    update = run(parts, job)
    assert update.panes[0].state is PaneState.DONE
    assert "RVJWPBX" in update.panes[0].text
    assert update.panes[0].scores == ()
    assert any("The probabilities of F16 could not be read" in note for note in update.notes)


def test_seed_when_sampling_then_equal_seeds_repeat_and_others_do_not(parts: Parts, scene: Image) -> None:
    broken = parts.catalog.choose(["TQ2_0"])  # its flat distribution makes every seed another text

    def tokens(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=1.0, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=24)
        return run(parts, comparison(scene, WHAT, broken, sampling=sampling)).panes[0].token_ids

    assert tokens(1) == tokens(1)
    assert tokens(1) != tokens(2)


def test_stop_text_when_it_comes_then_the_answer_ends_before_it(parts: Parts, scene: Image) -> None:
    f16 = parts.catalog.choose(["F16"])
    whole = run(parts, comparison(scene, WHAT, f16)).panes[0].text
    pane = run(parts, comparison(scene, WHAT, f16, sampling=Sampling(stop=("bottom and",)))).panes[0]
    assert pane.text == whole[: whole.index("bottom and")]
    assert pane.text
    assert pane.finish_reason == "stop text"


def test_max_tokens_when_reached_then_said(parts: Parts, scene: Image) -> None:
    pane = run(parts, comparison(scene, WHAT, parts.catalog.choose(["F16"]), max_tokens=5)).panes[0]
    assert pane.metrics.generated_tokens == 5
    assert pane.metrics.short_run is True
    assert pane.finish_reason == "max tokens"


def test_context_when_full_then_the_answer_ends_and_says_so(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    variant = (parts.catalog.open_pair(endless.model, endless.projector),)
    pane = run(parts, comparison(scene, "Go on.", variant, max_tokens=4000, n_ctx=256)).panes[0]
    assert pane.state is PaneState.DONE
    assert pane.finish_reason == "context full"
    assert pane.metrics.generated_tokens == 256 - (pane.metrics.prompt_tokens or 0)


def test_no_image_when_asked_then_text_alone_is_answered(parts: Parts) -> None:
    pane = run(parts, comparison((), "What do you see?", parts.catalog.choose(["F16"]))).panes[0]
    assert pane.state is PaneState.DONE
    assert pane.metrics.image_tokens == 0
    assert pane.metrics.encode_s is None


def test_prompt_when_longer_than_the_context_then_says_how_many_tokens_of_how_many(parts: Parts, scene: Image) -> None:
    update = run(parts, comparison(scene, "word " * 3000, parts.catalog.choose(["F16", "Q8_0"])))
    for pane in update.panes:
        assert pane.state is PaneState.FAILED
        assert pane.error is not None
        assert f"The prompt has {pane.metrics.prompt_tokens} tokens (144 of them from images)" in pane.error
        assert "holds 1024" in pane.error
    assert run(parts, comparison(scene, WHAT, parts.catalog.choose(["F16"]))).panes[0].state is PaneState.DONE


@pytest.mark.parametrize("prompt", ["", "   \n"])
def test_prompt_when_empty_then_refused_before_anything_is_loaded(cold: Parts, scene: Image, prompt: str) -> None:
    with pytest.raises(BadPrompt, match="The prompt is empty"):
        run(cold, comparison((), prompt, cold.catalog.choose(["F16"])))
    follow_up = comparison(scene, prompt, cold.catalog.choose(["F16"]))  # the image was of the first question
    follow_up = replace(follow_up, earlier=(Turn(WHAT, {"tiny-vlm:F16+mmproj-F16": "A ring."}),))
    with pytest.raises(BadPrompt, match="The prompt is empty"):
        run(cold, follow_up)
    assert cold.pool.memory().workers == ()


def test_prompt_when_it_holds_half_a_character_then_refused(parts: Parts, scene: Image) -> None:
    with pytest.raises(BadPrompt, match="an invalid character"):
        run(parts, comparison(scene, "what \ud800?", parts.catalog.choose(["F16"])))


def test_variants_when_too_many_then_refused(parts: Parts, scene: Image) -> None:
    with pytest.raises(BadInput, match="32 variants are ticked; at most 16"):
        run(parts, comparison(scene, WHAT, parts.catalog.variants))


def test_prompt_when_it_holds_mtmds_marker_then_it_is_text(parts: Parts, scene: Image) -> None:
    pane = run(parts, comparison(scene, "What is <__media__> and <image>?", parts.catalog.choose(["F16"]))).panes[0]
    assert pane.state is PaneState.DONE
    assert pane.metrics.image_tokens == 144


def test_stop_when_pressed_while_writing_then_the_answer_ends_and_its_text_is_kept(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    variant = (parts.catalog.open_pair(endless.model, endless.projector),)
    stop = compare.StopFlag()
    update: ComparisonUpdate | None = None
    pids = set[int]()
    for update in compare.run(comparison(scene, "Go on.", variant, max_tokens=900), parts.lab, stop):
        if len(update.panes[0].token_ids) > 20:
            pids = {w.pid for w in parts.pool.memory().workers if w.file == endless.model.name}
            stop.run()
    assert update is not None
    assert update.panes[0].state is PaneState.STOPPED
    assert 20 < len(update.panes[0].token_ids) < 900
    assert update.panes[0].text
    # It heard the request: one that does not is killed.
    assert {w.pid for w in parts.pool.memory().workers if w.file == endless.model.name} == pids != set()
    assert all(w.leases == 0 for w in parts.pool.memory().workers)


def test_stop_when_one_pane_is_stopped_then_the_next_ones_go_on(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    slow = parts.catalog.open_pair(endless.model, endless.projector)
    f16 = parts.catalog.choose(["F16"])[0]
    stop = compare.StopFlag()
    update: ComparisonUpdate | None = None
    for update in compare.run(comparison(scene, WHAT, (slow, f16), max_tokens=900), parts.lab, stop):
        if update.panes[0].token_ids:
            stop.pane(slow.id)
    assert update is not None
    assert [p.state for p in update.panes] == [PaneState.STOPPED, PaneState.DONE]
    # Half a reference is nothing to compare with.
    assert update.panes[1].first_divergence is None


def test_iterator_when_closed_then_the_work_stops_and_the_lease_is_free(
    parts: Parts, endless: pairs.PairFiles, scene: Image
) -> None:
    variant = (parts.catalog.open_pair(endless.model, endless.projector),)
    updates = compare.run(comparison(scene, "Go on.", variant, max_tokens=900), parts.lab, compare.StopFlag())
    while not next(updates).panes[0].token_ids:
        pass
    updates.close()  # type: ignore[attr-defined]  # what Gradio does when a tab is closed
    while any(w.leases for w in parts.pool.memory().workers) or parts.pool.memory().queue_length:
        time.sleep(0.01)


def test_queue_when_two_run_at_once_then_the_second_is_told_its_place_and_both_finish(
    parts: Parts, scene: Image
) -> None:
    f16 = parts.catalog.choose(["F16"])
    with parts.pool.turn():  # so that neither can begin
        runs = []
        for place in (1, 2):
            started = compare.run(comparison(scene, WHAT, f16, max_tokens=4), parts.lab, compare.StopFlag())
            runs.append(started)
            while next(started).queue_place != place:
                pass
    for started in runs:
        *_, last = started
        assert last.queue_place is None
        assert last.panes[0].state is PaneState.DONE


def test_queue_when_full_then_busy_is_said_before_anything_is_kept(parts: Parts, scene: Image) -> None:
    with (
        closing(Pool.open(PoolLimits(waiting=0))) as full,
        full.turn(),
        pytest.raises(Busy, match="Try again in a minute"),
    ):
        run(replace(parts, pool=full), comparison(scene, WHAT, parts.catalog.choose(["F16"])))


def test_updates_when_a_run_is_silent_then_they_still_come(parts: Parts, scene: Image) -> None:
    with parts.pool.turn():
        updates = compare.run(comparison(scene, WHAT, parts.catalog.choose(["F16"])), parts.lab, compare.StopFlag())
        for _ in range(5):
            next(updates)  # none of them waits for the turn, which does not come
        updates.close()  # type: ignore[attr-defined]
