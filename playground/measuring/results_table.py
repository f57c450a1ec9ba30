"""Results documents as rows of one table over models, quantizations and uploaders. Pure.

The documents may come from strangers: what does not print is taken out of every text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from playground.measuring.result_documents import Estimate, ResultDocument, SharedVariant
from playground.measuring.result_sources import SharedDocument

_SHOWN_SUM = 8  # digits of a sha256 that tells files apart


class ResultRow(msgspec.Struct, frozen=True):
    """One variant of one document. None: unknown, or not measured."""

    model: str
    variant: str  # its label, and what tells it from other files of the same label
    uploader: str | None
    reference: str  # that it was compared with
    is_reference: bool
    bytes: int
    kl: float | None  # mean, nats a token
    kl_by_question: float | None
    floor: float | None
    changed: int | None  # answers that differ from the reference's
    changed_of: int | None
    changed_at_most: float | None  # share, one-sided 95 %
    verdict: str | None
    accuracy: Estimate | None
    sight: str | None
    tokens_per_second: float | None
    memory_bytes: int | None
    questions: str
    question_count: int
    questions_sha256: str
    max_tokens: int | None
    image_tokens: int | None
    kv_type: str | None
    model_sha256: str
    projector_sha256: str
    repo: str | None
    original_kl: float | None  # of the reference, from the original model
    engine: str
    machine: str
    measured: str
    source: str


SORTS = ("model", "variant", "uploader", "size", "changed", "kl", "accuracy", "speed", "measured")


def rows(documents: Iterable[SharedDocument]) -> tuple[ResultRow, ...]:
    """By model, then from large to small; the newest first among equals."""
    made = [
        _row(shared, variant, is_reference=place == shared.document.reference.variant)
        for shared in documents
        for place, variant in enumerate(shared.document.variants)
    ]
    marks = _marks(made)
    named = [
        msgspec.structs.replace(row, variant=f"{row.variant} ({mark})") if (mark := marks.get(_key(row))) else row
        for row in made
    ]
    named.sort(key=lambda row: row.measured, reverse=True)
    return tuple(sorted(named, key=lambda row: (row.model.lower(), -row.bytes, row.variant)))


def matching(table: Sequence[ResultRow], words: str) -> tuple[ResultRow, ...]:
    """Rows in which each of the words stands: in a name, the questions, the machine, a sha256."""
    wanted = words.lower().split()
    return tuple(row for row in table if all(word in _searched(row) for word in wanted))


def ordered(table: Sequence[ResultRow], by: str, *, descending: bool = False) -> tuple[ResultRow, ...]:
    """By one of SORTS; what is unknown stands at the end."""
    known = [row for row in table if _value(row, by) is not None]
    unknown = [row for row in table if _value(row, by) is None]
    return (*sorted(known, key=lambda row: _value(row, by), reverse=descending), *unknown)


def _value(row: ResultRow, by: str) -> Any:  # float, str or None
    match by:
        case "size":
            return row.bytes
        case "changed":
            return row.changed / row.changed_of if row.changed is not None and row.changed_of else None
        case "accuracy":
            return row.accuracy.value if row.accuracy is not None else None
        case "speed":
            return row.tokens_per_second
        case "kl":
            return row.kl
        case "uploader":
            return row.uploader.lower() if row.uploader else None
        case _:
            return str(getattr(row, by)).lower()


def _searched(row: ResultRow) -> str:
    fields = (
        row.model, row.variant, row.uploader, row.reference, row.verdict, row.questions, row.kv_type, row.repo,
        row.engine, row.machine, row.model_sha256, row.projector_sha256, row.source,
    )  # fmt: skip
    return "\n".join(field for field in fields if field).lower()


def _row(shared: SharedDocument, variant: SharedVariant, *, is_reference: bool) -> ResultRow:
    made = shared.document
    drift, speed = variant.drift, variant.speed
    changed = drift.changed if drift is not None else None
    pack = " (pack)" if made.reference.pack_sha256 and not made.reference_variant.label.endswith("(pack)") else ""
    return ResultRow(
        model=plain(variant.family),
        variant=plain(variant.label),
        uploader=plain(made.uploader or "") or None,
        reference=plain(made.reference_variant.label) + pack,
        is_reference=is_reference,
        bytes=variant.bytes,
        kl=drift.kl if drift is not None else None,
        kl_by_question=drift.kl_by_question if drift is not None else None,
        floor=variant.floor,
        changed=changed.answers if changed is not None else None,
        changed_of=changed.of if changed is not None else None,
        changed_at_most=changed.at_most if changed is not None else None,
        verdict=plain(drift.verdict) if drift is not None and drift.verdict else None,
        accuracy=variant.accuracy.score if variant.accuracy is not None else None,
        sight=plain(variant.sight) if variant.sight else None,
        tokens_per_second=speed.tokens_per_second if speed is not None else None,
        memory_bytes=speed.memory_bytes if speed is not None else None,
        questions=plain(made.questions.name),
        question_count=made.questions.count,
        questions_sha256=made.questions.sha256,
        max_tokens=made.settings.max_tokens,
        image_tokens=variant.image_tokens or made.settings.image_max_tokens,
        kv_type=_kv_type(made, variant),
        model_sha256=variant.model.sha256,
        projector_sha256=variant.projector.sha256,
        repo=plain(variant.model.repo or "") or None,
        original_kl=made.reference.original_kl,
        engine=plain(made.engine),
        machine=plain(made.machine),
        measured=plain(made.measured),
        source=plain(shared.source),
    )


def _kv_type(made: ResultDocument, variant: SharedVariant) -> str | None:
    settings = made.settings
    halves = dict.fromkeys(half for half in (settings.kv_type_k, settings.kv_type_v) if half)
    return plain(variant.kv_type or "/".join(halves)) or None


def _key(row: ResultRow) -> tuple[str, str, str, str]:
    return row.model, row.variant, row.model_sha256, row.projector_sha256


def _marks(made: Sequence[ResultRow]) -> dict[tuple[str, str, str, str], str]:
    """What tells different files of one model and label apart: their repository, else who uploaded, else the sha256."""
    labels: dict[tuple[str, str], dict[tuple[str, str, str, str], list[ResultRow]]] = {}
    for row in made:
        labels.setdefault((row.model, row.variant), {}).setdefault(_key(row), []).append(row)
    marks: dict[tuple[str, str, str, str], str] = {}
    for files in labels.values():
        if len(files) < 2:
            continue
        repos = {key: next((row.repo for row in rows if row.repo), None) for key, rows in files.items()}
        owners = {key: repo.partition("/")[0] if repo else None for key, repo in repos.items()}
        people = {key: next((row.uploader for row in rows if row.uploader), None) for key, rows in files.items()}
        sums = {key: _sums(key, files) for key in files}
        for names in (owners, repos, people, sums):
            if None not in names.values() and len(set(names.values())) == len(names):
                marks |= {key: name for key, name in names.items() if name}
                break
    return marks


def _sums(key: tuple[str, str, str, str], files: Iterable[tuple[str, str, str, str]]) -> str:
    """Of the half that differs."""
    _, _, model, projector = key
    others = [other for other in files if other != key]
    if all(other[2] != model for other in others):
        return f"sha256 {model[:_SHOWN_SUM]}"
    if all(other[3] != projector for other in others):
        return f"mmproj sha256 {projector[:_SHOWN_SUM]}"
    return f"sha256 {model[:_SHOWN_SUM]} + {projector[:_SHOWN_SUM]}"


def plain(text: str) -> str:
    """Without control characters and marks of direction, which could change what a terminal or a page shows."""
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()
