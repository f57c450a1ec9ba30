"""A comparison to HTML: a pane for each variant, the table and plot of all, and one sentence on what came out."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import markupsafe

from playground.comparing import branching, top_drift
from playground.comparing import summary_rows as lab
from playground.comparing.divergence import OTHER_REASONING, close_changes, how_much, same_answer
from playground.comparing.speeds import NO_SPREADS, Spreads, is_kept, whole_ttft
from playground.comparing.top_drift import TopDrift
from playground.rendering import answer_markup, number_format, plots
from playground.rendering.templating import markup
from playground.values.answer import Branch, Candidate, ComparisonUpdate, Metrics, Pane, PaneState, TokenScore
from playground.values.files import Variant
from playground.values.texts import shortened_line

_ICONS = {
    PaneState.QUEUED: "○",
    PaneState.LOADING: "◔",
    PaneState.READING: "◑",
    PaneState.WRITING: "●",
    PaneState.DONE: "✓",
    PaneState.STOPPED: "■",
    PaneState.FAILED: "✕",
}


# An answer that no pane cuts: four lines of the narrowest one, in any script.
_SHORT_CHARACTERS = 50
_SHORT_LINES = 3


_REFERENCE_CHARACTERS = 160  # of its answer above one that shares too little with it


@dataclass(frozen=True, slots=True)
class _PhaseShare:
    name: str
    seconds: float
    percent: float


@dataclass(frozen=True, slots=True)
class _Token:
    """The text of a token, or the part of it that is in a span."""

    text: str
    probability: float | None
    control: bool | None  # None: its id is not known, so its text decides


@dataclass(frozen=True, slots=True)
class _TextSpan:
    """Consecutive text of an answer that is shown in one way, cut into tokens with their probabilities."""

    kind: str  # of word_changes
    gap: str  # white space in front of a change: it is not marked
    before: str  # the reference's words in its place
    apart: bool  # these had white space in front of them that the answer has not
    tokens: list[_Token]
    within: bool = False  # it is part of a word


@dataclass(frozen=True, slots=True)
class _Parting:
    """The first token that differs: what the reference and this variant held likely there."""

    token: int
    sides: list[tuple[str, TokenScore]]

    @property
    def rows(self) -> list[tuple[tuple[str, float] | None, ...]]:
        return list(itertools.zip_longest(*(_words(score.candidates) for _, score in self.sides)))


def _words(candidates: Sequence[Candidate]) -> list[tuple[str, float]]:
    texts = [c.text for c in candidates]
    return [(number_format.token(c.text, texts), c.probability) for c in candidates]


@dataclass(frozen=True, slots=True)
class _BranchView:
    branch: Branch
    verdict: str
    agrees: bool | None
    token: str  # from which the answer goes on
    instead: str  # of the token that stands there in the answer
    before: str  # the answer up to the token
    after: str  # all that follows it; the whole answer where its tokens' texts are not known


@dataclass(frozen=True, slots=True)
class _PaneView:
    pane: Pane
    variant: Variant
    is_reference: bool
    icon: str
    verdict: str
    agrees: bool | None  # with the reference; None: nothing to say yet
    runs: list[_TextSpan]
    parting: _Parting | None
    phases: list[_PhaseShare]
    rendered: markupsafe.Markup | None  # the answer, where it has markup
    instead: str  # the reference's answer, where this one shares too little with it to be marked
    branches: list[_BranchView]
    goes_on: tuple[int, str] | None  # the reference's token where this answer differs first: its id and text
    at_least: TopDrift | None  # the drift between an answer from elsewhere and one of this machine

    @property
    def is_long(self) -> bool:
        """Whether a narrow pane may cut it; the page's script looks whether it does."""
        return len(self.pane.text) > _SHORT_CHARACTERS or self.pane.text.count("\n") > _SHORT_LINES


