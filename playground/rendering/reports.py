"""Notebooks and cells as files: HTML report, JSON, Markdown, Jupyter notebook."""

from __future__ import annotations

import datetime
import json
import re
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import markupsafe
import msgspec
import nbformat

from playground.comparing import branching, summary_rows
from playground.errors import BadInput
from playground.measuring.gate import gates
from playground.measuring.results import Measurement
from playground.models.presets import family_name
from playground.notebooks import file_format as file
from playground.notebooks import votes
from playground.notebooks.cells import Cell, CellQuestions, CompareCell, NoteCell, Picture, Run
from playground.notebooks.own_files import OwnFiles
from playground.notebooks.run_cell import card_of, set_name
from playground.notebooks.run_diff import settings_of
from playground.notebooks.votes import VoteRow
from playground.rendering import cell_view, measurement_view, number_format, templating
from playground.rendering import markdown as as_html
from playground.values.answer import Branch, ComparisonUpdate, Pane, PaneState
from playground.values.counts import counted
from playground.values.files import Variant

_FULL_PICTURE = 2_000_000  # bytes of a PNG that goes into a report as it is; a larger one as its thumbnail

PictureOf = Callable[[CellQuestions | None], measurement_view.Picture]
Thumbnail = Callable[[str], tuple[str, bytes] | None]  # by a picture's sha256: MIME type and bytes
Whole = Sequence[tuple[Cell, Sequence[Run]]]


def write(kind: str, title: str, whole: Whole, files: OwnFiles, picture_of: PictureOf) -> dict[str, str]:
    """Name, MIME type and text of a file. Raises BadInput for an unknown kind."""
    writers: dict[str, tuple[str, Callable[[], str]]] = {
        "html": ("text/html", lambda: html(title, whole, files, picture_of)),
        "json": ("application/json", lambda: file.to_json(title, whole, files.png)),
        "md": ("text/markdown", lambda: markdown(title, whole, files.thumbnail)),
        "ipynb": ("application/x-ipynb+json", lambda: jupyter(title, whole, files, picture_of)),
    }
    if kind not in writers:
        raise BadInput(f"Unknown export '{kind[:20]}'. Known: {', '.join(writers)}.")
    mime, writer = writers[kind]
    return {"name": file_name(title, kind), "mime": mime, "text": writer()}


def file_name(title: str, kind: str) -> str:
    name = re.sub(r"[^\w.-]+", "-", title).strip("-.")[:80] or "notebook"
    return f"{name}.{kind}"


# --- HTML ------------------------------------------------------------------------------------------------------------


def html(title: str, whole: Whole, files: OwnFiles, picture_of: PictureOf) -> str:
    """One page that needs nothing else: opens offline, light and dark, and prints."""
    shown: list[dict[str, Any]] = []
    for cell, runs in whole:
        if isinstance(cell, NoteCell):
            shown.append({"markdown": as_html.render(cell.text) or " "})
            continue
        newest_first = sorted(runs, key=lambda run: -run.number)
        shown.append(
            {
                "markdown": "",
                "prompts": cell.prompts if cell.questions is None else [_measured_what(cell.questions)],
                "pictures": [(p, _picture_url(p, files)) for p in cell.pictures],
                "model": family_name(cell.family),
                "settings": _settings(cell),
                "runs": [
                    {"number": run.number, "html": _run(run, cell, runs, files, picture_of)} for run in newest_first
                ],
            }
        )
    written = datetime.datetime.now().astimezone()
    return str(
        templating.markup(
            "report.html",
            title=title,
            cells=shown,
            css=templating.css(),
            written=f"{written:%Y-%m-%d %H:%M}",
            votes=cell_view.votes_table(tally) if (tally := _tally(whole)) else "",
        )
    )


