"""The results of a run: token probabilities, the metrics of a pane, the panes."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from playground.values.engine_defaults import EngineSettings

_BESIDE_OTHERS = 0.15  # a speed that falls by more has waited for more


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could have come next, with the probability that the model gave it, before any sampler: 0 to 1."""

    token_id: int | None  # None: of an answer from elsewhere
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class TokenScore:
    """A model's probabilities at one position of an answer.

    One more entry, without a token, follows the last token; none does in an answer from elsewhere, nor in one of a
    batch that was cut off.
    """

    text: str  # of the token; the texts of all tokens join to what was written
    probability: float | None  # of the token, 0 to 1
    candidates: tuple[Candidate, ...]  # the most likely ones, the likeliest first


@dataclass(frozen=True, slots=True)
class TokenDrift:
    """How a variant's distribution over the next token differs from the reference's; both read the same answer."""

    text: str  # of the reference's token; empty after the last one
    kl: float  # Kullback-Leibler divergence of the variant from the reference, in nats, over the whole vocabulary
    same_top: bool  # the same token is the most likely one in both
    reference: tuple[Candidate, ...]  # the most likely tokens of each
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
    """The metrics of one pane; docs/metrics.md defines each. None: unknown or not measured."""

    load_s: float | None = None
    projector_load_s: float | None = None
    preprocess_s: float | None = None
    encode_s: float | None = None
    encode_cached: bool | None = None
    prompt_s: float | None = None
    prompt_tokens: int | None = None
    image_tokens: int | None = None
    image_pixels: tuple[tuple[int, int], ...] | None = None  # width and height that the encoder saw, as far as known
    image_tiles: int | None = None  # that the encoder cut the images into; None: into none
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
    # Tokens per second over time: (seconds, tokens) after the first token, at most 40 steps.
    progress: tuple[tuple[float, int], ...] | None = None
    reasoning_tokens: int | None = None
    reasoning_s: float | None = None
    read_bytes_per_token: int | None = None
    bandwidth_share: float | None = None
    waited_share: float | None = None  # of decode_s: waiting for a free processor, all threads together

    @property
    def beside_others(self) -> bool:
        """Whether other work kept the processors busy while the answer was written, so that its speed is too low."""
        return (self.waited_share or 0.0) > _BESIDE_OTHERS


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What an endpoint said of itself and its answer. Times are those of this side, with the network's share.

    None: not said, or not yet known.
    """

    model: str | None = None  # the model that answered, by the server's own word
    fingerprint: str | None = None  # its system_fingerprint
    first_s: float | None = None  # from sending the question to the first text
    answer_s: float | None = None  # to the end of the answer
    prompt_tokens: int | None = None  # as the server counts them
    answer_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Pane:
    """One variant's column on the page, at one moment."""

    variant: str
    state: PaneState = PaneState.QUEUED
    text: str = ""  # of the answer, with the control tokens that are part of it
    token_ids: tuple[int, ...] = ()  # of all that was written
    scores: tuple[TokenScore, ...] = ()  # one for each token and one more; empty if not asked for
    metrics: Metrics = Metrics()
    # Index of the first generated token that differs from the reference's; None while they agree.
    first_divergence: int | None = None
    comparable: bool = True  # False for another family: its token ids mean other texts
    error: str | None = None
    log: tuple[str, ...] = ()
    note: str | None = None  # what the pane waits for, in words
    remarks: tuple[str, ...] = ()  # what there is to know about the answer, such as a loop
    error_code: str | None = None  # of playground.errors, such as "out_of_memory"
    finish_reason: str | None = None  # "end of text", "max tokens", "stop text", "stopped", "context full"
    reasoning: str = ""  # what was written before the answer, without the marks around it
    controls: tuple[str, ...] = ()  # the different control tokens in the text
    control_ids: tuple[int, ...] = ()  # theirs; empty: kept by an older version, or there are none
    raw: str | None = None  # all that was written, with every control token; None if the text is all of it
    # Each state that was entered, with the seconds since the comparison began. Empty: kept by an older version.
    timeline: tuple[tuple[PaneState, float], ...] = ()
    elsewhere: Elsewhere | None = None  # of an endpoint's answer: it has no token ids and no metrics
    engine: EngineSettings | None = None  # how llama.cpp computed it; None: kept by an older version, or in a batch


@dataclass(frozen=True, slots=True)
class Branch:
    """A variant's answer with another token at one place, and what it wrote from there on."""

    at: int  # of the token, among all that the variant writes
    token_id: int
    pane: Pane  # the whole answer; first_divergence: where it differs from the reference's now


@dataclass(frozen=True, slots=True)
class ComparisonUpdate:
    """All panes of a run at one moment. The last update has done=True."""

    panes: tuple[Pane, ...]
    done: bool = False
    queue_place: int | None = None  # runs before this one; None once its turn has come
    rendered_prompt: str | None = None
    notes: tuple[str, ...] = ()
    elapsed_s: float = 0.0
    branches: tuple[Branch, ...] = ()
