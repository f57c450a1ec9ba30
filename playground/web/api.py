"""The public endpoints, for gradio_client and curl: /variants, /compare, /memory."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Thread
from typing import Any

import gradio as gr
from gradio.events import api

from playground.comparing import axes, comparison_request, run_settings
from playground.comparing import compare as lab
from playground.errors import BadInput, PlaygroundError
from playground.rendering import json_documents
from playground.web import login
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts


def build(parts: Parts, deriving: Thread, measures: RunMetrics) -> None:
    """Add the endpoints to the gr.Blocks that is being built. `deriving`, `measures`: as for page.build."""

    def variants() -> list[dict[str, Any]]:
        """The variants that are there; bytes and sha256 are the language model's."""
        deriving.join()
        return [json_documents.of_variant(v) for v in parts.catalog.variants]

    def memory() -> dict[str, Any]:
        """What the workers, the GPUs and the host hold, in bytes."""
        return json_documents.of_memory(parts.pool.memory())

    def compare(
        image: str | None,
        prompt: str,
        variants: list[str] | None,
        settings: dict[str, Any] | None,
        request: gr.Request,
    ) -> Iterator[dict[str, Any]]:
        """Run a comparison; every document has all panes, the last one has done = true."""
        deriving.join()
        try:
            given = parts.limited(run_settings.read_settings(settings))
            if not isinstance(variants, list) or not all(isinstance(name, str) for name in variants):
                raise BadInput("The variants have to be a list of ids; /variants tells which there are.")
            chosen = axes.spread(parts.catalog.choose(variants), given)
            person = login.person(request)
            images = [parts.read_image(image, who=person)] if image else []
            comparison = comparison_request.comparison_of(images, prompt, chosen, given)
            mine = parts.of(person)
            updates = lab.run(comparison, mine.lab, lab.StopFlag(), max_panes=parts.settings.max_panes)
            for update in measures.compared(updates):
                yield json_documents.of_update(update)
        except PlaygroundError as error:
            raise gr.Error(error.message, title=error.code, print_exception=False) from error

    api(variants, api_name="variants", concurrency_limit=None)
    api(memory, api_name="memory", concurrency_limit=None)
    # Not gr.api: a component checks that the file is one that the client uploaded, and not one of the server's own.
    image = gr.File(label="image", visible=False, type="filepath")
    prompt = gr.Textbox(label="prompt", visible=False)
    ids = gr.JSON(label="variants", visible=False)
    settings = gr.JSON(label="settings", visible=False)
    result = gr.JSON(label="result", visible=False)
    gr.Button(visible=False).click(
        compare, [image, prompt, ids, settings], [result], api_name="compare", concurrency_limit=None
    )
