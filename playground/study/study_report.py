"""A finished study as one report, HTML and Markdown, and as results documents. Pure, but for `write`."""

from __future__ import annotations

import datetime
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import markupsafe
import msgspec

from playground.errors import cannot_write
from playground.measuring import gate, look_test, result_documents, ship_card, statistics
from playground.measuring.question_sets import Question, QuestionSet
from playground.measuring.results import Measurement, VariantResult
from playground.measuring.statistics import Interval
from playground.measuring.suite_source import what_it_shows
from playground.measuring.summaries import variant_result
from playground.rendering import card_view, measurement_view, number_format, reports, templating
from playground.rendering import markdown as as_html
from playground.study.study_job import StudyFamilyResult, StudyResult
from playground.study.study_steps import QUESTIONS, SPEED, FinishedStep
from playground.support import atomic
from playground.values.counts import counted
from playground.values.files import Half, Variant
from playground.values.overrides import Overrides
from playground.values.request import Runtime

ALL = "all suites"
_BETWEEN = " / "  # a suite and the name of its picture


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Rows of texts below a title; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Section:
    """What a family was asked in one suite, or in all together."""

    suite: str
    measurement: Measurement
    step: FinishedStep  # of one suite; of all: the first one

    @property
    def variants(self) -> tuple[Variant, ...]:
        return self.step.variants

    @property
    def reference(self) -> str:
        return self.step.reference


def write(result: StudyResult, out: Path, *, study_text: str, command: Sequence[str], uploader: str = "") -> list[Path]:
    """Write report.html, report.md and the results documents. Raises NoRoom, BadInput."""
    files = {
        out / "report.html": html(result, study_text, command).encode(),
        out / "report.md": markdown(result, study_text, command).encode(),
    }
    for step, made in documents(result, uploader):
        name = result_documents.file_name(made).removesuffix(".results.json")
        files[out / "results" / f"{name}-{step.key[:8]}.results.json"] = result_documents.encoded(made)
    for path, data in files.items():
        try:
            atomic.write(path, data)
        except OSError as error:
            raise cannot_write(path, error) from None
    return list(files)


def documents(result: StudyResult, uploader: str = "") -> list[tuple[FinishedStep, result_documents.ResultDocument]]:
    """One for each family and suite."""
    made = []
    for family in result.families:
        for section in _sections(result, family):
            if section.suite == ALL:
                continue
            step = section.step
            document = result_documents.document(
                section.measurement,
                step.variants,
                step.reference,
                engine=step.engine,
                machine=step.machine,
                set_name=result.sets[step.suite].name if step.suite in result.sets else step.suite,
                plan=step.plan,
                runtime=Runtime(n_ctx=result.study.n_ctx),
                uploader=uploader,
                when=step.measured,
            )
            made.append((step, document))
    return made


# --- values -----------------------------------------------------------------------------------------------------------


def _sections(result: StudyResult, family: StudyFamilyResult) -> list[_Section]:
    """All suites together first, if there are several; then each."""
    steps = [step for step in result.finished if step.family == family.title]
    speeds = {r.variant: r.speed for step in steps if step.what == SPEED for r in step.measurement.results}
    each = []
    for step in steps:
        if step.what == QUESTIONS:
            timed = tuple(
                msgspec.structs.replace(r, speed=speeds.get(r.variant, r.speed)) for r in step.measurement.results
            )
            each.append(_Section(step.suite, msgspec.structs.replace(step.measurement, results=timed), step))
    if len(each) < 2:
        return each
    return [_Section(ALL, pooled({s.suite: s.measurement for s in each}, each[0].reference), each[0].step), *each]


