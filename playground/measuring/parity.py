"""How far a pair lies from the original model that it was converted from, and which part of it does. Pure.

The original's probabilities over its own answers are the reference. The pair's language model then reads the same
answers with four prompts, each of which takes one more part from the pair (`Part`). The KL from one to the next is what
that part changes.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy

from playground.values.files import Variant
from playground.values.request import ANY, Runtime

# Nats a token that a part may change before it is named; a convention of this project (docs/metrics.md). The floor
# counts as well: what the pair differs from itself, computed another way.
LIMIT = 0.01
_FIT = 0.02  # of a channel: what its scale, or its mean in standard deviations, may differ
_RESIDUAL = 0.1  # of a picture's pixels, as a share of their standard deviation, that a resize may leave
_OFF = 0.1  # relative error of an image token that is reported


class Part(enum.StrEnum):
    """What a pair's answer passes through. The value is its name in a sentence."""

    PROMPT = "prompt"
    PREPROCESSING = "preprocessing"
    ENCODER = "vision encoder"
    MODEL = "language model"


class ChannelFit(msgspec.Struct, frozen=True):
    """The pair's pixels of one colour, as gain x the original's + offset."""

    gain: float
    offset: float  # in the original's standard deviations
    residual: float  # likewise: what the line does not explain


class TokenErrors(msgspec.Struct, frozen=True):
    """The pair's image embeddings against the original's, token by token; both encoders saw the same pixels."""

    cosine: float  # mean over the tokens
    error: float  # length of all differences, as a share of the original's length
    largest: float  # the same of the token that differs most
    off: float  # share of the tokens whose own error is above 0.1
    place: tuple[float, float] | None = None  # of the largest, as shares of the width and height; None: no single grid


class PictureParity(msgspec.Struct, frozen=True, omit_defaults=True):
    """One question's picture."""

    image: str
    tokens: tuple[int, int]  # that it takes: in the pair, in the original
    sizes: tuple[str, str]  # what the two encoders see: "448x448"; empty: unknown
    channels: tuple[ChannelFit, ...] = ()  # empty: sizes or layouts differ
    errors: TokenErrors | None = None  # None: the original's encoder could not take the pair's pixels


