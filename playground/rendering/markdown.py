"""Markdown of people who are not trusted: as HTML without their own tags, and as Markdown without live HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import markdown_it
import markupsafe

# Raw HTML is shown as text, links are checked (no javascript:), and nothing is fetched from other addresses.
_SHOWN = markdown_it.MarkdownIt("js-default").disable("image")
_AS_ELSEWHERE = markdown_it.MarkdownIt("commonmark").enable("table")  # where raw HTML is live

# markdown-it looks for the end of each link's text: quadratic in the "[" of a paragraph. 3000 of them take 0.05 s.
_MAX_STEPS = 3000**2
_MAX_STARS = 40_000  # linear: 0.6 s
_NESTED = re.compile(
    r"^[ \t]*(?:>[ \t]*|(?:[-+*]|\d{1,9}[.)])[ \t]+){50}", re.MULTILINE
)  # lists and quotes in each other
_BLOCK = re.compile(r"\n[ \t]*\n")


@lru_cache(maxsize=64)
def render(text: str, below: int = 0) -> markupsafe.Markup:
    """HTML; as plain text if it has so many brackets or marks that Markdown would take seconds.

    `below`: the level of the heading that the text stands under; its own begin one deeper.
    """
    if _is_costly(text):
        return markupsafe.Markup(
            "<p>Too many brackets or marks for Markdown: shown as plain text.</p>\n<pre>{}</pre>"
        ).format(text)
    try:
        tokens = _SHOWN.parse(text)
        for token in tokens:
            if token.type in ("heading_open", "heading_close"):
                token.tag = heading(int(token.tag[1:]) + below)
        html = _SHOWN.renderer.render(tokens, _SHOWN.options, {})
        return markupsafe.Markup(html)  # noqa: S704  markdown-it escapes what is not Markdown
    except RecursionError:
        return markupsafe.Markup("<pre>{}</pre>").format(text)


def heading(level: int) -> str:
    """The element of a heading; HTML has six levels."""
    return f"h{min(level, 6)}"


def inert(text: str) -> str:
    """The same Markdown, in which raw HTML is text wherever it is shown. Code stays as it is."""
    for _ in range(3):  # what was HTML is parsed as text the next time
        if _is_costly(text):
            break
        lines = text.split("\n")
        changed = False
        for token in _AS_ELSEWHERE.parse(text):
            both = (token, *(token.children or ()))
            tags = [tag.content for tag in both if tag.type in ("html_block", "html_inline")]
            parts = {part for tag in tags for part in tag.split("\n") if "<" in part}
            for number in range(*token.map) if parts and token.map else ():
                changed = True
                for part in parts:
                    lines[number] = lines[number].replace(part, part.replace("<", "&lt;"))
        if not changed:
            return text
        text = "\n".join(lines)
    return text.replace("<", "&lt;")


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown. A cell is one line, and its bars stay in it."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(columns), "|---" * len(columns) + "|", *map(line, rows)])


def _is_costly(text: str) -> bool:
    return (
        sum(block.count("[") ** 2 for block in _BLOCK.split(text)) > _MAX_STEPS
        or text.count("*") + text.count("_") > _MAX_STARS
        or _NESTED.search(text) is not None
    )
