"""Recipes: groups, types under a budget, their TOML, and what llama.cpp makes of them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.engine.protocol import TensorType
from playground.errors import BadInput
from playground.quantizing import recipe_search, recipes, scan_results
from playground.quantizing.recipe_search import Allocation
from playground.quantizing.recipes import Group, GroupSensitivity, Recipe, Rung
from playground.values.files import Half

# --- groups -----------------------------------------------------------------------------------------------------------


def llama(layers: int) -> dict[str, int]:
    """Tensors of two dimensions or more, with their bytes."""
    kinds = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    blocks = {f"blk.{n}.{kind}.weight": 1000 + n for n in range(layers) for kind in kinds}
    return {"token_embd.weight": 5000, "output.weight": 6000, **blocks}


QWEN = {f"v.blk.{n}.{kind}.weight": 10 for n in range(12) for kind in ("attn_qkv", "attn_out", "ffn_up", "ffn_down")}
QWEN |= {"mm.0.weight": 7, "mm.2.weight": 8, "v.deepstack.5.fc1.weight": 3, "v.deepstack.11.fc2.weight": 4}
KEPT = {  # llama.cpp leaves them alone, or they are no weights
    "v.patch_embd.weight": 1, "v.patch_embd.weight.1": 1, "v.position_embd.weight": 1, "v.class_embd": 1,
    "blk.0.attn_norm.weight": 1, "output_norm.weight": 1, "blk.0.ffn_gate_inp.weight": 1, "position_embd.weight": 1,
    "resampler.pos_embd_k": 1, "v.blk.0.attn_q.bias": 1, "v.sam.blk.0.attn.rel_pos_h.weight": 1,
}  # fmt: skip


def matches(groups: Sequence[Group], name: str) -> list[str]:
    """As std::regex_search does."""
    return [group.name for group in groups if re.search(group.pattern, name)]


@pytest.mark.parametrize("depth", [1, 3, 64])
@pytest.mark.parametrize(
    "weights",
    [
        llama(2),
        llama(13),
        QWEN,
        {"resampler.kv.weight": 1, "resampler.attn.q.weight": 2, "resampler.proj.weight": 3},
        {f"a.blk.{n}.ffn_up.weight": 1 for n in range(4)} | {"mm.a.mlp.1.weight": 1, "v.head.weight": 2},
        {f"blk.{n}.ffn_up_exps.weight": 1 for n in range(11)} | {"blk.7.ffn_up.weight": 9},
    ],
)
def test_tensor_when_it_can_be_quantized_then_in_one_group_and_no_other_is(weights: dict[str, int], depth: int) -> None:
    groups = recipes.groups_of(weights | KEPT, depth, half=Half.PROJECTOR)
    assert {name: len(matches(groups, name)) for name in weights} == dict.fromkeys(weights, 1)
    assert {name: matches(groups, name) for name in KEPT} == {name: [] for name in KEPT}
    assert len({group.name for group in groups}) == len(groups)
    for group in groups:
        assert group.bytes == sum(size for name, size in weights.items() if re.search(group.pattern, name))


def test_groups_when_named_then_by_what_they_do_and_by_their_part_of_the_depth() -> None:
    assert [g.name for g in recipes.groups_of(QWEN, 1, half=Half.PROJECTOR)] == [
        "v.attn_qkv", "v.attn_out", "v.ffn_up", "v.ffn_down", "mm", "v.deepstack",
    ]  # fmt: skip
    cut = {g.name: g for g in recipes.groups_of(llama(8), 3, half=Half.MODEL)}
    assert [name for name in cut if name.startswith("ffn_up")] == ["ffn_up 1/3", "ffn_up 2/3", "ffn_up 3/3"]
    layers = [
        [n for n in range(8) if re.search(cut[f"ffn_up {k}/3"].pattern, f"blk.{n}.ffn_up.weight")] for k in (1, 2, 3)
    ]
    assert layers == [[0, 1], [2, 3, 4], [5, 6, 7]]
    # As many parts as there are layers, where these are fewer; layers 1 and 11 are not mixed up.
    few = recipes.groups_of({"blk.1.ffn_up.weight": 1, "blk.11.ffn_up.weight": 2}, 3, half=Half.MODEL)
    assert [(g.name, g.bytes) for g in few] == [("ffn_up 1/2", 1), ("ffn_up 2/2", 2)]
    assert recipes.groups_of(KEPT | {"mm.patch_merger.weight": 1}, 1, half=Half.PROJECTOR) == ()


# --- one file ---------------------------------------------------------------------------------------------------------


def test_half_when_made_then_the_first_pattern_wins_and_the_rest_stays() -> None:
    groups = recipes.groups_of(llama(4), 2, half=Half.MODEL)
    types = {"ffn_up 1/2": "q4_K", "ffn_up 2/2": "q8_0", "token_embd": "q6_K"}
    recipe = recipes.file_recipe(groups, types, "bf16")
    assert recipe is not None
    assert recipe.tensor_types[-1] == TensorType(".*", "bf16")

    def kind(name: str) -> str:
        return next(tensor_type.kind for tensor_type in recipe.tensor_types if re.search(tensor_type.pattern, name))

    assert [kind(f"blk.{n}.ffn_up.weight") for n in range(4)] == ["q4_K", "q4_K", "q8_0", "q8_0"]
    assert [kind(name) for name in ("token_embd.weight", "blk.0.ffn_down.weight", "output.weight")] == [
        "q6_K", "bf16", "bf16",
    ]  # fmt: skip
    assert recipe.quantization == "Q6_K"  # the type that most bytes get
    assert recipes.file_recipe(groups, {}, "f16") is None
    assert recipes.file_recipe(groups, {"of another model": "q8_0"}, "f16") is None


@pytest.mark.parametrize(
    ("kind", "ftype"),
    [("q8_0", "Q8_0"), ("q6_K", "Q6_K"), ("q4_K", "Q4_K_S"), ("q2_K", "Q2_K"), ("iq2_xxs", "IQ2_XXS"), ("f16", "Q8_0")],
)
def test_ftype_when_of_a_type_then_one_that_llama_cpp_has_and_that_quantizes(kind: str, ftype: str) -> None:
    groups = recipes.groups_of(llama(1), 1, half=Half.MODEL)
    recipe = recipes.file_recipe(groups, {"output": kind}, "f32")
    assert recipe is not None
    assert recipe.quantization == ftype


def test_recipe_when_for_a_model_of_another_depth_then_its_parts_go_along(tmp_path: Path) -> None:
    recipe = Recipe("r", "fam", 2, model={"ffn_up 1/2": "q4_K"}, projector={"mm": "q8_0"})
    file_recipe = recipes.applied(recipe, llama(40), "f16", half=Half.MODEL)
    (pattern, _), _ = [(tensor_type.pattern, tensor_type.kind) for tensor_type in file_recipe.tensor_types]
    assert [n for n in range(40) if re.search(pattern, f"blk.{n}.ffn_up.weight")] == list(range(20))
    assert recipes.applied(recipe, QWEN, "f16", half=Half.PROJECTOR).tensor_types[0].pattern == r"^mm\..*weight$"
    with pytest.raises(BadInput, match=r"no tensors ffn_up 1/2 of the recipe 'r'\. It has: v\.attn_qkv 1/2, v\.attn"):
        recipes.applied(recipe, QWEN, "f16", half=Half.MODEL)
    with pytest.raises(BadInput, match="no tensors ffn_up 1/2"):  # one layer has no halves
        recipes.applied(recipe, llama(1), "f16", half=Half.MODEL)
    with pytest.raises(BadInput, match="leaves the projector as it is"):
        recipes.applied(msgspec.structs.replace(recipe, projector={}), QWEN, "f16", half=Half.PROJECTOR)


# --- under a budget ---------------------------------------------------------------------------------------------------


def sensed(*groups: Sequence[tuple[int, float | None]]) -> list[GroupSensitivity]:
    """Of each group its rungs: bytes saved and KL."""
    return [
        GroupSensitivity(
            Group(False, f"g{n}", f"^g{n}$", 1000),
            tuple(Rung(f"k{m}", saved, kl) for m, (saved, kl) in enumerate(rungs)),
        )
        for n, rungs in enumerate(groups)
    ]


def test_dearest_when_its_questions_share_a_picture_then_they_do_not_tell_it_apart() -> None:
    kls = (0.5, 0.1)  # of both groups, the same on each of ten questions
    groups = [
        GroupSensitivity(Group(False, f"g{n}", f"^g{n}$", 1000), (Rung("Q2_K", 500, kl, by_question=(kl,) * 10),))
        for n, kl in enumerate(kls)
    ]
    assert scan_results.dearest(groups) == scan_results.dearest(groups, range(10)) == groups[:1]
    assert scan_results.dearest(groups, (0, 0, 0, 0, 0, 1, 1, 1, 1, 1)) == groups


def priced(scan: Sequence[GroupSensitivity], whole: int, allocation: Allocation) -> tuple[int, float]:
    """Bytes and KL of what was chosen, from the measurements."""
    rungs = {group.group: {rung.kind: rung for rung in group.rungs} for group in scan}
    chosen = [rungs[group][kind] for group, kind in allocation.types]
    assert all(rung.kl is not None for rung in chosen)
    return whole - sum(rung.saved for rung in chosen), math.fsum(rung.kl or 0.0 for rung in chosen)


def every(scan: Sequence[GroupSensitivity], whole: int) -> list[tuple[int, float]]:
    """Bytes and KL of all that could be chosen."""
    options = [
        [(0, 0.0), *((r.saved, r.kl) for r in group.rungs if r.kl is not None and r.saved > 0)] for group in scan
    ]
    return [
        (whole - sum(saved for saved, _ in choice), math.fsum(kl for _, kl in choice))
        for choice in itertools.product(*options)
    ]


WHOLE = 10_000
RUNGS = st.lists(
    st.tuples(st.integers(-5, 900), st.one_of(st.none(), st.integers(0, 1000).map(float))), min_size=1, max_size=4
)
SCANS = st.lists(RUNGS, min_size=1, max_size=4).map(lambda groups: sensed(*groups))


@settings(max_examples=60)
@given(SCANS, st.integers(WHOLE - 3700, WHOLE))
def test_allocation_when_by_size_then_nothing_that_is_no_larger_has_a_smaller_kl(
    scan: list[GroupSensitivity], limit: int
) -> None:
    """The hull's choice is exact for its own size: a budget between two steps may leave bytes unused."""
    choices = every(scan, WHOLE)
    if min(size for size, _ in choices) > limit:
        with pytest.raises(BadInput, match=r"come down to .* MB at best, not to"):
            recipe_search.allocate(scan, WHOLE, max_bytes=limit)
        return
    allocation = recipe_search.allocate(scan, WHOLE, max_bytes=limit)
    assert (allocation.bytes, pytest.approx(allocation.kl)) == priced(scan, WHOLE, allocation)
    assert allocation.bytes <= limit
    assert allocation.kl <= min(kl for size, kl in choices if size <= allocation.bytes) + 1e-9
    # Lagrange's bound for what is cut off: at a budget on the hull, it is exact against all that fits.
    exact = recipe_search.allocate(scan, WHOLE, max_bytes=allocation.bytes)
    assert exact == allocation


