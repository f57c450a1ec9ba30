"""A comparison and a measurement of the real engine, run to their end."""

from __future__ import annotations

from playground.comparing import compare, comparison_request
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan
from playground.models.presets import data_folder
from playground.values.answer import ComparisonUpdate
from playground.values.files import Variant
from playground.values.request import Comparison, Image, Order, PromptForm, Runtime, Sampling
from playground.wiring import Parts

EMBEDDED = data_folder() / "tiny-vlm"
MODEL, PROJECTOR = EMBEDDED / "tiny-vlm-7M-F16.gguf", EMBEDDED / "mmproj-tiny-vlm-7M-F16.gguf"
SCENE = EMBEDDED / "evaluation/hard-62.png"
WHAT = "What do you see?"
SHORT_CONTEXT = Runtime(n_ctx=512)


def comparison(
    image: Image | tuple[Image, ...],
    prompt: str,
    variants: tuple[Variant, ...],
    *,
    max_tokens: int = 128,
    n_ctx: int | None = 1024,
    order: Order = Order.IN_TURN,
    sampling: Sampling | None = None,
    cold: bool = False,
) -> Comparison:
    return Comparison(
        images=image if isinstance(image, tuple) else (image,),
        prompt=prompt,
        variants=variants,
        reference=comparison_request.reference_of(variants),
        cold=cold,
        sampling=sampling or Sampling(max_tokens=max_tokens),
        runtime=Runtime(n_ctx=n_ctx),
        order=order,
    )


def run(parts: Parts, comparison: Comparison) -> ComparisonUpdate:
    """Run to the end."""
    *_, last = compare.run(comparison, parts.lab, compare.StopFlag())
    assert last.done
    return last


def measured(
    parts: Parts,
    question_set: QuestionSet,
    variants: tuple[Variant, ...],
    plan: MeasurementPlan | None = None,
    runtime: Runtime = SHORT_CONTEXT,
    form: PromptForm | None = None,
) -> Measurement:
    plan, form = plan or MeasurementPlan(), form or PromptForm()
    request = MeasureRequest(question_set, variants, variants[0].id, plan, runtime, form)
    *_, last = MeasureJob(parts.lab, request).run()
    assert isinstance(last, Measurement)
    assert list((parts.settings.cache_dir / "measured").glob("scratch-*")) == []
    return last
