"""The lab's commands: `python -m playground drift | grid | accuracy | quantize`. __main__ adds them to its own."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from playground.engine import protocol
from playground.errors import BadInput
from playground.lab import compare, items, measure, measured, quantizing
from playground.lab.statistics import Interval
from playground.parts import Parts, open_parts
from playground.settings import Settings
from playground.values import Runtime, Variant

Names = Annotated[str, typer.Option(help="Language model quantizations, separated by commas. Default: the preset's.")]
Projectors = Annotated[
    str, typer.Option(help="Projector quantizations, separated by commas. Default: the reference's.")
]
Questions = Annotated[
    Path | None,
    typer.Option("--items", help="A folder or zip with images and an items.jsonl or .csv. Default: the embedded set."),
]
Level = Annotated[str, typer.Option(help="Of the embedded set: easy, hard, or both (empty).")]
Count = Annotated[int, typer.Option("-n", help="Questions, taken evenly from the set.")]
MaxTokens = Annotated[int, typer.Option(help="Of an answer.")]
ContextSize = Annotated[int, typer.Option("--ctx-size", help="Tokens.")]
Look = Annotated[bool, typer.Option("--look", help="Also ask with blank, shuffled and foreign images.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]


def drift(
    variants: Names = "",
    projector: Projectors = "",
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 50,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    look: Look = False,
    as_json: AsJson = False,
) -> None:
    """How far each variant's distributions lie from the reference's, on images."""
    found, chosen, _ = _measured(
        variants, projector, questions, level, n, n_ctx, measured.Plan(look=look, max_tokens=max_tokens), as_json
    )
    if as_json:
        return
    _print_floor(found)
    typer.echo(f"{'variant':28} {'KL mean':>10} {'95 %':>21} {'p99':>9} {'same top':>9} {'same answer':>12}  looks")
    for v, r in zip(chosen, found.results, strict=True):
        if r.mean_kl is None:
            typer.echo(f"{v.label:28} {'reference':>10}{'':62} {r.looks or ''}")
            continue
        assert r.same_top is not None
        assert r.same_answer is not None
        typer.echo(
            f"{v.label:28} {r.mean_kl.value:10.5f} {_range(r.mean_kl, '.5f'):>21} {r.p99_kl:9.4f} "
            f"{r.same_top.value:9.2%} {r.same_answer.value:12.1%}  {r.looks or ''}"
        )


def grid(
    variants: Names = "",
    projector: Projectors = "F16,Q8_0,Q4_0,Q2_K",
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 50,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    as_json: AsJson = False,
) -> None:
    """Language models by projectors: mean KL, and which half it comes from."""
    plan = measured.Plan(max_tokens=max_tokens)
    found, chosen, reference = _measured(variants, projector, questions, level, n, n_ctx, plan, as_json)
    if as_json:
        return
    effects = measured.grid(found, chosen, reference)
    if not effects:
        raise BadInput("A grid needs at least two language models and two projectors.")
    _print_floor(found)
    columns = list(dict.fromkeys(e.projector for e in effects))
    typer.echo(f"{'mean KL, nats a token':24}" + "".join(f"{'mmproj ' + p:>14}" for p in columns))
    for model in dict.fromkeys(e.model for e in effects):
        cells = {e.projector: e.kl for e in effects if e.model == model}
        typer.echo(f"{model:24}" + "".join(f"{cells[p]:14.5f}" if p in cells else f"{'–':>14}" for p in columns))
    typer.echo(measured.which_half(effects))


def accuracy(
    variants: Names = "",
    projector: Projectors = "",
    questions: Questions = None,
    level: Level = "hard",
    n: Count = 100,
    max_tokens: MaxTokens = 64,
    n_ctx: ContextSize = 1024,
    as_json: AsJson = False,
) -> None:
    """Accepted answers, and whether a variant is better or worse than the reference on the same questions."""
    plan = measured.Plan(drift=False, accuracy=True, max_tokens=max_tokens)
    found, chosen, _ = _measured(variants, projector, questions, level, n, n_ctx, plan, as_json)
    if as_json:
        return
    typer.echo(f"{'variant':28} {'accuracy':>9} {'95 %':>17} {'lost':>5} {'won':>4} {'p':>7}")
    for v, r in zip(chosen, found.results, strict=True):
        if r.accuracy is None:
            typer.echo(f"{v.label:28} no accepted answers in the set")
            continue
        told = f"{v.label:28} {r.accuracy.value:9.1%} {_range(r.accuracy, '.1%'):>17}"
        if r.against is not None:
            told += f" {r.against.only_first:5} {r.against.only_second:4} {r.against.p:7.3f}  {r.against.words}"
        typer.echo(told)


def quantize(
    source: Annotated[Path, typer.Argument(help="A language model's or a projector's GGUF file, F16 at best.")],
    quantization: Annotated[str, typer.Argument(help="llama.cpp's name: Q8_0, Q4_K_M, Q4_0 ...")],
    out: Annotated[Path | None, typer.Option(help="The new file. Default: beside the source.")] = None,
    tensor_type: Annotated[
        list[str] | None, typer.Option(help="PATTERN=TYPE, such as ffn_down=q8_0: tensors that keep more bits.")
    ] = None,
    partner: Annotated[
        Path | None, typer.Option(help="The other half of the pair: the new file is then checked on images.")
    ] = None,
    n: Annotated[int, typer.Option("-n", help="Questions to check it with.")] = 20,
    requantize: Annotated[bool, typer.Option("--requantize", help="The source is quantized itself.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell how large it would be.")] = False,
) -> None:
    """Quantize either half of a pair, and with --partner say whether the result is fit to ship."""
    types = tuple(_tensor_type(text) for text in tensor_type or ())
    with open_parts(Settings(), any_folder=True) as parts:
        is_projector = parts.store.is_projector(source)
        stem = re.sub(r"[-.](F16|BF16|F32)$", "", source.stem, flags=re.IGNORECASE)
        target = out or source.with_name(f"{stem}-{quantization}.gguf")

        def on_step(step: protocol.Step) -> None:
            if sys.stderr.isatty():
                sys.stderr.write(f"\r\x1b[K{step.done} of {step.total} {step.tensor}")

        made = quantizing.make(
            source,
            target,
            quantization,
            parts.pool,
            projector=is_projector,
            tensor_types=types,
            requantize=requantize,
            dry_run=dry_run,
            on_step=on_step,
        )
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
        for note in made.notes:
            _say(note)
        would = "would have " if dry_run else ""
        typer.echo(f"{target.name}: {would}{made.bytes / 1e6:.1f} MB, from {source.stat().st_size / 1e6:.1f} MB")
        if made.path is not None and partner is not None:
            _check(parts, source, made.path, partner, is_projector, n)


def _check(parts: Parts, source: Path, made: Path, partner: Path, is_projector: bool, n: int) -> None:
    def pair(half: Path) -> Variant:
        return parts.store.open_pair(*((partner, half) if is_projector else (half, partner)))

    reference, variant = pair(source), pair(made)
    asked = items.embedded(parts.evaluation, level="hard").first(n)
    if is_projector:
        images = [asked.image(item) for item in asked.items[:8]]
        found = quantizing.check_projector(reference, variant, images, parts.pool, parts.embeddings)
        typer.echo(
            f"embeddings against the source's, {found.images} images: cosine {found.cosine_mean:.4f} "
            f"(lowest patch {found.cosine_min:.4f}), relative error {found.relative_error:.2%}"
        )
    measuring = measure.Measuring(
        asked,
        (reference, variant),
        reference.id,
        measured.Plan(look=is_projector),
        Runtime(n_ctx=1024),
        parts.pool,
        parts.embeddings,
        parts.known,
        lambda: False,
    )
    *_, last = measuring.run()
    assert isinstance(last, measured.Measurement)
    result = last.results[1]
    assert result.mean_kl is not None
    word = "broken" if result.looks == "blind" else quantizing.verdict(result.mean_kl.value)
    typer.echo(
        f"drift on {len(last.questions)} questions: mean KL {result.mean_kl.value:.5f} "
        f"({_range(result.mean_kl, '.5f')}) nats a token: {word}{', blind' if result.looks == 'blind' else ''}"
    )


def _tensor_type(text: str) -> protocol.TensorType:
    pattern, equals, kind = text.rpartition("=")
    if not equals or not pattern:
        raise BadInput(f"--tensor-type wants PATTERN=TYPE, such as ffn_down=q8_0, not '{text}'.")
    return protocol.TensorType(pattern, kind)


def _measured(
    names: str,
    projectors: str,
    questions: Path | None,
    level: str,
    n: int,
    n_ctx: int,
    plan: measured.Plan,
    as_json: bool,
) -> tuple[measured.Measurement, tuple[Variant, ...], str]:
    with open_parts(Settings(), any_folder=True) as parts:
        parts.store.derive(parts.pool.quantize, _say)
        chosen = _chosen(parts, names, projectors)
        reference = compare.reference_of(chosen)
        asked = items.read_items(questions) if questions else items.embedded(parts.evaluation, level=level)
        if not 0 < n <= items.MAX_ITEMS:
            raise BadInput(f"-n has to be between 1 and {items.MAX_ITEMS}.")
        measuring = measure.Measuring(
            asked.first(n),
            chosen,
            reference,
            plan,
            Runtime(n_ctx=n_ctx),
            parts.pool,
            parts.embeddings,
            parts.known,
            lambda: False,
        )
        for update in measuring.run():
            if isinstance(update, measured.Measurement):
                found = update
            elif sys.stderr.isatty():
                left = f", {update.seconds_left:.0f} s left" if update.seconds_left is not None else ""
                sys.stderr.write(f"\r\x1b[K{update.done} of {update.total}{left}: {update.what}")
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    for problem in found.problems[:20]:
        _say(problem)
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
    return found, chosen, reference


def _chosen(parts: Parts, names: str, projectors: str) -> tuple[Variant, ...]:
    models = [name.strip() for name in names.split(",") if name.strip()] or list(parts.store.presets[0].ticked)
    return parts.store.choose(models, [p.strip() for p in projectors.split(",") if p.strip()])


def _print_floor(found: measured.Measurement) -> None:
    floors = ", ".join(f"{name} {kl:.1e}" for name, kl in found.floors.items())
    typer.echo(f"{len(found.questions)} questions. Noise floor (the reference against itself): {floors}")


def _range(interval: Interval, form: str) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{interval.low:{form}} – {interval.high:{form}}"


def _say(text: str) -> None:
    typer.echo(text, err=True)


COMMANDS: Sequence[Callable[..., None]] = (drift, grid, accuracy, quantize)
