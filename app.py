"""The web app: settings -> parts -> page -> launch -> close. docs/operating.md tells what can be set."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import time
from threading import Thread
from unittest import mock

# Before gradio and huggingface_hub are imported: this app talks to nobody unasked.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Half of gradio's import (2 of 4 s on 2 cores) parses its own sources to write .pyi files for editors. It leaves out
# classes whose file inspect cannot tell (component_meta.create_or_modify_pyi), so it is told of none.
with mock.patch.object(inspect, "getfile", side_effect=OSError("no stubs, please")):
    import gradio  # noqa: F401

from playground.errors import BadSettings
from playground.settings import LogFormat, Settings
from playground.support import logs
from playground.web import login, page
from playground.web.health import Health
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts, open_parts

_DAY_S = 86400


def main() -> None:
    try:
        settings = Settings.read()
    except BadSettings as error:
        print(f"Nothing was started. {error}", file=sys.stderr)
        sys.exit(2)
    logs.configure(as_json=settings.log_format is LogFormat.JSON, secrets=settings.secrets)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open_parts(settings) as parts:
        deriving = Thread(target=parts.catalog.derive, args=(parts.pool.quantize, logging.info), daemon=True)
        deriving.start()
        measures = RunMetrics(parts.pool.memory)
        health = Health(parts, measures)
        demo = page.build(parts, deriving, measures)
        demo.queue(default_concurrency_limit=8, max_size=256)
        # Gradio looks at its queue 1000 times a second: 9 % of a core, where the models' speed is measured.
        demo._queue.sleep_when_free = 0.005
        Thread(target=_get_ready, args=(parts, deriving, health), daemon=True).start()
        Thread(target=_sweep_daily, args=(parts,), daemon=True).start()
        demo.launch(
            server_name=settings.host,
            server_port=settings.port,
            theme=page.theme(),
            css_paths=page.CSS,
            head=page.HEAD,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size=settings.max_upload_bytes,
            show_error=False,  # of what is unexpected; gr.Error tells what is meant for people
            max_threads=256,  # a run takes one while it waits for news; with Gradio's 40, 50 people would stop the page
            app_kwargs={"routes": [*health.routes(), *login.routes(settings)]},
            prevent_thread_lock=True,
            **login.door(settings),
        )
        logs.adopt_server()
        demo.block_thread()


def _get_ready(parts: Parts, deriving: Thread, health: Health) -> None:
    """What is done at the start while people are served: see that the embedded model answers, and how fast the memory
    is, once on a machine."""
    deriving.join()
    try:
        parts.open_preloaded()
    except Exception:  # a damaged cache of the Hub must not keep the app from being ready
        logging.exception("the presets' files in the Hub's cache")
    health.wait_until_ready()
    parts.pool.measure_bandwidth()


def _sweep_daily(parts: Parts) -> None:
    while True:
        try:
            parts.library.sweep(parts.settings.retention_days)
        except Exception:  # tomorrow it is tried again
            logging.exception("sweeping notebooks")
        time.sleep(_DAY_S)


if __name__ == "__main__":
    main()