def pooled(measurements: dict[str, Measurement], reference: str) -> Measurement:
    """Several suites as one set of questions: every question counts alike, and the verdicts are over all of them."""
    each = list(measurements.items())
    questions = tuple(
        msgspec.structs.replace(question, image=f"{suite}{_BETWEEN}{question.image}")
        for suite, measured in each
        for question in measured.questions
    )
    parts: dict[str, list[VariantResult]] = {}
    for _, measured in each:
        for r in measured.results:
            parts.setdefault(r.variant, []).append(r)
    whole = {id: rs for id, rs in parts.items() if len(rs) == len(each)}
    items = {id: [item for r in rs for item in r.items] for id, rs in whole.items()}
    results = []
    for id, rs in whole.items():
        made = variant_result(id, items[id], None if id == reference else items[reference], questions)
        own_floors = [r.floor for r in rs if r.floor is not None]
        own = [r.own_picture for r in rs]
        counts = [counted for counted in own if counted is not None]
        results.append(
            msgspec.structs.replace(
                made,
                floor=max(own_floors, default=None),
                within_arithmetic=all(r.within_arithmetic for r in rs),
                looks=look_test.pooled([r.looks for r in rs], own),
                own_picture=(sum(w for w, _ in counts), sum(n for _, n in counts)) if counts else None,
                speed=rs[0].speed,
            )
        )
    compared = [r.against for r in results if r.against is not None]
    judged = iter(statistics.verdicts(compared))
    results = [r if r.against is None else msgspec.structs.replace(r, against=next(judged)) for r in results]
    floors = {f"{suite}, {way}": kl for suite, measured in each for way, kl in measured.floors.items()}
    return Measurement(
        questions=questions,
        answers=tuple(answer for _, measured in each for answer in measured.answers),
        results=tuple(results),
        floor=max(floors.values(), default=None),
        floors=floors,
        problems=tuple(f"{suite}: {problem}" for suite, measured in each for problem in measured.problems),
        elapsed_s=sum(measured.elapsed_s for _, measured in each),
        left_out=sum(measured.left_out for _, measured in each),
        form=each[0][1].form,
    )


def _overview(sections: Sequence[_Section]) -> StudyTable:
    """Every variant: its accuracy in each suite, beside the reference's."""
    columns = ["variant", "size"]
    cells: dict[str, list[str]] = {}
    for variant in sections[0].variants:
        mark = " ★" if variant.id == sections[0].reference else ""
        cells[variant.id] = [f"{variant.label}{mark}", number_format.file_size(variant.bytes)]
    for section in sections:
        columns += [f"{section.suite} ({len(section.measurement.questions)})"]
        known = {r.variant: r for r in section.measurement.results}
        for id, row in cells.items():
            row.append(_against(known[id]) if id in known else number_format.UNKNOWN)
    note = "Mean score; in brackets the points that it lies above or below the reference's (★), with 95 % intervals."
    return StudyTable("Accuracy", tuple(columns), tuple(tuple(row) for row in cells.values()), note)


def _alone(result: StudyResult) -> StudyTable | None:
    """Of every family, what one change alone does: of one half, or of one setting. None: nothing was measured."""
    rows = []
    for family in result.families:
        for section in _sections(result, family)[:1]:
            known = {r.variant: r for r in section.measurement.results}
            judged = gate.gates(section.measurement.results, section.measurement.questions, section.reference)
            base = next(v for v in section.variants if v.id == section.reference)
            for variant in section.variants:
                change, r = _change(base, variant), known.get(variant.id)
                if change is None or r is None:
                    continue
                changed, at_most, verdict, kl, *_ = measurement_view.numbers(r, judged.get(r.variant))
                difference = number_format.UNKNOWN if r.against is None else _points(r.against.difference)
                saved = number_format.share(1 - variant.bytes / base.bytes)
                rows.append((f"{family.title}: {change}", saved, changed, at_most, kl, difference, verdict))
    columns = ("one change", "smaller by", "changed", "at most (95 %)", "KL a token", "points (95 %)", "verdict")
    note = (
        "Beside the reference of each family, over all suites. Points: of accuracy. Each verdict is over all variants "
        "of its family."
    )
    return StudyTable("One change at a time", columns, tuple(rows), note) if rows else None