def panes(
    update: ComparisonUpdate,
    variants: Sequence[Variant],
    reference: str,
    *,
    apart: Container[str] = (),
    printed: bool = False,
    rows: Mapping[str, int] = MappingProxyType({}),
    spreads: Spreads = NO_SPREADS,
    marks: Mapping[str, bool] | None = None,
    can_branch: bool = False,
) -> markupsafe.Markup:
    """The columns of a comparison.

    `apart`: variants whose conversation went another way before.
    `printed`: for a page without buttons, all unfolded.
    `rows`: where a variant's pane stands in a grid of two runs.
    `spreads`: of the speeds over the runs that asked the same.
    `marks`: by its text, whether an answer was marked right; None: the answers cannot be marked.
    `can_branch`: an answer may go on from the reference's token.
    """
    by_id = {v.id: v for v in variants}
    wanted = next((p for p in update.panes if p.variant == reference), None)
    longest = max((sum(_phases(p.metrics).values()) for p in update.panes), default=0.0)
    views = [_view(pane, by_id, wanted, longest, update.branches) for pane in update.panes]
    return markup(
        "panes.html",
        views=views,
        columns=_columns(len(views)),
        update=update,
        apart=apart,
        printed=printed,
        rows=rows,
        spreads=spreads,
        marks=marks,
        can_branch=can_branch,
        whole=whole_ttft(update.panes, by_id),
        kept={pane.variant for pane in update.panes if is_kept(pane.metrics)},
        summary=summary(update, variants, reference),
        running=bool(views) and not _done(update),
        table=_table(update, variants, reference, spreads, printed=printed) if _done(update) else "",
    )


def _columns(panes: int) -> str:
    """For styles/panes.css: how many columns the panes take where so many fit, in rows that are alike."""
    rows = {fit: math.ceil(panes / fit) for fit in range(2, 9)}
    return ";".join(f"--vp-of-{fit}:{math.ceil(panes / n)}" for fit, n in rows.items() if n)


_COLUMNS = (
    ("variant", ""), ("size", ""), ("bits", "per weight"), ("image", ""), ("prompt", ""), ("first token", ""),
    ("with image", "and whole prompt"), ("speed", "median of the repeats"), ("memory", ""),
    ("same until", "share of the tokens"), ("exact", ""),
)  # fmt: skip


def _table(
    update: ComparisonUpdate, variants: Sequence[Variant], reference: str, spreads: Spreads, *, printed: bool
) -> markupsafe.Markup:
    """The panes as rows, the plot of those that have a speed, and where each one's time went."""
    rows = lab.summary_rows(update.panes, variants, reference, spreads)
    cells = [
        (
            (r.bytes, number_format.file_size(r.bytes)),
            (r.bits_per_weight, number_format.bits(r.bits_per_weight)),
            (r.metrics.encode_s, "cached" if r.metrics.encode_cached else number_format.seconds(r.metrics.encode_s)),
            (r.metrics.prompt_s, number_format.seconds(r.metrics.prompt_s)),
            _first_token(r.metrics),
            (r.whole_ttft_s, number_format.seconds(r.whole_ttft_s)),
            _speed(r),
            (r.memory_bytes, number_format.memory(r.memory_bytes)),
            (r.same_prefix, number_format.share(r.same_prefix)),
            (r.same, number_format.UNKNOWN if r.same is None else "= same" if r.same else "≠"),
        )
        for r in rows
    ]
    heads = [(name, unit if name != "speed" or any(r.spread for r in rows) else "") for name, unit in _COLUMNS]
    known = [n for n in range(len(_COLUMNS) - 1) if any(row[n][1] != number_format.UNKNOWN for row in cells)]
    return markup(
        "table.html",
        columns=[heads[0], *(heads[n + 1] for n in known)],
        rows=[(row, [shown[n] for n in known]) for row, shown in zip(rows, cells, strict=True)],
        plot=plots.speed_by_size(rows),
        ledger=plots.ledger(rows),
        printed=printed,
    )


def _first_token(m: Metrics) -> tuple[float | None, str]:
    """Without a value to sort by where the prompt was kept: it compares with no other."""
    shown = number_format.seconds(m.ttft_s)
    return (None, f"{shown}, prompt kept") if is_kept(m) else (m.ttft_s, shown)


