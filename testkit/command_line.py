"""A command as a person calls it, in the tests' own process: a process of its own takes a second to import."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from playground.cli.commands import main


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str


def called(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *words: object) -> Called:
    """To its end. The command reads this process's environment."""
    monkeypatch.setattr(sys, "argv", ["playground", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capfd.readouterr()
    return Called(int(ended.value.code or 0), out, err)
