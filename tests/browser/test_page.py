"""A comparison on the page, in a real Chromium, the app started as the README says."""

from __future__ import annotations

import io
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from gradio_client import Client
from playwright.sync_api import Browser, Page, expect

from playground.models.presets import data_folder
from testkit import pairs
from testkit.browser import TOKEN, cell, ended, menu, pane, panel, prompt, ready, reload, run, tick_only, visitor
from testkit.cutting_proxy import cutting
from testkit.webapp import WebApp

pytestmark = pytest.mark.browser

OTHER = data_folder() / "tiny-vlm/evaluation/hard-52.png"


def stop(page: Page, number: int = 0) -> None:
    cell(page, number).get_by_role("button", name="Stop", exact=True).click()


def remove_image(page: Page, number: int = 0) -> None:
    cell(page, number).locator("figure").first.hover()
    cell(page, number).locator("[data-do=unpicture]").first.click()
    expect(cell(page, number).locator(".vp-pictures figure")).to_have_count(0)


def add_image(page: Page, path: Path, number: int = 0) -> None:
    cell(page, number).get_by_label("Add an image").set_input_files(str(path))


def open_endless(page: Page, endless: pairs.PairFiles) -> None:
    panel(page).get_by_role("button", name="+ Add a model").click()
    page.get_by_label("Language model file").fill(str(endless.model))
    page.get_by_label("Language model file").press("Enter")
    page.get_by_label("Projector file (mmproj)").fill(str(endless.projector))
    page.get_by_label("Projector file (mmproj)").press("Enter")
    page.get_by_role("button", name="Open pair").click()
    expect(page.get_by_label("F16 ★ · 102.3 MB")).to_be_checked()
    expect(cell(page, 1)).to_have_class(re.compile("vp-active"))  # a new cell, below the one that was selected
    menu(cell(page), "Delete")
    expect(cell(page, 0)).to_have_class(re.compile("vp-active"))
    expect(page.get_by_label("F16 ★ · 102.3 MB")).to_be_checked()


def set_max_tokens(page: Page, n: int) -> None:
    panel(page).get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Max tokens").fill(str(n))
    expect(page.locator(".vp-active .vp-chips")).to_contain_text(f"max {n}")


def writing(page: Page, number: int = 0) -> None:
    expect(cell(page, number).locator(".vp-pane").first).to_have_attribute("data-state", "writing", timeout=30_000)


def memory(app: WebApp, client: Client | None = None) -> dict[str, Any]:
    api = client or Client(app.url, verbose=False)
    memory: dict[str, Any] = api.predict(api_name="/memory")
    if client is None:
        api.close()
    return memory


def test_page_when_run_is_clicked_then_six_answers_stand_side_by_side(page: Page) -> None:
    run(page)
    expect(cell(page).locator(".vp-pane")).to_have_count(6)
    expect(cell(page).locator(".vp-say")).to_contain_text("answer exactly like F16", timeout=60_000)
    boxes = [pane(page, label).bounding_box() for label in ("F16", "Q8_0", "Q4_K_M")]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    expect(pane(page, "F16")).to_contain_text("★ reference")
    expect(pane(page, "F16")).to_contain_text("7 text + 144 image")
    expect(pane(page, "Q8_0")).to_contain_text("= same")
    expect(pane(page, "Q8_0")).to_contain_text("cached")
    expect(pane(page, "Q2_K")).to_contain_text("≠ differs: 6 words")
    expect(pane(page, "Q2_K").locator("del").first).to_have_text("three")
    expect(pane(page, "Q2_K").locator("ins").first).to_have_text("four")
    expect(pane(page, "TQ2_0")).to_contain_text("≠ differs: most words")
    difference = pane(page, "Q2_K").locator(".vp-parting summary")
    expect(difference).to_contain_text("first difference: three → four (59")
    difference.click()
    candidates = pane(page, "Q2_K").locator(".vp-parting tbody tr").first
    expect(candidates).to_contain_text("three")
    expect(candidates).to_contain_text("four")
    pane(page, "Q2_K").get_by_role("button", name="beside another one").click()
    two = page.get_by_role("dialog", name="Two answers side by side")
    expect(two.get_by_label("The answer of F16")).to_contain_text("three objects")
    expect(two.get_by_label("The answer of Q2_K").locator("ins").first).to_have_text("four")
    page.keyboard.press("n")
    expect(two.locator("ins").first).to_be_focused()
    page.keyboard.press("Escape")
    expect(two).to_be_hidden()
    pane(page, "Q2_K").get_by_role("button", name="go on from three").click()
    expect(pane(page, "Q2_K").locator(".vp-branch")).to_contain_text("instead of “four”, token 20")
    expect(pane(page, "Q2_K").locator(".vp-branch .vp-verdict")).to_have_text(re.compile("^[=≠] "))
    expect(pane(page, "F16").locator(".vp-text span").first).to_have_attribute("title", re.compile(r"^\d+\.\d%$"))
    for label in ("F16", "TQ2_0"):
        assert re.search(r"speed\s*[\d,.]+ tok/s", pane(page, label).text_content())
        assert re.search(r"memory\s*\d+ MiB", pane(page, label).text_content())
    expect(page.locator(".vp-memory")).to_contain_text("MiB of")


