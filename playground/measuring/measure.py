"""What quantizations cost, over a set of questions: drift from the reference, accuracy, and whether a pair looks.

Drift: the reference answers each question greedily; every variant reads that answer, with the image embedded by its own
projector, and its distribution over each next token is compared with the reference's over the whole vocabulary. Nothing
is decoded but the reference's answers: where a variant would first have said something else is where its likeliest
token first is another one.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Event

import msgspec

from playground.comparing.lab import Lab
from playground.comparing.loops import loop_of
from playground.endpoints.client import EndpointAnswer
from playground.engine import protocol
from playground.errors import BadInput, Failure, Interrupted, MachineLost
from playground.measuring import elsewhere, look_test, pace, question_sets, speed_test, statistics
from playground.measuring.at_places import AtPlaces, OnProgress, say_where
from playground.measuring.measure_request import (
    MeasureRequest,
    check_comparable,
    chosen_alone,
    n_alone,
    steps_of,
    steps_of_one,
)
from playground.measuring.parity import Parity, key_parts
from playground.measuring.question_sets import Question
from playground.measuring.results import (
    AskedAlone,
    Measurement,
    Progress,
    QuestionDrift,
    RecordedAnswer,
    Speed,
    UsedPack,
    VariantResult,
)
from playground.measuring.scoring_rules import score
from playground.measuring.shares import Shares, at_least
from playground.measuring.steps import Item, Reading, Steps
from playground.measuring.summaries import question_drift, variant_result
from playground.measuring.time_left import Kind, TimeLeft
from playground.pool.engine_choices import kind_of
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec, language_spec, vision_spec
from playground.support.ahead import Results
from playground.values.files import Variant
from playground.values.memory import machine_of
from playground.values.request import Image, Runtime
from playground.values.texts import shortened

# A drift up to so many times the floor is taken for arithmetic: the floor is known from a sample only. A convention.
_ARITHMETIC = 3
_MAX_NAME = 200  # characters of an image's name in a problem

_IN_BATCHES = "in batches of questions instead of alone"

_BASELINE = (Kind.ASK, Kind.RECORD, Kind.FLOOR)  # steps for each question of the reference

_LIMIT_REASONING = "Raise the limit of tokens, or set one of reasoning tokens below it."


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What was measured of one variant."""

    drifts: list[QuestionDrift]
    floor: float | None
    sight: list[float] | None  # None: not asked for, or it failed
    problems: list[str]
    asked_alone: AskedAlone | None  # of the reference
    place: str  # with its device


def _asked(drifts: list[QuestionDrift]) -> _Outcome:
    """Of what answers elsewhere."""
    return _Outcome(drifts, None, None, [], None, "")


