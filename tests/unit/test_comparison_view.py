"""What the panes' HTML says, read as a browser would."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from html.parser import HTMLParser

import markupsafe
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from playground.comparing.divergence import close_changes, how_much, word_changes
from playground.rendering import comparison_view, number_format, templating
from playground.values.answer import (
    Branch,
    Candidate,
    ComparisonUpdate,
    Elsewhere,
    Metrics,
    Pane,
    PaneState,
    TokenScore,
)
from playground.values.files import NO_FILE, ModelFile, Variant

FILE = ModelFile(path="/m/a.gguf", bytes=10, sha256="0", quantization="F16", n_params=10, architecture="llama")
F16, Q2 = (Variant(id=name, family="f", label=name, model=FILE, projector=FILE) for name in ("F16", "Q2_K"))


class Texts(HTMLParser):
    """The answers' text as it is read, without what the reference said instead, and the titles in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.titles: list[tuple[str, str]] = []
        self._depth: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class") or ""
        self._depth.append((tag, kind))
        if kind == "vp-text":
            self.texts.append("")
        if tag == "span" and dict(attrs).get("title") and self._in_text():
            self.titles.append((str(dict(attrs)["title"]), ""))

    def handle_endtag(self, tag: str) -> None:
        while self._depth and self._depth.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self._in_text() or any(tag == "del" for tag, _ in self._depth):
            return
        self.texts[-1] += data
        if self._depth[-1][0] == "span":
            title, text = self.titles[-1]
            self.titles[-1] = (title, text + data)

    def _in_text(self) -> bool:
        return any(kind == "vp-text" for _, kind in self._depth)


def scored(*tokens: tuple[str, float]) -> tuple[TokenScore, ...]:
    candidates = (Candidate(1, "<b>", 0.75), Candidate(2, "two", 0.0001))
    return (*(TokenScore(text, p, candidates) for text, p in tokens), TokenScore("", None, candidates))


def shown(reference: Pane, pane: Pane) -> Texts:
    return Texts(str(comparison_view.panes(ComparisonUpdate((reference, pane), done=True), (F16, Q2), "F16")))


def done(variant: Variant, text: str, scores: tuple[TokenScore, ...] = (), parts_at: int | None = None) -> Pane:
    return Pane(variant.id, PaneState.DONE, text, scores=scores, first_divergence=parts_at)


def test_tokens_when_scored_then_each_shows_its_probability_and_the_text_is_whole() -> None:
    answer = scored(("a", 0.9), (" red", 0.4), (" <i>", 1.0))
    panes = (done(F16, "a red <i>", answer), done(Q2, "a red <i>", answer))
    html = str(comparison_view.panes(ComparisonUpdate(panes, done=True), (F16, Q2), "F16"))
    texts = Texts(str(html))
    assert texts.texts == ["a red <i>"] * 2
    assert texts.titles == [("90.0%", "a"), ("40.0%", " red"), ("100.0%", " <i>")] * 2
    assert "<i>" not in html


@pytest.mark.parametrize(
    ("text", "expected"), [("three red squares", 0), ("a red square, " * 9, 1), ("a\nb\nc\nd\ne", 1)]
)
def test_answer_when_a_pane_may_cut_it_then_more_can_be_opened_but_not_in_print(text: str, expected: int) -> None:
    update = ComparisonUpdate((done(F16, text),), done=True)
    for printed in (False, True):
        html = str(comparison_view.panes(update, (F16,), "F16", printed=printed))
        assert html.count("The whole answer of F16: ") == (0 if printed else expected)


def test_pane_when_shown_then_its_figures_stand_in_a_row_of_their_own() -> None:
    html = str(comparison_view.panes(ComparisonUpdate((done(F16, "a"),), done=True), (F16,), "F16"))
    block = html[html.index('<div class="vp-said">') : html.index("<footer>")]
    assert block.count("<div") == block.count("</div>")
    assert 'class="vp-text"' in block


def test_table_when_nothing_is_known_of_a_figure_then_it_has_no_column() -> None:
    panes = (done(F16, "a"), replace(done(Q2, "a"), metrics=Metrics(ttft_s=0.5)))
    html = str(comparison_view.panes(ComparisonUpdate(panes, done=True), (F16, Q2), "F16"))
    head = " ".join(html[html.index("<thead>") : html.index("</thead>")].split())
    assert "first token" in head
    assert "memory" not in head


