"""Makes the screenshots of the README: `make screenshots`. Starts the app, runs the first cell, and looks."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import PIL.Image
from playwright.sync_api import sync_playwright

from tests.webapp import running

DOCS = Path(__file__).parent
REST = DOCS.parent / "build/screenshots"  # to look at; the repository stays small
SHOTS = [
    (1366, 900, "light", DOCS),
    (1366, 900, "dark", REST),
    (390, 844, "light", REST),
    (390, 844, "dark", DOCS),
]


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
            page.get_by_label("Q4_K_M · 2.3 MB").wait_for(timeout=60_000)
            page.get_by_role("button", name="▶ Run").click()
            page.locator(".vp-say:not(:empty)").wait_for(timeout=60_000)
            page.wait_for_timeout(2500)  # the memory strip's next reading
            shot = PIL.Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            # A palette that keeps the few accents too: a quarter of the size.
            palette = shot.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, kmeans=2, dither=PIL.Image.Dither.NONE)
            folder.mkdir(parents=True, exist_ok=True)
            palette.save(folder / f"page-{width}-{scheme}.png", optimize=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
