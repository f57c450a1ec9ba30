"""Runs a cell: its questions one after another, or one question about each picture of a gallery."""

from __future__ import annotations

import datetime
import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

from playground.comparing import branching, compare, comparison_request, run_settings
from playground.comparing.branching import BranchPoint
from playground.comparing.lab import Lab
from playground.errors import BadInput
from playground.measuring import endpoint_jobs, result_documents, ship_card
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.pack_jobs import PackJob
from playground.measuring.packs import Pack
from playground.measuring.question_sets import QuestionSet
from playground.measuring.result_documents import ResultDocument
from playground.measuring.results import Progress
from playground.measuring.ship_card import ShipCard
from playground.measuring.time_left import TimeLeft
from playground.notebooks import engine_changes
from playground.notebooks.cells import CellQuestions, CompareCell, Picture, Run, RunResult, RunState, without_paths
from playground.quantizing.scan_files import Workshop
from playground.quantizing.scan_results import Scan
from playground.quantizing.sensitivity_scan import ScanJob, ScanRequest
from playground.values.answer import ComparisonUpdate, PaneState
from playground.values.files import Variant
from playground.values.request import USUAL_FORM, Image, PromptForm


def new_run(cell: CompareCell, variants: Sequence[Variant], engine: str, machine: str) -> Run:
    """A run that is about to begin. Raises BadInput if the cell cannot be run."""
    run_settings.read_settings(msgspec.to_builtins(cell.settings))  # it may come from a file that somebody edited
    return Run(
        number=0,
        cell=cell,
        variants=tuple(without_paths(v) for v in variants),
        reference=comparison_request.reference_of(variants, cell.settings.reference),
        engine=engine,
        machine=machine,
        started=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    )


def continues(run: Run, fresh: Run) -> bool:
    """Whether `fresh`, a run that is about to begin, asks nothing but more questions after those that `run` answered,
    of the same files with the same engine."""

    def question_free(run: Run) -> Run:
        cell = msgspec.structs.replace(run.cell, id="", prompts=(), collapsed=False, version=0, marks=(), votes=())
        return msgspec.structs.replace(
            run, cell=cell, number=0, started="", state=RunState.DONE, elapsed_s=None, results=()
        )

    before, now = run.cell.prompts, fresh.cell.prompts
    return (
        run.state is RunState.DONE
        and question_free(run) == question_free(fresh)
        and len(run.results) == len(before) < len(now)
        and now[: len(before)] == before
        and not fresh.cell.gallery
    )


def against_pack(run: Run, pack: Pack, variants: Sequence[Variant]) -> Run:
    """The run, whose reference is a pack. Raises BadInput for what cannot be measured against one."""
    wanted = run.cell.questions
    if wanted is not None and wanted.sensitivity:
        raise BadInput(
            "Where bits can be saved is looked for in the reference's files. Take the pack away, or untick it."
        )
    elsewhere = [v.label for v in variants if v.endpoint]
    if elsewhere:
        raise BadInput(f"{', '.join(elsewhere)} answers elsewhere and is not measured against a pack. Untick it.")
    reference = pack.record.reference
    others = tuple(v for v in run.variants if v.id != reference.id)
    return msgspec.structs.replace(run, variants=(without_paths(reference), *others), reference=reference.id)


def measure_cell(
    run: Run,
    variants: Sequence[Variant],
    questions: QuestionSet,
    lab: Lab,
    workshop: Workshop,
    stop: compare.StopFlag,
    pack: Pack | None = None,
) -> Iterator[Progress | Run]:
    """Measure what the run's cell asks for. `pack`: the reference (`against_pack`).

    Yields Progress, the run as soon as it has its measurement, and at the end
    the run that is done. Raises what MeasureJob and ScanJob raise."""
    wanted = run.cell.questions
    assert wanted is not None
    started = time.monotonic()
    runtime, form = run.cell.settings.runtime(), run.cell.settings.prompt_form()
    chosen = questions.first(wanted.n)
    scanning, work = None, TimeLeft()
    if wanted.sensitivity:  # raises what is invalid before minutes are spent on the measurement
        reference = next(v for v in variants if v.id == run.reference)
        if reference.endpoint:
            raise BadInput(f"{reference.label} has no tensors here. Choose another reference for the scan.")
        source = replace(reference, id=reference.pair_id, overrides=None)  # the files alone are scanned
        limits = wanted.limits
        scan = Scan(restore=True, max_tokens=wanted.plan.max_tokens, max_bytes=limits.max_bytes, max_kl=limits.max_kl)
        scanning = ScanJob(lab, workshop, ScanRequest(source, chosen, scan, runtime, form), stop.wanted, work)
    if wanted.measures:
        if pack is not None:
            job: MeasureJob = PackJob(lab, pack, questions, variants, wanted.plan, runtime, stop.wanted)
        else:
            request = MeasureRequest(chosen, tuple(variants), run.reference, wanted.plan, runtime, form)
            job = endpoint_jobs.job_of(lab, request, stop.wanted, work)
        for update in job.run():
            if isinstance(update, Progress):
                yield update
            else:
                run = msgspec.structs.replace(run, measurement=update)
                yield run  # not to be lost with a scan that is stopped
    if scanning is not None:
        for scanned in scanning.run():
            if isinstance(scanned, Progress):
                yield scanned
            else:
                run = msgspec.structs.replace(run, sensitivity=scanned)
    yield msgspec.structs.replace(run, state=RunState.DONE, elapsed_s=time.monotonic() - started)


