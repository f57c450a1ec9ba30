"""`python -m playground suites`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import tomlkit
import typer

from playground.cli.options import AsJson, Count, Seed
from playground.errors import BadInput, cannot_write
from playground.measuring import statistics, suite_source
from playground.measuring.question_sets import DEFAULT_QUESTIONS
from playground.measuring.suite_samples import SampleJob
from playground.measuring.suites import Suite, read_suites
from playground.settings import Settings
from playground.wiring import open_parts


class _Outlook(msgspec.Struct, frozen=True):
    """What a sample would be, before anything of it is fetched."""

    suite: Suite
    commit: str
    licence: str
    rows: int
    questions: int
    seed: int
    row_groups: int  # still to be fetched
    bytes: int
    shows: float | None  # the difference of two accuracies that is shown in 80 % of cases


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
    as_json: AsJson = False,
) -> None:
    """List the suites, or show one before it runs: columns, prompt, what is fetched, and what n questions can show."""
    if not name:
        _list(as_json=as_json)
        return
    outlook = _outlook(name, n, seed)
    if out is not None:
        _write(out, outlook.suite)
    if as_json:
        typer.echo(msgspec.json.encode(outlook).decode())
        return
    suite = outlook.suite
    typer.echo(f"{suite.name}: {suite.repo}, {suite.split}, commit {outlook.commit[:12]}, {outlook.rows:,} rows")
    typer.echo(f"licence: {outlook.licence or 'the repository names none'}")
    columns = msgspec.to_builtins(suite.columns)
    typer.echo("columns: " + ", ".join(f"{role} = {column}" for role, column in columns.items()))
    typer.echo(f"prompt: {suite.before!r} + question + {suite.after!r}; rule {suite.rule}")
    typer.echo(f"source: {suite.evidence or 'not named'}")
    if outlook.row_groups:
        typer.echo(f"to fetch: {outlook.bytes / 1e6:,.1f} MB in {outlook.row_groups} row groups")
    else:
        typer.echo("to fetch: nothing, this sample is on this machine")
    typer.echo(suite_source.what_it_shows(outlook.questions))
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


def _outlook(name: str, n: int, seed: int) -> _Outlook:
    with open_parts(Settings.read(), any_folder=True) as parts:
        opened = suite_source.open_suite(parts.hub, suite_source.SuiteChoice(name, n, seed))
        job = SampleJob(opened.suite, opened.table, n, seed, parts.samples)
        groups, size = job.cost(job.order)
    questions = min(n, opened.table.n_rows)
    return _Outlook(
        suite=opened.suite,
        commit=opened.table.commit,
        licence=opened.table.licence or opened.suite.licence,
        rows=opened.table.n_rows,
        questions=questions,
        seed=seed,
        row_groups=groups,
        bytes=size,
        shows=statistics.detectable_difference(questions),
    )


def _write(path: Path, suite: Suite) -> None:
    if path.exists():
        raise BadInput(f"{path} exists. Choose another name.")
    try:
        path.write_text(tomlkit.dumps(msgspec.to_builtins(suite)))
    except OSError as error:
        raise cannot_write(path, error) from None
