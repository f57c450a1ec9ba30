"""One person sends templates that never end. Another person's runs begin all the same.

How long they wait is measured by `python -m bench attack`.
"""

from __future__ import annotations

import time
from dataclasses import replace
from threading import Event, Thread

from playground.comparing import compare
from playground.errors import Busy
from playground.values.answer import PaneState
from playground.values.request import Image
from playground.wiring import Parts
from testkit.running import WHAT, comparison, run

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}"
DOUBLES = "{% set n = namespace(t='x' * 99) %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"


def test_runs_when_another_person_sends_endless_templates_then_they_begin(parts: Parts, scene: Image) -> None:
    request = comparison(scene, WHAT, parts.catalog.choose(["F16"]), max_tokens=4)
    run(parts, request)  # loaded
    over = Event()
    errors: list[str | None] = []

    def attack(template: str) -> None:
        lab = replace(parts.lab, pool=parts.pool.of("stranger"))
        while not over.is_set():
            started = time.monotonic()
            try:
                *_, last = compare.run(replace(request, chat_template=template), lab, compare.StopFlag())
                errors.append(last.panes[0].error)
            except Busy:
                pass
            over.wait(max(0.0, 1 - (time.monotonic() - started)))

    attackers = [Thread(target=attack, args=(template,)) for template in (LOOPS, DOUBLES)]
    for attacker in attackers:
        attacker.start()
    begun = 0
    lab = replace(parts.lab, pool=parts.pool.of("visitor"))
    try:
        while begun < 3 or not both_refused(errors):
            for update in compare.run(request, lab, compare.StopFlag()):
                if update.panes[0].state is not PaneState.QUEUED:
                    begun += 1
                    break
            assert all(attacker.is_alive() for attacker in attackers)
    finally:
        over.set()
        for attacker in attackers:
            attacker.join()


def both_refused(errors: list[str | None]) -> bool:
    """One template took too much time, the other too much memory."""
    return all(any(word in (error or "") for error in errors) for word in ("computing time", "memory"))