def card_of(run: Run) -> ShipCard | None:
    """The ship card of a run that measured drift."""
    wanted, measurement = run.cell.questions, run.measurement
    if wanted is None or measurement is None or all(r.mean_kl is None for r in measurement.results):
        return None
    if any(v.endpoint for v in run.variants if v.id == run.reference):
        return None  # its size is not known, and the drift from it is a lower bound
    runtime, plan = run.cell.settings.runtime(), wanted.plan
    command = [
        "python",
        "-m",
        "playground",
        "card",
        "--variants",
        ",".join(
            dict.fromkeys(
                v.pair_id for v in run.variants if not (v.endpoint or (wanted.pack and v.id == run.reference))
            )
        ),
    ]
    if wanted.pack:  # it settles the rest
        command += ["--pack", wanted.pack_name, *(["--items", wanted.name] if wanted.source else [])]
    else:
        command += ["--items", wanted.name] if wanted.source else ["--level", wanted.level]
        command += ["-n", str(wanted.n), "--max-tokens", str(plan.max_tokens)]
        command += ["--reasoning-tokens", str(plan.reasoning_tokens)] if plan.reasoning_tokens is not None else []
        command += _form_options(measurement.form or USUAL_FORM)
    command += ["--ctx-size", str(runtime.n_ctx)] if runtime.n_ctx is not None else []
    given = run.cell.settings
    for option, chosen in (("--kv-type", given.kv_types), ("--image-tokens", given.image_tokens)):
        command += [option, ",".join(map(str, chosen))] if chosen else []
    limits = wanted.limits
    command += ["--max-size", f"{limits.max_bytes}B"] if limits.max_bytes is not None else []
    command += ["--max-memory", f"{limits.max_memory}B"] if limits.max_memory is not None else []
    for option, value in (
        ("--min-speed", limits.min_tokens_per_second),
        ("--max-kl", limits.max_kl),
        ("--max-changed", limits.max_changed),
    ):
        command += [option, f"{value:g}"] if value is not None else []
    return ship_card.card(
        measurement,
        run.variants,
        run.reference,
        limits,
        engine=run.engine,
        machine=run.machine,
        set_name=set_name(wanted),
        settings=ship_card.settings_line(plan, runtime.n_ctx, measurement.form),
        command=shlex.join(command),
        when=run.started,
    )


def results_of(run: Run, uploader: str = "") -> ResultDocument | None:
    """The results document of a run that measured; `uploader`: a name that the person gives."""
    wanted, measurement = run.cell.questions, run.measurement
    if wanted is None or measurement is None:
        return None
    made = result_documents.document(
        measurement,
        run.variants,
        run.reference,
        engine=run.engine,
        machine=run.machine,
        set_name=set_name(wanted),
        plan=wanted.plan,
        runtime=run.cell.settings.runtime(),
        uploader=uploader,
        when=run.started,
    )
    if not wanted.pack:
        return made
    return msgspec.structs.replace(made, reference=msgspec.structs.replace(made.reference, pack_sha256=wanted.pack))


def set_name(wanted: CellQuestions) -> str:
    """How cards, documents and exports name the questions of a cell."""
    if wanted.pack:
        return f"questions of {wanted.pack_name}"
    return ship_card.set_title(wanted.name if wanted.source else "", wanted.level)


def _is_here(variant: Variant, run: Run) -> bool:
    """Neither elsewhere nor the pack's reference."""
    packed = run.cell.questions is not None and bool(run.cell.questions.pack) and variant.id == run.reference
    return not variant.endpoint and not packed


