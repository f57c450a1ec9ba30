"""What quantizations cost, over a set of questions: drift from the reference, accuracy, and whether a pair looks.

Drift: the reference answers each question greedily; every variant reads that answer, with the image embedded by its own
projector, and its distribution over each next token is compared with the reference's over the whole vocabulary. Nothing
is decoded but the reference's answers: where a variant would first have said something else is where its likeliest
token first is another one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import msgspec

from playground.comparing.lab import Lab
from playground.errors import BadInput, Failure, Interrupted
from playground.measuring import look_test, speed_test
from playground.measuring.question_sets import QuestionSet, embedded
from playground.measuring.results import (
    Measurement,
    MeasurementPlan,
    Progress,
    QuestionDrift,
    RecordedAnswer,
    Speed,
)
from playground.measuring.scoring_rules import score
from playground.measuring.steps import Condition, Item, Steps
from playground.measuring.summaries import mean, question_drift, variant_result
from playground.values.answer import TokenDrift
from playground.values.files import Variant
from playground.values.request import Runtime

_FLOOR_QUESTIONS = 12


class MeasureRequest(msgspec.Struct, frozen=True):
    """Which variants to measure, with which questions, and what of them."""

    questions: QuestionSet
    variants: tuple[Variant, ...]
    reference: str  # a variant's id
    plan: MeasurementPlan = MeasurementPlan()
    runtime: Runtime = Runtime()


def look_request(folder: Path, variant: Variant) -> MeasureRequest:
    """Does a pair look at the picture at all? Asked with three of the embedded questions, which are in `folder`."""
    plan = MeasurementPlan(drift=False, look=True, max_tokens=32)
    return MeasureRequest(embedded(folder, level="easy").first(3), (variant,), variant.id, plan)


class MeasureJob:
    """One measurement. `run` yields Progress, and at the end a Measurement."""

    def __init__(self, lab: Lab, request: MeasureRequest, stop: Callable[[], bool] = lambda: False) -> None:
        """Raises BadInput for what cannot be compared."""
        self._variants = request.variants
        self._reference = next(v for v in request.variants if v.id == request.reference)
        check(self._variants, self._reference, request.questions)
        self._set = request.questions
        self._plan = request.plan
        self._stop = stop
        self._results = lab.results
        self.steps = Steps(lab, self._reference, request.runtime, request.plan.max_tokens, stop)
        self.problems: list[str] = list(request.questions.problems)
        self.items: list[Item] = []  # that the reference has answered
        self._answers: list[RecordedAnswer] = []  # the reference's, one for each item
        self._started = time.monotonic()
        self._done = self._total = 0

    def run(self) -> Iterator[Progress | Measurement]:
        """Raises Interrupted, and what makes all of it impossible. A question that fails is reported and left out."""
        plan, base = self._plan, self._reference
        # Variants with one language model stand together, so that it is loaded once.
        order = [v.model.sha256 for v in self._variants]
        others = sorted((v for v in self._variants if v.id != base.id), key=lambda v: order.index(v.model.sha256))
        self._expect_all(len(others))
        with self._results.scratch() as records:
            yield from self.ask()
            floors: dict[str, float] = {}
            if plan.drift:
                floors = yield from self.record(records, others)
            drifts = {base.id: [self._own_answer(item, text.text) for item, text in self._answered()]}
            for variant in others:
                drifts[variant.id] = yield from self.read(variant, records)
            looks: dict[str, float] = {}
            speeds: dict[str, Speed] = {}
            for variant in self._variants:
                try:
                    if plan.look:
                        looks[variant.id] = yield from self._look(variant, records)
                    if plan.speed:
                        speeds[variant.id] = yield from self._time(variant)
                except Failure as error:
                    self.problems.append(f"{variant.label}: {error.message}")
        yield Measurement(
            questions=tuple(item.question for item in self.items),
            answers=tuple(answer.text for answer in self._answers),
            results=tuple(
                variant_result(
                    v.id,
                    drifts[v.id],
                    None if v.id == base.id else drifts[base.id],
                    look_test.verdict(looks[v.id]) if v.id in looks else None,
                    looks.get(v.id),
                    speeds.get(v.id),
                )
                for v in self._variants
            ),
            floor=max(floors.values(), default=None),
            floors=floors,
            problems=tuple(self.problems),
            elapsed_s=time.monotonic() - self._started,
        )

    # --- stages; a scan of many variants goes through them itself (quantizing/sensitivity_scan.py) ---

    def expect(self, steps: int) -> None:
        """Count so many more steps to be done."""
        self._total += steps

    def expect_baseline(self, n: int) -> None:
        """The steps of `ask` and `record` for n questions."""
        self.expect(2 * n + 3 * min(_FLOOR_QUESTIONS, n))

    def ask(self) -> Iterator[Progress]:
        """Have the reference answer every question; fills `items`. Raises BadInput if none can be asked."""
        for question in self._set.items:
            try:
                item = Item(question, self._set.image(question))
                if self._is_new(self.steps.answer_key(self._reference, item)):
                    yield self.step(f"{self._reference.label} answers")
                answer = self.steps.answer(self._reference, item)
                if not answer.token_ids:
                    raise BadInput("the reference's answer to it is empty")
            except Failure as error:
                self.problems.append(f"{question.image}, {question.question[:40]!r}: {error.message}")
                continue
            self.items.append(item)
            self._answers.append(answer)
        if not self.items:
            raise BadInput(f"No question could be asked. {self.problems[-1]}")

    def record(self, records: Path, others: Sequence[Variant] | None) -> Generator[Progress, None, dict[str, float]]:
        """Record the reference's distributions, as far as a variant of `others` (None: any) will be compared with them.

        Returns the noise floor, by what was done in another way.
        """
        base, steps, results = self._reference, self.steps, self._results
        conditions = {self._floor_key(condition): condition for condition in steps.floor_conditions()}
        wanted = {
            k
            for k, item in enumerate(self.items)
            if others is None or not all(results.has(steps.drift_key(v, item)) for v in others)
        }
        if not all(results.has(key) for key in conditions):
            wanted |= set(range(len(self._floor_items)))
        for k, (item, answer) in enumerate(self._answered()):
            if k not in wanted:
                self._total -= 1
                continue
            yield self.step(f"{base.label} reads its answers")
            prompt, path = steps.prompt(base, item), records / f"{k}"
            n_vocabulary = steps.record(base, prompt, answer.token_ids, path)
            if k == min(wanted):
                steps.choose_dtype(n_vocabulary, len(wanted), records)
                steps.record(base, prompt, answer.token_ids, path)
        floors: dict[str, float] = {}
        for key, condition in conditions.items():
            kl = results.get(key, float)
            if kl is not None:
                self._total -= len(self._floor_items)
            else:
                kl = yield from self._measure_floor(condition, records)
                results.put(key, kl)
            floors[condition.name] = kl
        return floors

    def read(
        self, variant: Variant, records: Path, *, label: str = "", strict: bool = False
    ) -> Generator[Progress, None, list[QuestionDrift]]:
        """Every question's drift and answer of one variant, as the plan wants.

        An error with a question stands with it and in `problems`; `strict`: it is raised.
        """
        label = label or variant.label
        drifts = []
        for k, (item, answer) in enumerate(self._answered()):
            drift = QuestionDrift()
            try:
                if self._plan.drift:
                    if self._is_new(self.steps.drift_key(variant, item)):
                        yield self.step(f"{label}: drift")
                    drift = self.steps.drift(variant, item, answer.token_ids, records / f"{k}")
                if self._plan.accuracy:
                    if self._is_new(self.steps.answer_key(variant, item)):
                        yield self.step(f"{label}: answers")
                    text = self.steps.answer(variant, item).text
                    drift = msgspec.structs.replace(drift, text=text, score=score(item.question, text))
            except Failure as error:
                if strict:
                    raise
                drift = QuestionDrift(error=error.message)
                self.problems.append(f"{label}, {item.question.question[:40]}: {error.message}")
            drifts.append(drift)
        return drifts

    def read_once(self, variant: Variant, records: Path, label: str) -> Generator[Progress, None, list[QuestionDrift]]:
        """The drift of a variant whose files are deleted afterwards: nothing of it is cached, and errors are raised."""
        drifts = []
        fresh = variant.projector.sha256 != self._reference.projector.sha256
        for k, (item, answer) in enumerate(self._answered()):
            yield self.step(f"{label}: drift")
            prompt = self.steps.prompt(variant, item, fresh=fresh)
            drifts.append(question_drift(self.steps.read(variant, prompt, answer.token_ids, records / f"{k}")))
        return drifts

    def step(self, what: str) -> Progress:
        """Raises Interrupted when that is wanted."""
        if self._stop():
            raise Interrupted("Stopped.")
        elapsed = time.monotonic() - self._started
        left = elapsed / self._done * (self._total - self._done) if self._done else None
        self._done += 1
        return Progress(what, self._done - 1, self._total, left)

    def _expect_all(self, n_others: int) -> None:
        plan, n = self._plan, len(self._set.items)
        if plan.drift:
            self.expect_baseline(n)
        else:
            self.expect(n)
        self.expect(n_others * n * (plan.drift + plan.accuracy))
        each = min(look_test.QUESTIONS, n) * plan.look + min(speed_test.QUESTIONS, n) * plan.speed
        self.expect((1 + n_others) * each)

    def _answered(self) -> list[tuple[Item, RecordedAnswer]]:
        return list(zip(self.items, self._answers, strict=True))

    @property
    def _floor_items(self) -> list[Item]:
        return self.items[:_FLOOR_QUESTIONS]

    def _floor_key(self, condition: Condition) -> str:
        questions = [(question.question, image.sha256) for question, image in self._floor_items]
        return self.steps.key("floor", self._reference, self.items[0], condition.name, questions)

    def _measure_floor(self, condition: Condition, records: Path) -> Generator[Progress, None, float]:
        drifts: list[TokenDrift] = []
        for k, item in enumerate(self._floor_items):
            yield self.step(f"noise floor: {condition.name}")
            prompt = self.steps.prompt(self._reference, item, fresh=condition.fresh)
            ids = self._answers[k].token_ids
            drifts += self.steps.read(self._reference, prompt, ids, records / f"{k}", condition.runtime)
        return mean([drift.kl for drift in drifts])

    def _own_answer(self, item: Item, text: str) -> QuestionDrift:
        return QuestionDrift(text=text, score=score(item.question, text) if self._plan.accuracy else None)

    def _look(self, variant: Variant, records: Path) -> Generator[Progress, None, float]:
        shifts = []
        for item in self.items[: look_test.QUESTIONS]:
            if self._is_new(look_test.key(self.steps, variant, item, self.items)):
                yield self.step(f"{variant.label}: does it look?")
            shifts.append(look_test.shift(self.steps, variant, item, self.items, records / "look"))
        return mean(shifts)

    def _time(self, variant: Variant) -> Generator[Progress, None, Speed]:
        timings = []
        for item in self.items[: speed_test.QUESTIONS]:
            yield self.step(f"{variant.label}: speed")
            timings.append(speed_test.timed(self.steps, variant, item))
        return speed_test.speed(timings)

    def _is_new(self, key: str) -> bool:
        """Whether it has to be computed; a cached result takes no step."""
        if self._results.has(key):
            self._total -= 1
            return False
        return True


def check(variants: Sequence[Variant], reference: Variant, items: QuestionSet) -> None:
    """Raises BadInput for variants whose tokens are not the reference's, and for no items."""
    if not items.items:
        raise BadInput("There is no question in the set.")
    for variant in variants:
        if variant.model.vocabulary_sha256 != reference.model.vocabulary_sha256:
            raise BadInput(
                f"{variant.label} has another vocabulary than {reference.label}: their distributions cannot be "
                "compared. Measure variants of one language model."
            )
