"""`python -m playground score`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import say
from playground.errors import BadInput
from playground.measuring import scoring_rules
from playground.measuring.question_sets import Question, Rule, check_question
from playground.values.counts import counted

# What OpenAI's API and this app call the reason of an answer that was cut off.
_CUT_OFF = ("length", "max tokens", "context full")
_BLANK = b" \t\r\n\xef\xbb\xbf"


class _Line(msgspec.Struct, frozen=True):
    """An answer to score. Other keys of a line are ignored."""

    answer: str
    accepted: list[str | int | float] | str | int | float
    options: tuple[str, ...] = ()
    category: str = ""
    image_size: tuple[float, float] | None = None
    box_scale: tuple[float, float] | None = None
    y_first: bool | None = None
    finish_reason: str | None = None


class _Scored(msgspec.Struct, frozen=True, omit_defaults=True):
    score: float | None
    scored: str = ""  # what was left of the answer when it was scored
    truncated: bool = False
    error: str = ""


def score(
    answers: Annotated[
        str, typer.Argument(help='A file of JSON lines with "answer" and "accepted"; - reads standard input.')
    ],
    rule: Annotated[Rule, typer.Option(help="How an answer is scored; docs/metrics.md defines each rule.")],
    tolerance: Annotated[float, typer.Option(help="For number and json: accepted difference, as a share.")] = 0.0,
) -> None:
    """Score answers from anywhere: one JSON object a line. Exit code 1 if a line could not be read."""
    lines: list[tuple[_Line, _Scored]] = []
    failed = 0
    for line in _lines(answers):
        try:
            read = msgspec.json.decode(line, type=_Line)
            scored = _scored(read, rule, tolerance)
        except (msgspec.DecodeError, UnicodeDecodeError, BadInput) as error:
            failed += 1
            _print(_Scored(None, error=str(error)))
            continue
        lines.append((read, scored))
        _print(scored)
    _summarize(rule, lines, failed)
    if failed:
        raise typer.Exit(1)


def _scored(line: _Line, rule: Rule, tolerance: float) -> _Scored:
    """Raises BadInput."""
    item = Question(
        image="",
        question="",
        answers=_accepted(line),
        rule=rule,
        tolerance=tolerance,
        category=line.category,
        options=line.options,
        image_size=line.image_size,
        box_scale=line.box_scale,
        y_first=line.y_first,
    )
    check_question(item)
    return _Scored(
        scoring_rules.score(item, line.answer),
        scoring_rules.scored_text(rule, line.answer),
        truncated=line.finish_reason in _CUT_OFF,
    )


def _accepted(line: _Line) -> tuple[str, ...]:
    values = line.accepted if isinstance(line.accepted, list) else [line.accepted]
    return tuple(str(value) for value in values)


def _lines(name: str) -> Iterator[bytes]:
    """Those that are not blank. Raises BadInput."""
    if name == "-":
        yield from (line for line in sys.stdin.buffer if line.strip(_BLANK))
        return
    try:
        with Path(name).open("rb") as file:
            for line in file:
                if stripped := line.strip(_BLANK):
                    yield stripped
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror or error}.") from None


def _print(scored: _Scored) -> None:
    typer.echo(msgspec.json.encode(scored).decode())


def _summarize(rule: Rule, lines: list[tuple[_Line, _Scored]], failed: int) -> None:
    """On standard error, so that standard output has one line for each answer."""
    scores = [scored.score for _, scored in lines if scored.score is not None]
    cut_off = sum(scored.truncated for _, scored in lines)
    words = [counted(len(lines), "answer")]
    if scores:
        words.append(f"mean score {sum(scores) / len(scores):.4f}")
    if len(scores) < len(lines):
        words.append(f"{len(lines) - len(scores)} without accepted answers")
    if cut_off:
        words.append(f"{cut_off} cut off by the limit of tokens")
    if failed:
        words.append(f"{failed} of the lines could not be read")
    say(", ".join(words) + ".")
    if rule is Rule.YES_NO:
        pairs = [(line.answer, _accepted(line)[0]) for line, scored in lines if scored.score is not None]
        figures = scoring_rules.yes_no([answer for answer, _ in pairs], [accepted for _, accepted in pairs])
        if figures is not None:
            say(
                f"Yes: precision {_share(figures.precision)}, recall {_share(figures.recall)}, "
                f"F1 {_share(figures.f1)}; {figures.yes_share:.1%} of the answers."
            )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
