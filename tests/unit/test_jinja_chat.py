"""Chat templates rendered as transformers does. Each expected text is what transformers 5.24 writes for it."""

from __future__ import annotations

import datetime
from typing import Any

import jinja2
import pytest
from jinja2.exceptions import SecurityError

from playground.engine import jinja_chat

NOW = datetime.datetime(2026, 11, 26, 12, 30, 45)  # noqa: DTZ001  as the clock of a person
CHAT = [
    {"role": "user", "content": "Is <b> bold & 'so'?"},
    {"role": "assistant", "content": "Ja, größer."},
    {"role": "user", "content": "Sure?"},
]
LOOP = "{% for m in messages %}"

CASES: dict[str, tuple[str, dict[str, Any], str]] = {
    "generation": (
        LOOP + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}[{{ m.content }}]{% endif %}{% endfor %}",
        {},
        "[Is <b> bold & 'so'?]Ja, größer.[Sure?]",
    ),
    "generation with dashes": (
        LOOP + "\n  {%- generation -%}\n  {{ m.role }}\n  {%- endgeneration -%}\n  |\n{% endfor %}",
        {},
        "user|\nassistant|\nuser|\n",
    ),
    "generation has a scope of its own": (
        "{% set a = 1 %}{% generation %}{% set a = 2 %}{{ a }}{% endgeneration %}{{ a }}",
        {},
        "21",
    ),
    "tojson": (
        "{{ messages[:2] | tojson }}",
        {},
        '[{"role": "user", "content": "Is <b> bold & \'so\'?"}, {"role": "assistant", "content": "Ja, größer."}]',
    ),
    "tojson with options": (
        "{{ {'b': 1, 'a': [true, none]} | tojson(indent=1, sort_keys=true) }}",
        {},
        '{\n "a": [\n  true,\n  null\n ],\n "b": 1\n}',
    ),
    "date": ("{{ strftime_now('%d %b %Y %H:%M') }}", {}, "26 Nov 2026 12:30"),
    "own date": (
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d') %}{% endif %}{{ date_string }}",
        {"date_string": "1 Jan 2025"},
        "1 Jan 2025",
    ),
    "absent": (
        "{% if tools is none and documents is none %}none{% endif %}"
        "{{ tools is defined }}{{ enable_thinking is defined }}",
        {},
        "noneTrueFalse",
    ),
    "variable": (
        "{% if enable_thinking is defined and enable_thinking is false %}NO{% else %}YES{% endif %}",
        {"enable_thinking": False},
        "NO",
    ),
    "loop controls": (
        LOOP + "{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
        {},
        "Is <b> bold & 'so'?Sure?",
    ),
    "begun": ("{{ messages|length }}{% if add_generation_prompt %}<assistant>{% endif %}", {}, "3<assistant>"),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_template_when_rendered_then_as_transformers_does(case: str) -> None:
    template, variables, expected = CASES[case]
    assert jinja_chat.render(template, CHAT, variables=variables, now=NOW) == expected


def test_template_when_it_reaches_for_python_then_refused() -> None:
    with pytest.raises(SecurityError):
        jinja_chat.render("{{ messages.__class__.__mro__ }}{{ strftime_now.__self__.__class__ }}", CHAT)


def test_template_when_it_raises_then_its_words_are_kept() -> None:
    with pytest.raises(jinja2.TemplateError, match="Roles must alternate"):
        jinja_chat.render("{{ raise_exception('Roles must alternate') }}", CHAT)


def test_sources_when_a_template_names_the_image_then_the_workers_marker_stands_there() -> None:
    assert jinja_chat.sources("a<image>b<__media__>c", "M") == ("aMbMc", "a<image>bMc")
    assert jinja_chat.sources("plain", "M") == ("plain",)


def test_names_when_a_template_reads_a_variable_then_it_is_among_them_and_text_is_not() -> None:
    names = jinja_chat.names("enable_text{% if enable_thinking is false %}{{ messages[0].role | upper }}{% endif %}")
    assert {"enable_thinking", "messages", "role", "upper"} <= names
    assert "enable_text" not in names


def test_names_when_a_template_computes_a_constant_then_it_is_not_computed_here() -> None:
    assert "range" in jinja_chat.names("{{ 'a' * 10 ** 11 }}{{ range }}")