def _speed(row: lab.SummaryRow) -> tuple[float | None, str]:
    if row.spread is None:
        value = row.metrics.decode_tok_per_s
        return value, number_format.sampled_speed(value)
    s = row.spread
    return s.median, f"{number_format.sampled_speed(s.median)} ({number_format.range_of(s.low, s.high)} in {s.n})"


def summary(update: ComparisonUpdate, variants: Sequence[Variant], reference: str) -> str:
    """One sentence on what came out, made from the panes alone."""
    if not _done(update):
        return ""
    labels = {v.id: v.label for v in variants}
    wanted = next((p for p in update.panes if p.variant == reference), None)
    others = [p for p in update.panes if p.variant != reference and p.comparable]
    parts = []
    failed = [labels[p.variant] for p in update.panes if p.state is PaneState.FAILED]
    stopped = [labels[p.variant] for p in update.panes if p.state is PaneState.STOPPED]
    if wanted is not None and wanted.state is PaneState.DONE and others:
        same = [p for p in others if p.state is PaneState.DONE and same_answer(wanted, p)]
        if same:
            who = f"{labels[same[0].variant]} answers" if len(same) == 1 else f"{_listed(labels, same)} answer"
            parts.append(f"{who} exactly like {labels[reference]}{_share_of_size(same, variants, reference)}")
        for pane in others:
            if pane.state is PaneState.DONE and not same_answer(wanted, pane):
                parts.append(f"{labels[pane.variant]} differs in {how_much(wanted.text, pane.text)}")
    if stopped:
        parts.append(f"{', '.join(stopped)} stopped")
    if failed:
        parts.append(f"{', '.join(failed)} failed")
    return "; ".join(parts) + "." if parts else ""


def _share_of_size(same: Sequence[Pane], variants: Sequence[Variant], reference: str) -> str:
    """Of the smallest; empty where a size is not known, since it answers elsewhere."""
    sizes = {v.id: v.known_bytes for v in variants}
    whole = sizes[reference]
    known = [size for pane in same if (size := sizes[pane.variant]) is not None]
    if whole is None or not known:
        return ""
    smallest = ", the smallest" if len(same) > 1 else ""
    return f"{smallest} at {min(known) / whole:.0%} of the size of both files"


def _done(update: ComparisonUpdate) -> bool:
    return all(p.state.ended for p in update.panes)


def _listed(labels: dict[str, str], panes: Sequence[Pane]) -> str:
    names = [labels[p.variant] for p in panes]
    return ", ".join(names[:-1]) + " and " + names[-1]


def _phases(m: Metrics) -> dict[str, float]:
    encode = (m.preprocess_s or 0.0) + (m.encode_s or 0.0)
    return {"image": encode, "prompt": m.prompt_s or 0.0, "decode": m.decode_s or 0.0}


def _view(
    pane: Pane,
    variants: Mapping[str, Variant],
    reference: Pane | None,
    longest: float,
    branches: Sequence[Branch],
) -> _PaneView:
    is_reference = reference is not None and pane.variant == reference.variant
    both_done = (
        reference is not None and reference.state is PaneState.DONE and pane.state is PaneState.DONE and pane.comparable
    )
    agrees, verdict, changes, instead = None, "", None, ""
    if is_reference:
        verdict = "★ reference"
    elif both_done and reference is not None and same_answer(reference, pane):
        agrees = True
        verdict = "= same" if pane.first_divergence is None else OTHER_REASONING
    elif reference is not None and (both_done or pane.first_divergence is not None):
        agrees = False
        verdict = f"≠ differs: {how_much(reference.text, pane.text)}" if both_done else "≠ differs"
    if both_done and not is_reference and not agrees and reference is not None:
        changes = close_changes(reference.text, pane.text)
        # An answer that shares little is easier to read without what it replaces.
        kept = sum(len(after) for kind, _, after in changes if kind == "equal")
        if not kept or kept < len(pane.text) / 2:
            changes, instead = None, shortened_line(reference.text, _REFERENCE_CHARACTERS)
    phases = [
        _PhaseShare(name, seconds, 100 * seconds / longest)
        for name, seconds in _phases(pane.metrics).items()
        if seconds and longest
    ]
    parting, goes_on = None, None
    at = pane.first_divergence
    if at is not None and reference is not None and len(reference.scores) > at and len(pane.scores) > at:
        parting = _Parting(at, [(variants[p.variant].label, p.scores[at]) for p in (reference, pane)])
        if at < len(reference.token_ids):
            goes_on = reference.token_ids[at], reference.scores[at].text
    runs = _runs(pane, changes or [("equal", "", pane.text)])
    icon = _ICONS[pane.state]
    rendered = answer_markup.rendered(pane.text) if pane.state.ended else None
    own = [_branch_view(pane, branch, reference) for branch in branches if branch.pane.variant == pane.variant]
    variant = variants[pane.variant]
    return _PaneView(
        pane, variant, is_reference, icon, verdict, agrees, runs, parting, phases, rendered, instead, own, goes_on,
        None if is_reference or reference is None else top_drift.between(reference, pane),
    )  # fmt: skip


