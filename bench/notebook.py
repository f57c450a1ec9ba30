"""The notebook: how fast a long one opens, how typing feels in it, what saving costs, and what streaming takes."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import msgspec
import psutil
from playwright.sync_api import Page, expect, sync_playwright

from playground.comparing.compare import StopFlag
from playground.comparing.images import read_image
from playground.comparing.run_settings import RunSettings
from playground.models.presets import data_folder
from playground.notebooks.cells import CompareCell, Run, RunState
from playground.notebooks.file_format import WholeCell
from playground.notebooks.run_cell import new_run, run_cell
from playground.settings import Settings
from playground.wiring import Parts, open_parts
from testkit.webapp import running

_CELLS = 50
_STREAM_S = 10

# Milliseconds from each of 30 letters to the frame that shows it.
_TYPING = """async () => {
    const field = document.querySelector("#vp-notebook .vp-is-compare textarea");
    field.focus();
    const lags = [];
    for (let n = 0; n < 30; n++) {
        const begun = performance.now();
        document.execCommand("insertText", false, "abcdefghij"[n % 10]);
        await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
        lags.push(performance.now() - begun);
        await new Promise(resolve => setTimeout(resolve, 60));
    }
    return lags;
}"""


def measure(folder: Path) -> dict[str, float]:
    cache = folder / "cache"
    with open_parts(Settings(cache_dir=cache), any_folder=True) as parts:
        parts.catalog.derive(parts.quantize)
        run = _one_run(parts)
        browser = parts.library.browser(None)[0]
        whole = [WholeCell(run.cell, (run,)) for _ in range(_CELLS)]
        notebook = parts.library.create(browser, "fifty cells", whole)
        figures = {"run_bytes": float(len(msgspec.json.encode(run)))}
        saving = []
        for _ in range(30):
            begun = time.perf_counter()
            parts.library.save_run(notebook.id, msgspec.structs.replace(run, cell=_renamed(run, notebook.cells[0])))
            saving.append(time.perf_counter() - begun)
        figures |= {"save_run_s": statistics.median(saving), "save_run_max_s": max(saving)}
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        context = chromium.new_context(viewport={"width": 1366, "height": 900})
        context.add_init_script(f"localStorage.setItem('vlm-quant-playground', {browser!r})")
        with running(cache, folder / "log.txt") as app:
            figures |= _opening(context.new_page(), app.url)
        with running(cache, folder / "paced.txt", command=("-m", "bench.paced")) as app:
            figures |= _streaming(context.new_page(), app.url, app.pid)
        chromium.close()
    return figures


def _one_run(parts: Parts) -> Run:
    """A real run of six panes, with probabilities."""
    image = read_image(data_folder() / parts.catalog.presets[0].examples[0].image)
    picture = parts.library.pictures.keep(image, "scene.png")
    variants = parts.catalog.choose(("F16", "Q8_0", "Q4_K_M", "Q3_K_M", "Q2_K", "TQ2_0"))
    cell = CompareCell(
        "",
        prompts=("What do you see?",),
        pictures=(picture,),
        family=variants[0].family,
        variants=tuple(v.id for v in variants),
        settings=RunSettings(probabilities=True),
    )
    run = new_run(cell, variants, parts.engine, parts.machine)
    *_, last = run_cell(run, variants, parts.library.pictures.image, parts.lab, StopFlag(), max_panes=16)
    assert last.state is RunState.DONE
    return msgspec.structs.replace(last, number=1)


def _renamed(run: Run, cell: str) -> CompareCell:
    return msgspec.structs.replace(run.cell, id=cell)


def _opening(page: Page, url: str) -> dict[str, float]:
    page.goto(url)  # once before, so that the browser has Gradio's own files
    page.wait_for_selector("#vp-notebook[data-filled]", timeout=120_000)
    opened, filled = [], []
    for _ in range(3):
        begun = time.perf_counter()
        page.goto(url, wait_until="commit")
        page.wait_for_selector("#vp-notebook[data-ready]", timeout=60_000)
        page.wait_for_selector(".vp-pane", timeout=60_000)
        opened.append(time.perf_counter() - begun)
        page.wait_for_selector("#vp-notebook[data-filled]", timeout=120_000)
        filled.append(time.perf_counter() - begun)
    expect(page.locator(".vp-pane")).to_have_count(6 * _CELLS)
    lags = page.evaluate(_TYPING)
    page.close()
    return {
        "open_50_cells_s": statistics.median(opened),
        "open_50_cells_all_panes_s": statistics.median(filled),
        "typing_lag_s": statistics.median(lags) / 1000,
        "typing_lag_max_s": max(lags) / 1000,
    }


def _streaming(page: Page, url: str, app: int) -> dict[str, float]:
    """Six panes at once: CPU seconds of the browser and of the app's own process, a second."""
    page.goto(url)
    page.wait_for_selector("#vp-notebook[data-ready]")
    page.get_by_text("Notebooks", exact=True).click()
    page.get_by_role("button", name="New notebook").click()
    expect(page.locator(".vp-is-compare")).to_have_count(1)
    page.get_by_label("All at once (speeds not comparable)").check()
    page.get_by_role("button", name="Sampling and engine").click()
    page.get_by_label("Token probabilities").uncheck()
    page.get_by_label("Max tokens").fill("8000")
    expect(page.locator(".vp-chips")).to_contain_text("max 8000")
    idle_browser_s, idle_app_s = _rates(page, app, 5)
    page.get_by_label("Prompt", exact=True).fill("Go on.")
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    expect(page.locator(".vp-pane[data-state=writing]")).to_have_count(6, timeout=30_000)
    words = "() => [...document.querySelectorAll('.vp-text')].map(text => text.textContent.split(' ').length)"
    before, begun = page.evaluate(words), time.perf_counter()
    browser_s, app_s = _rates(page, app, _STREAM_S)
    shown = (sum(page.evaluate(words)) - sum(before)) / (time.perf_counter() - begun)
    page.get_by_role("button", name="Stop", exact=True).first.click()
    expect(page.locator(".vp-pane[data-state=stopped]")).to_have_count(6)
    return {
        "stream_shown_tok_per_s_per_pane": shown / 6,
        "stream_browser_cores": browser_s,
        "stream_app_cores": app_s,
        "idle_browser_cores": idle_browser_s,
        "idle_app_cores": idle_app_s,
    }


def _rates(page: Page, app: int, seconds: float) -> tuple[float, float]:
    """Cores that the browser and the app take."""
    begun, browser_s, app_s = time.perf_counter(), _browser_s(), _own_s(app)
    page.wait_for_timeout(seconds * 1000)
    lasted = time.perf_counter() - begun
    return (_browser_s() - browser_s) / lasted, (_own_s(app) - app_s) / lasted


def _own_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _browser_s() -> float:
    """Of all processes of the browser."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        if "chrom" in process.name():
            total += _own_s(process.pid)
    return total
