"""The models page in a real browser, against a Hub of the tests' own."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from playground.models.gguf.header import read_header
from playground.settings import Settings
from playground.values.files import Half
from playground.web.models_page import ModelActions
from playground.wiring import open_parts
from testkit import pairs
from testkit.hub_server import TOKEN, HubRepo, HubServer, hub_server
from testkit.webapp import WebApp, running


@pytest.fixture(scope="module")
def hubby(tmp_path_factory: pytest.TempPathFactory, derived: Path) -> dict[str, Path]:
    """A random pair of 16 bits, and two quantizations of its language model, by name."""
    folder = tmp_path_factory.mktemp("hubby")
    pair = pairs.write_llava(folder, n_layer=4, n_ff=1024, name="hubby", seed=7)
    files = {"hubby-F16.gguf": pair.model, "mmproj-hubby-F16.gguf": pair.projector}
    with open_parts(Settings(cache_dir=derived), any_folder=True) as parts:
        for quantization in ("Q8_0", "Q4_0"):
            target = folder / f"hubby-{quantization}.gguf"
            parts.quantize(pair.model, target, quantization, half=Half.MODEL)
            files[target.name] = target
    return files


@pytest.fixture(scope="module")
def hub(hubby: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    wide = pairs.write_llava(tmp_path_factory.mktemp("wide"), n_embd=512, n_head=8, n_head_kv=4, name="wide")
    header = read_header(hubby["hubby-F16.gguf"])
    read = {"architecture": "llama", "total": header.n_params}
    mixed = {"hubby-F16.gguf": hubby["hubby-F16.gguf"], "mmproj-wide-F16.gguf": wide.projector}
    swapped = {"mmproj-x-F16.gguf": hubby["hubby-F16.gguf"], "x-F16.gguf": hubby["mmproj-hubby-F16.gguf"]}
    repos = [
        HubRepo("acme/hubby-GGUF", {**hubby, "imatrix.gguf": b"GGUF", "README.md": b"hubby"}, gguf=read),
        HubRepo("acme/mixed-GGUF", dict(mixed), gguf=read),
        HubRepo("acme/swapped-GGUF", dict(swapped), gguf=read),
        HubRepo("acme/gated-GGUF", dict(hubby), gguf=read, gated=True),
        HubRepo("ggml-org/granite-docling-258M-GGUF", {"granite-docling-258M-F16.gguf": b"GGUF"}, downloads=12_345),
    ]
    with hub_server(repos) as server:
        yield server


@contextmanager
def served(hub: HubServer, folder: Path, derived: Path, **more: str) -> Iterator[WebApp]:
    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "derived").exists():
        (cache / "derived").symlink_to(derived / "derived")
    log = folder / f"log-{time.monotonic_ns()}.txt"
    with running(cache, log, more=hub.environment(folder / "hf") | more) as app:
        yield app


def models_page(page: Page, app: WebApp) -> None:
    page.goto(f"{app.url}models" if app.url.endswith("/") else f"{app.url}/models")
    expect(page.locator("#vp-hub[data-ready]")).to_be_visible(timeout=20_000)


def find(page: Page, text: str) -> None:
    page.get_by_placeholder("Search").fill(text)
    page.get_by_role("button", name="Search", exact=True).click()


def tick(page: Page, name: str) -> Locator:
    box = page.locator(f".vp-repo input[value='{name}']")
    box.check()
    return box


def download(page: Page, name: str) -> Locator:
    return page.locator(".vp-downloads li").filter(has=page.get_by_text(name, exact=True))


def test_three_quantizations_when_the_app_is_killed_midway_then_resumed_and_compared(
    hub: HubServer, hubby: dict[str, Path], derived: Path, tmp_path: Path, opened: Page
) -> None:
    page = opened
    with served(hub, tmp_path, derived) as app:
        models_page(page, app)
        find(page, "hubby")
        page.get_by_role("button", name="acme/hubby-GGUF").click()
        repo = page.locator(".vp-repo")
        expect(repo.locator("[data-region=findings]")).to_contain_text("This pair will work")
        expect(repo.locator("[data-fits='hubby-Q4_0.gguf']")).to_contain_text("fits, about")
        expect(repo.locator("tbody tr")).to_have_count(3)  # no imatrix, no projector among them
        for name in ("hubby-F16.gguf", "hubby-Q8_0.gguf", "hubby-Q4_0.gguf"):
            tick(page, name)
        n_bytes = sum(file.stat().st_size for file in hubby.values())
        expect(repo.locator("[data-total]")).to_have_text(f"{n_bytes / 1e6:.1f} MB to download")
        hub.behave("cdn", slow=200_000)
        page.get_by_role("button", name="Download", exact=True).click()
        expect(download(page, "hubby-F16.gguf")).to_contain_text("/s ·")  # a rate, and what is left
        os.kill(app.pid, signal.SIGKILL)
    hub.well_behaved()
    hub.forget()
    with served(hub, tmp_path, derived) as app:
        models_page(page, app)
        cut_off = page.locator(".vp-downloads li").filter(has_text="cut off")
        expect(cut_off.first).to_be_visible()
        while left := cut_off.count():
            cut_off.first.get_by_role("button", name="Resume").click()
            expect(cut_off).to_have_count(left - 1)
        for name in hubby:
            expect(page.locator("[data-region=disk]").get_by_text(name, exact=True)).to_be_visible(timeout=20_000)
        again = [seen for seen in hub.seen("GET", "/hubby-F16", cdn=True) if seen.range]
        assert all(not seen.range.startswith("bytes=0-") for seen in again if seen.range)
        assert sum(file.stat().st_size for file in hubby.values()) > sum(
            seen.sent for seen in hub.seen("GET", cdn=True)
        )

        page.goto(app.url)
        expect(page.locator("#vp-notebook[data-ready]")).to_be_visible(timeout=20_000)
        expect(page.get_by_label("Q4_K_M · 2.3 MB")).to_be_checked(timeout=20_000)
        page.get_by_role("radio", name="hubby").check()
        for label in ("F16 ★", "Q8_0", "Q4_0"):
            expect(page.locator("#vp-models").get_by_label(label)).to_be_visible(timeout=10_000)
            page.locator("#vp-models").get_by_label(label).check()
        cell = page.locator("article.vp-active")
        expect(cell).to_contain_text("F16, Q8_0, Q4_0")
        cell.get_by_role("button", name="Run cell").click()
        expect(cell.locator(".vp-pane.vp-done")).to_have_count(3, timeout=60_000)


@pytest.fixture(scope="module")
def downloading(hub: HubServer, derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    """For tests whose downloads the others do not look at."""
    with served(hub, tmp_path_factory.mktemp("downloading"), derived) as app:
        yield app


def test_cancel_when_it_has_the_focus_then_it_keeps_it_while_the_download_goes_on(
    hub: HubServer, downloading: WebApp, opened: Page
) -> None:
    page = opened
    models_page(page, downloading)
    find(page, "acme/hubby-GGUF")
    for name in ("hubby-F16.gguf", "hubby-Q8_0.gguf"):
        tick(page, name)
    hub.behave("cdn", slow=200_000)
    page.get_by_role("button", name="Download", exact=True).click()
    row = download(page, "hubby-F16.gguf")
    cancel = row.get_by_role("button", name="Cancel")
    expect(row).to_contain_text("/s ·")
    cancel.focus()
    before = row.inner_text()
    for _ in range(2):  # two answers of the server go by
        expect(row).not_to_have_text(before, use_inner_text=True)
        before = row.inner_text()
    expect(cancel).to_be_focused()
    page.keyboard.press("Enter")
    expect(row).to_contain_text("cancelled")
    hub.well_behaved()


def test_repository_when_gated_then_says_where_to_accept_and_a_token_opens_it_and_stays_in_the_tab(
    hub: HubServer, downloading: WebApp, opened: Page
) -> None:
    page = opened
    models_page(page, downloading)
    find(page, "acme/gated-GGUF")
    expect(page.locator("[data-region=toast]")).to_contain_text(f"accept its licence at {hub.url}/acme/gated-GGUF")
    page.locator(".vp-access summary").click()
    page.locator("[data-token]").fill(TOKEN)
    find(page, "acme/gated-GGUF")
    expect(page.locator(".vp-findings, .vp-repo .vp-same").first).to_be_visible(timeout=15_000)
    tick(page, "hubby-Q4_0.gguf")
    page.get_by_role("button", name="Download", exact=True).click()
    expect(download(page, "hubby-Q4_0.gguf")).to_contain_text("done")
    assert all(TOKEN not in (seen.token or "") for seen in hub.seen(cdn=True))
    written = [path for path in downloading.log.parent.rglob("*") if path.is_file()]
    files = [path for path in written if path.stat().st_size < 50_000_000]
    assert downloading.log in files
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("acme/mixed-GGUF", "the projector writes 512 values for an image token, the model reads 256"),
        ("acme/swapped-GGUF", "The two files are swapped"),
        ("acme/nothing-GGUF", "is not on the Hub, or private"),
        ("https://example.org/acme/hubby", "is not the Hub"),
        ("../../etc/passwd", "Nothing found"),
    ],
)
def test_repository_when_it_cannot_work_then_the_page_says_why(
    shared_app: WebApp, opened: Page, repo: str, message: str
) -> None:
    models_page(opened, shared_app)
    find(opened, repo)
    expect(opened.locator("#vp-hub")).to_contain_text(message)


@pytest.fixture(scope="module")
def shared_app(hub: HubServer, derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    with served(hub, tmp_path_factory.mktemp("shared"), derived) as app:
        yield app


def test_card_when_ordered_by_downloads_then_the_hubs_number_stands_on_it_and_it_is_the_first(
    shared_app: WebApp, opened: Page
) -> None:
    page = opened
    models_page(page, shared_app)
    first = page.locator(".vp-preset").first
    expect(first).not_to_contain_text("Granite Docling")
    page.locator("[data-order]").select_option("most downloads")
    expect(first).to_contain_text("Granite Docling 258M")
    expect(first).to_contain_text("12,345 downloads · 2026-03-04")
    expect(page.locator("[data-region=toast]")).to_be_empty()


def test_pair_when_on_disk_then_it_can_be_checked_and_a_file_deleted_takes_its_variant_along(
    hub: HubServer, shared_app: WebApp, opened: Page
) -> None:
    page = opened
    models_page(page, shared_app)
    find(page, "acme/hubby-GGUF")
    for name in ("hubby-Q8_0.gguf", "hubby-Q4_0.gguf"):
        tick(page, name)
    page.get_by_role("button", name="Download", exact=True).click()
    for name in ("hubby-Q8_0.gguf", "hubby-Q4_0.gguf", "mmproj-hubby-F16.gguf"):
        expect(page.locator(f"tr[data-file='{name}']")).to_be_visible(timeout=20_000)
    expect(page.locator(".vp-repo tr", has_text="Q4_0")).to_contain_text("✓")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_disabled()
    row = page.locator("tr[data-file='hubby-Q4_0.gguf']")
    row.get_by_role("button", name="Check").click()
    inspected = page.locator(".vp-inspected")
    expect(inspected.locator("pre")).to_contain_text("<image>")  # the prompt, and where the image is
    expect(inspected.locator(".vp-ids")).to_contain_text("[image]")
    inspected.get_by_role("button", name="Look test").click()
    expect(inspected.locator("[data-look]")).to_have_text(
        "With its own picture the answer was likelier than with others on 3 of 12 questions: it reacts to pictures, "
        "but was not shown to read them.",
        timeout=30_000,
    )
    row.get_by_role("button", name="Delete").click()
    row.get_by_role("button", name=re.compile(r"Delete .* MB\?")).click()  # it asks once
    expect(row).to_have_count(0)
    expect(page.locator("[data-region=toast]")).to_contain_text("freed")
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_enabled()
    page.locator("[data-region=downloads]").get_by_role("link", name="Compare in the notebook →").click()
    expect(page.locator("article.vp-active")).to_contain_text("of hubby", timeout=30_000)
    expect(page.get_by_role("radio", name="hubby")).to_be_checked(timeout=20_000)
    expect(page.locator("#vp-models").get_by_label("Q8_0")).to_be_visible(timeout=10_000)
    expect(page.locator("#vp-models").get_by_label("Q4_0")).to_have_count(0)


def test_downloads_when_the_operator_forbids_them_then_none_can_be_asked_for(derived: Path) -> None:
    with open_parts(Settings(cache_dir=derived, downloads=False), any_folder=True) as parts:
        actions = ModelActions(parts)
        assert "does not allow downloads" in actions.page()
        where = {"repo": "a/b", "commit": "c" * 40, "projector": "p", "projector_repo": "a/b", "projector_commit": "c"}
        for function, fields in {
            "search": {"text": "x"},
            "repo": {"text": "a/b"},
            "download": {**where, "models": ["m"]},
        }.items():
            called = next(action for action in actions.functions() if action.__name__ == function)
            assert "does not allow downloads" in called(fields)["error"]