SLOW_LINK = """const send = window.fetch;
window.fetch = async (address, options) => {
  if (String(options?.body).includes("48151623")) await new Promise(resolve => setTimeout(resolve, 2000));
  return send(address, options);
};"""


def test_page_when_a_setting_arrives_two_seconds_late_then_a_run_begun_at_once_uses_it(page: Page) -> None:
    tick_only(page, "F16")
    panel(page).get_by_role("button", name="Sampling and engine").click()
    page.evaluate(SLOW_LINK)
    page.get_by_label("Seed").fill("48151623")
    run(page)
    expect(cell(page).locator(".vp-pane.vp-done")).to_have_count(1, timeout=30_000)
    cell(page).get_by_text("run details", exact=True).click()
    expect(cell(page).locator(".vp-record")).to_contain_text("48151623")
    expect(cell(page).locator(".vp-runline")).to_have_attribute("data-stale", "false")


HELD = """const send = window.fetch, released = new Promise(resolve => { window.release = resolve; });
window.fetch = async (address, options) => {
  if (String(options?.body).includes("event_data")) await released;
  return send(address, options);
};"""


def test_page_when_another_cells_settings_are_on_their_way_then_nobody_ticks_what_they_replace(page: Page) -> None:
    page.evaluate(HELD)
    menu(cell(page), "Duplicate")
    expect(page.locator("#vp-side[inert]")).to_be_visible()
    page.evaluate("window.release()")
    tick_only(page, "Q2_K")


ANSWERED = """document.addEventListener("vp-answered", () => {
  window.answered ??= document.querySelector("#vp-side").inert;
});"""


def test_page_when_an_older_cells_settings_arrive_then_nobody_ticks_what_newer_ones_replace(page: Page) -> None:
    page.evaluate(HELD)
    menu(cell(page), "Duplicate")
    expect(cell(page, 1)).to_have_class(re.compile("vp-active"))
    page.evaluate(ANSWERED)
    cell(page).locator("[data-prompt]").click()
    page.evaluate("window.release()")
    page.wait_for_function("window.answered !== undefined")
    assert page.evaluate("window.answered")
    tick_only(page, "Q2_K")
    expect(cell(page).locator(".vp-chips")).to_contain_text("Q2_K")


def test_page_when_the_server_refuses_a_setting_then_the_cell_is_not_run(page: Page) -> None:
    tick_only(page, "F16")
    panel(page).get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Temperature").fill("9")
    run(page)
    expect(page.get_by_text("temperature has to be between 0 and 5")).to_be_visible()
    page.get_by_label("Temperature").fill("0")
    run(page)
    expect(cell(page).locator(".vp-pane.vp-done")).to_have_count(1, timeout=30_000)
    expect(cell(page).locator(".vp-n")).to_have_text("[1]")


