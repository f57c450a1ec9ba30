"""`python -m playground gate`: the exit code says whether a candidate may replace the reference."""

from __future__ import annotations

import traceback
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer

from playground.cli.measured import check_for_pack, measure_against, measure_here
from playground.cli.options import (
    AsJson,
    PackFile,
    QuestionOptions,
    ResultsOptions,
    check_folder_of,
    derived,
    followed,
    listed,
    questions_of,
    say,
    say_problems,
    with_options,
    write_file,
)
from playground.errors import BadInput, PlaygroundError
from playground.measuring import gate as verdicts
from playground.measuring import packs, release_checks, results, suite_source
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import SampleRecord
from playground.measuring.release_checks import Outcome, ReleaseCheck, ReleaseLimits
from playground.settings import Settings
from playground.values import durations
from playground.values.files import Variant
from playground.values.request import PromptForm, Runtime
from playground.wiring import Parts, open_parts

NOT_RUN = 3
_TIMED = 3  # questions that are measured to say how long all take
_PAIR_HELP = "Each is a variant's label or id, or two files: model.gguf+mmproj.gguf."


class _Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What --json prints. It grows; a key that is there stays."""

    exit_code: int
    reference: str = ""
    labels: dict[str, str] = {}  # by the id of a variant
    checks: tuple[ReleaseCheck, ...] = ()
    questions: int = 0
    left_out: int = 0
    sample: SampleRecord | None = None
    form: PromptForm | None = None  # of every question; absent: nothing was given
    engine: str = ""
    machine: str = ""
    elapsed_s: float = 0.0
    error: str | None = None  # why it could not run


class GateOptions(msgspec.Struct, frozen=True):
    reference: str  # empty: the pack
    candidates: tuple[str, ...]
    limits: ReleaseLimits
    questions: QuestionOptions
    shared: ResultsOptions
    pack: Path | None = None


@with_options
def gate(
    candidate: Annotated[
        list[str], typer.Option(help=f"The variant that may replace the reference. {_PAIR_HELP} Repeatable.")
    ],
    questions: QuestionOptions,
    shared: ResultsOptions,
    reference: Annotated[str, typer.Option(help="The variant that works, likewise; or --pack in its place.")] = "",
    pack: PackFile = None,
    max_kl: Annotated[
        float | None, typer.Option(help="Mean KL, nats per token: the larger of the means over tokens and questions.")
    ] = None,
    max_changed: Annotated[
        float | None, typer.Option(help="Accepted share of changed answers. Default: 0.05 if no other limit is given.")
    ] = None,
    not_worse: Annotated[
        bool, typer.Option("--not-worse", help="Accuracy must not fall by more than --margin.")
    ] = False,
    margin: Annotated[float, typer.Option(help="For --not-worse: accepted loss, in points.")] = 5.0,
    plan: Annotated[
        bool, typer.Option("--plan", help=f"Measure {_TIMED} questions, say how long all take and what they can show.")
    ] = False,
    junit: Annotated[Path | None, typer.Option(help="Write a JUnit report: one test case for each check.")] = None,
    as_json: AsJson = False,
) -> None:
    """May a candidate replace the reference? Exit code 0: yes. 1: its quality fell. 2: too few questions to tell.
    3: it could not be measured."""
    try:
        if junit is not None:
            check_folder_of(junit)
    except BadInput as error:
        _fail(error.message, None, as_json=as_json)
    try:
        options = GateOptions(
            reference=reference,
            candidates=tuple(listed_pairs(candidate)),
            limits=_limits(max_kl, max_changed, margin, not_worse=not_worse),
            questions=questions,
            shared=shared,
            pack=pack,
        )
        if bool(reference) == (pack is not None):
            raise BadInput("Give --reference or --pack, one of the two.")
        if pack is not None:
            check_for_pack(questions)
        if pack is not None and plan:
            raise BadInput("--plan times a reference's answers, and a pack has them. Leave out --plan.")
        shared.check()
        if plan:
            _plan(options)
            return
        report = _measured(options)
    except PlaygroundError as error:
        _fail(error.message, junit, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:  # Python would end with 1, which means that the quality fell
        say(traceback.format_exc())
        _fail(f"{type(error).__name__}: {error}", junit, as_json=as_json)
    _end(report, junit, as_json=as_json)


def _limits(max_kl: float | None, max_changed: float | None, margin: float, *, not_worse: bool) -> ReleaseLimits:
    """`margin`: in points. Raises BadInput."""
    if not 0 < margin < 100:
        raise BadInput("--margin has to be between 0 and 100 points.")
    if max_changed is not None and not 0 < max_changed < 1:
        raise BadInput("--max-changed has to be a share between 0 and 1.")
    if max_kl is not None and not max_kl > 0:
        raise BadInput("--max-kl has to be above 0.")
    if max_changed is None and max_kl is None and not not_worse:
        max_changed = verdicts.MARGIN
    return ReleaseLimits(max_kl, max_changed, margin / 100 if not_worse else None)


def listed_pairs(values: Sequence[str]) -> list[str]:
    """Values that may hold commas, but for two files of one pair."""
    return [part for value in values for part in ([value] if ".gguf" in value else listed([value]))]


def _measured(options: GateOptions) -> _Report:
    with open_parts(Settings.read(), any_folder=True) as parts:
        if options.pack is not None:
            variants = tuple({v.id: v for name in options.candidates for v in [_variant(parts, name)]}.values())
            measured = measure_against(parts, packs.read(options.pack), options.questions, variants, _wanted(options))
        else:
            variants, reference = _variants(parts, options)
            plan = options.questions.limits(_wanted(options))
            measured = measure_here(parts, options.questions, variants, plan, reference)
    measurement = measured.measurement
    say_problems(measurement.problems)
    options.shared.write(lambda: measured.document(options.shared.uploader))
    checks = release_checks.release_checks(measurement, measured.reference, options.limits)
    return _Report(
        exit_code=release_checks.exit_code(checks),
        reference=measured.reference,
        labels={variant.id: variant.label for variant in measured.variants},
        checks=checks,
        questions=len(measurement.questions),
        left_out=measurement.left_out,
        sample=measurement.sample,
        form=measurement.form,
        engine=measured.engine,
        machine=measured.machine,
        elapsed_s=measurement.elapsed_s,
    )


def _plan(options: GateOptions) -> None:
    """Prints how long the measurement will take. What is measured for that is cached, so nothing is lost."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        request = _request(parts, options)
        questions = request.questions
        places = range(len(questions.items))
        for part in (places[:1], places[1 : 1 + _TIMED]):  # the first one loads the models
            timed = msgspec.structs.replace(request, questions=questions.only(part or places))
            measurement = followed(MeasureJob(parts.lab, timed).run(), results.Measurement)
    seconds = measurement.elapsed_s / len(measurement.questions) * len(questions.items)
    n, timed_questions = len(questions.items), len(measurement.questions)
    typer.echo(f"{n} questions take {durations.about(seconds)} here, by {timed_questions} of them.")
    typer.echo(suite_source.what_it_shows(len(questions.items)))


