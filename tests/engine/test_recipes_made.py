"""Recipes against the files that llama.cpp makes of them."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
from gguf import GGUFReader

from playground.quantizing import quantizer, recipes
from playground.quantizing.recipes import FileRecipe, Recipe
from playground.values.files import Half
from playground.wiring import Parts
from testkit import pairs
from testkit.running import MODEL, PROJECTOR


@pytest.mark.parametrize("source", [MODEL, PROJECTOR])
def test_half_when_llama_cpp_makes_it_then_each_group_has_its_type_and_the_command_says_the_same(
    parts: Parts, tmp_path: Path, source: Path
) -> None:
    """llama-quantize's words are its library's arguments: the engine makes of the words what it makes of the half."""
    half = parts.catalog.half(source)
    weights = parts.catalog.weights(source)
    groups = recipes.groups_of(weights, 2, half=half)
    kinds = itertools.cycle(("q8_0", "q6_K", "q5_K", "q4_K", "q4_0", "f16"))
    types = {group.name: kind for group, kind in zip(groups, kinds, strict=False)}
    recipe = recipes.file_recipe(groups[:-1], types, parts.catalog.kind(source))
    assert recipe is not None
    target = tmp_path / "made.gguf"
    quantizer.make(source, target, recipe.quantization, parts.pool, half=half, tensor_types=recipe.tensor_types)
    types_of = {t.name: t.tensor_type.name.lower() for t in GGUFReader(target).tensors}
    for group in groups:
        expected = "f16" if group == groups[-1] else types[group.name].lower()
        assert {types_of[name] for name in weights if re.search(group.pattern, name)} == {expected}
    unchanged = {t.name: t.tensor_type.name.lower() for t in GGUFReader(source).tensors}

    def in_a_group(name: str) -> bool:
        return any(re.search(group.pattern, name) for group in groups)

    assert {n: k for n, k in types_of.items() if not in_a_group(n)} == {
        n: k for n, k in unchanged.items() if not in_a_group(n)
    }

    again = tmp_path / "a b's.gguf"
    words = shlex.split(recipes.command(recipe, str(source), str(again), half=half, imatrix="i m.gguf"))
    assert words[0] == "llama-quantize"
    assert ("--pure" in words) == (half is Half.PROJECTOR)
    assert words[words.index("--imatrix") + 1] == "i m.gguf"
    assert words[-3:] == [str(source), str(again), recipe.quantization]
    options = [words[at + 1] for at, word in enumerate(words) if word == "--tensor-type"]
    assert quantizer.tensor_types(options) == recipe.tensor_types
    assert "--imatrix" not in recipes.command(recipe, "a", "b", half=half)


def test_family_when_another_pair_then_a_recipe_of_it_is_made_of_its_own_groups(parts: Parts, tmp_path: Path) -> None:
    """Fused attention and deepstack: names that the embedded pair does not have."""
    files = pairs.write_pair("qwen3vl", tmp_path)
    weights = parts.catalog.weights(files.projector)
    recipe = Recipe("r", "fam", projector={"v.attn_qkv": "q4_0", "v.deepstack": "q8_0"})
    file_recipe: FileRecipe = recipes.applied(recipe, weights, parts.catalog.kind(files.projector), half=Half.PROJECTOR)
    target = tmp_path / "new.gguf"
    quantizer.make(
        files.projector,
        target,
        file_recipe.quantization,
        parts.pool,
        half=Half.PROJECTOR,
        tensor_types=file_recipe.tensor_types,
    )
    kinds = {t.name: t.tensor_type.name for t in GGUFReader(target).tensors}
    assert {kind for name, kind in kinds.items() if ".attn_qkv.weight" in name} == {"Q4_0"}
    assert {kind for name, kind in kinds.items() if re.search(r"deepstack.*fc\d\.weight", name)} == {"Q8_0"}
    assert kinds["mm.0.weight"] == "F16"
