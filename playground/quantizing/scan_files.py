"""The files of a scan: its source, and what is quantized from it, used as a pair with the other half, and deleted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from playground.comparing.lab import Lab
from playground.engine import protocol
from playground.errors import EngineError, Interrupted
from playground.pool.worker_spec import language_spec, vision_spec
from playground.quantizing import quantizer
from playground.quantizing.recipes import FileRecipe
from playground.values.files import Half, Variant
from playground.values.request import Runtime


class Workshop(NamedTuple):
    """What a scan needs to make files."""

    weights: Callable[[Path], Mapping[str, int]]  # bytes of a file's tensors, by name
    # Of a language model's file and a projector's. Files that nobody keeps are known by an id: hashing them took a
    # quarter of a scan (1 B, H100).
    pair: Callable[[Path, Path, Mapping[Path, str]], Variant]
    folder: Path  # where a recipe's files go


class ScanFiles:
    def __init__(self, lab: Lab, workshop: Workshop, source: Variant, runtime: Runtime, stop: Callable[[], bool]):
        self.lab = lab
        self.folder = workshop.folder
        self.pair = workshop.pair
        self.weights = workshop.weights
        self.source = source
        self.runtime = runtime
        self.stop = stop
        self.matrices: dict[Half, Path] = {}  # importance matrices, once they are made

    def file(self, half: Half) -> Path:
        return Path(self.source.half(half).path)

    def kind(self, half: Half) -> str:
        """The source's type, as of llama-quantize --tensor-type."""
        return self.source.half(half).quantization.lower()

    def with_half(self, file: Path, half: Half, ids: Mapping[Path, str]) -> Variant:
        """The source's pair with one half replaced."""
        files = {Half.MODEL: self.file(Half.MODEL), Half.PROJECTOR: self.file(Half.PROJECTOR)} | {half: file}
        return self.pair(files[Half.MODEL], files[Half.PROJECTOR], ids)

    def scratch_name(self, half: Half, quantization: str) -> str:
        return f"{'mmproj' if half is Half.PROJECTOR else 'model'}-{quantization}.gguf"

    def imatrix(self, half: Half) -> str:
        return str(self.matrices.get(half, ""))

    def quantize(self, half: Half, target: Path, recipe: FileRecipe) -> None:
        self._quantize(
            protocol.Quantize(
                str(self.file(half)),
                str(target),
                recipe.quantization,
                half,
                tensor_types=recipe.tensor_types,
                imatrix=self.imatrix(half),
            )
        )

    def plan(self, half: Half, recipe: FileRecipe) -> int | None:
        """How large a file would be, from a dry run."""
        types = recipe.tensor_types
        request = protocol.Quantize(
            str(self.file(half)), "", recipe.quantization, half, tensor_types=types, dry_run=True
        )
        return self._quantize(request).bytes

    def release(self, variant: Variant, halves: Sequence[Half]) -> None:
        """End the workers of files that are about to be deleted."""
        for half in halves:
            if half is Half.PROJECTOR:
                self.lab.pool.unload(vision_spec(variant.projector, variant.model, self.runtime))
            else:
                self.lab.pool.unload(language_spec(variant.model, self.runtime))

    def _quantize(self, request: protocol.Quantize) -> protocol.Quantized:
        """Raises Interrupted if the worker was killed because of that."""
        try:
            quantized = quantizer.run_request(request, self.lab.pool, stop=self.stop)
        except EngineError:
            if not self.stop():
                raise
        if self.stop():
            raise Interrupted("Stopped.")
        return quantized
