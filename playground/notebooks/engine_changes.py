"""How llama.cpp computed a run, against the run before: what a measurement of the machine changes is said. Pure."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from playground.comparing.run_settings import RunSettings
from playground.notebooks.cells import Run
from playground.values.answer import ComparisonUpdate
from playground.values.engine_defaults import EngineSettings


def as_before(settings: RunSettings, run: Run) -> RunSettings:
    """The settings with the flash attention of the answers that a run has, so that the next one is computed alike."""
    attention = {engine.flash_attention for engine in _computed(run).values()}
    if settings.flash_attention is not None or len(attention) != 1:
        return settings
    return msgspec.structs.replace(settings, flash_attention=attention.pop())


def said(update: ComparisonUpdate, before: Run | None, settings: RunSettings) -> ComparisonUpdate:
    """The update, with a note if llama.cpp computes otherwise than in the run before, and nobody has set it so."""
    if before is None or _set(settings) != _set(before.cell.settings):
        return update
    then = _computed(before)
    for pane in update.panes:
        old, new = then.get(pane.variant), pane.engine
        if old is not None and new is not None and _of_text(old) != _of_text(new):
            note = (
                f"llama.cpp computes otherwise than in run {before.number}: {new.words}; before {old.words}. A "
                "measurement of the machine decides this where it is not set (see Inspect). Where two tokens are "
                "almost equally likely, texts may differ."
            )
            return replace(update, notes=(*update.notes, note))
    return update


def _computed(run: Run) -> dict[str, EngineSettings]:
    """By variant."""
    panes = (pane for result in run.results for pane in result.update.panes)
    return {pane.variant: pane.engine for pane in panes if pane.engine is not None}


def _of_text(settings: EngineSettings) -> tuple[bool | None, int]:
    """What the last bits depend on."""
    return settings.flash_attention, settings.n_threads


def _set(settings: RunSettings) -> tuple[bool | None, int | None]:
    return settings.flash_attention, settings.n_threads
