"""A results document of the ship card's five variants."""

from __future__ import annotations

import hashlib
from dataclasses import replace

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
