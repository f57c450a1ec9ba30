"""`python -m playground suites`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import tomlkit
import typer

from playground.cli.options import (
    AsJson,
    Count,
    Models,
    Names,
    Projectors,
    Seed,
    VariantOptions,
    check_new,
    choose,
    write_file,
)
from playground.measuring import pace, statistics, suite_source
from playground.measuring.question_sets import DEFAULT_QUESTIONS
from playground.measuring.suite_source import Outlook
from playground.measuring.suites import read_suites
from playground.settings import Settings
from playground.wiring import open_parts


def suites(
    name: Annotated[
        str, typer.Argument(help="A suite, a suite's .toml, or owner/name[:config][:split]. Without it: list them.")
    ] = "",
    n: Count = DEFAULT_QUESTIONS,
    seed: Seed = 0,
    difference: Annotated[
        float | None, typer.Option(help="In points: also print how many questions show such a difference.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the suite, or the guess, as TOML, to change it.")] = None,
    variants: Names = None,
    projector: Projectors = None,
    model: Models = None,
    as_json: AsJson = False,
) -> None:
    """List the suites, or show one before it runs: columns, prompt, what is fetched, what n questions can show, and how
    long these variants take here."""
    if not name:
        _list(as_json=as_json)
        return
    if out is not None:
        check_new(out)
    outlook, time = _outlook(name, n, seed, VariantOptions(variants=variants, projector=projector, model=model))
    if out is not None:
        write_file(out, tomlkit.dumps(msgspec.to_builtins(outlook.suite)).encode())
    if as_json:
        typer.echo(msgspec.json.encode(outlook).decode())
        return
    *about, shows = outlook.lines
    for line in about:
        typer.echo(line)
    suite = outlook.suite
    typer.echo(f"prompt: {suite.before!r} + question + {suite.after!r}; rule {suite.rule}")
    typer.echo(f"source: {suite.evidence or 'not named'}")
    typer.echo(shows)
    if time:
        typer.echo(time)
    if difference is not None:
        needed = statistics.questions_for_difference(difference / 100)
        count = "More than 100,000" if needed is None else f"About {needed:,}"
        typer.echo(f"{count} questions show {difference:g} points.")


def _list(*, as_json: bool) -> None:
    known = read_suites()
    if as_json:
        typer.echo(msgspec.json.encode(known).decode())
        return
    for id, suite in known.items():
        size = "" if suite.size is None else f"{suite.size:,}"
        typer.echo(f"{id:14} {size:>7} rows  {suite.rule:12} {suite.repo:32} {suite.licence or 'licence unknown'}")


def _outlook(name: str, n: int, seed: int, chosen: VariantOptions) -> tuple[Outlook, str]:
    """And how long the chosen variants will take here; empty if none are."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        outlook = suite_source.outlook(parts.hub, suite_source.SuiteChoice(name, n, seed), parts.samples)
        variants = choose(parts, chosen) if chosen != VariantOptions() else ()
        time = (
            pace.outlook(parts.result_cache, variants, outlook.questions, outlook.suite.max_tokens) if variants else ""
        )
    return outlook, time