def _form_options(form: PromptForm) -> list[str]:
    """The command line's options for what is given."""
    texts = {name: json.dumps(value) if isinstance(value, dict) else str(value) for name, value in form.given.items()}
    return [f"--{name.replace('_', '-')}={text}" for name, text in texts.items()]


def _with_reasons(update: ComparisonUpdate, reasons: Mapping[str, str]) -> ComparisonUpdate:
    panes = (replace(p, error=f"{p.error} {reasons[p.variant]}") if reasons.get(p.variant) else p for p in update.panes)
    return replace(update, panes=tuple(panes))


def run_cell(
    run: Run,
    variants: Sequence[Variant],
    image: Callable[[Picture], Image],
    lab: Lab,
    stop: compare.StopFlag,
    *,
    max_panes: int,
    explain: Callable[[Variant], str] = lambda variant: "",
    before: Run | None = None,
) -> Iterator[Run]:
    """Ask what the run's cell asks and has no answer yet. Yields as compare.run does; the last one has an end.

    `explain`: more about a variant whose pane failed. `before`: the cell's run before this one, which computed in the
    same way, or the run says so.
    Raises BadInput or BadPrompt for what is invalid, before anything is loaded.
    """
    cell = run.cell
    started = time.monotonic() - (run.elapsed_s or 0.0)
    run = msgspec.structs.replace(run, state=RunState.RUNNING)
    for index, prompt in enumerate(cell.prompts):
        if not prompt.strip() and index:
            raise BadInput(f"Question {index + 1} is empty. Write it, or remove it.")
    pictures = {p.sha256: image(p) for p in cell.pictures}
    for turn, picture in cell.asks[len(run.results) :]:
        shown = [pictures[p.sha256] for p in ([picture] if picture else cell.pictures)]
        settings = engine_changes.as_before(cell.settings, run)
        comparison = comparison_request.comparison_of(shown, cell.prompts[turn], variants, settings, run.turns)
        results = run.results
        last: ComparisonUpdate | None = None
        reasons: dict[str, str] = {}
        for update in branching.run(comparison, lab, stop, max_panes=max_panes):
            for pane in update.panes:
                if pane.state is PaneState.FAILED and pane.variant not in reasons:
                    reasons[pane.variant] = explain(next(v for v in variants if v.id == pane.variant))
            last = engine_changes.said(_with_reasons(update, reasons), before, cell.settings)
            yield msgspec.structs.replace(run, results=(*results, RunResult(turn, last, picture)))
        assert last is not None
        run = msgspec.structs.replace(
            run, results=(*results, RunResult(turn, last, picture)), elapsed_s=time.monotonic() - started
        )
        if stop.wanted():
            break
    yield msgspec.structs.replace(run, state=RunState.STOPPED if stop.wanted() else RunState.DONE)


def go_on(
    run: Run,
    index: int,
    point: BranchPoint,
    variants: Sequence[Variant],
    image: Callable[[Picture], Image],
    lab: Lab,
    stop: compare.StopFlag,
) -> Iterator[Run]:
    """The run, in whose comparison `index` a variant's answer goes on with another token. Yields as compare.run does.

    `variants`: of its cell, as they are now. Raises BadInput if the answer cannot go on.
    """
    if not 0 <= index < len(run.results):
        raise BadInput("This answer is gone.")
    result = run.results[index]
    variant = next((v for v in variants if v.id == point.variant), None)
    then = next((v for v in run.variants if v.id == point.variant), None)
    if variant is None or then is None or _files(variant) != _files(then):
        raise BadInput("The files of this variant are not those of the run any more. Run the cell again.")
    cell, settings = run.cell, msgspec.structs.replace(run.cell.settings, reference=None)
    settings = engine_changes.as_before(settings, run)
    earlier = msgspec.structs.replace(run, results=run.results[:index]).turns
    shown = [image(p) for p in ([result.picture] if result.picture else cell.pictures)]
    comparison = comparison_request.comparison_of(shown, cell.prompts[result.turn], [variant], settings, earlier)
    comparison = replace(comparison, reference=run.reference)
    for update in branching.go_on(comparison, result.update, [point], lab, stop):
        results = (*run.results[:index], _with_update(result, update), *run.results[index + 1 :])
        yield msgspec.structs.replace(run, results=results)


def _with_update(result: RunResult, update: ComparisonUpdate) -> RunResult:
    return msgspec.structs.replace(result, update=replace(update, done=result.update.done))


def _files(variant: Variant) -> tuple[str, str]:
    return variant.model.sha256, variant.projector.sha256
