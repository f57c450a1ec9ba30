"""Read a number or a letter from a free answer. Pure; docs/metrics.md says which of several counts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

# Written without spaces between words: there a word's edge cannot be seen.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uac00-\ud7af"
_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


def plain(text: str) -> str:
    """Case, width, spaces and outer punctuation do not count."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(" .,;:!?\"'“”„‘’«»。、，；：！？「」『』…")


def contains_words(text: str, words: str) -> bool:
    """Whether `words` stands in `text` as whole words; both plain."""
    if not words:
        return not text
    before = "" if _UNSPACED_CHARACTER.match(words[0]) else rf"(?<![^\W{_UNSPACED}])"
    after = "" if _UNSPACED_CHARACTER.match(words[-1]) else rf"(?![^\W{_UNSPACED}])"
    return re.search(f"{before}{re.escape(words)}{after}", text) is not None


# ── numbers ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_SPACE = "[ \u00a0\u2009\u202f]"
_NUMBER = re.compile(
    rf"(?P<currency>[$€£¥₹]\s?)?(?<![A-Za-z0-9_.])(?P<sign>[-+]\s?)?(?P<currency2>[$€£¥₹]\s?)?"
    rf"(?P<digits>\d{{1,3}}(?:{_SPACE}\d{{3}})+(?![\d])(?:[.,]\d+)?|\d+(?:[.,'’٬٫]\d+)*|\.\d+)"
    r"(?P<power>[eE][+-]?\d{1,3}(?!\d)|\s?[×x*]\s?10\^?\{?(?P<exponent>[-+]?\d{1,2})\}?)?"
    r"(?P<unit>\s?(?:%|percent\b|per cent\b|[€$£¥₹]|(?:thousand|million|billion|trillion)\b))?"
)
UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_WORDS = {word: value for value, word in enumerate(UNITS)} | {word: 10 * value for value, word in enumerate(_TENS, 2)}
_WORD = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<unit>{'|'.join(UNITS[1:10])}))?|(?P<word>{'|'.join(UNITS)}|none))\b"
)
_SCALES = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_RESULT = re.compile(r"(?:=|\b(?:answer|result|total|sum)\b[^.\d=]{0,20}?(?:\bis|\bwas|:|=))\s*$", re.IGNORECASE)
_YEAR_BEFORE = re.compile(r"\b(?:in|since|of|by|until|from|during|year|and|to)\s*$", re.IGNORECASE)


class Number(NamedTuple):
    value: float
    other: float | None = None  # the same with its percent sign or scale taken into account

    @property
    def readings(self) -> tuple[float, ...]:
        return (self.value,) if self.other is None else (self.value, self.other)


def read_number(text: str, *, year: bool = False) -> Number | None:
    """The number that a text gives: of several the result that it announces, else one with a currency or a percent
    sign, else the first in digits, else the first in words. `year`: a year is asked for; otherwise "in 2023" only dates
    the number."""
    text = unicodedata.normalize("NFKC", text).replace("\u2212", "-").replace("\u2013", "-")
    matches = [(match.start(), match, _numeral(match)) for match in _NUMBER.finditer(text)]
    numerals = [(start, match, number) for start, match, number in matches if number is not None]
    counts = [(start, match, number) for start, match, number in numerals if year or not _is_date(text, match)]
    results = [number for start, _, number in counts if _announced(text[max(0, start - 60) : start])]
    if results:
        return results[-1]
    marked = [number for _, match, number in counts if match["currency"] or match["currency2"] or match["unit"]]
    if marked and not year:
        return marked[0]
    if counts:
        return counts[0][2]
    if word := _WORD.search(text.casefold()):
        return Number(float(_word_value(word)))
    return numerals[0][2] if numerals else None


def _announced(before: str) -> bool:
    return before.rstrip().casefold().endswith(("=", ":", "is", "was")) and _RESULT.search(before) is not None


def _is_date(text: str, match: re.Match[str]) -> bool:
    digits = match["digits"]
    return bool(
        re.fullmatch(r"(?:1[5-9]|20)\d\d", digits)
        and not (match["currency"] or match["currency2"] or match["unit"])
        and _YEAR_BEFORE.search(text[max(0, match.start() - 12) : match.start()])
    )


def _word_value(match: re.Match[str]) -> int:
    if match["tens"]:
        return _WORDS[match["tens"]] + (_WORDS[match["unit"]] if match["unit"] else 0)
    return _WORDS.get(match["word"], 0)  # "none"


def _numeral(match: re.Match[str]) -> Number | None:
    digits = re.sub(rf"{_SPACE}|['’]", "", match["digits"]).replace("٬", ",").replace("٫", ".")
    if "," in digits and "." in digits:
        thousands = "," if digits.rfind(".") > digits.rfind(",") else "."
        digits = digits.replace(thousands, "").replace(",", ".")
    elif digits.count(".") > 1:
        digits = digits.replace(".", "")
    elif "," in digits:
        grouped = digits.count(",") > 1 or re.fullmatch(r"\d{1,3},\d{3}", digits)
        digits = digits.replace(",", "" if grouped else ".")
    try:
        value = float(digits + (match["power"] if match["power"] and not match["exponent"] else ""))
    except ValueError:
        return None
    if match["exponent"]:
        value *= 10.0 ** int(match["exponent"])
    if match["sign"] and "-" in match["sign"]:
        value = -value
    unit = (match["unit"] or "").strip().casefold()
    if unit in ("%", "percent", "per cent"):
        return Number(value, value / 100)
    return Number(value, value * _SCALES[unit]) if unit in _SCALES else Number(value)


