"""One person sends templates that never end, every second. Another person's runs begin all the same."""

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
SECONDS = 12.0


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
    waits: list[float] = []
    lab = replace(parts.lab, pool=parts.pool.of("visitor"))
    until = time.monotonic() + SECONDS
    try:
        while time.monotonic() < until:
            started = time.monotonic()
            for update in compare.run(request, lab, compare.StopFlag()):
                if update.panes[0].state is not PaneState.QUEUED:
                    waits.append(time.monotonic() - started)
                    break
            time.sleep(0.3)
    finally:
        over.set()
        for attacker in attackers:
            attacker.join()
    assert len(waits) >= 3
    assert max(waits) < 6  # at most 2.1 s on two cores with a load of 6
    assert any("computing time" in (error or "") for error in errors)
    assert any("memory" in (error or "") for error in errors)
