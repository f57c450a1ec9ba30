"""What an answer looks like where it is DocTags, Markdown, or has HTML tables: as HTML that can do no harm.

The answer is a stranger's: all its text is escaped, and what becomes an element stands in a list here.
"""

from __future__ import annotations

import itertools
import re
from functools import lru_cache

import markupsafe
import nh3

from playground.rendering import markdown

_MAX_CHARACTERS = 50_000
_MAX_DEPTH = 20  # elements in each other
_MAX_SPAN = 100  # columns or rows of a cell

_MARKDOWN = re.compile(r"^ {0,3}(?:#{1,6} |```|\|?(?: *:?-{3,}:? *\|)+|[-*+] |\d{1,3}[.)] )|\*\*\S", re.MULTILINE)
_FENCED = re.compile(r"```(?:html|markdown|md)\n(.*?)(?:\n```)?", re.DOTALL)
_HTML_TABLE = re.compile(r"(<table\b.*?(?:</table>|\Z))", re.DOTALL | re.IGNORECASE)
_HTML_TAGS = {"table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td", "br", "p", "b", "i", "strong", "em",
              "sub", "sup", "ul", "ol", "li"}  # fmt: skip
_SPANS = {"td": {"colspan", "rowspan"}, "th": {"colspan", "rowspan"}}

_DOCTAGS_BEGIN = ("<doctag>", "<otsl>", "<fcel>", "<ched>")
_PANE = 3  # the level of a pane's heading: those of its answer are below it
_BLOCKS = {"text": "p", "paragraph": "p", "caption": "p", "footnote": "p", "page_header": "p", "page_footer": "p",
           "title": markdown.heading(_PANE + 1), "list_item": "li",
           **{f"section_header_level_{n}": markdown.heading(_PANE + 1 + n) for n in range(1, 6)},
           "unordered_list": "ul", "ordered_list": "ol", "code": "pre", "formula": "pre"}  # fmt: skip
_CELLS = {"fcel": "td", "ecel": "td", "ched": "th", "rhed": "th", "srow": "th"}
_MERGED = {"lcel", "ucel", "xcel"}  # with the cell at the left, above, or both
_TABLES = {"otsl", "chart"}
_SIGNS = {"checkbox_selected": "☑ ", "checkbox_unselected": "☐ "}
# Places, a code's language, and what only groups others: they have no element of their own.
_SILENT = r"loc_\d{1,4}|_[A-Za-z+#_]{1,30}_|doctag|picture|inline|group|page_break|nl"
_NAMES = "|".join((*_BLOCKS, *_CELLS, *_MERGED, *_TABLES, *_SIGNS, _SILENT))
_DOCTAG = re.compile(rf"<(/?)({_NAMES})>")


@lru_cache(maxsize=64)
def rendered(text: str) -> markupsafe.Markup | None:
    """None: there is nothing to render, or it is too long."""
    if len(text) > _MAX_CHARACTERS:
        return None
    if any(tag in text for tag in _DOCTAGS_BEGIN):
        return _DocTags(text).html
    if fenced := _FENCED.fullmatch(text.strip()):
        text = fenced[1]
    if "<table" in text.lower():
        parts = enumerate(_HTML_TABLE.split(text))
        return markupsafe.Markup("").join(_table(part) if n % 2 else markdown.render(part, _PANE) for n, part in parts)
    return markdown.render(text, _PANE) if fenced or _MARKDOWN.search(text) else None


def _table(html: str) -> markupsafe.Markup:
    clean = nh3.clean(html, tags=_HTML_TAGS, attributes=_SPANS, attribute_filter=_span, link_rel=None)
    return markupsafe.Markup(clean)  # noqa: S704  only what _HTML_TAGS lists


def _span(tag: str, name: str, value: str) -> str | None:
    return value if re.fullmatch(r"\d{1,3}", value) and int(value) <= _MAX_SPAN else None


class _DocTags:
    """Reads DocTags (Docling's) from the beginning to wherever they were cut off."""

    def __init__(self, text: str) -> None:
        self._html: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[tuple[str, str]]] | None = None  # of the table that is being read
        at = 0
        for tag in _DOCTAG.finditer(text):
            self._text(text[at : tag.start()])
            at = tag.end()
            if tag[1]:
                self._end(tag[2])
            else:
                self._begin(tag[2])
        self._text(text[at:])
        self._end_table()
        while self._open:
            self._close()

    @property
    def html(self) -> markupsafe.Markup:
        return markupsafe.Markup("".join(self._html))  # noqa: S704  escaped texts in elements of _BLOCKS and _CELLS

    def _begin(self, name: str) -> None:
        if name in _TABLES:
            self._end_table()
            self._rows = [[]]
        elif self._rows is not None and (name in _CELLS or name in _MERGED):
            self._rows[-1].append((name, ""))
        elif self._rows is not None and name == "nl":
            self._rows.append([])
        elif name in _SIGNS:
            self._text(_SIGNS[name])
        elif name in _BLOCKS and len(self._open) < _MAX_DEPTH:
            self._open.append(_BLOCKS[name])
            self._html.append(f"<{_BLOCKS[name]}>")

    def _end(self, name: str) -> None:
        if name in _TABLES:
            self._end_table()
        elif _BLOCKS.get(name) in self._open:
            while self._close() != _BLOCKS[name]:
                pass

    def _close(self) -> str:
        element = self._open.pop()
        self._html.append(f"</{element}>")
        return element

    def _text(self, text: str) -> None:
        if self._rows is not None and self._rows[-1] and not self._open:
            kind, before = self._rows[-1][-1]
            self._rows[-1][-1] = (kind, before + text)
        elif text.strip():
            self._html.append(markupsafe.escape(text))

    def _end_table(self) -> None:
        rows, self._rows = self._rows, None
        if rows is None:
            return
        self._html.append("<table>")
        for r, row in enumerate(rows):
            cells = [self._cell(rows, r, c) for c, (kind, _) in enumerate(row) if kind in _CELLS]
            if cells:
                self._html.append(f"<tr>{''.join(cells)}</tr>")
        self._html.append("</table>")

    @staticmethod
    def _cell(rows: list[list[tuple[str, str]]], r: int, c: int) -> str:
        kind, text = rows[r][c]
        right = (kind for kind, _ in rows[r][c + 1 : c + _MAX_SPAN])
        below = (row[c][0] if c < len(row) else "" for row in rows[r + 1 : r + _MAX_SPAN])
        columns = 1 + sum(1 for _ in itertools.takewhile("lcel".__eq__, right))
        lines = 1 + sum(1 for _ in itertools.takewhile("ucel".__eq__, below))
        spans = (f' colspan="{columns}"' if columns > 1 else "") + (f' rowspan="{lines}"' if lines > 1 else "")
        return f"<{_CELLS[kind]}{spans}>{markupsafe.escape(text.strip())}</{_CELLS[kind]}>"
