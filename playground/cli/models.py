"""`python -m playground doctor | download | presets`."""

from __future__ import annotations

import fnmatch
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import AsJson, followed, line, open_pairs, say
from playground.errors import PlaygroundError
from playground.measuring import look_test, measure, measure_request, results
from playground.models import check_pair
from playground.models.doctor import Finding, Level, worst
from playground.models.download_pairs import PairChoice, download_pairs
from playground.models.hub import address
from playground.models.hub.downloads import DownloadState
from playground.models.presets import Preset, read_presets
from playground.settings import Settings
from playground.wiring import Parts, open_parts

Token = Annotated[str, typer.Option(envvar="HF_TOKEN", help="For gated and private repositories.")]


class _Report(msgspec.Struct, frozen=True):
    model: str
    projector: str | None
    level: int  # 0 fine, 1 doubtful, 2 will not work; the exit code too
    findings: tuple[Finding, ...]
    looks: str | None = None


def doctor(
    model: Annotated[str, typer.Argument(help="A language model: a file, or owner/name:Q4_K_M on the Hub.")],
    projector: Annotated[str, typer.Argument(help="Its projector (mmproj), likewise.")] = "",
    n_ctx: Annotated[int, typer.Option("--ctx-size", help="Tokens.")] = 4096,
    chat_template: Annotated[str, typer.Option(help="Used in place of the file's.")] = "",
    look: Annotated[
        bool, typer.Option("--look", help="Load it (files only): does it read the embedded pictures?")
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Check by the headers whether a pair will work. Exit code: 0 fine, 1 doubtful, 2 it will not work."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        looks = None
        diagnosis = check_pair.check_pair(
            lambda: check_pair.from_names(parts.hub, model, projector, token or None),
            parts.hardware,
            n_ctx,
            chat_template or None,
        )
        findings = diagnosis.findings
        if look and projector and diagnosis.level < Level.BROKEN:
            result = _look(parts, Path(model), Path(projector))
            looks = result.looks
            if looks == results.Sight.BLIND:
                blind = f"The look test: {look_test.words(looks, result.own_picture)}"
                findings = (Finding(Level.BROKEN, "blind", blind, look_test.remedy(looks)), *findings)
    report = _Report(model, projector or None, int(worst(findings)), findings, looks)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        for finding in findings:
            typer.echo(f"{'✓?✕'[finding.level]} {finding.text} {finding.remedy}".rstrip())
        typer.echo(
            ("Fine.", "Doubtful.", "It will not work.")[report.level]
            + (f" It {looks}." if looks == results.Sight.SEES else "")
        )
    raise typer.Exit(report.level)


def download(
    repo: Annotated[str, typer.Argument(help="owner/name, owner/name:Q4_K_M, or an address on the Hub.")],
    quantizations: Annotated[
        list[str] | None, typer.Argument(help="Of the language model: Q8_0 Q4_K_M ..., or files' names.")
    ] = None,
    projector: Annotated[str, typer.Option(help="The projector's quantization. Default: F16, else BF16.")] = "",
    projector_repo: Annotated[str, typer.Option(help="Where it lies if not beside the model.")] = "",
    token: Token = "",
) -> None:
    """Download language models and a projector into the Hub's cache. An interrupted download is resumed."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        id, revision, named = address.parse_repo(repo, parts.hub.endpoint)
        listing = other = parts.hub.repo(id, revision, token or None)
        if projector_repo:
            id, revision, half = address.parse_repo(projector_repo, parts.hub.endpoint)
            other, projector = parts.hub.repo(id, revision, token or None), projector or half or ""
        wanted = [*([named] if named else []), *(quantizations or ())]
        models = tuple(dict.fromkeys(listing.model(name) for name in wanted))
        choice = PairChoice(listing, models, other, other.projector(projector))
        pairs = download_pairs(choice, parts.hub, parts.downloads, parts.catalog, token=token or None)
        keys = {file.key for file in choice.files}
        _wait(parts, keys)
        failed = [d for d in parts.downloads.all() if d.error and d.wanted.key in keys]
        for download in failed:
            say(f"{download.wanted.file.name}: {download.error}")
        if failed:
            raise typer.Exit(1)
        for model, its_projector in pairs:
            typer.echo(f"{model}\n{its_projector}")
    for problem in parts.catalog.problems:
        say(problem)


def presets(
    check: Annotated[bool, typer.Option("--check", help="Ask the Hub whether their files are there.")] = False,
    token: Token = "",
) -> None:
    """List the presets. With --check the exit code is 1 if a file of one is not on the Hub."""
    bad = 0
    with open_parts(Settings.read(), any_folder=True) as parts:
        for preset in read_presets():
            status = preset.repo or "embedded"
            if preset.repo and check:
                try:
                    problems = _problems(preset, parts, token)
                except PlaygroundError as error:
                    problems = [error.message]
                bad += bool(problems)
                status += f": {'; '.join(problems) or 'all files found'}"
            elif preset.repo and not preset.evidence:
                status += " (file names unverified)"
            typer.echo(f"{preset.family:24} {status}")
    raise typer.Exit(1 if bad else 0)


def _wait(parts: Parts, keys: set[str]) -> None:
    """Show the progress of these downloads until none of them runs any more."""
    while running := [d for d in parts.downloads.all() if d.is_active and d.wanted.key in keys]:
        line("  ".join(f"{d.wanted.file.name} {d.share:.0%}" for d in running if d.state is DownloadState.RUNNING))
        time.sleep(0.2)
    line("")


def _look(parts: Parts, model: Path, projector: Path) -> results.VariantResult:
    (variant,) = open_pairs(parts, [str(model)], [str(projector)])
    job = measure.MeasureJob(parts.lab, measure_request.look_request(parts.evaluation, variant))
    return followed(job.run(), results.Measurement).results[0]


def _problems(preset: Preset, parts: Parts, token: str) -> list[str]:
    """The files of a preset that the Hub lacks."""
    listing = parts.hub.repo(preset.repo, preset.revision, token or None)
    other = parts.hub.repo(preset.projector_repo, token=token or None) if preset.projector_repo else listing
    lacking = [
        quantization
        for quantization in preset.ticked or ("",)
        if preset.file_of(quantization, [model.name for model in listing.models]) is None
    ]
    problems = [f"no file for {', '.join(lacking) or preset.model}"] if lacking else []
    if not any(fnmatch.fnmatch(p.name.lower(), preset.projector.lower()) for p in other.projectors):
        problems.append(f"no projector {preset.projector}")
    return problems