# ── letters ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_LETTERS = "ABCDEFGH"
# Possessive (*+): two parts that both take white space would try all ways to share it, for minutes.
_ANNOUNCED = (
    r"(?:\banswer|\bchoice|\boption|\bcorrect one|\bsolution|\bantwort|\br[eé]ponse|\brespuesta|\bresposta|\bответ)"
    r"(?:\s+(?:is|would be|should be|must be|will be|ist|est|es|é))?(?:\s+(?:option|choice|letter))?"
    r"\s*+(?:[:=—]|-|\bis\b)?"
    r"|答案(?:应该|應該)?(?:是|为|為|选|選)?[:：]?|(?:应选|應選|故选|故選|选择|選擇|选|選)(?:项|項)?[:：]?"
    r"|正解は?[:：]?|答えは?[:：]?|정답은?[:：]?|답은?[:：]?"
    r"|\b(?:choose|chose|pick|select|go with|going with)(?:\s+(?:option|choice|answer|letter))?"
)
_ARTICLE = re.compile(r"(?:^|(?<=[.!?] ))A(?= (?!and\b|or\b|nor\b)[a-z])|\bI\b")
_OPEN = r"[\s(\[\"'“‘<]*"


def read_choice(text: str, options: Sequence[str] = (), *, letters: str = "") -> str | None:
    """The letter that an answer chooses; None if it chooses none, or several. `options`: their texts, in order."""
    text = unicodedata.normalize("NFKC", text).strip()
    allowed = letters or ("".join(chr(ord("A") + k) for k in range(len(options))) if options else _LETTERS)
    letter_class = f"[{allowed}]"
    close = rf"(?![\w'’])(?!\)?\s*(?:and|or|&|/|,)\s*\(?{letter_class}(?!\w))"  # "A and B" chooses none
    if match := re.fullmatch(rf"[\W_]*([{allowed}{allowed.lower()}])[\W_]*", text):
        return match[1].upper()
    whole = plain(text)
    by_text = [letter for letter, option in zip(allowed, options, strict=False) if plain(option) == whole and whole]
    if len(by_text) == 1:
        return by_text[0]
    announced = re.findall(rf"(?i:{_ANNOUNCED}){_OPEN}({letter_class}){close}", text)
    announced_small = re.findall(
        rf"(?i:{_ANNOUNCED})\s*(?:\(([{allowed.lower()}])\)|([{allowed.lower()}])(?:[).]|\s*$))", text
    )
    firm = re.findall(
        rf"\(?({letter_class})\)?\s+is\s+(?:clearly\s+|therefore\s+)?(?:the\s+)?(?:correct|right|best|answer)\b", text
    )
    strong = re.findall(rf"(?i:\banswer\b[^.\n]{{0,12}}?(?:\bis\b|[:=])){_OPEN}({letter_class}){close}", text)
    for hits in (strong, firm, announced, [a or b for a, b in announced_small]):
        if hits:
            return str(hits[-1]).upper()
    if start := re.match(rf"[\W_]*({letter_class})(?:[).:,\]]|\s*[-–—](?=\s)|\s*\n|$)(?!\w)", text):
        begun = start[1]
    elif small := re.match(rf"[\W_]*([{allowed.lower()}])[).\]:](?=\s|$)", text):
        begun = small[1].upper()
    else:
        begun = ""
    marked = re.findall(rf"(?<!\w)(?:\(({letter_class})\)|\[({letter_class})\]|({letter_class})[).:](?=\s|$))", text)
    letters_marked = ["".join(groups) for groups in marked]
    joined = re.search(rf"(?<!\w)({letter_class})\)?\s*(?:and|or|&|/|,)\s*\(?({letter_class})[\W_]*$", text)
    if joined and joined[1] != joined[2]:
        return None
    ended = re.search(rf"(?<![\w'’])\(?({letter_class})[\W_]*$", text)
    if begun and not (ended and ended[1] != begun and not _lists_options(letters_marked)):
        return begun
    if ended:
        return ended[1]
    if len(set(letters_marked)) == 1:
        return letters_marked[0]
    named = [
        (letter, plain(option))
        for letter, option in zip(allowed, options, strict=False)
        if plain(option) and contains_words(whole, plain(option))
    ]
    longest = [entry for entry in named if not any(entry[1] != other[1] and entry[1] in other[1] for other in named)]
    if len(longest) == 1:
        return longest[0][0]
    if letters_marked:
        return letters_marked[-1] if not _lists_options(letters_marked) else None
    letters_alone = set(re.findall(rf"(?<![\w'’])({letter_class})(?![\w'’])", _ARTICLE.sub("", text)))
    return str(letters_alone.pop()) if len(letters_alone) == 1 else None


def _lists_options(letters: Sequence[str]) -> bool:
    """A, B, C ... in order: the options repeated, not a choice among them."""
    return len(letters) > 2 and list(letters) == sorted(set(letters))


def read_yes_no(text: str) -> str | None:
    """ "yes" or "no": the first word, or the only one of the two."""
    words = re.findall(r"\w+", text.casefold())
    if words and words[0] in ("yes", "no"):
        return str(words[0])
    named = {"yes", "no"} & set(words)
    return next(iter(named)) if len(named) == 1 else None