def test_tokens_when_words_differ_then_the_changed_ones_have_theirs_too() -> None:
    before = scored(("one", 0.9), (" red", 0.8), (" ball", 0.7))
    after = scored(("one", 0.9), (" bl", 0.3), ("ue", 0.99), (" ball", 0.7))
    html = comparison_view.panes(
        ComparisonUpdate((done(F16, "one red ball", before), done(Q2, "one blue ball", after, 1)), done=True),
        (F16, Q2),
        "F16",
    )
    assert "<del>red</del>" in html
    assert '<ins><span title="30.0%" class="vp-unsure">bl</span><span title="99.0%">ue</span></ins>' in html


def test_parting_when_both_are_scored_then_both_sides_candidates_and_no_markup() -> None:
    scores = scored(("x", 0.9))
    html = comparison_view.panes(
        ComparisonUpdate((done(F16, "x", scores), done(Q2, "y", scores, 0)), done=True), (F16, Q2), "F16"
    )
    assert re.search(r"first difference:\s+<q>.*</q> → <q>", html)
    assert html.count("<q>&lt;b&gt;</q> <span>75.0%</span>") == 2
    assert html.count("<span>&lt; 0.1%</span>") == 2


@pytest.mark.parametrize("side", ["reference", "pane"])
def test_parting_when_one_side_was_not_scored_then_not_shown(side: str) -> None:
    scores = scored(("x", 0.9))
    reference = done(F16, "x", () if side == "reference" else scores)
    pane = done(Q2, "y", () if side == "pane" else scores, 0)
    assert "first difference" not in comparison_view.panes(
        ComparisonUpdate((reference, pane), done=True), (F16, Q2), "F16"
    )


words = st.lists(st.sampled_from(["a", "bb", "", "ü", "<p>", "名", "d,"]), max_size=8).map(" ".join)


@settings(max_examples=50)
@given(words, words, st.lists(st.integers(1, 4), max_size=12))
def test_text_when_cut_into_any_tokens_then_shown_whole(before: str, after: str, sizes: list[int]) -> None:
    tokens, start = [], 0
    for size in sizes:  # they may end before the answer, or (a stop text) behind it
        tokens.append((after[start : start + size] or "stop", 0.5))
        start += size
    parts_at = None if before == after else 0
    texts = shown(done(F16, before), done(Q2, after, scored(*tokens), parts_at))
    assert texts.texts == [before, after]


@pytest.mark.parametrize(("value", "expected"), [(None, "–"), (1.0, "100.0%"), (0.123, "12.3%"), (0.0004, "< 0.1%")])
def test_probability_when_shown_then_one_digit(value: float | None, expected: str) -> None:
    assert number_format.probability(value) == expected


def reasoned(variant: Variant, reasoning: str, text: str, parts_at: int | None = None) -> Pane:
    pane = done(variant, text, scored((f"<think>{reasoning}</think>", 0.9), ("\n", 0.9), ("a", 0.5), (" red", 0.4)))
    metrics = Metrics(reasoning_tokens=7, reasoning_s=0.25)
    return replace(pane, reasoning=reasoning, first_divergence=parts_at, metrics=metrics)


def test_pane_when_the_answer_was_reasoned_then_that_is_folded_and_only_the_answer_is_compared() -> None:
    panes = (reasoned(F16, "Is it <b>?", "a red"), reasoned(Q2, "It is.", "a red", 3))
    html = str(comparison_view.panes(ComparisonUpdate(panes, done=True), (F16, Q2), "F16"))
    texts = Texts(html)
    assert texts.texts == ["a red"] * 2
    assert texts.titles == [("50.0%", "a"), ("40.0%", " red")] * 2
    assert "7 tokens · 250 ms" in " ".join(html.split())
    assert "Is it &lt;b&gt;?" in html
    assert "= same answer, other reasoning" in html
    assert "Q2_K answers exactly like F16" in html
    other = (panes[0], reasoned(Q2, "It is.", "a blue", 3))
    html = str(comparison_view.panes(ComparisonUpdate(other, done=True), (F16, Q2), "F16"))
    assert "≠ differs: 1 word" in html