def test_page_when_answers_are_bound_to_a_schema_then_they_keep_to_it_and_the_cell_says_so(page: Page) -> None:
    tick_only(page, "F16")
    panel(page).get_by_role("button", name="Sampling and engine").click()
    page.get_by_role("button", name="Use the makers' sampling").click()
    expect(page.get_by_text("The makers' sampling is not known for this model.")).to_be_visible()
    schema = '{"type": "object", "properties": {"count": {"type": "integer"}}, "required": ["count"]}'
    page.get_by_label("JSON schema that answers keep to").fill(schema)
    page.get_by_label("Template variables").fill('{"enable_thinking": false}')
    expect(page.locator(".vp-active .vp-chips")).to_contain_text("a JSON schema")
    expect(page.locator(".vp-active .vp-chips")).to_contain_text("enable_thinking: false")
    run(page)
    expect(pane(page, "F16").locator(".vp-text")).to_contain_text('"count"', timeout=60_000)
    page.get_by_label("JSON schema that answers keep to").fill('{"type": "wrong"}')
    run(page)
    expect(page.get_by_text("The JSON schema cannot be used")).to_be_visible(timeout=30_000)


def test_page_when_a_column_of_the_table_is_clicked_then_sorted_by_it(page: Page) -> None:
    tick_only(page, "F16", "Q8_0", "Q2_K")
    run(page)
    ended(page)  # the last outputs draw the table anew
    cell(page).get_by_text("table and plot").click()
    table = cell(page).locator(".vp-table")
    names = table.locator("tbody th")
    expect(names).to_have_text([re.compile("^F16"), "Q8_0", "Q2_K"])
    size = table.get_by_role("button", name="size")
    size.click()
    expect(names).to_have_text(["Q2_K", "Q8_0", re.compile("^F16")])
    expect(table.locator("th[aria-sort=ascending]")).to_contain_text("size")
    size.click()
    expect(names).to_have_text([re.compile("^F16"), "Q8_0", "Q2_K"])
    table.get_by_role("button", name="same until").click()
    expect(names).to_have_text(["Q2_K", "Q8_0", re.compile("^F16")])  # of the reference it is unknown: last
    expect(cell(page).locator(".vp-mark")).to_have_count(3)


def test_page_when_ctrl_enter_is_pressed_in_the_prompt_then_what_was_typed_is_asked(page: Page) -> None:
    tick_only(page, "F16", "Q8_0")
    prompt(page).fill("What shape is green?")
    prompt(page).press("Control+Enter")
    expect(pane(page, "Q8_0")).to_contain_text("= same", timeout=30_000)
    expect(cell(page).locator(".vp-pane")).to_have_count(2)
    expect(pane(page, "F16").locator(".vp-text")).to_have_text("cross")


def test_page_when_a_setting_was_just_changed_then_the_run_has_it(page: Page) -> None:
    tick_only(page, "F16")
    panel(page).get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Max tokens").fill("3")
    page.get_by_label("Max tokens").press("Control+Enter")
    expect(pane(page, "F16")).to_contain_text("(max tokens)", timeout=30_000)
    expect(pane(page, "F16").locator(".vp-text")).to_have_text("The image shows")


def test_page_when_an_answer_streams_then_it_grows_and_stop_keeps_it(
    page: Page, app: WebApp, endless: pairs.PairFiles
) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    run(page)
    text = cell(page).locator(".vp-text").first
    writing(page)
    early = len(text.text_content())
    page.wait_for_function("n => document.querySelector('.vp-text').textContent.length > n + 50", arg=early)
    stop(page)
    expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "stopped")
    assert len(text.text_content()) > early + 50  # inner_text is empty while the cell is not laid out
    expect(cell(page).get_by_role("button", name="Run cell")).to_be_visible()
    expect(cell(page).locator(".vp-runstate")).to_have_text("stopped by hand")
    assert all(w["leases"] == 0 for w in memory(app)["workers"])


def test_page_when_one_pane_is_stopped_then_only_that_one_ends(page: Page, endless: pairs.PairFiles) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    run(page)
    writing(page)
    page.get_by_role("button", name=re.compile("^Stop F16")).click()
    expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "stopped")


