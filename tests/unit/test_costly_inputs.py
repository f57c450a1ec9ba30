"""Small inputs that once cost seconds or gigabytes (quadratic parsers, one message for each bad line): bounded now."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from playground.comparing.divergence import how_much, word_changes
from playground.endpoints import client
from playground.errors import BadImage, BadInput, EndpointError
from playground.measuring.question_sets import Question, Rule, read_questions
from playground.measuring.scoring_rules import score
from playground.notebooks import file_format
from playground.notebooks.cells import Run
from playground.rendering import markdown
from playground.support import pieces
from playground.values.answer import Candidate, TokenScore
from testkit.notebooks import F16, Q2, compare_cell, measurement, pane, result, run_of
from testkit.waiting import awaited

SECONDS = 20.0  # of the processor, on a slow machine; they take a tenth. Each once took 5 s to minutes
HEAD = '{"format":"vlm-quant-playground/notebook","version":1,"title":"t","cells": '


@pytest.mark.thorough
@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, "![" * 100_000, "[" * 100_000 + "]" * 100_000, "[a](" * 50_000, "> " * 100_000, "- " * 100_000,
     "**a " * 50_000, "`" * 200_000, "<" * 200_000],
    ids=["[", "![", "[ and ]", "links", "quotes", "lists", "stars", "backticks", "tags"],
)  # fmt: skip
@pytest.mark.parametrize("render", [markdown.render, markdown.inert])
def test_markdown_when_made_to_be_slow_then_shown_within_seconds(render: Callable[[str], str], text: str) -> None:
    begun = time.process_time()
    assert len(render(text)) > 20
    assert time.process_time() - begun < SECONDS


@pytest.mark.thorough
def test_markdown_when_a_long_note_has_many_links_then_they_are_links() -> None:
    assert str(markdown.render("See [a](https://b.c).\n\n" * 5000)).count("<a href") == 5000


def test_note_when_it_has_images_and_links_to_scripts_then_nothing_is_fetched_and_none_is_a_link() -> None:
    note = "![a](https://example.org/a.png) ![b][r]\n\n[r]: http://example.org/b.png\n\n" + " ".join(
        f"[x]({scheme}:alert(1))"
        for scheme in ("javascript", "JAVASCRIPT", "vbscript", "data", "java&#115;cript", "file")
    )
    html = markdown.render(note)
    assert "<img" not in html
    assert not re.search(r"""(src|href)=["'](?!https?:)""", html, re.IGNORECASE)
    assert "[x](javascript:alert(1))" in html, "it is shown as it was written"


@pytest.mark.parametrize(
    "text",
    ["# T\"'><img src=x onerror=a>", "a `b` <script>alert(1)</script>", "<div>\n<b onclick=x>\n</div>\n\nend",
     "| a |\n|---|\n| <img src=x> |", "**<svg onload=x>**", "> <iframe\n> src=x>"],
)  # fmt: skip
def test_export_when_a_text_has_raw_html_then_it_is_text(text: str) -> None:
    inert = markdown.inert(text)
    tokens = [t for token in markdown._AS_ELSEWHERE.parse(inert) for t in (token, *(token.children or ()))]
    assert not [token for token in tokens if token.type.startswith("html")]


@pytest.mark.parametrize(
    "text", ["a < b", "```html\n<b>\n```", "`<b>`", "<https://a.b>", "# t\n\n| a |\n|---|\n| b |\n"]
)
def test_export_when_a_text_has_no_live_html_then_it_stays_as_it_is(text: str) -> None:
    assert markdown.inert(text) == text


def test_words_when_there_are_hundreds_of_thousands_then_one_replacement_between_what_is_equal() -> None:
    old = "same " + " ".join(str(i * 7919 % 10) for i in range(250_000)) + " end"
    new = "same " + " ".join(str(i * 104729 % 7) for i in range(250_000)) + " end"
    begun = time.process_time()
    changes = word_changes(old, new)
    assert time.process_time() - begun < SECONDS
    assert [kind for kind, _, _ in changes] == ["equal", "replace", "equal"]
    assert ("".join(c[1] for c in changes), "".join(c[2] for c in changes)) == (old, new)
    assert how_much(old, new) == "most words"


def test_words_when_a_long_text_differs_in_two_places_then_both_are_found() -> None:
    words = [str(i) for i in range(20_000)]
    changed = [*words[:10_000], "x", *words[10_001:10_100], "y", *words[10_101:]]
    kinds = [kind for kind, _, _ in word_changes(" ".join(words), " ".join(changed))]
    assert kinds == ["equal", "replace", "equal", "replace", "equal"]