def test_pane_when_the_answer_has_control_tokens_then_they_are_chips_in_its_text() -> None:
    text = "<doctag><loc_1>a <b>\n</doctag>"
    pane = replace(done(F16, text), controls=("<doctag>", "</doctag>", "<loc_1>"))
    html = str(comparison_view.panes(ComparisonUpdate((pane,), done=True), (F16,), "F16"))
    assert Texts(html).texts == [text]
    assert html.count('<code class="vp-token">') == 3
    assert '<code class="vp-token">&lt;loc_1&gt;</code>a &lt;b&gt;' in html


@pytest.mark.parametrize(("control_ids", "chips"), [((7,), 1), ((), 2)])  # older versions kept no ids
def test_pane_when_a_word_is_written_like_a_control_token_then_its_id_tells_which_of_them_is_a_chip(
    control_ids: tuple[int, ...], chips: int
) -> None:
    pane = done(F16, "a box, box.", scored(("a", 0.9), (" box", 0.9), (",", 0.9), (" box", 0.4), (".", 0.9)))
    pane = replace(pane, token_ids=(1, 5, 3, 7, 4), controls=("box",), control_ids=control_ids)
    html = str(comparison_view.panes(ComparisonUpdate((pane,), done=True), (F16,), "F16"))
    assert Texts(html).texts == ["a box, box."]
    assert html.count('<code class="vp-token">') == chips
    assert '<span title="40.0%" class="vp-unsure"> <code class="vp-token">box</code></span>' in html


def test_verdict_when_answers_are_control_tokens_and_words_then_the_words_are_told_apart() -> None:
    before, after = (f"<doctag><loc_1>Report <fcel>1,{n}<nl></doctag>" for n in (410, 470))
    assert word_changes(before, after) == [
        ("equal", "<doctag><loc_1>Report <fcel>", "<doctag><loc_1>Report <fcel>"),
        ("replace", "1,410", "1,470"),
        ("equal", "<nl></doctag>", "<nl></doctag>"),
    ]
    assert how_much(f"{before} a b c", f"{after}<nl> a b c") == "1 word"  # the tags are not counted
    assert word_changes("if a < b", "if a < c")[0] == ("equal", "if a <", "if a <")


@pytest.mark.parametrize(
    ("before", "after", "html"),
    [
        ("HELLO42", "HILLO42", 'H<del class="vp-within">E</del><ins>I</ins>LLO42'),
        ("The time is 10:47.", "The time is 11:47.", 'The time is 1<del class="vp-within">0</del><ins>1</ins>:47.'),
        ("The total is 25", "The total is 250", "The total is 25<ins>0</ins>"),
        ("one red ball", "one blue ball", "one <del>red</del><ins>blue</ins> ball"),
    ],
)
def test_short_answer_when_a_word_is_nearly_the_same_then_its_characters_are_marked(
    before: str, after: str, html: str
) -> None:
    panes = (done(F16, before), done(Q2, after, parts_at=0))
    shown = str(comparison_view.panes(ComparisonUpdate(panes, done=True), (F16, Q2), "F16"))
    assert "".join(shown.split('<p class="vp-text" dir="auto">')[2].split("</p>", maxsplit=1)[0]) == html
    assert "vp-instead" not in shown


def test_long_answer_when_a_word_is_nearly_the_same_then_the_whole_word_is_marked() -> None:
    before = "a b c d e f g h HELLO42"
    assert close_changes(before, before.replace("E", "I"))[-1] == ("replace", " HELLO42", " HILLO42")


def test_answer_when_it_shares_little_or_is_empty_then_the_references_stands_above() -> None:
    for text, empty in (("nothing alike", False), ("", True)):
        panes = (done(F16, "three red squares"), done(Q2, text, parts_at=0))
        html = str(comparison_view.panes(ComparisonUpdate(panes, done=True), (F16, Q2), "F16"))
        assert '<p class="vp-instead vp-dim" dir="auto">★ three red squares</p>' in html
        assert ("(empty answer)" in html) is empty
        assert "<del" not in html
        assert Texts(html).texts == ["three red squares", text]


