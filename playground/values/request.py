"""The request of a run: images, a conversation, sampling, and how llama.cpp runs."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from playground.values.files import Variant
from playground.values.overrides import CacheType


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. Names and order of the samplers are llama.cpp's."""

    temperature: float = 0.0  # 0: greedy, the most probable token each time
    top_k: int = 40  # 0: off
    top_p: float = 0.95  # 1: off
    min_p: float = 0.05  # 0: off
    repeat_penalty: float = 1.0  # 1: off
    penalty_last_n: int = 64  # generated tokens that the penalties look back to
    presence_penalty: float = 0.0  # 0: off
    frequency_penalty: float = 0.0  # 0: off
    dry_multiplier: float = 0.0  # 0: off; a penalty for a token that would go on with a repetition
    dry_base: float = 1.75
    dry_allowed_length: int = 2  # tokens; a repetition up to it costs nothing
    seed: int = 1
    max_tokens: int = 128
    reasoning_tokens: int | None = None  # after so many the reasoning is closed and the answer begins; None: no limit
    stop: tuple[str, ...] = ()
    grammar: str | None = None  # in llama.cpp's GBNF: the answer keeps to it
    json_schema: str | None = None  # as JSON text: likewise

    @property
    def greedy(self) -> bool:
        return self.temperature <= 0

    @property
    def takes_largest(self) -> bool:
        """Greedy, with nothing that changes the logits before: the next token is the largest one's."""
        penalties = self.repeat_penalty, self.frequency_penalty, self.presence_penalty, self.dry_multiplier
        return self.greedy and not self.bound and penalties == (1, 0, 0, 0)

    @property
    def bound(self) -> bool:
        """A grammar holds from the first token on: there is no reasoning before the answer."""
        return self.grammar is not None or self.json_schema is not None


# Tokens of a context whose size was not chosen: LLaVA's 576 of an image, an answer, and some further questions.
SMALLEST_CONTEXT = 2048


_SHOWN = 60  # characters of a text of a prompt's form

