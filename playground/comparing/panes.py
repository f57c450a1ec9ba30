"""What the panes of a running comparison look like now."""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event, Lock

from playground.comparing import divergence
from playground.values.answer import ComparisonUpdate, Elsewhere, Pane, PaneState
from playground.values.files import Variant
from playground.values.request import Comparison

_URGENT = {PaneState.WRITING, PaneState.DONE, PaneState.STOPPED, PaneState.FAILED}


class Panes:
    """What the panes look like now. Written by the run's threads, read by the iterator."""

    def __init__(self, comparison: Comparison) -> None:
        self.changed = Event()
        self.urgent = Event()  # a first token, or an end: to be shown at once
        self.ended = Event()  # nothing will change any more
        self._lock = Lock()
        self._reference = comparison.reference
        reference = next((v for v in comparison.variants if v.id == comparison.reference), None)
        self._panes = {
            v.id: Pane(
                variant=v.id,
                comparable=reference is not None and comparable(v, reference),
                elsewhere=Elsewhere() if v.endpoint else None,
            )
            for v in comparison.variants
        }
        self._place: int | None = None
        self._rendered: str | None = None
        self._notes: tuple[str, ...] = tuple(image.note for image in comparison.images if image.note)
        self._started = time.monotonic()

    def __getitem__(self, variant: str) -> Pane:
        with self._lock:
            return self._panes[variant]

    def set(self, variant: str, **fields: object) -> None:
        with self._lock:
            before = self._panes[variant]
            pane = replace(before, **fields)  # type: ignore[arg-type]
            if pane.state is not before.state:
                entered = (pane.state, round(time.monotonic() - self._started, 4))
                pane = replace(pane, timeline=(*before.timeline, entered))
            self._panes[variant] = pane
            # The reference's end decides about panes that were there before it.
            others = self._panes if variant == self._reference else [variant]
            for other in others:
                self._panes[other] = self._compared(self._panes[other])
        self.changed.set()
        if fields.get("state") in _URGENT:
            self.urgent.set()

    def end(self) -> None:
        self.ended.set()
        self.urgent.set()
        self.changed.set()

    @property
    def characters(self) -> int:
        with self._lock:
            return sum(len(pane.text) + len(pane.reasoning) for pane in self._panes.values())

    def place(self, place: int) -> None:
        with self._lock:
            self._place = place or None
        self.changed.set()

    def rendered(self, text: str) -> None:
        with self._lock:
            self._rendered = text

    def note(self, text: str) -> None:
        with self._lock:
            if text not in self._notes:
                self._notes += (text,)

    def update(self, *, done: bool = False) -> ComparisonUpdate:
        with self._lock:
            return ComparisonUpdate(
                panes=tuple(self._panes.values()),
                done=done,
                queue_place=self._place,
                rendered_prompt=self._rendered,
                notes=self._notes,
                elapsed_s=time.monotonic() - self._started,
            )

    def _compared(self, pane: Pane) -> Pane:
        reference = self._panes.get(self._reference)
        # A reference that was stopped or failed half-way is nothing to compare with.
        if reference is None or pane.variant == reference.variant or reference.state is not PaneState.DONE:
            return pane
        if not pane.comparable or divergence.by_text(reference, pane):
            return pane
        first = divergence.first_divergence(reference.token_ids, pane.token_ids, ended=pane.state is PaneState.DONE)
        return replace(pane, first_divergence=first)


def comparable(variant: Variant, reference: Variant) -> bool:
    """Whether equal token ids are equal texts. With an answer from elsewhere the texts are compared."""
    if variant.endpoint or reference.endpoint:
        return True
    same = variant.model.vocabulary_sha256 == reference.model.vocabulary_sha256
    return same or variant.family == reference.family  # another uploader's chat template makes another hash
