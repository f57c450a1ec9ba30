"""Notebooks, cells and runs to HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import markupsafe
import msgspec

from playground.comparing.divergence import by_text, same_answer
from playground.comparing.speeds import NO_SPREADS, Spreads, spreads
from playground.measuring import ship_card, suite_source
from playground.measuring.ship_card import ShipCard
from playground.measuring.suites import read_suites
from playground.models.presets import Example, family_name
from playground.notebooks import marks, votes
from playground.notebooks.cells import Cell, CompareCell, Picture, Run, RunResult, RunState
from playground.notebooks.library import ListedNotebook, Notebook, RunInfo
from playground.notebooks.run_cell import card_of
from playground.notebooks.run_diff import changes, settings_of
from playground.notebooks.votes import VoteRow
from playground.rendering import (
    boxes_view,
    card_view,
    comparison_view,
    markdown,
    measurement_view,
    number_format,
    qr_code,
    sensitivity_view,
    templating,
    waterfall_view,
)
from playground.rendering.cell_chips import CHARACTERS, Chip, chips_of
from playground.rendering.templating import data_url
from playground.values.answer import PaneState
from playground.values.files import Variant
from playground.values.texts import shortened

FORMATS = (
    ("html", "HTML report"),
    ("json", "JSON, to import again"),
    ("md", "Markdown"),
    ("ipynb", "Jupyter notebook"),
)
_CELL_EXPORTS = (
    ("export-cell", "Export as HTML report"),
    ("export-cell-json", "Export as JSON"),
    ("export-cell-md", "Export as Markdown"),
    ("export-cell-ipynb", "Export as Jupyter notebook"),
)
_BLIND = ("blind", "Hide the names until I vote")
_LINK = ("copy-cell-link", "Copy a link")
_EDITS = (
    ("add-compare", "Add a compare cell below"),
    ("add-measure", "Add a measure cell below"),
    ("duplicate", "Duplicate"),
    ("up", "Move up"),
    ("down", "Move down"),
    ("collapse", "Collapse or unfold"),
)

KEYS = (
    ("Ctrl Enter", "run the cell"),
    ("Shift Enter", "run it and go to the next one"),
    ("↑ ↓", "go from cell to cell"),
    ("Enter", "write in the cell"),
    ("Esc", "leave the text"),
    ("Alt ↑ ↓", "move the cell"),
    ("Delete", "delete the cell (with Undo)"),
    ("n p", "go to the next or the previous difference in the cell's answers"),
    ("← →", "in an answer: from token to token, with the likeliest ones"),
    ("Ctrl K", "find a command"),
    ("Ctrl /", "show these keys; so does ?"),
)

Thumbnail = Callable[[str], tuple[str, bytes] | None]  # MIME type and bytes by sha256

_TASKS = (  # of MeasurementPlan: the name, what the page calls it, what it is
    ("drift", "How far answers move (KL)", "KL divergence from the reference, token by token"),
    ("accuracy", "Right or wrong", "Each variant answers, and the answer is compared with the accepted ones"),
    ("look", "Does it use the image?", "Whether answers are likelier with their own picture than with others"),
    ("speed", "Speed", "Rounds of 64 tokens in which all variants take turns, and the memory they hold"),
)


@dataclass(frozen=True, slots=True)
class _CellView:
    cell: Cell
    kind: str
    number: int
    title: str
    can_edit: bool
    menu: tuple[tuple[str, str], ...]
    markdown: str = ""
    runs: int = 0
    pictures: Sequence[tuple[Picture, str | None]] = ()
    chips: Sequence[Chip] = ()
    examples: Sequence[tuple[Example, str]] = ()
    outputs: markupsafe.Markup | None = None  # None: those on the page stay
    shows: str = ""  # which difference so many questions show
    suites: Sequence[tuple[str, str]] = ()
    levels: Sequence[tuple[str, str]] = (("hard", "hard"), ("easy", "easy"), ("", "easy and hard"))
    tasks: Sequence[tuple[str, str, str]] = _TASKS
    # Of Limits, with the unit that a person writes.
    limits: Sequence[tuple[str, str, float, str]] = (
        ("max_bytes", "size of both files ≤ MB", 1e6, "Both files together; also what a recipe may take"),
        ("max_memory", "memory ≤ MiB", 2**20, "What both workers hold"),
        ("min_tokens_per_second", "tokens/s ≥", 1, "Tokens a second"),
        ("max_changed", "changed answers ≤ %", 0.01, "The share that you accept; 5 if nothing is given"),
        ("max_kl", "change of answers (KL) ≤", 1, "Mean, nats a token, by either weighting"),
    )


def page(
    notebook: Notebook,
    cells: Sequence[markupsafe.Markup],
    listed: Sequence[ListedNotebook],
    *,
    can_edit: bool,
    about: str = "",
    public: str | None = None,
    no_public: str | None = None,
) -> markupsafe.Markup:
    """`about`: for readers, its models and when it was run last. `public`: the app's public address.

    `no_public`: why there is none, though the operator wants one.
    """
    address = f"{public}/?notebook={notebook.share}" if public and notebook.share else public
    return templating.markup(
        "notebook.html",
        notebook=notebook,
        cells=cells,
        listed=listed,
        can_edit=can_edit,
        about=about,
        public=public,
        no_public=no_public,
        qr_code=qr_code.svg(address) if address else "",
        formats=FORMATS,
        keys=KEYS,
    )


def about(cells: Iterable[Cell], runs: Iterable[RunInfo]) -> str:
    """The models of a notebook, and when it was run last."""
    families = dict.fromkeys(cell.family for cell in cells if isinstance(cell, CompareCell) and cell.family)
    last = max((info.started for info in runs), default="")
    return " · ".join(filter(None, [", ".join(map(family_name, families)), last and number_format.when(last)]))


def note(cell: Cell, number: int, *, can_edit: bool) -> markupsafe.Markup:
    text = "" if isinstance(cell, CompareCell) else cell.text
    title = text.strip().splitlines()[0][:80].replace("*", "") if text.strip() else "empty note"
    menu = (("write", "Edit"), *_EDITS, _LINK, ("delete", "Delete"))
    shown = markdown.render(text) if text.strip() else markupsafe.Markup('<p class="vp-dim">An empty note.</p>')
    return templating.markup("cell.html", view=_CellView(cell, "note", number, title, can_edit, menu, shown))


def compare(
    cell: CompareCell,
    number: int,
    variants: Mapping[str, Variant],
    thumbnail: Thumbnail,
    *,
    can_edit: bool,
    runs: int,
    examples: Sequence[tuple[Example, str]],
    outputs: markupsafe.Markup | None,
) -> markupsafe.Markup:
    """A cell. `variants`: those on this machine by id; `outputs`: None leaves those that the page shows."""
    view = _CellView(
        cell=cell,
        kind="compare",
        number=number,
        title="a measurement" if cell.questions else cell.prompts[0][:80] or "no prompt yet",
        can_edit=can_edit,
        menu=(*_EDITS, *(() if cell.questions else (_BLIND,)), _LINK, *_CELL_EXPORTS, ("delete", "Delete"))
        if can_edit
        else (_LINK, *_CELL_EXPORTS),
        runs=runs,
        pictures=[(picture, data_url(thumbnail(picture.sha256))) for picture in cell.pictures],
        chips=chips_of(cell, variants),
        examples=examples,
        outputs=outputs,
        shows=suite_source.what_it_shows(cell.questions.n) if cell.questions else "",
        suites=tuple((id, suite.name) for id, suite in read_suites().items()) if cell.questions else (),
    )
    return templating.markup("cell.html", view=view)


def nothing_yet(cell: Cell, *, can_edit: bool) -> markupsafe.Markup:
    if not can_edit:
        return notice("This cell has not been run.")
    measures = isinstance(cell, CompareCell) and cell.questions is not None
    what = "every variant is measured" if measures else "the answers stream here side by side"
    return notice(f"Press ▶ (Ctrl+Enter): {what}.")


def notice(text: str) -> markupsafe.Markup:
    return markupsafe.Markup('<p class="vp-empty">{}</p>').format(text)


LATER = markupsafe.Markup('<p class="vp-empty" data-later>…</p>')


def run(
    shown: Run,
    runs: Sequence[RunInfo],
    cell: CompareCell,
    thumbnail: Thumbnail,
    picture: measurement_view.Picture,
    *,
    can_edit: bool,
    beside: Run | None = None,
    repeats: Sequence[Run] = (),
    tally: Sequence[VoteRow] = (),
) -> markupsafe.Markup:
    """What a run answered; with `beside`, each answer with that of the newest run above it.

    `repeats`: runs that asked the same, this one too: how far its speeds move.
    `tally`: of the notebook's blind votes.
    """
    blocks = []
    newest = max((info.number for info in runs), default=shown.number)
    for index in range(len(shown.results)):
        if beside is not None and index < len(beside.results):
            blocks.append(_pair(beside, shown, index, thumbnail, cell, can_edit=can_edit))
        else:
            label = f"run {shown.number}" if beside else ""
            spreads, own = spreads_of(repeats, index), can_go_on(shown, can_edit=can_edit)
            blocks.append(
                block(
                    shown, index, thumbnail, can_edit=can_edit, label=label, spreads=spreads, cell=cell, can_branch=own
                )
            )
    for each in (beside, shown):
        if each is not None and (each.measurement is not None or each.sensitivity is not None):
            if beside is not None:
                blocks.append(notice(f"run {each.number}"))
            blocks += measurement(each, picture)
    seen = [run for run in (beside, shown) if run is not None]
    is_hidden = any(votes.is_hidden(run, index, cell.votes) for run in seen for index in range(len(run.results)))
    if tally and not is_hidden:
        blocks.append(votes_table(tally))
    return templating.markup(
        "run.html",
        run=shown,
        runs=runs,
        newest=newest,
        beside=beside is not None,
        comparison=changes(shown, beside) if beside and not is_hidden else "",
        changed_since=changed_since(shown, cell) if can_edit and shown.number == newest else None,
        asked=[
            asked(each, thumbnail)
            for each in (beside, shown)
            if each is not None and (beside is not None or changed_since(each, cell))
        ],
        can_restore=can_edit,
        settings=details(shown),
        waterfalls=() if is_hidden else waterfalls(shown),
        blocks=blocks,
        overall="" if is_hidden else overall(shown),
        can_follow=can_edit
        and shown.number == newest
        and shown.state == "done"
        and not shown.cell.gallery
        and shown.cell.questions is None,
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    run: int
    prompts: Sequence[str]
    pictures: Sequence[tuple[Picture, str | None]]
    chips: Sequence[Chip]


def asked(shown: Run, thumbnail: Thumbnail) -> _Asked:
    """What a run was asked: the cell as it was then."""
    then = shown.cell
    known = {variant.pair_id: variant for variant in shown.variants}
    return _Asked(
        shown.number,
        () if then.questions is not None else then.prompts,
        [(picture, data_url(thumbnail(picture.sha256))) for picture in then.pictures],
        [chip for chip in chips_of(then, known) if chip.field not in ("models", "family")],
    )


def details(shown: Run) -> list[tuple[str, object]]:
    """What a run was asked and how, also where a setting is the default."""
    then, sampling = shown.cell, shown.cell.settings.sampling()
    questions: list[tuple[str, object]] = [
        (f"question {n}" if len(then.prompts) > 1 else "question", prompt) for n, prompt in enumerate(then.prompts, 1)
    ]
    images: list[tuple[str, object]] = [
        ("image", f"{picture.name}, {picture.width} × {picture.height} pixels") for picture in then.pictures
    ]
    defaults = {
        "temperature": f"{sampling.temperature:g}" if sampling.temperature else "0 (greedy)",
        "seed": sampling.seed,
        "max tokens": sampling.max_tokens,
        "n ctx": "as needed",
    }
    here = (v.family for v in shown.variants if not v.endpoint)
    families = ", ".join(family_name(family) for family in dict.fromkeys(here)) or "a server elsewhere"
    given = {name: "yes" if value is True else value for name, value in settings_of(shown).items()}
    return [
        ("model", families),
        *(() if then.questions is not None else questions),
        *images,
        *(defaults | given).items(),
    ]


def waterfalls(shown: Run) -> list[markupsafe.Markup]:
    """Of each comparison that has ended, on its own axis."""
    drawn = []
    for result in shown.results:
        title = ""
        if len(shown.results) > 1:
            title = result.picture.name if result.picture else shortened(shown.cell.prompts[result.turn], CHARACTERS)
        if result.update.done:
            drawn.append(waterfall_view.html(result.update, shown.variants, title=title))
    return drawn


def _missing(shown: Run, made: ShipCard) -> set[str]:
    """What a run did not measure, and a recommendation needs."""
    asked = shown.cell.questions
    if asked is None or made.recommended is not None or not any(map(ship_card.only_unmeasured, made.rows)):
        return set()
    timed = asked.limits.max_memory is not None or asked.limits.min_tokens_per_second is not None
    needed = {"look": True, "speed": timed}  # without drift there is no card
    return {name for name, wanted in needed.items() if wanted and not getattr(asked.plan, name)}


def measurement(shown: Run, picture: measurement_view.Picture, *, printed: bool = False) -> list[markupsafe.Markup]:
    """What a run over a set of questions found: which one to ship, then what that rests on."""
    blocks, made = [], card_of(shown)
    if made is not None:
        unticked = [] if printed else [f"“{words}”" for name, words, _ in _TASKS if name in _missing(shown, made)]
        blocks.append(card_view.verdict(made, printed=printed, unticked=unticked))
    if shown.measurement is not None:
        margin = shown.cell.questions.limits.max_changed if shown.cell.questions else None
        blocks.append(
            measurement_view.html(
                shown.measurement, shown.variants, shown.reference, picture, margin=margin, printed=printed
            )
        )
    if made is not None:
        blocks.append(card_view.section(made, printed=printed))
    if shown.sensitivity is not None:
        blocks.append(sensitivity_view.html(shown.sensitivity, printed=printed))
    return blocks


def changed_since(shown: Run, cell: CompareCell) -> bool:
    """Whether a cell asks something else than its run did; a question more is answered by the same run."""
    then = shown.cell
    ran_with = then.prompts, then.pictures, then.settings, then.variants, then.gallery, then.questions
    prompts = cell.prompts[: len(then.prompts)]
    return ran_with != (prompts, cell.pictures, cell.settings, cell.variants, cell.gallery, cell.questions)


@dataclass(frozen=True, slots=True)
class _BlockHead:
    text: str
    label: str = ""
    url: str | None = None


def can_go_on(shown: Run, *, can_edit: bool) -> bool:
    """Whether the answers of a run may go on with other tokens."""
    return can_edit and shown.state is not RunState.RUNNING and not shown.cell.settings.sampling().bound


def repeats_of(shown: Run, runs: Iterable[Run]) -> list[Run]:
    """Those of some runs that asked the same in the same way, on the same machine."""
    return [
        run
        for run in runs
        if run.state is RunState.DONE
        and (run.engine, run.machine, run.reference) == (shown.engine, shown.machine, shown.reference)
        and not changed_since(run, msgspec.structs.replace(shown.cell, variants=run.cell.variants))
        and len(run.results) == len(shown.results)
    ]


def spreads_of(repeats: Sequence[Run], index: int) -> Spreads:
    """Of the speeds in one comparison of runs that asked the same."""
    return spreads(run.results[index].update for run in repeats)


def _pair(
    newest: Run, shown: Run, index: int, thumbnail: Thumbnail, cell: CompareCell, *, can_edit: bool
) -> markupsafe.Markup:
    """One comparison of two runs: the panes of one variant stand side by side."""
    panes = [pane.variant for run in (newest, shown) for pane in run.results[index].update.panes]
    rows = {variant: row for row, variant in enumerate(dict.fromkeys(panes), 2)}
    sides = [
        block(run, index, thumbnail, label=f"run {run.number}", rows=rows, cell=cell, can_edit=can_edit)
        for run in (newest, shown)
    ]
    return markupsafe.Markup('<div class="vp-pair">{}{}</div>').format(*sides)


def block(
    shown: Run,
    index: int,
    thumbnail: Thumbnail,
    *,
    can_edit: bool = True,
    label: str = "",
    printed: bool = False,
    rows: Mapping[str, int] | None = None,
    spreads: Spreads = NO_SPREADS,
    cell: CompareCell | None = None,
    can_branch: bool = False,
) -> markupsafe.Markup:
    """One comparison of a run. `rows`: of the grid in which another run stands beside it, by variant.

    `cell`: as it is now, for the marks on its answers, and the votes that show their names.
    """
    result = shown.results[index]
    head = None
    if result.picture is not None:
        head = _BlockHead(result.picture.name, label, data_url(thumbnail(result.picture.sha256)))
    elif len(shown.cell.prompts) > 1:
        head = _BlockHead(shown.cell.prompts[result.turn], label)
    elif label:
        head = _BlockHead("", label)
    if not printed and votes.is_hidden(shown, index, (cell or shown.cell).votes):
        return _blind(shown, index, head, can_vote=can_edit)
    panes = comparison_view.panes(
        result.update,
        shown.variants,
        shown.reference,
        apart=_apart(shown, index),
        printed=printed,
        rows=rows or {},
        spreads=spreads,
        marks=marks.verdicts(cell, shown, result) if cell is not None else None,
        can_branch=can_branch,
    )
    return templating.markup(
        "block.html",
        index=f"{shown.number}.{index}",
        head=head,
        panes=panes,
        boxes=_boxes(shown, result, thumbnail),
        gallery=result.picture is not None,
    )


def votes_table(tally: Sequence[VoteRow]) -> markupsafe.Markup:
    return templating.markup("votes.html", rows=tally, nats=measurement_view.nats)


def _blind(shown: Run, index: int, head: _BlockHead | None, *, can_vote: bool) -> markupsafe.Markup:
    update = shown.results[index].update
    answers = votes.answers(shown, index) if update.done else ()
    return templating.markup(
        "blind.html",
        index=f"{shown.number}.{index}",
        head=head,
        done=update.done,
        answers=answers,
        same=sum(len(answer.variants) for answer in answers if len(answer.variants) > 1),
        n_ended=sum(pane.state.ended for pane in update.panes),
        n_panes=len(update.panes),
        can_vote=can_vote and shown.state is not RunState.RUNNING,
    )


def _boxes(shown: Run, result: RunResult, thumbnail: Thumbnail) -> markupsafe.Markup:
    """On the picture that was asked about; nothing where several were: an answer's box does not say which it means."""
    picture = result.picture or (shown.cell.pictures[0] if len(shown.cell.pictures) == 1 else None)
    if picture is None:
        return markupsafe.Markup()
    url = data_url(thumbnail(picture.sha256))
    return boxes_view.html(result.update, shown.variants, shown.reference, picture, url)