def _branch_view(pane: Pane, branch: Branch, reference: Pane | None) -> _BranchView:
    written, verdict, agrees = branch.pane, branch.pane.state.value, None
    if reference is not None:
        verdict = branching.verdict(branch, reference)
        if written.state is reference.state is PaneState.DONE and written.comparable:
            agrees = same_answer(reference, written)
    token = branching.token_text(pane, branch)
    instead = pane.scores[branch.at].text if len(pane.scores) > branch.at else ""
    scores, begins = _tokens(written)
    before, after = "", written.text
    if len(written.scores) > branch.at and scores:
        start = begins[sum(1 for score in written.scores[: branch.at] if score.text)]
        before, after = written.text[: max(0, start)], written.text[max(0, start + len(token)) :]
    return _BranchView(branch, verdict, agrees, token, instead, before, after)


def _runs(pane: Pane, changes: Sequence[tuple[str, str, str]]) -> list[_TextSpan]:
    """The changes, their text cut where its tokens end."""
    scores, begins = _tokens(pane)
    ids = [id for id, score in zip(pane.token_ids, pane.scores, strict=False) if score.text] if scores else []
    controls = frozenset(pane.control_ids)
    runs, start = [], 0
    for kind, before, after in changes:
        end = start + len(after)
        gap = "" if kind == "equal" else after[: len(after) - len(after.lstrip())]
        start += len(gap)
        cuts = [start, *begins[bisect.bisect_right(begins, start) : bisect.bisect_left(begins, end)], end]
        tokens: list[_Token] = []
        for a, b in itertools.pairwise(cuts):
            token = bisect.bisect_right(begins, a) - 1
            probability = scores[token].probability if token < len(scores) else None
            control = ids[token] in controls if controls and 0 <= token < len(ids) else None
            tokens.append(_Token(pane.text[a:b], probability, control))
        apart = not gap and before != before.lstrip()
        within = not gap and not apart and start > 0 and not pane.text[start - 1].isspace()
        runs.append(_TextSpan(kind, gap, before.strip(), apart, tokens if start < end else [], within))
        start = end
    return runs


def _tokens(pane: Pane) -> tuple[list[TokenScore], list[int]]:
    """The scored tokens, and where each begins in the answer's text, and the last one ends."""
    scores = [score for score in pane.scores if score.text]
    # With reasoning the answer's tokens are the last ones.
    skipped = "".join(score.text for score in scores).rfind(pane.text) if pane.metrics.reasoning_tokens else 0
    if skipped < 0:
        skipped, scores = 0, []
    return scores, list(itertools.accumulate((len(score.text) for score in scores), initial=-skipped))


def likely(pane: Pane, at: int, *, can_branch: bool = False) -> markupsafe.Markup:
    """The likeliest tokens where a character of the answer's text was written; empty if it was not scored.

    `can_branch`: the answer may go on from any of them.
    """
    scores, begins = _tokens(pane)
    token = bisect.bisect_right(begins, at) - 1
    if not 0 <= at < len(pane.text) or not 0 <= token < len(scores):
        return markupsafe.Markup()
    index = [i for i, score in enumerate(pane.scores) if score.text][token]
    written = pane.token_ids[index] if index < len(pane.token_ids) else None
    return markup("likely.html", score=scores[token], at=index, written=written, can_branch=can_branch)
