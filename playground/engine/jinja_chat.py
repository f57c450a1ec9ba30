"""Renders a chat with a Jinja template, as transformers does. Pure: it needs no llama.cpp.

What a template may use is what transformers gives it: `messages`, `tools` and `documents` (None), the names of special
tokens, `raise_exception`, `strftime_now`, its own `tojson`, `{% generation %}` and loop controls. Beside them stand the
variables that a person sets, such as `enable_thinking`, and `media_marker`, the text that stands for an image.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

# How a template may write the image's place in its source. llama.cpp's constant comes first; the second is common in
# the documentation of models.
_IMAGE_WORDS = ("<__media__>", "<image>")


class _Generation(jinja2.ext.Extension):
    """`{% generation %} ... {% endgeneration %}`: training scripts find the model's own words by it. Its text stays."""

    tags = {"generation"}  # noqa: RUF012  as Jinja declares it

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    variables: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> str:
    """The chat's text, with the assistant's turn begun. `now`: the time that the template is told; None: the clock's.

    Raises what a template may raise, jinja2.TemplateError and more.
    """
    moment = now or datetime.datetime.now()  # noqa: DTZ005  Llama 3.2 asks for today where the person is
    given: dict[str, Any] = {
        "messages": messages,
        "tools": None,
        "documents": None,
        "add_generation_prompt": True,
        "strftime_now": moment.strftime,
        **(variables or {}),
    }
    return compile_template(template).render(**given)


def sources(template: str, marker: str) -> tuple[str, ...]:
    """The template with `marker` in place of the words by which it means an image; first what is likelier to be meant.

    The worker's marker is random, so that no prompt can contain it: a template cannot look for it by a constant.
    """
    media, image = _IMAGE_WORDS
    known = template.replace(media, marker)
    with_image = known.replace(image, marker)
    return (known,) if with_image == known else (with_image, known)


@functools.lru_cache(maxsize=16)
def names(template: str) -> frozenset[str]:
    """The names in the template: variables, filters, attributes. It is split into tokens only: Jinja's own search for
    variables would compute its constants, in this process. Raises TemplateSyntaxError."""
    return frozenset(text for _, kind, text in _environment().lex(template) if kind == "name")


@functools.lru_cache(maxsize=16)
def compile_template(template: str) -> jinja2.Template:
    """Kept, since compiling takes longer than all else that a second question costs. Raises TemplateSyntaxError."""
    return _environment().from_string(template)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _fail
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes for HTML and sorts the keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _fail(message: str) -> None:
    raise jinja2.TemplateError(message)
