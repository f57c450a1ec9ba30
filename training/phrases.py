"""How people ask: the phrasings of phrases.toml, expanded and roughened as people type."""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("phrases.toml")

# The intent that a category's unseen phrasings ask for.
INTENTS = {
    "caption": "caption",
    "count": "count",
    "ocr": "read",
    "color": "color",
    "shape": "shape",
    "position": "position",
    "size": "size",
    "what": "what_at",
    "yesno": "exists",
    "relation": "side_yes",
    "chart": "value",
    "clock": "time",
    "absent": "color",
    "box": "box",
}

_BEFORE = (
    "Please tell me: ",
    "Question: ",
    "In this image: ",
    "Looking at the picture: ",
    "Can you tell me: ",
    "Hello! ",
)
_AFTER = (" Please.", " Thanks!", " Answer briefly.", " Be short.", " Look closely.")


@cache
def phrasings(kind: str) -> dict[str, tuple[tuple[str, ...], ...]]:
    """ "trained" by intent or "unseen" by category: for each template, all phrasings that it stands for."""
    written: dict[str, dict[str, list[str]]] = tomllib.loads(FILE.read_text(encoding="utf-8"))
    held_out = {_bare(t) for templates in written["unseen"].values() for t in templates} if kind == "trained" else set()
    by_intent = {}
    for name, templates in written[kind].items():
        allowed = (tuple(p for p in _expanded(t) if _bare(p) not in held_out) for t in templates)
        by_intent[name] = tuple(phrasing for phrasing in allowed if phrasing)
    return by_intent


def _expanded(template: str) -> list[str]:
    parts = [part[1:-1].split("|") if part.startswith("[") else [part] for part in re.split(r"(\[[^]]*\])", template)]
    return [re.sub(r" +", " ", "".join(chosen)) for chosen in itertools.product(*parts)]


def _bare(phrasing: str) -> str:
    return re.sub(r"[^a-z{}0-9 ]", "", phrasing.lower()).strip()


def ask(rng: random.Random, intent: str, slots: dict[str, str]) -> str:
    """A question as somebody might type it."""
    question = rng.choice(rng.choice(phrasings("trained")[intent])).format_map(slots)
    chance = rng.random()
    if chance < 0.10:
        question = question[:1].lower() + question[1:]
    elif chance < 0.15:
        question = rng.choice(_BEFORE) + question[:1].lower() + question[1:]
    elif chance < 0.20:
        question += rng.choice(_AFTER)
    chance = rng.random()
    if chance < 0.08:
        question = question.rstrip("?.:")
    elif chance < 0.13:
        words = question.split(" ")
        small = [i for i, word in enumerate(words) if word in ("the", "is", "of", "a", "in", "me", "do", "does", "are")]
        if small:
            del words[rng.choice(small)]
        question = " ".join(words)
    return question
