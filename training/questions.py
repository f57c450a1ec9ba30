"""The questions that a scene can be asked, with their answers; all follow from the scene's values."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from training.phrases import INTENTS, ask, phrasings
from training.scenes import COLOURS, SHAPES, SIZES, Bar, Box, Scene, Thing, place

CATEGORIES = (
    "caption", "count", "ocr", "color", "shape", "position", "size", "what", "yesno", "relation", "chart", "clock",
    "absent", "box",
)  # fmt: skip
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
AT = {"center": "in the center", "left": "on the left", "right": "on the right"}
SIDES = (("left of", "right of"), ("above", "below"))


@dataclass(frozen=True)
class Fact:
    """Something that can be asked: the intent and the slots of phrases.py, and the answer."""

    category: str
    intent: str
    slots: dict[str, str]
    answer: str


@dataclass(frozen=True)
class Question:
    category: str
    question: str
    answer: str


def facts(scene: Scene, rng: random.Random) -> list[Fact]:
    """All that can be asked of a scene. Random is only what is asked about absent things."""
    all_facts = [Fact("caption", "caption", {}, caption(scene)), Fact("color", "background", {}, scene.background)]
    kinds = {"clock": "a clock", "chart": "a bar chart", "text": "a text", "shapes": "shapes", "crowd": "shapes"}
    all_facts.append(Fact("what", "kind", {}, kinds[scene.kind]))
    all_facts += _about_things(scene, rng)
    if scene.text is not None:
        all_facts += _about_text(scene)
    if scene.bars:
        all_facts += _about_bars(scene.bars, rng)
    if scene.clock is not None:
        time = f"{scene.clock.hour}:{scene.clock.minute:02}"
        all_facts += [Fact("clock", "time", {}, time)] * 4
        all_facts.append(Fact("color", "color", {"o": "clock"}, scene.clock.colour))
    all_facts += _about_what_is_not_there(scene, rng)
    return all_facts


def questions(scene: Scene, rng: random.Random, limit: int) -> list[Question]:
    """Up to `limit` questions, balanced over what the scene can be asked, each in a random phrasing."""
    by_intent: dict[tuple[str, str], list[Fact]] = {}
    for fact in facts(scene, rng):
        by_intent.setdefault((fact.category, fact.intent), []).append(fact)
    for group in by_intent.values():
        rng.shuffle(group)
    order = [key for key, group in by_intent.items() for _ in range(min(len(group), _SHARE.get(key[1], 2)))]
    rng.shuffle(order)
    chosen = [by_intent[key].pop() for key in order[:limit]]
    return [Question(f.category, ask(rng, f.intent, f.slots), f.answer) for f in chosen]


# How often an intent may be asked of one image; 2 for the others.
_SHARE = {
    "caption": 1,
    "kind": 1,
    "box": 4,
    "value": 3,
    "time": 4,
    "read": 2,
    "background": 1,
    "extreme": 1,
    "count": 3,
}


def unseen(scene: Scene, rng: random.Random, category: str) -> Iterator[Question]:
    """The category's ten phrasings that training never sees, each for a fact of the scene, if it has one."""
    fitting = [f for f in facts(scene, rng) if (f.category, f.intent) == (category, INTENTS[category])]
    if fitting:
        for (template,) in phrasings("unseen")[category]:
            fact = rng.choice(fitting)
            yield Question(category, template.format_map(fact.slots), fact.answer)


def caption(scene: Scene) -> str:
    things, ground = scene.things, f"on a {scene.background} background"
    if scene.kind == "clock" and scene.clock is not None:
        c = scene.clock
        numerals = {0: "no numerals", 4: "four numerals", 12: "twelve numerals"}[c.numerals]
        return (
            f"The image shows a round {c.colour} clock with {numerals} {ground}. The short hand is past "
            f"{c.hour} and the long hand is at minute {c.minute}. It is {c.hour}:{c.minute:02}."
        )
    if scene.bars:
        listed = _listed([f"bar {b.label} is {b.colour} with value {b.value}" for b in scene.bars])
        return f"The image shows a bar chart with {NUMBERS[len(scene.bars)]} bars {ground}. B{listed[1:]}."
    if scene.kind == "crowd":
        upper = sum(t.row < 2 for t in things)
        return (
            f"The image shows {_many(len(things), 'small object')} {ground}. There {_be(_tally(things)[0][1])} "
            f"{_listed([_many(n, name) for name, n in _tally(things)])}. "
            f"{NUMBERS[upper].capitalize()} {_be(upper)} in the top half and {NUMBERS[len(things) - upper]} "
            f"in the bottom half. All of them have the same size."
        )
    subject = [_many(len(things), "object")] if things else []
    if scene.text is not None:
        t = scene.text
        subject.insert(0, f"the text {t.string} in {t.colour} letters {_at(place(t.row, 1))}")
    text = f"The image shows {_listed(subject)} {ground}."
    if things:
        text += f" There is {_listed([f'a {t.size} {t.name} {_at(t.place)}' for t in things])}."
    if scene.text is not None and len(things) < 2:
        s = scene.text.string
        kind = "is a number" if s.isdigit() else "has only letters" if s.isalpha() else "mixes letters and digits"
        text += f" The text has {NUMBERS[len(s)]} characters, it begins with {s[0]} and ends with {s[-1]}. It {kind}."
    elif len(things) < 3:
        text += " Nothing else is there and the rest of the image is empty."
    return text


