"""Where an answer parts from the reference's. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein


def first_divergence(reference: Sequence[int], answer: Sequence[int], *, ended: bool) -> int | None:
    """Index of the first token that differs; None while there is none.

    `ended`: no more tokens come to `answer`, so a shorter answer differs where it ends.
    """
    for i, (expected, token) in enumerate(zip(reference, answer, strict=False)):
        if expected != token:
            return i
    if len(answer) > len(reference) or (ended and len(answer) < len(reference)):
        return min(len(answer), len(reference))
    return None


def word_changes(reference: str, answer: str) -> list[tuple[str, str, str]]:
    """What turns the reference's words into the answer's: (kind, reference's words, answer's words).

    Kinds: equal, replace, insert, delete.
    """
    before = reference.split(" ") if reference else []
    after = answer.split(" ") if answer else []
    return [
        (op.tag, " ".join(before[op.src_start : op.src_end]), " ".join(after[op.dest_start : op.dest_end]))
        for op in Levenshtein.opcodes(before, after)
    ]
