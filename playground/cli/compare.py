"""Compare variants on an image; list the variants."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from playground.cli.options import (
    AxisOptions,
    EndpointNames,
    VariantOptions,
    axes_of,
    choose,
    derived,
    listed,
    with_options,
)
from playground.cli.run_options import FormOptions, RuntimeOptions, SamplingOptions
from playground.comparing import axes, branching, comparison_request, pages, run_settings, speeds, top_drift
from playground.comparing.compare import StopFlag
from playground.comparing.divergence import by_text, how_much, same_answer
from playground.comparing.image_decoder import DECODER
from playground.errors import BadInput
from playground.rendering import json_documents, number_format
from playground.settings import Settings
from playground.values.answer import ComparisonUpdate, Pane, PaneState
from playground.values.files import Variant
from playground.values.request import Comparison, Order
from playground.wiring import Parts, open_parts, usable_cores


def variants(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list.")] = False,
) -> None:
    """List the variants that can be compared."""
    with open_parts(Settings.read(), any_folder=True) as parts:
        known = (*derived(parts).variants, *parts.endpoints.variants)
    if as_json:
        typer.echo(json.dumps([json_documents.of_variant(v) for v in known], indent=1))
        return
    for v in known:
        star = " ★" if v.reference else ""
        size = f"{'a server':>12}" if v.endpoint else f"{v.bytes / 1e6:9.1f} MB"
        typer.echo(f"{v.id:40} {v.label + star:24} {size}")


@with_options
def compare(
    image: Annotated[
        list[Path], typer.Option(help="An image file; may be repeated. Of a PDF or TIFF: file.pdf#page=3, or 2,5-7.")
    ],
    prompt: Annotated[str, typer.Option(help="What to ask; <image> is an image's place. May be empty.")],
    choice: VariantOptions,
    sampling: SamplingOptions,
    runtime: RuntimeOptions,
    axis: AxisOptions,
    form: FormOptions,
    endpoint: EndpointNames = None,
    reference: Annotated[
        str | None, typer.Option(help="Label or id of the variant, or name of the endpoint, to compare with.")
    ] = None,
    order: Annotated[Order, typer.Option(help="In turn, for comparable speeds, or all at once.")] = Order.IN_TURN,
    makers_sampling: Annotated[
        bool,
        typer.Option("--makers-sampling", help="What the makers recommend, where nothing else is given."),
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Print each token's probability; takes one more pass."),
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Encode images and read prompts whole, whatever was kept from before.")
    ] = False,
    repeat: Annotated[
        int, typer.Option(min=1, max=10, help="Ask so many times; speeds are given as median and range.")
    ] = 1,
    branches: Annotated[
        bool,
        typer.Option(
            "--branches", help="Go on from the reference's token where an answer first differs; with --probabilities."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead of panes.")] = False,
) -> None:
    """Compare variants on an image. The exit code is 1 if a pane failed."""
    spread = axes_of(axis)
    given: dict[str, Any] = {
        **sampling.given,
        **runtime.given,
        **form.given,
        "kv_types": spread.kv_types,
        "image_tokens": spread.image_tokens,
        "order": order,
        "reference": reference,
        "probabilities": probabilities,
        "branches": branches or None,
        "cold": cold or None,
    }
    settings = run_settings.read_settings(given).within(usable_cores())
    named = [pages.split_name(str(path)) for path in image]
    images = tuple(page for path, numbers in named for page in DECODER.read_pages(path, numbers).images)
    with open_parts(Settings.read(), any_folder=True) as parts:
        chosen = axes.spread(choose(parts, choice), settings) + parts.endpoints.choose(listed(endpoint))
        if makers_sampling:
            settings = settings.over(_makers(parts, chosen))
        comparison = comparison_request.comparison_of(images, prompt, chosen, settings)
        updates: list[ComparisonUpdate] = []
        for _ in range(repeat):
            for last in branching.run(comparison, parts.lab, StopFlag(), max_panes=parts.settings.max_panes):
                if not as_json:
                    _show_progress(last)
            updates.append(last)
    spreads = speeds.spreads(updates)
    if as_json:
        document = json_documents.of_update(last)
        if repeat > 1:
            document["decode_tok_per_s"] = {id: asdict(value) for id, value in spreads.items()}
        typer.echo(json.dumps(document, indent=1))
    else:
        _show_panes(last, comparison, spreads)
    if any(pane.state is PaneState.FAILED for pane in last.panes):
        raise typer.Exit(1)


def _makers(parts: Parts, variants: Sequence[Variant]) -> dict[str, Any]:
    """What the makers of the variants' family recommend. Raises BadInput if there are several, or nothing is known."""
    families = {variant.family for variant in variants}
    preset = next((p for p in parts.catalog.presets if {p.family} == families), None)
    if preset is None or not preset.suggested.sampling():
        raise BadInput("The makers' sampling is not known for these variants. A preset of one family knows it.")
    return preset.suggested.sampling()


