"""The public endpoints, for gradio_client, curl and MCP: /variants, /compare, /memory, /doctor, /measure.

Gradio makes an MCP tool of each. Its arguments' types come from the annotations here, their meaning from "Args".
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.pack_jobs import PackJob
from playground.measuring.question_sets import QuestionSet, embedded
from playground.measuring.result_documents import ResultDocument
from playground.measuring.results import Measurement, MeasurementPlan, Progress
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
    public = _PublicApi(parts, deriving, measures, long_jobs)
    api(public.variants, api_name="variants", concurrency_limit=None)
    api(public.doctor, api_name="doctor", concurrency_limit=None)
    api(public.measure, api_name="measure", concurrency_limit=None)
    api(public.memory, api_name="memory", concurrency_limit=None)
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
        public.compare, [image, prompt, ids, settings], [result], api_name="compare", concurrency_limit=None
    )


@contextlib.contextmanager
def _answered() -> Iterator[None]:
    """An error of ours reaches the client with its code as the title."""
    try:
        yield
    except PlaygroundError as error:
        raise gr.Error(error.message, title=error.code, print_exception=False) from error


@dataclass(frozen=True, slots=True)
class _PublicApi:
    """The functions that Gradio calls. Clients are shown what stands in their docstrings."""

    parts: Parts
    deriving: Thread
    measures: RunMetrics
    long_jobs: JobLimits

    def variants(self) -> list[dict[str, Any]]:
        """The variants that are there; bytes and sha256 are the language model's. "endpoint": it answers elsewhere."""
        self.deriving.join()
        parts = self.parts
        return [json_documents.of_variant(v) for v in (*parts.catalog.variants, *parts.endpoints.variants)]

    def memory(self) -> dict[str, Any]:
        """What the workers, the GPUs and the host hold, in bytes."""
        return json_documents.of_memory(self.parts.pool.memory())

    def compare(
        self,
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
        self.deriving.join()
        parts = self.parts
        with _answered():
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
            for update in self.measures.compared(updates):
                yield json_documents.of_update(update)

    def doctor(self, variant: str) -> dict[str, Any]:
        """Check by a variant's headers, and this machine's memory, whether it will work.

        Args:
            variant: the id of a variant, as the tool variants lists it.
        """
        self.deriving.join()
        with _answered():
            (chosen,) = self.parts.catalog.choose([variant])[:1]
            diagnosis = check_pair.check_pair(
                lambda: check_pair.from_disk(chosen.model.path, chosen.projector.path),
                self.parts.hardware,
                chat_template=chosen.chat_template,
            )
        return {
            "variant": chosen.id,
            "level": diagnosis.level.name.lower(),
            "findings": [
                {"level": finding.level.name.lower(), "text": finding.text, "remedy": finding.remedy}
                for finding in diagnosis.findings
            ],
        }

    def measure(
        self,
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
        Its "verdict" is what may be said: where it says "not enough questions", the numbers show nothing yet.

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
        self.deriving.join()
        person = login.person(request)
        with _answered():
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
            settings = self.parts.limited(run_settings.read_settings(given))
            chosen = self.parts.choose(variants)
            work = _Work(self.parts, self.parts.of(person).lab, lab.StopFlag(), self.measures, chosen, uploader)
            if pack:
                _check_pack(self.parts.settings, settings, chosen)
                documents = work.against(pack)
            else:
                documents = work.among_themselves(questions, settings)
            with self.long_jobs.held(person):
                try:
                    yield from documents
                finally:
                    work.stop.run()


@dataclass(frozen=True, slots=True)
class _Work:
    """A measurement for one client, as documents of its progress; the last one has the results."""

    parts: Parts
    own_lab: Lab
    stop: lab.StopFlag
    measures: RunMetrics
    variants: tuple[Variant, ...]
    uploader: str

    def among_themselves(self, questions: int, settings: RunSettings) -> Iterator[dict[str, Any]]:
        """The most precise variant is the reference."""
        sampling = settings.sampling()
        plan = MeasurementPlan(
            accuracy=True, max_tokens=sampling.max_tokens, reasoning_tokens=sampling.reasoning_tokens
        )
        question_set = embedded(self.parts.evaluation).first(questions)
        reference = comparison_request.reference_of(self.variants)
        request = MeasureRequest(question_set, self.variants, reference, plan, form=settings.prompt_form())
        document = functools.partial(
            result_documents.document,
            set_name=set_title("", ""),
            plan=plan,
            runtime=request.runtime,
        )
        job = endpoint_jobs.job_of(self.own_lab, request, self.stop.wanted)
        yield from self._documents(job.run(), document, self.variants, reference)

    def against(self, name: str) -> Iterator[dict[str, Any]]:
        """A pack of the Hub is the reference. Its images are the embedded ones, or its suite's."""
        parts = self.parts
        path, _ = pack_source.fetch(parts.hub, name, most_bytes=_MOST_PACK_BYTES)
        pack = packs.read(path)
        record, plan, images = pack.record, MeasurementPlan(accuracy=True), embedded(parts.evaluation)
        if record.sample is not None:
            choice = SuiteChoice(suite_source.name_of(record.sample), len(record.sample.rows), record.sample.seed)
            for drawn in suite_source.draw(parts.hub, choice, parts.samples, self.stop.wanted):
                if isinstance(drawn, QuestionSet):
                    images = drawn
                else:
                    yield json_documents.of_news(drawn)
        document = functools.partial(
            result_documents.document,
            set_name=record.questions_name,
            plan=record.limits(plan),
            runtime=Runtime(),
            pack=pack,
        )
        job = PackJob(self.own_lab, pack, images, self.variants, plan, stop=self.stop.wanted)
        yield from self._documents(job.run(), document, (record.reference, *self.variants), record.reference.id)

    def _documents(
        self,
        news: Iterator[Progress | Measurement],
        document: Callable[..., ResultDocument],
        variants: tuple[Variant, ...],
        reference: str,
    ) -> Iterator[dict[str, Any]]:
        parts = self.parts
        for piece in self.measures.measured(news):
            reply = json_documents.of_news(piece, variants, reference)
            if isinstance(piece, Measurement):
                results = document(
                    piece, variants, reference, engine=parts.engine, machine=parts.machine, uploader=self.uploader
                )
                reply["results"] = msgspec.to_builtins(results)
            yield reply


def _check_pack(settings: Settings, given: RunSettings, variants: tuple[Variant, ...]) -> None:
    """Raises NotAllowed, and BadInput for what the pack settles, or what cannot read its answers."""
    demo.refuse(settings, "Reference packs are not used here")
    demo.refuse_downloads(settings)
    form = given.prompt_form()
    if form.given:
        raise BadInput(f"The form of the prompts is the pack's. Leave out {', '.join(form.given)}.")
    if any(variant.endpoint for variant in variants):
        raise BadInput("A server elsewhere cannot read a pack's answers. Leave it out.")


def _pages(settings: dict[str, Any] | None) -> tuple[tuple[int, ...], dict[str, Any] | None]:
    """The pages of the image's file, and the settings of the run. Raises BadInput."""
    if not isinstance(settings, dict) or settings.get("pages") is None:
        return (1,), settings
    rest = {name: value for name, value in settings.items() if name != "pages"}
    return document_pages.read_numbers(str(settings["pages"])), rest
