"""Suites: the field's sets of questions on the Hub, one TOML file each under suites/, data only.

A suite says which columns of a dataset repository make a question, how the question is put, and by which rule its
answer is scored. Prompts and columns are those of lmms-eval's task of the same name.
"""

from __future__ import annotations

import ast
import base64
import binascii
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal

import msgspec

from playground.errors import BadInput
from playground.measuring.question_sets import Question, Rule
from playground.support.shipped import shipped_folder

_MAX_LITERAL = 100_000  # characters of a list that is written as text


class SuiteColumns(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Names of columns. Empty: the set has none."""

    image: str
    question: str = ""  # a text, or a list of texts of which one is asked
    answers: str = ""  # a text, a number, or a list of accepted ones
    options: str | tuple[str, ...] = ""  # one column with a list, or a column for each option, A first
    category: str = ""  # a sample has its share of each
    hint: str = ""  # stands before the question
    box: str = ""  # the accepted box in pixels: left, top, width, height
    pairs: str = ""  # a list of {question, answer}, in place of both
    other_images: tuple[str, ...] = ()  # a row that has one of these is left out

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read."""
        options = (self.options,) if isinstance(self.options, str) else self.options
        single = (self.image, self.question, self.answers, self.category, self.hint, self.box, self.pairs)
        return tuple(dict.fromkeys(name for name in (*single, *options, *self.other_images) if name))


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    repo: str  # a dataset repository on the Hub
    split: str
    columns: SuiteColumns
    rule: Rule
    about: str = ""
    revision: str = "main"
    configuration: str = ""  # empty: the repository's default
    open_rule: Rule | None = None  # of a question without options; None: `rule`
    tolerance: float = 0.0
    max_tokens: int = 64
    # The prompt: before + hint + question + between + "A. first option\nB. ..." + after
    before: str = ""
    between: str = "\n"
    after: str = ""
    after_open: str | None = None  # of a question without options; None: `after`
    question_form: Literal["", "trimmed", "capitalized"] = ""
    removed: str = ""  # text that is taken out of a question
    answer_index: bool = False  # the answer is the place of an option, from 0
    licence: str = ""  # empty: not known; the repository says
    size: int | None = None  # rows of the split
    evidence: str = ""  # where columns, prompt and size were seen


def suites_folder() -> Path:
    return shipped_folder("suites")


def read_suite(path: Path) -> Suite:
    """Raises BadInput naming the file and the field."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Suite)
    except (msgspec.DecodeError, OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The suite {path.name} cannot be used: {error}.") from error


def read_suites(folder: Path | None = None) -> Mapping[str, Suite]:
    """By file name without .toml. Raises BadInput for an invalid one, and for two with one name."""
    suites: dict[str, Suite] = {}
    by_name: dict[str, str] = {}
    for path in sorted((folder or suites_folder()).glob("*.toml")):
        suite = read_suite(path)
        first = by_name.setdefault(suite.name.casefold(), path.name)
        if first != path.name:
            raise BadInput(f"{first} and {path.name} are two suites with one name, {suite.name}. Rename one.")
        suites[path.stem] = suite
    return suites


# --- any other dataset ------------------------------------------------------------------------------------------------

# Names that datasets of questions about images give their columns, the usual ones first.
_IMAGE = ("image", "images", "img", "picture", "image_1", "decoded_image")
_QUESTION = ("question", "query", "prompt", "problem", "instruction", "input", "text")
_ANSWERS = ("answers", "answer", "label", "ground_truth", "gt_answer", "target", "response", "output", "solution")
_OPTIONS = ("options", "choices", "candidates")
_CATEGORY = ("category", "question_type", "type", "subject", "task", "topic", "lang", "language")


def guessed(repo: str, configuration: str, split: str, kinds: Mapping[str, str]) -> Suite:
    """A suite for a dataset that has none. `kinds`: its columns, and what each holds ("image", "text", "list" ...).

    The person is shown the guess before anything runs. Raises BadInput if no column can be the image or the question.
    """
    images = [name for name, kind in kinds.items() if kind == "image"]
    image = _first(_IMAGE, images) or next(iter(images), "")
    question = _first(_QUESTION, [name for name, kind in kinds.items() if kind == "text"])
    if not image or not question:
        missing = "a column with images" if not image else "a column with a question"
        raise BadInput(f"{repo}: {missing} was not found. Its columns: {', '.join(kinds)}. Write a suite for it.")
    answers = _first(_ANSWERS, list(kinds))
    options = _first(_OPTIONS, [name for name, kind in kinds.items() if kind in ("list", "text")])
    letters = tuple(letter for letter in "ABCDEFGH" if kinds.get(letter) == "text")
    chosen: str | tuple[str, ...] = options or (letters if len(letters) > 1 else "")
    columns = SuiteColumns(
        image,
        question,
        answers,
        chosen,
        _first(_CATEGORY, [name for name, kind in kinds.items() if kind == "text"]),
    )
    return Suite(
        name=repo,
        repo=repo,
        split=split,
        columns=columns,
        rule=Rule.CHOICE if chosen else Rule.EXACT,
        configuration=configuration,
        answer_index=bool(chosen) and kinds.get(answers) == "number",
        after="\nAnswer with the option's letter from the given choices directly."
        if chosen
        else "\nAnswer the question using a single word or phrase.",
        evidence="guessed by the names of the columns",
    )


def _first(names: Sequence[str], columns: Sequence[str]) -> str:
    by_name = {column.casefold(): column for column in reversed(columns)}
    return next((by_name[name] for name in names if name in by_name), "")


# --- rows -------------------------------------------------------------------------------------------------------------


def row_image(suite: Suite, row: Mapping[str, Any]) -> bytes:
    """The bytes of the row's only image. Raises BadInput."""
    value = row.get(suite.columns.image)
    if (isinstance(value, list) and len(value) > 1) or any(row.get(name) for name in suite.columns.other_images):
        raise BadInput("it is about more than one image")
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, Mapping):
        value = value.get("bytes")
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            value = None
    if not isinstance(value, bytes) or not value:
        raise BadInput("it has no image")
    return value