def test_page_when_the_tab_is_closed_then_the_run_goes_on_and_another_tab_sees_and_stops_it(
    browser: Browser, app: WebApp, endless: pairs.PairFiles
) -> None:
    with visitor(browser, app.url) as other:
        ready(other)
        open_endless(other, endless)
        set_max_tokens(other, 3000)
        run(other)
        writing(other)
        token = other.evaluate("name => localStorage.getItem(name)", TOKEN)
        other.close()
    with visitor(browser, app.url, token=token) as again:
        writing(again)
        expect(cell(again)).to_have_class(re.compile("vp-running"))
        early = len(cell(again).locator(".vp-text").first.text_content() or "")
        again.wait_for_function("n => document.querySelector('.vp-text').textContent.length > n + 50", arg=early)
        stop(again)
        expect(cell(again).locator(".vp-runstate")).to_have_text("stopped by hand")
    assert memory(app)["queue_length"] == 0


def test_page_when_its_connections_are_cut_then_it_stays_and_shows_the_whole_answer(
    browser: Browser, app: WebApp, endless: pairs.PairFiles
) -> None:
    with cutting(app.url) as proxy, visitor(browser, proxy.url) as page:
        ready(page)
        open_endless(page, endless)
        set_max_tokens(page, 600)
        page.evaluate("window.stays = true")
        run(page)
        writing(page)
        for _ in range(3):
            early = len(cell(page).locator(".vp-text").first.text_content() or "")
            while not proxy.cut():  # the page is connecting again
                time.sleep(0.05)
            page.wait_for_function("n => document.querySelector('.vp-text').textContent.length > n + 20", arg=early)
        ended(page)
        shown = cell(page).locator(".vp-text").first.text_content()
        assert page.evaluate("window.stays")  # it was not loaded again
        expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "done")
        reload(page)
        assert cell(page).locator(".vp-text").first.text_content() == shown


def test_page_when_two_people_run_then_the_second_sees_its_place(
    page: Page, browser: Browser, app: WebApp, endless: pairs.PairFiles
) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    with visitor(browser, app.url) as other:
        ready(other)
        run(page)
        writing(page)
        run(other)
        expect(other.locator(".vp-place")).to_have_text(re.compile("Waiting for 1 other run\\."))
        stop(page)
        expect(cell(other).locator(".vp-say")).to_contain_text("answer exactly like F16", timeout=60_000)


def test_page_when_a_worker_is_killed_then_its_pane_says_so(page: Page, app: WebApp, endless: pairs.PairFiles) -> None:
    client = Client(app.url, verbose=False)  # takes a second: the answer must not end before it is there
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    run(page)
    writing(page)
    expect(cell(page).locator(".vp-text").first).not_to_be_empty()
    worker = next(w for w in memory(app, client)["workers"] if w["file"] == endless.model.name)
    os.kill(worker["pid"], signal.SIGKILL)
    client.close()
    expect(cell(page).locator(".vp-pane .vp-error")).to_contain_text("killed (SIGKILL)")
    assert cell(page).locator(".vp-text").first.text_content()
    ended(page)
    run(page)
    writing(page)
    stop(page)
    expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "stopped")


def test_page_when_a_text_holds_markup_then_it_is_text(page: Page) -> None:
    evil = "<img src=x onerror=alert(1)> {{value}} ${alert(2)} `x` <script>alert(3)</script>"
    tick_only(page, "F16")
    prompt(page).fill(evil)
    run(page)
    expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "done", timeout=30_000)
    page.get_by_text("rendered prompt").click()
    expect(page.locator(".vp-rendered pre")).to_contain_text(evil)
    assert page.locator(".vp-outputs img, .vp-outputs script").count() == 0


