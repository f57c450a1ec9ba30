"""Counts in words."""

from __future__ import annotations


def counted(n: int, what: str) -> str:
    """`what`: of one, with a plural in s."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"
