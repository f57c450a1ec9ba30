"""The ship card's file, opened in a browser without the app."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Request, expect

from playground.rendering import card_view as page
from testkit.ship_cards import LADDER, card_of


def test_html_when_opened_offline_and_without_scripts_then_shows_the_recommended_one(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / "card.html"
    path.write_bytes(page.write("html", card_of(*LADDER)))
    context = browser.new_context(offline=True, java_script_enabled=False, viewport={"width": 1000, "height": 900})
    shown = context.new_page()
    requests: list[Request] = []
    shown.on("request", lambda request: requests.append(request))  # noqa: PLW0108  playwright marks the function
    shown.goto(path.as_uri())
    expect(shown.locator(".vp-row-ship th")).to_have_text("→ Q4")
    expect(shown.locator(".vp-row-ship")).to_contain_text("kept")
    expect(shown.locator("tbody tr").last).to_contain_text(
        "60 of 150 answers changed, at least 32.1% would (95 %); 5% are accepted"
    )
    expect(shown.locator(".vp-reasons li").first).to_have_text(
        "Q4 is the smallest of the 3 that pass: 5.0 MB, 31% of the reference pair's size."
    )
    expect(shown.locator("svg .vp-recommended text")).to_have_text("Q4")
    expect(shown.locator("svg").first.locator("circle")).to_have_count(5)
    expect(shown.get_by_text("python -m playground card")).to_be_visible()  # printed, it is unfolded
    expect(shown.get_by_text("Q4-sha")).to_be_visible()
    assert shown.locator("button, script").count() == 0
    assert [request.url for request in requests] == [path.as_uri()]
    at = (
        shown.locator("svg")
        .first.locator("circle")
        .evaluate_all("found => found.map(one => one.getBoundingClientRect().right)")
    )
    assert max(at) <= 1000
    context.close()