@settings(max_examples=60)
@given(SCANS, st.integers(0, 3000).map(float))
def test_allocation_when_by_kl_then_within_it_and_no_step_that_fits_is_left(
    scan: list[GroupSensitivity], limit: float
) -> None:
    allocation = recipe_search.allocate(scan, WHOLE, max_kl=limit)
    assert (allocation.bytes, pytest.approx(allocation.kl)) == priced(scan, WHOLE, allocation)
    assert allocation.kl <= limit
    # A group that has nothing takes its cheapest point for a byte, if that fits.
    taken = {group for group, _ in allocation.types}
    for sensitivity in scan:
        points = [
            (rung.kl / rung.saved, rung.kl) for rung in sensitivity.rungs if rung.kl is not None and rung.saved > 0
        ]
        if points and sensitivity.group not in taken:
            assert allocation.kl + min(points)[1] > limit - 1e-9
    both = recipe_search.allocate(scan, WHOLE, max_bytes=allocation.bytes, max_kl=limit)
    assert both.bytes == allocation.bytes
    assert both.kl <= limit
    if allocation.bytes < WHOLE:
        with pytest.raises(BadInput, match="and a KL of 0 the files come down to"):
            recipe_search.allocate([s for s in scan if all(r.kl != 0 for r in s.rungs)], WHOLE, max_bytes=0, max_kl=0.0)