def _change(base: Variant, variant: Variant) -> str | None:
    """The only thing that tells it from the reference, in words; None: nothing does, or several things do."""
    overrides, usual = variant.overrides or Overrides(), base.overrides or Overrides()
    changes = [f"{half} {variant.half(half).label}" for half in Half if variant.half(half) != base.half(half)]
    for own, theirs in (
        (overrides.model_label, usual.model_label),
        (overrides.projector_label, usual.projector_label),
    ):
        changes += [own.removeprefix(" · ")] if own != theirs else []
    return changes[0] if len(changes) == 1 else None


def _against(r: VariantResult) -> str:
    if r.accuracy is None or math.isnan(r.accuracy.value):
        return number_format.UNKNOWN
    score = f"{r.accuracy.value:.1%}"
    if r.against is None:
        ends = r.accuracy
        return score if ends.low is None or ends.high is None else f"{score} ({ends.low:.1%} to {ends.high:.1%})"
    verdict = f", {r.against.words}" if r.against.words in ("worse", "better") else ""
    return f"{score} ({_points(r.against.difference)}{verdict})"


def _points(difference: Interval) -> str:
    if difference.low is None or difference.high is None:
        return f"{100 * difference.value:+.1f}"
    return f"{100 * difference.value:+.1f}; {100 * difference.low:+.1f} to {100 * difference.high:+.1f}"


def _grids(section: _Section) -> list[StudyTable]:
    """Language models by projectors, each cell with its interval; none without several of either."""
    results = {r.variant: r for r in section.measurement.results}
    judged = gate.gates(section.measurement.results, section.measurement.questions, section.reference)

    def difference(variant: Variant) -> str:
        r = results.get(variant.id)
        if r is None or r.accuracy is None:
            return number_format.UNKNOWN
        return f"{r.accuracy.value:.1%} ★" if r.against is None else _points(r.against.difference)

    def changed(variant: Variant) -> str:
        count = judged[variant.id].changed if variant.id in judged else None
        if variant.id == section.reference:
            return "★"
        if count is None:
            return number_format.UNKNOWN
        ends = count.interval
        return f"{count.share:.1%}; {ends.low or 0:.1%} to {1.0 if ends.high is None else ends.high:.1%}"

    each = (
        ("Accuracy: points above or below the reference, with 95 % interval", difference),
        ("Changed answers, with 95 % interval", changed),
    )
    made = [_grid(f"{section.suite}. {title}", section.variants, cell) for title, cell in each]
    return [
        table
        for table in made
        if table is not None and any(c not in ("★", number_format.UNKNOWN) for row in table.rows for c in row[1:])
    ]


def _grid(title: str, variants: Sequence[Variant], cell: Callable[[Variant], str]) -> StudyTable | None:
    places: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for variant in variants:
        overrides = variant.overrides or Overrides()
        row = variant.model.label + overrides.model_label
        column = f"mmproj {variant.projector.label}{overrides.projector_label}"
        columns[column] = None
        places.setdefault(row, {})[column] = cell(variant)
    if len(places) < 2 or len(columns) < 2:
        return None
    rows = [(row, *(cells.get(column, number_format.UNKNOWN) for column in columns)) for row, cells in places.items()]
    return StudyTable(title, ("language model", *columns), tuple(rows))


def _card(section: _Section, command: Sequence[str], settings: str) -> ship_card.ShipCard:
    sample = section.measurement.sample
    return ship_card.card(
        section.measurement,
        section.variants,
        section.reference,
        ship_card.ShipLimits(),
        engine=section.step.engine,
        machine=section.step.machine,
        set_name=sample.words if sample else section.suite,
        settings=settings,
        command=shlex.join(command),
        when=section.step.measured,
    )


def _settings(result: StudyResult, section: _Section) -> str:
    return ship_card.settings_line(section.step.plan, result.study.n_ctx, section.measurement.form)


def _pictures(result: StudyResult, section: _Section) -> measurement_view.Picture:
    """The images of a suite, or of all by the suite's name before theirs."""

    def image_of(name: str) -> object:
        suite, _, own = name.partition(_BETWEEN) if section.suite == ALL else (section.suite, "", name)
        questions: QuestionSet = result.sets[suite]
        return questions.image(Question(own, ""))

    return measurement_view.pictures(image_of)


