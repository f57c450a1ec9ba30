"""Durations as a person says them."""

from __future__ import annotations


def about(seconds: float) -> str:
    """Of an estimate: tens of seconds, then minutes, then hours."""
    if seconds < 9.5:
        return "a few seconds"
    if seconds < 90:
        return f"about {round(seconds, -1):.0f} s"
    return f"about {seconds / 60:.0f} minutes" if seconds < 5400 else f"about {seconds / 3600:.1f} hours"
