"""What a worker holds: enough to load it, to identify it, and to forecast its memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from playground.engine import protocol
from playground.values.files import ModelFile, Shape
from playground.values.memory import WorkerRole
from playground.values.overrides import CacheType
from playground.values.request import ANY, Runtime


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
        """What a language worker's memory depends on beside its file."""
        types = (self.runtime.cache_type_k, self.runtime.cache_type_v)
        # Without the usual types, as earlier versions wrote it: what they learned of a file is found by it.
        usual = types in ((None, None), (CacheType.F16, CacheType.F16))
        chosen = () if usual else types
        sequences = () if self.sequences == 1 else (self.sequences,)
        return (self.runtime.context, self.runtime.n_batch, self.runtime.flash_attention, *chosen, *sequences)

    @property
    def splits(self) -> bool:
        """Whether its layers go over all GPUs."""
        return self.role is WorkerRole.LANGUAGE and self.wants_gpu and self.runtime.split_gpus


def _observes(observe: bool) -> tuple[str, ...]:
    return ("observes",) if observe else ()


def language_spec(model: ModelFile, runtime: Runtime, *, observe: bool = False, sequences: int = 1) -> WorkerSpec:
    """observe: a worker of its own that collects for an importance matrix (protocol.LoadLanguage).

    sequences: that it answers at once, in a context of runtime.n_ctx.
    """
    return WorkerSpec(
        role=WorkerRole.LANGUAGE,
        key=(model.sha256, str(runtime.n_gpu_layers), str(runtime.split_gpus), *_observes(observe)),
        load=protocol.LoadLanguage(model.path, runtime, observe, sequences),
        file=Path(model.path).name,
        bytes=model.bytes,
        shape=model.shape,
        runtime=runtime,
        sequences=sequences,
    )


def vision_spec(projector: ModelFile, model: ModelFile, runtime: Runtime, *, observe: bool = False) -> WorkerSpec:
    """observe: a worker of its own that collects for an importance matrix (protocol.LoadVision)."""
    use_gpu = runtime.n_gpu_layers != 0 and runtime.projector_on_gpu
    vocabulary = model.vocabulary_sha256 or model.sha256
    tokens = runtime.image_tokens
    budget = () if tokens == ANY else tuple(map(str, tokens))
    return WorkerSpec(
        role=WorkerRole.VISION,
        key=(projector.sha256, vocabulary, str(use_gpu), str(runtime.n_threads), *budget, *_observes(observe)),
        load=protocol.LoadVision(projector.path, model.path, use_gpu, runtime.n_threads, observe, *tokens),
        file=Path(projector.path).name,
        bytes=projector.bytes,
        shape=projector.shape,
        runtime=runtime,
    )


QUANTIZE = WorkerSpec(WorkerRole.QUANTIZE, (), file="llama_model_quantize")
# Not QUANTIZE itself: a check must not wait for a file that is being made.
GRAMMAR = WorkerSpec(WorkerRole.QUANTIZE, ("grammar",), file="a grammar's check")
BANDWIDTH = WorkerSpec(WorkerRole.BANDWIDTH, (), file="copy bandwidth")
