"""What the inspect page sends to a visitor and to an operator, from reports made by hand."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from playground.rendering import memory_strip
from playground.values.engine_defaults import EngineDefaults, EngineSettings, Trial
from playground.values.memory import MemoryParts, QueuedRun, SpareMemory
from playground.web.inspect_page import InspectPage
from playground.web.replies import InspectReply
from testkit.html_tags import Tags
from testkit.memory_reports import GIB, NOW, HandMade, gpu, h100, report, worker

ME, OPERATOR = "me", "operator"


BAD_NAME = '<script>alert("1")</script>&.gguf'


def page(machine: HandMade) -> InspectPage:
    return InspectPage(machine, machine, lambda name: name == "operator")


def rendered(reply: InspectReply) -> str:
    return "".join(str(value) for name, value in reply.items() if name != "time")


def test_page_when_names_hold_markup_then_it_is_text_and_every_tag_is_closed() -> None:
    bad = replace(
        worker(BAD_NAME, GIB, parts={"GPU 0": MemoryParts(GIB)}, measured_by="difference", pinned=True), file=BAD_NAME
    )
    now = report(
        bad, replace(bad, id="2", leases=1), worker("c", None), gpus=(gpu(name=BAD_NAME),),
        queue=(QueuedRun("me", (BAD_NAME,), 1.0, None),), alarms=(BAD_NAME,),
    )  # fmt: skip
    inspect_page = page(HandMade((replace(now, time=NOW - 5), now)))
    for visitor in (ME, OPERATOR):
        html = rendered(inspect_page.look(visitor)) + str(inspect_page.page()) + memory_strip.html(now)
        assert "script" not in Tags(html).seen
        assert "by difference" in html


def test_page_when_a_kind_of_model_was_measured_then_all_candidates_and_the_choice_are_shown_once() -> None:
    usual, chosen = EngineSettings(False, 2, 2048), EngineSettings(True, 2, 2048)
    trials = (Trial(usual, 500.0, 140.0), Trial(chosen, 510.0, 180.0))
    measured = EngineDefaults(chosen, usual, trials, 256, 2.04, 0.01, BAD_NAME)
    models = [replace(worker(id, GIB), defaults=measured) for id in ("F16", "Q4_K_M")]
    html = page(HandMade((report(*models),))).look(ME)["handles"]
    assert html.count("<details") == 1
    assert "its other quantizations: flash attention on, 2 threads, context 2048" in html
    assert "2.0 s, once on this machine, with a prompt of 256 tokens" in " ".join(html.split())
    words = Tags(html).seen
    assert "script" not in words
    rows = re.findall(r'<th scope="row">\s*(flash.*?)</th>\s*<td>(.*?)</td>\s*<td>(.*?)</td>', html, re.S)
    assert [(" ".join(re.sub("<.*?>", "", name).split()), reads, writes) for name, reads, writes in rows] == [
        ("flash attention off, 2 threads, context 2048 usual", "500 tok/s", "140 tok/s"),
        ("flash attention on, 2 threads, context 2048 chosen", "510 tok/s", "180 tok/s"),
    ]


def test_page_when_the_visitor_may_not_operate_then_no_buttons_and_no_effect() -> None:
    machine = HandMade(h100(30))
    shown = page(machine)
    assert "<button" not in shown.look(ME)["handles"]
    assert shown.look(OPERATOR)["handles"].count("<button") == 10
    functions: dict[str, Callable[..., Any]] = {function.__name__: function for function in shown.functions()}
    posing = {"visitor": "operator"}
    for more in ({}, posing):
        reply = functions["pin"]({"id": "SmolVLM-500M-Q8_0", "pinned": True, **more}, None)
        assert reply["error"] == "Only the operator may pin and unload here."
    assert functions["unload"]({"id": "SmolVLM-500M-Q8_0"}, None)["error"].startswith("Only the operator")
    assert "error" in functions["pin"]("nonsense", None)
    assert machine.pinned == []
    assert functions["look"]({}, None)["time"] == NOW


def test_handle_when_an_operator_pins_or_unloads_it_then_the_reply_shows_it_at_once() -> None:
    machine = HandMade(h100(30))
    operating = InspectPage(machine, machine, lambda name: True)
    call: dict[str, Callable[..., Any]] = {function.__name__: function for function in operating.functions()}
    before = call["look"]({}, None)
    after = call["pin"]({"id": "SmolVLM-500M-Q8_0", "pinned": True}, None)
    assert after["time"] > before["time"]
    assert (before["handles"].count(">pinned<"), after["handles"].count(">pinned<")) == (1, 2)
    assert "SmolVLM" not in call["unload"]({"id": "SmolVLM-500M-Q8_0"}, None)["handles"]
    assert call["unload"]({"id": "Qwen2.5-VL-7B-Q4_K_M"}, None)["error"].startswith("It is in use")
    shut = re.findall(
        r'data-do="unload" disabled title="In use now">Unload<span class="vp-sr"> ([^<]+)', after["handles"]
    )
    assert shut == ["Qwen2.5-VL-7B-Q4_K_M.gguf"]


def test_page_when_nothing_is_loaded_or_measured_then_it_says_so() -> None:
    machine = HandMade((report(),))
    made_html = rendered(page(machine).look(ME))
    for sentence in ("Nothing is loaded.", "Nobody runs or waits.", "not measured yet"):
        assert sentence in made_html


def test_page_when_a_spare_worker_is_kept_then_its_memory_is_shown() -> None:
    def shown(*spares: SpareMemory) -> str:
        return " ".join(page(HandMade((replace(report(), spares=spares),))).look(ME)["handles"].split())

    assert "spare worker" not in shown()
    assert "A spare worker takes 48 MiB. It holds no model" in shown(SpareMemory(7, 48 * 2**20))
    assert "A spare worker takes an unknown amount of memory." in shown(SpareMemory(7, None))


def test_page_when_twenty_look_at_ten_minutes_of_six_handles_then_it_costs_little() -> None:
    machine = HandMade(h100())
    shown = page(machine)
    drawn = []
    for _ in range(5):
        machine.history = (*machine.history[1:], replace(machine.history[-1], time=machine.history[-1].time + 1))
        started = time.process_time()
        reply = shown.look(ME)
        drawn.append(time.process_time() - started)
    assert min(drawn) < 0.2  # about 8 ms on an idle core
    started = time.process_time()
    for _ in range(20):
        shown.look(OPERATOR)
    assert time.process_time() - started < 0.2
    assert len(json.dumps(reply)) < 60_000


def test_page_when_the_app_runs_in_a_container_then_its_limits_are_shown() -> None:
    def shown(**limits: Any) -> str:
        return " ".join(page(HandMade((replace(report(), **limits),))).look(ME)["places"].split())

    assert "The container limits" not in shown()
    both = shown(container_bytes=4 * GIB, container_processors=1.5)
    assert "The container limits this app to 4.0 GiB of memory and 1.5 processors." in both
    assert "The container limits this app to 1.5 processors." in shown(container_processors=1.5)
    assert "The container limits this app to 4.0 GiB of memory." in shown(container_bytes=4 * GIB)
