"""`python -m playground pack make | show | push | pull`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import (
    AsJson,
    QuestionOptions,
    VariantOptions,
    check_folder_of,
    check_new,
    choose,
    followed,
    questions_of,
    say,
    with_options,
    write_file,
)
from playground.comparing import comparison_request
from playground.errors import BadInput
from playground.measuring import pack_jobs, pack_source, packs, results
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.packs import Pack, PackRecord
from playground.models.hub.client import Hub
from playground.rendering import number_format
from playground.settings import Settings
from playground.values.request import ANY, Runtime
from playground.wiring import open_parts

PackPath = Annotated[Path, typer.Argument(help="A reference pack (.safetensors).")]


@with_options
def make(
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.")],
    choice: VariantOptions,
    questions: QuestionOptions,
    licence: Annotated[str, typer.Option(help="Of the questions and answers, for those who get the pack.")] = "",
) -> None:
    """Write what the reference (the most precise variant) answers and holds likely; the other variants check it."""
    if out.suffix != ".safetensors":
        raise BadInput(f"{out.name}: the name of a pack ends in .safetensors.")
    if out.exists():
        raise BadInput(f"{out} exists. Choose another name.")
    check_folder_of(out)
    with open_parts(Settings.read(), any_folder=True) as parts:
        variants = choose(parts, choice)
        question_set = questions_of(parts, questions)
        request = MeasureRequest(
            question_set,
            variants,
            comparison_request.reference_of(variants),
            questions.limits(results.MeasurementPlan()),
            Runtime(n_ctx=questions.n_ctx),
            questions.form,
        )
        pack = followed(pack_jobs.make_pack(parts.lab, request, engine=parts.engine, licence=licence), Pack)
    packs.write(out, pack)
    _print(pack.record, out.stat().st_size)
    say(f"{out} written.")
    left_out = len(question_set.items) - len(pack.record.questions)
    if left_out:
        say(f"left out: {left_out} of {len(question_set.items)} questions could not be asked.")
        raise typer.Exit(1)


def show(path: PackPath, as_json: AsJson = False) -> None:
    """Check a pack, and print what it holds."""
    pack = packs.read(path)
    if as_json:
        typer.echo(msgspec.json.encode(pack.record).decode())
    else:
        _print(pack.record, path.stat().st_size)


def push(
    path: PackPath,
    repo: Annotated[str, typer.Argument(help="A dataset repository of the Hub, owner/name; made where it is missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
) -> None:
    """Commit a pack to a dataset repository of the Hub, with your token (HF_TOKEN)."""
    record = packs.read(path).record
    if not record.licence:
        say("The pack names no licence of its questions and answers. `pack make --licence` writes one.")
    commit = _hub().push_to_dataset(repo, path, private=private)
    typer.echo(f"{repo}: {path.name}, commit {commit[:12]}")


def pull(
    repo: Annotated[str, typer.Argument(help="A dataset repository of the Hub: owner/name or owner/name:file.")],
    out: Annotated[Path | None, typer.Argument(help="The file to write. Default: its name, in this folder.")] = None,
    revision: Annotated[str, typer.Option(help="A branch, tag or commit.")] = "main",
) -> None:
    """Fetch a pack from a dataset repository of the Hub, check it, and print what it holds."""
    if out is not None:
        check_new(out)
    fetched, commit = pack_source.fetch(_hub(), repo, revision)
    target = out or Path(fetched.name)
    check_new(target)
    record = packs.read(fetched).record
    write_file(target, fetched.read_bytes())
    _print(record, target.stat().st_size)
    say(f"{target} written, commit {commit[:12]}.")


def _hub() -> Hub:
    return Hub(own_token=True)


def _print(record: PackRecord, size: int) -> None:
    typer.echo(f"reference: {record.family} {record.label}, {record.engine}")
    for half, file in (("language model", record.model), ("projector", record.projector)):
        typer.echo(f"{half}: {file.quantization}, {file.bytes / 1e6:,.1f} MB, sha256 {file.sha256}")
    source = record.sample.words if record.sample else record.set_name
    typer.echo(f"questions: {len(record.questions)} about {len(set(record.images))} images, {source}")
    if record.form is not None:
        typer.echo(f"asked with: {record.form.words}")
    if record.image_tokens != ANY:
        least, most = (number_format.UNKNOWN if n is None else str(n) for n in record.image_tokens)
        typer.echo(f"image tokens: at least {least}, at most {most}")
    typer.echo(f"licence: {record.licence or 'the pack names none'}")
    positions = sum(len(answer.token_ids) + 1 for answer in record.answers)
    typer.echo(f"size: {size / 1e6:,.2f} MB, {positions} positions of at most {record.n_vocabulary:,} tokens")
    typer.echo(f"left out: tokens with at most {record.left_out_mass:g} of the probability of a position")
    typer.echo(f"noise floor: {record.floor:.1e} nats a token ({record.other_way})")
    for check in record.checks:
        share = f", {1 - check.packed / check.whole:.2%} less" if check.whole else ""
        typer.echo(f"check: {check.variant} {check.whole:.5g} nats a token, from the pack {check.packed:.5g}{share}")
    if not record.checks:
        typer.echo("check: none; no other variant was given when the pack was made")
