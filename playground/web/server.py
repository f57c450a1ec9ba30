"""Serves the page: opens the parts, builds the page, launches it, and closes the parts at the end."""

from __future__ import annotations

import functools
import gc
import inspect
import logging
import os
import signal
import sys
import time
from threading import Thread
from types import ModuleType
from typing import Any
from unittest import mock

# Half of gradio's import (2 of 4 s on 2 cores) parses its own sources to write .pyi files for editors. It leaves out
# a class whose file inspect cannot find (component_meta.create_or_modify_pyi), so here inspect finds none.
with mock.patch.object(inspect, "getfile", side_effect=OSError("no stubs, please")):
    import gradio.blocks
    import gradio.component_meta

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from playground.comparing.image_decoder import DECODER
from playground.pool import measured_bandwidth
from playground.settings import LogFormat, Settings
from playground.support import heap, logs
from playground.web import (
    assets,
    connections,
    early_paint,
    guard,
    login,
    made_files,
    notebook_file,
    page,
    remote_images,
)
from playground.web.active_runs import ActiveRuns
from playground.web.admission import Admission
from playground.web.connections import Connections
from playground.web.health import Health
from playground.web.job_limits import JobLimits
from playground.web.live_runs import LiveRuns, RunJob
from playground.web.notebook_actions import NotebookActions
from playground.web.notebook_view import NotebookView
from playground.web.openai_api import OpenAiApi
from playground.web.prometheus import RunMetrics
from playground.web.public_link import PublicLink
from playground.web.run_events import RunEvents
from playground.web.run_stream import RunStream
from playground.web.uploads import Uploads, upload_folder
from playground.wiring import Parts, open_parts

_DAY_S = 86400
_LOOPBACK = ("127.0.0.0/8", "::1")
_TRIM_S = 60.0
_MOST_TIMES = 3
_SWITCH_S = 0.001  # how long a busy thread keeps the interpreter from the event loop; Python's default is 5 ms
_MOST_SESSIONS = 2000  # Gradio keeps 250 kB of a page, by a name that the client makes up


class _Signatures(ModuleType):
    """The module inspect, as Gradio's components see it. For each page that opens, and each output of an event, Gradio
    reads the signatures of its classes anew: two thirds of what an event costs the event loop."""

    signature = staticmethod(functools.lru_cache(4096)(inspect.signature))
    getfullargspec = staticmethod(functools.lru_cache(4096)(inspect.getfullargspec))

    def __getattr__(self, name: str) -> Any:
        return getattr(inspect, name)


def keep_signatures() -> None:
    for module in (gradio.blocks, gradio.component_meta):
        vars(module)["inspect"] = _Signatures("inspect")


