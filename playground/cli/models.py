"""`python -m playground doctor | download | presets`."""

from __future__ import annotations

import fnmatch
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import AsJson, followed, line, open_pairs, say
from playground.errors import BadInput, BadModel, PlaygroundError
from playground.measuring import measure, results
from playground.models import doctor as diagnosis
from playground.models.doctor import Finding, Level
from playground.models.gguf import file_names
from playground.models.gguf.header import GgufHeader, read_header
from playground.models.hub import address
from playground.models.hub.downloads import DownloadState, Wanted
from playground.models.hub.listing import RemoteModel, RepoListing
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
    model: Annotated[str, typer.Argument(help="A language model: a file, or owner/name:file.gguf on the Hub.")],
    projector: Annotated[str, typer.Argument(help="Its projector (mmproj), likewise.")] = "",
    n_ctx: Annotated[int, typer.Option("--ctx-size", help="Tokens.")] = 4096,
    chat_template: Annotated[str, typer.Option(help="One that is used in place of the file's.")] = "",
    look: Annotated[
        bool, typer.Option("--look", help="Load it (files only): do its answers change with the picture?")
    ] = False,
    token: Token = "",
    as_json: AsJson = False,
) -> None:
    """Why a pair will not work, or may not, by its headers. Exit code: 0 fine, 1 doubtful, 2 it will not work."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        looks = None
        try:
            first = _header(parts, model, token)
            second = _header(parts, projector, token) if projector else None
            findings = diagnosis.diagnose(
                first,
                second,
                hardware=parts.hardware,
                n_ctx=n_ctx,
                chat_template=chat_template or None,
                model_bytes=_all_bytes(model),
            )
            if look and second is not None and diagnosis.worst(findings) < Level.BROKEN:
                looks = _looks(parts, Path(model), Path(projector))
                if looks == "blind":
                    blind = "The look test: its answers do not change with the picture. The pair is blind."
                    findings = (Finding(Level.BROKEN, "blind", blind, "Use the model's own mmproj file."), *findings)
        except BadModel as error:
            findings = (Finding(Level.BROKEN, "unreadable", error.message),)
    report = _Report(model, projector or None, int(diagnosis.worst(findings)), tuple(findings), looks)
    if as_json:
        typer.echo(msgspec.json.encode(report).decode())
    else:
        for finding in findings:
            typer.echo(f"{'✓?✕'[finding.level]} {finding.text} {finding.remedy}".rstrip())
        typer.echo(
            ("Fine.", "Doubtful.", "It will not work.")[report.level] + (f" It {looks}." if looks == "looks" else "")
        )
    raise typer.Exit(report.level)


def download(
    repo: Annotated[str, typer.Argument(help="owner/name, or its address on the Hub.")],
    quantizations: Annotated[list[str], typer.Argument(help="Of the language model: Q8_0 Q4_K_M ...")],
    projector: Annotated[str, typer.Option(help="The projector's quantization. Default: F16, else BF16.")] = "",
    projector_repo: Annotated[str, typer.Option(help="Where it lies if not beside the model.")] = "",
    token: Token = "",
) -> None:
    """Download language models and a projector into the Hub's cache; an earlier attempt is gone on with."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        id, revision, _ = address.parse_repo(repo, parts.hub.endpoint)
        found = parts.hub.repo(id, revision, token or None)
        other = parts.hub.repo(projector_repo, token=token or None) if projector_repo else found
        half = next((p for p in other.projectors if not projector or p.quantization == projector.upper()), None)
        if half is None:
            there = ", ".join(p.quantization for p in other.projectors) or "none"
            raise BadInput(f"{other.id} has no such projector. It has: {there}.")
        chosen = [_quantized(found, one) for one in quantizations]
        wanted = [(found, file) for model in chosen for file in model.files] + [(other, file) for file in half.files]
        parts.downloads.start((Wanted(of.id, of.commit, file) for of, file in wanted), token or None)
        while any(one.state in (DownloadState.WAITING, DownloadState.RUNNING) for one in parts.downloads.all()):
            running = [one for one in parts.downloads.all() if one.state is DownloadState.RUNNING]
            line("  ".join(f"{one.wanted.file.name} {one.done / max(1, one.wanted.file.bytes):.0%}" for one in running))
            time.sleep(0.2)
        line("")
        failed = [one for one in parts.downloads.all() if one.error]
        for one in failed:
            say(f"{one.wanted.file.name}: {one.error}")
        if failed:
            raise typer.Exit(1)
        for model in chosen:
            file = parts.hub.snapshot(found.id, found.commit, model.name)
            its_projector = parts.hub.snapshot(other.id, other.commit, half.name)
            parts.catalog.expect_pair(file, its_projector)
            typer.echo(f"{file}\n{its_projector}")
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
            told = preset.repo or "embedded"
            if preset.repo and check:
                try:
                    problems = _problems(preset, parts, token)
                except PlaygroundError as error:
                    problems = [error.message]
                bad += bool(problems)
                told += f": {'; '.join(problems) or 'as it says'}"
            elif preset.repo and not preset.evidence:
                told += " (file names unproven)"
            typer.echo(f"{preset.family:24} {told}")
    raise typer.Exit(1 if bad else 0)


