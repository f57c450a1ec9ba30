"""A page whose connections are all cut every 15 seconds: what it loses of a run that goes on meanwhile."""

from __future__ import annotations

import os
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from testkit import pairs
from testkit.browser import chromium, opened
from testkit.cutting_proxy import cutting
from testkit.webapp import running

_EVERY_S = 15.0
_TOKENS = 500  # of an answer: some seconds

_TEXT = "document.querySelector('.vp-text')?.textContent.trim() ?? ''"
_OVER = "!document.querySelector('.vp-running, .vp-queued') && !!document.querySelector('.vp-pane')"


def measure(folder: Path, minutes: float) -> dict[str, float]:
    """Asks one question again and again, through a proxy that cuts. The page in the end is held against the server."""
    endless = pairs.write_llava(folder, n_embd=768, n_head=12, n_head_kv=4, n_layer=8, n_ff=2048, name="endless")
    with (
        running(folder / "cache", folder / "log.txt", model_dirs=(folder,)) as app,
        cutting(app.url) as proxy,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=chromium() or os.environ.get("CHROMIUM"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.goto(proxy.url)
        opened(page)
        _open(page, endless)
        page.evaluate("window.stays = true")
        cuts = runs = lost_runs = lost_texts = reloads = 0
        cut_at, until = time.monotonic() + _EVERY_S, time.monotonic() + 60 * minutes
        while time.monotonic() < until:
            page.locator(".vp-is-compare [data-do=run]").nth(1).click()  # the new cell of the pair
            page.locator(".vp-running").first.wait_for()
            runs += 1
            while not page.evaluate(_OVER):
                if time.monotonic() > cut_at:
                    proxy.cut()
                    cuts, cut_at = cuts + 1, time.monotonic() + _EVERY_S
                page.wait_for_timeout(100)
            lost_runs += page.locator(".vp-pane[data-state=done]").count() != 1
            shown = page.evaluate(_TEXT)
            reloads += not page.evaluate("window.stays === true")
            page.reload()
            opened(page)
            page.locator(".vp-pane").first.wait_for()
            lost_texts += page.evaluate(_TEXT) != shown
            page.evaluate("window.stays = true")
        browser.close()
    return {
        "cuts": cuts,
        "runs": runs,
        "runs_lost": lost_runs,
        "texts_that_differ_from_the_server's": lost_texts,
        "reloads_by_a_cut": reloads,
    }


def _open(page: Page, pair: pairs.PairFiles) -> None:
    page.get_by_label("Q4_K_M · 2.3 MB").wait_for()
    page.get_by_role("button", name="+ Add a model").click()
    for label, path in (("Language model file", pair.model), ("Projector file (mmproj)", pair.projector)):
        page.get_by_label(label).fill(str(path))
        page.get_by_label(label).press("Enter")
    page.get_by_role("button", name="Open pair").click()
    page.get_by_label("F16 ★ · 102.3 MB").wait_for()
    page.get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Max tokens").fill(str(_TOKENS))
    page.locator(".vp-active .vp-chips", has_text=f"max {_TOKENS}").wait_for()
