"""New variants that are made here: checked before they are any, and there again after a restart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy
import pytest
from gguf import GGUFReader, GGUFWriter

from playground.engine.protocol import Quantize, Quantized, TensorType
from playground.errors import BadInput, BadModel, EngineError, Interrupted, PlaygroundError
from playground.measuring import question_sets
from playground.measuring.gate import Verdict, gates
from playground.measuring.question_sets import QuestionSet
from playground.measuring.results import Progress
from playground.models.catalog import Catalog
from playground.models.presets import data_folder
from playground.pool.pool import Pool
from playground.quantizing import quantizer
from playground.quantizing.make_variant import CheckedVariant, MakeJob, MakeRequest
from playground.settings import Settings
from playground.values.files import Half, Variant
from playground.values.request import Runtime
from playground.wiring import Parts, open_parts
from testkit.pairs import changed_projector
from testkit.running import measured

FOLDER = data_folder() / "tiny-vlm"
MODEL, PROJECTOR = FOLDER / "tiny-vlm-7M-F16.gguf", FOLDER / "mmproj-tiny-vlm-7M-F16.gguf"
RUNTIME = Runtime(n_ctx=512)
HARD = question_sets.embedded(FOLDER / "evaluation", level="hard").first(24)
# Judged by the second and the fourth, which are captions: in long answers drift shows.
ASKED = QuestionSet("some", [HARD.items[n] for n in (0, 8, 1, 15)], FOLDER / "evaluation")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with open_parts(Settings(cache_dir=tmp_path_factory.mktemp("making")), any_folder=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def source(parts: Parts) -> Variant:
    return parts.catalog.read_pair(MODEL, PROJECTOR)


def making(
    parts: Parts,
    source: Variant,
    target: Path,
    order: MakeRequest,
    question_set: QuestionSet = ASKED,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress | CheckedVariant]:
    job = MakeJob(parts.lab, parts.workshop, RUNTIME, stop)
    return job.run(source, MakeRequest(order.half, order.quantization, order.tensor_types, order.name, target,
                                  order.calibrate), question_set)  # fmt: skip


def checked(
    parts: Parts, source: Variant, target: Path, order: MakeRequest, question_set: QuestionSet = ASKED
) -> CheckedVariant:
    *steps, last = making(parts, source, target, order, question_set)
    assert isinstance(last, CheckedVariant)
    assert last.path == target
    assert last.bytes == target.stat().st_size
    assert all(isinstance(step, Progress) for step in steps)
    return last


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_projector_when_made_then_judged_by_its_drift_on_questions_that_did_not_calibrate_it(
    parts: Parts, source: Variant, tmp_path: Path
) -> None:
    variants = [
        checked(
            parts,
            source,
            tmp_path / f"mmproj-new-{len(tensor_types)}-{name}.gguf",
            MakeRequest(Half.PROJECTOR, name, tensor_types),
        )
        for name, tensor_types in (("Q8_0", ()), ("Q2_K", (TensorType("ffn_up", "q4_K"),)), ("Q2_K", ()))
    ]
    # Four questions show nothing of a share of 5 %: no verdict without the evidence for it.
    assert [row.verdict for row in variants] == ["not enough questions"] * 3
    assert [row.kl.value for row in variants] == sorted(row.kl.value for row in variants)
    assert [row.questions for row in variants] == [4, 4, 4]
    assert all(row.embeddings and row.looks == "too few questions" and row.imatrix == "" for row in variants)
    assert [image.sha256 for image in variants[0].images] == [ASKED.image(item).sha256 for item in ASKED.items]
    # The same as anybody would measure of the files.
    variant = parts.catalog.read_pair(MODEL, tmp_path / "mmproj-new-0-Q2_K.gguf")
    result = measured(parts, ASKED, (source, variant)).results[1]
    assert result.mean_kl is not None
    assert result.mean_kl.value == pytest.approx(variants[2].kl.value, rel=1e-9)

    calibrated = checked(
        parts, source, tmp_path / "mmproj-new-IQ2_XS.gguf", MakeRequest(Half.PROJECTOR, "IQ2_XS", calibrate=True)
    )
    assert calibrated.imatrix == "mmproj-new-IQ2_XS.imatrix.gguf"
    assert (tmp_path / calibrated.imatrix).exists()
    assert calibrated.bytes < variants[2].bytes
    assert calibrated.questions == 2  # the other two calibrated it, and its metadata names them
    judging = parts.catalog.read_pair(MODEL, calibrated.path)
    calibrating, _ = ASKED.parts(2)
    assert judging.projector.made_with == question_sets.fingerprints(calibrating)
    plain, learned = (
        result.mean_kl for result in measured(parts, HARD.first(8), (source, variant, judging)).results[1:]
    )
    assert plain is not None
    assert learned is not None
    assert learned.value < plain.value / 2  # with fewer bits than Q2_K, and two questions to learn from
    with pytest.raises(EngineError, match="requires an imatrix"):
        checked(parts, source, tmp_path / "mmproj-other-IQ2_XS.gguf", MakeRequest(Half.PROJECTOR, "IQ2_XS"))
    assert not list(tmp_path.glob("mmproj-other*"))


def test_language_model_when_made_with_types_of_its_own_then_checked_without_embeddings(
    parts: Parts, source: Variant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry_runs = []
    run_request = quantizer.run_request

    def counted(request: Quantize, pool: Pool, **more: Any) -> Quantized:
        dry_runs.append(request.dry_run)
        return run_request(request, pool, **more)

    monkeypatch.setattr(quantizer, "run_request", counted)
    tensor_types = (TensorType("attn", "q8_0"),)
    variant = checked(
        parts, source, tmp_path / "new.gguf", MakeRequest(Half.MODEL, "Q4_0", tensor_types, "Q4_0 attn=q8_0")
    )
    assert dry_runs == [True, False]  # llama.cpp plans a file once
    assert (variant.embeddings, variant.looks, variant.images) == (None, None, ())
    assert variant.verdict == "not enough questions"
    types = {t.name: t.tensor_type.name for t in GGUFReader(variant.path).tensors}
    assert types["blk.0.attn_q.weight"] == "Q8_0"
    assert types["blk.0.ffn_up.weight"] == "Q4_0"
    choice = parts.catalog.read_pair(variant.path, PROJECTOR)
    assert choice.model.quantization == "Q4_0 attn=q8_0"


def test_projector_when_its_rows_are_permuted_then_called_broken(parts: Parts, source: Variant, tmp_path: Path) -> None:
    permuted = changed_projector(PROJECTOR, tmp_path / "mmproj-permuted-F16.gguf", "permuted")
    variant = replace(parts.catalog.read_pair(MODEL, permuted), id="permuted")
    question_set = question_sets.embedded(FOLDER / "evaluation", level="hard").first(24)
    measurement = measured(parts, question_set, (source, variant))
    assert gates(measurement.results, measurement.questions, source.id)["permuted"].verdict is Verdict.BROKEN


# --- what becomes of one that cannot be used --------------------------------------------------------------------------


def without_numbers(source: Path, target: Path, tensor: str) -> Path:
    """A copy with one tensor of infinities."""
    reader, writer = GGUFReader(source), GGUFWriter(target, "clip")
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(field.name, field.contents(), field.types[0], sub)
    changed = False
    for one in reader.tensors:
        changed |= one.name == tensor
        data = numpy.full_like(one.data, numpy.inf) if one.name == tensor else one.data
        writer.add_tensor(one.name, data, raw_dtype=one.tensor_type)
    assert changed
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("tensor", ["v.blk.1.ffn_up.weight", "v.post_ln.weight"])
def test_projector_when_it_gives_no_numbers_then_never_a_file(parts: Parts, tmp_path: Path, tensor: str) -> None:
    """The first is refused while it is quantized; the second is not quantized, and found out by its embeddings."""
    damaged = parts.catalog.read_pair(MODEL, without_numbers(PROJECTOR, tmp_path / "mmproj-bad-F16.gguf", tensor))
    target = tmp_path / "made" / "mmproj-new-Q8_0.gguf"
    with pytest.raises(PlaygroundError, match=r"cannot be used and was deleted: .*NaN|could not quantize"):
        checked(parts, damaged, target, MakeRequest(Half.PROJECTOR, "Q8_0"))
    assert list(target.parent.iterdir()) == []


def test_making_when_the_check_could_not_be_done_then_the_file_is_kept(
    parts: Parts, source: Variant, tmp_path: Path
) -> None:
    target = tmp_path / "made" / "new-Q4_0.gguf"
    endless = [msgspec.structs.replace(item, question="a " * 3000) for item in ASKED.items]  # fits into no context
    with pytest.raises(BadInput, match=r"new-Q4_0.gguf was made, but could not be checked: .*the context holds"):
        checked(
            parts,
            source,
            target,
            MakeRequest(Half.MODEL, "Q4_0"),
            QuestionSet("endless", endless, FOLDER / "evaluation"),
        )
    assert [path.name for path in target.parent.iterdir()] == ["new-Q4_0.gguf"]


@pytest.mark.parametrize(
    ("at", "how", "quantization"),
    [
        ("calibrating", "stopped", "Q4_0"),
        ("quantizing", "stopped", "Q4_0"),
        ("drift", "stopped", "Q4_1"),
        ("drift", "closed", "Q5_0"),
    ],
)
def test_making_when_ended_in_the_middle_then_nothing_is_left(
    parts: Parts, source: Variant, tmp_path: Path, at: str, how: str, quantization: str
) -> None:
    """Stopped by a person, or with the page that asked for it."""
    seen: list[str] = []
    order = MakeRequest(Half.PROJECTOR, quantization, calibrate=True)

    def stop() -> bool:
        return how == "stopped" and any(at in what for what in seen)

    updates = making(parts, source, tmp_path / "mmproj-new.gguf", order, stop=stop)
    with pytest.raises(Interrupted):  # noqa: PT012  each update is looked at
        for update in updates:
            assert isinstance(update, Progress)
            seen.append(update.what)
            if how == "closed" and at in update.what:
                updates.close()  # type: ignore[attr-defined]  # a generator, which the page closes
                raise Interrupted("Closed.")
    assert list(tmp_path.iterdir()) == []
    assert all(worker.leases == 0 for worker in parts.pool.memory().workers)


def test_target_when_it_is_there_then_refused_and_kept(parts: Parts, source: Variant, tmp_path: Path) -> None:
    target = tmp_path / "mine.gguf"
    target.write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"mine\.gguf is there already"):
        checked(parts, source, target, MakeRequest(Half.PROJECTOR, "Q8_0", calibrate=True))
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("mine.gguf", b"mine")]
    with pytest.raises(BadInput, match="At least two questions about two pictures"):
        checked(
            parts, source, tmp_path / "new.gguf", MakeRequest(Half.PROJECTOR, "Q8_0", calibrate=True), ASKED.first(1)
        )


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (MakeRequest(Half.PROJECTOR, "Q9_9", calibrate=True), "no quantization called 'Q9_9'"),
        (MakeRequest(Half.MODEL, "Q4_0", (TensorType("ffn", "q99"),), calibrate=True), "no type called 'q99'"),
    ],
)
def test_making_when_it_will_be_refused_then_before_a_question_is_asked(
    parts: Parts, source: Variant, tmp_path: Path, order: MakeRequest, message: str
) -> None:
    updates = making(parts, source, tmp_path / "new.gguf", order)
    with pytest.raises(BadInput, match=message):  # in place of the first step
        next(updates)
    assert list(tmp_path.iterdir()) == []


def test_making_when_the_source_is_quantized_then_refused_before_a_question_is_asked(
    parts: Parts, derived: Path, tmp_path: Path
) -> None:
    quantized = next(path for path in (derived / "derived").rglob("*.gguf") if "Q8_0" in path.name)
    half = parts.catalog.half(quantized)
    pair = parts.catalog.read_pair(*((quantized, PROJECTOR) if half is Half.MODEL else (MODEL, quantized)))
    with pytest.raises(BadModel, match="is quantized already"):
        next(making(parts, pair, tmp_path / "new.gguf", MakeRequest(half, "Q4_0", calibrate=True)))


# --- the store --------------------------------------------------------------------------------------------------------


def quantized(parts: Parts, source: Path, file: str, quantization: str, **fields: Any) -> Path:
    target = parts.catalog.made / file
    quantizer.make(source, target, quantization, parts.pool, parts.catalog.half(source), **fields)
    return target


def test_file_when_made_then_a_variant_with_every_other_half_also_after_a_restart(
    derived: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "derived").symlink_to(derived / "derived")
    with open_parts(Settings(cache_dir=cache), any_folder=True) as parts:
        before = {v.id for v in parts.catalog.variants}
        projectors = {v.projector.quantization for v in parts.catalog.variants}
        models = {v.model.quantization for v in parts.catalog.variants}
        projector = quantized(parts, PROJECTOR, "mmproj-new-Q5_0.gguf", "Q5_0")
        added = parts.catalog.add_made(projector)
        assert [v.label for v in added[:2]] == ["F16 + mmproj-Q5_0 (here)", "Q8_0 + mmproj-Q5_0 (here)"]
        assert {v.model.quantization for v in added} == models
        assert {v.family for v in added} == {"tiny-vlm"}
        assert not any(v.reference for v in added)
        assert parts.catalog.add_made(projector) == ()  # it is there
        model = quantized(parts, MODEL, "new.gguf", "Q4_0", name="my own, with 50 % more")
        added += parts.catalog.add_made(model)
        assert {v.projector.quantization for v in added if v.model.path == str(model)} == {*projectors, "Q5_0 (here)"}
        assert {v.label for v in added} >= {"my own, with 50 % more", "my own, with 50 % more + mmproj-Q5_0 (here)"}
        assert len({v.id for v in added}) == len(added)
        # Another file of the same name for its quantization is told apart.
        again = quantized(parts, PROJECTOR, "mmproj-again-Q5_0.gguf", "Q5_0", tensor_types=(TensorType("ffn", "q8_0"),))
        twice = parts.catalog.add_made(again)
        assert twice[0].label == "F16 + mmproj-Q5_0 (here) (mmproj-again-Q5_0)"
        assert len({v.label for v in parts.catalog.variants}) == len(parts.catalog.variants)
        assert {v.id for v in twice}.isdisjoint(v.id for v in added)
        ids = {v.id for v in parts.catalog.variants}
        assert ids == before | {v.id for v in (*added, *twice)}
    (cache / "made" / "junk.gguf").write_bytes(b"GGUF no more")
    (cache / "made" / "folder.gguf").mkdir()
    shutil.copyfile(PROJECTOR, cache / "made" / "not-made-here.gguf")
    store = Catalog(cache, ())
    assert {v.id for v in store.variants} == ids
    assert [problem.split(":")[0] for problem in store.problems] == ["folder.gguf", "junk.gguf"]
    assert {v.id: v for v in store.variants}[added[0].id].projector.path == str(projector)
    store.close()
