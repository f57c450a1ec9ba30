"""Real parts for every test: the embedded pair, llama.cpp in workers, a cache folder of the test run's own."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import hypothesis
import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from playground.comparing.images import read_image
from playground.models.presets import data_folder
from playground.settings import Settings
from playground.support import logs
from playground.values.request import Image
from playground.wiring import Parts, open_parts
from testkit import forked_apps, pairs, result_documents
from testkit.browser import blank, chromium, ready, visitor
from testkit.forked_workers import ForkServer
from testkit.webapp import WebApp, running

# Workers, apps and commands start by the hundred. Each would compile the project anew, and each test process the tests,
# where the environment keeps Python from writing bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Two test processes on two cores, each with workers of two OpenMP threads that wait for each other: 33 tokens a second,
# and 100 with one thread each. Workers and apps inherit it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")

# A test's answers must not depend on what a busy machine was measured to suit (tests/engine/test_engine_defaults.py).
os.environ.setdefault("PLAYGROUND_MEASURE_DEFAULTS", "false")
# Nor does a test wait for a worker that it does not need (tests/pool/test_spare_workers.py).
os.environ.setdefault("PLAYGROUND_SPARE_WORKERS", "0")

# The garbage collector would look again and again at modules and collected tests, which all stay: a fifth of the
# processor time of `make quick`.
gc.disable()

hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")  # a busy core fails no test
expect.set_options(timeout=20_000)  # ms; Playwright's 5 s are too short for a page that shares a busy core


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Quantized variants are made once a test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def derived(cache_dir: Path) -> Path:
    with open_parts(Settings(cache_dir=cache_dir), any_folder=True) as parts:
        parts.catalog.derive(parts.quantize)
        assert parts.catalog.problems == ()
    return cache_dir


@pytest.fixture
def parts(derived: Path, tmp_path: Path) -> Iterator[Parts]:
    """Parts with the derived variants, but with caches of embeddings of their own, so that tests do not lean on each
    other."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "derived").symlink_to(derived / "derived")
    with open_parts(Settings(cache_dir=folder), any_folder=True) as opened:
        yield opened


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first and the shortest last, so that both processes (Makefile) end at once.

    The first and the third go to one process, the second and the fourth to the other: a browser that has to be read
    from the disk took 24 seconds to start, and both waited for it.
    """
    longest = (
        "test_page_notebook",
        "test_measure",
        "test_page",
        "test_pool",
        "test_page_models",
        "test_page_lab",
        "test_batch",
        "test_other_origins",
        "test_page_inspect",
        "test_make_variant",
        "test_sensitivity_scan",
    )

    sizes = Counter(item.path for item in items)

    def place(item: pytest.Item) -> tuple[int, int]:
        if item.path.parent.name == "unit":
            return len(longest) + 1, -sizes[item.path]
        return longest.index(item.path.stem) if item.path.stem in longest else len(longest), 0

    items.sort(key=place)


@pytest.fixture(scope="session")
def endless(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    """A random pair whose answers end only by length, slow enough to be stopped on the way (about 5 ms a token)."""
    folder = tmp_path_factory.mktemp("endless")
    return pairs.write_llava(folder, n_embd=768, n_head=12, n_head_kv=4, n_layer=8, n_ff=2048, name="endless")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> pairs.PairFiles:
    """A random pair whose tensors can hardly be quantized, so that a scan of it takes seconds."""
    return pairs.write_few(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="session", autouse=True)
def apps_are_forked() -> Iterator[None]:
    with forked_apps.forking():
        yield


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with closing(ForkServer()) as server:
        yield server


@pytest.fixture(scope="module", autouse=True)
def workers_are_forked(fork_server: ForkServer) -> Iterator[None]:
    """But for those of tests/pool and tests/cluster."""
    with fork_server.forking():
        yield


@pytest.fixture(scope="module")
def app(derived: Path, endless: pairs.PairFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebApp]:
    """The web app, started anew for each module that looks at it from outside."""
    folder = tmp_path_factory.mktemp("app")
    cache = folder / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    shelf = {"PLAYGROUND_RESULTS_DIR": str(result_documents.write_shelf(folder / "results"))}
    with running(cache, folder / "log.txt", model_dirs=(endless.model.parent,), more=shelf) as started:
        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = chromium()
    if path is None:
        assert "CI" not in os.environ, "the browser tests have to run in CI, and there is no chromium"
        pytest.skip("no chromium here; install it, or set CHROMIUM to a browser's path")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=path,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"],
        )
        yield launched
        launched.close()


@pytest.fixture
def page(browser: Browser, app: WebApp) -> Iterator[Page]:
    """A first visitor's page. What it asks of other addresses fails the test, and so does an error of its script."""
    with visitor(browser, app.url) as first:
        ready(first)
        yield first


@pytest.fixture
def opened(browser: Browser) -> Iterator[Page]:
    """An empty page; an error of its script fails the test."""
    errors: list[str] = []

    def on_error(error: Error) -> None:
        errors.append(str(error))

    with blank(browser) as page:
        page.on("pageerror", on_error)
        yield page
        page.remove_listener("pageerror", on_error)
        assert errors == []


@pytest.fixture
def scene() -> Image:
    return read_image(data_folder() / "tiny-vlm/evaluation/hard-62.png")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pairs.PairFiles]:
    """A random pair of each kind, all of the same width, which llama.cpp runs."""
    return {kind: pairs.write_pair(kind, tmp_path_factory.mktemp(kind)) for kind in pairs.KINDS}


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written to stderr since the last call."""
    root = logging.getLogger()
    level = root.level
    yield lambda: capsys.readouterr().err
    for handler in [handler for handler in root.handlers if isinstance(handler.formatter, logs._Formatter)]:
        root.removeHandler(handler)
    root.setLevel(level)