@pytest.mark.parametrize("cells", ["[" + "1," * 3_000_000 + "1]", "[" + "1," * 3_000_000], ids=["whole", "cut"])
def test_import_when_it_has_millions_of_cells_then_a_few_are_looked_at(cells: str) -> None:
    begun = time.process_time()
    _, whole, problems = file_format.from_json(HEAD + cells + "}")
    assert time.process_time() - begun < SECONDS
    assert whole == ()
    assert len(problems) <= file_format.MAX_PROBLEMS + 3


def test_import_when_its_texts_have_a_million_commas_then_all_cells_are_there() -> None:
    cells = [{"cell": {"type": "note", "id": str(i), "text": "a, " * 60_000}} for i in range(20)]
    _, whole, problems = file_format.from_json(HEAD + json.dumps(cells) + "}")
    assert (len(whole), problems) == (20, ())


def long_run(n_tokens: int) -> Run:
    likely = tuple(Candidate(i, f'"]}},\\{i}', 0.12345678901234568) for i in range(5))
    scores = tuple(TokenScore(f"w{i % 9} ", 0.5, likely) for i in range(n_tokens))
    answers = (pane(of, "a, [b] ") for of in (F16, Q2))
    long = (replace(answer, token_ids=tuple(range(n_tokens)), scores=scores) for answer in answers)
    return run_of(compare_cell(), result(*long), measurement=measurement())


@pytest.mark.thorough
def test_run_when_it_has_megabytes_then_read_in_pieces_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = long_run(8192)
    raw = msgspec.json.encode(run)
    assert len(raw) > 4_000_000
    sizes = []
    decode = msgspec.json.decode

    def seen(text: bytes, *, type: Any) -> Any:
        if type not in (dict[str, msgspec.Raw], list[msgspec.Raw]):  # these only look for the ends
            sizes.append(len(text))
        return decode(text, type=type)

    monkeypatch.setattr(msgspec.json, "decode", seen)
    assert pieces.decode(raw, Run) == run
    assert max(sizes) < 600_000
    with pytest.raises(msgspec.ValidationError, match="variants"):
        pieces.decode(raw.replace(b'"variants":[{', b'"variant":[{', 1), Run)


@pytest.mark.thorough
def test_import_when_an_answer_is_as_long_as_can_be_then_all_of_it_is_there() -> None:
    run = long_run(8193)
    _, cells, problems = file_format.from_json(file_format.to_json("t", [(run.cell, [run])], lambda sha256: None))
    assert (cells[0].runs, problems) == ((run,), ())


def test_import_when_a_run_has_too_many_values_then_it_alone_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_format, "_MOST_VALUES", 1000)
    short, long = long_run(10), msgspec.structs.replace(long_run(100), number=2)
    _, cells, problems = file_format.from_json(
        file_format.to_json("t", [(short.cell, [short, long])], lambda sha256: None)
    )
    assert cells[0].runs == (short,)
    assert problems == ("Cell 1: run 2 cannot be used and was left out: it holds more than 1,000 values.",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1e20]", True), ("[1E+20]", True), ('{"a": -9007199254740993.5}', True), ("[9007199254740992]", False),
        ('["a", "[1e20]", "\\", 99999999999999999999"]', False), ('["\\"",99999999999999999999]', True),
        ("[0." + "3" * 500 + "]", False), ("[0." + "0" * 500 + "1e600]", True), ("[1e-300,1.7976931348623e3]", False),
        ("[" + "1," * 300_000 + "1e99]", True),
    ],
    ids=lambda text: str(text)[:20],
)  # fmt: skip
def test_number_when_too_large_then_found_outside_of_strings(text: str, expected: bool) -> None:
    assert pieces.has_number_above(text.encode(), 2**53) is expected


