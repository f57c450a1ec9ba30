"""The page in a real Chromium, the app started as the README says."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from gradio_client import Client
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from playground.models.presets import data_folder
from tests import pairs
from tests.webapp import WebApp

pytestmark = pytest.mark.browser

OTHER = data_folder() / "tiny-vlm/evaluation/hard-52.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if found is None:
        assert "CI" not in os.environ, "the browser tests have to run in CI, and there is no chromium"
        pytest.skip("no chromium here; install it, or set CHROMIUM to a browser's path")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=found,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, app: WebApp) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1366, "height": 900})
    opened = context.new_page()
    requests: list[Request] = []
    opened.on("request", lambda request: requests.append(request))  # noqa: PLW0108  playwright marks the function
    dialogs: list[Any] = []
    opened.on("dialog", lambda dialog: (dialogs.append(dialog), dialog.dismiss()))
    opened.goto(app.url)
    expect(opened.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)
    yield opened
    external = [r.url for r in requests if not re.match(rf"{app.url}|data:|blob:", r.url)]
    assert external == []
    assert dialogs == []
    context.close()


def pane(page: Page, label: str) -> Any:
    return page.get_by_role("region", name=label, exact=True)


def tick_only(page: Page, *labels: str) -> None:
    box = page.locator("#vp-models")
    for option in box.get_by_role("checkbox").all():
        name = option.locator("xpath=..").inner_text()
        option.set_checked(name.split(" ")[0] in labels)


def open_endless(page: Page, endless: pairs.PairFiles) -> None:
    page.get_by_role("button", name="Open files on this machine").click()
    page.get_by_label("Language model file").fill(str(endless.model))
    page.get_by_label("Language model file").press("Enter")
    page.get_by_label("Projector file (mmproj)").fill(str(endless.projector))
    page.get_by_label("Projector file (mmproj)").press("Enter")
    page.get_by_role("button", name="Open pair").click()
    expect(page.get_by_label("F16 ★ · 102.3 MB")).to_be_checked()


def set_max_tokens(page: Page, n: int) -> None:
    page.get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Max tokens").fill(str(n))


def test_page_when_run_is_clicked_then_six_answers_stand_side_by_side(page: Page) -> None:
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_count(6)
    expect(page.locator(".vp-say")).to_contain_text("answer exactly like F16", timeout=60_000)
    boxes = [pane(page, label).bounding_box() for label in ("F16", "Q8_0", "Q4_K_M")]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    expect(pane(page, "F16")).to_contain_text("★ reference")
    expect(pane(page, "F16")).to_contain_text("7 + 144")
    expect(pane(page, "Q8_0")).to_contain_text("= same")
    expect(pane(page, "Q8_0")).to_contain_text("cached")
    expect(pane(page, "Q2_K")).to_contain_text("≠ from word 14")
    expect(pane(page, "Q2_K").locator("del").first).to_have_text("three")
    expect(pane(page, "Q2_K").locator("ins").first).to_have_text("four")
    expect(pane(page, "TQ2_0")).to_contain_text("≠ from word 1")
    pane(page, "Q2_K").get_by_text("where they part: token 20").click()
    candidates = pane(page, "Q2_K").locator(".vp-parting tbody tr").first
    expect(candidates).to_contain_text("three")
    expect(candidates).to_contain_text("four")
    expect(pane(page, "F16").locator(".vp-text span").first).to_have_attribute("title", re.compile(r"^\d+\.\d%$"))
    for label in ("F16", "TQ2_0"):
        assert re.search(r"decode\s*[\d,.]+ tok/s", pane(page, label).inner_text())
        assert re.search(r"memory\s*\d+ MiB", pane(page, label).inner_text())
    expect(page.locator(".vp-memory")).to_contain_text("MiB of")


def test_page_when_a_column_of_the_table_is_clicked_then_sorted_by_it(page: Page) -> None:
    tick_only(page, "F16", "Q8_0", "Q2_K")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("table and plot").click(timeout=60_000)
    names = page.locator(".vp-table tbody th")
    expect(names).to_have_text([re.compile("^F16"), "Q8_0", "Q2_K"])
    size = page.locator(".vp-table").get_by_role("button", name="size")
    size.click()
    expect(names).to_have_text(["Q2_K", "Q8_0", re.compile("^F16")])
    expect(page.locator(".vp-table th[aria-sort=ascending]")).to_contain_text("size")
    size.click()
    expect(names).to_have_text([re.compile("^F16"), "Q8_0", "Q2_K"])
    page.locator(".vp-table").get_by_role("button", name="same prefix").click()
    expect(names).to_have_text(["Q2_K", "Q8_0", re.compile("^F16")])  # of the reference it is unknown: last
    expect(page.locator(".vp-mark")).to_have_count(3)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-stop")).to_have_count(0)
    expect(names).to_have_text([re.compile("^F16"), "Q8_0", "Q2_K"], timeout=30_000)
    expect(page.locator(".vp-table th[aria-sort=ascending]")).to_have_count(0)


def test_page_when_ctrl_enter_is_pressed_in_the_prompt_then_what_was_typed_is_asked(page: Page) -> None:
    tick_only(page, "F16", "Q8_0")
    page.get_by_label("Prompt").fill("What shape is green?")
    page.get_by_label("Prompt").press("Control+Enter")
    expect(pane(page, "Q8_0")).to_contain_text("= same", timeout=30_000)
    expect(page.locator(".vp-pane")).to_have_count(2)
    expect(pane(page, "F16").locator(".vp-text")).to_have_text("cross")


def test_page_when_an_answer_streams_then_it_grows_and_stop_keeps_it(
    page: Page, app: WebApp, endless: pairs.PairFiles
) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    page.get_by_role("button", name="Run").click()
    text = page.locator(".vp-text").first
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    early = len(text.inner_text())
    page.wait_for_function("n => document.querySelector('.vp-text').innerText.length > n + 50", arg=early)
    page.get_by_role("button", name="■ Stop").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "stopped", timeout=5_000)
    assert len(text.inner_text()) > early + 50
    expect(page.get_by_role("button", name="Run")).to_be_enabled()
    assert all(w["leases"] == 0 for w in memory(app)["workers"])


def test_page_when_one_pane_is_stopped_then_only_that_one_ends(page: Page, endless: pairs.PairFiles) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    page.get_by_role("button", name=re.compile("^Stop F16")).click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "stopped", timeout=5_000)


def test_page_when_the_tab_is_closed_then_the_work_stops(
    page: Page, browser: Browser, app: WebApp, endless: pairs.PairFiles
) -> None:
    other = browser.new_page()
    other.goto(app.url)
    expect(other.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)
    open_endless(other, endless)
    set_max_tokens(other, 3000)
    other.get_by_role("button", name="Run").click()
    expect(other.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    other.close()
    page.wait_for_timeout(1500)
    assert all(w["leases"] == 0 for w in memory(app)["workers"])
    assert memory(app)["queue_length"] == 0


def test_page_when_two_people_run_then_the_second_sees_its_place(
    page: Page, browser: Browser, app: WebApp, endless: pairs.PairFiles
) -> None:
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    other = browser.new_page()
    other.goto(app.url)
    expect(other.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)
    other.get_by_role("button", name="Run").click()
    expect(other.locator(".vp-place")).to_have_text(re.compile("Waiting: 1 run ahead of this one"))
    page.get_by_role("button", name="■ Stop").click()
    expect(other.locator(".vp-say")).to_contain_text("answer exactly like F16", timeout=60_000)
    other.close()


def test_page_when_a_worker_is_killed_then_its_pane_says_so(page: Page, app: WebApp, endless: pairs.PairFiles) -> None:
    client = Client(app.url, verbose=False)  # takes a second: the answer must not end before it is there
    open_endless(page, endless)
    set_max_tokens(page, 3000)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    worker = next(w for w in memory(app, client)["workers"] if w["file"] == endless.model.name)
    os.kill(worker["pid"], signal.SIGKILL)
    client.close()
    expect(page.locator(".vp-error")).to_contain_text("killed (SIGKILL)", timeout=10_000)
    assert page.locator(".vp-text").first.inner_text()
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "writing", timeout=30_000)
    page.get_by_role("button", name="■ Stop").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "stopped", timeout=5_000)


def test_page_when_a_text_holds_markup_then_it_is_text(page: Page) -> None:
    evil = "<img src=x onerror=alert(1)> {{value}} ${alert(2)} `x` <script>alert(3)</script>"
    tick_only(page, "F16")
    page.get_by_label("Prompt").fill(evil)
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "done", timeout=30_000)
    page.get_by_text("rendered prompt").click()
    expect(page.locator(".vp-rendered pre")).to_contain_text(evil)
    assert page.locator("#vp-panes img, #vp-panes script").count() == 0


def test_page_when_an_own_image_is_dropped_then_it_is_the_one_asked_about(page: Page) -> None:
    tick_only(page, "F16")
    page.locator("#vp-image").get_by_role("button", name="Clear").click()
    page.locator("#vp-image input[type=file]").set_input_files(str(OTHER))
    expect(page.locator("#vp-image img").first).to_be_visible()
    page.get_by_label("Prompt").fill("Describe the image.")
    page.get_by_role("button", name="Run").click()
    expect(pane(page, "F16").locator(".vp-text")).to_contain_text("The image shows five objects", timeout=30_000)


def test_page_when_an_image_is_pasted_then_it_takes_the_examples_place(page: Page) -> None:
    tick_only(page, "F16")
    page.get_by_label("Prompt").fill("Describe the image.")
    data = list(OTHER.read_bytes())
    page.evaluate(
        """bytes => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], "pasted.png", {type: "image/png"}));
            document.dispatchEvent(new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));
        }""",
        data,
    )
    expect(page.locator("#vp-image img[src*=pasted]")).to_be_visible()
    expect(page.locator("#vp-image .thumbnail-item")).to_have_count(1)
    page.get_by_role("button", name="Run").click()
    expect(pane(page, "F16").locator(".vp-text")).to_contain_text("The image shows five objects", timeout=30_000)


def test_page_when_the_image_is_damaged_then_says_so_and_keeps_the_answers(page: Page, tmp_path: Path) -> None:
    tick_only(page, "F16")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".vp-pane")).to_have_attribute("data-state", "done", timeout=30_000)
    whole = io.BytesIO()
    PIL.Image.effect_noise((300, 300), 90).save(whole, "PNG")
    (tmp_path / "cut.png").write_bytes(whole.getvalue()[:2000])
    page.locator("#vp-image").get_by_role("button", name="Clear").click()
    page.locator("#vp-image input[type=file]").set_input_files(str(tmp_path / "cut.png"))
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("cut.png is cut short or damaged")).to_be_visible()
    expect(pane(page, "F16")).to_contain_text("RVJWPBX")


def test_page_when_nothing_is_ticked_or_asked_then_says_what_to_do(page: Page) -> None:
    page.get_by_label("Prompt").fill("  ")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("The prompt is empty. Write what you want to know")).to_be_visible()
    page.get_by_label("Prompt").fill("What do you see?")
    tick_only(page)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("Tick at least one quantization")).to_be_visible()


def test_page_when_a_file_outside_the_allowed_folders_is_opened_then_refused(page: Page, tmp_path: Path) -> None:
    files = pairs.write_pair("mlp", tmp_path)
    page.get_by_role("button", name="Open files on this machine").click()
    for label, path in (("Language model file", files.model), ("Projector file (mmproj)", files.projector)):
        page.get_by_label(label).fill(str(path))
        page.get_by_label(label).press("Enter")
    page.get_by_role("button", name="Open pair").click()
    expect(page.get_by_text("only in the folders that the operator allowed")).to_be_visible()


def test_page_when_a_file_name_holds_markup_then_the_message_shows_it_as_text(page: Page, tmp_path: Path) -> None:
    evil = tmp_path / "<img src=x onerror=alert(1)>.png"
    evil.write_bytes(b"no image")
    page.locator("#vp-image").get_by_role("button", name="Clear").click()
    page.locator("#vp-image input[type=file]").set_input_files(str(evil))
    page.wait_for_timeout(500)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("is not an image that can be read here")).to_be_visible()
    assert page.locator("img[src=x]").count() == 0


def test_page_when_narrow_then_nothing_sticks_out(browser: Browser, app: WebApp) -> None:
    phone = browser.new_page(viewport={"width": 390, "height": 844})
    phone.goto(app.url)
    expect(phone.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)
    phone.get_by_role("button", name="Run").click()
    expect(phone.locator(".vp-say")).to_contain_text("answer exactly like F16", timeout=60_000)
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390
    phone.close()


def memory(app: WebApp, client: Client | None = None) -> dict[str, Any]:
    asked = client or Client(app.url, verbose=False)
    found: dict[str, Any] = asked.predict(api_name="/memory")
    if client is None:
        asked.close()
    return found
