"""Which files the panel for opening a pair offers."""

from __future__ import annotations

from pathlib import Path

from playground.web.open_pair_panel import _files, _is_projector, _neighbour


def test_files_when_listed_then_by_their_names_in_the_folder_without_vocabularies(tmp_path: Path) -> None:
    pairs = ("a/m-Q8_0.gguf", "a/mmproj-m-F16.gguf", "b/m-f16.mmproj")
    for name in (*pairs, "ggml-vocab-llama.gguf", "m-00002-of-00002.gguf", "readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    listed = _files([tmp_path])
    assert [name for name, _ in listed] == list(pairs)
    assert [_is_projector(path) for _, path in listed] == [False, True, True]


def test_files_when_their_names_are_in_capitals_then_listed(tmp_path: Path) -> None:
    names = ("A-Q8_0.GGUF", "B-Q8_0-00001-OF-00002.GGUF", "B-Q8_0-00002-OF-00002.GGUF", "mmproj-F16.gguf")
    for name in names:
        (tmp_path / name).touch()
    assert [Path(path).name for _, path in _files([tmp_path])] == [names[0], names[1], names[3]]


def test_projector_when_some_lie_beside_the_model_then_the_precise_one() -> None:
    projectors = ["/b/mmproj-F16.gguf", "/a/mmproj-Q8_0.gguf", "/a/mmproj-model-f16.gguf"]
    assert _neighbour("/a/m.gguf", projectors) == "/a/mmproj-model-f16.gguf"
    assert _neighbour("/c/m.gguf", projectors) is None
