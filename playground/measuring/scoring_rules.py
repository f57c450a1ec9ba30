"""How an answer is scored against the accepted ones. docs/metrics.md defines each rule. Pure.

Rules with the field's names score as lmms-eval does: tests/unit/test_peer_scores.py holds them against its scores and
lists where they differ on purpose.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import msgspec
import rapidfuzz

from playground.measuring import answer_readers
from playground.measuring.answer_readers import UNITS, Number, plain
from playground.measuring.answer_text import answer_text
from playground.measuring.boxes import Box, overlap, read_box, scaled
from playground.measuring.question_sets import Question, Rule

# The question type of OCRBench whose answers are formulas: spaces do not count there, case does.
HANDWRITTEN_MATH = "Handwritten Mathematical Expression Recognition"
_MOST_FIELDS = 1000  # of JSON, that are held against all others; all are counted


class _NumberReader(Protocol):
    def __call__(self, text: str, *, year: bool = False) -> Number | None: ...


def score(item: Question, answer: str) -> float | None:
    """0 to 1, the best over the accepted answers; None if there are none."""
    if not item.answers:
        return None
    text = scored_text(item.rule, answer)
    if item.rule is Rule.VQA:
        return _vqa(text, item.answers)
    return max(_score(item, accepted, text) for accepted in item.answers)


def scored_text(rule: Rule, answer: str) -> str:
    """What is left of an answer when its reasoning, special tokens and Markdown are taken off."""
    return answer_text(answer, marks=rule in (Rule.OCRBENCH, Rule.JSON))


def _score(item: Question, accepted: str, text: str) -> float:
    match item.rule:
        case Rule.EXACT:
            return float(plain(text) == plain(accepted))
        case Rule.CONTAINS:
            return float(answer_readers.contains_words(plain(text), plain(accepted)))
        case Rule.NUMBER:
            return float(_same_number(text, accepted, item.tolerance))
        case Rule.RELAXED:
            return float(_relaxed(text, accepted))
        case Rule.ANLS:
            return _anls(text, accepted)
        case Rule.VQA:
            return _vqa(text, item.answers)
        case Rule.OCRBENCH:
            return float(_read(accepted, item.category) in _read(text, item.category))
        case Rule.YES_NO:
            return float(answer_readers.read_yes_no(text) == answer_readers.read_yes_no(accepted))
        case Rule.IOU:
            return _iou(item, text, accepted)
        case Rule.IOU_AT_HALF:
            return float(_iou(item, text, accepted) >= 0.5)
        case Rule.CHOICE:
            return float(_chosen(item, text, accepted))
        case Rule.JSON:
            return _fields(text, accepted, item.tolerance)


# ── rules of one accepted answer ─────────────────────────────────────────────────────────────────────────────────────


def _same_number(text: str, accepted: str, tolerance: float, read: _NumberReader = answer_readers.read_number) -> bool:
    wanted = read(accepted, year=True)
    if wanted is None:
        return False
    year = wanted.other is None and 1500 <= wanted.value < 2100 and wanted.value == int(wanted.value)
    given = read(text, year=year)
    if given is None:
        return False
    return any(
        abs(a - b) <= tolerance * abs(b) + 1e-9 * max(1.0, abs(b)) for a in given.readings for b in wanted.readings
    )


def _relaxed(text: str, accepted: str) -> bool:
    """ChartQA: within 5 % where both are written as numbers, else equal but for case."""
    given, wanted = _as_number(text), _as_number(accepted)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= 0.05
    return text.lower() == accepted.lower()


def _as_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _anls(text: str, accepted: str) -> float:
    """DocVQA: 1 - edit distance / the longer length, 0 below one half. Distance without case and surplus spaces."""
    given, wanted = (" ".join(side.lower().split()) for side in (text, accepted))
    length = max(len(text.upper()), len(accepted.upper()))
    distance = rapidfuzz.distance.Levenshtein.distance(given, wanted)
    near = 1 - distance / length if length else 1.0
    return near if near >= 0.5 else 0.0


def _read(text: str, category: str) -> str:
    """OCRBench: as the text of a picture is compared."""
    if category == HANDWRITTEN_MATH:
        return text.strip().replace("\n", " ").replace(" ", "")
    ascii_forms = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}
    return text.translate(ascii_forms).lower().strip().replace("\n", " ")


def _chosen(item: Question, text: str, accepted: str) -> bool:
    wanted = accepted.strip().upper().strip("().")
    options = item.options
    if not re.fullmatch("[A-Z]", wanted):
        places = [k for k, option in enumerate(options) if plain(option) == plain(accepted)]
        if len(places) != 1:
            return plain(text) == plain(accepted)  # RealWorldQA has questions without options
        wanted = chr(ord("A") + places[0])
    beyond = "" if options or wanted <= "H" else "".join(chr(code) for code in range(ord("A"), ord(wanted) + 1))
    return answer_readers.read_choice(text, options, letters=beyond) == wanted


# ── boxes ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _iou(item: Question, text: str, accepted: str) -> float:
    """Intersection over union, in shares of the image where its size or the scales are known."""
    given = read_box(text, y_first=item.y_first)
    wanted = read_box(accepted)
    if given is None or wanted is None:
        return 0.0
    in_shares = max(wanted.corners) <= 1
    if not in_shares and item.image_size is None and given.scale is None and item.box_scale is None:
        return overlap(given.corners, wanted.corners)  # both in the same pixels
    size = item.image_size or (1.0, 1.0)
    return overlap(_shares(given, item, in_shares), scaled(wanted, (1.0, 1.0) if in_shares else size))


def _shares(given: Box, item: Question, in_shares: bool) -> tuple[float, ...]:
    """In shares of the image. By what the question says, else by the answer's own form, else by the numbers' size."""
    scale: tuple[float, float]
    if item.box_scale is not None:
        scale = item.box_scale
    elif given.scale is not None:
        scale = (given.scale, given.scale)
    elif max(given.corners) <= 1:
        scale = (1.0, 1.0)
    elif in_shares:
        scale = (1000.0, 1000.0)  # what most families are trained on
    else:
        scale = item.image_size or (1.0, 1.0)
    return scaled(given, scale)


# ── fields ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fields(text: str, accepted: str, tolerance: float) -> float:
    """F1 of the fields, as CC-OCR counts them: a path and its value. Case counts, the place in a list does not."""
    given, wanted = document_of(text), document_of(accepted)
    if given is None or wanted is None:
        return 0.0
    fields, missing = list(_leaves(given)), list(_leaves(wanted))
    total, right = len(fields) + len(missing), 0
    del fields[_MOST_FIELDS:], missing[_MOST_FIELDS:]
    read = functools.lru_cache(4 * _MOST_FIELDS)(answer_readers.read_number)
    for path, value in fields:
        match = next(
            (k for k, (p, v) in enumerate(missing) if p == path and _same_value(value, v, tolerance, read)), None
        )
        if match is not None:
            right += 1
            del missing[match]
    return 2 * right / total if total else 1.0


def document_of(text: str) -> Any:
    """The text as JSON, else the first object in it, else the first list; None if there is none."""
    starts = [0, *(place for bracket in "{[" for place in _places(text, bracket))]
    for start in starts:
        try:
            document, end = json.JSONDecoder().raw_decode(text, start)
        except ValueError:
            continue
        except RecursionError:
            return None
        if start or end == len(text):
            return document
    return None


def _places(text: str, bracket: str) -> list[int]:
    """Of the first brackets: an answer with more before its JSON is no JSON."""
    return [match.start() for match in itertools.islice(re.finditer(re.escape(bracket), text), 50)]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    else:
        yield path, value


def _same_value(a: Any, b: Any, tolerance: float, read: _NumberReader) -> bool:
    if isinstance(b, (int, float)) and not isinstance(b, bool):
        return _same_number(str(a), str(b), tolerance, read)
    return _value(a) == _value(b)


def _value(value: Any) -> str:
    return " ".join(unicodedata.normalize("NFKC", str(value)).split())


# ── VQA's soft accuracy ──────────────────────────────────────────────────────────────────────────────────────────────

_VQA_NUMBERS = {word: str(value) for value, word in enumerate(UNITS[:11])} | {"none": "0"}
_VQA_ARTICLES = ("a", "an", "the")
_VQA_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_VQA_SHORT = [
    "ain't",
    "aren't",
    "can't",
    "could've",
    "couldn't",
    "couldn't've",
    "didn't",
    "doesn't",
    "don't",
    "hadn't",
    "hadn't've",
    "hasn't",
    "haven't",
    "he'd",
    "he'd've",
    "he's",
    "how'd",
    "how'll",
    "how's",
    "isn't",
    "it'd",
    "it'd've",
    "it'll",
    "ma'am",
    "mightn't",
    "mightn't've",
    "might've",
    "mustn't",
    "must've",
    "needn't",
    "not've",
    "o'clock",
    "oughtn't",
    "shan't",
    "she'd've",
    "should've",
    "shouldn't",
    "shouldn't've",
    "somebody'd've",
    "somebody'll",
    "somebody's",
    "someone'd",
    "someone'd've",
    "someone'll",
    "someone's",
    "something'd",
    "something'd've",
    "something'll",
    "that's",
    "there'd",
    "there'd've",
    "there're",
    "there's",
    "they'd",
    "they'd've",
    "they'll",
    "they're",
    "they've",
    "'twas",
    "wasn't",
    "we'd've",
    "we've",
    "weren't",
    "what'll",
    "what're",
    "what's",
    "what've",
    "when's",
    "where'd",
    "where's",
    "where've",
    "who'd",
    "who'd've",
    "who'll",
    "who's",
    "who've",
    "why'll",
    "why're",
    "why's",
    "won't",
    "would've",
    "wouldn't",
    "wouldn't've",
    "y'all",
    "y'all'll",
    "y'all'd've",
    "you'd",
    "you'd've",
    "you'll",
    "you're",
    "you've",
]
# A short form with one apostrophe left out becomes the form with all of them.
_VQA_CONTRACTIONS = {
    word[:k] + word[k + 1 :]: word for word in _VQA_SHORT for k, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at", "'ow'sat": "'ow's'at"}


def _vqa(text: str, accepted: Sequence[str]) -> float:
    """Each accepted answer is left out in turn; three equal ones among the others make 1. The mean of these."""
    given = _vqa_plain(text)
    same = [_vqa_plain(other) == given for other in accepted]
    if len(accepted) < 4:
        return float(any(same))  # too few people to agree
    hits = sum(same)
    return sum(min(1.0, (hits - own) / 3) for own in same) / len(accepted)


def _vqa_plain(text: str) -> str:
    """As the VQA evaluation writes answers before it compares them."""
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    written = text
    for mark in _VQA_MARKS:
        outer = f"{mark} " in written or f" {mark}" in written
        text = text.replace(mark, "" if outer else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=32)
    words = [_VQA_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_VQA_CONTRACTIONS.get(word, word) for word in words if word not in _VQA_ARTICLES)


# ── yes and no ───────────────────────────────────────────────────────────────────────────────────────────────────────


class YesNo(msgspec.Struct, frozen=True):
    """POPE's figures over all questions, with yes as the positive class. None where nothing says so."""

    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    yes_share: float  # of the answers


def yes_no(answers: Sequence[str], accepted: Sequence[str]) -> YesNo | None:
    """Of answers to questions whose accepted answer is yes or no; None without any."""
    if not answers:
        return None
    given = [answer_readers.read_yes_no(scored_text(Rule.YES_NO, answer)) for answer in answers]
    wanted = [answer_readers.read_yes_no(answer) for answer in accepted]
    pairs = list(zip(given, wanted, strict=True))
    true = sum(a == b == "yes" for a, b in pairs)
    false = sum(a == "yes" and b == "no" for a, b in pairs)
    missed = sum(a == "no" and b == "yes" for a, b in pairs)
    precision = true / (true + false) if true + false else None
    recall = true / (true + missed) if true + missed else None
    f1 = 2 * true / (2 * true + false + missed) if true + false + missed else None
    right = sum(a is not None and a == b for a, b in pairs)
    return YesNo(right / len(pairs), precision, recall, f1, sum(a == "yes" for a in given) / len(given))
