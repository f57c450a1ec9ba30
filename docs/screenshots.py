"""Makes the screenshots of the README: `make screenshots`. Starts the app, runs the first cell, and looks."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.webapp import running

DOCS = Path(__file__).parent
SHOTS = [(1366, 900, "light"), (1366, 900, "dark"), (390, 844, "light"), (390, 844, "dark")]


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder) / "cache", Path(folder) / "log") as app,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for width, height, scheme in SHOTS:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            page = context.new_page()
            page.goto(app.url)
            page.get_by_label("Q4_K_M · 2.9 MB").wait_for(timeout=60_000)
            page.get_by_role("button", name="▶ Run").click()
            page.locator(".vp-say:not(:empty)").wait_for(timeout=60_000)
            page.wait_for_timeout(2500)  # the memory strip's next reading
            page.screenshot(path=DOCS / f"page-{width}-{scheme}.png", full_page=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
