"""Where an answer parts from the reference's. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from rapidfuzz.distance import Levenshtein

from playground.values.answer import Pane
from playground.values.counts import counted

# Chinese and Japanese (their punctuation too), Thai, Lao, Burmese and Khmer write no spaces: each character is a word.
_ALONE = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_PUNCTUATION = r",.;:!?()\[\]{}\"'`*"
_TAG = r"<[^<>\s]{1,80}>"  # a control token or an HTML tag: a word of its own, also within others
_WORD = re.compile(
    rf"\s*(?:{_TAG}|(?:(?!{_TAG})[^\s{_PUNCTUATION}{_ALONE}])"
    rf"(?:(?:(?!{_TAG})[^\s{_ALONE}])*(?!{_TAG})[^\s{_PUNCTUATION}{_ALONE}])?|[{_PUNCTUATION}{_ALONE}])|\s+"
)
_MARKS = re.compile(rf"{_TAG}|[{_PUNCTUATION}\u3000-\u3003\uff01-\uff0f\uff1a-\uff20]*")

OTHER_REASONING = "= same answer, other reasoning"  # a verdict on an answer or a branch

_SHORT_ANSWER = 8  # words
_ALIKE = 0.5  # share of a word's characters from which its own are marked; a convention

_MAX_WORDS = 10_000  # of either text, more than the longest answer has (8192 tokens); 5000 take about 10 ms


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


def by_text(reference: Pane, pane: Pane) -> bool:
    """Whether the two are compared by their texts, since one comes from elsewhere."""
    return reference.elsewhere is not None or pane.elsewhere is not None


def same_answer(reference: Pane, pane: Pane) -> bool:
    """Whether two answers that are done are the same. Their reasoning may differ.

    Of an answer from elsewhere the tokens are not known: the texts are compared.
    """
    if by_text(reference, pane):
        return pane.text.strip() == reference.text.strip()
    reasoned = bool(reference.reasoning or pane.reasoning) and bool(pane.text)
    return pane.first_divergence is None or (reasoned and pane.text == reference.text)


def word_changes(reference: str, answer: str) -> list[tuple[str, str, str]]:
    """What turns the reference's words into the answer's: (kind, reference's text, answer's text).

    Kinds: equal, replace, insert, delete. Put together again, the texts are the reference and the answer; white space
    belongs to the word behind it, and does not count as a difference. Where more than some thousand words lie between
    the first and the last difference, they are one replacement: finding the changes is quadratic, and holds the GIL.
    """
    return list(_word_changes(reference, answer))


@lru_cache(maxsize=128)
def _word_changes(reference: str, answer: str) -> tuple[tuple[str, str, str], ...]:
    """Kept, since the page asks three times for each pane of each of a run's updates."""
    before, after = _WORD.findall(reference), _WORD.findall(answer)
    old, new = [word.strip() for word in before], [word.strip() for word in after]
    begin = _common(zip(old, new, strict=False))
    end = min(_common(zip(reversed(old), reversed(new), strict=False)), min(len(old), len(new)) - begin)
    if max(len(old), len(new)) - begin - end > _MAX_WORDS:
        ends = len(before) - end, len(after) - end
        parts = (
            ("equal", "".join(before[:begin]), "".join(after[:begin])),
            ("replace", "".join(before[begin : ends[0]]), "".join(after[begin : ends[1]])),
            ("equal", "".join(before[ends[0] :]), "".join(after[ends[1] :])),
        )
        return tuple(part for part in parts if part[1] or part[2])
    return tuple(
        (op.tag, "".join(before[op.src_start : op.src_end]), "".join(after[op.dest_start : op.dest_end]))
        for op in Levenshtein.opcodes(old, new)
    )


def _common(pairs: Iterable[tuple[str, str]]) -> int:
    """How many pairs are equal before the first that are not."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def close_changes(reference: str, answer: str) -> list[tuple[str, str, str]]:
    """As word_changes; in a short answer, words that are spelled much alike are told apart by their characters."""
    changes = word_changes(reference, answer)
    if max(len(_WORD.findall(text)) for text in (reference, answer)) > _SHORT_ANSWER:
        return changes
    return [part for change in changes for part in _by_characters(change)]


def _by_characters(change: tuple[str, str, str]) -> list[tuple[str, str, str]]:
    kind, before, after = change
    if kind != "replace" or Levenshtein.normalized_similarity(before.strip(), after.strip()) < _ALIKE:
        return [change]
    return [
        (op.tag, before[op.src_start : op.src_end], after[op.dest_start : op.dest_end])
        for op in Levenshtein.opcodes(before, after)
    ]


def how_much(reference: str, answer: str) -> str:
    """How much of an answer differs from the reference's, in words: "4 words", "1 character", "most words"."""
    changes = close_changes(reference, answer)
    changed = [(before, after) for kind, before, after in changes if kind != "equal"]
    if not changed:
        return "white space" if answer != reference else "tokens of the same text"
    if changes != word_changes(reference, answer):
        characters = sum(max(len(before), len(after)) for before, after in changed)
        return counted(characters, "character")
    same = sum(_words(after) for kind, _, after in changes if kind == "equal")
    if _words(answer) > max(_SHORT_ANSWER, 2 * same):
        return "most words"
    words = sum(max(_words(before), _words(after)) for before, after in changed)
    return counted(words, "word") if words else "punctuation"


def _words(text: str) -> int:
    """Punctuation and tags are not counted."""
    return sum(not _MARKS.fullmatch(word.strip()) for word in _WORD.findall(text))
