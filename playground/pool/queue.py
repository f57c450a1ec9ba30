"""The runs that wait to generate, and those that generate now. turn_order.py decides which run is next."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from playground.errors import Busy, Interrupted
from playground.pool import turn_order
from playground.pool.turn_order import Places
from playground.pool.used_time import UsedTime
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import QueuedRun, host_of, machine_of

_WAIT_S = 0.2  # how often a waiting run looks at its stop flag
# Guesses.
_LOAD_BYTES_PER_S = 1e9
_COPY_BYTES_PER_S = 1e8
_START_S = 1.0


@dataclass(frozen=True, slots=True)
class HeldPlaces:
    """What is loaded where, at one moment."""

    workers: Sequence[tuple[WorkerSpec, Places, Mapping[str, int]]]  # with their bytes by place
    budgets: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Ticket:
    """A run that waits or generates. The queue owns its fields."""

    who: str  # "" for no person in particular
    specs: tuple[WorkerSpec, ...]
    options: list[Places]
    since: float
    places: Places | None = None  # None: it waits
    used_s: float = 0.0  # that it has generated; runs that share a turn share its time


class Queue:
    """Owns the tickets, and how long each person has generated lately. Safe to use from several threads."""

    def __init__(self, held: Callable[[], HeldPlaces], most: int, most_per_person: int) -> None:
        """`held` says what is loaded; it is called with this queue's lock held.

        `most`: tickets that may wait. `most_per_person`: of them, one person's.
        """
        self._held = held
        self._most = most
        self._most_per_person = most_per_person
        self._changed = Condition()
        self._tickets: list[Ticket] = []
        self._used = UsedTime()
        self._counted_at = time.monotonic()  # up to when the running tickets' time is counted
        self._closed = False

    def close(self) -> None:
        """Each waiting `turn` raises Interrupted."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def line_up(self, who: str, specs: Sequence[WorkerSpec], options: list[Places], *, limited: bool = False) -> Ticket:
        """A ticket for a turn in one of the `options`. `limited`: raises Busy when too many wait already."""
        ticket = Ticket(who, tuple(specs), options, time.monotonic())
        with self._changed:
            if limited:
                self._check_busy(who)
            self._tickets.append(ticket)
        return ticket

    def check_busy(self, who: str) -> None:
        with self._changed:
            self._check_busy(who)

    def _check_busy(self, who: str) -> None:
        waiting = [ticket for ticket in self._tickets if ticket.places is None]
        if len(waiting) >= self._most:
            raise Busy(f"Busy: {len(waiting)} runs wait already. Try again in a minute.")
        own = sum(ticket.who == who for ticket in waiting)
        if who and own >= self._most_per_person:
            raise Busy(f"Busy: {own} of your runs wait already. Let one of them end first, or stop it.")

    @contextmanager
    def turn(self, ticket: Ticket, *, stop: Callable[[], bool], on_place: Callable[[int], None]) -> Iterator[Places]:
        """Block until it is the ticket's turn; gives the places that it has to itself until the end.

        `on_place` gets the number of runs that are likely to come before, whenever it changes. Raises Interrupted.
        """
        try:
            reported: int | None = None
            while True:
                with self._changed:
                    if self._closed:
                        raise Interrupted("The app is closing.")
                    self._begin_next()
                    ahead = 0 if ticket.places else self._ahead(ticket)
                    if ahead and ahead == reported:
                        self._changed.wait(_WAIT_S)
                if ahead != reported:
                    on_place(ahead)
                    reported = ahead
                if not ahead:
                    break
                if stop():
                    raise Interrupted("Interrupted while it waited for its turn.")
            assert ticket.places is not None
            yield ticket.places
        finally:
            self.end(ticket)

    def join(self, who: str, specs: Sequence[WorkerSpec], places: Places, since: float) -> Ticket | None:
        """A ticket that runs at once beside those that run on `places`, until `end`.

        None: another run comes first, or the app is closing. `since`: when it began to wait.
        """
        with self._changed:
            waiting, _ = self._waiting()
            rivals = [run for run in waiting if any(set(option) & set(places) for option in run.load_s)]
            waited_s = time.monotonic() - since
            used = {**self._used_by_all(), who: self._used.of(who, time.monotonic())}
            if self._closed or not turn_order.may_join(who, waited_s, rivals, used):
                return None
            self._count()
            ticket = Ticket(who, tuple(specs), [places], since, places)
            self._tickets.append(ticket)
        return ticket

    def end(self, ticket: Ticket) -> None:
        with self._changed:
            self._count()
            self._tickets.remove(ticket)
            self._used.add(ticket.who, ticket.used_s, time.monotonic())
            self._changed.notify_all()

    def is_wanted(self, places: Places) -> bool:
        """Whether a ticket waits for one of these places."""
        with self._changed:
            waiting = [ticket for ticket in self._tickets if ticket.places is None]
            return any(set(places) & set(option) for ticket in waiting for option in ticket.options)

    def queued(self) -> tuple[QueuedRun, ...]:
        """The running ones first, then the waiting ones in the order in which they are likely to come."""
        with self._changed:
            now = time.monotonic()
            running = [ticket for ticket in self._tickets if ticket.places is not None]
            return tuple(
                QueuedRun(
                    ticket.who,
                    tuple(spec.file for spec in ticket.specs),
                    now - ticket.since,
                    " + ".join(ticket.places) if ticket.places else None,
                )
                for ticket in (*running, *self._in_order())
            )

    # --- with the lock held --------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        """Give free places to the tickets that come next."""
        while True:
            busy = {place for ticket in self._tickets for place in ticket.places or ()}
            free = {place for ticket in self._tickets for option in ticket.options for place in option} - busy
            waiting, by_name = self._waiting()
            if not free or not waiting:
                return
            following = turn_order.next_up(waiting, free, self._used_by_all())
            if following is None:
                return
            run, places = following
            self._count()
            by_name[run.name].places = places
            self._changed.notify_all()

    def _ahead(self, ticket: Ticket) -> int:
        """How many runs are likely to come before it."""
        wanted = {place for option in ticket.options for place in option}
        # Runs that share a turn count as one.
        running = len({other.places for other in self._tickets if wanted & set(other.places or ())})
        return max(1, self._in_order().index(ticket) + running)

    def _in_order(self) -> list[Ticket]:
        waiting, by_name = self._waiting()
        return [by_name[run.name] for run in turn_order.in_order(waiting, self._used_by_all())]

    def _count(self) -> None:
        """Before a ticket begins or ends: the time since then is shared by those that run on equal places."""
        now = time.monotonic()
        running = Counter(ticket.places for ticket in self._tickets if ticket.places is not None)
        for ticket in self._tickets:
            if ticket.places is not None:
                ticket.used_s += (now - self._counted_at) / running[ticket.places]
        self._counted_at = now

    def load_s(self, specs: Sequence[WorkerSpec], places: Places) -> float:
        """About how long these workers take to be loaded there; none if they are. Files may have to go there first."""
        held = self._held()
        copied = sum(spec.bytes for spec in _missing(specs, places, held)) if machine_of(places[0]) else 0
        return _load_s(specs, places, held) + copied / _COPY_BYTES_PER_S

    def _waiting(self) -> tuple[list[turn_order.Waiting], dict[str, Ticket]]:
        now, held = time.monotonic(), self._held()
        by_name = {str(i): ticket for i, ticket in enumerate(self._tickets) if ticket.places is None}
        waiting = [
            turn_order.Waiting(
                name,
                ticket.who,
                now - ticket.since,
                {way: _load_s(ticket.specs, way, held) for way in _present(ticket.options, held)},
            )
            for name, ticket in by_name.items()
        ]
        return waiting, by_name

    def _used_by_all(self) -> dict[str, float]:
        return self._used.of_all((ticket.who for ticket in self._tickets), time.monotonic())