def serve(settings: Settings) -> None:
    """Serve the page until the process gets SIGINT or SIGTERM."""
    keep_signatures()
    heap.bound_arenas()
    sys.setswitchinterval(_SWITCH_S)
    logs.configure(as_json=settings.log_format is LogFormat.JSON, secrets=settings.secrets)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open_parts(settings) as parts:
        deriving = Thread(target=parts.catalog.derive, args=(parts.quantize, logging.info), daemon=True)
        deriving.start()
        folder = upload_folder(settings.cache_dir)
        os.environ["GRADIO_TEMP_DIR"] = str(folder)  # Gradio has no argument for it
        if "gradio.mcp" in sys.modules:  # where the extra mcp is installed
            vars(sys.modules["gradio.mcp"])["DEFAULT_TEMP_DIR"] = str(folder)  # it was read before
        uploads = Uploads(folder, settings.uploads_bytes)
        remote_images.fetch_for_gradio(settings, uploads)
        metrics = RunMetrics(parts.pool.memory)
        health = Health(parts, metrics)
        active = ActiveRuns()
        openai_api = OpenAiApi(parts, deriving, metrics)
        long_jobs = JobLimits(
            "measurements and quantizations", settings.max_long_jobs, settings.max_long_jobs_per_person
        )
        link = PublicLink()
        view = NotebookView(parts, link)
        runs = LiveRuns(RunStream(parts, view, deriving, metrics, long_jobs).stream, settings.unwatched_run_s)
        actions = NotebookActions(parts, view, runs, deriving)
        events = RunEvents(parts.library, view, runs, actions, parts.monitor)
        demo = page.build(parts, view, actions, deriving, metrics, active, long_jobs)
        # No event waits in Gradio's own queue: what waits there would take the seats of page loads and stops. Each kind
        # of work is limited where it is done, and each person's events by Admission.
        demo.queue(default_concurrency_limit=None, max_size=None)
        # Gradio looks at its queue 1000 times a second: 9 % of a core, where the models' speed is measured.
        demo._queue.sleep_when_free = 0.005
        os.environ["FORWARDED_ALLOW_IPS"] = ",".join(settings.forwarders)  # uvicorn's; Gradio has no argument for it
        Thread(target=_get_ready, args=(parts, deriving, health), daemon=True).start()
        Thread(target=_take_up, args=(parts, deriving, runs), daemon=True).start()
        Thread(target=_sweep_daily, args=(parts, uploads), daemon=True).start()
        Thread(target=_trim, daemon=True).start()
        early_paint.install(page.early_bodies(), page.SCRIPTS)
        tunnel = _LOOPBACK if settings.share else ()
        limits = Connections(connections.MOST, (*settings.forwarders, *tunnel), connections.most_of_all())
        with connections.counted(limits):
            _launch(
                demo,
                settings,
                routes=[
                    *health.routes(),
                    *login.routes(settings),
                    *assets.routes(),
                    *openai_api.routes(),
                    *events.routes(),
                    *made_files.routes(parts),
                    *notebook_file.routes(actions),
                ],
                middleware=[
                    Middleware(Admission, settings, uploads, active.leave),
                    Middleware(assets.CompressedPages, page.SCRIPTS),
                ],
            )
        connections.keep_waiting(demo.server)
        logs.adopt_server()
        link.address = demo.share_url.rstrip("/") if demo.share_url else None
        if settings.share and link.address is None:
            link.problem = "There is no public link: the tunnel through gradio.live could not be opened."
            logging.error("%s The page is served here only.", link.problem)
        # What is there by now stays. To look through it for garbage stops all threads for 200 ms, and any large request
        # makes Python do so.
        gc.collect()
        gc.freeze()
        try:
            demo.block_thread()
        finally:
            runs.close()


def _launch(demo: gr.Blocks, settings: Settings, routes: list[BaseRoute], middleware: list[Middleware]) -> None:
    demo.launch(
        server_name=settings.host,
        server_port=settings.port,
        root_path=settings.root_path or None,
        share=settings.share,
        theme=page.theme(),
        css_paths=page.CSS,
        footer_links=[],
        run_history=False,
        mcp_server=settings.mcp,
        ssr_mode=False,
        state_session_capacity=_MOST_SESSIONS,
        max_file_size=settings.max_upload_bytes,
        show_error=False,  # of unexpected errors; gr.Error carries the text that is meant for people
        max_threads=256,  # a call of the API takes one while it waits; with 40, 50 of them stop the page
        app_kwargs={
            "routes": routes,
            "middleware": middleware,
            "lifespan": guard.around(guard.Rules.of(settings)),
        },
        prevent_thread_lock=True,
        **login.door(settings),
    )


def _get_ready(parts: Parts, deriving: Thread, health: Health) -> None:
    """Runs beside the page at the start: check that the embedded model answers, and measure the memory's bandwidth,
    once on a machine."""
    deriving.join()
    try:
        parts.open_preloaded()
    except Exception:  # a damaged cache of the Hub must not keep the app from being ready
        logging.exception("the presets' files in the Hub's cache")
    health.wait_until_ready()
    DECODER.prepare()
    measured_bandwidth.measure_missing(parts.pool)


def _take_up(parts: Parts, deriving: Thread, runs: LiveRuns) -> None:
    """Measurements that the end of the app interrupted go on."""
    deriving.join()
    try:
        for left in parts.library.unfinished():
            if left.times >= _MOST_TIMES:  # it may be what ends the app
                logging.error("measurement of cell %s: taken up %d times, not again", left.cell, left.times)
                parts.library.drop_unfinished(left.notebook, left.cell)
                continue
            job = RunJob(left.notebook, left.cell, f"notebook {left.notebook}", to_its_end=True, resumes=left)
            runs.start(left.notebook, [job])
    except Exception:  # the next start tries again
        logging.exception("interrupted measurements")


def _sweep_daily(parts: Parts, uploads: Uploads) -> None:
    while True:
        try:
            uploads.sweep(_DAY_S)  # also what was cut off, of which Gradio does not know
            parts.library.sweep(parts.settings.retention_days)
        except Exception:  # the next day tries again
            logging.exception("sweeping notebooks")
        time.sleep(_DAY_S)


def _trim() -> None:
    """The process kept 1 GB after large imports."""
    while True:
        time.sleep(_TRIM_S)
        heap.trim()
