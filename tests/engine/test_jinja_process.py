"""Chat templates in their own process: what they write, and what ends one that takes too much."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import jinja2
import psutil
import pytest

from playground.engine.jinja_process import JinjaProcess
from playground.errors import BadModel
from testkit.processes import children_of, wait_ended

CHAT = [{"role": "user", "content": "What is this?"}]
HONEST = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"

# Strangers' templates: none of them is ended by Jinja's sandbox.
LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DOUBLES = "{% set n = namespace(t='x' * 99) %}{% for i in range(40) %}{% set n.t = n.t ~ n.t %}{% endfor %}{{ n.t }}"


@pytest.fixture(autouse=True)
def busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that waits for a processor is not to be ended before it meets a limit of its own."""
    monkeypatch.setattr("playground.engine.jinja_process._WALL_S", 150.0)


@pytest.fixture(scope="module")
def process() -> Iterator[JinjaProcess]:
    process = JinjaProcess()
    yield process
    process.close()


def test_template_when_honest_then_rendered(process: JinjaProcess) -> None:
    assert process.render(HONEST, CHAT, variables={"bos_token": "<s>"}) == "<s>user: What is this?"


@pytest.mark.parametrize(
    ("template", "limit"),
    [
        (LOOPS, "0.75 s of computing time"),
        (DOUBLES, "512 MiB of memory"),
        ("{{ 'x' * 4000000 }}", "1 MB of text"),
        ("{{ 7 ** (9 ** 9) }}", "0.75 s of computing time"),  # folded while it is compiled
        ("{{ 'x' * 9 ** 11 }}", "512 MiB of memory"),
    ],
    ids=["loops", "doubles", "long", "power", "constant"],
)
def test_template_when_it_takes_too_much_then_it_is_stopped_and_the_next_one_is_rendered(
    process: JinjaProcess, template: str, limit: str
) -> None:
    with pytest.raises(BadModel, match=limit):
        process.render(template, CHAT)
    assert process.render("{{ messages[0].content }}", CHAT) == "What is this?"


def test_template_when_compiled_then_the_limits_hold_too(process: JinjaProcess) -> None:
    process.compile(HONEST)
    with pytest.raises(BadModel, match=r"0\.75 s of computing time"):
        process.compile("{{ 7 ** (9 ** 9) }}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('No images here.') }}", "No images here"),
        ("{{ 1 // 0 }}", "by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ '\\ud800' }}", "surrogates"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "recursion"),
    ],
)
def test_template_when_it_fails_then_its_reason_is_raised(process: JinjaProcess, template: str, message: str) -> None:
    with pytest.raises(jinja2.TemplateError, match=message):
        process.render(template, CHAT)


def test_template_when_its_syntax_is_invalid_then_the_line_is_known(process: JinjaProcess) -> None:
    with pytest.raises(jinja2.TemplateSyntaxError) as error:
        process.compile("{{ messages }}\n{% for %}")
    assert error.value.lineno == 2


def test_process_when_killed_while_idle_then_the_next_template_is_rendered(process: JinjaProcess) -> None:
    process.compile(HONEST)
    for pid in children_of(os.getpid(), "jinja_child"):
        os.kill(pid, signal.SIGKILL)
        wait_ended(pid)
    assert process.render(HONEST, CHAT, variables={}) == "user: What is this?"


def test_process_when_its_worker_is_gone_then_it_ends() -> None:
    before = children_of(os.getpid(), "jinja_child")
    process = JinjaProcess()
    process.compile(HONEST)
    (child,) = set(children_of(os.getpid(), "jinja_child")) - set(before)
    process.close()
    assert not psutil.pid_exists(child)
