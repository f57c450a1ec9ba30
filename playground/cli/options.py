"""What the lab's commands have in common: options, the set of questions, how far it is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from playground.errors import BadInput
from playground.measuring import question_sets, results
from playground.measuring.statistics import Interval
from playground.quantizing import scan_results
from playground.quantizing.make_variant import CheckedVariant
from playground.values.files import Variant
from playground.wiring import Parts

_Found = TypeVar("_Found", results.Measurement, scan_results.Sensitivity, CheckedVariant)

Names = Annotated[str, typer.Option(help="Language model quantizations, separated by commas. Default: the preset's.")]
Projectors = Annotated[
    str,
    typer.Option(
        help="Projector quantizations, separated by commas; with --model the mmproj files. Default: the reference's."
    ),
]
Models = Annotated[list[Path] | None, typer.Option("--model", help="A language model's GGUF file; may be repeated.")]
Questions = Annotated[
    Path | None,
    typer.Option("--items", help="A folder or zip with images and an items.jsonl or .csv. Default: the embedded set."),
]
Level = Annotated[str, typer.Option(help="Of the embedded set: easy, hard, or both (empty).")]
Count = Annotated[int, typer.Option("-n", help="Questions, taken evenly from the set.")]
MaxTokens = Annotated[int, typer.Option(help="Of an answer.")]
ContextSize = Annotated[int, typer.Option("--ctx-size", help="Tokens.")]
Look = Annotated[bool, typer.Option("--look", help="Also ask with blank, shuffled and foreign images.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def questions_of(parts: Parts, own: Path | None, level: str, n: int) -> question_sets.QuestionSet:
    if not 0 < n <= question_sets.MAX_ITEMS:
        raise BadInput(f"-n has to be between 1 and {question_sets.MAX_ITEMS}.")
    return (question_sets.read_questions(own) if own else question_sets.embedded(parts.evaluation, level=level)).first(
        n
    )


def followed(updates: Iterator[results.Progress | _Found], kind: type[_Found]) -> _Found:
    """Shows how far it has come on a terminal; returns the last update."""
    found: _Found | None = None
    for update in updates:
        if isinstance(update, kind):
            found = update
        elif isinstance(update, results.Progress):
            left = f", {update.seconds_left:.0f} s left" if update.seconds_left is not None else ""
            line(f"{update.done} of {update.total}{left}: {update.what}")
    line("")
    assert found is not None
    return found


def choose(parts: Parts, models: list[Path] | None, names: str, projectors: str) -> tuple[Variant, ...]:
    """The pairs given by their files, or by name of those that are there."""
    wanted, halves = ([name.strip() for name in text.split(",") if name.strip()] for text in (names, projectors))
    if models:
        if not halves:
            raise BadInput("Give the mmproj file too: --model a.gguf --projector mmproj.gguf.")
        found = [parts.catalog.open_pair(model, Path(half)) for model in models for half in halves]
        # The first pair that was opened of a family is its reference until a more precise one comes.
        return tuple(v for v in parts.catalog.variants if v.id in {f.id for f in found})
    parts.catalog.derive(parts.pool.quantize, say)
    return parts.catalog.choose(wanted or list(parts.catalog.presets[0].ticked), halves)


def bytes_of(text: str) -> int:
    """Raises BadInput. Decimal units, as the Hub shows files."""
    found = re.fullmatch(r"([\d.]+) *([KMGT]?)B?", text.strip(), re.IGNORECASE)
    try:
        if found is None:
            raise ValueError
        return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))
    except (ValueError, OverflowError):
        raise BadInput(f"'{text[:40]}' is no size; write 5MB or 1.2GB.") from None


def range_of(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:{form}} – {interval.high:{form}}"


def line(text: str) -> None:
    """Replace the line that tells how far it is; on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")


def say(text: str) -> None:
    typer.echo(text, err=True)
