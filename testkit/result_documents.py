"""Results documents of the ship card's five variants."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from playground.errors import PlaygroundError
from playground.measuring import result_documents
from playground.measuring.packs import Pack
from playground.measuring.result_documents import ResultDocument
from playground.measuring.results import Measurement, MeasurementPlan
from playground.values.files import ModelFile, Variant
from playground.values.request import PromptForm, Runtime
from testkit.ship_cards import ASKED, LADDER, VARIANTS, N


def _with_sum(file: ModelFile, salt: str) -> ModelFile:
    return replace(file, sha256=hashlib.sha256(f"{salt}{file.sha256}".encode()).hexdigest())


def variants(salt: str = "") -> list[Variant]:
    """`salt`: other files under the same names."""
    return [
        replace(v, model=_with_sum(v.model, salt), projector=_with_sum(v.projector, salt)) for v in VARIANTS.values()
    ]


def document(
    *,
    salt: str = "",
    uploader: str = "",
    form: PromptForm | None = None,
    runtime: Runtime | None = None,
    pack: Pack | None = None,
    when: str = "2026-01-02T03:04:05+01:00",
) -> ResultDocument:
    return result_documents.document(
        Measurement(ASKED, ("a",) * N, LADDER, floor=1e-8, floors={"other batches": 1e-8}, form=form, elapsed_s=60.0),
        variants(salt),
        VARIANTS["F16"].id,
        engine="llama-cpp-python 1 on CPU",
        machine="2 cores",
        set_name="set",
        plan=MeasurementPlan(),
        runtime=runtime,
        pack=pack,
        uploader=uploader,
        when=when,
    )


MARKUP = "<b>ben</b>\x1b[31m<script>alert(1)</script>"  # a stranger's name


def write_shelf(folder: Path) -> Path:
    """A folder with two documents of other files under the same labels, a newer one, a damaged one and another JSON."""
    result_documents.write(folder / "a.results.json", document(uploader="anna"))
    result_documents.write(folder / "sub/b.results.json", document(uploader=MARKUP, salt="other"))
    (folder / "c.results.json").write_text('{"format": "vlm-quant-playground.results", "version": 9}')
    (folder / "d.results.json").write_bytes((folder / "a.results.json").read_bytes()[:200])
    (folder / "e.json").write_text('{"format": "other"}')
    return folder


@dataclass
class _RepoFile:
    name: str
    bytes: int = 10


@dataclass
class _Listing:
    commit: str
    files: Sequence[_RepoFile]


class OneRepo:
    """A Hub with one dataset repository, whose files lie in a folder; it also lists one that is far too large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[tuple[str, str]] = []
        self.failure: PlaygroundError | None = None

    def dataset_files(self, id: str, revision: str = "main", token: str | None = None) -> Any:
        self.asked.append((id, revision))
        if self.failure is not None:
            raise self.failure
        names = sorted(path.name for path in self.folder.glob("*"))
        return _Listing("c" * 40, [*map(_RepoFile, names), _RepoFile("h.json", 2**40)])

    def dataset_file(self, listing: Any, name: str, token: str | None = None) -> Path:
        return self.folder / name
