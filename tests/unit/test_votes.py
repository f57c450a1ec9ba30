"""Blind votes: what is hidden, what a vote keeps, and what they come to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from playground.errors import BadInput
from playground.notebooks import votes
from playground.notebooks.cells import BlindVote, CompareCell, Run
from playground.rendering import cell_view, measurement_view, reports
from testkit import notebooks
from testkit.notebooks import F16, Q2, compare_cell, pane, result, run_of


def asked(*texts: str, **fields: Any) -> tuple[CompareCell, Run]:
    cell = compare_cell(blind=True)
    panes = [pane(variant, text) for variant, text in zip((F16, Q2), texts, strict=True)]
    return cell, run_of(cell, result(*panes), **fields)


def shown(cell: CompareCell, run: Run, *, can_edit: bool = True) -> str:
    tally = votes.rows([cell], [run])
    pictures = measurement_view.pictures(lambda name: None)
    html = cell_view.run(run, (), cell, lambda sha256: None, pictures, can_edit=can_edit, tally=tally)
    return " ".join(str(html).split())


def test_run_when_blind_then_names_are_hidden_until_a_vote_and_no_reader_votes() -> None:
    cell, run = asked("three squares", "three circles")
    html = shown(cell, run)
    assert "three squares" in html
    assert "three circles" in html
    assert "Vote and show the names" in html
    for telling in ("vp-pane", "★ reference", "differs in", "vp-waterfall", "vp-votes"):
        assert telling not in html
    assert "Vote and show" not in shown(cell, run, can_edit=False)
    at = [answer.text for answer in votes.answers(run, 0)].index("three circles")
    after = msgspec.structs.replace(cell, votes=votes.voted(cell, run, 0, [at]))
    assert after.votes == (BlindVote(1, 0, after.votes[0].shown, (Q2.id,)),)
    assert set(after.votes[0].shown) == {F16.id, Q2.id}
    html = shown(after, run)
    assert "vp-pane" in html
    assert '<th scope="row">Q2_K</th> <td>1 of 1</td> <td>100% (2% to 100%)</td> <td>–</td>' in html
    with pytest.raises(BadInput, match="have their names"):
        votes.voted(after, run, 0, [at])


def test_answers_when_some_are_the_same_then_shown_once_and_accepted_for_all_who_gave_them() -> None:
    cell, run = asked("same", "same")
    (answer,) = votes.answers(run, 0)
    assert answer.variants == (F16.id, Q2.id)
    (vote,) = votes.voted(cell, run, 0, [0])
    assert vote.accepted == vote.shown == (F16.id, Q2.id)


def test_order_when_a_run_is_another_one_then_it_may_differ_and_else_it_stays() -> None:
    orders = {
        tuple(answer.text for answer in votes.answers(asked("a", "b", started=f"2025-01-02T03:04:{n:02}")[1], 0))
        for n in range(20)
    }
    assert orders == {("a", "b"), ("b", "a")}
    _, run = asked("a", "b")
    assert votes.answers(run, 0) == votes.answers(run, 0)


def test_names_when_shown_without_a_vote_then_nothing_is_counted() -> None:
    cell, run = asked("a", "b")
    after = msgspec.structs.replace(cell, votes=votes.voted(cell, run, 0, None))
    assert not votes.is_hidden(run, 0, after.votes)
    assert votes.rows([after], ()) == []


@pytest.mark.parametrize(("index", "accepted"), [(1, [0]), (-1, [0]), (0, [2]), (0, [-1])])
def test_vote_when_it_names_no_answer_then_refused(index: int, accepted: list[int]) -> None:
    cell, run = asked("a", "b")
    with pytest.raises(BadInput):
        votes.voted(cell, run, index, accepted)


def test_tally_when_a_variant_was_measured_then_its_drift_stands_beside() -> None:
    measurement = notebooks.measurement()
    variant = next(r.variant for r in measurement.results if r.mean_kl is not None)
    cell = compare_cell(votes=(BlindVote(1, 0, (variant,), ()), BlindVote(2, 0, (variant,), (variant,))))
    (row,) = votes.rows([cell], [run_of(cell, measurement=measurement)])
    assert (row.accepted, row.shown, row.share.value) == (1, 2, 0.5)
    assert row.kl == next(r.mean_kl.value for r in measurement.results if r.variant == variant and r.mean_kl)


def test_tally_when_two_labels_are_the_same_or_unknown_then_ids_tell_the_variants_apart() -> None:
    other = replace(Q2, id="other:Q2_K+mmproj-F16", family="other")
    ids = (F16.id, Q2.id, other.id, "gone:Q8_0+mmproj-F16")
    cell, run = asked("a", "b")
    named = run_of(cell, result(pane(F16, "a"), pane(Q2, "b"), pane(other, "c")), variants=(F16, Q2, other))
    after = msgspec.structs.replace(cell, votes=(BlindVote(1, 0, ids, (F16.id,)),))
    assert [row.name for row in votes.rows([after], [run, named])] == ["F16", Q2.id, other.id, "gone:Q8_0+mmproj-F16"]
    assert "| F16 | 1 of 1 |" in reports.markdown("Votes", [(after, [named])])
