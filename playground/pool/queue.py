"""Who waits to generate, and who generates now. turns.py decides who is next; this keeps the tickets and the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition

from playground.errors import Busy, Interrupted
from playground.pool import turn_order
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.values.memory import HOST, QueuedRun

_WAIT_S = 0.2  # how often somebody who waits looks at their stop flag
_LOAD_BYTES_PER_S = 1e9  # a guess, for the order alone
_START_S = 1.0


@dataclass(frozen=True, slots=True)
class HeldPlaces:
    """What is loaded where, at one moment."""

    workers: Sequence[tuple[WorkerSpec, Places, Mapping[str, int]]]  # with their bytes by place
    budgets: Mapping[str, int]


@dataclass(slots=True, eq=False)
class Ticket:
    """A run that waits or generates. Its fields are the queue's."""

    who: str  # "" for nobody in particular
    specs: tuple[WorkerSpec, ...]
    options: list[Places]
    since: float
    places: Places | None = None  # None: it waits


class Queue:
    """Owns the tickets, and how long each person has generated lately. Safe to use from several threads."""

    def __init__(self, held: Callable[[], HeldPlaces], most: int, most_per_person: int) -> None:
        """`held` is asked with this queue's lock held."""
        self._held = held
        self._most = most
        self._most_per_person = most_per_person
        self._changed = Condition()
        self._tickets: list[Ticket] = []
        self._used: dict[str, tuple[float, float]] = {}  # by person: seconds, and when
        self._closed = False

    def close(self) -> None:
        """Whoever waits gets Interrupted."""
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
        waiting = [one for one in self._tickets if one.places is None]
        if len(waiting) >= self._most:
            raise Busy(f"Busy: {len(waiting)} runs wait already. Try again in a minute.")
        mine = sum(one.who == who for one in waiting)
        if who and mine >= self._most_per_person:
            raise Busy(f"Busy: {mine} of your runs wait already. Let one of them end first, or stop it.")

    @contextmanager
    def turn(self, ticket: Ticket, *, stop: Callable[[], bool], on_place: Callable[[int], None]) -> Iterator[Places]:
        """Wait until it is the ticket's turn; gives the places that are its own until the end. Raises Interrupted."""
        began: float | None = None
        try:
            told: int | None = None
            while True:
                with self._changed:
                    if self._closed:
                        raise Interrupted("The app is closing.")
                    self._begin_next()
                    ahead = 0 if ticket.places else self._ahead(ticket)
                    if ahead and ahead == told:
                        self._changed.wait(_WAIT_S)
                if ahead != told:
                    on_place(ahead)
                    told = ahead
                if not ahead:
                    break
                if stop():
                    raise Interrupted("Interrupted while it waited for its turn.")
            began = time.monotonic()
            assert ticket.places is not None
            yield ticket.places
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                if began is not None and ticket.who:
                    now = time.monotonic()
                    self._used[ticket.who] = self._used_s(ticket.who, now) + now - began, now
                    self._used = {who: used for who, used in self._used.items() if self._used_s(who, now) > 0.1}
                self._changed.notify_all()

    def queued(self) -> tuple[QueuedRun, ...]:
        """The running ones first, then the others as they are likely to come."""
        with self._changed:
            now = time.monotonic()
            running = [ticket for ticket in self._tickets if ticket.places is not None]
            return tuple(
                QueuedRun(
                    one.who,
                    tuple(spec.file for spec in one.specs),
                    now - one.since,
                    " + ".join(one.places) if one.places else None,
                )
                for one in (*running, *self._in_order())
            )

    # --- with the lock held --------------------------------------------------------------------------------------

    def _begin_next(self) -> None:
        """Give free places to who comes next."""
        while True:
            busy = {place for ticket in self._tickets for place in ticket.places or ()}
            free = {place for ticket in self._tickets for option in ticket.options for place in option} - busy
            waiting, by_name = self._waiting()
            if not free or not waiting:
                return
            found = turn_order.next_up(waiting, free, self._used_by_all())
            if found is None:
                return
            by_name[found[0].name].places = found[1]
            self._changed.notify_all()

    def _ahead(self, ticket: Ticket) -> int:
        """How many are likely to come before it."""
        wanted = {place for option in ticket.options for place in option}
        running = sum(bool(wanted & set(one.places or ())) for one in self._tickets)
        return max(1, self._in_order().index(ticket) + running)

    def _in_order(self) -> list[Ticket]:
        waiting, by_name = self._waiting()
        return [by_name[one.name] for one in turn_order.in_order(waiting, self._used_by_all())]

    def _waiting(self) -> tuple[list[turn_order.Waiting], dict[str, Ticket]]:
        now, held = time.monotonic(), self._held()
        by_name = {str(i): ticket for i, ticket in enumerate(self._tickets) if ticket.places is None}
        waiting = [
            turn_order.Waiting(
                name,
                ticket.who,
                now - ticket.since,
                {way: _load_s(ticket.specs, way, held) for way in ticket.options},
            )
            for name, ticket in by_name.items()
        ]
        return waiting, by_name

    def _used_by_all(self) -> dict[str, float]:
        now = time.monotonic()
        return {who: self._used_s(who, now) for who in {ticket.who for ticket in self._tickets} if who}

    def _used_s(self, who: str, now: float) -> float:
        seconds, at = self._used.get(who, (0.0, now))
        return turn_order.decayed(seconds, now - at)


def _load_s(specs: Sequence[WorkerSpec], places: Places, held: HeldPlaces) -> float:
    """How long models would take to load there, and what they displace to be loaded again; a fuller place counts up to
    a second more."""
    near = [(spec, bytes) for spec, at, bytes in held.workers if set(at) <= {*places, HOST}]
    there = {spec for spec, _ in near}
    missing = [spec for spec in specs if spec not in there]
    wanted = sum(spec.bytes for spec in missing)
    taken = sum(bytes.get(place, 0) for _, bytes in near for place in places)
    budget = sum(held.budgets.get(place, 0) for place in places)
    displaced = max(0, taken + wanted - budget) if missing else 0
    return _START_S * len(missing) + (wanted + displaced) / _LOAD_BYTES_PER_S + min(1.0, taken / max(1, budget))
