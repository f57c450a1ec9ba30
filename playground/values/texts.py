"""Texts that are shown in part."""

from __future__ import annotations


def shortened(text: str, most: int) -> str:
    """The first characters, and a mark that more follow."""
    return text if len(text) <= most else f"{text[:most]} …"


def shortened_line(text: str, most: int) -> str:
    """The same on one line, whatever the white space."""
    return shortened(" ".join(text.split()), most)
