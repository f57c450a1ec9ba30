"""Drift from the likeliest tokens alone, where a server elsewhere says no more: a lower bound. Pure.

Tokens that only one side names are one lot with all others. Merging tokens never makes the Kullback-Leibler divergence
larger, so what is computed is at most that over the whole vocabulary.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from playground.comparing.divergence import by_text
from playground.values.answer import Pane, PaneState, TokenScore

_SMALLEST = 1e-6  # of what is left for the other tokens: rounded log-probabilities know no less
_CUT = "\ufffd"  # part of a character: several tokens look like it


@dataclass(frozen=True, slots=True)
class TopDrift:
    """Of the tokens that two answers begin with in common, and of the one where they part."""

    kl: float  # nats a token, at least
    tokens: int


def between(reference: Pane, pane: Pane) -> TopDrift | None:
    """None unless one of the two comes from elsewhere, both are done, and both have probabilities."""
    if not by_text(reference, pane) or not reference.state is pane.state is PaneState.DONE:
        return None
    bounds = []
    for one, other in zip(reference.scores, pane.scores, strict=False):
        if not one.candidates or not other.candidates:
            break
        bounds.append(at_least(one, other))
        if one.text != other.text:
            break
    return TopDrift(math.fsum(bounds) / len(bounds), len(bounds)) if bounds else None


def at_least(reference: TokenScore, other: TokenScore) -> float:
    """The divergence of `other` from `reference` at one position, nats, at least."""
    p, q = _by_text(reference), _by_text(other)
    named = sorted((text for text in p.keys() & q.keys()), key=lambda text: q[text])
    while named and (q[named[0]] <= 0 or 1 - math.fsum(q[text] for text in named) < _SMALLEST):
        named = named[1:]  # the least likely one goes to the others
    if not named:
        return 0.0
    pairs = [(p[text], q[text]) for text in named]
    pairs.append((1 - math.fsum(a for a, _ in pairs), 1 - math.fsum(b for _, b in pairs)))
    return max(0.0, math.fsum(a * math.log(a / b) for a, b in pairs if a > 0))


def _by_text(score: TokenScore) -> dict[str, float]:
    """The candidates whose text tells them apart."""
    counts = Counter(candidate.text for candidate in score.candidates)
    return {c.text: c.probability for c in score.candidates if counts[c.text] == 1 and _CUT not in c.text}
