"""What a measurement is asked: variants, questions, what of them, and how many steps that takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from playground.errors import BadInput
from playground.measuring import look_test, speed_test
from playground.measuring.question_sets import QuestionSet, embedded
from playground.measuring.results import MeasurementPlan
from playground.measuring.time_left import Kind
from playground.values.files import Variant
from playground.values.request import USUAL_FORM, PromptForm, Runtime

_ALONE = 8  # questions that are asked in a batch, and then one at a time as well
_ALONE_A_PICTURE = 2  # so the second one finds its picture read; all about one picture would say little
_BATCHED_FOR_ONE = 16  # questions times variants: 8 of 32 took a third of a measurement's time (bench/README.md)
_DOCTOR_QUESTIONS = 12  # of a pair that is about to be used: a large model takes seconds for each


class MeasureRequest(msgspec.Struct, frozen=True):
    """Which variants to measure, with which questions, and what of them."""

    questions: QuestionSet
    variants: tuple[Variant, ...]
    reference: str  # a variant's id
    plan: MeasurementPlan = MeasurementPlan()
    runtime: Runtime = Runtime()
    form: PromptForm = USUAL_FORM


def n_alone(n_questions: int, n_variants: int) -> int:
    """How many of the questions that are asked in batches the reference is asked alone as well."""
    return min(_ALONE, max(2, n_questions * n_variants // _BATCHED_FOR_ONE))


def chosen_alone(pictures: Sequence[str], n: int) -> list[int]:
    """Which of the questions that are about these pictures are asked alone, at most n: of pictures from all over the
    set. Those about one picture follow each other. `pictures`: not empty."""
    places: dict[str, list[int]] = {}
    for place, picture in enumerate(pictures):
        places.setdefault(picture, []).append(place)
    most = max(_ALONE_A_PICTURE, -(-n // len(places)))
    groups = [group[:most] for group in places.values()]
    n_pictures = min(len(groups), max(2, -(-n * len(groups) // sum(map(len, groups)))))
    each = -(-n // n_pictures)
    return [place for i in range(n_pictures) for place in groups[i * len(groups) // n_pictures][:each]][:n]


def steps_of(plan: MeasurementPlan, n_questions: int, n_variants: int) -> dict[Kind, int]:
    """How many steps of each kind a measurement takes, the reference among the variants."""
    n_others = n_variants - 1
    return {
        Kind.ASK: n_questions,
        Kind.RECORD: n_questions * plan.drift,
        Kind.FLOOR: n_questions * plan.drift * n_variants,
        Kind.DRIFT: n_questions * plan.drift * n_others,
        Kind.ANSWER: n_questions * plan.accuracy * n_others,
        Kind.LOOK: n_variants * min(look_test.QUESTIONS, n_questions) * plan.look,
        Kind.SPEED: n_variants * speed_test.ROUNDS * plan.speed,
    }


def steps_of_one(plan: MeasurementPlan, n_questions: int, is_reference: bool) -> Counter[Kind]:
    """Of one variant, once the reference has answered. Speeds are measured later."""
    steps = Counter(steps_of(plan, n_questions, 2))
    steps.subtract(steps_of(plan, n_questions, 1))
    left_out = {Kind.SPEED, Kind.DRIFT, Kind.ANSWER} if is_reference else {Kind.SPEED}
    return Counter({kind: n for kind, n in steps.items() if kind not in left_out})


def look_request(folder: Path, variant: Variant) -> MeasureRequest:
    """Does a pair look at the picture at all? Asked with the embedded questions, which are in `folder`."""
    plan = MeasurementPlan(drift=False, look=True, max_tokens=32)
    questions = embedded(folder, level="easy").first(_DOCTOR_QUESTIONS)
    return MeasureRequest(questions, (variant,), variant.id, plan)


def check_comparable(variants: Sequence[Variant], reference: Variant, items: QuestionSet) -> None:
    """Raises BadInput for variants whose tokens are not the reference's, and for no items.

    What answers elsewhere has no tokens here.
    """
    if not items.items:
        raise BadInput("There is no question in the set.")
    here = [v for v in variants if not v.endpoint]
    base = next(iter(here), reference) if reference.endpoint else reference
    for variant in here:
        if variant.model.vocabulary_sha256 != base.model.vocabulary_sha256:
            raise BadInput(
                f"{variant.label} has another vocabulary than {base.label}: their distributions cannot be "
                "compared. Measure variants of one language model."
            )
