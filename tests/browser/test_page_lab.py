"""The lab on the page, in a real Chromium: a scan with a recipe, the ship card's files, and quantizing there."""

from __future__ import annotations

import json
import re
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from playwright.sync_api import Browser, Page, expect

from playground.measuring import result_documents
from playground.measuring.ship_card import ShipCard
from playground.models.presets import data_folder
from testkit import endpoint_server, pairs
from testkit.browser import ended, menu, opened, panel, ready, reload, saved, tick_only, told, top_menu, visitor
from testkit.webapp import WebApp, running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]  # scans; alone a minute at most


@pytest.fixture(scope="module")
def cache(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "derived").symlink_to(derived / "derived")
    return folder


@pytest.fixture(scope="module")
def app(cache: Path, few: pairs.PairFiles) -> Iterator[WebApp]:
    """With a server elsewhere, which is called box."""
    with endpoint_server.serving(endpoint_server.says("a ", "cat")) as box:
        ends = json.dumps([{"name": "box", "url": f"{box.url}/v1", "model": endpoint_server.MODEL}])
        more = {"PLAYGROUND_ENDPOINTS": ends}
        with running(cache, cache / "log.txt", model_dirs=(few.model.parent,), more=more) as started:
            yield started


@pytest.fixture
def page(browser: Browser, app: WebApp) -> Iterator[Page]:
    """A first visitor's page."""
    with visitor(browser, app.url, viewport={"width": 1366, "height": 1000}) as first:
        ready(first)
        yield first


def open_few(page: Page, few: pairs.PairFiles) -> None:
    """For the selected cell."""
    panel(page).get_by_role("button", name="+ Add a model").click()
    for label, path in (("Language model file", few.model), ("Projector file (mmproj)", few.projector)):
        page.get_by_label(label).fill(str(path))
        page.get_by_label(label).press("Enter")
    page.get_by_role("button", name="Open pair").click()
    expect(page.locator("#vp-models").get_by_label("F16 ★")).to_be_checked()
    expect(page.locator(".vp-active .vp-chip").first).to_have_text("F16")


def measure(page: Page, **fields: str) -> Any:
    """A new measurement of 4 questions and short answers."""
    page.get_by_role("button", name="+ Measure").click()
    active = page.locator(".vp-is-compare.vp-active")
    for label, value in {"how many": "4", "max tokens": "16", **fields}.items():
        active.get_by_label(label).fill(value)
    active.get_by_label("Does it use the image?").uncheck()
    active.get_by_label("Where bits can be saved (slow)").check()
    return active


def run(cell: Any) -> None:
    cell.get_by_role("button", name="Run cell").click()


