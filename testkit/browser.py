"""What a visitor does on the page, and what the page then shows; for a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    Dialog,
    Error,
    Page,
    Request,
    StorageState,
    ViewportSize,
    expect,
)

TOKEN = "vlm-quant-playground"  # under which a browser keeps what makes its notebooks its own


def chromium() -> str | None:
    """The path of the browser that the tests use."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)


def ready(page: Page) -> None:
    """The notebook is open, and its first cell's settings stand at the side."""
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
    expect(page.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)


def cell(page: Page, number: int = 0) -> Any:
    return page.locator(".vp-is-compare").nth(number)


def pane(page: Page, label: str, number: int = 0) -> Any:
    return cell(page, number).get_by_role("group", name=label, exact=True)


def prompt(page: Page, number: int = 0) -> Any:
    return cell(page, number).get_by_label("Prompt", exact=True)


def run(page: Page, number: int = 0) -> None:
    cell(page, number).get_by_role("button", name="Run cell").click()


def ended(page: Page) -> None:
    expect(page.locator(".vp-running, .vp-queued")).to_have_count(0, timeout=60_000)


def panel(page: Page) -> Any:
    """The settings of the marked cell, when they are there."""
    expect(page.locator("#vp-side:not([inert])")).to_be_visible()
    return page.locator("#vp-side")


def tick(page: Page, *labels: str) -> None:
    """Tick these language models of the marked cell and no others."""
    for option in panel(page).locator("#vp-models").get_by_role("checkbox").all():
        name = option.locator("xpath=..").inner_text()
        option.set_checked(name.split(" ")[0] in labels)


def tick_only(page: Page, *labels: str) -> None:
    """Tick language models of the marked cell, and wait until the cell says so."""
    tick(page, *labels)
    shown = ", ".join(labels) or "no variant ticked"
    expect(page.locator(".vp-active .vp-chip").first).to_have_text(shown)


_LEFT: WeakKeyDictionary[Browser, list[Page]] = WeakKeyDictionary()  # pages that the next visitor takes
_SCREEN: ViewportSize = {"width": 1366, "height": 900}


@contextmanager
def blank(browser: Browser, viewport: ViewportSize = _SCREEN) -> Iterator[Page]:
    """An empty page in a browser that knows nothing of an app. It is one that somebody has left, where there is one: it
    has compiled Gradio's scripts, so that a load takes 1.1 s of a processor, and 3.2 s on a page of a new context."""
    left = _LEFT.setdefault(browser, [])
    page = left.pop() if left else browser.new_context().new_page()
    page.set_viewport_size(viewport)
    try:
        yield page
    except BaseException:
        page.context.close()
        raise
    if page.is_closed():
        page.context.close()
        return
    for other in page.context.pages:
        if other is not page:
            other.close()
    page.goto("about:blank")
    page.emulate_media(media="null", color_scheme="null")
    page.context.clear_permissions()
    page.context.clear_cookies()
    session = page.context.new_cdp_session(page)
    session.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "local_storage"})
    session.detach()
    left.append(page)


@contextmanager
def visitor(
    browser: Browser, url: str, *, viewport: ViewportSize = _SCREEN, token: str | None = None
) -> Iterator[Page]:
    """Somebody who was never here, or who has the notebooks of this token."""
    with blank(browser, viewport) as page:
        if token:
            kept: StorageState = {
                "cookies": [],
                "origins": [{"origin": _origin(url), "localStorage": [{"name": TOKEN, "value": token}]}],
            }
            page.context.set_storage_state(kept)
        with _watched(page, url):
            yield page


@contextmanager
def tab(context: BrowserContext, url: str) -> Iterator[Page]:
    """Another tab of the same visitor."""
    page = context.new_page()
    with _watched(page, url):
        yield page
    page.close()


@contextmanager
def _watched(page: Page, url: str) -> Iterator[None]:
    """The app, opened. What its page asks of other addresses, its script's errors and alerts fail the test."""
    wrong: list[str] = []
    own = re.compile(rf"{re.escape(_origin(url))}/|data:|blob:")

    def on_error(error: Error) -> None:
        wrong.append(str(error))

    def on_request(request: Request) -> None:
        if not own.match(request.url):
            wrong.append(request.url)

    def on_dialog(dialog: Dialog) -> None:
        if not dialog.message.startswith("Delete this notebook"):
            wrong.append(dialog.message)
        dialog.accept()

    page.on("pageerror", on_error)
    page.on("request", on_request)
    page.on("dialog", on_dialog)
    page.goto(url)
    opened(page)
    yield
    page.remove_listener("pageerror", on_error)
    page.remove_listener("request", on_request)
    page.remove_listener("dialog", on_dialog)
    assert wrong == []


def _origin(url: str) -> str:
    address = urlsplit(url)
    return f"{address.scheme}://{address.netloc}"


def opened(page: Page) -> None:
    expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)


def reload(page: Page) -> None:
    page.reload()
    expect(page.locator("#vp-notebook[data-filled]")).to_be_visible(timeout=20_000)


def saved(page: Page) -> None:
    expect(page.locator("[data-saved]")).to_have_text(re.compile("^saved"))


def menu(of: Any, *what: str) -> None:
    for name in what:
        of.locator("summary[aria-label^=More]").click()
        of.get_by_role("menuitem", name=name, exact=True).click()


def top_menu(page: Page, name: str, what: str) -> None:
    page.locator(".vp-actions summary", has_text=name).click()
    page.locator(".vp-actions").get_by_role("menuitem" if name == "Export" else "button", name=what).click()


def told(page: Page, text: str) -> None:
    expect(page.locator(".vp-toast", has_text=text)).to_be_visible()


_AXE = {
    "resultTypes": ["violations"],
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    },
}


def violations(page: Page) -> list[str]:
    """What axe-core finds on the page as it is now: WCAG 2.2 A and AA, and its best practices."""
    rules = Axe().run(page, options=_AXE).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in rules for node in rule["nodes"]]
