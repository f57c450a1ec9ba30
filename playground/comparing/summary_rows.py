"""A run's panes as rows to sort and to plot. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from playground.comparing.divergence import by_text, same_answer
from playground.comparing.speeds import NO_SPREADS, Spread, Spreads, whole_ttft
from playground.values.answer import Metrics, Pane, PaneState
from playground.values.files import Variant


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """One variant. Shares are 0 to 1; None for what is not known or cannot be compared."""

    label: str
    is_reference: bool
    bytes: int | None  # of both files; None: it answers elsewhere
    bits_per_weight: float | None  # of the language model
    metrics: Metrics
    same_prefix: float | None  # of the reference's tokens, how many stand at the answer's beginning
    same: bool | None  # the answer is the reference's, whatever the reasoning was
    whole_ttft_s: float | None = None  # time to the first token with the image and the whole prompt
    spread: Spread | None = None  # of tokens per second over repeats of the question

    @property
    def memory_bytes(self) -> int | None:
        return self.metrics.gpu_bytes if self.metrics.gpu_bytes is not None else self.metrics.host_rss_bytes


def summary_rows(
    panes: Sequence[Pane], variants: Sequence[Variant], reference: str, spreads: Spreads = NO_SPREADS
) -> tuple[SummaryRow, ...]:
    """In the panes' order."""
    by_id = {v.id: v for v in variants}
    wanted = next((p for p in panes if p.variant == reference), None)
    whole = whole_ttft(panes, by_id)
    rows = ((pane, _row(pane, by_id[pane.variant], wanted)) for pane in panes)
    return tuple(replace(row, whole_ttft_s=whole[pane.variant], spread=spreads.get(pane.variant)) for pane, row in rows)


def _row(pane: Pane, variant: Variant, reference: Pane | None) -> SummaryRow:
    is_reference = reference is not None and pane.variant == reference.variant
    prefix, same = None, None
    if (
        not is_reference
        and reference is not None
        and pane.comparable
        and pane.state is reference.state is PaneState.DONE
        and (reference.token_ids or by_text(reference, pane))
    ):
        same = same_answer(reference, pane)
        if not by_text(reference, pane):
            prefix = 1.0 if pane.first_divergence is None else pane.first_divergence / len(reference.token_ids)
    return SummaryRow(
        label=variant.label,
        is_reference=is_reference,
        bytes=variant.known_bytes,
        bits_per_weight=variant.model.bits_per_weight,
        metrics=pane.metrics,
        same_prefix=prefix,
        same=same,
    )