@pytest.mark.parametrize(
    ("groups", "limit", "chosen", "size", "kl"),
    [
        # The cheaper bytes first, whichever group they are of.
        ([[(100, 1.0), (200, 50.0)], [(100, 2.0), (150, 4.0)]], 9850, {"g0": "k0", "g1": "k0"}, 9800, 3.0),
        ([[(100, 1.0), (200, 50.0)], [(100, 2.0), (150, 4.0)]], 9750, {"g0": "k0", "g1": "k1"}, 9750, 5.0),
        ([[(100, 1.0), (200, 50.0)], [(100, 2.0), (150, 4.0)]], 9749, {"g0": "k1", "g1": "k1"}, 9650, 54.0),
        # Measurements that do not grow: more bytes for less is taken at once, and what costs more for less never.
        ([[(100, 9.0), (200, 3.0), (300, 5.0)]], 9900, {"g0": "k1"}, 9800, 3.0),
        ([[(100, 9.0), (100, 3.0), (200, 20.0)]], 9900, {"g0": "k1"}, 9900, 3.0),
        # What llama.cpp refused, or keeps as it is, is never chosen.
        ([[(0, None), (300, 7.0), (400, None)], [(-3, 0.0), (0, 0.0)]], 9800, {"g0": "k1"}, 9700, 7.0),
        ([[(100, 1.0)]], 10_000, {}, 10_000, 0.0),
    ],
)  # fmt: skip
def test_allocation_when_worked_out_by_hand_then_the_same(
    groups: list[list[tuple[int, float | None]]], limit: int, chosen: dict[str, str], size: int, kl: float
) -> None:
    allocation = recipe_search.allocate(sensed(*groups), WHOLE, max_bytes=limit)
    assert ({group.name: kind for group, kind in allocation.types}, allocation.bytes, allocation.kl) == (
        chosen,
        size,
        kl,
    )


