"""Numbers as people read them. Unknown stays a dash."""

from __future__ import annotations

import datetime
from collections.abc import Collection

from playground.comparing.top_drift import TopDrift
from playground.values.answer import Elsewhere, Metrics
from playground.values.counts import counted
from playground.values.files import Variant

UNKNOWN = "–"

_BLANKS = {" ": "␣", "\n": "↵", "\t": "⇥"}


def seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value < 0.00995:
        return f"{value * 1000:.1f} ms"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def file_size(value: int | None) -> str:
    """Decimal units, as the Hub shows files."""
    if value is None:
        return UNKNOWN
    return f"{value / 1e9:.2f} GB" if value >= 999.5e6 else f"{value / 1e6:.1f} MB"


def sizes(variant: Variant) -> str:
    """Of both files, and of each: language model + projector. Empty: it answers elsewhere."""
    if variant.endpoint:
        return ""
    halves = [file_size(file.bytes) for file in (variant.model, variant.projector)]
    units = {half.split(" ")[1] for half in halves}
    first = halves[0].split(" ")[0] if len(units) == 1 else halves[0]
    return f"{file_size(variant.bytes)} ({first} + {halves[1]})"


def memory(value: int | None) -> str:
    """Binary units, as nvidia-smi and top show memory."""
    if value is None:
        return UNKNOWN
    return f"{value / 2**30:.1f} GiB" if value >= 1000 * 2**20 else f"{value / 2**20:.0f} MiB"


def speed(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:,.0f} tok/s" if value >= 99.5 else f"{value:.1f} tok/s"


def sampled_speed(value: float | None) -> str:
    """Of one sample, or the median of a few: more than two digits would say more than was measured."""
    if value is None:
        return UNKNOWN
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f} tok/s" if rounded >= 10 else f"{rounded:.1f} tok/s"


def range_of(low: float, high: float) -> str:
    return f"{float(f'{low:.2g}'):,g}–{float(f'{high:.2g}'):,g}"


def bits(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1f} bpw"


def parameters(value: int) -> str:
    """As model names write them: 450M, 4B."""
    return f"{value / 1e9:.2g}B" if value >= 995e6 else f"{value / 1e6:.3g}M"


def probability(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1%}" if value >= 0.0005 else "< 0.1%"


def token(text: str, among: Collection[str] = ()) -> str:
    """A token, to stand between quotes: without the space with which most begin. That is a sign where the token is
    blank, or where only blanks tell it from another one `among` those beside it."""
    word = text.strip()
    if word and sum(other.strip() == word for other in among) < 2:
        return word
    return "".join(_BLANKS.get(character, character) for character in text)


def share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.0%}"


def when(started: str) -> str:
    """An ISO 8601 time as day and minute, in the zone that it was written in."""
    try:
        at = datetime.datetime.fromisoformat(started)
    except ValueError:
        return UNKNOWN
    return f"{at.day} {at:%b %Y %H:%M}"


def drift_at_least(drift: TopDrift) -> str:
    tokens = counted(drift.tokens, "token")
    return f"at least {drift.kl:.2g} nats a token from the reference: a lower bound by the top tokens, over {tokens}"


def elsewhere(answer: Elsewhere) -> str:
    """What an endpoint said of itself, and its times as this side saw them."""
    parts = [
        f"it says: {answer.model}" if answer.model is not None else "",
        f"{answer.prompt_tokens} prompt tokens" if answer.prompt_tokens is not None else "",
        f"{answer.answer_tokens} answer tokens" if answer.answer_tokens is not None else "",
        f"first text {seconds(answer.first_s)}" if answer.first_s is not None else "",
        f"answer {seconds(answer.answer_s)}, seen here with the network" if answer.answer_s is not None else "",
    ]
    return " · ".join(part for part in parts if part)


def image_seen(metrics: Metrics) -> str:
    """What the encoder saw of the images, behind their tokens: the size after it resized them, or its tiles."""
    if metrics.image_pixels:
        return f" ({', '.join(f'{width} × {height}' for width, height in metrics.image_pixels)} pixels)"
    return f" ({metrics.image_tiles} tiles)" if metrics.image_tiles is not None else ""
