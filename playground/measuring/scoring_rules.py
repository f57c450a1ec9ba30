"""How an answer is scored against the accepted ones: six rules, each defined in docs/metrics.md. Pure."""

from __future__ import annotations

import re

import rapidfuzz

from playground.measuring.question_sets import Question, Rule

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def score(item: Question, answer: str) -> float | None:
    """0 to 1, the best over the accepted answers; None if there are none."""
    if not item.answers:
        return None
    return max(_score(item, accepted, answer) for accepted in item.answers)


def _score(item: Question, accepted: str, answer: str) -> float:
    given, wanted = _plain(answer), _plain(accepted)
    match item.rule:
        case Rule.EXACT:
            return float(given == wanted)
        case Rule.CONTAINS:
            return float(re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", given) is not None)
        case Rule.NUMBER:
            a, b = _number(answer), _number(accepted)
            return float(a is not None and b is not None and abs(a - b) <= item.tolerance * abs(b) + 1e-9)
        case Rule.ANLS:
            near = rapidfuzz.distance.Levenshtein.normalized_similarity(given, wanted)
            return near if near >= 0.5 else 0.0
        case Rule.IOU:
            return _iou(answer, accepted)
        case Rule.CHOICE:
            letter = re.search(r"\b([A-Z])\b", answer.upper())
            return float(letter is not None and letter[1] == accepted.strip().upper())


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")


def _number(text: str) -> float | None:
    """The first number; 1,234.5 and 1234,5 alike."""
    match = _NUMBER.search(text)
    if match is None:
        return None
    digits = match[0]
    if "," in digits and "." not in digits and not re.fullmatch(r"-?\d{1,3}(,\d{3})+", digits):
        digits = digits.replace(",", ".")
    try:
        return float(digits.replace(",", ""))
    except ValueError:
        return None


def _iou(a: str, b: str) -> float:
    """Intersection over union of two boxes written as left, top, right, bottom; 0 if one of them is not a box."""
    first, second = ([float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text)] for text in (a, b))
    if len(first) != 4 or len(second) != 4:
        return 0.0
    (l1, t1, r1, b1), (l2, t2, r2, b2) = first, second
    shared = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - shared
    return shared / union if union > 0 else 0.0
