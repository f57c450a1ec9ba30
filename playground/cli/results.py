"""`python -m playground results SOURCE...` and `results push`: results documents of others, and to others."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

from playground.cli.options import AsJson, say
from playground.errors import BadInput
from playground.measuring import result_documents, result_sources, results_table
from playground.models.hub.client import Hub

Sort = StrEnum("Sort", {name: name for name in results_table.SORTS})  # type: ignore[misc]


class ResultsGroup(TyperGroup):
    """Without a command's name, the table is printed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["show", *args]
        return super().parse_args(ctx, args)


def show(
    sources: Annotated[
        list[str],
        typer.Argument(help="Folders, files, or dataset repositories of the Hub (owner/name, owner/name@revision)."),
    ],
    words: Annotated[
        str, typer.Option("--filter", help="Rows in which all these words stand: a model, a label, an uploader ...")
    ] = "",
    sort: Annotated[Sort | None, typer.Option(help="Sort by this column. Default: model, then size.")] = None,
    descending: Annotated[bool, typer.Option("--descending", help="The largest first.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All fields as CSV.")] = False,
    as_json: AsJson = False,
) -> None:
    """One table over the results documents of folders and dataset repositories."""
    from playground.rendering import results_view  # noqa: PLC0415  the other commands need no templates

    if as_csv and as_json:
        raise BadInput("Give --csv or --json, not both.")
    collected = result_sources.collect(sources, Hub(own_token=True))
    rows = results_table.matching(results_table.rows(collected.documents), words)
    if sort is not None:
        rows = results_table.ordered(rows, sort.value, descending=descending)
    elif descending:
        rows = rows[::-1]
    if as_json:
        document = {"rows": rows, "documents": len(collected.documents), "problems": collected.problems}
        typer.echo(msgspec.json.encode(document).decode())
    elif as_csv:
        typer.echo(results_view.written_csv(rows), nl=False)
    else:
        for line in results_view.lines(rows) if rows else ():
            typer.echo(line)
        n = len(collected.documents)
        typer.echo(f"{len(rows)} row{'s' * (len(rows) != 1)} of {n} document{'s' * (n != 1)}")
    for problem in collected.problems:
        say(results_table.plain(problem))
    if not collected.documents:
        raise typer.Exit(1)


def push(
    paths: Annotated[list[Path], typer.Argument(help="Results documents (.json).")],
    repo: Annotated[str, typer.Argument(help="A dataset repository of the Hub, owner/name; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Commit results documents to a dataset repository of the Hub, with your token (HF_TOKEN)."""
    names = [path.name for path in paths]
    if len(set(names)) != len(names):
        raise BadInput("Two of the files have one name. Rename one.")
    for path in paths:  # all of them, before the first one is pushed
        if path.suffix != ".json":
            raise BadInput(f"{path.name}: the name of a results document ends in .json.")
        result_documents.read(path)
    hub = Hub(own_token=True)
    for path in paths:
        commit = hub.push_to_dataset(repo, path, private=private)
        typer.echo(f"{repo}: {path.name}, commit {commit[:12]}")
