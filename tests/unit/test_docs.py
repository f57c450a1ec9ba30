"""The documentation: every link leads somewhere, every command exists, and README.md stays short."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.core import TyperGroup

from playground.cli.commands import app
from playground.cli.results import ResultsGroup

ROOT = Path(__file__).parents[2]
PROGRAM = typer.main.get_command(app)
ELSEWHERE = {".venv", "build", "dist", "node_modules"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not ELSEWHERE & set(path.relative_to(ROOT).parts))


@cache
def blocks(page: Path) -> list[Token]:
    return MarkdownIt("gfm-like", {"linkify": False}).parse(page.read_text())


@cache
def links(page: Path) -> list[str]:
    """Targets of links and images, HTML and code blocks apart."""
    inline = [token for block in blocks(page) for token in block.children or ()]
    return [str(token.attrs[name]) for token in inline for name in ("href", "src") if name in token.attrs]


@cache
def anchors(page: Path) -> set[str]:
    """The headings' anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def problem(page: Path, link: str) -> str | None:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return f"{link}: no such file"
    if anchor and anchor not in anchors(target):
        return f"{link}: no such heading"
    return None


def commands(page: Path) -> list[list[str]]:
    """The words of each command of this project in code blocks and inline code, from its name on."""
    pieces: list[str] = []
    for token in blocks(page):
        if token.type == "fence":
            pieces += token.content.replace("\\\n", " ").splitlines()
        pieces += [child.content for child in token.children or () if child.type == "code_inline"]
    program = re.compile(r"(?:python -m playground|vlm-quant-playground) +(\w[^|]*)")
    return [shlex.split(match[1], comments=True) for piece in pieces if (match := program.search(piece))]


def unknown(words: list[str], command: Any = PROGRAM) -> list[str]:
    """Names of commands and options that the command line does not know."""
    while isinstance(command, TyperGroup) and words:
        if isinstance(command, ResultsGroup) and words[0] not in command.commands:
            words = ["show", *words]
        name, *words = words
        if name not in command.commands:
            return [] if name == "[OPTIONS]" else [name]  # the reference shows each group's usage line
        command = command.commands[name]
    known = {"--help", *(name for option in command.params for name in (*option.opts, *option.secondary_opts))}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_when_it_shows_a_command_then_the_command_line_knows_its_options(page: Path) -> None:
    assert [(words, names) for words in commands(page) if (names := unknown(words))] == []


def test_commands_when_a_page_shows_unknown_ones_then_they_are_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "`python -m playground nothing`\n\n```\n$ python -m playground drift --bogus 1 \\\n -n 5 --json # x\n```\n"
    )
    assert [unknown(words) for words in commands(page)] == [["nothing"], ["--bogus"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_when_it_links_to_a_file_then_file_and_heading_exist(page: Path) -> None:
    relative = [link for link in links(page) if not re.match(r"[a-z]+:", link)]
    assert [fault for link in relative if (fault := problem(page, link))] == []


def test_links_when_a_page_names_nothing_then_it_is_reported(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A page\n\n[a](nowhere.md) ![b](#a-page) [c](page.md#gone) `[d](code.md)`\n")
    assert links(page) == ["nowhere.md", "#a-page", "page.md#gone"]
    assert [problem(page, link) for link in links(page)] == [
        "nowhere.md: no such file",
        None,
        "page.md#gone: no such heading",
    ]


def test_pages_when_in_docs_then_the_index_leads_to_each() -> None:
    reached: set[Path] = set()
    waiting = [ROOT / "docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            waiting += [
                (page.parent / link.partition("#")[0]).resolve()
                for link in links(page)
                if not re.match(r"[a-z]+:|#", link)
            ]
    assert [
        page.relative_to(ROOT).as_posix()
        for page in PAGES
        if page.is_relative_to(ROOT / "docs") and page not in reached
    ] == []


def test_readme_when_the_spaces_settings_are_left_out_then_it_has_at_most_90_lines() -> None:
    _, _, text = (ROOT / "README.md").read_text().removeprefix("---\n").partition("\n---\n")
    assert 20 < len(text.splitlines()) <= 90
