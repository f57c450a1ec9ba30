"""The notebook on the page, in a real Chromium: cells, runs, notebooks, files, and what may go wrong around them."""

from __future__ import annotations

import functools
import json
import os
import re
import resource
import signal
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import nbformat
import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.models.presets import data_folder
from playground.notebooks.cells import Cell, CompareCell, NoteCell, Picture, Run, RunState
from playground.notebooks.file_format import to_json
from playground.notebooks.library import Library
from playground.values.answer import PaneState
from testkit import notebooks
from testkit.browser import (
    TOKEN,
    cell,
    ended,
    menu,
    pane,
    panel,
    prompt,
    reload,
    run,
    saved,
    tab,
    tick,
    told,
    top_menu,
    violations,
    visitor,
)
from testkit.webapp import WebApp, running

pytestmark = pytest.mark.browser

SCENES = data_folder() / "tiny-vlm/evaluation"
SHOWN = [f"hard-{n:02}" for n in (62, 52, *range(1, 7))]  # every image that a notebook of these tests has
SHORT = "What shape is green?"

Whole = tuple[Cell, Sequence[Run]]


# --- what the tests begin with ---------------------------------------------------------------------------------------


@functools.cache
def scene(name: str) -> tuple[Picture, bytes]:
    path = SCENES / f"{name}.png"
    image = read_image(path)
    return Picture(image.sha256, image.width, image.height, path.name), path.read_bytes()


def asks(
    *prompts: str, scenes: Sequence[str] = ("hard-62",), models: Sequence[str] = ("F16", "Q8_0"), **fields: Any
) -> Whole:
    return CompareCell(
        "c",
        prompts=prompts or (SHORT,),
        pictures=tuple(scene(name)[0] for name in scenes),
        family="tiny-vlm",
        variants=tuple(f"tiny-vlm:{model}+mmproj-F16" for model in models),
        **fields,
    ), ()


def says(text: str) -> Whole:
    return NoteCell("n", text), ()


def answers(question: str, reference: str, other: str, **fields: Any) -> Whole:
    """A cell of models that are not here, with a run that answered this."""
    cell = notebooks.compare_cell(prompts=(question,), pictures=(scene("hard-62")[0],), **fields)
    panes = notebooks.pane(notebooks.F16, reference), notebooks.pane(notebooks.Q2, other, first_divergence=0)
    return cell, (notebooks.run_of(cell, notebooks.result(*panes)),)


def as_file(text: str) -> FilePayload:
    return {"name": "notebook.json", "mimeType": "application/json", "buffer": text.encode()}


def give(page: Page, *whole: Whole, title: str = "Given") -> None:
    """Import a notebook with these cells."""
    known = {image.sha256: content for image, content in map(scene, SHOWN)}
    page.locator("[data-import]").set_input_files(as_file(to_json(title, whole, known.get)))
    expect(page.get_by_label("Title of the notebook")).to_have_value(title)


def note(page: Page, number: int = 0) -> Any:
    return page.locator(".vp-is-note").nth(number)


def order(page: Page, *titles: str) -> None:
    """The cells that stand on the page, as a screen reader names them."""
    expect(page.locator(".vp-cell")).to_have_count(len(titles))
    for at, title in enumerate(titles):
        name = f"Cell {at + 1}: {title}"
        expect(page.locator(".vp-cell").nth(at)).to_have_attribute("aria-label", name)


def texts(page: Page, number: int = 0) -> list[str]:
    """All answers of a cell; inner_text says nothing of those that are not laid out yet."""
    answers_shown: list[str] = cell(page, number).locator(".vp-text").all_text_contents()
    return answers_shown


def width(page: Page) -> int:
    width: int = page.evaluate("document.documentElement.scrollWidth")
    return width


@pytest.fixture
def page(browser: Browser, app: WebApp) -> Iterator[Page]:
    """A first visitor's page."""
    with visitor(browser, app.url) as first:
        yield first