def test_pane_when_it_goes_on_from_the_references_token_then_the_branch_says_what_came_of_it() -> None:
    f16 = replace(done(F16, "a red box", scored(("a", 0.9), (" red", 0.8), (" box", 0.7))), token_ids=(1, 2, 3))
    q2 = replace(done(Q2, "a blue box", scored(("a", 0.9), (" blue", 0.8), (" box", 0.7)), 1), token_ids=(1, 7, 3))

    def shown(branched: Pane, *, can_branch: bool = True) -> str:
        update = ComparisonUpdate((f16, q2), done=True, branches=(Branch(1, 2, branched),))
        html = comparison_view.panes(update, (F16, Q2), "F16", can_branch=can_branch)
        return " ".join(str(html).split())

    slip = replace(f16, variant="Q2_K")
    html = shown(slip)
    assert 'data-do="branch" data-at="1" data-token="2"' in html
    assert "↳ go on from <q>red</q></button>" in html
    assert '<span class="vp-dim">instead of “blue”, token 2</span>' in html
    assert '<span class="vp-verdict vp-same">= the reference from there on: one slip</span>' in html
    assert '<span class="vp-dim">a</span><ins> red</ins> box' in html
    lost = replace(done(Q2, "a red cat", f16.scores[:2], 2), token_ids=(1, 2, 9))
    assert '<span class="vp-verdict vp-off">≠ differs again: 1 word</span>' in shown(lost)
    writing = replace(lost, state=PaneState.WRITING, text="a <b>", scores=())
    assert "a &lt;b&gt;</p>" in shown(writing)
    assert 'data-do="branch"' not in shown(slip, can_branch=False)


def test_branch_when_only_its_reasoning_differs_then_it_agrees_with_the_reference_as_a_pane_would() -> None:
    f16, q2 = reasoned(F16, "Is it <b>?", "a red"), reasoned(Q2, "It is.", "a blue", 3)
    for text, verdict in (
        ("a red", 'vp-same">= same answer, other reasoning'),
        ("a cat", 'vp-off">≠ differs again: 1 word'),
    ):
        update = ComparisonUpdate((f16, q2), done=True, branches=(Branch(3, 2, reasoned(Q2, "Or not?", text, 5)),))
        html = str(comparison_view.panes(update, (F16, Q2), "F16"))
        assert f'<span class="vp-verdict {verdict}</span>' in " ".join(html.split())


def test_likely_tokens_when_an_answer_may_go_on_then_each_but_the_written_one_is_a_button() -> None:
    pane = replace(done(F16, "a red", scored(("", 1.0), ("a", 0.9), (" red", 0.8))), token_ids=(9, 1, 5))
    html = " ".join(str(comparison_view.likely(pane, 0, can_branch=True)).split())
    assert "<span><q>&lt;b&gt;</q>" in html  # token 1 is what was written
    assert html.count('data-do="branch"') == 1
    assert 'data-do="branch" data-at="1" data-token="2"' in html
    assert 'data-do="branch"' not in comparison_view.likely(pane, 0)


def test_likely_tokens_when_a_character_is_named_then_of_its_token_and_nothing_outside_of_the_answer() -> None:
    pane = reasoned(F16, "Is it?", "a red")
    html = " ".join(str(comparison_view.likely(pane, 2)).split())
    assert "<b>red</b> 40.0%; the likeliest here: <span><q>&lt;b&gt;</q> 75.0%</span>, <span><q>two</q>" in html
    assert "<b>a</b> 50.0%" in comparison_view.likely(pane, 0)
    assert [comparison_view.likely(pane, at) for at in (-1, 5, 10**9)] == ["", "", ""]
    assert comparison_view.likely(done(F16, "a red"), 0) == ""


CHIPS = [
    ("[IMG]a [b]", ("[IMG]",), ["[IMG]"]),
    ("▁<loc>a <loc>", ("▁<loc>",), ["▁<loc>"]),
    ("a box, boxes, box", ("box",), ["box", "box"]),
    (" yes<x>no", (" yes", "no"), ["yes", "no"]),
    ("<<a>> b", ("<<a>>", "<a>"), ["<<a>>"]),
    ("(.*)", ("(.*)", " "), ["(.*)"]),
    ("no controls", (), []),
]


@pytest.mark.parametrize(("text", "controls", "chips"), CHIPS)
def test_control_tokens_when_they_look_like_anything_then_each_is_a_chip_and_the_text_stays(
    text: str, controls: tuple[str, ...], chips: list[str]
) -> None:
    html = templating.chips(text, controls)
    texts = [markupsafe.Markup(chip).unescape() for chip in re.findall('<code class="vp-token">(.*?)</code>', html)]
    assert texts == chips
    assert markupsafe.Markup(re.sub("</?code.*?>", "", html)).unescape() == text