def nothing_left(cache: Path) -> None:
    """Of what a scan writes while it runs; a run that was stopped may go on for a moment."""
    deadline = time.monotonic() + 20
    while left := [path.name for path in (cache / "measured").glob("scratch-*")]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_scan_when_run_with_a_limit_then_a_ranking_and_a_recipe_that_can_be_ticked(
    page: Page, cache: Path, few: pairs.PairFiles
) -> None:
    open_few(page, few)
    cell = measure(page)
    cell.get_by_label("How far answers move (KL)").uncheck()
    cell.get_by_label("size of both files ≤ MB").fill("0.8")
    run(cell)
    expect(cell.locator("progress")).to_be_visible(timeout=20_000)
    expect(cell.locator(".vp-sensitivity")).to_be_visible(timeout=300_000)
    groups = cell.locator(".vp-groups tbody th")
    assert set(groups.all_text_contents()[:2]) == {"ffn_down", "v.ffn_down"}
    expect(cell.locator(".vp-groups thead th")).to_have_text(
        ["group", "half", "size", "q8_0", "q6_K", "q5_K", "q4_K", "q3_K", "q2_K", "cost per MB saved"]
    )
    costs = [float(cost) for cost in cell.locator(".vp-groups tbody tr").first.locator("td").all_text_contents()[2:8]]
    assert costs == sorted(costs)
    assert costs[0] > 0
    expect(cell.locator(".vp-groups tbody tr").last.locator("td").nth(3)).to_have_attribute("title", "no smaller")
    findings, price = cell.locator(".vp-sensitivity .vp-say"), r"\d+\.\d\d nats a token for each MB saved at q2_K\."
    expect(findings.first).to_have_text(
        re.compile(
            rf"^In the language model, ffn_down costs most: {price} In the projector, v\.ffn_down costs most: {price}$"
        )
    )
    expect(findings.nth(1)).to_have_text(
        re.compile(
            r"^The recipe \(0\.8 MB\) drifts by 0\.\d+ nats a token on the questions kept aside; rare questions can "
            r"dominate a mean, so that is no bound\. No uniform pair is as small; the next, Q4_K_M \+ mmproj-Q2_K "
            r"\(0\.8 MB\), drifts by 0\.\d+: the recipe lies closer to the reference on [012] of 2 questions, "
            r"no difference that these questions can show\.$"
        )
    )
    expect(cell.locator(".vp-row-recipe:not(.vp-row-ship) th")).to_have_text("recipe")
    cell.get_by_text("the recipe, and llama-quantize's lines").click()
    expect(cell.locator("pre").first).to_contain_text('name = "few in 0.8 MB"')
    expect(cell.locator("pre").nth(1)).to_contain_text("llama-quantize --")
    names = {path.name for path in (cache / "made").glob("*few*-recipe-*.gguf")}
    assert {name for name in names if name in cell.locator(".vp-sensitivity").text_content()} == names
    nothing_left(cache)

    new = page.locator("#vp-models, #vp-projectors").get_by_label("few in 0.8 MB")
    expect(new.first).not_to_be_checked()  # they stand at the side at once
    for box in new.all():
        box.check()
    expect(cell.locator(".vp-chip").first).to_contain_text("few in 0.8 MB")
    reload(page)
    again = page.locator(".vp-is-compare", has=page.locator("[data-q]"))
    expect(again.locator(".vp-row-recipe:not(.vp-row-ship) th")).to_have_text("recipe")
    expect(again.locator(".vp-chip").first).to_contain_text("few in 0.8 MB")
    expect(again.get_by_label("size of both files ≤ MB")).to_have_value("0.8")
    expect(again.get_by_label("Where bits can be saved (slow)")).to_be_checked()


_NONE_PASSES = (
    "None passes. Nearest: Q2_K, but not enough questions: 1 of 4 answers changed, at most 75.1% would; "
    "whether it sees the picture was not measured."
)


def test_scan_when_stopped_then_its_measurement_stays_with_a_card_whose_files_readers_get_too(
    page: Page, browser: Browser, cache: Path
) -> None:
    cell = measure(page)
    tick_only(page, "F16", "Q2_K")
    cell.get_by_label("change of answers (KL) ≤").fill("9")
    run(cell)
    expect(cell.locator(".vp-progress")).to_contain_text(" at q8_0", timeout=300_000)
    cell.get_by_role("button", name="Stop", exact=True).click()
    expect(cell.locator(".vp-runstate")).to_have_text("stopped by hand")
    expect(cell.locator(".vp-outputs")).to_contain_text("4 questions")
    expect(cell.locator(".vp-sensitivity")).to_have_count(0)
    expect(cell.locator(".vp-reasons li")).to_have_text([_NONE_PASSES])
    nothing_left(cache)
    top_menu(page, "Share", "Make a link")
    link = page.get_by_label("Link for readers").input_value()
    with visitor(browser, link) as reader:
        downloads = []
        for shown in (page, reader):
            card = shown.locator(".vp-advice")
            files = {}
            for kind in ("html", "json", "png"):
                with shown.expect_download() as download:
                    card.get_by_role("button", name=kind, exact=True).click()
                assert download.value.suggested_filename == f"ship-card.{kind}"
                files[kind] = Path(download.value.path()).read_bytes()
            shown.get_by_placeholder("your name, or none").fill("Anna")
            with shown.expect_download() as download:
                shown.get_by_role("button", name="Export results").click()
            files["results"] = Path(download.value.path()).read_bytes()
            downloads.append(files)
        assert downloads[0] == downloads[1]
        assert reader.locator(".vp-fields[inert]").count() == 3
    results = result_documents.decoded(downloads[0]["results"], "results")
    assert (results.uploader, results.questions.count, len(results.variants)) == ("Anna", 4, 2)
    ship_card = msgspec.json.decode(downloads[0]["json"], type=ShipCard)
    assert ship_card.recommended is None  # four questions show nothing
    assert ship_card.reasons == (_NONE_PASSES,)
    assert ship_card.limits.max_kl == 9
    assert ship_card.questions == 4
    assert downloads[0]["png"].startswith(b"\x89PNG\r\n")
    assert _NONE_PASSES.encode() in downloads[0]["html"]
    assert str(data_folder()).encode() not in downloads[0]["html"]

    # Deleted while it is scanned: it ends, and comes back without harm.
    run(cell)
    expect(cell.locator(".vp-progress")).to_contain_text(" at q", timeout=300_000)
    menu(cell, "Delete")
    undo = page.locator(".vp-toast").get_by_role("button", name="Undo")
    undo.focus()  # a message that somebody is at stays
    ended(page)
    nothing_left(cache)
    undo.click()
    expect(page.locator(".vp-is-compare", has=page.locator("[data-q]")).locator(".vp-runstate")).to_have_text(
        "stopped by hand"
    )


