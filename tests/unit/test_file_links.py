"""Links to model files: the Hub's cache opened by path, shards by any member, and what a link may lead to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from playground.errors import BadModel, NotAllowed
from playground.models.catalog import Catalog
from testkit.gguf_bytes import BOOL, STRING, gguf, pair, tensor, text

SHA = "ab" * 32
QUANTIZATIONS = ("Q4_K_M", "UD-Q4_K_XL")


def write_gguf(path: Path, architecture: str = "llama", n: int = 64) -> Path:
    entries = [pair("general.architecture", STRING, text(architecture))]
    entries += [pair("clip.has_vision_encoder", BOOL, b"\1")] if architecture == "clip" else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gguf(entries, [tensor("w", (n,))], bytes(4 * n)))
    return path


def hub_cache(folder: Path, *names: str) -> Path:
    """A repository in the Hub's cache, with a projector. Returns its snapshot."""
    repository = folder / "models--acme--a-GGUF"
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    for n, name in enumerate((*names, "mmproj-F16.gguf")):
        kind = "clip" if "mmproj" in name else "llama"
        blob = write_gguf(repository / "blobs" / f"{n:02}{SHA[2:]}", kind, 64 + n)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    catalog = Catalog(tmp_path / "cache", [tmp_path / "hub"])
    yield catalog
    catalog.close()


def test_links_when_the_hubs_cache_is_opened_by_path_then_the_quantization_is_that_of_the_links_name(
    catalog: Catalog, tmp_path: Path
) -> None:
    snapshot = hub_cache(tmp_path / "hub", "a-Q4_K_M.gguf", "a-UD-Q4_K_XL.gguf")
    opened = [catalog.open_pair(snapshot / f"a-{q}.gguf", snapshot / "mmproj-F16.gguf") for q in QUANTIZATIONS]
    assert [variant.label for variant in opened] == list(QUANTIZATIONS)
    assert {(v.model.repo, v.projector.commit) for v in opened} == {("acme/a-GGUF", "c" * 40)}


@pytest.mark.parametrize("chosen", [1, 2])
def test_shards_when_any_of_them_is_chosen_then_the_whole_model_opens_by_the_first(
    catalog: Catalog, tmp_path: Path, chosen: int
) -> None:
    names = [f"a-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    snapshot = hub_cache(tmp_path / "hub", *names)
    variant = catalog.open_pair(snapshot / names[chosen - 1], snapshot / "mmproj-F16.gguf")
    assert variant.model.path == str(snapshot / names[0])
    assert variant.model.n_params == 64 + 65
    assert variant.label == "Q8_0"


def test_link_when_only_its_target_has_a_shards_name_then_the_target_opens(catalog: Catalog, tmp_path: Path) -> None:
    names = [f"a-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    snapshot = hub_cache(tmp_path / "hub", *names)
    (tmp_path / "hub/nice.gguf").symlink_to(snapshot / names[0])
    variant = catalog.open_pair(tmp_path / "hub/nice.gguf", snapshot / "mmproj-F16.gguf")
    assert variant.model.path == str(snapshot / names[0])


def test_snapshot_when_only_it_is_allowed_then_its_links_to_the_repositorys_files_open(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "hub", "a-Q8_0.gguf")
    catalog = Catalog(tmp_path / "cache", [snapshot])
    assert catalog.open_pair(snapshot / "a-Q8_0.gguf", snapshot / "mmproj-F16.gguf").label == "Q8_0"
    other = hub_cache(tmp_path / "other", "b-Q8_0.gguf")
    (snapshot / "link.gguf").symlink_to((other / "b-Q8_0.gguf").resolve())
    with pytest.raises(NotAllowed):
        catalog.open_pair(snapshot / "link.gguf", snapshot / "mmproj-F16.gguf")
    catalog.close()


def test_shard_when_it_is_a_link_that_leads_outside_then_refused(catalog: Catalog, tmp_path: Path) -> None:
    names = [f"a-Q8_0-0000{n}-of-00002.gguf" for n in (1, 2)]
    snapshot = hub_cache(tmp_path / "hub", names[0])
    (snapshot / names[1]).symlink_to(write_gguf(tmp_path / "secret" / names[1]))
    with pytest.raises(NotAllowed):
        catalog.open_pair(snapshot / names[0], snapshot / "mmproj-F16.gguf")


def test_names_when_in_capitals_then_opened_but_shards_have_to_be_renamed(catalog: Catalog, tmp_path: Path) -> None:
    names = [f"B-Q8_0-0000{n}-OF-00002.GGUF" for n in (1, 2)]
    snapshot = hub_cache(tmp_path / "hub", "A-Q8_0.GGUF", *names)
    assert catalog.open_pair(snapshot / "A-Q8_0.GGUF", snapshot / "mmproj-F16.gguf").label == "Q8_0"
    with pytest.raises(BadModel, match=r"Rename all shards\.$"):
        catalog.open_pair(snapshot / names[1], snapshot / "mmproj-F16.gguf")