class MeasureJob:
    """One measurement. `run` yields Progress, and at the end a Measurement."""

    def __init__(
        self,
        lab: Lab,
        request: MeasureRequest,
        stop: Callable[[], bool] = lambda: False,
        work: TimeLeft | None = None,
    ) -> None:
        """`work`: of all jobs that share one progress. Raises BadInput for what cannot be compared."""
        self._variants = request.variants
        self._reference = next(v for v in request.variants if v.id == request.reference)
        check_comparable(self._variants, self._reference, request.questions)
        self._set = request.questions
        self._plan = request.plan
        if len({v.overrides and v.overrides.image_tokens for v in self._variants}) > 1:
            self._plan = msgspec.structs.replace(request.plan, speed=True)  # the encode time belongs beside the drift
        self._abandoned = Event()  # nobody takes the results any more
        self._stop: Callable[[], bool] = lambda: self._abandoned.is_set() or stop()
        self._results = lab.results
        self._at_hand = tuple(v for v in request.variants if not v.endpoint)  # those whose files are here
        sampling, form = request.plan.sampling, request.form
        self.steps = Steps(lab, self._reference, request.runtime, sampling, self._stop, form=form)
        self.problems: list[str] = list(request.questions.problems)
        self._to_ask: list[Item] | None = None  # the questions; None: their images are not opened yet
        self.items: list[Item] = []  # that the reference has answered
        self._answers: list[RecordedAnswer] = []  # the reference's, one for each item
        self._floors: dict[str, float] = {}  # the reference's: how far it lies from itself, computed another way
        self._speeds_at = ""
        self.left_out = 0  # questions that could not be asked
        self._started = time.monotonic()
        self._work = work or TimeLeft()
        self._per_question = dict.fromkeys(_BASELINE, 1)  # steps; of a scan those of `expect_baseline`

    def run(self) -> Iterator[Progress | Measurement]:
        """Raises Interrupted, and what makes all of it impossible. A question that fails is reported and left out."""
        with self._results.scratch() as records:
            outcomes = yield from self._outcomes(records)
            floor = outcomes[self._reference.id].floor
            if floor is not None:
                self._floors = {self._other_way: floor, **self._floors}
            speeds = (yield from self._time()) if self._plan.speed else {}
        yield self._measurement(outcomes, speeds)

    def _outcomes(self, records: Path) -> Generator[Progress, None, dict[str, _Outcome]]:
        """Of each variant, by its id. Their problems are in `problems`."""
        base = self._reference
        # Variants with one language model stand together, so that it is loaded once.
        order = [v.model.sha256 for v in self._variants]
        order.insert(0, base.model.sha256)
        rivals = [v for v in self._variants if v.id != base.id]
        others = sorted((v for v in rivals if not v.endpoint), key=lambda v: order.index(v.model.sha256))
        self._expect_all(len(others))
        anywhere = self.steps
        outcomes: dict[str, _Outcome] = {}
        here = others if base.endpoint else [base, *others]
        self.stay()
        at_places = self._at_places(anywhere, here, records, outcomes)
        with closing(at_places.start(self._language_spec(self._at_hand[0]))) as progress:
            yield from self.ask()
            if self._plan.drift:
                yield from self.record(records, others)
            self.steps = self.steps.at(anywhere.lab.pool.only)
            for rival in (v for v in rivals if v.endpoint):  # first: a server that is gone takes no work along
                outcomes[rival.id] = _asked((yield from self._asked_elsewhere(rival)))
            if base.endpoint:
                answered = self._answered()
                outcomes[base.id] = _asked([self._scored(QuestionDrift(), *item) for item in answered])
            at_places.measure(self.steps)
            yield from progress
        for variant in here:
            self.problems += outcomes[variant.id].problems
        return outcomes

    def _measurement(self, outcomes: Mapping[str, _Outcome], speeds: Mapping[str, Speed]) -> Measurement:
        base = self._reference
        questions = tuple(item.question for item in self.items)
        drifts = {id: outcome.drifts for id, outcome in outcomes.items()}
        at = {outcomes[variant.id].place for variant in self._at_hand}
        places = tuple(sorted(at | {self._speeds_at} - {""}))
        if len(places) == 1 and not machine_of(places[0]):
            places = ()  # the page's only one, or the only one that was free
        results = [
            self._result(
                variant_result(v.id, drifts[v.id], None if v.id == base.id else drifts[base.id], questions),
                outcomes[v.id],
                speeds.get(v.id),
            )
            for v in self._variants
        ]
        return Measurement(
            questions=questions,
            answers=tuple(answer.text for answer in self._answers),
            results=tuple(_judged(results)),
            floor=max(self._floors.values(), default=None),
            floors=self._floors,
            problems=(*self.problems, *self.steps.notes),
            elapsed_s=time.monotonic() - self._started,
            left_out=self.left_out,
            sample=self._set.sample,
            asked_alone=outcomes[base.id].asked_alone,
            places=places,
            speeds_at=self._speeds_at if places else "",
            form=self.steps.form.or_none,
            pack=self._used_pack,
            parity=self._results.get(self._results.key(*key_parts(base, self.steps.runtime)), Parity),
        )

    # --- variants over places ---

    def stay(self) -> None:
        """What follows is asked at one place, where the reference is: one device decides how it rounds."""
        self.steps = self.steps.at(self._home())

    def at(self, places: Places) -> MeasureJob:
        """The same job at these places, while others work elsewhere."""
        job = copy(self)
        job.steps = self.steps.at(places)
        return job

    def side_by_side(self, lanes: Mapping[Places, Iterator[Progress]]) -> Iterator[Progress]:
        """What is done at several places at once, by jobs that `at` gave."""

        def work(done: Callable[[Progress], None]) -> None:
            def drain(places: Places) -> None:
                for progress in lanes[places]:
                    say_where(done, places, progress)

            with ThreadPoolExecutor(len(lanes)) as threads:
                try:
                    for lane in as_completed([threads.submit(drain, places) for places in lanes]):
                        lane.result()
                except BaseException:
                    self._abandoned.set()  # the other places end too
                    raise

        with closing(Results(work, self._abandoned)) as progress:
            yield from progress

    def _home(self) -> Places:
        """Where the reference answers: at one place, so that its models are loaded once."""
        pool = self.steps.lab.pool
        if self._reference.endpoint or len(pool.turn_options(())) < 2:
            return pool.only
        runtime = self.steps.runtime_of(self._reference)
        model, projector = self._reference.model, self._reference.projector
        with pool.turn(
            [language_spec(model, runtime), vision_spec(projector, model, runtime)], stop=self._stop
        ) as slot:
            return slot.places

    def _language_spec(self, variant: Variant) -> WorkerSpec:
        return language_spec(variant.model, self.steps.runtime_of(variant))

    def _at_places(
        self, anywhere: Steps, variants: Sequence[Variant], records: Path, outcomes: dict[str, _Outcome]
    ) -> AtPlaces:
        """It fills `outcomes`."""
        pool, spec, base = anywhere.lab.pool, self._language_spec, self._reference

        def seconds(places: Places, group: Sequence[Variant]) -> float:
            """Its models are loaded, and then its steps are done, about as fast as the reference's were."""
            encoders = {v.projector.sha256: vision_spec(v.projector, v.model, self.steps.runtime_of(v)) for v in group}
            encoders.pop(base.projector.sha256, None)  # it has encoded the pictures, and they are kept
            n = len(self.items) or len(self._to_ask or ())  # none is answered yet
            steps = sum((steps_of_one(self._plan, n, v.id == base.id) for v in group), Counter[Kind]())
            return pool.load_s(places, [spec(group[0]), *encoders.values()]) + self._work.expected_s(steps)

        def answer(steps: Steps, variant: Variant) -> None:
            if variant.id == base.id:
                return
            items = self._opened()
            new = [k for k in self._by_picture(items) if not self._results.has(steps.answer_key(variant, items[k]))]
            steps.answers(variant, [items[k] for k in new], steps.at_once(items))

        def measure(steps: Steps, variant: Variant, done: OnProgress) -> None:
            job = copy(self)
            job.steps, job.problems = steps, []
            outcomes[variant.id] = _drained(job._measure(variant, records), done)

        groups = [list(group) for _, group in groupby(variants, key=lambda variant: variant.model.sha256)]
        options = pool.turn_options([spec(self._at_hand[0])])
        is_ahead = self._plan.accuracy and base in self._at_hand and len(options) > 1
        if is_ahead:
            self._settle()
            self._opened()
        shares = Shares[Variant, Places](
            at_least(groups, len(options)),
            fits=lambda places, variant: pool.fits_at(places, spec(variant)),
            loaded_at=lambda variant: pool.loaded_at(spec(variant)),
            is_there=pool.devices.has,
            seconds=seconds,
        )
        home = self.steps.lab.pool.only
        return AtPlaces(anywhere, home, shares, answer if is_ahead else None, measure, self._stop, self._abandoned)

    def _measure(self, variant: Variant, records: Path) -> Generator[Progress, None, _Outcome]:
        """All of one variant but its speed. The reference has answered already."""
        pool, floor, asked_alone = self.steps.lab.pool, None, None
        if variant.id == self._reference.id:
            drifts = [self._scored(QuestionDrift(), item, answer) for item, answer in self._answered()]
            if self._plan.drift:
                floor = yield from self.floor(variant, records)
            asked_alone = yield from self._ask_alone(records)
        else:
            drifts = yield from self.read(variant, records)
            if self._plan.drift:
                floor = yield from self.floor(variant, records)
        looks = self._plan.look and variant in self._at_hand
        sight = (yield from self._look(variant)) if looks else None
        return _Outcome(drifts, floor, sight, self.problems, asked_alone, pool.described(pool.only))

    # --- what answers elsewhere ---

    def _answer_elsewhere(
        self, variant: Variant, items: Sequence[Item], kind: Kind, n_candidates: int | None = None
    ) -> Generator[Progress, None, list[EndpointAnswer | Failure]]:
        """A server's own answers, or why there is none. They are asked anew each time: its model may have changed."""
        answers: dict[int, EndpointAnswer | Failure] = {}

        def ask(done: Callable[[int], None]) -> None:
            for k, answer in elsewhere.ask_each(self.steps, variant.endpoint, items, n_candidates):
                answers[k] = answer
                done(k)

        with closing(Results(ask, self._abandoned)) as done:
            for _ in done:
                yield self.step(f"{variant.label} answers", kind, ended=True)
        read = [answer for answer in answers.values() if isinstance(answer, EndpointAnswer)]
        remarks = [remark for answer in read for remark in answer.remarks]
        self.problems += [f"{variant.label}: {remark}" for remark in dict.fromkeys(remarks)]
        models = dict.fromkeys(answer.elsewhere.model for answer in read if answer.elsewhere.model is not None)
        if models:
            self.problems.append(f"{variant.label}: by its own word {', '.join([*models][:5])} answered.")
        self.problems += [f"{variant.label}: {text}" for text in elsewhere.not_asked_for(self.steps)]
        return [answers[k] for k in range(len(items))]

    def _asked_elsewhere(self, variant: Variant) -> Generator[Progress, None, list[QuestionDrift]]:
        """Its answers, scored. Its distributions over the reference's answers are not known."""
        answers = yield from self._answer_elsewhere(variant, self.items, Kind.ALONE)
        drifts = []
        for item, answer in zip(self.items, answers, strict=True):
            if isinstance(answer, Failure):
                drifts.append(self._failed(variant.label, item, answer))
            else:
                drifts.append(self._scored(QuestionDrift(), item, elsewhere.recorded(answer)))
        given = [
            (answer, ours)
            for answer, ours in zip(answers, self._answers, strict=True)
            if isinstance(answer, EndpointAnswer)
        ]
        same = sum(answer.text.strip() == ours.text.strip() for answer, ours in given)
        self.problems.append(
            f"{variant.label}: {same} of {len(given)} answers are those of {self._reference.label}, word for word."
        )
        return drifts

    # --- stages; a scan of many variants goes through them itself (quantizing/sensitivity_scan.py) ---

    @property
    def _other_way(self) -> str:
        """How the reference's floor was computed."""
        return self.steps.other_way(self._reference).name

    @property
    def _used_pack(self) -> UsedPack | None:
        return None

    def reference_record(self, records: Path, k: int) -> Path:
        """Where the reference's distributions over the k-th answer are."""
        return record_of(self._reference, records, k)

    def expect(self, steps: int, kind: Kind = Kind.ALONE) -> None:
        """Count so many more steps to be done."""
        self._work.expect(kind, steps)

    def expect_baseline(self, n: int) -> None:
        """The steps of `ask`, `record` and the reference's `floor` for n questions."""
        for kind in _BASELINE:
            self.expect(n, kind)

    def ask(self) -> Iterator[Progress]:
        """Have the reference answer every question; fills `items`. Raises BadInput if none can be asked."""
        self._settle()
        items = self._opened()
        answers = yield from self._answer_all(self._reference, items, f"{self._reference.label} answers", Kind.ASK)
        for item, answer in zip(items, answers, strict=True):
            if isinstance(answer, RecordedAnswer) and answer.token_ids:
                self.items.append(item)
                self._answers.append(answer)
            else:
                empty = BadInput("the reference's answer to it is empty")
                self._leave_out(item.question, answer if isinstance(answer, Failure) else empty)
        self._report_ends(self._reference, self._answers)
        if not self.items:
            raise BadInput(f"No question could be asked. {self.problems[-1]}")

    def _settle(self) -> None:
        """At the first use of a kind of model, measure what suits it on this machine."""
        for variant in {kind_of(v.model): v for v in reversed(self._at_hand)}.values():
            self.steps.settle(variant)

    def _opened(self) -> list[Item]:
        """The questions whose images can be opened. They are opened once."""
        if self._to_ask is None:
            self._to_ask = []
            for question in self._judging():
                try:
                    with self.steps.timed("pictures"):
                        self._to_ask.append(Item(question, self._set.image(question)))
                except Failure as error:
                    self._leave_out(question, error)
        return self._to_ask

    @property
    def answers(self) -> tuple[RecordedAnswer, ...]:
        """The reference's, one for each of `items`."""
        return tuple(self._answers)

    def _leave_out(self, question: Question, error: Failure) -> None:
        image = shortened(question.image, _MAX_NAME)
        self.problems.append(f"{image}, {question.question[:40]!r}: {error.message}")
        self.left_out += 1

    def _answer_all(
        self, variant: Variant, items: Sequence[Item], what: str, kind: Kind
    ) -> Generator[Progress, None, list[RecordedAnswer | Failure]]:
        """A variant's own answers, or why there is none. Questions about one picture follow each other: each batch
        reads it once."""
        answers: dict[int, RecordedAnswer | Failure] = {}
        new = []
        for k in self._by_picture(items):
            if self._is_new(self.steps.answer_key(variant, items[k]), kind):
                new.append(k)
            else:
                answers[k] = self.steps.answer(variant, items[k])
        new_items = [items[k] for k in new]
        written: list[RecordedAnswer | Failure] = []

        def ask(done: Callable[[int], None]) -> None:
            written.extend(self.steps.answers(variant, new_items, self.steps.at_once(new_items), done))

        started = time.monotonic()
        self._work.batch(kind, self.steps.at_once(new_items))
        with closing(Results(ask, self._abandoned)) as done:
            for _ in done:
                yield self.step(what, kind, ended=True)
        pace.keep(self._results, variant, time.monotonic() - started, len(new), self._plan.max_tokens)
        answers |= zip(new, written, strict=True)
        return [answers[k] for k in range(len(items))]

    @staticmethod
    def _by_picture(items: Sequence[Item]) -> list[int]:
        """Their places, so that questions about one picture follow each other."""
        first: dict[str, int] = {}
        for k, item in enumerate(items):
            first.setdefault(item.image.sha256, k)
        return sorted(range(len(items)), key=lambda k: first[items[k].image.sha256])

    def _judging(self) -> tuple[Question, ...]:
        """The questions that no variant was made with. Where none is left, all of them, and that is a problem."""
        made_with = {name for v in self._variants for file in (v.model, v.projector) for name in file.made_with}
        if not made_with:
            return self._set.items
        makers = ", ".join(v.label for v in self._variants if v.model.made_with or v.projector.made_with)
        kept = tuple(q for q in self._set.items if question_sets.fingerprint_of(self._set, q) not in made_with)
        if not kept:
            self.problems.append(f"All questions calibrated {makers}, or chose its types: they cannot judge it.")
            return self._set.items
        left_out = len(self._set.items) - len(kept)
        if left_out:
            for kind, steps in self._per_question.items():
                self.expect(-left_out * steps, kind)
            self.problems.append(f"{left_out} questions were left out: {makers} was calibrated or searched with them.")
        return kept

    def record(self, records: Path, others: Sequence[Variant] | None) -> Iterator[Progress]:
        """Record the reference's distributions, as far as a variant of `others` (None: any) is compared with them."""
        base, steps, results = self._reference, self.steps, self._results
        wanted = {
            k
            for k, item in enumerate(self.items)
            if others is None
            or not results.has(steps.own_drift_key(base, item))
            or not all(results.has(steps.drift_key(v, item)) for v in others)
        }
        self.expect(len(wanted) - len(self.items), Kind.RECORD)
        if not wanted:
            return
        first = min(wanted)
        prompt, ids = steps.prompt(base, self.items[first]), self._answers[first].token_ids
        n_vocabulary = steps.record(base, prompt, ids, record_of(base, records, first))
        steps.choose_dtype(n_vocabulary, 2 * len(wanted), records)  # the reference's, and one variant's own
        readings = {k: Reading(self._answers[k].token_ids, own=record_of(base, records, k)) for k in sorted(wanted)}
        recorded: set[int] = set()
        what = f"{base.label} reads its answers"
        yield from self._read_at_once(base, readings, what, Kind.RECORD, lambda k, _reply: recorded.add(k))
        for k in readings.keys() - recorded:
            steps.record(base, steps.prompt(base, self.items[k]), readings[k].ids, record_of(base, records, k))

    def _read_at_once(
        self,
        variant: Variant,
        wanted: Mapping[int, Reading],
        what: str,
        kind: Kind,
        keep: Callable[[int, protocol.SequenceRead], None],
        runtime: Runtime | None = None,
        *,
        fresh: bool = False,
    ) -> Iterator[Progress]:
        """Read answers in batches, as far as they can be; the others are left to be read alone. A step for each."""
        places = {k: wanted[k] for k in self._by_picture(self.items) if k in wanted}

        def read(done: Callable[[int], None]) -> None:
            def kept(k: int, reply: protocol.SequenceRead) -> None:
                keep(k, reply)
                done(k)

            self.steps.readings(variant, self.items, places, kept, runtime, fresh=fresh)

        places_read = set()
        self._work.batch(kind, self.steps.at_once([self.items[k] for k in places]))
        with closing(Results(read, self._abandoned)) as done:
            for k in done:
                places_read.add(k)
                yield self.step(what, kind, ended=True)
        for _ in places.keys() - places_read:
            yield self.step(what, kind, ended=True)

    def floor(self, variant: Variant, records: Path) -> Generator[Progress, None, float]:
        """How far a variant lies from itself, computed another way, on the same questions: mean KL, nats a token.

        A question that fails is left out here; it was reported with the variant's drift.
        """
        total, tokens = 0.0, 0
        other, results = self.steps.other_way(variant), self._results
        what = f"{variant.label} against itself: {other.name}"
        keys = [self.steps.own_drift_key(variant, item) for item in self.items]
        new = [k for k, key in enumerate(keys) if self._is_new(key, Kind.FLOOR)]
        paths = {k: record_of(variant, records, k) for k in new}
        stays = variant.id != self._reference.id  # the reference's are read at all places
        missing = {
            k: Reading(self._answers[k].token_ids, own=path, own_stays=stays)
            for k, path in paths.items()
            if not path.exists()
        }
        self.steps.readings(variant, self.items, missing, lambda _k, _reply: None)

        def keep(k: int, reply: protocol.SequenceRead) -> None:
            kl = math.fsum(drift.kl for drift in reply.drifts)
            results.put(self.steps.own_drift_key(variant, self.items[k]), kl)

        wanted = {k: Reading(self._answers[k].token_ids, against=path) for k, path in paths.items() if path.exists()}
        yield from self._read_at_once(
            variant, wanted, f"{variant.label} against itself: {other.name}", Kind.FLOOR, keep, other.runtime
        )
        for k, (item, answer) in enumerate(self._answered()):
            own = record_of(variant, records, k)
            try:
                if k in paths and k not in wanted:
                    yield self.step(what, Kind.FLOOR)
                total += self.steps.own_drift(variant, item, answer.token_ids, own)
                tokens += len(answer.token_ids) + 1
            except Failure:
                continue
            finally:
                if variant.id != self._reference.id:
                    own.unlink(missing_ok=True)
        return total / tokens if tokens else 0.0

    def _ask_alone(self, records: Path) -> Generator[Progress, None, AskedAlone | None]:
        """What asking many at once changes: some of the reference's questions are asked alone as well."""
        if self._reference not in self._at_hand:
            return None
        base, steps = self._reference, self.steps
        together = steps.in_batches(self.items)
        if not together:
            return None
        pictures = [self.items[k].image.sha256 for k in together]
        chosen = [together[i] for i in chosen_alone(pictures, n_alone(len(together), len(self._at_hand)))]
        keys = {
            k: (steps.key("alone", base, self.items[k]), steps.key("alone drift", base, self.items[k])) for k in chosen
        }
        self.expect(len(chosen))
        differ, kl, tokens = 0, 0.0, 0
        for k, (answer_key, drift_key) in keys.items():
            try:
                if self._is_new(answer_key, Kind.ALONE):
                    yield self.step(f"{base.label} alone")
                    with steps.timed("asked alone"):
                        answer = steps.write(base, steps.prompt(base, self.items[k]))
                    self._results.put(answer_key, answer.token_ids)
                ids, record = self._answers[k].token_ids, record_of(base, records, k)
                differ += self._results.get(answer_key, tuple[int, ...]) != ids
                if self._plan.drift and not self._results.has(drift_key) and record.exists():
                    drifts = steps.read(base, steps.prompt(base, self.items[k]), ids, record)
                    self._results.put(drift_key, math.fsum(drift.kl for drift in drifts))
                if self._plan.drift and (total := self._results.get(drift_key, float)) is not None:
                    kl, tokens = kl + total, tokens + len(ids) + 1
            except Failure as error:
                self.problems.append(f"{base.label}, {self.items[k].question.question[:40]}, alone: {error.message}")
                return None
        if tokens:
            self._floors[_IN_BATCHES] = kl / tokens
        return AskedAlone(len(chosen), differ)

    def read(
        self, variant: Variant, records: Path, *, label: str = "", strict: bool = False
    ) -> Generator[Progress, None, list[QuestionDrift]]:
        """Every question's drift and answer of one variant, as the plan wants.

        An error with a question stands with it and in `problems`; `strict`: it is raised.
        """
        label = label or variant.label
        drifts = []
        if self._plan.drift:
            keys = [self.steps.drift_key(variant, item) for item in self.items]
            new = [k for k, key in enumerate(keys) if self._is_new(key, Kind.DRIFT)]
            wanted = {
                k: Reading(
                    self._answers[k].token_ids,
                    self.reference_record(records, k),
                    None if strict else record_of(variant, records, k),
                    own_stays=True,
                )
                for k in new
            }

            def keep(k: int, reply: protocol.SequenceRead) -> None:
                self._results.put(self.steps.drift_key(variant, self.items[k]), question_drift(reply.drifts))

            yield from self._read_at_once(variant, wanted, f"{label}: drift", Kind.DRIFT, keep)
        for k, (item, answer) in enumerate(self._answered()):
            drift = QuestionDrift()
            try:
                if self._plan.drift:
                    record, own = self.reference_record(records, k), record_of(variant, records, k)
                    drift = self.steps.drift(variant, item, answer.token_ids, record, None if strict else own)
            except Failure as error:
                if strict:
                    raise
                drift = self._failed(label, item, error)
            drifts.append(drift)
        if self._plan.accuracy:
            sound = [k for k, drift in enumerate(drifts) if drift.error is None]
            self.expect(len(sound) - len(drifts), Kind.ANSWER)
            sound_items = [self.items[k] for k in sound]
            answers = yield from self._answer_all(variant, sound_items, f"{label}: answers", Kind.ANSWER)
            for k, own_answer in zip(sound, answers, strict=True):
                if isinstance(own_answer, RecordedAnswer):
                    drifts[k] = self._scored(drifts[k], self.items[k], own_answer)
                elif strict:
                    raise own_answer
                else:
                    drifts[k] = self._failed(label, self.items[k], own_answer)
            self._report_ends(variant, [answer for answer in answers if isinstance(answer, RecordedAnswer)])
        return drifts

    def _failed(self, label: str, item: Item, error: Failure) -> QuestionDrift:
        self.problems.append(f"{label}, {item.question.question[:40]}: {error.message}")
        return QuestionDrift(error=error.message)

    def _report_ends(self, variant: Variant, answers: Sequence[RecordedAnswer]) -> None:
        loops = sum(loop_of(answer.token_ids) is not None for answer in answers)
        if loops:
            self.problems.append(f"{variant.label}: {loops} of {len(answers)} answers end in a loop.")
        in_reasoning = sum(bool(answer.in_reasoning) for answer in answers)
        if in_reasoning:
            self.problems.append(
                f"{variant.label}: {in_reasoning} of {len(answers)} answers never left their "
                f"reasoning: they are empty. {_LIMIT_REASONING}"
            )

    def read_once(self, variant: Variant, records: Path, label: str) -> Generator[Progress, None, list[QuestionDrift]]:
        """The drift of a variant whose files are deleted afterwards: nothing of it is cached, and errors are raised."""
        fresh = variant.projector.sha256 != self._reference.projector.sha256
        drifts: dict[int, QuestionDrift] = {}

        def keep(k: int, reply: protocol.SequenceRead) -> None:
            drifts[k] = question_drift(reply.drifts)

        wanted = {
            k: Reading(answer.token_ids, self.reference_record(records, k)) for k, answer in enumerate(self._answers)
        }
        yield from self._read_at_once(variant, wanted, f"{label}: drift", Kind.ALONE, keep, fresh=fresh)
        for k in wanted.keys() - drifts.keys():
            prompt = self.steps.prompt(variant, self.items[k], fresh=fresh)
            read = self.steps.read(variant, prompt, wanted[k].ids, self.reference_record(records, k))
            drifts[k] = question_drift(read)
        return [drifts[k] for k in wanted]

    def step(self, what: str, kind: Kind = Kind.ALONE, *, ended: bool = False) -> Progress:
        """A step begins or, of a batch, has ended. Raises Interrupted when that is wanted."""
        if self._stop():
            raise Interrupted("Stopped.")
        if ended:
            self._work.ended(kind)
        else:
            self._work.step(kind)
        return Progress(what, self._work.steps - 1, self._work.total, self._work.seconds)

    def _expect_all(self, n_others: int) -> None:
        plan, n = self._plan, len(self._set.items)
        self._per_question = self._steps_for_question(n_others)
        for kind, steps in self._per_question.items():
            self.expect(n * steps, kind)
        self.expect(len(self._at_hand) * min(look_test.QUESTIONS, n) * plan.look, Kind.LOOK)
        self.expect(len(self._at_hand) * speed_test.ROUNDS * plan.speed, Kind.SPEED)
        self.expect(n * sum(bool(v.endpoint) and v != self._reference for v in self._variants))

    def _steps_for_question(self, n_others: int) -> dict[Kind, int]:
        steps = steps_of(self._plan, 1, 1 + n_others)
        return {kind: n for kind, n in steps.items() if kind not in (Kind.LOOK, Kind.SPEED)}

    def _answered(self) -> list[tuple[Item, RecordedAnswer]]:
        return list(zip(self.items, self._answers, strict=True))

    def _scored(self, drift: QuestionDrift, item: Item, answer: RecordedAnswer) -> QuestionDrift:
        points = score(item.question, answer.text) if self._plan.accuracy else None
        truncated = points is not None and self.steps.truncated(answer)
        in_reasoning = bool(answer.in_reasoning)
        return msgspec.structs.replace(
            drift, text=answer.text, score=points, truncated=truncated, in_reasoning=in_reasoning
        )

    def _look(self, variant: Variant) -> Generator[Progress, None, list[float] | None]:
        """By how much its own picture makes each answer likelier, nats an answer; None: it failed."""
        places = look_test.chosen(self.items)
        self.expect(len(places) - min(look_test.QUESTIONS, len(self._set.items)), Kind.LOOK)
        images = [item.image for item in self.items]
        try:
            readings = []
            for k in places:
                ids = self._right_answer(k)
                if ids is None and (variant.id == self._reference.id or not self._answers[k].token_ids):
                    self.expect(-1, Kind.LOOK)  # its own answer fits its own picture whatever it sees
                    continue
                pictures = look_test.others(self.items[k].image, images)
                readings.append((self.items[k], ids or self._answers[k].token_ids, pictures))
            return (yield from self._advantages(variant, readings))
        except Failure as error:
            self.problems.append(f"{variant.label}: {error.message}")
            return None

    def _advantages(
        self, variant: Variant, asked: Sequence[tuple[Item, tuple[int, ...], Sequence[Image]]]
    ) -> Generator[Progress, None, list[float]]:
        """Of each question with its answer and other pictures, read in batches on a GPU.

        On a CPU some would be read in a batch and some alone, and the two differ by more than a blind pair may.
        """
        rows: list[tuple[int, Item]] = []
        for i, (item, _, pictures) in enumerate(asked):
            if self._is_new(look_test.key(self.steps, variant, item, pictures), Kind.LOOK):
                rows += [(i, item._replace(image=image)) for image in (item.image, *pictures)]
        wanted = {row: Reading(asked[i][1]) for row, (i, _) in enumerate(rows) if self.steps.lab.pool.on_gpu}
        read: dict[int, dict[str, float]] = {i: {} for i, _ in rows}

        def keep(row: int, reply: protocol.SequenceRead) -> None:
            i, item = rows[row]
            if reply.log_probability is not None:
                read[i][item.image.sha256] = reply.log_probability

        def work(done: Callable[[int], None]) -> None:
            def kept(row: int, reply: protocol.SequenceRead) -> None:
                keep(row, reply)
                done(row)

            self.steps.readings(variant, [item for _, item in rows], wanted, kept, once=True)

        what, shown = f"{variant.label}: does it see?", set[int]()
        self._work.batch(Kind.LOOK)
        with closing(Results(work, self._abandoned)) as done:
            for row in done:
                if rows[row][0] not in shown:
                    shown.add(rows[row][0])
                    yield self.step(what, Kind.LOOK, ended=True)
        seen = []
        for i, (item, ids, pictures) in enumerate(asked):
            if i in read and i not in shown:
                yield self.step(what, Kind.LOOK)
            if pictures:
                seen.append(look_test.advantage(self.steps, variant, item, ids, pictures, read.get(i)))
        return seen

    def _right_answer(self, k: int) -> tuple[int, ...] | None:
        """The tokens of an accepted answer; None without one."""
        accepted = self.items[k].question.answers
        return self.steps.token_ids(accepted[0]) or None if accepted else None

    def _time(self) -> Generator[Progress, None, dict[str, Speed]]:
        """Rounds in which every variant takes its turn; one that fails is reported and left out."""
        while True:
            before = self._work.steps
            try:
                steps = self.steps.at(self._timed_at())
                speeds = yield from self._rounds(steps)
                self._speeds_at = steps.lab.pool.described(steps.lab.pool.only)
                return speeds
            except MachineLost as error:
                self.steps.note_loss(error)
                self.expect(self._work.steps - before, Kind.SPEED)  # all rounds anew: machines differ in speed

    def _timed_at(self) -> Places:
        """Speeds are compared with each other, so they are all measured at one place: where most variants fit."""
        pool = self.steps.lab.pool
        specs = [language_spec(variant.model, self.steps.runtime_of(variant)) for variant in self._at_hand]

        def suits(places: Places) -> tuple[int, int]:
            n_fit = sum(pool.fits_at(places, spec) for spec in specs)
            return n_fit, sum(places in pool.loaded_at(spec) for spec in specs)

        return max(pool.turn_options(specs), key=suits)

    def _rounds(self, steps: Steps) -> Generator[Progress, None, dict[str, Speed]]:
        timings: dict[str, list[speed_test.Timing]] = {variant.id: [] for variant in self._at_hand}
        for number in range(speed_test.ROUNDS):
            item = self.items[number % len(self.items)]
            for variant in self._at_hand[:: -1 if number % 2 else 1]:
                if variant.id not in timings:
                    self.expect(-1, Kind.SPEED)
                    continue
                yield self.step(f"{variant.label}: speed, round {number + 1} of {speed_test.ROUNDS}", Kind.SPEED)
                try:
                    timings[variant.id].append(speed_test.timed(steps, variant, item))
                except MachineLost:
                    raise
                except Failure as error:
                    self.problems.append(f"{variant.label}: {error.message}")
                    del timings[variant.id]
        base = timings.get(self._reference.id)
        return {
            id: speed_test.speed(passes[1:], None if id == self._reference.id or base is None else base[1:])
            for id, passes in timings.items()
        }

    def _result(
        self,
        result: VariantResult,
        outcome: _Outcome,
        speed: Speed | None,
    ) -> VariantResult:
        floor, kl, advantages = outcome.floor, result.mean_kl, outcome.sight
        within = False
        if floor is not None and kl is not None:
            arithmetic = max(floor, *self._floors.values(), self.steps.resolution)
            within = kl.value <= _ARITHMETIC * arithmetic
        looks, own_picture = look_test.judged(advantages) if advantages is not None else (None, None)
        return msgspec.structs.replace(
            result, floor=floor, within_arithmetic=within, looks=looks, own_picture=own_picture, speed=speed
        )

    def _is_new(self, key: str, kind: Kind) -> bool:
        """Whether it has to be computed; a cached result takes no step."""
        if self._results.has(key):
            self.expect(-1, kind)
            return False
        return True


def _drained(steps: Generator[Progress, None, _Outcome], done: Callable[[Progress], None]) -> _Outcome:
    """What they return."""
    while True:
        try:
            done(next(steps))
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome


def _judged(results: Sequence[VariantResult]) -> list[VariantResult]:
    """With the words about accuracy that hold for all variants together."""
    pairs = [result.against for result in results if result.against is not None]
    judged = dict(zip((r.variant for r in results if r.against is not None), statistics.verdicts(pairs), strict=True))
    return [msgspec.structs.replace(result, against=judged.get(result.variant)) for result in results]


def record_of(variant: Variant, records: Path, k: int) -> Path:
    """Where a variant's distributions over the k-th answer are written."""
    return records / f"{hashlib.sha256(variant.id.encode()).hexdigest()[:16]}-{k}"