def _run(run: Run, cell: CompareCell, runs: Sequence[Run], files: OwnFiles, picture_of: PictureOf) -> markupsafe.Markup:
    """A run, under what it was asked where the cell asks something else by now."""
    repeats = cell_view.repeats_of(run, runs)
    blocks = [
        cell_view.block(run, i, files.thumbnail, printed=True, spreads=cell_view.spreads_of(repeats, i), cell=cell)
        for i in range(len(run.results))
    ]
    blocks += cell_view.measurement(run, picture_of(run.cell.questions), printed=True)
    return templating.markup(
        "run.html",
        run=run,
        runs=(),
        newest=run.number,
        beside=False,
        comparison="",
        changed_since=None,
        asked=[cell_view.asked(run, files.thumbnail)] if cell_view.changed_since(run, cell) else [],
        can_restore=False,
        settings=cell_view.details(run),
        waterfalls=cell_view.waterfalls(run),
        blocks=blocks,
        overall=cell_view.overall(run),
        can_follow=False,
    )


def _measured_what(questions: CellQuestions) -> str:
    """A line in place of the prompt, where a cell asks a set of questions."""
    how_many = "" if questions.pack else f", {questions.n} asked"
    return _line(f"Measurement: {set_name(questions)}{how_many}")


def _picture_url(picture: Picture, files: OwnFiles) -> str | None:
    png = files.png(picture.sha256)
    if png is not None and len(png) <= _FULL_PICTURE:
        return templating.data_url(("image/png", png))
    return templating.data_url(files.thumbnail(picture.sha256))


def _settings(cell: CompareCell) -> str:
    """Those that change what is answered, or how fast."""
    given: dict[str, Any] = msgspec.to_builtins(cell.settings)
    given.pop("probabilities", None)
    return " · ".join(f"{name.replace('_', ' ')} {v}" for name, v in given.items() if v not in (None, (), []))


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(title: str, whole: Whole, thumbnail: Thumbnail = lambda sha256: None) -> str:
    """Notes as they are, but for raw HTML; of each cell the questions, a table, and the answers, fenced."""
    parts = [f"# {_line(title)}"]
    for cell, runs in whole:
        if isinstance(cell, NoteCell):
            parts.append(cell.text)
        else:
            parts.append(_asked(cell, thumbnail))
            newest_first = sorted(runs, key=lambda run: -run.number)
            parts += [_answered(run, thumbnail, known=cell.pictures) for run in newest_first]
    if tally := _tally(whole):
        parts.append(_votes(tally))
    return as_html.inert("\n\n".join(parts) + "\n")


def _tally(whole: Whole) -> list[VoteRow]:
    every = [run for _, runs in whole for run in sorted(runs, key=lambda run: run.number)]
    return votes.rows([cell for cell, _ in whole], every)


def _votes(tally: Sequence[VoteRow]) -> str:
    rows = []
    for row in tally:
        ends = f"{number_format.share(row.share.low)} to {number_format.share(row.share.high)}"
        values = (row.name, f"{row.accepted} of {row.shown}", number_format.share(row.share.value), ends)
        rows.append([*values, measurement_view.nats(row.kl)])
    return "## Blind votes\n\n" + as_html.table(("variant", "accepted", "share", "95 %", "KL a token"), rows)


def _asked(cell: CompareCell, thumbnail: Thumbnail) -> str:
    asks = cell.prompts[0] if cell.questions is None else _measured_what(cell.questions)
    parts = [f"## {_line(asks) or 'No prompt'}"]
    if cell.family:
        parts.append(f"Model: {_line(family_name(cell.family))}")
    parts += [f"↳ {_line(prompt)}" for prompt in cell.prompts[1:]]
    parts += [_picture(picture, thumbnail) for picture in cell.pictures]
    return "\n\n".join(parts)


def _picture(picture: Picture, thumbnail: Thumbnail) -> str:
    """Its data, and its thumbnail within the file."""
    url = templating.data_url(thumbnail(picture.sha256))
    alt = re.sub(r"[\[\]\\<>`]", " ", _line(picture.name))
    data = (
        f"Image: `{_line(picture.name)}`, {picture.width} × {picture.height}, sha256 of its pixels `{picture.sha256}`"
    )
    return f"{data}\n\n![{alt}]({url})" if url else data


