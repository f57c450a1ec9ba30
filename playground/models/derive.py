"""Quantizations of a preset's own files that are made on this machine, at the first start."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from playground.errors import BadModel, PlaygroundError
from playground.models.checksums import Checksums
from playground.models.gguf import file_names
from playground.models.gguf.header import read_header
from playground.models.pair import quantization_of, read_file
from playground.models.presets import Preset, data_folder
from playground.support import atomic
from playground.values.files import Half, ModelFile

Files = dict[str, ModelFile]  # by quantization; the source first


class Quantizer(Protocol):
    def __call__(self, source: Path, target: Path, quantization: str, half: Half) -> None:
        """Raises PlaygroundError."""


@dataclass(frozen=True, slots=True)
class DerivedFiles:
    """`folder`: where they are kept, by their source's checksum and the version of llama-cpp-python."""

    folder: Path
    checksums: Checksums

    def read(self, preset: Preset) -> dict[Half, Files]:
        """A preset's two source files, and what has been made of them."""
        return {half: self._read(_source(preset, half), _wanted(preset, half)) for half in Half}

    def make(
        self, preset: Preset, quantize: Quantizer, tell: Callable[[str], None]
    ) -> tuple[dict[Half, Files], tuple[str, ...]]:
        """Make what is missing. Returns all files, and a sentence for each that could not be made."""
        files = self.read(preset)
        problems = []
        for half in Half:
            source = _source(preset, half)
            for quantization in _wanted(preset, half):
                if quantization in files[half]:
                    continue
                tell(f"Making {quantization} of {source.name} ...")
                try:
                    files[half][quantization] = self._make(source, quantization, half, quantize)
                except (PlaygroundError, OSError) as error:
                    problems.append(f"{quantization} of {preset.name} could not be made: {error}")
        return files, tuple(problems)

    def _read(self, source: Path, wanted: tuple[str, ...]) -> Files:
        header = read_header(source)
        files = {quantization_of(source, header): read_file(source, header, self.checksums)}
        for target in (self._target(source, quantization) for quantization in wanted):
            if not target.exists():
                continue
            try:
                header = read_header(target)
            except BadModel:
                continue  # `make` makes it again
            files[quantization_of(target, header)] = read_file(target, header, self.checksums)
        return files

    def _target(self, source: Path, quantization: str) -> Path:
        folder = self.folder / f"{self.checksums.of(source)[:16]}-{_engine()}"
        return folder / f"{file_names.QUANTIZATION.sub('', source.stem)}-{quantization}.gguf"

    def _make(self, source: Path, quantization: str, half: Half, quantize: Quantizer) -> ModelFile:
        target = self._target(source, quantization)
        with atomic.replacing(target) as part:
            quantize(source, part, quantization, half)
            read_header(part)
        return read_file(target, read_header(target), self.checksums)


@functools.cache
def _engine() -> str:
    return importlib.metadata.version("llama-cpp-python")


def _source(preset: Preset, half: Half) -> Path:
    return data_folder() / (preset.model if half is Half.MODEL else preset.projector)


def _wanted(preset: Preset, half: Half) -> tuple[str, ...]:
    return preset.derive.models if half is Half.MODEL else preset.derive.projectors
