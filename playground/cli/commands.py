"""All commands of `python -m playground`. What the page does, they do without a browser."""

from __future__ import annotations

import sys

import typer

from playground.cli import compare, measure, models, quantize
from playground.errors import PlaygroundError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

for _command in (
    compare.variants,
    compare.compare,
    measure.drift,
    measure.grid,
    measure.accuracy,
    measure.card,
    quantize.quantize,
    quantize.sensitivity,
    models.doctor,
    models.download,
    models.presets,
):
    app.command()(_command)


def main() -> None:
    """Run one command; an error meant for people ends it with exit code 2."""
    try:
        app(standalone_mode=True)
    except PlaygroundError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
