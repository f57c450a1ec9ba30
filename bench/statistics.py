"""Do the intervals cover, and are the verdicts as rarely wrong as they say? Simulated: `python -m bench statistics`.

On lognormal per-question KLs, and on those that the embedded pair's quantizations really have on its 210 hard questions
(bench/data/embedded-hard.json, written by `python -m bench statistics --measure`), whose own means are then the truth.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import scipy

from playground.measuring import statistics
from playground.measuring.measure import MeasureJob
from playground.measuring.measure_request import MeasureRequest
from playground.measuring.question_sets import embedded
from playground.measuring.results import Measurement, MeasurementPlan
from playground.measuring.statistics import ALPHA
from playground.settings import Settings
from playground.values.request import Runtime
from playground.wiring import open_parts

DATA = Path(__file__).parent / "data/embedded-hard.json"
SIZES = (12, 24, 50, 100, 200, 500)
_SCALE = 0.01  # median of the lognormal laws
_Rng = numpy.random.Generator


@dataclass(frozen=True)
class Measured:
    """One variant on the 210 questions."""

    kl: tuple[float, ...]  # nats of a question's answer
    tokens: tuple[int, ...]
    changed: tuple[bool, ...]
    scores: tuple[float, ...]

    @property
    def means(self) -> numpy.ndarray:
        return numpy.array(self.kl) / numpy.maximum(self.tokens, 1)


def read() -> tuple[tuple[str, ...], dict[str, Measured]]:
    """The picture of each question, and what each variant did; the reference is F16."""
    document = json.loads(DATA.read_text())
    variants = {
        label: Measured(tuple(v["kl"]), tuple(v["tokens"]), tuple(map(bool, v["changed"])), tuple(v["score"]))
        for label, v in document["variants"].items()
    }
    return tuple(image for image, _ in document["questions"]), variants


def measure() -> None:
    """Ask the embedded pair's quantizations all hard questions, and keep what they do in DATA."""
    with tempfile.TemporaryDirectory() as folder, open_parts(Settings(cache_dir=Path(folder))) as parts:
        parts.catalog.derive(parts.quantize, print)
        variants = parts.catalog.choose([name for name, _ in read()[1].items()])
        questions = embedded(parts.evaluation, level="hard")
        request = MeasureRequest(
            questions, variants, variants[0].id, MeasurementPlan(accuracy=True), Runtime(n_ctx=1024)
        )
        *_, measured = MeasureJob(parts.lab, request).run()
    assert isinstance(measured, Measurement)
    document = {
        "questions": [[question.image, question.category] for question in measured.questions],
        "variants": {
            variant.label: {
                "bytes": variant.bytes,
                "tokens": [len(item.kl) for item in result.items],
                "kl": [float(f"{sum(token.kl for token in item.kl):.6g}") for item in result.items],
                "changed": [int(item.first_divergence is not None) for item in result.items],
                "score": [item.score for item in result.items],
            }
            for variant, result in zip(variants, measured.results, strict=True)
        },
    }
    DATA.write_text(json.dumps(document))


# --- coverage ---------------------------------------------------------------------------------------------------------

_Method = Callable[[Sequence[float]], statistics.Interval]


def coverage(draw: Callable[[_Rng, int], Sequence[float]], truth: float, method: _Method, n: int, draws: int) -> float:
    """Share of samples whose interval holds the truth; one without an interval counts as covering: nothing is said."""
    rng, held = numpy.random.default_rng(n), 0
    for _ in range(draws):
        interval = method(draw(rng, n))
        low = -numpy.inf if interval.low is None else interval.low
        high = numpy.inf if interval.high is None else interval.high
        held += low - 1e-12 <= truth <= high + 1e-12
    return held / draws


def _share_above(values: Sequence[float]) -> statistics.Interval:
    return statistics.count([value > 0.01 for value in values]).interval


