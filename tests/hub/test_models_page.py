"""The models page's server functions, against a Hub of the tests' own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.utils import close_session

from playground.errors import BadInput, BadPair, NotAllowed
from playground.settings import Settings
from playground.web.models_page import ModelActions
from playground.web.replies import CardsReply
from playground.wiring import open_parts
from testkit import pairs
from testkit.doctor_files import sketch
from testkit.hub_server import TOKEN, HubRepo, HubServer, hub_server

REPO, OTHER, GATED = "acme/pair-GGUF", "acme/projectors-GGUF", "acme/gated-GGUF"
TWINS = "acme/twins-GGUF"
DOCLING, DOCLING_REPO = "granite-docling-258m", "ggml-org/granite-docling-258M-GGUF"  # a preset without sizes


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    files = pairs.write_llava(tmp_path_factory.mktemp("pair"), name="pair")
    models: dict[str, Any] = {f"pair-{name}.gguf": files.model for name in ("F16", "Q8_0", "Q4_K_M")}
    both = {**models, "mmproj-F16.gguf": files.projector, "mmproj-BF16.gguf": files.projector}
    repos = [HubRepo(REPO, dict(both)), HubRepo(OTHER, {"mmproj-F16.gguf": files.projector})]
    names = ("L-Q4_0.gguf", "L-QAD-Q4_0.gguf", "L-Q8_0.gguf", "mmproj-2B-F16.gguf", "mmproj-8B-F16.gguf")
    repos.append(HubRepo(TWINS, dict.fromkeys(names, b"GGUF"), pipeline_tag="any-to-any"))
    docling = {f"granite-docling-258M-{name}.gguf": files.model for name in ("f16", "Q8_0", "Q4_0")}
    docling["mmproj-granite-docling-258M-f16.gguf"] = files.projector
    repos.append(HubRepo(DOCLING_REPO, dict(docling), downloads=12_345))
    with hub_server([*repos, HubRepo(GATED, dict(both), gated=True)]) as server:
        yield server
        close_session()


@pytest.fixture
def actions(served: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModelActions]:
    served.well_behaved()
    served.forget()
    served.patch(monkeypatch, tmp_path)
    with open_parts(Settings(cache_dir=tmp_path / "cache")) as parts:
        yield ModelActions(parts)


def ticked(served: HubServer, *models: str, projector: str = "mmproj-F16.gguf", **fields: Any) -> dict[str, Any]:
    """What the page's script sends of the boxes that are ticked."""
    repo, other = fields.pop("repo", REPO), fields.pop("projector_repo", None)
    return {
        "repo": repo,
        "commit": served.repos[repo].commit,
        "models": [f"pair-{name}.gguf" for name in models],
        "projector": projector,
        "projector_repo": other or repo,
        "projector_commit": served.repos[other or repo].commit,
        **fields,
    }


def test_known_models_when_shown_then_the_smallest_pair_is_first_and_what_is_too_large_says_so(
    actions: ModelActions,
) -> None:
    cards = re.findall(r'data-fits="(.*?)"\s+data-bytes="(\d*)"', str(actions.page()))
    sizes = [int(size) for _, size in cards if size]
    assert len(sizes) >= 20
    assert sizes == sorted(sizes)
    assert [bool(size) for _, size in cards] == [True] * len(sizes) + [False] * (len(cards) - len(sizes))
    fits = [fit for fit, size in cards if size]
    assert fits == sorted(fits, reverse=True)  # yes, then no
    assert {fit for fit, size in cards if not size} == {""}