class Parity(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reading. KL in nats a token, over the original's answers."""

    original: str  # a folder's name, or an id of the Hub
    dtype: str  # that the original was computed in
    model: str  # sha256 of the pair's files
    projector: str
    quantization: str  # of the pair, "F16" or "Q8_0 + F16"
    engine: str
    measured: str  # ISO 8601
    questions: int
    tokens: int  # positions that the KL is a mean of
    kl: float
    same_top: float  # share of the positions
    same_answers: int  # of the questions: the greedy answers of both
    floor: float  # of the pair: mean KL from itself, computed another way
    parts: dict[Part, float]  # what each changes; a part that could not be separated is missing
    culprit: Part | None  # the part that changes most, if that is above the limit
    findings: tuple[str, ...] = ()  # a sentence each
    pictures: tuple[PictureParity, ...] = ()
    native: bool = True  # the original was asked with its own chat template; else with the pair's tokens
    problems: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        return limit_of(self.floor)

    @property
    def words(self) -> str:
        """One sentence that stands alone, for a ship card."""
        sentence = (
            f"The reference is {self.kl:.2g} nats a token from the original ({self.original}, {self.dtype}), on "
            f"{self.questions} question{'s' * (self.questions != 1)}"
        )
        if self.culprit is None:
            return f"{sentence}: no part differs by more than {self.limit:.2g}."
        return f"{sentence}: most of it comes from the {self.culprit}."


UNKNOWN = (
    "How far the reference is from the original model is unknown: it was not measured (python -m playground parity)."
)


def words(parity: Parity | None) -> str:
    """What a ship card says."""
    return UNKNOWN if parity is None else parity.words


def key_parts(variant: Variant, runtime: Runtime) -> tuple[object, ...]:
    """For the result cache. A limit of image tokens makes another picture of the same image."""
    tokens = runtime.of(variant).image_tokens
    return "parity", variant.model.sha256, variant.projector.sha256, *(() if tokens == ANY else tokens)


def limit_of(floor: float) -> float:
    return max(LIMIT, floor)


def culprit_of(parts: Mapping[Part, float], floor: float) -> Part | None:
    """The part that changes most, if that is more than arithmetic."""
    worst = max(parts, key=lambda part: parts[part], default=None)
    return worst if worst is not None and parts[worst] > limit_of(floor) else None


def channel_fits(original: Any, pair: Any) -> tuple[ChannelFit, ...]:
    """Of two pictures (channels, height, width) of the same size. Empty for others.

    A picture of one colour says nothing about a gain: it counts as 1.
    """
    if original.shape != pair.shape:
        return ()
    fits = []
    for x, y in zip(original.astype(numpy.float64), pair.astype(numpy.float64), strict=True):
        spread = float(x.std())
        if spread < 1e-6:
            fits.append(ChannelFit(1.0, float((y - x).mean()), float((y - x).std())))
            continue
        gain = float(((x - x.mean()) * (y - y.mean())).mean()) / spread**2
        offset = float(y.mean() - x.mean())
        rest = y - y.mean() - gain * (x - x.mean())
        fits.append(ChannelFit(gain, offset / spread, float(rest.std()) / spread))
    return tuple(fits)


def mean_fit(fits: Sequence[tuple[ChannelFit, ...]]) -> tuple[ChannelFit, ...]:
    """Of all tiles of a picture, by channel."""
    return tuple(
        ChannelFit(
            *(float(numpy.mean([getattr(fit, what) for fit in channel])) for what in ChannelFit.__struct_fields__)
        )
        for channel in zip(*fits, strict=True)
    )


def token_errors(original: Any, pair: Any, grid: tuple[int, int] | None) -> TokenErrors:
    """Of embeddings (tokens, width). `grid`: tokens across and down, row by row; None: it is not one grid."""
    x, y = original.astype(numpy.float64), pair.astype(numpy.float64)
    lengths = numpy.linalg.norm(x, axis=1)
    whole = float(numpy.linalg.norm(x)) or 1.0
    differences = numpy.linalg.norm(y - x, axis=1)
    products = lengths * numpy.linalg.norm(y, axis=1)
    cosines = numpy.divide((x * y).sum(axis=1), products, out=numpy.ones_like(products), where=products > 0)
    # A token of nearly no length has no error of its own.
    own = differences / numpy.maximum(lengths, whole / math.sqrt(len(x)) * 1e-3)
    worst = int(own.argmax())
    place = None
    if grid is not None and grid[0] * grid[1] == len(x):
        place = ((worst % grid[0] + 0.5) / grid[0], (worst // grid[0] + 0.5) / grid[1])
    return TokenErrors(
        cosine=float(cosines.mean()),
        error=float(numpy.linalg.norm(differences)) / whole,
        largest=float(own[worst]),
        off=float((own > _OFF).mean()),
        place=place,
    )


def vocabulary_problem(pair: Sequence[str], original: Sequence[str | None]) -> str | None:
    """Ids mean the same if their texts do.

    Either may have more: a converter fills up what the model's head has, and leaves out what only the tokenizer has.
    """
    differing = [
        (id, ours, theirs)
        for id, (ours, theirs) in enumerate(zip(pair, original, strict=False))
        if theirs is not None and ours != theirs
    ]
    if not differing:
        return None
    id, ours, theirs = differing[0]
    n = len(differing)
    return (
        f"{n:,} token id{'s mean' if n > 1 else ' means'} another text in the pair: {id} is {ours!r}, in the original "
        f"{theirs!r}."
    )


def ends(answers: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[str]:
    """Of both greedy answers to each question: a sentence if one goes on where the other ends."""
    n = sum(a != b and a[: len(b)] == b[: len(a)] for a, b in answers)
    if not n:
        return []
    return [
        f"{Part.PROMPT.capitalize()}: in {n} of {len(answers)} questions one answer goes on where the other ends. The "
        "tokens that end an answer differ (eos_token_id)."
    ]


def findings(pictures: Sequence[PictureParity], parts: Mapping[Part, float], floor: float, prompt: str) -> list[str]:
    """What was seen in each part, a sentence each. `prompt`: of the tokens of the text; empty: they are equal."""
    seen = [f"{Part.PROMPT.capitalize()}: {prompt}"] if prompt else []
    seen += _preprocessing(pictures)
    seen += _encoder(pictures)
    language = parts.get(Part.MODEL)
    if language is not None and language > limit_of(floor):
        seen.append(
            f"Language model: with the original's own tokens and image embeddings it is {language:.2g} nats a token "
            "away."
        )
    return seen


def _preprocessing(pictures: Sequence[PictureParity]) -> list[str]:
    seen, name = [], Part.PREPROCESSING.capitalize()
    n = len(pictures)
    others = [p for p in pictures if p.tokens[0] != p.tokens[1]]
    if others:
        pair, original = others[0].tokens
        seen.append(
            f"{name}: {len(others)} of {n} pictures take another number of tokens, the first one {pair} in the pair "
            f"and {original} in the original. The budget of image tokens, or the rounding of sizes, differs."
        )
    resized = [p for p in pictures if all(p.sizes) and p.sizes[0] != p.sizes[1]]
    if resized:
        pair_size, original_size = resized[0].sizes
        seen.append(
            f"{name}: the encoders see other sizes in {len(resized)} of {n} pictures, the first one {pair_size} in the "
            f"pair and {original_size} in the original."
        )
    straight = [p.channels for p in pictures if p.channels and max(c.residual for c in p.channels) <= _RESIDUAL]
    if straight:
        # By channel: the median over the pictures.
        lines = [
            (float(numpy.median([c.gain for c in channel])), float(numpy.median([c.offset for c in channel])))
            for channel in zip(*straight, strict=True)
        ]
        if any(abs(gain - 1) > _FIT or abs(offset) > _FIT for gain, offset in lines):
            values = ", ".join(f"{gain:.3f} x {offset:+.3f}" for gain, offset in lines)
            seen.append(
                f"{name}: the pixels are normalized otherwise (image_mean, image_std): by channel, gain and offset in "
                f"standard deviations {values}."
            )
    bent = [p for p in pictures if p.channels and p.channels not in straight]
    if bent:
        seen.append(
            f"{name}: {len(bent)} of {n} pictures are resized or padded otherwise, the first one {bent[0].image}: no "
            "scale and offset makes their pixels equal."
        )
    return seen


def _encoder(pictures: Sequence[PictureParity]) -> list[str]:
    compared = [p for p in pictures if p.errors is not None]
    off = [p for p in compared if p.errors is not None and p.errors.error > _OFF]
    if not off:
        return []
    worst = max(off, key=lambda p: p.errors.error if p.errors else 0.0)
    errors = worst.errors
    assert errors is not None
    sentence = (
        f"Vision encoder: of the same pixels it makes other embeddings in {len(off)} of {len(compared)} pictures; in "
        f"{worst.image} the error is {errors.error:.0%}, the mean cosine {errors.cosine:.3f}, and {errors.off:.0%} of "
        "the tokens differ"
    )
    if errors.place is not None:
        across, down = errors.place
        sentence += f", most at {across:.0%} of the width and {down:.0%} of the height"
    return [f"{sentence}."]
