"""Compare variants on an image; list the variants."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from playground.comparing import compare as lab
from playground.comparing import comparison_request, run_settings
from playground.comparing.divergence import first_word
from playground.comparing.images import read_image
from playground.errors import BadInput
from playground.rendering import json_documents
from playground.settings import Settings
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.files import Variant
from playground.values.request import Comparison, Order, Remedy
from playground.wiring import Parts, open_parts

Models = Annotated[list[Path] | None, typer.Option("--model", help="A language model's GGUF file; may be repeated.")]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _open(parts: Parts, models: list[Path], projectors: list[Path]) -> tuple[Variant, ...]:
    """The pairs given by path, else all that is there, derived variants included."""
    if bool(models) != bool(projectors):
        raise BadInput("Give both halves of a pair: --model a.gguf --projector b.gguf.")
    if models:
        return tuple(parts.catalog.open_pair(model, projector) for model in models for projector in projectors)
    parts.catalog.derive(parts.pool.quantize, _say)
    for problem in parts.catalog.problems:
        _say(problem)
    return parts.catalog.variants


def variants(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List the variants that are there."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        found = _open(parts, [], [])
    if as_json:
        typer.echo(json.dumps([json_documents.of_variant(v) for v in found], indent=1))
        return
    for v in found:
        star = " ★" if v.reference else ""
        typer.echo(f"{v.id:40} {v.label + star:24} {v.bytes / 1e6:9.1f} MB")


def compare(
    image: Annotated[list[Path], typer.Option(help="An image file; may be repeated.")],
    prompt: Annotated[str, typer.Option(help="What to ask.")],
    variants: Annotated[str, typer.Option(help="Labels or ids, separated by commas. Default: the preset's.")] = "",
    projector: Annotated[
        list[str] | None,
        typer.Option(help="Projector quantizations (F16,Q4_0), or with --model the mmproj file."),
    ] = None,
    model: Models = None,
    reference: Annotated[str | None, typer.Option(help="Label or id of the variant to compare with.")] = None,
    order: Annotated[Order, typer.Option(help="Honest speeds, or all at once.")] = Order.IN_TURN,
    temperature: Annotated[float | None, typer.Option(help="0: greedy.")] = None,
    top_k: Annotated[int | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    min_p: Annotated[float | None, typer.Option()] = None,
    repeat_penalty: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int | None, typer.Option()] = None,
    max_tokens: Annotated[int | None, typer.Option()] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends the answer; may be repeated.")] = None,
    n_ctx: Annotated[int | None, typer.Option("--ctx-size", help="Context size, tokens.")] = None,
    n_threads: Annotated[int | None, typer.Option("--threads")] = None,
    n_batch: Annotated[int | None, typer.Option("--batch-size")] = None,
    n_gpu_layers: Annotated[int | None, typer.Option("--n-gpu-layers", help="-1: all.")] = None,
    allow: Annotated[
        list[Remedy] | None, typer.Option(help="What may be done if GPU memory is short; may be repeated.")
    ] = None,
    split_gpus: Annotated[bool, typer.Option("--split-gpus", help="A model's layers over all GPUs.")] = False,
    chat_template: Annotated[str | None, typer.Option(help="Jinja text, or a llama.cpp template's name.")] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Of each token; costs one more reading.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of panes.")] = False,
) -> None:
    """Compare variants on an image. The exit code is 1 if a pane failed."""
    given: dict[str, Any] = {
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "repeat_penalty": repeat_penalty,
        "seed": seed, "max_tokens": max_tokens, "stop": tuple(stop) if stop else None, "n_ctx": n_ctx,
        "n_threads": n_threads, "n_batch": n_batch, "n_gpu_layers": n_gpu_layers, "order": order,
        "reference": reference, "chat_template": chat_template, "probabilities": probabilities,
        "remedies": tuple(allow) if allow else None, "split_gpus": split_gpus or None,
    }  # fmt: skip
    settings = run_settings.read_settings(given)
    names = [name.strip() for name in variants.split(",") if name.strip()]
    images = tuple(read_image(path) for path in image)
    with open_parts(Settings.read(), any_folder=True) as parts:
        if model:
            found = _open(parts, model, [Path(p) for p in projector or ()])
            chosen = tuple(v for v in parts.catalog.choose(names) if v in found) if names else found
        else:
            _open(parts, [], [])
            quantizations = [q for group in projector or () for q in group.split(",")]
            chosen = parts.catalog.choose(names or parts.catalog.presets[0].ticked, quantizations)
        comparison = comparison_request.comparison_of(images, prompt, chosen, settings)
        last: ComparisonUpdate | None = None
        for last in lab.run(
            comparison, parts.pool, parts.embeddings, lab.StopFlag(), max_panes=parts.settings.max_panes
        ):
            if not as_json:
                _show_progress(last)
    assert last is not None
    if as_json:
        typer.echo(json.dumps(json_documents.of_update(last), indent=1))
    else:
        _show_panes(last, comparison)
    if any(pane.state is PaneState.FAILED for pane in last.panes):
        raise typer.Exit(1)


def _show_progress(update: ComparisonUpdate) -> None:
    if sys.stderr.isatty():
        states = "  ".join(f"{p.variant.split(':')[-1]}: {p.state}" for p in update.panes if not p.state.ended)
        sys.stderr.write(f"\r\x1b[K{states[:160]}")


def _show_panes(update: ComparisonUpdate, comparison: Comparison) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    labels = {v.id: v.label for v in comparison.variants}
    reference = next(p for p in update.panes if p.variant == comparison.reference)
    for note in update.notes:
        typer.echo(f"({note})")
    for pane in update.panes:
        typer.echo(f"\n── {labels[pane.variant]} ── {_verdict(pane, reference)}")
        typer.echo(pane.text or pane.error or "")
        if pane.first_divergence is not None and pane.scores and reference.scores:
            at = pane.first_divergence
            for label, scores in ((labels[reference.variant], reference.scores), (labels[pane.variant], pane.scores)):
                likely = "  ".join(f"{c.text!r} {c.probability:.1%}" for c in scores[at].candidates)
                typer.echo(f"   token {at}, {label}: {likely}")
        typer.echo(f"   {_numbers(pane)}")


def _verdict(pane: Pane, reference: Pane) -> str:
    if pane.state is not PaneState.DONE:
        return pane.state.value
    if pane is reference:
        return "reference"
    if not pane.comparable:
        return "of another family: not compared with the reference"
    if pane.first_divergence is None:
        return "same as the reference" if reference.state is PaneState.DONE else "no reference to compare with"
    return f"differs from word {first_word(reference.text, pane.text)} (token {pane.first_divergence})"


def _numbers(pane: Pane) -> str:
    m = pane.metrics
    parts = [
        f"load {m.load_s:.2f} s" if m.load_s is not None else "loaded",
        "image cached" if m.encode_cached else f"image {m.encode_s:.3f} s" if m.encode_s is not None else "",
        f"prompt {m.text_tokens} + {m.image_tokens} image tokens" if m.prompt_tokens is not None else "",
        f"first token {m.ttft_s * 1000:.0f} ms" if m.ttft_s is not None else "",
        f"{m.decode_tok_per_s:.1f} tok/s" if m.decode_tok_per_s is not None else "",
        "(short)" if m.short_run else "",
        f"{m.host_rss_bytes / 2**20:.0f} MiB host" if m.host_rss_bytes is not None else "",
        f"{m.gpu_bytes / 2**20:.0f} MiB GPU" if m.gpu_bytes is not None else "",
    ]
    return " · ".join(part for part in parts if part)