def _answered(run: Run, thumbnail: Thumbnail = lambda sha256: None, *, known: Sequence[Picture] | None = None) -> str:
    """`known`: pictures that are shown already."""
    settings = "; ".join(f"{name} {value}" for name, value in settings_of(run).items())
    parts = [
        f"### Run {run.number}, {run.started}, {_line(run.ending)}",
        f"{run.engine}; {run.machine}; {settings}".strip("; "),
    ]
    if known is not None:  # an older run may have asked about other pictures
        parts += [_picture(picture, thumbnail) for picture in run.cell.pictures if picture not in known]
    for result in run.results:
        if result.picture is not None:
            parts.append(f"**{_line(result.picture.name)}**")
        elif len(run.cell.prompts) > 1:
            parts.append(f"**{_line(run.cell.prompts[result.turn])}**")
        parts.append(_table(result.update.panes, run))
        parts += [
            f"**{_label(pane, run.variants)}**\n\n{_reasoning(pane)}{_fenced(pane.text or pane.error or '')}"
            for pane in result.update.panes
        ]
        parts += [_went_on(branch, result.update, run) for branch in result.update.branches]
    if run.measurement is not None:
        parts.append(_measured(run))
    files = [f"- {v.label}: {_files(v)}" for v in run.variants]
    return "\n\n".join([*parts, "\n".join(files)])


def _files(variant: Variant) -> str:
    if variant.endpoint:
        return "a server elsewhere"
    halves = (variant.model, variant.projector)
    return ", ".join(f"`{_line(file.path)}` `{file.sha256}`" for file in halves)


def _went_on(branch: Branch, update: ComparisonUpdate, run: Run) -> str:
    panes = {pane.variant: pane for pane in update.panes}
    token = " ".join(branching.token_text(panes[branch.pane.variant], branch).split())
    head = f"**{_label(branch.pane, run.variants)}, from token {branch.at + 1}{f' ({token})' if token else ''} on**"
    verdict = branching.verdict(branch, panes[run.reference]) if run.reference in panes else ""
    return f"{head} {verdict}\n\n{_fenced(branch.pane.text or branch.pane.error or '')}"


def _reasoning(pane: Pane) -> str:
    return f"Reasoning:\n\n{_fenced(pane.reasoning)}\n\n" if pane.reasoning else ""


def _table(panes: Sequence[Pane], run: Run) -> str:
    columns = ("variant", "size", "bits", "first token", "decode", "memory", "same until", "exact")
    lines = []
    for row in summary_rows.summary_rows(panes, run.variants, run.reference):
        same = (
            "reference"
            if row.is_reference
            else number_format.UNKNOWN
            if row.same is None
            else "= same"
            if row.same
            else "≠"
        )
        values = (
            row.label,
            number_format.file_size(row.bytes),
            number_format.bits(row.bits_per_weight),
            number_format.seconds(row.metrics.ttft_s),
            number_format.sampled_speed(row.metrics.decode_tok_per_s)
            + (" (shared)" if row.metrics.beside_others else ""),
            number_format.memory(row.memory_bytes),
            number_format.share(row.same_prefix),
            same,
        )
        lines.append(values)
    return as_html.table(columns, lines)


def _measured(run: Run) -> str:
    assert run.measurement is not None
    return measured(run.measurement, run.variants, run.reference, _margin(run))


def measured(measurement: Measurement, variants: Sequence[Variant], reference: str, margin: float | None = None) -> str:
    """A measurement's numbers as Markdown."""
    labels = {v.id: v.label for v in variants}
    judged = gates(measurement.results, measurement.questions, reference, margin)
    columns = ("variant", "changed", "at most (95 %)", "verdict", "KL a token", "KL a question", "same top", "accuracy")
    rows = [[labels[r.variant], *measurement_view.numbers(r, judged.get(r.variant))] for r in measurement.results]
    heading = (
        f"{counted(len(measurement.questions), 'question')}; noise floor {measurement_view.nats(measurement.floor)}"
    )
    form_words = [] if measurement.form is None else [f"asked with {measurement.form.words}"]
    return "\n\n".join(["; ".join([heading, *form_words]), as_html.table(columns, rows)])


