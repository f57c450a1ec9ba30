"""`python -m playground drift | grid | accuracy | card`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.measured import MeasuredVariants, check_for_pack, measure_against, measure_here
from playground.cli.options import (
    AsJson,
    AxisOptions,
    EndpointNames,
    Look,
    PackFile,
    QuestionOptions,
    ResultsOptions,
    VariantOptions,
    axes_of,
    bytes_of,
    check_folder_of,
    choose,
    listed,
    range_of,
    say,
    say_problems,
    with_options,
    write_file,
)
from playground.comparing import axes
from playground.errors import BadInput
from playground.measuring import gate, packs, parity, results, statistics
from playground.measuring import ship_card as ship
from playground.measuring.summaries import kl_sums
from playground.settings import Settings
from playground.values.counts import counted
from playground.wiring import open_parts

_ENCODE = f"{'encode':>10}"
_GRID_PROJECTORS = "F16,Q8_0,Q4_0,Q2_K"
ReferenceLabel = Annotated[
    str | None, typer.Option("--reference", help="Label or id of the reference. Default: the most precise variant.")
]


@with_options
def drift(
    choice: VariantOptions,
    questions: QuestionOptions,
    sweep: AxisOptions,
    shared: ResultsOptions,
    look: Look = False,
    pack: PackFile = None,
    endpoint: Annotated[
        str, typer.Option(help="The name of a server elsewhere as the reference: each KL is then a lower bound.")
    ] = "",
    reference: ReferenceLabel = None,
    as_json: AsJson = False,
) -> None:
    """How far each variant's distributions lie from the reference's, on images."""
    plan = results.MeasurementPlan(look=look)
    if endpoint and reference is not None:
        raise BadInput("The server is the reference. Leave out --reference or --endpoint.")
    servers = [endpoint] if endpoint else ()
    measured = _measure(choice, questions, sweep, shared, plan, pack, servers, endpoint or reference)
    if as_json:
        _print_json(measured)
        return
    _print_floor(measured.measurement)
    kl = "KL at least" if endpoint else "KL/token"
    timed = any(r.speed is not None for r in measured.measurement.results)
    typer.echo(
        f"{'variant':28} {'changed':>9} {'at most':>8} {kl:>9} {'/question':>9} {'noise floor':>11}"
        f"{_ENCODE if timed else ''}  verdict"
    )
    gates = gate.gates(measured.measurement.results, measured.measurement.questions, measured.reference)
    for v, r in zip(measured.variants, measured.measurement.results, strict=True):
        if v.id == measured.reference:
            typer.echo(f"{v.label:28} {'reference':>9}{'':38} {_floor(r.floor)}{_encode(r)}  {r.looks or ''}".rstrip())
            continue
        judged, sums = gates[v.id], statistics.heavy(kl_sums(r.items))
        if judged.changed is None or sums is None:
            failed = sum(item.error is not None for item in r.items)
            typer.echo(f"{v.label:28} {'failed':>9} on {failed} of {len(r.items)} questions")
            continue
        within = " (= noise)" if r.within_arithmetic else ""
        counts = f"{judged.changed.hits} of {judged.changed.n}"
        typer.echo(
            f"{v.label:28} {counts:>9} {judged.changed.at_most:8.1%} {sums.per_token:9.2g} {sums.per_question:9.2g} "
            f"{_floor(r.floor)}{_encode(r)}  {judged.verdict}{within}{f', {r.looks}' if r.looks else ''}"
        )
    if sentence := gate.sentence(measured.measurement, measured.variants, measured.reference):
        typer.echo(sentence)
    rare = statistics.unseen(len(measured.measurement.questions))
    typer.echo(
        f"changed: answers that differ from the reference's; at most: the share that would, in all questions of this "
        f"kind (95 %). A mean KL has no bound: questions rarer than {rare:.1%} may dominate it."
    )
    if any(gates[v.id].changed is None for v in measured.variants if v.id != measured.reference):
        raise typer.Exit(1)
    _fail_if_left_out(measured.measurement)


def _floor(value: float | None) -> str:
    return f"{'–':>11}" if value is None else f"{value:11.2g}"


def _encode(result: results.VariantResult) -> str:
    """Where speeds were measured: of an axis of image tokens."""
    if result.speed is None:
        return ""
    return f"{'–':>10}" if result.speed.encode_s is None else f"{result.speed.encode_s * 1000:7.0f} ms"


@with_options
def grid(
    choice: VariantOptions,
    questions: QuestionOptions,
    sweep: AxisOptions,
    shared: ResultsOptions,
    pack: PackFile = None,
    reference: ReferenceLabel = None,
    as_json: AsJson = False,
) -> None:
    """Language models by projectors (default: F16, Q8_0, Q4_0, Q2_K): mean KL, and which half it comes from."""
    if not choice.projector and not choice.model:
        choice = replace(choice, projector=[_GRID_PROJECTORS])
    measured = _measure(choice, questions, sweep, shared, results.MeasurementPlan(), pack, reference=reference)
    effects = results.grid(measured.measurement, measured.variants, measured.reference)
    if not effects:
        raise BadInput("A grid needs at least two language models and two projectors.")
    if as_json:
        _print_json(measured)
        return
    _print_floor(measured.measurement)
    columns = list(dict.fromkeys(e.projector for e in effects))
    typer.echo(f"{'mean KL, nats a token':24}" + "".join(f"{'mmproj ' + p:>14}" for p in columns))
    for name in dict.fromkeys(e.model for e in effects):
        cells = {e.projector: e.kl for e in effects if e.model == name}
        typer.echo(f"{name:24}" + "".join(f"{cells[p]:14.5f}" if p in cells else f"{'–':>14}" for p in columns))
    if sentence := results.which_half(effects):
        typer.echo(sentence)
    _fail_if_left_out(measured.measurement)


@with_options
def accuracy(
    choice: VariantOptions,
    questions: QuestionOptions,
    sweep: AxisOptions,
    shared: ResultsOptions,
    endpoint: EndpointNames = None,
    pack: PackFile = None,
    reference: Annotated[
        str | None, typer.Option(help="Label or id of the variant, or name of the endpoint, to compare with.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Accepted answers, and whether a variant is better or worse than the reference on the same questions."""
    plan = results.MeasurementPlan(drift=False, accuracy=True)
    measured = _measure(choice, questions, sweep, shared, plan, pack, listed(endpoint), reference)
    if as_json:
        _print_json(measured)
        return
    typer.echo(f"{'variant':28} {'accuracy':>9} {'95 %':>17} {'lost':>5} {'won':>4} {'p':>7}")
    for v, r in zip(measured.variants, measured.measurement.results, strict=True):
        if r.accuracy is None:
            typer.echo(f"{v.label:28} no accepted answers in the set")
            continue
        row = f"{v.label:28} {r.accuracy.value:9.1%} {range_of(r.accuracy, '.1%'):>17}"
        if r.against is not None:
            row += f" {r.against.only_first:5} {r.against.only_second:4} {r.against.p:7.3f}  {r.against.words}"
        if r.truncated:
            row += f"  {r.truncated} of {len(r.items)} answers cut off: raise --max-tokens"
        if r.in_reasoning:
            row += f"  {r.in_reasoning} still reasoning: set --reasoning-tokens"
        typer.echo(row)
    _print_asking(measured.measurement)
    _fail_if_left_out(measured.measurement)


