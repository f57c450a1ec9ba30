"""What changed from one run of a cell to another, in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from playground.comparing.divergence import how_much
from playground.notebooks.cells import Picture, Run
from playground.values.answer import PaneState
from playground.values.texts import shortened_line

_MAX_CHARACTERS = 80  # of a prompt or a name in the sentence


def changes(old: Run, new: Run) -> str:
    """What was asked differently, then which answers came out differently."""
    changed = []
    if old.cell.prompts != new.cell.prompts:
        changed.append(f"the prompt changed from {_quoted(old.cell.prompts)} to {_quoted(new.cell.prompts)}")
    if [p.sha256 for p in old.cell.pictures] != [p.sha256 for p in new.cell.pictures]:
        changed.append(f"the images changed from {_named(old.cell.pictures)} to {_named(new.cell.pictures)}")
    if old.cell.questions != new.cell.questions:
        changed.append("the questions, or what is measured, changed")
    if old.cell.gallery != new.cell.gallery:
        changed.append("each image alone" if new.cell.gallery else "all images in one prompt")
    before, after = settings_of(old), settings_of(new)
    for name in dict.fromkeys((*before, *after)):
        if before.get(name) == after.get(name):
            continue
        if name == "chat template":  # pages long
            changed.append("the chat template changed")
        else:
            changed.append(f"{name} {before.get(name, 'default')} → {after.get(name, 'default')}")
    for what in ("engine", "machine"):
        if getattr(old, what) != getattr(new, what):
            changed.append(f"the {what} changed")
    changed += [f"{v.label} added" for v in new.variants if v.id not in {v.id for v in old.variants}]
    changed += [f"{v.label} removed" for v in old.variants if v.id not in {v.id for v in new.variants}]
    files = {v.id: (v.model.sha256, v.projector.sha256) for v in old.variants}
    changed += [
        f"the files of {v.label} changed"
        for v in new.variants
        if v.id in files and files[v.id] != (v.model.sha256, v.projector.sha256)
    ]
    sentence = f"From run {old.number} to run {new.number}: " + (", ".join(changed) or "nothing was changed") + "."
    return f"{sentence} {_answers(old, new)}".strip()


def _quoted(prompts: Sequence[str]) -> str:
    return " and ".join(f"“{shortened_line(prompt, _MAX_CHARACTERS)}”" for prompt in prompts)


def _named(pictures: Sequence[Picture]) -> str:
    return ", ".join(shortened_line(picture.name or "an image", _MAX_CHARACTERS) for picture in pictures) or "no image"


def settings_of(run: Run) -> Mapping[str, Any]:
    """The settings that are not the default."""
    given: dict[str, Any] = msgspec.to_builtins(run.cell.settings)
    return {name.replace("_", " "): value for name, value in given.items() if value not in (None, (), "")}


def _answers(old: Run, new: Run) -> str:
    labels = {v.id: v.label for v in new.variants}
    same: dict[str, bool] = {}
    differences = []
    earlier = {(r.turn, r.picture and r.picture.sha256): r for r in old.results}
    for after in new.results:
        before = earlier.get((after.turn, after.picture and after.picture.sha256))
        if before is None:
            continue
        texts = {p.variant: p.text for p in before.update.panes if p.state is PaneState.DONE}
        for pane in after.update.panes:
            if pane.state is not PaneState.DONE or pane.variant not in texts:
                continue
            equal = pane.text == texts[pane.variant]
            if not equal and same.get(pane.variant, True):
                differences.append(f"{labels[pane.variant]} differs in {how_much(texts[pane.variant], pane.text)}")
            same[pane.variant] = same.get(pane.variant, True) and equal
    unchanged = [labels[variant] for variant, equal in same.items() if equal]
    if unchanged and not differences:
        return "All answers are the same." if len(unchanged) > 1 else f"{unchanged[0]} answers the same."
    if unchanged:
        differences.insert(0, f"{', '.join(unchanged)} the same")
    return "; ".join(differences) + "." if differences else ""
