"""What suits a kind of model on a machine: flash attention, threads and the context's size, chosen by a measurement."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from playground.values.counts import counted

# The question that the candidates are compared by: LLaVA's image with some text, and an answer.
_PROMPT_TOKENS, _ANSWER_TOKENS = 600, 128

_BUSY_SHARE, _SHORT_S = 0.15, 0.25
_ALONE_BYTES = 256 * 2**20
_TIE = 0.03  # a candidate that is less than this faster does not replace what is usual: two measurements differ so


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How llama.cpp computes."""

    flash_attention: bool | None  # None: llama.cpp's own choice, on a GPU
    n_threads: int
    n_ctx: int

    @property
    def words(self) -> str:
        """For a person."""
        attention = {None: "llama.cpp's choice", True: "on", False: "off"}[self.flash_attention]
        threads = counted(self.n_threads, "thread")
        return f"flash attention {attention}, {threads}, context {self.n_ctx}"


@dataclass(frozen=True, slots=True)
class Trial:
    """One candidate, and how fast it read a prompt and wrote behind it; the best of several rounds."""

    settings: EngineSettings
    prompt_tok_per_s: float
    decode_tok_per_s: float

    @property
    def question_s(self) -> float:
        """Of the question that candidates are compared by."""
        return _PROMPT_TOKENS / self.prompt_tok_per_s + _ANSWER_TOKENS / self.decode_tok_per_s


@dataclass(frozen=True, slots=True)
class EngineDefaults:
    """What was chosen for a kind of model, and all that it was chosen from. Without trials: it cannot be measured."""

    chosen: EngineSettings
    usual: EngineSettings  # without a measurement
    trials: tuple[Trial, ...]
    depth: int  # tokens of the prompt
    seconds: float
    waited_share: float | None  # of these seconds: for a free processor, all threads together; None: not known
    file: str  # that was measured


def is_busy(waited_s: float | None, seconds: float) -> bool:
    """Whether others kept the processors busy, so that no candidate can be judged. waited_s: all threads together.

    Of a short time the start of threads is a large part: the share is that of 0.25 s at least.
    """
    return (waited_s or 0.0) > _BUSY_SHARE * max(seconds, _SHORT_S)


def choose(usual: EngineSettings, trials: Iterable[Trial]) -> EngineSettings:
    """The fastest candidate; of those that are as fast within 3 % what is usual. Without trials: what is usual."""
    trials = tuple(trials)
    fastest_s = min((trial.question_s for trial in trials), default=0.0)
    tied = [trial for trial in trials if trial.question_s <= fastest_s * (1 + _TIE)]
    best = min(tied, key=lambda t: (t.settings != usual, t.settings.n_ctx != usual.n_ctx, t.question_s), default=None)
    return usual if best is None else best.settings


def thread_candidates(cores: int, model_bytes: int) -> tuple[int, ...]:
    """All cores and half of them: memory often limits the speed before all compute. A small model may need one alone,
    which takes too long to try with a large one."""
    alone = {1} if model_bytes <= _ALONE_BYTES else set()
    return tuple(sorted({cores, max(1, cores // 2)} | alone, reverse=True))