def test_card_when_it_comes_into_view_then_one_request_a_day_says_sizes_downloads_and_date(
    served: HubServer, actions: ModelActions
) -> None:
    assert f'data-preset="{DOCLING}"' in actions.page()
    assert served.seen() == []
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: actions.cards([DOCLING, "unknown"]), range(8)))
    (card,) = replies[0].cards.values()
    assert all(reply == replies[0] for reply in replies)
    assert [request.path for request in served.seen()] == [f"/api/models/{DOCLING_REPO}/revision/main"]
    assert ("12,345 downloads" in card, "2026-03-04" in card, "size unknown" in card) == (True, True, False)
    assert [re.findall(rf"[\d.]+ GB {name}", card) != [] for name in ("F16", "Q8_0", "Q4_0")] == [True, True, False]
    assert re.findall(r'data-fits="(.*?)"\s+data-bytes="(\d+)"\s+data-downloads="12345"', card)
    served.forget()
    assert ModelActions(actions._parts).cards([DOCLING]) == replies[0]  # a server that has been started anew
    assert served.seen() == []


def test_card_when_the_hub_does_not_list_its_repository_then_the_others_have_their_numbers(
    served: HubServer, actions: ModelActions
) -> None:
    assert set(actions.cards(["gemma-3-4b", DOCLING]).cards) == {DOCLING}
    actions.cards(["gemma-3-4b"])
    assert len(served.seen()) == 2


def test_card_when_the_hub_refuses_then_it_stays_and_no_other_repository_is_requested(
    served: HubServer, actions: ModelActions
) -> None:
    served.behave("/api/models/", status=429)
    assert actions.cards([DOCLING]) == CardsReply(cards={})
    assert actions.cards(["gemma-3-4b", DOCLING]) == CardsReply(cards={})
    assert len(served.seen()) == 1


def test_ticks_when_a_repository_is_open_then_one_listing_a_commit_and_one_header_a_file(
    served: HubServer, actions: ModelActions
) -> None:
    actions.repo(REPO)
    for models in (["F16"], ["F16", "Q8_0"], ["Q8_0", "Q4_K_M"], ["F16"], ["Q4_K_M"], []):
        reply = actions.check(**ticked(served, *models))
        assert reply.level < 2
        assert len(reply.fits) == 3
    actions.check(**ticked(served, "F16", projector="mmproj-BF16.gguf"))
    assert len(served.seen(where="/api/models/")) == 1
    headers = [request.path.rpartition("/")[2] for request in served.seen("HEAD")]
    assert sorted(headers) == ["mmproj-BF16.gguf", "mmproj-F16.gguf", "pair-F16.gguf", "pair-Q4_K_M.gguf"]
    served.forget()
    actions.check(**ticked(served, "F16", "Q4_K_M"))
    assert served.seen() == []


def test_ticks_when_many_come_at_once_then_they_share_the_requests(served: HubServer, actions: ModelActions) -> None:
    served.behave("/cdn/", delay=0.2)
    fields = ticked(served, "F16", projector_repo=OTHER)
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda _: actions.check(**fields), range(8)))
    assert all(
        reply.level == replies[0].level for reply in replies
    )  # their text names the memory that is free just now
    assert sorted(request.path for request in served.seen(where="/api/models/")) == sorted(
        f"/api/models/{id}/revision/{served.repos[id].commit}" for id in (REPO, OTHER)
    )
    assert len(served.seen("HEAD")) == 2


def test_repository_when_opened_again_then_its_branch_is_looked_up_again(
    served: HubServer, actions: ModelActions
) -> None:
    """A branch moves; only what a commit holds never changes."""
    actions.repo(REPO)
    actions.repo(REPO)
    assert len(served.seen(where="/api/models/")) == 2


def test_header_when_read_with_a_token_then_who_has_none_does_not_get_it(
    served: HubServer, actions: ModelActions
) -> None:
    fields = ticked(served, "F16", repo=GATED)
    assert actions.check(**fields, token=TOKEN).level < 2
    for token in (None, "hf_of_somebody_else"):
        with pytest.raises(NotAllowed, match="is gated"):
            actions.check(**fields, token=token)


def test_header_when_it_could_not_be_read_then_the_next_tick_tries_again(
    served: HubServer, actions: ModelActions
) -> None:
    served.behave("mmproj-F16", times=1, body=b"GGUF, but damaged" * 100)
    assert actions.check(**ticked(served, "F16")).level == 2
    assert actions.check(**ticked(served, "F16")).level < 2


