"""The endpoints that the operator set up, as variants; who is asking each, and what each said of its model last."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Condition

from playground.endpoints import client
from playground.endpoints.client import Endpoint, EndpointAnswer
from playground.endpoints.wire import EndpointQuestion
from playground.errors import BadInput, Busy, Interrupted
from playground.pool import turn_order
from playground.pool.used_time import UsedTime
from playground.values.answer import Elsewhere
from playground.values.files import NO_FILE, Variant

FAMILY = "elsewhere"
_MOST_WAITING = 64  # questions to one endpoint
_LOOK_S = 0.1  # how often a waiting question looks whether it is still wanted


@dataclass(frozen=True, eq=False, slots=True)
class _Waiting:
    """A question that waits for a place."""

    who: str  # "" for no person in particular
    since: float


class Endpoints:
    """Owns the places of each endpoint, who waits for one, and what it said of itself last.

    Safe to use from several threads.
    """

    def __init__(self, endpoints: Sequence[Endpoint] = ()) -> None:
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._said: dict[str, Elsewhere] = {}
        self._asking: Counter[str] = Counter()
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        self._used = UsedTime()
        self._changed = Condition()  # held while one of these is changed

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(
            Variant(f"{FAMILY}:{name}", FAMILY, f"{FAMILY}: {name}", NO_FILE, NO_FILE, endpoint=name)
            for name in self._endpoints
        )

    def named(self, name: str) -> Endpoint:
        """Raises BadInput."""
        if name not in self._endpoints:
            raise BadInput(
                f"There is no endpoint called '{name[:40]}'. There are: {', '.join(self._endpoints) or '-'}."
            )
        return self._endpoints[name]

    def choose(self, names: Sequence[str]) -> tuple[Variant, ...]:
        """By the endpoints' names. Raises BadInput."""
        wanted = {self.named(name).name for name in names}
        return tuple(variant for variant in self.variants if variant.endpoint in wanted)

    def ask(
        self,
        name: str,
        question: EndpointQuestion,
        *,
        who: str = "",
        stop: Callable[[], bool] = lambda: False,
        on_text: Callable[[EndpointAnswer], None] = lambda answer: None,
    ) -> EndpointAnswer:
        """As client.ask, with a remark where the server names another model than in its answer before.

        At most `at_once` questions of everybody are asked at a time. The others wait, and come in the order of the
        pool's queue: whose servers elsewhere were busy for `who` lately comes later. Raises Busy.
        """
        endpoint = self.named(name)
        with self._place(endpoint, who, stop):
            answer = client.ask(endpoint, question, stop=stop, on_text=on_text)
        with self._changed:
            before, self._said[name] = self._said.get(name), answer.elsewhere
        changes = [] if before is None else _changes(before, answer.elsewhere)
        return replace(answer, remarks=(*answer.remarks, *changes))

    @contextmanager
    def _place(self, endpoint: Endpoint, who: str, stop: Callable[[], bool]) -> Iterator[None]:
        """Raises Busy and Interrupted."""
        name, question = endpoint.name, _Waiting(who, time.monotonic())
        with self._changed:
            if len(self._waiting[name]) >= _MOST_WAITING:
                raise Busy(f"Busy: {_MOST_WAITING} questions to {name} wait already. Try again later.")
            self._waiting[name].append(question)
            try:
                while self._asking[name] >= endpoint.at_once or self._next(name) is not question:
                    if stop():
                        raise Interrupted("Stopped.")
                    self._changed.wait(_LOOK_S)
                self._asking[name] += 1
            finally:
                self._waiting[name].remove(question)
                self._changed.notify_all()
        begun = time.monotonic()
        try:
            yield
        finally:
            with self._changed:
                self._asking[name] -= 1
                now = time.monotonic()
                self._used.add(who, now - begun, now)
                self._changed.notify_all()

    def _next(self, name: str) -> _Waiting:
        now, waiting = time.monotonic(), self._waiting[name]
        runs = [
            turn_order.Waiting(str(i), question.who, now - question.since, {(name,): 0.0})
            for i, question in enumerate(waiting)
        ]
        used = self._used.of_all((question.who for question in waiting), now)
        return waiting[int(turn_order.in_order(runs, used)[0].name)]


def _changes(before: Elsewhere, now: Elsewhere) -> list[str]:
    if before.model != now.model:
        return [f"Its model changed since its answer before: from {before.model or '-'} to {now.model or '-'}."]
    if before.fingerprint != now.fingerprint:
        return ["Its system_fingerprint changed since its answer before: files or settings may be others."]
    return []