def test_scan_when_it_cannot_be_then_said_before_anything_is_measured(page: Page, tmp_path: Path) -> None:
    cell = measure(page, **{"how many": "3"})
    run(cell)
    refused = cell.locator(".vp-refused")
    expect(refused).to_have_text(re.compile("^A scan needs at least four questions"))
    ended(page)
    cell.get_by_label("how many").fill("4")
    tick_only(page, "Q8_0", "Q2_K")
    run(cell)
    expect(refused).to_have_text(re.compile("Q8_0: a scan begins with 16 or 32 bits"))
    ended(page)
    for label, value in (
        ("size of both files ≤ MB", "0"),
        ("memory ≤ MiB", "1e300"),
        ("tokens/s ≥", "-5"),
        ("change of answers (KL) ≤", "1e308"),
    ):
        cell.get_by_label(label).fill(value)
        cell.get_by_label(label).press("Tab")
        told(page, "A limit has to be a number above 0")
        page.locator(".vp-toast").get_by_role("button", name="Close").click()
        cell.get_by_label(label).fill("")
        cell.get_by_label(label).press("Tab")
        saved(page)
    rows = [{"image": "a.png", "question": question} for question in ("What?", "Where?", "Why?")]
    with zipfile.ZipFile(tmp_path / "three.zip", "w") as archive:
        archive.writestr("items.jsonl", "\n".join(json.dumps(row) for row in rows))
        archive.write(data_folder() / "tiny-vlm/evaluation/hard-62.png", "a.png")
    cell.get_by_label("or a zip of your own").set_input_files(tmp_path / "three.zip")
    expect(cell).to_contain_text("questions of three.zip")
    tick_only(page, "F16")
    run(cell)
    expect(refused).to_have_text(re.compile("^A scan needs at least four questions"))


def quantize(page: Page, quantization: str, *, exceptions: str = "", calibrate: bool = False) -> None:
    kind = page.locator("#vp-make").get_by_label("Quantization")
    kind.fill(quantization)
    kind.press("Enter")
    page.get_by_label("Tensors of another type").fill(exceptions)
    page.get_by_label("Calibrate with images").set_checked(calibrate)
    page.locator("#vp-make").get_by_role("button", name="Quantize", exact=True).click()


def sixteen_questions(folder: Path) -> Path:
    path = folder / "sixteen.zip"
    images = sorted((data_folder() / "tiny-vlm/evaluation").glob("hard-*.png"))[:16]
    rows = [{"image": image.name, "question": "Describe the image."} for image in images]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("items.jsonl", "\n".join(map(json.dumps, rows)))
        for image in images:
            archive.write(image, image.name)
    return path


