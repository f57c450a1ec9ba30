"""`python -m playground drift | grid | accuracy | card`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import (
    AsJson,
    ContextSize,
    Count,
    Level,
    Look,
    MaxTokens,
    Models,
    Names,
    Projectors,
    Questions,
    bytes_of,
    choose,
    followed,
    questions_of,
    range_of,
    say,
)
from playground.comparing import comparison_request
from playground.errors import BadInput
from playground.measuring import measure, results
from playground.measuring import ship_card as ship
from playground.settings import Settings
from playground.values.files import Variant
from playground.values.request import Runtime
from playground.wiring import open_parts


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a measuring command was given."""

    variants: str
    projector: str
    model: list[Path] | None
    questions: Path | None
    level: str
    n: int
    max_tokens: int
    n_ctx: int


@dataclass(frozen=True, slots=True)
class _Found:
    measurement: results.Measurement
    variants: tuple[Variant, ...]
    reference: str
    engine: str
    machine: str


def drift(
    variants: Names = "",
    projector: Projectors = "",
    model: Models = None,
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 50,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    look: Look = False,
    as_json: AsJson = False,
) -> None:
    """How far each variant's distributions lie from the reference's, on images."""
    asked = _Asked(variants, projector, model, questions, level, n, max_tokens, n_ctx)
    found = _measure(asked, results.MeasurementPlan(look=look, max_tokens=max_tokens))
    if as_json:
        typer.echo(msgspec.json.encode(found.measurement).decode())
        return
    _print_floor(found.measurement)
    typer.echo(f"{'variant':28} {'KL mean':>10} {'95 %':>21} {'p99':>9} {'same top':>9} {'same answer':>12}  looks")
    for v, r in zip(found.variants, found.measurement.results, strict=True):
        if r.mean_kl is None:
            typer.echo(f"{v.label:28} {'reference':>10}{'':62} {r.looks or ''}")
            continue
        assert r.same_top is not None
        assert r.same_answer is not None
        typer.echo(
            f"{v.label:28} {r.mean_kl.value:10.5f} {range_of(r.mean_kl, '.5f'):>21} {r.p99_kl:9.4f} "
            f"{r.same_top.value:9.2%} {r.same_answer.value:12.1%}  {r.looks or ''}"
        )


def grid(
    variants: Names = "",
    projector: Projectors = "F16,Q8_0,Q4_0,Q2_K",
    model: Models = None,
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 50,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    as_json: AsJson = False,
) -> None:
    """Language models by projectors: mean KL, and which half it comes from."""
    asked = _Asked(variants, projector, model, questions, level, n, max_tokens, n_ctx)
    found = _measure(asked, results.MeasurementPlan(max_tokens=max_tokens))
    effects = results.grid(found.measurement, found.variants, found.reference)
    if not effects:
        raise BadInput("A grid needs at least two language models and two projectors.")
    if as_json:
        typer.echo(msgspec.json.encode(found.measurement).decode())
        return
    _print_floor(found.measurement)
    columns = list(dict.fromkeys(e.projector for e in effects))
    typer.echo(f"{'mean KL, nats a token':24}" + "".join(f"{'mmproj ' + p:>14}" for p in columns))
    for name in dict.fromkeys(e.model for e in effects):
        cells = {e.projector: e.kl for e in effects if e.model == name}
        typer.echo(f"{name:24}" + "".join(f"{cells[p]:14.5f}" if p in cells else f"{'–':>14}" for p in columns))
    typer.echo(results.which_half(effects))


def accuracy(
    variants: Names = "",
    projector: Projectors = "",
    model: Models = None,
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 100,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    as_json: AsJson = False,
) -> None:
    """Accepted answers, and whether a variant is better or worse than the reference on the same questions."""
    asked = _Asked(variants, projector, model, questions, level, n, max_tokens, n_ctx)
    found = _measure(asked, results.MeasurementPlan(drift=False, accuracy=True, max_tokens=max_tokens))
    if as_json:
        typer.echo(msgspec.json.encode(found.measurement).decode())
        return
    typer.echo(f"{'variant':28} {'accuracy':>9} {'95 %':>17} {'lost':>5} {'won':>4} {'p':>7}")
    for v, r in zip(found.variants, found.measurement.results, strict=True):
        if r.accuracy is None:
            typer.echo(f"{v.label:28} no accepted answers in the set")
            continue
        told = f"{v.label:28} {r.accuracy.value:9.1%} {range_of(r.accuracy, '.1%'):>17}"
        if r.against is not None:
            told += f" {r.against.only_first:5} {r.against.only_second:4} {r.against.p:7.3f}  {r.against.words}"
        typer.echo(told)