def _missing(result: StudyResult) -> list[str]:
    """What the report lacks."""
    lacking = [f"{family.title}: nothing was measured." for family in result.families if not _sections(result, family)]
    return [*result.problems, *lacking]


def _about(result: StudyResult) -> list[str]:
    n = sum(len(step.measurement.questions) for step in result.finished if step.what == QUESTIONS)
    shown = [
        f"{questions.sample.words if questions.sample else suite}: {what_it_shows(len(questions.items))}"
        for suite, questions in result.sets.items()
    ]
    where = dict.fromkeys(f"{step.engine}; {step.machine}" for step in result.finished)
    families, suites = len(result.families), len(result.sets)
    first = f"{families} famil{'ies' if families != 1 else 'y'}, {counted(suites, 'suite')}, {counted(n, 'question')}."
    return [first, *shown, *where]


# --- HTML -------------------------------------------------------------------------------------------------------------


def html(result: StudyResult, study_text: str, command: Sequence[str]) -> str:
    """One page that needs nothing else: opens offline, light and dark, and prints."""
    families = []
    for family in result.families:
        sections = _sections(result, family)
        if not sections:
            continue
        card = _card(sections[0], command, _settings(result, sections[0]))
        families.append(
            {
                "title": family.title,
                "overview": _overview(sections),
                "grids": _grids(sections[0]),
                "verdict": card_view.verdict(card, printed=True),
                "card": card_view.section(card, printed=True),
                "suites": [
                    {
                        "title": section.suite,
                        "grids": _grids(section),
                        "html": _measured(result, section),
                    }
                    for section in (sections[1:] if len(sections) > 1 else sections)
                ],
                "commands": family.commands,
            }
        )
    return str(
        templating.markup(
            "study.html",
            study=result.study,
            about=_about(result),
            missing=_missing(result),
            alone=_alone(result),
            families=families,
            study_text=study_text,
            command=shlex.join(command),
            written=f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M}",
            css=templating.css(),
        )
    )


def _measured(result: StudyResult, section: _Section) -> markupsafe.Markup:
    picture = _pictures(result, section)
    return measurement_view.html(section.measurement, section.variants, section.reference, picture, printed=True)


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(result: StudyResult, study_text: str, command: Sequence[str]) -> str:
    """The same without plots and answers."""
    parts = [f"# {result.study.name}"]
    parts += [result.study.about] if result.study.about else []
    parts.append("\n".join(f"- {line}" for line in _about(result)))
    if missing := _missing(result):
        parts += ["## What is missing", "\n".join(f"- {line}" for line in missing)]
    alone = _alone(result)
    parts += [_table(alone)] if alone else []
    for family in result.families:
        sections = _sections(result, family)
        if not sections:
            continue
        card = _card(sections[0], command, _settings(result, sections[0]))
        parts += [f"## {family.title}", "\n".join(f"- {reason}" for reason in card.reasons)]
        parts += [_table(_overview(sections)), *map(_table, _grids(sections[0]))]
        for section in sections:
            parts.append(f"### {family.title}, {section.suite}")
            parts.append(reports.measured(section.measurement, section.variants, section.reference))
            parts += [_table(table) for table in _grids(section)] if section is not sections[0] else []
        files = [(f.quantization, f.name, number_format.file_size(f.bytes), f"`{f.sha256}`") for f in card.files]
        parts += ["**Files**", as_html.table(("quantization", "file", "size", "sha256"), files)]
        if family.commands:
            parts += ["Made or fetched with:", _code("\n".join(family.commands), "sh")]
    parts += ["## Again", _code(shlex.join(command), "sh"), _code(study_text, "toml")]
    return as_html.inert("\n\n".join(parts) + "\n")


def _table(table: StudyTable) -> str:
    note = f"\n\n{table.note}" if table.note else ""
    return f"**{table.title}**\n\n{as_html.table(table.columns, table.rows)}{note}"


def _code(text: str, kind: str) -> str:
    return f"```{kind}\n{text.strip()}\n```"