def test_allocation_when_a_step_costs_too_much_then_the_others_are_taken_without_it() -> None:
    scan = sensed([(1000, 5.0), (1500, 6.0)], [(10, 1.0)], [(5, 0.75)])
    allocation = recipe_search.allocate(scan, WHOLE, max_kl=2.0)
    assert [(group.name, kind) for group, kind in allocation.types] == [("g1", "k0"), ("g2", "k0")]


def test_budget_when_it_cannot_be_had_then_told_what_can() -> None:
    scan = sensed([(1_500_000, 1.0), (2_500_000, None)])
    with pytest.raises(BadInput, match=r"come down to 8\.5 MB at best, not to 8\.0"):
        recipe_search.allocate(scan, 10_000_000, max_bytes=8_000_000)
    with pytest.raises(BadInput, match=r"and a KL of 0\.5 the files come down to 10\.0 MB at best"):
        recipe_search.allocate(scan, 10_000_000, max_bytes=9_000_000, max_kl=0.5)
    with pytest.raises(BadInput, match="how large the files may be, or how far they may drift"):
        recipe_search.allocate(scan, 10_000_000)


# --- the file ---------------------------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
TYPES = st.dictionaries(TEXTS, TEXTS, max_size=3)


@pytest.mark.thorough
@settings(max_examples=60)
@given(
    st.builds(
        Recipe, name=TEXTS, family=TEXTS, depth=st.integers(1, 64), model=TYPES, projector=TYPES,
        calibrated=st.booleans(), note=TEXTS,
    )
)  # fmt: skip
def test_recipe_when_written_and_read_then_the_same(recipe: Recipe) -> None:
    assert recipes.from_toml(recipes.to_toml(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing required field `name`"),
        ("\0", "cannot be used"),
        ("name = [", "cannot be used"),
        ("name = 1\nfamily = ''", r"Expected `str`, got `int` - at `\$\.name`"),
        ("name = ''", "missing required field `family`"),
        ("name = ''\nfamily = ''\nmodel = 3", r"at `\$\.model`"),
        ("name = ''\nfamily = ''\n[model]\nffn_up = 4", r"at `\$\.model\[\.\.\.\]`"),
        ("name = ''\nfamily = ''\ndepth = 'x'", r"at `\$\.depth`"),
        ("name = ''\nfamily = ''\ndepth = 0", "depth has to be between 1 and 64"),
        ("name = ''\nfamily = ''\ndepth = -1", "depth has to be between 1 and 64"),
        ("name = ''\nfamily = ''\ndepth = 65", "depth has to be between 1 and 64"),
        ("name = ''\nfamily = ''\ndepth = 1e300", r"at `\$\.depth`"),
    ],
)
def test_recipe_when_it_is_garbage_then_refused_naming_the_field(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        recipes.from_toml(text)


def test_recipes_file_when_it_cannot_be_read_then_said(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("gone.toml", "binary.toml", "."):
        with pytest.raises(BadInput, match="cannot be read"):
            recipes.read(tmp_path / name)


def test_slug_when_the_types_change_then_another_one_and_else_the_same() -> None:
    recipe = Recipe("r", "fam", model={"ffn_up": "q4_K", "ffn_down": "q8_0"}, projector={"mm": "q8_0"})
    others = [
        msgspec.structs.replace(recipe, model={"ffn_up": "q4_K"}),
        msgspec.structs.replace(recipe, model={"ffn_up": "q8_0", "ffn_down": "q4_K"}),
        msgspec.structs.replace(recipe, model=recipe.projector, projector=recipe.model),
        msgspec.structs.replace(recipe, depth=2),
        msgspec.structs.replace(recipe, calibrated=True),
    ]
    assert len({recipes.slug(other_recipe) for other_recipe in (recipe, *others)}) == 6
    same = msgspec.structs.replace(recipe, name="x", note="y", model={"ffn_down": "q8_0", "ffn_up": "q4_K"})
    assert recipes.slug(same) == recipes.slug(recipe)
    assert re.fullmatch(r"recipe-[0-9a-f]{8}", recipes.slug(recipe))
