"""What a terminal gets of the texts of strangers: names of files, metadata, answers."""

from __future__ import annotations

import io
import sys

import pytest

from playground.cli import commands


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b]0;title\x07b", "a]0;titleb"),
        ("\x1b]52;c;aGk=\x1b\\", "]52;c;aGk=\\"),
        ("\x9b2Jx\x90y\x7f", "2Jxy"),
        ("over\rwritten\x08", "overwritten"),
        ("\r\x1b[Kpane 1\x1b[1;31mred\x1b[0m", "\r\x1b[Kpane 1\x1b[1;31mred\x1b[0m"),
        ("1\t2\n", "1\t2\n"),
    ],
)
def test_text_when_a_terminal_gets_it_then_it_only_shows_something(text: str, expected: str) -> None:
    assert commands.shown(text) == expected


def test_command_when_a_file_has_a_strange_name_then_the_terminal_gets_no_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "argv", ["playground", "score", "--rule", "exact", "a\x1b]0;title\x07"])
    with pytest.raises(SystemExit) as end:
        commands.main()
    assert end.value.code == 2
    shown = out.getvalue() + err.getvalue()
    assert "title" in shown
    assert not {"\x1b]", "\x07"} & {shown[at : at + n] for n in (1, 2) for at in range(len(shown))}