def test_control_tokens_when_a_stranger_named_thousands_then_reading_them_takes_no_time() -> None:
    names = tuple(f"{'<' * (n % 7)}{n}" for n in range(5000))
    start = time.process_time()
    templating.chips("<" * 100_000, names)
    assert time.process_time() - start < 5


def test_speed_when_measured_beside_other_work_then_pane_and_plot_call_it_shared() -> None:
    def panes(waited_share: float) -> ComparisonUpdate:
        metrics = Metrics(decode_tok_per_s=20.0, generated_tokens=40, waited_share=waited_share)
        return ComparisonUpdate(
            tuple(Pane(v.id, PaneState.DONE, text="a", token_ids=(1,), metrics=metrics) for v in (F16, Q2)), done=True
        )

    alone, beside = (comparison_view.panes(panes(share), (F16, Q2), "F16") for share in (0.1, 0.3))
    assert "shared" not in alone
    assert beside.count(">shared</span>") == 2
    assert "the speeds were shared" in beside


# --- answers from elsewhere -----------------------------------------------------------------------------------

BOX = Variant("elsewhere:box", "elsewhere", "elsewhere: box", NO_FILE, NO_FILE, endpoint="box")


def test_pane_when_from_elsewhere_then_its_mark_and_its_own_times_and_compared_by_words() -> None:
    elsewhere = Elsewhere("some/<b>model", first_s=0.25, answer_s=1.5, answer_tokens=7)
    ours = Pane("F16", PaneState.DONE, "a red dog", token_ids=(1, 2, 3))
    theirs = Pane(BOX.id, PaneState.DONE, "a red cat", elsewhere=elsewhere)
    update = ComparisonUpdate((ours, theirs), done=True)
    html = str(comparison_view.panes(update, (F16, BOX), "F16"))
    assert html.count("elsewhere · times not comparable") == 1
    assert "some/&lt;b&gt;model" in html
    assert "≠ differs: 1 word" in html
    assert re.findall("speed|load|memory", html.split("some/&lt;b&gt;model")[1].split("</footer>", maxsplit=1)[0]) == []
    assert comparison_view.summary(update, (F16, BOX), "F16") == "elsewhere: box differs in 1 word."
    same = ComparisonUpdate((ours, replace(theirs, text=" a red dog\n")), done=True)
    for reference, who in (("F16", "elsewhere: box answers exactly like F16."), (BOX.id, "F16 answers exactly like")):
        assert comparison_view.summary(same, (F16, BOX), reference).startswith(who)
        assert "= same" in str(comparison_view.panes(same, (F16, BOX), reference))


def test_drift_when_an_answer_is_from_elsewhere_then_named_a_lower_bound() -> None:
    def pane(variant: Variant, p: float, elsewhere: Elsewhere | None = None) -> Pane:
        likely = (Candidate(None, "a", p), Candidate(None, "b", 0.9 - p))
        return Pane(variant.id, PaneState.DONE, "a", scores=(TokenScore("a", p, likely),), elsewhere=elsewhere)

    update = ComparisonUpdate((pane(F16, 0.6), pane(BOX, 0.5, Elsewhere())), done=True)
    html = str(comparison_view.panes(update, (F16, BOX), "F16"))
    assert "at least 0.023 nats a token from the reference: a lower bound by the top tokens, over 1 token" in html


@pytest.mark.parametrize(
    ("panes", "room", "columns"),
    [(6, 5, 3), (6, 6, 6), (6, 3, 3), (5, 5, 5), (5, 4, 3), (4, 3, 2), (4, 8, 4), (1, 5, 1)],
)
def test_panes_when_they_need_two_rows_then_both_are_as_full_as_they_can_be(
    panes: int, room: int, columns: int
) -> None:
    variants = [replace(F16, id=str(n), label=str(n)) for n in range(panes)]
    update = ComparisonUpdate(panes=tuple(Pane(variant=v.id) for v in variants))
    html = comparison_view.panes(update, variants, "0")
    columns_of = dict(re.findall(r"--vp-of-(\d):(\d)", html))
    assert columns_of[str(room)] == str(columns)
