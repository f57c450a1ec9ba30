"""Compare, measure and quantize vision-language models. `serve` opens the page; the other commands need no browser.

Where a command takes several variants, --model, --projector and --variants may be repeated, and each value may be
several, separated by commas.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import Any, TextIO

import typer
from typer.core import TyperCommand, TyperOption

from playground.cli import (
    agent,
    compare,
    gate,
    measure,
    models,
    pack,
    parity,
    quantize,
    results,
    score,
    serve,
    study,
    suites,
)
from playground.errors import BadInput, PlaygroundError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


class _Command(TyperCommand):
    """A command that never drops a value silently: an option that takes one value may be given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        *_, given = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(option for option in given if isinstance(option, TyperOption)).items():
            if times > 1 and not (option.multiple or option.is_flag):
                raise BadInput(f"{option.opts[0]} was given {times} times; give it once.")
        return super().parse_args(ctx, args)


class _GateCommand(_Command):
    """Its exit code 2 means "not enough questions": an invalid command line ends with 3."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except PlaygroundError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(gate.NOT_RUN) from None
        except Exception as error:
            if getattr(error, "exit_code", 0) == 2:  # Click's errors of usage
                error.exit_code = gate.NOT_RUN  # type: ignore[attr-defined]
            raise


for _command in (
    serve.serve,
    compare.variants,
    compare.compare,
    measure.drift,
    measure.grid,
    measure.accuracy,
    measure.card,
    gate.gate,
    parity.parity,
    score.score,
    suites.suites,
    study.study,
    quantize.quantize,
    quantize.sensitivity,
    models.doctor,
    models.download,
    models.presets,
    agent.agent,
):
    app.command(cls=_GateCommand if _command is gate.gate else _Command)(_command)

_packs = typer.Typer(no_args_is_help=True, help="Reference packs: a reference's answers and probabilities in one file.")
_packs.command(cls=_Command)(pack.make)
_packs.command(cls=_Command)(pack.show)
_packs.command(cls=_Command)(pack.push)
_packs.command(cls=_Command)(pack.pull)
app.add_typer(_packs, name="pack")

_results = typer.Typer(
    cls=results.ResultsGroup,
    no_args_is_help=True,
    help="Results documents: one table over them (show, the default); push.",
)
_results.command(cls=_Command)(results.show)
_results.command(cls=_Command)(results.push)
app.add_typer(_results, name="results")


# Colours, and the clearing of a line, which these commands write themselves; and control characters.
_CONTROL = re.compile(r"(\r?\x1b\[(?:[\d;]*m|K))|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def shown(text: str) -> str:
    """As a terminal may get it: names, metadata and answers of strangers could change its title or the clipboard."""
    return _CONTROL.sub(lambda match: match[1] or "", text)


class _Terminal:
    """A terminal that gets what `shown` leaves of a text. Nothing else of it is changed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(shown(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Run one command. An error that is meant for people ends it with exit status 2."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name).isatty():
            setattr(sys, name, _Terminal(getattr(sys, name)))
    try:
        app(standalone_mode=True)
    except PlaygroundError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(2)