def test_quantizing_when_done_on_the_page_then_checked_ticked_and_there_after_a_restart(
    page: Page, browser: Browser, cache: Path, few: pairs.PairFiles, tmp_path: Path
) -> None:
    before = set(cache.parent.rglob("*"))
    open_few(page, few)
    panel(page).get_by_role("button", name="Quantize here").click()
    expect(page.get_by_role("radio", name="Projector (mmproj)")).to_be_checked()
    files_made = page.locator("#vp-made")
    quantize(page, "Q9_9")
    expect(files_made).to_have_text("llama.cpp has no quantization called 'Q9_9'.")
    quantize(page, "Q4_0", exceptions=f"{'x' * 2000}=q99\n")
    expect(files_made).to_contain_text("ggml has no type called 'q99'")
    quantize(page, "Q4_0", exceptions="ffn_up")
    expect(files_made).to_contain_text("PATTERN=TYPE")
    quantize(page, "Q8_0", calibrate=True)  # with all questions, so that it is stopped before its end
    expect(files_made.locator("progress")).to_be_visible(timeout=20_000)
    page.locator("#vp-make").get_by_role("button", name="Stop", exact=True).click()
    expect(files_made).to_have_text("Stopped. Nothing was kept.")

    page.get_by_role("button", name="+ Measure").click()
    measurement = page.locator(".vp-is-compare.vp-active")
    measurement.get_by_label("or a zip of your own").set_input_files(sixteen_questions(tmp_path))
    expect(measurement).to_contain_text("questions of sixteen.zip")
    expect(measurement.locator(".vp-chip").first).to_have_text("F16")
    expect(page.locator("#vp-side-title")).to_contain_text("a measurement")
    quantize(page, "../../../Q9", calibrate=True)  # a name that leads out of the folder, with a file of its own
    expect(files_made).to_have_text("llama.cpp has no quantization called '../../../Q9'.", timeout=300_000)
    new = set(cache.parent.rglob("*")) - before
    assert [path for path in new if "few" in path.name or "Q9" in path.name] == []

    quantize(page, "Q4_0", exceptions=" v.blk.0 = q8_0 \n")
    expect(files_made.locator("b")).to_have_text(
        re.compile("^(fit to ship|answers change( a lot)?|broken|not enough questions)$"), timeout=240_000
    )
    expect(files_made).to_contain_text(re.compile(r"Mean KL \d\S* nats a token on 16 questions"))
    expect(files_made).to_contain_text(
        re.compile(r"cosine [01]\.\d{4}, lowest patch [01]\.\d{4}, relative error \d+\.\d %")
    )
    maps = files_made.locator("img")
    expect(maps).to_have_count(8)
    for shown in maps.all():
        expect(shown).to_have_js_property("complete", True)
        assert shown.evaluate("shown => Math.max(shown.naturalWidth, shown.naturalHeight)") == 168
    expect(page.locator("#vp-projectors").get_by_label("Q4_0 v.blk.0=q8_0")).to_be_checked()
    expect(page.locator(".vp-active .vp-chip").first).to_have_text("F16, F16 + mmproj-Q4_0 v.blk.0=q8_0")
    (file,) = (cache / "made").glob("mmproj-few-Q4_0-*.gguf")
    quantize(page, "Q4_0", exceptions="v.blk.0=q8_0")
    expect(files_made).to_have_text(f"{file.name} was made before. It is a variant: tick it at the side.")

    with (
        running(cache, cache / "second.txt", model_dirs=(few.model.parent,)) as again,
        visitor(browser, again.url) as newcomer,
    ):
        opened(newcomer)
        ready(newcomer)
        newcomer.get_by_role("radio", name="few").check()
        expect(newcomer.locator("#vp-projectors").get_by_label("Q4_0 v.blk.0=q8_0")).to_be_visible()


# --- servers elsewhere ------------------------------------------------------------------------------------------------


def test_server_elsewhere_when_ticked_then_its_pane_stands_beside_the_others_without_their_figures(page: Page) -> None:
    tick_only(page, "F16")
    page.locator("#vp-endpoints").get_by_label("box").check()
    active = page.locator(".vp-is-compare.vp-active")
    expect(active.locator(".vp-chip").first).to_have_text("F16, elsewhere: box")
    run(active)
    theirs = active.locator("[data-variant='elsewhere:box'][data-state=done]")
    expect(theirs).to_be_visible(timeout=60_000)
    ended(page)
    expect(theirs.locator(".vp-text")).to_have_text("a cat")
    expect(theirs.locator(".vp-elsewhere")).to_have_text("elsewhere · times not comparable")
    assert theirs.locator("dt").all_text_contents() == ["model", "tokens", "first text", "answer"]
    page.locator("#vp-endpoints").get_by_label("box").uncheck()
    expect(active.locator(".vp-chip").first).to_have_text("F16")
