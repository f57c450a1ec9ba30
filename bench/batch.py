"""Many questions at once against one at a time: the same measurement of the engine benchmark's random pair."""

from __future__ import annotations

from dataclasses import replace

import PIL.Image

from bench import engine
from playground.measuring import question_sets
from playground.measuring.measure import MeasureJob, MeasureRequest
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.results import Measurement, MeasurementPlan

_WORDS = ("colour", "shape", "number", "place", "size", "kind", "side", "name")


def measure(ready: engine.Bench, n: int, tokens: int, n_variants: int) -> dict[str, float]:
    """Accuracy of n questions about n pictures, the same about n / 8 pictures, and drift: seconds in either way.

    The model loads of both ways are in the times. `differ`: answers that are not those of one at a time.
    """
    found: dict[str, float] = {"questions": n, "tokens": tokens, "variants": n_variants}
    accuracy = MeasurementPlan(drift=False, accuracy=True, max_tokens=tokens)
    for name, per_picture in (("accuracy", 1), ("accuracy_8_an_image", 8)):
        found |= _both(ready, name, _questions(ready, n, per_picture), accuracy, n_variants)
    return found | _both(ready, "drift", _questions(ready, n, 1), MeasurementPlan(max_tokens=tokens), n_variants)


def _both(
    ready: engine.Bench, name: str, asked: QuestionSet, plan: MeasurementPlan, n_variants: int
) -> dict[str, float]:
    alone, batched = (_run(ready, asked, plan, n_variants, sequences) for sequences in (1, None))
    pairs = [
        (a.text, b.text)
        for one, other in zip(alone.results, batched.results, strict=True)
        for a, b in zip(one.items, other.items, strict=True)
    ]
    print(f"  {name}: {alone.elapsed_s:.1f} s alone, {batched.elapsed_s:.1f} s batched", flush=True)
    return {
        f"{name}_alone_s": alone.elapsed_s,
        f"{name}_batched_s": batched.elapsed_s,
        f"{name}_ratio": alone.elapsed_s / batched.elapsed_s,
        f"{name}_differ": sum(a != b for a, b in pairs) / len(pairs),
    }


def _run(
    ready: engine.Bench, asked: QuestionSet, plan: MeasurementPlan, n_variants: int, sequences: int | None
) -> Measurement:
    variants = ready.variants[:n_variants]
    with engine.fresh_lab() as lab:
        request = MeasureRequest(asked, variants, variants[0].id, plan, replace(ready.runtime, n_ctx=None))
        *_, last = MeasureJob(replace(lab, sequences=sequences), request).run()
    assert isinstance(last, Measurement)
    for problem in last.problems:  # random weights: answers end in loops
        print(f"  {problem}")
    return last


def _questions(ready: engine.Bench, n: int, per_picture: int) -> QuestionSet:
    questions = []
    for k in range(n):
        picture = f"noise-{k // per_picture}.png"
        if not (ready.folder / picture).exists():
            noise = ready.picture(k // per_picture)
            PIL.Image.frombytes("RGB", (noise.width, noise.height), noise.rgb).save(ready.folder / picture)
        text = f"{engine.PROMPT} Look at its {_WORDS[k % len(_WORDS)]}, please."
        questions.append(Question(picture, text, ("x",), question_sets.Rule.CONTAINS))
    return QuestionSet("noise", questions, ready.folder)