@with_options
def card(
    choice: VariantOptions,
    questions: QuestionOptions,
    sweep: AxisOptions,
    shared: ResultsOptions,
    max_size: Annotated[str, typer.Option(help="Size of both files: 5MB, 1.2GB.")] = "",
    max_memory: Annotated[str, typer.Option(help="Memory that both workers hold: 6GB.")] = "",
    min_speed: Annotated[float | None, typer.Option(help="Tokens per second.")] = None,
    max_kl: Annotated[float | None, typer.Option(help="Mean KL, nats per token, by either weighting.")] = None,
    max_changed: Annotated[
        float | None, typer.Option(help="Share of changed answers that you accept. Default: 0.05.")
    ] = None,
    out: Annotated[
        list[Path] | None, typer.Option(help="A file to write: .html, .json or .png; may be repeated.")
    ] = None,
    pack: PackFile = None,
    reference: ReferenceLabel = None,
    as_json: AsJson = False,
) -> None:
    """Size, speed, drift and accuracy of some variants, and which one to ship under your limits."""
    from playground.rendering import card_view  # noqa: PLC0415  the other commands need no Gradio

    limits = ship.ShipLimits(
        max_bytes=bytes_of(max_size) if max_size else None,
        max_memory=bytes_of(max_memory) if max_memory else None,
        min_tokens_per_second=min_speed,
        max_kl=max_kl,
        max_changed=max_changed,
    )
    ship.check(limits)
    for path in out or ():
        card_view.check_kind(path.suffix.removeprefix("."))
        check_folder_of(path)
    plan = results.MeasurementPlan(accuracy=True, look=True, speed=True)
    measured = _measure(choice, questions, sweep, shared, plan, pack, reference=reference)
    made = ship.card(
        measured.measurement,
        measured.variants,
        measured.reference,
        limits,
        engine=measured.engine,
        machine=measured.machine,
        set_name=measured.set_name,
        settings=ship.settings_line(measured.plan, questions.n_ctx, measured.measurement.form),
        command=shlex.join(["python", "-m", "playground", *sys.argv[1:]]),
    )
    for path in out or ():
        write_file(path, card_view.write(path.suffix.removeprefix("."), made))
        say(f"{path} written.")
    if as_json:
        typer.echo(msgspec.json.encode(made).decode())
    else:
        _print_card(made)
    _fail_if_left_out(measured.measurement)


