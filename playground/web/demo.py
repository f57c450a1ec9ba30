"""What the operator has turned off. In the demo mode (PLAYGROUND_DEMO) visitors run what is there, and nothing else."""

from __future__ import annotations

from playground.errors import NotAllowed
from playground.settings import Settings


def refuse(settings: Settings, action: str) -> None:
    """Raises NotAllowed in the demo mode. `action`: a clause such as "No file can be opened"."""
    if settings.demo:
        raise NotAllowed(f"{action}: this is a demonstration, where only what is there can be run.")


def refuse_downloads(settings: Settings) -> None:
    """Raises NotAllowed where nothing may be fetched from the Hub."""
    if not settings.downloads:
        raise NotAllowed("The operator does not allow downloads here (PLAYGROUND_DOWNLOADS).")
