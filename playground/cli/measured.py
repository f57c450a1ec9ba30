"""One measurement for a command: against a reference here, or against a reference pack."""

from __future__ import annotations

from dataclasses import dataclass, replace

from playground.cli.options import QuestionOptions, followed, questions_of
from playground.comparing import comparison_request
from playground.errors import BadInput
from playground.measuring import endpoint_jobs, packs, result_documents, results, suite_source
from playground.measuring import ship_card as ship
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.pack_jobs import PackJob
from playground.measuring.question_sets import MAX_ITEMS
from playground.measuring.result_documents import ResultDocument
from playground.values.files import Variant
from playground.values.request import Runtime
from playground.wiring import Parts


@dataclass(frozen=True, slots=True)
class MeasuredVariants:
    """A measurement, and what is needed to say what it was made with."""

    measurement: results.Measurement
    variants: tuple[Variant, ...]
    reference: str
    engine: str
    machine: str
    plan: results.MeasurementPlan
    runtime: Runtime
    set_name: str
    pack: packs.Pack | None = None

    def document(self, uploader: str) -> ResultDocument:
        return result_documents.document(
            self.measurement,
            self.variants,
            self.reference,
            engine=self.engine,
            machine=self.machine,
            set_name=self.set_name,
            plan=self.plan,
            runtime=self.runtime,
            pack=self.pack,
            uploader=uploader,
        )


def check_for_pack(questions: QuestionOptions) -> None:
    """What a pack settles cannot be given. Raises BadInput."""
    if not (questions.max_tokens is None and questions.reasoning_tokens is None):
        raise BadInput("The length of an answer is the pack's. Leave out --max-tokens and --reasoning-tokens.")
    form = questions.form
    if form.given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in form.given)
        raise BadInput(f"The form of the prompts is the pack's. Leave out {options}.")


def measure_here(
    parts: Parts,
    questions: QuestionOptions,
    variants: tuple[Variant, ...],
    plan: results.MeasurementPlan,
    wanted: str | None = None,
) -> MeasuredVariants:
    """`wanted`: the id of the reference; None: the most precise one."""
    reference, runtime = comparison_request.reference_of(variants, wanted), Runtime(n_ctx=questions.n_ctx)
    request = MeasureRequest(questions_of(parts, questions), variants, reference, plan, runtime, questions.form)
    measurement = followed(endpoint_jobs.job_of(parts.lab, request).run(), results.Measurement)
    own, sample = questions.items, measurement.sample
    set_name = sample.words if sample else ship.set_title(own.name if own else "", questions.level)
    return MeasuredVariants(measurement, variants, reference, parts.engine, parts.machine, plan, runtime, set_name)


def measure_against(
    parts: Parts,
    pack: packs.Pack,
    questions: QuestionOptions,
    variants: tuple[Variant, ...],
    plan: results.MeasurementPlan,
) -> MeasuredVariants:
    """All questions of the pack are asked; `questions` says where their images are."""
    record, sample = pack.record, pack.record.sample
    if questions.items is None and not questions.suite and sample is not None:
        questions = replace(questions, suite=suite_source.name_of(sample), seed=sample.seed, n=len(sample.rows))
    else:
        questions = replace(questions, level="", n=MAX_ITEMS)
    images = questions_of(parts, questions)
    if not variants:
        raise BadInput("No variant is chosen.")
    runtime = Runtime(n_ctx=questions.n_ctx)
    job = PackJob(parts.lab, pack, images, variants, plan, runtime)
    measurement = followed(job.run(), results.Measurement)
    return MeasuredVariants(
        measurement,
        (record.reference, *variants),
        record.reference.id,
        parts.engine,
        parts.machine,
        record.limits(plan),
        runtime,
        record.questions_name,
        pack,
    )