def _header(parts: Parts, name: str, token: str) -> GgufHeader:
    """Of a file on this machine, or on the Hub. Raises BadModel, BadInput, Offline."""
    path = Path(name).expanduser()
    if path.exists() or ":" not in name:
        return read_header(path)
    id, revision, file = address.parse_repo(name, parts.hub.endpoint)
    found = parts.hub.repo(id, revision, token or None)
    remote = next((one for one in found.files if one.name == file), None)
    if remote is None:
        there = ", ".join(one.name for one in found.files if one.name.endswith(".gguf"))
        raise BadInput(f"{id} has no file '{file}'. It has: {there[:400]}.")
    return parts.hub.header(id, found.commit, remote, token or None)


def _all_bytes(name: str) -> int | None:
    """Of all shards of a file on this machine; None for one on the Hub, or one without shards."""
    path = Path(name)
    parts = [path.with_name(one) for one in file_names.shards(path.name)]
    return sum(part.stat().st_size for part in parts) if len(parts) > 1 and all(p.exists() for p in parts) else None


def _looks(parts: Parts, model: Path, projector: Path) -> str | None:
    (variant,) = open_pairs(parts, [str(model)], [str(projector)])
    job = measure.MeasureJob(parts.lab, measure.look_request(parts.evaluation, variant))
    return followed(job.run(), results.Measurement).results[0].looks


def _quantized(repo: RepoListing, name: str) -> RemoteModel:
    found = next((m for m in repo.models if name.upper() == m.quantization.upper() or name == m.name), None)
    if found is None:
        there = ", ".join(model.quantization for model in repo.models)
        raise BadInput(f"{repo.id} has no '{name}'. It has: {there or 'no GGUF language model'}.")
    if found.missing:
        raise BadInput(f"{repo.id} lacks {found.missing} shards of {found.name}.")
    return found


def _problems(preset: Preset, parts: Parts, token: str) -> list[str]:
    """What a preset promises and the Hub does not have."""
    found = parts.hub.repo(preset.repo, preset.revision, token or None)
    other = parts.hub.repo(preset.projector_repo, token=token or None) if preset.projector_repo else found
    lacking = [
        quantization
        for quantization in preset.ticked or ("",)
        if preset.file_of(quantization, [model.name for model in found.models]) is None
    ]
    problems = [f"no file for {', '.join(lacking) or preset.model}"] if lacking else []
    if not any(fnmatch.fnmatch(p.name.lower(), preset.projector.lower()) for p in other.projectors):
        problems.append(f"no projector {preset.projector}")
    return problems