def test_page_when_a_document_is_chosen_then_its_pages_can_be_too(page: Page, tmp_path: Path) -> None:
    sheets = [PIL.Image.new("RGB", (60, 40), (20 * n, 0, 0)) for n in range(10)]
    sheets[0].save(tmp_path / "ten.pdf", save_all=True, append_images=sheets[1:])
    add_image(page, tmp_path / "ten.pdf")
    pictures = cell(page).locator(".vp-pictures figure")
    expect(pictures).to_have_count(8)
    page.locator(".vp-toast").get_by_role("button", name="Choose pages").click()
    dialog = page.get_by_role("dialog", name="Pages of a document")
    expect(dialog).to_contain_text("Of the 10 pages of ten.pdf, at most 8")
    dialog.get_by_role("textbox").fill("9, 2")
    dialog.get_by_role("button", name="Take these pages").click()
    expect(pictures).to_have_count(2)
    expect(page.locator(".vp-toast", has_text="ten.pdf has 10 pages; in the cell: 9, 2.")).to_be_visible()


def test_page_when_an_own_image_is_chosen_then_it_is_the_one_asked_about(page: Page) -> None:
    tick_only(page, "F16")
    add_image(page, OTHER)  # in place of the example
    expect(page.get_by_text("Your image replaced the one that was here.")).to_be_visible()
    expect(cell(page).locator(".vp-pictures img")).to_have_count(1)
    prompt(page).fill("Describe the image.")
    run(page)
    expect(pane(page, "F16").locator(".vp-text")).to_contain_text("The image shows five objects", timeout=30_000)
    cell(page).get_by_role("button", name="Show hard-52.png larger").click()
    shown = page.locator("[data-zoom] img")
    expect(shown).to_have_js_property("naturalWidth", 288)
    box, share = shown.bounding_box(), page.locator("[data-zoom-share]").text_content()
    assert box is not None
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 60)
    page.mouse.up()
    expect(page.locator("[data-part-size]")).to_contain_text("pixels at")
    page.mouse.wheel(0, -1500)  # the point below the mouse stays
    expect(page.locator("[data-zoom-share]")).not_to_have_text(str(share))
    larger = shown.bounding_box()
    assert larger is not None
    assert larger["width"] > 2 * box["width"]
    under = [(box["x"] + 110 - each["x"]) / each["width"] for each in (box, larger)]
    assert under[1] == pytest.approx(under[0], abs=0.01)
    page.keyboard.press("0")
    expect(page.locator("[data-zoom-share]")).to_have_text(str(share))
    page.get_by_role("button", name="Ask about the part in a new cell").click()
    expect(page.locator("[data-zoom]")).to_be_hidden()
    expect(cell(page, 1)).to_be_focused()
    expect(cell(page, 1).locator(".vp-pictures img")).to_have_attribute("alt", re.compile("^hard-52.png, .* at "))
    expect(prompt(page, 1)).to_have_value("Describe the image.")


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_page_when_an_image_is_pasted_or_dropped_then_the_cell_has_it(page: Page, how: str) -> None:
    tick_only(page, "F16")
    page.evaluate(
        """([bytes, how]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "given.png", {type: "image/png"}));
            const event = how === "paste" ? new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true})
                : new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true});
            document.querySelector(".vp-is-compare figure img").dispatchEvent(event);
        }""",
        [list(OTHER.read_bytes()), how],
    )
    expect(cell(page).locator("img[alt='given.png']")).to_be_visible()
    expect(cell(page).locator(".vp-pictures figure")).to_have_count(1)
    prompt(page).fill("Describe the image.")
    run(page)
    expect(pane(page, "F16").locator(".vp-text")).to_contain_text("The image shows five objects", timeout=30_000)


def test_page_when_an_example_is_clicked_then_the_empty_cell_has_its_image_and_prompt(page: Page) -> None:
    page.get_by_role("button", name="+ Compare").click()
    fresh = page.locator(".vp-is-compare.vp-active")
    expect(fresh.locator(".vp-pick")).to_have_text("Drop, paste or choose an image")
    fresh.get_by_role("button", name="Example: How many red stars are there?").click()
    expect(fresh.locator(".vp-pictures img")).to_be_visible()
    expect(fresh.get_by_label("Prompt", exact=True)).to_have_value("How many red stars are there?")


