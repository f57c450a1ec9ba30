"""Presets whose files are in the Hub's cache are variants without anybody's click."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.models.hub.client import CachedFile
from playground.models.hub.preloaded import preloaded
from playground.models.presets import Preset

PRESET = Preset(
    family="some-vl", name="Some VL", about="", licence="mit", repo="org/Some-VL-GGUF", model="Some-VL-{q}.gguf",
    projector="mmproj-*f16.gguf", ticked=("F16", "Q4_K_M"),
)  # fmt: skip


def file(name: str, repo: str = "org/Some-VL-GGUF") -> CachedFile:
    return CachedFile(repo, "0" * 40, name, f"/cache/{repo}/{name}", 1, 0.0)


@pytest.mark.parametrize(
    ("cached", "expected"),
    [
        ([], []),
        ([file("Some-VL-f16.gguf")], []),
        ([file("mmproj-Some-VL-F16.gguf")], []),
        ([file("Some-VL-f16.gguf"), file("mmproj-Some-VL-F16.gguf")], ["Some-VL-f16.gguf"]),
        ([file("Some-VL-Q2_K.gguf"), file("mmproj-Some-VL-F16.gguf")], []),
        ([file("Some-VL-f16.gguf"), file("mmproj-Some-VL-F16.gguf", "other/one")], []),
        (
            [file("Some-VL-Q4_K_M.gguf"), file("mmproj-Some-VL-F16.gguf"), file("Some-VL-F16.gguf")],
            ["Some-VL-F16.gguf", "Some-VL-Q4_K_M.gguf"],
        ),
    ],
    ids=["nothing", "no projector", "no model", "a pair", "not ticked", "another repository's projector", "two"],
)
def test_preset_when_files_are_in_the_cache_then(cached: list[CachedFile], expected: list[str]) -> None:
    pairs = list(preloaded([PRESET], cached))
    assert [pair.model.name for pair in pairs] == expected
    assert {pair.projector for pair in pairs} <= {Path("/cache/org/Some-VL-GGUF/mmproj-Some-VL-F16.gguf")}


def test_preset_when_it_is_the_embedded_one_then_it_is_not_looked_for() -> None:
    embedded = Preset(family="tiny", name="", about="", licence="mit", model="*.gguf", projector="*.gguf")
    assert list(preloaded([embedded], [file("a.gguf", "")])) == []