@pytest.fixture
def own_cache(derived: Path, tmp_path: Path) -> Path:
    """For an app that a test may break."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    return cache


# --- the first visit -------------------------------------------------------------------------------------------------


_NOTES = ("Six sizes of one model, one image.", "Which half is to blame?", "A total that low bits get wrong.")


def test_first_visit_when_run_all_is_clicked_then_each_example_shows_what_its_note_says(page: Page) -> None:
    expect(page.locator(".vp-is-compare")).to_have_count(3)
    for number, begin in enumerate(_NOTES):
        expect(note(page, number).locator(".vp-markdown strong").first).to_have_text(begin)
    page.get_by_role("button", name="▶ Run all").click()
    expect(cell(page, 0)).to_have_class(re.compile("vp-running"))
    expect(cell(page, 2)).to_have_class(re.compile("vp-queued"))
    page.wait_for_function(
        """() => {
            const [first, second, third] = document.querySelectorAll(".vp-is-compare");
            const state = cell => ["running", "queued"].find(name => cell.classList.contains(`vp-${name}`)) ?? "idle";
            return `${state(first)} ${state(second)} ${state(third)}` === "idle running queued";
        }"""
    )
    ended(page)
    expect(page.locator(".vp-n")).to_have_text(["[1]"] * 3)
    expect(pane(page, "Q2_K").locator(".vp-verdict")).to_have_text("≠ differs: 6 words")
    expect(pane(page, "F16 + mmproj-Q4_0", 1).locator(".vp-verdict")).to_have_text("= same")
    expect(pane(page, "F16 + mmproj-Q2_K", 1).locator(".vp-verdict")).to_contain_text("≠ differs:")
    expect(pane(page, "Q2_K", 1).locator(".vp-verdict")).to_contain_text("≠ differs:")
    for label, verdict in (("F16", "reference"), ("Q4_K_M", "= same"), ("Q3_K_M", "≠"), ("Q2_K", "≠")):
        expect(pane(page, label, 2).locator(".vp-verdict")).to_contain_text(verdict)
    assert texts(page, 2)[0].strip() == "25527"


# --- cells -----------------------------------------------------------------------------------------------------------


def test_cells_when_added_copied_moved_and_collapsed_then_a_reload_shows_the_same(page: Page) -> None:
    give(page, says("A"), asks("Q1"), says("B"))
    order(page, "A", "Q1", "B")
    menu(note(page, 1), "Move up")
    order(page, "A", "B", "Q1")
    cell(page).focus()
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Alt+ArrowUp")
    order(page, "Q1", "A", "B")
    expect(cell(page)).to_be_focused()
    menu(cell(page), "Duplicate")
    order(page, "Q1", "Q1", "A", "B")
    expect(cell(page, 1)).to_be_focused()
    expect(cell(page, 1).locator(".vp-chip").first).to_have_text("F16, Q8_0")
    page.get_by_role("button", name="+ Compare").click()
    expect(prompt(page, 2)).to_be_focused()
    page.keyboard.type("Q2")
    page.get_by_role("button", name="+ Note").click()
    expect(page.get_by_label("Note, in Markdown").and_(page.locator(":focus"))).to_be_visible()
    page.keyboard.type("C")
    order(page, "Q1", "Q1", "Q2", "C", "A", "B")
    menu(cell(page), "Collapse or unfold")
    menu(note(page, 1), "Collapse or unfold")
    expect(cell(page).locator(".vp-outputs")).to_be_hidden()
    reload(page)
    order(page, "Q1", "Q1", "Q2", "C", "A", "B")
    expect(cell(page).locator(".vp-outputs")).to_be_hidden()
    expect(cell(page, 1).locator(".vp-outputs")).to_be_visible()
    expect(note(page, 1)).to_have_class(re.compile("vp-collapsed"))
    expect(page.locator("[data-count]")).to_have_text("6 cells")


def test_a_cell_when_deleted_then_undo_brings_its_place_and_its_runs_back(page: Page) -> None:
    give(page, says("A"), asks(), says("B"))
    run(page)
    ended(page)
    before = texts(page)
    assert before == ["cross", "cross"]
    menu(cell(page), "Delete")
    order(page, "A", "B")
    page.locator(".vp-toast").get_by_role("button", name="Undo").click()
    order(page, "A", SHORT, "B")
    assert texts(page) == before
    reload(page)
    order(page, "A", SHORT, "B")
    expect(cell(page).locator(".vp-n")).to_have_text("[1]")
    assert texts(page) == before


def test_a_notebook_when_its_last_cell_is_deleted_then_says_what_to_do(page: Page) -> None:
    give(page, says("A"))
    expect(page.locator("[data-empty]")).to_be_hidden()
    menu(note(page), "Delete")
    expect(page.get_by_text("This notebook is empty. “+ Compare” asks")).to_be_visible()
    reload(page)
    expect(page.get_by_text("This notebook is empty. “+ Compare” asks")).to_be_visible()
    page.get_by_role("button", name="+ Compare").click()
    expect(page.locator("[data-empty]")).to_be_hidden()
    expect(cell(page).locator(".vp-chip").first).to_contain_text("F16, Q8_0")


def test_keys_when_pressed_then_do_what_the_dialog_says(page: Page) -> None:
    give(page, asks(), says("A"), asks("What shape is blue?"))
    prompt(page).click()
    page.keyboard.press("Control+Enter")
    ended(page)
    expect(cell(page).locator(".vp-n")).to_have_text("[1]")
    expect(prompt(page)).to_be_focused()
    page.keyboard.press("Shift+Enter")
    expect(note(page)).to_be_focused()
    ended(page)
    expect(cell(page).locator(".vp-n")).to_have_text("[2]")
    page.keyboard.press("ArrowDown")
    expect(cell(page, 1)).to_be_focused()
    page.keyboard.press("Control+Enter")
    ended(page)
    expect(cell(page, 1).locator(".vp-n")).to_have_text("[1]")
    page.keyboard.press("Enter")
    expect(prompt(page, 1)).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type(" Say it.")
    page.keyboard.press("Enter")
    page.keyboard.type("x")
    expect(prompt(page, 1)).to_have_value("What shape is blue? Say it.\nx")
    page.keyboard.press("Escape")
    expect(cell(page, 1)).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(note(page).get_by_label("Note, in Markdown")).to_be_focused()
    page.keyboard.press("Control+End")
    page.keyboard.type(" *new*")
    page.keyboard.press("Delete")  # in a text it is no command
    page.keyboard.press("Escape")
    expect(note(page).locator("em")).to_have_text("new")
    expect(note(page)).to_be_focused()
    page.keyboard.press("Delete")
    order(page, SHORT, "What shape is blue? Say it.\nx")
    expect(cell(page, 1)).to_be_focused()
    page.keyboard.press("Control+/")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog.get_by_text("run it and go to the next one")).to_be_visible()
    page.keyboard.press("Delete")  # behind a dialog nothing is deleted
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    order(page, SHORT, "What shape is blue? Say it.\nx")
    page.keyboard.press("Control+k")
    field = page.get_by_role("combobox", name="Find a command")
    expect(field).to_be_focused()
    page.keyboard.type("up move")
    option = page.get_by_role("option", name="Move up cell 2 Alt ↑")
    expect(option).to_have_attribute("aria-selected", "true")
    expect(field).to_have_attribute("aria-activedescendant", str(option.get_attribute("id")))
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Commands")).to_be_hidden()
    expect(cell(page, 1)).to_be_focused()
    page.keyboard.press("Control+k")
    page.keyboard.type("up move")
    page.keyboard.press("Enter")
    order(page, "What shape is blue? Say it.\nx", SHORT)


def test_a_note_when_it_holds_markdown_and_markup_then_only_the_markdown_is_rendered(page: Page) -> None:
    give(page, asks())
    page.get_by_role("button", name="+ Note").click()
    expect(page.get_by_label("Note, in Markdown").and_(page.locator(":focus"))).to_be_visible()
    page.keyboard.insert_text(
        "# Head\n\n**bold** and `code`\n\n- one\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "[ok](https://example.org) [bad](javascript:alert(1)) ![far](https://example.org/x.png)\n\n"
        '<img src="https://example.org/y.png" onerror=alert(2)> <script>alert(3)</script>'
    )
    page.keyboard.press("Escape")
    shown = note(page).locator(".vp-markdown")
    expect(shown.locator("h1")).to_have_text("Head")
    expect(shown.locator("strong, code, li, td")).to_have_text(["bold", "code", "one", "1", "2"])
    expect(shown).to_contain_text("<script>alert(3)</script>")
    assert shown.locator("img, script").count() == 0
    assert shown.locator("a").evaluate_all("links => links.map(a => a.href)") == [
        "https://example.org/",
        "https://example.org/x.png",
    ]
    reload(page)
    expect(shown.locator("h1")).to_have_text("Head")
    shown.locator("h1").dblclick()
    expect(note(page).get_by_label("Note, in Markdown")).to_be_focused()


# --- runs ------------------------------------------------------------------------------------------------------------


def test_runs_when_a_cell_is_run_again_then_the_older_ones_stay_and_can_be_compared(page: Page) -> None:
    give(page, asks())
    run(page)
    ended(page)
    expect(cell(page).get_by_text("the cell has changed since")).to_be_hidden()
    prompt(page).fill("How many red stars are there?")
    expect(cell(page).get_by_text("the cell has changed since")).to_be_visible()
    prompt(page).fill(SHORT)
    expect(cell(page).get_by_text("the cell has changed since")).to_be_hidden()
    run(page)
    ended(page)
    expect(cell(page).locator(".vp-n")).to_have_text("[2]")
    prompt(page).fill("How many red stars are there?")
    run(page)
    ended(page)
    expect(cell(page).locator(".vp-n")).to_have_text("[3]")
    newest = texts(page)
    assert "cross" not in newest
    reload(page)
    assert texts(page) == newest
    expect(cell(page).get_by_text("the cell has changed since")).to_be_hidden()
    runs = cell(page).get_by_label("Run shown")
    expect(runs.locator("option")).to_have_text(["run 3 (newest)", "run 2", "run 1"])
    runs.select_option("1")
    expect(pane(page, "F16").locator(".vp-text")).to_have_text("cross")
    expect(cell(page).get_by_label("Follow-up question")).to_have_count(0)
    cell(page).get_by_label("beside run 3").check()
    expect(cell(page).locator(".vp-block-head")).to_have_text(["run 3", "run 1"])
    assert texts(page) == [*newest, "cross", "cross"]
    sentence = cell(page).locator(".vp-note")
    expect(sentence).to_have_text(
        "From run 1 to run 3: the prompt changed from “What shape is green?” to "
        "“How many red stars are there?”. F16 differs in 1 word; Q8_0 differs in 1 word."
    )
    places = [pane(page, "F16").nth(n).bounding_box() for n in (0, 1)]
    tops = {place and place["y"] for place in places}
    assert len(tops) == 1  # the panes of one variant stand side by side
    cell(page).get_by_label("beside run 3").uncheck()
    expect(sentence).to_have_count(0)
    assert texts(page) == ["cross", "cross"]
    expect(cell(page).get_by_label("What run 1 was asked")).to_contain_text(SHORT)
    expect(prompt(page)).to_have_value("How many red stars are there?")
    cell(page).get_by_role("button", name="Put these back into the cell").click()
    expect(prompt(page)).to_have_value(SHORT)


def test_a_follow_up_when_asked_then_a_second_turn_of_the_same_run(page: Page) -> None:
    give(page, asks())
    run(page)
    ended(page)
    cell(page).get_by_label("Follow-up question").fill("How many red stars are there?")
    cell(page).get_by_label("Follow-up question").press("Enter")
    expect(cell(page).locator(".vp-block")).to_have_count(2)
    ended(page)
    for _ in range(2):
        expect(cell(page).locator(".vp-block-head")).to_have_text([SHORT, "How many red stars are there?"])
        expect(cell(page).get_by_label("Question 2", exact=True)).to_have_value("How many red stars are there?")
        expect(cell(page).locator(".vp-n")).to_have_text("[1]")
        assert texts(page)[:2] == ["cross", "cross"]
        assert len([text for text in texts(page) if text]) == 4
        reload(page)
    cell(page).get_by_role("button", name="Remove question 2").click()
    expect(cell(page).get_by_label("Question 2", exact=True)).to_have_count(0)
    assert len(texts(page)) == 4


def test_a_gallery_when_run_then_each_image_has_its_answers_and_one_sentence_stands_over_all(page: Page) -> None:
    give(page, asks(scenes=("hard-62", "hard-52")))
    cell(page).get_by_role("button", name="2 images, one question", exact=True).click()
    expect(cell(page).get_by_role("button", name="2 images, one question each")).to_be_visible()
    run(page)
    ended(page)
    for _ in range(2):
        expect(cell(page).locator(".vp-gallery .vp-block-head")).to_have_text(["hard-62.png", "hard-52.png"])
        assert cell(page).locator(".vp-gallery").nth(1).locator(".vp-pane").count() == 2
        expect(cell(page).locator(".vp-overall")).to_have_text("The same answer as F16: Q8_0 in 2 of 2.")
        assert texts(page)[0] == "cross"
        reload(page)


# --- what has to last ------------------------------------------------------------------------------------------------


_SECOND_IS_DONE = """() => {
  const cell = document.querySelectorAll(".vp-is-compare")[1];
  return cell.querySelectorAll(".vp-pane")[1]?.dataset.state === "done";
}"""


def test_a_notebook_when_the_app_is_killed_in_a_run_then_all_that_was_there_is_there(
    browser: Browser, own_cache: Path, tmp_path: Path
) -> None:
    scenes = SHOWN  # 16 answers: the run outlasts what comes before the kill
    with (
        running(own_cache, tmp_path / "first.txt") as app,
        visitor(browser, app.url) as page,
    ):
        give(page, says("A"), asks(), asks("Describe the image.", scenes=scenes, gallery=True), title="Kept")
        run(page)
        ended(page)
        page.get_by_label("Title of the notebook").fill("Kept and renamed")
        page.get_by_label("Title of the notebook").press("Tab")
        prompt(page).fill("Typed at last")
        saved(page)
        run(page, 1)
        # Looked at on each frame: an `expect` looks each second, and the run would be over.
        page.wait_for_function(_SECOND_IS_DONE)
        os.kill(app.pid, signal.SIGKILL)
        assert cell(page, 1).locator(".vp-overall").count() == 0, "the run was over before the app was killed"
        shown_texts = texts(page, 1)[:2]
        token = page.evaluate("name => localStorage.getItem(name)", TOKEN)
    with running(own_cache, tmp_path / "second.txt") as app, visitor(browser, app.url, token=token) as page:
        expect(page.get_by_label("Title of the notebook")).to_have_value("Kept and renamed")
        order(page, "A", "Typed at last", "Describe the image.")
        assert texts(page) == ["cross", "cross"]
        expect(cell(page, 1).locator(".vp-runstate")).to_have_text("interrupted: the app ended while it ran")
        expect(cell(page, 1).locator(".vp-pane").nth(1)).to_have_attribute("data-state", "done")
        assert texts(page, 1)[:2] == shown_texts
        assert all(shown_texts)
        expect(cell(page, 1).locator(".vp-pictures img")).to_have_count(len(scenes))


def test_a_disk_when_full_then_the_run_goes_on_and_the_page_says_so_until_it_is_saved(
    browser: Browser, own_cache: Path, tmp_path: Path
) -> None:
    with (
        running(own_cache, tmp_path / "log.txt") as app,
        visitor(browser, app.url) as page,
    ):
        give(page, asks(), says("A"))
        limits = resource.prlimit(app.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(app.pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
        status = page.locator("[data-saved]")
        prompt(page).fill("What shape is green? Say it.")
        expect(status).to_have_text(re.compile("^Not saved, only kept in memory"))
        run(page)
        ended(page)
        before = texts(page)
        assert len(before) == 2
        assert all(before)
        expect(status).to_have_text(re.compile("^Not saved"))
        expect(status).to_have_class(re.compile("vp-bad"))
        reload(page)  # from memory
        assert texts(page) == before
        expect(status).to_have_text(re.compile("^Not saved"))
        resource.prlimit(app.pid, resource.RLIMIT_FSIZE, limits)
        menu(note(page), "Edit")
        page.keyboard.type("B ")
        saved(page)
        expect(status).not_to_have_class(re.compile("vp-bad"))
        os.kill(app.pid, signal.SIGKILL)
        key = page.evaluate("document.querySelector('[data-key][aria-current]').dataset.key")
    library = Library(own_cache / "notebooks")
    notebook = library.own(key)
    cell, written = (library.cell(notebook, id) for id in notebook.cells)
    assert isinstance(cell, CompareCell)
    assert cell.prompts == ("What shape is green? Say it.",)
    assert isinstance(written, NoteCell)
    assert "B " in written.text
    (stored,) = library.all_runs(notebook, cell.id)
    assert [p.text for p in stored.results[0].update.panes] == before
    library.close()


# --- several people, several notebooks, several tabs -----------------------------------------------------------------


def test_a_shared_notebook_when_somebody_opens_it_then_reads_and_copies_it_until_sharing_ends(
    page: Page, browser: Browser, app: WebApp
) -> None:
    compare, (old,) = answers("Which?", "one two", "three four")
    give(page, asks(), says("Mine"), (compare, (old, msgspec.structs.replace(old, number=2))), title="Secret")
    run(page)
    ended(page)
    prompt(page).fill(f"{SHORT} ")
    top_menu(page, "Share", "Make a link")
    link = page.get_by_label("Link for readers").input_value()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cell(page, 1).get_by_label("Run shown").select_option("1")
    expect(cell(page, 1).locator("[data-block='1.0']")).to_have_count(1)
    pane(page, "Q2_K", 1).locator(".vp-text span").nth(1).click()
    pane(page, "Q2_K", 1).get_by_role("button", name="link to this word").click()
    expect(page.locator(".vp-toast")).to_contain_text("The link is copied.")
    word = page.evaluate("navigator.clipboard.readText()")
    assert word.startswith(f"{link}#cell-")
    assert word.endswith("/run-1.0/pane-fam%3AQ2_K%2Bmmproj-F16/word-5")
    assert page.evaluate("(document.querySelector('[data-key][aria-current]')).dataset.key") not in link
    with visitor(browser, app.url) as other:
        expect(other.locator(".vp-actions [data-key]")).to_have_text(["My first comparison"])
        other.goto(word)
        expect(cell(other, 1).get_by_label("Run shown")).to_have_value("1")
        expect(pane(other, "Q2_K", 1)).to_be_focused()
        expect(pane(other, "Q2_K", 1).locator(".vp-chosen")).to_be_in_viewport()
        expect(pane(other, "Q2_K", 1).locator(".vp-likely")).to_contain_text("four")
        pane(other, "Q2_K", 1).locator(".vp-text span[title]").first.hover()
        expect(other.locator(".vp-tip")).to_contain_text("the likeliest here")
        other.goto(link)
        expect(other.locator(".vp-actions").get_by_role("button", name="Make my own copy")).to_be_visible()
        assert texts(other) == ["cross", "cross"]
        expect(other.locator("#vp-side")).to_be_hidden()
        for gone in ("Run cell", "▶ Run all", "+ Compare", "+ Note", "Edit the note", "Make a link"):
            assert other.get_by_role("button", name=gone, exact=True).count() == 0
        assert other.locator("[data-title], [data-note], [data-pick], [data-follow], [data-do=delete]").count() == 0
        expect(prompt(other)).not_to_be_editable()
        expect(cell(other).locator(".vp-chip").first).to_be_disabled()
        cell(other).focus()
        for key in ("Delete", "Alt+ArrowDown", "Control+Enter"):
            other.keyboard.press(key)
        cell(other).get_by_role("button", name="Show hard-62.png larger").click()
        expect(other.locator("[data-zoom] img")).to_have_js_property("naturalWidth", 192)
        other.keyboard.press("Escape")
        expect(prompt(other)).to_have_value(f"{SHORT} ")
        expect(page.locator(".vp-cell")).to_have_count(3)
        other.get_by_role("button", name="Make my own copy").click()
        expect(other.get_by_label("Title of the notebook")).to_have_value("Secret")
        assert other.url.rstrip("/") == app.url.rstrip("/")
        prompt(other).fill("Another question")
        saved(other)
        assert texts(other) == ["cross", "cross"]
        expect(prompt(page)).to_have_value(f"{SHORT} ")

        top_menu(page, "Share", "End sharing")
        expect(page.locator(".vp-status")).to_contain_text("only this browser")
        missing = []
        for url in (link, f"{app.url}?notebook=guess", f"{app.url}?notebook={'A' * 22}"):
            other.goto(url)
            expect(other.get_by_role("heading", name="404")).to_be_visible()
            missing.append(other.locator("#vp-notebook").inner_text())
            assert "Secret" not in other.content().replace("Secret</button>", "")  # the copy is listed nowhere here
        assert len(set(missing)) == 1
        other.get_by_role("button", name="Go to my notebooks").click()
        expect(prompt(other)).to_have_value("Another question")


def test_notebooks_when_made_renamed_copied_and_deleted_then_the_list_has_them(page: Page, app: WebApp) -> None:
    listed = page.locator(".vp-actions [data-key]")
    title = page.get_by_label("Title of the notebook")
    top_menu(page, "Notebooks", "New notebook")
    expect(title).to_have_value("Untitled notebook")
    title.fill("Second <b>one</b>")
    title.press("Enter")
    title.press("Tab")
    prompt(page).fill("Only here")
    saved(page)
    gone = page.evaluate("(document.querySelector('[data-key][aria-current]')).dataset.key")
    top_menu(page, "Notebooks", "Duplicate this one")
    expect(title).to_have_value("Second <b>one</b> (copy)")
    expect(prompt(page)).to_have_value("Only here")
    expect(listed).to_have_text(["Second <b>one</b> (copy)", "Second <b>one</b>", "My first comparison"])
    page.locator(".vp-actions summary", has_text="Notebooks").click()
    listed.nth(1).click()
    expect(title).to_have_value("Second <b>one</b>")
    top_menu(page, "Notebooks", "Delete this one")
    expect(listed).to_have_text(["Second <b>one</b> (copy)", "My first comparison"])
    reload(page)
    expect(title).to_have_value("Second <b>one</b> (copy)")
    expect(prompt(page)).to_have_value("Only here")
    seen = []
    for key in (gone, "A" * len(gone)):  # what was deleted is not told apart from what never was
        page.goto(f"{app.url}?notebook={key}")
        expect(page.get_by_role("heading", name="404")).to_be_visible()
        seen.append(page.locator("#vp-notebook").inner_html())
    assert seen[0] == seen[1]


_COUNTS_MESSAGES = """() => {
  window.messages = 0;
  new MutationObserver(records => { for (const {addedNodes} of records) window.messages += addedNodes.length; })
    .observe(document.querySelector(".vp-toasts"), {childList: true});
}"""


def test_two_tabs_when_both_write_and_run_then_the_later_write_wins_and_no_run_is_disturbed(
    page: Page, app: WebApp
) -> None:
    first_page = page
    give(
        first_page,
        asks("Describe the image.", scenes=("hard-62", "hard-52", "hard-01"), gallery=True),
        asks(),
        says("A"),
    )
    with tab(first_page.context, app.url) as two:
        expect(prompt(two, 1)).to_have_value(SHORT)
        run(first_page)
        expect(cell(first_page).locator(".vp-pane").first).to_be_visible()
        top_menu(first_page, "Share", "Make a link")  # draws the page anew
        expect(first_page.get_by_label("Link for readers")).to_be_visible()
        assert cell(first_page).evaluate("c => c.matches('.vp-running') || !!c.querySelector('.vp-overall')")
        prompt(first_page, 1).fill("From the first tab")
        saved(first_page)
        prompt(two, 1).fill("From the second tab")
        told(two, "This cell was changed in another tab meanwhile. What you wrote here has replaced it.")
        two.evaluate(_COUNTS_MESSAGES)
        prompt(two, 1).fill("From the second tab, again")
        saved(two)
        assert two.evaluate("window.messages") == 0  # told once
        run(two, 1)
        menu(note(two), "Delete")
        ended(two)
        assert all(texts(two, 1))
    ended(first_page)
    expect(cell(first_page).locator(".vp-overall")).to_contain_text("in 3 of 3")
    expect(cell(first_page).locator(".vp-runstate")).to_have_count(0)
    before = texts(first_page)
    reload(first_page)
    order(first_page, "Describe the image.", "From the second tab, again")
    assert texts(first_page) == before
    expect(cell(first_page, 1).locator(".vp-n")).to_have_text("[1]")


# --- files -----------------------------------------------------------------------------------------------------------


def test_exports_when_downloaded_then_each_file_holds_the_notebook(
    page: Page, browser: Browser, tmp_path: Path
) -> None:
    give(
        page,
        says("A **note**"),
        asks("What do you see?", models=("F16", "Q8_0", "Q2_K"), settings=RunSettings(probabilities=True)),
        title="Exports",
    )
    run(page)
    ended(page)
    before = texts(page)
    verdicts = cell(page).locator(".vp-verdict").all_text_contents()
    files = {}
    for kind, what in (("html", "HTML report"), ("json", "JSON"), ("md", "Markdown"), ("ipynb", "Jupyter notebook")):
        with page.expect_download() as download:
            top_menu(page, "Export", what)
        assert download.value.suggested_filename == f"Exports.{kind}"
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])

    reference, _, q2 = (pane(page, label).locator(".vp-text") for label in ("F16", "Q8_0", "Q2_K"))
    answered = {reference.text_content()} | {q2.evaluate("p => [...p.childNodes].filter(n => n.nodeName !== 'DEL')"
                                                       ".map(n => n.textContent).join('')")}  # fmt: skip
    markdown = files["md"].read_text()
    assert "A **note**" in markdown
    for text in answered:
        assert f"```text\n{text}\n```" in markdown

    book = nbformat.reads(files["ipynb"].read_text(), as_version=4)
    nbformat.validate(book)
    assert [nb_cell.cell_type for nb_cell in book.cells] == ["markdown", "markdown", "code"]
    assert reference.text_content() in json.dumps(book.cells[2].outputs)

    page.locator("[data-import]").set_input_files(files["json"])
    expect(page.locator(".vp-actions [data-key]", has_text="Exports")).to_have_count(2)
    assert texts(page) == before
    assert cell(page).locator(".vp-verdict").all_text_contents() == verdicts
    expect(cell(page).locator(".vp-pictures img")).to_have_js_property("naturalWidth", 192)
    order(page, "A note", "What do you see?")

    with report(browser, files["html"]) as shown:
        expect(shown.locator(".vp-asked img")).to_have_js_property("naturalWidth", 192)
        expect(shown.locator(".vp-markdown strong")).to_have_text("note")
        expect(shown.locator(".vp-verdict")).to_have_text(verdicts)
        assert shown.locator(".vp-text").all_text_contents() == before
        expect(shown.locator("ins").first).to_be_visible()
        for scheme, background in (("light", "rgb(247, 247, 245)"), ("dark", "rgb(21, 23, 27)")):
            shown.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert contrasts(shown, "body *") == []
            assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == background
        for medium in ("screen", "print"):
            shown.emulate_media(media=medium)  # type: ignore[arg-type]
            for what in (".vp-pane", ".vp-table", ".vp-compare svg", ".vp-parting table", ".vp-asked img"):
                expect(shown.locator(what).first).to_be_visible()
            expect(shown.locator(".vp-pane:visible")).to_have_count(3)
            expect(shown.locator(".vp-mark:visible")).to_have_count(3)
        shown.emulate_media(media="screen", color_scheme="light")
        shown.set_viewport_size({"width": 390, "height": 800})
        assert width(shown) <= 390


@contextmanager
def report(browser: Browser, path: Path) -> Iterator[Page]:
    """A report as somebody finds it in a mail: no network, no scripts. Asking for anything fails the test."""
    context = browser.new_context(offline=True, java_script_enabled=False)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    yield page
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    context.close()


def test_an_import_when_the_file_is_cut_or_newer_or_none_then_says_so_and_keeps_what_it_can(page: Page) -> None:
    whole = to_json("Cut", [says("First"), answers("Second?", "yes", "no"), says("Third")], lambda _: None)
    field = page.locator("[data-import]")
    field.set_input_files(as_file(whole[: whole.index("Third")]))
    told(page, "The file is damaged from line 4 on")
    order(page, "First", "Second?")
    assert texts(page) == ["yes", "no"]
    listed = page.locator(".vp-actions [data-key]")
    expect(listed).to_have_text(["Cut", "My first comparison"])
    field.set_input_files(as_file(whole.replace('"version": 1', '"version": 99', 1)))
    told(page, "was written by a newer version of the playground (format 99")
    field.set_input_files(as_file("no JSON"))
    told(page, "This is not a notebook of this playground")
    expect(listed).to_have_count(2)
    order(page, "First", "Second?")
    reload(page)
    expect(listed).to_have_text(["Cut", "My first comparison"])


# --- texts -----------------------------------------------------------------------------------------------------------

RIGHT_TO_LEFT = "ما هذا؟ עברית"
ODD = f"{RIGHT_TO_LEFT} 这是什么？日本語 👩‍👩‍👧‍👦🏳️‍🌈 \u202eabc {'W' * 10_000}"
MARKUP = "<b>bold</b> **stars** <script>alert(1)</script>\n# head\n[x](javascript:alert(1)) {{ 7*7 }}"


def test_a_prompt_when_it_has_5000_words_then_told_and_nothing_is_lost(page: Page) -> None:
    give(page, asks())
    long = " ".join(f"word{n}" for n in range(5000))
    prompt(page).fill(long)
    run(page)
    ended(page)
    expect(cell(page).get_by_text(re.compile("context")).first).to_be_visible()
    reload(page)
    assert prompt(page).input_value() == long


def test_texts_when_they_are_odd_then_shown_as_they_are_and_nothing_sticks_out(page: Page) -> None:
    give(page, says(ODD), answers(ODD, ODD, ODD[::-1].replace("\u202e", "")), answers(MARKUP, MARKUP, "b"), asks())
    expect(prompt(page)).to_have_value(ODD)
    assert texts(page)[0] == ODD
    assert texts(page, 1)[0] == MARKUP
    assert page.locator(".vp-outputs b b, .vp-outputs script, .vp-text h1, .vp-text a").count() == 0
    assert page.locator(".vp-outputs a[href^=javascript]").count() == 0  # also where it is rendered on request
    assert cell(page, 1).locator(".vp-text").first.evaluate("p => p.children.length") < 20  # tokens, no markup
    prompt(page, 2).fill(ODD[:300])
    saved(page)
    run(page, 2)
    ended(page)
    page.locator(".vp-compare > summary").first.click()
    for pixels in (1366, 390):
        page.set_viewport_size({"width": pixels, "height": 800})
        for number in range(3):
            cell(page, number).scroll_into_view_if_needed()
        assert width(page) <= pixels
        sticking = page.evaluate(
            """() => [...document.querySelectorAll("#vp-notebook .vp-cell *")].filter(node => {
                const box = node.getBoundingClientRect();
                const scrolled = node.closest(".vp-panes, .vp-scroll, svg, .vp-sr, pre, figure");
                if (scrolled || !node.checkVisibility()) return false;
                return box.right > innerWidth + 1 || box.left < -1;
            }).map(node => node.outerHTML.slice(0, 80))"""
        )
        assert sticking == []
        if pixels > 900:  # the bar and the panel stay, and the panel says for which cell
            tops = page.evaluate(
                "['#vp-top', '#vp-side'].map(id => document.querySelector(id).getBoundingClientRect())"
            )
            assert page.evaluate("scrollY") > 100
            assert [round(box["top"]) for box in tops] == [0, round(tops[0]["height"])]
            expect(page.locator("#vp-side-title")).to_contain_text("Settings of cell 2 · ")
    reload(page)
    expect(prompt(page, 2)).to_have_value(ODD[:300])
    expect(page.locator(".vp-toast")).to_have_count(0)


def test_typing_when_answers_and_replies_come_meanwhile_then_nothing_is_lost(page: Page) -> None:
    give(
        page, asks("Describe the image.", scenes=("hard-62", "hard-52", "hard-01"), gallery=True), asks("[]"), says("")
    )
    run(page)
    expect(cell(page).locator(".vp-pane").first).to_be_visible()
    prompt(page, 1).click()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    typed = "one two three four five six seven eight nine ten "
    for part in (typed[:20], typed[20:]):  # a pause is when it is sent
        page.keyboard.type(part, delay=15)
        page.wait_for_timeout(700)
        expect(prompt(page, 1)).to_be_focused()
    assert page.evaluate("document.activeElement.selectionStart") == 1 + len(typed)
    page.keyboard.type("x")
    expect(prompt(page, 1)).to_have_value(f"[{typed}x]")
    prompt(page).click()  # in the cell that runs
    page.keyboard.press("End")
    page.keyboard.type(" And now?", delay=15)
    menu(note(page), "Edit")
    page.keyboard.type("A note ", delay=15)
    page.wait_for_timeout(700)
    page.keyboard.type("goes on", delay=15)
    ended(page)
    expect(note(page).get_by_label("Note, in Markdown")).to_be_focused()
    reload(page)
    expect(prompt(page)).to_have_value("Describe the image. And now?")
    expect(prompt(page, 1)).to_have_value(f"[{typed}x]")
    expect(note(page).locator(".vp-markdown")).to_have_text("A note goes on")


# --- small screens, and people who do not use a mouse or see less ----------------------------------------------------


def test_names_when_hidden_then_a_reload_shows_none_and_a_vote_shows_them(page: Page) -> None:
    give(page, asks())
    menu(cell(page), "Hide the names until I vote")
    expect(cell(page).locator(".vp-chips")).to_contain_text("names hidden until you vote")
    run(page)
    ended(page)
    for _ in range(2):
        accept = cell(page).get_by_role("checkbox", name="A cross")
        expect(accept).to_be_visible()
        assert cell(page).locator(".vp-pane, .vp-say, .vp-waterfall").count() == 0
        reload(page)
    accept.check()
    cell(page).get_by_role("button", name="Vote and show the names").click()
    expect(pane(page, "Q8_0").locator(".vp-text")).to_have_text("cross")
    expect(cell(page).locator(".vp-votes tbody tr")).to_contain_text(["F16", "Q8_0"])


def test_a_small_screen_when_used_then_panes_are_swiped_and_a_chip_opens_the_settings(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    give(page, answers("Which?", "one two", "three four"), asks())
    assert width(page) <= 390
    panes = cell(page).locator(".vp-panes")
    assert panes.evaluate("p => getComputedStyle(p).overflowX") in ("auto", "scroll")
    panes.hover()
    page.mouse.wheel(400, 0)
    page.wait_for_function("document.querySelector('.vp-panes').scrollLeft > 100")
    expect(pane(page, "Q2_K")).to_be_in_viewport(ratio=0.3)
    tabs = cell(page).get_by_role("tab")
    expect(tabs).to_have_text(["F16 ★", "Q2_K ≠"])
    expect(tabs.nth(1)).to_have_attribute("aria-selected", "true")
    expect(cell(page).locator(".vp-tabs")).to_contain_text("2 of 2")
    tabs.nth(1).press("ArrowLeft")
    expect(tabs.nth(0)).to_be_focused()
    expect(cell(page).locator(".vp-tabs")).to_contain_text("1 of 2")
    expect(pane(page, "F16")).to_be_in_viewport(ratio=0.3)
    side = page.locator("#vp-side")
    expect(side).to_be_hidden()
    cell(page, 1).locator(".vp-chip").first.click()
    expect(side).to_be_in_viewport()
    expect(page.get_by_label("Q8_0 · 7.8 MB").or_(page.locator("#vp-models input").first).first).to_be_visible()
    page.get_by_label("Close the settings").click()
    expect(side).to_be_hidden()
    page.get_by_role("button", name="your model").click()
    expect(side).to_be_in_viewport()
    page.get_by_label("Close the settings").click()
    expect(side).to_be_hidden()
    for name in ("Share", "Export", "Notebooks"):
        page.locator(".vp-actions summary", has_text=name).click()
        assert width(page) <= 390
        box = page.locator(".vp-actions .vp-menu[open] > div").bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
    page.set_viewport_size({"width": 360, "height": 800})
    before, after = page.evaluate(
        """() => {
          const places = () => [...document.querySelectorAll(".vp-actions > *, .vp-status, .vp-cells")]
            .map(node => Object.values(node.getBoundingClientRect().toJSON()));
          const stop = document.querySelector("[data-do=stop-all]"), before = places();
          stop.hidden = false;
          const after = places(), end = stop.getBoundingClientRect().right;
          stop.hidden = true;
          return [[...before, end <= innerWidth], [...after, end > 0]];
        }"""
    )
    assert after == before  # Stop has its room in the line of the title


def contrasts(page: Page, selector: str) -> list[str]:
    """The texts of the shown nodes whose colour stands out less than 4.5 : 1 from what is behind it (WCAG AA)."""
    problems: list[str] = page.evaluate(
        """selector => {
            const pen = Object.assign(document.createElement("canvas"), {width: 1, height: 1})
                .getContext("2d", {willReadFrequently: true});
            const rgba = colour => {
                pen.clearRect(0, 0, 1, 1); pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1);
                const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
                return [r, g, b, a / 255];
            };
            const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
            const behind = node => {
                const layers = [];
                for (let at = node; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
                return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
            };
            const opacity = node => {
                let all = 1;
                for (let at = node; at; at = at.parentElement) all *= Number(getComputedStyle(at).opacity);
                return all;
            };
            const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
                .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
            const weak = [];
            for (const node of document.querySelectorAll(selector)) {
                const own = [...node.childNodes].some(one => one.nodeType === 3 && one.data.trim());
                const strength = opacity(node);
                if (!own || !strength || !node.checkVisibility({visibilityProperty: true})) continue;
                if (node.closest("svg, title, style")) continue;
                const [r, g, b, a] = rgba(getComputedStyle(node).color), back = behind(node);
                const fore = over([r, g, b, a * strength], back);
                const [high, low] = [light(fore), light(back)].sort((a, b) => b - a);
                const ratio = (high + .05) / (low + .05);
                if (ratio < 4.5) weak.push(`${ratio.toFixed(2)} ${node.outerHTML.slice(0, 120)}`);
            }
            return weak;
        }""",
        selector,
    )
    return problems


def test_colours_when_light_or_dark_then_every_text_can_be_read(page: Page) -> None:
    cell, (run,) = answers("Which?", "one two three four five", "one two three four six")
    assert isinstance(cell, CompareCell)
    failed = notebooks.pane(notebooks.Q2, "half", PaneState.FAILED, error="died", log=("a",))
    stopped = notebooks.run_of(cell, notebooks.result(failed), number=2, state=RunState.STOPPED)
    give(page, says("A [link](https://example.org) `code`\n\n> said"), (cell, (run,)), (cell, (stopped,)), asks())
    page.add_style_tag(content="* { transition: none !important }")
    for summary in page.locator(".vp-outputs summary, .vp-actions summary").all():
        summary.evaluate("summary => { summary.parentElement.open = true; }")
    prompt(page).fill("Changed")
    saved(page)
    page.locator("[data-import]").set_input_files(as_file("none"))
    told(page, "This is not a notebook of this playground")
    for what in (".vp-dim", ".vp-verdict", "ins", "del", "dt", "dd", ".vp-chip b", ".vp-toast span", ".vp-error p"):
        assert page.locator(what).count(), what
    sizes = {}
    for dark in (False, True):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        assert contrasts(page, "#vp-top *, #vp-main *") == []
        assert violations(page) == []
        sizes[dark] = page.locator(".vp-verdict").first.evaluate("node => getComputedStyle(node).color")
    assert sizes[False] != sizes[True]


def test_pages_when_axe_looks_at_them_then_nothing_is_wrong_and_run_all_is_near(page: Page, app: WebApp) -> None:
    """The notebook with its answers is in the test of its colours."""
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    stops, run_all = 1, page.get_by_role("button", name="▶ Run all")
    while not run_all.evaluate("button => button === document.activeElement"):
        page.keyboard.press("Tab")
        stops += 1
        assert stops <= 10
    names = page.locator("#vp-order input[type=radio]").evaluate_all("radios => radios.map(radio => radio.name)")
    assert names == ["vp-order", "vp-order"]
    page.locator("#vp-order input[type=radio]").first.press("ArrowDown")
    expect(cell(page).locator(".vp-chips")).to_contain_text("race")
    for address, region in (
        ("", ".vp-cell"),
        ("models", "#vp-hub .vp-card, #vp-hub button"),
        ("results", "#vp-results[data-ready] tbody tr"),
        ("inspect", "#vp-handles"),
    ):
        page.goto(f"{app.url}/{address}")
        expect(page.locator(region).first).to_be_visible()
        page.add_style_tag(content="* { transition: none !important }")
        for dark in (False, True):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
            assert violations(page) == []


def test_controls_when_reached_without_a_mouse_then_each_has_a_name_and_shows_its_focus(page: Page) -> None:
    give(page, says("A"), asks(), answers("Which?", "one", "two"))
    panel(page).get_by_role("button", name="Sampling and engine").click()
    for summary in page.locator("summary").all():
        summary.evaluate("summary => { summary.parentElement.open = true; }")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = ["button", "textbox", "combobox", "checkbox", "radio", "spinbutton", "menuitem", "link", "listbox"]
    controls = [n for n in tree if not n["ignored"] and n["role"]["value"] in roles]
    assert len(controls) > 40
    assert [n for n in controls if not n.get("name", {}).get("value", "").strip()] == []
    page.locator(".vp-name").focus()
    seen = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        what, outline = page.evaluate(
            """() => {
                const node = document.activeElement, style = getComputedStyle(node);
                return [node.outerHTML.slice(0, 90), `${style.outlineStyle} ${style.outlineWidth}`];
            }"""
        )
        seen.add(what)
        assert 'type="file"' in what or not outline.startswith("none"), what
    assert len(seen) > 15
    page.locator("[data-import]").focus()
    label = page.locator("label.vp-file").evaluate("label => getComputedStyle(label).outlineStyle")
    assert label != "none"
    page.locator("#vp-side").get_by_label("Reference").focus()
    expect(page.locator("#vp-side [role=listbox]")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator("#vp-side [role=listbox]")).to_have_count(0)


def test_measurement_when_run_on_the_page_then_table_grid_and_answers(page: Page) -> None:
    page.get_by_role("button", name="+ Measure").click()
    active = page.locator(".vp-is-compare.vp-active")
    active.get_by_label("how many").fill("4")
    expect(active.get_by_label("Does it use the image?")).to_be_checked()  # or no variant would be recommended
    active.get_by_label("Does it use the image?").uncheck()
    active.get_by_label("Right or wrong").check()
    tick(page, "F16", "Q2_K")
    page.locator("#vp-projectors").get_by_label("Q4_0").check()
    expect(active.locator(".vp-chip").first).to_have_text("F16, F16 + mmproj-Q4_0, Q2_K, Q2_K + mmproj-Q4_0")
    active.get_by_role("button", name="Run cell").click()
    expect(active.locator("progress")).to_be_visible(timeout=20_000)
    expect(active.locator(".vp-measured .vp-table").first).to_contain_text("Q2_K", timeout=60_000)
    expect(active.locator(".vp-outputs")).to_contain_text("noise floor")
    expect(active.locator(".vp-reasons li").first).to_contain_text("None passes. Nearest: ")
    table = active.locator(".vp-measured .vp-table").first
    expect(table.locator("thead th")).to_have_text(
        ["variant", "size", "changed", "at most", "verdict", "KL", "KL a question", "noise floor", "same top",
         "accuracy", "against ★"]
    )  # fmt: skip
    changed = table.locator("tbody tr", has_text=re.compile(r"^\s*Q2_K\s*8\.7")).locator("td")
    expect(changed.nth(1)).to_have_text("1 of 4")
    expect(changed.nth(2)).to_have_text("75.1%")
    expect(changed.nth(3)).to_have_text("not enough questions")
    expect(active.locator(".vp-sum")).to_contain_text("Not enough questions to tell: ")
    expect(active.locator(".vp-grid tbody th")).to_have_text(["F16", "Q2_K"])
    expect(active.locator(".vp-dot")).to_have_count(3)
    active.get_by_text("questions that moved most").click()
    assert re.match(r"KL ", active.locator(".vp-strip span").first.get_attribute("title") or "")
    page.reload()
    again = page.locator(".vp-is-compare", has=page.locator("[data-q]"))
    expect(again.locator(".vp-grid tbody th")).to_have_text(["F16", "Q2_K"])
    expect(again.get_by_label("how many")).to_have_value("4")
    expect(again.get_by_label("Right or wrong")).to_be_checked()


def test_measurement_when_stopped_then_says_so_and_runs_again(page: Page) -> None:
    page.get_by_role("button", name="+ Measure").click()
    active = page.locator(".vp-is-compare.vp-active")
    active.get_by_label("how many").fill("200")
    active.get_by_role("button", name="Run cell").click()
    expect(active.locator("progress")).to_be_visible(timeout=20_000)
    active.get_by_role("button", name="Stop", exact=True).click()
    expect(active.locator(".vp-runstate")).to_have_text("stopped by hand")
    expect(active.get_by_role("button", name="Run cell")).to_be_visible()


def test_measurement_when_the_questions_are_ones_own_then_asked_and_shown_with_their_images(
    page: Page, tmp_path: Path
) -> None:
    folder = data_folder() / "tiny-vlm/evaluation"
    rows = [
        {"image": "a.png", "question": "What shape is green?", "answer": "cross"},
        {"image": "b.png", "question": "Describe the image."},
        {"image": "gone.png", "question": "What?"},
    ]
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        archive.writestr("set/items.jsonl", "\n".join(json.dumps(row) for row in rows))
        archive.write(folder / "hard-62.png", "set/a.png")
        archive.write(folder / "hard-52.png", "set/b.png")
    (tmp_path / "no.zip").write_bytes(b"PK not really")
    page.get_by_role("button", name="+ Measure").click()
    active = page.locator(".vp-is-compare.vp-active")
    active.get_by_label("or a zip of your own").set_input_files(tmp_path / "no.zip")
    expect(page.get_by_text("no.zip cannot be read as a folder or zip")).to_be_visible()
    active.get_by_label("or a zip of your own").set_input_files(tmp_path / "mine.zip")
    expect(active).to_contain_text("questions of mine.zip")
    expect(page.get_by_text("Question 3 was left out: there is no image gone.png")).to_be_visible()
    tick(page, "F16", "Q2_K")
    expect(active.locator(".vp-chip").first).to_have_text("F16, Q2_K")
    active.get_by_role("button", name="Run cell").click()
    expect(active.locator(".vp-outputs")).to_contain_text("2 questions", timeout=60_000)
    active.get_by_text("that moved most").click()
    expect(active.locator(".vp-example img").first).to_have_js_property("complete", True)
    active.get_by_role("button", name="Ask the embedded questions again").click()
    expect(active.locator("select[data-q=level]")).to_have_value("hard")
    expect(active.locator(".vp-runline")).to_have_attribute("data-stale", "true")