def written(box: Box) -> str:
    """As LLaVA writes boxes: left, top, right, bottom, in parts of the square that the model sees."""
    return "[" + ", ".join(f"{v / 100:.2f}" for v in box) + "]"


def iou(a: str, b: str) -> float:
    """Intersection over union of two written boxes; 0 where one is not a box."""
    try:
        first, second = ([float(v) for v in s.strip("[]").split(",")] for s in (a, b))
        (l1, t1, r1, b1), (l2, t2, r2, b2) = first, second
    except ValueError:
        return 0.0
    shared = max(0.0, min(r1, r2) - max(l1, l2)) * max(0.0, min(b1, b2) - max(t1, t2))
    union = (r1 - l1) * (b1 - t1) + (r2 - l2) * (b2 - t2) - shared
    return shared / union if union > 0 else 0.0


def _about_things(scene: Scene, rng: random.Random) -> Iterator[Fact]:
    things = scene.things
    by_shape, by_colour = Counter(t.shape for t in things), Counter(t.colour for t in things)
    by_name = Counter(t.name for t in things)
    # What means this thing and no other.
    names = {t: [n for n, k in ((t.shape, by_shape[t.shape]), (t.name, by_name[t.name])) if k == 1] for t in things}
    if scene.kind in ("shapes", "crowd"):
        for name, n in (*by_shape.items(), *by_name.items()):
            yield Fact("count", "count", {"p": _plural(name)}, str(n))
        for colour, n in by_colour.items():
            yield Fact("count", "count", {"p": f"{colour} {rng.choice(('objects', 'shapes', 'things'))}"}, str(n))
        for word in ("objects", "shapes"):
            yield Fact("count", "count", {"p": word}, str(len(things)))
        lacking = rng.choice([s for s in SHAPES if s not in by_shape])
        yield Fact("count", "count", {"p": _plural(lacking)}, "0")
    if scene.kind == "crowd":
        upper = sum(t.row < 2 for t in things)
        yield Fact("count", "count_half", {"half": rng.choice(("top", "upper"))}, str(upper))
        yield Fact("count", "count_half", {"half": rng.choice(("bottom", "lower"))}, str(len(things) - upper))
    for shape in by_shape:
        yield Fact("yesno", "exists", _thing_slots(shape), "yes")
    for name in by_name:
        yield Fact("yesno", "exists", _thing_slots(name), "yes")
    for t in things:
        if by_shape[t.shape] == 1:
            yield Fact("color", "color", {"o": t.shape}, t.colour)
        if by_colour[t.colour] == 1 and (scene.text is None or scene.text.colour != t.colour):
            yield Fact("shape", "shape", {"c": t.colour}, t.shape)
        for name in names[t]:
            yield Fact("box", "box", {"o": name}, written(t.box))
            if scene.kind != "crowd":
                yield Fact("position", "position", {"o": name}, t.place)
                yield Fact("size", "size", {"o": name}, t.size)
    if scene.kind == "crowd" or not things:
        return
    for t in things:
        yield Fact("what", "what_at", {"at": _at(t.place)}, f"a {t.name}")
    taken = {(t.row, t.column) for t in things} | ({(scene.text.row, c) for c in range(3)} if scene.text else set())
    empty = [(r, c) for r in range(3) for c in range(3) if (r, c) not in taken]
    if empty:
        row, column = rng.choice(empty)
        yield Fact("what", "what_at", {"at": _at(place(row, column))}, "nothing")
    order = list(SIZES)
    for words, best in ((("biggest", "largest"), max), (("smallest",), min)):
        size = best((t.size for t in things), key=order.index)
        of_size = [t for t in things if t.size == size]
        if len(of_size) == 1 and len(things) > 1:
            yield Fact("what", "extreme", {"e": rng.choice(words)}, f"a {of_size[0].name}")
    for t in things:
        for d, (row, column) in _NEIGHBOURS.items():
            line = [u for u in things if ((u.row - t.row) * row > 0 and u.column == t.column) or
                    ((u.column - t.column) * column > 0 and u.row == t.row)]  # fmt: skip
            nearest = min(line, key=lambda u: abs(u.row - t.row) + abs(u.column - t.column), default=None)
            # A text in between would be the nearest.
            if names[t] and (nearest is not None or (scene.text is None and rng.random() < 0.2)):
                answer = "nothing" if nearest is None else f"a {nearest.name}"
                if scene.text is None or row == 0:
                    yield Fact("relation", "beside", {"o": rng.choice(names[t]), "d": d}, answer)
    named = [t for t in things if names[t]]
    if len(named) < 2:
        return
    for _ in range(8):
        one, two = rng.sample(named, 2)
        o, o2 = rng.choice(names[one]), rng.choice(names[two])
        for axis, (first, second) in enumerate(SIDES):
            a, b = (one.column, two.column) if axis == 0 else (one.row, two.row)
            if a != b:
                d, d2 = rng.choice(((first, second), (second, first)))
                shown = (d.removesuffix(" of"), d2) if axis == 0 else (d, d2)
                answer = first if a < b else second
                slots = {"o": o, "o2": o2, "d": shown[0], "d2": shown[1]}
                yield Fact("relation", "side", slots, answer.removesuffix(" of"))
                yield Fact("relation", "side_yes", {"o": o, "o2": o2, "d": d}, "yes" if d == answer else "no")
        if one.size != two.size:
            big = o if order.index(one.size) > order.index(two.size) else o2
            yield Fact("relation", "larger", {"o": o, "o2": o2}, f"the {big}")


