"""The look test: does a pair read its picture? An answer has to be likelier with its own picture than with others.

The variant reads an accepted answer, or where there is none the reference's. That another picture moves the answer is
not enough: shuffled projector weights move it, too, and see nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import PIL.Image

from playground.comparing.images import from_rgb
from playground.measuring import statistics
from playground.measuring.results import Sight
from playground.measuring.steps import Item, Steps
from playground.values.files import Variant
from playground.values.request import Image

QUESTIONS = 24  # asked at most, each about another picture
_OTHERS = 3  # pictures that each answer is read with beside its own
_LEAST = 10  # questions; with fewer no outcome is rare enough to say anything
_LEVEL = 0.005  # of the sign test: 10 of 10, 19 of 24
_MOVED = 1e-3  # nats an answer: what computing the same again may change; a picture that moves less moves nothing


def chosen(items: Sequence[Item]) -> list[int]:
    """Up to QUESTIONS places of questions, evenly from the whole set, no two about one picture."""
    first: dict[str, int] = {}
    for k, item in enumerate(items):
        first.setdefault(item.image.sha256, k)
    places, step = list(first.values()), max(1.0, len(first) / QUESTIONS)
    return [places[int(k * step)] for k in range(min(QUESTIONS, len(places)))]


def key(steps: Steps, variant: Variant, item: Item, pictures: Sequence[Image]) -> str:
    return steps.key("own picture", variant, item, steps.reference_key, [picture.sha256 for picture in pictures])


def advantage(
    steps: Steps,
    variant: Variant,
    item: Item,
    ids: tuple[int, ...],
    pictures: Sequence[Image],
    read: Mapping[str, float] | None = None,
) -> float:
    """Nats by which the answer `ids` is likelier with the item's picture than with `pictures` (mean probability).

    0 with no other picture. `read`: what is known of them, by the picture's sha256, in nats.
    """
    name = key(steps, variant, item, pictures)
    cached = steps.lab.results.get(name, float)
    if cached is not None:
        return cached

    def log_probability(picture: Image) -> float:
        known = (read or {}).get(picture.sha256)
        if known is not None:
            return known
        return steps.log_probability(variant, steps.prompt(variant, item._replace(image=picture)), ids)

    own = log_probability(item.image)
    rivals = [log_probability(picture) for picture in pictures]
    value = own - _log_mean(rivals) if rivals else 0.0
    steps.lab.results.put(name, value)
    return value


def others(own: Image, images: Sequence[Image], n: int = _OTHERS) -> list[Image]:
    """Up to n other pictures, evenly chosen, each brought to the size of this one.

    A picture of another size takes another number of tokens, which moves an answer whatever the picture shows.
    """
    distinct = list({image.sha256: image for image in images if image.sha256 != own.sha256}.values())
    step = max(1.0, len(distinct) / n)
    return [_resized(distinct[int(k * step)], own) for k in range(min(n, len(distinct)))]


def judged(advantages: Sequence[float]) -> tuple[Sight, tuple[int, int]]:
    """The verdict, and on how many questions the own picture was the better and the worse one."""
    wins = sum(value > _MOVED for value in advantages)
    losses = sum(value < -_MOVED for value in advantages)
    if len(advantages) < _LEAST:
        return Sight.UNKNOWN, (wins, losses)
    if not wins + losses:
        return Sight.BLIND, (wins, losses)
    return Sight.SEES if statistics.sign_test(wins, losses) <= _LEVEL else Sight.REACTS, (wins, losses)


def pooled(verdicts: Sequence[str | None], own_pictures: Sequence[tuple[int, int] | None]) -> Sight | None:
    """Of one pair over several sets of questions, by what each found; None: none was asked."""
    counts = [counted for counted in own_pictures if counted is not None]
    if not counts:
        return None
    wins, losses = (sum(side) for side in zip(*counts, strict=True))
    known = [verdict for verdict in verdicts if verdict not in (None, Sight.UNKNOWN)]
    if not known and wins + losses < _LEAST:
        return Sight.UNKNOWN
    if not wins + losses:
        return Sight.BLIND
    return Sight.SEES if statistics.sign_test(wins, losses) <= _LEVEL else Sight.REACTS


def words(verdict: str | None, own_picture: tuple[int, int] | None) -> str:
    """One sentence that stands alone; empty where nothing was asked."""
    if verdict is None or own_picture is None:
        return ""
    wins, losses = own_picture
    count = f"With its own picture the answer was likelier than with others on {wins} of {wins + losses} questions"
    return {
        str(Sight.SEES): f"{count}: it sees.",
        str(Sight.REACTS): f"{count}: it reacts to pictures, but was not shown to read them.",
        str(Sight.BLIND): "Other pictures change nothing: it ignores the picture.",
    }.get(verdict, f"{count}: too few to say whether it sees.")


def remedy(verdict: str | None) -> str:
    """What helps a pair that does not see; empty: nothing has to."""
    return "Use the model's own mmproj file." if verdict == Sight.BLIND else ""


def _resized(image: Image, like: Image) -> Image:
    if (image.width, image.height) == (like.width, like.height):
        return image
    whole = PIL.Image.frombytes("RGB", (image.width, image.height), image.rgb)
    return from_rgb(whole.resize((like.width, like.height), PIL.Image.Resampling.BICUBIC))


def _log_mean(values: Sequence[float]) -> float:
    """Of probabilities given by their logarithms."""
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values) / len(values))
