"""The frozen values that travel between the rooms, and their JSON names.

Sizes are in bytes, times in seconds, and the unit is in the name. None means unknown or not measured, never 0.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Shape:
    """What a forecast of memory and speed needs to know of a GGUF file; from its header (models/gguf.py)."""

    n_layers: int
    layer_bytes: int  # all layers' weights together
    embedding_bytes: int  # a language model's token embeddings: they stay on the host, a token reads one row
    other_bytes: int  # the output layer (the embeddings once more where they serve as it), norms, projection
    read_bytes: int  # weights that one decoded token reads: of a mixture of experts those that it uses
    is_float: bool = False  # most weights are floats of 16 or 32 bits: their products need cuBLAS's workspace
    kv_bytes_per_token: int | None = None  # keys and values of all layers, 16 bits each
    n_vocabulary: int | None = None
    n_patches: int | None = None  # of a projector: what its encoder takes at once, for an image of its own size
    n_embd: int | None = None
    n_ff: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One GGUF file of a pair: a language model or a projector."""

    path: str
    bytes: int
    sha256: str
    quantization: str
    n_params: int
    architecture: str
    # Two language models with the same value turn the same text into the same token ids (models/gguf.py).
    vocabulary_sha256: str | None = None
    shape: Shape | None = None

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.bytes / self.n_params if self.n_params else None


@dataclass(frozen=True, slots=True)
class Variant:
    """One pair as an entry in a comparison."""

    id: str
    family: str
    label: str
    model: ModelFile
    projector: ModelFile
    reference: bool = False
    chat_template: str | None = None  # Jinja text or the name of a llama.cpp built-in; None: the one in the file

    @property
    def bytes(self) -> int:
        return self.model.bytes + self.projector.bytes


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Names and order of the samplers are llama.cpp's."""

    temperature: float = 0.0  # 0: greedy, the most probable token each time
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    repeat_penalty: float = 1.0  # 1: off
    seed: int = 1
    max_tokens: int = 128
    stop: tuple[str, ...] = ()

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0


@dataclass(frozen=True, slots=True)
class Runtime:
    """How llama.cpp runs a model; None lets the engine choose (docs/architecture.md, "Defaults by measurement")."""

    n_ctx: int = 4096  # tokens; the page says so when a prompt is longer
    n_threads: int | None = None
    n_batch: int = 512  # tokens per llama_decode call while the prompt is read
    n_gpu_layers: int = -1  # -1: all of them, 0: none
    flash_attention: bool | None = None
    projector_on_gpu: bool = True  # with n_gpu_layers 0 it is on the host anyway
    split_gpus: bool = False  # the language model's layers over all GPUs, by llama.cpp


class Remedy(enum.StrEnum):
    """What a person may allow when a pair does not fit into GPU memory; in the order in which it is tried."""

    CONTEXT = "smaller context"
    PROJECTOR = "projector on the CPU"
    LAYERS = "fewer GPU layers"


class Order(enum.StrEnum):
    IN_TURN = "one after another"
    RACE = "race"


@dataclass(frozen=True, slots=True)
class Image:
    """An image as llama.cpp takes it: height x width x 3 bytes, RGB, rows from the top."""

    rgb: bytes = field(repr=False)
    width: int
    height: int
    sha256: str  # of the pixels and the size, so the same picture in two file formats is one image
    note: str | None = None  # what was done to the upload, for the person to know


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation, and what each variant (by its id) answered."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question: what is asked, and of which variants."""

    images: tuple[Image, ...]  # they stand in front of the conversation's first question
    prompt: str
    variants: tuple[Variant, ...]
    reference: str  # a variant's id
    sampling: Sampling = Sampling()
    runtime: Runtime = Runtime()
    order: Order = Order.IN_TURN
    chat_template: str | None = None  # overrides the variants' own
    probabilities: bool = False  # read every answer once more, for the probabilities of its tokens
    earlier: tuple[Turn, ...] = ()  # each variant goes on from its own answers
    remedies: tuple[Remedy, ...] = ()  # what may be done to a variant that does not fit into memory


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come next, and how likely the model held it, before any sampler: 0 to 1."""

    token_id: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """What a model thought where a token of an answer stands. Behind the last token there is one more, of no token."""

    text: str  # of the token; the texts of an answer's tokens join to the answer
    probability: float | None  # of the token, 0 to 1
    candidates: tuple[Candidate, ...]  # the likeliest ones, in this order


@dataclass(frozen=True, slots=True)
class TokenDrift:
    """How a variant's distribution over the next token differs from the reference's; both read the same answer."""

    text: str  # of the reference's token; empty behind the last one
    kl: float  # Kullback-Leibler divergence of the variant from the reference, in nats, over the whole vocabulary
    same_top: bool  # both hold the same token likeliest
    reference: tuple[Candidate, ...]  # the likeliest ones of either
    variant: tuple[Candidate, ...]


class PaneState(enum.StrEnum):
    QUEUED = "queued"
    LOADING = "loading"
    READING = "reading the image"
    WRITING = "writing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        return self in (PaneState.DONE, PaneState.STOPPED, PaneState.FAILED)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The numbers of one pane. docs/metrics.md defines each."""

    load_s: float | None = None
    projector_load_s: float | None = None
    preprocess_s: float | None = None
    encode_s: float | None = None
    encode_cached: bool | None = None
    prompt_s: float | None = None
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    text_tokens: int | None = None
    reused_tokens: int | None = None
    ttft_s: float | None = None
    decode_s: float | None = None
    decode_tok_per_s: float | None = None
    generated_tokens: int | None = None
    short_run: bool | None = None
    speed_shared: bool | None = None
    model_bytes: int | None = None
    projector_bytes: int | None = None
    host_rss_bytes: int | None = None
    gpu_bytes: int | None = None
    # Tokens per second over time: (seconds behind the first token, tokens behind it by then), at most 40 steps.
    progress: tuple[tuple[float, int], ...] | None = None
    read_bytes_per_token: int | None = None
    bandwidth_share: float | None = None