ImageTokens = tuple[int | None, int | None]  # of an image, the least and the most
ANY: ImageTokens = (None, None)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How llama.cpp runs a model; None lets the engine choose (docs/decisions/0004-defaults-by-measurement.md)."""

    n_ctx: int | None = None  # tokens; None: as many as the question needs
    n_threads: int | None = None
    n_batch: int = 512  # tokens per llama_decode call while the prompt is read
    n_gpu_layers: int = -1  # -1: all of them, 0: none
    flash_attention: bool | None = None
    projector_on_gpu: bool = True  # with n_gpu_layers 0 it is on the host anyway
    split_gpus: bool = False  # llama.cpp spreads the language model's layers over all GPUs
    cache_type_k: CacheType | None = None  # of the key-value cache; None: F16
    cache_type_v: CacheType | None = None  # a quantized one needs flash attention
    image_min_tokens: int | None = None  # of an image, where the encoder resizes images; None: as the model's file says
    image_max_tokens: int | None = None
    least_ctx: int | None = None  # of a context whose size was not chosen; None: SMALLEST_CONTEXT

    @property
    def context(self) -> int:
        """The size of the context that is made, as far as it is known before a question is."""
        return self.n_ctx or self.least_ctx or SMALLEST_CONTEXT

    @property
    def image_tokens(self) -> ImageTokens:
        return self.image_min_tokens, self.image_max_tokens

    @property
    def cache_share(self) -> float:
        """Bytes of the key-value cache, as a share of one of 16 bits."""
        types = (self.cache_type_k or CacheType.F16, self.cache_type_v or CacheType.F16)
        return sum(kind.bits for kind in types) / 32

    @property
    def needs_flash_attention(self) -> bool:
        return self.cache_type_v is not None and self.cache_type_v.quantized

    def of(self, variant: Variant) -> Runtime:
        """With what the variant has in place of these settings."""
        given = variant.overrides
        if given is None:
            return self
        tokens = given.image_tokens
        return replace(
            self,
            cache_type_k=given.cache_type or self.cache_type_k,
            cache_type_v=given.cache_type or self.cache_type_v,
            image_min_tokens=self.image_min_tokens if tokens is None else tokens,
            image_max_tokens=self.image_max_tokens if tokens is None else tokens,
            flash_attention=self.flash_attention if given.flash_attention is None else given.flash_attention,
        )

    def sized(self, tokens: int) -> Runtime:
        """With a context that holds so many tokens, unless its size was chosen.

        In powers of two: a context that has to be made anew forgets the image that it has read.
        """
        if self.n_ctx is not None:
            return self
        size = self.context
        while size < tokens:
            size *= 2
        return replace(self, n_ctx=size)


class Remedy(enum.StrEnum):
    """What a person may allow when a pair does not fit into GPU memory; in the order in which it is tried."""

    CONTEXT = "smaller context"
    PROJECTOR = "projector on the CPU"
    LAYERS = "fewer GPU layers"


class ImagePlace(enum.StrEnum):
    """Where the images stand if the prompt does not say it with <image>."""

    BEFORE = "before"  # the text
    BEHIND = "behind"


class Order(enum.StrEnum):
    IN_TURN = "one after another"
    RACE = "race"


@dataclass(frozen=True, slots=True)
class PromptForm:
    """How a question about images becomes a prompt."""

    system: str | None = None  # None: no system message
    template_variables: Mapping[str, Any] = field(default_factory=dict)  # such as enable_thinking
    image_place: ImagePlace = ImagePlace.BEFORE
    chat_template: str | None = None  # overrides the variants' own

    @property
    def given(self) -> dict[str, Any]:
        """What differs from the defaults, by name."""
        usual = PromptForm()
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: value for name, value in values.items() if value != getattr(usual, name)}

    @property
    def or_none(self) -> PromptForm | None:
        """None: everything is as the default says."""
        return self if self.given else None

    def template_of(self, variant: Variant) -> str | None:
        return self.chat_template or variant.chat_template

    @property
    def words(self) -> str:
        """What is given, for a person; long texts are shortened. Empty: nothing."""
        parts = [] if self.system is None else [f"system message {_shown(self.system)}"]
        parts += [f"{name} {_shown(value)}" for name, value in self.template_variables.items()]
        parts += ["image behind the question"] if self.image_place is ImagePlace.BEHIND else []
        parts += [f"chat template {_shown(self.chat_template)}"] if self.chat_template else []
        return ", ".join(parts)


USUAL_FORM = PromptForm()


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} …"


@dataclass(frozen=True, slots=True)
class Image:
    """An image as llama.cpp takes it: height x width x 3 bytes, RGB, rows from the top."""

    rgb: bytes = field(repr=False)
    width: int
    height: int
    sha256: str  # of the pixels and the size, so the same picture in two file formats is one image
    note: str | None = None  # what was changed in the upload, for the person


@dataclass(frozen=True, slots=True)
class Turn:
    """A question of a conversation, and what each variant (by its id) answered."""

    prompt: str
    answers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ConversationMessage:
    """One message of a conversation whose images stand anywhere."""

    role: str  # as the chat template knows it: system, user, assistant
    text: str
    places: tuple[int, ...] = ()  # an offset in the text for each of its images, ascending


@dataclass(frozen=True, slots=True)
class Comparison:
    """One question to several variants, with all that its run depends on."""

    images: tuple[Image, ...]  # they belong to the conversation's first question
    prompt: str  # with <image> where an image goes, if not before or behind it; empty: the images alone
    variants: tuple[Variant, ...]
    reference: str  # a variant's id
    sampling: Sampling = Sampling()
    runtime: Runtime = Runtime()
    order: Order = Order.IN_TURN
    chat_template: str | None = None  # overrides the variants' own
    template_variables: Mapping[str, Any] = field(default_factory=dict)  # such as enable_thinking
    system: str | None = None  # None: no system message
    image_place: ImagePlace = ImagePlace.BEFORE
    # In place of prompt, earlier, system and image_place: all messages, with the places of `images` in their order.
    conversation: tuple[ConversationMessage, ...] = ()
    probabilities: bool = False  # decode every answer once more, for its tokens' probabilities
    n_candidates: int = 5  # the most likely tokens that the probabilities name at each position
    earlier: tuple[Turn, ...] = ()  # each variant continues from its own answers
    # By variant: tokens that its answer has to begin with.
    begun: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cold: bool = False  # nothing that was kept from a run before is used: neither an image nor a prompt
    branches: bool = False  # where a variant first differs, go on from the reference's token (comparing/branching.py)
    remedies: tuple[Remedy, ...] = ()  # what the person allows for a variant that does not fit into memory
