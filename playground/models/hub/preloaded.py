"""Presets whose files are on this machine already: in an image that brings them, or fetched by another program."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from playground.models.hub.client import CachedFile
from playground.models.presets import Preset


@dataclass(frozen=True, slots=True)
class Preloaded:
    preset: Preset
    model: Path
    projector: Path


def preloaded(presets: Sequence[Preset], cached: Sequence[CachedFile]) -> Iterator[Preloaded]:
    """The pairs of `presets` whose both files are in the Hub's cache: of the quantizations that a preset ticks."""
    for preset in presets:
        if not preset.repo:
            continue
        models = {file.name: file for file in cached if file.repo == preset.repo}
        pattern = preset.projector.lower()
        halves = (file for file in cached if file.repo == (preset.projector_repo or preset.repo))
        projector = next((file for file in halves if fnmatch.fnmatchcase(file.name.lower(), pattern)), None)
        for quantization in preset.ticked if projector is not None else ():
            name = preset.file_of(quantization, models)
            if name is not None and projector is not None:
                yield Preloaded(preset, Path(models[name].path), Path(projector.path))
