"""Runtime settings that make several variants of one pair of files."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class CacheType(enum.StrEnum):
    """The type of a key-value cache's keys or values: the names of llama.cpp's --cache-type-k."""

    F32 = "f32"
    F16 = "f16"
    BF16 = "bf16"
    Q8_0 = "q8_0"
    Q5_1 = "q5_1"
    Q5_0 = "q5_0"
    Q4_1 = "q4_1"
    IQ4_NL = "iq4_nl"
    Q4_0 = "q4_0"

    @property
    def bits(self) -> float:
        """Of one value, with its share of the block's scale."""
        return _BITS[self]

    @property
    def quantized(self) -> bool:
        return self.bits < 16


_BITS = {
    CacheType.F32: 32.0, CacheType.F16: 16.0, CacheType.BF16: 16.0, CacheType.Q8_0: 8.5, CacheType.Q5_1: 6.0,
    CacheType.Q5_0: 5.5, CacheType.Q4_1: 5.0, CacheType.IQ4_NL: 4.5, CacheType.Q4_0: 4.5,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Overrides:
    """What a variant has in place of the run's settings. None: the run's."""

    cache_type: CacheType | None = None  # of keys and values
    image_tokens: int | None = None  # each image is resized to about so many
    flash_attention: bool | None = None

    @property
    def label(self) -> str:
        """What is added to the label and the id of a pair."""
        return self.model_label + self.projector_label

    @property
    def model_label(self) -> str:
        return f" · KV {self.cache_type.upper()}" if self.cache_type is not None else ""

    @property
    def projector_label(self) -> str:
        return f" · {self.image_tokens} image tokens" if self.image_tokens is not None else ""
