"""Templates and style sheets can be reviewed line by line."""

from __future__ import annotations

from pathlib import Path

import cssbeautifier
import pytest

PLAYGROUND = Path(__file__).parents[2] / "playground"
MAX_LINE = 120
TEMPLATES = sorted((PLAYGROUND / "rendering/templates").glob("*.html"))
STYLES = sorted([*(PLAYGROUND / "rendering/styles").glob("*.css"), *(PLAYGROUND / "web/static").glob("*.css")])
assert TEMPLATES
assert STYLES


@pytest.mark.parametrize("path", [*TEMPLATES, *STYLES], ids=lambda path: path.name)
def test_template_or_style_when_read_then_no_line_is_too_long(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [(number, len(line)) for number, line in lines if len(line) > MAX_LINE] == []


@pytest.mark.parametrize("path", STYLES, ids=lambda path: path.name)
def test_style_when_formatted_then_it_stays_as_it_is(path: Path) -> None:
    """`make format` writes it."""
    options = cssbeautifier.default_options()
    options.indent_size, options.end_with_newline, options.space_around_combinator = 2, True, True
    text = path.read_text()
    assert cssbeautifier.beautify(text, options) == text
    assert "{ " not in text  # one declaration a line