_NEIGHBOURS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


def _about_text(scene: Scene) -> Iterator[Fact]:
    text = scene.text
    assert text is not None
    yield Fact("ocr", "read", {}, text.string)
    yield Fact("ocr", "read", {}, text.string)
    yield Fact("ocr", "first_last", {"n": "first", "begin": "begin"}, text.string[0])
    yield Fact("ocr", "first_last", {"n": "last", "begin": "end"}, text.string[-1])
    yield Fact("count", "count_characters", {}, str(len(text.string)))
    yield Fact("color", "color", {"o": "text"}, text.colour)
    yield Fact("position", "position", {"o": "text"}, place(text.row, 1))
    yield Fact("yesno", "exists", {"o": "text", "p": "letters"}, "yes")


def _about_bars(bars: tuple[Bar, ...], rng: random.Random) -> Iterator[Fact]:
    yield Fact("count", "count", {"p": "bars"}, str(len(bars)))
    yield Fact("chart", "tallest", {}, max(bars, key=lambda b: b.value).label)
    yield Fact("chart", "shortest", {}, min(bars, key=lambda b: b.value).label)
    yield Fact("chart", "values", {}, ", ".join(f"{b.label} {b.value}" for b in bars))
    for bar in bars:
        name = rng.choice((f"bar {bar.label}", f"the {bar.colour} bar"))
        yield Fact("chart", "value", {"b": name}, str(bar.value))
        yield Fact("chart", "which_value", {"v": str(bar.value)}, bar.label)
        yield Fact("color", "color", {"o": f"bar {bar.label}"}, bar.colour)
        yield Fact("shape", "shape", {"c": bar.colour}, "bar")
        other = rng.choice([b for b in bars if b is not bar])
        slots = {"b": name, "b2": rng.choice((f"bar {other.label}", f"the {other.colour} bar"))}
        yield Fact("yesno", "higher", slots, "yes" if bar.value > other.value else "no")


def _about_what_is_not_there(scene: Scene, rng: random.Random) -> Iterator[Fact]:
    shapes = {t.shape for t in scene.things}
    names = {t.name for t in scene.things}
    lacking = rng.sample(missing := [s for s in SHAPES if s not in shapes], min(2, len(missing)))
    # Near misses: a shape that is there in a colour that it has not.
    near = [f"{rng.choice(list(COLOURS))} {s}" for s in sorted(shapes)]
    wrong = [n for n in (*near, *(f"{rng.choice(list(COLOURS))} {s}" for s in lacking)) if n not in names]
    for name in (*lacking, *wrong):
        yield Fact("yesno", "exists", _thing_slots(name), "no")
    for name in (*lacking, rng.choice(wrong)):
        no = f"there is no {name}"
        intent = rng.choice(("color", "color", "position", "size", "box"))
        if intent != "color" or " " not in name:
            yield Fact("absent", intent, {"o": name}, no)
    for there, intent, name in (
        (scene.text is not None, "read", "text"),
        (scene.clock is not None, "time", "clock"),
    ):
        if not there and rng.random() < 0.5:
            yield Fact("absent", intent, {}, f"there is no {name}")
            yield Fact("yesno", "exists", {"o": name, "p": "letters" if name == "text" else "clocks"}, "no")


def _tally(things: tuple[Thing, ...]) -> list[tuple[str, int]]:
    """How many of each kind, in the fixed order of shapes and colours."""
    order = list(COLOURS)
    counted = Counter((SHAPES.index(t.shape), order.index(t.colour)) for t in things)
    return [(f"{order[c]} {SHAPES[s]}", n) for (s, c), n in sorted(counted.items())]


def _thing_slots(name: str) -> dict[str, str]:
    return {"o": name, "p": _plural(name)}


def _plural(name: str) -> str:
    return name + ("es" if name.endswith("s") else "s")


def _many(n: int, name: str) -> str:
    return f"{NUMBERS[n]} {name if n == 1 else _plural(name)}"


def _be(n: int) -> str:
    return "is" if n == 1 else "are"


def _at(place: str) -> str:
    return AT.get(place, f"at the {place}")


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