# --- names that a person pastes, and projectors of another repository ----------------------------------------


def test_repository_when_pasted_with_a_quantization_then_it_is_ticked(actions: ModelActions) -> None:
    for pasted in (f"{REPO}:Q4_K_M", f"https://hf.co/{REPO}:Q4_K_M", f"llama-server -hf {REPO}:Q4_K_M"):
        boxes = re.findall(r'value="(pair-[^"]+)"\s+checked', actions.repo(pasted).html)
        assert boxes == ["pair-Q4_K_M.gguf"]


def test_projectors_when_another_repository_is_named_then_its_projector_can_be_checked_with_the_model(
    served: HubServer, actions: ModelActions
) -> None:
    html = actions.projectors(OTHER).html
    assert f'data-repo="{OTHER}"' in html
    assert f'data-commit="{served.repos[OTHER].commit}"' in html
    with pytest.raises(BadInput, match="has no projector 'nothing'"):
        actions.projectors(f"{REPO}:nothing")


def test_repository_when_two_files_have_one_quantization_then_their_names_stand_beside_it(
    actions: ModelActions,
) -> None:
    assert f'data-repo="{TWINS}"' in actions.search("twins").html  # whatever its task
    assert "Open any other repository by its" in actions.search("no such words").html
    names = re.findall(r'<span class="vp-dim">\s*([^<]*?)\s*</span>', actions.repo(TWINS).html)
    assert {name for name in names if name.endswith(".gguf")} == {
        *("L-Q4_0.gguf", "L-QAD-Q4_0.gguf", "mmproj-2B-F16.gguf", "mmproj-8B-F16.gguf"),
    }


# --- files of the cache --------------------------------------------------------------------------------------


def cached(tmp_path: Path, repo: str, commit: str, **files: Path) -> str:
    """Put files into the Hub's cache, as another program would. Returns the commit's 40 digits."""
    repository = tmp_path / "hub" / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / (40 * commit)
    snapshot.mkdir(parents=True, exist_ok=True)
    (repository / "blobs").mkdir(exist_ok=True)
    for n, (name, source) in enumerate(files.items()):
        blob = repository / "blobs" / f"{commit}{n:063}"
        shutil.copyfile(source, blob)
        (snapshot / f"{name.replace('_', '-')}.gguf").symlink_to(f"../../blobs/{blob.name}")
    return 40 * commit


def test_projector_when_in_another_repository_or_commit_or_of_an_odd_name_then_the_pair_opens(
    actions: ModelActions, tmp_path: Path
) -> None:
    files = pairs.write_llava(tmp_path / "made", name="made")
    audio = tmp_path / "audio.gguf"
    entries = [("general.architecture", "clip"), ("clip.has_audio_encoder", True)]
    sketch(audio, dict(entries), {"a": (32, 2)})
    model = cached(tmp_path, "acme/tune", "a", tune_Q8_0=files.model)
    odd = cached(tmp_path, "acme/tune", "b", visual_x=files.projector)
    other = cached(tmp_path, "acme/base", "c", clip_thing=files.projector, mmproj_ears=audio)
    html = actions.on_disk().disk
    assert html.count("audio projector</td>") == 1
    assert html.count(">projector</td>") == 2
    assert re.findall(r'<option value="([^"]*)"', html) == ["", "clip-thing.gguf", "visual-x.gguf"]
    with pytest.raises(BadInput, match="Choose a projector"):
        actions.use("acme/tune", model, "tune-Q8-0.gguf", "")
    for repo, commit, name in (("acme/tune", odd, "visual-x.gguf"), ("acme/base", other, "clip-thing.gguf")):
        reply = actions.use("acme/tune", model, "tune-Q8-0.gguf", name, repo, commit)
        assert "can be ticked" in str(reply.notice)
        assert reply.variant in {variant.id for variant in actions._parts.catalog.opened}
    with pytest.raises(BadPair, match="is an audio projector"):
        actions.look("acme/tune", model, "tune-Q8-0.gguf", "mmproj-ears.gguf", "acme/base", other)
