"""Five variants, what was measured of them, and the ship card made of it."""

from __future__ import annotations

from typing import Any

from playground.measuring import ship_card as ship
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, QuestionDrift, Speed, TokenCost, VariantResult
from playground.measuring.ship_card import ShipCard, ShipLimits
from playground.measuring.statistics import Interval, Paired
from playground.values.files import ModelFile, Variant


def variant(label: str, mb: float) -> Variant:
    model = ModelFile(f"/home/me/{label}.gguf", int(mb * 1e6) - 1_000_000, f"{label}-sha", label, 10**6, "llama", "v")
    projector = ModelFile("/home/me/mmproj-F16.gguf", 1_000_000, "p" * 64, "F16", 10**5, "clip")
    return Variant(f"fam:{label}+mmproj-F16", "fam", label, model, projector, reference=label == "F16")


VARIANTS = {name: variant(name, mb) for name, mb in {"F16": 16, "Q8": 9, "Q6": 7, "Q4": 5, "Q2": 3}.items()}


# Enough that a variant which changes no answer passes, among four rivals.
N = 150
ASKED = tuple(Question(f"{k}.png", "What?", ("a",)) for k in range(N))


def result(label: str, kl: float | None = None, **fields: Any) -> VariantResult:
    """kl: None of the reference, or where nothing could be read. `changed`: how many of the N answers."""
    speed, memory, accuracy = fields.pop("speed", 100.0), fields.pop("memory", 2**20), fields.pop("accuracy", None)
    words, failed, changed = (
        fields.pop("words", "no difference seen"),
        fields.pop("failed", 0),
        fields.pop("changed", 0),
    )
    read = () if kl is None else (TokenCost("a", kl),)
    items = [QuestionDrift(kl=read, first_divergence=0 if k < changed else None, text="a") for k in range(N - failed)]
    return VariantResult(
        VARIANTS[label].id,
        mean_kl=None if kl is None else Interval(kl),
        accuracy=None if accuracy is None else Interval(accuracy),
        against=None if label == "F16" else Paired(0, 0, N, Interval(0.0), 1.0, words),
        speed=None if speed is None and memory is None else Speed(2, speed, 0.1, 0.1, 0.2, memory),
        items=(*[QuestionDrift(error="llama.cpp crashed")] * failed, *items),
        **{"looks": "sees", **fields},
    )


def card_of(*results: VariantResult, limits: ShipLimits | None = None, **fields: Any) -> ShipCard:
    variants = [v for v in VARIANTS.values() if v.id in {r.variant for r in results}]
    texts: dict[str, Any] = {"engine": "llama 1", "machine": "2 cores", "set_name": "set", "settings": "greedy"}
    measured = Measurement(ASKED, ("a",) * N, results, floor=1e-8)
    return ship.card(
        measured,
        fields.pop("variants", variants),
        VARIANTS["F16"].id,
        limits or ShipLimits(),
        **{**texts, "command": "python -m playground card", "when": "2026-01-02T03:04:05+01:00", **fields},
    )


LADDER = (result("F16"), result("Q8", 0.0001), result("Q6", 0.001), result("Q4", 0.009), result("Q2", 0.5, changed=60))
