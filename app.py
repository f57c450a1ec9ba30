"""The web app: settings -> parts -> page -> launch -> close. GRADIO_SERVER_NAME and GRADIO_SERVER_PORT say where."""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
from threading import Thread
from unittest import mock

# Before gradio and huggingface_hub are imported: this app talks to nobody unasked.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

# Half of gradio's import (2 of 4 s on 2 cores) parses its own sources to write .pyi files for editors. It leaves out
# classes whose file inspect cannot tell (component_meta.create_or_modify_pyi), so it is told of none.
with mock.patch.object(inspect, "getfile", side_effect=OSError("no stubs, please")):
    import gradio  # noqa: F401

from playground.parts import open_parts
from playground.settings import Settings
from playground.ui import page


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # gradio asks itself whether it is up
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with open_parts(Settings()) as parts:
        deriving = Thread(target=parts.store.derive, args=(parts.pool.quantize, logging.info), daemon=True)
        deriving.start()
        demo = page.build(parts, deriving)
        demo.queue(default_concurrency_limit=8, max_size=256)
        # Gradio looks at its queue 1000 times a second: 9 % of a core, where the models' speed is measured.
        demo._queue.sleep_when_free = 0.005
        demo.launch(
            theme=page.theme(),
            css_paths=page.CSS,
            head=page.HEAD,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            max_file_size="50mb",
            show_error=True,
        )


if __name__ == "__main__":
    main()
