"""Makes the screenshots of the README: `make screenshots`. Runs a first visitor's cells, and looks."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import PIL.Image
from playwright.sync_api import Page, sync_playwright

from testkit.browser import tick
from testkit.webapp import running

DOCS = Path(__file__).parent / "images"
REST = Path(__file__).parents[1] / "build/screenshots"  # to look at; the repository stays small
SHOTS = [
    (1366, 900, "light", DOCS),
    (1366, 900, "dark", REST),
    (390, 844, "light", REST),
    (390, 844, "dark", DOCS),
]


_SHOWN_PIXELS = 1500


def save(png: bytes, path: Path) -> None:
    """In a palette that keeps the few accents too: a quarter of the size. What the README shows is its upper part."""
    shot = PIL.Image.open(io.BytesIO(png)).convert("RGB")
    if path.parent == DOCS:
        shot = shot.crop((0, 0, shot.width, min(shot.height, _SHOWN_PIXELS)))
    palette = shot.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, kmeans=2, dither=PIL.Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    palette.save(path, optimize=True)


def measure(page: Page) -> None:
    """The grid of both halves, over 24 questions."""
    page.get_by_text("Notebooks", exact=True).click()
    page.get_by_role("button", name="New notebook").click()
    page.get_by_role("button", name="+ Measure").click()
    cell = page.locator(".vp-is-compare.vp-active", has=page.locator("[data-q]"))
    cell.get_by_label("how many").fill("24")
    cell.get_by_label("Right or wrong").check()
    tick(page, "F16", "Q4_K_M", "Q2_K")
    for name in ("Q4_0", "Q2_K"):
        page.locator("#vp-projectors").get_by_label(name).check()
    page.wait_for_timeout(1000)
    cell.get_by_role("button", name="Run cell").click()
    cell.locator(".vp-grid").wait_for(timeout=180_000)
    page.evaluate("document.activeElement.blur()")
    save(cell.screenshot(), DOCS / "measure-1366-light.png")


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as work,
        running(Path(work) / "cache", Path(work) / "log") as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for width, height, scheme, folder in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(app.url)
            page.get_by_label("Q4_K_M · 2.3 MB").wait_for(state="attached", timeout=60_000)
            page.get_by_role("button", name="Run all").click()
            page.locator(".vp-cell.vp-running").wait_for()
            page.locator(".vp-running, .vp-queued").first.wait_for(state="detached", timeout=60_000)
            page.locator(".vp-parting summary").first.click()
            page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
            page.locator(".vp-panes").first.evaluate("panes => panes.scrollTo(0, 0)")  # a phone's row of panes
            page.wait_for_timeout(2500)  # the memory strip's next reading
            # Cells that were never on the screen are not laid out: a whole page needs them all.
            page.add_style_tag(content=".vp-cell { content-visibility: visible !important }")
            save(page.screenshot(full_page=True), folder / f"page-{width}-{scheme}.png")
            with page.expect_download() as report:
                page.get_by_text("Export", exact=True).first.click()
                page.get_by_role("menuitem", name="HTML report").first.click()
            if (width, scheme) == (1366, "light"):
                measure(page)
            report.value.save_as(f"{work}/report.html")
            page.goto(f"{app.url.rstrip('/')}/inspect")
            page.locator("tr[data-handle]").first.wait_for()
            save(page.screenshot(full_page=True), folder / f"inspect-{width}-{scheme}.png")
            context.close()
            paper = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            paper.goto(f"file://{work}/report.html")
            save(paper.screenshot(full_page=True), REST / f"report-{width}-{scheme}.png")
            paper.close()
        browser.close()


if __name__ == "__main__":
    main()