def row_question(suite: Suite, row: Mapping[str, Any], image: str, size: tuple[int, int], draw: int) -> Question:
    """The question of a row. `draw`: which one is asked where a row has several. Raises BadInput."""
    columns = suite.columns
    text, answers = _asked(suite, row, draw)
    options = _options(columns, row)
    if options and columns.answers:
        answers = tuple(_letter(suite, answer, options) for answer in answers)
    box = row.get(columns.box) if columns.box else None
    if box is not None:
        left, top, width, height = (float(corner) for corner in box)
        answers = (f"[{left}, {top}, {left + width}, {top + height}]",)
    rule = suite.rule if options or suite.open_rule is None else suite.open_rule
    return Question(
        image=image,
        question=_prompt(suite, row, text, options),
        answers=answers,
        rule=rule,
        tolerance=suite.tolerance,
        category=category_of(row.get(columns.category)) if columns.category else "",
        options=options,
        image_size=(float(size[0]), float(size[1])) if box is not None else None,
    )


def category_of(value: object) -> str:
    """Of a list the first: DocVQA gives a question several."""
    if isinstance(value, list):
        value = value[0] if value else None
    return "" if value is None else str(value)


def _asked(suite: Suite, row: Mapping[str, Any], draw: int) -> tuple[str, tuple[str, ...]]:
    """The question as the set has it, and the accepted answers."""
    columns = suite.columns
    if columns.pairs:
        pairs = [pair for pair in _list(row.get(columns.pairs)) if isinstance(pair, Mapping)]
        if not pairs:
            raise BadInput("it has no question")
        pair = pairs[draw % len(pairs)]
        question, answers = pair.get("question"), _texts(pair.get("answer"))
    else:
        question = row.get(columns.question)
        if isinstance(question, list):
            question = question[draw % len(question)] if question else None
        answers = _texts(row.get(columns.answers)) if columns.answers else ()
    if not isinstance(question, str) or not question.strip():
        raise BadInput("it has no question")
    return question, answers


def _prompt(suite: Suite, row: Mapping[str, Any], question: str, options: Sequence[str]) -> str:
    if suite.removed:
        question = question.replace(suite.removed, "")
    match suite.question_form:
        case "trimmed":
            question = question.strip()
        case "capitalized":
            question = question.capitalize()
    hint = row.get(suite.columns.hint) if suite.columns.hint else None
    if isinstance(hint, str) and hint not in ("", "nan"):
        question = f"{hint} {question}"
    after = suite.after if options or suite.after_open is None else suite.after_open
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
    return f"{suite.before}{question}{suite.between if options else ''}{listed}{after}"


def _options(columns: SuiteColumns, row: Mapping[str, Any]) -> tuple[str, ...]:
    if isinstance(columns.options, str):
        values = _list(row.get(columns.options)) if columns.options else []
    else:
        values = [row.get(name) for name in columns.options]
    return tuple(str(value) for value in values if value is not None and str(value) not in ("", "nan"))


def _letter(suite: Suite, answer: str, options: Sequence[str]) -> str:
    if not suite.answer_index:
        return answer
    if not answer.isdecimal() or int(answer) >= min(len(options), len(ascii_uppercase)):
        raise BadInput(f"its answer {answer[:40]!r} is not the place of an option")
    return ascii_uppercase[int(answer)]


def _list(value: object) -> list[Any]:
    """A list, or one that is written as Python's text, as MMMU's options are."""
    if isinstance(value, list):
        return value
    if not isinstance(value, str) or len(value) > _MAX_LITERAL:
        return []
    try:
        read = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return []
    return read if isinstance(read, list) else []


def _texts(value: object) -> tuple[str, ...]:
    """Accepted answers. Empty ones and None, which stand where a set keeps its answers secret, are none."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list(value) or value
    values = value if isinstance(value, list) else [value]
    return tuple(str(entry) for entry in values if entry is not None and str(entry).strip())