def coverages(draws: int, sizes: Sequence[int] = SIZES) -> dict[tuple[str, str], list[float]]:
    """By law and by what is estimated: the coverage at each size."""
    figures: dict[tuple[str, str], list[float]] = {}
    for sigma in (1, 2, 3):

        def lognormal(rng: _Rng, n: int, sigma: int = sigma) -> Sequence[float]:
            return list(_SCALE * rng.lognormal(0, sigma, n))

        # The median of the law is its scale, and half of it lies above.
        figures[f"lognormal, sigma {sigma}", "median"] = [
            coverage(lognormal, _SCALE, statistics.median, n, draws) for n in sizes
        ]
        figures[f"lognormal, sigma {sigma}", "share above 0.01"] = [
            coverage(lognormal, 0.5, _share_above, n, draws) for n in sizes
        ]
    _, variants = read()
    for label, variant in variants.items():
        means = variant.means
        if label in ("F16", "TQ2_0"):
            continue

        def resampled(rng: _Rng, n: int, values: numpy.ndarray = means) -> Sequence[float]:
            return list(rng.choice(values, n))

        figures[label, "median"] = [
            coverage(resampled, float(numpy.median(means)), statistics.median, n, draws) for n in sizes
        ]
        figures[label, "share above 0.01"] = [
            coverage(resampled, float((means > 0.01).mean()), _share_above, n, draws) for n in sizes
        ]

        def changed(rng: _Rng, n: int, values: Sequence[bool] = variant.changed) -> Sequence[float]:
            return list(rng.choice(numpy.array(values, float), n))

        truth = float(numpy.mean(variant.changed))
        figures[label, "changed answers"] = [
            coverage(changed, truth, lambda v: statistics.count([x > 0 for x in v]).interval, n, draws) for n in sizes
        ]
    for lost, won in ((0.02, 0.0), (0.05, 0.01), (0.0151, 0.0)):
        figures[f"{lost:.1%} lost, {won:.0%} won", "difference (Tango), exact"] = [
            _tangos_coverage(lost, won, n) for n in sizes
        ]
    few = max(draws // 5, 40)  # these bets take 20 ms each
    for mean, spread in ((0.8, 0.1), (0.97, 0.1)):

        def scores(rng: _Rng, n: int, mean: float = mean, spread: float = spread) -> Sequence[float]:
            return list(rng.beta(mean / spread, (1 - mean) / spread, n))

        figures[f"scores around {mean}", "mean (bets)"] = [
            coverage(scores, mean, statistics.bounded_mean, n, few) for n in sizes
        ]

    def clustered(rng: _Rng, n: int) -> Sequence[float]:
        """Questions five to a picture; a picture changes all its answers or none (10 %)."""
        return list(numpy.repeat((rng.random(n // 5 + 1) < 0.1).astype(float), 5)[:n])

    def by_picture(values: Sequence[float]) -> statistics.Interval:
        pictures = [k // 5 for k in range(len(values))]
        return statistics.count([v > 0 for v in values], statistics.design_effect(values, pictures)).interval

    figures["five questions a picture", "changed answers"] = [
        coverage(clustered, 0.1, by_picture, n, draws) for n in sizes
    ]
    return figures


def _tangos_coverage(lost: float, won: float, n: int) -> float:
    """Summed over all counts that are not rarer than one in a million: no draws are needed."""
    covered = 0.0
    for a in range(n + 1):
        of_lost = float(scipy.stats.binom.pmf(a, n, lost))
        if of_lost < 1e-6:
            continue
        for b in range(n - a + 1 if won else 1):
            both = of_lost * (float(scipy.stats.binom.pmf(b, n - a, won / (1 - lost))) if won else 1.0)
            if both < 1e-6:
                continue
            interval = statistics.tango(a, b, n)
            assert interval.low is not None
            assert interval.high is not None
            covered += both * (interval.low - 1e-9 <= won - lost <= interval.high + 1e-9)
    return covered


# --- errors -----------------------------------------------------------------------------------------------------------


def false_verdicts(draws: int, *, discordant: float = 0.06, rivals: int = 1, n: int = 1000, step: int = 10) -> float:
    """Share of series with any "better" or "worse" where there is no difference, looked at every `step` questions.

    The same questions for all rivals: a question that is hard for one is hard for the others, too.
    """
    rng, wrong = numpy.random.default_rng(rivals), 0
    for _ in range(draws):
        hard = rng.random(n) < 2 * discordant
        flips = numpy.where(hard[:, None] & (rng.random((n, rivals)) < 0.5), rng.choice([-1, 1], (n, rivals)), 0)
        lost, won = numpy.cumsum(flips < 0, axis=0), numpy.cumsum(flips > 0, axis=0)
        for seen in range(step, n + 1, step):
            evidence = [_two_sided(int(lost[seen - 1, k]), int(won[seen - 1, k])) for k in range(rivals)]
            if any(statistics.holm(evidence)):
                wrong += 1
                break
    return wrong / draws


_KNOWN: dict[tuple[int, int], float] = {}


def _two_sided(lost: int, won: int) -> float:
    """As `paired` and `verdicts` weigh it."""
    if (lost, won) not in _KNOWN:
        worse = statistics.e_value([1.0] * lost + [-1.0] * won)
        better = statistics.e_value([-1.0] * lost + [1.0] * won)
        _KNOWN[lost, won] = max(worse, better) / 2
    return _KNOWN[lost, won]


def power(draws: int, lost: float, won: float, n: int = 1000, step: int = 10) -> tuple[float, float | None]:
    """How often "worse" is found by n questions, and the median number of questions that it takes."""
    rng, needed = numpy.random.default_rng(1), []
    for _ in range(draws):
        flips = rng.choice([-1, 1, 0], n, p=[lost, won, 1 - lost - won])
        losses, wins = numpy.cumsum(flips < 0), numpy.cumsum(flips > 0)
        for seen in range(step, n + 1, step):
            if _two_sided(int(losses[seen - 1]), int(wins[seen - 1])) >= 1 / ALPHA:
                needed.append(seen)
                break
    return len(needed) / draws, float(numpy.median(needed)) if len(needed) * 2 > draws else None


def shared_pictures(draws: int, together: float, a_picture: int = 10, pictures: int = 20, lost: float = 0.05) -> float:
    """How often a loss of exactly what is accepted is called "not worse", where questions share pictures.

    `together`: the share of questions that their picture decides.
    """
    rng, wrong = numpy.random.default_rng(1), 0
    of = numpy.repeat(numpy.arange(pictures), a_picture)
    for _ in range(draws):
        by_picture, alone = rng.random(pictures) < lost, rng.random(len(of)) < lost
        gone = numpy.where(rng.random(len(of)) < together, by_picture[of], alone)
        differences = [-float(g) for g in gone]
        effect = statistics.cautious_design_effect(differences, of.tolist())
        wrong += statistics.not_worse(differences, lost, effect) >= 1 / ALPHA
    return wrong / draws


# --- decisions --------------------------------------------------------------------------------------------------------


def decisions(n: int, draws: int, margin: float = 0.05) -> dict[str, tuple[float, float]]:
    """Random draws of n of the 210: how often each variant passes the gate, and how often it is the one recommended
    (the smallest that passes)."""
    document = json.loads(DATA.read_text())
    pictures, variants = read()
    rivals = [label for label in variants if label != "F16"]
    bytes_of = {label: document["variants"][label]["bytes"] for label in rivals}
    rng = numpy.random.default_rng(n)
    passed, taken = dict.fromkeys(rivals, 0), dict.fromkeys(rivals, 0)
    for _ in range(draws):
        chosen = rng.choice(len(pictures), n, replace=False)
        evidence = []
        for label in rivals:
            variant = variants[label]
            means = [variant.kl[k] / variant.tokens[k] for k in chosen]
            effect = statistics.design_effect(means, [pictures[k] for k in chosen])
            evidence.append(statistics.evidence_below([variant.changed[k] for k in chosen], margin, effect))
        fit = [label for label, fell in zip(rivals, statistics.holm(evidence), strict=True) if fell]
        for label in fit:
            passed[label] += 1
        if fit:
            taken[min(fit, key=lambda label: bytes_of[label])] += 1
    return {label: (passed[label] / draws, taken[label] / draws) for label in rivals}


def main(draws: int = 1000) -> None:
    print(f"Coverage of what is called 95 %, {draws} draws a cell (goal: at least 92 % everywhere)\n")
    print("| law | of | " + " | ".join(f"n={n}" for n in SIZES) + " |\n" + "|---" * (2 + len(SIZES)) + "|")
    worst = 1.0
    for (law, what), shares in coverages(draws).items():
        worst = min(worst, *shares)
        print(f"| {law} | {what} | " + " | ".join(f"{100 * share:.0f}" for share in shares) + " |")
    print(f"\nLowest: {worst:.1%}\n")
    print("Any false better or worse, looked at every 10 of 1,000 questions (goal: at most 5 %)")
    for rivals in (1, 8):
        for discordant in (0.02, 0.06, 0.2):
            wrong = false_verdicts(draws, discordant=discordant, rivals=rivals)
            print(f"  {rivals} variants, {discordant:.0%} of the questions flip: {wrong:.1%}")
    print("Accepted although as much is lost as is accepted, 20 pictures with 10 questions each (goal: at most 5 %)")
    for together in (1.0, 0.7, 0.4):
        print(f"  pictures decide {together:.0%}: {shared_pictures(draws, together):.1%}")
    print("Power: how often 'worse' is found by 1,000 questions, and after how many (median)")
    for lost, won in ((0.18, 0.0), (0.05, 0.0), (0.06, 0.03), (0.02, 0.0)):
        share, needed = power(draws, lost, won)
        print(f"  {lost:.0%} lost, {won:.0%} won: {share:.0%}, {'-' if needed is None else f'{needed:.0f}'} questions")
    print("Decisions over random draws of the 210 embedded questions: passes the gate / is recommended, %")
    labels: list[str] = []
    for n in (4, 8, 12, 24, 50, 100, 150, 200, 210):
        found_at = decisions(n, draws if n < 210 else 1)
        if not labels:
            labels = list(found_at)
            print("| n | " + " | ".join(labels) + " |\n" + "|---" * (1 + len(labels)) + "|")
        cells = (f"{100 * passed:.0f} / {100 * taken:.0f}" for passed, taken in found_at.values())
        print(f"| {n} | " + " | ".join(cells) + " |")
