"""The public endpoints, for gradio_client, curl and MCP: /variants, /compare, /memory, /doctor, /measure.

Gradio makes an MCP tool of each. Its arguments' types come from the annotations here, their meaning from "Args".
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from threading import Thread
from typing import Any

import gradio as gr
import msgspec
from gradio.events import api

from playground.comparing import axes, branching, comparison_request, run_settings
from playground.comparing import compare as lab
from playground.comparing import pages as document_pages
from playground.comparing.lab import Lab
from playground.comparing.run_settings import RunSettings
from playground.errors import BadInput, PlaygroundError
from playground.measuring import endpoint_jobs, pack_source, packs, result_documents, suite_source
from playground.measuring.measure import MeasureRequest
from playground.measuring.pack_jobs import PackJob
from playground.measuring.question_sets import QuestionSet, embedded
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.ship_card import set_title
from playground.measuring.suite_source import SuiteChoice
from playground.models import check_pair
from playground.rendering import json_documents
from playground.settings import Settings
from playground.values.files import Variant
from playground.values.request import Runtime
from playground.web import demo, login
from playground.web.job_limits import JobLimits
from playground.web.prometheus import RunMetrics
from playground.wiring import Parts

_MOST_QUESTIONS = 420  # there are as many
_MOST_PACK_BYTES = 256 * 2**20  # this process holds it; the command line takes larger ones


def build(parts: Parts, deriving: Thread, measures: RunMetrics, long_jobs: JobLimits) -> None:
    """Add the endpoints to the gr.Blocks that is being built. `deriving`, `measures`: as for page.build.

    `long_jobs`: counts the measurements.
    """

    def variants() -> list[dict[str, Any]]:
        """The variants that are there; bytes and sha256 are the language model's. "endpoint": it answers elsewhere."""
        deriving.join()
        return [json_documents.of_variant(v) for v in (*parts.catalog.variants, *parts.endpoints.variants)]

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
        """Ask some variants about an image, side by side. Every document has all panes, the last one has done = true.

        Args:
            image: the picture; null for a question without one.
            prompt: the question.
            variants: ids of variants, as the tool variants lists them.
            settings: such as {"max_tokens": 64}; docs/use/api.md lists them. "pages" of a PDF or TIFF
                file, such as "3" or "2,5-7", are asked about together; the first one if it is left out.
        """
        deriving.join()
        try:
            numbers, settings = _pages(settings)
            given = parts.limited(run_settings.read_settings(settings))
            if not isinstance(variants, list) or not all(isinstance(name, str) for name in variants):
                raise BadInput("The variants have to be a list of ids; /variants tells which there are.")
            chosen = axes.spread(parts.choose(variants), given)
            person = login.person(request)
            images = list(parts.read_pages(image, numbers, person).images) if image else []
            comparison = comparison_request.comparison_of(images, prompt, chosen, given)
            own_parts = parts.of(person)
            updates = branching.run(comparison, own_parts.lab, lab.StopFlag(), max_panes=parts.settings.max_panes)
            for update in measures.compared(updates):
                yield json_documents.of_update(update)
        except PlaygroundError as error:
            raise gr.Error(error.message, title=error.code, print_exception=False) from error

    def doctor(variant: str) -> dict[str, Any]:
        """Check by a variant's headers, and this machine's memory, whether it will work.

        Args:
            variant: the id of a variant, as the tool variants lists it.
        """
        deriving.join()
        try:
            (chosen,) = parts.catalog.choose([variant])[:1]
            diagnosis = check_pair.check_pair(
                lambda: check_pair.from_disk(chosen.model.path, chosen.projector.path),
                parts.hardware,
                chat_template=chosen.chat_template,
            )
        except PlaygroundError as error:
            raise gr.Error(error.message, title=error.code, print_exception=False) from error
        return {
            "variant": chosen.id,
            "level": diagnosis.level.name.lower(),
            "findings": [
                {"level": finding.level.name.lower(), "text": finding.text, "remedy": finding.remedy}
                for finding in diagnosis.findings
            ],
        }

    def measure(
        request: gr.Request,
        variants: list[str],
        questions: int = 20,
        max_tokens: int = 32,
        reasoning_tokens: int = -1,  # with one type, as MCP clients need it
        system: str = "",
        template_variables: dict[str, Any] = {},  # noqa: B006  only read; Gradio shows it as the default
        image_place: str = "before",
        chat_template: str = "",
        uploader: str = "",
        pack: str = "",
    ) -> Iterator[dict[str, Any]]:
        """Measure accuracy and drift of some variants on the embedded questions. The last document has done = true.

        Args:
            variants: ids of at least two variants; the most precise one is the reference.
            questions: how many of the embedded questions are asked.
            max_tokens: the maximum length of an answer.
            reasoning_tokens: of them the reasoning's, at most; -1 (or null) for no limit.
            system: the system message; empty for none.
            template_variables: variables of the chat template, such as {"enable_thinking": false}.
            image_place: "before" or "behind" the question, if it does not say <image>.
            chat_template: Jinja text, or a llama.cpp template's name; empty for each variant's own.
            uploader: your name in the results document, which is "results" in the last document; empty for none.
            pack: a reference pack, owner/name or owner/name:FILE of a dataset repository, in place of a reference \
here; its questions, their form and the lengths of answers hold then.
        """
        deriving.join()
        person = login.person(request)
        try:
            if not 1 <= questions <= _MOST_QUESTIONS:
                raise BadInput(f"questions has to be between 1 and {_MOST_QUESTIONS}, not {questions}.")
            reasoning = reasoning_tokens if (reasoning_tokens or 0) >= 0 else None
            given: dict[str, Any] = {
                "max_tokens": max_tokens,
                "reasoning_tokens": reasoning,
                "system": system or None,
                "template_variables": template_variables or None,
                "image_place": image_place or None,
                "chat_template": chat_template or None,
            }
            settings = parts.limited(run_settings.read_settings(given))
            own_parts, stop = parts.of(person), lab.StopFlag()
            chosen = parts.choose(variants)
            if pack:
                _check_pack(parts.settings, settings, chosen)
                with long_jobs.held(person):
                    try:
                        yield from _against(parts, pack, chosen, own_parts.lab, stop, measures, uploader)
                    finally:
                        stop.run()
                return
            sampling = settings.sampling()
            job_request = MeasureRequest(
                embedded(parts.evaluation).first(questions),
                chosen,
                comparison_request.reference_of(chosen),
                MeasurementPlan(
                    accuracy=True, max_tokens=sampling.max_tokens, reasoning_tokens=sampling.reasoning_tokens
                ),
                form=settings.prompt_form(),
            )
            document = functools.partial(
                result_documents.document,
                variants=chosen,
                reference=job_request.reference,
                engine=parts.engine,
                machine=parts.machine,
                set_name=set_title("", ""),
                plan=job_request.plan,
                runtime=job_request.runtime,
                uploader=uploader,
            )

            with long_jobs.held(person):
                try:
                    for news in measures.measured(endpoint_jobs.job_of(own_parts.lab, job_request, stop.wanted).run()):
                        reply = json_documents.of_news(news)
                        if isinstance(news, Measurement):
                            reply["results"] = msgspec.to_builtins(document(news))
                        yield reply
                finally:
                    stop.run()
        except PlaygroundError as error:
            raise gr.Error(error.message, title=error.code, print_exception=False) from error

    api(variants, api_name="variants", concurrency_limit=None)
    api(doctor, api_name="doctor", concurrency_limit=None)
    api(measure, api_name="measure", concurrency_limit=None)
    api(memory, api_name="memory", concurrency_limit=None)
    # Not gr.api: a component checks that the file is one that the client uploaded, and not one of the server's own.
    image = gr.File(label="image", visible=False, type="filepath")
    prompt = gr.Textbox(label="prompt", visible=False)
    ids = gr.JSON(label="variants", visible=False)
    settings = gr.JSON(label="settings", visible=False)
    # gr.JSON states no type, and MCP clients need one. A subclass would make Gradio write a .pyi file beside this one.
    vars(ids)["api_info"] = lambda: {"type": "array", "items": {"type": "string"}}
    vars(settings)["api_info"] = lambda: {"type": "object"}
    result = gr.JSON(label="result", visible=False)
    gr.Button(visible=False).click(
        compare, [image, prompt, ids, settings], [result], api_name="compare", concurrency_limit=None
    )