def _print_card(made: ship.ShipCard) -> None:
    typer.echo(
        f"{'':2}{'variant':28} {'size':>9} {'changed':>10} {'KL':>9} {'accuracy':>9} {'tok/s':>8} {'memory':>10}  "
        "passes"
    )
    for row in made.rows:
        mark = "→ " if row.variant == made.recommended else "  "
        memory = "–" if row.memory is None else f"{row.memory / 2**20:.0f} MiB"
        speed = "–" if row.tokens_per_second is None else f"{row.tokens_per_second:.0f}"
        kl = "–" if row.kl is None else f"{row.kl.value:.2g}"
        counted = row.gate.changed if row.gate else None
        changed = "–" if counted is None else f"{counted.hits} of {counted.n}"
        correct = "–" if row.accuracy is None else f"{row.accuracy.value:.1%}"
        typer.echo(
            f"{mark}{row.label:28} {f'{row.bytes / 1e6:.1f} MB':>9} {changed:>10} {kl:>9} {correct:>9} {speed:>8} "
            f"{memory:>10}  "
            f"{'; '.join(row.failing) or 'yes'}"
        )
    for reason in made.reasons:
        typer.echo(reason)
    typer.echo(parity.words(made.parity))


def _measure(
    choice: VariantOptions,
    questions: QuestionOptions,
    sweep: AxisOptions,
    shared: ResultsOptions,
    plan: results.MeasurementPlan,
    pack: Path | None = None,
    endpoints: Sequence[str] = (),
    reference: str | None = None,
) -> MeasuredVariants:
    """Measures, and writes the results document if one is wanted.

    `endpoints`: answer as well. `reference`: a variant, or one of them; None: the most precise variant.
    """
    shared.check()
    if reference in endpoints and (pack is not None or shared.results is not None):
        raise BadInput("With --endpoint as the reference there is no --pack, and no --results: its files are unknown.")
    if pack is not None and endpoints:
        raise BadInput("A server elsewhere is not measured against a pack. Leave out --endpoint or --pack.")
    if pack is not None and reference is not None:
        raise BadInput("The pack is the reference. Leave out --reference or --pack.")
    if pack is not None:
        check_for_pack(questions)
    with open_parts(Settings.read(), any_folder=True) as parts:
        variants = axes.spread(choose(parts, choice), axes_of(sweep))
        if pack is not None:
            measured = measure_against(parts, packs.read(pack), questions, variants, plan)
        else:
            variants += parts.endpoints.choose(endpoints)
            measured = measure_here(parts, questions, variants, questions.limits(plan), reference)
    say_problems(measured.measurement.problems)
    shared.write(lambda: measured.document(shared.uploader))
    return measured


def _fail_if_left_out(measurement: results.Measurement) -> None:
    """The numbers are then of fewer questions than were wanted. Raises typer.Exit with status 1."""
    if measurement.left_out:
        n = len(measurement.questions) + measurement.left_out
        say(f"left out: {measurement.left_out} of {n} questions could not be asked; the reasons stand above.")
        raise typer.Exit(1)


def _print_json(measured: MeasuredVariants) -> None:
    """The measurement, and what the tests allow to say of it. Raises typer.Exit as `_fail_if_left_out`."""
    measurement, reference = measured.measurement, measured.reference
    judged = gate.gates(measurement.results, measurement.questions, reference)
    document = msgspec.to_builtins(measurement) | {
        "reference": reference,
        "verdict": gate.sentence(measurement, measured.variants, reference),
        "verdicts": {variant: said.verdict for variant, said in judged.items()},
    }
    typer.echo(msgspec.json.encode(document).decode())
    _fail_if_left_out(measurement)


def _print_floor(measurement: results.Measurement) -> None:
    floors = ", ".join(f"{name} {kl:.1e}" for name, kl in measurement.floors.items())
    left_out = f" ({measurement.left_out} left out)" if measurement.left_out else ""
    n = len(measurement.questions)
    itself = f" The reference against itself, nats a token: {floors}" if floors else ""
    typer.echo(f"{counted(n, 'question')}{left_out}.{itself}")
    _print_asking(measurement)


def _print_asking(measurement: results.Measurement) -> None:
    if measurement.form is not None:
        typer.echo(f"asked with: {measurement.form.words}")
    if measurement.asked_alone is not None:
        typer.echo(measurement.asked_alone.words)
