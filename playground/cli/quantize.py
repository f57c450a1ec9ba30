"""`python -m playground quantize | sensitivity`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import (
    AsJson,
    ContextSize,
    Count,
    Level,
    MaxTokens,
    QuestionOptions,
    Questions,
    bytes_of,
    check_folder,
    followed,
    line,
    questions_of,
    say,
    say_problems,
    write_file,
)
from playground.errors import BadInput
from playground.quantizing import quantizer, recipes, scan_results
from playground.quantizing.make_variant import CheckedVariant, MakeJob, MakeRequest
from playground.quantizing.sensitivity_scan import ScanJob, ScanRequest
from playground.settings import Settings
from playground.values.counts import counted
from playground.values.files import Half
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts


def quantize(
    source: Annotated[Path, typer.Argument(help="A language model's or a projector's GGUF file, F16 at best.")],
    quantization: Annotated[str, typer.Argument(help="llama.cpp's name: Q8_0, Q4_K_M, Q4_0 ...")] = "",
    out: Annotated[Path | None, typer.Option(help="The new file. Default: beside the source.")] = None,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(help="PATTERN=TYPE, such as ffn_down=q8_0: a type for matching tensors."),
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="A TOML file of `sensitivity`, in place of a name.")] = None,
    imatrix: Annotated[Path | None, typer.Option(help="An importance matrix of this half; IQ types need one.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Make that matrix first, from the questions' images and answers.")
    ] = False,
    partner: Annotated[
        Path | None, typer.Option(help="The other half of the pair: the new file is then checked on images.")
    ] = None,
    questions: Questions = None,
    n: Annotated[int, typer.Option("-n", help="Questions to check it with.")] = 100,
    requantize: Annotated[bool, typer.Option("--requantize", help="Allow a source that is already quantized.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print how large the file would be.")] = False,
) -> None:
    """Quantize either half of a pair, and with --partner say whether the result is fit to ship."""
    types = quantizer.tensor_types(tensor_type or ())
    if bool(quantization) == bool(recipe):
        raise BadInput("Say which quantization (Q4_K_M ...), or give a --recipe.")
    if calibrate and (partner is None or imatrix is not None):
        raise BadInput("--calibrate makes a matrix with the other half: give --partner, and no --imatrix.")
    with open_parts(Settings.read(), any_folder=True) as parts:
        half = parts.catalog.half(source)
        name, suffix = "", quantization
        if recipe is not None:
            named = recipes.read(recipe)
            applied = recipes.applied(named, parts.catalog.weights(source), parts.catalog.kind(source), half)
            quantization, types = applied.quantization, (*types, *applied.tensor_types)
            name, suffix = named.name, recipes.slug(named)
        target = out or source.with_name(f"{quantizer.stem(source)}-{suffix}.gguf")
        request = MakeRequest(half, quantization, types, name, target, calibrate, imatrix, requantize)
        if dry_run:
            _print_plan(parts, source, target, request)
        elif partner is not None:
            options = QuestionOptions(items=questions, n=2 * n if calibrate else n)
            _print_checked(_checked(parts, source, partner, request, options), source)
        else:
            _make(parts, source, target, request)


def _print_plan(parts: Parts, source: Path, target: Path, request: MakeRequest) -> None:
    planned = quantizer.plan(
        source,
        request.quantization,
        parts.pool,
        request.half,
        tensor_types=request.tensor_types,
        requantize=request.requantize,
        imatrix=request.imatrix,
    )
    _say_all(planned.notes)
    typer.echo(f"{target.name}: would have {_sizes(planned.bytes, source)}")


def _make(parts: Parts, source: Path, target: Path, request: MakeRequest) -> None:
    made = quantizer.make(
        source,
        target,
        request.quantization,
        parts.pool,
        request.half,
        tensor_types=request.tensor_types,
        requantize=request.requantize,
        imatrix=request.imatrix,
        name=request.name,
        on_plan=_say_all,
        on_step=lambda step: line(f"{step.done} of {step.total} {step.tensor}"),
    )
    line("")
    typer.echo(f"{target.name}: {_sizes(made.bytes, source)}")


def _checked(
    parts: Parts, source: Path, partner: Path, request: MakeRequest, options: QuestionOptions
) -> CheckedVariant:
    job = MakeJob(parts.lab, parts.workshop, Runtime())
    planned = job.check(source, request)  # before both files are hashed, which takes long
    pair = parts.catalog.read_pair(*((partner, source) if request.half is Half.PROJECTOR else (source, partner)))
    return followed(job.run(pair, request, questions_of(parts, options), planned), CheckedVariant)


def _sizes(n_bytes: int, source: Path) -> str:
    return f"{n_bytes / 1e6:.1f} MB, from {source.stat().st_size / 1e6:.1f} MB"


def _say_all(notes: Sequence[str]) -> None:
    for note in notes:
        say(note)


def _print_checked(checked: CheckedVariant, source: Path) -> None:
    for note in checked.notes:
        say(note)
    with_matrix = f", with {checked.imatrix}" if checked.imatrix else ""
    typer.echo(f"{checked.path.name}: {_sizes(checked.bytes, source)}{with_matrix}")
    if checked.embeddings is not None:
        typer.echo(
            f"embeddings against the source's, {counted(checked.embeddings.images, 'image')}: cosine "
            f"{checked.embeddings.cosine_mean:.4f} (lowest patch {checked.embeddings.cosine_min:.4f}), relative error "
            f"{checked.embeddings.relative_error:.2%}"
        )
    looks = f"; look test: {checked.looks}" if checked.looks else ""
    typer.echo(f"{counted(checked.questions, 'question')}: {checked.verdict}{looks}. {checked.gate.reason}")
    typer.echo(f"mean drift {checked.kl.value:.2g} nats a token on these questions, which bounds nothing")


def sensitivity(
    model: Annotated[Path | None, typer.Option(help="A language model's GGUF file of 16 bits.")] = None,
    projector: Annotated[Path | None, typer.Option(help="Its projector's. Default: the embedded pair.")] = None,
    kinds: Annotated[str, typer.Option("--types", help="ggml types to try, from large to small.")] = ",".join(
        recipes.LADDER
    ),
    depth: Annotated[int, typer.Option(help="Parts that each kind of tensor is cut into, by depth.")] = 1,
    restore: Annotated[
        bool, typer.Option("--restore", help="Also: a whole half at the last type, one group as in the source.")
    ] = False,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="With importance matrices of the search's questions; IQ types need them."),
    ] = False,
    max_size: Annotated[str, typer.Option(help="A recipe whose two files fit: 5MB, 1.2GB.")] = "",
    max_kl: Annotated[float | None, typer.Option(help="The smallest recipe that drifts no more, nats a token.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the recipe and its files.")] = Path(),
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 24,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = None,
    as_json: AsJson = False,
) -> None:
    """Which tensors need their bits, and the best recipe under a budget."""
    scan = scan_results.Scan(
        kinds=tuple(kind.strip() for kind in kinds.split(",") if kind.strip()),
        depth=depth,
        restore=restore,
        calibrate=calibrate,
        max_tokens=max_tokens,
        max_bytes=bytes_of(max_size) if max_size else None,
        max_kl=max_kl,
    )
    with open_parts(Settings.read(), any_folder=True) as parts:
        if (model is None) != (projector is None):
            raise BadInput("Give both --model and --projector, or neither for the embedded pair.")
        if model is not None and projector is not None:
            source = parts.catalog.read_pair(model, projector)
        else:
            source = next(v for v in parts.catalog.variants if v.reference)
        question_set = questions_of(parts, QuestionOptions(items=questions, level=level, n=n))
        request = ScanRequest(source, question_set, scan, Runtime(n_ctx=n_ctx))
        job = ScanJob(parts.lab, parts.workshop._replace(folder=out), request)
        if calibrate or scan.max_bytes is not None or scan.max_kl is not None:
            check_folder(out)
        scanned = followed(job.run(), scan_results.Sensitivity)
    say_problems(scanned.problems)
    recipe_file = out / f"{recipes.slug(scanned.built.recipe)}.toml" if scanned.built else None
    if scanned.built and recipe_file:
        write_file(recipe_file, recipes.to_toml(scanned.built.recipe).encode())
    if as_json:
        typer.echo(msgspec.json.encode(scanned).decode())
    else:
        _print_sensitivity(scanned, recipe_file)
    if recipe_file is None and (scan.max_bytes is not None or scan.max_kl is not None):
        raise typer.Exit(2)  # the problem has been printed


def _print_sensitivity(scanned: scan_results.Sensitivity, recipe_file: Path | None) -> None:
    scan = scanned.scan
    questions = counted(scanned.n_searched, "question")
    typer.echo(f"{questions}, noise floor {scanned.floor:.1e}. One group at one type, KL in nats a token:")
    typer.echo(f"{'group':24}" + "".join(f"{kind:>11}" for kind in scan.kinds) + f"{'nats/MB':>11}")
    for sensitivity in scan_results.ranked(scanned.sensed):
        cells = "".join(f"{'–' if r.kl is None else format(r.kl, '.2g'):>11}" for r in sensitivity.rungs)
        price = scan_results.price(sensitivity)
        typer.echo(f"{sensitivity.group.name:24}{cells}{'–' if price is None else format(price, '.2g'):>11}")
    dearest = scan_results.dearest(scanned.sensed, scanned.pictures)
    if dearest:
        names = ", ".join(sensitivity.group.name for sensitivity in dearest)
        words = "costs most for each megabyte saved" if len(dearest) == 1 else "cannot be told apart as the dearest"
        typer.echo(f"{names}: {words} (sign test over {len(set(scanned.pictures))} pictures)")
    for left in sorted(scanned.restored, key=lambda r: r.kl - r.kl_of_all):
        typer.echo(
            f"{left.group.half} at {left.kind} but for {left.group.name}: {left.kl:.2g} instead of "
            f"{left.kl_of_all:.2g}, for {left.added / 1e6:.1f} MB"
        )
    if scanned.built:
        typer.echo(scan_results.sentence(scanned.built))
        for name, kl, size in scan_results.compared(scanned.built):
            typer.echo(f"  {name:28} {size / 1e6:10.1f} MB {kl.value:10.2g}")
        typer.echo(f"{recipe_file}, made with:")
        for command in scanned.built.commands:
            typer.echo(f"  {command}")