def _request(parts: Parts, options: GateOptions) -> MeasureRequest:
    variants, reference = _variants(parts, options)
    questions = questions_of(parts, options.questions)
    plan, runtime = options.questions.limits(_wanted(options)), Runtime(n_ctx=options.questions.n_ctx)
    return MeasureRequest(questions, variants, reference, plan, runtime, options.questions.form)


def _variants(parts: Parts, options: GateOptions) -> tuple[tuple[Variant, ...], str]:
    """The reference and the candidates, each once; and the reference's id."""
    reference = _variant(parts, options.reference)
    candidates = [_variant(parts, name) for name in options.candidates]
    variants = tuple({variant.id: variant for variant in (reference, *candidates)}.values())
    if len(variants) < 2:
        raise BadInput("The candidate is the reference itself. Name another one.")
    return variants, reference.id


def _wanted(options: GateOptions) -> results.MeasurementPlan:
    limits = options.limits
    return results.MeasurementPlan(
        drift=limits.max_kl is not None or limits.max_changed is not None,
        accuracy=limits.max_loss is not None,
    )


def _variant(parts: Parts, name: str) -> Variant:
    """Of a label, an id, or model.gguf+mmproj.gguf. Raises BadInput."""
    model, plus, projector = name.partition(".gguf+")
    if plus:
        return parts.catalog.open_pair(Path(f"{model}.gguf"), Path(projector))
    if name.endswith(".gguf"):
        raise BadInput(f"Give both files of the pair: {name}+mmproj.gguf.")
    chosen = derived(parts).choose([name])
    if len(chosen) > 1:
        ids = ", ".join(variant.id for variant in chosen)
        raise BadInput(f"{name} is the label of {len(chosen)} variants. Give an id: {ids}.")
    return chosen[0]


def _end(report: _Report, junit: Path | None, *, as_json: bool) -> NoReturn:
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        for check in report.checks:
            words = check.words.removeprefix("Not enough questions: ")  # the outcome says it
            typer.echo(f"{report.labels[check.candidate]}, {check.check}: {check.outcome}. {words}")
        if report.form is not None:
            typer.echo(f"asked with: {report.form.words}")
        if report.left_out:
            typer.echo(f"{report.left_out} questions could not be asked.")
    if junit is not None:
        try:
            _write(junit, report)
        except PlaygroundError as error:
            _fail(error.message, None, as_json=False)
    raise typer.Exit(report.exit_code)


def _fail(message: str, junit: Path | None, *, as_json: bool) -> NoReturn:
    report = _Report(NOT_RUN, error=message)
    say(f"Error: {message}")
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    if junit is not None:
        try:
            _write(junit, report)
        except PlaygroundError as error:
            say(f"Error: {error.message}")
    raise typer.Exit(NOT_RUN)


def _write(path: Path, report: _Report) -> None:
    """A check that failed is a failure; one without a verdict is an error, so that no report looks green by it."""
    failed = sum(check.outcome is Outcome.FAILED for check in report.checks)
    open_ = sum(check.outcome in (Outcome.UNKNOWN, Outcome.UNMEASURED) for check in report.checks)
    errors = open_ + (report.error is not None)
    tests = len(report.checks) + (report.error is not None)
    suite = ET.Element(
        "testsuite",
        name="playground gate",
        tests=str(tests),
        failures=str(failed),
        errors=str(errors),
        time=f"{report.elapsed_s:.1f}",
    )
    for check in report.checks:
        case = ET.SubElement(suite, "testcase", classname=report.labels[check.candidate], name=check.check)
        if check.outcome is Outcome.PASSED:
            ET.SubElement(case, "system-out").text = check.words
        else:
            kind = "failure" if check.outcome is Outcome.FAILED else "error"
            ET.SubElement(case, kind, type=str(check.outcome), message=check.words)
    if report.error is not None:
        case = ET.SubElement(suite, "testcase", classname="playground gate", name="measurement")
        ET.SubElement(case, "error", type="could not run", message=report.error)
    write_file(path, ET.tostring(suite, encoding="utf-8", xml_declaration=True))