def _present(options: list[Places], held: HeldPlaces) -> list[Places]:
    """Those whose machine has not left the cluster; all if none is, since the run then fails in words."""
    return [way for way in options if held.budgets.keys() >= set(way)] or options


def _near(places: Places, held: HeldPlaces) -> list[tuple[WorkerSpec, Mapping[str, int]]]:
    return [(spec, bytes) for spec, at, bytes in held.workers if set(at) <= {*places, host_of(places[0])}]


def _missing(specs: Sequence[WorkerSpec], places: Places, held: HeldPlaces) -> list[WorkerSpec]:
    loaded = {spec for spec, _ in _near(places, held)}
    return [spec for spec in specs if spec not in loaded]


def _load_s(specs: Sequence[WorkerSpec], places: Places, held: HeldPlaces) -> float:
    """Seconds to load the missing models there, and to load again what they displace.

    A fuller place counts up to a second more.
    """
    near, missing = _near(places, held), _missing(specs, places, held)
    wanted = sum(spec.bytes for spec in missing)
    taken = sum(bytes.get(place, 0) for _, bytes in near for place in places)
    budget = sum(held.budgets.get(place, 0) for place in places)
    displaced = max(0, taken + wanted - budget) if missing else 0
    return _START_S * len(missing) + (wanted + displaced) / _LOAD_BYTES_PER_S + min(1.0, taken / max(1, budget))
