"""Answers in DocTags, Markdown and HTML tables become HTML, and no other HTML than that."""

from __future__ import annotations

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from playground.rendering.answer_markup import rendered

MERGED = (
    "<doctag><otsl><loc_1><caption>Sales</caption><ched>Year<lcel><nl><rhed>2025<fcel>1 < 2<nl><ucel><ecel><nl></otsl>"
)
PAGE = (
    "<doctag><section_header_level_1><loc_1><loc_2>Head</section_header_level_1>\n<text>a <b> c</text>\n"
    "<unordered_list><list_item>one</list_item></unordered_list>\n<code><_Python_>x = 1</code>\n<text>cut of"
)


@pytest.mark.parametrize(
    ("answer", "html"),
    [
        ("A red ball, 3 - 2 = 1.", None),
        ("# Head\n\n**bold** <i>x</i>", "<h4>Head</h4>\n<p><strong>bold</strong> &lt;i&gt;x&lt;/i&gt;</p>\n"),
        ("```html\n<table><tr><td>1</td></tr></table>\n```", "<table><tbody><tr><td>1</td></tr></tbody></table>"),
        (
            'See:\n<table onclick="x"><tr><td colspan="2" rowspan="9999" style="x">a<script>x()</script><img src="y">',
            '<p>See:</p>\n<table><tbody><tr><td colspan="2">a</td></tr></tbody></table>',
        ),
        (
            MERGED,
            '<p>Sales</p><table><tr><th colspan="2">Year</th></tr><tr><th rowspan="2">2025</th><td>1 &lt; 2</td></tr>'
            "<tr><td></td></tr></table>",
        ),
        (
            PAGE,
            "<h5>Head</h5><p>a &lt;b&gt; c</p><ul><li>one</li></ul><pre>x = 1</pre><p>cut of</p>",
        ),
        ("<doctag><title>T</title><section_header_level_5>S</section_header_level_5>", "<h4>T</h4><h6>S</h6>"),
        ("###### Deep", "<h6>Deep</h6>\n"),
        ("# " + "a" * 50_000, None),
    ],
)
def test_answer_when_it_has_markup_then_it_is_rendered(answer: str, html: str | None) -> None:
    assert rendered(answer) == html


class Elements(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.harmful: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "style", "svg", "form", "object", "link", "input"):
            self.harmful.append(tag)
        for name, value in attrs:
            if name not in ("colspan", "rowspan", "start", "href", "class", "style"):
                self.harmful.append(name)
            if name == "href" and not str(value).startswith(("http", "mailto", "/", "#", "a")):
                self.harmful.append(str(value))


PIECES = [
    "<table>", "</table>", "<tr><td>", "<TABLE onload=x>", "<script>", "</script>", "<img src=a onerror=b>", "<doctag>",
    "<otsl>", "</otsl>", "<fcel>", "<lcel>", "<ucel>", "<nl>", "<text>", "</text>", "<code>", "<loc_1>",
    "[a](javascript:b)", "# ", "| a | b |\n|---|---|\n", "```html\n", "\n", "&lt;", "<!--", "-->",
    "<svg/onload=x>", "<math>", "\"'", "a",
]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_answer_when_it_means_harm_then_nothing_of_it_is_an_element(answer: str) -> None:
    assert Elements(rendered(answer) or "").harmful == []


@pytest.mark.parametrize("piece", ["<table>", "<table><b><i>", "<tr><td>", "<text>", "<fcel><lcel>", "[", "> ", "| "])
def test_answer_when_it_repeats_markup_then_rendering_takes_seconds_at_most(piece: str) -> None:
    for begin in ("<table>", "<doctag><otsl>", "# "):
        start = time.process_time()
        rendered(begin + piece * (49_900 // len(piece)))
        assert time.process_time() - start < 5


@pytest.mark.parametrize("space", [" ", "\n", "\r", "\t"])
def test_answer_when_a_fence_is_full_of_white_space_then_rendering_takes_seconds_at_most(space: str) -> None:
    """It took 10 s, in which every thread stood still."""
    start = time.process_time()
    assert rendered("```html\n" + space * 49_900 + "x") is not None
    assert time.process_time() - start < 5


def test_answer_when_a_fence_stands_in_white_space_then_it_is_taken_off() -> None:
    assert "```" not in str(rendered("\n ```md\n# a\n```\n \n"))
    assert "```" not in str(rendered("\n```md\n# a\n"))
