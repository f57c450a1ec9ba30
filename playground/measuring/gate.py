"""The gate: what may be said of a variant's answers, and when there are too few questions to say it. Pure.

"fit", "changes" and "broken" are each printed only when a test passes at ALPHA over all variants of the measurement;
otherwise the words are "not enough questions", with how many would be enough if the answers went on like these.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from playground.measuring import statistics
from playground.measuring.question_sets import Question
from playground.measuring.results import Measurement, Sight, VariantResult
from playground.measuring.statistics import ALPHA, Count
from playground.values.files import Variant

MARGIN = 0.05  # the share of changed answers that is accepted where nobody names another: a convention
_BROKEN = 0.5  # a variant that changes more than half of the answers is another model


class Verdict(enum.StrEnum):
    FIT = "fit to ship"
    CHANGES = "changes answers"
    BROKEN = "broken"
    UNKNOWN = "not enough questions"
    UNMEASURED = "not measured"


class Gate(msgspec.Struct, frozen=True):
    """What the changed answers of one variant show."""

    verdict: Verdict
    margin: float
    changed: Count | None = None  # questions where its greedy answer is not the reference's
    lost: Count | None = None  # questions that the reference has right and it has not; None: not scored
    enough: int | None = None  # questions in all that would be enough if they went on like these; None: cannot be told
    evidence: float = 0.0  # e-value against "it changes `margin` of the answers or more"

    @property
    def words(self) -> str:
        """One sentence that stands alone."""
        if self.changed is None:
            return "Its answers were not measured."
        n, hits = self.changed.n, self.changed.hits
        seen = f"{hits} of {n} answers changed, at most {self.changed.at_most:.1%} would (95 %)"
        if self.verdict is Verdict.FIT:
            return f"{seen}; {self.margin:.0%} are accepted."
        if self.verdict in (Verdict.CHANGES, Verdict.BROKEN):
            low = self.changed.interval.low or 0.0
            return f"{hits} of {n} answers changed, at least {low:.1%} would (95 %); {self.margin:.0%} are accepted."
        if self.enough is None:
            return f"Not enough questions: {seen}; {self.margin:.0%} are accepted."
        return (
            f"Not enough questions: {seen}; {self.margin:.0%} are accepted. "
            f"About {self.enough} questions would be enough if they went on like these."
        )

    @property
    def reason(self) -> str:
        """The same behind the verdict's name."""
        return self.words.removeprefix("Not enough questions: ")


def gates(
    results: Sequence[VariantResult],
    questions: Sequence[Question],
    reference: str,
    margin: float | None = None,
) -> Mapping[str, Gate]:
    """By variant's id, for all but the reference. `margin`: accepted share of changed answers; None: MARGIN."""
    accepted = MARGIN if margin is None else margin
    base = next((r for r in results if r.variant == reference), None)
    rivals = [r for r in results if r.variant != reference]
    read = {r.variant: _changed(r, questions) for r in rivals}
    known = [r.variant for r in rivals if read[r.variant] is not None]
    evidence: dict[str, tuple[float, float, float]] = {}
    for id in known:
        hits, effect = read[id] or ([], 1.0)
        kept = [not hit for hit in hits]
        evidence[id] = (
            statistics.evidence_below(hits, accepted, effect),
            statistics.evidence_below(kept, 1 - accepted, effect),  # against "it changes `accepted` or fewer"
            statistics.evidence_below(kept, 1 - _BROKEN, effect),
        )
    fallen = [
        dict(zip(known, statistics.holm([evidence[id][k] for id in known]), strict=True)) for k in range(3)
    ]  # fit, changes, broken
    gates: dict[str, Gate] = {}
    for result in rivals:
        id, hits_of = result.variant, read[result.variant]
        if hits_of is None or base is None:
            gates[id] = Gate(Verdict.UNMEASURED, accepted)
            continue
        changed = statistics.count(*hits_of)
        fit, changes, broken = (by_id[id] for by_id in fallen)
        verdict = Verdict.FIT if fit else Verdict.BROKEN if broken else Verdict.CHANGES if changes else Verdict.UNKNOWN
        worth = changed.n / changed.effective  # questions for an independent one
        needed = statistics.questions_needed(accepted, share=changed.share, alpha=ALPHA / len(known))
        enough = None if needed is None else max(round(needed * worth), changed.n + 1)
        gates[id] = Gate(verdict, accepted, changed, _lost(result, base, questions), enough, evidence[id][0])
    return gates


def _changed(result: VariantResult, questions: Sequence[Question]) -> tuple[list[bool], float] | None:
    """Of the questions that were read: whether the answer changed; and their design effect. None: drift was not
    measured, or a question failed, which no share of the others makes up for."""
    if any(item.error is not None for item in result.items):
        return None
    read = [(item, q) for item, q in zip(result.items, questions, strict=True) if item.kl]
    if not read:
        return None
    effect = statistics.design_effect([item.mean_kl or 0.0 for item, _ in read], [q.image for _, q in read])
    return [item.first_divergence is not None for item, _ in read], effect


def _lost(result: VariantResult, base: VariantResult, questions: Sequence[Question]) -> Count | None:
    scored = [
        (theirs.score > mine.score, q.image)
        for mine, theirs, q in zip(result.items, base.items, questions, strict=True)
        if mine.score is not None and theirs.score is not None
    ]
    if not scored:
        return None
    lost, pictures = [lost for lost, _ in scored], [image for _, image in scored]
    return statistics.count(lost, statistics.cautious_design_effect([-float(value) for value in lost], pictures))


def sentence(measured: Measurement, variants: Sequence[Variant], reference: str, margin: float | None = None) -> str:
    """What the tests allow to say, the variants of each verdict together."""
    labels = {v.id: v.label for v in variants}
    judged = gates(measured.results, measured.questions, reference, margin)
    sentences = []
    for verdict, words in (
        (Verdict.FIT, "Keeps the answers"),
        (Verdict.CHANGES, "Changes more answers than are accepted"),
        (Verdict.BROKEN, "Changes more than half of the answers"),
        (Verdict.UNKNOWN, "Not enough questions to tell"),
    ):
        names = [labels[id] + _enough(one) for id, one in judged.items() if one.verdict is verdict]
        sentences += [f"{words}: {', '.join(names)}"] if names else []
    for words, ids in (
        ("Worse than the reference", [r.variant for r in measured.results if r.against and r.against.words == "worse"]),
        ("Ignores the picture", [r.variant for r in measured.results if r.looks == Sight.BLIND]),
        ("Not shown to read the picture", [r.variant for r in measured.results if r.looks == Sight.REACTS]),
    ):
        sentences += [f"{words}: {', '.join(labels[id] for id in ids)}"] if ids else []
    return ". ".join(sentences) + "." if sentences else ""


def _enough(judged: Gate) -> str:
    if judged.verdict is not Verdict.UNKNOWN or judged.enough is None:
        return ""
    return f" (about {judged.enough} would be enough)"