def _apart(shown: Run, index: int) -> set[str]:
    """Variants whose earlier answers in the conversation are not the reference's."""
    apart: set[str] = set()
    for result in shown.results[:index]:
        if result.picture is None:
            texts = {p.variant: p.text for p in result.update.panes}
            apart |= {variant for variant, text in texts.items() if text != texts.get(shown.reference)}
    return apart


def overall(shown: Run) -> str:
    """How often each variant answered like the reference, over the comparisons of a run that has several."""
    if len(shown.results) < 2 or not all(r.update.done for r in shown.results):
        return ""
    labels = {v.id: v.label for v in shown.variants}
    counts = []
    for variant in shown.variants:
        if variant.id == shown.reference:
            continue
        same, of = agreement(shown.results, variant.id, shown.reference)
        if of:
            counts.append(f"{labels[variant.id]} in {same} of {of}")
    return f"The same answer as {labels[shown.reference]}: " + ", ".join(counts) + "." if counts else ""


def agreement(results: Sequence[RunResult], variant: str, reference: str) -> tuple[int, int]:
    """In how many comparisons a variant answered like the reference, of those where both answered."""
    same = of = 0
    for result in results:
        panes = {p.variant: p for p in result.update.panes}
        pane, wanted = panes.get(variant), panes.get(reference)
        if pane and wanted and pane.comparable and pane.state is wanted.state is PaneState.DONE:
            of += 1
            same += same_answer(wanted, pane) if by_text(wanted, pane) else pane.first_divergence is None
    return same, of
