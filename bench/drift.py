"""Drift on a GPU, of the engine benchmark's random pair. bench/lab.py needs the whole app installed."""

from __future__ import annotations

import PIL.Image

from bench import engine
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.results import Measurement, MeasurementPlan


def measure(ready: engine.Bench) -> dict[str, float]:
    """Drift of the engine benchmark's five variants on 20 pictures, 60 tokens each; what it is made of says little."""
    names = []
    for n in range(20):
        noise = ready.picture(n)
        PIL.Image.frombytes("RGB", (noise.width, noise.height), noise.rgb).save(ready.folder / f"noise-{n}.png")
        names.append(f"noise-{n}.png")
    questions = question_sets.QuestionSet(
        "noise", [question_sets.Question(name, engine.PROMPT) for name in names], ready.folder
    )
    plan = MeasurementPlan(max_tokens=60)
    request = MeasureRequest(questions, ready.variants, ready.variants[0].id, plan, ready.runtime)
    with engine.fresh_lab() as lab:
        *_, last = MeasureJob(lab, request).run()
    assert isinstance(last, Measurement)
    figures = {"drift_5_variants_20_items_s": last.elapsed_s, "tokens_an_item": len(last.results[1].items[0].kl)}
    figures |= {f"floor, {name}": kl for name, kl in last.floors.items()}
    for result in last.results[1:]:
        if result.mean_kl is not None:
            figures[f"mean KL, {result.variant.split(':')[-1]}"] = result.mean_kl.value
    return figures
