"""The table of results documents: for the page with its plot, for the terminal, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import markupsafe

from playground.measuring.results_table import ResultRow
from playground.models.presets import family_name
from playground.rendering import number_format, plots, templating
from playground.rendering.measurement_view import nats

_MOST_ROWS = 500  # on a page; more are reached by filtering
_MOST_LABELS = 24  # in the plot; beyond it the marks have their titles only

_Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class _Column:
    name: str
    title: str
    value: Callable[[ResultRow], _Value]  # to sort by; None: unknown
    text: Callable[[ResultRow], str]
    explained: Callable[[ResultRow], str] = lambda row: ""


def _known(text: str | None) -> str:
    return text or number_format.UNKNOWN


def _changed_share(row: ResultRow) -> float | None:
    return row.changed / row.changed_of if row.changed is not None and row.changed_of else None


def _changed(row: ResultRow) -> str:
    return number_format.UNKNOWN if row.changed is None else f"{row.changed} of {row.changed_of}"


def _accuracy(row: ResultRow) -> str:
    return number_format.UNKNOWN if row.accuracy is None else f"{row.accuracy.value:.1%}"


def _interval(row: ResultRow) -> str:
    known = row.accuracy
    if known is None or known.low is None or known.high is None:
        return ""
    return f"95 %: {known.low:.1%} to {known.high:.1%}"


def _reference(row: ResultRow) -> str:
    if row.original_kl is None:
        return "its distance from the original model was not measured"
    return f"it is {nats(row.original_kl)} nats a token from the original model"


def _image_tokens(row: ResultRow) -> str:
    return number_format.UNKNOWN if row.image_tokens is None else f"{row.image_tokens:,}"


_COLUMNS = (
    _Column("model", "", lambda row: row.model.lower(), lambda row: family_name(row.model)),
    _Column(
        "variant",
        "files of one label are told apart by repository, uploader or sha256",
        lambda row: row.variant.lower(),
        lambda row: row.variant + (" ★" if row.is_reference else ""),
        lambda row: f"sha256 {row.model_sha256}, mmproj {row.projector_sha256}" + (f", {row.repo}" if row.repo else ""),
    ),
    _Column("uploader", "", lambda row: (row.uploader or "").lower() or None, lambda row: _known(row.uploader)),
    _Column("size", "of both files", lambda row: row.bytes, lambda row: number_format.file_size(row.bytes)),
    _Column("changed", "answers that differ from the reference's", _changed_share, _changed),
    _Column(
        "at most",
        "share of such questions whose answer would change, upper end of 95 %",
        lambda row: row.changed_at_most,
        lambda row: number_format.UNKNOWN if row.changed_at_most is None else f"{row.changed_at_most:.1%}",
        lambda row: row.verdict or "",
    ),
    _Column(
        "KL",
        "mean divergence from the reference of its own document, nats a token",
        lambda row: row.kl,
        lambda row: nats(row.kl),
    ),
    _Column(
        "noise floor",
        "mean KL of the variant against itself, computed another way",
        lambda row: row.floor,
        lambda row: nats(row.floor),
    ),
    _Column(
        "accuracy",
        "mean score against the accepted answers",
        lambda row: row.accuracy.value if row.accuracy else None,
        _accuracy,
        _interval,
    ),
    _Column(
        "sees",
        "whether answers are likelier with their own picture than with others",
        lambda row: row.sight,
        lambda row: _known(row.sight),
    ),
    _Column(
        "tok/s",
        "on the machine of its document",
        lambda row: row.tokens_per_second,
        lambda row: number_format.speed(row.tokens_per_second),
        lambda row: row.machine,
    ),
    _Column(
        "memory", "of both workers", lambda row: row.memory_bytes, lambda row: number_format.memory(row.memory_bytes)
    ),
    _Column(
        "questions",
        "equal ones have one sha256",
        lambda row: row.questions.lower(),
        lambda row: f"{row.question_count} · {_shortened(row.questions)}",
        lambda row: f"{row.questions}; sha256 {row.questions_sha256}",
    ),
    _Column(
        "against", "the reference of its document", lambda row: row.reference.lower(), lambda row: row.reference,
        _reference,
    ),
    _Column("image tokens", "of each image, at most", lambda row: row.image_tokens, _image_tokens),
    _Column("KV", "type of the key-value cache", lambda row: row.kv_type, lambda row: _known(row.kv_type)),
    _Column(
        "measured",
        "",
        lambda row: row.measured,
        lambda row: number_format.when(row.measured),
        lambda row: f"{row.engine}; {row.machine}; {row.source}",
    ),
)  # fmt: skip


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:38]} …"


def html(
    rows: Sequence[ResultRow], n_documents: int, problems: Sequence[str], sources: Sequence[str]
) -> markupsafe.Markup:
    """`rows`: those that the filter leaves. `sources`: where the documents are from."""
    shown = rows[:_MOST_ROWS]
    columns = [column for column in _COLUMNS if any(column.value(row) is not None for row in shown)]
    return templating.markup(
        "results-table.html",
        columns=[(column.name, column.title) for column in columns],
        rows=[
            (row.is_reference, [(column.value(row), column.text(row), column.explained(row)) for column in columns])
            for row in shown
        ],
        plot=_plot(shown),
        more=len(rows) - len(shown),
        count=len(rows),
        documents=n_documents,
        problems=problems,
        sources=sources,
    )


def _plot(rows: Sequence[ResultRow]) -> plots.DriftPlot | None:
    """Drift of what was compared; on the line stands what no other of its model and questions beats."""
    known = [row for row in rows if row.kl is not None]
    labelled = len(known) <= _MOST_LABELS
    several = len({row.model for row in known}) > 1
    points = []
    for row in known:
        name = f"{family_name(row.model)} {row.variant}" if several else row.variant
        title = f"{name}: {number_format.file_size(row.bytes)}, KL {nats(row.kl)}, {row.questions}"
        kind = "other" if any(_beats(other, row) for other in known) else "pareto"
        points.append(plots.DriftPoint(name if labelled else "", kind, row.bytes, row.kl, title))
    return plots.drift_by_size(points, joined=False)


def _beats(a: ResultRow, b: ResultRow) -> bool:
    """Only where the two can be compared: the same questions, asked of quantizations of one model."""
    if (a.model, a.questions_sha256, a.reference) != (b.model, b.questions_sha256, b.reference):
        return False
    if a.kl is None or b.kl is None:
        return False
    return a.bytes <= b.bytes and a.kl <= b.kl and (a.bytes, a.kl) != (b.bytes, b.kl)


# --- terminal and files -----------------------------------------------------------------------------------------------

_PRINTED = (
    "model", "variant", "uploader", "size", "changed", "at most", "KL", "accuracy", "tok/s", "questions", "measured",
)  # fmt: skip
_WIDEST = 36


def lines(rows: Sequence[ResultRow]) -> list[str]:
    """A table of plain text, its head first."""
    columns = [column for column in _COLUMNS if column.name in _PRINTED]
    columns = [column for column in columns if any(column.value(row) is not None for row in rows)]
    cells = [[column.name for column in columns]]
    cells += [[_cut(column.text(row)) for column in columns] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(columns))]
    texts = {"model", "variant", "uploader", "questions"}
    return [
        "  ".join(
            text.ljust(width) if column.name in texts else text.rjust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in cells
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 2]} …"


def written_csv(rows: Sequence[ResultRow]) -> str:
    """All fields. A text that a spreadsheet would take for a formula gets an apostrophe."""
    file = io.StringIO()
    names = [name for name in ResultRow.__struct_fields__ if name != "accuracy"]
    accuracy = ("accuracy", "accuracy_low", "accuracy_high")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*names, *accuracy))
    for row in rows:
        known = row.accuracy
        scores = (known.value, known.low, known.high) if known is not None else (None, None, None)
        writer.writerow([_cell(getattr(row, name)) for name in names] + list(scores))
    return file.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