@dataclass(frozen=True, slots=True)
class Pane:
    """One variant's column: everything that the page shows of it at one moment."""

    variant: str
    state: PaneState = PaneState.QUEUED
    text: str = ""
    token_ids: tuple[int, ...] = ()
    scores: tuple[TokenScore, ...] = ()  # one for each token and one more; empty if not asked for
    metrics: Metrics = Metrics()
    # Index of the first generated token that differs from the reference's; None while they agree.
    first_divergence: int | None = None
    comparable: bool = True  # token ids of another family mean other texts: nothing is said about where they part
    error: str | None = None
    log: tuple[str, ...] = ()
    note: str | None = None  # what is being waited for, in words
    finish_reason: str | None = None  # "end of text", "max tokens", "stop text", "stopped", "context full"


@dataclass(frozen=True, slots=True)
class ComparisonUpdate:
    """All panes of a run at one moment; the last one has done=True."""

    panes: tuple[Pane, ...]
    done: bool = False
    queue_place: int | None = None  # runs ahead of this one; None once it is its turn
    rendered_prompt: str | None = None
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0


class WorkerRole(enum.StrEnum):
    VISION = "vision"
    LANGUAGE = "language"
    QUANTIZE = "quantize"
    BANDWIDTH = "bandwidth"


class WorkerState(enum.StrEnum):
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


HOST = "host"  # the place of workers that use no GPU; a GPU's is "GPU 0", as NVML counts


@dataclass(frozen=True, slots=True)
class MemoryParts:
    """What a worker's memory on one place is made of, in bytes."""

    weights: int
    kv_cache: int = 0
    compute: int = 0
    process: int = 0  # the CUDA context and cuBLAS's workspaces; on the host Python and llama.cpp's libraries

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute + self.process


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a worker will take, told before it is loaded."""

    parts: Mapping[str, MemoryParts]  # by place
    source: str  # "header", "dry run" of llama.cpp, "measured before"

    @property
    def bytes(self) -> dict[str, int]:
        return {place: parts.total for place, parts in self.parts.items()}


@dataclass(frozen=True, slots=True)
class WorkerMemory:
    """What one worker holds now."""

    id: str  # for Pool.pin and Pool.unload
    pid: int
    role: WorkerRole
    state: WorkerState
    file: str  # name of the file it serves, without its folder
    place: str  # HOST, a GPU, or several of them joined by " + "
    bytes: int | None  # on its GPUs if it has any, else resident in host memory
    host_rss_bytes: int | None
    gpu_bytes: int | None
    # Of gpu_bytes: "process" as NVML tells it, "difference" of the device's memory where a container hides processes.
    measured_by: str | None
    peak_bytes: int | None  # the most that `bytes` has been
    forecast: Forecast | None
    leases: int
    pinned: bool
    idle_s: float

    @property
    def forecast_bytes(self) -> int | None:
        """To be held against peak_bytes."""
        if self.forecast is None:
            return None
        on_gpus = [n for place, n in self.forecast.bytes.items() if place != HOST]
        return sum(on_gpus) if on_gpus else self.forecast.bytes.get(HOST)


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """A GPU as its driver tells it, or, where there is none of NVIDIA's, as ggml does. None: it does not tell."""

    index: int
    name: str
    total_bytes: int
    used_bytes: int
    uuid: str = ""
    source: str = "NVML"  # or "ggml": from a worker's last word
    utilization: float | None = None  # share of the last moment in which anything ran: 0 to 1
    temperature_c: float | None = None
    power_w: float | None = None

    @property
    def place(self) -> str:
        return f"GPU {self.index}"


@dataclass(frozen=True, slots=True)
class Queued:
    """A run that generates, or waits for its turn."""

    who: str  # "" for nobody in particular
    files: tuple[str, ...]
    waited_s: float
    place: str | None  # where it runs; None: it waits


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What is held where at one moment."""

    time: float  # seconds since 1970
    workers: tuple[WorkerMemory, ...]
    gpus: tuple[GpuMemory, ...]
    host_total_bytes: int
    host_available_bytes: int
    budgets: Mapping[str, int]  # by place: what all workers there may take together
    queue: tuple[Queued, ...]  # the running ones first, then in the order in which they are likely to come
    alarms: tuple[str, ...] = ()  # memory that did not come back, the newest last

    @property
    def budget_bytes(self) -> int:
        """Of all GPUs, or of the host where there is none."""
        gpus = [n for place, n in self.budgets.items() if place != HOST]
        return sum(gpus) if gpus else self.budgets.get(HOST, 0)

    @property
    def queue_length(self) -> int:
        return len(self.queue)