def test_page_when_the_image_is_damaged_then_says_so_and_keeps_the_answers(page: Page, tmp_path: Path) -> None:
    tick_only(page, "F16")
    run(page)
    expect(cell(page).locator(".vp-pane")).to_have_attribute("data-state", "done", timeout=30_000)
    whole = io.BytesIO()
    PIL.Image.effect_noise((300, 300), 90).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    add_image(page, tmp_path / "cut.png")
    expect(page.get_by_text("cut.png is cut short or damaged")).to_be_visible()
    expect(cell(page).locator(".vp-pictures figure")).to_have_count(1)
    expect(pane(page, "F16")).to_contain_text("RVJWPBX")


def test_page_when_nothing_is_ticked_or_asked_then_says_what_to_do(page: Page) -> None:
    picture = cell(page).locator(".vp-pictures figure")
    drop = picture.get_by_role("button", name="Remove")
    expect(drop).to_have_css("opacity", "0")
    picture.hover()
    expect(drop).to_have_css("opacity", "1")  # a picture that cannot be removed joins every later question
    drop.click()
    expect(picture).to_have_count(0)
    prompt(page).fill("  ")
    run(page)
    expect(cell(page).get_by_text("The prompt is empty. Write what you want to know")).to_be_visible()
    prompt(page).fill("What do you see?")
    tick_only(page)
    run(page)
    expect(cell(page).get_by_text("Tick at least one quantization")).to_be_visible()
    expect(cell(page).locator(".vp-n")).to_have_text("[ ]")


def test_page_when_a_file_outside_the_allowed_folders_is_opened_then_refused(page: Page, tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    panel(page).get_by_role("button", name="+ Add a model").click()
    for label, path in (("Language model file", files.model), ("Projector file (mmproj)", files.projector)):
        page.get_by_label(label).fill(str(path))
        page.get_by_label(label).press("Enter")
    page.get_by_role("button", name="Open pair").click()
    expect(page.get_by_text("only in the folders that the operator allowed")).to_be_visible()


def test_page_when_a_file_name_holds_markup_then_the_message_shows_it_as_text(page: Page, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    evil.write_bytes(b"no image")
    add_image(page, evil)
    expect(page.get_by_text("is not an image that can be read here")).to_be_visible()
    assert page.locator("img[src=x]").count() == 0


def test_page_when_a_path_of_the_server_is_given_as_an_upload_then_refused(page: Page, app: WebApp) -> None:
    """The script sends where its upload went; somebody else's script may send anything."""
    answers = page.evaluate(
        """async path => {
            const config = await (await fetch("/config")).json();
            const one = config.components.find(c => (c.props.server_fns ?? []).includes("add_picture"));
            const ask = async (name, data) => (await fetch("/gradio_api/component_server/", {
                method: "POST", headers: {"Content-Type": "application/json"},
                body: JSON.stringify({data, fn_name: name, component_id: one.id, session_hash: "x"})})).json();
            const browser = localStorage.getItem("vlm-quant-playground");
            const mine = await ask("open", {browser, key: null});
            const cell = document.querySelector(".vp-is-compare").dataset.cell;
            const answers = [];
            for (const wanted of [path, "/etc/passwd", "../../etc/passwd", "\\u0000"])
                answers.push(await ask("add_picture", {browser, key: mine.key, cell, path: wanted}));
            answers.push(await ask("add_picture", {key: mine.key, cell: 5}));
            answers.push(await ask("export", {key: "guess", format: "json"}));
            answers.push(await ask("_library", {key: mine.key}));
            return answers;
        }""",
        str(OTHER),
    )
    texts = [str(answer.get("error", answer)) for answer in answers]
    assert all("Only a file that was uploaded here" in text or "no path" in text for text in texts[:4]), texts
    assert "asked for something that it may not" in texts[4]
    assert texts[5] == "There is no notebook here."
    assert "Function not found" in texts[6]


def test_page_when_the_notebook_cannot_be_opened_then_it_says_so_in_place_of_waiting(page: Page) -> None:
    page.route("**/component_server/", lambda route: route.abort())
    page.reload()
    expect(page.locator("#vp-notebook")).to_have_text("The notebook could not be opened. Reload the page to try again.")
    page.unroute("**/component_server/")
