"""The JSON documents of the command line and the API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import msgspec

from playground.measuring import gate
from playground.measuring.gate import Verdict
from playground.measuring.results import Measurement, Progress
from playground.values.answer import ComparisonUpdate, Pane
from playground.values.files import Variant
from playground.values.memory import MemoryReport


def of_variant(variant: Variant) -> dict[str, Any]:
    """bytes and sha256 are the language model's; the projector has its own keys. None: it answers elsewhere."""
    document = {
        "id": variant.id,
        "family": variant.family,
        "label": variant.label,
        "quantization": variant.model.quantization,
        "projector": variant.projector.quantization,
        "bytes": variant.model.bytes,
        "sha256": variant.model.sha256,
        "bits_per_weight": variant.model.bits_per_weight,
        "projector_bytes": variant.projector.bytes,
        "projector_sha256": variant.projector.sha256,
        "reference": variant.reference,
        "endpoint": variant.endpoint or None,
    }
    if variant.endpoint:
        document |= dict.fromkeys(_OF_FILES)
    return document


_OF_FILES = (
    "quantization", "projector", "bytes", "sha256", "bits_per_weight", "projector_bytes", "projector_sha256",
)  # fmt: skip


def of_pane(pane: Pane) -> dict[str, Any]:
    return {
        "variant": pane.variant,
        "state": pane.state.value,
        "text": pane.text,
        "reasoning": pane.reasoning,
        "controls": list(pane.controls),
        "raw": pane.raw,
        "metrics": asdict(pane.metrics),
        "first_divergence": pane.first_divergence,
        "comparable": pane.comparable,
        "error": pane.error,
        "error_code": pane.error_code,
        "finish_reason": pane.finish_reason,
        "remarks": list(pane.remarks),
        "token_ids": list(pane.token_ids),
        "scores": [asdict(score) for score in pane.scores],
        "engine": asdict(pane.engine) if pane.engine is not None else None,
        "timeline": [[state.value, seconds] for state, seconds in pane.timeline],
        "elsewhere": asdict(pane.elsewhere) if pane.elsewhere is not None else None,
    }


def of_update(update: ComparisonUpdate) -> dict[str, Any]:
    return {
        "panes": [of_pane(pane) for pane in update.panes],
        "branches": [{"at": b.at, "token_id": b.token_id} | of_pane(b.pane) for b in update.branches],
        "done": update.done,
        "queue_place": update.queue_place,
        "notes": list(update.notes),
        "elapsed_s": update.elapsed_s,
        "rendered_prompt": update.rendered_prompt,
    }


def of_news(news: Progress | Measurement, variants: Sequence[Variant] = (), reference: str = "") -> dict[str, Any]:
    """Of a running measurement. The single questions are left out. None: not measured.

    `variants`, `reference`: of a Measurement; what may be said of them stands in `verdict`.
    """
    if isinstance(news, Progress):
        return {"done": False, "what": news.what, "step": news.done, "steps": news.total}
    judged = gate.gates(news.results, news.questions, reference)
    measured = []
    for result in news.results:
        entry = {name: value for name, value in msgspec.to_builtins(result).items() if name != "items"}
        verdict = None if result.variant == reference else judged[result.variant]
        measured.append(
            entry
            | {
                "verdict": verdict and verdict.verdict.value,
                "verdict_words": verdict and verdict.words,
                "enough_questions": verdict.enough if verdict and verdict.verdict is Verdict.UNKNOWN else None,
            }
        )
    return {
        "done": True,
        "verdict": gate.sentence(news, variants, reference),
        "questions": len(news.questions),
        "variants": measured,
        "problems": list(news.problems),
        "elapsed_s": news.elapsed_s,
        "form": msgspec.to_builtins(news.form),
    }


def of_memory(report: MemoryReport) -> dict[str, Any]:
    """Who waits is left out."""
    document = asdict(report) | {"budget_bytes": report.budget_bytes, "queue_length": report.queue_length}
    for entry in document["queue"]:
        del entry["who"]
    return document