def card(
    variants: Names = "",
    projector: Projectors = "",
    model: Models = None,
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 50,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    max_size: Annotated[str, typer.Option(help="Of both files: 5MB, 1.2GB.")] = "",
    max_memory: Annotated[str, typer.Option(help="That both workers hold: 6GB.")] = "",
    min_speed: Annotated[float | None, typer.Option(help="Tokens a second.")] = None,
    max_kl: Annotated[float | None, typer.Option(help="Nats a token. Default: 0.01.")] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A file to write: .html, .json or .png; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Size, speed, drift and accuracy of some variants, and which one to ship under your limits."""
    from playground.rendering import card_view as shown  # noqa: PLC0415  the other commands need no Gradio

    asked = _Asked(variants, projector, model, questions, level, n, max_tokens, n_ctx)
    limits = ship.ShipLimits(
        max_bytes=bytes_of(max_size) if max_size else None,
        max_memory=bytes_of(max_memory) if max_memory else None,
        min_tokens_per_second=min_speed,
        max_kl=max_kl,
    )
    ship.check(limits)
    for path in out or ():
        shown.check_kind(path.suffix.removeprefix("."))
        if not path.parent.is_dir():
            raise BadInput(f"There is no folder {path.parent} to write {path.name} in.")
    found = _measure(asked, results.MeasurementPlan(accuracy=True, look=True, speed=True, max_tokens=max_tokens))
    made = ship.card(
        found.measurement,
        found.variants,
        found.reference,
        limits,
        engine=found.engine,
        machine=found.machine,
        set_name=questions.name if questions else f"embedded questions, {level or 'easy and hard'}",
        settings=f"greedy, {max_tokens} tokens at most, context {n_ctx}",
        command=shlex.join(["python", "-m", "playground", *sys.argv[1:]]),
    )
    for path in out or ():
        try:
            path.write_bytes(shown.write(path.suffix.removeprefix("."), made))
        except OSError as error:
            raise BadInput(f"{path} cannot be written: {error}.") from None
        say(f"{path} written.")
    if as_json:
        typer.echo(msgspec.json.encode(made).decode())
        return
    typer.echo(
        f"{'':2}{'variant':28} {'size':>9} {'memory':>10} {'tok/s':>8} {'KL':>9} {'accuracy':>9}  keeps the limits"
    )
    for row in made.rows:
        mark = "→ " if row.variant == made.recommended else "* " if row.pareto else "  "
        told = (
            f"{row.bytes / 1e6:.1f} MB",
            "–" if row.memory is None else f"{row.memory / 2**20:.0f} MiB",
            "–" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}",
            "–" if row.kl is None else f"{row.kl.value:.5f}",
            "–" if row.accuracy is None else f"{row.accuracy.value:.1%}",
        )
        typer.echo(
            f"{mark}{row.label:28} {told[0]:>9} {told[1]:>10} {told[2]:>8} {told[3]:>9} {told[4]:>9}  "
            f"{'; '.join(row.failing) or 'yes'}"
        )
    typer.echo("(* nothing here is as good in everything and better in something)")
    for reason in made.reasons:
        typer.echo(reason)


def _measure(asked: _Asked, plan: results.MeasurementPlan) -> _Found:
    with open_parts(Settings.read(), any_folder=True) as parts:
        variants = choose(parts, asked.model, asked.variants, asked.projector)
        reference = comparison_request.reference_of(variants)
        measuring = measure.MeasureJob(
            questions_of(parts, asked.questions, asked.level, asked.n),
            variants,
            reference,
            plan,
            Runtime(n_ctx=asked.n_ctx),
            parts.pool,
            parts.embeddings,
            parts.result_cache,
            lambda: False,
        )
        found = followed(measuring.run(), results.Measurement)
        engine, machine = parts.engine, parts.machine
    _tell(found.problems)
    return _Found(found, variants, reference, engine, machine)


def _tell(problems: Sequence[str]) -> None:
    for problem in problems[:20]:
        say(problem)


def _print_floor(found: results.Measurement) -> None:
    floors = ", ".join(f"{name} {kl:.1e}" for name, kl in found.floors.items())
    typer.echo(f"{len(found.questions)} questions. Noise floor (the reference against itself): {floors}")
