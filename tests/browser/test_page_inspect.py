"""The inspect page in a real browser: with reports made by hand, and on the app itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import gradio as gr
import pytest
from playwright.sync_api import Page, expect

from playground.web import assets
from playground.web import page as pages
from playground.web.inspect_page import InspectPage
from testkit.memory_reports import HandMade, h100
from testkit.webapp import WebApp


@dataclass
class Served:
    url: str
    machine: HandMade
    may: bool = True


@pytest.fixture(scope="module")
def one_for_all() -> Iterator[Served]:
    machine = HandMade(())
    served = Served("", machine)
    shown = InspectPage(machine, machine, lambda name: served.may)
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.HTML(
            html_template=f'<div id="vp-inspect">{shown.page()}</div>',
            js_on_load=assets.loader("inspect.js"),
            apply_default_css=False,
            server_functions=shown.functions(),
        )
    _, served.url, _ = demo.launch(
        theme=pages.theme(), css_paths=pages.CSS, footer_links=[], run_history=False, ssr_mode=False,
        prevent_thread_lock=True, quiet=True, app_kwargs={"routes": assets.routes()},
    )  # fmt: skip
    yield served
    demo.close()


@pytest.fixture
def served(one_for_all: Served) -> Served:
    one_for_all.machine.history = h100(60)
    one_for_all.may = True
    return one_for_all


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#vp-inspect[data-ready]")).to_be_visible(timeout=20_000)


def polled(page: Page, times: int) -> None:
    """So many answers of the server have come since."""
    for _ in range(times):
        with page.expect_response(re.compile("component_server")):
            pass


def next_second(machine: HandMade) -> None:
    now = machine.history[-1]
    machine.history = (*machine.history, replace(now, time=now.time + 1))


def test_buttons_when_an_operator_uses_the_keyboard_then_focus_stays_and_the_handle_changes(
    served: Served, opened: Page
) -> None:
    open_page(opened, served.url)
    row = opened.locator("tr[data-handle='SmolVLM-500M-Q8_0']")
    button = row.get_by_role("button", name="Pin")
    button.focus()
    opened.keyboard.press("Enter")
    expect(row.locator(".vp-pinned")).to_be_visible()
    assert served.machine.pinned == [("SmolVLM-500M-Q8_0", True)]
    next_second(served.machine)
    polled(opened, 2)  # the first may have been under way
    expect(row.get_by_role("button", name="Unpin")).to_be_focused()
    expect(
        opened.locator("tr[data-handle='Qwen2.5-VL-7B-Q4_K_M']").get_by_role("button", name="Unload")
    ).to_be_disabled()
    row.get_by_role("button", name="Unload").click()
    expect(row).to_have_count(0)


def test_buttons_when_the_handle_was_leased_meanwhile_then_the_page_says_why_not(served: Served, opened: Page) -> None:
    open_page(opened, served.url)
    row = opened.locator("tr[data-handle='SmolVLM-500M-Q8_0']")
    expect(row.get_by_role("button", name="Unload")).to_be_enabled()
    now = served.machine.history[-1]
    leased = tuple(replace(w, leases=1) for w in now.workers)
    # of the same moment: not drawn
    served.machine.history = (*served.machine.history[:-1], replace(now, workers=leased))
    row.get_by_role("button", name="Unload").click()
    expect(opened.locator("[data-region=toast]")).to_contain_text("It is in use.")
    expect(row).to_be_visible()


def test_page_when_the_visitor_may_only_look_then_no_buttons(served: Served, opened: Page) -> None:
    served.may = False
    open_page(opened, served.url)
    expect(opened.locator("#vp-inspect button")).to_have_count(0)


def test_page_when_hidden_then_it_asks_for_nothing(served: Served, opened: Page) -> None:
    requests: list[str] = []
    open_page(opened, served.url)
    opened.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'hidden'})")
    opened.wait_for_timeout(300)  # a poll that is under way
    opened.on("request", lambda request: requests.append(request.url))
    opened.wait_for_timeout(2500)
    assert [url for url in requests if "component_server" in url] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1366, 390])
def test_page_when_narrow_or_dark_then_nothing_leaves_it_and_text_can_be_read(
    served: Served, opened: Page, width: int, scheme: str
) -> None:
    opened.set_viewport_size({"width": width, "height": 844})
    opened.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    open_page(opened, served.url)
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    faint = opened.evaluate(_FAINT)
    assert faint == []


# Texts of the page whose contrast with what is behind them is below 4.5:1 (WCAG AA).
_FAINT = """() => {
  const channels = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const behind = node => {
    for (let at = node; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found[3] > 0.9) return found;
    }
    return [255, 255, 255, 1];
  };
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  return [...document.querySelectorAll("#vp-inspect *")].filter(node => [...node.childNodes].some(c => c.nodeType === 3 && c.data.trim()))
    .filter(node => !node.closest("svg, .vp-budget, .vp-sr, :disabled") && node.getClientRects().length)
    .map(node => { const [a, b] = [luminance(channels(getComputedStyle(node).color)), luminance(behind(node))].sort((x, y) => y - x); return [(a + .05) / (b + .05), node.textContent.trim().slice(0, 40)]; })
    .filter(([ratio]) => ratio < 4.5);
}"""  # noqa: E501  a script


# --- the app itself --------------------------------------------------------------------------------------------------


def test_app_when_a_cell_was_run_then_the_page_shows_its_handles_in_the_chart_and_the_table(
    page: Page, app: WebApp
) -> None:
    page.get_by_role("button", name="Run cell").first.click()
    expect(page.locator(".vp-pane.vp-done").first).to_be_visible(timeout=60_000)
    expect(page.locator(".vp-ledger").first).to_be_attached(timeout=60_000)
    page.locator(".vp-memory").click()
    expect(page).to_have_url(re.compile("/inspect$"))
    expect(page.locator("#vp-inspect[data-ready]")).to_be_visible(timeout=20_000)
    expect(page.locator("nav [aria-current=page]")).to_have_text("Inspect")
    expect(page.locator("tr[data-handle]").first).to_be_visible(timeout=10_000)
    expect(page.locator("tr[data-handle] th").nth(1)).to_be_visible()
    expect(page.locator(".vp-box path").first).to_be_attached()
    forecasts = page.locator("tr[data-handle] td:nth-child(8)")
    expect(forecasts.filter(has_text=re.compile(r"^\s*[\d.]+ [MG]iB")).first).to_be_visible()


def test_app_when_a_handle_is_pinned_and_unloaded_then_the_pool_did_so(page: Page, app: WebApp) -> None:
    page.get_by_role("button", name="Run cell").first.click()
    expect(page.locator(".vp-pane.vp-done").first).to_be_visible(timeout=60_000)
    expect(page.locator(".vp-cell.vp-running")).to_have_count(0, timeout=60_000)
    page.goto(f"{app.url.rstrip('/')}/inspect")
    id = page.locator("tr[data-handle]", has_text="projector").first.get_attribute("data-handle")
    row = page.locator(f"tr[data-handle='{id}']")
    row.get_by_role("button", name="Pin").click()
    expect(row.locator(".vp-pinned")).to_be_visible()
    polled(page, 3)  # the monitor's own samples say so too
    expect(row.locator(".vp-pinned")).to_be_visible()
    row.get_by_role("button", name="Unpin").click()
    expect(row.locator(".vp-pinned")).to_have_count(0)
    row.get_by_role("button", name="Unload").click()
    expect(row).to_have_count(0)


def test_results_when_sorted_and_filtered_then_rows_of_all_documents_and_a_strangers_name_is_text(
    opened: Page, app: WebApp
) -> None:
    opened.goto(f"{app.url.rstrip('/')}/results")
    rows = opened.locator("#vp-results tbody tr")
    expect(rows).to_have_count(10)
    problems = opened.locator("#vp-results .vp-problems li").all_text_contents()
    assert [words.partition(" ")[0] for words in problems] == ["c.results.json", "d.results.json", "1"]
    expect(opened.locator("#vp-results svg circle")).to_have_count(8)
    opened.get_by_role("button", name="size", exact=True).click()
    assert "Q2" in (rows.first.text_content() or "")
    opened.get_by_role("searchbox").fill("q8 ben")
    expect(rows).to_have_count(1)
    assert "<b>ben</b> [31m<script>alert(1)</script>" in (rows.first.text_content() or "")
    opened.get_by_role("searchbox").fill("nothing of this")
    expect(opened.locator("#vp-results .vp-empty")).to_have_text("No row has all of these words.")
