"""The templates: HTML that escapes every value, the style sheet of a file that stands alone, images as data URLs."""

from __future__ import annotations

import base64
import functools
import re
from collections.abc import Collection
from pathlib import Path

import jinja2
import markupsafe

from playground.rendering import number_format

# What names of control tokens mostly look like. A notebook may come from anybody, so the time has to be linear in the
# text: these names are looked up; of others there are few.
_BRACKETED = re.compile(r"(<[^<>]{1,80}>|\[[^\[\]]{1,80}\])")
_MOST_OTHERS, _LONGEST = 100, 80
_CHIP = markupsafe.Markup('<code class="vp-token">{}</code>')


def chips(text: str, controls: Collection[str]) -> markupsafe.Markup:
    """A text, escaped, in which each of these control tokens is a chip. It is still part of what is copied."""
    if not controls:
        return markupsafe.escape(text)
    known, others = _names(tuple(controls))
    html: list[str] = []
    for n, part in enumerate(others.split(text) if others else [text]):
        if n % 2:
            html.append(_CHIP.format(part))
        else:
            html += [_CHIP.format(piece) if piece in known else piece for piece in _BRACKETED.split(part)]
    return markupsafe.Markup("").join(html)


def chip_if(text: str, is_control: bool) -> markupsafe.Markup:
    """A token's text, escaped; a chip if the token is a control token. White space around it stays outside."""
    name = text.strip()
    if not is_control or not name:
        return markupsafe.escape(text)
    before, _, behind = text.partition(name)
    return markupsafe.escape(before) + _CHIP.format(name) + markupsafe.escape(behind)


@functools.lru_cache(maxsize=64)
def _names(controls: tuple[str, ...]) -> tuple[frozenset[str], re.Pattern[str] | None]:
    """Those in brackets, and an expression that finds the others: a word only where it stands alone."""
    names = {name.strip() for name in controls if name.strip()}
    others = sorted((name for name in names if not _BRACKETED.fullmatch(name)), key=lambda name: (-len(name), name))
    patterns = [_alone(name) for name in others if len(name) <= _LONGEST][:_MOST_OTHERS]
    return frozenset(names), re.compile(f"({'|'.join(patterns)})") if patterns else None


def _alone(name: str) -> str:
    before, behind = (r"(?<!\w)" if name[0].isalnum() else ""), (r"(?!\w)" if name[-1].isalnum() else "")
    return before + re.escape(name) + behind


environment = jinja2.Environment(
    loader=jinja2.PackageLoader("playground.rendering", "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
environment.filters |= {
    "seconds": number_format.seconds,
    "file_size": number_format.file_size,
    "sizes": number_format.sizes,
    "memory": number_format.memory,
    "speed": number_format.speed,
    "sampled_speed": number_format.sampled_speed,
    "range_of": number_format.range_of,
    "bits": number_format.bits,
    "parameters": number_format.parameters,
    "probability": number_format.probability,
    "token": number_format.token,
    "when": number_format.when,
    "image_seen": number_format.image_seen,
    "drift_at_least": number_format.drift_at_least,
    "share": number_format.share,
    "chips": chips,
    "chip_if": chip_if,
    "plain": lambda number: f"{number:.10g}",
}


_STYLES = Path(__file__).parent / "styles"
_COLORS = _STYLES / "colors.css"
# Of what a notebook shows, on the page and in a report. Where two rules are equally specific, the later file wins.
_SHARED = tuple(
    _STYLES / f"{name}.css"
    for name in ("text", "run", "measurement", "panes", "tables", "plots", "card", "sensitivity", "boxes")
)
PAGE_STYLES = (_COLORS, *_SHARED)


def css() -> markupsafe.Markup:
    """The page's rules for a file that stands alone: dark where the system is, not by a class."""
    light, dark = _COLORS.read_text().split(".dark {", 1)
    dark = dark.replace("}", "--body-text-color: #e8e9eb; --bg: #15171b; }", 1)
    rules = "\n".join(path.read_text() for path in (*_SHARED, _STYLES / "report.css"))
    text = f"{light}\n{rules}\n@media screen and (prefers-color-scheme:dark) {{ :root {{{dark} }}"
    return markupsafe.Markup(text)  # noqa: S704  our own files


def markup(template: str, **values: object) -> markupsafe.Markup:
    """A template's HTML; every value is escaped in it, but for what another template made."""
    html = environment.get_template(template).render(**values)
    return markupsafe.Markup(html)  # noqa: S704  rendered with autoescape just now


def data_url(kind_and_bytes: tuple[str, bytes] | None) -> str | None:
    """Of a MIME type and the bytes."""
    if kind_and_bytes is None:
        return None
    kind, data = kind_and_bytes
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
