"""Which pages of a document a person wants: "3", "2,5-7", or behind a file's name "report.pdf#page=3". Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from playground.comparing.images import MAX_PAGES
from playground.errors import BadInput

_RANGE = re.compile(r"(\d{1,6})(?:\s*[-–]\s*(\d{1,6}))?")
_FRAGMENT = re.compile(r"(.+)#pages?=(.*)", re.DOTALL)


def read_numbers(text: str) -> tuple[int, ...]:
    """Numbers from 1 on, each once. Raises BadInput."""
    numbers: dict[int, None] = {}
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise BadInput(f"Invalid pages '{text[:40]}': write 3, or 2,5-7.")
        first, last = int(match[1]), int(match[2] or match[1])
        if not 1 <= first <= last:
            raise BadInput(f"Invalid pages '{text[:40]}': the first page is 1, and a range goes up.")
        numbers |= dict.fromkeys(range(first, min(last, first + MAX_PAGES) + 1))
        if len(numbers) > MAX_PAGES:
            raise BadInput(f"At most {MAX_PAGES} pages are read at once. You asked for more: '{text[:40]}'.")
    return tuple(numbers)


def split_name(name: str) -> tuple[str, tuple[int, ...] | None]:
    """A file's name, and the pages behind it; None: it names none. Raises BadInput."""
    match = _FRAGMENT.fullmatch(name)
    if match is None or Path(name).exists():
        return name, None
    return match[1], read_numbers(match[2])


def words(numbers: Sequence[int]) -> str:
    """As `read_numbers` reads them: 2, 5-7."""
    runs = (list(run) for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]))
    ranges = ((run[0][1], run[-1][1]) for run in runs)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