def _show_progress(update: ComparisonUpdate) -> None:
    if sys.stderr.isatty():
        states = "  ".join(f"{p.variant.split(':')[-1]}: {p.state}" for p in update.panes if not p.state.ended)
        sys.stderr.write(f"\r\x1b[K{states[:160]}")


def _show_panes(update: ComparisonUpdate, comparison: Comparison, spreads: speeds.Spreads) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    labels = {v.id: v.label for v in comparison.variants}
    reference = next(p for p in update.panes if p.variant == comparison.reference)
    for note in update.notes:
        typer.echo(f"({note})")
    for pane in update.panes:
        typer.echo(f"\n── {labels[pane.variant]} ── {_verdict(pane, reference)}")
        if pane.reasoning:
            tokens = pane.metrics.reasoning_tokens
            typer.echo(f"(reasoning{'' if tokens is None else f', {tokens} tokens'}: {pane.reasoning})\n")
        typer.echo(pane.text or pane.error or "")
        for remark in pane.remarks:
            typer.echo(f"   ({remark})")
        if pane.first_divergence is not None and pane.scores and reference.scores:
            position = pane.first_divergence
            for label, scores in ((labels[reference.variant], reference.scores), (labels[pane.variant], pane.scores)):
                likely = "  ".join(
                    f"{c.text!r} {number_format.probability(c.probability)}" for c in scores[position].candidates
                )
                typer.echo(f"   token {position + 1}, {label}: {likely}")
        if pane is not reference and (drift := top_drift.between(reference, pane)) is not None:
            typer.echo(f"   {number_format.drift_at_least(drift)}")
        typer.echo(f"   {_numbers(pane)}")
        if repeats := spreads.get(pane.variant):
            median, span = (
                number_format.sampled_speed(repeats.median),
                number_format.range_of(repeats.low, repeats.high),
            )
            typer.echo(f"   median {median}, {span} in {repeats.n}")
        for branch in update.branches:
            if branch.pane.variant == pane.variant:
                typer.echo(f"   ↳ from {branching.token_text(pane, branch)!r} (token {branch.at + 1}) on:")
                typer.echo(f"{branch.pane.text or branch.pane.error or ''}")
                typer.echo(f"   {branching.verdict(branch, reference)}")


def _verdict(pane: Pane, reference: Pane) -> str:
    if pane.state is not PaneState.DONE:
        return pane.state.value
    if pane is reference:
        return "reference"
    if not pane.comparable:
        return "of another family: not compared with the reference"
    if by_text(reference, pane) and reference.state is PaneState.DONE:
        same = same_answer(reference, pane)
        return "same as the reference" if same else f"differs: {how_much(reference.text, pane.text)}"
    if pane.first_divergence is None:
        return "same as the reference" if reference.state is PaneState.DONE else "no reference to compare with"
    if same_answer(reference, pane):
        return f"same answer as the reference, other reasoning (token {pane.first_divergence + 1})"
    return f"differs: {how_much(reference.text, pane.text)} (token {pane.first_divergence + 1})"


def _numbers(pane: Pane) -> str:
    if pane.elsewhere is not None:
        return number_format.elsewhere(pane.elsewhere)
    m = pane.metrics
    numbers = [
        f"load {m.load_s:.2f} s" if m.load_s is not None else "loaded",
        "image cached" if m.encode_cached else f"image {m.encode_s:.3f} s" if m.encode_s is not None else "",
        f"prompt {m.text_tokens} + {m.image_tokens} image tokens{number_format.image_seen(m)}"
        if m.prompt_tokens is not None
        else "",
        f"first token {m.ttft_s * 1000:.0f} ms" if m.ttft_s is not None else "",
        f"{m.decode_tok_per_s:.1f} tok/s" if m.decode_tok_per_s is not None else "",
        "(short)" if m.short_run else "",
        "(shared with other work)" if m.beside_others and m.decode_tok_per_s is not None else "",
        f"{m.host_rss_bytes / 2**20:.0f} MiB host" if m.host_rss_bytes is not None else "",
        f"{m.gpu_bytes / 2**20:.0f} MiB GPU" if m.gpu_bytes is not None else "",
    ]
    return " · ".join(number for number in numbers if number)
