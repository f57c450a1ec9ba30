"""`python -m playground parity`: how far a pair lies from the model that it was converted from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.cli.options import (
    AsJson,
    FewQuestions,
    VariantOptions,
    choose,
    followed,
    questions_of,
    say,
    say_problems,
    with_options,
)
from playground.comparing import comparison_request
from playground.errors import BadInput
from playground.measuring import original as originals
from playground.measuring import results
from playground.measuring.parity import Parity
from playground.measuring.parity_job import ParityJob, ParityRequest
from playground.settings import Settings
from playground.values.files import Variant
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts


@with_options
def parity(
    original: Annotated[str, typer.Argument(help="The original model: a folder, or owner/name on the Hub.")],
    choice: VariantOptions,
    questions: FewQuestions,
    dtype: Annotated[
        str | None, typer.Option(help="Of the original: float32, bfloat16, float16. Default: the first that fits.")
    ] = None,
    python: Annotated[
        str, typer.Option(help="An interpreter with torch and transformers. Default: the app's own.")
    ] = "",
    revision: Annotated[str, typer.Option(help="Of the original on the Hub: a branch, tag or commit.")] = "main",
    image_tokens: Annotated[int | None, typer.Option(help="Tokens of each image in the pair, at most.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the original model and its conversion the same, and say which part differs. Exit code 0: none does; 1: one
    does, or questions were left out."""
    if dtype is not None and dtype not in originals.DTYPES:
        raise BadInput(f"--dtype has to be one of {', '.join(originals.DTYPES)}.")
    python = python or sys.executable
    originals.check_interpreter(python)
    with open_parts(Settings.read(), any_folder=True) as parts:
        variants = choose(parts, choice)
        variant = next(v for v in variants if v.id == comparison_request.reference_of(variants))
        free = parts.pool.memory().host_available_bytes
        folder = _folder(parts, original, revision, dtype, free)
        request = ParityRequest(
            variant,
            questions_of(parts, questions),
            folder,
            folder.resolve().name if folder == Path(original) else original,
            python,
            free,
            dtype,
            questions.limits(results.MeasurementPlan()).max_tokens,
            Runtime(n_ctx=questions.n_ctx, image_max_tokens=image_tokens),
            questions.form,
        )
        reading = followed(ParityJob(parts.lab, request, engine=parts.engine).run(), Parity)
    if as_json:
        typer.echo(msgspec.json.encode(reading).decode())
    else:
        _print(reading, variant)
    say_problems(reading.problems)
    if reading.culprit is not None or reading.questions < len(request.questions.items):
        raise typer.Exit(1)


def _folder(parts: Parts, original: str, revision: str, dtype: str | None, free: int) -> Path:
    """Where the original is; one on the Hub is fetched if it fits into memory. Raises BadInput."""
    path = Path(original)
    if path.is_dir():
        return path
    if original.count("/") != 1:
        raise BadInput(f"{original} is neither a folder nor owner/name on the Hub.")
    say(f"Looking at {original} on the Hub.")
    return parts.hub.original(original, revision, check=lambda counts: originals.choose_dtype(counts, dtype, free))


def _print(reading: Parity, variant: Variant) -> None:
    prompt = "its own chat template" if reading.native else "the pair's tokens"
    typer.echo(f"original: {reading.original}, {reading.dtype}, asked with {prompt}")
    typer.echo(f"pair: {variant.label} ({reading.quantization}), {reading.engine}")
    typer.echo(
        f"KL: {reading.kl:.3g} nats a token over {reading.tokens} positions; same top {reading.same_top:.1%}; same "
        f"answers {reading.same_answers} of {reading.questions}; noise floor {reading.floor:.1e}"
    )
    for part, kl in reading.parts.items():
        mark = "  <- differs" if kl > reading.limit else ""
        typer.echo(f"{part:16} {kl:10.3g}{mark}")
    for finding in reading.findings:
        typer.echo(finding)
    typer.echo(reading.words)
