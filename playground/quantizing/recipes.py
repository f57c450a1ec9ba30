"""Recipes: which group of tensors gets which type, in either half of a pair. Data that can be read, edited and shared.

A group is named after what its tensors do ("ffn_down", "v.attn_q", "mm"), with its part of the depth if a half is cut
into several ("ffn_down 1/3"), so that a recipe fits every model of its family. Pure.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import tomlkit

from playground.engine.protocol import TensorType
from playground.errors import BadInput
from playground.values.files import Half

# What llama-quantize never quantizes, whatever its options (llama-quant.cpp, tensor_allows_quantization), by name.
_LEFT_ALONE = ("_norm.", "position_embd", "patch_embd", "pos_embd", "ffn_gate_inp", "patch_merger", ".rel_pos")
_LAYER = re.compile(r"(?P<tower>(?:\w+\.)*)blk\.(?P<layer>\d+)\.(?P<kind>.+)\.weight")

MAX_DEPTH = 64
LADDER = ("q8_0", "q6_K", "q5_K", "q4_K", "q3_K", "q2_K")


class Group(msgspec.Struct, frozen=True):
    """Tensors of one half that do the same."""

    projector: bool
    name: str
    pattern: str  # as of llama-quantize --tensor-type: a regular expression that is searched for in a tensor's name
    bytes: int  # in the source

    @classmethod
    def of(cls, half: Half, name: str, pattern: str, size: int) -> Group:
        return cls(half is Half.PROJECTOR, name, pattern, size)

    @property
    def half(self) -> Half:
        return Half.PROJECTOR if self.projector else Half.MODEL


class Rung(msgspec.Struct, frozen=True, omit_defaults=True):
    """One group at one type, everything else as in the source."""

    kind: str
    saved: int  # bytes
    kl: float | None = None  # mean, nats a token; None: it does not run
    error: str | None = None
    by_question: tuple[float, ...] = ()  # mean KL of each, where a newer version has measured it

    @property
    def price(self) -> float | None:
        """Nats a token for each megabyte saved."""
        return self.kl / (self.saved / 1e6) if self.kl is not None and self.saved > 0 else None


class GroupSensitivity(msgspec.Struct, frozen=True):
    group: Group
    rungs: tuple[Rung, ...]


class FileRecipe(msgspec.Struct, frozen=True):
    """How one file is to be made."""

    quantization: str  # a llama_ftype
    tensor_types: tuple[TensorType, ...]


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """Types by group; a group that is not named keeps the source's type."""

    name: str
    family: str
    depth: int = 1  # parts that each kind of tensor is cut into, from the first layer to the last
    model: dict[str, str] = {}
    projector: dict[str, str] = {}
    calibrated: bool = False  # with importance matrices, which are files of their own
    note: str = ""

    def types(self, half: Half) -> dict[str, str]:
        return self.projector if half is Half.PROJECTOR else self.model


