"""The address where runs are started and watched, asked as a page's script asks it."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from playground.measuring.results import MeasurementPlan
from playground.notebooks.cells import CellQuestions, CompareCell, RunState
from playground.notebooks.file_format import WholeCell
from playground.notebooks.library import Library
from testkit import live_runs
from testkit.path_proxy import below
from testkit.webapp import WebApp, running

VARIANTS = ("tiny-vlm:F16+mmproj-F16",)


@pytest.fixture(scope="module")
def book(derived: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[WebApp, str, str, list[str]]]:
    """An app with one notebook: its key, its readers' key and its cells."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "cache").mkdir()
    (folder / "cache/derived").symlink_to(derived / "derived")
    library = Library(folder / "cache/notebooks")
    asks = [CompareCell("", prompts=(text,), family="tiny-vlm", variants=VARIANTS) for text in ("Hello?", "Why?", "")]
    notebook = library.create(library.browser(None)[0], "Test", [WholeCell(cell) for cell in asks])
    link = library.share(notebook.id, True).share
    library.close()
    assert link is not None
    # Who reaches the app past its proxy is served too.
    with running(folder / "cache", folder / "log.txt", more={"PLAYGROUND_ROOT_PATH": "/team/vlm"}) as app:
        yield app, notebook.id, link, list(notebook.cells)


def test_page_when_a_proxy_shows_it_below_a_path_then_page_scripts_and_runs_are_there(
    book: tuple[WebApp, str, str, list[str]],
) -> None:
    app, key, _, (cell, *_) = book
    with below("/team/vlm", app.url) as proxy, httpx.Client(base_url=proxy.url) as client:
        for name in ("", "models", "results", "inspect"):
            page = client.get(name)
            assert page.status_code == 200
            scripts = set(re.findall(r"vp-static/[0-9a-f]+/[\w./-]+\.js", page.text))
            assert len(scripts) > (3 if name else 20)  # each page names its own
        for script in scripts:
            assert "javascript" in client.get(script).headers["content-type"]
        with live_runs.watching(client, key) as events:
            live_runs.start(client, key, cell)
            assert "run 1" in live_runs.until_ended(events, cell)["outputs"]
        twice = client.get("team/vlm/gradio_api/info")  # the checks of paths would not know it
        assert (twice.status_code, "off the path" in twice.text) == (404, True)


def test_run_when_started_then_it_ends_though_nobody_watched_and_who_comes_later_is_told_once(
    book: tuple[WebApp, str, str, list[str]],
) -> None:
    app, key, _, (cell, *_) = book
    with httpx.Client(base_url=app.url) as client:
        with live_runs.watching(client, key) as events:
            server = next(events)["server"]
            since = next(event["id"] for event in events if "queue" in event)  # behind the ends of earlier runs
        queue = live_runs.start(client, key, cell)["queue"]
        assert queue["running"] == cell or queue["waiting"] == [cell]
        with live_runs.watching(client, key, since) as events:
            assert next(events)["server"] == server
            update = live_runs.until_ended(events, cell)
            last = next(event for event in events if "queue" in event and event["queue"]["running"] is None)
        assert re.search(r"run \d", update["outputs"])
        with live_runs.watching(client, key, since) as events:
            assert live_runs.until_ended(events, cell)["outputs"] == update["outputs"]
        with live_runs.watching(client, key, last["id"]) as events:
            next(events)
            assert "queue" in next(events)


def test_reader_when_a_run_goes_on_then_sees_it_but_cannot_start_one(
    book: tuple[WebApp, str, str, list[str]],
) -> None:
    app, key, link, (_, cell, _) = book
    with httpx.Client(base_url=app.url) as client, live_runs.watching(client, link) as events:
        next(events)
        assert live_runs.start(client, link, cell)["error"].startswith("This notebook is read-only here.")
        live_runs.start(client, key, cell)
        assert "run 1" in live_runs.until_ended(events, cell)["outputs"]


def test_run_when_the_cell_has_no_prompt_then_the_reason_reaches_a_page_that_was_away(
    book: tuple[WebApp, str, str, list[str]],
) -> None:
    app, key, _, (*_, empty) = book
    with httpx.Client(base_url=app.url) as client:
        error = live_runs.run(client, key, empty)["error"]
        assert "prompt" in error
        with live_runs.watching(client, key) as events:
            assert live_runs.until_ended(events, empty)["error"] == error


@pytest.mark.parametrize(
    ("method", "options", "status"),
    [
        ("GET", {"params": {"notebook": "nobody's"}}, 404),
        ("GET", {"params": {"notebook": "x"}, "headers": {"Sec-Fetch-Site": "cross-site"}}, 403),
        ("POST", {"json": {}, "headers": {"Origin": "https://evil.example"}}, 403),
        ("POST", {"content": b"{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("POST", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
    ],
)
def test_address_when_asked_for_nothing_or_by_another_site_then_refused(
    book: tuple[WebApp, str, str, list[str]], method: str, options: dict[str, Any], status: int
) -> None:
    assert httpx.request(method, f"{book[0].url}/vp-runs", **options).status_code == status


def test_address_when_the_page_asks_for_what_it_may_not_then_it_is_told(
    book: tuple[WebApp, str, str, list[str]],
) -> None:
    bodies: list[Any] = [{}, [], {"key": "x", "cells": "all"}]
    for body in bodies:
        reply = httpx.post(f"{book[0].url}/vp-runs", json=body)
        assert reply.status_code == 200
        assert reply.json()["error"].startswith("The page asked for something that it may not")


def test_measurement_when_the_app_is_killed_then_the_next_start_goes_on_with_it(derived: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    library = Library(cache / "notebooks")
    plan = MeasurementPlan(drift=True, accuracy=False, look=False, speed=False, max_tokens=8)
    variants = (*VARIANTS, "tiny-vlm:Q2_K+mmproj-F16")
    asks = CompareCell("", family="tiny-vlm", variants=variants, questions=CellQuestions(n=12, plan=plan))
    notebook = library.create(library.browser(None)[0], "Test", [WholeCell(asks)])
    (cell,) = notebook.cells
    library.close()
    with (
        running(cache, tmp_path / "first.txt") as app,
        httpx.Client(base_url=app.url) as client,
        live_runs.watching(client, notebook.id) as events,
    ):
        live_runs.start(client, notebook.id, cell)
        next(event for event in events if "<progress" in event.get("update", {}).get("outputs", ""))
        os.kill(app.pid, signal.SIGKILL)
    library = Library(cache / "notebooks")
    (left,) = library.unfinished()
    assert library.runs(library.own(notebook.id), cell)[0].state is RunState.INTERRUPTED
    assert (left.cell, left.run, left.times) == (cell, 1, 0)
    library.close()
    with running(cache, tmp_path / "second.txt") as app, httpx.Client(base_url=app.url) as client:
        with live_runs.watching(client, notebook.id) as events:
            update = live_runs.until_ended(events, cell)
        assert "run 1" in update["outputs"]
    library = Library(cache / "notebooks")
    run = library.newest_run(library.own(notebook.id), cell)
    assert run is not None
    assert (run.number, run.state, run.elapsed_s) == (1, RunState.DONE, None)
    assert run.measurement is not None
    assert library.unfinished() == []
    library.close()