def zipped(path: Path, **files: str | bytes) -> Path:
    with zipfile.ZipFile(path / "q.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "."), data)
    return path / "q.zip"


GOOD = '{"image": "a.png", "question": "What?", "answer": "a"}\n'


@pytest.mark.thorough
def test_questions_when_millions_of_lines_are_bad_then_a_few_are_told(tmp_path: Path) -> None:
    path = zipped(tmp_path, items__jsonl=GOOD + "[1]\n" * 16_000_000, a__png=b"")
    begun = time.process_time()
    question_set = read_questions(path)
    assert time.process_time() - begun < SECONDS
    assert (len(question_set.items), len(question_set.problems)) == (1, 21)
    assert question_set.problems[-1] == "49979 more questions were left out."


@pytest.mark.thorough
def test_questions_when_there_are_many_lists_then_none_is_read(tmp_path: Path) -> None:
    path = zipped(tmp_path, **{f"l{i}__csv": b"x" * 2**22 for i in range(24)})
    with pytest.raises(BadInput, match="24 lists"):
        read_questions(path)


@pytest.mark.parametrize(
    "line",
    ["[" * 999_000, '{"image": "a.png", "question": "' + "x" * 300_000 + '"}', "x" * 30_000_000],
    ids=["nested", "a long question", "a long line"],
)
def test_questions_when_a_line_is_too_much_then_it_alone_is_left_out(tmp_path: Path, line: str) -> None:
    question_set = read_questions(zipped(tmp_path, items__jsonl=f"{GOOD}{line}\n{GOOD}", a__png=b""))
    assert len(question_set.items) == 2
    (problem,) = question_set.problems
    assert "Question 2 was left out" in problem
    assert len(problem) < 500


def test_questions_when_a_list_says_that_it_is_huge_then_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="larger than 64 MiB"):
        read_questions(zipped(tmp_path, items__csv=b"x" * (2**26 + 1)))


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('"options": ' + json.dumps(["x"] * 28), "more than 26 options"),
        ('"answers": ' + json.dumps(["x"] * 101), "more than 100 accepted answers"),
        ('"answers": ["' + "x" * 300_000 + '"]', "its text is longer than 200,000 characters"),
        ('"box_scale": [0, 1]', "box_scale has a side that is not above 0"),
        ('"image_size": [10, -1]', "image_size or box_scale has a side"),
        ('"tolerance": -0.5', "its tolerance is -0.5"),
    ],
)
def test_question_when_it_cannot_be_scored_then_it_alone_is_left_out(tmp_path: Path, more: str, problem: str) -> None:
    """28 options were no regular expression, a scale of 0 was divided by: the whole measurement ended."""
    line = '{"image": "a.png", "question": "What?", ' + more + "}\n"
    question_set = read_questions(zipped(tmp_path, items__jsonl=f"{GOOD}{line}{GOOD}", a__png=b""))
    assert len(question_set.items) == 2
    assert problem in question_set.problems[0]


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_when_what_is_packed_in_it_is_damaged_then_said_of_the_list_and_of_the_picture(
    tmp_path: Path, packed: int
) -> None:
    """Each way of packing has an error of its own."""

    def damaged(name: str) -> Path:
        path = tmp_path / f"{name}.zip"
        with zipfile.ZipFile(path, "w", packed) as archive:
            archive.writestr("items.jsonl", GOOD * 100)
            archive.writestr("a.png", bytes(range(256)) * 40)
            entry = archive.getinfo(name)
        data = bytearray(path.read_bytes())
        begin = entry.header_offset + 30 + len(name)
        for at in range(begin + 20, begin + entry.compress_size):
            data[at] ^= 0xFF
        path.write_bytes(data)
        return path

    with pytest.raises(BadInput, match=r"cannot be read as a folder or zip: .+"):
        read_questions(damaged("items.jsonl"))
    question_set = read_questions(damaged("a.png"))
    with pytest.raises(BadImage, match=r"a\.png cannot be read from the zip"):
        question_set.image(question_set.items[0])


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_picture_when_it_has_a_name_that_no_file_can_have_then_it_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "items.jsonl").write_text(GOOD)
    (tmp_path / "a.png").touch()
    with pytest.raises(BadImage, match="cannot be called"):
        read_questions(tmp_path).image(Question(name, ""))


def test_stream_when_a_server_sends_only_empty_lines_of_data_then_it_is_too_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing of them counted, and each piece of the stream counted all of them: minutes of the processor."""
    monkeypatch.setattr(client, "_MOST_LINE", 10_000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"data:\n" * 1000

    response = httpx.Response(200)
    response.aiter_raw = pieces  # type: ignore[method-assign,assignment]

    async def read() -> list[bytes]:
        return [event async for event in client._events("far", response)]

    with pytest.raises(EndpointError, match="far sends too much"):
        awaited(read())


@pytest.mark.thorough
def test_fields_when_both_sides_have_thousands_then_scored_within_seconds() -> None:
    """8,000 against 100,000 would take hours."""
    given, accepted = (json.dumps(list(range(10**6, 10**6 + n))) for n in (8000, 100_000))
    begun = time.process_time()
    points = score(Question("a", "", (accepted,), Rule.JSON), given)
    assert time.process_time() - begun < SECONDS
    assert points == pytest.approx(2 * 1000 / 108_000)