def groups_of(weights: Mapping[str, int], depth: int, half: Half) -> tuple[Group, ...]:
    """The groups of one half; `weights` has its tensors' bytes by name."""
    layers: dict[tuple[str, str], dict[int, int]] = {}
    rest: dict[str, dict[str, int]] = {}
    for name, size in weights.items():
        if not name.endswith(".weight") or any(part in name for part in _LEFT_ALONE):
            continue
        if match := _LAYER.fullmatch(name):
            layers.setdefault((match["tower"], match["kind"]), {})[int(match["layer"])] = size
        else:
            # mm.0 and mm.2 are one projector; v.deepstack.5.fc1 belongs to v.deepstack.
            words = name.split(".")
            rest.setdefault(words[0] if words[0] != "v" else ".".join(words[:2]), {})[name] = size
    groups = []
    for (tower, kind), sizes in layers.items():
        numbers = sorted(sizes)
        parts = min(depth, len(numbers))
        for part in range(parts):
            part_layers = numbers[part * len(numbers) // parts : (part + 1) * len(numbers) // parts]
            which = r"\d+" if parts == 1 else f"({'|'.join(map(str, part_layers))})"
            pattern = rf"^{re.escape(tower)}blk\.{which}\.{re.escape(kind)}\.weight$"
            name = f"{tower}{kind}" if parts == 1 else f"{tower}{kind} {part + 1}/{parts}"
            groups.append(Group.of(half, name, pattern, sum(sizes[n] for n in part_layers)))
    for name, tensors in rest.items():
        pattern = rf"^{re.escape(name)}\..*weight$"
        groups.append(Group.of(half, name, pattern, sum(tensors.values())))
    return tuple(groups)


def file_recipe(groups: Iterable[Group], types: Mapping[str, str], source: str) -> FileRecipe | None:
    """How to make a file in which groups have `types` and all else is of type `source`; None if all of it is."""
    named = {group: types[group.name] for group in groups if group.name in types}
    if not named:
        return None
    sizes: dict[str, int] = {}
    for group, kind in named.items():
        sizes[kind] = sizes.get(kind, 0) + group.bytes
    listed = [TensorType(group.pattern, kind) for group, kind in named.items()]
    return FileRecipe(_ftype(max(sizes, key=lambda kind: sizes[kind])), (*listed, TensorType(".*", source)))


def applied(recipe: Recipe, weights: Mapping[str, int], source: str, half: Half) -> FileRecipe:
    """How to make one file by a recipe, which may come from another model of the family.

    Raises BadInput if the recipe says nothing of this half, or names groups that the file does not have.
    """
    types = recipe.types(half)
    groups = groups_of(weights, recipe.depth, half)
    unknown = set(types) - {group.name for group in groups}
    if unknown:
        raise BadInput(
            f"The file has no tensors {', '.join(sorted(unknown))} of the recipe '{recipe.name}'. "
            f"It has: {', '.join(group.name for group in groups)}."
        )
    made = file_recipe(groups, types, source)
    if made is None:
        raise BadInput(f"The recipe '{recipe.name}' leaves the {half} as it is: use its source.")
    return made


def _ftype(kind: str) -> str:
    """The llama_ftype with mostly this type; overrides are heeded only under one that quantizes."""
    if kind.lower() in ("f16", "bf16", "f32"):
        return "Q8_0"
    return f"{kind.upper()}_S" if kind.lower() in ("q3_k", "q4_k", "q5_k") else kind.upper()


def command(made: FileRecipe, source: str, target: str, half: Half, *, imatrix: str = "") -> str:
    """The line of llama-quantize that makes the file."""
    words = ["llama-quantize"]
    if half is Half.PROJECTOR:
        words.append("--pure")
    if imatrix:
        words += ["--imatrix", imatrix]
    for override in made.tensor_types:
        words += ["--tensor-type", f"{override.pattern}={override.kind}"]
    return shlex.join([*words, source, target, made.quantization])


def slug(recipe: Recipe) -> str:
    """For a file's name: another one for other types."""
    types = msgspec.json.encode((recipe.depth, recipe.model, recipe.projector, recipe.calibrated), order="sorted")
    return f"recipe-{hashlib.sha256(types).hexdigest()[:8]}"


def to_toml(recipe: Recipe) -> str:
    return tomlkit.dumps(msgspec.to_builtins(recipe))


def read(path: Path) -> Recipe:
    """Raises BadInput."""
    try:
        return from_toml(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path.name} cannot be read: {error}.") from None


def from_toml(text: str) -> Recipe:
    """Raises BadInput naming the field."""
    try:
        recipe = msgspec.toml.decode(text, type=Recipe)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"The recipe cannot be used: {error}.") from None
    if not 1 <= recipe.depth <= MAX_DEPTH:
        raise BadInput(f"A recipe's depth has to be between 1 and {MAX_DEPTH}.")
    return recipe
