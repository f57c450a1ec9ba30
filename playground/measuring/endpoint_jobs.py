"""Measure variants against a server elsewhere: over the tokens that it names, so each KL is a lower bound."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from playground.comparing.lab import Lab
from playground.endpoints.client import EndpointAnswer
from playground.endpoints.wire import MOST_CANDIDATES
from playground.errors import BadInput, EndpointError, Failure
from playground.measuring import elsewhere
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.pack_jobs import KeptJob
from playground.measuring.results import Progress
from playground.measuring.steps import Item, Steps
from playground.measuring.time_left import Kind, TimeLeft


def job_of(
    lab: Lab, request: MeasureRequest, stop: Callable[[], bool] = lambda: False, work: TimeLeft | None = None
) -> MeasureJob:
    """The measurement, wherever its reference answers. Raises BadInput as MeasureJob."""
    reference = next(v for v in request.variants if v.id == request.reference)
    return (EndpointJob if reference.endpoint else MeasureJob)(lab, request, stop, work)


class EndpointJob(KeptJob):
    """A measurement whose reference answers elsewhere. `run` yields Progress, and at the end a Measurement."""

    def __init__(
        self,
        lab: Lab,
        request: MeasureRequest,
        stop: Callable[[], bool] = lambda: False,
        work: TimeLeft | None = None,
    ) -> None:
        """Raises BadInput as MeasureJob, and without a variant on this machine."""
        super().__init__(lab, request, stop, work)
        if not self._at_hand:
            raise BadInput("All variants answer elsewhere. Tick at least one quantization of this machine.")
        sampling, here = request.plan.sampling, self._at_hand[0]
        self.steps = Steps(lab, self._reference, request.runtime, sampling, self._stop, here, form=request.form)

    def ask(self) -> Iterator[Progress]:
        """Raises BadInput if no question can be asked."""
        self._settle()
        items, drift = self._opened(), self._plan.drift
        n_candidates = MOST_CANDIDATES if drift else None
        replies = yield from self._answer_elsewhere(self._reference, items, Kind.ASK, n_candidates)
        answers: list[tuple[Item, EndpointAnswer]] = []
        for item, reply in zip(items, replies, strict=True):
            if isinstance(reply, Failure):
                self._leave_out(item.question, reply)
            elif drift and not reply.tokens:
                self._leave_out(item.question, EndpointError("it has no log-probabilities; leave out the drift"))
            else:
                answers.append((item, reply))
        if drift and answers:
            self._keep_likely(answers)
        else:
            self.items += [item for item, _ in answers]
            self._answers += [elsewhere.recorded(reply) for _, reply in answers]
        if not self.items:
            reason = self.problems[-1] if self.problems else ""
            raise BadInput(f"No question could be asked. {reason}")
        self._report_ends(self._reference, self._answers)
        self.steps.measure_against(elsewhere.digest([reply for _, reply in answers]))

    def _keep_likely(self, answers: list[tuple[Item, EndpointAnswer]]) -> None:
        pieces = elsewhere.pieces([reply for _, reply in answers])
        own = elsewhere.OwnTokens(self.steps.tokens_that_write(pieces), pieces)
        self._n_vocabulary = own.n_tokens
        for item, reply in answers:
            read = own.read(reply)
            if read is None:
                reason = f"its tokens are not those of {self._at_hand[0].label}; leave out the drift"
                self._leave_out(item.question, EndpointError(reason))
                continue
            ids, likely = read
            self.items.append(item)
            self._answers.append(elsewhere.recorded(reply, ids))
            self._kept.append(likely)
        self.problems.append(
            f"Drift from {self._reference.label} is a lower bound: it is measured over the likeliest tokens that the "
            f"server names, at most {MOST_CANDIDATES} at each place, and all others count as one."
        )
