"""Results documents: what they keep of a measurement, and what is refused when one is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest

from playground.errors import BadInput
from playground.measuring import result_documents
from playground.measuring.parity import Parity
from playground.measuring.question_sets import SampleRecord
from playground.measuring.result_documents import ResultDocument
from playground.measuring.results import Measurement, MeasurementPlan
from playground.values.overrides import CacheType, Overrides
from playground.values.request import PromptForm, Runtime
from testkit.result_documents import document
from testkit.ship_cards import ASKED, LADDER, VARIANTS, N, result


def test_document_when_written_and_read_then_the_same_and_valid_by_the_schema(tmp_path: Path) -> None:
    result_document = document(
        uploader=" Anna  B ", form=PromptForm(system="Be brief."), runtime=Runtime(image_max_tokens=256)
    )
    result_documents.write(tmp_path / "a.json", result_document)
    assert result_documents.read(tmp_path / "a.json") == result_document
    plain = json.loads((tmp_path / "a.json").read_text())
    jsonschema.Draft202012Validator(result_documents.schema()).validate(plain)
    assert plain["uploader"] == "Anna B"
    assert (plain["settings"]["system"], plain["settings"]["image_max_tokens"]) == ("Be brief.", 256)
    assert plain["settings"]["kv_type_k"] == "f16"
    assert result_document.reference_variant.label == "F16"
    assert result_document.reference.original_kl is None
    q2 = result_document.variants[-1]
    assert (q2.drift.changed.answers, q2.drift.changed.of, q2.drift.verdict) == (60, N, "changes answers")  # type: ignore[union-attr]
    assert result_document.reference_variant.drift is None
    assert "/home/me" not in json.dumps(plain)
    assert ASKED[0].question not in json.dumps(plain)


def test_document_when_an_older_version_measured_it_then_none_for_what_is_unknown() -> None:
    old = Measurement(ASKED[:1], ("a",), (result("F16", speed=None, memory=None),))
    document = result_documents.document(
        old, [VARIANTS["F16"]], VARIANTS["F16"].id, engine="e", machine="m", set_name="s", when="2025-01-01"
    )
    settings = msgspec.to_builtins(document.settings)
    assert set(settings.values()) == {None}
    variant = document.variants[0]
    assert (variant.drift, variant.accuracy, variant.speed, variant.floor) == (None, None, None, None)
    assert (document.uploader, document.questions.commit, variant.model.repo) == (None, None, None)


def test_document_when_drawn_from_a_suite_or_spread_over_an_axis_then_it_says_which() -> None:
    sample = SampleRecord("chartqa", "o/n", "c" * 40, "test", 7, tuple(range(N)), 2500)
    plain, kv = VARIANTS["F16"], replace(VARIANTS["Q8"], overrides=Overrides(CacheType.Q8_0, 256))
    document = result_documents.document(
        Measurement(ASKED, ("a",) * N, LADDER[:2], sample=sample),
        [plain, kv],
        plain.id,
        engine="e",
        machine="m",
        set_name="",
        plan=MeasurementPlan(max_tokens=9, reasoning_tokens=3),
    )
    questions = document.questions
    assert (questions.suite, questions.commit, questions.seed, questions.count) == ("chartqa", "c" * 40, 7, N)
    assert questions.sha256 == result_documents.questions_sha256(ASKED)
    assert (document.variants[1].kv_type, document.variants[1].image_tokens) == ("q8_0", 256)
    assert (document.settings.max_tokens, document.settings.reasoning_tokens, document.settings.kv_type_k) == (
        9,
        3,
        None,
    )


def test_document_when_somebody_looked_at_the_original_then_the_distance_of_the_reference() -> None:
    looked = Parity("acme/m", "float32", "m", "p", "F16", "e", "2026", 3, 30, 0.002, 1.0, 3, 1e-7, {}, None)
    measured = Measurement(ASKED[:1], ("a",), (result("F16"),), parity=looked)
    document = result_documents.document(
        measured, [VARIANTS["F16"]], VARIANTS["F16"].id, engine="e", machine="m", set_name="s"
    )
    assert (document.reference.original_kl, document.reference.original) == (0.002, "acme/m")


def test_document_when_a_variant_answers_elsewhere_then_it_is_left_out_and_refused_as_the_reference() -> None:
    variants = [replace(v, endpoint="other" * (name == "Q8")) for name, v in VARIANTS.items()]
    fields: dict[str, Any] = {"engine": "e", "machine": "m", "set_name": "s"}
    measured = Measurement(ASKED, ("a",) * N, LADDER)
    document = result_documents.document(measured, variants, variants[0].id, **fields)
    assert [v.label for v in document.variants] == ["F16", "Q6", "Q4", "Q2"]
    with pytest.raises(BadInput, match="The files of Q8 are not known"):
        result_documents.document(measured, variants, variants[1].id, **fields)


def damaged(**changes: Any) -> bytes:
    """A document with other values at some places: variants__0__family."""
    plain = msgspec.to_builtins(document())
    for place, value in changes.items():
        *path, last = place.split("__")
        holder = plain
        for step in path:
            holder = holder[int(step) if step.isdigit() else step]
        holder[last] = value
    return json.dumps(plain).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (damaged()[:-9], "damaged or cut short"),
        (b"", "damaged or cut short"),
        (b"\xff\xfe", "damaged or cut short"),
        (b'{"a":' * 100_000, "damaged or cut short"),
        (b"[]", "is not a results document"),
        (b"{}", "is not a results document"),
        (damaged(format="other"), "is not a results document"),
        (damaged(version=2), r"newer version of the app \(format 2; this one reads 1\)"),
        (damaged(variants=[]), "length >= 1"),
        (damaged(variants__0__model__sha256="<script>"), "sha256"),
        (damaged(variants__0__model__bytes=-1), "bytes"),
        (damaged(variants__0__label="x" * 301), "label"),
        (damaged(variants__1__drift__kl=-1), "kl"),
        (damaged(variants__1__drift__kl="1"), "kl"),
        (damaged(variants__1__drift__changed__answers=N + 1), "more answers changed than were asked for"),
        (damaged(reference__variant=5), "its reference is not among its variants"),
        (damaged(model=None), "model"),
        (damaged(floors={f"way {n}": 0.1 for n in range(101)}), "too many floors"),
        (damaged(floors={"x" * 301: 0.1}), "long names"),
        (damaged(settings__template_variables={"x": [[]] * 50_000}), "its template variables are too long"),
        (b" " * (result_documents.MAX_BYTES + 1), "is larger than 2 MB"),
    ],
)
def test_document_when_it_is_invalid_then_it_is_said_why(data: bytes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as refused:
        result_documents.decoded(data, "a.json")
    assert refused.value.message.startswith("a.json ")
    assert len(refused.value.message) < 500


def test_document_when_it_has_more_than_this_version_knows_then_the_rest_is_read() -> None:
    plain = msgspec.to_builtins(document()) | {"later": {"x": 1}}
    assert result_documents.decoded(json.dumps(plain).encode(), "a") == document()


def test_file_name_when_made_of_strange_names_then_a_plain_name() -> None:
    result_document: ResultDocument = msgspec.structs.replace(document(), model="../a b/c")
    assert result_documents.file_name(result_document) == "a-b-c-set-2026-01-02.results.json"
