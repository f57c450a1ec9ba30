"""What the page adds: its start, and the way from a click to the first token on the screen."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

from playwright.sync_api import sync_playwright

from testkit.browser import tick
from testkit.webapp import running

_ROUNDS = 7

# Clicks Run and resolves with the milliseconds until a pane writes, in the browser's own clock.
_CLICK_TO_TEXT = """() => new Promise(resolve => {
    const begun = performance.now();
    const watcher = new MutationObserver(() => {
        const pane = document.querySelector(".vp-pane[data-state=writing]");
        if (pane?.querySelector(".vp-text")?.textContent) {
            watcher.disconnect();
            resolve(performance.now() - begun);
        }
    });
    watcher.observe(document.getElementById("vp-notebook"), {
        subtree: true, childList: true, characterData: true, attributes: true,
    });
    document.querySelector(".vp-is-compare [data-do=run]").click();
})"""

_SHIFTS = """window.shifts = 0;
new PerformanceObserver(list => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts += entry.value;
}).observe({type: "layout-shift", buffered: true});"""

_FIRST_PAINT = "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"


def measure(folder: Path) -> dict[str, float]:
    """Runs the embedded pair's F16 with warm handles; the engine's own time is the pane's time to first token."""
    with running(folder / "cache", folder / "first.log"):
        pass  # the first start makes the quantized variants
    with running(folder / "cache", folder / "log.txt") as app, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.add_init_script(_SHIFTS)
        foreign: list[str] = []
        page.on("request", lambda r: None if r.url.startswith((app.url, "data:", "blob:")) else foreign.append(r.url))
        page.goto(app.url)
        page.wait_for_selector("#vp-notebook[data-ready]", timeout=30_000)
        page.get_by_label("Q4_K_M · 2.3 MB").wait_for()
        page.wait_for_timeout(1000)
        first_paint_s, layout_shift = page.evaluate(_FIRST_PAINT) / 1000, page.evaluate("window.shifts")
        tick(page, "F16")
        overheads = []
        for _ in range(_ROUNDS):
            shown_s = page.evaluate(_CLICK_TO_TEXT) / 1000
            page.locator(".vp-pane[data-state=done]").wait_for()
            page.wait_for_function("!document.querySelector('.vp-running')")
            engine_s = float(page.locator(".vp-pane").get_attribute("data-ttft") or "nan")
            overheads.append(shown_s - engine_s)
            page.wait_for_timeout(300)
        browser.close()
    return {
        "page_start_s": app.start_s,
        "first_paint_s": first_paint_s,
        "layout_shift": layout_shift,
        "requests_to_other_hosts": float(len(foreign)),
        "click_to_first_token_overhead_s": statistics.median(overheads[1:]),
        "click_to_first_token_overhead_max_s": max(overheads[1:]),
    }
