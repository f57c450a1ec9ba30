"""Labels of variants: short, and unique in their family. Pure.

A label depends on the family's files alone, never on the order in which they were opened, so that it is the same after
a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath

from playground.models.gguf import file_names
from playground.values.files import Half, ModelFile, Variant

_MAX_NAME = 48  # characters of a file's name; a label has to fit into a table


def with_unique_labels(variants: Iterable[Variant], plain: Collection[str] = ()) -> tuple[Variant, ...]:
    """The same variants in the same order. `plain`: sha256 of a preset's files, which are never marked."""
    families: dict[str, list[Variant]] = {}
    all_variants = list(variants)
    for variant in all_variants:
        families.setdefault(variant.family, []).append(variant)
    labelled = {v.id: v for family in families.values() for v in _label_family(family, plain)}
    return tuple(labelled[variant.id] for variant in all_variants)


def short_label(model: ModelFile, projector: ModelFile) -> str:
    """Projectors are published at 16 bits as a rule; only another one is worth a word on every pane."""
    usual = projector.quantization in ("F16", "BF16", "F32") and not projector.mark
    return model.label if usual else _long_label(model, projector)


def _long_label(model: ModelFile, projector: ModelFile) -> str:
    return f"{model.label} + mmproj-{projector.label}"


def _label_family(family: Sequence[Variant], plain: Collection[str]) -> list[Variant]:
    marks = {half: _marks([variant.half(half) for variant in family], plain) for half in Half}
    marked = [
        replace(
            variant,
            model=replace(variant.model, mark=marks[Half.MODEL][variant.model.sha256]),
            projector=replace(variant.projector, mark=marks[Half.PROJECTOR][variant.projector.sha256]),
        )
        for variant in family
    ]
    uses = Counter(short_label(variant.model, variant.projector) for variant in marked)
    return [replace(variant, label=_label(variant, uses)) for variant in marked]


def _label(variant: Variant, uses: Counter[str]) -> str:
    """The short label; the long one where an F16 and a BF16 projector would share it and this is not the F16 one."""
    label = short_label(variant.model, variant.projector)
    is_shared = uses[label] > 1 and variant.projector.quantization != "F16"
    return _long_label(variant.model, variant.projector) if is_shared else label


def _marks(files: Iterable[ModelFile], plain: Collection[str]) -> dict[str, str]:
    """What tells each file from the others of its quantization, by sha256: its name, or a part of its checksum."""
    by_quantization: dict[str, dict[str, str]] = {}
    for file in files:
        by_quantization.setdefault(file.quantization, {})[file.sha256] = _name(file)
    marks = {}
    for names in by_quantization.values():
        uses = Counter(names.values())
        for sha256, name in names.items():
            needs_mark = len(names) > 1 and sha256 not in plain
            marks[sha256] = (name if uses[name] == 1 else sha256[:8]) if needs_mark else ""
    return marks


def _name(file: ModelFile) -> str:
    name = PurePath(file.path).name
    shard = file_names.shard(name)
    return (shard[0] if shard else PurePath(name).stem)[:_MAX_NAME]