def _margin(run: Run) -> float | None:
    return run.cell.questions.limits.max_changed if run.cell.questions else None


def _label(pane: Pane, variants: Sequence[Variant]) -> str:
    label = next(v.label for v in variants if v.id == pane.variant)
    return label if pane.state is PaneState.DONE else f"{label} ({pane.state})"


def _line(text: str) -> str:
    return " ".join(text.split())


def _fenced(text: str) -> str:
    """A fence that no run of backticks in the text closes."""
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"


# --- Jupyter ---------------------------------------------------------------------------------------------------------


def jupyter(title: str, whole: Whole, files: OwnFiles, picture_of: PictureOf) -> str:
    """Code cells that ask a running playground again, with the outputs of the newest runs."""
    v4 = nbformat.v4
    made: list[Any] = [v4.new_markdown_cell(as_html.inert(f"# {_line(title)}"))]
    for cell, runs in whole:
        if isinstance(cell, NoteCell):
            made.append(v4.new_markdown_cell(as_html.inert(cell.text)))
            continue
        newest = max(runs, key=lambda run: run.number, default=None)
        outputs = []
        for picture in cell.pictures:
            kind, data = files.thumbnail(picture.sha256) or ("", b"")
            if data:
                url = templating.data_url((kind, data))
                shown = {"text/html": f'<img src="{url}" width="220">', "text/plain": picture.name}
                outputs.append(v4.new_output("display_data", data=shown))
        if newest is not None:
            page = f"<style>{templating.css()}</style><div>{_run(newest, cell, runs, files, picture_of)}</div>"
            shown = {"text/html": page, "text/markdown": as_html.inert(_answered(newest))}
            outputs.append(v4.new_output("display_data", data=shown))
        code = _code(cell) if cell.questions is None else _measuring(cell.questions, newest)
        made.append(v4.new_code_cell(code, outputs=outputs, execution_count=newest.number if newest else None))
    book = v4.new_notebook(cells=made, metadata={"language_info": {"name": "python"}})
    nbformat.validate(book)
    return str(nbformat.writes(book))


def _measuring(questions: CellQuestions, newest: Run | None) -> str:
    card = card_of(newest) if newest is not None else None
    if card is None:
        return f"# {_measured_what(questions)}: run it on the page."
    return (
        f"# {_measured_what(questions)}. This measures again, where the playground is installed.\n"
        f"import subprocess\n\nsubprocess.run({shlex.split(card.command)!r}, check=True)"
    )


def _code(cell: CompareCell) -> str:
    settings = {name: value for name, value in msgspec.to_builtins(cell.settings).items() if value is not None}
    name = cell.pictures[0].name if cell.pictures else None
    lines = [
        "# Asks a running playground again: pip install gradio_client",
        "from gradio_client import Client, handle_file",
        "",
        'client = Client("http://127.0.0.1:7860")',
        f"image = {f'handle_file({json.dumps(name)})  # the image has to lie beside this notebook' if name else None}",
        f"variants = {json.dumps(list(cell.variants), indent=4)}",
        f"for prompt in {json.dumps(list(cell.prompts[:1]), ensure_ascii=False)}:",
        f"    job = client.submit(image, prompt, variants, {settings!r}, api_name='/compare')",
        "    for pane in list(job)[-1]['panes']:",
        "        print(pane['variant'], pane['text'], sep='\\n', end='\\n\\n')",
    ]
    if len(cell.prompts) > 1 or len(cell.pictures) > 1:
        lines.insert(1, "# The first question about the first image; conversations and galleries are the page's.")
    return "\n".join(lines)
