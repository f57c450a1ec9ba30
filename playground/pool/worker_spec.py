"""What a worker holds: enough to load it, to identify it, and to forecast its memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from playground.engine import protocol
from playground.values.files import ModelFile, Shape
from playground.values.memory import WorkerRole
from playground.values.overrides import CacheType
from playground.values.request import ANY, Image, Runtime

_TILES = 17  # of an image at most: Idefics3 cuts 16, and has one of the whole


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Equal specs share a worker."""

    role: WorkerRole
    # What makes two workers interchangeable: a file's sha256, and for a vision worker the vocabulary that goes with it.
    key: tuple[str, ...]
    # How to load it. Not part of its identity: any language model of a family lends its vocabulary to a projector, and
    # a language worker makes a new context when another one is asked for.
    load: protocol.LoadVision | protocol.LoadLanguage | None = field(default=None, compare=False)
    file: str = field(default="", compare=False)
    bytes: int = field(default=0, compare=False)
    shape: Shape | None = field(default=None, compare=False)
    runtime: Runtime = field(default=Runtime(), compare=False)
    sequences: int = field(default=1, compare=False)  # that share a language worker's context
    pictures: tuple[tuple[int, int], ...] = field(default=(), compare=False)  # width and height of what is encoded

    @property
    def wants_gpu(self) -> bool:
        match self.load:
            case protocol.LoadVision():
                return self.load.use_gpu
            case protocol.LoadLanguage():
                return self.runtime.n_gpu_layers != 0
            case _:
                return self.role is WorkerRole.BANDWIDTH

    def with_runtime(self, runtime: Runtime) -> WorkerSpec:
        """The same files with other settings, for a forecast."""
        return replace(self, runtime=runtime)

    @property
    def context(self) -> tuple[object, ...]:
        """What a worker's memory depends on beside its file."""
        if self.role is WorkerRole.VISION:
            return (self.patches, self.encoding_bytes(0)) if self.pictures else ()
        types = (self.runtime.cache_type_k, self.runtime.cache_type_v)
        # Without the usual types, as earlier versions wrote it: what they learned of a file is found by it.
        usual = types in ((None, None), (CacheType.F16, CacheType.F16))
        chosen = () if usual else types
        sequences = () if self.sequences == 1 else (self.sequences,)
        return (self.runtime.context, self.runtime.n_batch, self.runtime.flash_attention, *chosen, *sequences)

    @property
    def patches(self) -> int | None:
        """Of the largest picture that a vision worker is to encode; None: unknown."""
        if self.shape is None or self.shape.resizing is None or not self.pictures:
            return self.shape.n_patches if self.shape is not None else None
        resizing, tokens = self.shape.resizing, self.runtime.image_tokens
        return max(resizing.patches(width, height, tokens) for width, height in self.pictures)

    def encoding_bytes(self, compute: int, warm_up: int = 0) -> int:
        """On the host, while llama.cpp makes an image of `warm_up` patches at the load (float32 twice), while pictures
        are prepared, or while they are encoded: whichever takes most.

        Prepared: as they came, and two copies of mtmd's; then resized, as bytes and as float32. Encoded: as they came,
        float32 twice, and `compute`, the graph's buffers where they are the host's.
        """
        if self.shape is None:
            return compute
        loading = 24 * warm_up * self.shape.resizing.patch**2 if self.shape.resizing is not None else 0
        if not self.pictures:
            return max(loading, compute)
        pixels = sum(width * height for width, height in self.pictures)
        if self.shape.resizing is not None:
            whole = (self.patches or 0) * self.shape.resizing.patch**2
            resized = max(whole, min(pixels, self.shape.resizing.tiled))
        else:
            resized = min(pixels, _TILES * (self.shape.image_side or 0) ** 2)
        return max(loading, 9 * pixels + 15 * resized, 3 * pixels + 24 * resized + compute)

    @property
    def writes_files(self) -> bool:
        """Whether what it makes is a file, which the page's own machine has to have."""
        return self.role is WorkerRole.QUANTIZE or (self.load is not None and self.load.observe)

    @property
    def splits(self) -> bool:
        """Whether its layers go over all GPUs."""
        return self.role is WorkerRole.LANGUAGE and self.wants_gpu and self.runtime.split_gpus


def _observes(observe: bool, keep_inputs: bool = False) -> tuple[str, ...]:
    return ("observes",) * observe + ("keeps inputs",) * keep_inputs


def language_spec(
    model: ModelFile, runtime: Runtime, *, observe: bool = False, sequences: int = 1, kv_unified: bool = True
) -> WorkerSpec:
    """observe: a worker of its own that collects for an importance matrix (protocol.LoadLanguage).

    sequences: that it answers at once, in a context of runtime.n_ctx. kv_unified: as of protocol.OpenBatch.
    """
    return WorkerSpec(
        role=WorkerRole.LANGUAGE,
        key=(model.sha256, str(runtime.n_gpu_layers), str(runtime.split_gpus), *_observes(observe)),
        load=protocol.LoadLanguage(model.path, runtime, observe, sequences, kv_unified),
        file=os.path.basename(model.path),
        bytes=model.bytes,
        shape=model.shape,
        runtime=runtime,
        sequences=sequences,
    )


def vision_spec(
    projector: ModelFile,
    model: ModelFile,
    runtime: Runtime,
    images: Sequence[Image] = (),
    *,
    observe: bool = False,
    keep_inputs: bool = False,
) -> WorkerSpec:
    """images: what it is to encode, for the forecast.

    observe: a worker of its own that collects for an importance matrix (protocol.LoadVision). keep_inputs: one that
    sends what it encoded.
    """
    use_gpu = runtime.n_gpu_layers != 0 and runtime.projector_on_gpu
    vocabulary = model.vocabulary_sha256 or model.sha256
    tokens = runtime.image_tokens
    budget = () if tokens == ANY else tuple(map(str, tokens))
    return WorkerSpec(
        role=WorkerRole.VISION,
        key=(
            projector.sha256,
            vocabulary,
            str(use_gpu),
            str(runtime.n_threads),
            *budget,
            *_observes(observe, keep_inputs),
        ),
        load=protocol.LoadVision(
            projector.path, model.path, use_gpu, runtime.n_threads, observe, *tokens, keep_inputs=keep_inputs
        ),
        file=os.path.basename(projector.path),
        bytes=projector.bytes,
        shape=projector.shape,
        runtime=runtime,
        pictures=tuple((image.width, image.height) for image in images),
    )


QUANTIZE = WorkerSpec(WorkerRole.QUANTIZE, (), file="llama_model_quantize")
# Not QUANTIZE itself: a check must not wait for a file that is being made.
GRAMMAR = WorkerSpec(WorkerRole.QUANTIZE, ("grammar",), file="a grammar's check")
BANDWIDTH = WorkerSpec(WorkerRole.BANDWIDTH, (), file="copy bandwidth")
