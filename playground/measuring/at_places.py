"""The variants of a measurement at all places at once: one language model after another at each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from threading import Event

import msgspec

from playground.errors import Interrupted
from playground.measuring.results import Progress
from playground.measuring.shares import Shares
from playground.measuring.steps import Steps
from playground.pool.turn_order import Places
from playground.pool.worker_spec import WorkerSpec
from playground.support.ahead import Results
from playground.values.files import Variant

logger = logging.getLogger(__name__)

OnProgress = Callable[[Progress], None]

_MOST_PLACES = 64
_LOOK_S = 1.0  # how often a measurement looks for a place that has come
_AGAIN_S = 0.2  # how often a place that has nothing to do asks again


class AtPlaces:
    """A place that comes gets its share, and what a lost machine had not ended is measured elsewhere.

    A variant's own answers do not wait for the reference's: the other places begin with them while it answers.
    """

    def __init__(
        self,
        steps: Steps,
        home: Places,
        shares: Shares[Variant, Places],
        answer: Callable[[Steps, Variant], None] | None,
        measure: Callable[[Steps, Variant, OnProgress], None],
        stop: Callable[[], bool],
        abandoned: Event,
    ) -> None:
        """`home`: where the reference answers. `answer`: keeps a variant's own answers; None: they are not wanted.

        `measure`: all of one variant. Both in the thread of a place. `abandoned`: set by whoever gives up.
        """
        self._steps = steps
        self._pool = steps.lab.pool
        self._home = home
        self._shares = shares
        self._answer = answer
        self._measure = measure
        self._stop = stop
        self._abandoned = abandoned
        self._reference_is_known = Event()

    def start(self, spec: WorkerSpec) -> Results[Progress]:
        """`spec`: of one of the variants; the places are those that it may be loaded at.

        Iterating raises what `measure` raises, and Interrupted.
        """
        return Results(partial(self._work, spec), self._abandoned)

    def measure(self, steps: Steps) -> None:
        """The reference has answered. `steps`: with what is known of it, for all places."""
        self._steps = steps
        self._reference_is_known.set()

    def _work(self, spec: WorkerSpec, done: OnProgress) -> None:
        seen, running = set[Places](), set[Future[None]]()
        with ThreadPoolExecutor(_MOST_PLACES) as threads:
            try:
                while True:
                    options = self._pool.turn_options([spec])
                    new = [places for places in options if places not in seen]
                    self._shares.join(*new)  # all of them before one takes a group
                    for places in new:
                        on_progress = partial(say_where, done, places) if len(options) > 1 else done
                        running.add(threads.submit(self._lane, places, on_progress))
                    seen = set(options)
                    ended, running = wait(running, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
                    for lane in ended:
                        lane.result()
                    if not running:
                        return
            except BaseException:
                self._abandoned.set()  # the other places end too
                raise

    def _lane(self, places: Places, done: OnProgress) -> None:
        begun, since = self._answered(places), time.monotonic()
        while not self._reference_is_known.wait(_AGAIN_S):
            if self._stop():
                raise Interrupted("Stopped.")
        self._shares.waited(places, time.monotonic() - since)
        on_gpu = self._pool.on_gpu
        here, group = self._steps.at(places), begun.pop(0) if begun else self._take(places)
        while group:
            ahead = begun.pop(0) if begun else self._shares.take(places, ahead=True) if on_gpu else []
            for variant in self._one_by_one(here, group, ahead or self._shares.likely(places)):
                self._measure(here, variant, done)
            group = ahead or self._take(places)
        self._shares.leave(places)

    def _answered(self, places: Places) -> list[list[Variant]]:
        """Groups that this place has taken, and whose own answers it has kept, while the reference answered.

        The first group is the reference's.
        """
        groups: list[list[Variant]] = []
        if self._answer is None or places == self._home:
            return groups
        here, most = self._steps.at(places), self._shares.fair_share
        while len(groups) < most and self._is_free(places, self._reference_is_known.is_set):
            group = self._shares.take(places, ahead=True, from_the_end=True)
            if not group:
                break
            groups.append(group)
            for variant in self._one_by_one(here, group, self._shares.likely(places, from_the_end=True)):
                try:
                    self._answer(here, variant)
                except Exception:  # it comes again when the variant is measured
                    logger.debug("%s was not asked ahead", variant.label, exc_info=True)
        return groups

    def _one_by_one(self, here: Steps, group: list[Variant], next_group: list[Variant]) -> Iterator[Variant]:
        """Its variants. The one behind each is loaded meanwhile; not on a CPU, where the two would fight for cores."""
        for variant, then in zip_longest(group, (*group[1:], *next_group[:1])):
            here.then = then if self._pool.on_gpu else None
            yield variant

    def _is_free(self, places: Places, too_late: Callable[[], bool]) -> bool:
        """Wait until nobody else generates there. False: it is too late, or the measurement is stopped."""
        with suppress(Interrupted), self._pool.at(places).turn(stop=lambda: too_late() or self._stop()):
            return not too_late()
        return False

    def _take(self, places: Places) -> list[Variant]:
        """Once the place is free: while somebody else generates there, another place may take the group.

        A place that would not help now may later: another one may be lost, or slower than expected.
        """
        shares, pool = self._shares, self._pool
        while True:
            self._is_free(places, lambda: shares.none_left)
            if self._stop():
                raise Interrupted("Stopped.")
            group = shares.take(places)
            if group or shares.none_left or not pool.devices.has(places):
                return group
            self._abandoned.wait(_AGAIN_S)


def say_where(done: OnProgress, places: Places, progress: Progress) -> None:
    done(msgspec.structs.replace(progress, what=f"{progress.what}, on {' + '.join(places)}"))