def _check_pack(settings: Settings, given: RunSettings, variants: tuple[Variant, ...]) -> None:
    """Raises NotAllowed, and BadInput for what the pack settles, or what cannot read its answers."""
    demo.refuse(settings, "Reference packs are not used here")
    demo.refuse_downloads(settings)
    form = given.prompt_form()
    if form.given:
        raise BadInput(f"The form of the prompts is the pack's. Leave out {', '.join(form.given)}.")
    if any(variant.endpoint for variant in variants):
        raise BadInput("A server elsewhere cannot read a pack's answers. Leave it out.")


def _against(
    parts: Parts,
    name: str,
    variants: tuple[Variant, ...],
    own: Lab,
    stop: lab.StopFlag,
    measures: RunMetrics,
    uploader: str,
) -> Iterator[dict[str, Any]]:
    """Measure against a pack of the Hub. Its images are the embedded ones, or its suite's."""
    path, _ = pack_source.fetch(parts.hub, name, most_bytes=_MOST_PACK_BYTES)
    pack = packs.read(path)
    record, plan, images = pack.record, MeasurementPlan(accuracy=True), embedded(parts.evaluation)
    if record.sample is not None:
        choice = SuiteChoice(suite_source.name_of(record.sample), len(record.sample.rows), record.sample.seed)
        for drawn in suite_source.draw(parts.hub, choice, parts.samples, stop.wanted):
            if isinstance(drawn, QuestionSet):
                images = drawn
            else:
                yield json_documents.of_news(drawn)
    for news in measures.measured(PackJob(own, pack, images, variants, plan, stop=stop.wanted).run()):
        reply = json_documents.of_news(news)
        if isinstance(news, Measurement):
            document = result_documents.document(
                news,
                (record.reference, *variants),
                record.reference.id,
                engine=parts.engine,
                machine=parts.machine,
                set_name=record.questions_name,
                plan=record.limits(plan),
                runtime=Runtime(),
                pack=pack,
                uploader=uploader,
            )
            reply["results"] = msgspec.to_builtins(document)
        yield reply


def _pages(settings: dict[str, Any] | None) -> tuple[tuple[int, ...], dict[str, Any] | None]:
    """The pages of the image's file, and the settings of the run. Raises BadInput."""
    if not isinstance(settings, dict) or settings.get("pages") is None:
        return (1,), settings
    rest = {name: value for name, value in settings.items() if name != "pages"}
    return document_pages.read_numbers(str(settings["pages"])), rest
